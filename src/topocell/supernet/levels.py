"""Levels: which parameters are updated from which loss, in which order. A level is one function of `Learner`.

Every update moves its own parameters only: the network is frozen while α or β move, and the architecture is
detached while the network weights move.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from topocell.registry import Registry
from topocell.runtime import distributed
from topocell.runtime.micro_batches import seen_together
from topocell.runtime.same_draws import SameDraws
from topocell.supernet.learner import ArchBatch, Batch, Learner, Seen, seen_of, zeros_for_none

Updates = Sequence[ArchBatch]
Level = Callable[[Learner, Batch, Updates], Seen]


def weights_only(learner: Learner, train: Batch, updates: Updates) -> Seen:
    """Network weights only (warm-up)."""
    return learner.weights_step(train)


def single(learner: Learner, train: Batch, updates: Updates) -> Seen:
    """Weights, α and β together from one pass over the training batch (SNAS; second stage of DOTS).

    DOTS' code takes two passes, weights first; its equation updates both on the same batch, as here.
    """
    if not updates:
        return learner.weights_step(train)
    update = ArchBatch(train, any(u.alpha for u in updates), any(u.beta for u in updates))
    parameters = learner.arch_parameters(update.alpha, update.beta)
    network = list(learner.net.parameters())
    gradient, passes = learner.gradient(train, [*network, *parameters], update)
    seen = seen_together([seen_of(*one) for one in passes])
    for parameter, grad in zip(network, gradient):
        parameter.grad = grad
    learner._apply_weights(seen.loss)
    learner.apply_arch(update, zeros_for_none(gradient[len(network) :], parameters))
    return seen


def bilevel(learner: Learner, train: Batch, updates: Updates) -> Seen:
    """First order: each architecture update on its validation batch at the current weights, then the weights."""
    for update in updates:
        learner.apply_arch(update, learner.arch_gradient(update))
    return learner.weights_step(train)


def weights_first(learner: Learner, train: Batch, updates: Updates) -> Seen:
    """First order with the weights before the architecture, which sees them as they are then (GDAS)."""
    seen = learner.weights_step(train)
    for update in updates:
        learner.apply_arch(update, learner.arch_gradient(update))
    return seen


def unrolled(learner: Learner, train: Batch, updates: Updates) -> Seen:
    """Second order: the validation gradient at w' = one virtual SGD step from w (DARTS Eq. 6–8)."""
    for update in updates:
        learner.apply_arch(update, unrolled_gradient(learner, train, update))
    return learner.weights_step(train)


def mixed(learner: Learner, train: Batch, updates: Updates) -> Seen:
    """MiLeNAS: weights first, then each architecture update on ∇L_val + λ ∇L_train, on the same train batch."""
    seen = learner.weights_step(train)
    for update in updates:
        gradient = learner.arch_gradient(update)
        if learner.mixed:
            both = ArchBatch(train, update.alpha, update.beta)
            extra = learner.arch_gradient(both, penalised=False)
            gradient = [g + learner.mixed * e for g, e in zip(gradient, extra)]
        learner.apply_arch(update, gradient)
    return seen


def unrolled_gradient(learner: Learner, train: Batch, update: ArchBatch) -> list[Tensor]:
    """∇ of L_val(w'(α), α), w' = w − ξ(μ·v + ∇w L_train + λ_w·w), by finite differences; w is restored exactly.

    ξ, μ, v and λ_w are those of the weights' optimizer. The mixed second derivative is
    [∇α L_train(w + εd) − ∇α L_train(w − εd)] / 2ε with d = ∇w' L_val and ε = 0.01 / ‖d‖ (DARTS Eq. 8). What the network
    draws (drop path, dropout, noise) is the same in both terms, or its difference over 2ε would be all that is left.
    """
    network = [p for p in learner.net.parameters() if p.requires_grad]
    group = learner.weights_optimizer.param_groups[0]
    xi = group["lr"]  # a number, or a tensor that a recorded step reads
    saved = [p.detach().clone() for p in network]
    fixed = {t: w.detach() for t, w in learner.arch().items()}
    loss = learner.loss(learner.logits(train[0], fixed), train[1])
    gradient = zeros_for_none(torch.autograd.grad(loss, network, allow_unused=True), network)
    distributed.average(gradient)
    try:
        with torch.no_grad():
            for p, g in zip(network, gradient):
                step = g.add(p, alpha=group["weight_decay"])
                buffer = learner.weights_optimizer.state.get(p, {}).get("momentum_buffer")
                if buffer is not None:
                    step = step.add(buffer, alpha=group["momentum"])
                if isinstance(xi, Tensor):
                    p.sub_(step * xi)
                else:
                    p.sub_(step, alpha=xi)
        parameters = learner.arch_parameters(update.alpha, update.beta)
        loss = learner.loss(learner.logits(update.batch[0], learner.arch()), update.batch[1])
        loss = learner.penalised(loss, update)
        found = torch.autograd.grad(loss, [*parameters, *network], allow_unused=True)
        distributed.average(found)
        outer = zeros_for_none(found[: len(parameters)], parameters)
        direction = zeros_for_none(found[len(parameters) :], network)
        epsilon = 0.01 / torch.linalg.vector_norm(torch.stack([d.norm() for d in direction])).clamp(min=1e-12)
        at_train = ArchBatch(train, update.alpha, update.beta)
        ends, draws = [], SameDraws(parameters[0].device)
        for sign in (1.0, -1.0):
            with torch.no_grad():
                for p, w, d in zip(network, saved, direction):
                    p.copy_(w + sign * epsilon * d)
            with draws:
                ends.append(learner.arch_gradient(at_train, penalised=False))
    finally:
        with torch.no_grad():
            for p, w in zip(network, saved):
                p.copy_(w)
    return [g - xi * (up - down) / (2 * epsilon) for g, up, down in zip(outer, *ends)]


LEVELS = Registry[Level](
    "level",
    {
        "weights": weights_only,
        "single": single,
        "bilevel": bilevel,
        "bilevel-weights-first": weights_first,
        "unrolled": unrolled,
        "mixed": mixed,
    },
)

"""Perturbations of the operation weights that the network weights are trained under (SDARTS).

They act on the probabilities of the architecture, not on its logits, and in the weights' step only: a network that
works in a neighbourhood of the architecture loses little when it is discretised. Of each part of an edge (the whole
edge but in a grouped softmax) a perturbed row is clipped as in SDARTS: entries to [0, 1], then scaled to the sum of
one; where nothing above zero is left, the largest of the perturbed entries takes all. Candidates that are not live
stay exactly zero.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from topocell.registry import Registry
from topocell.runtime import distributed
from topocell.supernet import ArchWeights
from topocell.supernet.learner import Batch, Learner, Perturbation, frozen

#: Gradient steps of the adversary; each goes 2ε / STEPS far.
STEPS = 7


def uniform(learner: Learner, weights: dict[str, ArchWeights], batch: Batch) -> dict[str, ArchWeights]:
    """SDARTS-RS: p + U(−ε, ε), clipped; uniform as in its code (the text of DARTS-PT calls it Gaussian)."""
    return _clipped(learner, weights, _noisy(learner, weights))


def adversarial(learner: Learner, weights: dict[str, ArchWeights], batch: Batch) -> dict[str, ArchWeights]:
    """SDARTS-ADV: seven steps of 2ε/7 along the sign of the gradient of the training loss, inside the ε-ball.

    It starts at a random point of the ball; every step is projected to the ball and clipped. Where the loss did not
    rise, the weights stay as they were. The network is held fixed and, as in the authors' code, in evaluation mode:
    that switches off what drops at random. Batch norm stays on the statistics of the batch, as everywhere in a
    supernet, where the authors' code takes running ones.
    """
    training = learner.net.training
    learner.net.eval()
    try:
        with frozen(learner.net.parameters()):
            ops = _raised(learner, weights, batch)
    finally:
        learner.net.train(training)
    return _with_ops(weights, ops)


PERTURBATIONS = Registry[Perturbation](
    "perturbation",
    {"uniform": uniform, "adversarial": adversarial},
)


def _raised(learner: Learner, weights: dict[str, ArchWeights], batch: Batch) -> dict[str, Tensor]:
    """Operation weights (E, K) per cell type under which the loss on `batch` is at least that under `weights`."""
    epsilon = learner.now("epsilon")

    def loss(at: dict[str, ArchWeights]) -> Tensor:
        return learner.loss(learner.logits(batch[0], at), batch[1])

    now = _clipped(learner, weights, _noisy(learner, weights))
    for _ in range(STEPS):
        ops = {t: w.ops.clone().requires_grad_() for t, w in now.items()}
        slopes = torch.autograd.grad(loss(_with_ops(weights, ops)), list(ops.values()), allow_unused=True)
        distributed.average(slopes)
        moved = {}
        for (t, at), slope in zip(ops.items(), slopes):
            step = at.detach() if slope is None else at.detach() + 2 * epsilon / STEPS * slope.sign()
            origin = weights[t].ops
            moved[t] = torch.minimum(torch.maximum(step, origin - epsilon), origin + epsilon)
        now = _clipped(learner, weights, moved)
    with torch.no_grad():
        higher, lower = distributed.total(loss(now), loss(weights))
        worse = higher.to(batch[0].device) > lower.to(batch[0].device)
    return {t: torch.where(worse, w.ops, weights[t].ops) for t, w in now.items()}


def _noisy(learner: Learner, weights: Mapping[str, ArchWeights]) -> dict[str, Tensor]:
    """A uniform point of the ε-ball around the operation weights of each cell type."""
    epsilon = learner.now("epsilon")
    return {t: w.ops + epsilon * (2 * torch.rand_like(w.ops) - 1) for t, w in weights.items()}


def _clipped(learner: Learner, weights: Mapping[str, ArchWeights], ops: Mapping[str, Tensor]) -> dict[str, ArchWeights]:
    """`weights` with `ops`, clipped part by part."""
    clipped = {}
    for t, w in weights.items():
        out = torch.zeros_like(w.ops)
        for part in learner.arch.relaxations[t].parts(learner.arch.mask(t)):
            row = ops[t].clamp(0, 1).masked_fill(~part, 0)
            total = row.sum(1, keepdim=True)
            largest = ops[t].masked_fill(~part, -torch.inf).argmax(1, keepdim=True)
            alone = torch.zeros_like(row).scatter(1, largest, 1.0).masked_fill(~part, 0)
            out = out + torch.where(total > 0, row / total.clamp(min=torch.finfo(row.dtype).tiny), alone)
        clipped[t] = out
    return _with_ops(weights, clipped)


def _with_ops(weights: Mapping[str, ArchWeights], ops: Mapping[str, Tensor]) -> dict[str, ArchWeights]:
    return {t: w._replace(ops=ops[t]) for t, w in weights.items()}

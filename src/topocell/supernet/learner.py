"""The learner: a supernet, its architecture, their optimizers, and the updates that levels are made of."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from topocell.config.search import ArchOptimizer, WeightOptimizer
from topocell.io.checkpoint import restore_optimizer
from topocell.nn.scheduled import Scheduled, current, is_held
from topocell.runtime import distributed
from topocell.runtime.epoch_meter import Seen
from topocell.runtime.losses import Loss
from topocell.runtime.micro_batches import Batch, micro_batches, seen_together
from topocell.runtime.nan_guard import Group, Stateful, total_norm
from topocell.runtime.optimizers import begin_held, build_optimizer, held_options, rate_of
from topocell.runtime.precision import PLAIN, Execution
from topocell.supernet import ArchWeights, Supernet
from topocell.supernet.arch_state import ArchState

#: Loss (0-dim), logits (N, classes) and batch of one pass.
Passed = tuple[Tensor, Tensor, Batch]


@dataclass
class ArchBatch:
    """One architecture update: the batch it takes, and whether it moves α, β or both."""

    batch: Batch
    alpha: bool
    beta: bool


@dataclass
class Learner:
    """A supernet, an architecture state, their optimizers, and the updates that levels are made of.

    Attributes:
        clip: gradient-norm clip of the network weights, or None.
        penalty: λ of the validity penalty, part of every β loss.
        mixed: λ of the training loss in `mixed`.
        loss: mean loss (0-dim) of logits (N, classes) and labels (N,).
        alpha_penalty: λ of the relaxation's penalty, part of every α loss.
        arch_clip: gradient-norm clip of the logits that an update moves, or None.
        perturb: what the network weights see in place of the architecture (detached), given the training batch; a row
            of `topocell.searching.perturbation.PERTURBATIONS`. Architecture updates see the architecture as it is.
        epsilon: size of the perturbation.
        execution: how the network is called.
        micro_batch: images that are computed at once, of every loss on a batch (`topocell.runtime.micro_batches`); None
            for all of them.
        cost: penalty (0-dim) on what the cell is expected to cost, part of every loss of α and β, or None.
        after_alpha: called with the architecture after every update of α, without gradients.
        see: receives every loss and gradient norm (0-dim) with its name before it moves anything; what it raises ends
            the step. Default nobody.
        recordable: whether nothing that changes in a step is a number of Python, see `topocell.runtime.capture`.
    """

    net: Supernet
    arch: ArchState
    weights_optimizer: Optimizer
    alpha_optimizer: Adam
    beta_optimizer: Adam | None
    clip: float | None
    penalty: float = 0.0
    mixed: float = 1.0
    loss: Loss = F.cross_entropy
    alpha_penalty: float = 0.0
    arch_clip: float | None = None
    perturb: "Perturbation | None" = None
    epsilon: float = Scheduled()  # type: ignore[assignment]
    execution: Execution = PLAIN
    micro_batch: int | None = None
    cost: Callable[[ArchState], Tensor] | None = None
    after_alpha: list[Callable[[ArchState], None]] = field(default_factory=list)
    see: Callable[[str, Tensor], None] | None = None
    recordable: bool = True

    @property
    def held(self) -> bool:
        """Whether its steps read what follows a schedule from the device, see `topocell.nn.scheduled`."""
        return is_held(self.net)

    def now(self, name: str) -> Any:
        """Return one of its scheduled values as arithmetic takes it: a float, or a tensor (0-dim) on a device."""
        return current(self, name)

    @property
    def parts(self) -> dict[str, Stateful]:
        """Return everything that a step changes, by name."""
        beta = {} if self.beta_optimizer is None else {"beta": self.beta_optimizer}
        return {
            "net": self.net,
            "arch": self.arch,
            "weights": self.weights_optimizer,
            "alpha": self.alpha_optimizer,
            **beta,
        }

    def state_dict(self) -> dict[str, Any]:
        """State of everything that a step changes."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a `state_dict`; the network has had the same candidates removed."""
        for name, part in self.parts.items():
            if isinstance(part, Optimizer):
                restore_optimizer(part, state[name])
            else:
                part.load_state_dict(state[name])

    def groups(self, keys: Mapping[str, str]) -> list[Group]:
        """Weights, α and β with their learning rates now; `keys` says where a recipe has these."""
        moved = [
            ("weights", "the weights", self.weights_optimizer),
            ("alpha", "the logits of alpha", self.alpha_optimizer),
        ]
        if self.beta_optimizer is not None:
            moved.append(("beta", "the logits of beta", self.beta_optimizer))
        settings = [(keys[name], words, optimizer) for name, words, optimizer in moved]
        return [
            Group(words, [p for group in of.param_groups for p in group["params"]], key, rate_of(of))
            for key, words, of in settings
        ]

    def logits(self, x: Tensor, weights: Mapping[str, ArchWeights]) -> Tensor:
        """Return the logits (N, classes) for images (N, C, H, W) under the weights of each cell type."""
        logits: Tensor = self.execution(self.net, x, weights)
        return logits

    def weights_step(self, batch: Batch) -> Seen:
        """Descend the training loss in the network weights, the architecture held fixed or perturbed."""
        fixed = {t: w.detach() for t, w in self.arch().items()}
        if self.perturb is not None:
            fixed = self.perturb(self, fixed, batch)
        self.weights_optimizer.zero_grad(set_to_none=True)
        seen = []
        for piece, share in micro_batches(batch, self.micro_batch):
            logits = self.logits(piece[0], fixed)
            loss = share * self.loss(logits, piece[1])
            loss.backward()
            seen.append(seen_of(loss, logits, piece))
        distributed.average(p.grad for p in self.net.parameters())
        self._apply_weights((whole := seen_together(seen)).loss)
        return whole

    def _apply_weights(self, loss: Tensor) -> None:
        if self.see is not None:
            self.see("the loss", loss)
        if self.clip is not None:
            norm = nn.utils.clip_grad_norm_(self.net.parameters(), self.clip)
        elif self.see is not None:
            norm = total_norm(p.grad for p in self.net.parameters())
        if self.see is not None:
            self.see("the gradient norm of the weights", norm)
        self.weights_optimizer.step()

    def arch_parameters(self, alpha: bool, beta: bool) -> list[nn.Parameter]:
        """The logits that an update moves; β only where the topology has logits."""
        chosen = list(self.arch.alpha.values()) if alpha else []
        return chosen + ([b for b in self.arch.beta.values() if b.numel()] if beta else [])

    def arch_gradient(self, update: ArchBatch, penalised: bool = True) -> list[Tensor]:
        """Gradient of the loss on one batch in the logits of `update`, the network frozen."""
        with frozen(self.net.parameters()):
            parameters = self.arch_parameters(update.alpha, update.beta)
            gradient, _ = self.gradient(update.batch, parameters, update if penalised else None)
        return zeros_for_none(gradient, parameters)

    def gradient(
        self, batch: Batch, parameters: Sequence[Tensor], update: ArchBatch | None
    ) -> tuple[list[Tensor | None], list[Passed]]:
        """Gradient of the loss under the architecture as it is, with the penalties of `update`, and the passes it took.

        One architecture holds for all micro batches, so that a relaxation draws once. What does not lead to the output
        has no gradient.
        """
        weights, pieces = self.arch(), micro_batches(batch, self.micro_batch)
        gradient: list[Tensor | None] = [None] * len(parameters)
        passes: list[Passed] = []
        for left, (piece, share) in zip(reversed(range(len(pieces))), pieces, strict=True):
            found, passed = self._passed(piece, share, weights, parameters, None if passes else update, left > 0)
            gradient = [b if a is None else a if b is None else a + b for a, b in zip(gradient, found, strict=True)]
            passes.append(passed)
        distributed.average(gradient)
        return gradient, passes

    def _passed(
        self,
        piece: Batch,
        share: float | Tensor,
        weights: Mapping[str, ArchWeights],
        parameters: Sequence[Tensor],
        update: ArchBatch | None,
        again: bool,
    ) -> tuple[Sequence[Tensor | None], Passed]:
        """One pass of `gradient`; of its graph that of the weights is left, if they are used `again`."""
        logits = self.logits(piece[0], weights)
        loss = share * self.loss(logits, piece[1])
        whole = loss if update is None else self.penalised(loss, update)
        found: Sequence[Tensor | None] = [None] * len(parameters)
        if whole.requires_grad:  # something that is still open leads to the output
            found = torch.autograd.grad(whole, parameters, allow_unused=True, retain_graph=again)
        return found, (loss.detach(), logits.detach(), piece)

    def penalised(self, loss: Tensor, update: ArchBatch) -> Tensor:
        """`loss` (0-dim) plus the penalties of the logits that `update` moves."""
        if update.beta and self.penalty:
            loss = loss + self.penalty * self.arch.penalty()
        if update.alpha and self.alpha_penalty:
            loss = loss + self.alpha_penalty * self.arch.alpha_penalty()
        if self.cost is not None:
            loss = loss + self.cost(self.arch).to(loss.dtype)
        return loss

    def apply_arch(self, update: ArchBatch, gradient: Sequence[Tensor]) -> None:
        """Let the optimizers of `update` follow `gradient`; logits that are decided neither decay nor coast."""
        before = {t: alpha.detach().clone() for t, alpha in self.arch.alpha.items()}
        parameters = self.arch_parameters(update.alpha, update.beta)
        for parameter, grad in zip(parameters, gradient):
            parameter.grad = grad
        if self.see is not None:
            self._show_arch(update)
        if self.arch_clip is not None:
            nn.utils.clip_grad_norm_(parameters, self.arch_clip)
        for chosen, optimizer in ((update.alpha, self.alpha_optimizer), (update.beta, self.beta_optimizer)):
            if chosen and optimizer is not None:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for change in self.after_alpha if update.alpha else ():
                change(self.arch)
            for t, alpha in self.arch.alpha.items():
                alpha.copy_(torch.where(self.arch.decided(t), before[t], alpha))

    def _show_arch(self, update: ArchBatch) -> None:
        """Let the gradient norms of α and β be seen; those of decided logits move nothing and do not count."""
        assert self.see is not None
        if update.alpha:
            slopes = {t: a.grad for t, a in self.arch.alpha.items() if a.grad is not None}
            moving = [torch.where(self.arch.decided(t), 0.0, slope) for t, slope in slopes.items()]
            self.see("the gradient norm of alpha", total_norm(moving))
        if update.beta and self.beta_optimizer is not None:
            self.see("the gradient norm of beta", total_norm(b.grad for b in self.arch.beta.values() if b.numel()))


Perturbation = Callable[[Learner, dict[str, ArchWeights], Batch], dict[str, ArchWeights]]


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Freeze these parameters inside: the backward pass skips them, and what it would keep for them."""
    changed = [p for p in parameters if p.requires_grad]
    for p in changed:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in changed:
            p.requires_grad_(True)


def weight_optimizer(net: nn.Module, options: WeightOptimizer) -> Optimizer:
    """Optimizer of the weights of a supernet, at the start of its learning-rate curve. Raises RecipeError."""
    return build_optimizer(net.parameters(), options, options.lr.value(0, 1), held=is_held(net))


def adam(logits: Sequence[nn.Parameter], options: ArchOptimizer, held: bool = False) -> Adam:
    """Adam of α or β, at the start of its learning-rate curve; `held` as for `build_optimizer`."""
    lr = options.lr.value(0, 1)
    how = held_options(Adam, lr, logits[0].device) if held else {"lr": lr}
    built = Adam(logits, betas=options.betas, weight_decay=options.weight_decay, **how)
    if held:
        begin_held(built)
    return built


def zeros_for_none(gradient: Sequence[Tensor | None], of: Sequence[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(p) if g is None else g for g, p in zip(gradient, of)]


def seen_of(loss: Tensor, logits: Tensor, batch: Batch) -> Seen:
    return Seen(loss.detach(), (logits.detach().argmax(1) == batch[1]).sum(), len(batch[1]))

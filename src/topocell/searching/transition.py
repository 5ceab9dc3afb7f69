"""Transitions between stages: what a stage builds afresh, and what it takes over from the one before."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from topocell.config.search import SearchPlan, Stage
from topocell.data.splits import SearchData
from topocell.relaxation import candidate_mask
from topocell.runtime.losses import build_loss
from topocell.runtime.precision import Execution
from topocell.runtime.rng import derive as derive_seed
from topocell.runtime.rng import generator
from topocell.spaces.cell import CellSpec, SpaceSpec
from topocell.supernet import Supernet
from topocell.supernet.arch_state import ArchState
from topocell.supernet.learner import Learner, adam, weight_optimizer
from topocell.supernet.recording import hold_on


class Builder:
    """Builds the space and the learner that a stage starts with.

    Args:
        plan, data, seed, device, execution: of the search.
        see: receives every loss and gradient norm with its name, see `Learner`.
    """

    def __init__(
        self,
        plan: SearchPlan,
        data: SearchData,
        seed: int,
        device: torch.device,
        execution: Execution,
        see: Callable[[str, Tensor], None],
    ) -> None:
        self._held = execution.holds(device)
        self._plan, self._seed, self._device, self._execution, self._see = plan, seed, device, execution, see
        self._classes, self._in_channels = len(data.classes), data.shape[0]

    def first(self, space: SpaceSpec) -> tuple[SpaceSpec, Learner]:
        """Build everything for the first stage."""
        stage = self._plan.stages[0]
        return space, self._learner(stage, space, *self._networks(stage, space))

    def restored(self, number: int, space: SpaceSpec, state: Mapping[str, Any]) -> tuple[SpaceSpec, Learner]:
        """Rebuild the stage of a state of `Search`: its candidates and masks, then all that it holds."""
        stage, candidates = self._plan.stages[number], state["candidates"]
        space = space.with_cells({t: cell.with_candidates(candidates[t]) for t, cell in space.cells.items()})
        net, arch = self._networks(stage, space)
        arch.load_state_dict(state["arch"])
        net.restrict({t: arch.mask(t) for t in space.cells})
        learner = self._learner(stage, space, net, arch)
        learner.load_state_dict(state)
        return space, learner

    def next(self, number: int, space: SpaceSpec, old: Learner) -> tuple[SpaceSpec, Learner]:
        """Build what a later stage resets, and take over the rest from the learner of the stage before."""
        before, stage, wide = self._plan.stages[number - 1], self._plan.stages[number], space
        masks = {t: old.arch.mask(t) for t in space.cells}
        shrunk = stage.shrink is not None
        if shrunk:
            space, masks = shrink(stage, space, old.arch)
        fresh_net = self._plan.size(before) != self._plan.size(stage) or "weights" in stage.reset
        fresh_alpha = (shrunk and not stage.shrink_alpha) or "alpha" in stage.reset
        fresh_beta = before.topology != stage.topology or "beta" in stage.reset
        net, arch = self._networks(stage, space)
        arch.restrict(masks)
        net.restrict(masks)
        if not fresh_net:
            net.load_per_edge_state_dict(_shared(old.net, net), strict=False)
        with torch.no_grad():
            for name in space.cells:
                if not fresh_alpha:
                    arch.alpha[name].copy_(_kept(old.arch.alpha[name], wide.cells[name], space.cells[name]))
                if not fresh_beta:
                    arch.beta[name].copy_(old.arch.beta[name])
        new = self._learner(stage, space, net, arch)
        if "optimizers" in stage.reset:
            return space, new
        thinned = any(not torch.equal(arch.mask(t).cpu(), mask.cpu()) for t, mask in masks.items())
        same = (before.weights.optimizer, before.weights.options) == (stage.weights.optimizer, stage.weights.options)
        if same and not (fresh_net or shrunk or thinned):
            new.weights_optimizer.load_state_dict(_settings_of(new.weights_optimizer, old.weights_optimizer))
        if not (fresh_alpha or shrunk):
            new.alpha_optimizer.load_state_dict(_settings_of(new.alpha_optimizer, old.alpha_optimizer))
        if not fresh_beta and new.beta_optimizer is not None and old.beta_optimizer is not None:
            new.beta_optimizer.load_state_dict(_settings_of(new.beta_optimizer, old.beta_optimizer))
        return space, new

    def _networks(self, stage: Stage, space: SpaceSpec) -> tuple[Supernet, ArchState]:
        torch.manual_seed(derive_seed(self._seed, "supernet", stage.name))
        net = Supernet(
            space,
            classes=self._classes,
            in_channels=self._in_channels,
            head=self._plan.head,
            stem=self._plan.stem,
            memory=self._plan.memory,
            kernels=self._plan.kernels,
            **self._plan.size(stage),
        )
        draw = generator(self._seed, "architecture", stage.name)
        choices = stage.relaxation.model_dump(), stage.topology.model_dump()
        arch = ArchState(space, *choices, init=stage.init, generator=draw)
        net.restrict({t: arch.mask(t) for t in space.cells})
        net, arch = net.to(self._device), arch.to(self._device)
        if self._held:
            hold_on(self._device, net, arch)
        return net, arch

    def _learner(self, stage: Stage, space: SpaceSpec, net: Supernet, arch: ArchState) -> Learner:
        beta = [b for b in arch.beta.values() if b.numel()]
        learner = Learner(
            net,
            arch,
            weight_optimizer(net, stage.weights),
            adam([*arch.alpha.values()], stage.alpha, self._held),
            adam(beta, stage.beta, self._held) if beta else None,
            stage.weights.clip,
            stage.penalty,
            stage.mixed,
            build_loss(self._plan.loss, device=self._device),
            alpha_penalty=stage.alpha_penalty,
            arch_clip=stage.arch_clip,
            execution=self._execution,
            micro_batch=self._plan.micro_batch,
            see=self._see,
        )
        if self._held:
            hold_on(self._device, learner)
        return learner


def shrink(stage: Stage, space: SpaceSpec, arch: ArchState) -> tuple[SpaceSpec, dict[str, Tensor]]:
    """The space of the candidates that a stage keeps, and masks of its cells: an edge that keeps none is pruned.

    A cell lists at least one candidate on every edge, so a pruned edge lists its first.
    """
    cells, masks = {}, {}
    for name, cell in space.cells.items():
        mask, ops = arch.mask(name).cpu(), arch.strengths(name)
        if not stage.shrink_none:
            is_none = torch.tensor([[op == "none" for op in _padded(c, mask)] for c in cell.candidates], device="cpu")
            mask = mask & ~is_none
        if stage.shrink == "best":
            keep = arch.relaxations[name].retained(ops, mask)
        else:
            order = ops.masked_fill(~mask, -1.0).sort(dim=1, descending=True, stable=True).indices
            keep = torch.zeros_like(mask).scatter(1, order[:, : int(stage.shrink or 1)], True) & mask
        kept = [[op for op, k in zip(names, row) if k] for names, row in zip(cell.candidates, keep.tolist())]
        cells[name] = cell.with_candidates([new or old[:1] for new, old in zip(kept, cell.candidates)])
        masks[name] = candidate_mask(cells[name]) & keep.any(1, keepdim=True)
    return space.with_cells(cells), masks


def _kept(alpha: Tensor, old: CellSpec, new: CellSpec) -> Tensor:
    """The logits (E, K of `new`) of the candidates that stay, from those (E, K of `old`) of all."""
    kept = alpha.new_zeros(new.n_edges, new.n_candidates)
    for e, (before, after) in enumerate(zip(old.candidates, new.candidates)):
        kept[e, : len(after)] = alpha[e, [before.index(op) for op in after]]
    return kept


def _settings_of(new: Optimizer, old: Optimizer) -> dict[str, Any]:
    """The running state of `old` under the settings of `new`."""
    return {"state": old.state_dict()["state"], "param_groups": new.state_dict()["param_groups"]}


def _shared(old: Supernet, new: Supernet) -> dict[str, Tensor]:
    names = new.per_edge_state_dict().keys()
    return {name: weight for name, weight in old.per_edge_state_dict().items() if name in names}


def _padded(names: Sequence[str], mask: Tensor) -> list[str]:
    return [*names, *[""] * (mask.shape[1] - len(names))]

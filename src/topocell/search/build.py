"""What a search and a projection are made of: optimizers, and the batches of a split."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

from topocell.data import Batches, SearchData
from topocell.monitor import Figures
from topocell.relaxation import candidate_table
from topocell.search.damage import Probe
from topocell.search.decider import Decider
from topocell.search.levels import Learner
from topocell.search.plan import ArchOptimizer, Deciding, Stage, WeightOptimizer
from topocell.search.progressive import Progress
from topocell.search.selection import PERTURBATION
from topocell.spaces.cell import SpaceSpec


def sgd(net: nn.Module, options: WeightOptimizer) -> SGD:
    """SGD of the weights of a supernet, at the start of its learning-rate curve."""
    return SGD(
        net.parameters(),
        lr=options.lr.value(0, 1),
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        nesterov=options.nesterov,
    )


def adam(logits: Iterable[nn.Parameter], options: ArchOptimizer) -> Adam:
    """Adam of α or β, at the start of its learning-rate curve."""
    return Adam(logits, lr=options.lr.value(0, 1), betas=options.betas, weight_decay=options.weight_decay)


def attention(space: SpaceSpec, constants: Mapping[str, float], device: torch.device) -> dict[str, Tensor] | None:
    """Operation → constant as one table (E, K) per cell type, zero for the others; None without any constant."""
    if not constants:
        return None
    tables = {name: candidate_table(cell, constants, 0.0) for name, cell in space.cells.items()}
    return {name: torch.tensor(table, dtype=torch.float32, device=device) for name, table in tables.items()}


def split_batches(
    data: SearchData,
    split: str,
    batch_size: int,
    purpose: str,
    *,
    seed: int,
    device: torch.device | str,
    augmented: bool = True,
) -> Batches:
    """Batches of a split, drawn for a purpose; augmented as in training unless it says otherwise."""
    return Batches(
        data.get(split),
        batch_size,
        mean=data.mean,
        std=data.std,
        augmentation=data.augmentation if augmented else None,
        device=device,
        seed=seed,
        purpose=purpose,
    )


def decider(
    learner: Learner,
    data: SearchData,
    split: str,
    plan: Deciding,
    batch_size: int,
    purpose: str,
    *,
    seed: int,
    device: torch.device | str,
    seen: Callable[[Figures], None],
) -> Decider:
    """A decider that measures on a split, augmented as in training, if it measures at all."""
    probe = None
    if plan.decide_by == PERTURBATION:
        batches = split_batches(data, split, batch_size, purpose, seed=seed, device=device)
        probe = Probe(learner, batches, plan.batches, seed)
    return Decider(
        learner,
        probe,
        decide_by=plan.decide_by,
        metric=plan.metric,
        racing=plan.racing,
        fixed=plan.fixed_batches,
        seen=seen,
    )


def progress(
    learner: Learner,
    data: SearchData,
    stage: Stage,
    batch_size: int,
    *,
    seed: int,
    device: torch.device | str,
    save: Callable[[], object],
) -> Progress | None:
    """The progressive decisions of a stage, if it makes any; `save` is called where a state can be saved."""
    if (plan := stage.progressive) is None:
        return None
    options: dict[str, Any] = {"seed": seed, "device": device, "seen": lambda figures: save()}
    chooser = decider(learner, data, stage.alpha_on, plan, batch_size, f"{stage.name} probe", **options)
    return Progress(plan.criterion, plan.in_degree, plan.history, chooser)

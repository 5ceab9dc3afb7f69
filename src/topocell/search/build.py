"""What a search and a projection are made of: optimizers, and the batches of a split."""

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import SGD, Adam

from topocell.data import Batches, SearchData
from topocell.search.plan import ArchOptimizer, WeightOptimizer


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

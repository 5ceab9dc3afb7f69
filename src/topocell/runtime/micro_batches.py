"""Gradient accumulation: a batch in micro batches, the gradients of which add up to its own."""

from collections.abc import Sequence

import torch
from torch import Tensor

from topocell.runtime.epoch_meter import Seen
from topocell.runtime.losses import Loss

Batch = tuple[Tensor, Tensor]


def micro_batches(batch: Batch, size: int | None, weight: Tensor | None = None) -> list[tuple[Batch, float | Tensor]]:
    """Cut a batch in order into micro batches, each with its share of the mean loss of the batch.

    The sum of share · mean loss is the mean loss of the whole batch, and so is its gradient, but for what a network
    computes from all images of a batch together: batch norm has the statistics of each micro batch, as with several
    processes of so many images each (Goyal et al. 2017, §2.3), and drop path draws for each by itself.

    Args:
        batch: images (N, C, H, W), and labels (N,) or probabilities (N, K).
        size: images of a micro batch; None for the whole batch. A single image left over joins the one before it.
        weight: (K,) of each class, where the mean loss of labels is one weighted by them.
    """
    images, target = batch
    if size is None or size >= len(images):
        return [(batch, 1.0)]
    full, rest = divmod(len(images), size)
    sizes = [size] * full + [rest] * (rest > 0)
    if rest == 1:  # batch norm needs two
        sizes[-2:] = [size + 1]
    pieces = list(zip(images.split(sizes), target.split(sizes), strict=True))
    if weight is None or target.dim() > 1:
        return [(piece, len(piece[0]) / len(images)) for piece in pieces]
    return [(piece, weight[piece[1]].sum() / weight[target].sum()) for piece in pieces]


def adds_up(loss: Loss, classes: int, weight: Tensor | None = None, mixed: bool = False) -> bool:
    """Return whether the loss of a random batch is the sum of share · loss of its micro batches.

    It is for a mean over the images, and with `weight` for the mean of labels that is divided by their weights.

    Args:
        loss: of the batch.
        classes: K.
        weight: (K,), see `micro_batches`.
        mixed: whether the target is probabilities.
    """
    draws = torch.Generator().manual_seed(0)
    some = min(classes, 50)
    n = 4 * some + 2
    logits, labels = torch.randn(n, classes, generator=draws), torch.randint(classes, (n,), generator=draws)
    labels = labels.sort().values  # so that micro batches have other classes
    target = torch.softmax(torch.randn(n, classes, generator=draws), 1) if mixed else labels
    whole = float(loss(logits, target))
    parts = sum(float(share * loss(*piece)) for piece, share in micro_batches((logits, target), some + 1, weight))
    return abs(whole - parts) <= 1e-4 * max(1.0, abs(whole))


def seen_together(seen: Sequence[Seen]) -> Seen:
    """Return what was seen of a batch, from that of its micro batches, whose losses are weighed by their shares."""
    if len(seen) == 1:
        return seen[0]
    loss, correct = (sum((getattr(one, of) for one in seen[1:]), getattr(seen[0], of)) for of in ("loss", "correct"))
    return Seen(loss, correct, sum(one.images for one in seen))

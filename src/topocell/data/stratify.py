"""Cutting a training set into the splits of a search, each with its share of the classes."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from topocell.data.folder_listing import some
from topocell.errors import DataError
from topocell.runtime.rng import generator

#: Names that a split of the search may not have, and why.
RESERVED = {"test": "the search never sees the test split", "all": "'all' is the union of the splits"}


def split_indices(
    labels: Tensor, fractions: Mapping[str, float], seed: int, class_balanced: bool = False
) -> dict[str, Tensor]:
    """Which images belong to each split, in shuffled order: one seeded shuffle, mended where a class is missing.

    A split has floor(fraction · N) images (thirds of 50,000 are 16,666 each; a product within 1e-6 of an integer
    counts as that integer). The shuffle does not look at the classes, and stays as it is where every class with at
    least as many images as there are splits is in each split, as in any balanced set of usual size. Where such a class
    is missing in a split, one of its images changes places with an image of the most frequent class there; it comes
    from what no split uses, or from the split that has most of the class. A split that is smaller than the number of
    these classes has as many of them as it can.

    With `class_balanced` the fractions are of each class: of a class of n images a split has floor(fraction · n), those
    classes with the largest remainders one more until the split has floor(fraction · N) images, and one of each class
    that has as many images as there are splits.

    Args:
        labels: (N,) int64.
        fractions: of each split, above 0, summing to at most 1.
        seed: of the shuffle.
        class_balanced: whether the fractions are of each class.

    Returns:
        Name of the split → indices (M,) int64.

    Raises:
        DataError: fractions not above 0 or summing to more than 1, a reserved name, a part below two images.
    """
    sizes = _sizes(len(labels), fractions)
    order = torch.randperm(len(labels), generator=generator(seed, "split"))
    if class_balanced:
        return _of_each_class(labels, order, fractions, sizes)
    parts = list(order.split([*sizes.values(), len(labels) - sum(sizes.values())]))
    if len(labels):
        _mend(parts, labels)
    return dict(zip(sizes, parts))


def held_out(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Cut a set in two, each with the same share of every class: sorted indices that stay, and that are held out.

    The part that is held out has floor(fraction · N) images or fewer. A class of n images gives floor(fraction · n),
    those with the largest remainders one more, and none gives its last image.

    Args:
        labels: (N,) int64.
        fraction: to hold out, above 0 and below 1.
        seed: of the choice.

    Raises:
        DataError: a part below two images.
    """
    counts = labels.bincount()
    exact = counts.double() * fraction
    sizes = torch.minimum((exact + 1e-6).long(), (counts - 1).clamp(min=0))
    more = math.floor(fraction * len(labels) + 1e-6) - int(sizes.sum())
    for label in (exact - sizes).argsort(descending=True, stable=True).tolist():
        if more > 0 and sizes[label] < counts[label] - 1:
            sizes[label] += 1
            more -= 1
    order = torch.randperm(len(labels), generator=generator(seed, "held out"))
    apart = torch.cat([order[labels[order] == label][:size] for label, size in enumerate(sizes.tolist())])
    kept = torch.ones(len(labels), dtype=torch.bool)
    kept[apart] = False
    if len(apart) < 2 or int(kept.sum()) < 2:
        raise DataError(
            f"a part that is held out, and what stays, have 2 images or more each, but {fraction:g} of {len(labels)} "
            f"holds out {len(apart)}; change the fraction, or add images"
        )
    return kept.nonzero().flatten(), apart.sort().values


def _sizes(n: int, fractions: Mapping[str, float]) -> dict[str, int]:
    total = sum(fractions.values())
    if not fractions or not all(share > 0 for share in fractions.values()) or not total <= 1 + 1e-9:
        raise DataError(f"fractions are above 0 and sum to at most 1, but got {dict(fractions)} (sum {total:g})")
    for name in fractions:
        if name in RESERVED:
            raise DataError(f"a split may not be called {name!r} ({RESERVED[name]}); choose another name")
    sizes = {name: math.floor(share * n + 1e-6) for name, share in fractions.items()}
    for name, size in sizes.items():
        if size < 2:
            least = 2 * len(sizes)
            way = "raise its fraction" if n >= least else f"add images, {least} or more for {len(sizes)} splits"
            raise DataError(
                f"a split of data.splits has 2 training images or more, but {name!r} gets {size} of {n}; {way}"
            )
    return sizes


def _of_each_class(
    labels: Tensor, order: Tensor, fractions: Mapping[str, float], sizes: Mapping[str, int]
) -> dict[str, Tensor]:
    """Cut a shuffle into splits that have their fraction of every class, each in the order of the shuffle."""
    counts = labels.bincount()
    least = (counts >= len(sizes)).long()
    exact = {name: counts.double() * share for name, share in fractions.items()}
    taken = {name: torch.maximum((part + 1e-6).long(), least) for name, part in exact.items()}
    left = counts - torch.stack(list(taken.values())).sum(0)
    for label in (left < 0).nonzero().flatten().tolist():  # one of each small class, at the expense of the largest part
        largest = max(taken, key=lambda name: int(taken[name][label]))
        taken[largest][label] += left[label]
        left[label] = 0
    for name, size in sizes.items():
        more = size - int(taken[name].sum())
        for label in (exact[name] - taken[name]).argsort(descending=True, stable=True).tolist():
            if more > 0 and left[label] > 0:
                taken[name][label] += 1
                left[label] -= 1
                more -= 1
    ends = torch.stack(list(taken.values())).cumsum(0)  # (splits, classes): places among the images of a class
    place = torch.empty_like(order)
    grouped = order[labels[order].argsort(stable=True)]
    place[grouped] = torch.arange(len(order)) - (counts.cumsum(0) - counts)[labels[grouped]]
    part = (place[None] >= ends[:, labels]).sum(0)[order]
    return {name: order[part == number] for number, name in enumerate(taken)}


def _mend(parts: list[Tensor], labels: Tensor) -> None:
    """Exchange images, in place, until every class that can be in all parts but the last, the rest, is there."""
    classes = int(labels.max()) + 1
    counts = torch.stack([labels[part].bincount(minlength=classes) for part in parts])
    used = rest = len(parts) - 1
    enough = counts.sum(0) >= used
    for here, label in (enough & (counts[:used] == 0)).nonzero().tolist():
        spare = torch.where(enough, counts[here] - 1, counts[here])  # so many of each class may leave
        leaving = int(spare.argmax())
        if spare[leaving] < 1:
            continue
        giver = rest if counts[rest, label] else int(counts[:used, label].argmax())
        mine, other = (
            int((labels[parts[part]] == kind).nonzero()[-1]) for part, kind in ((here, leaving), (giver, label))
        )
        moved = parts[here][mine].clone()
        parts[here][mine], parts[giver][other] = parts[giver][other].clone(), moved
        for part, kind, change in ((here, label, 1), (here, leaving, -1), (giver, label, -1), (giver, leaving, 1)):
            counts[part, kind] += change


def split_notes(
    labels: Tensor, classes: Sequence[str], fractions: Mapping[str, float], seed: int, class_balanced: bool = False
) -> list[str]:
    """A warning where a class is in some splits of the search only; none otherwise.

    Raises:
        DataError: as `split_indices`.
    """
    sizes = labels.bincount(minlength=len(classes)).tolist()
    lacking = []
    for name, indices in split_indices(labels, fractions, seed, class_balanced).items():
        counts = labels[indices].bincount(minlength=len(classes)).tolist()
        missing = [f"{label} ({size:,})" for label, size, count in zip(classes, sizes, counts) if size and not count]
        if missing:
            lacking.append(f"{name} lacks {some(missing)}")
    if not lacking:
        return []
    return [
        f"warning: each split of the search should have images of every class, but {'; '.join(lacking)}; in brackets "
        f"is the number of training images: add some, or raise the fractions in data.splits"
    ]

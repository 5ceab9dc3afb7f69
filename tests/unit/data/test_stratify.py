"""Splits of the search have every class, and are the plain shuffle wherever that has them."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from topocell.config.load import load_recipe
from topocell.data.splits import load
from topocell.data.stratify import split_indices, split_notes
from topocell.runtime.rng import generator

HALVES = {"train": 0.5, "val": 0.5}


def labels_of(sizes):
    return torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))


def plain(n, fractions, seed):
    """The shuffle that does not look at the classes, cut in order."""
    order = torch.randperm(n, generator=generator(seed, "split"))
    sizes = [math.floor(share * n + 1e-6) for share in fractions.values()]
    return dict(zip(fractions, order.split([*sizes, n - sum(sizes)])))


def classes_in(labels, indices, sizes, splits):
    """Which of the classes that can be in every split are in this one, and which should be."""
    able = {label for label, size in enumerate(sizes) if size >= splits}
    return able & set(labels[indices].tolist()), able


@pytest.mark.parametrize("fractions", [HALVES, {"train": 0.4, "val": 0.4}, {"train": 0.8, "val": 0.2}])
def test_a_rare_class_is_in_both_halves_whatever_the_seed(fractions):
    labels, mended = labels_of([60, 4]), 0
    for seed in range(200):
        before, parts = plain(64, fractions, seed), split_indices(labels, fractions, seed)
        mended += any(not torch.equal(before[name], parts[name]) for name in fractions)
        assert all((labels[indices] == 1).any() and (labels[indices] == 0).any() for indices in parts.values())
    assert mended > 5  # the plain shuffle does lose it for some seeds


@settings(max_examples=200)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    shares=st.lists(st.floats(0.05, 1.0), min_size=1, max_size=4),
    total=st.floats(0.4, 1.0),
    seed=st.integers(0, 2**40),
)
def test_every_class_that_can_be_is_in_every_split(sizes, shares, total, seed):
    fractions = {f"part {i}": share / sum(shares) * total for i, share in enumerate(shares)}
    labels = labels_of(sizes)
    assume(min(fractions.values()) * len(labels) >= 2.1)
    before, parts = plain(len(labels), fractions, seed), split_indices(labels, fractions, seed)
    placed = torch.cat(list(parts.values()))
    assert len(placed.unique()) == len(placed)
    whole, full = True, True
    for name, indices in parts.items():
        assert len(indices) == len(before[name])
        got, able = classes_in(labels, indices, sizes, len(parts))
        assert got == able or len(got) == len(indices) < len(able)  # each image of a small split is of another class
        full = full and got == able
        whole = whole and classes_in(labels, before[name], sizes, len(parts))[0] == able
    if whole:  # bit for bit the shuffle of before
        assert all(torch.equal(parts[name], before[name]) for name in parts)
    again = split_indices(labels, fractions, seed)
    assert all(torch.equal(parts[name], again[name]) for name in parts)
    enough = min(sizes) >= len(parts)
    notes = split_notes(labels, [f"c{i}" for i in range(len(sizes))], fractions, seed)
    assert not (full and enough and notes) and len(notes) <= 1


def test_few_images_change_places():
    labels = labels_of([600, 3])
    for seed in range(60):
        before, parts = plain(603, HALVES, seed), split_indices(labels, HALVES, seed)
        changed = [int((before[name] != parts[name]).sum()) for name in parts]
        assert changed in ([0, 0], [1, 1])


#: The sizes of the sets on which documented results rest: classes, images of each, fractions of the splits.
DOCUMENTED = {
    "cifar10": (10, 5000, HALVES),
    "cifar10 in thirds": (10, 5000, {"train": 1 / 3, "alpha": 1 / 3, "beta": 1 / 3}),
    "cifar10 in twentieths": (10, 5000, {"train": 0.05, "val": 0.05}),
    "cifar10, small": (10, 300, HALVES),
    "cifar100": (100, 500, HALVES),
    "cifar100 in twentieths": (100, 500, {"train": 0.05, "val": 0.05}),
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_balanced_sets_keep_the_plain_shuffle(name):
    classes, each, fractions = DOCUMENTED[name]
    labels = labels_of([each] * classes)
    for seed in range(5):
        before, parts = plain(len(labels), fractions, seed), split_indices(labels, fractions, seed)
        assert all(torch.equal(parts[part], before[part]) for part in parts)


@pytest.mark.parametrize("budget", ["small", "paper"])
def test_digits_keep_the_plain_shuffle(budget):
    recipe = load_recipe("quickstart", budget=budget)
    labels = load("digits", images=recipe.data.images).train.labels
    for seed in range(20):
        before, parts = plain(len(labels), recipe.data.splits, seed), split_indices(labels, recipe.data.splits, seed)
        assert all(torch.equal(parts[part], before[part]) for part in parts)


def test_a_class_of_fewer_images_than_splits_is_one_warning():
    labels = labels_of([30, 1, 30, 1])
    (note,) = split_notes(labels, ["cat", "owl", "dog", "bat"], HALVES, 0)
    assert "lacks" in note and "owl (1)" in note and "bat (1)" in note and "data.splits" in note and "\n" not in note
    assert split_notes(labels_of([30, 30]), ["cat", "dog"], HALVES, 0) == []
    assert split_notes(labels_of([30, 0, 30]), ["cat", "none at all", "dog"], HALVES, 0) == []


def test_a_split_too_small_for_all_classes_has_as_many_as_it_can():
    labels = labels_of([10] * 10)
    parts = split_indices(labels, {"train": 0.9, "val": 0.04}, 0)
    assert len(parts["val"]) == 4 and len(labels[parts["val"]].unique()) == 4
    (note,) = split_notes(labels, [f"c{i}" for i in range(10)], {"train": 0.9, "val": 0.04}, 0)
    assert "val lacks" in note and "and 3 more" in note


@settings(max_examples=100)
@given(
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=8),
    shares=st.lists(st.floats(0.05, 1.0), min_size=1, max_size=3),
    total=st.floats(0.1, 1.0),
    seed=st.integers(0, 2**40),
)
def test_class_balanced_splits_have_their_fraction_of_each_class(sizes, shares, total, seed):
    fractions = {f"part {i}": share / sum(shares) * total for i, share in enumerate(shares)}
    labels = labels_of(sizes)
    assume(min(fractions.values()) * len(labels) >= 2.1)
    parts = split_indices(labels, fractions, seed, class_balanced=True)
    placed = torch.cat(list(parts.values()))
    assert len(placed.unique()) == len(placed)
    for name, indices in parts.items():
        share, counts = fractions[name], labels[indices].bincount(minlength=len(sizes)).tolist()
        for count, size in zip(counts, sizes, strict=True):
            able = size >= len(fractions)
            whole = [math.floor(each * size + 1e-6) for each in fractions.values()]
            crowded = able and sum(max(each, 1) for each in whole) > size
            assert math.floor(share * size + 1e-6) <= count + len(fractions) * crowded
            assert count <= max(math.floor(share * size + 1e-6) + 1, able)
            assert count or not able
        if all(share * size >= 1 or size == 0 for size in sizes):
            assert len(indices) <= math.floor(share * len(labels) + 1e-6)


def test_a_small_class_is_in_each_class_balanced_split():
    labels = labels_of([3, 40])
    parts = split_indices(labels, {"a": 0.9, "b": 0.05, "c": 0.05}, 0, class_balanced=True)
    assert [labels[indices].bincount().tolist() for indices in parts.values()] == [[1, 36], [1, 2], [1, 2]]


def test_class_balanced_splits_are_the_published_subsets_of_imagenet():
    sizes = [1300] * 20 + [732, 1000, 1049]  # the classes of ILSVRC2012 have 732 to 1,300 images
    labels = labels_of(sizes)
    parts = split_indices(labels, {"train": 0.1, "val": 0.025}, 0, class_balanced=True)
    counts = {name: labels[indices].bincount().tolist() for name, indices in parts.items()}
    assert counts["train"] == [130] * 20 + [73, 100, 105] and set(counts["val"][:20]) == {32, 33}
    assert len(parts["val"]) == math.floor(0.025 * sum(sizes))
    thirds = split_indices(labels, dict.fromkeys(("a", "b", "c"), 0.01), 0, class_balanced=True)
    assert all(labels[indices].bincount().tolist()[:20] == [13] * 20 for indices in thirds.values())
    again = split_indices(labels, {"train": 0.1, "val": 0.025}, 0, class_balanced=True)
    other = split_indices(labels, {"train": 0.1, "val": 0.025}, 1, class_balanced=True)
    assert torch.equal(parts["train"], again["train"]) and not torch.equal(parts["train"], other["train"])
    assert parts["train"].sort().values.tolist() != parts["train"].tolist()

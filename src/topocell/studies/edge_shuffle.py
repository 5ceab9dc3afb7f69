"""DARTS-PT, Table 1: a supernet hardly minds when edges change places, like a ResNet and unlike a plain network."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from topocell.config.recipe import Recipe
from topocell.data.splits import Batches, split_batches
from topocell.errors import RecipeError
from topocell.reporting.terminal import Display
from topocell.runs import setup
from topocell.runtime.rng import derive as derive_seed
from topocell.runtime.rng import generator
from topocell.runtime.workers import Task
from topocell.spaces.cell import CellSpec
from topocell.studies import _plots
from topocell.studies._items import Bench, Outcome, Record
from topocell.studies._loops import PlainTraining
from topocell.studies._options import Arm, Entries, Searches, distinct
from topocell.studies._plain_networks import NETWORKS, PUBLISHED, SMALL, PlainNet, plan_of
from topocell.studies._snapshots import expected, photographed, revived
from topocell.studies._training import begin, spread
from topocell.studies._worth import place
from topocell.supernet import ArchWeights, Supernet

Swap = tuple[int, int]
Kinds = Annotated[
    tuple[Literal["VGG", "ResNet", "VGG-16", "VGG-19", "ResNet-56", "ResNet-110"], ...],
    Field(min_length=1),
    BeforeValidator(distinct),
]
_EDGE = re.compile(r"cells\.(\d+)\.edges\.(\d+)\.(.*)")


class EdgeShuffle(Searches):
    """Options of `edge-shuffle`."""

    recipes: Entries = Field(("darts-pt",), description="recipes whose supernets to shuffle")
    shuffles: int = Field(10, ge=1, description="times that each network is shuffled, always from its trained state")
    networks: Kinds | None = Field(
        None,
        description=f"for contrast, among {', '.join(NETWORKS)}; unset: VGG-16 and ResNet-56 under the budget paper, "
        f"otherwise the small VGG and ResNet",
    )
    depth: int = Field(3, ge=2, description="layers of one shape in each of the three stages of the small networks")
    epochs: int | None = Field(None, ge=1, description="of training these networks; unset: those of the search")
    measured_on: Literal["val", "test"] | None = Field(
        None,
        description="val: the split that moves the architecture; test: the test images, when all is trained; unset: "
        "test under the budget paper, otherwise val",
    )

    def kinds(self) -> tuple[str, ...]:
        """The networks for contrast."""
        return self.networks or (("VGG-16", "ResNet-56") if self.budget == "paper" else tuple(SMALL))

    def images(self) -> Literal["val", "test"]:
        """The images that everything is measured on."""
        return self.measured_on or ("test" if self.budget == "paper" else "val")


def measure(bench: Bench, options: EdgeShuffle) -> Outcome:
    """Accuracy of a supernet before and after two edges of every cell change places, beside a VGG and a ResNet.

    An edge changes places with all its operations, their network weights and their weights in the mixture. Only edges
    of one stride and with the same operations change places. In each stage of a VGG or ResNet two layers change places,
    where there are two of one shape. The paper does not say how large these are, nor how they are trained: here with
    the optimizer of the supernet, on the images of its weights, or on all training images where test images measure.
    The small ones have the channels of the supernet. No augmentation in measuring. The ± is over shuffles.

    Raises:
        RecipeError: a space in which no two edges can change places, or images too small for a network.
    """
    arms, kinds, images = options.arms(), options.kinds(), options.images()
    for arm in arms:
        _check_size(arm, kinds)
        if not any(_alike(cell.candidates, strides(cell)) for cell in setup.build_space(arm.any).cells.values()):
            raise RecipeError(
                f"edge-shuffle needs two edges of one stride with the same operations, but the space of {arm.label} "
                f"has none; use another space"
            )
    every = [(arm, seed, recipe, place(arm, seed)) for arm in arms for seed, recipe in arm.recipes.items()]
    begin(bench, len(every) * (2 + len(kinds)), {arm.label: arm.any for arm in arms}, options.seeds)
    bench.all_trained([Task(f"{key}-search", photographed, (recipe, ())) for _, _, recipe, key in every])
    tasks, names = [], []
    for arm, seed, recipe, key in every:
        searched = bench.path / "runs" / f"{key}-search"
        tasks.append(Task(f"{key}-shuffle", shuffled_supernet, (recipe, searched, options.shuffles, images)))
        names.append((arm.label, seed, "supernet"))
        for kind in kinds:
            given = (recipe, kind, options.depth, options.epochs, options.shuffles, images)
            tasks.append(Task(f"{key}-{kind}", shuffled_plain, given))
            names.append((arm.label, seed, kind))
    records = bench.all_trained(tasks)
    rows = [_row(name, records[task.key]) for name, task in zip(names, tasks)]
    groups = {
        f"{kind} {when}": [row[column] for row in rows if row["network"] == kind]
        for kind in dict.fromkeys(row["network"] for row in rows)
        for when, column in (("before", "accuracy %"), ("after", "shuffled %"))
    }
    return Outcome(
        rows,
        lambda path: _plots.bars(groups, "test accuracy, %" if images == "test" else "validation accuracy, %", path),
        len(options.seeds),
        {"accuracies": groups},
        [_in_words(kind, groups) for kind in dict.fromkeys(row["network"] for row in rows)],
    )


def shuffled_supernet(
    recipe: Recipe, searched: Path, shuffles: int, images: str, path: Path, display: Display
) -> Record:
    """Accuracy of the supernet of a finished search on `images`, `before` and `after` each shuffle."""
    search = revived(recipe, searched)
    net, soft = search.learner.net, expected(search.learner)
    batches = _measuring(setup.Setup.of(recipe), images)
    trained = net.per_edge_state_dict()
    after = []
    net.eval()
    unmoved = {slot.index: soft[slot.cell_type] for slot in net.slots}
    before = _accuracy(partial(under, net, unmoved), batches.eval_batches(), recipe.seed)
    for number in range(shuffles):
        swaps = drawn_swaps(net, recipe.seed, number)
        net.load_per_edge_state_dict(swapped(trained, swaps))
        weights = {at: moved(each, swaps.get(at)) for at, each in unmoved.items()}
        after.append(_accuracy(partial(under, net, weights), batches.eval_batches(), recipe.seed))
    return {"before": before, "after": after}


def shuffled_plain(
    recipe: Recipe, kind: str, depth: int, epochs: int | None, shuffles: int, images: str, path: Path, display: Display
) -> Record:
    """Train a network of layers in a row; its accuracy on `images`, `before` and `after` each shuffle."""
    prepared, stage = setup.Setup.of(recipe), recipe.search.stages[-1]
    data, device, plan = prepared.search_data, prepared.device, plan_of(kind, recipe.search.channels, depth)
    torch.manual_seed(derive_seed(recipe.seed, "plain network", kind))
    net = PlainNet(plan, len(data.classes), data.shape[0]).to(device)
    epochs = epochs or sum(each.epochs for each in recipe.search.stages)
    size, split = recipe.search.batch_size, "all" if images == "test" else stage.weights_on
    training = split_batches(data, split, size, "shuffle", seed=recipe.seed, device=device)
    PlainTraining([net], training, stage.weights, epochs, recipe.seed, device).run()
    net.eval()
    batches, pairs, after = _measuring(prepared, images), plan.pairs(), []
    before = _accuracy(net, batches.eval_batches(), recipe.seed)
    for number in range(shuffles):
        draw = generator(recipe.seed, "layer shuffle", number)
        swaps = [own[int(torch.randint(len(own), (), generator=draw))] if own else None for own in pairs]
        after.append(_accuracy(partial(net, swaps=swaps), batches.eval_batches(), recipe.seed))
    return {"before": before, "after": after}


def strides(cell: CellSpec) -> list[int]:
    """The stride of every edge of a cell."""
    return [cell.edge_stride(e) for e in range(cell.n_edges)]


def drawn_swaps(net: Supernet, seed: int, number: int) -> dict[int, Swap]:
    """Pick in every cell two edges that change places, by the cell's index; cells without such a pair are left out."""
    found: dict[int, Swap] = {}
    masks = net.masks()
    for slot in net.slots:
        cell, mask = net.space.cells[slot.cell_type], masks[slot.cell_type].tolist()
        live = [tuple(n for n, on in zip(names, row) if on) for names, row in zip(cell.candidates, mask)]
        if pairs := _alike(list(zip(cell.candidates, live)), strides(cell)):
            draw = generator(seed, "edge shuffle", number, slot.index)
            found[slot.index] = pairs[int(torch.randint(len(pairs), (), generator=draw))]
    return found


def swapped(state: Mapping[str, Tensor], swaps: Mapping[int, Swap]) -> dict[str, Tensor]:
    """Network weights by the names of `Supernet.per_edge_state_dict`, with two edges of each cell in exchange."""
    out = {}
    for name, value in state.items():
        if (at := _EDGE.fullmatch(name)) is not None and int(at[1]) in swaps:
            a, b = swaps[int(at[1])]
            edge = {a: b, b: a}.get(int(at[2]), int(at[2]))
            name = f"cells.{at[1]}.edges.{edge}.{at[3]}"
        out[name] = value
    return out


def moved(weights: ArchWeights, swap: Swap | None) -> ArchWeights:
    """Weights of one cell whose edges of `swap` have changed places; what an edge weighs in its node stays."""
    if swap is None:
        return weights
    ops = weights.ops.clone()
    ops[list(swap)] = weights.ops[list(reversed(swap))]
    return weights._replace(ops=ops)


def under(net: Supernet, weights: Mapping[int, ArchWeights], x: Tensor) -> Tensor:
    """Logits (N, classes) with weights for each cell, by its index, and not for each type of cells."""
    x = x.contiguous(memory_format=torch.channels_last)
    logits: Tensor = net.skeleton(x, lambda slot: (weights[slot.index],))
    return logits


@torch.no_grad()
def _accuracy(net: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]], seed: int) -> float:
    torch.manual_seed(derive_seed(seed, "shuffled"))  # an operation may draw (noise)
    correct, images = [], 0
    for x, y in batches:
        correct.append((net(x).argmax(1) == y).sum())
        images += len(y)
    return int(torch.stack(correct).sum()) / images


def _alike(of_edges: Sequence[Any], of_stride: Sequence[int]) -> list[Swap]:
    """Pairs of edges of one stride whose entries are equal."""
    every = combinations(range(len(of_edges)), 2)
    return [(a, b) for a, b in every if of_stride[a] == of_stride[b] and of_edges[a] == of_edges[b]]


def _measuring(prepared: setup.Setup, images: str) -> Batches:
    """The images that networks are measured on, without augmentation: `val`, or the `test` images."""
    recipe, data, device = prepared.recipe, prepared.search_data, prepared.device
    size, seed = recipe.search.batch(recipe.search.stages[-1]), recipe.seed
    if images == "val":
        split = recipe.search.stages[-1].alpha_on
        return split_batches(data, split, size, "shuffle", seed=seed, device=device, augmented=False)
    test, mean, std = prepared.dataset.test, data.mean, data.std
    return Batches(test, size, mean=mean, std=std, augmentation=None, device=device, seed=seed, stream="shuffle")


def _check_size(arm: Arm, kinds: Sequence[str]) -> None:
    """Raise RecipeError where a network would halve images to nothing."""
    for kind in kinds:
        least = plan_of(kind, arm.any.search.channels, 2).least_side
        if kind in PUBLISHED and (side := setup.load_data(arm.any).shape[-1]) < least:
            raise RecipeError(
                f"{kind} needs images of {least} pixels or more, but those of {arm.label} have {side}; use "
                f"networks=VGG,ResNet, or data.resolution={least}"
            )


def _row(name: tuple[str, int, str], record: Record) -> dict[str, Any]:
    after, std = spread([100 * value for value in record["after"]])
    before = 100 * record["before"]
    named = dict(zip(("recipe", "seed", "network"), name))
    return {**named, "accuracy %": before, "shuffled %": after, "± %": std, "lost %": before - after}


def _in_words(kind: str, groups: Mapping[str, Sequence[float]]) -> str:
    before, after = (spread(groups[f"{kind} {when}"])[0] for when in ("before", "after"))
    return f"{kind}: {before:.2f} % before, {after:.2f} % after."

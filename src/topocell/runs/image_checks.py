"""Checks of a recipe's networks against its images, before anything starts."""

from typing import Any

import torch

from topocell.config.recipe import Recipe
from topocell.config.retrain import RetrainPlan
from topocell.data.policies import check_channels
from topocell.data.splits import Dataset
from topocell.data.stratify import held_out
from topocell.errors import RecipeError, SpaceError
from topocell.genotype.genotype import CellGenotype, Genotype
from topocell.networks.options import image_policy, initial_channels
from topocell.nn.network import FixedNet
from topocell.spaces.cell import SpaceSpec
from topocell.spaces.skeletons import can_have, check_resolution, layout, resolution_divisor, stacking

#: Parameters from which a network is checked without its storage, which takes PyTorch seconds to prepare for.
LARGE = 50_000_000


def check_images(recipe: Recipe, space: SpaceSpec, dataset: Dataset) -> None:
    """Raise SpaceError for images that a supernet, or a network of the retraining, cannot take, before the search."""
    for stage in recipe.search.stages:
        size = recipe.search.size(stage)
        slots = layout(space.skeleton, size["channels"], size["layers"])
        check_resolution(resolution_divisor(space.skeleton, slots, recipe.search.stem), *dataset.shape[1:])
    cells = {}
    for name, cell in space.cells.items():
        cells[name] = CellGenotype(cell.inputs, ((("skip_connect", 0),),) * cell.nodes, (cell.computed[-1],))
    for plan in recipe.trainings:
        check_channels(image_policy(plan), dataset.shape[0])
        if plan.early_stop is not None:
            held_out(dataset.train.labels, plan.early_stop.fraction, recipe.seed)
        check_network(Genotype("any", cells, skeleton=space.skeleton), plan, dataset)


def check_classes(plan: RetrainPlan, dataset: Dataset) -> None:
    """Raise RecipeError for a `top_k` that every answer would meet."""
    if plan.top_k is not None and plan.top_k >= (classes := len(dataset.train.classes)):
        raise RecipeError(
            f"top_k is below the number of classes, but got retrain.top_k={plan.top_k} for the {classes} classes of "
            f"{dataset.name}; " + (f"use 2 to {classes - 1}, or null" if classes > 2 else "use retrain.top_k=null")
        )


def check_skeleton(skeleton: str, plan: RetrainPlan) -> None:
    """Raise SpaceError for a training whose network the skeleton of a cell cannot have, with all that has to change."""
    faults, changes = [], []
    if plan.auxiliary > 0 and not stacking(skeleton).preprocess:
        faults.append(f"an auxiliary head needs skeleton 'darts' or one like it, but got {skeleton!r}")
        changes.append("retrain.auxiliary=0")
    try:
        layout(skeleton, plan.channels, plan.layers)
    except SpaceError as fault:
        faults.append(str(fault))
        more, stacked = range(plan.layers, plan.layers + 9), stacking(skeleton)
        if (fewest := next((n for n in more if can_have(stacked, n)), None)) is not None:
            changes.append(f"retrain.layers={fewest}")
    if faults:
        raise SpaceError("; ".join(faults) + (f"; set {' '.join(changes)}" if changes else ""))


def check_network(genotype: Genotype, plan: RetrainPlan, dataset: Dataset) -> None:
    """Raise SpaceError for images that the network of a cell cannot take, and for a limit that no width meets."""
    check_classes(plan, dataset)
    check_skeleton(genotype.skeleton, plan)
    initial_channels(genotype, plan, len(dataset.train.classes), dataset.shape)
    classes, channels = len(dataset.train.classes), dataset.shape[0]
    sizes = plan.channels, plan.layers, classes, channels, plan.stem
    options: dict[str, Any] = {"auxiliary": plan.auxiliary > 0, "head": plan.head}
    with torch.device("meta"):
        net = FixedNet(genotype, *sizes, **options)
    large = sum(parameter.numel() for parameter in net.parameters()) > LARGE
    with torch.no_grad(), torch.device("meta" if large else "cpu"):
        net = FixedNet(genotype, *sizes, **options)
        net(torch.zeros(2, *dataset.shape))

"""What the network of a cell costs, for a run: the sizes that count, and the costs that penalty and budget rest on."""

from collections.abc import Mapping
from typing import Any

import torch

from topocell.config.cost import CostBudget, CostPlan
from topocell.config.recipe import Recipe
from topocell.config.selection import Rules
from topocell.data.splits import Dataset
from topocell.errors import RecipeError
from topocell.genotype.genotype import Genotype
from topocell.networks.latency import Latency
from topocell.networks.options import initial_channels
from topocell.nn.costs import NetworkSize, network_costs
from topocell.nn.count import count
from topocell.nn.network import FixedNet
from topocell.selection.budget import least_cost, unmet
from topocell.spaces.cell import SpaceSpec
from topocell.spaces.costs import NetworkCosts
from topocell.spaces.skeletons import stacking
from topocell.supernet.arch_state import ArchState


def network_size(recipe: Recipe, dataset: Dataset) -> NetworkSize:
    """Return the size at which cells are counted: that of the last training of the recipe's protocol.

    Where a number of parameters or a limit chooses the channels of each cell, cells are compared at `retrain.channels`.
    """
    plan, (channels, height, width) = recipe.trainings[-1], dataset.shape
    shape = (channels, height, width)
    return NetworkSize(plan.channels, plan.layers, len(dataset.train.classes), shape, plan.stem, plan.head)


def costs_for(plan: CostPlan | CostBudget, space: SpaceSpec, size: NetworkSize, device: torch.device) -> NetworkCosts:
    """Return the costs of all networks of a space; latencies that this machine has not measured yet take seconds."""
    meter = Latency(device, plan.batch) if plan.measure == "latency" else None
    return network_costs(space, size, plan.measure, meter)


def check_reachable(recipe: Recipe, space: SpaceSpec, rules: Rules, penalised: NetworkCosts | None) -> None:
    """Raise RecipeError for a target or a limit below the cost of the cheapest cell.

    Args:
        recipe, space: of the run.
        rules: with the costs of their budget, if they have one.
        penalised: costs in the measure of `search.cost`, if there is one.
    """
    stage, cost = recipe.search.stages[-1], recipe.search.cost
    bounds = [
        ("search.cost.target", cost.target if cost else None, penalised),
        ("selection.budget.limit", rules.budget.limit if rules.budget else None, rules.costs),
    ]
    for key, bound, costs in bounds:
        if bound is not None and costs is not None:
            choices = stage.relaxation.model_dump(), stage.topology.model_dump()
            arch = ArchState(space, *choices, init=0.0, generator=torch.Generator())
            least = least_cost(arch, rules, costs)
            if bound < least:
                raise RecipeError(unmet(key, bound, costs, least))


def costs_of_cell(
    recipe: Recipe, genotype: Genotype, size: NetworkSize, known: Mapping[str, NetworkCosts]
) -> dict[str, Any]:
    """Return what the network of a derived cell costs, for genotype.json.

    Args:
        recipe: its last training says channels and layers.
        genotype: the cell.
        size: of the network, see `network_size`.
        known: measure → costs; a latency is told where it has been measured.

    Returns channels, layers, parameters, multiply_adds, and latency in milliseconds at `size`.
    """
    plan, shared = recipe.trainings[-1], (size.layers, size.classes, size.shape[0], size.stem)
    channels, _ = initial_channels(genotype, plan, size.classes, size.shape)
    with torch.device("meta"):
        counted = count(FixedNet(genotype, channels, *shared, head=size.head), size.shape)
    found: dict[str, Any] = {"channels": channels, "layers": size.layers, **counted._asdict()}
    if "latency" in known and channels == size.channels:
        strides = stacking(genotype.skeleton).strides
        found["latency"] = known["latency"].of(genotype.cells, strides)
    return found


def cost_line(cost: Mapping[str, Any]) -> str:
    """The costs of a cell in one line."""
    parts = [f"{cost['parameters']:,} parameters", f"{cost['multiply_adds']:,} multiply-adds"]
    if "latency" in cost:
        parts.append(f"{cost['latency']:.4g} ms")
    return f"its network: {', '.join(parts)} ({cost['channels']} channels, {cost['layers']} layers)"

"""A quick estimate, before a run starts: whether it takes so long that its user should be asked."""

import time
from collections.abc import Callable
from typing import Any

import torch

from topocell.errors import RunError
from topocell.genotype.genotype import Genotype
from topocell.runs import outlook
from topocell.runs.estimate.parts import Begin, Estimate, Part, estimate_retraining, estimate_search, typical_cell
from topocell.runs.outlook import parts_of, total_work
from topocell.runs.setup import Setup, execution

#: Seconds above which a run is long.
LONG = 3600.0
#: Work in a second that any machine does; a run that is short at this pace is not measured.
PACE = 1e8
#: Seconds after which no further part is measured; its time is then taken in proportion to its work.
PATIENCE = 8.0


def quick_estimate(
    setup: Setup,
    begin: Begin,
    genotype: Genotype | None = None,
    retrain: bool = True,
    clock: Callable[[], float] = time.monotonic,
) -> Estimate | None:
    """Estimate a run from a step or two of each of its parts, in some seconds. Random states stay as they are.

    Args:
        setup: of the run.
        begin: see `estimate_search`.
        genotype: what is retrained, where there is no search any more.
        retrain: whether a retraining follows the search.
        clock: in seconds.

    Returns None where the sizes alone say that it is no long run, or where memory does not suffice for a probe.
    """
    recipe, device = setup.recipe, setup.device
    parts = [part for part in parts_of(setup) if (retrain if part.name == "retrain" else genotype is None)]
    if total_work(parts) <= LONG * PACE:
        return None
    until = clock() + PATIENCE
    found: list[Part] = []

    def first(name: str) -> bool:
        if found and clock() > until:
            return False
        begin(name)
        return True

    options: dict[str, Any] = {"seed": recipe.seed, "device": device, "execution": execution(recipe), "begin": first}
    trainings = [part.work for part in parts if part.name == "retrain"]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            cell = genotype or typical_cell(recipe.search.stages[-1], setup.space, setup.rules)
            for plan, each in zip(recipe.trainings, trainings):
                found.append(estimate_retraining(cell, plan, setup.dataset, work=each, **options))
            if genotype is None:
                plans = recipe.search, setup.space, setup.search_data, setup.rules, recipe.selection.projection
                work = {part.stage: part.work for part in parts if part.stage}
                found = estimate_search(*plans, work=work, **options)[0] + found
        except RunError:
            return None
    return Estimate(str(device), None, _completed(parts, found))


def _completed(parts: list[outlook.Part], found: list[Part]) -> tuple[Part, ...]:
    """The parts that were measured, and those that were not at the same pace."""
    names = [f"search stage {part.stage}" if part.stage else _NAMES[part.name] for part in parts]
    left, pairs = list(found), list[tuple[outlook.Part, str, Part | None]]()
    for part, name in zip(parts, names):
        same = next((other for other in left if other.name == name), None)
        pairs.append((part, name, same))
        if same is not None:
            left.remove(same)
    pace = sum(part.seconds for part in found) / total_work([part for part, _, same in pairs if same is not None])
    return tuple(
        same or Part(name, part.steps, pace * part.work, pace * total_work([part])) for part, name, same in pairs
    )


#: Reports of a part begin with one name, tables have another.
_NAMES = {"select": "selection", "retrain": "retraining"}

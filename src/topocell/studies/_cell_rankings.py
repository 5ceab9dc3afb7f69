"""Scores of given cells by a finished search: by its architecture, and by its supernet."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from topocell import api
from topocell.config.recipe import Recipe
from topocell.config.search import Stage
from topocell.config.selection import Rules
from topocell.data.splits import split_batches
from topocell.errors import RecipeError
from topocell.genotype.genotype import Genotype
from topocell.reporting.terminal import Display
from topocell.runs import setup
from topocell.runs.directory import RunDir
from topocell.runs.moments import moment_of
from topocell.runtime.rng import generator
from topocell.searching.loop import Search
from topocell.searching.schedules import updates_architecture
from topocell.selection.cell_scores import LEAST, CellDistribution, at_equal_logits, one_shot
from topocell.selection.drawing import CellSpace
from topocell.selection.probe import Probe
from topocell.studies._items import Record
from topocell.studies._snapshots import photographed, revived, snapshot
from topocell.supernet.arch_state import ArchState

#: Draws per wanted cell after which there are too few cells that all recipes can derive.
TRIES = 300


def drawn(recipes: Sequence[Recipe], n: int) -> list[Genotype]:
    """Draw different cells that every recipe can derive.

    They come as random search draws them in the space and with the selection of the first recipe, without those that
    another one never derives.

    Raises:
        RecipeError: there are fewer, or they are too rare to find.
    """
    spaces = [setup.build_space(recipe) for recipe in recipes]
    fresh = [_fresh(recipe) for recipe in recipes]
    may = [CellDistribution(arch, arch, rules_of(recipe)) for recipe, arch in zip(recipes, fresh)]
    rules = rules_of(recipes[0])
    space = CellSpace.of(fresh[0], replace(rules, operations="random", edges=_open(rules.edges)))
    draw = generator(0, "supernet ranking")
    found: dict[str, Genotype] = {}
    for _ in range(TRIES * n):
        cell = space.derived(space.random(draw)).genotype(spaces[0])
        if all(each.log_probability(cell.cells) is not None for each in may):
            found.setdefault(cell.key, cell)
        if len(found) == n:
            return list(found.values())
    names = ", ".join(dict.fromkeys(recipe.name for recipe in recipes))
    raise RecipeError(
        f"this study ranks {n} cells that each of {names} can derive, but found {len(found)}; ask for fewer with "
        f"cells=.., or take recipes of one space"
    )


def searched_cell(recipe: Recipe, path: Path, display: Display) -> Record:
    """Search and derive; keeps the supernet from before operations are decided. Returns `genotype`."""
    if not (path / "genotype.json").exists():
        stages = recipe.search.stages
        whole = undecided(recipe)
        epochs = [sum(stage.epochs for stage in stages[: whole + 1])] if whole is not None else []
        photographed(recipe, epochs if whole != len(stages) - 1 else (), path, display)
        api.select(path, display)
    return {"genotype": Genotype.load(path / "genotype.json").to_dict()}


def ranked(
    recipe: Recipe, searched: Path, cells: Sequence[Mapping[str, Any]], images: int | None, path: Path, display: Display
) -> Record:
    """Score cells by a finished search.

    Nothing is left in `path`, and nothing is shown: an item that is interrupted begins anew.

    Args:
        recipe: of the search.
        searched: its run directory.
        cells: as `Genotype.to_dict`.
        images: held-out images that the supernet is measured on; None: all.
        path, display: unused.

    Returns:
        per cell `operations` and `wiring`, the log-probabilities less those under equal logits (None: no α, no β is
        learned), and `supernet`, the accuracy as a fraction (None: the supernet has lost operations of these cells);
        `images`; `seen`, whether the weights were trained on them; `alpha_entropy` and `beta_entropy`, as fractions of
        those of equal logits; and `derived`, the cell that the recipe derives.
    """
    genotypes = [Genotype.from_dict(dict(cell)) for cell in cells]
    search, whole, stages = revived(recipe, searched), undecided(recipe), recipe.search.stages
    wiring = operations = search.learner.arch
    if whole is not None and whole != len(stages) - 1:
        operations, search = _before(recipe, searched, whole, search)
    learned, plain = (
        CellDistribution(*states, rules_of(recipe))
        for states in ((operations, wiring), (at_equal_logits(operations), at_equal_logits(wiring)))
    )
    nothing = math.log(LEAST)
    logs = [
        (a.operations - b.operations, a.wiring - b.wiring) if a is not None and b is not None else (nothing, nothing)
        for a, b in ((learned.log_probability(c.cells), plain.log_probability(c.cells)) for c in genotypes)
    ]
    stage = stages[search.number]
    probe = _probe(search, recipe, stage, images)
    accuracies = [_accuracy(search, probe, cell) for cell in genotypes]
    upto = stages if whole is None else stages[: whole + 1]
    alpha = any(map(_moves, upto)) and all(relax.learned for relax in operations.relaxations.values())
    beta = any(map(_moves, stages)) and all(topology.learned for topology in wiring.topologies.values())
    return {
        "operations": [of for of, _ in logs] if alpha else None,
        "wiring": [of for _, of in logs] if beta else None,
        "supernet": None if None in accuracies else accuracies,
        "images": probe.images,
        "seen": stage.weights_on in ("all", stage.alpha_on),
        "alpha_entropy": _alpha_entropy(operations) if alpha else None,
        "beta_entropy": _beta_entropy(wiring) if beta else None,
        "derived": Genotype.load(searched / "genotype.json").to_dict(),
    }


def rules_of(recipe: Recipe) -> Rules:
    """The rules of selection of a recipe, without a budget."""
    return replace(recipe.selection.rules(recipe.seed), budget=None)


def _open(rule: str) -> str:
    """The edge rule that leaves open what another one decides."""
    return "all" if rule == "all" else "random"


def _fresh(recipe: Recipe) -> ArchState:
    """The architecture before the search, with the topology from which the cell is derived."""
    stage = recipe.search.stages[-1]
    return ArchState(setup.build_space(recipe), stage.relaxation.model_dump(), stage.topology.model_dump(), init=0.0)


def undecided(recipe: Recipe) -> int | None:
    """Index of the last stage that ends with all candidates; None where the first one decides some."""
    stages = recipe.search.stages
    decides = [number > 0 and stage.shrink is not None for number, stage in enumerate(stages)]
    decides = [shrinks or stage.mechanisms.progressive is not None for shrinks, stage in zip(decides, stages)]
    first = decides.index(True) if True in decides else len(stages)
    return first - 1 if first else None


def _before(recipe: Recipe, searched: Path, whole: int, last: Search) -> tuple[ArchState, Search]:
    """The architecture at the end of a stage, and the search as it stood there; as it ended where that is not kept."""
    name = snapshot(sum(stage.epochs for stage in recipe.search.stages[: whole + 1]))
    if (searched / "checkpoints" / f"{name}.ckpt").is_file():
        then = revived(recipe, searched, name)
        return then.learner.arch, then
    there = recipe.model_copy(
        update={"selection": recipe.selection.model_copy(update={"stage": recipe.search.stages[whole].name})}
    )
    with RunDir.existing(searched, lock=False) as directory:
        moment = moment_of(there, searched, directory.metrics())
    assert moment is not None
    return moment.architecture(setup.build_space(recipe)), last


def _moves(stage: Stage) -> bool:
    """Return whether a stage ever updates the architecture."""
    return any(updates_architecture(stage, epoch) for epoch in range(stage.epochs))


def _probe(search: Search, recipe: Recipe, stage: Stage, images: int | None) -> Probe:
    """Measures on the split that moves the architecture, without augmentation, the same images for all cells."""
    size = recipe.search.batch(stage)
    batches = split_batches(
        search.data, stage.alpha_on, size, "ranking", seed=recipe.seed, device=search.device, augmented=False
    )
    return Probe(search.learner, batches, None if images is None else math.ceil(images / size), recipe.seed)


def _accuracy(search: Search, probe: Probe, cell: Genotype) -> float | None:
    weights = one_shot(search.learner.arch, cell.cells)
    return None if weights is None else probe(weights, 0).accuracy


def _alpha_entropy(arch: ArchState) -> float:
    """Entropy of the operation weights among all candidates at temperature 1, over that of equal logits."""

    def entropy(state: ArchState) -> float:
        live = {t: torch.tensor(cell.live) for t, cell in state.space.cells.items()}
        return sum(float(r.entropy(state.strengths_of_all(t), live[t])) for t, r in state.relaxations.items())

    return entropy(arch) / entropy(at_equal_logits(arch))


def _beta_entropy(arch: ArchState) -> float | None:
    """Entropy of the distributions over edges, over that of equal logits; None where there is none."""

    def entropy(state: ArchState) -> float | None:
        found = [topology.entropy(state.beta[t].detach()) for t, topology in state.topologies.items()]
        return None if None in found else sum(float(one) for one in found if one is not None)

    own, most = entropy(arch), entropy(at_equal_logits(arch))
    return own / most if own is not None and most else None

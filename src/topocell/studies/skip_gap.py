"""DARTS-PT, Figure 3: skip connections gain weight over convolutions as the supernet gets better."""

from pathlib import Path
from typing import Any

from pydantic import Field

from topocell.config.recipe import Recipe
from topocell.errors import RecipeError
from topocell.reporting.terminal import Display
from topocell.runs import setup
from topocell.runtime.workers import Task
from topocell.spaces.cell import CellSpec, SpaceSpec
from topocell.studies import _drawings
from topocell.studies._items import Bench, Outcome, Record
from topocell.studies._options import Entries, Searches, Seeds, whole_searches
from topocell.studies._snapshots import photographed, snapshot, state_of
from topocell.studies._statistics import rank_correlation
from topocell.studies._training import begin
from topocell.studies._worth import Rows, place
from topocell.supernet.arch_state import ArchState


class SkipGap(Searches):
    """Options of `skip-gap`."""

    recipes: Entries = Field(("darts-pt",), description="recipes whose searches to follow")
    seeds: Seeds = Field((0,), description="seeds of the searches")


def measure(bench: Bench, options: SkipGap) -> Outcome:
    """Weight of skip connections minus that of convolutions, against the accuracy of the supernet, epoch by epoch.

    The gap is the mean over all edges with both of weight of the skip connection minus mean weight of the
    convolutions (softmaxed where the relaxation is softmax). The paper writes one convolution, `(skip, conv)`; where
    an edge has several we take their mean. The accuracy is that of the search's log, on `search.evaluation_batches` of
    the held-out split; under the budget `paper` on all of it, unless that is changed.

    Raises:
        RecipeError: a space without an edge that has both, or a search that shrinks its space or may end ahead
            of time.
    """
    arms = options.arms(*(("search.evaluation_batches=null",) if options.budget == "paper" else ()))
    for arm in arms:
        if not any(_both(cell) for cell in setup.build_space(arm.any).cells.values()):
            raise RecipeError(
                f"skip-gap needs an edge with a skip connection and a convolution, but the space of {arm.label} has "
                f"none; use another space"
            )
        whole_searches(arm.label, arm.any)
        if shrunk := [stage.name for stage in arm.any.search.stages if stage.shrink is not None]:
            raise RecipeError(
                f"skip-gap follows both operations through the whole search, but stage {shrunk[0]!r} of {arm.label} "
                f"shrinks the space; use a recipe that keeps it"
            )
    begin(bench, len(arms) * len(options.seeds), {arm.label: arm.any for arm in arms}, options.seeds)
    tasks = [
        Task(f"{place(arm, seed)}-search", followed, (recipe,)) for arm in arms for seed, recipe in arm.recipes.items()
    ]
    records = bench.all_trained(tasks)
    rows: Rows = []
    for arm in arms:
        for seed in arm.recipes:
            for epoch, found in enumerate(records[f"{place(arm, seed)}-search"]["epochs"], start=1):
                named = {"recipe": arm.label, "seed": seed, "epoch": epoch}
                rows.append({**named, **found["weights"], "accuracy %": 100 * found["val_accuracy"]})
    paths = [_path(arm.label, seed, rows) for arm in arms for seed in arm.recipes]
    taus = {path.label: rank_correlation(path.x, path.y) for path in paths}
    return Outcome(
        rows,
        lambda path: _drawings.paths(paths, "validation accuracy of the supernet, %", "weight of skip − conv", path),
        len(options.seeds),
        {"kendall_tau": taus},
        [
            f"{path.label}: the gap goes from {path.y[0]:.3f} at {path.x[0]:.1f} % to {path.y[-1]:.3f} at "
            f"{path.x[-1]:.1f} %, Kendall's τ {'undefined' if (tau := taus[path.label]) is None else f'{tau:.2f}'}."
            for path in paths
        ],
    )


def followed(recipe: Recipe, path: Path, display: Display) -> Record:
    """Search; per epoch the mean weights of skips and convolutions, their gap, and the supernet's accuracy."""
    total = sum(stage.epochs for stage in recipe.search.stages)
    record = photographed(recipe, range(1, total + 1), path, display, parts=("stage", "candidates", "arch"))
    epochs = [
        {"weights": weights_of(_arch(recipe, state_of(path, snapshot(n)))), "val_accuracy": epoch["val_accuracy"]}
        for n, epoch in enumerate(record["epochs"], start=1)
    ]
    return {"epochs": epochs}


def weights_of(arch: ArchState) -> dict[str, float]:
    """`skip` and `conv`, the mean weights over the edges that have both, and their difference `gap`."""
    skips, convs = [], []
    for cell_type, weights in arch.expected().items():
        for edge, (skip, conv) in _both(arch.space.cells[cell_type]).items():
            row = weights.ops[edge].detach().cpu().double()
            skips.append(float(row[skip]))
            convs.append(float(row[conv].mean()))
    means = [sum(values) / len(values) for values in (skips, convs)]
    return {"gap": means[0] - means[1], "skip": means[0], "conv": means[1]}


def _both(cell: CellSpec) -> dict[int, tuple[int, list[int]]]:
    """Edges with a skip connection and convolutions → their candidates."""
    found = {}
    for edge, names in enumerate(cell.candidates):
        convs = [k for k, name in enumerate(names) if "conv_" in name]
        if "skip_connect" in names and convs:
            found[edge] = names.index("skip_connect"), convs
    return found


def _arch(recipe: Recipe, state: dict[str, Any]) -> ArchState:
    """The architecture of a kept state."""
    stage, space = recipe.search.stages[state["stage"]], setup.build_space(recipe)
    cells = {t: cell.with_candidates(state["candidates"][t]) for t, cell in space.cells.items()}
    then: SpaceSpec = space.with_cells(cells)
    arch = ArchState(then, stage.relaxation.model_dump(), stage.topology.model_dump())
    arch.load_state_dict(state["arch"])
    return arch


def _path(label: str, seed: int, rows: Rows) -> _drawings.Path2D:
    mine = [row for row in rows if (row["recipe"], row["seed"]) == (label, seed)]
    return _drawings.Path2D(f"{label}, seed {seed}", [row["accuracy %"] for row in mine], [row["gap"] for row in mine])

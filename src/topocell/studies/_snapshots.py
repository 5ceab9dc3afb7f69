"""Snapshots of a supernet at several moments of its search, and selections from each: searched once, selected often."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from topocell.config.recipe import Recipe
from topocell.config.search import Stage
from topocell.data.splits import split_batches
from topocell.errors import RecipeError
from topocell.genotype.genotype import Genotype
from topocell.reporting.epochs import search_epochs
from topocell.reporting.terminal import Display
from topocell.runs.beside import prepare_selection
from topocell.runs.directory import RunDir
from topocell.runs.monitor import RunHook
from topocell.runs.phases import Phase
from topocell.runs.run import Work
from topocell.runs.setup import Setup
from topocell.searching.loop import Search
from topocell.selection.probe import Probe
from topocell.studies._items import Record
from topocell.studies._options import whole_searches
from topocell.supernet import ArchWeights
from topocell.supernet.learner import Learner

#: Number of epochs that are evaluated where a study names none.
SNAPSHOTS = 5

#: Name of the supernet at the end of a search.
FINISHED = "supernet"


class Photographer(RunHook):
    """Keeps the state of a search after some of its epochs as named checkpoints of the run.

    Args:
        directory: of the run.
        stages: of the search.
        epochs: after which to keep the state, counted from 1 through all stages.
        parts: entries of the state that are kept; default all.
    """

    def __init__(
        self, directory: RunDir, stages: Sequence[Stage], epochs: Iterable[int], parts: Sequence[str] | None = None
    ) -> None:
        self._directory, self._parts = directory, parts
        self._before = list(accumulate((stage.epochs for stage in stages), initial=0))
        self._epochs = frozenset(epochs)

    def on_epoch_saved(self, state: Mapping[str, Any]) -> None:
        """Keep what is asked for."""
        epoch = self._before[state["stage"]] + state["epoch"]
        if state["epoch"] > 0 and epoch in self._epochs:  # a stage that begins stands at its epoch 0
            self._directory.save_named(snapshot(epoch), {name: state[name] for name in self._parts or state})


def snapshot(epoch: int) -> str:
    """The name of the checkpoint of that epoch."""
    return f"epoch-{epoch}"


def photographed(
    recipe: Recipe, epochs: Sequence[int], path: Path, display: Display, *, parts: Sequence[str] | None = None
) -> Record:
    """Search, and keep the state after some epochs, all of it or the `parts` that are named; resumes where it stopped.

    Returns `epochs`, the search's own figures per epoch: `genotype` that the recipe's rules would derive then, by
    the largest weights where they decide by perturbation, and `val_accuracy` of the supernet. Raises as `api.search`.
    """
    setup = Setup.of(recipe)
    with RunDir.open(path, recipe.to_yaml(), env=setup.environment()) as directory:
        work = Work(setup, directory, display, [Photographer(directory, recipe.search.stages, epochs, parts)])
        work.search()
        rows = [epoch.row for epoch in search_epochs(directory.metrics())]
    header = {"format": 1, "space": setup.space.name, "skeleton": setup.space.skeleton}
    return {
        "epochs": [
            {
                "genotype": Genotype.from_dict({**header, "cells": row["derived"]}).to_dict(),
                "val_accuracy": row["val_accuracy"],
            }
            for row in rows
        ]
    }


def state_of(searched: Path, moment: str) -> dict[str, Any]:
    """The state that a search has kept under a name. Raises CheckpointError."""
    with RunDir.existing(searched, lock=False) as directory:
        return directory.load_named(moment)


def revived(recipe: Recipe, searched: Path, moment: str = FINISHED) -> Search:
    """The search as it stood at a moment, on the recipe's device: supernet, architecture, optimizers and data.

    Raises:
        CheckpointError: the search has not kept it.
    """
    search = Setup.of(recipe).search()
    search.load_state_dict(state_of(searched, moment))
    return search


def expected(learner: Learner) -> dict[str, ArchWeights]:
    """Return the weights that decisions read: without sampling, per cell type, detached."""
    return {cell_type: weights.detach() for cell_type, weights in learner.arch.expected().items()}


def held_out(search: Search, recipe: Recipe, stream: str) -> Probe:
    """Measures a supernet on the split that moves its architecture, without augmentation.

    On as many batches as `selection.projection.batches` says, the same for equal draws.
    """
    stage = recipe.search.stages[-1]
    split, size = stage.alpha_on, recipe.search.batch(stage)
    batches = split_batches(search.data, split, size, stream, seed=recipe.seed, device=search.device, augmented=False)
    return Probe(search.learner, batches, recipe.selection.projection.batches, recipe.seed)


def selected(recipe: Recipe, searched: Path, moment: str, path: Path, display: Display) -> Record:
    """Derive a cell from a supernet by the recipe's selection; resumes between any two measurements.

    Args:
        recipe: may differ from that of the search in its selection.
        searched: directory of the search, made by `photographed`.
        moment: which of its supernets: `snapshot(epoch)`, or `FINISHED`.
        path: becomes a run directory of its own, which begins with a copy of the supernet.
        display: shows the work.

    Returns `genotype` and the `decisions` and `tuning` that metrics.jsonl has of a projection, in order. Raises as
    `api.select`.
    """
    setup = Setup.of(recipe)
    with RunDir.open(path, recipe.to_yaml(), env=setup.environment()) as directory:
        prepare_selection(directory, lambda: state_of(searched, moment))
        genotype = Work(setup, directory, display).select()
        rows = directory.metrics()
    return {
        "genotype": genotype.to_dict(),
        "decisions": [row for row in rows if row["phase"] == Phase.SELECT],
        "tuning": [row for row in rows if row["phase"] == Phase.TUNE],
    }


def epochs_to_see(label: str, recipe: Recipe, wanted: Sequence[int] | None) -> list[int]:
    """List the epochs of a search that a selection starts from: those wanted, or `SNAPSHOTS` evenly spaced ones.

    Raises:
        RecipeError: an epoch outside the last stage, in which what is selected from is trained; a search that may end
            ahead of time.
    """
    whole_searches(label, recipe)
    stages = recipe.search.stages
    total = sum(stage.epochs for stage in stages)
    first = total - stages[-1].epochs + 1
    if wanted is None:
        n = min(SNAPSHOTS, stages[-1].epochs)
        return [first - 1 + round(i * stages[-1].epochs / n) for i in range(1, n + 1)]
    outside = [epoch for epoch in wanted if not first <= epoch <= total]
    if outside:
        raise RecipeError(
            f"epochs must be within the last stage of the search, but that of {label} has the epochs {first} to "
            f"{total} and epochs names {outside[0]}; use epochs=[..] in that range"
        )
    return sorted(wanted)

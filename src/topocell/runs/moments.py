"""Moments of a search that a cell can be derived from besides its end: every epoch that metrics.jsonl has."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch

from topocell.config.recipe import Recipe
from topocell.config.search import Stage
from topocell.config.selection import Rules
from topocell.errors import RunError, SpaceError
from topocell.reporting.epochs import Epoch, search_epochs
from topocell.runtime.logits import from_record
from topocell.spaces.cell import SpaceSpec
from topocell.supernet.arch_state import ArchState


class Moment(NamedTuple):
    """An epoch of a search: its number through all stages from 1, its stage, and what is recorded of it."""

    number: int
    stage: Stage
    record: Mapping[str, Any]

    def rules(self, rules: Rules) -> Rules:
        """Return the rules for this moment: where its topology keeps all edges, `magnitude` in place of `topology`."""
        dense = self.stage.topology.name == "dense"
        return replace(rules, edges="magnitude") if dense and rules.edges == "topology" else rules

    def architecture(self, space: SpaceSpec) -> ArchState:
        """Return the architecture of that epoch. Raises RunError where its record is damaged."""
        try:
            return architecture(self.record["architecture"], space, self.stage)
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, SpaceError) as fault:
            raise RunError(
                f"the line of search epoch {self.number} in metrics.jsonl must have an architecture of this space, but "
                f"has none ({type(fault).__name__}: {fault}); restore it from a copy"
            ) from None


def architecture(records: Mapping[str, Any], space: SpaceSpec, stage: Stage) -> ArchState:
    """Return the state at temperature 1 that `topocell.searching.diagnostics.architecture` recorded in a stage.

    Raises:
        SpaceError: records of another space. LookupError, TypeError, ValueError, RuntimeError: they are damaged.
    """
    logits = {name: from_record(records[name], cell) for name, cell in space.cells.items()}
    found = space.with_cells({name: own.cell for name, own in logits.items()})
    arch = ArchState(found, stage.relaxation.model_dump(), stage.topology.model_dump(), init=0.0)
    arch.restrict({name: own.live for name, own in logits.items()})
    with torch.no_grad():
        for name, own in logits.items():
            arch.alpha[name].copy_(own.alpha)
            if own.beta.shape != arch.beta[name].shape:
                raise SpaceError(f"{name} has {len(arch.beta[name])} logits β, but the record has {len(own.beta)}")
            arch.beta[name].copy_(own.beta)
    return arch


def moment_of(recipe: Recipe, path: Path, records: Iterable[Mapping[str, Any]]) -> Moment | None:
    """Return the moment that `selection.stage` or `selection.after_epoch` names; None where they name none.

    Args:
        recipe: of the selection.
        path: of the run.
        records: of the finished search.

    Raises:
        RunError: the search has not recorded that moment.
    """
    plan = recipe.selection
    if plan.moment is None:
        return None
    epochs = search_epochs(records)
    found = [e for e in epochs if (e.stage == plan.stage if plan.after_epoch is None else e.number == plan.after_epoch)]
    if not found:
        raise RunError(
            f"a cell is derived from a stage or an epoch that the search has recorded, but {path} has no "
            f"{plan.moment}; it has {_listed(epochs)}"
        )
    number, _, record = found[-1]
    return Moment(number, recipe.search.stages[record["stage_index"]], record)


def _listed(epochs: list[Epoch]) -> str:
    stages = [(name, [e.number for e in of]) for name, of in groupby(epochs, key=lambda e: e.stage)]
    return ", ".join(f"epochs {of[0]} to {of[-1]} of stage {name}" for name, of in stages) or "none"

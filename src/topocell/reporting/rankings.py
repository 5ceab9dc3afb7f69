"""Rankings of the operations of every edge by a selection, and the agreement of two selections."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from topocell import relaxation, spaces
from topocell.errors import RunError
from topocell.io import checkpoint
from topocell.reporting.run_figures import search_epochs
from topocell.reporting.tables import is_number
from topocell.runtime.logits import from_record
from topocell.spaces.cell import CellSpec

#: (cell type, edge as "source→node") → operation → a number that is larger where the operation is worth more.
Ranking = Mapping[tuple[str, str], Mapping[str, float]]

#: What decisions on a supernet were read from, and 1 where more of it speaks for an operation, −1 where less does.
_READS = {"accuracy without": -1.0, "loss without": 1.0, "weight": 1.0}


def ranking(path: Path, recipe: Mapping[str, Any], metrics: Iterable[Mapping[str, Any]]) -> Ranking:
    """Rank the operations of each edge as the selection in a run directory did; empty where it ranked none.

    A projection ranks them by what it read when it decided the edge, on the supernet of that moment; any other rule
    but a random one by the weights of the searched supernet, those of decided edges as they were when it was decided.
    A selection that names an epoch, or a stage, ranks them by the weights of that epoch, or of the last one there.

    Args:
        path: the run directory.
        recipe, metrics: what it holds as recipe.yaml and metrics.jsonl.

    Raises:
        RunError, CheckpointError: recipe or supernet are damaged.
    """
    found: dict[tuple[str, str], dict[str, float]] = {}
    rows = list(metrics)
    for row in rows:
        for name, sign in _READS.items():
            reads, edge = row.get(name), str(row.get("decided"))
            if row.get("phase") == "select" and isinstance(reads, dict) and "→" in edge:
                worth = {op: sign * value for op, value in reads.items() if is_number(value)}
                found[str(row.get("cell")), edge] = worth
    supernet = path / "checkpoints" / "supernet.ckpt"
    if found or not supernet.is_file():
        return found
    try:
        selection = recipe["selection"]
        if selection["operations"] == "random":
            return {}
        if selection.get("after_epoch") is None and selection.get("stage") is None:
            return _weights(recipe, None, _at_the_end(checkpoint.load(supernet)))
        epochs = [e for e in search_epochs(rows) if selection.get("after_epoch") in (None, e.number)]
        last = [e for e in epochs if selection.get("stage") in (None, e.stage)][-1]
        records = last.row["architecture"]
        return _weights(recipe, last.stage, lambda name, cell: from_record(records[name], cell)[:2])
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as fault:
        raise RunError(
            f"recipe.yaml and {supernet} must belong together, but do not: {fault!r}; restore them"
        ) from None


#: From a cell type and its cell to that cell with the candidates of a moment, and its logits α (E, K) then.
_Logits = Callable[[str, CellSpec], tuple[CellSpec, Any]]


def _at_the_end(state: Mapping[str, Any]) -> _Logits:
    """The logits of a saved supernet."""
    return lambda name, cell: (cell.with_candidates(state["candidates"][name]), state["arch"][f"alpha.{name}"])


def _weights(recipe: Mapping[str, Any], stage: str | None, logits: _Logits) -> Ranking:
    """The operation weights in a stage, the last one unless named, among all candidates of the space that it had.

    They are taken at temperature 1, like those that decisions read (see `ArchState.strengths`).
    """
    stages, chosen = recipe["search"]["stages"], dict(recipe["space"])
    of_stage = list(stages.values())[-1] if stage is None else stages[stage]
    found = {}
    for cell_type, whole in spaces.get(chosen.pop("name"), **chosen).cells.items():
        cell, alpha = logits(cell_type, whole)
        listed = alpha.new_tensor(cell.live).bool()
        weights = relaxation.build(cell=cell, **of_stage["relaxation"]).strengths(alpha.double(), listed)
        for (source, node), names, row in zip(cell.edges, cell.candidates, weights.tolist()):
            found[cell_type, f"{source}→{node}"] = dict(zip(names, row))
    return found


def agreement(first: Ranking, second: Ranking) -> float | None:
    """Kendall's τ-b between two rankings of the operations of an edge, averaged over the edges that both rank.

    Operations that only one of them ranks are left out, and edges on which one of them has no order. None without any.
    """
    from scipy.stats import kendalltau

    taus = []
    for place in first.keys() & second.keys():
        shared = sorted(first[place].keys() & second[place].keys())
        if len(shared) < 2:
            continue
        tau = float(kendalltau(*([side[place][op] for op in shared] for side in (first, second))).statistic)
        taus += [] if math.isnan(tau) else [tau]
    return statistics.fmean(sorted(taus)) if taus else None

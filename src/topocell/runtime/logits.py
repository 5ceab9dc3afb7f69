"""The logits of a cell as plain numbers, for metrics.jsonl, and back.

A record has `alpha`, for each edge the logits of its candidates; `beta`; `candidates`, one list of names where all
edges have the same, otherwise one for each edge; and, where something has been removed, `live`, for each edge a text
with 1 for every candidate that is left and 0 for one that is not.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from topocell.errors import SpaceError
from topocell.spaces.cell import CellSpec


class Logits(NamedTuple):
    """What a record says: the cell with its candidates of that moment, α (E, K), β (n_logits,), live (E, K) bool."""

    cell: CellSpec
    alpha: Tensor
    beta: Tensor
    live: Tensor


def to_record(logits: Logits) -> dict[str, Any]:
    """Return the record of a cell. Logits are written as the shortest numbers that give the same float32."""
    sizes = [len(names) for names in logits.cell.candidates]
    alpha = logits.alpha.detach().cpu()  # one transfer, not one for each edge
    one = len(set(logits.cell.candidates)) == 1
    names = [list(of_edge) for of_edge in logits.cell.candidates]
    record: dict[str, Any] = {
        "alpha": [_numbers(row[:size]) for row, size in zip(alpha, sizes)],
        "beta": _numbers(logits.beta),
        "candidates": names[0] if one else names,
    }
    live = ["".join("01"[on] for on in row[:size]) for row, size in zip(logits.live.tolist(), sizes)]
    return record | ({"live": live} if any("0" in row for row in live) else {})


def from_record(record: Mapping[str, Any], cell: CellSpec) -> Logits:
    """Return what a record of a cell says, in float32; logits of missing candidates are zero.

    Raises:
        SpaceError: it has other edges or unknown operations. LookupError, TypeError, ValueError: it is damaged.
    """
    names = record["candidates"]
    cell = cell.with_candidates([names] * cell.n_edges if isinstance(names[0], str) else names)
    sizes = [len(of_edge) for of_edge in cell.candidates]
    texts = record.get("live") or ["1" * size for size in sizes]
    if [len(row) for row in record["alpha"]] != sizes or [len(text) for text in texts] != sizes:
        raise SpaceError(
            f"a record has a logit for each of the {sum(sizes)} candidates of {cell.n_edges} edges, but has "
            f"{[len(row) for row in record['alpha']]} and {texts}"
        )
    alpha, live = torch.zeros(cell.n_edges, cell.n_candidates), torch.zeros(cell.n_edges, cell.n_candidates).bool()
    for e, size in enumerate(sizes):
        alpha[e, :size] = torch.tensor(record["alpha"][e], dtype=torch.float32)
        live[e, :size] = torch.tensor([char == "1" for char in texts[e]])
    return Logits(cell, alpha, torch.tensor(record["beta"], dtype=torch.float32), live)


def _numbers(logits: Tensor) -> list[float]:
    values = logits.detach().cpu().float().numpy()
    short = [float(str(value)) for value in values]
    return [s if np.float32(s) == value else float(value) for s, value in zip(short, values)]

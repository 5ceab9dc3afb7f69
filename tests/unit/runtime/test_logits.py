"""Records of logits: what is written as text comes back with the same bits."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from topocell import spaces
from topocell.errors import SpaceError
from topocell.io import files
from topocell.runtime.logits import Logits, from_record, to_record

NORMAL = spaces.get("darts", nodes=2).cells["normal"]
MIXED = NORMAL.with_candidates([["none", "skip_connect"], ["sep_conv_3x3"], ["none"], ["max_pool_3x3"], ["none"]])
WIDE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.data())
def test_all_finite_logits_come_back_as_they_were(data: st.DataObject) -> None:
    cell = data.draw(st.sampled_from([NORMAL, MIXED]))
    alpha, live = torch.zeros(cell.n_edges, cell.n_candidates), torch.zeros(cell.n_edges, cell.n_candidates).bool()
    for e, names in enumerate(cell.candidates):
        size = len(names)
        alpha[e, :size] = torch.tensor(data.draw(st.lists(WIDE, min_size=size, max_size=size)))
        live[e, :size] = torch.tensor(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    beta = torch.tensor(data.draw(st.lists(WIDE, max_size=6)))
    record = json.loads(files.to_json(to_record(Logits(cell, alpha, beta, live))))
    found = from_record(record, NORMAL)
    assert found.cell == cell
    assert torch.equal(found.live, live) and ("live" in record) == (live.sum() < torch.tensor(cell.live).sum())
    for mine, theirs in ((found.alpha, alpha), (found.beta, beta)):
        assert mine.dtype == torch.float32 and mine.numpy().tobytes() == theirs.numpy().tobytes()


def test_a_record_is_short() -> None:
    record = to_record(Logits(NORMAL, torch.full((5, 8), 0.1), torch.zeros(0), torch.ones(5, 8).bool()))
    assert record["alpha"] == [[0.1] * 8] * 5 and record["candidates"] == list(NORMAL.candidates[0])
    assert "live" not in record


@pytest.mark.parametrize(
    "change",
    [
        {"alpha": [[0.0]] * 5},
        {"alpha": [[0.0] * 8] * 4},
        {"live": ["1" * 8] * 4 + ["1"]},
        {"candidates": ["nonsense"]},
        {"candidates": [["none"]] * 3},
    ],
)
def test_a_record_of_another_cell_is_refused(change: dict[str, object]) -> None:
    record = to_record(Logits(NORMAL, torch.zeros(5, 8), torch.zeros(0), torch.ones(5, 8).bool()))
    with pytest.raises(SpaceError):
        from_record({**record, **change}, NORMAL)

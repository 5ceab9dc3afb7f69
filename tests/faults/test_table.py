"""The table of faults: `make faults` fails when something was lost, or when too little was injected to say so."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from tests.faults import table
from tests.faults.pipelines import PIPELINES
from tests.faults.record import BAD_INPUT, GUIDED, KILLS, Tally
from tests.faults.test_kills import PLACES

ENOUGH = [
    *(Tally(KILLS + name, 50, 50) for name in PIPELINES),
    *(Tally(f"{BAD_INPUT}recipes", 2500, 2500) for _ in range(2)),
    Tally(GUIDED, 9, 9),
]


def code(rows: list[Tally], folder: Path) -> int:
    (folder / "record").write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    return table.main([str(folder / "record")])


@pytest.mark.parametrize("form", ["full", "short"])
def test_enough_of_all(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("TOPOCELL_FAULTS", form)
    assert code(ENOUGH, tmp_path) == 0
    out, error = capsys.readouterr()
    assert error == "" and f"| {BAD_INPUT}recipes | 5,000 | 5,000 | 0 |" in out
    for fault in (Tally("disk", 3, 2), Tally("disk", 3, 3, 1)):
        assert code([*ENOUGH, fault], tmp_path) == 1
    assert code([], tmp_path) == 1


@pytest.mark.parametrize(
    ("fewer", "words"),
    [
        ([*ENOUGH[:-2], Tally(f"{BAD_INPUT}recipes", 2499, 2499), ENOUGH[-1]], "4,999 malformed inputs of at least"),
        (ENOUGH[1:], f"0 kills of at least 50: {next(iter(PIPELINES))}"),
        ([Tally(ENOUGH[0].name, 49, 49), *ENOUGH[1:]], f"49 kills of at least 50: {next(iter(PIPELINES))}"),
        (ENOUGH[:-1], f"none: {GUIDED}"),
        ([*ENOUGH[:-1], Tally(GUIDED)], f"none: {GUIDED}"),
    ],
    ids=["inputs", "no kills", "kills", "not guided", "nothing guided"],
)
def test_too_few_of_one_kind(
    fewer: list[Tally], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(table, "can_be_guided", lambda: True)
    monkeypatch.delenv("TOPOCELL_FAULTS", raising=False)
    assert code(fewer, tmp_path) == 0
    monkeypatch.setenv("TOPOCELL_FAULTS", "full")
    capsys.readouterr()
    assert code(fewer, tmp_path) == 1
    assert capsys.readouterr().err.startswith(f"too few faults: {words}")
    monkeypatch.setattr(table, "can_be_guided", lambda: False)
    assert code(fewer, tmp_path) == int(GUIDED not in words)


def test_kills_have_places_to_meet_in_every_pipeline() -> None:
    assert PLACES.keys() == PIPELINES.keys() and all(PLACES.values())

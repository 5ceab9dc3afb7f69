"""The same recipe, seed and machine give the same run: in another process, under another hash seed, resumed or not."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faults.pipelines import PIPELINES, Workshop, run
from tests.faults.record import Tally
from tests.helpers.forked import Forked
from tests.helpers.identical import differences


@pytest.mark.parametrize("hash_seed", ["0", "4711"])
def test_other_processes_and_hash_seeds(
    hash_seed: str, full: bool, workshop: Workshop, tally: Callable[[str], Tally], tmp_path: Path
) -> None:
    if hash_seed != "4711" and not full:
        pytest.skip("only in the full form: make faults")
    faults = tally("another process with another PYTHONHASHSEED")
    server = Forked(tmp_path, {"PYTHONHASHSEED": hash_seed, "TZ": "Asia/Tokyo", "LC_ALL": "C"})
    try:
        for name in PIPELINES if full else ["two-stage DOTS"]:
            path = tmp_path / name.replace(" ", "-") / "run"
            path.parent.mkdir()
            faults.injected += 1
            assert server(run(name, path)) == (0, ""), server.errors.read_text()
            changed = differences(path, workshop.unbroken(name))
            faults.survived += not changed
            assert changed == []
    finally:
        server.close()


@pytest.mark.full
def test_two_threads_repeat_two_threads_and_a_change_is_said(
    workshop: Workshop, tally: Callable[[str], Tally], tmp_path: Path
) -> None:
    """Sums over threads are rounded in another order: what holds is that the same number of threads repeats itself."""
    name, faults = "two-stage DOTS", tally("another number of threads")
    paths = [tmp_path / word / "run" for word in ("first", "second", "mixed")]
    for path in paths:
        path.parent.mkdir()
    for path in paths[:2]:
        assert workshop.forked(run(name, path), threads=2) == (0, ""), workshop.said
    faults.injected += 2
    assert differences(paths[1], paths[0]) == []
    faults.survived += 1
    assert workshop.forked(run(name, paths[2]), "0", event="step", count=3)[0] == -9
    assert workshop.forked(run(name, paths[2]), threads=2)[0] == 0, workshop.said
    assert "numbers may differ a little: threads was 1, is 2" in (paths[2] / "log.txt").read_text()
    assert json.loads((paths[2] / "results.json").read_text())["n"] == 2
    faults.survived += 1

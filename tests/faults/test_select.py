"""Another cell for a finished run: stopped anywhere on the way, nothing of the cell before is left beside it."""

import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faults.pipelines import Workshop, copied, one_line
from tests.faults.record import Tally
from tests.helpers.identical import differences

from topocell.data.preprocessing import FILE
from topocell.runs.directory import RunDir

NAME = "two-stage DOTS"
RULES = ["--ops", "random", "--edges", "all", "--replace", "--quiet"]
#: What the system does at the calls of a selection, one after the other: name, code of the error (None: a kill), and
#: the step from one call to the next in the short form.
FAULTS = {
    "killed": ("replace", None, 5),
    "killed in between": ("unlink", None, 6),
    "full disk": ("write", "ENOSPC", 9),
}


@pytest.fixture(scope="module")
def wanted(workshop: Workshop) -> Path:
    """The finished run with the other cell, undisturbed."""
    path = copied(workshop.unbroken(NAME), workshop.folder / "selected")
    assert workshop.forked(["select", str(path), *RULES])[0] == 0, workshop.said
    assert workshop.forked(["retrain", str(path), "--quiet"])[0] == 0, workshop.said
    assert "genotype.json" in differences(path, workshop.unbroken(NAME))
    return path


@pytest.mark.parametrize("kind", FAULTS)
def test_another_cell_is_all_there_or_not_at_all(
    kind: str, full: bool, workshop: Workshop, tally: Callable[[str], Tally], wanted: Path, tmp_path: Path
) -> None:
    name, error, stride = FAULTS[kind]
    faults, at = tally(f"selection of another cell, {kind}"), 1
    while True:
        path = copied(workshop.unbroken(NAME), tmp_path / str(at))
        fault = ["deadly call", {"name": name, "at": at}]
        if error is not None:
            fault = ["failing call", {"name": name, "at": at, "code": error}]
        code, _ = workshop.forked(["select", str(path), *RULES], fault=fault)
        if code == 0:
            break
        faults.injected += 1
        assert code == (-signal.SIGKILL if error is None else 2), (at, workshop.said)
        assert error is None or one_line(workshop.said), (at, workshop.said)
        assert workshop.forked(["select", str(path), *RULES])[0] == 0, (at, workshop.said)
        with RunDir.existing(path, lock=False) as left:
            assert {record["phase"] for record in left.metrics()} == {"search"}
            assert not any(map(left.has, ("results.json", "weights.safetensors", "report.html", FILE))), at
        assert workshop.forked(["retrain", str(path), "--quiet"])[0] == 0, (at, workshop.said)
        changed = differences(path, wanted)
        faults.survived += not changed
        faults.lost += bool(changed)
        assert changed == [], at
        shutil.rmtree(path.parent)
        at += 1 if full else stride
    assert faults.injected >= (3 if full else 2)


@pytest.mark.parametrize("stream", ["projection weights", "retrain"])
def test_what_a_step_that_is_not_finite_says_works(workshop: Workshop, stream: str, tmp_path: Path) -> None:
    """For the commands that take no overrides."""
    path = out = copied(workshop.unbroken(NAME), tmp_path)
    argv = ["retrain", str(path)]
    if stream == "retrain":
        with RunDir.existing(path) as directory:
            directory.save_checkpoint({"phase": "retrain", "state": None, "seconds": {}})
    else:
        out, changes = path / "selections/pt", ["projection.epochs=1", "projection.batches=1"]
        argv = ["select", str(path), "--edges", "perturbation", "--as", "pt", *changes]
    fault = ["broken image", {"stream": stream, "epoch": 0, "step": 1}]
    assert workshop.forked([*argv, "--quiet"], fault=fault)[0] == 2
    assert one_line(workshop.said)
    advice = re.search("topocell (run .* --out RUN)", workshop.said)
    assert advice, workshop.said
    words = advice[1].replace("RUN", str(out)).split()
    assert workshop.forked([*words, "--quiet"], fault=fault)[0] == 0, workshop.said
    assert "on_nan=skip: the batch is skipped" in (out / "log.txt").read_text()
    assert (out / "results.json").exists()

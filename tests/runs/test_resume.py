"""A run that is killed and started again, as often as it takes, ends in the same bits as one that is left alone.

Kills are SIGKILL at chosen moments inside real processes (see forked.py), of which a run suffers one after another
until it is done; one test sends signals from outside to `python -m topocell`.
"""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.forked import Forked
from tests.helpers.identical import assert_same_run

from topocell.cli import main
from topocell.io import checkpoint

SMALL = ["data.images=64", "data.test_images=20", "space.nodes=2", "--budget", "smoke", "--quiet"]

#: Joint and single level over three stages that shrink and rebuild; alternate mixed updates; second order; decisions
#: in the search, and after it.
RUNS = {
    "quickstart": [
        "search.stages.topology-warmup.epochs=3",
        "search.stages.topology.epochs=2",
        "search.cost.measure=latency",
        "search.cost.weight=0.5",
        "retrain.seeds=[3,4]",
    ],
    "toponas-arbitrary-mile": ["search.stages.search.epochs=2", "search.stages.search.warmup=0"],
    "darts-v2": ["search.stages.search.epochs=2", "log=csv"],
    "sgas-2": ["search.stages.search.epochs=3"],
    "darts-pt": [
        "search.stages.search.epochs=1",
        "space.candidates=[skip_connect,sep_conv_3x3]",
        "selection.projection.epochs=2",
    ],
}
#: What is being done at some moment of each run; a kill must have met all of it.
PLACES = {
    "quickstart": {
        "search 1/3 operations",
        "search 2/3 topology-warmup",
        "search 3/3 topology",
        "retrain, seed 1/2",
        "retrain, seed 2/2",
    },
    "toponas-arbitrary-mile": {"search 1/1 search", "retrain, seed 1/1"},
    "darts-v2": {"search 1/1 search", "retrain, seed 1/1"},
    "sgas-2": {"search 1/1 search", "retrain, seed 1/1"},
    "darts-pt": {"search 1/1 search", "select, deciding", "select, tuning", "retrain, seed 1/1"},
}


def command(name: str, out: Path) -> list[str]:
    return ["run", name, *SMALL, *RUNS[name], "--out", str(out)]


class Unbroken(dict[str, Path]):
    """Runs that were left alone, made when they are first asked for."""

    def __init__(self, forked: Forked, folder: Path) -> None:
        self.forked, self.folder = forked, folder

    def __missing__(self, name: str) -> Path:
        path = self.folder / name / "run"
        path.parent.mkdir()
        assert self.forked(command(name, path)) == (0, ""), self.forked.errors.read_text()
        self[name] = path
        return path


@pytest.fixture(scope="module")
def unbroken(forked: Forked, tmp_path_factory: Any) -> Mapping[str, Path]:
    return Unbroken(forked, tmp_path_factory.mktemp("unbroken"))


def until_done(
    forked: Forked, argv: list[str], moments: Iterator[tuple[str, int]], seconds: str
) -> list[tuple[str, str]]:
    """Kill the run at one moment after another until it ends by itself; returns the events and places of the kills."""
    kills = []
    for event, count in itertools.islice(moments, 60):
        code, where = forked(argv, seconds, event=event, count=count)
        if code == 0:
            return kills
        assert code == -signal.SIGKILL, forked.errors.read_text()
        kills.append((event, where))
    raise AssertionError(f"no end after {len(kills)} kills, the last at {kills[-3:]}")


def test_the_runs_have_what_can_go_wrong(unbroken: Mapping[str, Path]) -> None:
    records = [json.loads(line) for line in (unbroken["quickstart"] / "metrics.jsonl").read_text().splitlines()]
    searched = ["operations"] * 2 + ["topology-warmup"] * 3 + ["topology"] * 2
    assert [r.get("stage") or r["seed"] for r in records] == [*searched, 3, 4]
    for name in ("toponas-arbitrary-mile", "darts-v2"):
        state = checkpoint.load(unbroken[name] / "checkpoints/supernet.ckpt")
        assert state["alpha"]["state"] and ("beta" in state) == (name != "darts-v2")


@pytest.mark.parametrize("name", RUNS)
def test_killed_after_every_few_steps_with_a_state_after_each(
    forked: Forked, unbroken: Mapping[str, Path], tmp_path: Path, name: str
) -> None:
    """With a state saved after every step, kills fall before, inside and after the saving."""
    events = [("step", 2), ("rename", 2), ("metrics", 1), ("renamed", 1), ("step", 3), ("rename", 1)]
    if name == "darts-pt":  # whose selection alone saves dozens of states
        events += [("renamed", 5), ("rename", 7), ("step", 4), ("renamed", 8)]
    moments = itertools.cycle(events)
    kills = until_done(forked, command(name, tmp_path / "run"), moments, "0")
    assert len(kills) >= 8
    assert {where for _, where in kills} >= PLACES[name]
    assert {event for event, _ in kills} == {"step", "rename", "metrics", "renamed"}
    assert_same_run(tmp_path / "run", unbroken[name])


@pytest.mark.parametrize("name", RUNS)
def test_killed_between_the_states_of_two_epochs(
    forked: Forked, unbroken: Mapping[str, Path], tmp_path: Path, name: str
) -> None:
    """With the usual half minute between states, what was done since the last epoch is lost and done again."""
    moments = itertools.cycle([("step", 3), ("metrics", 2), ("step", 5)])  # an epoch has two or four steps
    kills = until_done(forked, command(name, tmp_path / "run"), moments, "30")
    assert len(kills) >= 2
    assert_same_run(tmp_path / "run", unbroken[name])


@pytest.mark.parametrize("name", ["quickstart"])
def test_killed_around_every_file_that_is_put_in_place(
    forked: Forked, unbroken: Mapping[str, Path], tmp_path: Path, name: str
) -> None:
    """The files between two steps of a run: supernet, genotype, weights, results, and the states around them.

    A retraining ends with six of them, so that a run that is always killed before the seventh has no end.
    """
    early = [("rename", 1), ("renamed", 2), ("rename", 3), ("renamed", 4)]
    moments = itertools.cycle([*early, ("rename", 5), ("renamed", 6), ("rename", 7), ("renamed", 7), ("rename", 2)])
    kills = until_done(forked, command(name, tmp_path / "run"), moments, "30")
    assert len(kills) >= 8
    assert_same_run(tmp_path / "run", unbroken[name])


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_moments(forked: Forked, unbroken: Mapping[str, Path], tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    moments = ((draw.choice(["step", "metrics", "rename", "renamed"]), draw.randint(1, 6)) for _ in itertools.count())
    name = draw.choice(sorted(RUNS))
    until_done(forked, command(name, tmp_path / "run"), moments, draw.choice(["0", "0.1"]))
    assert_same_run(tmp_path / "run", unbroken[name])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("count", [2, 13])
def test_a_request_to_stop_is_saved_and_said(
    forked: Forked, unbroken: Mapping[str, Path], tmp_path: Path, number: signal.Signals, code: int, count: int
) -> None:
    """In the search and in retraining: the state of that very step is saved, and the rest follows from it."""
    argv = command("quickstart", tmp_path / "run")
    stopped, where = forked(argv, event="step", count=count, signal=number)
    assert (stopped, where) == (code, "search 1/3 operations" if count == 2 else "search 3/3 topology")
    words = f"stopped by {number.name}; everything is saved, the same command resumes from here\n"
    assert forked.errors.read_text() == words
    newest = max((tmp_path / "run/checkpoints").glob("[0-9]*.ckpt"))
    state = checkpoint.load(newest)["state"]["state"]
    steps = {(0, 0): 2, (0, 1): 2, (1, 0): 2, (1, 1): 2, (1, 2): 2, (2, 0): 4, (2, 1): 4}  # (stage, epoch): steps
    done = sum(n for epoch, n in steps.items() if epoch < (state["stage"], state["epoch"]))
    assert done + state["step"] == count
    assert forked(argv) == (0, "")
    assert_same_run(tmp_path / "run", unbroken["quickstart"])


def test_asking_twice_stops_at_once(forked: Forked, unbroken: Mapping[str, Path], tmp_path: Path) -> None:
    argv = command("quickstart", tmp_path / "run")
    code, where = forked(argv, event="step", count=20, signal=signal.SIGINT, times=2)
    assert (code, where) == (130, "retrain, seed 1/2")
    assert forked.errors.read_text().strip() == "stopped; the same command resumes from the last checkpoint"
    assert forked(argv) == (0, "")
    assert_same_run(tmp_path / "run", unbroken["quickstart"])


def test_signals_from_outside(
    unbroken: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """`python -m topocell` under SIGKILL and SIGTERM, sent while epochs go by; the command here finishes the run."""
    argv = command("quickstart", tmp_path / "run")
    metrics = tmp_path / "run/metrics.jsonl"
    monkeypatch.setenv("TOPOCELL_CHECKPOINT_SECONDS", "0")

    def epochs() -> int:
        return metrics.read_text().count("\n") if metrics.exists() else 0

    for number, code, words in (
        (signal.SIGKILL, -9, ""),
        (signal.SIGTERM, 143, "stopped by SIGTERM; everything is saved, the same command resumes from here\n"),
    ):
        before = epochs()
        process = subprocess.Popen(
            [sys.executable, "-m", "topocell", *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        while epochs() <= before and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
        assert (process.returncode, errors) == (code, words)
    assert main(argv) == 0
    said = capfd.readouterr()
    assert said.out.startswith("test accuracy, last epoch: ") and said.out.count("\n") == 1 and said.err == ""
    assert_same_run(tmp_path / "run", unbroken["quickstart"])
    assert (tmp_path / "run/report.html").exists()

"""SIGKILL from outside at random moments: what is left at the end is what an undisturbed run leaves."""

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faults import record
from tests.faults.pipelines import PIPELINES, Workshop, copied, run, start
from tests.faults.record import Tally
from tests.helpers.identical import differences

#: Kills per pipeline; a pipeline that ends before is begun again.
KILLS = {True: 50, False: 3}
#: What is being done at some moment of each pipeline; in the full form kills must have met all of it, in the short one
#: some of it.
PLACES = {
    "bilevel search": {"search 1/1 search", "retrain, seed 1/1"},
    "two-stage DOTS": {
        "search 1/3 operations",
        "search 2/3 topology-warmup",
        "search 3/3 topology",
        "retrain, seed 1/2",
        "retrain, seed 2/2",
    },
    "SGAS": {"search 1/1 search", "retrain, seed 1/1"},
    "selection by perturbation": {"search 1/1 search", "select, deciding", "select, tuning", "retrain, seed 1/1"},
    "retraining": {"retrain, seed 1/3", "retrain, seed 2/3", "retrain, seed 3/3"},
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "retraining" else pytest.mark.full) for name in PIPELINES]
)
def test_random_kills(name: str, full: bool, workshop: Workshop, tally: Callable[[str], Tally], tmp_path: Path) -> None:
    wanted, draw = workshop.unbroken(name), random.Random(name)
    kills, places, met = tally(record.KILLS + name), PLACES[name], set()
    needed = len(places) if full else 1
    for number in range(100):
        if kills.injected >= KILLS[full] and len(met) >= needed:
            break
        path, before = tmp_path / str(number) / "run", kills.injected
        path.parent.mkdir()
        argv = run(name, path)
        if name == "retraining":
            argv = ["retrain", str(at_retraining(workshop, path)), "--quiet"]
        span = 0.3 * workshop.seconds[name] + 0.1
        for attempt in range(1000):
            delay = draw.uniform(0, span * (1 + attempt / 100))  # on a machine that has become slower, too
            code, where = workshop.forked(argv, draw.choice(["0", "0", "0.1"]), after=delay)
            if code == 0:
                break
            assert code == -signal.SIGKILL, workshop.said
            kills.injected += 1
            met |= places & {where}
        changed = differences(path, wanted)
        kills.survived += 0 if changed else kills.injected - before
        kills.lost += bool(changed)
        assert changed == []
    assert kills.survived == kills.injected >= KILLS[full]
    assert len(met) >= needed, f"no kill has met {', '.join(places - met)}"


def at_retraining(workshop: Workshop, path: Path) -> Path:
    """A run that has its cell and nothing of the retraining."""
    prepared = workshop.folder / "at-retraining" / "run"
    if not prepared.exists():
        prepared.parent.mkdir()
        argv = run("retraining", prepared)
        argv = ["search", *argv[1:]]
        assert workshop.forked(argv)[0] == 0, workshop.said
        assert workshop.forked(["select", str(prepared), "--quiet"])[0] == 0, workshop.said
    return copied(prepared, path.parent)


@pytest.mark.full
def test_kills_of_the_real_command(workshop: Workshop, tally: Callable[[str], Tally], tmp_path: Path) -> None:
    """The command as a user gives it, with its report, killed a random moment after each sign of life."""
    name, path, draw = "two-stage DOTS", tmp_path / "run", random.Random(1)
    kills = tally("SIGKILL of the command-line process")
    code = -signal.SIGKILL
    while code == -signal.SIGKILL:
        process, before = start(run(name, path)), newest(path)
        while process.poll() is None and (newest(path) <= before or kills.injected == 10):
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.3))
        process.kill()
        _, errors = process.communicate(timeout=300)
        code = process.returncode
        kills.injected += code == -signal.SIGKILL
        assert errors == ""
    changed = differences(path, workshop.unbroken(name))
    kills.survived, kills.lost = (0, 1) if changed else (kills.injected, 0)
    assert code == 0 and changed == [] and kills.injected >= 4
    assert (path / "report.html").stat().st_size > 1000


def newest(path: Path) -> int:
    """The number of the newest checkpoint."""
    return max((int(found.stem) for found in path.glob("checkpoints/[0-9]*.ckpt")), default=0)

"""SIGTERM and SIGINT, as a batch system and a user send them: one line, the right exit code, and nothing lost."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faults.pipelines import Workshop, run, start
from tests.faults.record import Tally
from tests.faults.test_kills import newest
from tests.helpers.identical import differences

from topocell.runs.directory import RunDir

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}
#: What a command may say when it was asked to stop.
SAVED = "stopped by {}; everything is saved, the same command resumes from here\n"
ENDED = "stopped by {}; the same command resumes from the last checkpoint\n"


@pytest.mark.parametrize("number", CODES)
def test_at_random_moments(
    number: signal.Signals, full: bool, workshop: Workshop, tally: Callable[[str], Tally], tmp_path: Path
) -> None:
    """From the reading of the recipe to the writing of the results; during work the very step is saved."""
    name, draw = "two-stage DOTS", random.Random(number)
    wanted, signals = workshop.unbroken(name), tally(f"{number.name} at a random moment")
    saved = 0
    for attempt in range(100):
        if signals.injected >= (30 if full else 3) and saved:
            break
        path = tmp_path / str(attempt) / "run"
        path.parent.mkdir()
        code = None
        while code != 0:
            delay = draw.uniform(0.02, 0.6 * workshop.seconds[name])
            code, where = workshop.forked(run(name, path), after=delay, signal=number)
            if code != 0:
                assert code == CODES[number], (code, where, workshop.said)
                assert workshop.said in (SAVED.format(number.name), ENDED.format(number.name)), workshop.said
                saved += workshop.said == SAVED.format(number.name)
                signals.injected += 1
                signals.survived += 1
        changed = differences(path, wanted)
        signals.lost += bool(changed)
        assert changed == []
    assert signals.injected >= (30 if full else 2) and saved


@pytest.mark.full
@pytest.mark.parametrize("number", CODES)
def test_to_the_whole_process_group_of_the_real_command(
    number: signal.Signals, workshop: Workshop, tally: Callable[[str], Tally], tmp_path: Path
) -> None:
    """As Slurm before it preempts, and a terminal at Ctrl-C; a second process then goes on to the end."""
    name, path = "two-stage DOTS", tmp_path / "run"
    signals = tally(f"{number.name} to the process group")
    for _ in range(2):
        process, before = start(run(name, path), start_new_session=True), newest(path)
        while newest(path) <= before and process.poll() is None:
            time.sleep(0.005)
        os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=120)
        signals.injected += 1
        assert (process.returncode, errors) == (CODES[number], SAVED.format(number.name))
        signals.survived += 1
    assert workshop.forked(run(name, path)) == (0, ""), workshop.said
    changed = differences(path, workshop.unbroken(name))
    signals.lost += bool(changed)
    assert changed == []


def test_the_time_before_a_kill_counts(workshop: Workshop, tmp_path: Path) -> None:
    """Killed in the search and in retraining, with a day more in the states than there was."""
    name, path, day = "two-stage DOTS", tmp_path / "run", 86400.0
    for event, phase in (({"count": 3}, "search"), ({"count": 10}, "retrain")):
        code, where = workshop.forked(run(name, path), "0", event="step", **event)
        assert code == -signal.SIGKILL and where.startswith(phase), workshop.said
        with RunDir.existing(path) as directory:
            saved = directory.latest()
            assert saved and saved["phase"] == phase and 0 < saved["seconds"][phase] < day
            saved["seconds"][phase] += day
            directory.save_checkpoint(saved)
    assert workshop.forked(run(name, path)) == (0, ""), workshop.said
    found = json.loads((path / "timings.json").read_text())
    assert found.keys() == {"search", "retrain"} and all(day < seconds < day + 600 for seconds in found.values())
    assert differences(path, workshop.unbroken(name)) == []

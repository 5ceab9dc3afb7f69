"""The monitor of a run: signals that come when no step follows, and the seconds of each phase."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from topocell.reporting.terminal import Quiet
from topocell.runs.directory import RunDir
from topocell.runs.monitor import RunMonitor
from topocell.runs.phases import Phase
from topocell.runtime.hooks import Interrupted


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[RunMonitor]:
    with RunDir.open(tmp_path / "run", "name: any\n", env={}) as directory:
        yield RunMonitor(directory, Quiet())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_the_last_checkpoint_is_not_lost(monitor: RunMonitor, number: signal.Signals) -> None:
    with pytest.raises(Interrupted) as caught, monitor.listening():
        monitor.checkpoint(dict, due=True)
        os.kill(os.getpid(), number)
    assert caught.value.signal_number == number


def test_a_fault_is_told_also_after_a_signal(monitor: RunMonitor) -> None:
    with pytest.raises(ZeroDivisionError), monitor.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        raise ZeroDivisionError


def test_seconds_are_those_of_the_phase_and_of_the_checkpoint_that_work_goes_on_from(
    monitor: RunMonitor, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monitor.seconds = {"search": 50.0}
    now[0] = 130.0  # between phases nothing counts
    monitor.begin(Phase.SEARCH)
    now[0] = 132.0
    monitor.checkpoint(dict, due=True)
    now[0] = 137.0  # lost
    saved = monitor.directory.latest()
    assert saved == {"phase": "search", "state": {}, "seconds": {"search": 52.0}}
    monitor.seconds = dict(saved["seconds"])
    monitor.begin(Phase.RETRAIN)
    now[0] = 138.5
    monitor.count()
    now[0] = 90.0  # a clock that goes backwards
    monitor.count()
    assert monitor.seconds == {"search": 52.0, "retrain": 1.5}

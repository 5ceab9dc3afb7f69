"""Items made by several processes: all of them once, and what happens when something or somebody ends."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from topocell.cli import main
from topocell.errors import DataError, RunError
from topocell.runtime.hooks import Interrupted
from topocell.runtime.workers import Task, make_all

VARIABLE = "TOPOCELL_OF_A_TEST"

# Workers import this module by name: what they make is a function of it.


def square(n: int) -> dict[str, int]:
    return {"square": n * n, "process": os.getpid(), "group": os.getpgrp()}


def surroundings() -> dict[str, Any]:
    """The process that a worker was forked from, and a variable of its environment."""
    return {"parent": os.getppid(), "variable": os.environ.get(VARIABLE)}


def refuse(n: int) -> dict[str, int]:
    raise DataError(f"no {n}")


def break_down(n: int) -> dict[str, int]:
    raise ValueError(f"broken {n}")


def vanish(n: int) -> dict[str, int]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def stay(place: str) -> dict[str, int]:
    """Say who works, and never end."""
    Path(place).write_text(str(os.getpid()))
    time.sleep(600)
    return {}


def stop_parent(place: str) -> dict[str, int]:
    while not Path(place).exists():
        time.sleep(0.05)
    parent = multiprocessing.parent_process()
    assert parent and parent.pid
    os.kill(parent.pid, signal.SIGTERM)
    time.sleep(600)
    return {}


def gone(process: int) -> bool:
    """Within seconds the process has ended."""
    for _ in range(200):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def collect(tasks: list[Task], workers: int = 2) -> tuple[list[str], dict[str, Mapping[str, Any]]]:
    begun: list[str] = []
    done: dict[str, Mapping[str, Any]] = {}

    def keep(key: str, record: Mapping[str, Any], seconds: float) -> None:
        assert seconds >= 0 and key not in done
        done[key] = record

    make_all(tasks, workers, begun.append, keep)
    return begun, done


def test_every_task_is_made_once() -> None:
    before = signal.getsignal(signal.SIGTERM)
    begun, done = collect([Task(f"t{n}", square, (n,)) for n in range(7)])
    assert begun == [f"t{n}" for n in range(7)]
    assert {key: record["square"] for key, record in done.items()} == {f"t{n}": n * n for n in range(7)}
    processes = {record["process"] for record in done.values()}
    assert len(processes) <= 2 and os.getpid() not in processes
    assert all(record["group"] == record["process"] for record in done.values())  # Ctrl-C does not reach them
    assert signal.getsignal(signal.SIGTERM) is before
    assert all(map(gone, processes))


def test_nothing_to_make_starts_nobody() -> None:
    assert collect([]) == ([], {})


@pytest.mark.skipif(sys.platform != "linux", reason="workers are forked on Linux only")
def test_workers_are_forks_of_one_process_that_no_signal_to_the_group_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says when workers have ended, so it must be there while they save. The environment is that of this moment."""
    found = []
    for value in ("one", "two"):
        monkeypatch.setenv(VARIABLE, value)
        found.append(collect([Task("a", surroundings)])[1]["a"])
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(found[-1]["parent"], number)
    assert [record["variable"] for record in found] == ["one", "two"]
    assert found[0]["parent"] == found[1]["parent"] != os.getpid()


def test_the_fault_of_a_task_is_the_fault_of_all() -> None:
    with pytest.raises(DataError, match=r"^no 1$"):
        collect([Task("a", refuse, (1,))], 1)
    with pytest.raises(RuntimeError, match="broken 3"):
        collect([Task("a", break_down, (3,))], 1)


def test_a_worker_that_was_killed_is_named() -> None:
    with pytest.raises(RunError, match=r"the one at b was ended by SIGKILL; the same command resumes"):
        collect([Task("b", vanish, (2,))])


def test_a_signal_stops_the_workers(tmp_path: Path) -> None:
    place = tmp_path / "stays"
    with pytest.raises(Interrupted) as stop:
        collect([Task("a", stay, (str(place),)), Task("b", stop_parent, (str(place),))])
    assert stop.value.signal_number == signal.SIGTERM
    assert gone(int(place.read_text()))


#: Of each network of the study.
EPOCHS = 8

STUDY = ["study", "wirings", "--budget", "smoke", "nodes=2", "again=0"]
STUDY += ["data.images=24", "data.test_images=10", f"shallow.epochs={EPOCHS}", "--workers", "2", "--quiet"]


def epochs(out: Path) -> dict[str, int]:
    return {p.parent.name: len(p.read_text().splitlines()) for p in sorted(out.glob("runs/*/metrics.jsonl"))}


def started(out: Path, least: int) -> subprocess.Popen[str]:
    """The study in progress, once its networks have trained for so many epochs together."""
    command = [sys.executable, "-m", "topocell", *STUDY, "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for _ in range(6000):
        if sum(epochs(out).values()) >= least:
            return process
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.kill()
    raise AssertionError("the study did not get there in time")


def test_a_study_goes_on_after_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Networks that were under way go on where they were; those that were finished are not trained again."""
    out = tmp_path / "study"
    process = started(out, least=EPOCHS + 1)
    process.kill()
    process.communicate(timeout=300)
    before = epochs(out)
    assert 1 <= len(before) <= 3 and min(before.values()) < EPOCHS
    time.sleep(0.5)
    assert epochs(out) == before  # nobody works on
    assert main([*STUDY, "--out", str(out)]) == 0, capsys.readouterr().err
    assert epochs(out) == dict.fromkeys(epochs(out), EPOCHS) and len(epochs(out)) == 3
    items = [json.loads(line)["item"] for line in (out / "items.jsonl").read_text().splitlines()]
    assert sorted(items) == ["01-01", "01-02", "01-12"]

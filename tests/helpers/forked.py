"""Runs topocell commands in forked children that are signalled at a chosen or a random moment.

`Forked` starts this file as a program, which reads a job from each line of its input and answers with one line, both
JSON:

    job     {"argv": [...], "errors": FILE, "seconds": "0", "signal": 9, "times": 1, "event": "step", "count": 3}
            {..., "after": 0.35}
    answer  {"code": exit code, or minus the number of the signal that ended the child, "where": what it was doing}

With an `event` the child sends itself `signal` at event number `count`; with `after` this process sends it that many
seconds after the command has begun; with neither it runs to its end. Events:

    step    a step of training is done and not yet saved       metrics  a line of metrics is on the disk
    rename  a file is written and not yet under its name       renamed  it is now under its name

With a `phase` only those count that happen in a phase of the run in whose name it occurs, such as `retrain`.
`threads` of torch are 1 unless a job says otherwise; `fault` is a name of tests/faults/injected.py and its options.
Importing takes seconds and forking does not: hundreds of kills cost what two would. So does a second server for what
runs at the same time, a `twin`. Drawing the report is left out.
"""

import copy
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).parent.parent.parent
#: What commands load sooner or later is loaded once, so that no child has to: with torch.optim comes torch._dynamo.
LOADED = ("topocell.cli", "topocell.api", "scipy.special", "torch._dynamo", "pydantic.type_adapter")
LOADED += ("torch.utils.flop_counter", "torch.utils.serialization.config")


class Forked:
    """Commands in children of a process that has imported everything.

    Args:
        folder: for what the commands print.
        environment: variables of the process on top of ours.
        prefix: a command that starts the process, in place of starting it directly.
    """

    def __init__(self, folder: Path, environment: dict[str, str] | None = None, prefix: Sequence[str] = ()) -> None:
        self.errors = folder / "errors.txt"
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "tests.helpers.forked"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {}),
        )
        assert self.process.stdin and self.process.stdout
        self._jobs: TextIO = self.process.stdin
        self._answers: TextIO = self.process.stdout

    @contextmanager
    def twin(self, folder: Path) -> Iterator["Forked"]:
        """A second server, forked from this one: its commands run beside those of this one."""
        places = [folder / "jobs", folder / "answers"]
        for place in places:
            os.mkfifo(place)
        self._tell({"twin": list(map(str, places))})
        twin = copy.copy(self)
        twin.errors = folder / "errors.txt"
        with places[0].open("w") as twin._jobs, places[1].open() as twin._answers:
            yield twin

    def __call__(self, argv: list[str], seconds: str = "30", **moment: Any) -> tuple[int, str]:
        """Exit code and, for a child that was signalled, what it was doing."""
        self.begin(argv, seconds, **moment)
        return self.end()

    def begin(self, argv: list[str], seconds: str = "30", **moment: Any) -> None:
        """Start a command and return at once."""
        job = {"argv": argv, "errors": str(self.errors), "seconds": seconds, "signal": signal.SIGKILL, "times": 1}
        self._tell(job | moment)

    def end(self) -> tuple[int, str]:
        """What `__call__` returns of the command that was begun."""
        answer = json.loads(self._answers.readline())
        return answer["code"], answer["where"]

    def close(self) -> None:
        """End the process."""
        self._jobs.close()
        self.process.wait(60)

    def _tell(self, job: dict[str, Any]) -> None:
        self._jobs.write(json.dumps(job) + "\n")
        self._jobs.flush()


def main() -> None:
    """Serve until the input ends."""
    for name in LOADED:
        importlib.import_module(name)
    import torch

    from topocell.config.load import load_recipe
    from topocell.data import splits
    from topocell.nn.kernels import cpu

    load_recipe("quickstart")
    splits.load("digits")
    cpu.augmenter(torch.empty(0))
    for channels in (4, 8, 16):
        cpu.kernels(channels, torch.empty(0))
    gc.freeze()  # no child looks through what is shared, which would copy it
    _serve(sys.stdin, sys.stdout)


def _serve(jobs: TextIO, answers: TextIO) -> None:
    """Run one job after the other until there are no more."""
    for line in jobs:
        job = json.loads(line)
        if "twin" in job:
            if os.fork() == 0:
                with open(job["twin"][0]) as of_twin, open(job["twin"][1], "w") as to_twin:
                    _serve(of_twin, to_twin)
                os._exit(0)
            continue
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _child(job, writing)
        os.close(writing)
        where = _watched(job, child, reading).splitlines()
        os.close(reading)
        _, status = os.waitpid(child, 0)
        answer = {"code": os.waitstatus_to_exitcode(status), "where": where[-1] if where else ""}
        print(json.dumps(answer), file=answers, flush=True)


def _watched(job: dict[str, Any], child: int, reading: int) -> str:
    """What the child wrote until it ended; its time runs from its first line, when the command listens to signals."""
    due: float | None = None
    text = b""
    while True:
        left = None if due is None else max(0.0, due - time.monotonic())
        if select.select([reading], [], [], left)[0]:
            part = os.read(reading, 4096)
            if not part:
                return text.decode()
            if "after" in job and not text:
                due = time.monotonic() + job["after"]
            text += part
        else:
            os.kill(child, job["signal"])
            due = None


def _child(job: dict[str, Any], pipe: int) -> None:
    """Run the job and end, never to return."""
    code = 70  # nothing that topocell returns
    try:
        errors = os.open(job["errors"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(errors, 1)
        os.dup2(errors, 2)
        os.environ["TOPOCELL_CHECKPOINT_SECONDS"] = job["seconds"]
        code = _run(job, pipe)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run(job: dict[str, Any], pipe: int) -> int:
    import torch

    from topocell import cli
    from topocell.reporting import command_line
    from topocell.runs import run
    from topocell.runs.directory import RunDir
    from topocell.runs.monitor import RunMonitor

    torch.set_num_threads(job.get("threads", 1))
    seen, place = 0, "opening"
    tell = os.write

    def happened(event: str) -> None:
        nonlocal seen
        if event != job.get("event") or job.get("phase", "") not in place:
            return
        seen += 1
        if seen == job["count"]:
            tell(pipe, f"{place}\n".encode())
            for _ in range(job["times"]):
                os.kill(os.getpid(), job["signal"])

    def step(self: RunMonitor, phase: str, done: int, total: int, figures: Callable[[], Any]) -> None:
        nonlocal place
        if "after" in job and place != phase:
            tell(pipe, f"{phase}\n".encode())
        place = phase
        happened("step")

    def append(self: RunDir, record: Any) -> None:
        append_metrics(self, record)
        happened("metrics")

    def replace(source: Any, target: Any) -> None:
        happened("rename")
        rename(source, target)
        happened("renamed")

    @contextmanager
    def listening(told: Callable[[int], None]) -> Iterator[None]:
        with on_signals(told):
            if "after" in job:
                tell(pipe, b"opening\n")
            yield

    on_signals, command_line.on_signals = command_line.on_signals, listening
    append_metrics, rename = RunDir.append_metrics, os.replace
    RunMonitor.step, RunDir.append_metrics, os.replace = step, append, replace  # type: ignore[method-assign,assignment]
    run.write_report = lambda path: path / "report.html"  # type: ignore[assignment]
    if "fault" in job:
        from tests.faults.injected import FAULTS

        name, options = job["fault"]
        FAULTS[name](**options)
    return cli.main(job["argv"])


if __name__ == "__main__":
    main()

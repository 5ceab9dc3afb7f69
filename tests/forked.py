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

`threads` of torch are 1 unless a job says otherwise; `fault` is a name of tests/faults/injected.py and its options.
Importing takes seconds and forking does not: hundreds of kills cost what two would. Drawing the report is left out.
"""

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
from typing import Any

ROOT = Path(__file__).parent.parent


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
            [*prefix, sys.executable, "-m", "tests.forked"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {}),
        )

    def __call__(self, argv: list[str], seconds: str = "30", **moment: Any) -> tuple[int, str]:
        """Exit code and, for a child that was signalled, what it was doing."""
        self.begin(argv, seconds, **moment)
        return self.end()

    def begin(self, argv: list[str], seconds: str = "30", **moment: Any) -> None:
        """Start a command and return at once."""
        job = {"argv": argv, "errors": str(self.errors), "seconds": seconds, "signal": signal.SIGKILL, "times": 1}
        assert self.process.stdin
        self.process.stdin.write(json.dumps(job | moment) + "\n")
        self.process.stdin.flush()

    def end(self) -> tuple[int, str]:
        """What `__call__` returns of the command that was begun."""
        assert self.process.stdout
        answer = json.loads(self.process.stdout.readline())
        return answer["code"], answer["where"]

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(60)


def main() -> None:
    """Serve until the input ends."""
    import scipy.special  # noqa: F401  here, so that no child has to
    import sklearn.datasets  # noqa: F401
    import torch._dynamo  # noqa: F401  needed by torch.optim

    from topocell import cli  # noqa: F401

    for line in sys.stdin:
        job = json.loads(line)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            _child(job, writing)
        os.close(writing)
        where = _watched(job, child, reading).splitlines()
        os.close(reading)
        _, status = os.waitpid(child, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status), "where": where[-1] if where else ""}), flush=True)


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

    from topocell import cli, steps
    from topocell.rundir import RunDir
    from topocell.runmonitor import RunMonitor

    torch.set_num_threads(job.get("threads", 1))
    seen, place = 0, "opening"
    tell = os.write

    def happened(event: str) -> None:
        nonlocal seen
        if event != job.get("event"):
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

    on_signals, cli.on_signals = cli.on_signals, listening
    append_metrics, rename = RunDir.append_metrics, os.replace
    RunMonitor.step, RunDir.append_metrics, os.replace = step, append, replace  # type: ignore[method-assign,assignment]
    steps.write_report = lambda path: path / "report.html"  # type: ignore[assignment]
    if "fault" in job:
        from tests.faults.injected import FAULTS

        name, options = job["fault"]
        FAULTS[name](**options)
    return cli.main(job["argv"])


if __name__ == "__main__":
    main()

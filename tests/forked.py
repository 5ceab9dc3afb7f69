"""Runs topocell commands in forked children that signal themselves at a chosen moment. Used by test_resume.

Started as a program, it reads a job from each line of its input and answers with one line, both JSON:

    job     {"argv": [...], "errors": FILE, "seconds": "0", "event": "step", "count": 3, "signal": 9, "times": 1}
    answer  {"code": exit code, or minus the number of the signal that ended the child, "where": what it was doing}

The child sends itself `signal` at event number `count`, or runs to its end when `event` is missing. Events:

    step    a step of training is done and not yet saved       metrics  a line of metrics is on the disk
    rename  a file is written and not yet under its name       renamed  it is now under its name

Importing takes seconds and forking does not: hundreds of kills cost what two would. Drawing the report is left out.
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any


def main() -> None:
    """Serve until the input ends."""
    import sklearn.datasets  # noqa: F401  here, so that no child has to
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
        with os.fdopen(reading) as pipe:
            where = pipe.read().splitlines()
        _, status = os.waitpid(child, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status), "where": where[-1] if where else ""}), flush=True)


def _child(job: dict[str, Any], pipe: int) -> None:
    """Run the job and end, never to return."""
    code = 70  # nothing that topocell returns
    try:
        errors = os.open(job["errors"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(errors, 1)
        os.dup2(errors, 2)
        os.environ["TOPOCELL_CHECKPOINT_SECONDS"] = job["seconds"]
        code = _run(job, pipe)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run(job: dict[str, Any], pipe: int) -> int:
    import torch

    from topocell import cli, steps
    from topocell.rundir import RunDir
    from topocell.runmonitor import RunMonitor

    torch.set_num_threads(1)
    seen, place = 0, "opening"

    def happened(event: str) -> None:
        nonlocal seen
        if event != job.get("event"):
            return
        seen += 1
        if seen == job["count"]:
            os.write(pipe, f"{place}\n".encode())
            for _ in range(job["times"]):
                os.kill(os.getpid(), job["signal"])

    def step(self: RunMonitor, phase: str, done: int, total: int, figures: Callable[[], Any]) -> None:
        nonlocal place
        place = phase
        happened("step")

    def append(self: RunDir, record: Any) -> None:
        append_metrics(self, record)
        happened("metrics")

    def replace(source: Any, target: Any) -> None:
        happened("rename")
        rename(source, target)
        happened("renamed")

    append_metrics, rename = RunDir.append_metrics, os.replace
    RunMonitor.step, RunDir.append_metrics, os.replace = step, append, replace  # type: ignore[method-assign,assignment]
    steps.write_report = lambda path: path / "report.html"  # type: ignore[assignment]
    return cli.main(job["argv"])


if __name__ == "__main__":
    main()

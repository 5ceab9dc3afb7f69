"""Whole pipelines that take seconds, and how to run them in processes that suffer."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.helpers.forked import ROOT, Forked

SMALL = ["data.images=64", "data.test_images=20", "space.nodes=2", "--budget", "smoke", "--quiet"]

#: Name → recipe and changes of its smoke budget; the last one is killed in retraining only.
PIPELINES: dict[str, list[str]] = {
    "bilevel search": ["darts-v1", "search.stages.search.epochs=6"],
    "two-stage DOTS": ["dots", "retrain.seeds=[3,4]"],
    "SGAS": ["sgas-1", "search.stages.search.epochs=5"],
    "selection by perturbation": [
        "darts-pt",
        "search.stages.search.epochs=1",
        "space.candidates=[skip_connect,sep_conv_3x3]",
        "selection.projection.epochs=2",
    ],
    "retraining": ["dots", "retrain.seeds=[3,4,5]", "retrain.epochs=4"],
}


def run(name: str, out: Path) -> list[str]:
    """The command of a whole pipeline."""
    return ["run", *PIPELINES[name], *SMALL, "--out", str(out)]


@dataclass
class Workshop:
    """A server of forked processes, and runs that were left alone.

    Attributes:
        seconds: that a pipeline takes by itself.
    """

    forked: Forked
    folder: Path
    seconds: dict[str, float] = field(default_factory=dict)

    def unbroken(self, name: str) -> Path:
        """The finished run of a pipeline that nobody disturbed."""
        path = self.folder / name.replace(" ", "-") / "run"
        if name not in self.seconds:
            path.parent.mkdir(parents=True)
            start = time.monotonic()
            assert self.forked(run(name, path)) == (0, ""), self.said
            self.seconds[name] = time.monotonic() - start
        return path

    def stopped(self, name: str, out: Path, steps: int) -> Path:
        """A run that SIGTERM has stopped after some steps, each of them saved."""
        code, _ = self.forked(run(name, out), "0", event="step", count=steps, signal=signal.SIGTERM)
        assert code == 143, self.said
        return out

    @property
    def said(self) -> str:
        """What the last command printed."""
        return self.forked.errors.read_text()


def copied(run_directory: Path, to: Path) -> Path:
    """A copy of a run directory, under the same name because a run keeps that."""
    shutil.copytree(run_directory, to / run_directory.name)
    return to / run_directory.name


def contents(path: Path) -> dict[str, bytes]:
    """Every file of a run but the log of what was said and its lock."""
    passing = ("log.txt", ".lock", "timings.json")
    files = [found for found in path.rglob("*") if found.is_file() and found.name not in passing]
    return {str(found.relative_to(path)): found.read_bytes() for found in files}


def start(argv: list[str], **options: object) -> "subprocess.Popen[str]":
    """The real command, in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOPOCELL_CHECKPOINT_SECONDS": "0"}
    return subprocess.Popen(
        [sys.executable, "-m", "topocell", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
        **options,  # type: ignore[call-overload]
    )


def one_line(text: str) -> bool:
    """Whether a command said one line, which is no traceback."""
    return text.count("\n") == 1 and "Traceback" not in text

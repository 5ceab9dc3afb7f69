"""Displays for other programs: one JSON object a line, or nothing but the last line of the results."""

import datetime
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from topocell.errors import one_line
from topocell.io import files
from topocell.reporting.live import Throughput
from topocell.reporting.terminal import Quiet, result_lines
from topocell.runtime.hooks import Figures

#: Seconds between two events that tell the progress of a phase.
STEP_SECONDS = 1.0


class Headline(Quiet):
    """Shows the accuracy of the results when the work is done, and nothing else."""

    def __init__(self) -> None:
        self._line = ""

    def results(self, results: Mapping[str, Any]) -> None:
        """Keep the line that leads."""
        self._line = one_line(result_lines(results)[0])

    def close(self) -> None:
        """Print it."""
        if self._line:
            print(self._line, flush=True)
            self._line = ""


class Events:
    """Writes an event a line: a JSON object with `event`, its kind, and `time`, in UTC.

    Kinds: `status` and `message` (`text`), `step` (`phase`, `done`, `total`, the figures, `images_per_second`,
    `seconds_left`; once a second at most), `epoch` (`record`, as in metrics.jsonl), `cell` (`genotype`), `results`
    (`results`, as in results.json) and `error` (`text`). What is not known is null.

    Args:
        out: where to; default the standard output.
    """

    def __init__(self, out: TextIO | None = None) -> None:
        self._out, self._phase, self._last = out or sys.stdout, "", 0.0
        self._throughput = Throughput()

    def status(self, text: str) -> None:
        """Tell what is being done."""
        self.event("status", text=text)

    def step(self, phase: str, done: int, total: int, figures: Figures, left: float | None = None) -> None:
        """Tell the progress, once a second at most, and at the beginning and the end of a phase."""
        now = time.monotonic()
        if phase == self._phase and done < total and now - self._last < STEP_SECONDS:
            return
        self._phase, self._last, seen = phase, now, dict(figures())
        pace = self._throughput.add(now, seen.pop("trained_images", None))
        self.event("step", phase=phase, done=done, total=total, **seen, images_per_second=pace, seconds_left=left)

    def epoch(self, record: Mapping[str, Any], left: float | None = None) -> None:
        """Tell the record of an epoch, a decision or a trial."""
        self.event("epoch", record=record)

    def cell(self, genotype: Mapping[str, Any]) -> None:
        """Tell the derived cell."""
        self.event("cell", genotype=genotype)

    def results(self, results: Mapping[str, Any]) -> None:
        """Tell the results."""
        self.event("results", results=results)

    def say(self, text: str) -> None:
        """Tell a message."""
        self.event("message", text=text)

    def event(self, kind: str, **facts: Any) -> None:
        """Write an event."""
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        print(files.to_json({"event": kind, "time": now, **facts}), file=self._out, flush=True)

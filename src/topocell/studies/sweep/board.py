"""The live table of a sweep: what is done, running and failed in each row, the best so far, and the time left."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.live import Live
from rich.table import Table
from rich.text import Text

from topocell.errors import one_line
from topocell.io import files
from topocell.reporting.tables import format_seconds
from topocell.reporting.terminal import Display, Terminal
from topocell.studies.sweep.jobs import Job
from topocell.studies.sweep.protocols import Course, figure

#: Seconds between two views of the table on a terminal, and of what running jobs are at.
REFRESH_SECONDS = 2.0


class Board:
    """A table on a terminal, a line per event elsewhere.

    Args:
        course: the jobs.
        records: the finished ones, which grows.
        display: shows them.
        clock: in seconds.
    """

    def __init__(
        self,
        course: Course,
        records: Mapping[str, Mapping[str, Any]],
        display: Display,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._course, self._records, self._display, self._clock = course, records, display, clock
        self._running: dict[str, tuple[Job, float]] = {}
        self._failed: dict[str, str] = {}
        self._pace: dict[str, list[float]] = {}
        self._most = 1
        self._shown = -REFRESH_SECONDS
        self._live: Live | None = None
        if isinstance(display, Terminal) and display.console.is_terminal:
            self._live = Live(Text(""), console=display.console, auto_refresh=False)
            self._live.start()

    def begun(self, job: Job) -> None:
        """A worker has begun a job."""
        self._running[job.key] = job, self._clock()
        self._most = max(self._most, len(self._running))
        if self._live is None:
            self._display.say(f"{self._count()} begun: {job.key}")

    def again(self, job: Job, death: str, number: int, of: int) -> None:
        """A worker has ended; its job begins again."""
        self._running.pop(job.key, None)
        self._display.say(f"{job.key}: {death}; it resumes from its checkpoint (try {number} of {of})")

    def failed(self, job: Job, reason: str) -> None:
        """A job has failed for good."""
        self._running.pop(job.key, None)
        self._failed[job.key] = reason
        self._display.say(f"{job.key} failed: {one_line(reason)}")

    def done(self, job: Job, record: Mapping[str, Any], seconds: float) -> None:
        """A job is finished."""
        self._running.pop(job.key, None)
        self._pace.setdefault(self._row_of(job.key), []).append(seconds)
        if self._live is None:
            left = self.left()
            what = "" if "results" in record else " (validation)"
            later = "" if left is None else f", left {format_seconds(left)}"
            self._display.say(f"{self._count()} done: {job.key}, {figure(record):.2f} %{what}{later}")

    def tick(self) -> None:
        """Show the table, where there is one and it is time."""
        if self._live is not None and self._clock() - self._shown >= REFRESH_SECONDS:
            self._shown = self._clock()
            self._live.update(self.table(), refresh=True)

    def close(self) -> None:
        """Show the table for the last time."""
        if self._live is not None:
            self._live.update(self.table(), refresh=True)
            self._live.stop()
            self._live = None

    def table(self) -> Table:
        """The table of now."""
        left = self.left()
        title = f"{self._count()} done" + ("" if left is None else f", left {format_seconds(left)}")
        table = Table("", "done", "running", "failed", "best so far", title=title, title_justify="left")
        labels = {arm.key: arm.label for arm in self._course.arms}
        for row, keys in self._rows().items():
            found = [self._records[key] for key in keys if key in self._records]
            running = [
                f"{key.removeprefix(row + '-')}{_at(self._running[key][0])}" for key in keys & self._running.keys()
            ]
            failed = len(keys & self._failed.keys())
            table.add_row(
                Text(one_line(labels[row])),
                f"{len(found)}/{len(keys)}",
                Text(", ".join(sorted(running))),
                Text(str(failed), style="red") if failed else "0",
                _best(found),
            )
        return table

    def left(self) -> float | None:
        """Seconds until all jobs are done, from those that are; None as long as there is none.

        A job takes as long as others of its row did, or as all did; as many at a time as have been running.
        """
        every = [seconds for of in self._pace.values() for seconds in of]
        if not every:
            return None
        mean, ahead = sum(every) / len(every), 0.0
        for row, keys in self._rows().items():
            pace = self._pace.get(row)
            each = sum(pace) / len(pace) if pace else mean
            for key in keys - self._records.keys() - self._failed.keys():
                began = self._running.get(key)
                ahead += each if began is None else max(each - (self._clock() - began[1]), 0.0)
        return ahead / self._most

    def _rows(self) -> dict[str, set[str]]:
        """The jobs of each row, those to come among them."""
        rows: dict[str, set[str]] = {arm.key: set() for arm in self._course.arms}
        for job in self._course.due(self._records, self._failed.keys()):
            rows[self._row_of(job.key)].add(job.key)
        return rows

    def _row_of(self, key: str) -> str:
        return max((arm.key for arm in self._course.arms if key.startswith(f"{arm.key}-seed-")), key=len)

    def _count(self) -> str:
        done = sum(len(keys & self._records.keys()) for keys in self._rows().values())
        return f"[{done}/{self._course.total}]"


def _best(records: Sequence[Mapping[str, Any]]) -> str:
    """The best accuracy of finished jobs; where none is retrained, that of the validation."""
    final = [record for record in records if "results" in record]
    chosen = final or records
    if not chosen:
        return "—"
    return f"{max(map(figure, chosen)):.2f} %" + ("" if final else " (validation)")


def _at(job: Job) -> str:
    """What a running job has come to, from the last line that it recorded."""
    try:
        lines = (Path(job.path) / "metrics.jsonl").read_bytes()[-100_000:].splitlines()
        last = (files.json_object(lines[-1]) if lines else None) or {}
    except OSError:
        return ""
    epoch = last.get("epoch")
    return f" ({last.get('phase')} {epoch + 1})" if isinstance(epoch, int) else ""

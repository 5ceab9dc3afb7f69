"""Logs of a run beside metrics.jsonl: CSV, TensorBoard, and what a user's own piece makes of its records.

A log follows metrics.jsonl: where that is cut back, because a killed run repeats what came after its last checkpoint,
the log begins anew from what is left, so that it ends as that of a run which was never killed.
"""

import csv
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topocell.config.values import Choice
from topocell.errors import RunError
from topocell.io import files
from topocell.registry import Registry, build

if TYPE_CHECKING:
    from topocell.runs.directory import RunDir

Record = Mapping[str, Any]

#: Entries of a record that are no figures: the logits, and the cell, which `topocell.Run.history` and the report have.
_LEFT_OUT = ("architecture", "derived")


class Logger:
    """A log of one run; each method may be left as it is.

    A piece of a user's own derives from this class; options of a recipe are arguments of its `__init__`.
    """

    def begin(self, directory: Path, records: Sequence[Record]) -> None:
        """Begin with the records that the run has, none where it is new; drop what the log has beyond them.

        It is called when a run begins or resumes, and once more where a run drops records.

        Args:
            directory: of the run, in which files of the log belong.
            records: in order, as in metrics.jsonl.
        """

    def add(self, number: int, record: Record) -> None:
        """Add a record.

        Args:
            number: 0-based, of the record among all of the run. After a kill the same number may come again, with the
                same record.
            record: a line of metrics.jsonl.
        """

    def end(self) -> None:
        """Close what is open: the run is finished, or stops here."""


class Callback(Logger):
    """Calls a function with each new record.

    Args:
        function: takes the arguments of `Logger.add`.
    """

    def __init__(self, function: Callable[[int, Record], object]) -> None:
        self._function = function

    def add(self, number: int, record: Record) -> None:
        """Call it."""
        self._function(number, record)


class CsvLog(Logger):
    """metrics.csv: a row for each record, a column for each figure, in the order in which they appear."""

    def begin(self, directory: Path, records: Sequence[Record]) -> None:
        """Write the file with the records that there are."""
        self._path, self._rows = directory / "metrics.csv", [dict(figures(record)) for record in records]
        self._write()

    def add(self, number: int, record: Record) -> None:
        """Add a row; a figure that is new becomes a column of all."""
        row = dict(figures(record))
        self._rows.append(row)
        if row.keys() <= self._columns.keys():
            with files.guarded(self._path):
                files.append_line(self._path, self._line(row))
        else:
            self._write()

    def _write(self) -> None:
        self._columns = dict.fromkeys(name for row in self._rows for name in row)
        lines = [_line(self._columns), *map(self._line, self._rows)]
        with files.guarded(self._path):
            files.replace(self._path, "".join(f"{line}\n" for line in lines if self._columns).encode())

    def _line(self, row: Mapping[str, Any]) -> str:
        return _line(row.get(name) for name in self._columns)


def _line(values: Any) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(values)
    return text.getvalue()


class TensorBoardLog(Logger):
    """Files of events in the folder `tensorboard` of the run, a curve for each figure.

    Steps are epochs, decisions or trials, counted from 1 through all stages; those of several seeds have curves of
    their own. The times of what was logged before a run was stopped stay.

    Raises RunError where the package tensorboard is absent.
    """

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise RunError(
                "a log for TensorBoard needs the package tensorboard, but that is not installed: pip install "
                "'topocell[tensorboard]', or leave tensorboard out of log"
            ) from None
        self._make: Callable[..., Any] = SummaryWriter
        self._writer: Any = None

    def begin(self, directory: Path, records: Sequence[Record]) -> None:
        """Write the records that there are, with their times, into a new file, and drop the old ones."""
        self.end()
        folder = directory / "tensorboard"
        old, times = (sorted(folder.glob("events.out.tfevents.*")), _times(folder)) if folder.is_dir() else ([], {})
        self._steps: dict[str, int] = {}
        with files.guarded(folder):
            self._writer = self._make(str(folder), filename_suffix=f".{len(old)}" if old else "")
            for record in records:
                self._add(record, times)
            self._writer.flush()
            for path in old:
                path.unlink()

    def add(self, number: int, record: Record) -> None:
        """Add the figures of a record."""
        with files.guarded(Path(self._writer.log_dir)):
            self._add(record, {})
            self._writer.flush()

    def end(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _add(self, record: Record, times: Mapping[tuple[str, int], float]) -> None:
        seed = record.get("seed")
        group = f"{record.get('phase')}" + ("" if seed is None else f" seed {seed}")
        self._steps[group] = step = self._steps.get(group, 0) + 1
        for name, value in figures(record):
            if isinstance(value, int | float) and math.isfinite(value) and name not in ("epoch", "seed", "stage_index"):
                tag = f"{group}/{name}"
                self._writer.add_scalar(tag, value, step, walltime=times.get((tag, step)))


def _times(folder: Path) -> dict[tuple[str, int], float]:
    """When each point of the curves in a folder was logged, by tag and step; what is damaged is passed over."""
    found: dict[tuple[str, int], float] = {}
    with suppress(Exception):  # whatever a damaged file makes it raise: the points get the time of now
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(folder), size_guidance={"scalars": 0}, purge_orphaned_data=False)
        events.Reload()
        for tag in events.Tags()["scalars"]:
            for event in events.Scalars(tag):
                found.setdefault((tag, event.step), event.wall_time)
    return found


def figures(record: Record) -> Iterator[tuple[str, Any]]:
    """The numbers, flags and words of a record by dotted name: `gap.soft`, `operations.normal.skip_connect`."""
    for name, value in record.items():
        if name not in _LEFT_OUT:
            yield from _flat(name, value)


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(f"{name}.{key}", item)
    elif isinstance(value, list | tuple):
        if all(isinstance(item, str) for item in value) and value:
            yield name, "; ".join(value)
    else:
        yield name, value


LOGGERS: Registry[type[Logger]] = Registry("logger", {"csv": CsvLog, "tensorboard": TensorBoardLog}, Logger)

#: What `topocell.run` takes as logs: names, loggers, or functions that take the arguments of `Logger.add`.
Log = str | Logger | Callable[[int, Record], object]


def loggers_of(chosen: Sequence[Choice], more: Sequence[Log] = ()) -> list[Logger]:
    """Make the loggers of a recipe, and further ones.

    Raises RunError where one needs a package that is absent, RecipeError for an unknown name or option.
    """
    named = [build("logger", LOGGERS, log.name, **log.model_dump(exclude={"name"})) for log in chosen]
    return named + [_logger(log) for log in more]


def _logger(log: Log) -> Logger:
    if isinstance(log, str):
        return build("logger", LOGGERS, log)
    return log if isinstance(log, Logger) else Callback(log)


class Logs:
    """The loggers of a run, which follow its records.

    Args:
        loggers: of the run.
        directory: of the run.
    """

    def __init__(self, loggers: Sequence[Logger], directory: "RunDir") -> None:
        self._loggers, self._directory, self._number = tuple(loggers), directory, 0

    def begin(self) -> None:
        """Begin, or begin anew, with the records that the run has. Raises RunError where they are damaged."""
        if self._loggers:
            records = self._directory.metrics()
            self._number = len(records)
            for logger in self._loggers:
                logger.begin(self._directory.path, records)

    def add(self, record: Record) -> None:
        """Add a record that has been written, as it is read again."""
        if self._loggers:
            written = files.from_json(files.to_json(record))
            for logger in self._loggers:
                logger.add(self._number, written)
            self._number += 1

    def close(self) -> None:
        """End all."""
        for logger in self._loggers:
            logger.end()

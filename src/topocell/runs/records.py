"""metrics.jsonl: the records of a run, which grow by whole lines."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from topocell.errors import RunError
from topocell.io import files

#: What the last line of log.txt begins with, behind the time, after a fault.
FAILED = "failed: "


class Records:
    """The records of one run in order.

    Args:
        path: of metrics.jsonl, which need not be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def size(self) -> int:
        """Bytes."""
        return self.path.stat().st_size if self.path.exists() else 0

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one line, on the disk when this returns; NaN and infinities become null.

        Raises RunError when the disk refuses; no part of the line stays then.
        """
        line = files.to_json(record)
        with files.guarded(self.path):
            files.append_line(self.path, line)

    def read(self) -> list[dict[str, Any]]:
        """Return all records; a last line that a kill has torn is skipped.

        Raises RunError, naming the line, when any other line is damaged.
        """
        records = []
        for number, line in enumerate(files.whole_lines(self.path), start=1):
            record = files.json_object(line)
            if record is None:
                raise RunError(f"lines of {self.path} must be JSON objects, but line {number} is not; remove that line")
            records.append(record)
        return records

    def replace(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Put other records in place of all. Raises RunError."""
        text = "".join(f"{files.to_json(record)}\n" for record in records)
        with files.guarded(self.path):
            files.replace(self.path, text.encode())

    def cut(self, length: int) -> None:
        """Cut back to `length` bytes. Raises RunError."""
        with files.guarded(self.path):
            files.cut(self.path, length)

    def repair(self) -> None:
        """Make the file if it is missing, and drop a last line that a kill has torn."""
        self.path.touch()
        whole = sum(map(len, files.whole_lines(self.path)))
        if self.size > whole:
            self.cut(whole)

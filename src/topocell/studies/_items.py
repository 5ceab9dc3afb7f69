"""The directory of a study: what it was asked, the items it has finished, and the table and figure at the end.

study.json   the study, its options, what it works on, versions; at the end n, a summary, seconds
items.jsonl  a line per finished item: a trained network, a search, a measurement
runs/ITEM/   run directories of items that train; each resumes itself
table.csv  table.md  figure.png  figure.svg, and drawings of cells where a study has some
"""

import csv
import io
import json
import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from topocell.config.lasting import lasting, may_change
from topocell.errors import RunError
from topocell.io import files
from topocell.io.folders import is_helper
from topocell.reporting.setting import SMOKE_STAMP
from topocell.reporting.tables import format_seconds, is_number
from topocell.reporting.terminal import Display, Quiet
from topocell.runtime.workers import Task, make_all

Record = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """The findings of a study.

    Args:
        rows: the table, all rows with the keys of the first. Keys that end in `%` are shown with two decimals.
        draw: writes the figure to a path, as SVG or PNG by its suffix.
        n: how many independent repetitions stand behind a figure of the table.
        summary: key figures, for study.json.
        notes: sentences below the table.
        cells: genotypes to draw, by the name of their SVG file without suffix.
    """

    rows: Sequence[Mapping[str, Any]]
    draw: Callable[[Path], None]
    n: int
    summary: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    cells: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Bench:
    """A study at work in its directory.

    A study first checks all that it can, then says `begin`, which makes the directory or reopens it, and then takes
    its items one by one: an item that an earlier process finished is not made again. Items that do not depend on each
    other can be given together to `all_trained`, and are then made by `workers` processes. The options in `growing`
    only add items, so that a study, also a finished one, resumes with a larger number or a longer list. A `kind` of its
    own keeps what is no study apart: the file is then KIND.json.
    """

    def __init__(
        self,
        study: str,
        about: str,
        options: Mapping[str, Any],
        path: str | Path,
        display: Display,
        workers: int = 1,
        growing: Collection[str] = (),
        kind: str = "study",
    ) -> None:
        self.study, self.about, self.options, self.path, self.display = study, about, options, Path(path), display
        self.workers, self.growing, self.kind = workers, growing, kind
        self._records: dict[str, Record] = {}
        self._total = self._taken = 0
        self._unlock: Callable[[], None] = lambda: None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._unlock()

    def begin(self, items: int, inputs: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Make the directory, or resume in it.

        Args:
            items: how many items the study takes, for the progress.
            inputs: all that the items depend on besides the options: resolved recipes, genotypes, fingerprints of data.
            environment: what `topocell.runtime.provenance.environment` returns; the one of the beginning is kept.

        Raises:
            RunError: `path` is no directory, holds something else, belongs to a study with other options or inputs,
                or is in use. Nothing is overwritten.
        """
        asked = json.loads(files.to_json({self.kind: self.study, "options": self.options, "inputs": inputs}))
        self._total = items
        with files.guarded(self.path, "--out"):
            self._open()
            if self._stated.exists():
                self._compare(asked)
            else:
                self._write(self._stated.name, files.to_json(asked | {"environment": environment}, indent=2) + "\n")
            self._restore()
        if self._records:
            self.display.say(f"resuming {self.path}: {len(self._records)} of {items} items are there")

    def item(self, key: str, make: Callable[..., Mapping[str, Any]], *args: Any) -> Record:
        """The record of an item: kept from before, or made now by `make(*args)` and kept, with the `seconds` it took.

        Raises whatever `make` raises; RunError when the record cannot be written.
        """
        if key in self._records:
            self._taken += 1
            return self._records[key]
        self._say_begun(key)
        start = time.monotonic()
        return self.keep(key, make(*args), time.monotonic() - start)

    def trained(self, key: str, make: Callable[..., Mapping[str, Any]], *args: Any) -> Record:
        """An item made by `make(*args, path, display)` in a run directory of its own, `runs/KEY`."""
        return self.item(key, make, *args, self.run_path(key), self.display)

    def run_path(self, key: str) -> Path:
        """The run directory of an item. Raises RunError for a key that could lead elsewhere."""
        if not re.fullmatch(r"\w[\w.,+-]{,199}", key):
            raise RunError(f"an item has a name of letters, digits and '_.,+-', but got {key[:80]!r}; choose another")
        return self.path / "runs" / key

    def all_trained(
        self, tasks: Sequence[Task], size: int = 1, make: Callable[..., Sequence[Mapping[str, Any]]] | None = None
    ) -> dict[str, Record]:
        """Items made as by `trained`, key → record, in the order of the tasks.

        With several workers they are made at the same time, each by one thread, and shown by their beginning alone.
        The number of workers is no option of the study: it may differ when the study resumes.

        Args:
            tasks: the items.
            size: of the groups in which those that are not there yet are made, by `make` in place of their own.
            make: returns the records of a group from the arguments of its tasks, and keeps nothing on the disk; the
                seconds of a group are shared out evenly.
        """
        missing = [task for task in tasks if task.key not in self._records]
        if size > 1 and make is not None:
            self._taken += len(tasks) - len(missing)
            self._make_groups([missing[at : at + size] for at in range(0, len(missing), size)], make)
            return {task.key: self._records[task.key] for task in tasks}
        if self.workers > 1:
            placed = [Task(t.key, t.make, (*t.args, self.run_path(t.key), Quiet())) for t in missing]
            self._taken += len(tasks) - len(missing)
            make_all(placed, self.workers, self._say_begun, self.keep)
            return {task.key: self._records[task.key] for task in tasks}
        return {task.key: self.trained(task.key, task.make, *task.args) for task in tasks}

    def _make_groups(self, groups: Sequence[Sequence[Task]], make: Callable[..., Sequence[Mapping[str, Any]]]) -> None:
        """Make the items of each group at once, and keep them once all of the group are made."""
        named = {f"{of[0].key} and {len(of) - 1} more" if len(of) > 1 else of[0].key: of for of in groups}
        tasks = [Task(name, as_record, (make, [task.args for task in of])) for name, of in named.items()]

        def begun(name: str) -> None:
            self._taken += len(named[name]) - 1
            self._say_begun(name)

        def done(name: str, made: Mapping[str, Any], seconds: float) -> None:
            for task, record in zip(named[name], made["made"], strict=True):
                self.keep(task.key, record, seconds / len(named[name]))

        if self.workers > 1:
            make_all(tasks, self.workers, begun, done)
            return
        for task in tasks:
            begun(task.key)
            start = time.monotonic()
            done(task.key, task.make(*task.args), time.monotonic() - start)

    @property
    def records(self) -> Mapping[str, Record]:
        """The finished items by name."""
        return self._records

    def _say_begun(self, key: str) -> None:
        self._taken += 1
        self.display.say(f"[{self._taken}/{self._total}] {key}")

    def keep(self, key: str, made: Mapping[str, Any], seconds: float) -> Record:
        """Keep the record of an item that took so many seconds. Raises RunError when it cannot be written."""
        # A run that was killed and resumed knows the seconds it took before.
        seconds = max(seconds, sum(made.get("timings", {}).values()))
        line = files.to_json({"item": key, **made, "seconds": seconds})
        with files.guarded(self._lines, "--out"):
            files.append_line(self._lines, line)
        record: Record = json.loads(line)
        self._records[key] = record
        return record

    def finish(self, outcome: Outcome) -> None:
        """Write table and figure, and complete study.json."""
        stated = json.loads(self._stated.read_bytes())
        stated |= {
            "n": outcome.n,
            "items": len(self._records),
            "seconds": sum(record["seconds"] for record in self._records.values()),
            "summary": outcome.summary,
            "notes": list(outcome.notes),
        }
        with files.guarded(self.path, "--out"):
            self._write("table.csv", csv_text(outcome.rows))
            self._write("table.md", self._page(outcome, stated))
            for suffix in ("svg", "png"):
                outcome.draw(self.path / f"figure.{suffix}")
            _draw_cells(self.path, outcome.cells)
            self._write(self._stated.name, files.to_json(stated, indent=2) + "\n")
        for note in outcome.notes:
            self.display.say(note)
        self.display.say(f"{self.kind} {self.study}: {self.path / 'table.md'}, {self.path / 'figure.png'}")

    @property
    def _stated(self) -> Path:
        return self.path / f"{self.kind}.json"

    @property
    def _lines(self) -> Path:
        return self.path / "items.jsonl"

    def _open(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"--out must name a directory, but {self.path} is a file; choose another --out")
        self.path.mkdir(parents=True, exist_ok=True)
        files.refuse_links(self.path, "runs")
        others = {found.name for found in self.path.iterdir() if not is_helper(found.name)}
        if others and not self._stated.exists():
            raise RunError(
                f"--out must name a {self.kind} or an empty directory, but {self.path} holds {min(others)!r} and no "
                f"{self._stated.name}; choose another --out"
            )
        self._unlock = files.lock(self.path)

    def _compare(self, asked: Mapping[str, Any]) -> None:
        try:
            stored = json.loads(self._stated.read_bytes())
            then = {key: stored[key] for key in asked}
        except (ValueError, TypeError, KeyError) as fault:
            raise RunError(f"{self._stated} is damaged; restore it from a copy or choose another --out") from fault
        if then == asked:
            return
        before, now = _identity(then), _identity(asked)
        for key in dict.fromkeys([*now, *before]):
            if before.get(key, ...) != now.get(key, ...) and not self._adds_items(key, before, now):
                if key.startswith("inputs.data.") and all(map(_names_images, (then, asked))):
                    raise RunError(
                        f"a {self.kind} resumes with the images it began with, but those of {self.path} changed; "
                        f"restore them, or choose another --out"
                    )
                raise RunError(
                    f"output directory {self.path} belongs to another {self.kind} (first difference: {key} is "
                    f"{before.get(key)!r} there and {now.get(key)!r} here); choose another --out or delete it"
                )
        begun = {key: asked.get(key, value) for key, value in stored.items() if key in (*asked, "environment")}
        self._write(self._stated.name, files.to_json(begun, indent=2) + "\n")

    def _adds_items(self, key: str, before: Record, now: Record) -> bool:
        """Return whether a difference of two studies, as `_leaves`, only adds items to those that the first one has."""
        if key.removeprefix("options.") in self.growing:
            old, new = before.get(key), now.get(key)
            if isinstance(old, list) and isinstance(new, list):
                return new[: len(old)] == old
            return type(old) is int and type(new) is int and new > old
        part, section, label = [*key.split(".", 3), "", ""][:3]
        olds, news = (
            {path.split(".")[2] for path in of if path.startswith(f"inputs.{section}.")} for of in (before, now)
        )
        return bool(self.growing) and part == "inputs" and olds < news and label in news - olds

    def _restore(self) -> None:
        """Read the finished items; repair what a kill may have left."""
        for found in filter(files.is_temporary, self.path.iterdir()):
            found.unlink()
        if not self._lines.exists():
            return
        lines = files.whole_lines(self._lines)
        files.cut(self._lines, sum(map(len, lines)))
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                self._records[record["item"]] = record
            except (ValueError, TypeError, KeyError) as fault:
                raise RunError(
                    f"{self._lines}: line {number} is damaged; delete that line, its item is repeated"
                ) from fault

    def _write(self, name: str, text: str) -> None:
        files.replace(self.path / name, text.encode())

    def _page(self, outcome: Outcome, stated: Mapping[str, Any]) -> str:
        versions = stated["environment"]
        options = ", ".join(f"{key}={files.to_json(value)}" for key, value in self.options.items())
        made = [
            f"n = {outcome.n}",
            f"topocell {versions['topocell']}, PyTorch {versions['torch']}, Python {versions['python']}",
            f"{versions['gpu'] or versions['cpu']}",
            f"{versions['threads']} threads, {format_seconds(stated['seconds'])}",
        ]
        parts = [
            f"# {self.study if self.kind == 'study' else f'{self.kind} {self.study}'}",
            self.about,
            *([f"**{SMOKE_STAMP[0]}.** {SMOKE_STAMP[1]}"] if self.options.get("budget") == "smoke" else []),
            _markdown(outcome.rows),
            *outcome.notes,
            f"Options: {options}.",
        ]
        return "\n\n".join([*parts, "; ".join(made) + "."]) + "\n"


def as_record(make: Callable[..., Sequence[Record]], given: Sequence[Any]) -> Record:
    """The records of a group of items as one, which a worker returns."""
    return {"made": make(given)}


def _draw_cells(folder: Path, cells: Mapping[str, Mapping[str, Any]]) -> None:
    from topocell.reporting.cell_drawing import draw_genotype

    for name, genotype in cells.items():
        draw_genotype(genotype, folder / f"{name}.svg", title=name)


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV, all with the keys of the first."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([_shown(key, row[key]) for key in rows[0]] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _shown(column: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if value is None:
        return "—"
    if isinstance(value, float) and is_number(value):
        return f"{value:.2f}" if column.endswith("%") else f"{value:.6g}"
    return str(value).replace("|", "\\|")


def _names_images(asked: Mapping[str, Any]) -> bool:
    """Whether the inputs of a study have fingerprints of images, as those of this version have."""
    return isinstance(asked["inputs"], dict) and isinstance(asked["inputs"].get("data"), dict)


def _identity(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a study another one, by its path: of recipes, its own and those of runs that it takes, what lasts."""
    inputs = asked["inputs"]
    if isinstance(inputs, dict):
        inputs = {
            section: _lasting(part) if section in ("recipes", "runs") else part for section, part in inputs.items()
        }
    found = _leaves({**asked, "inputs": inputs})
    if isinstance(words := found.get("options.overrides"), list):
        found["options.overrides"] = [word for word in words if not may_change(str(word).partition("=")[0].strip())]
    return found


def _lasting(recipes: Any) -> Any:
    """What lasts of each of some recipes by label."""
    return {label: lasting(recipe) for label, recipe in recipes.items()} if isinstance(recipes, dict) else recipes


def _leaves(value: Any, where: str = "") -> dict[str, Any]:
    """Values of nested JSON by their path; a list of plain values is one value."""
    nested = isinstance(value, list) and any(isinstance(item, dict | list) for item in value)
    inside = value.items() if isinstance(value, dict) else enumerate(value) if nested else ()
    found = [_leaves(item, f"{where}.{key}" if where else str(key)) for key, item in inside]
    return {path: leaf for leaves in found for path, leaf in leaves.items()} or {where: value}

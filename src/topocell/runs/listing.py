"""The runs below a directory and the state of each, from its own files and its lock. Nothing is changed there."""

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from topocell.errors import RunError, TopocellError
from topocell.io import files, plain_yaml
from topocell.io.folders import walk
from topocell.reporting.ground_truth import ground_truth_of
from topocell.reporting.run_files import RunFiles
from topocell.reporting.rundirs import evaluation_of, readable
from topocell.reporting.tables import is_number
from topocell.runs.records import FAILED
from topocell.runs.setting import smoke_words

#: Folders of a run in which no run is.
_NO_RUNS = ("checkpoints", "tensorboard")
#: What accuracies may be of, see `Listed.measured`, in the order of `by_accuracy`: each kind has figures of its own.
_KINDS = {"test": 0, "table": 0, "shallow": 1, "validation": 2, "": 3}
#: Bytes at the end of metrics.jsonl and log.txt that are read.
_TAIL = 200_000


class State(StrEnum):
    """States: a process works on a run; it has its results; nobody works on it; it ended in a fault; unreadable."""

    RUNNING = "running"
    FINISHED = "finished"
    STOPPED = "stopped"
    FAILED = "failed"
    DAMAGED = "damaged"


@dataclass(frozen=True)
class Listed:
    """A run as it is listed.

    Attributes:
        path: of the run directory.
        state: see `State`.
        words: the fault of one that has failed or is damaged.
        recipe, dataset, seed: of its recipe.
        at: what its last record is of.
        accuracy, std: fractions, of `n` networks or cells, where it has results.
        measured: `test`, `shallow` (a test after a shallow evaluation), `table` (a true accuracy), or `validation`: of
            a training on the split of the search, or, in place of results, of the last epoch.
        smoke: whether it is too small to say anything.
        changed: when its files last did, in seconds since 1970.
        size: of its files in bytes, without those of the runs in it.
    """

    path: Path
    state: State = State.DAMAGED
    words: str = ""
    recipe: str = ""
    dataset: str = ""
    seed: int | None = None
    at: str = ""
    accuracy: float | None = None
    std: float | None = None
    n: int | None = None
    measured: str = ""
    smoke: bool = False
    changed: float = 0.0
    size: int = 0

    def facts(self) -> dict[str, Any]:
        """Return all of it as JSON has it."""
        return {**vars(self), "path": str(self.path), "state": self.state.value}


class Listing:
    """Lists the runs below a directory; what has not changed since it was listed last is not read again.

    Args:
        place: the directory, which may be a run itself, or a sweep.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self._known: dict[Path, tuple[tuple[Any, ...], Listed]] = {}

    def read(self) -> list[Listed]:
        """Return the runs in the order of their paths. Raises RunError where the directory cannot be read."""
        if not self.place.is_dir():
            what = "is no directory" if self.place.exists() else "is not there"
            raise RunError(f"runs are listed below a directory, but {self.place} {what}; check the path")
        with readable(self.place):
            next(iter(os.scandir(self.place)), None)
        return [self._listed(path) for path in sorted(self._paths())]

    def _paths(self) -> Iterator[Path]:
        for folder, names, inside in walk(self.place):
            names[:] = [name for name in names if name not in _NO_RUNS and not name.startswith(".")]
            if "recipe.yaml" in inside:
                yield Path(folder)

    def _listed(self, path: Path) -> Listed:
        try:
            sizes, changed = _sizes(path)
            running = files.is_locked(path)
            stamp = (*sorted(sizes.items()), changed, running)
            if self._known.get(path, (None,))[0] != stamp:
                self._known[path] = stamp, _read(path, running, changed, sum(sizes.values()))
            return self._known[path][1]
        except OSError as fault:
            return Listed(path, words=f"{fault.filename or path}: {files.reason(fault)}")


def by_accuracy(runs: list[Listed]) -> list[Listed]:
    """Return the runs in the order of their accuracies, the best first; of tests, of shallow evaluations, of others."""
    return sorted(runs, key=lambda run: (_KINDS[run.measured], run.n is None, -(run.accuracy or 0.0)))


def _sizes(path: Path) -> tuple[dict[str, int], float]:
    """Size of each file of a run by name, and when the last of them changed. Raises OSError."""
    sizes, changed = dict[str, int](), 0.0
    folders = [path, *(path / name for name in _NO_RUNS)]
    for found in [entry for folder in folders if folder.is_dir() for entry in os.scandir(folder)]:
        if found.is_file(follow_symlinks=False) and found.name != files.LOCK:
            about = found.stat(follow_symlinks=False)
            sizes[found.path], changed = about.st_size, max(changed, about.st_mtime)
    return sizes, changed


def _read(path: Path, running: bool, changed: float, size: int) -> Listed:
    """A run, read from its files. Raises OSError."""
    known: dict[str, Any] = {"changed": changed, "size": size}
    try:
        files.refuse_links(path)
        recipe = _mapping(path / "recipe.yaml", plain_yaml.load)
        data, seed = recipe.get("data"), recipe.get("seed")
        known |= {
            "recipe": str(recipe.get("name", "")),
            "dataset": str(data.get("dataset", "")) if isinstance(data, Mapping) else "",
            "seed": seed if isinstance(seed, int) else None,
        }
        mine = (path / "results.json").exists()
        results = _mapping(path / "results.json", files.from_json) if mine else RunFiles(path).results()
        rows = _last_rows(path / "metrics.jsonl")
        known |= {"at": _at(rows[-1], recipe) if rows else "", **_accuracy(results, rows)}
        if "n" in known and (part := evaluation_of(path) or results.get("protocol")):
            known["measured"] = part
        known["smoke"] = bool(smoke_words(recipe, bool(ground_truth_of(results))))
        if results and "n" not in known:
            raise ValueError(f"{path / 'results.json'} has no accuracy")
    except (TopocellError, ValueError, LookupError, TypeError, AttributeError) as fault:
        return Listed(path, State.DAMAGED, " ".join(str(fault).split()), **known)
    if running:
        return Listed(path, State.RUNNING, **known)
    if results:
        return Listed(path, State.FINISHED, **known)
    failed = _failed(path / "log.txt")
    return Listed(path, State.FAILED if failed else State.STOPPED, failed, **known)


def _mapping(path: Path, read: Any) -> dict[str, Any]:
    """The mapping in a file. Raises ValueError where there is another value, or none, and OSError."""
    try:
        found = read(path.read_text(encoding="utf-8"))
    except ValueError as fault:
        raise ValueError(f"{path} cannot be read: {fault}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__} in place of a mapping")
    return found


def _tail(path: Path) -> list[bytes]:
    """The whole lines at the end of a file that grows; none where it is not there."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - _TAIL, 0))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return []
    return lines[size > _TAIL : -1]  # the last one is empty, or torn


def _last_rows(path: Path) -> list[dict[str, Any]]:
    """The last records. Raises ValueError where a line is damaged."""
    rows = []
    for line in _tail(path):
        row = files.json_object(line)
        if row is None:
            raise ValueError(f"{path} has a line that is no record")
        rows.append(row)
    return rows


def _failed(log: Path) -> str:
    """The fault in the last line of a log; empty where it is of something else."""
    last = next(iter(_tail(log)[-1:]), b"").decode(errors="replace").partition(" ")[2]
    return last.removeprefix(FAILED) if last.startswith(FAILED) else ""


def _at(row: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    """What a record is of: `operations 3/50`, `retrain seed 0 12/600`, `select`."""
    phase, epoch = row.get("phase"), row.get("epoch")
    if phase == "search":
        plan: Any = recipe.get("search", {}).get("stages", {}).get(row.get("stage"), {})
        words = str(row.get("stage"))
    elif phase == "retrain":
        plan, words = recipe.get("retrain", {}), f"retrain seed {row.get('seed')}"
    else:
        return str(phase or "")
    whole = plan.get("epochs") if isinstance(plan, Mapping) else None
    return f"{words} {epoch + 1}{f'/{whole}' if is_number(whole) else ''}" if isinstance(epoch, int) else words


def _accuracy(results: Mapping[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What is known of the accuracy, in fields of `Listed`."""
    if truth := ground_truth_of(results):
        return {"accuracy": truth["accuracy"] / 100, "n": 1, "measured": "table"}
    mean, std, n = (results.get(key) for key in ("last_mean", "last_std", "n"))
    if is_number(mean) and isinstance(n, int):
        return {"accuracy": mean, "std": std if is_number(std) and math.isfinite(std) else None, "n": n} | {
            "measured": "test"
        }
    known = [row["val_accuracy"] for row in rows if is_number(row.get("val_accuracy"))]
    return {"accuracy": known[-1], "measured": "validation"} if known else {}

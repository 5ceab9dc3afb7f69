"""Checkpoint files: written whole or not at all, checked before they are read, never executed.

bytes 0..7    b"TOPOCELL"
bytes 8..11   version of the format, u32 little-endian
bytes 12..43  SHA-256 of the payload
bytes 44..    payload, as `torch.save` writes it, read back with `weights_only=True`
"""

import contextlib
import hashlib
import io
import re
import struct
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from topocell.errors import CheckpointError
from topocell.io import files

MAGIC = b"TOPOCELL"
VERSION = 1
_HEADER = struct.Struct("<8sI32s")
_ADVICE = "; restore it from a copy or delete it"
_NUMBERED = re.compile(r"([0-9]{6,})\.ckpt")


def save(path: str | Path, state: dict[str, Any]) -> None:
    """Write `state` to `path` so that a kill, a power cut or a full disk leaves the old file or the new one.

    `state` nests dicts (keys: str or int), lists, tuples, tensors, ints, floats, strs, bools and None.
    Subclasses of these come back as the plain kind, tensors without a gradient; a tensor that is a view into
    a larger storage is stored without the rest of it. Raises TypeError, naming the entry, for anything else,
    and CheckpointError when the file cannot be written; nothing of it is left then.
    """
    path = Path(path)
    buffer = io.BytesIO()
    torch.save(_plain(state, "state"), buffer)
    payload = buffer.getbuffer()
    try:
        files.replace(path, _HEADER.pack(MAGIC, VERSION, hashlib.sha256(payload).digest()), payload)
    except OSError as fault:
        raise CheckpointError(files.write_fault(path, fault)) from fault


def load(path: str | Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """The state that `save` wrote to `path`, its tensors on `map_location`.

    Raises CheckpointError, naming the file and the fault, for a file that is missing, empty, cut short,
    altered in any bit, of another version, or that holds anything but tensors and plain values.
    """
    try:
        data = memoryview(Path(path).read_bytes())
    except OSError as fault:
        raise CheckpointError(f"checkpoint {path} cannot be read: {files.reason(fault)}{_ADVICE}") from fault
    if len(data) == 0:
        raise CheckpointError(f"checkpoint {path} is empty{_ADVICE}")
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise CheckpointError(
            f"checkpoint {path} must begin with {MAGIC!r}, not {bytes(data[: len(MAGIC)])!r}{_ADVICE}"
        )
    if len(data) < _HEADER.size:
        raise CheckpointError(
            f"checkpoint {path} is cut short: {len(data)} bytes, and its header has {_HEADER.size}{_ADVICE}"
        )
    _, version, digest = _HEADER.unpack(data[: _HEADER.size])
    if version != VERSION:
        raise CheckpointError(
            f"checkpoint {path} must be of format version {VERSION}, but is of {version}; read it with the "
            "version of topocell that wrote it or delete it"
        )
    payload = data[_HEADER.size :]
    if hashlib.sha256(payload).digest() != digest:
        raise CheckpointError(
            f"checkpoint {path} is damaged or cut short: its {len(payload)} bytes do not match their checksum{_ADVICE}"
        )
    try:
        with warnings.catch_warnings(action="ignore"):  # torch warns of foreign pickles before it refuses them
            state = torch.load(io.BytesIO(payload), map_location=map_location, weights_only=True)
    except Exception as fault:  # whatever a foreign payload provokes in the reader
        words = next(iter(str(fault).splitlines()), "")
        raise CheckpointError(
            f"checkpoint {path} may hold tensors and plain values only, but reading it failed "
            f"({type(fault).__name__}: {words}){_ADVICE}"
        ) from fault
    if not isinstance(state, dict):
        raise CheckpointError(f"checkpoint {path} must hold a dict, but holds a {type(state).__name__}{_ADVICE}")
    return state


def places(*numbers: Any) -> list[int]:
    """Numbers of stages, epochs or steps that a state holds. Raises ValueError for what is no number from 0."""
    for number in numbers:
        if type(number) is not int or number < 0:
            raise ValueError(f"it stands at {str(number)[:40]!r}, which is no number from 0")
    return list(numbers)


#: Settings of an optimizer that say how it updates, not by how much.
_HOW = ("fused", "foreach", "capturable")

#: Entries in the state of an optimizer that are means over a dimension → that dimension.
FACTORED = {"row_var": -1, "col_var": -2}


def restore_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Let an optimizer resume from its `state_dict`. Raises ValueError where that is of parameters of other shapes.

    What an optimizer keeps has the shape of its parameter; the means of Adafactor have 1 in place of a size. Compiled
    optimizers do not look, and write beyond a tensor that is too small. How it updates stays as it was built, whatever
    device the state comes from; a learning rate that is a tensor keeps its place, from which recorded steps read it.
    """
    own = [{key: group[key] for key in _HOW if key in group} for group in optimizer.param_groups]
    groups = [{**saved, **how} for saved, how in zip(state["param_groups"], own, strict=True)]
    rates = [group["lr"] for group in optimizer.param_groups]
    optimizer.load_state_dict({**state, "param_groups": groups})
    for group, rate in zip(optimizer.param_groups, rates):
        loaded = float(group["lr"])
        group["lr"] = rate.fill_(loaded) if isinstance(rate, Tensor) else loaded
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            if not isinstance(value, Tensor) or not value.dim():
                continue
            found, needed = tuple(value.shape), tuple(parameter.shape)
            mean = FACTORED.get(name)
            if found != (needed if mean is None else (*needed[:mean], 1, *needed[mean:][1:])):
                raise ValueError(f"{name} of an optimizer has shape {found}, its parameter {needed}")


class Saved(NamedTuple):
    """A numbered checkpoint: its file, the state, the length of the metrics then, and the hash of the recipe."""

    path: Path
    state: dict[str, Any]
    metrics_bytes: int
    recipe: str | None


class Checkpoints:
    """The checkpoints of one run in directory `folder`: a numbered sequence, and some kept by name.

    `warnings` collects, in words, which damaged ones `latest` passed over.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.warnings: list[str] = []
        self._damaged: set[int] = set()

    def numbers(self) -> list[int]:
        """Numbers in use, oldest first."""
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted(int(match[1]) for path in found if (match := _NUMBERED.fullmatch(path.name)))

    def numbered(self, number: int) -> Path:
        """Path of checkpoint `number`."""
        return self.folder / f"{number:06d}.ckpt"

    def named(self, name: str) -> Path:
        """Path of the checkpoint kept as `name`. Raises CheckpointError for a name that is no plain word."""
        if not re.fullmatch(r"[A-Za-z_][\w.-]*", name):
            raise CheckpointError(
                f"a checkpoint's name must be a word that begins with a letter, but is {name!r}; choose one"
            )
        return self.folder / f"{name}.ckpt"

    def save(self, state: dict[str, Any], metrics_bytes: int, keep: int, recipe: str) -> None:
        """Store `state` as the newest, with the length of the metrics and a hash of the recipe.

        All but `keep` intact ones are dropped. Raises as the function `save`, and has dropped nothing then.
        """
        numbers = self.numbers()
        new = max(numbers, default=0) + 1
        save(self.numbered(new), {"metrics_bytes": metrics_bytes, "state": state, "recipe": recipe})
        intact = [number for number in [*numbers, new] if number not in self._damaged]
        for number in self._damaged.union(intact[:-keep]):
            with contextlib.suppress(OSError):  # tried again after the next save
                self.numbered(number).unlink()
        self._damaged.clear()

    def latest(self, map_location: str | torch.device = "cpu") -> Saved | None:
        """Load the newest intact one, or None when none was ever stored. Versions before did not store the recipe.

        Raises CheckpointError when there are checkpoints and none is intact.
        """
        faults: dict[int, str] = {}
        for number in reversed(self.numbers()):
            path = self.numbered(number)
            try:
                saved = load(path, map_location)
            except CheckpointError as fault:
                faults[number] = str(fault).removesuffix(_ADVICE)
                continue
            if not _of_a_run(saved):
                faults[number] = f"checkpoint {path} holds something else than the state of a run"
                continue
            self.warnings += [f"{fault}; resuming from {path.name} instead" for fault in faults.values()]
            self._damaged = set(faults)
            return Saved(path, saved["state"], saved["metrics_bytes"], saved.get("recipe"))
        if faults:
            raise CheckpointError(
                f"a run resumes from an intact checkpoint, but all {len(faults)} in {self.folder} are damaged "
                f"(newest: {next(iter(faults.values()))}); restore the run from a copy, or delete its "
                "directory and start again"
            )
        return None


def _of_a_run(saved: dict[str, Any]) -> bool:
    """Return whether this is what `Checkpoints.save` stores."""
    length, state, recipe = (saved.get(key) for key in ("metrics_bytes", "state", "recipe"))
    of_length = type(length) is int and length >= 0
    known = saved.keys() - {"recipe"} == {"metrics_bytes", "state"}
    return known and of_length and isinstance(state, dict) and isinstance(recipe, str | None)


def _plain(value: Any, where: str) -> Any:
    """`value` in terms of the types that `load` accepts; `where` names it in errors."""
    if value is None:
        return None
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, torch.Tensor):
        value = value.detach()
        return value.clone() if value.untyped_storage().nbytes() > value.nbytes else value
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str | int):
                raise TypeError(f"keys of a checkpoint must be str or int, but {where} has {key!r}")
        return {_plain(key, where): _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    raise TypeError(f"a checkpoint holds tensors and plain values only, but {where} is a {type(value).__name__}")

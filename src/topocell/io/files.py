"""Files that survive: replaced whole or not at all, grown by whole lines, locked against a second process."""

import contextlib
import errno
import functools
import io
import json
import math
import os
import platform
import re
import reprlib
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock

from topocell.errors import RunError

LOCK = ".lock"
_TEMPORARY = re.compile(r"\..+\.[0-9]+\.tmp")
#: Without it, Windows would write every line feed as two bytes.
_BINARY = getattr(os, "O_BINARY", 0)


def replace(path: Path, *parts: bytes | memoryview) -> None:
    """Make `path` hold `parts`, one after the other, durably and at once: readers see the old or the new.

    Writes `.NAME.PID.tmp` in the same directory, flushes it to the disk and renames it. Raises OSError, whose
    `filename` is `path`; the temporary file is gone then, and the old one untouched.
    """
    if not path.name:  # "." and "/"
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _BINARY, 0o666)
        try:
            _write(descriptor, *parts)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException as fault:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(fault, OSError):  # that of a file that is open names none
            fault.filename, fault.filename2 = str(path), None
        raise
    sync_directory(path.parent)


def replace_by(path: Path, write: Callable[[io.BytesIO], object]) -> None:
    """Make `path` hold what `write` gives to a buffer, as `replace` does: PyTorch hides why a file cannot be written.

    Raises OSError.
    """
    buffer = io.BytesIO()
    write(buffer)
    replace(path, buffer.getbuffer())


def write_out(path: Path, data: bytes) -> None:
    """Write what a user asked for where they said.

    A file is replaced as by `replace`; of a link the file that it leads to. What is no file, such as a pipe or a
    device, stays what it is and is written into, and so does what is open already, such as /dev/stdout, at its end.
    Raises OSError.
    """
    is_open = path.parts[:3] in (("/", "dev", "stdout"), ("/", "dev", "stderr"), ("/", "dev", "fd"))
    if is_open or (path.exists() and not path.is_file()):
        with open(path, "ab" if is_open else "wb") as file:
            file.write(data)
    else:
        replace(Path(os.path.realpath(path)) if path.is_symlink() else path, data)


def append_line(path: Path, line: str) -> None:
    """Add `line` to `path` durably. Raises OSError; no part of the line stays then."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _BINARY, 0o666)
    try:
        length = os.fstat(descriptor).st_size
        try:
            _write(descriptor, f"{line}\n".encode(errors="backslashreplace"))
        except BaseException:
            os.ftruncate(descriptor, length)
            raise
    finally:
        os.close(descriptor)


def cut(path: Path, length: int) -> None:
    """Drop, durably, what `path` holds beyond `length` bytes. Raises OSError."""
    with path.open("r+b") as file:
        file.truncate(length)
        os.fsync(file.fileno())


def whole_lines(path: Path) -> list[bytes]:
    """Lines, with their ends, of a file of JSON lines, without a last one that is torn or unreadable."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    if lines and not (lines[-1].endswith(b"\n") and is_json(lines[-1])):
        lines.pop()
    return lines


def is_json(text: str | bytes) -> bool:
    """Return whether `text` is one JSON value."""
    try:
        from_json(text)
    except ValueError:
        return False
    return True


def from_json(text: str | bytes, unique: bool = False) -> Any:
    """The value of a JSON text. Raises ValueError for any other, and for one that nests too deeply.

    With `unique` also where an object has a key twice, of which the last would count.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique if unique else None)
    except RecursionError:
        raise ValueError("it nests too deeply") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"a key is there twice in {reprlib.repr([key for key, _ in pairs])}")
    return found


def json_object(line: bytes) -> dict[str, Any] | None:
    """The JSON object of a line; None where it is no such."""
    try:
        found = from_json(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


#: A list of numbers over several lines, which no text between quotation marks is: there a line does not end.
_NUMBERS = re.compile(r"\[\n\s+((?:-?[\d.eE+-]+,\n\s+)*-?[\d.eE+-]+)\n\s+\]")


def to_json(value: Any, indent: int | None = None) -> str:
    """`value` as JSON, with null in place of every NaN and infinity, which JSON cannot say."""
    text = json.dumps(_finite(value), indent=indent, allow_nan=False)
    return text if indent is None else _NUMBERS.sub(lambda found: f"[{' '.join(found[1].split())}]", text)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def existing(text: str | Path) -> Path:
    """The path that a user gives, with `~` for the home directory, whether or not something is there.

    Raises OSError where the system cannot look: no such user, too long a name, a directory closed to us.
    """
    try:
        path = Path(text).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (RuntimeError, ValueError) as fault:  # `~nobody`, a NUL
        raise OSError(errno.EINVAL, str(fault)) from None
    return path


def file_name(text: str) -> str:
    """The last part of a path, of this system or of Windows; a plain name as it is."""
    return re.split(r"[/\\]", text.rstrip("/\\"))[-1] or text


def sync_directory(path: Path) -> None:
    """Make the names in directory `path` durable, where the system can. Raises OSError."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows opens no directories
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as fault:
        if fault.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems sync no directories
            raise
    finally:
        os.close(descriptor)


def is_temporary(path: Path) -> bool:
    """Return whether `path` is named like a file that `replace` had not finished."""
    return _TEMPORARY.fullmatch(path.name) is not None


def lock(folder: Path) -> Callable[[], None]:
    """Lock `folder` for this process; calling the value, once or more often, gives the lock back.

    The lock ends with the process, however that ends, even when children forked from it live on. Raises
    OSError, or RunError naming the process that holds it.
    """
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | _BINARY, 0o666)
    try:
        if not filelock.lock_descriptor(descriptor, blocking=False):
            holder = _holder(descriptor) or "?"
            raise RunError(
                f"one process at a time may use {folder}, but process {holder} is using it; wait for its "
                "end, stop it, or choose another --out"
            )
        owner = f" {os.getpid()} on {platform.node()}".encode()
        os.write(descriptor, owner)
        os.ftruncate(descriptor, len(owner))
    except BaseException:
        os.close(descriptor)
        raise
    _locked.add(descriptor)
    return functools.partial(_unlock, descriptor)


def is_locked(folder: Path) -> bool:
    """Return whether a process uses `folder`, see `lock`; False where that cannot be known.

    The lock is tried, for a moment, only where the process that it names may still be there.
    """
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _BINARY)
    except OSError:
        return False
    try:
        number, _, host = _holder(descriptor).partition(" on ")
        if host == platform.node() and number.isdecimal() and not _lives(int(number)):
            return False
        return not filelock.lock_descriptor(descriptor, blocking=False)
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    """The process that a lock names, as `NUMBER on HOST`."""
    os.lseek(descriptor, 1, os.SEEK_SET)  # where Windows locks the first byte, others cannot read it
    return os.read(descriptor, 200).decode(errors="replace").strip()


def _lives(process: int) -> bool:
    """Return whether a process of this machine may be there."""
    if os.name != "posix":  # where os.kill would end it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def refuse_links(folder: Path, *inside: str) -> None:
    """Refuse a directory in which a name, or one in its directories `inside`, is a link, a pipe or a device.

    Whoever made such a directory would say what we overwrite elsewhere. The directory itself may be a link. Raises
    RunError, or OSError when the directory cannot be read.
    """
    for place in (folder, *(folder / name for name in inside)):
        for found in os.scandir(place) if place.is_dir() else ():
            if found.is_symlink() or not (found.is_file() or found.is_dir()):
                raise RunError(
                    f"a run directory holds plain files and directories, but {found.path} is "
                    f"{'a link' if found.is_symlink() else 'neither'}; put what it stands for in its place"
                )


@contextlib.contextmanager
def guarded(path: Path, option: str = "") -> Iterator[None]:
    """Turn an OSError inside into a RunError that says why `path` could not be written, see `write_fault`."""
    try:
        yield
    except OSError as fault:
        raise RunError(write_fault(path, fault, option)) from fault


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder for temporary files, which is gone afterwards; `write_fault` knows what lies in it.

    Raises RunError where it cannot be made.
    """
    try:
        made = tempfile.TemporaryDirectory()
    except OSError as fault:  # without a `tempdir` each that the system offers was tried
        found = f"{tempfile.tempdir} is not" if tempfile.tempdir else "none of this system is"
        raise RunError(f"{_TEMPORARY_RULE}, but {found} ({fault.strerror}); {_TEMPORARY_STEP}") from fault
    with made as name:
        folder = Path(name)
        _temporary.append(folder)
        try:
            yield folder
        finally:
            _temporary.remove(folder)


#: What the system says of a place that is full, or closed to us.
_FULL, _CLOSED = (errno.ENOSPC, errno.EDQUOT), (errno.EACCES, errno.EPERM, errno.EROFS)


@contextlib.contextmanager
def writing_in(folder: Path) -> Iterator[None]:
    """Turn an OSError inside into a RunError, see `write_fault`, where it says that `folder` is full or closed to us.

    One that names a file elsewhere is raised as it is; one that names none, as that of a file that is open, counts.
    """
    try:
        yield
    except OSError as fault:
        named = isinstance(fault.filename, str | bytes)
        place = Path(os.fsdecode(fault.filename)) if named else folder
        if fault.errno not in (*_FULL, *_CLOSED) or not place.is_relative_to(folder):
            raise
        raise RunError(write_fault(place, fault)) from fault


#: Folders of `temporary_folder` that are in use.
_temporary: list[Path] = []
_TEMPORARY_RULE = "the folder of temporary files must be writable and have room"
_TEMPORARY_STEP = "make room, or set TMPDIR to another folder"


def _is_temporary(path: Path) -> bool:
    """Return whether a path is that of a temporary folder that is in use, or lies in one."""
    return any(folder in (path, *path.parents) for folder in _temporary)


def write_fault(path: Path, fault: OSError, option: str = "") -> str:
    """One line that says why `path` could not be written and what to do about it.

    Args:
        path: of the file or directory.
        fault: of the system.
        option: by which the command at work takes another place, such as `--out`; none where it has none.
    """
    if _is_temporary(path):
        return f"{_TEMPORARY_RULE}, but {path} cannot be written ({reason(fault)}); {_TEMPORARY_STEP}"
    place = f"choose another place{f' ({option})' if option else ''}"
    if fault.errno in _FULL:
        return (
            f"the disk must have room for {path}, but it is full ({reason(fault)}); free some space and give "
            "the same command again: what was saved before is intact"
        )
    if fault.errno in _CLOSED:
        return f"{path} must be writable, but is not ({reason(fault)}); change that or {place}"
    return f"{path} must be writable, but writing failed ({reason(fault)}); mend that or {place}"


def reason(fault: OSError) -> str:
    """The system's words for `fault`."""
    return (fault.strerror or str(fault)).lower()


def unread(fault: Exception) -> str:
    """Why a file of text cannot be read, and the next step."""
    reason = getattr(fault, "strerror", None)
    return f"{reason}; check the path" if reason else "it is not UTF-8 text; save it as UTF-8"


def _write(descriptor: int, *parts: bytes | memoryview) -> None:
    """Write every byte of `parts`, in as many calls as the system needs, down to the disk."""
    for part in parts:
        rest = memoryview(part)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    os.fsync(descriptor)


_locked: set[int] = set()


def _unlock(descriptor: int) -> None:
    if descriptor in _locked:
        _locked.remove(descriptor)
        os.close(descriptor)


def _close_in_child() -> None:
    """A forked child (a data loader's worker) must not keep the lock of a parent that was killed."""
    while _locked:
        os.close(_locked.pop())


if hasattr(os, "register_at_fork"):  # where processes fork
    os.register_at_fork(after_in_child=_close_in_child)

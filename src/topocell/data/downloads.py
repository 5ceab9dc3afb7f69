"""Files that a library fetches: by one process of a machine, while the others wait."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import filelock

Built = TypeVar("Built")


def fetched(place: Path, build: Callable[[bool], Built], download: bool) -> Built:
    """Return what is built from files in a folder, which are fetched first where they are missing and may be.

    Of several processes, as of one run or of a sweep, one fetches; the others wait, and find the files. Files that are
    there are read without a lock, so that the folder need not be writable.

    Args:
        place: the folder, which is made to fetch into.
        build: returns it; told whether it may fetch, which it does only where files are missing or damaged.
        download: whether anything may be fetched.

    Raises:
        Exception: whatever `build` raises.
    """
    try:
        return build(False)
    except (OSError, RuntimeError):
        if not download:
            raise
    place.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(place / ".download.lock")
    with suppress(NotImplementedError):  # of a file system without locks
        lock.acquire()
    try:
        return build(True)
    finally:
        lock.release()

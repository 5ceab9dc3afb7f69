"""The cache folder, for what can be made again: decoded image folders and compiled kernels."""

import os
from contextlib import suppress
from pathlib import Path


def cache_folder() -> Path:
    """The folder that TOPOCELL_CACHE names, or ~/.cache/topocell; it may not exist yet, and may be deleted.

    `~` is the home directory here too: no shell has seen what a container or a service is given.
    """
    folder = Path(os.environ.get("TOPOCELL_CACHE") or Path.home() / ".cache" / "topocell")
    with suppress(RuntimeError):  # no such user
        folder = folder.expanduser()
    return folder

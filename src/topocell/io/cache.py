"""The cache folder, for what can be made again: decoded image folders and compiled kernels."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder that TOPOCELL_CACHE names, or ~/.cache/topocell; it may not exist yet, and may be deleted."""
    return Path(os.environ.get("TOPOCELL_CACHE") or Path.home() / ".cache" / "topocell")

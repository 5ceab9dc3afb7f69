"""Compile the C files on first use and keep what comes out in the cache folder."""

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

from topocell.errors import RunError
from topocell.io.cache import cache_folder

FOLDER = Path(__file__).parent
FLAGS = ("-O3", "-ffp-contract=fast", "-fPIC", "-shared")
#: Seconds that the compiler may take, which are some on an idle machine and minutes on a busy one.
LONGEST = 600


def load(source: str, *options: str) -> ctypes.CDLL | None:
    """The library of a C file of this folder; None where it cannot be compiled or loaded.

    TOPOCELL_CFLAGS adds options of the user's own.

    Raises:
        RunError: others may write the folder, or the compiler takes too long: not None, since a run that has begun with
            kernels needs those for other widths too.
    """
    return _load(source, *options, *os.environ.get("TOPOCELL_CFLAGS", "").split())


@cache
def _load(source: str, *options: str) -> ctypes.CDLL | None:
    compiler = shutil.which(os.environ.get("CC") or "cc")
    if compiler is None or sys.platform == "win32":
        return None
    try:
        return ctypes.CDLL(str(compiled(compiler, source, options)))
    except subprocess.TimeoutExpired as fault:
        raise RunError(
            f"kernels are compiled in {LONGEST} seconds at most, but {compiler} took longer; try again when the "
            f"machine is less busy, or go without them, several times slower, with TOPOCELL_NATIVE=0"
        ) from fault
    except (OSError, subprocess.SubprocessError):
        return None


def compiled(compiler: str, source: str, options: tuple[str, ...]) -> Path:
    """The shared library of a C file, compiled unless the cache has it for this source, options and machine.

    Raises:
        RunError: others may write the folder. OSError, SubprocessError: it cannot be compiled.
    """
    path = cache_folder() / "kernels" / f"{_key(compiler, source, options)}.so"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not _is_private(path.parent):
        raise RunError(
            f"compiled kernels are run, so only you may be able to write {path.parent}, but it is a link, another "
            f"user's, or open to others; delete it, or name another folder with TOPOCELL_CACHE"
        )
    if path.exists() and _is_private(path):
        return path
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / "kernels.so"
        command = [compiler, *FLAGS, *options, str(FOLDER / source), "-o", str(made), "-lm"]
        # Apple's compiler has no OpenMP; without it the kernels run on one thread.
        if subprocess.run([*command, "-fopenmp"], capture_output=True, timeout=LONGEST).returncode != 0:
            subprocess.run(command, capture_output=True, check=True, timeout=LONGEST)
        made.chmod(0o700)
        os.replace(made, path)
    return path


def build_key(source: str) -> str:
    """Names a C file, the compiler, and the model of the processor: where one changes, another key."""
    compiler = shutil.which(os.environ.get("CC") or "cc")
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.exists() else []
    model = next((line for line in lines if line.startswith(("model name", "CPU part"))), platform.processor())
    return f"{_key(compiler, source, ()) if compiler else ''} {model}"


@cache
def _key(compiler: str, source: str, options: tuple[str, ...]) -> str:
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=60).stdout
    machine = f"{sys.platform} {platform.machine()}".encode()
    parts = ((FOLDER / source).read_bytes(), version, machine, repr([FLAGS, *options]).encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:20]


def _is_private(path: Path) -> bool:
    """Return whether nobody but its owner, who is this user or root, can have written what is there; links are not."""
    found = path.lstat()
    owned = not stat.S_ISLNK(found.st_mode) and found.st_uid in (os.geteuid(), 0)
    return owned and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)

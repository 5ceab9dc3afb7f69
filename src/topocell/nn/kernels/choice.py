"""Compiled kernels or the library: what is faster is measured once for each shape and processor, and kept.

A decision is kept in the cache folder, where the first process to measure decides for all, and in the run whose numbers
rest on it (`Record`), whose own decisions come first: other kernels round differently, so a run that is resumed takes
the same ones again. Where `fused` kernels are asked for nothing is measured (`topocell.nn.kernels.mode`).
"""

import contextlib
import hashlib
import math
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import torch

from topocell.io.cache import cache_folder
from topocell.nn.kernels.cpu import build_key, instruction_set
from topocell.nn.kernels.mode import mode

#: The way of PyTorch's own functions; the others are widths of vector.
LIBRARY = "library"
#: Images of the batch that is timed, timed rounds, and the longest that one shape may take in all, in seconds.
IMAGES, ROUNDS, LONGEST = 8, 8, 0.5
#: The first way is left for one that takes less than this share of its time.
SHARE = 0.95

Ways = Mapping[str, Callable[[], object]]


class Record:
    """The decisions of one run, in the order in which they were needed.

    Args:
        found: what an earlier process of the run has decided: what is asked → way.
        save: keeps them all; called before a new one is followed.
    """

    def __init__(self, found: Mapping[str, str], save: Callable[[dict[str, str]], None]) -> None:
        self.found, self._save = dict(found), save

    def add(self, question: str, way: str) -> None:
        """Keep a decision."""
        if self.found.get(question) != way:
            self.found[question] = way
            self._save(self.found)


_records: list[Record] = []
_known: dict[str, str] = {}


def follow(record: Record) -> None:
    """Let the decisions of a run come first, and write down in it what is decided from now on."""
    _records.append(record)
    _known.clear()


def leave(record: Record) -> None:
    """Undo `follow`."""
    if record in _records:
        _records.remove(record)
        _known.clear()


def fastest(what: str, ways: Ways) -> str:
    """The name of the fastest of some ways to compute the same.

    Args:
        what: the operation and its shape; together with instruction set and number of threads it is the question.
        ways: each runs the operation once, forward and backward, without drawing random numbers. The first one is
            taken where measuring is not wanted.
    """
    first = next(iter(ways))
    if mode() == "fused":
        return first
    question = f"{instruction_set().name}, {torch.get_num_threads()} threads: {what}"
    if question not in _known:
        decided = next((r.found[question] for r in _records if r.found.get(question) in ways), None)
        _known[question] = decided or _of_machine(question, ways)
    note(question, _known[question])
    return _known[question]


def recall(question: str) -> str | None:
    """What the runs that are followed have decided, None where nothing."""
    return next((record.found[question] for record in _records if question in record.found), None)


def note(question: str, way: str) -> None:
    """Write a decision that was made elsewhere down in the runs that are followed."""
    for record in _records:
        record.add(question, way)


def waves(*shape: int) -> torch.Tensor:
    """Numbers between −1 and 1 that are neither random nor alike, to run a way on."""
    return torch.arange(math.prod(shape), dtype=torch.float32).sin_().view(shape)


def _of_machine(question: str, ways: Ways) -> str:
    """What the cache folder says, or what is measured and then written there; the first to write decides."""
    folder = cache_folder() / "choices" / _machine_key()
    path = folder / hashlib.sha256(question.encode()).hexdigest()[:20]
    if (kept := _read(path)) in ways:
        return kept
    found = _measured(ways)
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
            file.write(found.encode())
        try:
            with contextlib.suppress(FileExistsError):
                os.link(file.name, path)
            if _read(path) not in ways:  # damaged
                os.replace(file.name, path)
        finally:
            Path(file.name).unlink(missing_ok=True)
        if (kept := _read(path)) in ways:
            return kept
    return found


def _read(path: Path) -> str:
    try:
        return path.read_bytes()[:40].decode(errors="replace")
    except OSError:
        return ""


@cache
def _machine_key() -> str:
    parts = (build_key("kernels.c"), torch.__version__, os.environ.get("ONEDNN_MAX_CPU_ISA", ""))
    return hashlib.sha256("\0".join((*parts, torch.backends.cpu.get_cpu_capability())).encode()).hexdigest()[:16]


def _measured(ways: Ways) -> str:
    """The way with the shortest time of all rounds, or the first where that is hardly longer.

    In a thread of its own, where no mode, hook or setting of the caller's is in force.
    """
    times = dict.fromkeys(ways, float("inf"))

    def measure() -> None:
        begin = time.perf_counter()
        for round_ in range(ROUNDS + 1):
            for name, call in ways.items():
                start = time.perf_counter()
                call()
                if round_:  # the first call compiles and fills caches
                    times[name] = min(times[name], time.perf_counter() - start)
            if round_ and time.perf_counter() - begin > LONGEST:
                break

    thread = threading.Thread(target=measure)
    thread.start()
    thread.join()
    first, best = next(iter(ways)), min(times, key=lambda name: times[name])
    return best if times[best] < SHARE * times[first] else first

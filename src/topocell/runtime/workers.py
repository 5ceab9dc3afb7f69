"""Items made by several processes at once, one thread each, which all end with the process that started them."""

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import Any

import torch

from topocell.errors import RunError, TopocellError
from topocell.registry import load_plugins
from topocell.runtime.hooks import Interrupted, on_signals

if sys.platform == "linux":
    from multiprocessing.context import ForkServerContext as _Context
    from multiprocessing.context import ForkServerProcess as _Process
else:
    from multiprocessing.context import SpawnContext as _Context
    from multiprocessing.context import SpawnProcess as _Process

#: Seconds between two checks for a request to stop.
POLL_SECONDS = 0.5

#: Seconds that a worker has to save what it is at, once asked to stop.
GRACE_SECONDS = 120.0

#: Imported before the first worker starts, where workers are forked.
PRELOAD = ["topocell.studies", "topocell.cli", "topocell.data.stream"]


@dataclass(frozen=True)
class Task:
    """An item to be made: `make(*args)`. Both go to another process, so `make` is a function of a module.

    Attributes:
        key: name of the item.
    """

    key: str
    make: Callable[..., Mapping[str, Any]]
    args: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Made:
    """Answer of a worker: the record and the seconds it took, or the fault that it met."""

    record: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    fault: Exception | None = None


def make_all(
    tasks: Sequence[Task],
    workers: int,
    begun: Callable[[str], None],
    done: Callable[[str, Mapping[str, Any], float], object],
) -> None:
    """Make every task on `workers` processes; `done(key, record, seconds)` is called for each when it is made.

    No state of this process but its environment variables is copied into the workers; see `forking`. Each has a
    process group of its own: Ctrl-C reaches this process alone, which tells them to save and stop. If this process is
    killed, they end at once.

    Raises:
        Interrupted: SIGINT or SIGTERM, after every worker has saved what it was at.
        RunError: a worker was killed. Otherwise whatever `make` raises, after the others have saved.
    """
    if not tasks:
        return
    waiting, crew = deque(tasks), []
    with stop_requests() as stops:
        try:
            context = forking()
            for _ in range(min(workers, len(tasks))):
                crew.append(Worker(context))
            for worker in crew:
                worker.begin(waiting.popleft(), begun)
            while busy := {worker.pipe: worker for worker in crew if worker.task is not None}:
                for pipe in connection.wait(list(busy), POLL_SECONDS):
                    worker = busy[pipe]
                    task, made = worker.end()
                    done(task.key, made.record, made.seconds)
                    if waiting and not stops:
                        worker.begin(waiting.popleft(), begun)
                if stops:
                    raise Interrupted(stops[0])
        finally:
            for worker in crew:
                worker.stop()
            for worker in crew:
                worker.join()


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Note the first SIGINT or SIGTERM inside in the list; a second one is final."""
    stops: list[int] = []

    def note(number: int) -> None:
        if stops:
            raise KeyboardInterrupt
        stops.append(number)

    with on_signals(note):
        yield stops


#: What tells workers to stop.
_STOPS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def _without_script() -> Iterator[None]:
    """Let no process that starts import the script that this one runs."""
    script = sys.modules["__main__"]
    spec, file = script.__spec__, script.__dict__.pop("__file__", None)
    script.__spec__ = None
    try:
        yield
    finally:
        script.__spec__ = spec
        if file is not None:
            script.__file__ = file


class _Alone(_Process):
    @staticmethod
    def _Popen(process_obj: Any) -> Any:
        with _without_script():
            return _Process._Popen(process_obj)


class _StartingAlone(_Context):
    Process = _Alone


def forking(*needed: str, script: bool = True) -> Any:
    """Return the context of multiprocessing in which workers are started.

    Args:
        needed: modules that they are going to import, beside `PRELOAD`.
        script: whether they import the script that this process runs, which may have pieces of a user's own. A script
            that does more than that where it is imported has to say `if __name__ == "__main__":`.

    On Linux they are forks of a process that has imported torch and topocell and done nothing else ("forkserver"):
    importing takes seconds, more where memory is short, and is done once for all of them. Elsewhere, where libraries
    may not survive a fork, every worker imports for itself ("spawn").
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn") if script else _StartingAlone()
    from multiprocessing import forkserver, resource_tracker

    multiprocessing.set_forkserver_preload([*PRELOAD, *needed])
    resource_tracker.ensure_running()  # which lifts the block of signals that follows
    # The process that is forked from must outlive signals to all of our group: it says when workers have ended.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return multiprocessing.get_context("forkserver") if script else _StartingAlone()


class Ended(Exception):
    """The process of a worker has ended in the middle of a task; the message says by what."""


class Worker:
    """One process and what it is at.

    Args:
        context: what `forking` returns.
        environment: variables of its environment that differ from ours.
    """

    def __init__(self, context: Any, environment: Mapping[str, str] | None = None) -> None:
        self.pipe, theirs = context.Pipe()
        self.task: Task | None = None
        surroundings = {**os.environ, **(environment or {})}
        self.process = context.Process(target=_work, args=(theirs, surroundings), daemon=True)
        self.process.start()
        theirs.close()

    def begin(self, task: Task, begun: Callable[[str], None]) -> None:
        begun(task.key)
        self.task = task
        with suppress(BrokenPipeError):  # a dead worker is found when its answer is read
            self.pipe.send(task)

    def end(self) -> tuple[Task, Made]:
        """The task and its answer, once the pipe has one. Raises as `make_all`."""
        task = self.task
        assert task is not None
        try:
            made = self.answer()
        except Ended as end:
            raise RunError(
                f"a worker must finish its items, but the one at {task.key} was ended by {end}; the same command "
                f"resumes, with fewer --workers if memory was short"
            ) from None
        if made.fault is not None:
            raise made.fault
        return task, made

    def answer(self) -> Made:
        """The answer to its task, once the pipe has one. Raises Ended."""
        try:
            made: Made = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            code = self.process.exitcode or 0
            raise Ended(signal.Signals(-code).name if code < 0 else f"exit code {code}") from None
        self.task = None
        return made

    def stop(self) -> None:
        """Tell it to save and end; an idle worker ends when its pipe closes."""
        if self.task is not None:
            self.process.terminate()
        self.pipe.close()

    def join(self) -> None:
        """Wait until it has ended; no longer than `GRACE_SECONDS`, nor past a second signal."""
        try:
            self.process.join(GRACE_SECONDS)
        finally:
            if self.process.is_alive():
                self.process.kill()


def _work(pipe: connection.Connection, environment: Mapping[str, str]) -> None:
    """The life of a worker: take a task, answer, until the pipe closes."""
    os.environ.clear()
    os.environ.update(environment)
    stand_alone(_STOPS)
    torch.set_num_threads(1)
    load_plugins()
    with suppress(EOFError, BrokenPipeError, Interrupted, KeyboardInterrupt):
        while True:
            task: Task = pipe.recv()
            start = time.monotonic()
            try:
                made = Made(dict(task.make(*task.args)), time.monotonic() - start)
            except TopocellError as fault:
                made = Made(fault=fault)
            except Exception as fault:  # a bug of ours: its traceback must not be lost between processes
                made = Made(fault=RuntimeError("".join(traceback.format_exception(fault))))
            pipe.send(made)


def stand_alone(signals: Iterable[int]) -> None:
    """Be a process group of one's own, open to some signals, that ends with the process that started it."""
    if hasattr(os, "setpgrp"):  # Windows has no process groups of this kind
        os.setpgrp()
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    threading.Thread(target=end_with_parent, daemon=True).start()


def usable_cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def end_with_parent() -> None:
    """End this process as soon as the one that started it is gone: what it was at is safe on the disk."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)

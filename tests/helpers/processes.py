"""Several processes that train together, forked from this one: what torchrun starts, without its start-up time."""

import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class End(NamedTuple):
    """How a process ended: its exit code, or minus a signal, and what it printed."""

    code: int
    text: str


def trained_together(n: int, act: Callable[[int], int | None], folder: Path, seconds: int = 300) -> list[End]:
    """Call `act` with its number in each of `n` processes with the variables of torchrun; returns how each ended."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for number in range(n):
        child = os.fork()
        if child == 0:
            _child(number, n, port, act, folder / f"{number}.txt", seconds)
        children.append(child)
    ends = []
    for number, child in enumerate(children):
        _, status = os.waitpid(child, 0)
        ends.append(End(os.waitstatus_to_exitcode(status), (folder / f"{number}.txt").read_text()))
    return ends


def _child(number: int, n: int, port: int, act: Callable[[int], int | None], to: Path, seconds: int) -> None:
    """Act and end, never to return."""
    code = 70  # nothing that topocell returns
    try:
        file = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout = sys.stderr = os.fdopen(os.dup(file), "w", buffering=1)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)
        named = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": n, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in named.items()})
        code = act(number) or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)

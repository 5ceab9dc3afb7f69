"""Faults that a job of tests/helpers/forked.py puts into its own process before it runs a command."""

import ctypes
import datetime
import errno
import itertools
import math
import os
import signal
import time
from collections.abc import Callable
from typing import Any


def failing_call(name: str, at: int, code: str) -> None:
    """Call number `at` of `os.NAME`, and all that follow, fail with the error `code`; a write stores a part first."""
    number, real, calls = getattr(errno, code), getattr(os, name), itertools.count(1)

    def call(*arguments: Any, **named: Any) -> Any:
        if next(calls) < at:
            return real(*arguments, **named)
        if name == "write":
            real(arguments[0], memoryview(arguments[1])[: len(arguments[1]) // 2])
        raise OSError(number, os.strerror(number))

    setattr(os, name, call)


def deadly_call(name: str, at: int) -> None:
    """The process is killed before call number `at` of `os.NAME`."""
    real, calls = getattr(os, name), itertools.count(1)

    def call(*arguments: Any, **named: Any) -> Any:
        if next(calls) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **named)

    setattr(os, name, call)


def backward_clocks(seconds: float) -> None:
    """Every look at a clock is `seconds` before the last one."""
    looks = itertools.count(1)

    def backward(start: float) -> Callable[[], float]:
        return lambda: start - seconds * next(looks)

    start = time.time()
    time.time, time.monotonic = backward(start), backward(time.monotonic())

    class Backward(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return datetime.datetime.fromtimestamp(start - seconds * next(looks), tz)

    datetime.datetime = Backward  # type: ignore[misc]


def broken_image(stream: str, epoch: int, step: int) -> None:
    """The first image of one batch is infinite: of a stream that ends in a word, at an epoch and step."""
    from topocell.data.splits import Batches

    real = Batches.batch

    def batch(self: Batches, *at: int) -> Any:
        x, y = real(self, *at)
        if self.stream.endswith(stream) and at == (epoch, step):
            x[0] = math.inf
        return x, y

    Batches.batch = batch  # type: ignore[method-assign,assignment]


def ordinary_user() -> None:
    """Root without its rights to pass over permissions; another user might not even reach the sources (Linux)."""
    version_3, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(version_3, none) != 0:
        raise OSError(ctypes.get_errno(), "capset")


FAULTS: dict[str, Callable[..., None]] = {
    "failing call": failing_call,
    "deadly call": deadly_call,
    "backward clocks": backward_clocks,
    "broken image": broken_image,
    "ordinary user": ordinary_user,
}

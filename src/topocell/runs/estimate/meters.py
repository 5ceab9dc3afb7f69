"""Meters of a probe by device: seconds between two moments, and the most bytes that some work holds at once."""

import time
from collections.abc import Callable

import torch

from topocell.runtime.memory import LiveBytes


class HostMeter:
    """For a CPU: wall time, and all tensors that are alive."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap(self) -> float:
        """Return seconds since the last lap."""
        before, self._last = self._last, time.perf_counter()
        return self._last - before

    def peak(self, work: Callable[[], object]) -> int:
        """Return the most bytes of tensors that are made in `work` and alive at once."""
        with LiveBytes() as alive:
            work()
        return alive.peak


class CudaMeter:
    """For a GPU: events on its stream, and what torch allocates there.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last = self._event()

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def lap(self) -> float:
        """Return seconds since the last lap, when all work is done."""
        before, self._last = self._last, self._event()
        self._last.synchronize()
        return before.elapsed_time(self._last) / 1000

    def peak(self, work: Callable[[], object]) -> int:
        """Return the most bytes allocated at once in `work`, beyond those of before; recorded steps keep theirs."""
        torch.cuda.synchronize(self._device)
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        work()
        torch.cuda.synchronize(self._device)
        return torch.cuda.max_memory_allocated(self._device) - before


def meter_for(device: torch.device) -> HostMeter | CudaMeter:
    """Return a meter of the device, whose first lap begins now."""
    return CudaMeter(device) if device.type == "cuda" else HostMeter()

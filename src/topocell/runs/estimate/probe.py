"""Probes: a few steps of the work itself, with a stopwatch, or with a memory meter."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from topocell.io import checkpoint, files
from topocell.runs.estimate.memory import TRIED, Memory
from topocell.runs.estimate.meters import meter_for
from topocell.runtime.hooks import Figures, Silent

#: Steps of a probe that are timed; one more comes before them and is not.
STEPS = 3
#: Work of a step, as `topocell.runs.outlook` measures it, that takes a CPU about half a second.
QUICK = 2e8


class Stopwatch(Silent):
    """A monitor that times steps, ends of epochs, and checkpoints that are due, which it writes to `folder` if any.

    Attributes:
        parameters: of the network that was trained, which the probe sets.
        lap: returns the seconds since it was called last; on a GPU when all work is done.
    """

    def __init__(self, device: torch.device, folder: Path | None = None) -> None:
        self._folder, self.parameters = folder, 0
        self._steps: list[list[float]] = [[]]
        self._ends: list[float] = []
        self._saves: list[float] = []
        self.lap = meter_for(device).lap

    def usual(self, epoch: int) -> float:
        """Median seconds of a step of an epoch, its first one apart."""
        steps = self._epochs[epoch]
        return statistics.median(steps[1:] or steps)

    @property
    def once(self) -> float:
        """Seconds that the first step of each kind took beyond the usual: building, first calls, compiling."""
        return sum(max(steps[0] - self.usual(epoch), 0.0) for epoch, steps in enumerate(self._epochs))

    @property
    def end(self) -> float:
        """Median seconds of what comes at the end of an epoch."""
        return statistics.median(self._ends)

    @property
    def save(self) -> float:
        """Seconds of the quickest checkpoint: between stages a lap holds more than the checkpoint. 0 without any."""
        return min(self._saves, default=0.0)

    @property
    def _epochs(self) -> list[list[float]]:
        return [steps for steps in self._steps if steps]

    def step(self, phase: str, done: int, total: int, figures: Figures) -> None:
        """The end of a step."""
        self._steps[-1].append(self.lap())

    def metrics(self, record: Mapping[str, Any]) -> None:
        """The end of an epoch, its figures included."""
        self._ends.append(self.lap())
        self._steps.append([])

    def checkpoint(self, state: Callable[[], dict[str, Any]], due: bool = False) -> None:
        """The end of a checkpoint."""
        if due and self._folder is not None:
            checkpoint.save(self._folder / "probe.ckpt", {"phase": "probe", "state": state()})
            self._saves.append(self.lap())


#: `probe(batch size, steps of an epoch, stopwatch)`.
Probe = Callable[[int, int, Stopwatch], object]


def measure_memory(probe: Probe, batch: int, data: int, device: torch.device, free: int | None) -> Memory:
    """The memory of two steps, at two images, an eighth of `batch`, a quarter and so on, extended in a straight line.

    The line is taken as soon as three sizes lie on it and it rises: at small sizes a step of the optimizer may need
    more than a backward pass. A size is tried only if it would fit with all memory in proportion to it, which is more
    than it can take. Where no line was found for want of room, all memory is taken to be in proportion.
    """
    start = max(2, batch // 8)
    sizes, peaks = [2], [_peak(probe, 2, device)]
    while len(sizes) < 2 or (sizes[-1] < batch and not _straight(sizes, peaks, start)):
        size = start if sizes[-1] < start else max(min(2 * sizes[-1], batch), 3)
        room = size if free is None else int(TRIED * free * sizes[-1] / max(peaks[-1], 1))
        if room < min(size, 1.25 * sizes[-1]):
            break
        sizes.append(min(size, room))
        peaks.append(_peak(probe, sizes[-1], device))
    if len(sizes) < 2 or (sizes[-1] < batch and not _rises(sizes, peaks)):
        return Memory(data, peaks[-1] / sizes[-1], batch, data)
    per_image = (peaks[-1] - peaks[-2]) / (sizes[-1] - sizes[-2])
    return Memory(peaks[-1] - per_image * sizes[-1] + data, per_image, batch, data)


def _rises(sizes: Sequence[int], peaks: Sequence[int]) -> bool:
    """Return whether the last step up was a good part, 40 %, of one in proportion."""
    return peaks[-1] / max(peaks[-2], 1) - 1 >= 0.4 * (sizes[-1] / sizes[-2] - 1)


def _straight(sizes: Sequence[int], peaks: Sequence[int], start: int) -> bool:
    """Return whether the last three sizes, from `start` on, lie on a line within 3 %, and it rises."""
    if len(peaks) < 3 or sizes[-3] < start:
        return False
    (a, b, c), (first, second, third) = sizes[-3:], peaks[-3:]
    line = second + (second - first) / (b - a) * (c - b)
    return abs(line - third) <= 0.03 * third and _rises(sizes, peaks)


def _peak(probe: Probe, batch: int, device: torch.device) -> int:
    return meter_for(device).peak(lambda: probe(batch, 2, Stopwatch(device)))


def measure_time(
    probe: Probe, memory: Memory, device: torch.device, free: int | None, whole: int
) -> tuple[Stopwatch, float]:
    """A stopwatch after a probe, and how much longer a step will take: once, or more where a part of it was tried.

    Args:
        probe: the work.
        memory: that it needs, for the images that are computed at once.
        device: that of the probe.
        free: bytes that are left there.
        whole: images of a step, which are more in micro batches.
    """
    batch = memory.trial(free)
    with files.temporary_folder() as folder:
        stopwatch = Stopwatch(device, folder)
        probe(batch, STEPS + 1, stopwatch)
    return stopwatch, whole / batch


def measure_quickly(probe: Probe, batch: int, work: float, device: torch.device) -> tuple[Stopwatch, float]:
    """As `measure_time`, but from two steps, at a smaller batch on a CPU; from one where even that is long.

    Args:
        probe: the work.
        batch: that of the plan.
        work: of a step at that batch, as `topocell.runs.outlook` measures it.
        device: that of the probe.
    """
    stopwatch, tried = Stopwatch(device), batch
    if device.type == "cpu":
        tried = max(2, min(batch, int(batch * QUICK / max(work, 1.0))))
    probe(tried, 1 if tried == 2 else 2, stopwatch)
    return stopwatch, batch / tried


def measure_call(call: Callable[[], object], device: torch.device) -> float:
    """Median seconds of a call, the first one apart."""
    stopwatch = Stopwatch(device)
    laps = []
    for _ in range(STEPS):
        call()
        laps.append(stopwatch.lap())
    return statistics.median(laps[1:])

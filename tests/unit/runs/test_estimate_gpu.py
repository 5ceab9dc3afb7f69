"""Estimates for a GPU, of which a fake stands in: its clock, its allocator, and the limit of its memory."""

from collections.abc import Callable

import pytest
import torch

from topocell.errors import RunError
from topocell.runs.estimate import Estimate, Knob, Memory, Part
from topocell.runs.estimate.memory import probing
from topocell.runs.estimate.meters import CudaMeter, HostMeter, meter_for
from topocell.runs.estimate.probe import Stopwatch, measure_memory, measure_time

GPU = torch.device("cuda")
MEGA = 10**6


class Card:
    """A GPU with a clock in milliseconds, and memory of which a step needs 50 MB, and 3 MB for each image."""

    def __init__(self, limit: int) -> None:
        self.limit, self.time, self.held, self.peak = limit, 0.0, 20 * MEGA, 0

    def step(self, images: int) -> None:
        needed = self.held + (50 + 3 * images) * MEGA
        if needed > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")
        self.peak, self.time = max(self.peak, needed), self.time + 10.0 + images

    def reset(self, device: torch.device) -> None:
        self.peak = self.held


class Event:
    card: Card

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: object) -> None:
        self.at = self.card.time

    def synchronize(self) -> None:
        """All work is done."""

    def elapsed_time(self, later: "Event") -> float:
        return later.at - self.at


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Card]:
    def put_in(limit: int) -> Card:
        found = Card(limit)
        monkeypatch.setattr(Event, "card", found, raising=False)
        fakes = {
            "Event": Event,
            "current_stream": lambda device: None,
            "synchronize": lambda device: None,
            "memory_allocated": lambda device: found.held,
            "max_memory_allocated": lambda device: found.peak,
            "reset_peak_memory_stats": found.reset,
        }
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)
        return found

    return put_in


def probe_of(card: Card) -> Callable[[int, int, Stopwatch], None]:
    def probe(batch: int, steps: int, stopwatch: Stopwatch) -> None:
        for number in range(steps):
            card.time += 500.0 if number == 0 else 0.0  # what is done once
            card.step(batch)
            stopwatch.step("search", number, steps, dict)
        stopwatch.metrics({})

    return probe


def test_the_meter_is_that_of_the_device(card: Callable[[int], Card]) -> None:
    card(10**9)
    assert isinstance(meter_for(GPU), CudaMeter) and isinstance(meter_for(torch.device("cpu")), HostMeter)


def test_memory_is_the_peak_of_the_allocator_and_time_that_of_events(card: Callable[[int], Card]) -> None:
    mine = card(10**10)
    memory = measure_memory(probe_of(mine), 96, 7 * MEGA, GPU, 10**10)
    assert memory.per_image == pytest.approx(3 * MEGA) and memory.peak == pytest.approx((50 + 3 * 96 + 7) * MEGA)
    stopwatch, factor = measure_time(probe_of(mine), memory, GPU, 10**10, 96)
    assert factor == 1 and stopwatch.usual(-1) == pytest.approx(0.106) and stopwatch.once == pytest.approx(0.5)


def test_advice_for_a_card_that_is_too_small_names_the_largest_batch_that_fits(card: Callable[[int], Card]) -> None:
    free = 200 * MEGA
    mine = card(free + 20 * MEGA)
    memory = measure_memory(probe_of(mine), 96, 0, GPU, free)
    knobs = (Knob("search.batch_size", 96), Knob("search.channels", 16, 2))
    (advice,) = Estimate("cuda", free, (Part("search stage only", 1, 1.0, 1.0, memory, knobs),)).advice()
    most = int(advice.partition("search.batch_size=")[2].split()[0])
    assert advice.startswith("search stage only must fit in the memory of cuda, of which 200 MB are free, but needs")
    mine.step(most)  # it fits
    with pytest.raises(torch.OutOfMemoryError):
        mine.step(most + 10)
    assert not Memory(50 * MEGA, 3 * MEGA, 96, 0).fits(free)


def test_a_probe_that_runs_out_of_memory_says_what_to_lower(card: Callable[[int], Card]) -> None:
    mine = card(60 * MEGA)
    with (
        pytest.raises(RunError, match=r"retraining must fit .* of cuda, but it ran out in a probe; lower retrain\.b"),
        probing("retraining", GPU, [Knob("retrain.batch_size", 96)]),
    ):
        measure_memory(probe_of(mine), 96, 0, GPU, 40 * MEGA)

"""Seconds and bytes of steps on a GPU: as published, ours called, recorded, in bfloat16; and what bytes alone need.

On a CPU sizes are tiny, and nothing is recorded.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from tests.helpers.golden_genotypes import DARTS_V2

from benchmarks import fixed_network
from benchmarks.data_path import random_images
from benchmarks.measure import in_turn
from benchmarks.supernet import CASES, DARTS, UPDATES, Case, Ours, Published, saved_bytes
from topocell.config.load import load_recipe
from topocell.config.retrain import RetrainPlan
from topocell.config.search import SearchPlan, WeightOptimizer
from topocell.data.augment import Augmentation
from topocell.data.batches import Batches
from topocell.data.splits import CIFAR10_STATISTICS, Dataset, SearchData
from topocell.data.topology_bench import different_cells
from topocell.networks.retraining import Retraining
from topocell.nn.network import FixedNet
from topocell.nn.scheduled import hold
from topocell.runtime.precision import Execution
from topocell.searching.loop import Search
from topocell.studies._loops import PlainTraining

#: What is timed, and the relaxation of its search.
SEARCHES: dict[str, tuple[Case, str]] = {
    "darts": (CASES["darts"], "softmax"),
    "dots": (CASES["dots"], "softmax"),
    "nasbench201": (CASES["nasbench201"], "softmax"),
    "s2": (CASES["s2"], "softmax"),
    "gdas": (DARTS, "gumbel-straight-through"),
}
#: How ours is executed.
WAYS = {
    "ours, called": Execution(capture="off"),
    "ours, recorded": Execution(),
    "ours, recorded, tf32": Execution("tf32"),
    "ours, recorded, bf16": Execution("bf16"),
}
#: Those that are timed with fused kernels too, where there are some.
FUSED = ("ours, recorded", "ours, recorded, bf16")
PUBLISHED = "one module per edge and operation"
#: What is written for backward once is read there at least once, and was written by what it was computed from: passes
#: over the saved bytes that no implementation of the same graph can do without.
PASSES = 3


@dataclass
class Taken:
    """Median seconds of a step, and the most bytes that were allocated at once; 0 where no allocator counts them."""

    seconds: float
    peak: int


@contextmanager
def allocating(device: torch.device) -> Iterator[Callable[[], int]]:
    """Give the most bytes that were allocated on a GPU at once inside, beyond those of before; 0 on a CPU."""
    if device.type != "cuda":
        yield lambda: 0
        return
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    yield lambda: torch.cuda.max_memory_allocated(device) - before


def timed(call: Callable[[], object], device: torch.device, repetitions: int, first: int = 3) -> float:
    """Median seconds of a call, the `first` ones apart: steps are recorded in the second."""
    laps = []
    for number in range(first + repetitions):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= first:
            laps.append(time.perf_counter() - start)
    return statistics.median(laps)


def bandwidth(device: torch.device, megabytes: int = 1024) -> float:
    """Bytes a second, read and written, of a copy that is too large for any cache."""
    source = torch.ones(megabytes * 2**18, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / timed(lambda: target.copy_(source), device, 10)


def tiny(case: Case) -> Case:
    """The case at a size that a CPU takes in a moment."""
    return replace(case, channels=4, layers=5, batch=4, resolution=8)


def ways(device: torch.device) -> Iterator[tuple[str, Execution, dict[str, str]]]:
    """Name, execution, and settings of the search, of each way to take a step."""
    for name, execution in WAYS.items():
        yield name, execution, {"kernels": "plain"}
    if device.type == "cuda":
        yield from ((f"{name}, fused", WAYS[name], {"kernels": "fused"}) for name in FUSED)


def search(
    case: Case, relaxation: str, device: torch.device, execution: Execution, settings: Mapping[str, str]
) -> Search:
    """A search at the size of a case on noise, one epoch long, before its first step."""
    execution.set_up()
    options = {"name": "only", "epochs": 1, "relaxation": relaxation, "topology": case.topology}
    sizes = {"channels": case.channels, "layers": case.layers, "batch_size": case.batch}
    plan = SearchPlan.model_validate(sizes | {"stages": [options]} | dict(settings))
    images, (mean, std) = random_images(8 * case.batch, case.resolution), CIFAR10_STATISTICS
    halves = {"train": torch.arange(4 * case.batch), "val": torch.arange(4 * case.batch, 8 * case.batch)}
    parts = {name: images.subset(order) for name, order in halves.items()}
    shape = (3, case.resolution, case.resolution)
    data = SearchData(parts, halves, mean, std, Augmentation(), images.classes, shape, "noise")
    made = Search(plan, case.space, data, device=device, execution=execution)
    made._enter(*made.build.first(case.space))
    made.begin_epoch()
    return made


def steps(name: str, device: torch.device, repetitions: int, small: bool) -> list[Mapping[str, Any]]:
    """Rows of a case: seconds and peak memory of each way, times faster than as published, times what bytes need."""
    case, relaxation = SEARCHES[name]
    case = tiny(case) if small else case
    copied = bandwidth(device, 4 if small else 1024)
    rows: list[dict[str, Any]] = []
    published, saved = _published(case, device, repetitions) if relaxation == "softmax" else (None, 0)
    if published is not None:
        rows.append({"way": PUBLISHED, "seconds": published.seconds, "peak": published.peak})
    for way, execution, settings in ways(device):
        with allocating(device) as peak:
            made = search(case, relaxation, device, execution, settings)
            seconds = timed(lambda made=made: _step(made), device, repetitions)  # type: ignore[misc]
            row: dict[str, Any] = {"way": way, "seconds": seconds, "peak": peak(), "recorded": made.steps.records}
        if published is not None:
            row |= {"times_faster": published.seconds / seconds}
        if saved:
            row |= {"bytes": PASSES * saved, "bytes_need": PASSES * saved / copied}
            row |= {"times_bytes": seconds / row["bytes_need"]}
        rows.append(row)
        del made
    return [{"case": name, "bandwidth": copied, **row} for row in rows]


def _step(of: Search) -> None:
    of.train_step()
    of.loop.step = (of.loop.step + 1) % len(of.streams.train)


def _published(case: Case, device: torch.device, repetitions: int) -> tuple[Taken, int]:
    """Its bilevel step, and the bytes that ours saves for both updates; batches are on the device beforehand."""
    with allocating(device) as peak:
        theirs = Published(case, torch.contiguous_format)
        _move(theirs, device)

        def both() -> None:
            for update in UPDATES:
                theirs.step(update)

        seconds = timed(both, device, repetitions, first=2)
        taken = Taken(seconds, peak())
    ours = Ours(case)
    _move(ours, device)
    return taken, 2 * saved_bytes(ours)


def _move(subject: Any, device: torch.device) -> None:
    subject.net.to(device)
    subject.arch.to(device)
    subject.batches = {u: (x.to(device), y.to(device)) for u, (x, y) in subject.batches.items()}


def retraining(device: torch.device, repetitions: int, small: bool) -> list[Mapping[str, Any]]:
    """Rows of the retraining against a plain network with a DataLoader, at DARTS' size."""
    case = fixed_network.Case(3, 4, 8, 16) if small else fixed_network.CASES["published"]
    epochs = repetitions + 1
    plan = RetrainPlan(
        channels=case.channels,
        layers=case.layers,
        batch_size=case.batch,
        epochs=epochs,
        test_every=epochs,
        cutout=fixed_network.CUTOUT if case.resolution == 32 else 0,
        weights=WeightOptimizer(),
    )
    rows: list[Mapping[str, Any]] = []
    for way, execution in WAYS.items():
        execution.set_up()
        theirs, ours = fixed_network.compare(plan, 3 if small else 8, 0 if small else 2, execution, case.resolution)
        rows.append(
            {"case": "retraining", "way": f"{way}; plain network {1000 * theirs.wall:.3g} ms"}
            | {"seconds": ours.wall, "times_faster": theirs.wall / ours.wall}
        )
    return rows


def at_once(device: torch.device, repetitions: int, small: bool) -> list[Mapping[str, Any]]:
    """Rows of the retraining of small networks: seconds a network of steps that are those of 1, 4 and 10 seeds."""
    channels, layers, batch, resolution = (3, 4, 8, 16) if small else (16, 8, 64, 32)
    images, (mean, std) = random_images(2 * batch, resolution), CIFAR10_STATISTICS
    data = Dataset("noise", images, images.subset(torch.arange(2)), mean, std, Augmentation(), "", ())
    rows: list[dict[str, Any]] = []
    Execution().set_up()
    for number in (1, 4, 10):
        plan = RetrainPlan(
            channels=channels, layers=layers, batch_size=batch, auxiliary=0, seeds=tuple(range(number)), together=number
        )
        with allocating(device) as peak:
            training = Retraining(DARTS_V2, plan, data, device=device)
            training._begin()
            training.loop.epoch = 1
            training.begin_epoch()
            seconds = timed(training.train_step, device, repetitions) / number
            rows.append({"case": "seeds at once", "way": f"{number}", "seconds": seconds, "peak": peak()})
    return [{**row, "times_faster": rows[0]["seconds"] / row["seconds"]} for row in rows]


def cells_at_once(device: torch.device, repetitions: int, small: bool) -> list[Mapping[str, Any]]:
    """Rows of study `topology-bench`: seconds a cell of a step of several cells, alone one after the other and as one.

    All ways are taken in turn. On a GPU cells alone are timed by called steps, as the study trains them, and by
    recorded ones.
    """
    recipe = load_recipe("topobench-darts")
    plan = recipe.retrain.model_copy(update={"channels": 2, "batch_size": 8} if small else {})
    (mean, std), recorder = CIFAR10_STATISTICS, Execution().recorder(device)
    images = random_images(2 * plan.batch_size, 8 if small else recipe.data.resolution or 32)
    how: dict[str, Any] = {"mean": mean, "std": std, "augmentation": Augmentation(), "stream": "train", "seed": 0}
    batches = Batches(images, plan.batch_size, **how, device=device)
    known = list(different_cells().values())

    def training(numbers: Sequence[int], recorded: bool) -> PlainTraining:
        nets = [FixedNet(known[at], plan.channels, plan.layers, 10, 3, plan.stem, head=plan.head) for at in numbers]
        for net in nets:
            if recorded:
                hold(net, device)
            net.to(device).to(memory_format=torch.channels_last)
        of = recorder if recorded else None
        return PlainTraining(nets, batches, plan.weights, plan.epochs, 0, device, of)

    rows: list[Mapping[str, Any]] = []
    Execution().set_up()
    for number in (2, 3) if small else (4, 16):
        order = torch.randperm(len(known), generator=torch.Generator().manual_seed(number)).tolist()[:number]
        alone = {"one after the other": [training([at], False) for at in order]}
        if recorder is not None:
            alone["one after the other, recorded"] = [training([at], True) for at in order]
        made = {**alone, "as one": [training(order, recorder is not None)]}
        calls = {way: lambda of=of: [one.train_step() for one in of] for way, of in made.items()}
        for call in [*calls.values()] * 2:  # steps are recorded in the second
            call()
        seconds = {way: timing.wall / number for way, timing in in_turn(calls, repetitions).items()}
        for way, of in seconds.items():
            faster = next(iter(seconds.values())) / of
            case = f"{number} cells of topology-bench"
            rows.append({"case": case, "way": way, "seconds": of, "times_faster": faster})
    return rows

"""Retraining: `topocell.networks.retraining` against the same network as plain modules in NCHW, fed by a DataLoader.

python -m benchmarks.fixed_network [--only published small-16 small-8] [--steps 3] [--ways fp32 bf16 compiled]
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from tests.helpers.golden_genotypes import DARTS_V2
from torch import nn
from torch.optim import SGD

from benchmarks.data_path import CUTOUT, loader, random_images
from benchmarks.measure import Timing, options, parsed, seconds, table, versus, write_section
from topocell.config.retrain import RetrainPlan
from topocell.config.search import WeightOptimizer
from topocell.data.augment import Augmentation
from topocell.data.batches import ImageSet
from topocell.data.splits import CIFAR10_STATISTICS, Dataset
from topocell.networks.retraining import Retraining
from topocell.nn.kernels.cpu import instruction_set
from topocell.nn.network import FixedNet
from topocell.runtime.hooks import Figures, Silent
from topocell.runtime.precision import PLAIN, Execution


@dataclass(frozen=True)
class Case:
    """The size of a network and of the batch that it is trained with."""

    layers: int
    channels: int
    batch: int
    resolution: int


#: As published, and as small as the budget `small` and the studies have them.
CASES = {
    "published": Case(20, 36, 96, 32),
    "small-16": Case(5, 16, 64, 16),
    "small-8": Case(5, 8, 64, 16),
}
#: How many times faster than the plain network.
BAR = 2.0
WAYS = {"fp32": PLAIN, "bf16": Execution("bf16"), "compiled": Execution(compile=True)}


def plain_modules(module: nn.Module) -> nn.Module:
    """The same network with torch's own convolution wherever ours has gradients of its own; in place.

    In NCHW, for which there are no kernels, all the rest of it is the library's as well.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d) and type(child) is not nn.Conv2d:
            same = {key: getattr(child, key) for key in ("stride", "padding", "dilation", "groups")}
            size = child.in_channels, child.out_channels, child.kernel_size
            new = nn.Conv2d(*size, **same, bias=False)  # type: ignore[arg-type]
            new.load_state_dict(child.state_dict())
            setattr(module, name, new)
        else:
            plain_modules(child)
    return module


class Plain:
    """Training as published: NCHW, one module per operation, SGD as torch has it by default, a DataLoader."""

    def __init__(self, plan: RetrainPlan, data: ImageSet, device: torch.device, workers: int) -> None:
        torch.manual_seed(0)
        net = FixedNet(DARTS_V2, plan.channels, plan.layers, len(data.classes), auxiliary=True)
        net.drop_path = plan.drop_path / 2
        self.net, self.plan, self.device = plain_modules(net).to(device), plan, device
        self.batches = loader(data, plan.batch_size, workers)
        options = plan.weights
        self.optimizer = SGD(
            self.net.parameters(), options.lr.value(0, 1), options.momentum, weight_decay=options.weight_decay
        )

    def epoch(self) -> None:
        """Every image once."""
        for x, y in self.batches:
            labels = y.to(self.device)
            logits, extra = self.net(x.to(self.device))
            loss = F.cross_entropy(logits, labels) + self.plan.auxiliary * F.cross_entropy(extra, labels)
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
            self.optimizer.step()


class Alternating(Silent):
    """A monitor of our retraining that times its epochs and lets something else run, timed, after each of them."""

    def __init__(self, other: Callable[[], None]) -> None:
        self.other = other
        self.ours: list[tuple[float, float]] = []
        self.theirs: list[tuple[float, float]] = []
        self._steps = [0.0, 0.0]
        self._begin()

    def _begin(self) -> None:
        self._at = time.perf_counter(), time.process_time()

    def _lap(self) -> tuple[float, float]:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        wall, cpu = self._at
        self._begin()
        return self._at[0] - wall, self._at[1] - cpu

    def step(self, phase: str, done: int, total: int, figures: Figures) -> None:
        """The end of a step of ours."""
        self._steps = [before + lap for before, lap in zip(self._steps, self._lap())]

    def metrics(self, record: Mapping[str, Any]) -> None:
        """The end of an epoch of ours, tests included, which are not timed."""
        self.ours.append((self._steps[0], self._steps[1]))
        self._steps = [0.0, 0.0]
        self._begin()
        self.other()
        self.theirs.append(self._lap())

    def checkpoint(self, state: Callable[[], dict[str, Any]], due: bool = False) -> None:
        """An epoch begins."""
        self._begin()


def compare(
    plan: RetrainPlan, steps: int, workers: int, execution: Execution, resolution: int = 32
) -> tuple[Timing, Timing]:
    """Median seconds of a step of theirs and of ours, whose epochs alternate; the first of each is not counted."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = random_images(steps * plan.batch_size, resolution)
    mean, std = CIFAR10_STATISTICS
    few = images.subset(torch.arange(2))
    data = Dataset("noise", images, few, mean, std, Augmentation(), "", ())
    monitor = Alternating(Plain(plan, images, device, workers).epoch)
    Retraining(DARTS_V2, plan, data, device=device, monitor=monitor, execution=execution).run()
    theirs, ours = (
        Timing(*(statistics.median(lap) / steps for lap in zip(*laps[1:]))) for laps in (monitor.theirs, monitor.ours)
    )
    return theirs, ours


def measure_case(name: str, case: Case, chosen: argparse.Namespace) -> list[list[str]]:
    """The rows of a case."""
    epochs, rows = chosen.repetitions + 1, []
    plan = RetrainPlan(
        channels=case.channels,
        layers=case.layers,
        batch_size=case.batch,
        epochs=epochs,
        test_every=epochs,
        cutout=CUTOUT if case.resolution == 32 else 0,
        weights=WeightOptimizer(),
    )
    for way in chosen.ways:
        theirs, ours = compare(plan, chosen.steps, chosen.workers, WAYS[way], case.resolution)
        ratio = theirs.wall / ours.wall
        bar = WAYS[way] == PLAIN and instruction_set().name in ("avx512", "avx2")
        judged = versus(ratio, BAR, True) if bar else f"{ratio:.2f}"
        size = f"{case.layers} cells, {case.channels} channels, {case.batch} × {case.resolution}×{case.resolution}"
        rows.append([name, size, way, seconds(theirs, chosen.cpu_time), seconds(ours, chosen.cpu_time), judged])
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the section."""
    parser = options("Steps of retraining.")
    parser.add_argument("--only", nargs="+", choices=CASES, help="some of the sizes (default: all)")
    parser.add_argument("--steps", type=int, default=3, help="steps of an epoch (default 3)")
    parser.add_argument("--workers", type=int, default=2, help="workers of their DataLoader (default 2)")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["fp32"], help="how ours is executed")
    chosen = parsed(parser, arguments)
    rows = [["", "size", "ours", "their step", "our step", "times faster"]]
    for name in chosen.only or CASES:
        case = CASES[name] if chosen.batch is None else replace(CASES[name], batch=chosen.batch)
        rows += measure_case(name, case, chosen)
    about = "DARTS_V2, auxiliary head, drop path, and cutout where images have 32×32 pixels. Theirs: float32, NCHW, "
    about += f"{chosen.workers} workers, whose processor time is not counted. "
    about += f"Medians of {chosen.repetitions} epochs of {chosen.steps} steps."
    write_section(chosen.out, "Retraining", f"{about}\n\n{table(rows)}")


if __name__ == "__main__":
    main()

"""Search steps of the supernet: one module per edge and operation, against ours. See README.md beside this.

python -m benchmarks.supernet [--only darts] [--batch 64] [--repetitions 5] [--threads 2] [--cpu-time]
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from tests.helpers.reference.supernet import ReferenceSupernet
from torch import Tensor, nn
from torch.optim import SGD, Adam

from benchmarks.measure import Timing, in_turn, options, parsed, seconds, table, versus, write_section
from topocell import spaces
from topocell.nn.kernels.cpu import instruction_set
from topocell.runtime.memory import DispatcherCalls, SavedBytes
from topocell.runtime.precision import PLAIN, Execution
from topocell.spaces.cell import SpaceSpec
from topocell.supernet import Supernet
from topocell.supernet.arch_state import ArchState
from topocell.supernet.learner import ArchBatch, Batch, Learner, frozen
from topocell.supernet.levels import LEVELS

UPDATES = ("alpha", "weights")
PUBLISHED, LAST, OURS = "(a) as published", "(b) channels_last", "(c) ours"
INCOMING = {"name": "subsets", "view": "target", "sizes": 2, "norm": "mean", "scale": "none"}


@dataclass(frozen=True)
class Case:
    """A supernet, the batch that it is trained with, and the bars for ours: how many times faster than (a) and (b).

    Bars are given by the name of the instruction set; a set without one is only reported. `saved` and `calls` are the
    largest shares of what (a) saves and calls; None where no bar is set.
    """

    about: str
    space: SpaceSpec
    channels: int = 16
    layers: int = 8
    batch: int = 64
    resolution: int = 32
    topology: str | Mapping[str, Any] = "dense"
    faster_than_a: Mapping[str, float] = field(default_factory=dict)
    faster_than_b: Mapping[str, float] = field(default_factory=lambda: {"avx512": 2.0, "avx2": 2.0})
    saved: float | None = None
    calls: float | None = None


def two_candidates() -> SpaceSpec:
    """DARTS' cell with one operation without weights and one convolution on each edge, all in equal parts."""
    space = spaces.get("darts")
    light = ("max_pool_3x3", "skip_connect", "avg_pool_3x3")
    heavy = ("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5")
    cells = {
        name: cell.with_candidates([[light[e % 3], heavy[e % 4]] for e in range(cell.n_edges)])
        for name, cell in space.cells.items()
    }
    return space.with_cells(cells)


DARTS = Case(
    "DARTS: 8 cells, 16 channels, 8 operations",
    spaces.get("darts"),
    faster_than_a={"avx512": 8.0, "avx2": 7.0},
    faster_than_b={"avx512": 4.5, "avx2": 5.0},
    saved=0.5,
    calls=0.25,
)
CASES = {
    "darts": DARTS,
    "dots": Case("DOTS, topology search: 20 cells, 2 operations", two_candidates(), layers=20, topology=INCOMING),
    "nasbench201": Case("NAS-Bench-201: 5 cells a stage, 6 edges, 5 operations", spaces.get("nasbench201"), layers=17),
    "s2": Case("S2: DARTS with skip_connect and sep_conv_3x3", spaces.get("s2")),
}
#: Shares of memory and of time that `memory: low` may take, of (a) and of ours; GDAS of DARTS; unrolled of a w step.
LOW_SAVED, LOW_TIME, GDAS, UNROLLED = 0.25, 1.35, 0.4, 5.5
#: One size of DARTS' supernet at a time, the others as here.
GROWTH_BASE = replace(DARTS, batch=16)
GROWTH: dict[str, Callable[[int], Case]] = {
    "cells": lambda n: replace(GROWTH_BASE, layers=n),
    "nodes": lambda n: replace(GROWTH_BASE, space=spaces.get("darts", nodes=n)),
    "channels": lambda n: replace(GROWTH_BASE, channels=n),
    "batch": lambda n: replace(GROWTH_BASE, batch=n),
}
GROWTH_SIZES = {"cells": (5, 8, 14, 20), "nodes": (4, 5, 6, 8), "channels": (8, 16, 32), "batch": (16, 32, 64)}


class Published:
    """One module per edge and operation; each update is a complete backward pass, in weights and architecture."""

    def __init__(self, case: Case, memory_format: torch.memory_format) -> None:
        torch.manual_seed(0)
        self.net = ReferenceSupernet(case.space, case.channels, case.layers, 10).to(memory_format=memory_format)
        self.arch = ArchState(case.space, topology=case.topology)
        self.weights, self.alpha = _optimizers(self.net, self.arch)
        self.batches = {u: (x.contiguous(memory_format=memory_format), y) for u, (x, y) in _batches(case).items()}

    def forward(self, update: str) -> Tensor:
        """The loss (0-dim) of one update, with its graph."""
        x, y = self.batches[update]
        return F.cross_entropy(self.net(x, {t: (w.ops, w.edges) for t, w in self.arch().items()}), y)

    def backward(self, update: str, loss: Tensor) -> None:
        """All gradients."""
        loss.backward()

    def step(self, update: str) -> None:
        """Forward, backward and the optimizer."""
        optimizer = self.alpha if update == "alpha" else self.weights
        optimizer.zero_grad()
        self.backward(update, self.forward(update))
        if update == "weights":
            nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
        optimizer.step()


class Ours:
    """The product's own steps."""

    def __init__(
        self, case: Case, execution: Execution = PLAIN, relaxation: str = "softmax", memory: str = "standard"
    ) -> None:
        torch.manual_seed(0)
        self.net = Supernet(case.space, case.channels, case.layers, 10, memory=memory)
        self.arch = ArchState(case.space, relaxation, case.topology)
        weights, alpha = _optimizers(self.net, self.arch)
        self.learner = Learner(self.net, self.arch, weights, alpha, None, 5.0, execution=execution)
        self.batches = {u: (x.contiguous(memory_format=torch.channels_last), y) for u, (x, y) in _batches(case).items()}

    def forward(self, update: str) -> Tensor:
        """The loss (0-dim) of one update, with its graph: only what the update needs."""
        (x, y), weights = self.batches[update], self.arch()
        if update == "weights":
            return F.cross_entropy(self.learner.logits(x, {t: w.detach() for t, w in weights.items()}), y)
        with frozen(self.net.parameters()):
            return F.cross_entropy(self.learner.logits(x, weights), y)

    def backward(self, update: str, loss: Tensor) -> None:
        """The gradients of the update."""
        of = self.net if update == "weights" else self.arch
        torch.autograd.grad(loss, [p for p in of.parameters() if p.numel()], allow_unused=True)

    def step(self, update: str) -> None:
        """Forward, backward and the optimizer."""
        if update == "weights":
            self.learner.weights_step(self.batches[update])
        else:
            self.level("alpha")

    def level(self, name: str) -> None:
        """A step of a level, weights included; `alpha` is an architecture update alone."""
        train, change = self.batches["weights"], ArchBatch(self.batches["alpha"], True, True)
        if name == "alpha":
            self.learner.apply_arch(change, self.learner.arch_gradient(change))
        else:
            LEVELS[name](self.learner, train, [change])


Subject = Published | Ours


@dataclass(frozen=True)
class Measured:
    """Timings of both updates, bytes saved by the larger of them, dispatcher calls of both."""

    alpha: Timing
    weights: Timing
    saved: int
    calls: int

    @property
    def step(self) -> Timing:
        """Both updates."""
        return self.alpha + self.weights


def _optimizers(net: nn.Module, arch: ArchState) -> tuple[SGD, Adam]:
    logits = [p for p in arch.parameters() if p.numel()]
    sgd = SGD(net.parameters(), lr=0.025, momentum=0.9, weight_decay=3e-4)
    return sgd, Adam(logits, lr=3e-4, betas=(0.5, 0.999), weight_decay=1e-3)


def _batches(case: Case) -> dict[str, Batch]:
    draw = torch.Generator().manual_seed(0)
    shape = (case.batch, 3, case.resolution, case.resolution)
    return {u: (torch.randn(shape, generator=draw), torch.randint(10, (case.batch,), generator=draw)) for u in UPDATES}


def saved_bytes(subject: Subject) -> int:
    """Bytes saved for backward by the larger update; parameters and images apart."""
    images = [tensor for batch in subject.batches.values() for tensor in batch]
    totals = []
    for update in UPDATES:
        with SavedBytes([*subject.net.parameters(), *subject.arch.parameters(), *images]) as saved:
            loss = subject.forward(update)
        totals.append(saved.total)
        subject.backward(update, loss)
    return max(totals)


def dispatcher_calls(subject: Subject) -> int:
    """Operators of the forward and backward passes of both updates."""
    with DispatcherCalls() as calls:
        for update in UPDATES:
            subject.backward(update, subject.forward(update))
    return calls.total


def compare(subjects: Mapping[str, Subject], repetitions: int) -> dict[str, Measured]:
    """Everything about some supernets of the same function."""
    steps = {f"{name} {u}": partial(subject.step, u) for name, subject in subjects.items() for u in UPDATES}
    counted = {name: (saved_bytes(subject), dispatcher_calls(subject)) for name, subject in subjects.items()}
    timings = in_turn(steps, repetitions)
    return {
        name: Measured(timings[f"{name} alpha"], timings[f"{name} weights"], *counts)
        for name, counts in counted.items()
    }


def subjects_of(case: Case) -> dict[str, Subject]:
    """(a), (b) and (c) with the same weights and architecture; checks that they compute the same."""
    found: dict[str, Subject] = {
        PUBLISHED: Published(case, torch.contiguous_format),
        LAST: Published(case, torch.channels_last),
        OURS: Ours(case),
    }
    plain = found[PUBLISHED]
    for subject in found.values():
        subject.arch.load_state_dict(plain.arch.state_dict())
        if isinstance(subject, Ours):
            subject.net.load_per_edge_state_dict(plain.net.state_dict())
        torch.testing.assert_close(subject.forward("alpha"), plain.forward("alpha"), rtol=1e-3, atol=1e-4)
    return found


def measure_case(case: Case, repetitions: int, cpu_time: bool) -> str:
    """The section of a case."""
    found = compare(subjects_of(case), repetitions)
    rows = [["", "α step", "w step", "bilevel step", "saved", "calls"]]
    for name, m in found.items():
        times = [seconds(timing, cpu_time) for timing in (m.alpha, m.weights, m.step)]
        rows.append([name, *times, f"{m.saved / 1e6:.3g} MB", f"{m.calls:,}"])
    a, b, c = (found[name] for name in (PUBLISHED, LAST, OURS))
    ratios = [
        ("times faster than (a)", a.step.wall / c.step.wall, case.faster_than_a.get(instruction_set().name), True),
        ("times faster than (b)", b.step.wall / c.step.wall, case.faster_than_b.get(instruction_set().name), True),
        ("saved, share of (a)", c.saved / a.saved, case.saved, False),
        ("dispatcher calls, share of (a)", c.calls / a.calls, case.calls, False),
    ]
    lines = [f"- {name}: {_ratio(ratio, bar, at_least)}" for name, ratio, bar, at_least in ratios]
    if cpu_time:
        lines.append(f"- in processor time: {a.step.cpu / c.step.cpu:.2f} of (a), {b.step.cpu / c.step.cpu:.2f} of (b)")
    about = f"{case.about}; {case.channels} channels, batch {case.batch}, {case.resolution}×{case.resolution}."
    return f"{about} Medians of {repetitions}.\n\n{table(rows)}\n\n" + "\n".join(lines)


def _ratio(ratio: float, bar: float | None, at_least: bool) -> str:
    return f"{ratio:.2f}" if bar is None else versus(ratio, bar, at_least)


def measure_variants(case: Case, repetitions: int, cpu_time: bool) -> str:
    """The section of what a search can ask for: one-hot samples, second order, low memory, bf16."""
    ours, low, bf16 = Ours(case), Ours(case, memory="low"), Ours(case, Execution("bf16"))
    gdas = Ours(case, relaxation="gumbel-straight-through")
    calls: dict[str, Callable[[], object]] = {
        "w step": lambda: ours.step("weights"),
        "bilevel": lambda: ours.level("bilevel"),
        "unrolled": lambda: ours.level("unrolled"),
        "GDAS": lambda: gdas.level("bilevel"),
        "memory: low": lambda: low.level("bilevel"),
        "precision: bf16": lambda: bf16.level("bilevel"),
    }
    timings = in_turn(calls, repetitions)
    saved = {"bilevel": saved_bytes(ours), "GDAS": saved_bytes(gdas)}
    saved |= {"memory: low": saved_bytes(low), "precision: bf16": saved_bytes(bf16)}
    published = saved_bytes(Published(case, torch.contiguous_format))
    whole = timings["bilevel"].wall
    judged = {
        "unrolled": f"of a w step: {versus(timings['unrolled'].wall / timings['w step'].wall, UNROLLED, False)}",
        "GDAS": f"of bilevel: {versus(timings['GDAS'].wall / whole, GDAS, False)}",
        "memory: low": f"of bilevel: {versus(timings['memory: low'].wall / whole, LOW_TIME, False)}; "
        f"saved, of (a): {versus(saved['memory: low'] / published, LOW_SAVED, False)}",
        "precision: bf16": f"of bilevel: {timings['precision: bf16'].wall / whole:.2f}; "
        f"saved, of float32: {saved['precision: bf16'] / saved['bilevel']:.2f}",
    }
    rows = [["step", "time", "saved", "ratio"]]
    for name, timing in timings.items():
        size = f"{saved[name] / 1e6:.3g} MB" if name in saved else ""
        rows.append([name, seconds(timing, cpu_time), size, judged.get(name, "")])
    about = f"{case.about}, batch {case.batch}. Medians of {repetitions}; (a) saves {published / 1e6:.3g} MB."
    return f"{about}\n\n{table(rows)}"


def measure_growth(batch: int | None, repetitions: int, cpu_time: bool) -> str:
    """The section of cost as work grows, against (a)."""
    rows = [["", "", "(a), a step", "ours, a step", "times faster", "(a) saves", "ours saves", "share"]]
    base = GROWTH_BASE if batch is None else replace(GROWTH_BASE, batch=batch)
    known: dict[str, list[str]] = {}  # the base is a size of every axis
    for axis, build in GROWTH.items():
        for size in GROWTH_SIZES[axis]:
            case = build(size) if axis == "batch" else replace(build(size), batch=base.batch)
            key = repr(case)
            if key not in known:
                known[key] = _growth_row(case, repetitions, cpu_time)
            rows.append([axis, str(size), *known[key]])
    about = f"DARTS, one size at a time; otherwise {base.layers} cells, 4 nodes, {base.channels} channels"
    return f"{about}, batch {base.batch}. Bilevel steps, medians of {repetitions}.\n\n{table(rows)}"


def _growth_row(case: Case, repetitions: int, cpu_time: bool) -> list[str]:
    """Times and saved bytes of (a) and of ours."""
    a, c = Published(case, torch.contiguous_format), Ours(case)
    found = in_turn({"a": lambda: _both(a), "c": lambda: _both(c)}, repetitions)
    saved = saved_bytes(a), saved_bytes(c)
    times = [seconds(found[name], cpu_time) for name in "ac"]
    sizes = [f"{saved[0] / 1e6:.3g} MB", f"{saved[1] / 1e6:.3g} MB", f"{saved[1] / saved[0]:.2f}"]
    return [*times, f"{found['a'].wall / found['c'].wall:.2f}", *sizes]


def _both(subject: Subject) -> None:
    for update in UPDATES:
        subject.step(update)


#: What `--only` takes besides the cases: the name of a section, and what measures it.
MORE: dict[str, Callable[[argparse.Namespace], str]] = {
    "variants": lambda o: measure_variants(_sized(DARTS, o), o.repetitions, o.cpu_time),
    "growth": lambda o: measure_growth(o.batch, o.repetitions, o.cpu_time),
}


def _sized(case: Case, chosen: argparse.Namespace) -> Case:
    return case if chosen.batch is None else replace(case, batch=chosen.batch)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the sections."""
    parser = options("Search steps of the supernet.")
    parser.add_argument("--only", choices=[*CASES, *MORE], help="one section (default: all)")
    chosen = parsed(parser, arguments)
    for name in [chosen.only] if chosen.only else [*CASES, *MORE]:
        if name in CASES:
            body = measure_case(_sized(CASES[name], chosen), chosen.repetitions, chosen.cpu_time)
        else:
            body = MORE[name](chosen)
        write_section(chosen.out, f"Supernet: {name}", body)


if __name__ == "__main__":
    main()

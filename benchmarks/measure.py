"""Timing in turn, the machine in words, and the sections of RESULTS.md."""

import argparse
import datetime
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision

import topocell
from topocell.nn.kernels.cpu import instruction_set

RESULTS = Path(__file__).with_name("RESULTS.md")
#: Instruction sets that decide how fast a CPU convolves.
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd", "sve")


@dataclass(frozen=True)
class Timing:
    """Median seconds of a call: on the wall clock, and of all threads of this process."""

    wall: float
    cpu: float

    def __add__(self, other: "Timing") -> "Timing":
        return Timing(self.wall + other.wall, self.cpu + other.cpu)


def in_turn(calls: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, Timing]:
    """Median timings of calls that are made one after the other, again and again; the first round is not timed."""
    laps: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for round_ in range(repetitions + 1):
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if round_:
                laps[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {name: Timing(*(statistics.median(column) for column in zip(*found))) for name, found in laps.items()}


def options(about: str) -> argparse.ArgumentParser:
    """A parser with what all benchmarks take."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--batch", type=int, help="images of a batch, in place of the published number")
    parser.add_argument("--repetitions", type=int, default=5, help="timed rounds (default 5)")
    parser.add_argument("--threads", type=int, help="threads of torch (default: its own choice)")
    parser.add_argument("--cpu-time", action="store_true", help="give processor time beside wall time")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file whose sections are replaced")
    return parser


def parsed(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options, with `--threads` in force."""
    chosen = parser.parse_args(arguments)
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    return chosen


#: How threads wait for each other, which matters where they have little to do at a time.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "ONEDNN_MAX_CPU_ISA", "TOPOCELL_NATIVE")


def machine() -> str:
    """Processor, threads and how they wait, instruction sets, GPU, versions and date, in one line."""
    source = Path("/proc/cpuinfo")
    info = source.read_text() if source.exists() else ""
    model = re.search(r"model name\s*: (.*)", info)
    flags = set(re.findall(r"[\w.]+", (re.search(r"(?:flags|Features)\s*: (.*)", info) or [""])[0]))
    gpu = [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    parts = [
        f"kernels for {instruction_set().name}, torch for {torch.backends.cpu.get_cpu_capability()}",
        model[1] if model else platform.processor() or platform.machine(),
        f"{torch.get_num_threads()} threads of {torch.multiprocessing.cpu_count()} cores",
        " ".join(flag for flag in FLAGS if flag in flags),
        *gpu,
        f"Python {platform.python_version()}",
        f"torch {torch.__version__}",
        f"torchvision {torchvision.__version__}",
        f"topocell {topocell.__version__}",
        *(f"{name}={os.environ[name]}" for name in WAITING if name in os.environ),
        datetime.date.today().isoformat(),
    ]
    return ", ".join(part for part in parts if part)


def versus(ratio: float, bar: float, at_least: bool) -> str:
    """A ratio beside its bar: `4.31 (bar ≥ 4: met)`."""
    met = ratio >= bar if at_least else ratio <= bar
    return f"{ratio:.2f} (bar {'≥' if at_least else '≤'} {bar:g}: {'met' if met else 'missed'})"


def table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first row is its head."""
    head, *body = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *body))


def seconds(timing: Timing, cpu_time: bool) -> str:
    """`1.23 s`, or with the processor time: `1.23 s (2.31 s CPU)`."""
    return f"{timing.wall:.3g} s" + (f" ({timing.cpu:.3g} s CPU)" if cpu_time else "")


def write_section(path: Path, name: str, body: str) -> None:
    """Replace the section `name`, of this instruction set, in a Markdown file, or add it at the end; print it, too."""
    name = f"{name}, {instruction_set().name}"
    text = path.read_text(encoding="utf-8") if path.exists() else "# Benchmark results\n\nHow to read them: README.md\n"
    section = f"## {name}\n\n{body.strip()}\n\nMeasured on: {machine()}\n"
    print(section)
    parts = re.split(r"(?m)^(?=## )", text)
    places = [i for i, part in enumerate(parts) if part.startswith(f"## {name}\n")]
    if places:
        parts[places[0]] = f"{section}\n"
    else:
        parts.append(f"{section}\n")
    path.write_text("\n\n".join(part.strip() for part in parts) + "\n", encoding="utf-8")

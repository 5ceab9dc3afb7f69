"""The compiled kernels one by one: arithmetic and bytes a second, beside what the machine can do. See README.md.

python -m benchmarks.kernels [--batch 64] [--repetitions 5] [--threads 2]
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.measure import in_turn, options, parsed, table, write_section
from topocell.nn.kernels.choice import waves
from topocell.nn.kernels.cpu import (
    EndGradients,
    InputGradients,
    Kernels,
    Norm,
    Shape,
    StageInputs,
    addresses,
    instruction_set,
    kernels,
    rows,
    widths,
)

#: Channels and resolution of the three parts of DARTS' supernet, and the operations of its convolutions.
MAPS = ((16, 32), (32, 16), (64, 8))
STAGES = ((3, 1), (5, 1), (3, 2), (5, 2))
EDGES = 3


@dataclass(frozen=True)
class Row:
    """A call, its multiply-adds, the bytes that it has to read and write once, and what its addresses point to."""

    name: str
    call: Callable[[], object]
    multiply_adds: int
    bytes: int
    alive: tuple[Tensor, ...]


def peak_arithmetic(repetitions: int) -> float:
    """GFLOP/s of the library's product of two matrices of 1536 × 1536."""
    a = waves(1536, 1536)
    return 2 * 1536**3 / in_turn({"product": lambda: a @ a}, repetitions)["product"].wall / 1e9


def peak_bytes(repetitions: int) -> float:
    """GB/s that a sum of two arrays of 256 MB each, written to a third, reads and writes."""
    a, b = torch.ones(1 << 26), torch.ones(1 << 26)
    out = torch.empty_like(a)
    return 3 * a.nbytes / in_turn({"sum": lambda: torch.add(a, b, out=out)}, repetitions)["sum"].wall / 1e9


def stage_rows(compiled: Kernels, batch: int, channels: int, size: int, kernel: int, dilation: int) -> list[Row]:
    """A stage forward, and backward without and with the gradients of its weights."""
    shape = Shape(
        batch, size, size, size, size, channels, EDGES, kernel, 1, dilation, min(torch.get_num_threads(), batch)
    )
    x, grad = waves(batch, size, size, channels), waves(EDGES, batch, size, size, channels)
    z, d_x = torch.empty_like(grad), torch.empty_like(x)
    dw, pw = waves(EDGES, channels, 1, kernel, kernel), waves(EDGES, channels, channels, 1, 1)
    statistics, sums = torch.ones(2, EDGES, channels), torch.zeros(2, EDGES, channels)
    norm, stage = Norm(*rows(statistics), None, None, None, 1e-5), StageInputs(addresses([x] * EDGES), None, (dw, pw))
    end = EndGradients(z, norm, rows(grad), sums)
    d_weights = torch.empty_like(dw), torch.empty_like(pw)

    def backward(found: tuple[Tensor, Tensor] | None) -> None:
        compiled.stage_backward(shape, stage, end, InputGradients(d_x, False, found, None))

    spatial, dense, pixels = kernel * kernel, channels, batch * size * size * channels * EDGES
    name = f"{kernel}×{kernel}{' dilated' * (dilation > 1)}, {channels} channels, {size}×{size}"
    twice, alive = 2 * (x.nbytes + z.nbytes), (x, grad, statistics)
    forward = partial(compiled.stage_forward, shape, stage, z, statistics)
    return [
        Row(f"forward {name}", forward, pixels * (spatial + dense), x.nbytes + z.nbytes, alive),
        Row(f"input gradient {name}", partial(backward, None), pixels * (spatial + dense), twice, alive),
        # the depthwise outputs are computed again
        Row(f"all gradients {name}", partial(backward, d_weights), pixels * (3 * spatial + 2 * dense), twice, alive),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the section."""
    chosen = parsed(options("The compiled kernels one by one."), arguments)
    batch, lines = chosen.batch or 64, [["", "time", "GFLOP/s", "GB/s"]]
    for channels, size in MAPS:
        compiled = kernels(channels, torch.zeros(1), widths(channels)[0] if widths(channels) else None)
        if compiled is None:
            raise SystemExit("there are no kernels here: no compiler, or TOPOCELL_NATIVE=0")
        for kernel, dilation in STAGES:
            found = stage_rows(compiled, batch, channels, size, kernel, dilation)
            timings = in_turn({row.name: row.call for row in found}, chosen.repetitions)
            for row in found:
                wall = timings[row.name].wall
                rates = f"{2 * row.multiply_adds / wall / 1e9:.0f}", f"{row.bytes / wall / 1e9:.1f}"
                lines.append([row.name, f"{1e3 * wall:.3g} ms", *rates])
    peaks = f"{peak_arithmetic(chosen.repetitions):.0f} GFLOP/s and {peak_bytes(chosen.repetitions):.1f} GB/s"
    about = f"Stages of {EDGES} edges, batch {batch}, vectors of {instruction_set().lanes}. The library's product of "
    about += f"matrices and sum of arrays reach {peaks} here. Medians of {chosen.repetitions}."
    write_section(chosen.out, "Kernels", f"{about}\n\n{table(lines)}")


if __name__ == "__main__":
    main()

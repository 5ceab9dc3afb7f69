"""What Triton makes of the fused kernels for GPUs: registers, spills and shared memory of each variant, without a GPU.

    python -m benchmarks.gpu_kernels                            # DARTS' operations, every card and number of channels
    python -m benchmarks.gpu_kernels --sm 90 --channels 16      # some of them

A node of a cell is computed forward and backward, but instead of being launched each kernel is compiled with the
arguments that it would have had, for each card that is asked for. Prints each variant; a table goes to --out.
"""

import argparse
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from topocell.nn.fused_gpu import fused
from topocell.nn.fused_plan import Chain, Edges, Plan
from topocell.nn.kernels.gpu import launch

#: Ampere, Hopper, Blackwell; channels of supernets; operations as kernel size, dilation, stages.
CARDS = (80, 90, 100)
CHANNELS = (4, 16, 32, 36, 64, 128)
OPERATIONS = ((3, 1, 2), (5, 1, 2), (7, 1, 2), (3, 2, 1), (5, 2, 1))
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

_SIGNS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int32: "*i32", torch.int8: "*i8"}


class Launch(NamedTuple):
    """A kernel with its arguments, as far as they decide what is compiled."""

    kernel: JITFunction[Any]
    signature: tuple[tuple[str, Any], ...]
    constants: tuple[tuple[tuple[int, ...], Any], ...]
    aligned: tuple[tuple[int, ...], ...]
    options: tuple[tuple[str, int], ...]

    @property
    def name(self) -> str:
        """Of the kernel."""
        return str(self.kernel.fn.__name__)


class Usage(NamedTuple):
    """Registers of a thread, bytes of its stack (spilled registers), bytes of shared memory of a program; seconds."""

    registers: int
    stack: int
    shared: int
    seconds: float


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Instead of launching kernels, write down which would be, each variant once; they fill nothing."""
    found: dict[Launch, None] = {}
    launches: list[Launch] = []
    run = JITFunction.run

    def note(self: JITFunction[Any], *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        options = tuple((name, kwargs.pop(name)) for name in ("num_warps", "num_stages") if name in kwargs)
        values = dict(zip(self.arg_names, args)) | kwargs
        one = _launch(self, [values[name] for name in self.arg_names], options)
        if one not in found:
            found[one] = None
            launches.append(one)

    JITFunction.run = note
    try:
        yield launches
    finally:
        JITFunction.run = run


def _launch(kernel: JITFunction[Any], values: Sequence[Any], options: tuple[tuple[str, int], ...]) -> Launch:
    constants: list[tuple[tuple[int, ...], Any]] = []
    aligned: list[tuple[int, ...]] = []

    def sign(value: Any, place: tuple[int, ...], free: bool) -> Any:
        if isinstance(value, tuple):
            return tuple(sign(item, (*place, i), free) for i, item in enumerate(value))
        if value is None or (isinstance(value, int) and value == 1 and not free):
            constants.append((place, value))
            return "constexpr"
        if isinstance(value, torch.Tensor):
            aligned.append(place)  # as PyTorch allocates them
            return _SIGNS[value.dtype]
        if value % 16 == 0 and not free:
            aligned.append(place)
        return "i32"

    signature = []
    for i, (parameter, value) in enumerate(zip(kernel.params, values)):
        if parameter.is_constexpr:
            constants.append(((i,), value))
            signature.append((parameter.name, "constexpr"))
        else:
            signature.append((parameter.name, sign(value, (i,), parameter.do_not_specialize)))
    return Launch(kernel, tuple(signature), tuple(constants), tuple(aligned), options)


def compiled(one: Launch, card: int) -> Usage:
    """Compile a kernel for a card of compute capability `card` / 10, and read what it uses from its machine code."""
    begin = time.perf_counter()
    attributes = {place: [["tt.divisibility", 16]] for place in one.aligned}
    source = ASTSource(one.kernel, dict(one.signature), dict(one.constants), attributes)
    made = triton.compile(source, GPUTarget("cuda", card, 32), dict(one.options))
    seconds = time.perf_counter() - begin
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        answer = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    registers, stack = (int(re.findall(rf"{word}:(\d+)", answer)[-1]) for word in ("REG", "STACK"))
    return Usage(registers, stack, int(made.metadata.shared), seconds)


def node(
    channels: int, dtype: torch.dtype, stride: int, operations: Sequence[tuple[int, int, int]]
) -> Callable[[], None]:
    """Return what computes a node with four edges of all operations, pools and identity, forward and backward."""
    edges = (0, 1, 2, 3)
    chains = tuple(
        Chain(kernel, dilation, stages, edges, tuple(4 * i + e for e in edges))
        for i, (kernel, dilation, stages) in enumerate(operations)
    )
    after = 4 * len(chains)
    pools = tuple(Edges(edges, tuple(after + 4 * i + e for e in edges)) for i in range(2))
    mix = (tuple(after + 8 + e for e in edges),) if stride == 1 else ()
    plan = Plan(chains, stride, (True,) * 4, mix, (), stride == 1, pools)

    def run() -> None:
        h = 8 // stride
        x = torch.zeros(2, channels, 8, 8, dtype=dtype, requires_grad=True)
        weights = torch.zeros(after + 12, requires_grad=True)
        shapes = []
        for kernel, _, stages in operations:
            shapes += [(4, channels, 1, kernel, kernel), (4, channels, channels, 1, 1)] * stages
        tensors = [torch.zeros(shape, dtype=dtype, requires_grad=True) for shape in shapes]
        ready = [torch.zeros(2, channels, h, h, dtype=dtype, requires_grad=True) for _ in range(6)]
        outputs = fused(x, plan, [*tensors, *ready[:2]], weights, [], ready[2:])
        torch.autograd.grad(outputs, [x, weights, *tensors, *ready], [torch.zeros_like(out) for out in outputs])
        out, which = torch.zeros_like(ready[0]), torch.zeros(2, channels, h, h, dtype=torch.int8)
        for places in (None, which):
            launch.pool_forward(x, stride, places is not None, out, places)
            launch.pool_backward(out, stride, places, torch.zeros_like(x))

    return run


def variants(cases: Sequence[tuple[int, str, int]], operations: Sequence[tuple[int, int, int]]) -> list[Launch]:
    """Kernels of nodes: channels, type and stride of each."""
    with recorded() as found:
        for channels, kind, stride in cases:
            node(channels, TYPES[kind], stride, operations)()
    return found


def described(one: Launch) -> str:
    """The constants that tell variants of a kernel apart, in words."""
    names = [parameter.name for parameter in one.kernel.params]
    values = {names[place[0]]: value for place, value in one.constants if len(place) == 1}
    shown = ("C", "K", "DIL", "STRIDE", "BEFORE", "LAST", "ADD", "MAX", "LAYOUT", "BP", "BK", "DOT")
    return ", ".join(f"{name}={values[name]}" for name in shown if name in values)


def _type_of(one: Launch) -> str:
    return "bf16" if "*bf16" in str(one.signature) else "fp32"


def main(arguments: Sequence[str] | None = None) -> None:
    """Compile, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sm", type=int, nargs="+", default=CARDS)
    parser.add_argument("--channels", type=int, nargs="+", default=CHANNELS)
    parser.add_argument("--types", nargs="+", choices=TYPES, default=list(TYPES))
    parser.add_argument("--out", type=Path, help="file for a table of the largest of each kernel")
    options = parser.parse_args(arguments)
    cases = [(c, kind, stride) for c in options.channels for kind in options.types for stride in (1, 2)]
    lines = []
    worst: dict[tuple[str, str, int], list[Usage]] = {}
    for one in variants(cases, OPERATIONS):
        for card in options.sm:
            usage = compiled(one, card)
            values = dict(one.constants)
            channels = next((v for p, v in values.items() if one.kernel.params[p[0]].name == "C"), 0)
            worst.setdefault((one.name, _type_of(one), channels), []).append(usage)
            words = f"{_type_of(one)} sm_{card} {described(one)}"
            print(one.name, words, *usage[:3], f"{usage.seconds:.1f} s", flush=True)
    for (name, kind, channels), found in sorted(worst.items()):
        largest = [max(usage[i] for usage in found) for i in range(3)]
        lines.append(f"| `{name}` | {kind} | {channels or ''} | {len(found)} | {' | '.join(map(str, largest))} |")
    if options.out is None:
        return
    cards = ", ".join(f"sm_{card}" for card in options.sm)
    options.out.write_text(
        "# Variants of the GPU kernels\n\n"
        f"Triton {triton.__version__}, {cards}; {time.strftime('%Y-%m-%d')}. The largest of all variants of a kernel:\n"
        "registers of a thread, bytes of its stack (spilled registers), bytes of shared memory of a program.\n\n"
        "| kernel | type | channels | variants | registers | stack | shared |\n|---|---|---|---|---|---|---|\n"
        + "\n".join(lines)
        + "\n"
    )


if __name__ == "__main__":
    main()

"""Whether a GPU computes fused steps by Triton kernels: never before they agreed with PyTorch's functions there."""

import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from topocell.nn.fused_library import by_library
from topocell.nn.fused_plan import Chain, Edges, Plan
from topocell.nn.kernels.choice import waves
from topocell.nn.kernels.cpu import ordinary
from topocell.nn.kernels.gpu import state
from topocell.nn.kernels.mode import mode

#: Most channels that a kernel is made for, and the most values of a map: 32-bit numbers count those of all edges.
CHANNELS, VALUES = 128, 2**28
#: Images of the batch that is computed both ways.
IMAGES = 32
#: Types of feature maps, and the largest difference from float64 by the norm, in proportion.
WITHIN = {torch.float32: 1e-3, torch.bfloat16: 0.1}


def on_gpu(x: Tensor, channels: int) -> bool:
    """Return whether fused steps on so many channels of maps like `x` are computed by Triton kernels.

    The first time on a device these are checked there, which compiles a few of them: some seconds.
    """
    if torch.compiler.is_compiling():  # first: Dynamo warns of functions that remember, such as those below
        return False
    if not (x.is_cuda or state.interpreted()) or mode() == "plain" or x.dtype not in WITHIN:
        return False
    if channels > CHANNELS or x.numel() > VALUES or not ordinary(x):
        return False
    return state.usable(x.device, check)


def found(device: torch.device) -> str | None:
    """What was found about Triton kernels on a device in the present mode, that of a search; None on a CPU."""
    if device.type != "cuda":
        return None
    if mode() != "plain":
        state.usable(device, check)
    return state.words(device)


def check(device: torch.device) -> str | None:
    """Compare fused steps with PyTorch's functions in float64, forward and backward; return what is wrong, or None.

    In a thread of its own, where no mode, hook or setting of the caller's is in force; no random number is drawn.
    """
    answers: list[str | None] = []
    thread = threading.Thread(target=lambda: answers.append(_fault(device)))
    thread.start()
    thread.join()
    return answers[0]


def _fault(device: torch.device) -> str | None:
    for dtype, within in WITHIN.items():
        for stride in (1, 2):
            try:
                distance, what = _distance(device, dtype, stride)
            except Exception as fault:  # whatever it is, it must not end a run that can do without kernels
                return f"a fused step in {dtype} failed with {state.in_words(fault)}"
            if not distance <= within:
                return f"a fused step in {dtype} at stride {stride} is wrong by {distance:.2g} in {what}"
    return None


def _distance(device: torch.device, dtype: torch.dtype, stride: int) -> tuple[float, str]:
    """The largest relative difference, by the norm, of outputs and gradients of a small node, and of which it is."""
    from topocell.nn.fused_gpu import fused

    channels, images, height, width = 12, IMAGES, 8, 6
    chains = (Chain(3, 1, 2, (0, 1), (0, 1)), Chain(5, 2, 1, (1,), (2,)))
    same = stride == 1
    pools, dense = (Edges((0, 1), (3, 4)),), (Edges((0, 1), (5, 6)),)
    plan = Plan(chains, stride, (True, False), ((7, 8),) if same else (), dense, same, pools)
    size = images, channels, -(-height // stride), -(-width // stride)
    shapes = [(images, channels, height, width), (9,), size]  # x, weights of the cell, base
    for chain in chains:
        edges, kernel = len(chain.slots), chain.kernel
        shapes += [(edges, channels, 1, kernel, kernel), (edges, channels, channels, 1, 1)] * chain.stages
    shapes += [(2, channels, channels, 3, 3), size]
    exact = [waves(*shape).to(device, torch.float64) for shape in shapes]
    exact[1] = exact[1].abs() + 0.5
    exact = [tensor.to(dtype).double().requires_grad_() for tensor in exact]  # both begin with the same numbers
    given = [tensor.detach().to(dtype).requires_grad_() for tensor in exact]
    wanted = by_library(exact[0], plan, exact[1], [], [exact[2]], exact[3:])
    ours = fused(given[0], plan, given[3:], given[1], [], [given[2]])
    towards = [waves(*size).to(device).roll(e) for e in range(2)]

    def gradients(outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return torch.autograd.grad(outputs, inputs, [t.to(outputs[0].dtype) for t in towards])

    names = ["outputs"] * 2 + ["gradients"] * len(given)
    pairs = zip([*ours, *gradients(ours, given)], [*wanted, *gradients(wanted, exact)])
    apart = [float(((a.double() - b).norm() / b.norm()).detach()) for a, b in pairs]
    worst = max(range(len(apart)), key=lambda i: (apart[i] != apart[i], apart[i]))
    return apart[worst], names[worst]

"""Networks of three genotypes beside their plain twins: what a wrapper of one finds, it finds of the other."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.helpers.golden_genotypes import DARTS_V2
from tests.helpers.plain_network import plain
from torch import Tensor, nn

from topocell.genotype.genotype import CellGenotype, Genotype
from topocell.nn.network import FixedNet

CHAIN = ((("sep_conv_3x3", 0), ("dil_conv_5x5", 1)), (("max_pool_3x3", 0), ("skip_connect", 2)))
GENOTYPES = {
    "DARTS_V2": DARTS_V2,
    "mixed": Genotype("mixed", dict.fromkeys(("normal", "reduce"), CellGenotype(2, CHAIN, (2, 3)))),
    "nasbench201": Genotype.from_nasbench201(
        "|nor_conv_3x3~0|+|nor_conv_1x1~0|avg_pool_3x3~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"
    ),
}
CLASSES = 5
#: Where they compute: TOPOCELL_TEST_DEVICE=cuda tries the tables of wrappers on a GPU (tests/runs/test_gpu.py does).
DEVICE = torch.device(os.environ.get("TOPOCELL_TEST_DEVICE", "cpu"))
Found = list[Tensor]
Wrapper = Callable[[Any, Tensor, Tensor], Found]


def images(layout: torch.memory_format) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(6, 3, 16, 16, generator=draw, device="cpu").contiguous(memory_format=layout)
    return x.to(DEVICE), (torch.arange(6) % CLASSES).to(DEVICE)


def network(name: str) -> FixedNet:
    torch.manual_seed(0)
    return FixedNet(GENOTYPES[name], 8, 5, CLASSES)


def step(net: Any, x: Tensor, y: Tensor) -> Found:
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    loss = F.cross_entropy(net(x), y)
    loss.backward(retain_graph=True)
    loss.backward()  # adds up
    assert x.grad is not None
    buffers = [b.clone() for b in net.buffers() if b.is_floating_point()]
    return [loss.detach(), x.grad, *(p.grad for p in net.parameters() if p.grad is not None), *buffers]


def convolutions(net: nn.Module) -> Iterator[nn.Module]:
    return (module for module in list(net.modules()) if isinstance(module, nn.Conv2d))


EXACT, LOOSE = {"rtol": 1e-3, "atol": 1e-4}, {"rtol": 0.1, "atol": 0.05}


def check_like_plain(
    wrapper: Wrapper, tolerance: dict[str, float], ours: FixedNet, layout: torch.memory_format
) -> None:
    theirs = plain(ours)
    found, expected = wrapper(ours, *images(layout)), wrapper(theirs, *images(layout))
    assert len(found) == len(expected) > 0
    for a, b in zip(found, expected):
        scale = max(1.0, float(b.abs().max())) if b.is_floating_point() and b.numel() else 1.0
        torch.testing.assert_close(a / scale, b / scale, **tolerance)


@pytest.fixture(autouse=True)
def all_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kernels wherever there are some, so that none of the tests passes because the library was faster."""
    monkeypatch.setenv("TOPOCELL_NATIVE", "1")
    if DEVICE.type == "cuda":  # whose convolutions are rounded to ten bits elsewise
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    with DEVICE if DEVICE.type != "cpu" else nullcontext(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

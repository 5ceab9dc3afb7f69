"""Nothing here calls what the library is known to do wrong: 1×1 convolutions with a stride, forward or backward."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tests.helpers.golden_genotypes import DARTS_V2
from tests.helpers.reference.supernet import ReferenceSupernet
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from topocell import spaces
from topocell.nn.network import FixedNet
from topocell.nn.primitives import PRIMITIVES, make
from topocell.spaces.cell import SpaceSpec
from topocell.studies._plain_networks import SMALL, PlainNet, plan_of
from topocell.supernet import Supernet
from topocell.supernet.arch_state import ArchState


class Convolutions(TorchDispatchMode):
    """Notes of each convolution its kernel size and stride, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[tuple[int, ...], tuple[int, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name == "convolution":
            self.seen.append((tuple(args[1].shape[2:]), tuple(args[3])))
        elif name == "convolution_backward":
            self.seen.append((tuple(args[2].shape[2:]), tuple(args[4])))
        return func(*args, **(kwargs or {}))


@contextmanager
def no_strided_1x1() -> Iterator[None]:
    with Convolutions() as found:
        yield
    assert found.seen, "no convolution ran"
    wrong = [(kernel, stride) for kernel, stride in found.seen if set(kernel) == {1} and max(stride) > 1]
    assert not wrong


def images(channels: int = 3) -> Tensor:
    return torch.randn(2, channels, 16, 16).contiguous(memory_format=torch.channels_last)


def trained(net: nn.Module, *args: Any) -> None:
    x = images()
    found = net(x.requires_grad_(), *args)
    (found[0] if isinstance(found, tuple) else found).square().sum().backward()


SPACES: dict[str, SpaceSpec] = {name: spaces.get(name) for name in ("darts", "s4", "nasbench201")}


@pytest.mark.parametrize("native", ["0", "1"])
@pytest.mark.parametrize("build", [Supernet, ReferenceSupernet])
@pytest.mark.parametrize(("space", "channels", "partial"), [*((space, 4, 1) for space in SPACES), ("darts", 16, 4)])
def test_supernets(
    space: str,
    channels: int,
    partial: int,
    build: Callable[..., nn.Module],
    native: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With a quarter of the channels, too, as PC-DARTS has them: few of many."""
    monkeypatch.setenv("TOPOCELL_NATIVE", native)
    with no_strided_1x1():
        trained(build(SPACES[space], channels, 5, 3, partial=partial), ArchState(SPACES[space])())


@pytest.mark.parametrize("native", ["0", "1"])
def test_a_fixed_network_with_auxiliary_head(native: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPOCELL_NATIVE", native)
    with no_strided_1x1():
        trained(FixedNet(DARTS_V2, 4, 5, 3, auxiliary=True))


@pytest.mark.parametrize("kind", SMALL)
def test_plain_networks(kind: str) -> None:
    with no_strided_1x1():
        trained(PlainNet(plan_of(kind, 4, 1), 3, 3))


@pytest.mark.parametrize("native", ["0", "1"])
@pytest.mark.parametrize("name", sorted(set(PRIMITIVES) - {"none", "noise", "max_pool_3x3", "avg_pool_3x3"}))
def test_primitives(name: str, native: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPOCELL_NATIVE", native)
    operation = make(name, 4, 2, affine=True)
    with Convolutions() as found:
        operation(images(4).requires_grad_()).sum().backward()
    assert not [(k, s) for k, s in found.seen if set(k) == {1} and max(s) > 1]

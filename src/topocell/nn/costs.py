"""Costs of the networks of a space: each layer that a network can have is measured once, networks are sums of layers.

The layers are those of `topocell.nn.network.FixedNet`, so parameters and multiply-adds of a cell are what
`topocell.count` says of its network. Latency is any function of a layer (`topocell.networks.latency`).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from topocell.arguments import checked
from topocell.errors import SpaceError
from topocell.nn.count import count
from topocell.nn.primitives import make
from topocell.nn.skeleton import PlacedCell, Skeleton
from topocell.spaces.cell import SpaceSpec
from topocell.spaces.costs import CellCosts, Measure, NetworkCosts
from topocell.spaces.skeletons import Slot, stacking


@dataclass(frozen=True)
class NetworkSize:
    """The size of the network that is counted: arguments of `FixedNet`, and the shape (channels, height, width)
    of an image. The auxiliary head, which is there for training alone, does not count."""

    channels: int
    layers: int
    classes: int
    shape: tuple[int, int, int]
    stem: str = "cifar"
    head: str = "plain"


class Layer(NamedTuple):
    """A layer of a network.

    Args:
        name: all that its cost depends on besides the machine; equal names have equal costs.
        module: on the meta device.
        shape: (channels, height, width) of its input.
    """

    name: str
    module: nn.Module
    shape: tuple[int, ...]


#: Layer → cost.
Meter = Callable[[Layer], float]


def parameters_of(layer: Layer) -> float:
    """Return the number of parameters of a layer."""
    return float(sum(p.numel() for p in layer.module.parameters()))


def multiply_adds_of(layer: Layer) -> float:
    """Return the multiply-adds of a layer for one image: products of convolutions and linear layers, as `count`."""
    if next(layer.module.parameters(), None) is None:
        return 0.0
    channels, height, width = layer.shape
    return float(count(layer.module, (channels, height, width)).multiply_adds)


#: Measure → how it is counted.
COUNTED: Mapping[str, Meter] = {"parameters": parameters_of, "multiply_adds": multiply_adds_of}


@checked(SpaceError)
def network_costs(
    space: SpaceSpec, size: NetworkSize, measure: Measure = "parameters", meter: Meter | None = None
) -> NetworkCosts:
    """Measure every layer that a network of a space can have at one size.

    Args:
        space: cells with all their candidates.
        size: of the networks.
        measure: parameters, multiply_adds or latency.
        meter: measures a layer; default the exact count, which latency does not have. It is asked once for each name.

    Raises:
        SpaceError: a size that no network can have, or images that it cannot take.
    """
    ask, known = meter or COUNTED[measure], dict[str, float]()

    def cost(layer: Layer) -> float:
        if layer.name not in known:
            known[layer.name] = ask(layer)
        return known[layer.name]

    with torch.device("meta"):
        narrow = _Hollow(space, size, {})
        fixed = sum(map(cost, narrow.layers()))
        cells = {}
        for name, cell in space.cells.items():
            wider = [
                sum(map(cost, _Hollow(space, size, {name: width}).layers())) - fixed
                for width in range(2, cell.width + 1)
            ]
            offered = {
                stride: {op for e, ops in enumerate(cell.candidates) if cell.edge_stride(e) == stride for op in ops}
                for stride in {1, cell.stride}
            }
            operations = {
                stride: {op: sum(cost(narrow.operation(slot, op, stride)) for slot in narrow.slots_of(name))
                         for op in sorted(names - {"none"})}
                for stride, names in offered.items()
            }  # fmt: skip
            cells[name] = CellCosts(operations, (0.0, *wider))
    return NetworkCosts(measure, fixed, cells)


class _HollowCell(nn.Module):
    """A cell without operations: zeros of the shape of its output."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.out_channels, self.stride = channels, stride

    def forward(self, states: list[Tensor]) -> Tensor:
        images, _, height, width = states[0].shape
        return states[0].new_zeros(images, self.out_channels, height // self.stride, width // self.stride)


class _Head(nn.Module):
    """What follows the last cell."""

    def __init__(self, net: Skeleton) -> None:
        super().__init__()
        self.head, self.classifier = net.head, net.classifier

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.classifier(self.head(x).mean((2, 3)))
        return out


class _Hollow:
    """The skeleton of a network, with the shape that each of its layers takes in.

    Args:
        space, size: of the network.
        widths: cell type → nodes of its output; default 1.
    """

    def __init__(self, space: SpaceSpec, size: NetworkSize, widths: Mapping[str, int]) -> None:
        self._strides = stacking(space.skeleton).strides

        def make_cell(slot: Slot) -> nn.Module:
            return _HollowCell(slot.channels * widths.get(slot.cell_type, 1), self._strides[slot.cell_type])

        self.net = Skeleton(
            skeleton=space.skeleton,
            make_cell=make_cell,
            inputs={name: cell.inputs for name, cell in space.cells.items()},
            channels=size.channels,
            layers=size.layers,
            classes=size.classes,
            in_channels=size.shape[0],
            stem_multiplier=3 if size.stem == "cifar" else 1,
            stem=size.stem,
            affine=True,
            batch_statistics=False,
            head=size.head,
        ).eval()
        self._shapes: dict[nn.Module, tuple[int, ...]] = {}
        handles = [module.register_forward_pre_hook(self._see) for module in self.net.modules()]
        with torch.no_grad():
            self.net(torch.zeros(1, *size.shape))
        for handle in handles:
            handle.remove()

    def _see(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        first = inputs[0][0] if isinstance(inputs[0], list) else inputs[0]
        self._shapes[module] = tuple(first.shape[1:])

    def slots_of(self, cell_type: str) -> list[Slot]:
        return [slot for slot in self.net.slots if slot.cell_type == cell_type]

    def operation(self, slot: Slot, name: str, stride: int) -> Layer:
        """An operation of a cell; of a cell of stride 2, one of stride 1 is behind a computed node."""
        channels, height, width = self._shapes[self.net.cells[slot.index].cell]  # type: ignore[index]
        shrink = self._strides[slot.cell_type] // stride
        shape = channels, height // shrink, width // shrink
        layer = self._layer(make(name, channels, stride, affine=True), shape)
        return layer._replace(name=f"{name} of stride {stride}: {layer.name}")

    def layers(self) -> Iterator[Layer]:
        """All layers of the skeleton."""
        modules: list[nn.Module] = [self.net.stem, *self.net.blocks]
        for placed in self.net.cells:
            assert isinstance(placed, PlacedCell)
            modules += [m for m in (placed.preprocess0, placed.preprocess1) if m is not None]
        for module in modules:
            yield self._layer(module, self._shapes[module])
        yield self._layer(_Head(self.net), self._shapes[self.net.head])

    @staticmethod
    def _layer(module: nn.Module, shape: tuple[int, ...]) -> Layer:
        return Layer(f"{' '.join(repr(module).split())} on {'x'.join(map(str, shape))}", module, shape)

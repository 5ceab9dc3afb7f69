"""The operations of cells: one row for each, with its module in a network and its bank in the supernet."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import get_args

from torch import Tensor, nn

from topocell.errors import RecipeError, SpaceError, check_known
from topocell.nn.banks import (
    Bank,
    ConvBank,
    DilConvBank,
    FactorizedConvBank,
    ModuleBank,
    NoiseBank,
    ReduceBank,
    SepConvBank,
)
from topocell.nn.functional import normalise
from topocell.nn.modules import (
    Conv7x1,
    DilConv,
    FactorizedReduce,
    Noise,
    ReLUConvBN,
    Residual,
    SepConv,
    Zero,
    batch_norm,
)
from topocell.nn.pooling import avg_pool, max_pool
from topocell.registry import Registry
from topocell.spaces.operations import KNOWN_OPERATIONS, RESIDUAL_OPERATIONS, Family, Operation

#: (channels, stride, affine) → module from (N, C, H, W) to (N, C, H / stride, W / stride).
Module = Callable[[int, int, bool], nn.Module]
#: (channels, stride, indices of edges) → bank.
BankBuilder = Callable[[int, int, Sequence[int]], Bank]
#: (x, stride, norm) → map; of a pool, followed by batch norm without gain and bias if `norm`.
Map = Callable[[Tensor, int, bool], Tensor]


@dataclass(frozen=True)
class Pool:
    """The `weightless` of a pool: `norm`, as DARTS asks, adds batch norm without gain and bias, and nothing else.

    Compiled kernels add it together with the weights of the edges.

    Args:
        bare: (x, stride) → map.
    """

    bare: Callable[[Tensor, int], Tensor]

    def __call__(self, x: Tensor, stride: int, norm: bool) -> Tensor:
        y = self.bare(x, stride)
        return normalise(y) if norm else y


@dataclass(frozen=True)
class Primitive:
    """An operation that cells may name.

    Args:
        module: builds it for a network; `affine` says whether its batch norms have gain and bias. It ends in batch
            norm, as operations are weighed against each other, and leaves its input, which others read, alone.
        bank: builds it for all edges that leave a node in the supernet; without one, `ModuleBank` holds one module for
            each edge. Beside `weightless`, it is for stride 2 alone.
        weightless: computes it where it has no weights, once for all edges of a node: `(x, stride, norm)` → map.
            `norm` says that pools end in batch norm, as a `Pool` does; where that has no meaning (a skip connection),
            it is left unread.
        label: short name in drawings; default the name itself.
        family: colour in drawings.
    """

    module: Module
    bank: BankBuilder | None = None
    weightless: Map | None = None
    label: str = ""
    family: Family = "other"

    def bank_at(self, stride: int) -> BankBuilder | None:
        """The bank at a stride; None where the operation has no weights."""
        if self.weightless is not None and (stride == 1 or self.bank is None):
            return None
        return self.bank or partial(ModuleBank, self.module)


class _Primitives(Registry[Primitive]):
    """The table of operations; spaces, rules and drawings learn of one that is added."""

    def add(self, name: str, piece: Primitive) -> Primitive:
        """Add an operation. Raises RecipeError, as `Registry.add`, and where it is none."""
        if not isinstance(piece, Primitive):
            raise RecipeError(f"an operation is a topocell.nn.Primitive, but {name!r} is a {type(piece).__name__}")
        if piece.family not in (families := get_args(Family)):
            raise RecipeError(
                f"the family of an operation is one of {', '.join(families)}, but that of {name!r} is {piece.family!r}"
            )
        super().add(name, piece)
        KNOWN_OPERATIONS[name] = Operation(piece.label or name, piece.family, piece.weightless is not None)
        return piece


def _skip(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine)


def _normal_conv(channels: int, stride: int, affine: bool, *, kernel: int) -> nn.Module:
    return ReLUConvBN(channels, channels, affine, kernel=kernel, stride=stride)


def _nothing(x: Tensor, stride: int, norm: bool) -> Tensor:
    return x.new_zeros(()).expand_as(x[:, :, ::stride, ::stride])


def _identity(x: Tensor, stride: int, norm: bool) -> Tensor:
    return x


def _row(name: str, module: Module, bank: BankBuilder | None = None, weightless: Map | None = None) -> Primitive:
    """A row of those that come with the package, whose label and family are known."""
    return Primitive(module, bank, weightless, KNOWN_OPERATIONS[name].label, KNOWN_OPERATIONS[name].family)


def _sep(name: str, kernel: int) -> Primitive:
    return _row(name, partial(SepConv, kernel=kernel), partial(SepConvBank, kernel=kernel))


def _dil(name: str, kernel: int) -> Primitive:
    return _row(name, partial(DilConv, kernel=kernel), partial(DilConvBank, kernel=kernel))


def _conv(name: str, kernel: int) -> Primitive:
    return _row(name, partial(_normal_conv, kernel=kernel), partial(ConvBank, kernel=kernel))


def _max_module(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.MaxPool2d(3, stride, 1)


def _avg_module(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.AvgPool2d(3, stride, 1, count_include_pad=False)


def _residual(name: str, inner: Module) -> Primitive:
    """A row of an operation with a skip connection around it. In the supernet a pool inside ends in batch norm."""

    def module(channels: int, stride: int, affine: bool) -> nn.Module:
        op, pool = inner(channels, stride, affine), KNOWN_OPERATIONS[name].family == "pool"
        op = nn.Sequential(op, batch_norm(channels, affine)) if pool and not affine else op
        return Residual(op, channels, stride, affine)

    return _row(name, module)


PRIMITIVES = _Primitives(
    "operation",
    {
        "none": _row("none", lambda channels, stride, affine: Zero(stride), None, _nothing),
        "max_pool_3x3": _row("max_pool_3x3", _max_module, None, Pool(max_pool)),
        "avg_pool_3x3": _row("avg_pool_3x3", _avg_module, None, Pool(avg_pool)),
        "skip_connect": _row("skip_connect", _skip, ReduceBank, _identity),
        "sep_conv_3x3": _sep("sep_conv_3x3", 3),
        "sep_conv_5x5": _sep("sep_conv_5x5", 5),
        "dil_conv_3x3": _dil("dil_conv_3x3", 3),
        "dil_conv_5x5": _dil("dil_conv_5x5", 5),
        "sep_conv_7x7": _sep("sep_conv_7x7", 7),
        "conv_7x1_1x7": _row("conv_7x1_1x7", Conv7x1, FactorizedConvBank),
        "noise": _row("noise", lambda channels, stride, affine: Noise(stride), NoiseBank),
        "nor_conv_1x1": _conv("nor_conv_1x1", 1),
        "nor_conv_3x3": _conv("nor_conv_3x3", 3),
    },
    Primitive,
)


PRIMITIVES |= {name: _residual(name, PRIMITIVES[inner].module) for name, inner in RESIDUAL_OPERATIONS.items()}


def make(name: str, channels: int, stride: int, affine: bool) -> nn.Module:
    """The module of one operation from `channels` to `channels` channels; pools are bare (no batch norm).

    Raises:
        SpaceError: if no operation has that name.
    """
    check_known("operation", name, PRIMITIVES, SpaceError)
    return PRIMITIVES[name].module(channels, stride, affine)

"""Parameters and multiply-adds of a network, and the number of channels for a number of parameters."""

import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from topocell.arguments import checked
from topocell.errors import SpaceError, TopocellError
from topocell.genotype.genotype import Genotype
from topocell.nn.network import FixedNet

#: Whose multiply-adds `count` counts.
Include = Literal["convolutions", "all"]


class Count(NamedTuple):
    """Size of a network: numbers of its parameters, frozen ones too, and multiply-adds per image."""

    parameters: int
    multiply_adds: int


#: Whether a cell is one of NAS-Bench-201 → initial channels and layers of the networks that its papers evaluate.
PUBLISHED_SIZES = {False: (36, 20), True: (16, 17)}


def published_size(genotype: Genotype) -> "Count":
    """Return the size of the published CIFAR-10 network of a cell: 32×32 images, 10 classes, no auxiliary head.

    Nothing is computed, so that any cell can be asked for. Raises SpaceError where its skeleton has no such network.
    """
    channels, layers = PUBLISHED_SIZES["cell" in genotype.cells]
    with torch.device("meta"):
        net = FixedNet(genotype, channels, layers, 10)
    return count(net, (3, 32, 32))


#: Initial channels and layers of the networks that papers evaluate in the mobile setting of ImageNet.
MOBILE_SIZE = (48, 14)


def mobile_size(genotype: Genotype) -> "Count":
    """Return the size of the network of a cell in the mobile setting of ImageNet: 224×224 images, 1,000 classes.

    Nothing is computed. Raises SpaceError where its skeleton has no such network (NAS-Bench-201).
    """
    channels, layers = MOBILE_SIZE
    with torch.device("meta"):
        net = FixedNet(genotype, channels, layers, 1000, stem="imagenet")
    return count(net, (3, 224, 224))


@checked(SpaceError)
def count(net: nn.Module, input_size: tuple[int, int, int], include: Include = "convolutions") -> Count:
    """Parameters and multiply-adds of a network, without its auxiliary head.

    Measured on one forward pass of zeros in evaluation mode; the modes of all modules are restored. A network
    on the meta device is measured without computing anything.

    Papers count differently, and few say how. `"convolutions"` counts the products of convolutions and of matrices
    (linear layers, attention), whichever module or function computes them; those of quantised and sparse tensors are
    refused, as they cannot be seen: 529.9 M for DARTS_V2 on ImageNet (48
    channels, 14 cells, 224×224), where the paper prints 574 M. `"all"` adds what counters such as ptflops do: 2 for
    each element of a batch norm, or 1 without gain and bias; 1 for each element of a ReLU, of a sum of two tensors, and
    of an output with a bias; 1 for each element of the input of a pooling, of the global one too. That gives 545.8 M
    there, still 5 % less than printed.

    Args:
        net: a `FixedNet`, or any module that maps images to a tensor.
        input_size: `(channels, height, width)` of one image.
        include: `"convolutions"` for convolutions and products of matrices without biases, or `"all"`.

    Raises:
        SpaceError: another `include`, a network that takes more than images, or images that it refuses.
    """
    if min(input_size) < 1:
        raise SpaceError(
            f"input_size is (channels, height, width), each 1 or more, but got input_size={tuple(input_size)}"
        )
    if include not in get_args(Include):
        raise SpaceError(f"include must be one of {', '.join(get_args(Include))}, but got {include!r}")
    net = getattr(net, "_orig_mod", net)  # of torch.compile, which warns where calls are counted
    _check_inputs(net)
    from torch.utils.flop_counter import FlopCounterMode  # which imports Triton

    modes = modes_of(net)
    like = next(net.parameters(), torch.empty(0))
    with torch.inference_mode(False):  # operators reach no counter in parts in inference mode
        images = torch.zeros(1, *input_size, device=like.device, dtype=like.dtype)
    products, others = FlopCounterMode(display=False, custom_mapping=_products_besides()), _Elements()
    left = _Left(products.flop_registry)
    try:
        with suppress(NotImplementedError):  # a graph of torch.export has one mode for good
            net.eval()
        shapes = _Shapes() if images.device.type == "meta" else nullcontext()
        every = others if include == "all" else nullcontext()
        with torch.inference_mode(False), torch.no_grad(), _unfused(net), products, shapes, left, every:
            net(images)
    except (TopocellError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise SpaceError(
            f"what is counted takes images {tuple(images.shape)} of {images.dtype}, but a {type(net).__name__} does "
            f"not ({reason}); count the network that it was made of"
        ) from error
    finally:
        for module, training in modes.items():
            module.training = training
    return Count(_parameters(net), products.get_total_flops() // 2 + others.found)


def _products_besides() -> dict[Any, Callable[..., int]]:
    """Products that PyTorch's own counter leaves out → twice their number, by the shapes of what they are made of."""
    aten, others = torch.ops.aten, dict[Any, Callable[..., int]]()
    with suppress(AttributeError):  # where torchvision is not loaded
        deformed = torch.ops.torchvision.deform_conv2d
        others[deformed] = lambda _, kernel, *__, out_shape, **___: 2 * math.prod(out_shape) * math.prod(kernel[1:])
    return others | {
        aten.dot: lambda first, *_, **__: 2 * math.prod(first),
        aten.vdot: lambda first, *_, **__: 2 * math.prod(first),
        aten.mv: lambda matrix, *_, **__: 2 * math.prod(matrix),
        aten.addmv: lambda _, matrix, *__, **___: 2 * math.prod(matrix),
        aten.addbmm: lambda _, first, second, *__, **___: 2 * math.prod(first) * second[-1],
        aten._int_mm: lambda first, second, *_, **__: 2 * math.prod(first) * second[-1],  # of whole numbers
        aten._trilinear: lambda first, weight, second, *_, **__: 2 * first[0] * math.prod(weight),  # of nn.Bilinear
    }


class _Left(TorchDispatchMode):
    """Refuses operators of products that nothing here counts: quantised and sparse ones, and those of other packages.

    Raises SpaceError from within the network.
    """

    def __init__(self, counted: Mapping[Any, Any]) -> None:
        super().__init__()
        self.counted = counted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        own = name.startswith(("topocell::", "prims::"))
        if not own and func.overloadpacket not in self.counted and _OF_PRODUCTS.search(name):
            raise SpaceError(
                f"products must be of operators that can be counted, but {name} is none; count the network before it "
                f"was quantised, converted or made sparse"
            )
        return func(*args, **(kwargs or {}))


#: Names of operators that compute products.
_OF_PRODUCTS = re.compile(
    r"conv(?:olution)?(?:[1-3]d|_pointwise|_|\b)|(?::|mkldnn_)linear|[:_](?:add|b|badd)?m[mv](?:_|\b)|matmul|lstm|gru|attention"
)


@contextmanager
def _unfused(net: nn.Module) -> Iterator[None]:
    """Have attention and LSTMs computed by the products that they are made of, which can be counted."""
    fast = torch.backends.mha.get_fastpath_enabled()
    rnn = any(isinstance(module, nn.LSTM) for module in net.modules())  # whose products oneDNN does by itself
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False) if rnn else nullcontext():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def modes_of(net: nn.Module) -> dict[nn.Module, bool]:
    """Which modules are in training mode; without those of a frozen trace, which have none."""
    return {module: module.training for module in net.modules() if hasattr(module, "training")}


def _check_inputs(net: nn.Module) -> None:
    try:
        inspect.signature(net.forward).bind("images")
    except ValueError:  # TorchScript does not tell
        return
    except TypeError as error:
        raise SpaceError(
            f"what is counted takes images and nothing else, but got a {type(net).__name__} ({error}); put it into a "
            f"module that gives the rest"
        ) from None


#: What adds a tensor, such as a bias, to each element of its output → the place of that tensor among its arguments.
_ADDED = {"add": 1, "addmm": 0, "convolution": 2}


class _Elements(TorchDispatchMode):
    """Counts the elements that batch norm, ReLU, pooling, biases and sums of tensors compute with, as `count` says."""

    def __init__(self) -> None:
        super().__init__()
        self.found = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.strip("_")
        if "batch_norm" in name:
            self.found += args[0].numel() * (1 if args[1] is None else 2)
        elif name in ("relu", "mean") or "pool2d" in name:
            self.found += args[0].numel()
        elif name in _ADDED and isinstance(args[_ADDED[name]], Tensor):
            self.found += out.numel()
        return out


class _Shapes(TorchDispatchMode):
    """Batch norm and ReLU of tensors without values, whose shapes PyTorch finds out in Python, step by step."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.relu.default:
            return torch.empty_like(args[0])
        if func is torch.ops.aten.native_batch_norm.default:
            return torch.empty_like(args[0]), *(args[0].new_empty(0) for _ in range(2))
        return func(*args, **(kwargs or {}))


def _parameters(net: nn.Module) -> int:
    return sum(p.numel() for name, p in net.named_parameters() if "auxiliary_head" not in name.split("."))


#: Channels of the small networks from which the size of all others follows.
FEW = (2, 4, 6)


def _polynomial(sizes: Sequence[int]) -> Callable[[int], int]:
    """The size of a network of 2k channels, a quadratic polynomial in k, from those of k = 1, 2, 3."""
    f1, f2, f3 = sizes
    half_second = (f3 - 2 * f2 + f1) // 2
    return lambda k: f1 + (k - 1) * (f2 - f1) + (k - 1) * (k - 2) * half_second


def _bracket(size: Callable[[int], int], limit: int) -> tuple[int, int]:
    """The last k ≥ 0 with size(k) < limit, and the next one."""
    high = 1
    while size(high) < limit:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) < limit else (low, middle)
    return low, high


def widest(
    genotype: Genotype,
    limits: Mapping[str, int],
    height: int,
    width: int,
    layers: int,
    classes: int,
    in_channels: int = 3,
    stem: str = "cifar",
    head: str = "plain",
) -> tuple[int, list[str]]:
    """The most even initial channels whose network stays within limits, and a sentence that says so.

    Args:
        genotype: the cell.
        limits: `parameters` or `multiply_adds` or both → the most there may be.
        height, width: of the images.
        layers, classes, in_channels, stem, head: of `FixedNet`.

    Raises:
        SpaceError: the network of two channels is above a limit, or an argument that `FixedNet` refuses.
    """

    def counted(channels: int) -> Count:
        with torch.device("meta"):
            net = FixedNet(genotype, channels, layers, classes, in_channels, stem, head=head)
        return count(net, (in_channels, height, width))

    few = [counted(channels) for channels in FEW]
    most = min(_bracket(_polynomial([getattr(c, of) for c in few]), limit + 1)[0] for of, limit in limits.items())
    told = " and ".join(f"retrain.max_{of}={limit}" for of, limit in limits.items())
    if most < 1:
        least = ", ".join(f"{getattr(few[0], of):,} {of.replace('_', '-')}" for of in limits)
        raise SpaceError(
            f"a network of this cell with {layers} layers has at least {least} (2 channels), which is above {told}; "
            f"raise the limit, or lower retrain.layers"
        )
    chosen, above = counted(2 * most), counted(2 * most + 2)
    sizes = [f"{of.parameters:,} parameters and {of.multiply_adds:,} multiply-adds" for of in (chosen, above)]
    words = f"retrain.channels={2 * most}, the most within {told}: {sizes[0]}; {2 * most + 2} channels have {sizes[1]}"
    return 2 * most, [words]


def channels_for(
    genotype: Genotype,
    parameters: int,
    layers: int,
    classes: int,
    in_channels: int = 3,
    stem: str = "cifar",
    head: str = "plain",
) -> int:
    """The even number of initial channels whose network comes closest to a parameter budget, at least 2.

    The count is a quadratic polynomial in the channels, so three small networks on the meta device give it.

    Raises:
        SpaceError: a budget below 1, or an argument that `FixedNet` refuses.
    """
    if parameters < 1:
        raise SpaceError(f"a parameter budget is at least 1, but got parameters={parameters}")
    with torch.device("meta"):
        size = _polynomial(
            [_parameters(FixedNet(genotype, c, layers, classes, in_channels, stem, head=head)) for c in FEW]
        )
    low, high = _bracket(size, parameters)
    return 2 * min((k for k in (low, high) if k > 0), key=lambda k: abs(size(k) - parameters))

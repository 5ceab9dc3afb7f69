"""Operation banks: one primitive for all M edges that leave a node, with stacked weights.

A bank takes the source node once and returns the weighted outputs of all its edges stacked over channels,
(N, M·C, H', W'), edge-major. Its parameters carry the edges in dimension 0, so removing an edge is a slice.
"""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase

from topocell.errors import SpaceError
from topocell.nn.functional import convolve, depthwise_separable, normalise


def _draw(stacked: Tensor) -> Tensor:
    for piece in stacked:
        nn.init.kaiming_uniform_(piece, a=5**0.5)
    return stacked


class Bank(nn.Module):
    """One parametric operation on the M edges that leave one node with one stride.

    Attributes:
        edges: indices in the cell of the edges that are live, in edge order.
    """

    def __init__(self, channels: int, stride: int, edges: Sequence[int]) -> None:
        super().__init__()
        self.channels, self.stride, self.edges = channels, stride, list(edges)
        self._stacked: list[str] = []

    def stack(self, name: str, *shape: int) -> None:
        """Add a parameter of M slices of `shape`, each drawn as torch draws a convolution's weight."""
        self.register_parameter(name, nn.Parameter(_draw(torch.empty(len(self.edges), *shape))))
        self._stacked.append(name)

    def reset_parameters(self) -> None:
        """Draw all weights anew, as PyTorch's modules do, such as after `to_empty`."""
        for weight in self.tensors():
            _draw(weight.detach())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Take what `to` and its like do to tensors: to stacked weights as to those of convolutions side by side.

        Channels last is a layout of four dimensions.
        """

        def apply(tensor: Tensor) -> Tensor:
            if tensor.dim() != 5:
                return fn(tensor)
            flat = tensor.flatten(0, 1)
            found = fn(flat)
            return tensor if found is flat else found.unflatten(0, tensor.shape[:2])  # a view cannot be swapped

        return super()._apply(apply, recurse)

    def tensors(self, rows: Tensor | None = None) -> list[Tensor]:
        """Return the stacked parameters, parametrized ones included, or their slices `rows` (M,)."""
        found: list[Tensor] = [getattr(self, name) for name in self._stacked]
        return found if rows is None else [tensor[rows] for tensor in found]

    def forward(self, x: Tensor, active: Tensor, weight: Tensor, rows: Tensor | None = None) -> Tensor:
        """Weighted outputs (N, M·C, H', W') of a node `x` (N, C, H, W), with `active` = relu(x).

        `weight` (M·C,) is the weight of each edge repeated over its channels, `rows` (M,) are the slices of the edges
        that run, all by default. Parameters are read here and no sooner, as hooks on the call of a module set them
        (pruning, sharding, offloading).
        """
        return self.compute(x, active, weight, self.tensors(rows))

    def compute(self, x: Tensor, active: Tensor, weight: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        """`forward` with the parameters, or the slices of them, of the M edges that run."""
        raise NotImplementedError

    def keep(self, edges: Sequence[int]) -> list[tuple[nn.Parameter, Tensor]]:
        """Drop the slices of all other edges; returns each parameter with the indices of its kept slices."""
        index = torch.tensor([self.edges.index(e) for e in edges], dtype=torch.long, device="cpu")
        sliced = []
        for parameter in self.parameters():
            kept = index.to(parameter.device)
            slices, other = (
                parameter.data[kept].clone(),
                torch.half if parameter.dtype != torch.half else torch.float,
            )
            # A graph that is still alive, as that of the last loss, keeps the old shape, unless the type is another.
            parameter.data = slices.to(other)
            parameter.data = slices
            parameter.grad = None
            sliced.append((parameter, kept))
        for name, mask in self.named_buffers(recurse=False):  # of pruning
            setattr(self, name, mask[index.to(mask.device)].clone())
        self.edges = list(edges)
        return sliced

    def pieces(self, edge: int) -> dict[str, tuple[nn.Parameter, int]]:
        """Part name → (stacked parameter, slice) for one edge, named as in the per-edge layout."""
        row = self.edges.index(edge)
        return {part: (self._stored(name), row) for part, name in zip(self._parts(), self._stacked, strict=True)}

    def _parts(self) -> list[str]:
        """The names of the stacked parameters in the per-edge layout."""
        return self._stacked

    def _stored(self, name: str) -> nn.Parameter:
        """The parameter that a stacked one is computed from, where pruning or a parametrization does."""
        known = dict(self.named_parameters())
        for stored in (name, f"{name}_orig", f"parametrizations.{name}.original"):
            if stored in known:
                return known[stored]
        raise SpaceError(
            f"weights of single edges are slices of the parameter {name!r}, but it is kept otherwise, in "
            f"{', '.join(known)}; remove what computes it first"
        )


class ChainBank(Bank):
    """A chain of stages, each ReLU, depthwise k×k, 1×1 (C → C), BN; only the first has the stride.

    Attributes:
        kernel, dilation: of the depthwise convolutions.
        stages: 2 for separable, 1 for dilated convolutions.
    """

    def __init__(
        self, channels: int, stride: int, edges: Sequence[int], kernel: int, dilation: int, names: Sequence[str]
    ) -> None:
        super().__init__(channels, stride, edges)
        self.kernel, self.dilation, self.stages = kernel, dilation, len(names) // 2
        for depth, point in zip(names[::2], names[1::2]):
            self.stack(depth, channels, 1, kernel, kernel)
            self.stack(point, channels, channels, 1, 1)

    def compute(self, x: Tensor, active: Tensor, weight: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        norms = [normalise] * (self.stages - 1) + [partial(normalise, weight=weight)]
        return depthwise_separable(active, [*zip(tensors[::2], tensors[1::2])], self.stride, self.dilation, norms)


class SepConvBank(ChainBank):
    """ReLU, depthwise k×k, 1×1, BN, ReLU, depthwise k×k, 1×1, BN."""

    def __init__(self, channels: int, stride: int, edges: Sequence[int], kernel: int) -> None:
        super().__init__(channels, stride, edges, kernel, 1, ("dw1", "pw1", "dw2", "pw2"))


class DilConvBank(ChainBank):
    """ReLU, depthwise k×k of dilation 2, 1×1, BN."""

    def __init__(self, channels: int, stride: int, edges: Sequence[int], kernel: int) -> None:
        super().__init__(channels, stride, edges, kernel, 2, ("dw", "pw"))


class ConvBank(Bank):
    """ReLU, k×k convolution, BN: all edges share the input, so this is one dense convolution."""

    def __init__(self, channels: int, stride: int, edges: Sequence[int], kernel: int) -> None:
        super().__init__(channels, stride, edges)
        self.stack("conv", channels, channels, kernel, kernel)

    def compute(self, x: Tensor, active: Tensor, weight: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        (conv,) = tensors
        return normalise(convolve(active, conv.flatten(0, 1), self.stride), weight)


class FactorizedConvBank(Bank):
    """ReLU, 1×7 convolution of stride (1, s), 7×1 convolution of stride (s, 1), BN."""

    def __init__(self, channels: int, stride: int, edges: Sequence[int]) -> None:
        super().__init__(channels, stride, edges)
        self.stack("conv1", channels, channels, 1, 7)
        self.stack("conv2", channels, channels, 7, 1)

    def compute(self, x: Tensor, active: Tensor, weight: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        conv1, conv2 = tensors
        y = F.conv2d(active, conv1.flatten(0, 1), None, (1, self.stride), (0, 3))
        y = F.conv2d(y, conv2.flatten(0, 1), None, (self.stride, 1), (3, 0), groups=len(conv2))
        return normalise(y, weight)


class ReduceBank(Bank):
    """The skip connection of stride 2 (FactorizedReduce): ReLU, two 1×1 convolutions of stride 2, BN."""

    def __init__(self, channels: int, stride: int, edges: Sequence[int]) -> None:
        super().__init__(channels, stride, edges)
        self.stack("conv1", channels // 2, channels, 1, 1)
        self.stack("conv2", channels // 2, channels, 1, 1)

    def compute(self, x: Tensor, active: Tensor, weight: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        conv1, conv2 = tensors
        a = convolve(active, conv1.flatten(0, 1), 2)
        b = convolve(active[:, :, 1:, 1:], conv2.flatten(0, 1), 2)
        m, half = len(conv1), self.channels // 2
        if m > 1:
            halves = zip(a.split(half, 1), b.split(half, 1))
            stacked = torch.cat([t for pair in halves for t in pair], 1)
        else:
            stacked = torch.cat([a, b], 1)
        return normalise(stacked, weight)


class NoiseBank(Bank):
    """Fresh N(0, 1) noise on every forward, no parameters, no gradient to the input (S4 of RobustDARTS)."""

    def compute(self, x: Tensor, active: Tensor, weight: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        sample = x[:, :, :: self.stride, :: self.stride]
        noise = torch.cat([torch.randn_like(sample) for _ in range(len(weight) // self.channels)], 1)
        return noise * weight.view(1, -1, 1, 1)


def _nothing() -> None:
    pass


class ModuleBank(Bank):
    """Any operation: on each edge the module of a network, run one after the other.

    Its parameters are stacked over the edges like those of other banks. Batch norms of any number of dimensions take
    the statistics of the batch, also in evaluation, as everywhere in the supernet. Modules without parameters will do;
    edges share the other buffers.

    Args:
        build: (channels, stride, affine) → module.
        channels: of each edge.
        stride: of the edges.
        edges: their indices in the cell.
    """

    def __init__(
        self, build: Callable[[int, int, bool], nn.Module], channels: int, stride: int, edges: Sequence[int]
    ) -> None:
        super().__init__(channels, stride, edges)
        modules = [build(channels, stride, False) for _ in edges]
        self.template = modules[0]
        for module in self.template.modules():
            if isinstance(module, _NormBase):
                module.track_running_stats = False
                module.running_mean = module.running_var = module.num_batches_tracked = None
        self._names = [name for name, _ in self.template.named_parameters()]
        stacks = [torch.stack([dict(m.named_parameters())[name].detach() for m in modules]) for name in self._names]
        for name, stack in zip(self._names, stacks):
            owner = self.template.get_submodule(name.rpartition(".")[0])
            owner.register_parameter(name.rpartition(".")[2], None)
            self.register_parameter(name.replace(".", "__"), nn.Parameter(stack))
            self._stacked.append(name.replace(".", "__"))
        for module in self.template.modules():
            if hasattr(module, "reset_parameters"):  # its parameters are those of the bank
                module.reset_parameters = _nothing  # type: ignore[assignment]

    def reset_parameters(self) -> None:
        """Draw all weights anew by the `reset_parameters` of the module's parts; what these leave alone stays."""
        for edge in zip(*(stacked.detach() for stacked in self.tensors())):
            module = copy.deepcopy(self.template)
            for name, weight in zip(self._names, edge):
                owner, _, last = name.rpartition(".")
                module.get_submodule(owner).register_parameter(last, nn.Parameter(weight))
            for part in module.modules():
                if hasattr(type(part), "reset_parameters"):
                    type(part).reset_parameters(part)  # type: ignore[attr-defined]
            for name, buffer in module.named_buffers():
                self.template.get_buffer(name).copy_(buffer)

    def compute(self, x: Tensor, active: Tensor, weight: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        weights = weight.view(-1, self.channels)
        rows = [dict(zip(self._names, slices)) for slices in zip(*(t.unbind() for t in tensors))] or [{}] * len(weights)
        outputs = [functional_call(self.template, row, (x,)) for row in rows]
        return torch.cat([out * w.view(1, -1, 1, 1) for out, w in zip(outputs, weights)], 1)

    def _parts(self) -> list[str]:
        """A parameter `conv.weight` of the module is the part `conv`."""
        return [name.removesuffix(".weight") for name in self._names]

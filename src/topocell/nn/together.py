"""Many small networks as one: networks of one skeleton, with cells of their own, computed in the same calls.

Small networks are bound by the number of calls, not by arithmetic. Here the layers that several networks have in
common are one call of `torch.func.vmap` over their stacked weights: convolutions become grouped ones over N · C
channels, batch norms norms of N · C channels, linear layers batched products. Of the cells, each operation on an edge
is computed for the networks that have it. A network's outputs and gradients depend on its own weights and images alone.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from topocell.errors import SpaceError
from topocell.nn.modules import Noise
from topocell.nn.network import FixedCell, FixedNet


class Stack(nn.Module):
    """Modules that differ in their weights alone, as one: `(B, n, ...)` to `(B, n, ...)`, one slice for each module.

    Args:
        modules: n modules of one structure.
        members: the network, among all, that each of them belongs to.
        prefixes: what the names of each module's weights begin with in the state of its network.
    """

    def __init__(self, modules: Sequence[nn.Module], members: Sequence[int], prefixes: Sequence[str]) -> None:
        super().__init__()
        self.members, self.prefixes = list(members), list(prefixes)
        parameters, buffers = stack_module_state(list(modules))
        self._names = {name: name.replace(".", "-") for name in (*parameters, *buffers)}
        for name, value in parameters.items():
            self.register_parameter(self._names[name], nn.Parameter(value.detach()))
        for name, value in buffers.items():
            self.register_buffer(self._names[name], value)
        self._parameters_of, self._buffers_of = list(parameters), list(buffers)
        self._like = [copy.deepcopy(modules[0]).to("meta")]  # in a list: its weights are no part of this module
        self.index: Tensor
        self.register_buffer("index", torch.tensor(self.members), persistent=False)

    def forward(self, x: Tensor) -> Any:
        """The outputs of all modules for inputs (B, n, ...)."""
        like = self._like[0].train(self.training)
        given = [
            {name: getattr(self, self._names[name]) for name in of} for of in (self._parameters_of, self._buffers_of)
        ]

        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Any:
            return functional_call(like, (parameters, buffers), (x,))

        run: Any = vmap(one, in_dims=(0, 0, 1), out_dims=1)
        return run(*given, x)

    def slices(self, gradients: bool = False) -> Iterator[tuple[int, str, Tensor]]:
        """The weights and running statistics of each module: its network, their name in its state, the values.

        With `gradients`, those of the weights that have some.
        """
        for name, own in self._names.items():
            values = getattr(self, own).grad if gradients else getattr(self, own)
            for place, (member, prefix) in enumerate(zip(self.members, self.prefixes)):
                if values is not None:
                    yield member, f"{prefix}{name}", values[place]


class TogetherCell(nn.Module):
    """The cells of all networks in one place of the skeleton.

    Args:
        cells: of each network; computed nodes and outputs are as many in all.
        place: index of the cell in the network.
    """

    def __init__(self, cells: Sequence[FixedCell], place: int) -> None:
        super().__init__()
        self._n = len(cells)
        uses: dict[tuple[int, int, str, int], list[tuple[int, int]]] = {}
        for network, cell in enumerate(cells):
            seen: dict[tuple[int, int, str], int] = {}
            for number, (name, (source, node)) in enumerate(zip(cell.names, cell.edges)):
                seen[node, source, name] = again = seen.get((node, source, name), -1) + 1
                uses.setdefault((node, source, name, again), []).append((network, number))
        ordered = sorted(uses.items())
        self._keys = [key for key, _ in ordered]
        self.operations = nn.ModuleList(
            Stack(
                [cells[network].operations[number] for network, number in found],
                [network for network, _ in found],
                [f"cells.{place}.cell.operations.{number}." for _, number in found],
            )
            for _, found in ordered
        )
        self._numbers = [[number for _, number in found] for _, found in ordered]
        self._dropped = [not isinstance(cells[f[0][0]].operations[f[0][1]], nn.Identity) for _, f in ordered]
        self._concat = cells[0].concat

    def forward(
        self, states: list[Tensor], kept: Mapping[tuple[int, int], Tensor] | None = None, keep: Tensor | float = 1.0
    ) -> Tensor:
        """(B, N, out_channels, h, w) from one (B, N, C, H, W) tensor per input.

        `kept` has, for each network and operation of this cell that may lose samples, those that it keeps (B,), and
        `keep` the probability of that.
        """
        values = dict(enumerate(states))

        def value(node: int) -> Tensor:  # in NAS-Bench-201 a node without an input is zero
            return values[node] if node in values else torch.zeros_like(states[0])

        for (node, source, _, _), stack, numbers, dropped in self._uses():
            whole = len(stack.members) == self._n
            x = value(source)
            y: Tensor = stack(x if whole else x.index_select(1, stack.index))
            if kept is not None and dropped:
                y = y / keep * torch.stack([kept[at] for at in zip(stack.members, numbers)], 1)[:, :, None, None, None]
            if node not in values:
                size = (x.shape[0], self._n, *y.shape[2:])
                values[node] = y if whole else y.new_zeros(size).index_add(1, stack.index, y)
            else:
                values[node] = values[node] + y if whole else values[node].index_add(1, stack.index, y)
        return torch.cat([value(node) for node in self._concat], 2)

    def _uses(self) -> Iterator[tuple[tuple[int, int, str, int], Stack, list[int], bool]]:
        """Node, source, operation, repetition; its modules; their numbers in the cells; whether paths are dropped."""
        stacks: Any = self.operations
        return zip(self._keys, stacks, self._numbers, self._dropped, strict=True)

    def draw(self, network: int, batch: int, keep: Tensor, draws: torch.Generator) -> dict[tuple[int, int], Tensor]:
        """Draw which samples (B,) of each operation of a network are kept, as `drop_samples` does, in its own order."""
        found = {}
        mine = sorted(
            number
            for _, stack, numbers, dropped in self._uses()
            for member, number in zip(stack.members, numbers)
            if dropped and member == network
        )
        for number in mine:
            found[network, number] = torch.rand((batch, 1, 1, 1), generator=draws).view(batch) < keep
        return found


class TogetherNet(nn.Module):
    """N networks of one skeleton as one module.

    The weights are copies of those of `networks`; `state_of` returns them as a network alone has them. Outputs and
    gradients equal those of the networks alone up to rounding. Preprocess layers that a cell does not read have no
    gradient alone, and one of zeros here if the cell of another network reads them: then weight decay shrinks them,
    which changes no output.

    Args:
        networks: of the same skeleton, channels, layers and classes. Their cells may differ in the inputs and
            operations of nodes, not in the nodes that the output consists of.

    Attributes:
        drop_path: see `FixedNet`; `draws` are needed where it is above 0.

    Raises:
        SpaceError: no networks, networks of different shapes, or operation `noise`, whose draws would be shared.
    """

    def __init__(self, networks: Sequence[FixedNet]) -> None:
        super().__init__()
        if not networks:
            raise SpaceError("networks train together from one on, but got none; give some")
        first, self.n = networks[0], len(networks)
        if len({_shape(net) for net in networks}) > 1:
            raise SpaceError(
                "networks train together that have the same skeleton, channels, layers, classes and nodes of the "
                "output, but these differ; train them one by one"
            )
        if any(isinstance(module, Noise) for net in networks for module in net.modules()):
            raise SpaceError(
                "operation noise draws anew in each call, which networks cannot share; train them one by one"
            )
        self.drop_path, self.slots, self._plan = 0.0, first.slots, first.block_before
        self._tap = first.tap if first.auxiliary_head is not None else None

        def stack(name: str) -> Stack:
            return Stack([net.get_submodule(name) for net in networks], range(self.n), [f"{name}."] * self.n)

        self.stem, self.classifier, self.head = stack("stem"), stack("classifier"), stack("head")
        self.preprocess, self.cells = nn.ModuleDict(), nn.ModuleList()
        for index, placed in enumerate(first.cells):
            for part in ("preprocess0", "preprocess1"):
                if getattr(placed, part) is not None:
                    self.preprocess[f"{index}-{part}"] = stack(f"cells.{index}.{part}")
            self.cells.append(TogetherCell([net.cells[index].cell for net in networks], index))  # type: ignore[misc]
        self.blocks = nn.ModuleList(stack(f"blocks.{number}") for number in range(len(first.blocks)))
        self.auxiliary_head = None if self._tap is None else stack("auxiliary_head")

    def forward(self, x: Tensor, draws: Sequence[torch.Generator] | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Logits (N, B, classes) of images (N, B, in_channels, H, W); with an auxiliary head in training, both.

        Args:
            x: images of each network.
            draws: source of the dropped paths of each network, where `drop_path` is above 0 in training.
        """
        batch = x.shape[1]
        kept: list[dict[tuple[int, int], Tensor]] = [{} for _ in self.slots]
        drops, keep = self.training and self.drop_path > 0, 1.0 - torch.full((), self.drop_path)
        if drops:
            for network, source in enumerate(draws or ()):
                for cell, found in zip(self.cells, kept):
                    assert isinstance(cell, TogetherCell)
                    drawn = cell.draw(network, batch, keep, source)
                    found.update({at: value.to(x.device) for at, value in drawn.items()})
        s0, s1 = self.stem(_images_side_by_side(x))
        tapped = None
        cells: Any = self.cells
        for index, cell in enumerate(cells):
            if index in self._plan:
                s1 = self.blocks[self._plan[index]](s1)
            inputs = [
                self.preprocess[name](s) if (name := f"{index}-preprocess{i}") in self.preprocess else s
                for i, s in enumerate((s0, s1))
                if i or f"{index}-preprocess0" in self.preprocess
            ]
            s0, s1 = s1, cell(inputs, kept[index] if drops else None, keep.to(x.device))
            if index == self._tap:
                tapped = s1
        logits = self.classifier(self.head(s1).mean((3, 4))).transpose(0, 1)
        if self.training and self.auxiliary_head is not None and tapped is not None:
            return logits, self.auxiliary_head(tapped).transpose(0, 1)
        return logits

    def _stacks(self) -> Iterator[Stack]:
        return (module for module in self.modules() if isinstance(module, Stack))

    def state_of(self, network: int) -> dict[str, Tensor]:
        """The state of one network, as `FixedNet.state_dict` has it."""
        return {name: value for s in self._stacks() for member, name, value in s.slices() if member == network}

    def gradients(self) -> list[dict[str, Tensor]]:
        """The gradients of each network, by the names that its weights have in its state."""
        found: list[dict[str, Tensor]] = [{} for _ in range(self.n)]
        for stack in self._stacks():
            for member, name, value in stack.slices(gradients=True):
                found[member][name] = value
        return found

    def clip(self, norm: float | None) -> Tensor:
        """Scale the gradients of each network to a norm of at most `norm`; returns the norms before (N,)."""
        squares = torch.zeros(self.n)
        pairs = [(s.index, p) for s in self._stacks() for p in s.parameters(recurse=False) if p.grad is not None]
        for index, parameter in pairs:
            own = parameter.grad.flatten(1).square().sum(1)  # type: ignore[union-attr]
            squares = squares.to(own).index_add(0, index, own)
        norms = squares.sqrt()
        if norm is not None:
            scale = (norm / (norms + 1e-6)).clamp(max=1.0)
            for index, parameter in pairs:
                grad = parameter.grad
                assert grad is not None
                grad.mul_(scale[index].view(-1, *[1] * (grad.dim() - 1)))
        return norms


def _shape(net: FixedNet) -> tuple[Any, ...]:
    """What networks that train together have in common: all weights but those of the operations of cells."""
    weights = [(name, tuple(v.shape)) for name, v in net.state_dict().items() if ".operations." not in name]
    outputs = [tuple(cell.concat) for cell in net.modules() if isinstance(cell, FixedCell)]
    return net.genotype.skeleton, tuple(weights), tuple(outputs)


def _images_side_by_side(x: Tensor) -> Tensor:
    """(N, B, C, H, W) as (B, N, C, H, W) whose channels of all networks lie side by side in memory."""
    n, batch, channels, height, width = x.shape
    flat = x.transpose(0, 1).reshape(batch, n * channels, height, width)
    return flat.contiguous(memory_format=torch.channels_last).view(batch, n, channels, height, width)

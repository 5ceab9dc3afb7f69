"""Many small networks as one: networks of one skeleton, with cells of their own, computed in the same calls.

Small networks are bound by the number of calls, not by arithmetic. Here the layers that several networks have in
common are one call of `torch.func.vmap` over their stacked weights: convolutions become grouped ones over N · C
channels, batch norms norms of N · C channels, linear layers batched products. Of the cells, each operation on an edge
is computed for the networks that have it. A network's outputs and gradients depend on its own weights and images alone.
"""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from topocell.errors import SpaceError
from topocell.nn.modules import Noise
from topocell.nn.network import FixedCell, FixedNet
from topocell.nn.scheduled import Scheduled, current


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

    def forward(self, x: Tensor, shared: bool = False) -> Any:
        """The outputs of all modules for inputs (B, n, ...), or (B, ...) where all modules share them."""
        like = self._like[0].train(self.training)
        given = [
            {name: getattr(self, self._names[name]) for name in of} for of in (self._parameters_of, self._buffers_of)
        ]

        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Any:
            return functional_call(like, (parameters, buffers), (x,))

        run: Any = vmap(one, in_dims=(0, 0, None if shared else 1), out_dims=1)
        return run(*given, x)

    def bind(self, networks: Sequence[nn.Module]) -> None:
        """Make the weights and statistics of the modules in these networks slices of those here."""
        for name, own in self._names.items():
            values = getattr(self, own).detach()
            for place, (member, prefix) in enumerate(zip(self.members, self.prefixes)):
                owner, _, leaf = f"{prefix}{name}".rpartition(".")
                module = networks[member].get_submodule(owner)
                if name in self._parameters_of:
                    module.get_parameter(leaf).data = values[place]
                else:
                    module._buffers[leaf] = values[place]

    def share_gradients(self, networks: Sequence[nn.Module]) -> None:
        """Make the gradients of the modules in these networks slices of those here, as far as there are some."""
        for name in self._parameters_of:
            gradient = getattr(self, self._names[name]).grad
            for place, (member, prefix) in enumerate(zip(self.members, self.prefixes)):
                if gradient is not None:
                    networks[member].get_parameter(f"{prefix}{name}").grad = gradient[place]


class TogetherCell(nn.Module):
    """The cells of all networks in one place of the skeleton.

    Args:
        cells: of each network; computed nodes and outputs are as many in all.
        place: index of the cell in the network.
        before: operations of each network, in the cells before, that may lose samples.

    Attributes:
        after: the same with those of this cell.
    """

    def __init__(self, cells: Sequence[FixedCell], place: int, before: Sequence[int]) -> None:
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
        losing = [[i for i, of in enumerate(cell.operations) if not isinstance(of, nn.Identity)] for cell in cells]
        self.after = [start + len(own) for start, own in zip(before, losing, strict=True)]
        for number, (_, found) in enumerate(ordered):
            at = [before[net] + losing[net].index(own) for net, own in found if own in losing[net]]
            self.register_buffer(f"drawn{number}", torch.tensor(at) if at else None, persistent=False)
        self._concat = cells[0].concat

    def forward(self, states: list[Tensor], kept: Tensor | None = None, keep: Tensor | float = 1.0) -> Tensor:
        """(B, N, out_channels, h, w) from one (B, N, C, H, W) tensor per input.

        `kept` (N, D, B) says which samples the operations of each network that may lose some keep, and `keep` is the
        probability of that.
        """
        values = dict(enumerate(states))

        def value(node: int) -> Tensor:  # in NAS-Bench-201 a node without an input is zero
            return values[node] if node in values else torch.zeros_like(states[0])

        stacks: Any = self.operations
        for number, ((node, source, _, _), stack) in enumerate(zip(self._keys, stacks, strict=True)):
            whole = len(stack.members) == self._n
            x = value(source)
            y: Tensor = stack(x if whole else x.index_select(1, stack.index))
            drawn = getattr(self, f"drawn{number}")
            if kept is not None and drawn is not None:
                y = y / keep * kept[stack.index, drawn].T[:, :, None, None, None]
            if node not in values:
                size = (x.shape[0], self._n, *y.shape[2:])
                values[node] = y if whole else y.new_zeros(size).index_add(1, stack.index, y)
            else:
                values[node] = values[node] + y if whole else values[node].index_add(1, stack.index, y)
        return torch.cat([value(node) for node in self._concat], 2)


class TogetherNet(nn.Module):
    """N networks of one skeleton as one module.

    The weights are copies of those of `networks`, until these are bound to them. Outputs and gradients equal those of
    the networks alone up to rounding. Preprocess layers that a cell does not read have no gradient alone, and one of
    zeros here if the cell of another network reads them: then weight decay shrinks them, which changes no output.

    Args:
        networks: of the same skeleton, channels, layers and classes. Their cells may differ in the inputs and
            operations of nodes, not in the nodes that the output consists of.

    Attributes:
        drop_path: see `FixedNet`; `drawn` is needed in training where it is above 0.
        stacked: leading dimensions that its weights have besides those of a network's.

    Raises:
        SpaceError: no networks, networks of different shapes, or operation `noise`, whose draws would be shared.
    """

    drop_path = Scheduled(kind="a probability below 1")
    stacked = 1

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
        self._draws = [0] * self.n
        for index, placed in enumerate(first.cells):
            for part in ("preprocess0", "preprocess1"):
                if getattr(placed, part) is not None:
                    self.preprocess[f"{index}-{part}"] = stack(f"cells.{index}.{part}")
            cell = TogetherCell([net.cells[index].cell for net in networks], index, self._draws)  # type: ignore[misc]
            self.cells.append(cell)
            self._draws = cell.after
        self.blocks = nn.ModuleList(stack(f"blocks.{number}") for number in range(len(first.blocks)))
        self.auxiliary_head = None if self._tap is None else stack("auxiliary_head")
        self.to(next(first.parameters()).device)  # what tells networks and draws apart

    def bind(self, networks: Sequence[FixedNet]) -> None:
        """Make the weights and statistics of `networks`, those that this was made of, slices of its own.

        From then on what is done to one is done to the other, in place: by an optimizer, by `load_state_dict`, by a
        step. A copy of such a network has the storage of all of them.
        """
        for stack in self._stacks():
            stack.bind(networks)

    def share_gradients(self, networks: Sequence[FixedNet]) -> None:
        """Make the gradients of `networks` slices of those here, as far as there are some."""
        for stack in self._stacks():
            stack.share_gradients(networks)

    def draw(self, network: int, batch: int, device: torch.device) -> Tensor:
        """Draw what drops paths (D, B): uniform numbers of torch's generator, those that a network alone draws.

        D is the largest number of operations of a network that may lose samples; rows that it does not use are zeros.
        """
        drawn = [torch.rand((batch, 1, 1, 1), device=device).view(batch) for _ in range(self._draws[network])]
        return torch.stack(drawn + [torch.zeros(batch, device=device)] * (max(self._draws) - len(drawn)))

    def forward(self, x: Tensor, drawn: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Logits (N, B, classes) of images; with an auxiliary head in training, both.

        Args:
            x: images of each network (N, B, in_channels, H, W), or those that all share (B, in_channels, H, W).
            drawn: what `draw` gives for each network (N, D, B), where `drop_path` is above 0 in training.
        """
        kept, keep = None, torch.ones(())
        if self.training and self.drop_path > 0 and drawn is not None:
            now = current(self, "drop_path")
            keep = 1.0 - (now if isinstance(now, Tensor) else torch.full((), now, device=x.device))
            kept = drawn < keep
        shared = x.dim() == 4
        s0, s1 = self.stem(x if shared else _images_side_by_side(x), shared)
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
            s0, s1 = s1, cell(inputs, kept, keep)
            if index == self._tap:
                tapped = s1
        logits = self.classifier(self.head(s1).mean((3, 4))).transpose(0, 1)
        if self.training and self.auxiliary_head is not None and tapped is not None:
            return logits, self.auxiliary_head(tapped).transpose(0, 1)
        return logits

    def _stacks(self) -> Iterator[Stack]:
        return (module for module in self.modules() if isinstance(module, Stack))


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

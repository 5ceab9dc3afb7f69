"""One cell of the supernet: banks grouped by source node, summed into the nodes that their edges enter.

    node_j = Σ_{e = i→j} edges[e] · Σ_k ops[e, k] · op_k(node_i)

The product of both weights is folded into the batch norm that ends an operation. Sources are visited in order, so
a node is complete when its turn comes.
"""

from collections import defaultdict
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topocell.engine.banks import SHARED, Bank, bank_for
from topocell.engine.weights import ArchWeights
from topocell.errors import SpaceError
from topocell.functional import shuffle_channels
from topocell.spaces.cell import CellSpec

Kept = list[tuple[nn.Parameter, Tensor]]


class _Shared(NamedTuple):
    """A weightless operation on one edge: which function of which source, and where its weight stands."""

    source: int
    op: str
    stride: int
    edge: int
    position: int


class SuperCell(nn.Module):
    """A cell in which every live candidate of every live edge runs.

    Args:
        spec: the cell; fixes the layout (E, K) of the weights that `forward` takes, for good.
        channels: channels of each node.
        mask: (E, K) bool, the live candidates; default all that `spec` lists.
        partial: 1 for all channels; K to run only the first 1/K of the channels through the operations, let the
            others bypass them, and shuffle (PC-DARTS).

    Raises:
        SpaceError: if `channels` cannot be divided as `partial` or a strided skip connection asks.
    """

    mask: Tensor
    position: Tensor

    def __init__(self, spec: CellSpec, channels: int, mask: Tensor | None = None, partial: int = 1) -> None:
        super().__init__()
        if channels % partial or (spec.stride == 2 and (channels // partial) % 2):
            raise SpaceError(
                f"channels must be divisible by partial={partial}, and even after that where a cell reduces, "
                f"but got channels={channels}; choose a multiple of {2 * partial}"
            )
        self.spec, self.channels, self.partial = spec, channels, partial
        self.out_channels = spec.width * channels
        self.banks = nn.ModuleList()
        self._bank_ops: list[str] = []
        live = [list(row) for row in spec.live] if mask is None else mask.tolist()
        groups: dict[tuple[int, str, int], list[int]] = defaultdict(list)
        for e, names in enumerate(spec.candidates):
            for k, op in enumerate(names):
                if live[e][k]:
                    groups[spec.edges[e][0], op, spec.edge_stride(e)].append(e)
        self._shared: list[_Shared] = []
        for (source, op, stride), edges in sorted(groups.items()):
            if (build := bank_for(op, stride)) is not None:
                self.banks.append(build(channels // partial, stride, edges))
                self._bank_ops.append(op)
            elif op != "none":
                for e in edges:
                    position = e * spec.n_candidates + spec.candidates[e].index(op)
                    self._shared.append(_Shared(source, op, stride, e, position))
        self.register_buffer("mask", torch.tensor(live), persistent=False)
        self._bypassed = [any(row) for row in live]  # partial channels: does anything pass along the edge?
        self._index()

    def _index(self) -> None:
        """Precompute where in the flattened (E, K) weights each bank and each weightless operation looks."""
        spec = self.spec
        positions = [
            e * spec.n_candidates + spec.candidates[e].index(op)
            for op, bank in zip(self._bank_ops, self._all_banks())
            for e in bank.edges
        ]
        device = self.position.device if hasattr(self, "position") else None
        everything = positions + [s.position for s in self._shared]
        self.register_buffer("position", torch.tensor(everything, dtype=torch.long, device=device), persistent=False)
        self._n_banked = len(positions)
        self._by_source: dict[int, list[int]] = defaultdict(list)
        for i, bank in enumerate(self._all_banks()):
            self._by_source[spec.edges[bank.edges[0]][0]].append(i)
        self._shared_by_source: dict[int, list[int]] = defaultdict(list)
        for i, shared in enumerate(self._shared):
            self._shared_by_source[shared.source].append(i)

    def _all_banks(self) -> list[Bank]:
        return [bank for bank in self.banks if isinstance(bank, Bank)]

    def forward(self, states: list[Tensor], weights: ArchWeights) -> Tensor:
        """`states`: one (N, C, H, W) per input node → (N, width·C, H/stride, W/stride)."""
        spec, banks = self.spec, self._all_banks()
        part = self.channels // self.partial
        joint = (weights.ops * weights.edges.unsqueeze(1)).flatten().to(states[0].dtype)[self.position]
        repeated = joint[: self._n_banked].repeat_interleave(part)
        scales = repeated.split([part * len(bank.edges) for bank in banks]) if banks else ()
        scalars = joint[self._n_banked :].unbind()
        sums: dict[int, Tensor] = {}

        def add(node: int, value: Tensor) -> None:
            sums[node] = sums[node] + value if node in sums else value

        nodes = list(states)
        for source in range(spec.inputs + spec.nodes):
            if source >= spec.inputs:
                nodes.append(self._finish(source, sums.pop(source, None), nodes, weights))
            if not (self._by_source[source] or self._shared_by_source[source]):
                continue
            x = nodes[source] if self.partial == 1 else nodes[source][:, :part]
            active = x.relu() if self._by_source[source] else x
            stacks: dict[tuple[int, ...], Tensor] = {}
            for i in self._by_source[source]:
                out = banks[i](x, active, scales[i])
                key = tuple(banks[i].edges)
                stacks[key] = stacks[key] + out if key in stacks else out
            for edges, stack in stacks.items():
                for e, piece in zip(edges, stack.split(part, 1)):
                    add(spec.edges[e][1], piece)
            once: dict[tuple[str, int], Tensor] = {}
            for i in self._shared_by_source[source]:
                _, op, stride, e, _ = self._shared[i]
                if (op, stride) not in once:
                    once[op, stride] = SHARED[op](x, stride, spec.pool_norm)
                node = spec.edges[e][1]
                if node in sums:
                    sums[node] = torch.addcmul(sums[node], once[op, stride], scalars[i])
                else:
                    sums[node] = once[op, stride] * scalars[i]
        computed = nodes[spec.inputs :]
        return torch.cat(computed, 1) if spec.output == "concat" else computed[-1]

    def _finish(self, node: int, total: Tensor | None, nodes: list[Tensor], weights: ArchWeights) -> Tensor:
        """The value of a node from the sum of its mixed edges; adds the channels that bypass them."""
        spec, part = self.spec, self.channels // self.partial
        if total is None:
            e = spec.incoming(node)[0]
            source, stride = nodes[spec.edges[e][0]], spec.edge_stride(e)
            total = torch.zeros_like(source[:, :part, ::stride, ::stride])
        if self.partial == 1:
            return total
        bypass: Tensor | None = None
        for e in spec.incoming(node):
            if not self._bypassed[e]:
                continue
            rest = nodes[spec.edges[e][0]][:, part:]
            if spec.edge_stride(e) == 2:
                rest = F.max_pool2d(rest, 2, 2)
            rest = rest * weights.edges[e].to(rest.dtype)
            bypass = rest if bypass is None else bypass + rest
        if bypass is None:
            bypass = torch.cat([torch.zeros_like(total)] * (self.partial - 1), 1)
        return shuffle_channels(torch.cat([total, bypass], 1), self.partial)

    def restrict(self, mask: Tensor) -> Kept:
        """Remove for good every candidate that is False in `mask` (E, K); what is gone already stays gone.

        Returns each sliced parameter with the indices of its kept slices, so that optimizer state can follow.
        """
        mask = mask.to(self.mask.device, torch.bool) & self.mask
        spec, sliced = self.spec, Kept()
        banks, ops = nn.ModuleList(), []
        for op, bank in zip(self._bank_ops, self._all_banks()):
            edges = [e for e in bank.edges if mask[e, spec.candidates[e].index(op)]]
            if edges and edges != bank.edges:
                sliced += bank.keep(edges)
            if edges:
                banks.append(bank)
                ops.append(op)
        self.banks, self._bank_ops = banks, ops
        self._shared = [s for s in self._shared if mask.flatten()[s.position]]
        self.mask, self._bypassed = mask, mask.any(1).tolist()
        self._index()
        return sliced

    def pieces(self) -> dict[str, tuple[nn.Parameter, int]]:
        """`edges.{e}.{op}.{part}.weight` → (stacked parameter, slice): the per-edge view of the banks."""
        found: dict[str, tuple[nn.Parameter, int]] = {}
        for op, bank in zip(self._bank_ops, self._all_banks()):
            for e in bank.edges:
                for part, piece in bank.pieces(e).items():
                    found[f"edges.{e}.{op}.{part}.weight"] = piece
        return found

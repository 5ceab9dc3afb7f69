"""One cell of the supernet: banks grouped by source node, summed into the nodes that their edges enter.

    node_j = Σ_{e = i→j} edges[e] · Σ_k ops[e, k] · op_k(node_i)

The product of both weights is folded into the batch norm that ends an operation. Sources are visited in order, so
a node is complete when its turn comes.
"""

from collections import defaultdict

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topocell.errors import SpaceError
from topocell.nn.banks import Bank, ChainBank, ConvBank
from topocell.nn.functional import shuffle_channels
from topocell.nn.fused_choice import chosen
from topocell.nn.fused_plan import Edges, Plan
from topocell.nn.kernels.cpu import known_now, ordinary
from topocell.nn.kernels.mode import by_own_mode
from topocell.nn.modules import has_hooks, values_per_channel
from topocell.nn.primitives import PRIMITIVES
from topocell.nn.separable import separable, usable
from topocell.runtime.constants import Constants
from topocell.spaces.cell import CellSpec
from topocell.supernet.device_draws import dropped, masked
from topocell.supernet.tasks import Shared, Task
from topocell.supernet.weights import ArchWeights, OneHotWeights

Kept = list[tuple[nn.Parameter, Tensor]]
Sums = dict[int, Tensor]


def _may_read(sample: Tensor) -> bool:
    """Return whether a cell may run what this sample says, and nothing else."""
    return sample.device.type != "meta" and not torch.compiler.is_exporting() and known_now(sample)


class SuperCell(nn.Module):
    """A cell in which every live candidate of every live edge runs.

    Args:
        spec: the cell; fixes the layout (E, K) of the weights that `forward` takes, for good.
        channels: channels of each node.
        mask: (E, K) bool, the live candidates; default all that `spec` lists.
        partial: 1 for all channels; K to run only the first 1/K of the channels through the operations, let the
            others bypass them, and shuffle (PC-DARTS).
        low_memory: keep less for backward and compute it again there.

    Raises:
        SpaceError: if `channels` cannot be divided as `partial` or a strided skip connection asks.
    """

    #: Probability with which an element of a skip connection's output is dropped in training (P-DARTS).
    skip_dropout = 0.0
    #: Probability with which an edge is dropped for an image in training, all that passes along it (RobustDARTS).
    drop_path = 0.0
    #: The same two as a step reads them: tensors (0-dim) where they are held on a device.
    rates: tuple[float | Tensor, float | Tensor] | None = None
    #: Whether candidates that were not drawn are computed too and then masked: which ones they are is never read.
    masked = False
    #: Which kernels it uses, see `topocell.nn.kernels.mode`.
    kernels = "auto"

    def __init__(
        self,
        spec: CellSpec,
        channels: int,
        mask: Tensor | None = None,
        partial: int = 1,
        low_memory: bool = False,
    ) -> None:
        super().__init__()
        if partial < 1:
            raise SpaceError(f"partial is 1 or more (one of that many channels is computed), but got partial={partial}")
        if channels % partial or (spec.stride == 2 and (channels // partial) % 2):
            raise SpaceError(
                f"channels must be divisible by partial={partial}, and even after that where a cell reduces, "
                f"but got channels={channels}; choose a multiple of {2 * partial}"
            )
        self.spec, self.channels, self.partial, self.low_memory = spec, channels, partial, low_memory
        self.out_channels = spec.width * channels
        self.banks = nn.ModuleList()
        self._bank_ops: list[str] = []
        live = [list(row) for row in spec.live] if mask is None else mask.tolist()
        groups: dict[tuple[int, str, int], list[int]] = defaultdict(list)
        for e, names in enumerate(spec.candidates):
            for k, op in enumerate(names):
                if live[e][k]:
                    groups[spec.edges[e][0], op, spec.edge_stride(e)].append(e)
        self._shared: list[Shared] = []
        for (source, op, stride), edges in sorted(groups.items()):
            if (build := PRIMITIVES[op].bank_at(stride)) is not None:
                self.banks.append(build(channels // partial, stride, edges))
                self._bank_ops.append(op)
            elif op != "none":
                for e in edges:
                    position = e * spec.n_candidates + spec.candidates[e].index(op)
                    self._shared.append(Shared(source, op, stride, e, position))
        self.live = tuple(on for row in live for on in row)
        self._bypassed = [any(row) for row in live]  # partial channels: does anything pass along the edge?
        self._index()

    def _index(self) -> None:
        """Precompute where each bank reads the flattened (E, K) weights, and the edges that leave each node."""
        spec = self.spec
        self._positions = [
            [e * spec.n_candidates + spec.candidates[e].index(op) for e in bank.edges]
            for op, bank in zip(self._bank_ops, self._all_banks())
        ]
        # No buffers: what makes a module on the device `meta` and then gives it weights leaves no numbers in others.
        mask = np.array(self.live).reshape(spec.n_edges, spec.n_candidates)
        places = {str(positions): np.array(positions) for positions in self._positions}
        self._constants = Constants(mask=mask, **places)
        self._by_source: dict[int, list[int]] = defaultdict(list)
        for i, bank in enumerate(self._all_banks()):
            self._by_source[spec.edges[bank.edges[0]][0]].append(i)
        self._shared_by_source: dict[int, list[Shared]] = defaultdict(list)
        for shared in self._shared:
            self._shared_by_source[shared.source].append(shared)

    @property
    def mask(self) -> Tensor:
        """(E, K) bool on the CPU: the live candidates."""
        return torch.tensor(self.live, device="cpu").view(self.spec.n_edges, self.spec.n_candidates)

    def _all_banks(self) -> list[Bank]:
        return [bank for bank in self.banks if isinstance(bank, Bank)]

    @by_own_mode
    def forward(self, states: list[Tensor], weights: ArchWeights) -> Tensor:
        """`states`: one (N, C, H, W) per input node → (N, width·C, H/stride, W/stride)."""
        spec, part = self.spec, self.channels // self.partial
        joint = (weights.ops * weights.edges.unsqueeze(1)).flatten().to(states[0].dtype)
        drawn, others = None, None
        on_host = weights.ops.device != states[0].device
        if on_host:
            joint = joint.to(states[0].device, non_blocking=True)
        if isinstance(weights, OneHotWeights):
            if _may_read(weights.ops) and (on_host or not self.masked):
                drawn = (weights.ops != 0).flatten().tolist()
            else:
                joint, others = masked(joint, weights.ops.to(joint.device), self._constants.get("mask", joint))
        passed = self._passed(states[0])
        sums: Sums = {}
        nodes, by_kernels = list(states), passed is None and self._ordinary(states[0])
        for source in range(spec.inputs + spec.nodes):
            if source >= spec.inputs:
                total = sums.pop(source, None)
                if others is not None and joint.requires_grad:
                    total = self._with_others(source, total, nodes, others, passed)
                if drawn is not None and joint.requires_grad:
                    total = self._with_zeros(source, total, nodes, joint, drawn, passed)
                nodes.append(self._finish(source, total, nodes, weights, passed))
            x = nodes[source] if self.partial == 1 else nodes[source][:, :part]
            tasks = [task for i in self._by_source[source] if (task := self._task(i, drawn, x.device)) is not None]
            ready = [s for s in self._shared_by_source[source] if drawn is None or drawn[s.position]]
            if by_kernels and usable(x, part):
                for stride in (1, 2):
                    tasks = self._add_compiled(x, stride, tasks, ready, joint, sums)
                ready = []
            self._add_banks(x, tasks, joint, sums, passed)
            self._add_maps(x, ready, joint, sums, passed)
        computed = nodes[spec.inputs :]
        return torch.cat(computed, 1) if spec.output == "concat" else computed[-1]

    def _passed(self, x: Tensor) -> Tensor | None:
        """(E, N, 1, 1, 1): 0 where an edge is dropped for an image, else 1 / keep, drawn anew; None where none is."""
        if not (self.training and self.drop_path):
            return None
        keep = 1.0 - (self.drop_path if self.rates is None else self.rates[1])
        kept = torch.rand(self.spec.n_edges, len(x), device=x.device) < keep
        return (kept.to(x.dtype) / keep)[:, :, None, None, None]

    def _task(self, number: int, drawn: list[bool] | None, device: torch.device) -> Task | None:
        """Return the task of a bank: all its edges, or those for which its operation was drawn."""
        bank, positions = self._all_banks()[number], self._positions[number]
        if drawn is None:
            return Task(bank, bank.edges, None, positions)
        rows = [row for row, position in enumerate(positions) if drawn[position]]
        if not rows:
            return None
        edges, index = [bank.edges[r] for r in rows], torch.tensor(rows, device=device)
        return Task(bank, edges, index, [positions[r] for r in rows])

    def _ordinary(self, x: Tensor) -> bool:
        """Return whether nothing asks for more than kernels do: hooks on banks, weights of another type, transforms.

        Nor is there a single value for each channel, which batch norm refuses.
        """
        if not ordinary(x, *(p for bank in self.banks for p in bank.parameters())) or has_hooks(*self.banks):
            return False
        return values_per_channel(x, self.spec.stride) > 1

    def _scale(self, task: Task, joint: Tensor) -> Tensor:
        """(M,) weights of the edges of a task."""
        if task.rows is None:
            return joint[self._constants.get(str(task.positions), joint)]
        return joint[torch.tensor(task.positions, device=joint.device)]

    def _add_compiled(
        self, x: Tensor, stride: int, tasks: list[Task], ready: list[Shared], joint: Tensor, sums: Sums
    ) -> list[Task]:
        """Run by compiled kernels the edges that leave the node `x` with one stride, as convolution or without weights.

        Returns the tasks that are left for the library.
        """
        chains = [t for t in tasks if t.of(ChainBank, stride)]
        ways = [chosen(x, t.chain(t.edges), stride) for t in chains]
        chains, lanes = [t for t, way in zip(chains, ways) if way], [way.lanes for way in ways if way]
        dense = [t for t in tasks if t.of(ConvBank, stride)]
        ready = [s for s in ready if s.stride == stride]
        pooled: dict[tuple[str, int, int], list[Shared]] = defaultdict(list)
        for shared in ready:
            if self.spec.pool_norm and shared.pools:
                pooled[self._key(shared)].append(shared)
        edges = sorted({e for t in chains + dense for e in t.edges} | {s.edge for s in ready})
        rest = [t for t in tasks if t not in chains and t not in dense]
        if not edges:
            return rest
        # The source itself comes first among the maps, as `identity` asks.
        mapped = [s for s in ready if self._key(s) not in pooled]
        maps = dict(sorted(self._maps(x, mapped).items(), key=lambda item: item[1] is not x))
        identity = any(value is x for value in maps.values())
        where = {(self._key(shared), shared.edge): shared.position for shared in mapped}
        targets = [self.spec.edges[e][1] for e in edges]
        plan = Plan(
            tuple(t.chain(edges)._replace(lanes=n) for t, n in zip(chains, lanes)),
            stride,
            tuple(t in sums for t in targets),
            tuple(tuple(where.get((key, e), -1) for e in edges) for key in maps),
            tuple(Edges(t.slots(edges), tuple(t.positions)) for t in dense),
            identity,
            tuple(
                Edges(tuple(edges.index(s.edge) for s in found), tuple(s.position for s in found))
                for found in pooled.values()
            ),
            low_memory=self.low_memory,
        )
        tensors = [tensor for t in chains + dense for tensor in t.bank.tensors(t.rows)]
        tensors += [found[0].compute(x, False) for found in pooled.values()]
        bases = [sums[t] for t in targets if t in sums]
        given = list(maps.values())[identity:]
        sums.update(zip(targets, separable(x, plan, tensors, joint, given, bases)[0]))
        return rest

    def _add_banks(self, x: Tensor, tasks: list[Task], joint: Tensor, sums: Sums, passed: Tensor | None) -> None:
        if not tasks:
            return
        active, part = x.relu(), x.shape[1]
        stacks: dict[tuple[int, ...], Tensor] = {}
        for task in tasks:
            out = task.bank(x, active, self._scale(task, joint).repeat_interleave(part), task.rows)
            key = tuple(task.edges)
            stacks[key] = stacks[key] + out if key in stacks else out
        for edges, stack in stacks.items():
            for e, piece in zip(edges, stack.split(part, 1)):
                node, piece = self.spec.edges[e][1], piece if passed is None else piece * passed[e]
                sums[node] = sums[node] + piece if node in sums else piece

    def _add_maps(self, x: Tensor, ready: list[Shared], joint: Tensor, sums: Sums, passed: Tensor | None) -> None:
        maps = self._maps(x, ready)
        for shared in ready:
            node, value, scalar = self.spec.edges[shared.edge][1], maps[self._key(shared)], joint[shared.position]
            scalar = scalar if passed is None else scalar * passed[shared.edge]
            sums[node] = torch.addcmul(sums[node], value, scalar) if node in sums else value * scalar

    def _key(self, shared: Shared) -> tuple[str, int, int]:
        """Edges with equal keys share one result; dropout is drawn for each edge."""
        own = shared.op == "skip_connect" and self.training and self.skip_dropout > 0
        return shared.op, shared.stride, shared.edge if own else -1

    def _maps(self, x: Tensor, ready: list[Shared]) -> dict[tuple[str, int, int], Tensor]:
        """Results of operations without weights, each computed once."""
        found: dict[tuple[str, int, int], Tensor] = {}
        rate = self.skip_dropout if self.rates is None else self.rates[0]
        for shared in ready:
            key = self._key(shared)
            if key not in found:
                value = shared.compute(x, self.spec.pool_norm)
                found[key] = value if key[2] < 0 else dropped(value, rate)
        return found

    def _with_others(
        self, node: int, total: Tensor | None, nodes: list[Tensor], others: Tensor, passed: Tensor | None
    ) -> Tensor:
        """Adds what `masked` has set apart, as `_with_zeros` does."""
        total, edges = self._nothing(node, nodes) if total is None else total, self.spec.incoming(node)
        for e in edges:
            total = total + (others[e] if passed is None else others[e] * passed[e])
        return total

    def _with_zeros(
        self,
        node: int,
        total: Tensor | None,
        nodes: list[Tensor],
        joint: Tensor,
        drawn: list[bool],
        passed: Tensor | None,
    ) -> Tensor:
        """Adds the weights, all zero, of the candidates that were not drawn, which thereby keep their gradient."""
        live, k = self.live, self.spec.n_candidates
        others = [
            position
            for e in self.spec.incoming(node)
            for position in range(e * k, (e + 1) * k)
            if live[position] and not drawn[position]
        ]
        total = self._nothing(node, nodes) if total is None else total
        index = torch.tensor(others, dtype=torch.long, device=joint.device)
        if passed is None:
            return total + joint[index].sum()
        return total + (joint[index].view(-1, 1, 1, 1, 1) * passed[index // k]).sum(0)

    def _nothing(self, node: int, nodes: list[Tensor]) -> Tensor:
        e = self.spec.incoming(node)[0]
        source, stride = nodes[self.spec.edges[e][0]], self.spec.edge_stride(e)
        return torch.zeros_like(source[:, : self.channels // self.partial, ::stride, ::stride])

    def _finish(
        self, node: int, total: Tensor | None, nodes: list[Tensor], weights: ArchWeights, passed: Tensor | None
    ) -> Tensor:
        """The value of a node from the sum of its mixed edges; adds the channels that bypass them."""
        spec, part = self.spec, self.channels // self.partial
        total = self._nothing(node, nodes) if total is None else total
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
            rest = rest if passed is None else rest * passed[e]
            bypass = rest if bypass is None else bypass + rest
        if bypass is None:
            bypass = torch.cat([torch.zeros_like(total)] * (self.partial - 1), 1)
        return shuffle_channels(torch.cat([total, bypass], 1), self.partial)

    def restrict(self, mask: Tensor) -> Kept:
        """Remove for good every candidate that is False in `mask` (E, K); what is gone already stays gone.

        Returns each sliced parameter with the indices of its kept slices, so that optimizer state can follow.
        """
        mask = mask.to("cpu", torch.bool) & self.mask
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
        self._bypassed = mask.any(1).tolist()
        self.live = tuple(mask.flatten().tolist())
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

"""What the edges that leave a node run: banks, whose weights are stacked, and functions without weights."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from topocell.nn.banks import Bank, ChainBank
from topocell.nn.fused_plan import Chain
from topocell.nn.primitives import PRIMITIVES, Pool


class Shared(NamedTuple):
    """A weightless operation on one edge: which function of which source, and where its weight stands."""

    source: int
    op: str
    stride: int
    edge: int
    position: int

    def compute(self, x: Tensor, norm: bool) -> Tensor:
        """The result on a map (N, C, H, W)."""
        compute = PRIMITIVES[self.op].weightless
        assert compute is not None
        return compute(x, self.stride, norm)

    @property
    def pools(self) -> bool:
        """Whether `norm` adds a batch norm and nothing else, which kernels may do."""
        return isinstance(PRIMITIVES[self.op].weightless, Pool)


class Task(NamedTuple):
    """A bank, the edges it has to run, their slices of its parameters (None: all), and where their weights stand."""

    bank: Bank
    edges: list[int]
    rows: Tensor | None
    positions: list[int]

    def of(self, kind: type[Bank], stride: int) -> bool:
        """Whether kernels for a kind of bank compute this: not where a class derived from it computes otherwise."""
        own = type(self.bank)
        if not issubclass(own, kind) or self.bank.stride != stride:
            return False
        return own.compute is kind.compute and own.forward is kind.forward

    def slots(self, edges: Sequence[int]) -> tuple[int, ...]:
        """The places of its edges among others."""
        return tuple(edges.index(e) for e in self.edges)

    def chain(self, edges: Sequence[int]) -> Chain:
        """What kernels know of a chain of separable convolutions whose outputs are those of `edges`."""
        bank = self.bank
        assert isinstance(bank, ChainBank)
        return Chain(bank.kernel, bank.dilation, bank.stages, self.slots(edges), tuple(self.positions))

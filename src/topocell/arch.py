"""Architecture state: the logits α and β, what is live, and the temperatures, turned into `ArchWeights`."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from topocell import relaxation as relaxations
from topocell import topology as topologies
from topocell.engine.weights import ArchWeights
from topocell.spaces.cell import SpaceSpec

Choice = str | Mapping[str, Any]


def _named(choice: Choice) -> tuple[str, dict[str, Any]]:
    """`"softmax"` or `{"name": "grouped", "groups": [...]}` → name and options."""
    if isinstance(choice, str):
        return choice, {}
    options = dict(choice)
    return options.pop("name"), options


class ArchState(nn.Module):
    """Everything that is learned or scheduled about the architecture, for all cell types of a space.

    Args:
        space: the search space.
        relaxation: how α becomes operation weights: a name of `topocell.relaxation.RELAXATIONS`, or a mapping
            with `name` and that relaxation's options.
        topology: how β becomes edge weights, likewise from `topocell.topology.TOPOLOGIES`.
        init: standard deviation of the initial logits (DARTS: 1e-3; DOTS: 0).
        generator: source of the initial logits; default torch's own.

    Attributes:
        alpha, beta: logits per cell type, (E, K) and (n_logits,). Logits of missing candidates are never read.
        op_temperature, edge_temperature: floats, set by the search loop and kept in the state dict.

    Raises:
        RecipeError: unknown relaxation or topology, or options that it does not take.
    """

    def __init__(
        self,
        space: SpaceSpec,
        relaxation: Choice = "softmax",
        topology: Choice = "dense",
        init: float = 1e-3,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.space = space
        relax, relax_options = _named(relaxation)
        topo, topo_options = _named(topology)
        self.relaxations = {t: relaxations.build(relax, c, **relax_options) for t, c in space.cells.items()}
        self.topologies = {t: topologies.build(topo, c, **topo_options) for t, c in space.cells.items()}
        self.alpha = nn.ParameterDict()
        self.beta = nn.ParameterDict()
        for name, cell in space.cells.items():
            shapes = (cell.n_edges, cell.n_candidates), (self.topologies[name].n_logits,)
            self.alpha[name], self.beta[name] = (
                nn.Parameter(init * torch.randn(shape, generator=generator)) for shape in shapes
            )
            self.register_buffer(f"mask_{name}", torch.tensor(cell.live))
        self.op_temperature = self.edge_temperature = 1.0

    def forward(self) -> dict[str, ArchWeights]:
        """`ArchWeights` of every cell type."""
        return {t: ArchWeights(self.ops(t), self.edges(t)) for t in self.space.cells}

    def get_extra_state(self) -> dict[str, float]:
        """Temperatures, for the state dict."""
        return {"op_temperature": self.op_temperature, "edge_temperature": self.edge_temperature}

    def set_extra_state(self, state: dict[str, float]) -> None:
        """Temperatures, from the state dict."""
        self.op_temperature, self.edge_temperature = state["op_temperature"], state["edge_temperature"]

    def mask(self, cell_type: str) -> Tensor:
        """(E, K) bool: the candidates that are live."""
        mask: Tensor = getattr(self, f"mask_{cell_type}")
        return mask

    def ops(self, cell_type: str) -> Tensor:
        """(E, K) operation weights; exactly zero where a candidate is not live."""
        relax = self.relaxations[cell_type]
        return relax.weights(self.alpha[cell_type], self.mask(cell_type), self.op_temperature)

    def edges(self, cell_type: str) -> Tensor:
        """(E,) edge weights."""
        return self.topologies[cell_type].weights(self.beta[cell_type], self.edge_temperature)

    def penalty(self) -> Tensor:
        """Validity penalty r(β), summed over the cell types (TopoNAS Eq. 14)."""
        return torch.stack([self.topologies[t].penalty(self.beta[t]) for t in self.space.cells]).sum()

    def restrict(self, masks: Mapping[str, Tensor]) -> None:
        """Remove candidates for good: False in a cell type's (E, K) mask; what is gone already stays gone."""
        for name, mask in masks.items():
            self.mask(name).logical_and_(mask.to(self.mask(name).device))

    def retained(self) -> dict[str, tuple[tuple[str, ...], ...]]:
        """Per cell type and edge, the names of the live candidates."""
        return {
            name: tuple(
                tuple(op for op, live in zip(names, row) if live)
                for names, row in zip(cell.candidates, self.mask(name).tolist())
            )
            for name, cell in self.space.cells.items()
        }

    def alpha_entropy(self) -> dict[str, float]:
        """Mean entropy of the operation weights over edges, in nats."""
        return {t: float(self.relaxations[t].entropy(self.ops(t), self.mask(t)).detach()) for t in self.space.cells}

    def beta_entropy(self) -> dict[str, float] | None:
        """Mean entropy of the topology distributions, in nats; None where nothing about edges is learned."""
        found = {t: self.topologies[t].entropy(self.beta[t].detach(), self.edge_temperature) for t in self.space.cells}
        return {t: float(h) for t, h in found.items() if h is not None} or None

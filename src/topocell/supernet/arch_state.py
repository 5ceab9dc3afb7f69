"""Architecture state: the logits α and β, what is live, and what is scheduled, turned into `ArchWeights`."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from topocell import relaxation as relaxations
from topocell import topology as topologies
from topocell.arguments import checked
from topocell.errors import RecipeError, SpaceError, check_known
from topocell.nn.scheduled import Scheduled, check_number, current
from topocell.runtime.constants import Constants
from topocell.spaces.cell import SpaceSpec
from topocell.supernet.weights import ArchWeights, OneHotWeights, checked_masks, real_tensor

Choice = str | Mapping[str, Any]

#: Attributes of an `ArchState` that the search loop sets by curves.
SCHEDULED = ("op_temperature", "edge_temperature", "auxiliary_skip")


def _named(choice: Choice) -> tuple[str, dict[str, Any]]:
    """`"softmax"` or `{"name": "grouped", "groups": [...]}` → name and options."""
    if isinstance(choice, str):
        return choice, {}
    options = dict(choice)
    if "name" not in options:
        raise RecipeError(
            f"a relaxation or topology with options is {{'name': NAME, OPTION: VALUE}}, but got {options!r:.80}"
        )
    return options.pop("name"), options


class ArchState(nn.Module):
    """Everything that is learned or scheduled about the architecture, for all cell types of a space.

    Args:
        space: the search space.
        relaxation: how α becomes operation weights: a name of `topocell.relaxation.RELAXATIONS`, or a mapping
            with `name` and that relaxation's options.
        topology: how β becomes edge weights, likewise from `topocell.topology.TOPOLOGIES`.
        init: standard deviation of the initial logits, 0 or more (DARTS: 1e-3; DOTS: 0).
        generator: source of the initial logits; default torch's own.

    Attributes:
        alpha, beta: logits per cell type, (E, K) and (n_logits,). Logits of missing candidates are never read.
        op_temperature, edge_temperature: floats, set by the search loop and kept in the state dict.
        auxiliary_skip: float β ≥ 0, likewise: added to the weight of every live skip connection in what the supernet
            sees, so that a skip need not win weight for the sake of the gradients alone (DARTS−); never part of what
            is derived. At stride 2 it shares the factorized reduction of the edge's own skip connection.

    Raises:
        RecipeError: unknown relaxation or topology, or options that it does not take. SpaceError: a temperature that is
            not above 0, a weight of auxiliary skips or an `init` below 0.
    """

    op_temperature = Scheduled(1.0, "above 0")
    edge_temperature = Scheduled(1.0, "above 0")
    auxiliary_skip = Scheduled()

    @checked(SpaceError)
    def __init__(
        self,
        space: SpaceSpec,
        relaxation: Choice = "softmax",
        topology: Choice = "dense",
        init: float = 1e-3,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_number("init", init, "0 or more")
        self.space = space
        relax, relax_options = _named(relaxation)
        topo, topo_options = _named(topology)
        self.relaxations = {t: relaxations.build(relax, c, **relax_options) for t, c in space.cells.items()}
        self.topologies = {t: topologies.build(topo, c, **topo_options) for t, c in space.cells.items()}
        self._several = {
            t: Constants(several=np.array([[len(names) > 1] for names in c.candidates])) for t, c in space.cells.items()
        }
        self.alpha = nn.ParameterDict()
        self.beta = nn.ParameterDict()
        self._init = init
        for name, cell in space.cells.items():
            shapes = (cell.n_edges, cell.n_candidates), (self.topologies[name].n_logits,)
            self.alpha[name], self.beta[name] = (
                nn.Parameter(init * torch.randn(shape, generator=generator)) for shape in shapes
            )
            self.register_buffer(f"mask_{name}", self._all_live(name))
        self._skips = {
            t: Constants(skips=relaxations.candidate_table(cell, {"skip_connect": 1.0}, 0.0))
            for t, cell in space.cells.items()
        }

    def _all_live(self, cell_type: str) -> Tensor:
        mask = torch.tensor(self.space.cells[cell_type].live)
        mask[list(self.topologies[cell_type].absent)] = False
        return mask

    def reset_parameters(self) -> None:
        """Draw all logits anew and make all candidates live, as when it was made, such as after `to_empty`."""
        with torch.no_grad():
            for name in self.space.cells:
                self.mask(name).copy_(self._all_live(name))
                for logits in (self.alpha[name], self.beta[name]):
                    logits.normal_(0, self._init)

    def forward(self) -> dict[str, ArchWeights]:
        """`ArchWeights` of every cell type; a new sample on each call where the relaxation samples."""
        found: dict[str, ArchWeights] = {}
        for name, relax in self.relaxations.items():
            kind = OneHotWeights if relax.one_hot and not self.auxiliary_skip else ArchWeights
            found[name] = kind(self.ops(name), self.edges(name))
        return found

    def expected(self) -> dict[str, ArchWeights]:
        """`ArchWeights` of every cell type without sampling and auxiliary skips, to evaluate the supernet under."""
        return {
            t: ArchWeights(
                relax.expected(real_tensor(self.alpha[t]), self.mask(t), self.now("op_temperature")), self.edges(t)
            )
            for t, relax in self.relaxations.items()
        }

    def strengths(self, cell_type: str) -> Tensor:
        """(E, K) operation weights among the live candidates, as decisions read them.

        Decisions read weights without sampling and auxiliary skips, at temperature 1, in float64, on the CPU. A softmax
        ranks the candidates of an edge alike at every temperature, but at the end of an annealing (DOTS: 2e-5) all but
        the largest underflow to zero, and where that one may not be chosen nothing would tell the others apart.
        """
        return self._strengths(cell_type, self.mask(cell_type).cpu())

    def strengths_of_all(self, cell_type: str) -> Tensor:
        """(E, K) operation weights among all candidates of the space, whatever is live, as decisions read them.

        Where candidates have been decided away, their last logits count: how an operation did among all of them.
        """
        self._check(cell_type)
        return self._strengths(cell_type, relaxations.candidate_mask(self.space.cells[cell_type]))

    def _strengths(self, cell_type: str, among: Tensor) -> Tensor:
        return self.relaxations[cell_type].strengths(self.alpha[cell_type].detach().cpu().double(), among)

    def edge_strengths(self, cell_type: str) -> Tensor:
        """(E,) edge weights as decisions read them, see `strengths`."""
        self._check(cell_type)
        return self.topologies[cell_type].weights(self.beta[cell_type].detach().cpu().double())

    def get_extra_state(self) -> Tensor:
        """Return the scheduled values, for the state dict, whose entries many libraries take to be tensors.

        They are the sums of three rows (3, n) of float32, exactly, since not every device knows float64.
        """
        left = torch.tensor([getattr(self, name) for name in SCHEDULED], dtype=torch.float64, device="cpu")
        rows = []
        for _ in range(3):
            rows.append(left.float())
            left = left - rows[-1]
        return torch.stack(rows)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the scheduled values, the sums of the rows (3, n), from the state dict."""
        for name, rows in zip(SCHEDULED, zip(*state.tolist())):
            setattr(self, name, math.fsum(rows))

    def now(self, name: str) -> Any:
        """Return one of the scheduled values as arithmetic takes it: a float, or a tensor (0-dim) on a device."""
        return current(self, name)

    def _check(self, cell_type: str) -> None:
        check_known("cell type", cell_type, self.space.cells, SpaceError)

    def mask(self, cell_type: str) -> Tensor:
        """(E, K) bool: the candidates that are live."""
        self._check(cell_type)
        mask: Tensor = getattr(self, f"mask_{cell_type}")
        return mask

    def ops(self, cell_type: str) -> Tensor:
        """(E, K) operation weights as the supernet sees them; exactly zero where a candidate is not live."""
        mask = self.mask(cell_type)
        weights = self.relaxations[cell_type].weights(
            real_tensor(self.alpha[cell_type]), mask, self.now("op_temperature")
        )
        if self.auxiliary_skip:
            weights = weights + self.now("auxiliary_skip") * self._skips[cell_type].get("skips", weights) * mask
        return weights

    def edges(self, cell_type: str) -> Tensor:
        """(E,) edge weights."""
        self._check(cell_type)
        return self.topologies[cell_type].weights(real_tensor(self.beta[cell_type]), self.now("edge_temperature"))

    def penalty(self) -> Tensor:
        """Validity penalty r(β), summed over the cell types (TopoNAS Eq. 14)."""
        return torch.stack([self.topologies[t].penalty(self.beta[t]) for t in self.space.cells]).sum()

    def alpha_penalty(self) -> Tensor:
        """Return the relaxation's term of the loss of α, summed over the cell types (FairDARTS, DrNAS)."""
        return torch.stack([r.penalty(self.alpha[t], self.mask(t)) for t, r in self.relaxations.items()]).sum()

    def restrict(self, masks: Mapping[str, Tensor]) -> None:
        """Remove candidates for good: False in a cell type's (E, K) mask; what is gone already stays gone."""
        for name, mask in checked_masks(masks, self.space).items():
            self.mask(name).logical_and_(mask.to(self.mask(name).device))

    def decided(self, cell_type: str) -> Tensor:
        """Return (E, K) bool: logits that decide nothing any more, and so stay as they are.

        Those of candidates that are not live, and all logits of an edge that has come down to one live candidate.
        """
        mask = self.mask(cell_type)
        had_a_choice = self._several[cell_type].get("several", mask)
        return ~mask | (had_a_choice & (mask.sum(1, keepdim=True) == 1))

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
        """Mean entropy of the expected operation weights over edges, in nats."""
        ops = {t: weights.ops for t, weights in self.expected().items()}
        return {t: float(self.relaxations[t].entropy(ops[t], self.mask(t)).detach()) for t in ops}

    def beta_entropy(self) -> dict[str, float] | None:
        """Mean entropy of the topology distributions, in nats; None where nothing about edges is learned."""
        found = {t: self.topologies[t].entropy(self.beta[t].detach(), self.edge_temperature) for t in self.space.cells}
        return {t: float(h) for t, h in found.items() if h is not None} or None

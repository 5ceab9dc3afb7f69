"""The cost that a search expects of its cell, and the penalty on it.

E[cost] is the cost of the network of the retraining if each edge were part of the cell with the probability that the
topology gives it, with an operation drawn by the weights of those that may be chosen:

    E[cost] = fixed + Σ_types ( widths(nodes) + Σ_e p(e) Σ_k q(e, k) cost(type, stride of e, k) )

Differentiable look-up tables of operations are those of ProxylessNAS (Cai et al., 2019) and FBNet (Wu et al., 2019). We
depart from both in three ways. Edges have probabilities too. `none`, which is never derived unless `selection.none`,
takes no part, so that the penalty cannot be met by its weight. The penalty is a hinge or a share, where ProxylessNAS
adds λ · E[latency] and FBNet multiplies the loss by a power of the logarithm of it. Sampled relaxations count by their
distribution, as in ProxylessNAS, where FBNet takes the sample of the step.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from topocell.config.cost import CostPlan
from topocell.config.search import SearchPlan, Stage
from topocell.config.selection import PERTURBATION, Rules
from topocell.errors import RecipeError
from topocell.genotype.genotype import keeps_empty_nodes
from topocell.relaxation import candidate_table
from topocell.runtime.constants import Constants
from topocell.searching.mechanisms import Mechanism, Running
from topocell.spaces.cell import CellSpec, SpaceSpec
from topocell.spaces.costs import NetworkCosts
from topocell.supernet.arch_state import ArchState
from topocell.supernet.weights import ArchWeights
from topocell.topology.assignments import ends


class CellExpectation:
    """What cells of one type are expected to add to the cost of a network, see the module.

    Args:
        cell_type: the type.
        cell: its edges and candidates.
        costs: of the networks of the space.
    """

    def __init__(self, cell_type: str, cell: CellSpec, costs: NetworkCosts) -> None:
        own = costs.cells[cell_type]
        self._cell, self._drops = cell, not keeps_empty_nodes(cell_type)
        self._constants = Constants(
            table=np.array(own.table(cell), dtype=float),
            real=1.0 - candidate_table(cell, {"none": 1.0}, 0.0),
            wider=np.diff(own.widths),
            nodes=np.arange(1.0, len(own.widths)),
        )

    def __call__(self, weights: ArchWeights, dead_ends: bool = True) -> Tensor:
        """Return the expected cost (0-dim, float64).

        A node has the expected number of its inputs, at most one, as its probability to be there; edges that leave it
        count so much, and so does its place in the output. Where dead ends are dropped, it has that times the expected
        number of its outputs, at most one, and edges count by both their nodes. One-hot weights give the exact cost of
        their cell.

        Args:
            weights: probability (E, K) of each candidate, and (E,) that each edge is part of the cell.
            dead_ends: whether nodes from which no path leads to an end of the cell stay in it.
        """
        ops, edges = weights.ops.double(), weights.edges.double()
        real = edges * (ops * self._constants.get("real", ops)).sum(1)
        there = [ops.new_ones(())] * self._cell.inputs
        for node in self._cell.computed:
            entering = self._cell.incoming(node)
            inputs = torch.stack([real[e] * there[self._cell.edges[e][0]] for e in entering]).sum()
            there.append(inputs.clamp(max=1.0) if self._drops else ops.new_ones(()))
        leads = [ops.new_ones(())] * len(there) if dead_ends else self._leading(real)
        counted = torch.stack([there[source] * leads[node] for source, node in self._cell.edges])
        total = (edges * counted * (ops * self._constants.get("table", ops)).sum(1)).sum()
        if self._cell.output == "last" or self._cell.nodes == 1:
            return total
        width = torch.stack([node * leading for node, leading in zip(there, leads)][self._cell.inputs :]).sum()
        return (
            total + (self._constants.get("wider", ops) * (width - self._constants.get("nodes", ops)).clamp(0, 1)).sum()
        )

    def _leading(self, real: Tensor) -> list[Tensor]:
        """Per node (input nodes too), the expected number of its outputs that lead on, at most one; 1 for the ends."""
        cell, last = self._cell, ends(self._cell)
        leads = [real.new_ones(()) if node in last else real.new_zeros(()) for node in range(cell.inputs + cell.nodes)]
        for source, e in sorted(((cell.edges[e][0], e) for e in range(cell.n_edges)), reverse=True):
            if source not in last:
                leads[source] = (leads[source] + real[e] * leads[cell.edges[e][1]]).clamp(max=1.0)
        return leads


class ExpectedCost:
    """The expected cost of the network of the cell that a state stands for.

    Args:
        costs: of the networks of the space.
        rules: how the cell is derived.
        space: cells with the candidates of the state.
    """

    def __init__(self, costs: NetworkCosts, rules: Rules, space: SpaceSpec) -> None:
        self._costs, self._rules, self._space = costs, rules, space
        self._cells = {t: CellExpectation(t, cell, costs) for t, cell in space.cells.items()}
        self._constants = {
            t: Constants(
                choosable=candidate_table(cell, {"none": rules.none}, True),
                together=_together(cell, outgoing=rules.edges == "magnitude-outgoing"),
            )
            for t, cell in space.cells.items()
        }

    def __call__(self, arch: ArchState) -> Tensor:
        """Return E[cost] (0-dim, float64), differentiable in α and β."""
        parts = [
            expectation(self.probabilities(arch, t), not self._through(arch, t))
            for t, expectation in self._cells.items()
        ]
        return torch.stack(parts).sum() + self._costs.fixed

    def _through(self, arch: ArchState, cell_type: str) -> bool:
        """Return whether the derived cell has no dead ends."""
        return self._rules.edges == "topology" and arch.topologies[cell_type].drops_dead_ends

    def probabilities(self, arch: ArchState, cell_type: str) -> ArchWeights:
        """Return the probabilities (E, K) of operations, each edge's summing to 1 or 0, and (E,) of edges."""
        alpha, beta = arch.alpha[cell_type].double(), arch.beta[cell_type].double()
        mask = arch.mask(cell_type) & self._constants[cell_type].get("choosable", alpha)
        ops = arch.relaxations[cell_type].expected(alpha, mask, arch.now("op_temperature"))
        ops = ops / ops.sum(1, keepdim=True).clamp(min=torch.finfo(ops.dtype).tiny)
        topology = arch.topologies[cell_type]
        edges = topology.edge_probabilities(beta, arch.now("edge_temperature"))
        if not topology.learned:
            edges = edges * self._share(cell_type, mask.any(1))
        return ArchWeights(ops, edges)

    def _share(self, cell_type: str, live: Tensor) -> Tensor:
        """Share (E,) of the live edges of a node that a rule keeps which ranks edges that have no weights."""
        rules, count = self._rules, live.double()
        together = self._constants[cell_type].get("together", count) @ count
        if rules.edges in ("magnitude", "topology", "random", PERTURBATION):
            return (rules.in_degree / together.clamp(min=1)).clamp(max=1.0)
        if rules.edges == "magnitude-outgoing":
            kept = (together - 1).clamp(min=1, max=rules.in_degree)
            return kept / together.clamp(min=1)
        return torch.ones_like(count)


def _together(cell: CellSpec, outgoing: bool) -> np.ndarray:
    """(E, E): one where two edges enter, or leave, the same node."""
    ends = np.array([source if outgoing else node for source, node in cell.edges])
    return (ends[:, None] == ends[None, :]).astype(float)


class CostPenalty(Mechanism):
    """Adds the penalty on the expected cost to the loss of α and β, in every stage; records `expected_cost`.

    Args:
        plan: `search.cost` of the recipe.
        stage: the first of the search, whose equal weights the penalty without a target is measured against.
        space: of the first stage.
        rules: how the cell is derived.
        costs: of the networks of the space, in the measure of the plan.
    """

    recordable = True

    def __init__(self, plan: CostPlan, stage: Stage, space: SpaceSpec, rules: Rules, costs: NetworkCosts) -> None:
        self._plan, self._stage, self._first, self._rules = plan, stage, space, rules
        self._space = space
        self._take(costs)

    def _take(self, costs: NetworkCosts) -> None:
        self._costs = costs
        choices = self._stage.relaxation.model_dump(), self._stage.topology.model_dump()
        equal = ArchState(self._first, *choices, init=0.0, generator=torch.Generator())
        with torch.no_grad():
            self.uniform = float(ExpectedCost(costs, self._rules, self._first)(equal))
        self.expected = ExpectedCost(costs, self._rules, self._space)

    def on_stage_start(self, search: Running) -> None:
        """Let the learner add the penalty to the loss of α and β."""
        self._space = search.space
        self.expected = ExpectedCost(self._costs, self._rules, self._space)
        search.learner.cost = self.penalty if self._plan.weight else None

    def penalty(self, arch: ArchState) -> Tensor:
        """Return w · max(0, E[cost] / target − 1), or without a target w · E[cost] / U (0-dim, float64)."""
        expected, plan = self.expected(arch), self._plan
        if plan.target is None:
            return plan.weight * expected / self.uniform
        return plan.weight * (expected / plan.target - 1).clamp(min=0)

    def on_epoch_end(self, search: Running) -> Mapping[str, Any]:
        """Record the expected cost, in the unit of its measure."""
        with torch.no_grad():
            return {"expected_cost": float(self.expected(search.learner.arch))}

    def state_dict(self) -> dict[str, Any]:
        """Return the costs: a latency that is measured again would lead a resumed search elsewhere."""
        return {"costs": self._costs.to_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume with the costs that the search began with."""
        self._take(NetworkCosts.from_dict(state["costs"]))


def cost_penalty(plan: SearchPlan, space: SpaceSpec, rules: Rules, costs: NetworkCosts | None) -> dict[str, Mechanism]:
    """Return the penalty of a plan by its name, or nothing where it has none.

    Raises:
        RecipeError: a penalty without costs of its measure.
    """
    if plan.cost is None:
        return {}
    if costs is None or costs.measure != plan.cost.measure:
        raise RecipeError(
            f"a penalty on {plan.cost.measure} needs the costs of the networks, but got "
            f"{None if costs is None else costs.measure}; take them from topocell.nn.costs.network_costs"
        )
    return {"cost": CostPenalty(plan.cost, plan.stages[0], space, rules, costs)}

"""Progressive decisions (SGAS): one edge of each cell type after another is decided while the search continues.

After an epoch of decisions the undecided edge of the best score takes its most likely operation, or the one that the
supernet misses most (SGAS+PT of Wang et al., Rethinking Architecture Selection, 2021), and the other edges of a node
with enough decided edges are pruned. Scores are products of measures of the distribution over an
edge's candidates, each normalised to [0, 1] over the edges of the cell (Li et al., SGAS, 2020).

As in the authors' code the measures of all edges enter the normalisation, those of decided and pruned edges with the
logits that they had when they were decided.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from topocell.selection.decider import Decider
from topocell.selection.probe import Ablation
from topocell.selection.pruning import decide, only, real_candidates, undecided, without_edges
from topocell.spaces.cell import CellSpec
from topocell.supernet.arch_state import ArchState

History = Sequence[Tensor]


@dataclass(frozen=True)
class Decision:
    """An edge of a cell type that took its operation, and the edges that were pruned with it, as (src, dst).

    `reads` has for each of its operations the number it was judged by; `race` is the record of a race.
    """

    cell: str
    edge: tuple[int, int]
    operation: str
    score: float
    pruned: tuple[tuple[int, int], ...]
    reads: Mapping[str, float]
    race: Mapping[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Return the record for metrics.jsonl."""
        edges = {"edge": list(self.edge), "pruned": [list(e) for e in self.pruned]}
        measured = {"reads": dict(self.reads), **self.race}
        return {"cell": self.cell, "operation": self.operation, "score": self.score, **edges, **measured}

    def words(self) -> str:
        """Describe the decision for the user."""
        gone = ", ".join(f"{s}→{d}" for s, d in self.pruned)
        rest = f"; node {self.edge[1]} is complete, pruned {gone}" if gone else ""
        return f"{self.cell}: edge {self.edge[0]}→{self.edge[1]} is {self.operation} (score {self.score:.3f}){rest}"


def distribution(arch: ArchState, cell_type: str) -> tuple[Tensor, Tensor]:
    """p (E, K), the distribution over all candidates of the space, decided or not; bool (E, K), which are real.

    Real candidates are those that can be decided for: all but `none`.
    """
    return arch.strengths_of_all(cell_type), real_candidates(arch.space.cells[cell_type])


def conditional(p: Tensor, real: Tensor) -> Tensor:
    """q (E, K): p among the real candidates, zero elsewhere and on edges that have none."""
    chosen = p.masked_fill(~real, 0)
    return chosen / chosen.sum(1, keepdim=True).clamp(min=torch.finfo(p.dtype).tiny)


def importance(p: Tensor, real: Tensor, history: History) -> Tensor:
    """(E,) probability of anything but `none` (SGAS Eq. 3)."""
    return p.masked_fill(~real, 0).sum(1)


def certainty(p: Tensor, real: Tensor, history: History) -> Tensor:
    """(E,) one minus the entropy of q relative to that of the uniform distribution (SGAS Eq. 4); 1 without a choice."""
    n = real.sum(1).to(p.dtype)
    entropy = torch.special.entr(conditional(p, real)).sum(1)
    return 1 - entropy / torch.where(n > 1, n, math.e).log()


def stability(p: Tensor, real: Tensor, history: History) -> Tensor:
    """(E,) mean overlap Σ_o min(q_then, q_now) with the epochs of `history` (SGAS Eq. 5); 0 without any."""
    now = conditional(p, real)
    overlaps = [torch.minimum(then, now).sum(1) for then in history]
    return torch.stack(overlaps).mean(0) if overlaps else torch.zeros_like(now[:, 0])


Measure = Callable[[Tensor, Tensor, History], Tensor]

#: The criteria of SGAS by number: whose product ranks the edges.
CRITERIA: dict[int, tuple[Measure, ...]] = {1: (importance, certainty), 2: (importance, certainty, stability)}


def normalised(values: Tensor) -> Tensor:
    """(E,) moved and scaled to [0, 1]; all 0 where all are equal."""
    spread = values.max() - values.min()
    return (values - values.min()) / spread if float(spread) > 0 else torch.zeros_like(values)


def scores(criterion: int, p: Tensor, real: Tensor, history: History) -> Tensor:
    """(E,) in [0, 1]: the product of the normalised measures of a criterion."""
    return torch.stack([normalised(measure(p, real, history)) for measure in CRITERIA[criterion]]).prod(0)


class Progress:
    """The decisions of one stage, and the distributions of its last epochs.

    Args:
        criterion: a row of `CRITERIA`.
        in_degree: decided edges that complete a node.
        window: epochs that the stability of an edge is computed over.
        decider: chooses the operation of an edge; by magnitude it is the most likely one.
    """

    def __init__(self, criterion: int, in_degree: int, window: int, decider: Decider) -> None:
        self.criterion, self.in_degree, self.window, self.decider = criterion, in_degree, window, decider
        self._history: dict[str, list[Tensor]] = {}
        self._made: list[Decision] = []

    def after_epoch(self, due: bool, last: bool) -> list[Decision]:
        """Decide an edge of each cell type if decisions are `due`, all that are left after the `last` epoch.

        Then note the distributions of this epoch, which later decisions look back on. Where it is called again
        on a state that was saved in the middle, it resumes there.
        """
        found = self.next() if due or last else {}
        while found:
            decide(self.decider.learner, {cell: mask for cell, (mask, _) in found.items()})
            self.decider.complete()
            self._made += [decision for _, decision in found.values()]
            found = self.next() if last else {}
        arch = self.decider.learner.arch
        for name in arch.space.cells:
            past = [*self._history.get(name, []), conditional(*distribution(arch, name))]
            self._history[name] = past[-self.window :]
        made, self._made = self._made, []
        return made

    def next(self) -> dict[str, tuple[Tensor, Decision]]:
        """Decide an edge of each cell type that has one to decide: its mask (E, K) afterwards, and that decision.

        Ties go to the first edge and the first operation.
        """
        found, arch = {}, self.decider.learner.arch
        for name, cell in arch.space.cells.items():
            mask = arch.mask(name).cpu()
            p, real = distribution(arch, name)
            open_edges = [e for e in undecided(mask) if bool((mask & real)[e].any())]
            if not open_edges:
                continue
            score = scores(self.criterion, p, real, self._history.get(name, []))
            edge = open_edges[int(score[open_edges].argmax())]
            candidates = torch.nonzero((mask & real)[edge]).flatten().tolist()
            decided = self.decider([Ablation(name, edge, k) for k in candidates], 1)
            chosen = candidates[decided.kept[0]]
            mask = only(mask, edge, chosen)
            pruned = self._surplus(cell, mask, cell.edges[edge][1])
            gone = tuple(cell.edges[e] for e in pruned)
            names = cell.candidates[edge]
            reads = dict(zip((names[k] for k in candidates), decided.reads))
            what = name, cell.edges[edge], names[chosen], float(score[edge]), gone
            found[name] = without_edges(mask, pruned), Decision(*what, reads, decided.record)
        return found

    def _surplus(self, cell: CellSpec, mask: Tensor, node: int) -> list[int]:
        """The undecided edges into a node that has its `in_degree` decided ones."""
        left = [e for e in undecided(mask) if e in cell.incoming(node)]
        decided = [e for e in cell.incoming(node) if int(mask[e].sum()) == 1]
        return left if len(decided) >= self.in_degree else []

    def state_dict(self) -> dict[str, Any]:
        """The distributions, (E, K) float64 for each cell type and epoch, and what a decision in progress has."""
        history = {name: list(past) for name, past in self._history.items()}
        return {"history": history, "made": [asdict(d) for d in self._made], "decider": self.decider.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict`."""
        self._history = {name: [q.cpu() for q in past] for name, past in state["history"].items()}
        self._made = [_decision(made) for made in state["made"]]
        self.decider.load_state_dict(state["decider"])


def _decision(state: Mapping[str, Any]) -> Decision:
    pruned = tuple((source, node) for source, node in state["pruned"])
    return Decision(**{**state, "edge": tuple(state["edge"]), "pruned": pruned})

"""Topologies in which each node chooses a set of edges: TopoNAS, stretchable cells and DOTS in one class."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from topocell.errors import RecipeError, SpaceError, nearest
from topocell.runtime.constants import Constants
from topocell.spaces.cell import CellSpec
from topocell.topology.assignments import Assignments, ends, subsets, without_dead_ends, without_orphans
from topocell.topology.base import Decoded, GroupedLogits, Topology, named, positive, rectangle, with_last


@dataclass(frozen=True, eq=False)
class Group:
    """One distribution of `Subsets`: the edges that enter or leave a node, and the sets to choose from.

    Args:
        node: the node that the edges enter (view "target") or leave (view "source").
        edges: indices of its n edges, ascending.
        choices: bool (n_choices, n), B_g: which edges each choice keeps.
        slice: where the logits of its choices lie in `beta`.
    """

    node: int
    edges: tuple[int, ...]
    choices: Tensor
    slice: slice


class Subsets(Topology):
    """A distribution over *sets* of edges per node: TopoNAS, stretchable cells and DOTS.

    For each group g, the edges that enter (view "target", DOTS) or leave (view "source", TopoNAS) a node,

        p_g = softmax(β_g / T)        s_e = scale_g · Σ_c p_g(c) · norm(c) · B_g[c, e]

    with one row of B_g for each set that may be chosen, in the order of `itertools.combinations`; sets of
    several sizes come by size, the empty set first. Groups are in the order of their nodes.

    Args:
        cell: the cell. View "target" has a group for each computed node, view "source" for each node with an
            outgoing edge.
        view: "source" or "target".
        sizes: an integer k, "any" (one edge and more), "any-or-none", or a list with one k per group. An
            integer k, at most the edges of the largest group, means min(k, n) of n incoming edges, and
            min(k, max(1, n - 1)) of n outgoing ones: where there is a choice a node never keeps all. For the DARTS
            cell: the 2, 2, 2, 1, 1 of TopoNAS.
        norm: norm(c): "none" is 1; "mean" is 1/|c|, and 0 for the empty set (DOTS; its code leaves it out).
        scale: "unit" makes every s_e = 1 at equal logits: n/k for sets of k (TopoNAS, Eq. 10),
            (2^n-1)/2^(n-1) for any size (Eq. 13), 2 with the empty set. "none" is 1. "printed" is
            (2^n-1)/2^(n-1), which the stretchable paper prints also for its sets that may be empty.
        drop: with sizes "any-or-none", which computed nodes leave the derived cell. "no-output", the default of view
            "source": those that choose no edge ("none for removing the node"), those that nothing reaches, and so on;
            the last node, which has nothing to choose, stays where it is reached. "no-input", the default of view
            "target" and its only one: those that nothing reaches; a node without an outgoing edge stays in the concat.

    Attributes:
        groups: the groups, as `Group`, in the order of their logits.
        may_drop_nodes: whether a set may be empty, so that nodes can leave the cell.

    Raises:
        RecipeError: an option outside the above, "printed" with fixed sizes, or `drop` where no node can leave.
        SpaceError: no choice gives every computed node an input, or a group has more than 2^14 choices.
    """

    def __init__(
        self,
        cell: CellSpec,
        view: Literal["source", "target"] = "source",
        sizes: int | Literal["any", "any-or-none"] | Sequence[int] = 2,
        norm: Literal["none", "mean"] = "none",
        scale: Literal["unit", "none", "printed"] = "unit",
        drop: Literal["no-output", "no-input"] | None = None,
    ) -> None:
        _one_of("view", view, ("source", "target"))
        _one_of("norm", norm, ("none", "mean"))
        _one_of("scale", scale, ("unit", "none", "printed"))
        if scale == "printed" and not isinstance(sizes, str):
            raise RecipeError(f"scale 'printed' is for sets of any size, but got sizes={sizes!r}; use 'unit'")
        _check_drop(drop, view, sizes)
        self.view = view
        edges_of = cell.incoming if view == "target" else cell.outgoing
        nodes = [node for node in range(cell.inputs + cell.nodes) if edges_of(node)]
        edges = [tuple(edges_of(node)) for node in nodes]
        rows = [subsets(len(e), k) for e, k in zip(edges, _sizes(view, sizes, [len(e) for e in edges]))]
        super().__init__(cell, sum(len(b) for b in rows))
        self.may_drop_nodes = sizes == "any-or-none"
        self.drops_dead_ends = self.may_drop_nodes and view == "source" and drop != "no-input"
        self._softmax = GroupedLogits([len(b) for b in rows])
        self.groups = [Group(*g) for g in zip(nodes, edges, map(torch.from_numpy, rows), self._softmax.slices)]
        self._assignments = Assignments(cell, edges, rows, dead_ends=not self.drops_dead_ends)
        self._constants = Constants(mix=self._mix(norm, scale), chosen=self._chosen(), **self._inputs())
        if not isinstance(sizes, str) and self.n_valid == 0:
            raise SpaceError(
                f"every computed node has an input, but no choice with view={view!r} and sizes={sizes!r} gives "
                f"all of them one; use larger sizes or 'any'"
            )

    def _mix(self, norm: str, scale: str) -> np.ndarray:
        """(E, n_logits): scale_g · norm(c) · B_g[c, e], so that s = mix · p."""
        mix = np.zeros((self.cell.n_edges, self.n_logits))
        for group in self.groups:
            b = group.choices.numpy().astype(float)
            if norm == "mean":
                b /= np.maximum(b.sum(1, keepdims=True), 1)
            n = len(group.edges)
            factor = {"unit": 1 / b.mean(), "none": 1.0, "printed": (2**n - 1) / 2 ** (n - 1)}[scale]
            mix[list(group.edges), group.slice] = factor * b.T
        return mix

    def _chosen(self) -> np.ndarray:
        """(E, n_logits): B_g[c, e]."""
        chosen = np.zeros((self.cell.n_edges, self.n_logits))
        for group in self.groups:
            chosen[list(group.edges), group.slice] = group.choices.numpy().T
        return chosen

    def _inputs(self) -> dict[str, np.ndarray]:
        """Index arrays of the penalty, with R rows: one per computed node and group that can give it an input.

        `with_input` (R, ..) lists the choices of the group that do, `group` (R,) is the group, and `rows`
        (nodes, ..) lists the rows of each node.
        """
        found = [
            (j, g, np.flatnonzero(covers >> j & 1) + group.slice.start)
            for j in range(self.cell.nodes)
            for g, (group, covers) in enumerate(zip(self.groups, self._assignments.covers))
            if (covers >> j & 1).any()
        ]
        rows = [[r for r, (j, _, _) in enumerate(found) if j == node] for node in range(self.cell.nodes)]
        return {
            "with_input": rectangle([choices for _, _, choices in found], self.n_logits),
            "group": np.array([g for _, g, _ in found]),
            "rows": rectangle(rows, len(found)),
        }

    @property
    def n_valid(self) -> int:
        """Number of assignments of choices whose cell has all computed nodes (exact below 2^53): each has an input."""
        return self._assignments.n_valid

    def probabilities(self, beta: Tensor, temperature: float = 1.0) -> Tensor:
        """p (n_logits,): the softmax of each group; `groups[g].slice` finds the choices of group g."""
        return self._softmax.log_softmax(self._logits(beta, temperature)).exp()

    def weights(self, beta: Tensor, temperature: float = 1.0) -> Tensor:
        """s (E,), by the equation above."""
        return (self._constants.get("mix", beta) * self.probabilities(beta, temperature)).sum(1)

    def edge_probabilities(self, beta: Tensor, temperature: float = 1.0) -> Tensor:
        """Σ_c p_g(c) · B_g[c, e] (E,): the probability that the set drawn by the edge's group has it."""
        return (self._constants.get("chosen", beta) * self.probabilities(beta, temperature)).sum(1)

    def entropy(self, beta: Tensor, temperature: float = 1.0) -> Tensor | None:
        """Mean entropy in nats over the groups with two and more choices."""
        return self._softmax.entropy(self._logits(beta, temperature))

    def penalty(self, beta: Tensor) -> Tensor:
        """r(β) (TopoNAS, Eq. 14), zero-dimensional, at least 0 and below the number of computed nodes.

        r = Σ_j Π_g (1 - max_{c gives j an input} p_g(c) / max_c p_g(c)), over the computed nodes j and the
        groups g that can give j an input. It is zero exactly when each of these nodes has an input from a most
        likely choice of some group. The paper defines it for view "source"; for view "target" the same rule is
        zero unless a set may be empty.
        """
        logits = self._logits(beta)
        index = functools.partial(self._constants.get, like=logits)
        best = self._softmax.padded(logits).amax(1)[index("group")]
        best_with_input = with_last(logits, -math.inf)[index("with_input")].amax(1)
        missed = with_last(0.0 - torch.expm1(best_with_input - best), 1.0)[index("rows")]
        return functools.reduce(torch.mul, missed.unbind(1)).sum()

    def decode_report(self, beta: Tensor) -> Decoded:
        """The most likely choices, argmax of Σ_g log p_g(c_g), that give every computed node an input.

        The papers take the plain argmax, which may leave nodes without an input; this is the exact maximum
        over the choices that do not, by dynamic programming. Ties go to the lowest choices. With sizes
        "any-or-none" (stretchable cells) nodes are dropped as `drop` says, with their edges, and so on; the choices
        are then the most likely ones that leave a cell: at least one node, or the last one where it is the cell's
        output (NAS-Bench-201) or dead ends are dropped, so that a path leads through every node that stays.

        Raises:
            RunError: a logit is not finite.
        """
        values = self._values(beta)
        scores = [values[group.slice] for group in self.groups]
        plain = [int(np.argmax(score)) for score in scores]
        faults, best, rule = self._faults(plain), plain, ""
        valid = "input" not in faults
        if faults:
            best, rule = self._repaired(scores)
        kept, dropped = self._trimmed(best)
        log_probability = self._log_probability(beta, best)
        if not faults and not dropped:
            return Decoded(kept, log_probability=log_probability)
        what = " and ".join(f"{named(nodes)} without an {end}" for end, nodes in faults.items())
        notes = [f"the most likely choices leave {what}"]
        if changes := [
            f"{self._described(group, new)} instead of {self._described(group, old)}"
            for group, new, old in zip(self.groups, best, plain)
            if new != old
        ]:
            notes.append(f"took the most likely ones that {rule}: {'; '.join(changes)}")
        if dropped and self.drops_dead_ends:
            notes.append(f"dropped {named(dropped)}, on no path from an input to {named(ends(self.cell))}")
        elif dropped:
            notes.append(f"dropped {named(dropped)}, which nothing reaches any more")
        return Decoded(kept, valid, dropped, log_probability, "; ".join(notes))

    def _faults(self, assignment: Sequence[int]) -> dict[str, set[int]]:
        """`input` → the computed nodes that no edge enters, and `output` → those that send none but should."""
        kept = [self.cell.edges[e] for e in self._assignments.edges(assignment)]
        missing = {"input": set(self.cell.computed) - {node for _, node in kept}}
        if self.drops_dead_ends:
            missing["output"] = set(self.cell.computed) - {source for source, _ in kept} - set(ends(self.cell))
        return {end: nodes for end, nodes in missing.items() if nodes}

    def _repaired(self, scores: Sequence[np.ndarray]) -> tuple[list[int], str]:
        """The most likely assignment that has a cell, or else all nodes, and in words what it does."""
        if not self.may_drop_nodes:
            return self._assignments.best(scores, self.cell.computed), "give every node an input"
        last = self.cell.output == "last" or self.drops_dead_ends
        needed = ends(self.cell) if last else self.cell.computed
        return self._assignments.best(scores, needed, every=False), "leave a cell"

    def _trimmed(self, assignment: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The edges that stay, and the nodes that do not."""
        trim = without_dead_ends if self.drops_dead_ends else without_orphans
        return trim(self.cell, self._assignments.edges(assignment))

    def random(self, generator: torch.Generator) -> list[int]:
        """Drawn uniformly from the `n_valid` assignments whose cell has all computed nodes."""

        def uniform() -> float:
            return torch.rand((), generator=generator, dtype=torch.float64, device=generator.device).item()

        return self._assignments.edges(self._assignments.random(uniform))

    def _log_probability(self, beta: Tensor, assignment: Sequence[int]) -> float:
        log_p = self._softmax.log_softmax(beta.detach().to("cpu", torch.float64))
        return sum(log_p[group.slice][c].item() for group, c in zip(self.groups, assignment))

    def _described(self, group: Group, choice: int) -> str:
        end, arrow = (1, "→") if self.view == "source" else (0, "←")
        ends = [str(self.cell.edges[e][end]) for e, on in zip(group.edges, group.choices[choice]) if on]
        return f"{group.node} {arrow} {', '.join(ends) or 'nothing'}"


def _sizes(view: str, sizes: object, n_edges: Sequence[int]) -> list[Sequence[int]]:
    """The sizes that the sets of each group may have, from the option `sizes` of `Subsets`."""
    if isinstance(sizes, str):
        _one_of("sizes", sizes, ("any", "any-or-none"))
        return [range(0 if sizes == "any-or-none" else 1, n + 1) for n in n_edges]
    if not isinstance(sizes, list | tuple):
        k, most = positive("sizes", sizes), max(n_edges)
        if k > most:
            raise RecipeError(
                f"sizes is at most the number of edges of the largest group, {most}, but got {k}; "
                f"use {most} or less, or 'any'"
            )
        return [[min(k, n if view == "target" else max(1, n - 1))] for n in n_edges]
    if len(sizes) != len(n_edges) or any(positive("sizes", k) > n for k, n in zip(sizes, n_edges)):
        raise RecipeError(
            f"a list of sizes has one k per group, at most its number of edges, {list(n_edges)}, but got {list(sizes)}"
        )
    return [[k] for k in sizes]


def _check_drop(drop: object, view: str, sizes: object) -> None:
    """Raise RecipeError for a `drop` that does not exist or has no effect."""
    if drop is None:
        return
    _one_of("drop", drop, ("no-output", "no-input"))
    if sizes != "any-or-none":
        raise RecipeError(
            f"drop says which nodes leave a cell, which they only can with sizes=any-or-none, but got sizes={sizes!r}; "
            f"leave drop out"
        )
    if drop == "no-output" and view == "target":
        raise RecipeError(
            "drop 'no-output' is for nodes that choose their outgoing edges, but got view='target', where a node that "
            "chooses nothing has no input; use view='source', or leave drop out"
        )


def _one_of(option: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        raise RecipeError(f"{option} is one of {', '.join(known)}, but got {value!r}{nearest(value, known)}")

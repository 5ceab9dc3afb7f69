"""The best of additive choices under a limit on an additive cost, exactly; plain arrays that know nothing of rules.

A cell chooses for each group one set of edges, and for each edge of the sets that is part of it one option. Scores and
costs add up; the nodes of the cell cost what the output of that width does. Labels (cost, score) are extended group by
group for each state, such as the set of reached nodes, those that another label dominates go (Pareto fronts), and so do
those that cannot become better than a known choice: the bound is that of the Lagrangian relaxation
max_λ score − λ · (cost − limit), whose best λ also gives that choice. All cells share the limit.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

#: A bound is trusted up to this share, so that rounding never drops the best choice.
SLACK = 1e-9
#: Steps of the search for λ.
STEPS = 60


class Options(NamedTuple):
    """What an edge may choose: cost, score and number (n,) of each option, by rising cost and score."""

    cost: np.ndarray
    score: np.ndarray
    number: np.ndarray


#: A group: the choices in a state, each as the edges of its set that are part of the cell, the state after, the score.
Group = Callable[[int], Iterable[tuple[tuple[int, ...], int, float]]]


class Picked(NamedTuple):
    """A choice of one cell: its edges, sorted, with the number of the option of each."""

    edges: tuple[int, ...]
    numbers: tuple[int, ...]


def pareto(cost: Sequence[float] | np.ndarray, score: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the indices of what nothing else dominates, by rising cost; of equal ones the first."""
    costs, scores = np.asarray(cost, dtype=float), np.asarray(score, dtype=float)
    order = np.lexsort((np.arange(len(costs)), -scores, costs))
    best = np.maximum.accumulate(scores[order])
    keep = np.ones(len(order), dtype=bool)
    keep[1:] = scores[order][1:] > best[:-1]
    return order[keep]


def options(cost: Sequence[float], score: Sequence[float]) -> Options:
    """Return the options of an edge that are ever worth choosing."""
    kept = pareto(cost, score)
    return Options(np.asarray(cost, dtype=float)[kept], np.asarray(score, dtype=float)[kept], kept)


@dataclass
class Cell:
    """The choices of one cell.

    Args:
        options: of each edge.
        groups: in the order in which they choose, from state 0.
        ends: cost of a final state; infinite where it is no cell.
    """

    options: Sequence[Options]
    groups: Sequence[Group]
    ends: Callable[[int], float]
    _steps: list["_Step"] = field(init=False)
    _ends: np.ndarray = field(init=False)
    _sets: dict[tuple[int, ...], int] = field(init=False, default_factory=dict)
    _fronts: dict[tuple[int, ...], "_Front"] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        states, self._steps = [0], []
        for group in self.groups:
            after: dict[int, int] = {}
            rows = []
            for at, state in enumerate(states):
                for chosen, reached, score in group(state):
                    known = self._sets.setdefault(chosen, len(self._sets))
                    rows.append((at, after.setdefault(reached, len(after)), score, known))
            self._steps.append(_Step(len(states), *(np.array(column) for column in zip(*rows))))
            states = list(after)
        self._ends = np.array([self.ends(state) for state in states])
        self._member = np.zeros((len(self._sets), len(self.options)))
        for chosen, number in self._sets.items():
            self._member[number, list(chosen)] = 1.0

    def value(self, price: float, worth: float = 1.0) -> list[np.ndarray]:
        """Per group and state the largest worth · score − price · cost of the rest, its cells' ends included."""
        table = [-price * self._ends if price else np.where(np.isfinite(self._ends), 0.0, -np.inf)]
        for step, gain in zip(reversed(self._steps), reversed(self._gains(price, worth))):
            best = np.full(step.states, -np.inf)
            np.maximum.at(best, step.source, gain + table[-1][step.target])
            table.append(best)
        return table[::-1]

    def _gains(self, price: float, worth: float) -> list[np.ndarray]:
        best = np.array([(worth * o.score - price * o.cost).max() for o in self.options])
        of_set = self._member @ best
        return [worth * step.score + of_set[step.set] for step in self._steps]

    def relaxed(self, price: float, worth: float = 1.0) -> tuple[float, float]:
        """Return cost and score of a choice with the largest worth · score − price · cost."""
        table, gains = self.value(price, worth), self._gains(price, worth)
        single = np.array([(worth * o.score - price * o.cost).argmax() for o in self.options])
        edge_cost, edge_score = (
            np.array([values[k] for values, k in zip(column, single)])
            for column in ([o.cost for o in self.options], [o.score for o in self.options])
        )
        state, cost, score = 0, 0.0, 0.0
        for step, gain, rest in zip(self._steps, gains, table[1:]):
            total = np.where(step.source == state, gain + rest[step.target], -np.inf)
            at = int(total.argmax())
            member = self._member[step.set[at]]
            cost, score, state = (
                cost + float(member @ edge_cost),
                score + float(step.score[at]) + float(member @ edge_score),
                int(step.target[at]),
            )
        return cost + float(self._ends[state]), score

    def front(self, limit: float, price: float, least: float) -> "_Labels":
        """Return the choices of cost ≤ limit with score − price · cost ≥ least that no other dominates."""
        cheapest, best = self.value(1.0, 0.0), self.value(price)
        labels = {0: _Labels.start()}
        names = list(self._sets)
        for step, spare, rest in zip(self._steps, cheapest[1:], best[1:]):
            grown: dict[int, list[_Labels]] = {}
            for source, target, score, known in zip(step.source, step.target, step.score, step.set):
                if source in labels and np.isfinite(spare[target]):
                    more = labels[source].extended(self._front(names[known]), float(score))
                    fits = (more.cost - spare[target] <= limit) & (
                        more.score - price * more.cost + rest[target] >= least
                    )
                    if fits.any():
                        grown.setdefault(int(target), []).append(more.taken(np.flatnonzero(fits)))
            labels = {state: _Labels.merged(parts) for state, parts in grown.items()}
        ended = [of.costlier(float(self._ends[state])) for state, of in labels.items()]
        return _Labels.merged(ended) if ended else _Labels.none()

    def _front(self, chosen: tuple[int, ...]) -> "_Front":
        """The options of a set of edges that nothing dominates, together."""
        if chosen not in self._fronts:
            if not chosen:
                self._fronts[chosen] = _Front((), np.zeros(1), np.zeros(1), np.zeros((1, 0), dtype=int))
            else:
                before, last = self._front(chosen[:-1]), self.options[chosen[-1]]
                cost = (before.cost[:, None] + last.cost).ravel()
                score = (before.score[:, None] + last.score).ravel()
                kept = pareto(cost, score)
                row, column = np.divmod(kept, len(last.cost))
                numbers = np.concatenate([before.numbers[row], last.number[column, None]], axis=1)
                self._fronts[chosen] = _Front(chosen, cost[kept], score[kept], numbers)
        return self._fronts[chosen]


class _Step(NamedTuple):
    """The transitions of a group: number of states before, and per transition its state before and after, the score of
    its set, and the number of the set of edges that lead on."""

    states: int
    source: np.ndarray
    target: np.ndarray
    score: np.ndarray
    set: np.ndarray


class _Front(NamedTuple):
    """Ways to choose options for a set of edges: cost (n,), score (n,), numbers (n, edges)."""

    edges: tuple[int, ...]
    cost: np.ndarray
    score: np.ndarray
    numbers: np.ndarray


@dataclass
class _Labels:
    """Partial choices: cost (n,), score (n,), and how each came about, as a chain of (label before, front, row)."""

    cost: np.ndarray
    score: np.ndarray
    made: list["_Link | None"]

    @classmethod
    def start(cls) -> "_Labels":
        return cls(np.zeros(1), np.zeros(1), [None])

    @classmethod
    def none(cls) -> "_Labels":
        return cls(np.zeros(0), np.zeros(0), [])

    def extended(self, front: _Front, score: float) -> "_Extended":
        return _Extended(self, front, score)

    def costlier(self, by: float) -> "_Labels":
        return _Labels(self.cost + by, self.score, self.made)

    @classmethod
    def merged(cls, parts: Sequence["_Labels"]) -> "_Labels":
        cost = np.concatenate([part.cost for part in parts])
        score = np.concatenate([part.score for part in parts])
        made = list(itertools.chain.from_iterable(part.made for part in parts))
        kept = pareto(cost, score)
        return cls(cost[kept], score[kept], [made[i] for i in kept])

    def picked(self, index: int) -> Picked:
        """The choice that a label stands for."""
        chosen: dict[int, int] = {}
        link = self.made[index]
        while link is not None:
            chosen |= dict(zip(link.front.edges, link.front.numbers[link.row].tolist()))
            link = link.before
        return Picked(tuple(sorted(chosen)), tuple(chosen[e] for e in sorted(chosen)))


class _Link(NamedTuple):
    before: "_Link | None"
    front: _Front
    row: int


class _Extended:
    """Every label with every row of a front: costs and scores at once, chains only for those that are taken."""

    def __init__(self, labels: _Labels, front: _Front, score: float) -> None:
        self._labels, self._front = labels, front
        self.cost = (labels.cost[:, None] + front.cost).ravel()
        self.score = (labels.score[:, None] + front.score).ravel() + score

    def taken(self, which: np.ndarray) -> _Labels:
        which = which[pareto(self.cost[which], self.score[which])]
        made: list[_Link | None] = [
            _Link(self._labels.made[label], self._front, row)
            for label, row in zip(*(part.tolist() for part in np.divmod(which, len(self._front.cost))))
        ]
        return _Labels(self.cost[which], self.score[which], made)


def cheapest(cells: Sequence[Cell]) -> float:
    """Return the least cost of all cells together; infinite where one of them has no choice."""
    return -sum(float(cell.value(1.0, 0.0)[0][0]) for cell in cells)


def best(cells: Sequence[Cell], limit: float) -> list[Picked] | None:
    """Return the choices, a cell each, of the largest total score whose total cost is at most `limit`; None if none is.

    Of equal scores the cheapest is taken.
    """
    if cheapest(cells) > limit:
        return None
    price, known = _priced(cells, limit)
    values = [float(cell.value(price)[0][0]) for cell in cells]
    spare = [-float(cell.value(1.0, 0.0)[0][0]) for cell in cells]
    least = known - SLACK * (1 + abs(known)) - price * limit
    fronts = [
        cell.front(limit - (sum(spare) - own), price, least - (sum(values) - value))
        for cell, own, value in zip(cells, spare, values)
    ]
    total, rows = fronts[0], [[i] for i in range(len(fronts[0].cost))]
    cost, score = total.cost, total.score
    for front in fronts[1:]:
        costs, scores = (cost[:, None] + front.cost).ravel(), (score[:, None] + front.score).ravel()
        fits = np.flatnonzero(costs <= limit)
        kept = fits[pareto(costs[fits], scores[fits])]
        rows = [[*rows[k // len(front.cost)], k % len(front.cost)] for k in kept.tolist()]
        cost, score = costs[kept], scores[kept]
    return [front.picked(row) for front, row in zip(fronts, rows[-1])]


def _priced(cells: Sequence[Cell], limit: float) -> tuple[float, float]:
    """The price λ of the smallest bound that bisection finds, and the best score of a choice found within the limit."""

    def at(price: float, worth: float = 1.0) -> tuple[float, float]:
        found = [cell.relaxed(price, worth) for cell in cells]
        return sum(cost for cost, _ in found), sum(score for _, score in found)

    known = at(1.0, 0.0)[1]
    low, high, bound, price = 0.0, None, math.inf, 0.0
    trial = 0.0
    for _ in range(STEPS):
        cost, score = at(trial)
        if score - trial * (cost - limit) < bound:
            bound, price = score - trial * (cost - limit), trial
        if cost <= limit:
            known, high = max(known, score), trial
        else:
            low = trial
        if high is not None and high - low <= 1e-6 * high:
            break
        trial = (low + high) / 2 if high is not None else max(2 * trial, 1e-3 / max(limit, 1e-9))
    return price, known

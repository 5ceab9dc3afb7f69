"""Proposers: which cells are evaluated next, as a function of those that have been.

A proposer keeps nothing: the cells to come follow from the trials so far and the seed, so that a selection by trials
resumes from its trials alone. It may propose several cells at once, whose evaluations do not depend on each other.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Generator

from topocell.selection.drawing import Cells, CellSpace

#: Draws in a row of a local search that lead to a cell it has left already, before it ends.
RESTARTS = 1000


class Trial(NamedTuple):
    """An evaluated cell.

    Args:
        cells: of all types.
        score: larger is better; None where it was not finite, which comes after all others.
        seconds: that the evaluation took, or counts as.
    """

    cells: Cells
    score: float | None
    seconds: float = 0.0

    @property
    def worth(self) -> float:
        """The score, below all others where there is none."""
        return -math.inf if self.score is None else self.score


#: A random stream of its own for a word and a number.
Draws = Callable[[str, int], Generator]
#: Options, space, trials so far, how many may follow, random streams → the next cells, none where there are no more.
Proposer = Callable[[Any, CellSpace, Sequence[Trial], int, Draws], list[Cells]]


def best(trials: Sequence[Trial]) -> Trial:
    """The trial with the largest score, the first of equals."""
    return max(trials, key=lambda trial: trial.worth)


def random(options: Any, space: CellSpace, trials: Sequence[Trial], limit: int, draws: Draws) -> list[Cells]:
    """Cells drawn independently and uniformly, with replacement."""
    first = len(trials)
    return [space.random(draws("random", number)) for number in range(first, first + limit)]


def evolution(options: Any, space: CellSpace, trials: Sequence[Trial], limit: int, draws: Draws) -> list[Cells]:
    """Regularized evolution (Real et al. 2019, Algorithm 1).

    The first `population` cells are drawn at random, and do not depend on each other. Then one after the other: of
    the newest `population` cells `sample` are drawn with replacement, and a mutation of the best of them follows, the
    first drawn of equals. The oldest cell leaves the population. Our mutations change an operation or an edge; the
    paper's identity mutation, with probability 0.05, is left out.
    """
    number, size = len(trials), options.population
    if number < size:
        return random(options, space, trials, min(limit, size - number), draws)
    draw, population = draws("evolution", number), trials[-size:]
    sample = [population[i] for i in _drawn(size, options.sample, draw)]
    return [space.mutated(best(sample).cells, draw)]


def local(options: Any, space: CellSpace, trials: Sequence[Trial], limit: int, draws: Draws) -> list[Cells]:
    """Steepest ascent: all neighbours of a cell are evaluated, and the best of them is next if it is better.

    Otherwise the search starts afresh from a random cell. Cells that are known are not evaluated again. It ends where
    `RESTARTS` random cells in a row have led to nothing new.
    """
    known: dict[Cells, Trial] = {}
    for trial in trials:
        known.setdefault(trial.cells, trial)
    for start in range(len(known) + RESTARTS):
        centre = space.random(draws("local", start))
        if centre not in known:
            return [centre]
        while True:
            around = list(dict.fromkeys(space.neighbours(centre)))
            if missing := [cells for cells in around if cells not in known]:
                return missing[:limit]
            if not around or (top := best([known[cells] for cells in around])).worth <= known[centre].worth:
                break
            centre = top.cells
    return []


def _drawn(size: int, number: int, draw: Generator) -> list[int]:
    return torch.randint(size, (number,), generator=draw, device=draw.device).tolist()


#: Those of `topocell.config.trials.PROPOSERS`.
PROPOSERS: Mapping[str, Proposer] = {"random": random, "evolution": evolution, "local": local}

"""Selection by trials: cells are proposed, evaluated, and the best one is the cell (search without gradients).

Random search, regularized evolution and local search differ in the proposer; short training, a look-up, shared weights
and scores of untrained networks in the evaluator. The trials so far are the whole state.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple, Protocol

from torch import Generator

from topocell.config.selection import Rules
from topocell.config.trials import TrialsPlan
from topocell.errors import RunError
from topocell.runtime.hooks import Figures, Interrupted, Monitor, Silent
from topocell.runtime.rng import generator
from topocell.selection.drawing import Cells, CellSpace, decoded, encoded
from topocell.selection.proposers import PROPOSERS, Trial, best
from topocell.selection.rules import Derived, cells_as_dict

#: Most cells that are proposed at once where only seconds limit them.
AT_ONCE = 64


class Score(NamedTuple):
    """What an evaluator says of a cell.

    Args:
        value: larger is better; what is not finite comes last.
        seconds: that it counts as; None for those that it took.
    """

    value: float
    seconds: float | None = None


class Evaluator(Protocol):
    """What a cell is judged by."""

    finalists: int
    """How many of the best are compared once more by `final`; 0 for none."""

    def at_once(self, cells: Sequence[Derived]) -> tuple[int, str]:
        """How many of the first of these cells are evaluated at once, and a sentence where it could have been more.

        It depends on nothing but the cells: a state is resumed with as many.
        """

    def scores(self, cells: Sequence[Derived], inner: Monitor, state: Mapping[str, Any] | None) -> list[Score]:
        """Evaluate cells at once, or resume their evaluation.

        Args:
            cells: as many as `at_once` says.
            inner: receives progress and the states of a long evaluation.
            state: of an evaluation that was interrupted.
        """

    def final(self, derived: Derived) -> Score:
        """Compare a finalist by more than the others were."""


class OneByOne:
    """Base of evaluators that take one cell after the other, and compare no finalists."""

    finalists = 0

    def at_once(self, cells: Sequence[Derived]) -> tuple[int, str]:
        """One."""
        return 1, ""

    def final(self, derived: Derived) -> Score:
        """Not called: there are no finalists."""
        raise NotImplementedError


#: Takes the place of the first of some cells that were evaluated at once, and scores and seconds of these.
Done = Callable[[int, Sequence[tuple[float, float]]], None]
#: Evaluates cells by several processes, and says what is done as it comes, in any order.
Parallel = Callable[[Sequence[Derived], Done], None]


class _NoRoom(Exception):
    """The seconds of the trials are over."""


class Trials:
    """Trials in progress; `run` brings them to their end.

    Args:
        space: the cells that may be drawn.
        plan: proposer and limits.
        rules: of the selection, kept in the state.
        evaluator: judges a cell.
        seed: of all draws.
        monitor: receives metrics, progress and states to save.
        parallel: evaluates cells by several processes, in place of `evaluator`; None to do so in this one.

    Attributes:
        trials: in order.
        finals: those of the finalists.
    """

    def __init__(
        self,
        space: CellSpace,
        plan: TrialsPlan,
        rules: Rules,
        evaluator: Evaluator,
        *,
        seed: int = 0,
        monitor: Monitor | None = None,
        parallel: Parallel | None = None,
    ) -> None:
        self.space, self.plan, self.rules, self.evaluator = space, plan, rules, evaluator
        self.seed, self.monitor, self._parallel = seed, monitor or Silent(), parallel
        self.trials: list[Trial] = []
        self.finals: list[Trial] = []
        self._known: dict[Cells, Trial] = {}
        self._inner: Mapping[str, Any] | None = None
        self._said = set[str]()

    def run(self, state: Mapping[str, Any] | None = None) -> Derived:
        """Try cells from the beginning, or resume from a `state_dict`; returns the best one.

        Raises:
            RunError: no score was finite.
            Interrupted: the monitor was told to stop, after the state was saved.
        """
        if state is not None:
            with self.monitor.loading():
                self.load_state_dict(state)
        propose = PROPOSERS[self.plan.propose.name]
        while (room := self._room()) > 0:
            cells = propose(self.plan.proposer, self.space, self.trials, room, self._draws)
            if not cells:
                self.monitor.say(f"trials end after {len(self.trials)}: the proposer has found no further cell")
                break
            self._try(cells)
        return self.space.derived(self._winner().cells)

    def _room(self) -> int:
        """How many trials may follow."""
        done, seconds = len(self.trials), self.plan.seconds
        room = AT_ONCE if self.plan.number is None else self.plan.number - done
        if seconds is None or not done:
            return room
        spent = sum(trial.seconds for trial in self.trials)
        mean = spent / done
        if spent + mean > seconds:
            return 0
        return min(room, max(1, int((seconds - spent) / mean))) if mean else room

    def _draws(self, stream: str, number: int) -> Generator:
        return generator(self.seed, "trials", stream, number)

    def _try(self, proposed: Sequence[Cells]) -> None:
        """Evaluate cells, those that are known left out, as long as there is room.

        They are entered in their order, each as soon as those before it are there. Nothing is saved while cells wait to
        be entered that were evaluated at once: these would be evaluated again, in other company.
        """
        fresh = [cells for cells in dict.fromkeys(proposed) if cells not in self._known]
        made: dict[Cells, tuple[float, float]] = {}
        groups: list[tuple[Cells, Cells]] = []  # first and last cell of each that has several
        waiting = deque(proposed)

        def enter() -> None:
            while waiting and (waiting[0] in made or waiting[0] in self._known):
                if self._room() <= 0:
                    raise _NoRoom
                cells = waiting.popleft()
                self._add(cells, *(self._again(cells) if cells in self._known else made[cells]))
                if not any(first in self._known and last not in self._known for first, last in groups):
                    self.monitor.checkpoint(self.state_dict)

        def done(first: int, found: Sequence[tuple[float, float]]) -> None:
            group = fresh[first : first + len(found)]
            made.update(zip(group, found, strict=True))
            if len(group) > 1:
                groups.append((group[0], group[-1]))
            enter()

        try:
            enter()
            if fresh:
                (self._parallel or self._in_turn)([self.space.derived(cells) for cells in fresh], done)
        except _NoRoom:
            return
        except Interrupted:
            if self._parallel is not None:
                self.monitor.checkpoint(self.state_dict, due=True)
            raise

    def _in_turn(self, cells: Sequence[Derived], done: Done) -> None:
        """Evaluate cells in this process, as many at once as the evaluator takes."""
        first = 0
        while first < len(cells):
            if (room := self._room()) <= 0:
                raise _NoRoom
            size, words = self.evaluator.at_once(cells[first : first + room])
            if words and words not in self._said:
                self._said.add(words)
                self.monitor.say(words)
            done(first, self._evaluate(cells[first : first + size]))
            first += size

    def _again(self, cells: Cells) -> tuple[float | None, float]:
        """Score and seconds of a cell that is known."""
        return self._known[cells].score, 0.0

    def _evaluate(self, cells: Sequence[Derived]) -> list[tuple[float, float]]:
        """Scores of cells that are evaluated at once, and seconds, those that they took shared out evenly."""
        inner, start = _Inner(self, len(cells)), time.monotonic()
        state, self._inner = self._inner, None
        before = 0.0 if state is None else float(state["seconds"])
        inner.since = start - before
        found = self.evaluator.scores(cells, inner, None if state is None else state["state"])
        each = (time.monotonic() - inner.since) / len(cells)
        return [(of.value, each if of.seconds is None else of.seconds) for of in found]

    def _add(self, cells: Cells, score: float | None, seconds: float) -> None:
        trial = Trial(cells, _finite(score), seconds)
        leads = not self.trials or trial.worth > best(self.trials).worth
        self.trials.append(trial)
        self._known.setdefault(trial.cells, trial)
        number = len(self.trials)
        self._record(number - 1, trial)
        total = number if self.plan.number is None else self.plan.number
        self.monitor.step("select, trials", number, total, lambda: {"score": trial.worth})
        if leads and trial.score is not None:
            self.monitor.say(f"trial {number}: the best so far, {self._words(trial.score)}")

    def _words(self, score: float) -> str:
        """A score as it is shown."""
        accuracy = self.plan.evaluate.name in ("training", "shared-weights")
        return f"validation accuracy {100 * score:.2f} %" if accuracy else f"{self.plan.evaluate.name} {score:.6g}"

    def _winner(self) -> Trial:
        """The best trial, or the best of the finalists."""
        ranked = sorted(dict.fromkeys(self._known.values()), key=lambda trial: -trial.worth)
        if not ranked or ranked[0].score is None:
            raise RunError(
                f"the best of the trials is taken, but none of {len(self.trials)} has a finite score by "
                f"{self.plan.evaluate.name}; use another selection.trials.evaluate, or lower the learning rate"
            )
        for trial in ranked[: self.evaluator.finalists][len(self.finals) :]:
            found = self.evaluator.final(self.space.derived(trial.cells))
            self.finals.append(Trial(trial.cells, _finite(found.value)))
            self._record(len(self.finals) - 1, self.finals[-1], final=True)
            self.monitor.checkpoint(self.state_dict)
        return best(self.finals) if self.finals else ranked[0]

    def _record(self, number: int, trial: Trial, final: bool = False) -> None:
        derived = self.space.derived(trial.cells)
        key = derived.genotype(self.space.space).key
        entry = {
            "trial": number,
            "final": final,
            "key": key,
            "score": trial.score,
            "derived": cells_as_dict(derived.cells),
        }
        self.monitor.metrics({"phase": "trial", **entry})  # without seconds: a resumed run has the same metrics

    # State --------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of the trials depends on."""
        return {
            "rules": asdict(self.rules),
            "trials": [_entry(trial) for trial in self.trials],
            "finals": [_entry(trial) for trial in self.finals],
            "inner": None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict` of trials of the same space, plan and seed."""
        self.trials, self.finals = ([_trial(entry) for entry in state[key]] for key in ("trials", "finals"))
        self._known = {}
        for trial in self.trials:
            self._known.setdefault(trial.cells, trial)
        self._inner = state["inner"]


class _Inner(Silent):
    """The monitor of an evaluation: its states become part of those of the trials, its records are dropped.

    Args:
        trials: in progress.
        size: how many cells are evaluated at once.
    """

    def __init__(self, trials: Trials, size: int) -> None:
        self._trials, self._size, self.since = trials, size, time.monotonic()

    def step(self, phase: str, done: int, total: int, figures: Figures) -> None:
        """Progress within the evaluation."""
        number, of = len(self._trials.trials) + 1, self._trials.plan.number
        which = f"trial {number}" if self._size == 1 else f"trials {number} to {number + self._size - 1}"
        self._trials.monitor.step(f"select, {which}{f'/{of}' if of else ''}", done, total, figures)

    def checkpoint(self, state: Callable[[], dict[str, Any]], due: bool = False) -> None:
        """Let the state of the trials with that of the evaluation be saved."""

        def whole() -> dict[str, Any]:
            seconds = time.monotonic() - self.since
            return {**self._trials.state_dict(), "inner": {"state": state(), "seconds": seconds}}

        self._trials.monitor.checkpoint(whole, due)


def _finite(score: float | None) -> float | None:
    return score if score is not None and abs(score) < float("inf") else None


def _entry(trial: Trial) -> dict[str, Any]:
    return {"cells": encoded(trial.cells), "score": trial.score, "seconds": trial.seconds}


def _trial(entry: Mapping[str, Any]) -> Trial:
    return Trial(decoded(entry["cells"]), entry["score"], entry["seconds"])

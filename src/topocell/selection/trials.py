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

    def score(self, derived: Derived, inner: Monitor, state: Mapping[str, Any] | None) -> Score:
        """Evaluate a cell, or resume its evaluation.

        Args:
            derived: the cell.
            inner: receives progress and the states of a long evaluation.
            state: of an evaluation that was interrupted.
        """

    def final(self, derived: Derived) -> Score:
        """Compare a finalist by more than the others were."""


#: Evaluates cells by several processes; calls `done(place, score, seconds)` for each as it is made, in any order.
Parallel = Callable[[Sequence[Derived], Callable[[int, float, float], None]], None]


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
        parallel: evaluates several cells at once, in place of `evaluator`; None for one after the other.

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
        if seconds is not None and done:
            spent = sum(trial.seconds for trial in self.trials)
            if spent + spent / done > seconds:
                return 0
        return AT_ONCE if self.plan.number is None else self.plan.number - done

    def _draws(self, stream: str, number: int) -> Generator:
        return generator(self.seed, "trials", stream, number)

    def _try(self, proposed: Sequence[Cells]) -> None:
        """Evaluate cells, those that are known left out, as long as there is room."""
        if self._parallel is not None:
            self._try_together(proposed, self._parallel)
            return
        for cells in proposed:
            if self._room() <= 0:
                return
            self._add(cells, *(self._again(cells) if cells in self._known else self._evaluate(cells)))

    def _try_together(self, proposed: Sequence[Cells], parallel: Parallel) -> None:
        """Evaluate cells at the same time, and enter them in their order: each as soon as those before it are there."""
        fresh = [cells for cells in dict.fromkeys(proposed) if cells not in self._known]
        made: dict[Cells, tuple[float, float]] = {}
        waiting = deque(proposed)

        def enter() -> None:
            while waiting and (waiting[0] in made or waiting[0] in self._known):
                if self._room() <= 0:
                    raise _NoRoom
                cells = waiting.popleft()
                self._add(cells, *(self._again(cells) if cells in self._known else made[cells]))

        def done(place: int, score: float, seconds: float) -> None:
            made[fresh[place]] = score, seconds
            enter()

        try:
            enter()
            if fresh:
                parallel([self.space.derived(cells) for cells in fresh], done)
        except _NoRoom:
            return
        except Interrupted:
            self.monitor.checkpoint(self.state_dict, due=True)
            raise

    def _again(self, cells: Cells) -> tuple[float | None, float]:
        """Score and seconds of a cell that is known."""
        return self._known[cells].score, 0.0

    def _evaluate(self, cells: Cells) -> tuple[float, float]:
        inner, start = _Inner(self), time.monotonic()
        state, self._inner = self._inner, None
        before = 0.0 if state is None else float(state["seconds"])
        inner.since = start - before
        found = self.evaluator.score(self.space.derived(cells), inner, None if state is None else state["state"])
        return found.value, time.monotonic() - inner.since if found.seconds is None else found.seconds

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
        self.monitor.checkpoint(self.state_dict)

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
    """The monitor of one evaluation: its states become part of those of the trials, its records are dropped."""

    def __init__(self, trials: Trials) -> None:
        self._trials, self.since = trials, time.monotonic()

    def step(self, phase: str, done: int, total: int, figures: Figures) -> None:
        """Progress within the trial."""
        number, of = len(self._trials.trials) + 1, self._trials.plan.number
        self._trials.monitor.step(f"select, trial {number}{f'/{of}' if of else ''}", done, total, figures)

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

"""Selection by trials: proposers against hand-run algorithms, ranking, limits, and resumption at every place."""

import copy
import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import pytest

from topocell import spaces
from topocell.config.selection import Rules
from topocell.config.trials import TrialsPlan
from topocell.errors import RunError
from topocell.runtime.hooks import Interrupted, Keeping, Monitor
from topocell.runtime.rng import derive as derive_seed
from topocell.runtime.rng import generator
from topocell.selection.drawing import Cells, CellSpace
from topocell.selection.proposers import PROPOSERS, Trial, best
from topocell.selection.rules import Derived
from topocell.selection.trials import Done, Score, Trials
from topocell.supernet.arch_state import ArchState

RULES = Rules(operations="random", edges="all", none=True, trials=True)


@cache
def space() -> CellSpace:
    """Three operations on each of the six edges of NAS-Bench-201: 729 cells."""
    of = spaces.get("nasbench201", candidates=("none", "skip_connect", "nor_conv_3x3"))
    return CellSpace.of(ArchState(of, init=0.0), RULES)


def value(derived: Derived) -> float:
    """A rugged score of a cell, from 0 to 1."""
    return derive_seed(0, derived.chosen) % 1009 / 1008


def worth(cells: Cells) -> float:
    return value(space().derived(cells))


class Given:
    """An evaluator by a function, of so many cells at once."""

    def __init__(
        self, of: Any = value, finalists: int = 0, final: Any = value, seconds: float | None = 1.0, most: int = 1
    ) -> None:
        self.of, self.finalists, self._final, self.seconds, self._most = of, finalists, final, seconds, most
        self.calls: list[Any] = []
        self.groups: list[list[Any]] = []

    def at_once(self, cells: Sequence[Derived]) -> tuple[int, str]:
        return min(self._most, len(cells)), ""

    def scores(self, cells: Sequence[Derived], inner: Monitor, state: Mapping[str, Any] | None) -> list[Score]:
        self.groups.append([derived.chosen for derived in cells])
        self.calls += self.groups[-1]
        return [Score(self.of(derived), self.seconds) for derived in cells]

    def final(self, derived: Derived) -> Score:
        return Score(self._final(derived), self.seconds)


def trials(evaluator: Any = None, monitor: Monitor | None = None, **plan: Any) -> Trials:
    return Trials(space(), TrialsPlan(**plan), RULES, evaluator or Given(), seed=3, monitor=monitor)


EVOLUTION = {"name": "evolution", "population": 5, "sample": 3}


def test_random_trials_take_the_best_of_independent_draws() -> None:
    run = trials(number=30)
    won = run.run()
    assert len(run.trials) == 30 and len({trial.cells for trial in run.trials}) > 25
    scores = [worth(trial.cells) for trial in run.trials]
    assert [trial.score for trial in run.trials] == scores
    assert won.cells == space().derived(run.trials[scores.index(max(scores))].cells).cells
    few = trials(number=7)
    few.run()
    assert few.trials == run.trials[:7]  # more trials add to those of before


def test_evolution_is_algorithm_1() -> None:
    """Replayed by hand: a queue, a sample with replacement, the best of it mutated, the oldest dead."""
    run = trials(number=40, propose=EVOLUTION)
    run.run()
    queue = [trial.cells for trial in run.trials[:5]]
    assert queue == [space().random(generator(3, "trials", "random", n)) for n in range(5)]
    for number, trial in enumerate(run.trials[5:], start=5):
        draw = generator(3, "trials", "evolution", number)
        import torch

        sample = [queue[i] for i in torch.randint(5, (3,), generator=draw).tolist()]
        parent = max(sample, key=worth)
        assert trial.cells == space().mutated(parent, draw)
        assert trial.cells in space().neighbours(parent)
        queue = [*queue[1:], trial.cells]


def test_local_search_climbs_to_a_peak_and_starts_afresh() -> None:
    run = trials(number=200, propose="local")
    run.run()
    assert len({trial.cells for trial in run.trials}) == 200  # nothing is evaluated twice
    scores = {trial.cells: worth(trial.cells) for trial in run.trials}
    centre = run.trials[0].cells
    while True:  # the climb from the first cell, from its definition
        around = space().neighbours(centre)
        assert all(cells in scores for cells in around)
        top = max(around, key=worth)
        if worth(top) <= worth(centre):
            break
        centre = top
    peak = next(i for i, trial in enumerate(run.trials) if trial.cells == centre)
    assert peak < 150 and scores[centre] == max(scores[t.cells] for t in run.trials[: peak + 12])


def test_local_search_ends_where_the_space_is_known() -> None:
    of = spaces.get("nasbench201", candidates=("skip_connect", "nor_conv_3x3"))
    small, said = CellSpace.of(ArchState(of, init=0.0), RULES), Keeping()
    run = Trials(small, TrialsPlan(number=500, propose="local"), RULES, Given(), monitor=said)
    run.run()
    assert len(run.trials) == 64 == len({trial.cells for trial in run.trials})


@pytest.mark.parametrize("propose", ["random", EVOLUTION, "local"], ids=["random", "evolution", "local"])
def test_resumption_at_every_trial_ends_alike(propose: Any) -> None:
    options: dict[str, Any] = {"number": 24, "propose": propose}
    whole, keeping = trials(Given(finalists=3, final=lambda d: -value(d)), Keeping(), **options), Keeping()
    whole.monitor = keeping
    won = whole.run()
    assert len(keeping.states) == 24 + 3
    for place, state in enumerate(keeping.states):
        evaluator = Given(finalists=3, final=lambda d: -value(d))
        again, after = trials(evaluator, **options), Keeping()
        again.monitor = after
        assert again.run(copy.deepcopy(state)).cells == won.cells
        assert (again.trials, again.finals) == (whole.trials, whole.finals)
        assert after.records == keeping.records[place + 1 :]
        assert len(evaluator.calls) <= max(0, 23 - place)


def test_an_evaluation_resumes_within_itself() -> None:
    class Long(Given):
        """Counts to three, and may be saved after each."""

        def scores(self, cells: Sequence[Derived], inner: Monitor, state: Mapping[str, Any] | None) -> list[Score]:
            for step in range(0 if state is None else state["step"], 3):
                self.calls.append(step)
                inner.checkpoint(lambda step=step: {"step": step + 1})  # type: ignore[misc]
            return [Score(value(derived), 1.0) for derived in cells]

    keeping = Keeping()
    whole = trials(Long(), keeping, number=3)
    whole.run()
    inside = [state for state in keeping.states if state["inner"] is not None]
    assert len(inside) == 9
    for number, state in enumerate(inside):
        again, evaluator = trials(Long(), number=3), Long()
        again.evaluator = evaluator
        again.run(copy.deepcopy(state))
        assert again.trials == whole.trials and len(evaluator.calls) == 9 - number - 1


def test_a_cell_that_comes_again_counts_and_is_not_evaluated_again() -> None:
    evaluator = Given()
    run = trials(evaluator, number=60, propose={"name": "evolution", "population": 1, "sample": 1})
    run.run()
    different = len({trial.cells for trial in run.trials})
    assert len(run.trials) == 60 and len(evaluator.calls) == different < 60
    assert sum(trial.seconds for trial in run.trials) == different


@pytest.mark.parametrize(("seconds", "number"), [(10.0, 10), (10.9, 10), (0.5, 1), (64.0, 64)])
def test_seconds_end_the_trials(seconds: float, number: int) -> None:
    run = trials(Given(), number=None, seconds=seconds)
    run.run()
    evaluated = sum(trial.seconds > 0 for trial in run.trials)
    assert evaluated == number


def test_what_is_not_finite_comes_last() -> None:
    bad = {0: math.nan, 1: math.inf, 2: -math.inf}
    count = iter(range(100))

    def of(derived: Derived) -> float:
        return bad.get(next(count), 0.25)

    run = trials(Given(of), number=5)
    won = run.run()
    assert [trial.score for trial in run.trials] == [None, None, None, 0.25, 0.25]
    assert won.cells == space().derived(run.trials[3].cells).cells  # the first of equals
    with pytest.raises(RunError, match="none of 2 has a finite score by training"):
        trials(Given(lambda d: math.nan), number=2).run()


def test_finalists_are_ranked_anew() -> None:
    run = trials(Given(finalists=4, final=lambda d: -value(d)), number=20)
    won = run.run()
    ranked = sorted({worth(t.cells) for t in run.trials}, reverse=True)
    assert [worth(t.cells) for t in run.finals] == ranked[:4]
    assert value(won) == ranked[3]


def test_several_at_once_are_the_same_trials() -> None:
    """Random and local proposals and the first population do not depend on what is evaluated at the same time."""
    for propose in ("random", "local", EVOLUTION):
        batches: list[int] = []

        def several(cells: Sequence[Derived], done: Done, batches: list[int] = batches) -> None:
            batches.append(len(cells))
            for place in reversed(range(len(cells))):  # in another order than they are entered in
                done(place, [(value(cells[place]), 1.0)])

        one = trials(number=30, propose=propose)
        many = Trials(space(), one.plan, RULES, Given(), seed=3, parallel=several)
        assert one.run().cells == many.run().cells and one.trials == many.trials
        assert max(batches) > 1


@pytest.mark.parametrize("propose", ["random", "local", EVOLUTION], ids=["random", "local", "evolution"])
def test_several_at_once_in_one_process_are_the_same_trials(propose: Any) -> None:
    """Also from each state that was saved, and then with the same company."""
    one, keeping, evaluator = trials(number=40, propose=propose), Keeping(), Given(most=3)
    many = trials(evaluator, keeping, number=40, propose=propose)
    assert one.run().cells == many.run().cells and one.trials == many.trials
    assert evaluator.calls == one.evaluator.calls  # type: ignore[attr-defined]
    sizes = [len(group) for group in evaluator.groups]
    assert sizes[:2] == ([1, 3] if propose == "local" else [3, 3 if propose == "random" else 2])
    assert set(sizes[2:]) == ({1} if propose == EVOLUTION else set(sizes[2:])) and max(sizes) == 3
    for state in keeping.states:
        again, rest = Given(most=3), Keeping()
        resumed = trials(again, rest, number=40, propose=propose)
        resumed.run(copy.deepcopy(state))
        assert resumed.trials == one.trials
        assert again.groups == evaluator.groups[len(evaluator.groups) - len(again.groups) :]
        assert rest.records == keeping.records[len(state["trials"]) :]


def test_cells_that_come_again_break_no_group() -> None:
    of = spaces.get("nasbench201", candidates=("skip_connect", "nor_conv_3x3"))
    small, evaluator, keeping = CellSpace.of(ArchState(of, init=0.0), RULES), Given(most=4), Keeping()
    plan = TrialsPlan(number=60)
    Trials(small, plan, RULES, evaluator, seed=3, monitor=keeping).run()
    assert len(set(map(str, evaluator.calls))) == len(evaluator.calls) < 60
    assert [len(group) for group in evaluator.groups[:-1]] == [4] * (len(evaluator.groups) - 1)
    for state in keeping.states:
        again = Given(most=4)
        Trials(small, plan, RULES, again, seed=3).run(copy.deepcopy(state))
        assert again.groups == evaluator.groups[len(evaluator.groups) - len(again.groups) :]


def test_no_more_are_evaluated_at_once_than_the_seconds_allow() -> None:
    one, evaluator = trials(number=None, seconds=10.5), Given(most=4)
    many = trials(evaluator, number=None, seconds=10.5)
    one.run(), many.run()
    assert one.trials == many.trials and [len(group) for group in evaluator.groups] == [4, 4, 2]


def test_why_cells_are_evaluated_alone_is_said_once() -> None:
    class Reluctant(Given):
        def at_once(self, cells: Sequence[Derived]) -> tuple[int, str]:
            return 1, "one after the other: why"

    heard: list[str] = []
    keeping = Keeping()
    keeping.say = heard.append  # type: ignore[method-assign]
    trials(Reluctant(), keeping, number=5).run()
    assert heard.count("one after the other: why") == 1


def test_what_is_made_past_the_seconds_is_not_entered() -> None:
    def several(cells: Sequence[Derived], done: Done) -> None:
        for place, derived in enumerate(cells):
            done(place, [(value(derived), 1.0)])

    one = trials(number=None, seconds=9.0)
    many = Trials(space(), one.plan, RULES, Given(), seed=3, parallel=several)
    one.run(), many.run()
    assert one.trials == many.trials and sum(trial.seconds for trial in one.trials) == 9


def test_an_interrupted_crew_leaves_what_it_has_entered() -> None:
    def several(cells: Sequence[Derived], done: Done) -> None:
        for place in (0, 1, 3):
            done(place, [(value(cells[place]), 1.0)])
        raise Interrupted(2)

    keeping = Keeping()
    run = trials(number=8)
    broken = Trials(space(), run.plan, RULES, Given(), seed=3, parallel=several, monitor=keeping)
    with pytest.raises(Interrupted):
        broken.run()
    assert len(keeping.states[-1]["trials"]) == 2
    again = trials(number=8)
    assert again.run(keeping.states[-1]).cells == run.run().cells and again.trials == run.trials


def test_records_tell_every_trial() -> None:
    keeping = Keeping()
    run = trials(Given(finalists=2), keeping, number=4)
    run.run()
    assert [(r["phase"], r["trial"], r["final"]) for r in keeping.records] == [
        *(("trial", n, False) for n in range(4)),
        ("trial", 0, True),
        ("trial", 1, True),
    ]
    assert [r["score"] for r in keeping.records[:4]] == [t.score for t in run.trials]
    assert set(PROPOSERS) == {"random", "evolution", "local"} and best(run.trials) in run.trials
    assert Trial(run.trials[0].cells, None).worth == -math.inf

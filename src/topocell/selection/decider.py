"""Decisions on which of several parts of a supernet stay: those whose removal costs most, or those of largest weight.

A `Decider` serves both the selection after a search (`projection.py`) and decisions in the middle of one
(`progressive.py`). Its measurements are counted; a state can be saved after each, and a decision resumes from it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

import torch

from topocell.config.selection import PERTURBATION, Deciding, Racing
from topocell.data.splits import SearchData, split_batches
from topocell.runtime.hooks import Figures
from topocell.selection.probe import METRICS, Ablation, Measured, Probe, without
from topocell.selection.racing import Race, best
from topocell.supernet import ArchWeights
from topocell.supernet.learner import Learner


class Decided(NamedTuple):
    """A decision about some ablations.

    Attributes:
        kept: positions of the ablations that are not to be made, in order.
        reads: for each ablation the number that it was judged by: the metric without it, or its weight.
        record: the record of a race for the metrics.
    """

    kept: list[int]
    reads: list[float]
    record: dict[str, Any]


class Apart:
    """Ablations measured one after the other, each on images of its own (as published).

    An operation is taken from one round of measurements. Edges go one at a time, and as in the authors' code all that
    are left are then measured anew, each with the others in place: in expectation those that are worth most stay.
    """

    def __init__(self, decider: "Decider", ablations: Sequence[Ablation], keep: int, draw: int) -> None:
        self.decider, self.ablations, self.keep, self.draw = decider, ablations, keep, draw
        self.found: list[Measured] = []

    def run(self, weights: Mapping[str, ArchWeights]) -> Decided:
        metric, used = self.decider.metric, 0
        left, reads = list(range(len(self.ablations))), [0.0] * len(self.ablations)
        one_by_one = self.ablations[0].candidate is None
        while True:
            for position in left:
                if used == len(self.found):
                    self._measure(weights, self.ablations[position])
                reads[position] = getattr(self.found[used], metric)
                used += 1
            worth = [METRICS[metric] * read for read in reads]
            left = sorted(best(worth, left, max(self.keep, len(left) - 1) if one_by_one else self.keep))
            if len(left) <= self.keep:
                return Decided(left, reads, {})

    def _measure(self, weights: Mapping[str, ArchWeights], ablation: Ablation) -> None:
        measured = self.decider.need_probe()(without(weights, ablation), self.draw + len(self.found))
        self.found.append(measured)
        self.decider.seen(lambda: asdict(measured))

    @property
    def counts(self) -> tuple[int, int]:
        return len(self.found), sum(measured.images for measured in self.found)

    def state_dict(self) -> dict[str, Any]:
        return {"found": [asdict(measured) for measured in self.found]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.found = [Measured(**measured) for measured in state["found"]]


def _figures(race: Race, candidate: int) -> dict[str, Any]:
    return asdict(race.measured(candidate))


class SideBySide:
    """Ablations measured together, batch by batch on the same images, to the end of the split or in a race."""

    def __init__(self, decider: "Decider", ablations: Sequence[Ablation], keep: int, draw: int) -> None:
        self.decider, self.ablations, self.draw = decider, ablations, draw
        probe = decider.need_probe()
        sizes = probe.n_batches, probe.images
        self.race = Race(len(ablations), keep, decider.metric, *sizes, decider.racing, probe.batches.device)

    def run(self, weights: Mapping[str, ArchWeights]) -> Decided:
        race, probe = self.race, self.decider.need_probe()
        while race.ended is None:
            running = list(race.open)
            race.add(*probe.side_by_side(weights, [self.ablations[c] for c in running], self.draw, race.batch))
            self.decider.seen(partial(_figures, race, running[0]))
        record = {"ended": race.ended, "comparisons": race.comparisons, "images": list(race.images)}
        return Decided(race.kept, race.reads(), {"race": record} if race.rules else {})

    @property
    def counts(self) -> tuple[int, int]:
        return len(self.ablations), sum(self.race.images)

    def state_dict(self) -> dict[str, Any]:
        return self.race.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.race.load_state_dict(state)


def by_perturbation(decider: "Decider", ablations: Sequence[Ablation], keep: int) -> Decided:
    """Decide by the metric of the supernet after each of the ablations (DARTS-PT)."""
    return decider.measure(ablations, keep)


def by_magnitude(decider: "Decider", ablations: Sequence[Ablation], keep: int) -> Decided:
    """Decide by the weight of each candidate; of an edge, by that of its best one.

    This is PT-Mag: the same tuning, other decisions. The weights are those among all candidates of the space: a decided
    edge counts with the weight that its operation had won.
    """
    arch = decider.learner.arch
    values = []
    for cell_type, edge, candidate in ablations:
        ops = arch.strengths_of_all(cell_type)[edge] * arch.edge_strengths(cell_type)[edge]
        live = arch.mask(cell_type)[edge].cpu()
        values.append(float(ops[live].max() if candidate is None else ops[candidate]))
    return Decided(sorted(best(values, range(len(ablations)), keep)), values, {})


DECISIONS: dict[str, Callable[["Decider", Sequence[Ablation], int], Decided]] = {
    PERTURBATION: by_perturbation,
    "magnitude": by_magnitude,
}


class Decider:
    """Decides which of several ablations are not made, and counts the measurements.

    A decision may take several calls, one after the other, and ends with `complete`. One that is resumed after a kill
    makes the same calls again; measurements that it had made are not repeated.

    Args:
        learner: the supernet and its architecture.
        probe: measures the supernet; needed to decide by perturbation.
        decide_by: a row of `DECISIONS`.
        metric: a row of `topocell.selection.probe.METRICS`.
        fixed: all candidates see the same images.
        racing: candidates leave as soon as it is clear that they do not stay; they then see the same images.
        seen: called after every measurement, or every batch of candidates side by side, with loss and accuracy of one
            of them; a state may be saved there.

    Attributes:
        evaluations: measurements begun, each of one candidate, on the whole split or until it left the race.
        image_evaluations: images for which the answers without one candidate were computed, summed over candidates.
    """

    def __init__(
        self,
        learner: Learner,
        probe: Probe | None = None,
        *,
        decide_by: str = "magnitude",
        metric: str = "accuracy",
        fixed: bool = False,
        racing: Racing | None = None,
        seen: Callable[[Figures], None] = lambda figures: None,
    ) -> None:
        self.learner, self.probe, self.decide_by, self.metric = learner, probe, decide_by, metric
        self.racing, self.seen = racing, seen
        self._kind: type[Apart | SideBySide] = SideBySide if fixed or racing else Apart
        self._completed = (0, 0)
        self._trials: list[Apart | SideBySide] = []
        self._before: list[Mapping[str, Any]] = []  # of a decision that is resumed: states of its trials

    def __call__(self, ablations: Sequence[Ablation], keep: int) -> Decided:
        """Decide which `keep` of the `ablations`, all of one cell type, would cost most; the first of equals."""
        return DECISIONS[self.decide_by](self, ablations, keep)

    def measure(self, ablations: Sequence[Ablation], keep: int) -> Decided:
        """Decide like a call, by measuring the supernet after each of the ablations."""
        trial, number = self._kind(self, ablations, keep, self.evaluations), len(self._trials)
        if number < len(self._before):
            trial.load_state_dict(self._before[number])
        self._trials.append(trial)
        return trial.run({t: w.detach() for t, w in self.learner.arch.expected().items()})

    def complete(self) -> None:
        """Mark the decision as made: its measurements are counted, and the next call begins another."""
        self._completed = self.evaluations, self.image_evaluations
        self._trials, self._before = [], []

    def need_probe(self) -> Probe:
        """Return the probe of a decider that measures."""
        assert self.probe is not None, "a decision by perturbation measures the supernet"
        return self.probe

    @property
    def completed_images(self) -> int:
        """`image_evaluations` without those of the decision in progress."""
        return self._completed[1]

    @property
    def evaluations(self) -> int:
        return self._completed[0] + sum(trial.counts[0] for trial in self._trials)

    @property
    def image_evaluations(self) -> int:
        return self._completed[1] + sum(trial.counts[1] for trial in self._trials)

    def state_dict(self) -> dict[str, Any]:
        """The counts, and the measurements of the decision in progress."""
        trials = [trial.state_dict() for trial in self._trials]
        return {"completed": list(self._completed), "trials": [*trials, *self._before[len(trials) :]]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict` of a decider of the same probe and options."""
        evaluations, images = state["completed"]
        self._completed, self._trials, self._before = (evaluations, images), [], list(state["trials"])


def decider(
    learner: Learner,
    data: SearchData,
    split: str,
    plan: Deciding,
    batch_size: int,
    stream: str,
    *,
    seed: int,
    device: torch.device | str,
    seen: Callable[[Figures], None],
) -> Decider:
    """Build a decider; one that measures does so on a split, augmented as in training."""
    probe = None
    if plan.decide_by == PERTURBATION:
        batches = split_batches(data, split, batch_size, stream, seed=seed, device=device)
        probe = Probe(learner, batches, plan.batches, seed)
    return Decider(
        learner,
        probe,
        decide_by=plan.decide_by,
        metric=plan.metric,
        racing=plan.racing,
        fixed=plan.fixed_batches,
        seen=seen,
    )

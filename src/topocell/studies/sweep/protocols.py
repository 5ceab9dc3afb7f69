"""The protocols of a sweep: which jobs there are, which may begin, and which accuracies a row of the grid comes to.

No protocol lets the test split decide: cells are chosen by accuracies on images of the training set.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from topocell.config.recipe import Recipe
from topocell.config.retrain import RetrainPlan, short_plan
from topocell.studies._training import accuracies
from topocell.studies.sweep.jobs import Job, filtered, validated, whole
from topocell.studies.sweep.plan import Arm, SweepPlan

Records = Mapping[str, Mapping[str, Any]]


class Course:
    """The jobs of a sweep as they become due, in the order of the seeds.

    Args:
        plan, arms: what is asked, and its grid.
        place: the run directory of a key.
        threads: of each job.
    """

    def __init__(self, plan: SweepPlan, arms: Sequence[Arm], place: Callable[[str], Path], threads: int) -> None:
        self.plan, self.arms, self.threads = plan, arms, threads
        self._place = place
        self.seed = plan.seeds[0]
        if plan.protocol != "all":
            for arm in arms:
                arm.any.held_out()
        self._first_jobs = [self._first(arm, seed) for seed in plan.seeds for arm in arms]

    @property
    def total(self) -> int:
        """How many jobs there are in all."""
        chosen = len(self.arms) if self.plan.protocol == "best-by-validation" else 0
        return len(self.arms) * len(self.plan.seeds) + chosen

    def due(self, records: Records, failed: Collection[str]) -> list[Job]:
        """All jobs that may begin, or were begun, when these are finished and those have failed for good."""
        jobs = [*self._first_jobs]
        if self.plan.protocol == "best-by-validation":
            for arm in self.arms:
                keys = [arm.run_key(seed) for seed in self.plan.seeds]
                if all(key in records or key in failed for key in keys) and (best := self.best(arm, records)):
                    recipe = arm.recipes[self.plan.seeds[keys.index(best)]]
                    jobs.append(self._job(self.final_key(best), best, whole, recipe))
        return jobs

    def _first(self, arm: Arm, seed: int) -> Job:
        recipe, key = arm.recipes[seed], arm.run_key(seed)
        if self.plan.protocol == "all":
            return self._job(key, key, whole, recipe)
        training = self._validation(recipe)
        if self.plan.protocol == "shallow-filter":
            return self._job(key, key, filtered, recipe, training, self.seed, recipe.shallow.threshold)
        return self._job(key, key, validated, recipe, training, self.seed)

    def _job(self, key: str, directory: str, make: Callable[..., Mapping[str, Any]], *args: Any) -> Job:
        return Job(key, make, args, str(self._place(directory).absolute()), self.threads)

    def _validation(self, recipe: Recipe) -> RetrainPlan:
        """The training by which cells are chosen."""
        if self.plan.protocol == "shallow-filter":
            return recipe.shallow.plan()
        return short_plan(recipe.retrain, self.plan.short_epochs)

    def best(self, arm: Arm, records: Records) -> str | None:
        """The run whose cell has the highest validation accuracy, of equal ones the first; None without any."""
        keys = [key for seed in self.plan.seeds if (key := arm.run_key(seed)) in records]
        return max(keys, key=lambda key: float(records[key]["validation"]["mean"]), default=None)

    @staticmethod
    def final_key(run: str) -> str:
        """The name of the job that retrains the cell of a run that was chosen."""
        return f"{run}-retrained"

    def finals(self, arm: Arm, records: Records) -> dict[int, Mapping[str, Any]]:
        """The finished runs of a row whose cells were retrained or looked up, by the seeds of their searches."""
        if self.plan.protocol == "best-by-validation":
            best = self.best(arm, records)
            key = "" if best is None else self.final_key(best)
            seeds = {arm.run_key(seed): seed for seed in self.plan.seeds}
            return {seeds[best]: records[key]} if best is not None and key in records else {}
        found = {seed: records[key] for seed in self.plan.seeds if (key := arm.run_key(seed)) in records}
        return {seed: record for seed, record in found.items() if "results" in record}

    def accuracies(self, arm: Arm, records: Records) -> dict[int, float]:
        """Test or true accuracies of a row in percent, by what makes them pairs: seeds of searches or of retrainings.

        With best-by-validation those of one cell, one per retraining, else one per search, the mean of its retrainings.
        """
        finals = self.finals(arm, records)
        if self.plan.protocol == "best-by-validation":
            record = next(iter(finals.values()), None)
            if record is None:
                return {}
            return dict(zip(arm.any.retrain.seeds, accuracies(record)))
        values = {seed: accuracies(record) for seed, record in finals.items()}
        return {seed: sum(of) / len(of) for seed, of in values.items()}


def figure(record: Mapping[str, Any]) -> float:
    """The accuracy of a finished job in percent: of the test images or the table, else of the validation."""
    if "results" in record:
        values = accuracies(record)
        return sum(values) / len(values)
    return 100.0 * float(record["validation"]["mean"])

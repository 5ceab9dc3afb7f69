"""Recipes: all that a run depends on, with its defaults (those of DARTS) and what must fit together.

Files and overrides become a recipe in `topocell.config.load`.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from topocell.config.data import DataPlan
from topocell.config.retrain import PROTOCOLS, RetrainPlan, ShallowPlan
from topocell.config.search import SearchPlan, Stage
from topocell.config.selection import (
    PERTURBATION,
    GroundTruthPlan,
    SelectionPlan,
    budget_fault,
    threshold_fault,
    trials_fault,
)
from topocell.config.values import Capture, Choice, Model, OnNan, name_only, one_of
from topocell.errors import RecipeError, nearest
from topocell.io import plain_yaml
from topocell.io.notebook import card

Budget = Literal["paper", "small", "smoke"]


class RuntimePlan(Model):
    """How steps are carried out; results do not depend on it, and it may be changed while a run lasts.

    Attributes:
        capture: `auto`: on a GPU each kind of step is recorded once, as a CUDA graph, and replayed from then on, where
            it can be; `off`: every kernel is launched from Python, which takes several times longer.
    """

    capture: Capture = "auto"


def _listed(value: Any) -> Any:
    """A name alone as a list of one."""
    return [value] if isinstance(value, str | dict) else value


Logger = Annotated[Choice, BeforeValidator(name_only), one_of("logger")]

#: How a share of the images for each split is written on a command line.
HALVES = "'data.splits={train: 0.5, val: 0.5}'"


class Recipe(Model):
    """All settings of a run, checked. Made by `load_recipe`.

    Attributes:
        device: that computes: `auto` (the first GPU, else the CPU), `cpu`, `cuda`, `cuda:1` ...; may be changed while a
            run lasts, which then rounds differently; its kind may not where latency is measured.
        precision: a row of `topocell.runtime.precision.PRECISIONS`: `bf16` trains supernet and network under autocast,
            `tf32` lets a GPU round what it multiplies to 10 bits.
        compile: whether the network of the retraining is compiled (on a CPU that takes minutes, and a C++ compiler).
        sync_batch_norm: whether the batch statistics of several processes (torchrun) are those of all their images;
            otherwise each takes those of its own share, as is usual.
        protocol: a row of `topocell.config.retrain.PROTOCOLS`: `full` trains the found cell by `retrain`,
            `shallow` by `shallow` alone, `filter` by `shallow`, and by `retrain` if its accuracy there exceeds
            `shallow.threshold`.
        on_nan: what is done about a step whose loss or gradient is not finite, see `topocell.runtime.nan_guard`; may
            be changed while a run lasts.
        log: rows of `topocell.runs.logs.LOGGERS`: `csv`, `tensorboard`, or a logger of your own, beside metrics.jsonl;
            may be changed while a run lasts.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    about: str = ""
    source: str = ""
    published: str = ""
    seed: int = Field(0, ge=0)
    device: str = "auto"
    precision: Annotated[str, one_of("precision")] = "fp32"
    compile: bool = False
    sync_batch_norm: bool = False
    on_nan: OnNan = "stop"
    runtime: RuntimePlan = RuntimePlan()
    log: Annotated[tuple[Logger, ...], BeforeValidator(_listed)] = ()
    space: Annotated[Choice, BeforeValidator(name_only), one_of("space")]
    data: DataPlan = DataPlan()
    search: SearchPlan
    selection: SelectionPlan = SelectionPlan()
    retrain: RetrainPlan = RetrainPlan()
    shallow: ShallowPlan = ShallowPlan()
    protocol: Annotated[str, one_of("protocol")] = "full"
    ground_truth: GroundTruthPlan = GroundTruthPlan()

    @model_validator(mode="after")
    def _parts_fit(self) -> "Recipe":
        faults = [fault for stage in self.search.stages for fault in self._stage_faults(stage)]
        dense = self.selection.moment is None and self.search.stages[-1].topology.name == "dense"
        if self.selection.edges == "topology" and dense:
            faults.append(
                "selection.edges: topology needs a topology that decides edges, but the last stage has topology "
                "dense; use selection.edges=magnitude, or set a topology"
            )
        if fault := threshold_fault(self.selection):
            faults.append(fault)
        faults += filter(None, (budget_fault(self.selection), trials_fault(self.selection)))
        if self.selection.budget is not None and any(plan.parameters is not None for plan in self.trainings):
            faults.append(
                "selection.budget limits the cost at retrain.channels, but retrain.parameters chooses the channels of "
                "each cell; leave one of them out"
            )
        truth, trials = self.ground_truth.column, self.selection.trials
        if trials is not None and trials.column == truth:
            faults.append(
                f"trials are decided by another column than the one that says how good the cell is, but "
                f"selection.trials.evaluate.column and ground_truth.column both are {truth!r}; change one of them"
            )
        if trials is not None and trials.evaluate.name == "training" and (fault := self._held_out_fault()):
            faults.append(fault)
        faults += [*self._moment_faults(), *self._measuring_faults()]
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def held_out(self) -> tuple[str, str]:
        """Return the splits on which the network of a cell is trained and validated while cells are chosen.

        The first feeds the weights of the last stage of the search, the second α; where all images feed one of them,
        two different splits. Raises RecipeError where there is one only.
        """
        if fault := self._held_out_fault():
            raise RecipeError(fault)
        names, stage = list(self.data.splits), self.search.stages[-1]
        fit = stage.weights_on if stage.weights_on in names else names[0]
        others = [name for name in names if name != fit]
        return fit, stage.alpha_on if stage.alpha_on in others else others[0]

    def _held_out_fault(self) -> str | None:
        if len(self.data.splits) > 1:
            return None
        return (
            f"a cell is validated on images that it was not trained on, but data.splits of {self.name} has only "
            f"{next(iter(self.data.splits))!r}; add a split, e.g. {HALVES}"
        )

    def _moment_faults(self) -> list[str]:
        """What is wrong with the moment of the search that the cell is derived from."""
        names, total = [s.name for s in self.search.stages], sum(s.epochs for s in self.search.stages)
        stage, epoch = self.selection.stage, self.selection.after_epoch
        if stage is not None and stage not in names:
            return [f"selection.stage is one of {', '.join(names)}, but got {stage!r}{nearest(stage, names)}"]
        if epoch is not None and epoch > total:
            return [
                f"selection.after_epoch is within the {total} epochs of the search, but got {epoch}; use 1 to {total}"
            ]
        return []

    def _measuring_faults(self) -> list[str]:
        stages, splits = self.search.stages, self.data.splits
        measuring = [
            (f"search.stages.{s.name}.mechanisms.progressive: perturbation measures", "the stage", s.alpha_on)
            for s in stages
            if (plan := s.mechanisms.progressive) is not None and plan.decide_by == PERTURBATION
        ]
        if PERTURBATION in (self.selection.operations, self.selection.edges):
            measuring.append(("selection: perturbation measures", "the last stage", stages[-1].alpha_on))
        trials = self.selection.trials
        if trials is not None and trials.evaluate.name in ("training", "shared-weights"):
            measuring.append(("selection.trials: accuracy is measured", "the last stage", stages[-1].alpha_on))
        return [
            f"{where} on the split alpha_on of {stage}, {held_out!r}, but data.splits has "
            f"{', '.join(splits)}{nearest(held_out, splits)}; name one of them"
            for where, stage, held_out in measuring
            if held_out not in {*splits, "all"}
        ]

    def _stage_faults(self, stage: Stage) -> list[str]:
        where = f"search.stages.{stage.name}"
        return [
            f"{where}: level {stage.level} needs the split {split!r}, but data.splits has "
            + ", ".join(self.data.splits)
            + ("" if split == "val" else nearest(split, self.data.splits))
            + f"; add it, or call one so, e.g. {HALVES}"
            for split in sorted(stage.splits_needed - {"all"} - self.data.splits.keys())
        ]

    @property
    def trainings(self) -> list[RetrainPlan]:
        """The trainings that the protocol asks for, shallow before full."""
        return list(self.named_trainings.values())

    @property
    def named_trainings(self) -> dict[str, RetrainPlan]:
        """The trainings that the protocol asks for, shallow before full, by their keys."""
        shallow, full = PROTOCOLS[self.protocol]
        return ({"shallow": self.shallow.plan()} if shallow else {}) | ({"retrain": self.retrain} if full else {})

    def _repr_html_(self) -> str:
        """Return what notebooks show: its main choices, and all keys folded up."""
        stages = ", ".join(f"{stage.name} {stage.epochs}" for stage in self.search.stages)
        trained = f"{self.retrain.epochs} epochs, seeds {', '.join(map(str, self.retrain.seeds))}"
        rows = [
            ("what it is", self.about),
            ("source", self.source),
            ("published", self.published),
            ("space", self.space.name),
            ("images", self.data.dataset),
            ("search, epochs", stages),
            ("selection", f"operations by {self.selection.operations}, edges by {self.selection.edges}"),
            ("retraining", "" if self.ground_truth.table else trained),
        ]
        return card(f"Recipe {self.name}", rows, source=("all keys", self.to_yaml()))

    def to_yaml(self) -> str:
        """The resolved recipe as YAML; reading it again gives an equal recipe."""
        return plain_yaml.dump(self.model_dump(mode="json"))

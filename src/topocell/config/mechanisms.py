"""Mechanisms: the additions of a method to a stage beside its level, relaxation and topology."""

from collections.abc import Mapping
from typing import Annotated, Any, Protocol

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from topocell.config.selection import Deciding
from topocell.config.values import Choice, Curve, Model, NonNegativeCurve, Probability, one_of
from topocell.errors import nearest
from topocell.registry import known


class StagePlan(Protocol):
    """The view that a mechanism has of the `topocell.config.search.Stage` that it is part of."""

    @property
    def level(self) -> str:
        """The name of the level of the stage."""

    @property
    def relaxation(self) -> Choice:
        """The relaxation of the stage."""

    @property
    def mechanisms(self) -> "Mechanisms":
        """All mechanisms of the stage."""


class Mechanism(Model):
    """Options of a mechanism."""

    def fault(self, stage: StagePlan) -> str | None:
        """Return why it cannot be part of a stage, in words with a next step; None if it can."""
        return None


class Attention(Mechanism):
    """Constants added to logits after each update of α (eDARTS).

    This is one reading of the paper; the other is the `offset` of relaxation softmax, which is there once and for all.

    Attributes:
        constants: operation → constant added to its logit on every edge.
    """

    constants: dict[Annotated[str, one_of("operation")], float] = Field(min_length=1)

    def fault(self, stage: StagePlan) -> str | None:
        """Return what is missing where no update moves logits that are read."""
        if stage.level == "weights":
            return "attention follows updates of α, but level weights has none; leave it out"
        if not known("relaxation")[stage.relaxation.name].learned:
            return f"attention moves logits, but relaxation {stage.relaxation.name} does not read them; leave it out"
        return None


class AuxiliarySkip(Mechanism):
    """A weight added to every skip connection in the supernet, not in what is derived (DARTS−).

    Attributes:
        weight: β of the paper over the epochs of the stage.
    """

    weight: NonNegativeCurve = Curve(shape="linear", start=1.0, end=0.0)


class EarlyStop(Mechanism):
    """The end of a stage ahead of time (DARTS+): see `topocell.searching.mechanisms.EarlyStop`.

    DARTS+ updates α hundreds of times an epoch. With `arch_every=epoch` the cell of the first epochs is the draw of
    the initial logits; set `first` so that it has been left behind.

    Attributes:
        skips: end when a derived cell of stride 1 has so many skip connections (criterion 1: 2).
        stable: end when no ranking of operations with weights has changed for so many epochs (criterion 2: 10).
        first: the first 0-based epoch after which the stage may end.
    """

    skips: Annotated[int, Field(ge=1)] | None = None
    stable: Annotated[int, Field(ge=1)] | None = None
    first: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _has_a_criterion(self) -> "EarlyStop":
        if self.skips is None and self.stable is None:
            raise ValueError("early_stop needs a criterion; set skips (DARTS+: 2), stable (10), or leave it out")
        return self

    def fault(self, stage: StagePlan) -> str | None:
        """Return what is missing where the stage does not learn the figures that the criteria read."""
        if stage.level == "weights":
            return "early_stop reads what is learned about operations, but level weights learns nothing of it"
        if stage.mechanisms.progressive is not None:
            return (
                "early_stop ends a stage ahead of time, but progressive decides edges until its last epoch; leave one "
                "out"
            )
        if self.stable is not None and not known("relaxation")[stage.relaxation.name].learned:
            return (
                f"early_stop.stable reads the ranking of learned operations, but relaxation {stage.relaxation.name} "
                f"learns none; leave it out"
            )
        return None


class Perturbation(Mechanism):
    """Weights that the weights' step sees in place of the operation weights (SDARTS).

    Attributes:
        kind: a row of `topocell.searching.perturbation.PERTURBATIONS`.
        epsilon: size of the perturbation over the epochs of the stage.
    """

    kind: Annotated[str, one_of("perturbation")] = "uniform"
    epsilon: Probability = Curve(shape="linear", start=0.03, end=0.3)

    def fault(self, stage: StagePlan) -> str | None:
        """Return what is missing where no step of the weights has probabilities to perturb."""
        relaxation = known("relaxation")[stage.relaxation.name]
        if stage.level == "single":
            return (
                "a perturbation is for a weights' step of its own, but level single moves weights and architecture in "
                "one pass; use level bilevel"
            )
        if relaxation.one_hot or not relaxation.normalised:
            return (
                f"a perturbation moves probabilities that sum to one, but relaxation {stage.relaxation.name} has "
                f"{'one-hot samples' if relaxation.one_hot else 'independent weights'}; use relaxation softmax"
            )
        if (skip := stage.mechanisms.auxiliary_skip) is not None and skip.weight.largest > 0:
            return (
                f"a perturbation moves probabilities that sum to one, but auxiliary_skip adds up to "
                f"{skip.weight.largest:g} to them; leave one of them out"
            )
        return None


def _criterion(number: int) -> int:
    if number not in (criteria := known("criterion")):
        raise ValueError(f"a criterion is one of {', '.join(map(str, criteria))}, but got {number}")
    return number


class Progressive(Deciding, Mechanism):
    """Decisions in the middle of a stage (SGAS): when they fall, and how an edge is chosen.

    The edge is chosen by the criterion; its operation as `decide_by` says: the most likely one (SGAS), or the one that
    the supernet misses most, measured on the split that α learns from (SGAS+PT of DARTS-PT).

    Attributes:
        criterion: a row of `topocell.selection.progressive.CRITERIA`.
        first, every: an edge of each cell type is decided after the epochs first, first + every, ... What is still
            undecided after the last epoch of the stage is decided then.
        in_degree: decided edges that complete a node; its other edges are pruned.
        history: epochs that the stability of an edge is computed over (criterion 2).
        batch_growth, batch_max: images added to a batch after every epoch of decisions, since memory is freed then.
    """

    decide_by: Annotated[str, one_of("decision")] = "magnitude"
    criterion: Annotated[int, AfterValidator(_criterion)] = 1
    first: int = Field(9, ge=0)
    every: int = Field(5, ge=1)
    in_degree: int = Field(2, ge=1)
    history: int = Field(4, ge=1)
    batch_growth: int = Field(8, ge=0)
    batch_max: int = Field(128, ge=2)

    def decides_after(self, epoch: int) -> bool:
        """Return whether decisions fall at the end of a 0-based epoch."""
        return epoch >= self.first and (epoch - self.first) % self.every == 0

    def batch_size(self, start: int, epoch: int) -> int:
        """Images of a batch in an epoch, of a search that starts with batches of `start`."""
        grown = start + self.batch_growth * sum(map(self.decides_after, range(epoch)))
        return max(start, min(grown, self.batch_max))


def _below_one(rate: Curve) -> Curve:
    if rate.largest >= 1:
        raise ValueError(f"must be below 1, or nothing is left, but got {rate.largest:g}; 0.2 to 0.6 are usual")
    return rate


class SkipDropout(Mechanism):
    """Dropout on the output of skip connections in training (P-DARTS).

    Attributes:
        rate: probability that an element is dropped, over the epochs of the stage.
    """

    rate: Probability


class DropPath(Mechanism):
    """Drop path in the supernet: in training an edge is dropped for an image, with all operations (RobustDARTS, SNAS).

    What is kept is divided by the probability of being kept. Updates of α and β see it as those of the weights do;
    evaluations and what follows the search, such as a projection, do not. The compiled kernels step aside for it.

    Attributes:
        rate: probability that an edge is dropped, over the epochs of the stage; 0 changes nothing.
    """

    rate: Annotated[Probability, AfterValidator(_below_one)]


class Cutout(Mechanism):
    """Cutout in the search: a square of an image is blanked in all batches that are learned from (RobustDARTS).

    Attributes:
        probability: that an image has such a square, over the epochs of the stage; 0 changes nothing.
        size: side of the square in pixels.
    """

    probability: Probability = Curve(shape="linear", start=0.0, end=1.0)
    size: int = Field(16, ge=1)


class RandomCell(Mechanism):
    """One cell at each step of the weights, drawn uniformly from those that the selection may derive (RandomNAS)."""

    def fault(self, stage: StagePlan) -> str | None:
        """Return what is wrong where an architecture is learned, or the weights' step sees something else."""
        if stage.level != "weights":
            return f"random_cell trains weights alone, but level {stage.level} moves α and β; use level weights"
        if stage.mechanisms.perturbation is not None:
            return "random_cell and perturbation both say what the weights' step sees; leave one of them out"
        return None


class Mechanisms(Model):
    """The mechanisms of a stage by name; one of a user's own is given as a mapping of its options.

    Attributes:
        progressive: edges decided one by one during the stage (SGAS).
        perturbation: of the operation weights that the weights' step sees (SDARTS).
        attention: constants added to logits after each update of α (eDARTS).
        auxiliary_skip: weight added to skip connections in the supernet (DARTS−).
        skip_dropout: dropout on skip connections (P-DARTS).
        drop_path: edges dropped at random in training (RobustDARTS, SNAS).
        cutout: squares of training images blanked at random (RobustDARTS).
        early_stop: end of the stage ahead of time (DARTS+).
        random_cell: {} trains one cell at each step, drawn uniformly (RandomNAS).
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    progressive: Progressive | None = None
    perturbation: Perturbation | None = None
    attention: Attention | None = None
    auxiliary_skip: AuxiliarySkip | None = None
    skip_dropout: SkipDropout | None = None
    drop_path: DropPath | None = None
    cutout: Cutout | None = None
    early_stop: EarlyStop | None = None
    random_cell: RandomCell | None = None

    @property
    def built_in(self) -> list[tuple[str, Mechanism]]:
        """The mechanisms that come with topocell, each with its name, in the order in which their hooks are called."""
        return [(name, own) for name in type(self).model_fields if (own := getattr(self, name)) is not None]

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        """Take a list of entries with a `name` each for a mapping from names."""
        if not isinstance(value, list) or not all(isinstance(entry, Mapping) and "name" in entry for entry in value):
            return value
        return {entry["name"]: {key: option for key, option in entry.items() if key != "name"} for entry in value}

    @model_validator(mode="after")
    def _own_are_known(self) -> "Mechanisms":
        for name, options in (self.model_extra or {}).items():
            if name not in (table := known("mechanism")):
                raise ValueError(
                    f"unknown mechanism {name!r}{nearest(name, table)}; known: {', '.join(sorted(table))}, or one "
                    f"of your own with --import FILE"
                )
            if not isinstance(options, Mapping | None):
                raise ValueError(
                    f"{name}: a mechanism has a mapping of options, but got {options!r}; write {{}} for none"
                )
        return self

"""Settings of a selection by trials: cells are drawn, evaluated one by one, and the best one is taken."""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from topocell.config.values import (
    BatchSize,
    Channels,
    Choice,
    Layers,
    Model,
    NonNegative,
    Positive,
    Together,
    name_only,
)
from topocell.errors import nearest


class Random(Model):
    """Cells drawn independently and uniformly (DARTS, Section 3.2: random search)."""


class Evolution(Model):
    """Regularized evolution (Real et al. 2019, Algorithm 1).

    Attributes:
        population: the newest cells, of which parents are taken; the first so many are drawn at random.
        sample: of the population, drawn with replacement; the best of it is mutated.
    """

    population: int = Field(100, ge=1)
    sample: int = Field(25, ge=1)


class Local(Model):
    """Local search: all neighbours of a cell, then those of the best of them, until none is better; then afresh."""


class Training(Model):
    """Accuracy on held-out training images after a short training (DARTS: 100 epochs, half of the training images).

    The network is trained on the split that feeds the weights of the search, as `retrain` says where nothing is set
    here, and compared on the split that feeds α.

    Attributes:
        epochs: of the training.
        channels, layers, batch_size: of the network and its training; default those of `retrain`.
        column: of a table of NAS-Bench-201 (`ground_truth.table`): where there is a table, the accuracy is looked up
            there. It holds validation accuracies.
        charge: seconds that a look-up counts as, for `seconds` of the trials.
        together: trainings of so many cells at once, as one batched network, with the accuracies of each alone up to
            rounding; auto: 1. It is for cells that are proposed without waiting for each other: all of a random search,
            the first population of an evolution, the neighbours in a local search. A look-up does without it.
    """

    epochs: int = Field(100, ge=1)
    channels: Channels | None = None
    layers: Layers | None = None
    batch_size: BatchSize | None = None
    column: str | None = None
    charge: NonNegative = 0.0
    together: Together = "auto"

    @model_validator(mode="after")
    def _no_test_accuracies(self) -> "Training":
        if self.column is not None and "val" not in self.column.split("_"):
            raise ValueError(
                f"column names validation accuracies, as cifar10_val_12ep does, since a search sees no test image, but "
                f"got {self.column!r}"
            )
        return self


class SharedWeights(Model):
    """Accuracy of the cell in the searched supernet on held-out images, with the statistics of each batch.

    Attributes:
        batches: of the held-out split for each cell, the same for all; null for the whole split.
        finalists: so many of the best cells are compared on the whole split; 0 for none.
    """

    batches: Annotated[int, Field(ge=1)] | None = 10
    finalists: int = Field(10, ge=0)


class ZeroCost(Model):
    """A score of the network before any training, from one batch: see `topocell.networks.zero_cost`.

    Attributes:
        channels, layers, batch_size: of the network and the batch; default those of `search`.
    """

    channels: Channels | None = None
    layers: Layers | None = None
    batch_size: BatchSize | None = None


#: Name → options.
PROPOSERS: dict[str, type[Model]] = {"random": Random, "evolution": Evolution, "local": Local}

#: Name → options.
EVALUATORS: dict[str, type[Model]] = {
    "training": Training,
    "shared-weights": SharedWeights,
    "synflow": ZeroCost,
    "naswot": ZeroCost,
    "grad-norm": ZeroCost,
    "jacobian-covariance": ZeroCost,
}


def _one_of(kind: str, table: dict[str, type[Model]]) -> AfterValidator:
    """A validator of a choice from a table, with its options."""

    def check(choice: Choice) -> Choice:
        if choice.name not in table:
            raise ValueError(f"unknown {kind} {choice.name!r}{nearest(choice.name, table)}; known: {', '.join(table)}")
        try:
            table[choice.name].model_validate(choice.model_extra or {})
        except ValidationError as fault:
            raise ValueError(
                "; ".join(_words(choice.name, table[choice.name], item) for item in fault.errors())
            ) from None
        return choice

    return AfterValidator(check)


def _words(name: str, options: type[Model], item: Any) -> str:
    key, message = ".".join(map(str, item["loc"])), item["msg"].removeprefix("Value error, ")
    if item["type"] == "extra_forbidden":
        known = list(options.model_fields)
        return f"{name} has no option {key!r}{nearest(key, known)}; it takes: {', '.join(known) or 'none'}"
    rule = f"{message[:1].lower()}{message[1:]}"
    got = "" if item["type"] == "value_error" else f", but got {item['input']!r}"  # a rule of ours says it
    return f"{name}: {key}: {rule}{got}" if key else f"{name}: {rule}"


class TrialsPlan(Model):
    """Settings of a selection by trials.

    What is tried follows from the rules of the selection: `operations: random` leaves the operations open, and
    `edges: random` the edges; what other rules decide is the same in all trials. A cell that comes again is not
    evaluated again, but counts.

    Attributes:
        propose: where the next cell comes from, a row of `topocell.config.trials.PROPOSERS`.
        evaluate: what a cell is judged by, a row of `topocell.config.trials.EVALUATORS`.
        number: of trials; null for as many as `seconds` allow.
        seconds: no trial begins that would end later, by the mean of those before; the seconds of all trials are
            summed up, also of those that run at the same time. null for no limit.
        workers: processes that evaluate, each by one thread; 1 evaluates in this process, by all threads.
    """

    propose: Annotated[Choice, BeforeValidator(name_only), _one_of("proposer", PROPOSERS)] = Choice(name="random")
    evaluate: Annotated[Choice, BeforeValidator(name_only), _one_of("evaluator", EVALUATORS)] = Choice(name="training")
    number: Annotated[int, Field(ge=1)] | None = 24
    seconds: Positive | None = None
    workers: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _ends(self) -> "TrialsPlan":
        if self.number is None and self.seconds is None:
            raise ValueError("trials end after a number of them or after seconds, but both are null; set one of them")
        return self

    @property
    def column(self) -> str | None:
        """The column of a table that decides, where there is a table; None where cells are judged in another way."""
        return getattr(self.evaluator, "column", None)

    @property
    def proposer(self) -> Any:
        """The options of the proposer."""
        return PROPOSERS[self.propose.name].model_validate(self.propose.model_extra or {})

    @property
    def evaluator(self) -> Any:
        """The options of the evaluator."""
        return EVALUATORS[self.evaluate.name].model_validate(self.evaluate.model_extra or {})

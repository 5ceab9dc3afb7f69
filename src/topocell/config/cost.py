"""Settings of a recipe for what the found cell may cost."""

from pydantic import Field

from topocell.config.values import Model, NonNegative, Positive
from topocell.spaces.costs import Measure


class CostPlan(Model):
    """A penalty on the expected cost of the cell, part of the loss of α and β: see `topocell.searching.cost`.

    Attributes:
        measure: parameters, multiply_adds (of one image) or latency (milliseconds, measured on this machine), of the
            network of the retraining at `retrain.channels`, `retrain.layers` and the size of the images.
        weight: w of the penalty w · max(0, E[cost] / target − 1), or without a target w · E[cost] / U, where U is the
            cost expected of equal weights before the search. 0 records the expected cost and changes nothing.
        target: cost up to which nothing is penalised; in parameters, multiply-adds or milliseconds.
        batch: images of a pass whose latency is measured.
    """

    measure: Measure = "parameters"
    weight: NonNegative
    target: Positive | None = None
    batch: int = Field(1, ge=1)


class CostBudget(Model):
    """A limit on the cost of the derived cell: the most likely cell within it, see `topocell.selection.budget`.

    Attributes:
        measure: as `search.cost.measure`.
        limit: the largest cost that the network of the cell may have.
        batch: images of a pass whose latency is measured.
    """

    measure: Measure = "parameters"
    limit: Positive
    batch: int = Field(1, ge=1)

"""Settings of a recipe for the derivation of a cell from a searched supernet."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from topocell.arguments import check_fields
from topocell.config.cost import CostBudget
from topocell.config.trials import TrialsPlan
from topocell.config.values import (
    Model,
    NonNegative,
    Positive,
    one_of,
)
from topocell.errors import RecipeError
from topocell.spaces.costs import NetworkCosts

#: The rule by which a supernet is projected before its cell is derived (see `topocell.selection.projection`).
PERTURBATION = "perturbation"

#: What becomes of a node without an input that reaches the threshold.
Isolated = Literal["rescue", "drop"]


@dataclass(frozen=True)
class Rules:
    """Rules by which a cell is derived.

    Attributes:
        operations: a row of `OPERATION_RULES`.
        edges: a row of `EDGE_RULES`. `magnitude-outgoing` keeps the strongest edges that leave each node, as many as
            TopoNAS with k = `in_degree` does, in place of those that enter it; nodes without an input are dropped.
        in_degree: edges kept per node by the rule `magnitude` (DARTS: 2), and by `random` on a topology that keeps all.
        none: whether an edge may choose `none`, which removes it (NAS-Bench-201).
        seed: of the random rules.
        max_skips: skip connections that a cell of stride 1 may keep (P-DARTS: 2), or any number. While there are more,
            the edge of the weakest one takes its next best operation, and the edges are ranked anew.
        threshold: least weight of an operation that the edge rule `magnitude` keeps (FairDARTS: 0.85), so that a node
            has at most `in_degree` inputs.
        isolated: what becomes of a node whose inputs are all below the threshold: `rescue` keeps its best input, `drop`
            leaves the node out, and with it what it alone leads to (FairDARTS). A cell that nothing would be left of
            keeps the best edge that leaves one of its inputs.
        budget: limit on the cost of the cell, or none.
        trials: whether what is random is drawn many times and evaluated (see `topocell.selection.trials`).
        costs: of the networks of the space, in the measure of the budget.

    Raises:
        RecipeError: a number that cannot be.
    """

    operations: str = "magnitude"
    edges: str = "topology"
    in_degree: int = 2
    none: bool = False
    seed: int = 0
    max_skips: int | None = None
    threshold: float | None = None
    isolated: Isolated = "rescue"
    budget: CostBudget | None = None
    trials: bool = False
    costs: NetworkCosts | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        check_fields(self, RecipeError)
        if self.in_degree < 1:
            raise RecipeError(f"in_degree is 1 or more, but got in_degree={self.in_degree}")
        if self.max_skips is not None and self.max_skips < 0:
            raise RecipeError(f"max_skips is 0 or more, but got max_skips={self.max_skips}; None is any number")
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise RecipeError(f"threshold is above 0 and at most 1, but got threshold={self.threshold}")

    @property
    def computes(self) -> bool:
        """Return whether the selection is work of its own: the projection of a supernet, or trials of cells."""
        return self.project or self.trials

    @property
    def project(self) -> bool:
        """Return whether the supernet is projected before the cell is derived."""
        return PERTURBATION in (self.operations, self.edges)


def trials_fault(rules: "Rules | SelectionPlan") -> str | None:
    """Explain what is wrong with rules beside trials; None if nothing is, or there are none."""
    if not rules.trials:
        return None
    if "random" not in (rules.operations, rules.edges):
        return (
            f"selection.trials vary what the rules leave at random, but selection.operations is {rules.operations} and "
            f"selection.edges is {rules.edges}; use random for one of them or both, or leave the trials out"
        )
    for name in ("operations", "edges"):
        if getattr(rules, name) == PERTURBATION:
            return f"selection.trials and selection.{name}={PERTURBATION} both take the supernet; leave one of them out"
    if rules.max_skips is not None:
        return "selection.max_skips changes the choice of the rules, which trials replace; leave one of them out"
    return None


def threshold_fault(rules: "Rules | SelectionPlan") -> str | None:
    """Explain what is wrong with a threshold beside an edge rule that does not read it; None if nothing is."""
    if rules.threshold is None:
        if rules.isolated == "rescue":
            return None
        return (
            f"selection.isolated is for nodes below a threshold, but got {rules.isolated} and no threshold; set "
            f"selection.threshold (FairDARTS: 0.85), or leave it out"
        )
    if rules.edges == "magnitude":
        return None
    return (
        f"selection.threshold is part of the edge rule magnitude, but selection.edges is {rules.edges}; use "
        f"selection.edges=magnitude, or leave the threshold out"
    )


#: Rules that a budget on cost goes with: those whose choice is the largest of scores.
BUDGET_OPERATIONS, BUDGET_EDGES = ("magnitude",), ("magnitude", "topology", "all")


def budget_fault(rules: "Rules | SelectionPlan") -> str | None:
    """Explain what is wrong with rules beside a budget on cost; None if nothing is, or there is no budget."""
    if rules.budget is None:
        return None
    for key, known in (("operations", BUDGET_OPERATIONS), ("edges", BUDGET_EDGES)):
        if (name := getattr(rules, key)) not in known:
            return (
                f"selection.budget is for selection.{key} {' or '.join(known)}, whose choice is the largest of scores, "
                f"but got {name}; use selection.{key}={known[0]}, or leave the budget out"
            )
    for key in ("max_skips", "threshold"):
        if getattr(rules, key) is not None:
            return f"selection.budget and selection.{key} both change the choice of the rules; leave one of them out"
    if rules.none and rules.edges == "magnitude":
        return (
            "selection.budget with selection.none is for edges all or topology, but selection.edges is magnitude; use "
            "selection.edges=all, or leave the budget out"
        )
    return None


class Racing(BaseModel):
    """Settings of a race: when candidates are compared, and how sure a comparison has to be.

    Attributes:
        confidence: probability that the decision is that of the whole split.
        first: batches before the first comparison.
        growth: factor by which the batches grow from one comparison to the next.
        margin: candidates that are closer than this, at the stated confidence, in units of the metric (0.002: two
            answers in a thousand), count as equal, and those that lead stay. 0 for none: candidates that no
            comparison separates are measured on the whole split.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    confidence: float = Field(0.95, gt=0.5, lt=1)
    first: int = Field(2, ge=1)
    growth: float = Field(2.0, gt=1)
    margin: float = Field(0.0, ge=0)

    def comparisons(self, batches: int) -> list[int]:
        """The numbers of batches, below `batches`, after which candidates are compared."""
        found, at = [], self.first
        while at < batches:
            found.append(at)
            at = max(at + 1, math.ceil(at * self.growth))
        return found


class Deciding(Model):
    """Settings of a decision on an operation or an edge; the base of plans that make decisions.

    Attributes:
        decide_by: a row of `topocell.selection.decider.DECISIONS`.
        metric: a row of `topocell.selection.probe.METRICS`; ties go to the first operation, and the last edge goes.
        batches: of one measurement; default the whole held-out split.
        fixed_batches: all candidates of a decision are measured on the same images, augmented alike. Published are
            fresh draws, which add noise to every comparison. An edge is then measured once for each node, and
            otherwise once for each edge that the node loses.
        racing: candidates are measured, on the same images as with `fixed_batches`, only until it is clear that they
            stay or go (see `topocell.selection.racing`).
    """

    decide_by: Annotated[str, one_of("decision")] = PERTURBATION
    metric: Annotated[str, one_of("metric")] = "accuracy"
    batches: int | None = Field(None, ge=1)
    fixed_batches: bool = False
    racing: Racing | None = None

    @property
    def same_images(self) -> bool:
        """Return whether all candidates of a decision are measured on the same images."""
        return self.fixed_batches or self.racing is not None

    @model_validator(mode="after")
    def _races_are_measured(self) -> "Deciding":
        if self.racing is not None and self.decide_by != PERTURBATION:
            raise ValueError(
                f"racing saves measurements of decisions by {PERTURBATION}, but decide_by is {self.decide_by}; leave "
                f"racing out, or set decide_by={PERTURBATION}"
            )
        return self


class ProjectionPlan(Deciding):
    """Settings of the projection of a supernet. The defaults are the published schedule.

    Round i of n falls before tuning epoch i · tune_epochs. The supernet is tuned for tune_epochs · (n − 1) + 1 epochs,
    the last one after the last round, or for `epochs` where that is given; rounds that find no epoch left fall
    before the last one. DARTS: 14 rounds of operations and 3 of edges, 81 epochs; NAS-Bench-201: 6 rounds, and
    epochs = 25 in the authors' code, so that the last round comes before epoch 24.

    Attributes:
        order: the next edge or node is drawn at random, or taken in the order of the cell.
        tune_epochs: from one round to the next.
        epochs: of tuning in all.
        lr: constant learning rate of the weights while tuning; momentum, weight decay and clip stay, momentum
            starts afresh. (The authors create a cosine schedule and never step it.)
        train_alpha: tuning moves the architecture as well, first order on the held-out split; not for fixed α.
        epsilon: size of the perturbation while tuning, where the search perturbs (SDARTS-RS+PT: 0.3).
    """

    order: Literal["random", "given"] = "random"
    tune_epochs: int = Field(5, ge=0)
    epochs: int | None = Field(None, ge=0)
    lr: Positive = 0.0025
    train_alpha: bool = True
    epsilon: NonNegative = 0.3


class SelectionPlan(Model):
    """Settings of the derivation of the cell: see `topocell.selection.rules.Rules`.

    `projection` is how a supernet is projected, where operations or edges are selected by perturbation; `budget` limits
    the cost of the cell; `trials` evaluate many cells, where operations or edges are random, and take the best.

    Attributes:
        stage: the cell is derived from the architecture at the end of this stage; default the last one. Where its
            topology keeps all edges, rule `topology` is `magnitude` (DARTS).
        after_epoch: the cell is derived from the architecture after this one, counted from 1 through all stages.
    """

    operations: Annotated[str, one_of("operation rule")] = "magnitude"
    edges: Annotated[str, one_of("edge rule")] = "topology"
    in_degree: int = Field(2, ge=1)
    none: bool = False
    max_skips: Annotated[int, Field(ge=0)] | None = None
    threshold: Annotated[float, Field(gt=0, le=1)] | None = None
    isolated: Isolated = "rescue"
    budget: CostBudget | None = None
    stage: str | None = None
    after_epoch: Annotated[int, Field(ge=1)] | None = None
    projection: ProjectionPlan = ProjectionPlan()
    trials: TrialsPlan | None = None

    @property
    def moment(self) -> str | None:
        """Where the cell is derived from, in words; None for the end of the search."""
        if self.after_epoch is not None:
            return f"epoch {self.after_epoch}"
        return None if self.stage is None else f"stage {self.stage}"

    @model_validator(mode="after")
    def _one_moment(self) -> "SelectionPlan":
        if self.stage is not None and self.after_epoch is not None:
            raise ValueError(
                f"a cell is derived from the end of a stage or from an epoch, but got stage={self.stage} and "
                f"after_epoch={self.after_epoch}; leave one of them out"
            )
        if self.moment is not None and PERTURBATION in (self.operations, self.edges):
            raise ValueError(
                f"perturbation measures a supernet, and only that of the end of the search is kept, but the cell is to "
                f"be derived from {self.moment}; leave that out, or use magnitude"
            )
        return self

    def rules(self, seed: int) -> Rules:
        """The rules; `seed` is that of random ones."""
        own = self.model_dump(exclude={"projection", "budget", "stage", "after_epoch", "trials"})
        return Rules(**own, budget=self.budget, trials=self.trials is not None, seed=seed)


#: In place of a table: the cell is retrained.
NO_TABLE = "none"


class GroundTruthPlan(Model):
    """The table in which the true accuracy of the found cell is looked up, in place of retraining it.

    Attributes:
        table: a file of NAS-Bench-201 or of space topology-bench, see `topocell tables`; default the one that the
            environment variable TOPOCELL_NASBENCH201 or TOPOCELL_TOPOLOGY_BENCH names, and in space topology-bench
            the one that comes with topocell. Without one, and with `none`, the cell is retrained.
        column: of the table; in space topology-bench `test`.
    """

    table: str | None = None
    column: str = "cifar10_test_200ep"

"""Settings of a search as data: stages, curves and optimizers. A recipe is checked against these models."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializationInfo, field_serializer, field_validator, model_validator

from topocell.config.cost import CostPlan
from topocell.config.mechanisms import Mechanisms
from topocell.config.values import (
    BatchSize,
    Channels,
    Choice,
    Curve,
    Layers,
    LearningRate,
    Model,
    NonNegative,
    Positive,
    Temperature,
    micro_batch_fault,
    name_only,
    one_of,
)
from topocell.registry import known

RelaxationChoice = Annotated[Choice, BeforeValidator(name_only), one_of("relaxation")]
TopologyChoice = Annotated[Choice, BeforeValidator(name_only), one_of("topology")]


LossChoice = Annotated[Choice, BeforeValidator(name_only), one_of("loss")]

#: Optimizers of torch that no training here can use, and why.
UNFIT = {
    "lbfgs": "evaluates the loss several times in a step",
    "muon": "is for matrices only, not for convolutions and batch norm",
    "sparseadam": "is for sparse gradients, which no operation has",
}


def _fit(name: Any) -> Any:
    """The name of an optimizer in small letters, as torch's have it here. Raises ValueError for one that is unfit."""
    plain = name.lower() if isinstance(name, str) else name
    if plain in UNFIT:
        raise ValueError(f"an optimizer updates all weights from one gradient, but {name} {UNFIT[plain]}; use adamw")
    return plain if name != plain and plain in known("optimizer") else name


class WeightOptimizer(Model):
    """Optimizer of the network weights (DARTS: SGD, 0.025 → 0.001 cosine, momentum 0.9, weight decay 3e-4, clip 5).

    Attributes:
        optimizer: a row of `topocell.runtime.optimizers.OPTIMIZERS`: those of `torch.optim` in small letters.
        momentum, nesterov: of sgd only; another optimizer has its own among `options`.
        clip: largest norm of the gradient; null for none.
        options: further arguments of the optimizer, as in {betas: [0.9, 0.99], eps: 1.0e-6}.
    """

    optimizer: Annotated[str, BeforeValidator(_fit), one_of("optimizer")] = "sgd"
    lr: LearningRate = Curve(shape="cosine", start=0.025, end=0.001)
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NonNegative = 3e-4
    nesterov: bool = False
    clip: Positive | None = 5.0
    options: dict[str, Any] = Field({})

    @model_validator(mode="after")
    def _momentum_is_of_sgd(self) -> "WeightOptimizer":
        if self.optimizer != "sgd" and (self.momentum != 0.9 or self.nesterov):
            raise ValueError(
                f"momentum and nesterov are of sgd, but optimizer is {self.optimizer!r}, with momentum="
                f"{self.momentum:g} and nesterov={str(self.nesterov).lower()}; set momentum=0.9 and nesterov=false, "
                f"which it ignores"
            )
        return self


class ArchOptimizer(Model):
    """Adam of α or β (DARTS: 3e-4, betas (0.5, 0.999), weight decay 1e-3)."""

    lr: LearningRate = Curve(start=3e-4)
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.5, 0.999)
    weight_decay: NonNegative = 1e-3


class Stage(Model):
    """One part of a search: what is updated from what, and what happens before it.

    The first stage starts afresh. A later one resumes with the weights, logits and optimizers it finds, unless
    `reset`, `shrink`, `layers`, `channels` or `topology` say otherwise: a network of another size has fresh weights
    (shrinking alone keeps the weights that stay), changed candidates have fresh α (but see `shrink_alpha`), a changed
    topology fresh β, and whatever is fresh has a fresh optimizer. A changed relaxation keeps the same α. Edges that a
    fixed wiring does not have are gone from then on.

    Attributes:
        epochs: number of epochs, warm-up included; 0 builds the state and trains nothing.
        warmup: how many of them update the network weights only.
        level: a row of `topocell.supernet.levels.LEVELS`.
        weights_on, alpha_on, beta_on: the split that feeds each update; `all` is every split together. One split
            for α and β means one joint update, two mean alternate updates. Level `single` takes all from
            `weights_on`.
        draw: the batches of the weights are drawn without replacement within an `epoch`, or each from a fresh shuffle,
            with `replacement` from one step to the next, as many as an epoch has (the released code of DARTS-PT).
        arch_draw: the same for the batches of α and β where they are not those of the weights (`replacement` in the
            released codes of DARTS and DARTS-PT); also in the tuning of a selection by perturbation.
        arch_every: update the architecture at every step, or once an epoch, at its last step with a full batch of
            images for the weights: level `unrolled` looks ahead on that batch, and four images that are left over at
            the end of an epoch would tell it little.
        penalty: λ of the validity penalty in the β loss.
        alpha_penalty: λ of the relaxation's own penalty in the α loss.
        arch_clip: gradient-norm clip of the logits of an update (SNAS: 10), or none.
        mixed: λ of the training loss beside the validation loss (level `mixed`).
        shrink: before the stage keep the candidates that the relaxation retains (`best`: the winner of each edge,
            or of each group of a grouped relaxation), or a number of best candidates of each edge.
        shrink_none: whether `none` can be retained.
        shrink_alpha: whether candidates that stay after shrinking keep their α (DrNAS); else all α are fresh. Its
            optimizer starts afresh either way.
        reset: what to make afresh before the stage.
        layers, channels, partial, batch_size: as for the whole search, for this stage.
        mechanisms: what a method adds to the stage.
    """

    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$", max_length=100)
    epochs: int = Field(ge=0)
    warmup: int = Field(0, ge=0)
    level: Annotated[str, one_of("level")] = "bilevel"
    relaxation: RelaxationChoice = Choice(name="softmax")
    topology: TopologyChoice = Choice(name="dense")
    init: NonNegative = 1e-3
    weights_on: str = "train"
    alpha_on: str = "val"
    beta_on: str = "val"
    draw: Literal["epoch", "replacement"] = "epoch"
    arch_draw: Literal["epoch", "replacement"] = "epoch"
    arch_every: Literal["step", "epoch"] = "step"
    weights: WeightOptimizer = WeightOptimizer()
    alpha: ArchOptimizer = ArchOptimizer()
    beta: ArchOptimizer = ArchOptimizer()
    op_temperature: Temperature = Curve(start=1.0)
    edge_temperature: Temperature = Curve(start=1.0)
    penalty: NonNegative = 0.0
    alpha_penalty: NonNegative = 0.0
    arch_clip: Positive | None = None
    mixed: NonNegative = 1.0
    shrink: Literal["best"] | Annotated[int, Field(ge=1)] | None = None
    shrink_none: bool = False
    shrink_alpha: bool = False
    reset: tuple[Literal["weights", "alpha", "beta", "optimizers"], ...] = ()
    layers: Layers | None = None
    channels: Channels | None = None
    partial: Annotated[int, Field(ge=1)] | None = None
    batch_size: BatchSize | None = None
    mechanisms: Mechanisms = Mechanisms()

    @property
    def splits_needed(self) -> frozenset[str]:
        """Names of the splits that the stage draws batches from."""
        if self.level in ("single", "weights"):
            return frozenset({self.weights_on})
        return frozenset({self.weights_on, self.alpha_on, self.beta_on})

    @model_validator(mode="after")
    def _warm_up_fits(self) -> "Stage":
        if self.warmup > self.epochs:
            raise ValueError(f"warmup is at most epochs, but got warmup={self.warmup} and epochs={self.epochs}")
        return self

    @model_validator(mode="after")
    def _axes_fit(self) -> "Stage":
        name = self.relaxation.name
        relaxation, topology = known("relaxation")[name], known("topology")[self.topology.name]
        if self.level != "weights" and self.epochs > self.warmup and not (relaxation.learned or topology.learned):
            raise ValueError(
                f"level {self.level} updates the architecture, but relaxation {name} and topology "
                f"{self.topology.name} have nothing to learn; use level weights"
            )
        if self.level == "unrolled" and (self.weights.optimizer, self.weights.options) != ("sgd", {}):
            raise ValueError(
                f"level unrolled looks ahead by a plain step of sgd, but weights.optimizer is "
                f"{self.weights.optimizer!r} with options {self.weights.options}; use sgd without, or level bilevel"
            )
        if self.level == "unrolled" and relaxation.sampled:
            raise ValueError(
                f"level unrolled compares losses under one architecture, but relaxation {name} draws a new one for "
                f"each; use level bilevel"
            )
        if self.alpha_penalty and not relaxation.penalised():
            raise ValueError(
                f"alpha_penalty needs a relaxation with a penalty, but {name} has none; use sigmoid or dirichlet, or "
                f"alpha_penalty=0"
            )
        return self

    @model_validator(mode="after")
    def _keeps_what_shrinks(self) -> "Stage":
        if self.shrink_alpha and (self.shrink is None or "alpha" in self.reset):
            why = "shrink is not set" if self.shrink is None else "reset names alpha"
            raise ValueError(
                f"shrink_alpha keeps the α of candidates that stay after shrinking, but {why}; leave one out"
            )
        return self

    @model_validator(mode="after")
    def _mechanisms_fit(self) -> "Stage":
        if faults := [fault for _, own in self.mechanisms.built_in if (fault := own.fault(self)) is not None]:
            raise ValueError("\n".join(faults))
        return self


class SearchPlan(Model):
    """A whole search (DARTS: 16 channels, 8 cells, batches of 64).

    Attributes:
        partial: K of PC-DARTS: 1/K of the channels pass through the operations.
        stem: `imagenet` brings images to an eighth of their size before the first cell; `cifar` leaves them.
        micro_batch: images that are computed at once, in every update, where the batch does not fit into memory: the
            gradients are summed over the batch (`topocell.runtime.micro_batches`); it divides the batch. Batch norm
            has the statistics of each micro batch. null: the whole batch.
        memory: `low` keeps less for the backward pass and computes it again there.
        kernels: of the supernet: `fused` takes the compiled ones wherever there are some, `plain` PyTorch's own
            functions, `auto` what is faster on a CPU, and the fused ones on a GPU once they have been checked there.
        loss: a row of `topocell.runtime.losses.LOSSES`, of every update of weights and architecture. Evaluation and
            selection measure cross entropy and accuracy.
        cost: penalty on the expected cost of the cell, or none.
    """

    channels: Channels = 16
    layers: Layers = 8
    batch_size: BatchSize = 64
    micro_batch: BatchSize | None = None
    head: Literal["plain", "bn-relu"] = "plain"
    stem: Literal["cifar", "imagenet"] = "cifar"
    partial: int = Field(1, ge=1)
    evaluation_batches: int | None = Field(16, ge=1)
    memory: Literal["standard", "low"] = "standard"
    kernels: Literal["auto", "fused", "plain"] = "auto"
    loss: LossChoice = Choice(name="cross_entropy")
    cost: CostPlan | None = None
    stages: tuple[Stage, ...] = Field(min_length=1)

    def size(self, stage: Stage) -> dict[str, int]:
        """Channels, layers and K of the supernet of a stage, by the names that `Supernet` has for them."""
        return {
            "channels": stage.channels or self.channels,
            "layers": stage.layers or self.layers,
            "partial": stage.partial or self.partial,
        }

    def batch(self, stage: Stage) -> int:
        """Images of a batch of a stage."""
        return stage.batch_size or self.batch_size

    @field_validator("stages", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        """A recipe has a mapping from names; None stands for a stage that is dropped."""
        if not isinstance(value, Mapping):
            return value
        for name, stage in value.items():
            if isinstance(stage, Mapping) and stage.get("name", name) != name:
                raise ValueError(
                    f"a stage is called by its key, {name}, but it has name={stage['name']!r}; leave that out"
                )
        return [{**s, "name": name} if isinstance(s, Mapping) else s for name, s in value.items() if s is not None]

    @field_serializer("stages")
    def _by_name(self, stages: tuple[Stage, ...], info: SerializationInfo) -> dict[str, Any]:
        return {stage.name: stage.model_dump(mode=info.mode, exclude={"name"}) for stage in stages}

    @model_validator(mode="after")
    def _names_differ(self) -> "SearchPlan":
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError(f"every stage has its own name, but got {names}")
        return self

    @model_validator(mode="after")
    def _micro_batches_fit(self) -> "SearchPlan":
        for stage in self.stages:
            if fault := micro_batch_fault(self.batch(stage), self.micro_batch):
                raise ValueError(f"{fault} (stage {stage.name})")
            if stage.level == "unrolled" and self.micro_batch is not None:
                raise ValueError(
                    f"level unrolled looks ahead on a whole batch, but micro_batch is {self.micro_batch} and stage "
                    f"{stage.name} unrolled; leave micro_batch out, lower batch_size, or use level bilevel"
                )
            perturbation = stage.mechanisms.perturbation
            if self.micro_batch is not None and perturbation is not None and perturbation.kind == "adversarial":
                raise ValueError(
                    f"an adversarial perturbation is found on a whole batch, but micro_batch is {self.micro_batch} and "
                    f"stage {stage.name} has one; leave micro_batch out and lower batch_size, or use kind uniform"
                )
        return self

    @model_validator(mode="after")
    def _cost_moves_something(self) -> "SearchPlan":
        if self.cost is not None and all(s.level == "weights" or s.epochs <= s.warmup for s in self.stages):
            raise ValueError("cost is a penalty on α and β, but no stage of the search updates them; leave it out")
        return self

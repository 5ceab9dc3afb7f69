"""Settings of a recipe for the training of the network of a cell."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from topocell.config.search import LossChoice, WeightOptimizer
from topocell.config.values import (
    Amount,
    BatchSize,
    Channels,
    Choice,
    Curve,
    Layers,
    Model,
    NonNegative,
    Together,
    micro_batch_fault,
    name_only,
)

#: Keys of a training that choose its channels in place of `channels`; null for none of them.
SIZES = ("parameters", "max_parameters", "max_multiply_adds")


def _policy(value: Any) -> Any:
    """`name_only`, where nothing, and `off`, which is false to YAML, are `none`."""
    return {"name": "none"} if value is None or value is False else name_only(value)


class Policy(Model):
    """Random changes of colour and shape, before crop and flip. In a recipe a plain name is one with its defaults.

    Attributes:
        name: `randaugment` (Cubuk et al. 2020) applies operations drawn for each image at one strength,
            `trivialaugment` (Müller and Hutter 2021) one operation at a strength that is drawn too.
        magnitude: strength of randaugment, 0 to 30; null for 9.
        operations: of randaugment on each image; null for 2.
    """

    name: Literal["none", "randaugment", "trivialaugment"] = "none"
    magnitude: Annotated[int, Field(ge=0, le=30)] | None = None
    operations: Annotated[int, Field(ge=1, le=16)] | None = None

    @model_validator(mode="after")
    def _options_fit(self) -> "Policy":
        if self.name != "randaugment" and (self.magnitude, self.operations) != (None, None):
            raise ValueError(
                f"magnitude and operations are options of randaugment, but the name is {self.name!r}; leave them out"
            )
        return self


class EarlyStopping(Model):
    """The end of a training whose accuracy on held-out training images rises no more.

    Attributes:
        fraction: share of the training images that is held out, of each class alike; never of the test images.
        patience: epochs without a higher accuracy there before the training ends.
    """

    fraction: float = Field(0.1, gt=0, le=0.5)
    patience: int = Field(20, ge=1)


class RetrainPlan(Model):
    """Settings of the training of a genotype's network (DARTS on CIFAR: 36 channels, 20 cells, 600 epochs).

    Attributes:
        parameters: choose the channels that come closest to this number of parameters (3500000, or 3.5M), instead of
            `channels`.
        max_parameters, max_multiply_adds: choose the most channels whose network has no more, instead of `channels`.
            The limit of ImageNet's mobile setting is max_multiply_adds=600M, at 224×224.
        micro_batch: images that are computed at once, where the batch does not fit into memory: the gradients are
            summed over the batch (`topocell.runtime.micro_batches`); it divides the batch. Batch norm has the
            statistics of each micro batch, as on several GPUs. null: the whole batch.
        drop_path: probability at the end of training; it grows linearly from 0.
        auxiliary: weight of the auxiliary head's loss; 0 for none.
        cutout: side of the square that is blanked, in pixels; 0 for none.
        rotation, shear: degrees by which an image is turned and slanted at most, either way; 0 for none.
        scaling, translation: share by which its height and its width grow or shrink, and of them by which it is moved,
            at most, each by itself; 0 for none.
        augment: random changes of colour and shape before the crop: none, randaugment or trivialaugment.
        mixup: α of mixup: each batch is mixed with itself by a share from Beta(α, α) (Zhang et al. 2018); 0 for none.
        cutmix: α of cutmix: a rectangle of each image comes from another one (Yun et al. 2019); 0 for none. With mixup
            too, each batch gets one of the two at random.
        sampling: `balanced` draws every class equally often in an epoch, images of rare classes several times.
        top_k: measure too how often the class is among the k most probable ones, in every test: 5 on ImageNet; null:
            not at all.
        loss: a row of `topocell.runtime.losses.LOSSES`. Tests measure cross entropy and accuracy.
        label_smoothing: of the loss.
        class_weights: `balanced` weighs the loss of an image by 1 / frequency of its class, 1 in the mean.
        ema: decay of the average of the weights over the steps, which is tested and kept in their place; null for none.
        early_stop: end of the training ahead of time; the weights of the best validation epoch are kept.
        seeds: one training each.
        together: trainings of so many seeds at once, as one batched network, with the results of each alone up to
            rounding; auto: 1, as nothing has shown yet where more are faster but for tiny networks.
        test_every: epochs between two tests; the last epoch is always tested.
    """

    channels: Channels = 36
    parameters: Amount | None = None
    max_parameters: Amount | None = None
    max_multiply_adds: Amount | None = None
    layers: Layers = 20
    epochs: int = Field(600, ge=1)
    batch_size: BatchSize = 96
    micro_batch: BatchSize | None = None
    weights: WeightOptimizer = WeightOptimizer(lr=Curve(shape="cosine", start=0.025, end=0.0))
    drop_path: float = Field(0.2, ge=0, lt=1)
    auxiliary: float = Field(0.4, ge=0)
    cutout: int = Field(16, ge=0)
    rotation: float = Field(0.0, ge=0, lt=360)
    scaling: float = Field(0.0, ge=0, lt=1)
    shear: float = Field(0.0, ge=0, lt=90)
    translation: float = Field(0.0, ge=0, lt=1)
    augment: Annotated[Policy, BeforeValidator(_policy)] = Policy()
    mixup: NonNegative = 0.0
    cutmix: NonNegative = 0.0
    sampling: Literal["natural", "balanced"] = "natural"
    top_k: Annotated[int, Field(ge=2)] | None = None
    loss: LossChoice = Choice(name="cross_entropy")
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    class_weights: Literal["none", "balanced"] = "none"
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    early_stop: EarlyStopping | None = None
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    together: Together = "auto"
    test_every: int = Field(1, ge=1)
    stem: Literal["cifar", "imagenet"] = "cifar"
    head: Literal["plain", "bn-relu"] = "plain"

    @model_validator(mode="after")
    def _different_seeds(self) -> "RetrainPlan":
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(
                f"seeds are different, each being a training of its own, but got {list(self.seeds)}; name each once"
            )
        return self

    @model_validator(mode="after")
    def _micro_batches_fit(self) -> "RetrainPlan":
        if fault := micro_batch_fault(self.batch_size, self.micro_batch):
            raise ValueError(fault)
        return self

    @model_validator(mode="after")
    def _one_size(self) -> "RetrainPlan":
        if self.parameters is not None and (self.max_parameters, self.max_multiply_adds) != (None, None):
            raise ValueError("parameters is the size to come closest to, max_... is a limit; keep one of them")
        return self


class ShallowPlan(RetrainPlan):
    """Shallow evaluation of eDARTS: small networks that separate good cells from bad ones before a full retraining.

    5 cells, 16 channels, 100 epochs, batches of 64, drop path 0.2, no cutout, no auxiliary head, ten seeds (Section
    IV-A).

    Attributes:
        threshold: the mean test accuracy, a fraction, that a cell has to exceed to be retrained in full
            (Section IV-A: 93 % on CIFAR-10).
    """

    channels: Channels = 16
    layers: Layers = 5
    epochs: int = Field(100, ge=1)
    batch_size: BatchSize = 64
    auxiliary: float = Field(0.0, ge=0)
    cutout: int = Field(0, ge=0)
    seeds: tuple[int, ...] = Field(tuple(range(10)), min_length=1)
    threshold: float = Field(0.93, ge=0, lt=1)

    def plan(self) -> RetrainPlan:
        """Return the settings of the training of its networks."""
        return RetrainPlan(**self.model_dump(exclude={"threshold"}))


#: A short training has one epoch for so many of the full one (DARTS: 100 of 600 epochs on CIFAR-10).
SHORTER = 6


def short_plan(plan: RetrainPlan, epochs: int | None = None) -> RetrainPlan:
    """Return the settings of a short training, of one network, tested once.

    Args:
        plan: of the full training.
        epochs: default a sixth of the full one, as DARTS chose among its cells (Section 3.1 of the paper).
    """
    epochs = max(1, round(plan.epochs / SHORTER)) if epochs is None else epochs
    weights = plan.weights.model_copy(update={"lr": plan.weights.lr.scaled(epochs / plan.epochs)})
    changes = {"epochs": epochs, "weights": weights, "seeds": (0,), "test_every": epochs, "early_stop": None}
    return plan.model_copy(update=changes)


#: Protocol → whether a cell is evaluated in shallow networks, whether it is retrained in full.
PROTOCOLS: dict[str, tuple[bool, bool]] = {"full": (False, True), "shallow": (True, False), "filter": (True, True)}


def goes_on(protocol: str, accuracy: float, threshold: float) -> bool:
    """Return whether a cell is retrained in full after its shallow evaluation has found that accuracy, a fraction."""
    return PROTOCOLS[protocol][1] and accuracy > threshold

"""Settings of a recipe for the training of the network of a cell."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from topocell.config.search import WeightOptimizer
from topocell.config.values import BatchSize, Channels, Curve, Layers, Model


class RetrainPlan(Model):
    """Settings of the training of a genotype's network (DARTS on CIFAR: 36 channels, 20 cells, 600 epochs).

    Attributes:
        parameters: choose the channels that come closest to this number of parameters, instead of `channels`.
        max_parameters, max_multiply_adds: choose the most channels whose network has no more, instead of `channels`.
        drop_path: probability at the end of training; it grows linearly from 0.
        auxiliary: weight of the auxiliary head's loss; 0 for none.
        cutout: side of the square that is blanked, in pixels; 0 for none.
        rotation, shear: degrees by which an image is turned and slanted at most, either way; 0 for none.
        scaling, translation: share by which its height and its width grow or shrink, and of them by which it is moved,
            at most, each by itself; 0 for none.
        label_smoothing: of the cross entropy.
        seeds: one training each.
        test_every: epochs between two tests; the last epoch is always tested.
    """

    channels: Channels = 36
    parameters: Annotated[int, Field(ge=1)] | None = None
    max_parameters: Annotated[int, Field(ge=1)] | None = None
    max_multiply_adds: Annotated[int, Field(ge=1)] | None = None
    layers: Layers = 20
    epochs: int = Field(600, ge=1)
    batch_size: BatchSize = 96
    weights: WeightOptimizer = WeightOptimizer(lr=Curve(shape="cosine", start=0.025, end=0.0))
    drop_path: float = Field(0.2, ge=0, lt=1)
    auxiliary: float = Field(0.4, ge=0)
    cutout: int = Field(16, ge=0)
    rotation: float = Field(0.0, ge=0, lt=360)
    scaling: float = Field(0.0, ge=0, lt=1)
    shear: float = Field(0.0, ge=0, lt=90)
    translation: float = Field(0.0, ge=0, lt=1)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    test_every: int = Field(1, ge=1)
    stem: Literal["cifar", "imagenet"] = "cifar"
    head: Literal["plain", "bn-relu"] = "plain"

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


#: Protocol → whether a cell is evaluated in shallow networks, whether it is retrained in full.
PROTOCOLS: dict[str, tuple[bool, bool]] = {"full": (False, True), "shallow": (True, False), "filter": (True, True)}

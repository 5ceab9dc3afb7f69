"""Kinds of values that recipes are made of."""

import math
import re
from fractions import Fraction
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from topocell.errors import nearest
from topocell.io.colours import Colour, rgb
from topocell.registry import Registry, known

#: Sizes of a network and of a batch. The bounds are far beyond what is of use, and keep a slip from taking hours to
#: build, or from overflowing.
Channels = Annotated[int, Field(ge=2, le=4096)]


Layers = Annotated[int, Field(ge=1, le=128)]


BatchSize = Annotated[int, Field(ge=2, le=65536)]


def _auto_or_number(value: Any) -> Any:
    """A validator of `Together`. Raises ValueError."""
    if value == "auto" or (type(value) is int and value >= 1):
        return value
    raise ValueError(f"networks are trained at once by a number from 1 on, or auto, but got {value!r}; use one of them")


#: Trainings of so many networks at once.
Together = Annotated[Literal["auto"] | int, BeforeValidator(_auto_or_number)]


def number_of(together: Together) -> int:
    """Return how many networks are trained at once at most.

    `auto` is one: on a CPU several at once are slower but for the smallest networks, and on a GPU, where recorded steps
    spare the calls already, it has not been measured.
    """
    return 1 if together == "auto" else together


def micro_batch_fault(batch: int, micro_batch: int | None) -> str | None:
    """Return what is wrong with a number of images that are computed at once; None where nothing is."""
    if micro_batch is None or batch % micro_batch == 0:
        return None
    fitting = [size for size in range(micro_batch, 1, -1) if batch % size == 0]
    use = f"use {fitting[0]}" if fitting else "leave it out"
    return f"micro_batch divides the batch, but got micro_batch={micro_batch} for batch_size={batch}; {use}"


def _in_full(value: Any) -> Any:
    """The number that is meant by 5.3M, 600M or 50k; anything else as it is."""
    if not isinstance(value, str) or value.strip().isdigit():
        return value
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kM])", value.strip())
    if match is None:
        raise ValueError(f"parameters and multiply-adds are a number with k or M behind it, but got {value!r}")
    return round(Fraction(match[1]) * {"k": 1000, "M": 1000000}[match[2]])


#: Number of parameters or multiply-adds, as 600000000 or 600M.
Amount = Annotated[int, BeforeValidator(_in_full), Field(ge=1)]


Positive = Annotated[float, Field(gt=0)]


NonNegative = Annotated[float, Field(ge=0)]


class Model(BaseModel):
    """Base of all parts of a recipe: unknown keys are faults, values are fixed once read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_values_for_numbers(cls, value: Any, field: ValidationInfo) -> Any:
        """`true` and `yes` are no number, which pydantic takes for 1."""
        kinds = _kinds(cls.model_fields[str(field.field_name)].annotation)
        if kinds & {int, float} and bool not in kinds and _has_truth_value(value):
            raise ValueError(f"input should be a number, but got {repr(value)[:60]}")
        return value


def _kinds(annotation: Any) -> set[Any]:
    """All types that an annotation is made of."""
    parts = get_args(annotation)
    return set().union(*map(_kinds, parts)) if parts else {annotation}


def _has_truth_value(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, list | tuple) and any(map(_has_truth_value, value)))


class Curve(Model):
    """A value over the epochs of a stage. In a recipe a plain number is a constant curve.

    At epoch e of E the curve is at t = (from + (to − from) · e / E) / of, with `span = (from, to, of)`: a stage
    can cover a part of a curve that several stages share (DOTS: epochs 0–30, 30–50 and 50–70 of one cosine). With
    `closed`, e / (E − 1) is taken instead, so that the last epoch has the end value.

        constant     start
        linear       start + (end − start) t
        cosine       end + (start − end) (1 + cos πt) / 2
        exponential  start · (end / start)^t
        step         start · factor^n, n the number of milestones up to e, or e // every

    With `per: step` the value changes at every step, not at every epoch: the same curve, in which the E · S steps of
    the stage stand for the E epochs.

    With `ramp` R, the value of the curve is multiplied by (e + 1) / R in the first R epochs, the curve running over all
    of them (P-DARTS, PC-DARTS and DOTS on ImageNet).

    A warm-up of W epochs comes before: at epoch e < W the value is start · (s + (1 − s) e / W), s = `warmup_start`;
    then the curve runs over the E − W epochs that are left (Goyal et al. 2017, §2.2). Milestones and `every` count from
    the first epoch, warm-up included.
    """

    shape: Literal["constant", "linear", "cosine", "exponential", "step"] = "constant"
    start: float
    end: float | None = None
    span: tuple[NonNegative, NonNegative, Positive] = (0.0, 1.0, 1.0)
    closed: bool = False
    milestones: tuple[Annotated[int, Field(ge=1)], ...] = ()
    every: Annotated[int, Field(ge=1)] | None = None
    factor: Annotated[float, Field(gt=0, le=1)] = 0.1
    warmup: Annotated[int, Field(ge=0)] = 0
    warmup_start: Annotated[float, Field(ge=0, le=1)] = 0.01
    ramp: Annotated[int, Field(ge=0)] = 0
    per: Literal["epoch", "step"] = "epoch"

    @model_validator(mode="after")
    def _needs_end(self) -> "Curve":
        has_end = self.shape in ("linear", "cosine", "exponential")
        if has_end and self.end is None:
            raise ValueError(f"a curve of shape {self.shape!r} needs an end")
        if not has_end and self.end is not None:
            raise ValueError("a curve with an end needs a shape: linear, cosine or exponential")
        if self.shape == "exponential" and not (self.start > 0 and (self.end or 0) > 0):
            raise ValueError("an exponential curve needs start > 0 and end > 0")
        if not self.span[0] <= self.span[1] <= self.span[2]:
            raise ValueError(f"span = (from, to, of) must have from <= to <= of, but got {self.span}")
        return self

    @model_validator(mode="after")
    def _needs_steps(self) -> "Curve":
        if self.shape != "step" and (self.milestones or self.every is not None):
            raise ValueError(f"milestones and every are of shape 'step', but got shape {self.shape!r}; set shape=step")
        if self.shape == "step" and bool(self.milestones) == (self.every is not None):
            raise ValueError("a curve of shape 'step' needs milestones (epochs) or every (n epochs), one of the two")
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones rise from epoch to epoch, but got {list(self.milestones)}; sort them")
        return self

    @model_validator(mode="after")
    def _one_beginning(self) -> "Curve":
        if self.ramp and self.warmup:
            raise ValueError(
                f"a curve begins with a warm-up or with a ramp, but got warmup={self.warmup} and ramp={self.ramp}; "
                f"leave one of them out"
            )
        return self

    def value(self, epoch: int, epochs: int) -> float:
        """The value at 0-based `epoch` of a stage of `epochs` epochs."""
        return self._value(epoch, epochs) * (min((epoch + 1) / self.ramp, 1.0) if self.ramp else 1.0)

    def _value(self, epoch: int, epochs: int) -> float:
        if epoch < self.warmup:
            return self.start * (self.warmup_start + (1 - self.warmup_start) * epoch / self.warmup)
        if self.shape == "step":
            return self.start * self.factor ** self._drops(epoch)
        if self.shape == "constant" or self.end is None:
            return self.start
        epoch, epochs = epoch - self.warmup, epochs - self.warmup
        first, last, of = self.span
        steps = max(epochs - 1, 1) if self.closed else max(epochs, 1)
        t = min((first + (last - first) * epoch / steps) / of, 1.0)
        if self.shape == "linear":
            return self.start + (self.end - self.start) * t
        if self.shape == "cosine":
            return self.end + (self.start - self.end) * (1 + math.cos(math.pi * t)) / 2
        return self.start * (self.end / self.start) ** t

    def at(self, epoch: int, epochs: int, step: int, steps: int) -> float:
        """The value at 0-based `step` of the `steps` of an epoch: that of the epoch, unless it changes `per` step."""
        if self.per == "epoch":
            return self.value(epoch, epochs)
        return self.scaled(steps).value(epoch * steps + step, epochs * steps)

    def _drops(self, epoch: int) -> int:
        """Return how often a curve of shape `step` has fallen by 0-based `epoch`."""
        return epoch // self.every if self.every is not None else sum(epoch >= at for at in self.milestones)

    def scaled(self, share: float) -> "Curve":
        """Return the curve for a stage of `share` of the epochs: warm-up and steps come earlier in proportion."""
        milestones = tuple(sorted({max(1, round(at * share)) for at in self.milestones}))
        every = None if self.every is None else max(1, round(self.every * share))
        lengths = {"warmup": round(self.warmup * share), "ramp": round(self.ramp * share)}
        return self.model_copy(update={"milestones": milestones, "every": every, **lengths})

    @property
    def largest(self) -> float:
        """The largest value at any epoch."""
        return max(self.start, self.end or 0.0)


def _constant(value: Any) -> Any:
    return {"start": value} if isinstance(value, int | float) and not isinstance(value, bool) else value


def _between(zero: bool, most: float = math.inf) -> AfterValidator:
    """A validator for curves whose ends are at least 0, or above it, and at most `most`."""
    rule = ("at least 0" if zero else "above 0") + (f" and at most {most:g}" if most < math.inf else "")

    def check(curve: Curve) -> Curve:
        for end in (curve.start, curve.end):
            if end is not None and (not 0 <= end <= most or (end == 0 and not zero)):
                raise ValueError(f"must be {rule}, but got {end:g}")
        if curve.warmup and curve.warmup_start == 0 and not zero:
            raise ValueError(f"must be {rule}, but got 0 at the first epoch; raise warmup_start")
        return curve

    return AfterValidator(check)


CurveOrNumber = Annotated[Curve, BeforeValidator(_constant)]


def _per_epoch(curve: Curve) -> Curve:
    if curve.per == "step":
        raise ValueError("changes per epoch, but got per='step'; leave per out")
    return curve


#: Learning rates are float32 numbers.
LearningRate = Annotated[CurveOrNumber, _between(zero=True, most=1e38)]


Temperature = Annotated[CurveOrNumber, _between(zero=False)]


#: Those of mechanisms, which are set once an epoch.
NonNegativeCurve = Annotated[CurveOrNumber, _between(zero=True), AfterValidator(_per_epoch)]


Probability = Annotated[CurveOrNumber, _between(zero=True, most=1.0), AfterValidator(_per_epoch)]


class Choice(BaseModel):
    """A named piece with its own options; a plain string is a name without options."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str


def name_only(value: Any) -> Any:
    """`"softmax"` → `{"name": "softmax"}`."""
    return {"name": value} if isinstance(value, str) else value


def one_of(kind: str) -> AfterValidator:
    """A validator for the name of a registered piece, or for a `Choice` of one; the nearest name is suggested."""

    def check(value: Any) -> Any:
        name, table = value.name if isinstance(value, Choice) else value, known(kind)
        if name not in table:
            own = ", or one of your own with --import FILE" if isinstance(table, Registry) else ""
            raise ValueError(f"unknown {kind} {name!r}{nearest(name, table)}; known: {', '.join(sorted(table))}{own}")
        return value

    return AfterValidator(check)


def _named_colour(value: Any) -> str | Colour:
    """A colour as it is written."""
    red, green, blue = rgb(value)
    return value if isinstance(value, str) else (red, green, blue)


#: A name, `"#rrggbb"` or [red, green, blue].
AnyColour = Annotated[str | Colour, BeforeValidator(_named_colour)]


def _pixels_or_not(value: Any) -> bool | int | None:
    if value is None or isinstance(value, bool) or (isinstance(value, int) and value >= 0):
        return value
    raise ValueError(f"crop is true, false or a number of pixels from 0, but got {repr(value)[:60]}")


#: Whether images are cropped at random, or by how many pixels.
Crop = Annotated[bool | int | None, BeforeValidator(_pixels_or_not)]


#: What is done about a step that is not finite. `stop`: the run ends with an error, and with its last state. `skip`:
#: the batch leaves no trace. `rollback`: weights, architecture and optimizers go back to the start of the epoch, which
#: resumes behind the batch, so that what led to the fault is skipped too (as for PaLM, Chowdhery et al. 2022, §5.1).
OnNan = Literal["stop", "skip", "rollback"]


def _off(value: Any) -> Any:
    """The word `off`, which is false to YAML unless it is quoted."""
    return "off" if value is False else value


#: Whether steps are recorded as graphs where they can be, see `topocell.runtime.capture`.
Capture = Annotated[Literal["auto", "off"], BeforeValidator(_off)]

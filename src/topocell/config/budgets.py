"""Budgets: a recipe as published, scaled to minutes, or scaled to seconds. They change sizes, never the method.

A recipe may refine a budget under its own key `budgets`, which is merged after the general rule; the user's
overrides come last.
"""

import copy
import math
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any

from topocell import spaces

Data = dict[str, Any]


@dataclass(frozen=True)
class Limits:
    """Upper bounds of a budget; epochs of all stages together are scaled down to `epochs` in proportion."""

    epochs: int
    channels: int
    layers: int
    batch_size: int
    images: int
    test_images: int
    resolution: int
    watch_batches: int
    retrain_epochs: int
    retrain_channels: int
    retrain_layers: int
    seeds: int
    test_every: int
    arch_lr_factor: float
    tune_epochs: int
    select_batches: int


SMALL = Limits(
    epochs=30,
    channels=8,
    layers=5,
    batch_size=64,
    images=3000,
    test_images=2000,
    resolution=16,
    watch_batches=8,
    retrain_epochs=32,
    retrain_channels=16,
    retrain_layers=5,
    seeds=3,
    test_every=4,
    arch_lr_factor=10.0,
    tune_epochs=1,
    select_batches=8,
)
SMOKE = Limits(
    epochs=2,
    channels=4,
    layers=3,
    batch_size=16,
    images=96,
    test_images=60,
    resolution=16,
    watch_batches=1,
    retrain_epochs=1,
    retrain_channels=4,
    retrain_layers=3,
    seeds=1,
    test_every=1,
    arch_lr_factor=1.0,
    tune_epochs=1,
    select_batches=1,
)

#: `layers` of skeleton nasbench201 counts its two residual blocks: 5 is one cell a stage.
NASBENCH201_LAYERS = 5


def paper(data: Data, overridden: Set[str]) -> Data:
    """The recipe as published."""
    return data


def small(data: Data, overridden: Set[str]) -> Data:
    """Minutes on two CPU cores: fewer and smaller images, a smaller network, fewer epochs, three seeds.

    The learning rates of α and β are multiplied by ten, since they have far fewer steps to move in.
    """
    return _scale(data, SMALL)


#: Datasets that are read from files, which may be large, or not there.
FROM_FILES = ("cifar10", "cifar100", "svhn", "imagenet", "folder")


def smoke(data: Data, overridden: Set[str]) -> Data:
    """Seconds, to see that every step works. Not a result.

    On `digits` in place of a dataset that is read from files, unless `data.dataset` or `data.root` is set.
    """
    data = _scale(data, SMOKE)
    images = _section(data, "data")
    named = any(key == "data" or key.startswith(("data.dataset", "data.root")) for key in overridden)
    if not named and images.get("dataset", "cifar10") in FROM_FILES:
        for key in ("root", "download", "resolution"):
            images.pop(key, None)
        images["dataset"] = "digits"
    return data


BUDGETS: dict[str, Callable[[Data, Set[str]], Data]] = {"paper": paper, "small": small, "smoke": smoke}


def _scale(data: Data, limits: Limits) -> Data:
    data = copy.deepcopy(data)
    layers = NASBENCH201_LAYERS if _skeleton(data.get("space")) == "nasbench201" else limits.layers
    images = _section(data, "data")
    _cap(images, "images", limits.images, None)
    _cap(images, "test_images", limits.test_images, None)
    if images.get("dataset", "cifar10") in FROM_FILES:
        _cap(images, "resolution", limits.resolution, None)
    search = _section(data, "search")
    named = search.get("stages")
    stages = [s for s in named.values() if isinstance(s, dict)] if isinstance(named, dict) else []
    partial = [part.get("partial") for part in (search, *stages)]
    unit = 2 * math.lcm(*(k for k in partial if isinstance(k, int) and k > 0))  # channels are a multiple of it
    channels = -(-limits.channels // unit) * unit
    _cap(search, "channels", channels, 16)
    _cap(search, "layers", layers, 8)
    _cap(search, "batch_size", limits.batch_size, 64)
    _cap(search, "watch_batches", limits.watch_batches, 16)
    total = sum(s["epochs"] for s in stages if isinstance(s.get("epochs"), int))
    for stage in stages:
        factor = min(1.0, limits.epochs / max(total, 1))
        _scale_epochs(stage, factor)
        if isinstance(stage.get("progressive"), dict):
            _scale_decisions(stage["progressive"], factor)
            if stage["progressive"].get("decide_by") == "perturbation":
                _cap(stage["progressive"], "batches", limits.select_batches, None)
        if isinstance(stage.get("stop"), dict):
            _scale_stop(stage["stop"], factor)
        if stage.get("layers") is not None:
            _cap(stage, "layers", layers, None)
        if stage.get("channels") is not None:
            _cap(stage, "channels", channels, None)
        for group in ("alpha", "beta"):
            optimizer = _section(stage, group)
            optimizer["lr"] = _times(optimizer.get("lr", 3e-4), limits.arch_lr_factor)
    _scale_projection(_section(_section(data, "selection"), "projection"), limits)
    retrain = _section(data, "retrain")
    if "parameters" in retrain:
        del retrain["parameters"]
    depth, cutout = max(limits.retrain_layers, layers), limits.resolution // 4
    _scale_training(retrain, limits, (limits.retrain_channels, 36), (depth, 20), (limits.retrain_epochs, 600), 96)
    _cap(retrain, "cutout", cutout, 16)
    shallow, epochs = _section(data, "shallow"), max(1, limits.retrain_epochs // 2)
    _scale_training(shallow, limits, (limits.channels, 16), (depth, 5), (epochs, 100), 64)
    _cap(shallow, "cutout", cutout, 0)
    shallow["threshold"] = 0.0  # no accuracy is known beforehand at such a scale
    return data


def _skeleton(space: Any) -> str | None:
    """How the space of a recipe stacks its cells; None where it cannot be built, which the check of the recipe says."""
    options = dict(space) if isinstance(space, dict) else {"name": space}
    try:
        return spaces.get(options.pop("name"), **options).skeleton
    except Exception:  # whatever a user's own function raises
        return None


def _scale_training(
    plan: Data, limits: Limits, channels: tuple[int, int], layers: tuple[int, int], epochs: tuple[int, int], batch: int
) -> None:
    """Scale a retraining; pairs are a limit and the default of the schema, `batch` is the default batch size."""
    _cap(plan, "channels", *channels)
    _cap(plan, "layers", *layers)
    _cap(plan, "epochs", *epochs)
    _cap(plan, "batch_size", limits.batch_size, batch)
    plan["test_every"] = limits.test_every
    seeds = plan.get("seeds")
    plan["seeds"] = seeds[: limits.seeds] if isinstance(seeds, list) else list(range(limits.seeds))


def _section(data: Data, key: str) -> Data:
    """The mapping at `key`, made if it is missing; anything else is left for the schema to refuse."""
    value = data.get(key)
    if value is None:
        value = data[key] = {}
    return value if isinstance(value, dict) else {}


def _cap(section: Data, key: str, limit: int, default: int | None) -> None:
    value = section.get(key, default)
    if value is None:
        section[key] = limit
    elif isinstance(value, int):
        section[key] = min(value, limit)


def _times(rate: Any, factor: float) -> Any:
    """A learning rate times a factor; of a curve, both ends."""
    if isinstance(rate, dict):
        return {key: _times(value, factor) if key in ("start", "end") else value for key, value in rate.items()}
    return rate * factor if isinstance(rate, int | float) else rate


def _scale_epochs(stage: Data, factor: float) -> None:
    epochs, warmup = stage.get("epochs"), stage.get("warmup", 0)
    if not isinstance(epochs, int) or not isinstance(warmup, int) or epochs <= 0:
        return
    learning = max(1, round((epochs - warmup) * factor)) if epochs > warmup else 0
    warming = max(1, round(warmup * factor)) if warmup > 0 else 0
    stage["epochs"] = learning + warming
    if warmup:
        stage["warmup"] = warming


def _scale_decisions(progressive: Data, factor: float) -> None:
    """Move the epochs of decisions forward in proportion; what then finds no epoch is decided after the last one."""
    first, every = progressive.get("first", 9), progressive.get("every", 5)
    if isinstance(first, int) and isinstance(every, int):
        progressive |= {"first": round(first * factor), "every": max(1, int(every * factor))}


def _scale_stop(stop: Data, factor: float) -> None:
    """Let a stage end ahead of time in proportion."""
    for key, least in (("stable", 1), ("first", 0)):
        if isinstance(stop.get(key), int):
            stop[key] = max(least, round(stop[key] * factor))


def _scale_projection(projection: Data, limits: Limits) -> None:
    """Tune less between decisions, and measure on fewer batches."""
    tune, epochs = projection.get("tune_epochs", 5), projection.get("epochs")
    _cap(projection, "tune_epochs", limits.tune_epochs, 5)
    _cap(projection, "batches", limits.select_batches, None)
    if isinstance(epochs, int) and isinstance(tune, int) and tune > limits.tune_epochs:
        projection["epochs"] = max(1, epochs * limits.tune_epochs // tune)

"""Budgets: a recipe as published, scaled to minutes, or scaled to seconds. They change sizes, never the method.

They take a checked recipe, and return one that is to be checked again. A recipe may refine a budget under its own key
`budgets`, which is merged after the general rule; the user's overrides come last.
"""

import math
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import Any, TypeVar

from topocell import spaces
from topocell.config.data import DataPlan
from topocell.config.mechanisms import EarlyStop, Progressive
from topocell.config.recipe import Recipe
from topocell.config.retrain import RetrainPlan
from topocell.config.search import ArchOptimizer, SearchPlan, Stage
from topocell.config.selection import PERTURBATION, ProjectionPlan
from topocell.config.trials import TrialsPlan
from topocell.config.values import Choice, Model
from topocell.spaces.skeletons import stacking

AnyModel = TypeVar("AnyModel", bound=Model)


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
    evaluation_batches: int
    retrain_epochs: int
    retrain_channels: int
    retrain_layers: int
    seeds: int
    test_every: int
    arch_lr_factor: float
    tune_epochs: int
    select_batches: int
    trials: int
    trial_epochs: int


SMALL = Limits(
    epochs=30,
    channels=8,
    layers=5,
    batch_size=64,
    images=3000,
    test_images=2000,
    resolution=16,
    evaluation_batches=8,
    retrain_epochs=32,
    retrain_channels=16,
    retrain_layers=5,
    seeds=3,
    test_every=4,
    arch_lr_factor=10.0,
    tune_epochs=1,
    select_batches=8,
    trials=8,
    trial_epochs=8,
)
SMOKE = Limits(
    epochs=2,
    channels=4,
    layers=3,
    batch_size=16,
    images=96,
    test_images=60,
    resolution=16,
    evaluation_batches=1,
    retrain_epochs=1,
    retrain_channels=4,
    retrain_layers=3,
    seeds=1,
    test_every=1,
    arch_lr_factor=1.0,
    tune_epochs=1,
    select_batches=1,
    trials=2,
    trial_epochs=1,
)


def paper(recipe: Recipe, overridden: Set[str]) -> Recipe:
    """The recipe as published."""
    return recipe


def small(recipe: Recipe, overridden: Set[str]) -> Recipe:
    """Minutes on two CPU cores: fewer and smaller images, a smaller network, fewer epochs, three seeds.

    The learning rates of α and β are multiplied by ten, since they have far fewer steps to move in.
    """
    return _scaled(recipe, SMALL)


#: Datasets that are read from files, which may be large, or not there.
FROM_FILES = (
    *("cifar10", "cifar100", "svhn", "imagenet", "imagenet16-120", "folder"),
    *("imagenet16", "imagenet32", "imagenet64"),
)


def smoke(recipe: Recipe, overridden: Set[str]) -> Recipe:
    """Seconds, to see that every step works. Not a result.

    On `digits` in place of a dataset that is read from files, unless `data.dataset` or `data.root` is set.
    """
    recipe = _scaled(recipe, SMOKE)
    named = any(key == "data" or key.startswith(("data.dataset", "data.root")) for key in overridden)
    if named or recipe.data.dataset not in FROM_FILES:
        return recipe
    small = {"root": None, "download": False, "resolution": None, "store": "auto", "cache": None, "cache_root": None}
    return _with(recipe, data=_with(recipe.data, dataset="digits", **small))


#: Budget → what it makes of a recipe, given the keys that the user overrides.
BUDGETS: dict[str, Callable[[Recipe, Set[str]], Recipe]] = {"paper": paper, "small": small, "smoke": smoke}


def _with(model: AnyModel, **changes: Any) -> AnyModel:
    return model.model_copy(update=changes)


def _least(value: int | None, limit: int) -> int:
    return limit if value is None else min(value, limit)


def _scaled(recipe: Recipe, limits: Limits) -> Recipe:
    layers = _layers(recipe.space) or limits.layers
    depth, cutout = max(limits.retrain_layers, layers), limits.resolution // 4
    retrain = _scaled_training(recipe.retrain, limits, limits.retrain_channels, depth, limits.retrain_epochs)
    shallow = _scaled_training(recipe.shallow, limits, limits.channels, depth, max(1, limits.retrain_epochs // 2))
    selection, projection = recipe.selection, _scaled_projection(recipe.selection.projection, limits)
    return _with(
        recipe,
        data=_scaled_data(recipe.data, limits),
        search=_scaled_search(recipe.search, limits, layers),
        selection=_with(
            selection,
            projection=projection,
            after_epoch=_scaled_epoch(recipe, limits),
            trials=_scaled_trials(selection.trials, limits),
        ),
        retrain=_with(retrain, parameters=None, cutout=_least(retrain.cutout, cutout)),
        # no accuracy is known beforehand at such a scale
        shallow=_with(shallow, cutout=_least(shallow.cutout, cutout), threshold=0.0),
    )


def _scaled_data(data: DataPlan, limits: Limits) -> DataPlan:
    resolution = _least(data.resolution, limits.resolution) if data.dataset in FROM_FILES else data.resolution
    images, test_images = _least(data.images, limits.images), _least(data.test_images, limits.test_images)
    crop = data.crop if isinstance(data.crop, bool | None) else _least(data.crop, limits.resolution // 8)
    return _with(data, images=images, test_images=test_images, resolution=resolution, crop=crop)


def _scaled_search(search: SearchPlan, limits: Limits, layers: int) -> SearchPlan:
    partial = [search.partial, *(stage.partial for stage in search.stages if stage.partial is not None)]
    unit = 2 * math.lcm(*partial)  # channels are a multiple of it
    channels = -(-limits.channels // unit) * unit
    factor = _factor(search, limits)
    return _with(
        search,
        channels=_least(search.channels, channels),
        layers=_least(search.layers, layers),
        batch_size=_least(search.batch_size, limits.batch_size),
        micro_batch=_scaled_micro(search.micro_batch, [search.batch(stage) for stage in search.stages], limits),
        evaluation_batches=_least(search.evaluation_batches, limits.evaluation_batches),
        stages=tuple(_scaled_stage(stage, limits, factor, channels, layers) for stage in search.stages),
    )


def _scaled_stage(stage: Stage, limits: Limits, factor: float, channels: int, layers: int) -> Stage:
    epochs, warmup = _scaled_epochs(stage, factor)
    share = epochs / max(stage.epochs, 1)
    scaled: dict[str, Model] = {}
    if (progressive := stage.mechanisms.progressive) is not None:
        scaled["progressive"] = _scaled_decisions(progressive, limits, factor)
    if (cutout := stage.mechanisms.cutout) is not None:
        scaled["cutout"] = _with(cutout, size=min(cutout.size, limits.resolution // 4))
    if (early_stop := stage.mechanisms.early_stop) is not None:
        scaled["early_stop"] = _scaled_stop(early_stop, factor)
    return _with(
        stage,
        epochs=epochs,
        warmup=warmup,
        layers=None if stage.layers is None else _least(stage.layers, layers),
        channels=None if stage.channels is None else _least(stage.channels, channels),
        batch_size=None if stage.batch_size is None else _least(stage.batch_size, limits.batch_size),
        weights=_with(stage.weights, lr=stage.weights.lr.scaled(share)),
        alpha=_faster(stage.alpha, limits.arch_lr_factor, share),
        beta=_faster(stage.beta, limits.arch_lr_factor, share),
        op_temperature=stage.op_temperature.scaled(share),
        edge_temperature=stage.edge_temperature.scaled(share),
        mechanisms=_with(stage.mechanisms, **scaled),
    )


def _scaled_epochs(stage: Stage, factor: float) -> tuple[int, int]:
    """Epochs and warm-up; what is not none before is not none after."""
    learning, warming = stage.epochs - stage.warmup, stage.warmup
    learning = max(1, round(learning * factor)) if learning else 0
    warming = max(1, round(warming * factor)) if warming else 0
    return learning + warming, warming


def _scaled_epoch(recipe: Recipe, limits: Limits) -> int | None:
    """The epoch that the cell is derived from, at the same share of the same stage."""
    left, before, factor = recipe.selection.after_epoch, 0, _factor(recipe.search, limits)
    for stage in recipe.search.stages:
        epochs, _ = _scaled_epochs(stage, factor)
        if left is not None and left <= stage.epochs:
            return before + max(1, round(left * epochs / stage.epochs))
        left, before = None if left is None else left - stage.epochs, before + epochs
    return None if left is None else before + left  # beyond the search, which the check says


def _factor(search: SearchPlan, limits: Limits) -> float:
    return min(1.0, limits.epochs / max(sum(stage.epochs for stage in search.stages), 1))


def _scaled_micro(size: int | None, batches: Sequence[int], limits: Limits) -> int | None:
    """Half of a batch, where batches were in parts before; it divides all of them still."""
    common = math.gcd(*(min(batch, limits.batch_size) for batch in batches))
    return None if size is None or common % 2 or common < 4 else common // 2


def _faster(optimizer: ArchOptimizer, factor: float, share: float) -> ArchOptimizer:
    end = None if optimizer.lr.end is None else optimizer.lr.end * factor
    return _with(optimizer, lr=_with(optimizer.lr.scaled(share), start=optimizer.lr.start * factor, end=end))


def _scaled_decisions(plan: Progressive, limits: Limits, factor: float) -> Progressive:
    """Move the epochs of decisions forward in proportion; what then finds no epoch is decided after the last one."""
    batches = _least(plan.batches, limits.select_batches) if plan.decide_by == PERTURBATION else plan.batches
    return _with(plan, first=round(plan.first * factor), every=max(1, int(plan.every * factor)), batches=batches)


def _scaled_stop(plan: EarlyStop, factor: float) -> EarlyStop:
    """Let a stage end ahead of time in proportion."""
    stable = None if plan.stable is None else max(1, round(plan.stable * factor))
    return _with(plan, stable=stable, first=round(plan.first * factor))


def _scaled_projection(plan: ProjectionPlan, limits: Limits) -> ProjectionPlan:
    """Tune less between decisions, and measure on fewer batches."""
    epochs = plan.epochs
    if epochs is not None and plan.tune_epochs > limits.tune_epochs:
        epochs = max(1, epochs * limits.tune_epochs // plan.tune_epochs)
    batches = _least(plan.batches, limits.select_batches)
    return _with(plan, tune_epochs=_least(plan.tune_epochs, limits.tune_epochs), epochs=epochs, batches=batches)


def _scaled_trials(plan: TrialsPlan | None, limits: Limits) -> TrialsPlan | None:
    """Train fewer cells, and shorter; what costs next to nothing for each cell stays as it is, but for sizes."""
    if plan is None:
        return None
    caps = {"epochs": limits.trial_epochs, "batches": limits.select_batches, "channels": limits.channels}
    caps |= {"layers": limits.layers, "batch_size": limits.batch_size}
    own = dict(plan.evaluator)
    scaled = {key: _least(own[key], cap) for key, cap in caps.items() if own.get(key) is not None}
    number = plan.number
    if plan.evaluate.name == "training" and number is not None:
        number = min(number, limits.trials)
    extra = {**(plan.evaluate.model_extra or {}), **scaled}
    return _with(plan, number=number, evaluate=Choice(name=plan.evaluate.name, **extra))


def _scaled_training(plan: RetrainPlan, limits: Limits, channels: int, layers: int, epochs: int) -> Any:
    given = "seeds" in plan.model_fields_set
    share = min(plan.epochs, epochs) / plan.epochs
    stop = plan.early_stop
    return _with(
        plan,
        weights=_with(plan.weights, lr=plan.weights.lr.scaled(share)),
        early_stop=None if stop is None else _with(stop, patience=max(1, round(stop.patience * share))),
        channels=_least(plan.channels, channels),
        layers=_least(plan.layers, layers),
        epochs=_least(plan.epochs, epochs),
        batch_size=_least(plan.batch_size, limits.batch_size),
        micro_batch=_scaled_micro(plan.micro_batch, [plan.batch_size], limits),
        test_every=limits.test_every,
        seeds=plan.seeds[: limits.seeds] if given else tuple(range(limits.seeds)),
    )


def _layers(space: Choice) -> int | None:
    """Return the least number of layers of the skeleton of a space, if it has one.

    None too where the space cannot be built, which the check of the recipe says.
    """
    try:
        return stacking(spaces.get(space.name, **(space.model_extra or {})).skeleton).small_layers
    except Exception:  # whatever a user's own function raises
        return None

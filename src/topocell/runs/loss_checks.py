"""Whether the losses of a user's own, which a recipe names, do with the classes of its images what it asks of them."""

import torch

from topocell import testing
from topocell.config.recipe import Recipe
from topocell.config.values import Choice
from topocell.errors import RecipeError
from topocell.networks.options import mixing, training_loss, weights_of_shares
from topocell.registry import is_foreign
from topocell.runtime.losses import LOSSES, Loss, build_loss, given_to
from topocell.runtime.micro_batches import adds_up


def check_losses(recipe: Recipe, classes: int, device: torch.device) -> None:
    """Raise RecipeError for a loss of a user's own that fails its contract, or that micro batches change.

    Args:
        recipe: checked.
        classes: of its images.
        device: where they are computed.
    """
    search = recipe.search
    if _is_own(search.loss):
        testing.check_loss(search.loss.name, classes, False, device, **(search.loss.model_extra or {}))
        if search.micro_batch is not None:
            _check_sum("search", search.loss.name, adds_up(build_loss(search.loss), classes))
    for key, plan in recipe.named_trainings.items():
        if not _is_own(plan.loss):
            continue
        weight = None if plan.class_weights == "none" else torch.arange(1.0, classes + 1)
        mixed = mixing(plan) is not None
        given = given_to(plan.label_smoothing, None if weight is None else weight.to(device))
        testing.check_loss(plan.loss.name, classes, mixed, device, **(plan.loss.model_extra or {}), **given)
        if plan.micro_batch is not None:
            loss: Loss = training_loss(plan, weight)
            _check_sum(key, plan.loss.name, adds_up(loss, classes, weights_of_shares(plan, weight), mixed))


def _is_own(loss: Choice) -> bool:
    return is_foreign(LOSSES[loss.name])


def _check_sum(key: str, name: str, holds: bool) -> None:
    if not holds:
        raise RecipeError(
            f"{key}.micro_batch needs a loss that is the mean over the images of a batch, or is divided by the weights "
            f"of class_weights, but loss {name!r} is neither; return such a mean, or set {key}.micro_batch=null"
        )

"""Losses of a training by name: cross entropy, and a user's own."""

import copy
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from topocell.config.values import Choice
from topocell.errors import RecipeError
from topocell.registry import Registry, check_options, place_in_plugins

#: (logits (N, K), target) → mean loss (0-dim); the target is labels (N,) int64, or probabilities (N, K) where images
#: are mixed.
Loss = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(
    logits: Tensor, target: Tensor, *, weight: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Mean cross entropy (0-dim), as `torch.nn.functional.cross_entropy`.

    With labels and weights it is the weighted mean, divided by the weights of the batch; with probabilities the sum
    is divided by N.

    Args:
        logits: (N, K).
        target: (N,) int64, or probabilities (N, K).
        weight: (K,) of each class; default 1.
        label_smoothing: share of the target that is spread over all classes (Szegedy et al. 2016, §7).
    """
    return F.cross_entropy(logits, target, weight=weight, label_smoothing=label_smoothing)


#: Name → function of logits, target and, by keyword, options; or a class of modules, made with the options and called.
#: One with the argument `weight` ((K,) or None) can be weighted by class, one with `label_smoothing` be smoothed.
LOSSES = Registry[Callable[..., Tensor]]("loss", {"cross_entropy": cross_entropy})

#: Argument of a loss → key of a training that sets it.
_GIVEN = {"weight": "class_weights", "label_smoothing": "label_smoothing"}
#: Values of these keys that set nothing.
_OFF = {"class_weights": "none", "label_smoothing": "0"}


def build_loss(
    choice: Choice,
    *,
    label_smoothing: float = 0.0,
    weight: Tensor | None = None,
    device: torch.device | str = "cpu",
    of: str = "retrain",
) -> Loss:
    """Return the loss that a recipe names, with its options.

    Args:
        choice: name and options.
        label_smoothing: passed on where it is not 0.
        weight: (K,) of each class, passed on where it is given.
        device: where it is computed.
        of: part of the recipe that has the loss, for messages: a training, or `search`, which weighs and smooths none.

    Raises:
        RecipeError: a loss that takes no weights or no smoothing; else as `with_options`.
    """
    options = dict(choice.model_extra or {})
    piece = LOSSES[choice.name]
    takes = inspect.signature(_arguments(piece)[0]).parameters
    given = given_to(label_smoothing, weight)
    for name, key in _GIVEN.items():
        own = f"{of}.{key}"
        if name in options:
            way = f"a search has no {key}: leave it out" if of == "search" else f"set {own}"
            raise RecipeError(f"options of a loss do not hold {name!r}; {way}")
        if name in given and name not in takes:
            raise RecipeError(
                f"{key} needs a loss with an argument {name!r}, but {choice.name!r} has none; set {own}={_OFF[key]}"
            )
        if name in takes and name not in given and takes[name].default is inspect.Parameter.empty:
            giver, way = ("a search", "") if of == "search" else (own, f", or set {own}")
            raise RecipeError(
                f"loss {choice.name!r} always needs {name!r}, but {giver} gives none; give {name!r} a default{way}"
            )
    return with_options(choice.name, piece, options | given, device)


def with_options(name: str, piece: Callable[..., Any], options: Mapping[str, Any], device: torch.device | str) -> Loss:
    """Return a loss with its options. A module is copied, or made where it is a class, and put on the device.

    Args:
        name: for messages.
        piece: a row of `LOSSES`.
        options: its arguments besides logits and target.
        device: where it is computed.

    Raises:
        RecipeError: an option that is unknown, missing or of another type; a module that cannot be made or copied, or
            with parameters to learn, of which neither the optimizer of a training nor its checkpoints know.
    """
    holder, given = _arguments(piece)
    check_options("loss", name, holder, given, options)
    whole = piece.func if isinstance(piece, partial) else piece
    if given and not isinstance(whole, nn.Module):
        return partial(piece, **options)
    try:
        made: nn.Module = copy.deepcopy(whole) if given else piece(**options)  # type: ignore[assignment]
        module = made.to(device)
    except Exception as fault:  # whatever the user's code raises
        words = f"{type(fault).__name__}: {' '.join(str(fault).split())[:300]}{place_in_plugins(fault)}"
        raise RecipeError(f"loss {name!r} is a module that cannot be made: {words}; change it") from fault
    learned = [key for key, parameter in module.named_parameters() if parameter.requires_grad]
    if learned:
        raise RecipeError(
            f"a loss has nothing to learn, as no optimizer moves it, but {name!r} has the parameter {learned[0]!r}; "
            f"make it a buffer (register_buffer), or set requires_grad=False"
        )
    if not given:
        return module
    return partial(module, *getattr(piece, "args", ()), **getattr(piece, "keywords", {}) | dict(options))


def _arguments(piece: Callable[..., Any]) -> tuple[Callable[..., Any], int]:
    """What has the arguments of a loss, and how many of them are no options: logits and target, none of a class."""
    whole = piece.func if isinstance(piece, partial) else piece
    if isinstance(whole, type) and issubclass(whole, nn.Module):
        return piece, 0
    return (piece.forward if isinstance(piece, nn.Module) else piece), 2


def given_to(label_smoothing: float = 0.0, weight: Tensor | None = None) -> dict[str, Any]:
    """Return what a loss is given besides its options; arguments as for `build_loss`."""
    smoothing = {"label_smoothing": label_smoothing} if label_smoothing else {}
    return smoothing if weight is None else {**smoothing, "weight": weight}


def check_loss_options(choice: Choice, key: str, *, label_smoothing: float = 0.0, weight: Tensor | None = None) -> None:
    """Raise RecipeError for a loss that `build_loss` refuses.

    Args:
        choice: name and options.
        key: of the loss in the recipe, for the message.
        label_smoothing, weight: as for `build_loss`.
    """
    try:
        build_loss(choice, label_smoothing=label_smoothing, weight=weight, of=key.removesuffix(".loss"))
    except RecipeError as fault:
        raise RecipeError(f"{key}: {fault}") from fault


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """Weights (K,) float32 of K classes, inversely proportional to their frequency; their mean over the images is 1.

    A class c with n_c of N images has N / (K' n_c), with K' classes that have images; one without has 0.

    Args:
        labels: (N,) int64.
        classes: K.
    """
    counts = labels.bincount(minlength=classes).double()
    present = int((counts > 0).sum())
    return torch.where(counts > 0, len(labels) / (present * counts.clamp(min=1)), 0.0).float()

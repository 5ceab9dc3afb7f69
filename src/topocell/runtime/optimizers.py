"""Optimizers of network weights by name: those of torch.optim, and a user's own."""

import inspect
import reprlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn, optim
from torch.optim import Optimizer

from topocell.config.search import WeightOptimizer
from topocell.errors import RecipeError, nearest
from topocell.registry import Registry, place_in_plugins

#: The optimizers of torch that update all weights from one dense gradient.
OPTIMIZERS = Registry[type[Optimizer]](
    "optimizer",
    {
        kind.__name__.lower(): kind
        for kind in (
            *(optim.SGD, optim.AdamW, optim.Adam, optim.Adamax, optim.NAdam, optim.RAdam, optim.RMSprop),
            *(optim.Adagrad, optim.Adadelta, optim.Adafactor, optim.ASGD, optim.Rprop),
        )
    },
    base=Optimizer,
)

#: Optimizers and devices for which torch updates all weights in one pass over memory.
FUSED = (optim.SGD, optim.Adam, optim.AdamW)
FUSED_DEVICES = ("cpu", "cuda")

#: Arguments that are not options of a recipe: what it says elsewhere, and how an update is computed.
_RESERVED = ("params", "lr", "weight_decay", "maximize", "foreach", "fused", "capturable", "differentiable")
_OF_SGD = ("momentum", "nesterov")


def build_optimizer(
    parameters: Iterable[nn.Parameter], plan: WeightOptimizer, lr: float, fused: bool = False
) -> Optimizer:
    """Return the optimizer of these weights that a recipe names.

    Args:
        parameters: the weights.
        plan: name and options.
        lr: learning rate at the first epoch.
        fused: update all weights in one pass over memory where torch can.

    Raises:
        RecipeError: an option that is unknown, or that the optimizer refuses.
    """
    name, kind = plan.optimizer, OPTIMIZERS[plan.optimizer]
    takes = list(inspect.signature(kind).parameters)
    reserved = (*_RESERVED, *_OF_SGD) if name == "sgd" else _RESERVED
    free = [option for option in takes if option not in reserved]
    for option in plan.options:
        if option in reserved:
            raise RecipeError(f"options of an optimizer do not hold {option!r}; {_elsewhere(option)}")
        if option not in free:
            raise RecipeError(
                f"optimizer {name!r} has no option {option!r}{nearest(option, free)}; it takes: {', '.join(free)}"
            )
    given: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in plan.options.items()}
    if name == "sgd":
        given |= {"momentum": plan.momentum, "nesterov": plan.nesterov}
    if "weight_decay" in takes:
        given["weight_decay"] = plan.weight_decay
    elif plan.weight_decay:
        raise RecipeError(f"optimizer {name!r} has no weight decay, but got {plan.weight_decay:g}; set weight_decay=0")
    weights = list(parameters)
    if fused and kind in FUSED and {p.device.type for p in weights} <= set(FUSED_DEVICES):
        given["fused"] = True
    try:
        built: Optimizer = kind(weights, **{"lr": lr, **given})
    except Exception as fault:  # an option of another type or range, or whatever the user's code raises
        words = " ".join(str(fault).split())[:300]
        raise RecipeError(
            f"optimizer {name!r} does not take {reprlib.repr(given)}: {words}{place_in_plugins(fault)}; change it"
        ) from fault
    return built


def check_optimizer(plan: WeightOptimizer, key: str) -> None:
    """Build the optimizer for one weight, and take a step, so that faults show before anything starts.

    Args:
        plan: name and options.
        key: of the recipe, for the message.

    Raises:
        RecipeError: as `build_optimizer`, or a step fails.
    """
    weight = nn.Parameter(torch.zeros(2, 2, 1, 1))
    try:
        built = build_optimizer([weight], plan, plan.lr.largest)
        weight.grad = torch.ones_like(weight)
        built.step()
    except RecipeError as fault:
        raise RecipeError(f"{key}: {fault}") from fault
    except Exception as fault:  # whatever the optimizer raises
        words = f"{type(fault).__name__}: {' '.join(str(fault).split())[:300]}{place_in_plugins(fault)}"
        raise RecipeError(
            f"{key}: optimizer {plan.optimizer!r} fails in a step on one weight: {words}; change its options"
        ) from fault


def _elsewhere(option: str) -> str:
    if option in ("lr", "weight_decay", *_OF_SGD):
        return f"set {option} beside optimizer"
    return "leave it out"

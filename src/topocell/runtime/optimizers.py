"""Optimizers of network weights by name: those of torch.optim, and a user's own."""

import inspect
import reprlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn, optim
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
#: Entry of a group of parameters: its learning rate as a multiple of that of the first group.
_RATIO = "ratio_of_lr"


def can_hold(kind: type[Optimizer]) -> bool:
    """Return whether updates of an optimizer read its learning rate and their number from tensors on a device."""
    return kind in FUSED


def held_options(kind: type[Optimizer], lr: float, device: torch.device) -> dict[str, Any]:
    """Return the arguments of an optimizer whose updates can be recorded: nothing that changes is a number of Python.

    Args:
        kind: one that `can_hold`.
        lr: learning rate at first.
        device: of the parameters.
    """
    capturable = kind is not optim.SGD and device.type == "cuda"
    return {
        "lr": torch.full((), lr, dtype=torch.float32, device=device),
        **({"fused": True} if device.type in FUSED_DEVICES else {}),
        **({"capturable": True} if capturable else {}),
    }


def begin_held(optimizer: Optimizer) -> None:
    """Make beforehand what updates would make on first use, so that all of them are alike.

    A momentum of zero gives the first update that torch takes without one; updates in one pass over memory know none
    that is missing for some of the weights.
    """
    optimizer._warned_capturable_if_run_uncaptured = True  # the first steps are not recorded
    for group in optimizer.param_groups if isinstance(optimizer, optim.SGD) else ():
        if group["momentum"] and not group["dampening"]:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def set_rate(optimizer: Optimizer, value: float) -> None:
    """Set the learning rate of the first group of parameters, and those of the others in the ratio they were built in.

    A rate that is a tensor is set in place.
    """
    for group in optimizer.param_groups:
        rate = value * group.get(_RATIO, 1.0)
        if not isinstance(group["lr"], Tensor):
            group["lr"] = rate
        elif group.get("rate") != rate:
            group["lr"].fill_(rate)
            group["rate"] = rate


def rate_of(optimizer: Optimizer) -> float:
    """Return the learning rate that was set last."""
    group = optimizer.param_groups[0]
    return float(group.get("rate", group["lr"]) if isinstance(group["lr"], Tensor) else group["lr"])


def _note_ratios(optimizer: Optimizer) -> None:
    """Keep in each of several groups the ratio of its learning rate to that of the first, which may become 0."""
    first, *others = optimizer.param_groups
    if others and not first["lr"]:
        raise ValueError("the learning rates of its groups follow that of the first one, which is 0")
    for group in others:
        group[_RATIO] = float(group["lr"]) / float(first["lr"])


def build_optimizer(
    parameters: Iterable[nn.Parameter], plan: WeightOptimizer, lr: float, fused: bool = False, held: bool = False
) -> Optimizer:
    """Return the optimizer of these weights that a recipe names.

    Args:
        parameters: the weights.
        plan: name and options.
        lr: learning rate at the first epoch.
        fused: update all weights in one pass over memory where torch can.
        held: whether the learning rate is to be a tensor on the device of the weights, where the optimizer `can_hold`.

    Raises:
        RecipeError: an option that is unknown, or that the optimizer refuses.
    """
    name, kind = plan.optimizer, OPTIMIZERS[plan.optimizer]
    begin = lr or 1.0  # several groups have no ratio of rates of 0
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
    if held and can_hold(kind):
        given |= held_options(kind, begin, weights[0].device)
    try:
        built: Optimizer = kind(weights, **{"lr": begin, **given})
        _note_ratios(built)
        if lr != begin:
            set_rate(built, lr)
    except Exception as fault:  # an option of another type or range, or whatever the user's code raises
        words = " ".join(str(fault).split())[:300]
        raise RecipeError(
            f"optimizer {name!r} does not take {reprlib.repr(given)}: {words}{place_in_plugins(fault)}; change it"
        ) from fault
    if held and can_hold(kind):
        begin_held(built)
    return built


def check_optimizer(plan: WeightOptimizer, key: str) -> None:
    """Build the optimizer for two weights, and take a step, so that faults show before anything starts.

    They are those of a convolution and of a batch norm, which optimizers may put into groups of their own.

    Args:
        plan: name and options.
        key: of the recipe, for the message.

    Raises:
        RecipeError: as `build_optimizer`, or a step fails.
    """
    weights = [nn.Parameter(torch.zeros(shape)) for shape in ((2, 2, 1, 1), (2,))]
    try:
        built = build_optimizer(weights, plan, plan.lr.largest)
        set_rate(built, plan.lr.largest)
        for weight in weights:
            weight.grad = torch.ones_like(weight)
        built.step()
    except RecipeError as fault:
        raise RecipeError(f"{key}: {fault}") from fault
    except Exception as fault:  # whatever the optimizer raises
        words = f"{type(fault).__name__}: {' '.join(str(fault).split())[:300]}{place_in_plugins(fault)}"
        raise RecipeError(
            f"{key}: optimizer {plan.optimizer!r} fails in a step on two weights: {words}; change its options"
        ) from fault


def _elsewhere(option: str) -> str:
    if option in ("lr", "weight_decay", *_OF_SGD):
        return f"set {option} beside optimizer"
    return "leave it out"

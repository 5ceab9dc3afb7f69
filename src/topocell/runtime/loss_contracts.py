"""Contract of a loss: one finite number of a batch, with a gradient, and nothing else that changes."""

import torch
from torch import Tensor

from topocell.runtime.contracts import demand, of
from topocell.runtime.losses import Loss


def gradient_of(loss: Loss, logits: Tensor, target: Tensor, who: str, what: str) -> Tensor:
    """The gradient (N, K) of a loss on a batch, checked.

    Args:
        loss: of logits and target.
        logits: (N, K), which require a gradient.
        target: labels (N,) or probabilities (N, K).
        who: the loss, in words.
        what: the target, in words.

    Raises:
        ContractError: it breaks a rule.
    """
    with of(f"{who} of {what}"):
        given, seen = target.clone(), logits.detach().clone()
        value = loss(logits, target)
        scalar = isinstance(value, Tensor) and value.dim() == 0
        demand(scalar, who, f"the loss of {what} is one number", getattr(value, "shape", value))
        demand(bool(value.isfinite()), who, f"the loss of {what} is finite", value)
        demand(torch.equal(target, given) and torch.equal(logits, seen), who, "its arguments are left alone", "others")
        demand(value.requires_grad, who, f"the loss of {what} has a gradient", "none")
        (gradient,) = torch.autograd.grad(value, logits, allow_unused=True)
        moves = gradient is not None and bool(gradient.isfinite().all()) and bool((gradient != 0).any())
        demand(moves, who, f"the loss of {what} has a finite gradient that is not 0", gradient)
        again = loss(logits, target)
        demand(torch.equal(value, again), who, "one batch has one loss", f"{value:g} and {again:g}")
        return gradient

"""Contracts of pieces: the one line that says which rule a piece breaks, and what it did instead."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from topocell.errors import RecipeError, TopocellError, nearest
from topocell.registry import known, place_in_plugins


class ContractError(RecipeError):
    """A piece that does not do what pieces of its kind have to do."""


def named(kind: str, piece: Any) -> tuple[str, Any]:
    """The name of a piece for messages, and the piece."""
    if isinstance(piece, str):
        if piece not in (table := known(kind)):
            names = ", ".join(map(str, table))
            raise ContractError(f"unknown {kind} {piece!r}{nearest(piece, table)}; known: {names}")
        return f"{kind} {piece!r}", table[piece]
    return f"{kind} {getattr(piece, '__name__', type(piece).__name__)}", piece


@contextmanager
def of(who: str) -> Iterator[None]:
    """Let faults of the piece itself be one line. Raises ContractError."""
    try:
        yield
    except TopocellError:
        raise
    except Exception as fault:  # whatever the user's code raises
        words = " ".join(str(fault).split())[:300]
        reason = f"{type(fault).__name__}: {words}{place_in_plugins(fault)}"
        raise ContractError(f"{who} fails on a small example: {reason}; mend it") from fault


def demand(holds: bool, who: str, rule: str, got: object) -> None:
    """Raise ContractError unless a rule holds: who breaks it, the rule, what there is instead."""
    if not holds:
        raise ContractError(f"{who}: {rule}, but got {got}; mend it")


def demand_gradient(who: str, weights: Tensor, logits: Tensor, name: str, draws: torch.Generator) -> None:
    """Check that gradients reach the logits."""
    demand(weights.requires_grad, who, f"weights that are learned depend on {name}", "no gradient")
    steps = torch.randn(weights.shape, generator=draws, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((weights * steps).sum(), logits)
    demand(bool(gradient.isfinite().all()), who, "the gradient of weights is finite", "NaN or infinity")
    demand(bool((gradient != 0).any()), who, f"weights that are learned move with {name}", "gradient 0")

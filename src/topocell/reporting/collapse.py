"""Signs that a search has collapsed, in words, from what was recorded of its epochs."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from topocell.reporting.epochs import Epoch, number_at
from topocell.reporting.series import counts, kinds

#: Points between soft weights and derived cell from which the gap is called wide.
WIDE_GAP = 10.0


class Sign(NamedTuple):
    """One indicator: what it is, its value at the end, and a sentence; `bad` where it points to a collapse."""

    name: str
    value: str
    sentence: str
    bad: bool = False


def signs(epochs: Sequence[Epoch]) -> list[Sign]:
    """Return the indicators that a search has recorded, at its last epoch."""
    if not epochs:
        return []
    found = [sign for kind in kinds(epochs, "operations") if (sign := _skips(epochs, kind)) is not None]
    found += [sign for kind in kinds(epochs, "depth") if (sign := _shape(epochs[-1], kind)) is not None]
    return [*found, *_gap(epochs), *_entropy(epochs)]


def _skips(epochs: Sequence[Epoch], kind: str) -> Sign | None:
    found = [own for e in epochs if (own := counts(e.row, kind))]
    shares = [(sum(own.values()), own.get("skip_connect", 0.0)) for own in found]
    if not shares:
        return None
    whole, skips = shares[-1]
    most = max(100 * of / all_of for all_of, of in shares)
    bad = 2 * skips >= whole and skips > 0
    words = (
        "Half of the operations or more are skip connections: this is how searches collapse."
        if bad
        else f"Skip connections made up {most:.0f} % at most, at any epoch; a collapse is half or more."
    )
    return Sign(f"Skip connections, {kind}", f"{skips:.0f} of {whole:.0f}", words, bad)


def _shape(last: Epoch, kind: str) -> Sign | None:
    depth, width = number_at(last.row, "depth", kind), number_at(last.row, "width", kind)
    if not math.isfinite(depth) or not math.isfinite(width):
        return None
    words = (
        "No node takes the output of another: the cell is as shallow as it can be."
        if depth <= 1
        else f"The longest way through the cell has {depth:.0f} operations; {width:.0f} nodes take one of its inputs."
    )
    return Sign(f"Depth, {kind}", f"{depth:.0f}", words, depth <= 1 < depth + width - 1)


def _gap(epochs: Sequence[Epoch]) -> list[Sign]:
    for epoch in reversed(epochs):
        soft, derived = (number_at(epoch.row, "gap", key, scale=100) for key in ("soft", "derived"))
        if math.isfinite(soft) and math.isfinite(derived):
            wide = soft - derived > WIDE_GAP
            words = (
                f"After search epoch {epoch.number} the supernet reached {soft:.2f} % on the validation split with its "
                f"soft weights and {derived:.2f} % masked to the derived cell. "
            )
            words += (
                "This gap is wide: the supernet says little about the cell."
                if wide
                else "The wider this gap, the less the supernet says about the cell."
            )
            return [Sign("Discretisation gap", f"{soft - derived:.1f} points", words, wide)]
    return []


def _entropy(epochs: Sequence[Epoch]) -> list[Sign]:
    found = []
    for name, key, whose in (("α", "alpha_entropy", "operations"), ("β", "beta_entropy", "edges")):
        for kind in kinds(epochs, key):
            known = [e for e in epochs if math.isfinite(number_at(e.row, key, kind))]
            if not known:
                continue
            first, last = (number_at(e.row, key, kind) for e in (known[0], known[-1]))
            words = f"From {first:.2f} to {last:.2f} nats: "
            words += (
                f"the choice of {whose} is hardly more decided than at the beginning."
                if last > 0.9 * first
                else f"the choice of {whose} has become more decided."
            )
            found.append(Sign(f"Entropy of {name}, {kind}", f"{last:.2f} nats", words))
    return found

"""What a cell draws, without anybody waiting for the draw: masks in place of branches."""

import torch
import torch.nn.functional as F
from torch import Tensor


def dropped(value: Tensor, rate: float | Tensor) -> Tensor:
    """`value` (any shape) with elements dropped with probability `rate`, the others divided by 1 - rate."""
    if not isinstance(rate, Tensor):
        return F.dropout(value, rate)
    keep = 1.0 - rate
    return value * (torch.rand_like(value, dtype=torch.float32) < keep) / keep.clamp(min=1e-6)


def masked(joint: Tensor, ops: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
    """Split the weights of a one-hot sample into those of what was drawn and those of the rest.

    Args:
        joint: (E·K,) weight of each candidate times that of its edge.
        ops: (E, K) the sample.
        live: (E, K) bool.

    Returns:
        (E·K,) weights of what was drawn, zero elsewhere and without gradient there; (E,) sums of the others' weights,
        which are zero but have gradients (GDAS).
    """
    drawn = (ops != 0).flatten()
    others = joint.masked_fill(drawn | ~live.flatten(), 0.0)
    return joint.masked_fill(~drawn, 0.0), others.view(ops.shape).sum(1)

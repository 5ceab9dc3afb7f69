"""Exponential moving average of the weights of a network in training."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from topocell.nn.network import FixedNet


class AveragedNet(AveragedModel):
    """Average of a network over the steps of its training: a ← decay · a + (1 − decay) · w after each (Polyak 1990).

    It begins with the weights after the first step. The statistics of batch norm are averaged alike, so that they fit
    the averaged weights; its counters are copied. `module` is a network that can be evaluated and saved.

    Args:
        net: the network in training.
        decay: above 0 and below 1; the average is over about 1 / (1 − decay) steps.
    """

    module: FixedNet

    def __init__(self, net: FixedNet, decay: float) -> None:
        average = get_ema_multi_avg_fn(decay)

        def update(averaged: Sequence[Tensor], current: Sequence[Tensor], number: Any) -> None:
            if averaged[0].is_floating_point():
                average(averaged, current, number)
            else:
                torch._foreach_copy_(list(averaged), list(current))

        super().__init__(net, multi_avg_fn=update, use_buffers=True)

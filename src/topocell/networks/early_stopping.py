"""Early stopping: the end of a training by its accuracy on held-out training images, and its best weights."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from topocell.io.checkpoint import places


class BestEpoch:
    """The best epoch of a training so far: its number, its accuracy on held-out images, its weights on the CPU.

    The first of several equal epochs is the best.

    Args:
        patience: epochs without a higher accuracy before the training ends.

    Attributes:
        epoch: of the best one, 0-based; -1 before the first.
        accuracy: of the best one, a fraction.
        weights: of the best one, a state dict.
        last: the epoch that was shown last.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self.epoch, self.accuracy, self.last = -1, -1.0, -1
        self.weights: dict[str, Tensor] = {}

    def add(self, epoch: int, accuracy: float, net: nn.Module) -> bool:
        """Show the accuracy of an epoch; return whether the training is to end with it."""
        self.last = epoch
        if accuracy > self.accuracy:
            self.epoch, self.accuracy = epoch, accuracy
            self.weights = {name: value.detach().cpu().clone() for name, value in net.state_dict().items()}
        return epoch - self.epoch >= self._patience

    def results(self) -> dict[str, Any]:
        """Return what results.json says of a finished training."""
        return {"stopped_epoch": self.last, "kept_epoch": self.epoch, "validation": self.accuracy}

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of the training depends on."""
        numbers = {"epoch": self.epoch + 1, "last": self.last + 1, "accuracy": self.accuracy}
        return {**numbers, "weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.epoch, self.last = (number - 1 for number in places(state["epoch"], state["last"]))
        self.accuracy, self.weights = float(state["accuracy"]), dict(state["weights"])

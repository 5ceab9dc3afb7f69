"""Loss and accuracy over an epoch, summed on the device so that no step waits for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from topocell.runtime import distributed
from topocell.runtime.glance import Glance


@dataclass
class Seen:
    """Loss (0-dim), correct predictions (0-dim) and images of one batch, kept on the device.

    Of N networks that are trained at once, loss and correct predictions are (N,), and images are those of each.
    Predictions of mixed images count by the share of the predicted class.
    """

    loss: Tensor
    correct: Tensor
    images: int


class EpochMeter:
    """Sums of one epoch: `add` for each batch, `figures` when they are read."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._glance, self._trained = device, Glance(device), 0
        self.clear()

    def clear(self) -> None:
        """Start an epoch."""
        self._loss = torch.zeros((), device=self._device)
        self._correct = torch.zeros((), dtype=torch.long, device=self._device)
        self._images = 0

    def add(self, seen: Seen) -> None:
        """Add one batch."""
        self._loss = self._loss + seen.loss * seen.images
        self._correct = self._correct + seen.correct
        self._images += seen.images
        self._trained += seen.images

    def recent(self) -> dict[str, float]:
        """Mean `loss` and `accuracy` of this process so far, read without waiting for a GPU: absent until some arrive.

        `trained_images` are those that all processes have trained on since they were started. Of several networks the
        means are shown.
        """
        trained: dict[str, float] = {"trained_images": self._trained * distributed.world()}
        found = self._glance(*self._of(None), max(self._images, 1))
        if found is None:
            return trained
        loss, correct, images = found
        return {"loss": loss / images, "accuracy": correct / images, **trained}

    def figures(self, everywhere: bool = False, of: int | None = None) -> dict[str, float]:
        """Mean `loss` and `accuracy` (fraction) so far, of this process or of all, which have to ask together then.

        They are those of network `of`, or the mean of all.
        """
        (loss, correct), images = self._of(of), torch.tensor(self._images)
        if everywhere:
            loss, correct, images = distributed.total(loss, correct, images)
        seen = max(int(images), 1)
        return {"loss": float(loss) / seen, "accuracy": float(correct) / seen}

    def _of(self, network: int | None) -> tuple[Tensor, Tensor]:
        """Loss and correct predictions (0-dim) of one of several networks, or the mean of all."""
        loss, correct = self._loss, self._correct
        if not loss.dim():
            return loss, correct
        if network is None:
            return loss.double().mean(), correct.double().mean()
        return loss[network], correct[network]

    def state_dict(self) -> dict[str, Any]:
        """The sums, for a checkpoint inside an epoch: of all processes, which ask together, where there are several."""
        mine = {"loss": self._loss, "correct": self._correct, "images": self._images}
        return mine if distributed.world() == 1 else {"processes": distributed.gathered(mine)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The sums of `state_dict`; with another number of processes the first one has those of all."""
        sums = state.get("processes", [state])
        if len(sums) != distributed.world():
            whole = {name: sum(each[name] for each in sums) for name in ("loss", "correct", "images")}
            sums = [whole, *[{name: 0 * value for name, value in whole.items()}] * (distributed.world() - 1)]
        mine = sums[distributed.rank()]
        self._loss, self._correct = mine["loss"].to(self._device), mine["correct"].to(self._device)
        self._images = mine["images"]

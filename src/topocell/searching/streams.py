"""The batches of a stage: those of the weights, of α and of β, and those held out for the diagnostics."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from topocell.config.search import Stage
from topocell.data.augment import NO_AUGMENTATION
from topocell.data.batches import Batches, Draw
from topocell.data.splits import SearchData, split_batches
from topocell.runtime import distributed
from topocell.supernet.learner import ArchBatch, Batch


class Streams:
    """The batches of a stage; those of the weights, α and β are one and the same where these share a split.

    Args:
        data, stage: whose splits they are.
        batch_size: images of a batch.
        seed, device: of the search.

    Attributes:
        train, alpha, beta: augmented batches.
        held_out: images that the weights are not trained on, if there are any, without augmentation.
    """

    def __init__(self, data: SearchData, stage: Stage, batch_size: int, seed: int, device: torch.device | str) -> None:
        self._stage = stage

        def batches(split: str, stream: str, draw: Draw, augmented: bool = True) -> Batches:
            name = f"{stage.name} {stream}"
            return split_batches(
                data, split, batch_size, name, seed=seed, device=device, augmented=augmented, draw=draw
            )

        self.train = self.alpha = self.beta = batches(stage.weights_on, "weights", stage.draw)
        if stage.splits_needed - {stage.weights_on}:
            self.alpha = batches(stage.alpha_on, "alpha", stage.arch_draw)
            shared = stage.beta_on == stage.alpha_on
            self.beta = self.alpha if shared else batches(stage.beta_on, "beta", stage.arch_draw)
        self.train.shared = self.alpha.shared = self.beta.shared = True
        held_out = stage.alpha_on if stage.alpha_on in data.splits else stage.weights_on
        self.held_out = batches(held_out, "watch", "epoch", False)

    def resize(self, batch_size: int) -> None:
        """Take batches of another size from now on, of the whole split where it is smaller."""
        for batches in (self.train, self.alpha, self.beta):
            batches.batch_size = min(batch_size, len(batches.data))

    def cut_out(self, size: int, probability: float) -> None:
        """Blank a square of `size` pixels with that probability in each image of training batches from now on."""
        for batches in (self.train, self.alpha, self.beta):
            of = batches.augmentation or NO_AUGMENTATION
            batches.augmentation = replace(of, cutout=size if probability else 0, cutout_probability=probability or 1.0)

    def updates(self, epoch: int, step: int, has_beta: bool) -> list[ArchBatch]:
        """The updates of α and β that are due: jointly on one batch, or one after the other on their own splits."""
        if self._stage.arch_every != "step" and step != self.train.last_full:
            return []
        if self._stage.level == "single":
            empty = torch.empty(0)
            return [ArchBatch((empty, empty), True, has_beta)]
        first = self.alpha.batch(epoch, self._of_architecture(step))
        if not has_beta or self.beta is self.alpha:
            return [ArchBatch(first, True, has_beta)]
        return [
            ArchBatch(first, True, False),
            ArchBatch(self.beta.batch(epoch, self._of_architecture(step)), False, True),
        ]

    def evaluation(self, epoch: int, limit: int | None) -> Iterator[Batch]:
        """The batches of `held_out`, at most `limit` of them, in the order of the epoch; each process has its own."""
        n = min(limit or len(self.held_out), len(self.held_out))
        rank, world = distributed.rank(), distributed.world()
        return (self.held_out.batch(epoch, i) for i in range(rank * n // world, (rank + 1) * n // world))

    def _of_architecture(self, step: int) -> int:
        """The step of the batch of α and β: with one update an epoch their first."""
        return step if self._stage.arch_every == "step" else 0

    def images(self, epoch: int, step: int) -> list[tuple[str, Tensor, Tensor]]:
        """Return for a step, by split, the numbers of the images in it (B,), and the images (B, C, H, W)."""
        stage, of_architecture = self._stage, self._of_architecture(step)
        taken = (
            (stage.weights_on, self.train, step),
            (stage.alpha_on, self.alpha, of_architecture),
            (stage.beta_on, self.beta, of_architecture),
        )
        return [(split, batches.numbers(epoch, i), batches.batch(epoch, i)[0]) for split, batches, i in taken]

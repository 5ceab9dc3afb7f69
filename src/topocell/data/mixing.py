"""Mixing the images of a batch with each other: mixup and cutmix."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from topocell.data.augment import move


@dataclass(frozen=True)
class Mixing:
    """How the images of a batch are mixed, each with one other of the batch, by one share λ for the whole batch.

    Args:
        mixup: α; λ ~ Beta(α, α), images and targets are λ · own + (1 − λ) · other (Zhang et al. 2018, Eq. 1); 0: none.
        cutmix: α; a rectangle of the area 1 − λ, its centre uniform over the image, comes from the other image, the
            targets are mixed by the areas that are left after clipping (Yun et al. 2019, Eq. 1 and 2); 0: none.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def __call__(
        self, images: Tensor, labels: Tensor, classes: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return the mixed images (N, C, H, W) and their targets (N, K), rows that sum to 1.

        With both, the batch gets one of the two with probability 1/2. All draws come from `generator`, on the CPU.

        Args:
            images: (N, C, H, W) float.
            labels: (N,) int64.
            classes: K.
            generator: a CPU generator.
        """
        cut = self.cutmix > 0 and (self.mixup == 0 or bool(torch.rand((), generator=generator) < 0.5))
        share = _beta(self.cutmix if cut else self.mixup, generator)
        other = move(torch.randperm(len(labels), generator=generator), images.device)
        if cut:
            images, share = _cut(images, other, share, generator)
        else:
            images = images.lerp(images[other], 1 - share)
        return images, targets(labels, other, share, classes)


def targets(labels: Tensor, other: Tensor, share: float, classes: int) -> Tensor:
    """Probabilities (N, K) float32: `share` of an image's own class and the rest of the class of another.

    Args:
        labels: (N,) int64.
        other: (N,) int64, which image each is mixed with.
        share: from 0 to 1.
        classes: K.
    """
    own = F.one_hot(labels, classes).float()
    return own.lerp(own[other], 1 - share)


def _beta(alpha: float, generator: torch.Generator) -> float:
    """A draw from Beta(α, α)."""
    return float(torch._sample_dirichlet(torch.full((2,), alpha, dtype=torch.float64), generator)[0])


def _cut(images: Tensor, other: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, float]:
    """The images with a rectangle of the others, and the share of the area that is their own."""
    height, width = images.shape[-2:]
    y, x = (int(torch.randint(size, (), generator=generator)) for size in (height, width))
    tall, wide = (round(size * (1 - share) ** 0.5) for size in (height, width))
    top, left = max(y - tall // 2, 0), max(x - wide // 2, 0)
    bottom, right = min(y - tall // 2 + tall, height), min(x - wide // 2 + wide, width)
    images = images.clone(memory_format=torch.preserve_format)
    images[..., top:bottom, left:right] = images[other][..., top:bottom, left:right]
    return images, 1 - (bottom - top) * (right - left) / (height * width)

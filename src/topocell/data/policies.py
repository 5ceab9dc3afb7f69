"""Random changes of colour and shape from torchvision, drawn for each image: RandAugment and TrivialAugment."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from topocell.errors import DataError


@dataclass(frozen=True)
class ImagePolicy:
    """Operations on colour and shape of uint8 images, with draws of its own for each image.

    Args:
        name: `randaugment` (Cubuk et al. 2020): `operations` drawn operations at one strength; `trivialaugment`
            (Müller and Hutter 2021): one operation, at a drawn strength.
        magnitude: strength, 0 to 30, of randaugment.
        operations: of randaugment.
    """

    name: str
    magnitude: int = 9
    operations: int = 2

    def __call__(self, images: Tensor, seed: int) -> Tensor:
        """Return the changed images, (N, C, H, W) uint8.

        torchvision draws from torch's own generator: it is seeded here, and restored.

        Args:
            images: (N, C, H, W) uint8, C 1 or 3.
            seed: of the draws.
        """
        transform = _transform(self)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return torch.stack([transform(image) for image in images])


def check_channels(policy: ImagePolicy | None, channels: int) -> None:
    """Raise DataError for images whose colours a policy cannot change."""
    if policy is not None and channels not in (1, 3):
        raise DataError(
            f"retrain.augment={policy.name} changes the colours of images with 1 or 3 channels, but these have "
            f"{channels}; use retrain.augment=none"
        )


@lru_cache(maxsize=8)
def _transform(policy: ImagePolicy) -> Callable[[Tensor], Tensor]:
    from torchvision.transforms import InterpolationMode, v2

    options: dict[str, Any] = {"interpolation": InterpolationMode.NEAREST}
    if policy.name == "randaugment":
        options |= {"num_ops": policy.operations, "magnitude": policy.magnitude}
        transform: Callable[[Tensor], Tensor] = v2.RandAugment(**options)
    else:
        transform = v2.TrivialAugmentWide(**options)
    return transform

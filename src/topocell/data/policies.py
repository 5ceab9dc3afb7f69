"""Random changes of colour and shape from torchvision, drawn for each image: RandAugment, TrivialAugment, jitter."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from topocell.data.hue import shifted
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
        """Return the changed images, see `changed`."""
        return changed(images, _policy(self), seed)

    def of_one(self, image: Any) -> Any:
        """Return a changed image, a tensor (C, H, W) or one of Pillow; the draws are from torch's own generator."""
        return _policy(self)(image)


@dataclass(frozen=True)
class ColourJitter:
    """Changes of brightness, contrast, saturation and hue in random order, with draws of its own for each image.

    Args:
        brightness, contrast, saturation: factors between 1 - x and 1 + x, not below 0.
        hue: shift between -x and x of the whole circle, at most 0.5.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __call__(self, images: Tensor, seed: int) -> Tensor:
        """Return the changed images, see `changed`."""
        return changed(images, _jitter(self), seed)

    def of_one(self, image: Any) -> Any:
        """Return a changed image of Pillow, mode RGB; the draws are from torch's own generator.

        The same bits as from torchvision's ColorJitter, whose draws these are.
        """
        from torchvision.transforms.v2 import functional as F

        drawn = _jitter(self).make_params([image])
        changes = (
            ("brightness_factor", F.adjust_brightness),
            ("contrast_factor", F.adjust_contrast),
            ("saturation_factor", F.adjust_saturation),
            ("hue_factor", shifted),  # which takes two thirds of the time of all four otherwise
        )
        for name, change in (changes[number] for number in drawn["fn_idx"].tolist()):
            if drawn[name] is not None:
                image = change(image, drawn[name])
        return image


def changed(images: Tensor, transform: Callable[[Any], Any], seed: int) -> Tensor:
    """Return images with random changes of torchvision, one after the other, (N, C, H, W) uint8.

    torchvision draws from torch's own generator: it is seeded here, and restored.

    Args:
        images: (N, C, H, W) uint8, C 1 or 3.
        transform: the changes.
        seed: of the draws.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return torch.stack([transform(image) for image in images])


def check_channels(changes: ImagePolicy | ColourJitter | None, channels: int) -> None:
    """Raise DataError for images whose colours a policy or a jitter cannot change."""
    if changes is not None and channels not in (1, 3):
        setting, off = "data.jitter", "data.jitter=null"
        if isinstance(changes, ImagePolicy):
            setting, off = f"retrain.augment={changes.name}", "retrain.augment=none"
        raise DataError(
            f"{setting} changes the colours of images with 1 or 3 channels, but these have {channels}; use {off}"
        )


@lru_cache(maxsize=8)
def _jitter(jitter: ColourJitter) -> Any:
    from torchvision.transforms import v2

    return v2.ColorJitter(**asdict(jitter))


@lru_cache(maxsize=8)
def _policy(policy: ImagePolicy) -> Callable[[Any], Any]:
    from torchvision.transforms import InterpolationMode, v2

    options: dict[str, Any] = {"interpolation": InterpolationMode.NEAREST}
    if policy.name == "randaugment":
        options |= {"num_ops": policy.operations, "magnitude": policy.magnitude}
        transform: Callable[[Any], Any] = v2.RandAugment(**options)
    else:
        transform = v2.TrivialAugmentWide(**options)
    return transform

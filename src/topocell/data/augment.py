"""Augmentation of a batch on its device: turn, crop, flip and cutout with separate draws for each image."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from topocell.errors import DataError
from topocell.nn.kernels.cpu import augmenter
from topocell.runtime.distributed import share


@dataclass(frozen=True)
class Augmentation:
    """Changes made to a training image; the default is DARTS' search on CIFAR (to retrain: cutout 16).

    Args:
        padding: pixels of zero padding on each side before the crop back to the image's size; 0: no crop.
        flip: mirror left and right with probability 1/2.
        cutout: side in pixels of a square that is blanked; 0: none.
        rotation: degrees by which an image is turned at most, either way; 0: not at all.
        scaling: share by which its height and its width grow or shrink at most, each by itself, below 1; 0: not at all.
        shear: degrees by which it is slanted sideways at most, below 90; 0: not at all.
        translation: share of its height and width by which it is moved at most, to fractions of a pixel, each by
            itself, below 1; 0: not at all.
        cutout_probability: that an image has the square, above 0.
        scale: smallest and largest share of its area that a random part of an image has, which is scaled to the size;
            None: no such part. Of streamed images, when they are read; not of a batch.
        jitter: by how much brightness, contrast, saturation and hue change at most, see `ColourJitter`; None: not at
            all. Before anything here is done to a batch.

    Raises:
        DataError: a number that is negative or too large.
    """

    padding: int = 4
    flip: bool = True
    cutout: int = 0
    rotation: float = 0.0
    scaling: float = 0.0
    shear: float = 0.0
    translation: float = 0.0
    cutout_probability: float = 1.0
    scale: tuple[float, float] | None = None
    jitter: tuple[float, float, float, float] | None = None

    def __post_init__(self) -> None:
        for name in ("padding", "cutout"):
            if getattr(self, name) < 0:
                raise DataError(f"{name} is 0 or more pixels, but got {getattr(self, name)}; 0 switches it off")
        if not 0 < self.cutout_probability <= 1:
            got = f"but got {self.cutout_probability}; cutout=0 switches it off"
            raise DataError(f"cutout_probability is above 0 and at most 1, {got}")
        for name, below in (("rotation", 360), ("scaling", 1), ("shear", 90), ("translation", 1)):
            if not 0 <= getattr(self, name) < below:
                raise DataError(
                    f"{name} is 0 or more and below {below}, but got {getattr(self, name)}; 0 switches it off"
                )

    @property
    def affine(self) -> bool:
        """Return whether images are turned, scaled, slanted or moved by fractions of a pixel."""
        return max(self.rotation, self.scaling, self.shear, self.translation) > 0

    @property
    def random(self) -> bool:
        """Return whether anything is drawn at all."""
        return self.flip or self.padding > 0 or self.cutout > 0 or self.affine


NO_AUGMENTATION = Augmentation(padding=0, flip=False, cutout=0)


def augment(
    images: Tensor,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    augmentation: Augmentation | None,
    generator: torch.Generator | None,
    whole: int | None = None,
) -> Tensor:
    """A batch as the network sees it: turned, cropped, flipped, normalised as (x/255 - mean)/std, then cut out.

    As in DARTS, padding is zero *before* normalisation (black) and cutout is zero *after* it (the mean
    colour); the centre of the cutout square is uniform over the image, and the square is clipped at the
    borders. A square of odd side is as large as asked (DARTS' code makes it one pixel smaller). All draws
    come from `generator` on the CPU and are moved at once: every device sees the same batch, nothing waits.

    Args:
        images: (N, C, H, W) uint8 on any device.
        mean, std: one number per channel, on the scale 0..1.
        augmentation: None for evaluation: normalisation only.
        generator: a CPU generator; may be None when nothing is drawn.
        whole: images of the batch for which all is drawn, where these are this process's share of it.

    Returns:
        (N, C, H, W) float32 on the device of `images`, in channels_last memory format.

    Raises:
        DataError: another number of channels than of means.
    """
    plan = augmentation or NO_AUGMENTATION
    n, channels, height, width = images.shape
    check_statistics((mean, std), channels)
    if plan.random:
        if generator is None:
            raise ValueError("random augmentation needs a generator")
        # rows of `bounds`: crop offset down and across, mirrored or not, centre of the cutout down and across
        bounds = (2 * plan.padding + 1, 2 * plan.padding + 1, 1 + plan.flip, height, width)
        place, of = generator.device, n if whole is None else whole
        drawn = torch.stack([torch.randint(bound, (of,), generator=generator, device=place) for bound in bounds])
        if plan.affine:
            uniform = torch.rand(of, 6, generator=generator, dtype=torch.float32, device=place)
            images = transform(images, plan, uniform if n == of else share(uniform))
        if plan.cutout and plan.cutout_probability < 1:
            spared = torch.rand(of, generator=generator, device=place) >= plan.cutout_probability
            drawn[3:].masked_fill_(spared, -plan.cutout)  # a square beyond the border hides nothing
        drawn = drawn if n == of else share(drawn.T).T.contiguous()
        compiled = augmenter(images)
        if compiled is not None:
            out = torch.empty_like(images, dtype=torch.float32, memory_format=torch.channels_last)
            pixels = images.permute(0, 2, 3, 1).contiguous()
            compiled(pixels, drawn, plan.padding, plan.cutout, _table(mean, std), out)
            return out
        down, across, mirrored, y, x = move(drawn, images.device)
        if plan.padding or plan.flip:
            images = _crop_and_flip(images, plan.padding, down, across, mirrored)
    out = images.to(torch.float32, memory_format=torch.channels_last, copy=True)
    rows = out.permute(0, 2, 3, 1).view(n, height, -1)  # (N, H, W·C): rows as long as a vector operation can be
    rows.div_(255).sub_(_row(mean, width, images.device)).div_(_row(std, width, images.device))
    if plan.cutout:
        hidden_rows = _within(height, y, plan.cutout)
        hidden_columns = _within(width, x, plan.cutout).repeat_interleave(len(mean), 1)
        hidden = hidden_rows.float()[:, :, None] * hidden_columns.float()[:, None, :]
        rows.addcmul_(rows, hidden, value=-1)
    return out


def check_statistics(statistics: tuple[tuple[float, ...], tuple[float, ...]], channels: int) -> None:
    """Raise DataError unless mean and std have one number for each channel, and those of std are above 0."""
    try:
        mean, std = statistics
        fits = len(mean) == len(std) == channels and all(map(math.isfinite, (*mean, *std))) and min(std) > 0
    except (TypeError, ValueError):  # no pair of tuples of numbers
        fits = False
    if not fits:
        raise DataError(
            f"mean and std are a pair of tuples with one number for each channel, here {channels}, and std is above 0, "
            f"but got {repr(statistics)[:200]}; mend them"
        )


def transform(images: Tensor, plan: Augmentation, drawn: Tensor) -> Tensor:
    """The images scaled, slanted, turned about their centres, then moved; bilinear, zero outside; (N, C, H, W) uint8.

    Args:
        images: (N, C, H, W) uint8.
        plan: how far at most.
        drawn: (N, 6) in 0..1: turn, growth of the height and of the width, slant, moves down and across.
    """
    turn, tall, wide, slant, below, beside = (2 * move(drawn, images.device) - 1).unbind(1)
    angle = turn * math.radians(plan.rotation)
    tall, wide = 1 / (1 + tall * plan.scaling), 1 / (1 + wide * plan.scaling)
    tangent = (slant * math.radians(plan.shear)).tan()
    cos, sin = angle.cos(), angle.sin()
    aspect = images.shape[-1] / images.shape[-2]  # the grid's coordinates are -1..1 along both sides
    across = torch.stack([wide * (cos - tangent * sin), wide * (sin + tangent * cos) / aspect], 1)
    down = torch.stack([-tall * sin * aspect, tall * cos], 1)
    back = torch.stack([across, down], 1)  # from a place in the result to the place in the image that is seen there
    moved = -2 * plan.translation * back @ torch.stack([beside, below], 1)[:, :, None]
    grid = functional.affine_grid(torch.cat([back, moved], 2), list(images.shape), align_corners=False)
    return functional.grid_sample(images.float(), grid, align_corners=False).round().clamp(0, 255).byte()


def _crop_and_flip(images: Tensor, padding: int, down: Tensor, across: Tensor, mirrored: Tensor) -> Tensor:
    """The window of each image at (down, across) of the padded image, mirrored or not; (N, C, H, W)."""
    height, width = images.shape[-2:]
    pixels = images.permute(0, 2, 3, 1)
    both = torch.stack([pixels, pixels.flip(2)])
    sample = torch.arange(len(images), device=images.device)
    if padding:
        across = torch.where(mirrored == 1, 2 * padding - across, across)  # of the mirrored image, the same window
        padded = functional.pad(both, [0, 0, padding, padding, padding, padding])
        windows = padded.unfold(2, height, 1).unfold(3, width, 1).permute(0, 1, 2, 3, 5, 6, 4)
        pixels = windows[mirrored, sample, down, across]
    else:
        pixels = both[mirrored, sample]
    return pixels.permute(0, 3, 1, 2)


def _within(size: int, centre: Tensor, side: int) -> Tensor:
    """(N, size) bool: which positions lie within `side` pixels around the centre (N,)."""
    offset = torch.arange(size, device=centre.device) - (centre[:, None] - side // 2)
    return (offset >= 0) & (offset < side)


@lru_cache(maxsize=64)
def _row(values: tuple[float, ...], width: int, device: torch.device) -> Tensor:
    """(width · C,) float32, one number per channel, for each pixel of a row; kept so that a batch costs no transfer."""
    return torch.tensor(values, dtype=torch.float32, device=device).repeat(width)


@lru_cache(maxsize=64)
def _table(mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(256, C) float32: what each byte is after normalisation."""
    values = torch.arange(256, dtype=torch.float32, device="cpu").div_(255)[:, None]
    return values.sub(values.new_tensor(mean)).div_(values.new_tensor(std))


def move(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on the device; to a GPU through pinned memory, so that the host does not wait."""
    if torch.device(device).type == "cuda" and not tensor.is_cuda:
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, C, H, W) → (N, C, *size), both uint8; bilinear, antialiased when shrinking."""
    if images.shape[-2:] == size:
        return images
    parts = [
        functional.interpolate(part.float(), size, mode="bilinear", antialias=True).round().clamp(0, 255).byte()
        for part in images.split(1024)
    ]
    return torch.cat(parts)

"""What a streamed image looks like in a batch: a random part of it in training, its middle in an evaluation.

Every draw for an image is a function of (seed, stream, epoch, turn, image), so that no image depends on the others of
its batch, on what was read before, or on the process that reads it.
"""

import io
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from topocell.data.image_file import SIDEWAYS, careful_pillow, centred, open_image, turn_of, upright
from topocell.data.policies import ColourJitter, ImagePolicy
from topocell.io.colours import Colour

#: Smallest and largest ratio of width to height of a random part, those of torchvision.
RATIO = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class View:
    """How an image becomes one of a batch.

    Args:
        side: of the result in pixels.
        background: what shows through transparent pixels.
        random: whether anything is drawn; if not, all that follows does not count.
        scale: smallest and largest share of its area that a random part has; None: the middle, as in an evaluation.
        flip: mirror with probability 1/2.
        policy, jitter: changes of colour and shape, in this order.
    """

    side: int
    background: Colour = (255, 255, 255)
    random: bool = False
    scale: tuple[float, float] | None = None
    flip: bool = False
    policy: ImagePolicy | None = None
    jitter: ColourJitter | None = None


class Box(NamedTuple):
    """A part of an image in pixels."""

    top: int
    left: int
    height: int
    width: int


def view_of_file(path: str, view: View, seed: int) -> Tensor:
    """Decode a file and return its view, (side, side, 3) uint8; the draws are from the seed.

    A JPEG file is decoded by torchvision where that is faster, and by Pillow at a half, a quarter or an eighth of its
    size where a random part stays as large as the result. Other files are decoded first: of TIFF, the size that is
    said before may be that of the image upright.

    Raises:
        Exception: whatever a decoder makes of a damaged file.
    """
    if view.random:
        torch.default_generator.manual_seed(seed)
    with open(path, "rb") as file:
        data = file.read()
    with open_image(io.BytesIO(data)) as image:
        if not view.random or view.scale is None:
            picture, _ = upright(image, "RGB", view.background)
            return _finished(np.asarray(centred(picture, view.side)), view)
        if image.format not in ("JPEG", "MPO"):
            return view_of_copy(np.array(upright(image, "RGB", view.background)[0]), view, seed)
        turn = turn_of(image)
        width, height = image.size[::-1] if turn in SIDEWAYS else image.size
        box, shrink = random_box(height, width, view.scale), 1
        while shrink < 8 and min(box.height, box.width) >= 2 * shrink * view.side:
            shrink *= 2
        plain = shrink == 1 and turn is None and image.format == "JPEG" and image.mode in ("RGB", "L")
        if plain and (decode := fast_decoder()) is not None:
            with suppress(RuntimeError):  # of odd files, which Pillow may read all the same
                pixels = decode(torch.frombuffer(bytearray(data), dtype=torch.uint8))
                return _finished(_part(pixels, box, view.side), view)
        image.draft(None, (image.size[0] // shrink, image.size[1] // shrink))
        picture, _ = upright(image, "RGB", view.background)
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    return _finished(_part(pixels, _scaled(box, (height, width), tuple(pixels.shape[1:])), view.side), view)


def view_of_copy(pixels: np.ndarray, view: View, seed: int) -> Tensor:
    """Return the view of a decoded image, (side, side, 3) uint8; the draws are from the seed.

    Args:
        pixels: (height, width, 3) uint8.
        view: of it.
        seed: of the draws.
    """
    if view.random:
        torch.default_generator.manual_seed(seed)
    if not view.random or view.scale is None:
        return _finished(np.asarray(centred(Image.fromarray(pixels), view.side)), view)
    height, width, _ = pixels.shape
    box = random_box(height, width, view.scale)
    return _finished(_part(torch.from_numpy(pixels).permute(2, 0, 1), box, view.side), view)


def random_box(height: int, width: int, scale: tuple[float, float]) -> Box:
    """A random part of an image, as `torchvision.transforms.RandomResizedCrop` draws it from torch's own generator."""
    from torchvision.transforms import RandomResizedCrop

    image = torch.empty((3, height, width), device="meta")
    return Box(*RandomResizedCrop.get_params(image, list(scale), list(RATIO)))


@cache
def fast_decoder() -> Callable[[Tensor], Tensor] | None:
    """Return torchvision's decoder of JPEG files, from bytes (N,) to (3, H, W) uint8; None where there is none.

    It takes two thirds of the time that Pillow takes. torchvision 0.29 calls it deprecated: a later one may lack it.
    """
    try:
        from torchvision.io import ImageReadMode, decode_jpeg

        decode = partial(decode_jpeg, mode=ImageReadMode.RGB)
        with careful_pillow():
            decode(torch.frombuffer(bytearray(_tiny()), dtype=torch.uint8))
    except (ImportError, RuntimeError):
        return None
    return decode


def _tiny() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "JPEG")
    return out.getvalue()


def _scaled(box: Box, size: tuple[int, int], now: tuple[int, ...]) -> Box:
    """The same part of an image that has been scaled from one size to another."""
    down, across = now[0] / size[0], now[1] / size[1]
    top, left = round(box.top * down), round(box.left * across)
    height, width = max(1, round(box.height * down)), max(1, round(box.width * across))
    return Box(top, left, min(height, now[0] - top), min(width, now[1] - left))


def _part(pixels: Tensor, box: Box, side: int) -> Tensor:
    """A part of an image (3, H, W) scaled to (3, side, side)."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    return F.resized_crop(pixels, *box, [side, side], InterpolationMode.BILINEAR, antialias=True)


def _finished(pixels: Any, view: View) -> Tensor:
    """(side, side, 3) of an image (3, side, side), or of an array (side, side, 3), mirrored and with other colours."""
    rows = pixels.permute(1, 2, 0) if isinstance(pixels, Tensor) else torch.from_numpy(np.array(pixels))
    if not view.random:
        return rows
    if view.flip and bool(torch.rand(1) < 0.5):
        rows = rows.flip(1)
    if view.policy is None and view.jitter is None:
        return rows
    picture = Image.fromarray(rows.contiguous().numpy())
    for change in (view.policy, view.jitter):
        picture = picture if change is None else change.of_one(picture)
    return torch.from_numpy(np.array(picture))

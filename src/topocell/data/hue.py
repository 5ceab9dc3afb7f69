"""Changes of hue as torchvision and Pillow make them, bit for bit, in little more than half the time."""

from functools import cache
from typing import Any

import numpy as np
from PIL import Image


def shifted(picture: Any, by: float) -> Any:
    """Return a picture with another hue, as `torchvision.transforms.v2.functional.adjust_hue` does.

    Pillow makes hue, saturation and value of the colours, and works out each pixel on the way back. Here the way back
    is a table of what it makes of the 65,536 pairs of hue and saturation, times the value.

    Args:
        picture: of Pillow, mode RGB.
        by: share of the circle of hues, between -0.5 and 0.5.
    """
    hue, saturation, value = (np.asarray(band) for band in picture.convert("HSV").split())
    pairs = (hue + np.int32(by * 255).astype(np.uint8)).astype(np.uint16) << 8
    pairs |= saturation
    values, bands = value.astype(np.float32), []
    for shares in _shares():
        band = shares.take(pairs)
        band *= values
        band += np.float32(0.5)
        bands.append(Image.fromarray(band.astype(np.uint8)))
    return Image.merge("RGB", bands)


@cache
def _shares() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Red, green and blue as shares of the value, (65536,) float32 each, by 256 times the hue plus the saturation."""
    place = np.arange(256, dtype=np.float32)[:, None] * np.float32(6) / np.float32(255)
    sixth = np.floor(place)
    beyond, most = place - sixth, np.ones((256, 256), np.float32)
    depth = np.arange(256, dtype=np.float32)[None] / np.float32(255)
    least, falling, rising = most - depth, 1 - depth * beyond, 1 - depth * (1 - beyond)
    # Of the sixth of the circle from red to yellow, from yellow to green, and so on.
    red = most, falling, least, least, rising, most
    green = rising, most, most, falling, least, least
    blue = least, least, rising, most, most, falling
    number = np.broadcast_to(sixth.astype(np.int64) % 6, most.shape)
    first, second, third = (np.choose(number, band).astype(np.float32).reshape(-1) for band in (red, green, blue))
    return first, second, third

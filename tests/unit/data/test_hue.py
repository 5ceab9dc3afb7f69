"""Changes of hue against Pillow and torchvision."""

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms.v2 import functional as F

from topocell.data.hue import _shares, shifted


def test_all_colours_go_back_as_pillow_takes_them() -> None:
    """All pairs of hue and saturation, with a fifth of the values, among them the least and the most."""
    colours = np.zeros((256, 256, 3), np.uint8)
    colours[..., 0], colours[..., 1] = np.indices((256, 256))
    table = np.stack([band.reshape(256, 256) for band in _shares()], -1)
    for value in range(0, 256, 5):
        colours[..., 2] = value
        wanted = np.asarray(Image.fromarray(colours, "HSV").convert("RGB"))
        assert np.array_equal((table * np.float32(value) + np.float32(0.5)).astype(np.uint8), wanted), value


@pytest.mark.parametrize("by", [-0.5, -0.2, -0.001, 0.0, 0.004, 0.13, 0.5])
def test_hues_are_shifted_as_by_torchvision(by: float) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (31, 200, 3), dtype=np.uint8)
    colours[0] = np.repeat(np.arange(200, dtype=np.uint8)[:, None], 3, 1)  # grey has no hue
    picture = Image.fromarray(colours)
    assert np.array_equal(np.asarray(shifted(picture, by)), np.asarray(F.adjust_hue(picture, by)))

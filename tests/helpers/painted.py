"""Photos as users have them: mixed sizes, grey, turned by EXIF, transparent."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("Kätzchen grau", "ship", "10")


def paint(folder: Path, seed: int, each: int) -> None:
    """Photos of three classes in mixed sizes, grey, turned by EXIF, transparent."""
    draws = np.random.default_rng(seed)
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            height, width = draws.integers(12, 30, 2)
            pixels = draws.integers(0, 90, (height, width, 3)).astype(np.uint8)
            pixels[..., label] += 120
            image, place = Image.fromarray(pixels), folder / name / f"{seed}-{i}"
            exif = Image.Exif()
            exif[0x0112] = 6
            if i % 4 == 0:
                image.convert("L").save(f"{place}.png")
            elif i % 4 == 1:
                image.save(f"{place}.jpg", exif=exif)
            elif i % 4 == 2:
                image.putalpha(Image.fromarray(draws.integers(0, 255, (height, width)).astype(np.uint8)))
                image.save(f"{place}.PNG")
            else:
                image.save(f"{place}.bmp")

"""How an image file becomes pixels where topocell is not installed, and what is no pixels: functions for exports.

They say of a file what `topocell.data.pictures.read_pictures` says of it, and need Pillow.
"""

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def fitted(path: str, size: tuple[int, int], channels: int, background: tuple[int, int, int]) -> Tensor:
    """Pixels (C, H, W), uint8, of an image file that covers the size; what is too much is cut off on both sides."""
    from PIL import Image, ImageOps

    image, wanted = upright(path, channels, background), size[::-1]
    if image.size != wanted:
        image = ImageOps.fit(image, wanted, Image.Resampling.BILINEAR)
    return pixels_of(image, channels)


def centred(path: str, size: tuple[int, int], channels: int, background: tuple[int, int, int]) -> Tensor:
    """Pixels (C, H, W), uint8, of the middle of an image file whose shorter side is scaled to 8/7 of the size."""
    from PIL import Image

    def middle(image: Any, width: int, height: int) -> Any:
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        return image.crop((left, top, left + width, top + height))

    image, side = upright(path, channels, background), size[0]
    image = middle(image, min(image.width, 16 * image.height), min(image.height, 16 * image.width))
    shorter, scaled = min(image.size), round(side * 8 / 7)
    wanted = scaled * image.width // shorter, scaled * image.height // shorter
    if image.size != wanted:
        image = image.resize(wanted, Image.Resampling.BILINEAR)
    return pixels_of(middle(image, side, side), channels)


def stretched(path: str, size: tuple[int, int], channels: int, background: tuple[int, int, int]) -> Tensor:
    """Pixels (C, H, W), uint8, of an image file, height and width each brought to the size."""
    pixels = pixels_of(upright(path, channels, background), channels)
    if pixels.shape[-2:] == size:
        return pixels
    values = F.interpolate(pixels[None].float(), size, mode="bilinear", antialias=True)
    return values[0].round().clamp(0, 255).byte()


def upright(path: str, channels: int, background: tuple[int, int, int]) -> Any:
    """Open an image, turn it as its EXIF orientation says, where that can be read, and lay it on the background.

    Raises ValueError for more than 8 bits per channel: which 8 of them matter is not known.
    """
    from PIL import Image

    turns = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"}
    turns |= {6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90"}
    with Image.open(path) as opened:
        opened.load()
        if opened.mode[0] in "IF":
            raise ValueError(f"mode {opened.mode} has more than 8 bits per channel")
        try:
            turn = turns.get(opened.getexif().get(274, 1))
        except Exception:
            turn = None
        image = opened.copy() if turn is None else opened.transpose(Image.Transpose[turn])
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, (*background, 255)), layer)
    return image.convert("L" if channels == 1 else "RGB")


def pixels_of(image: Any, channels: int) -> Tensor:
    """(C, H, W), uint8, of an image of Pillow."""
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, channels).permute(2, 0, 1).contiguous()


def check_scale(pixels: Tensor) -> None:
    """Warn of floats in 0..1, and of normalised ones: the answer to them would be that to a black image."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or type(pixels) is not Tensor:
        return
    if not pixels.is_floating_point() or pixels.device.type == "meta" or not pixels.numel():
        return
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        return
    try:
        low, high = (float(bound) for bound in pixels.detach().aminmax())
    except RuntimeError:  # inside a transform of torch.func there are no values
        return
    if low < 0 or 0 < high <= 1.001:  # where scaling with antialiasing ends
        warnings.warn(
            f"this network takes pixels in 0..255 and normalises them itself, but these are floats from {low:g} to "
            f"{high:g}; give pixels, such as 255 times floats in 0..1",
            stacklevel=5,  # that of the call
        )


#: How an image gets its size, see `topocell.data.preprocessing.Resize` → the function that does it.
READERS = {"fit": fitted, "stretch": stretched, "centre": centred}

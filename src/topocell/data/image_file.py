"""The pixels of one image file: upright, laid on a background where it is transparent, scaled and cropped."""

import os
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ExifTags import Base

from topocell.data.image_formats import HEIC, advice, readable_formats
from topocell.io.colours import Colour
from topocell.io.files import reason

#: Those whose further frames are a film or further pages. Of the JPEG files of phones they are previews.
_FILMS = ("GIF", "PNG", "TIFF", "WEBP")
#: Those that may have more channels or bits than Pillow reads.
_OF_MANY_KINDS = ("JPEG", "PNG", "TIFF")
_UNDER_ANOTHER = "{} under another name; convert it"
#: EXIF orientation → how the pixels are turned upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
#: Those after which height and width have changed places.
SIDEWAYS = (
    *(Image.Transpose.TRANSPOSE, Image.Transpose.TRANSVERSE),
    *(Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_270),
)
#: Modes without an alpha channel or a palette, in which one colour of a file may stand for transparency.
_OPAQUE = ("1", "L", "RGB")
#: How files begin that hold others, and what they are.
_ARCHIVES = {
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "an archive of gzip",
    b"BZh": "an archive of bzip2",
    b"\xfd7zXZ": "an archive of xz",
    b"(\xb5/\xfd": "an archive of zstd",
    b"7z\xbc\xaf'": "a 7z archive",
    b"Rar!": "a rar archive",
}
#: Longer side over shorter beyond which the middle of an image is cut out before it is scaled.
_LONG = 16


class Header(NamedTuple):
    """What a file says of its image before it is decoded.

    Args:
        size: (width, height).
        grey: whether it has no colours, also once it is laid on the background.
    """

    size: tuple[int, int]
    grey: bool


class Picture(NamedTuple):
    """A decoded image.

    Args:
        pixels: (C, side, side) uint8.
        transparent: whether the background was seen through any of them.
        film: whether the file has further frames or pages, which are not used.
    """

    pixels: np.ndarray
    transparent: bool
    film: bool


class Fault(NamedTuple):
    """Why a file cannot be read.

    Args:
        reason: in a few words.
        lasting: whether it stays so until the file is changed; a file closed to us may be opened, say.
    """

    reason: str
    lasting: bool


def read_header(path: str, background: Colour) -> Header | None:
    """Size and colour of an image file, without decoding it; None if unreadable, which decoding will report."""
    try:
        with open_image(path) as image:
            seen = not image.has_transparency_data or len(set(background)) == 1
            return Header(image.size, image.mode in ("1", "L") and seen)
    except Exception:
        return None


def read_picture(path: str | IO[bytes], mode: str, size: tuple[int, int] | None, background: Colour) -> Picture:
    """Decode one file, turned as its EXIF orientation says: scaled to cover the size, bilinear; centre crop.

    The first frame of an animation or of a file with pages. EXIF data that cannot be read do not matter: the image is
    taken as it lies. Colours beneath transparent pixels are never seen.

    Args:
        path: of the file, or the file, open.
        mode: `L` for one channel, `RGB` for three.
        size: (height, width) of the result in pixels; None for that of the file.
        background: what shows through transparent pixels.

    Raises:
        Exception: whatever a decoder makes of a damaged file; `fault_of` puts it in words.
    """
    with open_image(path) as image:
        picture, transparent = upright(image, mode, background)
        film = is_film(image)  # which looks for further frames, and may leave another one in its place
    return Picture(pixels_of(picture if size is None else fit(picture, size)), transparent, film)


def upright(image: Image.Image, mode: str, background: Colour) -> tuple[Image.Image, bool]:
    """Turn an image as its EXIF orientation says, lay it on the background, convert it to `mode`.

    One that was changed since its file was opened, converted or scaled, say, is taken as its pixels lie: Pillow copies
    the orientation and the clear colour of the file along, of which neither is that of the new pixels.

    Returns the image, and whether the background is seen through any pixel. Raises as `read_picture`.
    """
    if image.mode[0] in "IF":
        raise ValueError(f"mode {image.mode} has more than 8 bits per channel")
    if 0 in image.size:
        raise ValueError("it has no pixels")
    image.load()
    turn, transparent = turn_of(image), False
    picture = image if turn is None else image.transpose(turn)
    if picture.has_transparency_data and (is_opened(image) or image.mode not in _OPAQUE):
        layer = picture.convert("RGBA")
        transparent = layer.getchannel("A").getextrema()[0] != 255
        if transparent:
            picture = Image.alpha_composite(Image.new("RGBA", layer.size, (*background, 255)), layer)
    return picture.convert(mode), transparent


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scale an image so that it covers (height, width), bilinear, and cut off alike what is too much on two sides."""
    wanted = size[::-1]
    return image if image.size == wanted else ImageOps.fit(image, wanted, Image.Resampling.BILINEAR)


def centred(image: Image.Image, side: int) -> Image.Image:
    """The middle of an image: its shorter side scaled to 8/7 of `side` (256 for 224), bilinear, then a square cut out.

    As torchvision's `Resize` and `CenterCrop` do it.
    """
    if max(image.size) > _LONG * min(image.size):
        image = _middle(image, (min(image.width, _LONG * image.height), min(image.height, _LONG * image.width)))
    return _middle(shrunk(image, scaled_for(side)), (side, side))


def scaled_for(side: int) -> int:
    """How many pixels the shorter side is scaled to before the middle of `side` pixels is cut out: 256 for 224."""
    return round(side * 8 / 7)


def shrunk(image: Image.Image, shorter: int) -> Image.Image:
    """An image whose shorter side is scaled to that many pixels, bilinear."""
    width, height = image.size
    wanted = (shorter, shorter * height // width) if width <= height else (shorter * width // height, shorter)
    return image if image.size == wanted else image.resize(wanted, Image.Resampling.BILINEAR)


def _middle(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle of an image, (width, height) pixels of it."""
    left, top = round((image.width - size[0]) / 2), round((image.height - size[1]) / 2)
    return image.crop((left, top, left + size[0], top + size[1]))


def pixels_of(image: Image.Image) -> np.ndarray:
    """(C, H, W) uint8 of an image of mode `L` or `RGB`."""
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def fault_of(path: str, error: Exception) -> Fault:
    """Put in words why a file cannot be read."""
    if isinstance(error, UnidentifiedImageError):
        return Fault(_foreign(path), True)
    if isinstance(error, OSError) and error.errno is not None:
        return Fault(reason(error), False)
    if isinstance(error, MemoryError):
        return Fault("memory does not suffice", False)
    return Fault(" ".join(str(error).split()) or type(error).__name__, True)


def _foreign(path: str) -> str:
    """What a file is that is no image."""
    Image.init()
    with suppress(OSError), open(path, "rb") as file:
        start = file.read(24)
        if not start:
            return "an empty file"
        if kind := archive(path):
            return f"{kind}; unpack it"
        if start.startswith(b"version https://git-lfs"):
            return "a pointer of Git LFS; fetch the image with `git lfs pull`"
        still = start[8:11] in (b"hei", b"hev", b"mif", b"msf", b"avi")
        if start[4:8] == b"ftyp" and not still:
            return "a film"
        suffix = os.path.splitext(path)[1].lower()
        if suffix not in readable_formats()[0] and (way := advice(suffix)):
            return f"{suffix} files are not read here; {way}"
        if start[4:8] == b"ftyp":
            damaged = suffix in (".avif", *HEIC)
            return "a HEIC or AVIF that is damaged; copy it anew" if damaged else _UNDER_ANOTHER.format("HEIC or AVIF")
        if kind := _format(start, set(Image.OPEN) - set(readable_formats()[1])):
            return _UNDER_ANOTHER.format(kind)
        if kind := _format(start, _OF_MANY_KINDS):
            return (
                f"a {kind} that is damaged, or of channels or bits that Pillow does not read; convert it to 8-bit RGB, "
                f"or give tensors from Python"
            )
    return "not an image"


def _format(start: bytes, names: Iterable[str]) -> str | None:
    """The format of an image that Pillow knows by how it begins, of those with such names."""
    for name in sorted(names):
        accepts = Image.OPEN[name][1]
        with suppress(Exception):  # as for each decoder
            if accepts is not None and accepts(start) is True:
                return name
    return None


def archive(path: str | os.PathLike[str]) -> str | None:
    """What kind of archive a file is, in words; None where it is none."""
    with suppress(OSError), open(path, "rb") as file:
        start = file.read(512)
        if start[257:262] == b"ustar":
            return "a tar archive"
        return next((kind for mark, kind in _ARCHIVES.items() if start.startswith(mark)), None)
    return None


def open_image(path: str | IO[bytes]) -> Image.Image:
    """Open an image file without decoding it. Raises as `read_picture`, also for more pixels than Pillow calls sane."""
    if isinstance(path, str):
        check_regular(path)
    image = Image.open(path, formats=readable_formats()[1])
    pixels, most = image.width * image.height, Image.MAX_IMAGE_PIXELS
    if most is not None and pixels > most:
        image.close()
        raise ValueError(f"its {pixels:,} pixels are more than {most:,}: it could be a decompression bomb")
    return image


def check_regular(path: str) -> None:
    """Raise ValueError for what is there and no file, as a pipe, which would wait for somebody to write."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError("neither a file nor a link to one")


@contextmanager
def careful_pillow() -> Iterator[None]:
    """Keep warnings of Pillow to itself, in the main thread.

    The filters of warnings are those of the whole process: of two threads that change and restore them, the last would
    bring back what the first has changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # of damaged EXIF data and the like
        warnings.filterwarnings("ignore", "The image decoding", DeprecationWarning)
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `open_image` refuses it
        yield


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """How an image is turned upright; None if it is, was changed since it was opened, or has no EXIF data to be read.

    Pillow's own `exif_transpose` writes all EXIF data again, and fails for one odd entry among them.
    """
    with suppress(Exception):
        return _TURNS.get(image.getexif().get(Base.Orientation, 1)) if is_opened(image) else None
    return None


def is_opened(image: Image.Image) -> bool:
    """Return whether an image is what its file holds: what Pillow makes of one by a change has no format."""
    return image.format is not None


def is_film(image: Image.Image) -> bool:
    """Return whether a file has further frames; False where they cannot be read."""
    if image.format not in _FILMS:
        return False
    with suppress(Exception):
        return bool(getattr(image, "is_animated", False))
    return False

"""Image formats that can be read here: those of Pillow, and HEIC where the package pillow-heif is installed."""

from functools import cache
from importlib.util import find_spec

from PIL import features

#: Suffixes of images that every Pillow reads, in lower case, and what Pillow may take such a file for, whatever its
#: name. It hands PostScript to another program, for one.
_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".ppm", ".pgm", ".pbm", ".bmp", ".tif", ".tiff", ".webp", ".gif")
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
#: Images of other programs, cameras and scanners, and what holds images, which no one should take for used.
_CONVERTIBLE = (
    *(".jpe", ".jp2", ".j2k", ".jxl", ".dib", ".pnm", ".tga", ".ico", ".psd", ".svg", ".eps", ".pdf", ".exr", ".hdr"),
    *(".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".dcm", ".nii", ".npy", ".npz", ".mat"),
)
_ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar")
#: Photos of phones, for which Pillow needs pillow-heif.
HEIC = (".heic", ".heif")


@cache
def readable_formats() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Suffixes of images, in lower case, and the formats of Pillow that they may have."""
    suffixes: tuple[str, ...] = _SUFFIXES
    formats: tuple[str, ...] = _FORMATS
    if features.check("avif"):
        suffixes, formats = (*suffixes, ".avif"), (*formats, "AVIF")
    if find_spec("pillow_heif") is not None:
        from pillow_heif import register_heif_opener

        register_heif_opener()
        suffixes, formats = (*suffixes, *HEIC), (*formats, "HEIF")
    return suffixes, formats


def advice(suffix: str) -> str:
    """Say how images of a suffix can be read that are not read here; empty where there is no way."""
    if suffix in HEIC:
        return "install topocell[heic] to read them, or convert them"
    if suffix in (".avif", *_CONVERTIBLE):
        return "convert them"
    return "unpack them" if suffix in _ARCHIVES else ""

"""Image files as people have them: damaged, of odd kinds, with odd EXIF data. Each is made in memory."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

#: (tag, type, count, value) of an entry of EXIF data.
Entry = tuple[int, int, int, bytes]


def exif(*entries: Entry) -> bytes:
    """A block of EXIF data, little-endian, whose entries may be anything; values of up to four bytes stand inside."""
    directory, beyond, start = b"", b"", 8 + 2 + 12 * len(entries) + 4
    for tag, kind, count, value in entries:
        place = value.ljust(4, b"\0")
        if len(value) > 4:
            place, beyond = struct.pack("<I", start + len(beyond)), beyond + value
        directory += struct.pack("<HHI", tag, kind, count) + place
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory + bytes(4) + beyond


def orientation(value: int) -> Entry:
    return 0x112, 3, 1, struct.pack("<H", value)


#: A resolution of -1/0, as a camera wrote it. Pillow reads it and cannot write it again.
ODD_RATIONAL: Entry = (0x11A, 10, 1, struct.pack("<ii", -1, 0))


def claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims a size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def plain(mode: str = "RGB", value: int = 100) -> Image.Image:
    return Image.new("L", (16, 16), value).convert(mode)


def film(kind: str) -> bytes:
    frames = [plain("RGB", shade) for shade in (40, 120, 200)]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], **lossless)


def holed(mode: str) -> Image.Image:
    """Black where it is opaque, on the left, and red or bright where it is transparent, on the right."""
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 255))
    image.paste((255, 0, 0, 0), (8, 0, 16, 16))
    return image.convert(mode)


def keyed(mode: str) -> bytes:
    """A PNG without an alpha channel, one colour of which stands for transparency, as `holed`."""
    if mode == "P":
        image = Image.new("P", (16, 16), 0)
        image.putpalette([0, 0, 0, 255, 0, 0])
        image.paste(1, (8, 0, 16, 16))
        return encoded(image, "PNG", transparency=1)
    clear: int | tuple[int, int, int] = (255, 0, 0) if mode == "RGB" else 76
    image = Image.new(mode, (16, 16))
    image.paste(clear, (8, 0, 16, 16))
    return encoded(image, "PNG", transparency=clear)


#: Files with transparent pixels on the right: name → (suffix, content).
TRANSPARENT: dict[str, tuple[str, Callable[[], bytes]]] = {
    "RGBA png": ("png", lambda: encoded(holed("RGBA"), "PNG")),
    "LA png": ("png", lambda: encoded(holed("LA"), "PNG")),
    "palette png": ("png", lambda: keyed("P")),
    "RGB png with a clear colour": ("png", lambda: keyed("RGB")),
    "grey png with a clear shade": ("png", lambda: keyed("L")),
    "RGBA webp": ("webp", lambda: encoded(holed("RGBA"), "WEBP", lossless=True, exact=True)),
    "RGBA tiff": ("tif", lambda: encoded(holed("RGBA"), "TIFF")),
    "gif": ("gif", lambda: encoded(holed("RGBA"), "GIF")),
}

#: Files that Pillow can read: name → (suffix, content).
READABLE: dict[str, tuple[str, Callable[[], bytes]]] = {
    "odd rational": ("jpg", lambda: encoded(plain(), "JPEG", exif=exif(orientation(6), ODD_RATIONAL))),
    "cmyk jpeg": ("jpg", lambda: encoded(plain("CMYK"), "JPEG")),
    "16 bits per colour": ("png", lambda: _deep_colour()),
    "animated gif": ("gif", lambda: film("GIF")),
    "animated webp": ("webp", lambda: film("WEBP")),
    "animated png": ("png", lambda: film("PNG")),
    "tiff of three pages": ("tiff", lambda: film("TIFF")),
    "png called jpg": ("jpg", lambda: encoded(plain(), "PNG")),
    "mpo of a phone": ("jpg", lambda: film("MPO")),
    "one pixel": ("bmp", lambda: encoded(plain().resize((1, 1)), "BMP")),
    "one bit": ("png", lambda: encoded(plain("1"), "PNG")),
    "jfif": ("jfif", lambda: encoded(plain(), "JPEG")),
}

#: Files that cannot be read: name → (suffix, content, words of the reason).
UNREADABLE: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "empty": ("jpg", lambda: b"", "an empty file"),
    "text": ("jpg", lambda: b"<html>not found</html>", "not an image"),
    "heic called jpg": ("jpg", lambda: b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC or AVIF under another name; convert it"),
    "damaged avif": ("avif", lambda: b"\0\0\0\x18ftypavif\0\0\0\0", "AVIF that is damaged; copy it anew|convert them"),
    "jpeg 2000 called jpg": ("jpg", lambda: encoded(plain(), "JPEG2000"), "JPEG2000 under another name; convert it"),
    "icon called png": ("png", lambda: encoded(plain(), "ICO"), "ICO under another name; convert it"),
    "film called jpg": ("jpg", lambda: b"\0\0\0\x18ftypmp42\0\0\0\0", "a film"),
    "pointer of git lfs": ("jpg", lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "git lfs pull"),
    "zip called jpg": ("jpg", lambda: b"PK\x03\x04\x14\0\0\0", "a zip archive; unpack it"),
    "truncated jpeg": ("jpg", lambda: encoded(_noise(), "JPEG")[:900], "truncated"),
    "truncated png": ("png", lambda: encoded(_noise(), "PNG")[:900], "truncated"),
    "header only": ("jpg", lambda: encoded(_noise(), "JPEG")[:20], "a JPEG that is damaged"),
    "no pixels": ("png", lambda: claims(0, 0), "a PNG that is damaged"),
    "no width": ("gif", lambda: b"GIF89a\0\0\x08\0\0\0\0,\0\0\0\0\0\0\x08\0\0\x02\0;", "no pixels|not an image|tile"),
    "bomb": ("png", lambda: claims(60_000, 60_000), "decompression bomb"),
    "large": ("png", lambda: claims(12_000, 9_000), "decompression bomb"),
    "16 bits grey": ("png", lambda: encoded(Image.fromarray(np.full((8, 8), 40_000, np.uint16)), "PNG"), "more than 8"),
    "bands": ("tif", lambda: bands(13, 16), "a TIFF .* of channels or bits that .* 8-bit RGB, or give tensors"),
    "float colours": ("tif", lambda: bands(3, 32, floating=True), "a TIFF that is damaged, or of channels or bits"),
    "12 bits": ("jpg", lambda: _deep_jpeg(), "a JPEG that is damaged, or of channels or bits"),
    "float": ("tif", lambda: encoded(Image.new("F", (8, 8)), "TIFF"), "more than 8 bits"),
}


def _noise() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return Image.fromarray(np.asarray(pixels, np.uint8))


def bands(channels: int, bits: int, floating: bool = False) -> bytes:
    """A TIFF of 8 × 8 pixels with so many channels of so many bits, all zero."""
    pixels, rows = bytes(8 * 8 * channels * bits // 8), 8
    short = {256: [8], 257: [rows], 258: [bits] * channels, 259: [1], 262: [2], 273: [0], 277: [channels], 278: [rows]}
    short |= {279: [len(pixels)]} | ({338: [0] * (channels - 3)} if channels > 3 else {})
    short |= {339: [3 if floating else 1] * channels}
    values = {tag: struct.pack(f"<{len(numbers)}H", *numbers) for tag, numbers in short.items()}
    start, beyond = 8 + 2 + 12 * len(values) + 4, b""
    values[273] = struct.pack("<H", start + sum(len(value) for value in values.values() if len(value) > 4))
    directory = struct.pack("<H", len(values))
    for tag, value in values.items():
        place = value.ljust(4, b"\0")
        if len(value) > 4:
            place, beyond = struct.pack("<I", start + len(beyond)), beyond + value
        directory += struct.pack("<HHI", tag, 3, len(value) // 2) + place
    return b"II*\0\x08\0\0\0" + directory + bytes(4) + beyond + pixels


def _deep_jpeg() -> bytes:
    """A JPEG whose header says 12 bits per channel."""
    content = bytearray(encoded(plain(), "JPEG"))
    content[content.index(b"\xff\xc0") + 4] = 12
    return bytes(content)


def _deep_colour() -> bytes:
    """A PNG of 16 bits per channel in colour, each 100 · 256."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = (b"\0" + struct.pack(">HHH", *[100 * 256] * 3) * 16) * 16
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")

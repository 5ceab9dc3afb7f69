"""Trees of image files like those of ImageNet: classes by WordNet number, photos of mixed sizes, some of odd kinds.

python -m tests.helpers.image_tree DIR --classes 40 --train 100 --val 8      # 4,000 photos and more
"""

import argparse
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tests.helpers.odd_images import exif, orientation

#: Sizes (width, height) of photos, about those of ImageNet.
SIZES = ((500, 375), (375, 500), (500, 333), (640, 480), (320, 240), (1200, 900))
#: Kinds of files that can be read, of which each class has one.
ODD = ("grey", "cmyk", "rotated", "deep colour")
#: Kinds of files that cannot.
BROKEN = ("truncated", "unreadable", "empty", "deep grey")


def photo(size: tuple[int, int], colour: Any, draw: np.random.Generator) -> Image.Image:
    """Blots about a colour, with some texture."""
    width, height = size
    blots = np.clip(np.asarray(colour) + draw.integers(-60, 61, (height // 32 + 2, width // 32 + 2, 3)), 0, 255)
    smooth = np.asarray(Image.fromarray(blots.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC), np.int16)
    grain = draw.integers(-24, 25, (64, 64, 1), dtype=np.int16)
    whole = np.tile(grain, (height // 64 + 1, width // 64 + 1, 1))[:height, :width]
    return Image.fromarray(np.clip(smooth + whole, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str) -> bytes:
    """The contents of a file of a kind; `plain` is a JPEG file."""
    out = io.BytesIO()
    if kind == "deep grey":
        Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257).save(out, "PNG")
    elif kind == "deep colour":
        out.write(_deep_colour(image))
    elif kind == "rotated":
        image.transpose(Image.Transpose.ROTATE_90).save(out, "JPEG", quality=85, exif=exif(orientation(6)))
    else:
        modes = {"grey": "L", "cmyk": "CMYK"}
        image.convert(modes.get(kind, "RGB")).save(out, "JPEG", quality=85)
    data = out.getvalue()
    return {"truncated": data[: len(data) // 2], "unreadable": b"\0no image" * 50, "empty": b""}.get(kind, data)


def _deep_colour(image: Image.Image) -> bytes:
    """A PNG file of 16 bits a channel, which Pillow reads and does not write."""
    import struct
    import zlib

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    pixels = np.asarray(image).astype(">u2") * 257
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", image.width, image.height, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows, 1)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def names_of(classes: int) -> list[str]:
    """WordNet numbers, in order."""
    return [f"n{1440764 + 1000 * number:08d}" for number in range(classes)]


def make_tree(
    root: Path,
    classes: int = 3,
    train: int = 6,
    val: int = 2,
    *,
    sizes: Sequence[tuple[int, int]] = ((40, 30), (30, 40), (64, 48)),
    odd: bool = False,
    broken: bool = False,
    flat: str = "",
    synsets: bool = True,
    seed: int = 0,
) -> dict[str, str]:
    """Write ROOT/train/WNID/*.JPEG and ROOT/val, and return the kind of each file that is not plain.

    Args:
        root: of the tree.
        classes: how many.
        train, val: files of each class.
        sizes: of the photos, in turn.
        odd, broken: whether some files are of the kinds `ODD` and `BROKEN`.
        flat: name of a file with the labels of val/, whose images lie side by side then; empty for class folders.
        synsets: whether LOC_synset_mapping.txt is there.
        seed: of the photos.
    """
    draw, special = np.random.default_rng(seed), dict[str, str]()
    wnids, kinds = names_of(classes), [*(ODD if odd else ()), *(BROKEN if broken else ())]
    labels = list[tuple[str, str]]()
    for part, wnid, number, count in _files(wnids, train, val):
        kind = (
            kinds[(2 * wnids.index(wnid) + number) % len(kinds)]
            if kinds and number < 2 and part == "train"
            else "plain"
        )
        name = f"ILSVRC2012_val_{len(labels) + 1:08d}.JPEG" if part == "val" else f"{wnid}_{number}.JPEG"
        folder = root / part if part == "val" and flat else root / part / wnid
        folder.mkdir(parents=True, exist_ok=True)
        colour = draw.integers(70, 186, 3) if number else np.full(3, 60 + 130 * wnids.index(wnid) // classes)
        (folder / name).write_bytes(encoded(photo(sizes[count % len(sizes)], colour, draw), kind))
        if kind != "plain":
            special[str((folder / name).relative_to(root))] = kind
        if part == "val":
            labels.append((name, wnid))
    if flat:
        rows = [f"{name.removesuffix('.JPEG')},{wnid} 1 2 3 4" for name, wnid in labels]
        text = "\n".join(["ImageId,PredictionString", *rows]) if flat.endswith(".csv") else _pairs(labels)
        (root / flat).write_text(f"{text}\n")
    if synsets:
        lines = [f"{wnid} thing {number}, object {number}\n" for number, wnid in enumerate(wnids)]
        (root / "LOC_synset_mapping.txt").write_text("".join(lines))
    return special


def _pairs(labels: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"{name} {wnid}" for name, wnid in labels)


def _files(wnids: Sequence[str], train: int, val: int) -> Iterator[tuple[str, str, int, int]]:
    count = 0
    for part, each in (("train", train), ("val", val)):
        for wnid in wnids:
            for number in range(each):
                yield part, wnid, number, count
                count += 1


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a tree of image files like that of ImageNet.")
    parser.add_argument("root", type=Path)
    for name, count in (("classes", 40), ("train", 100), ("val", 8)):
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument("--plain", action="store_true", help="no odd and no broken files")
    chosen = parser.parse_args()
    odd = not chosen.plain
    made = make_tree(chosen.root, chosen.classes, chosen.train, chosen.val, sizes=SIZES, odd=odd, broken=odd)
    print(f"{chosen.classes * (chosen.train + chosen.val):,} files, {len(made)} of odd kinds")


if __name__ == "__main__":
    main()

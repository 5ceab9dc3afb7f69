"""Folders of images with everything that turns up in them."""

import io
import os
import shutil
import struct
import warnings
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from PIL import Image
from tests.fuzz.bad import NASTY, suite

from topocell.data import downsampled, splits
from topocell.errors import DataError, TopocellError

Tree = list[tuple[str, str, str]]


@cache
def encoded(mode: str, side: int, kind: str) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((side, side + 3), 60).convert(mode).save(out, kind)
    return out.getvalue()


def claims(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims to be so large."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


FILES: dict[str, Any] = {
    "png": lambda: encoded("RGB", 16, "PNG"),
    "grey": lambda: encoded("L", 12, "PNG"),
    "jpeg": lambda: encoded("RGB", 20, "JPEG"),
    "palette": lambda: encoded("P", 9, "PNG"),
    "cmyk": lambda: encoded("CMYK", 16, "JPEG"),
    "deep": lambda: encoded("I;16", 16, "PNG"),
    "float": lambda: encoded("F", 16, "TIFF"),
    "dot": lambda: encoded("RGB", 1, "BMP"),
    "torn": lambda: encoded("RGB", 16, "PNG")[:120],
    "torn jpeg": lambda: encoded("RGB", 20, "JPEG")[:200],
    "flipped": lambda: encoded("RGB", 16, "PNG").replace(b"IDAT", b"IDAT\0", 1),
    "empty": lambda: b"",
    "text": lambda: b"no image at all",
    "page": lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
    "postscript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n",
    "bomb": lambda: claims(60_000, 60_000),
    "large": lambda: claims(12_000, 9_000),
    "wide": lambda: claims(2**31 - 1, 1),
    "gif": lambda: encoded("P", 10, "GIF"),
    "webp": lambda: encoded("RGB", 10, "WEBP"),
}


def make(path: Path, kind: str) -> None:
    """Put a file, or something else, where an image should be; what the file system refuses is left out."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind in FILES:
            with path.open("xb") as file:  # a pipe of the same name would wait for a reader
                file.write(FILES[kind]())
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        elif kind == "device":
            path.symlink_to("/dev/zero")
        else:
            path.symlink_to({"gone": "nowhere.png", "itself": path.name, "up": "..", "here": "."}[kind])
    except (OSError, ValueError):
        pass


names = st.one_of(
    st.sampled_from(("cat", "dog", "dog", "cat", "bird", ".hidden", "[/red]", "<b>x</b>", "a\nb", "\x1b[2J", "ü", " ")),
    st.text(st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1, max_size=5),
    st.just(os.fsdecode(b"\xff\xfe")),
).filter(lambda name: name not in (".", ".."))
files = st.tuples(
    st.sampled_from(("1", "2", "3", "4", os.fsdecode(b"\xe9"), "a\nb", ".x")),
    st.sampled_from((".png", ".png", ".jpg", ".JPEG", ".tif", ".bmp", ".txt", "")),
).map("".join)
kinds = st.sampled_from((*FILES, *["png"] * 25, "pipe", "folder", "device", "gone", "itself", "up", "here"))


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """Entries (folder of the split, folder of the class / file, kind); many of the classes are sound."""
    splits = draw(
        st.sampled_from(([""], [""], ["train"], ["train", "test"], ["train", "val"], ["test"], ["", "train"]))
    )
    classes = draw(st.lists(names, max_size=3, unique=True))
    entries = []
    for part in splits:
        for label in classes:
            if draw(st.integers(0, 9)):
                entries += [(part, f"{label}/{number}s.png", "png") for number in range(3)]
            for name, kind in draw(st.lists(st.tuples(files, kinds), max_size=2)):
                entries.append((part, f"{label}/{name}", kind))
    return entries


def test_trees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPOCELL_CACHE", str(tmp_path / "cache"))

    def attempt(drawn: tuple[Tree, dict[str, int | None]]) -> bool:
        entries, options = drawn
        shutil.rmtree(tmp_path / "images", ignore_errors=True)
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        (tmp_path / "images").mkdir()
        for part, name, kind in entries:
            make(tmp_path / "images" / part / name, kind)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # a warning would be a second line on the terminal
                found = splits.load("folder", tmp_path / "images", **options)
        except TopocellError:
            assert not (tmp_path / "cache").exists(), "something was kept of images that were refused"
            raise
        assert len(found.train) and found.train.images.shape[1:] == found.test.images.shape[1:]
        return False

    options = st.fixed_dictionaries(
        {},
        optional={
            "resolution": st.sampled_from((None, 8, 16, 7, 0, -4, 10**5, 10**9, 2**70)),
            "images": st.sampled_from((None, 2, 4, 0, 1, -1, 10**12, 2**70)),
            "test_images": st.sampled_from((None, 2, 1, 10**12)),
        },
    )
    suite("image folders", 0.12, st.tuples(trees(), options), attempt)


@pytest.mark.parametrize("name", ["folder", "cifar10", "svhn", "imagenet16-120"])
def test_places_without_images(name: str, tmp_path: Path) -> None:
    def attempt(place: str) -> bool:
        splits.load(name, tmp_path / place)
        return False

    places = [
        text for text in NASTY if not text.startswith("/") and text not in ("", " ", ".", "..", "../../etc/passwd")
    ]
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py/batches.meta").write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")
    for name in (*downsampled.TRAIN, downsampled.VAL):
        (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch hacked'\ntR.")
    (tmp_path / "train_32x32.mat").write_bytes(b"no matrix")
    suite(f"places of images, {name}", 0.01, st.sampled_from([*places, "~nobody", ""]), attempt)


def test_links_in_a_circle_are_walked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPOCELL_CACHE", str(tmp_path / "cache"))
    for label in ("cat", "dog"):
        for number in range(4):
            make(tmp_path / "images" / label / f"{number}.png", "png")
        for link in ("a", "b", "c"):
            (tmp_path / "images" / label / link).symlink_to(".")
    found = splits.load("folder", tmp_path / "images")
    assert len(found.train) + len(found.test) == 8


def test_a_pipe_among_images_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPOCELL_CACHE", str(tmp_path / "cache"))
    for label in ("cat", "dog"):
        for number in range(4):
            make(tmp_path / label / f"{number}.png", "png")
    make(tmp_path / "dog/9.png", "pipe")
    with pytest.raises(DataError, match=r"dog/9\.png \(neither a file"):
        splits.load("folder", tmp_path)

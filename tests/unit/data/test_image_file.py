"""Single image files of every kind that people have: what is read, and what is said of the rest."""

import io
import re
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.helpers import odd_images
from tests.helpers.odd_images import READABLE, TRANSPARENT, UNREADABLE, encoded, exif, orientation

from topocell.data import image_formats
from topocell.data.image_file import (
    Picture,
    careful_pillow,
    fault_of,
    pixels_of,
    read_header,
    read_picture,
    upright,
)

WHITE = (255, 255, 255)


@pytest.fixture(autouse=True)
def no_warning_counts():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def put(folder: Path, suffix: str, content: bytes) -> str:
    path = folder / f"image.{suffix}"
    path.write_bytes(content)
    return str(path)


def read(path: str, mode: str = "RGB", background=WHITE, side: int = 16) -> Picture:
    return read_picture(path, mode, (side, side), background)


@pytest.mark.parametrize("name", READABLE)
def test_what_pillow_can_read_is_read(tmp_path, name):
    suffix, content = READABLE[name]
    path = put(tmp_path, suffix, content())
    picture, header = read(path), read_header(path, WHITE)
    assert header is not None and min(header.size) >= 1
    assert picture.pixels.shape == (3, 16, 16) and not picture.transparent
    films = {"animated gif": 40, "animated webp": 40, "animated png": 40, "tiff of three pages": 40}
    assert picture.film == (name in films)
    shade = {"one bit": None, "mpo of a phone": 40, **films}.get(name, 100)
    assert shade is None or abs(float(picture.pixels.mean()) - shade) < 2  # the first frame, not a mean of them


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_says_why(tmp_path, name):
    suffix, content, words = UNREADABLE[name]
    path = put(tmp_path, suffix, content())
    with pytest.raises(Exception) as caught:
        read(path)
    fault = fault_of(path, caught.value)
    assert re.search(words, fault.reason) and "\n" not in fault.reason and fault.lasting


def test_threads_that_read_at_once_leave_the_filters_of_warnings():
    """Where the first of two ends before the second, that would bring back the filters of the first."""
    before = list(warnings.filters)
    inside, go = threading.Barrier(3, timeout=60), [threading.Event(), threading.Event()]

    def hold(end: threading.Event) -> None:
        with careful_pillow():
            inside.wait()
            end.wait(60)

    threads = [threading.Thread(target=hold, args=(end,)) for end in go]
    for thread in threads:
        thread.start()
    inside.wait()
    for thread, end in zip(threads, go):
        end.set()
        thread.join()
    assert warnings.filters == before


@pytest.mark.parametrize(
    ("suffix", "content", "words"),
    [
        *[("heic", b"\0\0\0\x18ftypheic", "install topocell[heic] to read them, or convert them")],
        *[("HEIF", b"\0\0\0\x18ftypmif1", "install topocell[heic] to read them, or convert them")],
        *[("jp2", b"\0\0\0\x0cjP  \r\n\x87\n", "convert them"), ("ico", b"\0\0\1\0\1\0", "convert them")],
        *[("dcm", b"a scan of a patient", "convert them")],
    ],
)
def test_a_file_under_its_own_name_is_told_how_it_can_be_read(tmp_path, monkeypatch, suffix, content, words):
    monkeypatch.setattr(image_formats, "find_spec", lambda name: None)
    image_formats.readable_formats.cache_clear()
    path = put(tmp_path, suffix, content)
    with pytest.raises(Exception) as caught:
        read(path)
    assert fault_of(path, caught.value).reason == f".{suffix.lower()} files are not read here; {words}"
    image_formats.readable_formats.cache_clear()


def test_what_may_be_mended_without_a_change_of_the_file_does_not_last(tmp_path):
    for error in (PermissionError(13, "Permission denied"), FileNotFoundError(2, "No such file"), MemoryError()):
        fault = fault_of(str(tmp_path / "x.jpg"), error)
        assert not fault.lasting and fault.reason


# Transparency


@pytest.mark.parametrize("background", [WHITE, (0, 0, 255), (90, 90, 90)])
@pytest.mark.parametrize("name", TRANSPARENT)
def test_colours_beneath_transparent_pixels_are_never_seen(tmp_path, name, background):
    suffix, content = TRANSPARENT[name]
    path = put(tmp_path, suffix, content())
    picture = read(path, background=background)
    assert picture.transparent
    assert picture.pixels[:, :, :8].max() == 0
    assert (picture.pixels[:, :, 8:] == np.array(background)[:, None, None]).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_opaque_images_with_an_alpha_channel_are_as_without_it(tmp_path, mode):
    image = odd_images.plain(mode, 77)
    picture = read(put(tmp_path, "png", encoded(image, "PNG")))
    assert not picture.transparent and (picture.pixels == 77).all()


def test_half_transparent_pixels_are_mixed(tmp_path):
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 128))
    pixels = read(put(tmp_path, "png", encoded(image, "PNG"))).pixels
    assert set(np.unique(pixels).tolist()) <= {126, 127, 128}


def test_grey_images_stay_grey_on_a_grey_background_only(tmp_path):
    path = put(tmp_path, "png", odd_images.keyed("L"))
    assert read_header(path, WHITE).grey and not read_header(path, (255, 0, 0)).grey
    assert read(path, "L", (90, 90, 90)).pixels[0, 0].tolist() == [0] * 8 + [90] * 8


@pytest.mark.parametrize("mode", ["P", "RGB", "L"])
def test_a_clear_colour_of_the_file_is_none_of_an_image_without_alpha_that_was_made_of_it(mode):
    """As torchvision's `ImageFolder` opens files. Alpha channels and palettes are what they were."""
    with Image.open(io.BytesIO(odd_images.keyed(mode))) as opened:
        _, seen = upright(opened, "RGB", (0, 0, 255))
        plain, alpha, scaled = opened.convert("RGB"), opened.convert("RGBA"), opened.resize((16, 16))
        assert seen and "transparency" in plain.info
        for image in (plain, plain.resize((8, 8)), opened.convert("L")):
            picture, seen = upright(image, "RGB", (0, 0, 255))
            assert not seen and picture.tobytes() == image.convert("RGB").tobytes()
        for image in (alpha, *([scaled] if mode == "P" else [])):
            picture, seen = upright(image, "RGB", (0, 0, 255))
            assert seen and (pixels_of(picture)[:, :, 8:] == np.array([0, 0, 255])[:, None, None]).all()


# EXIF

TURNS = {1: "left", 2: "right", 3: "right", 4: "left", 5: "top", 6: "top", 7: "bottom", 8: "bottom"}


def bright(pixels: np.ndarray) -> str:
    """Which side of a picture is bright."""
    sides = {"left": pixels[:, :, :4], "right": pixels[:, :, -4:], "top": pixels[:, :4], "bottom": pixels[:, -4:]}
    return max(sides, key=lambda side: float(sides[side].mean()))


def half_bright() -> Image.Image:
    image = Image.new("RGB", (24, 16))
    image.paste((255, 255, 255), (0, 0, 12, 16))
    return image


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("value", TURNS)
def test_orientation_is_applied_beside_an_entry_that_pillow_cannot_write(tmp_path, kind, value):
    block = exif(orientation(value), odd_images.ODD_RATIONAL)
    if kind == "TIFF":  # whose EXIF data are the file's own entries
        block = exif(orientation(value))
    path = put(tmp_path, kind.lower(), encoded(half_bright(), kind, exif=block))
    assert bright(read(path).pixels) == TURNS[value]


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.convert("RGB"),
        lambda image: image.convert("RGB").resize((24, 16)),
        lambda image: image.copy(),
        lambda image: image.rotate(180),
        lambda image: image.crop((0, 0, 20, 16)),
    ],
    ids=["convert", "resize", "copy", "rotate", "crop"],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_an_image_that_was_changed_is_not_turned_once_more(kind, change):
    """Pillow copies the orientation of the file to whatever it makes of the image."""
    with Image.open(io.BytesIO(encoded(half_bright(), kind, exif=exif(orientation(6))))) as opened:
        assert bright(pixels_of(upright(opened, "RGB", WHITE)[0])) == "top"
        changed = change(opened)
        assert changed.getexif()[0x112] == 6
        assert upright(changed, "RGB", WHITE)[0].tobytes() == changed.convert("RGB").tobytes()


entries = st.tuples(
    st.one_of(st.sampled_from((0x112, 0x11A, 0x11B, 0x128, 0x131, 0x8769, 0x8825, 0x9286)), st.integers(0, 0xFFFF)),
    st.integers(0, 20),
    st.one_of(st.integers(0, 3), st.integers(0, 2**32 - 1)),
    st.binary(min_size=1, max_size=16),
)


@settings(max_examples=150)
@given(
    others=st.lists(entries, max_size=4),
    kind=st.sampled_from(("JPEG", "PNG", "WEBP", "MPO")),
    turned=st.booleans(),
    cut=st.integers(0, 60),
    flipped=st.lists(st.tuples(st.integers(6, 200), st.integers(0, 255)), max_size=3),
)
def test_no_exif_data_keep_pixels_from_being_read(tmp_path_factory, others, kind, turned, cut, flipped):
    """Whatever is in the block: the pixels are those of the image, in some orientation."""
    block = bytearray(exif(*([orientation(6)] if turned else []), *others))
    for place, value in flipped:
        if place < len(block):
            block[place] = value
    block = block[: max(6, len(block) - cut)]
    pages = {"save_all": True, "append_images": [half_bright()]} if kind == "MPO" else {}
    try:
        content = encoded(half_bright(), kind, exif=bytes(block), **pages)
    except Exception:  # such a block Pillow does not write
        return
    path = put(tmp_path_factory.getbasetemp(), "jpg", content)
    pixels = read(path).pixels
    assert bright(pixels) in ("left", "top", "right", "bottom") and 100 < float(pixels.mean()) < 155
    assert read_header(path, WHITE) is not None

"""preprocessing.json: read as it was written, and refused in one line when it is something else."""

import json
import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topocell.data.preprocessing import FILE, Preprocessing
from topocell.errors import DataError

NAMES = ("maple", "oak", "pine", os.fsdecode(b"\xff\xfe"), "a\nb", "ü", "日本", "")
SOUND = Preprocessing(NAMES, (0.5, 0.25, 0.1), (0.1, 0.2, 1 / 3), (24, 32), 3, "fit", (255, 255, 255), "cifar", "plain")

numbers = st.floats(-10, 10, allow_nan=False)


@given(
    classes=st.lists(st.text(max_size=8), min_size=1, max_size=300).map(tuple),
    channels=st.integers(1, 4),
    data=st.data(),
    size=st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    resize=st.sampled_from(("fit", "stretch")),
    background=st.tuples(*[st.integers(0, 255)] * 3),
)
def test_what_is_saved_is_loaded(tmp_path_factory, classes, channels, data, size, resize, background):
    mean = tuple(data.draw(st.lists(numbers, min_size=channels, max_size=channels)))
    std = tuple(data.draw(st.lists(st.floats(1e-9, 10), min_size=channels, max_size=channels)))
    mine = Preprocessing(classes, mean, std, size, channels, resize, background, "imagenet", "bn-relu")
    path = tmp_path_factory.getbasetemp() / FILE
    mine.save(path)
    assert Preprocessing.load(path) == mine and Preprocessing.load(path.parent) == mine


def test_names_of_any_kind_are_kept_in_their_order(tmp_path):
    SOUND.save(tmp_path / FILE)
    assert Preprocessing.load(tmp_path).classes == NAMES
    assert (tmp_path / FILE).read_bytes().isascii()


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"classes": []}, "classes are names"),
        ({"classes": "ab"}, "classes is a list"),
        ({"classes": [1, 2]}, "classes are names"),
        ({"mean": [0.5]}, "mean has one number per channel"),
        ({"std": [0.1, 0.2]}, "std has one number per channel"),
        ({"std": [0.1, 0.2, 0]}, "std is above 0"),
        ({"mean": [0.1, 0.2, "x"]}, "mean and std are numbers"),
        ({"mean": [0.1, 0.2, None]}, "mean and std are numbers"),
        ({"size": [24]}, r"size is \(height, width\)"),
        ({"size": [24, 0]}, r"size is \(height, width\)"),
        ({"channels": "3"}, "channels is 1 or more"),
        ({"resize": "squeeze"}, "resize is one of fit, stretch, centre"),
        ({"resize": "centre"}, "size is square where resize is centre"),
        ({"resize": ["fit"]}, "resize is one of fit, stretch, centre"),
        ({"background": [1, 2]}, "a colour is"),
        ({"stem": None}, "stem and head are names"),
        ({"extra": 1}, "has the keys classes, mean"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, change, rule):
    SOUND.save(tmp_path / FILE)
    (tmp_path / FILE).write_text(json.dumps({**json.loads((tmp_path / FILE).read_text()), **change}))
    with pytest.raises(DataError, match=rule) as caught:
        Preprocessing.load(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / FILE)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"{torn", b"[1]", b"null", b"\xff\x00", b"[" * 100_000])
def test_what_is_no_such_file_is_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / FILE).write_bytes(content)
    with pytest.raises(DataError, match=FILE) as caught:
        Preprocessing.load(tmp_path / FILE)
    assert "\n" not in str(caught.value)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    with pytest.raises(DataError, match="must be writable"):
        SOUND.save(tmp_path / "absent" / FILE)


def test_values_are_checked_when_it_is_made():
    with pytest.raises(DataError, match="mean has one number per channel"):
        replace(SOUND, channels=1)

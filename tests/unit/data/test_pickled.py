"""Pickled files as data, and ImageNet16-120 that comes in them: Python's reader as oracle, and hostile files."""

import io
import os
import pickle
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from topocell.data import downsampled, pickled
from topocell.data.splits import Augmentation, load
from topocell.errors import DataError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
#: {'data': array([[0, 1, 2], [128, 254, 255]], uint8), 'labels': [5, 120]} as Python 2 writes it.
PYTHON_2 = (
    b"\x80\x02}q\x01(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02K"
    b"\x03\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
    b"U\x06\x00\x01\x02\x80\xfe\xfftbU\x06labels](K\x05K\x78eu."
)


def read(raw):
    return pickled.load(io.BytesIO(raw))


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=4)
    | st.binary(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
        | st.tuples(inner)
        | st.tuples(inner, inner, inner, inner)
    ),
    max_leaves=8,
)


@settings(max_examples=60)
@given(plain, st.sampled_from([p for p in PROTOCOLS if p > 2]))
def test_plain_values_are_read_as_the_library_does(value, protocol):
    assert read(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_and_lists_of_every_protocol(protocol):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 12), dtype=np.uint8)
    shared = [3, -1, 2**40]
    value = {"data": pixels, "labels": shared, "again": shared, "mean": np.zeros(3), "note": (1.5, "é", True, None)}
    got = read(pickle.dumps(value, protocol))
    assert np.array_equal(got["data"].uint8(), pixels)
    assert got["labels"] == shared and got["again"] is got["labels"] and got["note"] == value["note"]
    with pytest.raises(ValueError, match="f8"):
        got["mean"].uint8()


def test_files_of_python_2():
    got, expected = read(PYTHON_2), pickle.loads(PYTHON_2, encoding="latin1")
    assert np.array_equal(got["data"].uint8(), expected["data"]) and got["labels"] == expected["labels"] == [5, 120]


class Hostile:
    def __reduce__(self):
        return os.system, ("touch hacked",)


@pytest.mark.parametrize("value", [Hostile(), [Hostile()], {"data": np.array([Hostile()])}, {1, 2}, 1j])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_that_a_file_names_is_called(value, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"would call|instruction|dict|untyped"):
        got = read(pickle.dumps(value, protocol))
        got["data"].uint8()  # an array of objects is read, as it stands, and is no array of bytes
        raise AssertionError(got)
    assert not any(tmp_path.iterdir())


def test_damaged_files_are_refused_or_read_but_never_something_else():
    draw, refused = random.Random(0), 0
    for _ in range(400):
        raw = bytearray(PYTHON_2)
        for _ in range(draw.randint(1, 3)):
            raw[draw.randrange(len(raw))] = draw.randrange(256)
        try:
            read(bytes(raw[: draw.choice([len(raw), draw.randrange(len(raw))])]))
        except (ValueError, OverflowError, MemoryError):
            refused += 1
    assert refused > 100


# ImageNet16-120


def miniature(root, side=16, change=None):
    """The eleven files with 122 images each: classes 1 to 122, of which two are left out."""
    pixels = {}
    for number, name in enumerate((*downsampled.TRAIN, downsampled.VAL)):
        labels = [1 + (7 * i + number) % 122 for i in range(122)]
        data = np.random.default_rng(number).integers(0, 256, (122, 3 * side * side), dtype=np.uint8)
        batch = {"data": data, "labels": labels, "mean": np.zeros(3 * side * side)}
        if name == downsampled.VAL and change is not None:
            batch = change(batch)
        (root / name).write_bytes(pickle.dumps(batch, 2 + number % 3))
        pixels[name] = data, np.array(labels)
    return pixels


def test_imagenet16_120_keeps_the_first_120_classes(tmp_path):
    pixels = miniature(tmp_path)
    got = load("imagenet16-120", tmp_path)
    assert (len(got.train), len(got.test), got.shape) == (1200, 120, (3, 16, 16))
    assert got.train.classes == tuple(map(str, range(1, 121))) and "val_data is used as the test set" in got.notes
    assert got.augmentation == Augmentation(2, True, 0)
    assert got.mean == pytest.approx((0.4811, 0.4575, 0.4079), abs=5e-5)
    assert got.std == pytest.approx((0.2479, 0.2402, 0.2553), abs=5e-5)
    data, labels = pixels[downsampled.VAL]
    kept = labels <= 120
    assert got.test.labels.tolist() == (labels[kept] - 1).tolist()
    assert torch.equal(got.test.images, torch.from_numpy(data[kept].reshape(-1, 3, 16, 16)))
    data, labels = pixels[downsampled.TRAIN[9]]  # the tenth file comes last, and not after the first
    assert got.train.labels[-120:].tolist() == (labels[labels <= 120] - 1).tolist()
    assert len(load("imagenet16-120", tmp_path, images=120, test_images=120).train) == 120


@pytest.mark.parametrize("side", [16, 32, 64])
def test_downsampled_imagenet_has_all_classes_pickled_or_as_arrays(tmp_path, side):
    pixels = miniature(tmp_path, side=side)
    for name in (*downsampled.TRAIN[::2], downsampled.VAL):  # as in the archives ..._npz.zip
        (tmp_path / name).unlink()
        data, labels = pixels[name]
        np.savez(tmp_path / f"{name}.npz", data=data, labels=labels, mean=np.zeros(3 * side * side))
    got = load(f"imagenet{side}", tmp_path)
    assert (len(got.train), len(got.test), got.shape) == (1220, 122, (3, side, side))
    assert len(got.train.classes) == 1000 and got.train.classes[-1] == "1000"
    data, labels = pixels[downsampled.VAL]
    assert torch.equal(got.test.images, torch.from_numpy(data.reshape(-1, 3, side, side)))
    assert got.test.labels.tolist() == (labels - 1).tolist()
    for number, (name, (_, labels)) in enumerate(list(pixels.items())[:-1]):
        assert got.train.labels[122 * number : 122 * number + 122].tolist() == (labels - 1).tolist(), name


def saved(array):
    """The bytes of one array by itself."""
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


@pytest.mark.parametrize(
    ("arrays", "rule"),
    [
        ({"data": np.zeros((2, 768), np.uint8)}, "a dict with an array `data`"),
        ({"data": np.zeros((2, 768), np.float32), "labels": [1, 2]}, "`data` is uint8 in the order of C"),
        ({"data": np.zeros((2, 768), np.uint8), "labels": [1.0, 2.0]}, "labels are whole numbers"),
        ({"data": np.array([Hostile(), Hostile()]), "labels": [1, 2]}, "it is damaged, or no file of numbers alone"),
        (b"PK damaged", "it is damaged"),
        (saved(np.zeros(3)), "it is damaged"),
    ],
)
def test_other_arrays_are_refused(tmp_path, monkeypatch, arrays, rule):
    monkeypatch.chdir(tmp_path)
    miniature(tmp_path)
    (tmp_path / downsampled.VAL).unlink()
    path = tmp_path / f"{downsampled.VAL}.npz"
    if isinstance(arrays, bytes):
        path.write_bytes(arrays)
    else:
        np.savez(path, **arrays)
    with pytest.raises(
        DataError, match=rf"val_data\.npz' is no file of ImageNet at 16x16: .*{rule}.*; fetch it again$"
    ):
        load("imagenet16", tmp_path)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda b: b["labels"], "a dict with an array `data` and a list `labels`"),
        (lambda b: b | {"data": b["data"].astype(np.int64)}, "`data` is uint8 in the order of C"),
        (lambda b: b | {"data": np.asfortranarray(b["data"])}, "`data` is uint8 in the order of C"),
        (lambda b: b | {"labels": b["labels"][1:]}, r"`data` is 121 x 768 for as many labels, but got \(122, 768\)"),
        (lambda b: b | {"labels": [0, *b["labels"][1:]]}, "labels are whole numbers from 1 to 1000"),
        (lambda b: b | {"labels": ["1", *b["labels"][1:]]}, "labels are whole numbers from 1 to 1000"),
        (lambda b: b | {"more": Hostile()}, "it would call 'posix system'"),
    ],
)
def test_other_files_are_refused(tmp_path, change, rule):
    miniature(tmp_path, change=change)
    with pytest.raises(DataError, match=rf"val_data' is no file of ImageNet at 16x16: .*{rule}.*; fetch it again$"):
        load("imagenet16-120", tmp_path)


def test_images_of_32_pixels_are_another_download(tmp_path):
    miniature(tmp_path, side=32)
    with pytest.raises(DataError, match=r"`data` is 122 x 768 for as many labels, but got \(122, 3072\)"):
        load("imagenet16-120", tmp_path)


def test_missing_and_cut_files_are_named(tmp_path, monkeypatch):
    miniature(tmp_path)
    whole = (tmp_path / "train_data_batch_10").read_bytes()
    (tmp_path / "train_data_batch_10").write_bytes(whole[:-20])
    with pytest.raises(DataError, match=r"train_data_batch_10' is no file .*it is damaged"):
        load("imagenet16-120", tmp_path)
    (tmp_path / "train_data_batch_10").unlink()
    with pytest.raises(
        DataError, match=r"train_data_batch_1 to 10 and val_data, but .* lacks train_data_batch_10; fetch"
    ):
        load("imagenet16-120", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"'data' lacks train_data_batch_1; .*data\.root=DIR$"):
        load("imagenet16-120", download=True)

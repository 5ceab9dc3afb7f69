"""Folders as people have them: helpers of other programs, files of other types, images that cannot be read."""

import os
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers.odd_images import READABLE, UNREADABLE, encoded

from topocell.config.load import load_recipe
from topocell.data import image_formats
from topocell.data.augment import Augmentation
from topocell.data.folder_listing import Unused, is_image, some
from topocell.data.image_formats import readable_formats
from topocell.data.split_folders import check_apart
from topocell.data.splits import load
from topocell.errors import DataError
from topocell.runs.images import check_place


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TOPOCELL_CACHE", str(tmp_path_factory.mktemp("cache")))


def put(root: Path, name: str, content: bytes | None = None) -> None:
    """A file; an image where no content is given, of a value by its name."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        Image.new("RGB", (16, 16), (sum(os.fsencode(name)) % 256,) * 3).save(path, "PNG")
    else:
        path.write_bytes(content)


def tree(root: Path, parts: tuple[str, ...] = ("",), count: int = 5) -> Path:
    for part in parts:
        for label in ("cat", "dog"):
            for number in range(count):
                put(root, os.path.join(part, label, f"{number}.png"))
    return root


MARKED = encoded(Image.new("RGB", (16, 16), (7, 7, 7)), "PNG")
LAYOUTS = {"flat": ("",), "split": ("train", "test")}
HELPERS = (".ipynb_checkpoints", "@eaDir", ".thumbnails", "__MACOSX", ".git", "@Recently-Snapshot", "$RECYCLE.BIN")
LEFT_BEHIND = ("Thumbs.db", ".DS_Store", "desktop.ini", "._0.png", "Desktop.ini", ".hidden.jpg")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("helper", HELPERS)
def test_helper_folders_are_neither_classes_nor_images(tmp_path, layout, helper):
    clean = load("folder", tree(tmp_path / "clean", LAYOUTS[layout]))
    part = LAYOUTS[layout][0]
    for place in ("", part, os.path.join(part, "cat"), os.path.join(part, "cat", "more")):
        put(tmp_path / "clean", os.path.join(place, helper, "0-checkpoint.png"))
        put(tmp_path / "clean", os.path.join(place, helper, "deeper", "1.png"))
    got = load("folder", tmp_path / "clean")
    count = 8 if part else 6  # in a flat tree, the first two places are one
    assert got.fingerprint == clean.fingerprint and got.train.classes == ("cat", "dog")
    assert f"files not used: {count} hidden ({helper} {count})" in got.notes


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_that_systems_leave_are_no_images(tmp_path, layout):
    clean = load("folder", tree(tmp_path, LAYOUTS[layout]))
    part = LAYOUTS[layout][0]
    for place in (part, os.path.join(part, "dog")):
        for name in LEFT_BEHIND:
            put(tmp_path, os.path.join(place, name), b"left behind")
    got = load("folder", tmp_path)
    assert got.fingerprint == clean.fingerprint
    (note,) = [note for note in got.notes if note.startswith("files not used: 12 hidden (")]
    assert "._* 2" in note and "and 3 more)" in note


@pytest.fixture
def without_heif(monkeypatch):
    monkeypatch.setattr(image_formats, "find_spec", lambda name: None)
    image_formats.readable_formats.cache_clear()
    yield
    image_formats.readable_formats.cache_clear()


def test_other_types_and_images_outside_are_counted_in_one_line(tmp_path, without_heif):
    tree(tmp_path)
    for name in ("cat/a.HEIC", "cat/b.heic", "dog/notes.txt", "README", "labels.csv", "over.jpg", "dog/.DS_Store"):
        put(tmp_path, name, b"")
    (note,) = [note for note in load("folder", tmp_path).notes if note.startswith("files not used")]
    assert note == (
        "files not used: 1 hidden (.DS_Store 1), 5 of another type (.heic 2, .csv 1, .txt 1 and 1 more), "
        "1 image outside the class folders; .heic: install topocell[heic] to read them, or convert them"
    )
    assert Unused().notes() == []


def test_a_class_of_another_type_only_says_so(tmp_path, without_heif):
    tree(tmp_path)
    put(tmp_path, "owl/1.heic", b"")
    with pytest.raises(DataError, match=r"none is in owl .files not used: 1 of another type .*; .heic: install"):
        load("folder", tmp_path)


@pytest.mark.parametrize("suffix", [".heic", ".HEIF", ".avif"])
def test_photos_of_phones_are_read(tmp_path, suffix):
    """As JPEG files of the best quality, but for the loss of both. Where HEIC is turned, its decoder does it."""
    draws = np.random.default_rng(0)
    blocks = np.kron(draws.integers(0, 256, (4, 6, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    assert suffix.lower() in readable_formats()[0]
    for place in ("cat/0", "cat/1", "dog/0", "dog/1"):
        for folder, end in (("jpg", ".jpg"), ("phone", suffix)):
            path = tmp_path / folder / f"{place}{end}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(blocks).save(path, quality=100)
    plain, phone = (load("folder", tmp_path / folder, resolution=32) for folder in ("jpg", "phone"))
    assert (plain.train.images.float() - phone.train.images.float()).abs().mean() < 6
    assert phone.train.files == tuple(name.replace(".jpg", suffix) for name in plain.train.files)


@pytest.mark.parametrize("name", ["a.jpg", "a.JPEG", "a.jfif", "a.gif", "a.Tif", "__a.png", "@a.png"])
def test_images_by_name(name):
    assert is_image(name)
    assert not is_image("._" + name) and not is_image(name + ".txt")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_closed_helper_folder_is_no_fault(tmp_path):
    tree(tmp_path)
    put(tmp_path, ".Trash/1.png")
    (tmp_path / ".Trash").chmod(0)
    assert len(load("folder", tmp_path).train.classes) == 2


# What folders are called


@pytest.mark.parametrize("composed", [("train",), ("test",), (), ("train", "test")])
def test_accents_of_macos_and_of_linux_are_the_same_name(tmp_path, composed):
    """As two characters, `ü` sorts before `z`, as one after it."""
    for part in ("train", "test"):
        form = "NFC" if part in composed else "NFD"
        for label in ("Müll", "Mz"):
            put(tmp_path, f"{part}/{unicodedata.normalize(form, label)}/0.png", None if label == "Mz" else MARKED)
    got = load("folder", tmp_path)
    assert got.train.classes == ("Mz", unicodedata.normalize("NFC", "Müll"))
    for part in (got.train, got.test):
        assert part.labels.tolist() == [0, 1] and part.images[1, 0, 0, 0] == 7


def test_two_classes_that_look_alike_are_refused(tmp_path):
    for form in ("NFC", "NFD"):
        put(tree(tmp_path), f"{unicodedata.normalize(form, 'Müll')}/0.png")
    with pytest.raises(DataError, match=r"different names, but Müll in .* is there twice, .*; merge or rename the two"):
        load("folder", tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        *[("train", "test1"), ("train_images", "test_images"), ("Train", "val", "sample"), ("X_train", "X_test")],
        *[("seg_train", "seg_test", "seg_pred"), ("TrainImages", "TestImages"), ("trainset", "testset", "more")],
        *[("dogs_training", "dogs_validation"), ("train_jpg", "test_png"), ("2019 train", "2020 val")],
    ],
)
def test_parts_of_a_split_with_images_themselves_are_not_taken_for_classes(tmp_path, names):
    for name in names:
        for number in range(3):
            put(tmp_path, f"{name}/{number}.png")
    with pytest.raises(DataError, match=r"folders of a split hold CLASS/\*, but .* hold images themselves; sort them"):
        load("folder", tmp_path)


@pytest.mark.parametrize("names", [("seg_train", "seg_test"), ("trainset", "testset"), ("my_train", "my_test", "pred")])
@pytest.mark.parametrize("between", ["", "again/"])
def test_parts_of_other_names_are_not_taken_for_classes(tmp_path, names, between):
    """As Kaggle unpacks Intel Image Classification: seg_train/seg_train/CLASS; a part may lack a class."""
    for name, classes in zip(names, (("a", "b", "c"), ("a", "b"), ())):
        for label in classes or ("",):
            put(tmp_path, f"{name}/{between}{label}/0.png")
    words = r"called train/ and test/ \(or val/\) and hold CLASS/\* right inside, but .* has .*; rename the parts"
    with pytest.raises(DataError, match=words):
        load("folder", tmp_path)


@pytest.mark.parametrize(
    "names",
    [
        *[("train", "car"), ("test tube", "train ticket", "cup"), ("test 1", "test 2"), ("train", "trainer")],
        *[("steam train", "blood test"), ("freight train", "passenger train"), ("value", "trains"), ("valid", "void")],
    ],
)
def test_classes_may_be_called_like_a_part_of_a_split(tmp_path, names):
    for name in names:
        for number in range(3):
            put(tmp_path, f"{name}/{number}.png")
    assert load("folder", tmp_path).train.classes == tuple(sorted(names))


@pytest.mark.parametrize(("part", "bare"), [("train", "test"), ("train", "val"), ("test", "Training")])
def test_a_part_without_class_folders_is_named(tmp_path, part, bare):
    put(tree(tmp_path, (part,)), f"{bare}/1.png")
    with pytest.raises(DataError, match=rf"go together, but in .* no CLASS folders are in {bare}; it should hold DIR"):
        load("folder", tmp_path)


def test_folders_beside_those_of_a_split_are_counted(tmp_path):
    clean = load("folder", tree(tmp_path, ("train", "val")))
    for name in ("test/1.png", "test/2.png", "extra/cat/1.jpg", "labels/1.txt", "train/3.png"):
        put(tmp_path, name)
    got = load("folder", tmp_path)
    assert got.fingerprint == clean.fingerprint
    assert "files not used: 1 of another type (.txt 1), 4 images outside the class folders" in got.notes
    put(tree(tmp_path, ("test",)), "test/cat/9.png")  # val/ is then said not to be used
    assert any(note.endswith("(.txt 1), 4 images outside the class folders") for note in load("folder", tmp_path).notes)


def test_files_that_change_places_are_read_again(tmp_path):
    """Bitmaps of one size that were unpacked with one time: nothing but their places has changed."""
    tree(tmp_path)
    files = [tmp_path / label / "0.bmp" for label in ("cat", "dog")]
    for value, file in enumerate(files):
        Image.new("RGB", (16, 16), (value,) * 3).save(file)
        os.utime(file, (1e9, 1e9))
    before = load("folder", tmp_path).train.images
    files[0].rename(tmp_path / "aside")
    files[1].rename(files[0])
    (tmp_path / "aside").rename(files[1])
    after = load("folder", tmp_path).train.images
    assert not torch.equal(after, before) and torch.equal(after.sort(0).values, before.sort(0).values)


def test_a_tree_one_folder_too_deep_names_that_of_the_classes(tmp_path):
    tree(tmp_path / "photos", ("train", "test"))
    with pytest.raises(
        DataError,
        match=r"has only 'photos'; add a folder, or name the folder of the classes, such as data.root=.*photos$",
    ):
        load("folder", tmp_path)


# Images that cannot be read


@pytest.mark.parametrize(
    "names",
    [
        *[("images", "masks"), ("images", "labels"), ("JPEGImages", "Annotations", "SegmentationClass"), ("img", "gt")],
        ("images", "infection masks", "Lung Masks"),
    ],
)
@pytest.mark.parametrize("parts", [("",), ("train", "val")])
def test_images_beside_their_masks_or_labels_are_no_classes(tmp_path, names, parts):
    """Sets for segmentation and detection: they would be told apart, and that with high accuracy."""
    for part in parts:
        for name in names:
            for i in range(3):
                put(tmp_path, os.path.join(part, name, f"{i}.png"))
    with pytest.raises(DataError, match="as for segmentation or detection; sort the images into") as caught:
        load("folder", tmp_path)
    assert all(name in str(caught.value) for name in names)


@pytest.mark.parametrize(
    ("places", "drawn"),
    [
        (("cat/images", "cat/masks", "dog/images", "dog/masks"), ("cat/masks", "dog/masks")),
        (("cat/images", "cat/lung masks", "dog"), ("cat/lung masks",)),
        (("cat", "cat/GT", "dog"), ("cat/GT",)),
        (("cat/a/images/left", "cat/a/labels/left", "cat/b", "dog"), ("cat/a/labels",)),
        (("cat/images", "cat/more", "dog"), ()),
        (("cat/gt", "cat/cabriolet", "cat/with mask", "dog/masks/images"), ()),
    ],
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_masks_in_a_folder_of_a_class_are_none_of_its_images(tmp_path, layout, places, drawn):
    """As COVID-QU-Ex has them: a network would be trained and tested on them, or told to rename the folders."""
    for part in LAYOUTS[layout]:
        for place in places:
            for number in range(3):
                put(tmp_path, os.path.join(part, place, f"{number}.png"))
    if not drawn:
        assert load("folder", tmp_path).train.classes == ("cat", "dog")
        return
    said = rf"but {', '.join(drawn)} in .* {'are' if drawn[1:] else 'is'} called as masks or labels of those beside"
    with pytest.raises(DataError, match=said):
        load("folder", tmp_path)


@pytest.mark.parametrize(
    ("pictures", "others"),
    [
        ("Images", ("Annotation/cat/0.png", "Annotation/dog/0.png")),
        ("images", ("meta/classes.txt",)),
        ("images", ("imdb/imdb.mat", "labels/train1.txt")),
        ("images", ("attributes/a.txt", "parts/p.txt", "segmentations/cat/0.png", "segmentations/dog/0.png")),
    ],
)
def test_class_folders_that_lie_in_images_are_found(tmp_path, pictures, others):
    """As of Stanford Dogs, Food-101, DTD and CUB: what is said is what to do."""
    tree(tmp_path / pictures)
    for name in others:
        put(tmp_path, name, None if name.endswith("png") else b"")
    with pytest.raises(DataError) as caught:
        load("folder", tmp_path)
    way = f", or if the folders in {pictures!r} are the classes, set data.root={tmp_path / pictures}"
    assert str(caught.value).endswith(way)
    assert load("folder", tmp_path / pictures).train.classes == ("cat", "dog")


@pytest.mark.parametrize("way", ["cat/..", "cat/../../photos", "dog/../."])
def test_a_path_through_a_folder_of_the_tree_leaves_none_of_it_out(tmp_path, monkeypatch, way):
    place = tree(tmp_path / "photos")
    wanted = load("folder", place)
    assert torch.equal(load("folder", place / way).train.images, wanted.train.images)
    monkeypatch.chdir(place / "cat")
    assert load("folder", Path("..")).train.classes == wanted.train.classes == ("cat", "dog")


@pytest.mark.parametrize("target", ["gone", "owl"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_class_that_is_a_link_to_nowhere_is_not_lost_in_silence(tmp_path, layout, target):
    for part in LAYOUTS[layout]:
        place = tree(tmp_path, LAYOUTS[layout]) / part
        (place / "owl").symlink_to(place / target)
    with pytest.raises(DataError, match=r"nothing is where owl leads; mend or delete such links"):
        load("folder", tmp_path)
    for part in LAYOUTS[layout]:
        (tmp_path / part / "owl").rename(tmp_path / part / ".owl")
    assert load("folder", tmp_path).train.classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("names", "masks"),
    [
        (("a (1).png", "a (1)_mask.png", "a (1)_mask_1.png"), ("a (1)_mask.png", "a (1)_mask_1.png")),
        (("0.png", "0_Segmentation.png", "1.png", "1-GT.png"), ("0_Segmentation.png", "1-GT.png")),
        (("mask.png", "a_mask.png", "b.png", "label 1.png", "0_mask/0.png"), ()),
    ],
)
def test_masks_among_the_images_of_a_class_are_said(tmp_path, names, masks):
    """They are used, as a folder of images would be elsewhere; nobody but the user knows what they are."""
    tree(tmp_path)
    for name in names:
        put(tmp_path, os.path.join("cat", name))
    notes = [note for note in load("folder", tmp_path).notes if "called as masks" in note]
    assert len(notes) == bool(masks)
    if masks:
        assert notes[0].startswith(
            f"2 images called as masks of others beside them ({', '.join(masks)}): they are images"
        )


def test_classes_may_be_called_mask_and_image(tmp_path):
    for name in ("mask", "no mask", "images"):
        for i in range(3):
            put(tmp_path, os.path.join(name, f"{i}.png"))
    assert load("folder", tmp_path).train.classes == ("images", "mask", "no mask")


@pytest.mark.parametrize(
    ("suffix", "way"), [("jp2", "convert them"), ("DCM", "convert them"), ("zip", "unpack them"), ("txt", "")]
)
def test_what_could_be_read_elsewhere_says_how(tmp_path, suffix, way):
    for name in "ab":
        for i in range(3):
            put(tmp_path, os.path.join(name, f"{i}.png"))
    (tmp_path / "a" / f"x.{suffix}").write_bytes(b"x")
    (note,) = (note for note in load("folder", tmp_path).notes if note.startswith("files not used"))
    assert note.endswith(f"(.{suffix.lower()} 1)" + f"; .{suffix.lower()}: {way}" * bool(way))


def test_every_odd_file_that_can_be_read_is_used(tmp_path):
    tree(tmp_path, ("train", "test"))
    for name, (suffix, content) in READABLE.items():
        put(tmp_path, f"train/cat/{name}.{suffix}", content())
    got = load("folder", tmp_path)
    assert len(got.train) == 10 + len(READABLE)
    assert "4 images with several frames or pages: the first is used" in got.notes


@pytest.mark.parametrize("name", UNREADABLE)
def test_one_odd_file_is_named_or_skipped(tmp_path, name):
    tree(tmp_path, ("train", "test"))
    without = load("folder", tmp_path, resolution=16)
    suffix, content, words = UNREADABLE[name]
    put(tmp_path, f"train/cat/odd.{suffix}", content())
    with pytest.raises(DataError) as caught:
        load("folder", tmp_path, resolution=16)
    text = str(caught.value)
    assert re.search(rf"^1 of 21 images cannot be read: train.cat.odd\.{suffix} \((.*?)\); repair or delete", text)
    assert re.search(words, text) and text.endswith("data.unreadable=skip") and "\n" not in text
    got = load("folder", tmp_path, resolution=16, unreadable="skip")
    assert got.fingerprint == without.fingerprint
    assert "1 image cannot be read and left out: cat 1" in got.notes
    assert any(note.startswith(f"left out: {os.path.join('train', 'cat', 'odd')}.{suffix} (") for note in got.notes)


@pytest.mark.parametrize("content", ["16 bits grey", "truncated png"])
def test_what_is_skipped_has_no_say_in_channels_and_side(tmp_path, content):
    """Of the odd files one is deep, and the other one large and in colour."""
    for part in ("train", "test"):
        for label in ("cat", "dog"):
            put(tmp_path, f"{part}/{label}/0.png", encoded(Image.new("L", (16, 16), 9), "PNG"))
    without = load("folder", tmp_path)
    for number in range(12):
        put(tmp_path, f"train/cat/odd{number}.png", UNREADABLE[content][1]())
    got = load("folder", tmp_path, unreadable="skip")
    assert got.shape == (1, 16, 16) and got.fingerprint == without.fingerprint
    (named,) = (note for note in got.notes if note.startswith("left out: "))
    assert all(os.path.join("train", "cat", f"odd{number}.png (") in named for number in range(12))
    assert not any("resized" in note for note in got.notes)


def test_what_is_skipped_is_counted_per_class_and_labels_stay(tmp_path):
    tree(tmp_path, ("train", "test"))
    for name in ("train/cat/0.png", "train/dog/1.png", "train/dog/4.png", "test/dog/2.png"):
        put(tmp_path, name, b"")
    got = load("folder", tmp_path, unreadable="skip")
    assert got.train.labels.tolist() == [0] * 4 + [1] * 3 and got.test.labels.tolist() == [0] * 5 + [1] * 4
    assert "4 images cannot be read and left out: dog 3, cat 1" in got.notes
    assert got.notes[0] == "2 classes (cat, dog), 7 + 9 images, 3 x 16 x 16"  # no cap of images has left out any
    assert got.train.images[:, 0, 0, 0].tolist() == [
        sum(os.fsencode(f"train/{label}/{number}.png")) % 256
        for label, numbers in (("cat", (1, 2, 3, 4)), ("dog", (0, 2, 3)))
        for number in numbers
    ]


@pytest.mark.parametrize(("part", "word"), [("train", "training"), ("test", "test")])
@pytest.mark.parametrize("labels", [("cat",), ("cat", "dog")])
def test_a_class_that_loses_all_its_images_is_one_line(tmp_path, part, word, labels):
    tree(tmp_path, ("train", "test"))
    for label in labels:
        for number in range(5):
            put(tmp_path, f"{part}/{label}/{number}.png", b"")
    have = "have" if len(labels) > 1 else "has"
    rule = f"every class keeps a {word} image that can be read, but {', '.join(labels)} {have} none left; repair"
    with pytest.raises(DataError, match=rule) as caught:
        load("folder", tmp_path, unreadable="skip")
    assert "\n" not in str(caught.value)


# Augmentation


@pytest.mark.parametrize("name", ["digits", "folder"])
@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, {"digits": (0, False), "folder": (2, True)}),
        ({"flip": False}, {"digits": (0, False), "folder": (2, False)}),
        ({"flip": True, "crop": False}, {"digits": (0, True), "folder": (0, True)}),
        ({"crop": True}, {"digits": (1, False), "folder": (2, True)}),
        ({"crop": 5}, {"digits": (5, False), "folder": (5, True)}),
        ({"crop": 0}, {"digits": (0, False), "folder": (0, True)}),
        ({"crop": 1}, {"digits": (1, False), "folder": (1, True)}),
    ],
)
def test_flip_and_crop_take_the_place_of_what_the_dataset_says(tmp_path, name, options, wanted):
    root = tree(tmp_path) if name == "folder" else None
    padding, flip = wanted[name]
    assert load(name, root, **options).augmentation == Augmentation(padding, flip, 0)


@pytest.mark.parametrize("crop", [8, 100, -1])
def test_a_crop_that_leaves_nothing_is_refused(crop):
    with pytest.raises(DataError, match=rf"data\.crop is below the side of the images, 8 pixels, .* got {crop}; 1 is"):
        load("digits", crop=crop)


def test_names_that_look_alike_are_told_apart():
    assert some(["cat", "cat ", "c\u200bat", "a b", "café"], 5) == "cat, 'cat ', 'c\\u200bat', a b, café"


@pytest.mark.parametrize("root", ["a\0b", "~nobody-of-that-name/x", "a" * 5000])
def test_a_place_that_no_system_has_is_told_before_it_is_compared_with_that_of_the_run(tmp_path, root):
    recipe = load_recipe("quickstart", ["data.dataset=folder"])
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"root": root})})
    with pytest.raises(DataError, match=r"data\.root names a directory, but .* cannot be looked up .*; check the path"):
        check_place(recipe, tmp_path)


@pytest.mark.parametrize(
    ("within", "way"),
    [
        (("40X", "100X"), r"rename the folders in them so that they differ: cat/cat-100X$"),
        (("train", "test"), r"move the parts of the split up: test/cat$"),
        (("train", "valid", "test"), r"move the parts of the split up: test/cat$"),
    ],
)
def test_classes_that_all_hold_folders_of_the_same_names_are_told_a_way(tmp_path, within, way):
    for label in ("cat", "dog"):
        for name in within:
            put(tmp_path, f"{label}/{name}/0.png")
    with pytest.raises(DataError, match=rf"all hold folders called .*, or if cat, dog are the classes, {way}"):
        load("folder", tmp_path)


@pytest.mark.parametrize("name", ["#snapshot", "~snapshot", "#recycle", "@eaDir"])
def test_copies_that_network_drives_keep_are_no_classes(tmp_path, name):
    put(tree(tmp_path), f"{name}/0.png")
    assert name not in load("folder", tmp_path).train.classes


@pytest.mark.parametrize("others", [("test/cat",), ("test/unknown",), ("test/cat", "test/dog", "test/emu")])
def test_where_the_parts_disagree_the_ways_out_are_named(tmp_path, others):
    for name in ("train/cat", "train/dog", *others):
        for number in range(2):
            put(tmp_path, f"{name}/{number}.png")
    words = r"train/ and test/ have the same classes, but only one .*; data.root=\S+train alone is cut into"
    with pytest.raises(DataError, match=words):
        load("folder", tmp_path)
    for name in ("val/cat", "val/dog"):
        put(tmp_path, f"{name}/0.png")
    with pytest.raises(DataError, match=r"and without test/ the test set is val/$"):
        load("folder", tmp_path)
    assert load("folder", tmp_path / "train").train.classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("layout", "out", "fits"),
    [
        ("flat", "run", False),
        ("flat", "runs/a", False),
        ("flat", "cat/run", False),
        ("flat", ".runs/a", True),
        ("split", "runs/a", True),
        ("split", "train/run", False),
        ("split", "TEST/run", False),
        ("flat", "../run", True),
        ("flat", "../images-run", True),
    ],
)
def test_a_run_is_not_written_among_the_class_folders(tmp_path, layout, out, fits):
    root = tree(tmp_path / "images", LAYOUTS[layout])
    if fits:
        check_apart(root, root / out)
        return
    with pytest.raises(DataError, match=r"lies among the class folders of data\.root=.*; choose an --out beside it$"):
        check_apart(root, root / out)
    (root / out).mkdir(parents=True, exist_ok=True)
    with pytest.raises(DataError, match=r"choose an --out beside it, and move the run there$"):
        check_apart(root, root / out)

"""Datasets read from disk, every fault a user's files can have, and the splits of a search."""

import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import scipy.io
import torch
import torchvision.datasets.cifar
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import functional as transforms

from topocell.data import image_folder as folders
from topocell.data import splits
from topocell.data.readers import DATASETS, Entry, in_memory
from topocell.data.splits import Batches, ImageSet, fingerprint, load, overlap, search_data, split
from topocell.errors import DataError
from topocell.runs.estimate import free_memory
from topocell.testing import check_dataset

CIFAR_JPEG = os.environ.get("TOPOCELL_CIFAR_JPEG", "")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """A cache of its own for each test; its folder."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("TOPOCELL_CACHE", str(folder))
    return folder


def write(path, value=0, size=(8, 8), mode="RGB", seed=None):
    """An image of one grey value, or of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if seed is None:
        picture = Image.new("L", size, value)
    else:
        picture = Image.fromarray(np.random.default_rng(seed).integers(0, 256, size[::-1], dtype=np.uint8))
    picture.convert(mode).save(path)


def tree(root, counts, size=(8, 8), mode="RGB", suffix="png"):
    """Images named by number under root/PART_OR_CLASS, each of one grey value of its own."""
    value = 0
    for folder, count in counts.items():
        for number in range(count):
            value += 1
            write(root / folder / f"{number:03}.{suffix}", value, size, mode)
    return root


def small(root, **options):
    return tree(root, {"train/a": 4, "train/b": 3, "test/a": 2, "test/b": 1}, **options)


def random_set(n=60, classes=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, 3, 8, 8), dtype=torch.uint8, generator=g)
    return ImageSet(images, torch.arange(n) % classes, tuple("abcdefgh"[:classes]))


def values(images):
    """The grey value of each image of one value."""
    return images[:, 0, 0, 0].tolist()


# Named sets


def test_digits():
    digits = load("digits")
    assert digits.shape == (1, 8, 8) and digits.train.classes == tuple("0123456789")
    assert len(digits.train) + len(digits.test) == 1797
    assert int(digits.train.images.max()) == 255 and digits.train.images.dtype == torch.uint8
    for label in range(10):  # stratified: a fifth of every class
        train, test = (int((part.labels == label).sum()) for part in (digits.train, digits.test))
        assert abs(test - (train + test) / 5) <= 1
    assert overlap(digits.train, digits.test) == 0
    assert digits.augmentation.padding == 0 and not digits.augmentation.flip and digits.augmentation.cutout == 0
    assert any("at random and always the same" in note for note in digits.notes)


def test_digits_do_not_depend_on_the_seed_unless_capped():
    assert load("digits", seed=0).fingerprint == load("digits", seed=1).fingerprint
    assert load("digits", images=100, seed=0).fingerprint == load("digits", images=100, seed=0).fingerprint
    assert load("digits", images=100, seed=0).fingerprint != load("digits", images=100, seed=1).fingerprint


def test_statistics_are_those_of_the_training_images():
    digits = load("digits", images=200)
    pixels = digits.train.images.double() / 255
    assert digits.mean == pytest.approx([float(pixels.mean())])
    assert digits.std == pytest.approx([float(pixels.std(correction=0))])


@pytest.mark.parametrize(("images", "test_images"), [(10, 10), (105, 33), (1437, None), (5000, 5000)])
def test_caps_take_the_same_number_per_class(images, test_images):
    digits = load("digits", images=images, test_images=test_images)
    whole = load("digits")
    for part, count, full in ((digits.train, images, whole.train), (digits.test, test_images, whole.test)):
        assert len(part) == min(count or len(full), len(full))
        if len(part) < len(full) - 50:
            sizes = part.labels.bincount(minlength=10)
            assert int(sizes.max() - sizes.min()) <= 1


def test_a_cap_beyond_a_small_class_is_filled_from_the_others(tmp_path):
    root = tree(tmp_path, {"train/a": 9, "train/b": 2, "test/a": 2, "test/b": 1})
    sizes = load("folder", root, images=8).train.labels.bincount()
    assert sizes.tolist() == [6, 2]


@pytest.mark.parametrize("resolution", [8, 12, 16, 32])
def test_resolution_scales_images_and_padding_but_digits_are_never_cropped(resolution, tmp_path):
    digits = load("digits", resolution=resolution, images=20)
    assert digits.shape == (1, resolution, resolution) and digits.augmentation.padding == 0
    root = tree(tmp_path, {"train/a": 2, "train/b": 2, "test/a": 1, "test/b": 1})
    assert load("folder", root, resolution=resolution).augmentation.padding == resolution // 8


@pytest.mark.parametrize("resolution", [0, 4, 30, -8])
def test_odd_resolutions_are_refused(resolution):
    with pytest.raises(DataError, match=f"multiple of 4 and at least 8, but got {resolution}"):
        load("digits", resolution=resolution)


@pytest.mark.parametrize("option", ["images", "test_images"])
def test_of_each_class_one_image_is_taken_whatever_the_cap(option):
    """A budget, whose number it is, knows no classes."""
    found = load("digits", **{option: 9})
    part = found.train if option == "images" else found.test
    assert sorted(part.labels.tolist()) == list(range(10))
    assert f"data.{option}=9 would leave classes without an image: 10 images are taken, one of each" in found.notes
    assert not any("would leave" in note for note in load("digits", **{option: 10}).notes)


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(DataError, match=r"unknown dataset 'cifar-10' \(did you mean 'cifar10'\?\); known: cifar10"):
        load("cifar-10")


def cifar(root, kind):
    """CIFAR's own files with few images: 2 per batch file in training, 2 for test."""
    reader = getattr(torchvision.datasets, kind)
    folder = root / reader.base_folder
    folder.mkdir(parents=True)
    key = "labels" if kind == "CIFAR10" else "fine_labels"
    classes = 10 if kind == "CIFAR10" else 100
    for number, (name, _) in enumerate(reader.train_list + reader.test_list):
        pixels = np.full((classes, 3, 32, 32), number, np.uint8)
        pixels[:, 1] = 100  # tells the channels apart
        (folder / name).write_bytes(pickle.dumps({"data": pixels.reshape(classes, -1), key: list(range(classes))}))
    names = {reader.meta["key"]: [f"class {i}" for i in range(classes)]}
    (folder / reader.meta["filename"]).write_bytes(pickle.dumps(names))


@pytest.mark.parametrize(
    ("kind", "shape", "first"), [("CIFAR10", (50, 10), 0.49139968), ("CIFAR100", (100, 100), 0.5071)]
)
def test_cifar_in_torchvisions_files(tmp_path, monkeypatch, kind, shape, first):
    cifar(tmp_path, kind)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *_: True)  # of the real files only
    got = load(kind.lower(), tmp_path)
    assert (len(got.train), len(got.test)) == shape and got.shape == (3, 32, 32)
    assert got.train.images[:, 1].eq(100).all() and got.train.images[0, 0].eq(0).all()
    assert got.train.classes[1] == "class 1" and got.train.labels[:10].tolist() == list(range(10))
    assert got.mean[0] == first and got.augmentation == splits.Augmentation(4, True, 0)
    assert load(kind.lower(), tmp_path, resolution=16).augmentation.padding == 2


def test_svhn_in_torchvisions_files(tmp_path, monkeypatch):
    for side, n in (("train", 20), ("test", 10)):
        pixels = np.zeros((32, 32, 3, n), np.uint8)
        pixels[:, :, 2] = 7
        labels = 1 + np.arange(n)[:, None] % 10  # SVHN writes 10 for the digit 0
        scipy.io.savemat(tmp_path / f"{side}_32x32.mat", {"X": pixels, "y": labels})
    monkeypatch.setattr(torchvision.datasets.SVHN, "_check_integrity", lambda _: True)
    got = load("svhn", tmp_path)
    assert (len(got.train), len(got.test)) == (20, 10) and got.shape == (3, 32, 32)
    assert got.train.images[:, 2].eq(7).all() and got.train.labels[9] == 0
    assert got.train.classes == tuple("0123456789") and got.std[2] == 0.1970


def test_imagenet_in_torchvisions_files(tmp_path):
    names = {"n02012849": ("crane",), "n03126707": ("crane", "hoist")}
    torch.save((names, []), tmp_path / "meta.bin")  # what torchvision makes of the devkit
    for part, shades in (("train", (10, 20, 30)), ("val", (40,))):
        for label, wnid in enumerate(names):
            for shade in shades:
                path = tmp_path / part / wnid / f"{shade}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (20 + shade, 24), (shade + 100 * label,) * 3).save(path)
    got = load("imagenet", tmp_path, resolution=16, images=4)
    assert (len(got.train), len(got.test)) == (4, 2) and got.shape == (3, 16, 16)
    assert got.train.classes == ("n02012849 crane", "n03126707 crane") and got.mean[0] == 0.485
    assert got.test.labels.tolist() == [0, 1] and got.test.images.float().mean((1, 2, 3)).round().tolist() == [40, 140]
    assert "val/ is used as the test set" in got.notes


def test_imagenet_without_its_files_says_which(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        DataError, match=r"train/WNID/\* .*ILSVRC2012_devkit_t12\.tar\.gz .*'data' lacks some .*data\.root=DIR$"
    ):
        load("imagenet")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn"])
def test_absent_files_say_how_to_get_them(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"'data' lacks them .*data\.root=DIR .*data\.download=true$"):
        load(name)
    with pytest.raises(DataError, match=r", or set data\.dataset=folder for images of your own$"):
        load(name, small(tmp_path))


@pytest.mark.parametrize("fault", [URLError("no route\nto host"), RuntimeError("corrupted"), ConnectionResetError()])
def test_a_failed_download_is_one_line(tmp_path, monkeypatch, fault):
    def fail(*args, **kwargs):
        raise fault

    monkeypatch.setattr(torchvision.datasets.cifar, "download_and_extract_archive", fail)
    with pytest.raises(DataError, match="CIFAR10 could not be downloaded") as caught:
        load("cifar10", tmp_path, download=True)
    assert "\n" not in str(caught.value)


# Folders


@pytest.mark.parametrize("suffix", ["png", "bmp", "PNG", "webp", "tiff"])
def test_folder_reads_classes_labels_and_pixels(tmp_path, suffix):
    got = load("folder", small(tmp_path, suffix=suffix))
    assert got.train.classes == ("a", "b") and got.shape == (3, 8, 8)
    assert got.train.labels.tolist() == [0, 0, 0, 0, 1, 1, 1] and got.test.labels.tolist() == [0, 0, 1]
    if suffix != "webp":  # lossy
        assert values(got.train.images) == [1, 2, 3, 4, 5, 6, 7] and values(got.test.images) == [8, 9, 10]
    assert got.augmentation == splits.Augmentation(1, True, 0)
    mirrored = "training images are mirrored at random; data.flip=false for letters, signs and medical images"
    assert got.notes == ("2 classes (a, b), 7 + 3 images, 3 x 8 x 8", mirrored)
    assert load("folder", tmp_path, flip=False).notes == load("folder", tmp_path, flip=True).notes == got.notes[:1]


def test_folder_of_jpegs_nested_deeper_with_foreign_and_hidden_files(tmp_path):
    root = small(tmp_path, suffix="jpg")
    write(root / "train" / "a" / "more" / "x.jpeg", 200)
    (root / "train" / "a" / "notes.txt").write_text("no image")
    (root / "train" / "a" / "._000.jpg").write_bytes(b"left by a file manager")
    (root / "train" / ".ipynb_checkpoints").mkdir()
    got = load("folder", root)
    assert len(got.train) == 8 and got.train.classes == ("a", "b")
    assert 200 in values(got.train.images)


def test_pixels_and_channels_arrive_as_they_are(tmp_path):
    small(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "train" / "a" / "000.png")
    got = load("folder", tmp_path).train.images[0]
    assert np.array_equal(got.permute(1, 2, 0).numpy(), pixels)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("1", 1), ("RGB", 3), ("P", 3), ("RGBA", 3), ("LA", 3)])
def test_channels_follow_the_files(tmp_path, mode, channels):
    assert load("folder", small(tmp_path, mode=mode)).shape == (channels, 8, 8)


def test_one_colour_file_makes_all_of_them_colour(tmp_path):
    root = small(tmp_path, mode="L")
    write(root / "test" / "b" / "000.png", 9, mode="RGB")
    got = load("folder", root)
    assert got.shape == (3, 8, 8) and values(got.train.images)[:2] == [1, 2]


@pytest.mark.parametrize(
    ("size", "side"), [((32, 32), 32), ((30, 30), 32), ((33, 33), 32), ((6, 6), 8), ((300, 400), 224), ((40, 28), 28)]
)
def test_resolution_of_a_folder_is_a_multiple_of_4(tmp_path, size, side):
    got = load("folder", small(tmp_path, size=size))
    assert got.shape == (3, side, side)
    assert len(got.notes) == 2 + (size != (side, side))
    assert all(f"resized to {side}x{side}" in note for note in got.notes[1:-1])


@pytest.mark.parametrize(
    ("side", "resolution", "more"), [(300, 16, 64), (300, 64, None), (40, 16, 40), (300, None, None), (8, 16, None)]
)
def test_what_keeps_more_of_an_image_is_said(
    tmp_path: Path, side: int, resolution: int | None, more: int | None
) -> None:
    found = " ".join(load("folder", small(tmp_path, size=(side, side)), resolution=resolution).notes)
    said = f"as data.resolution or the budget says; data.resolution={more} keeps more"
    assert (said in found) if more else ("keeps more" not in found)


def test_mixed_sizes_take_the_median_shorter_side(tmp_path):
    root = small(tmp_path, size=(20, 40))
    write(root / "train" / "a" / "000.png", 1, size=(64, 48))
    write(root / "train" / "a" / "001.png", 2, size=(10, 9))
    got = load("folder", root)
    assert got.shape == (3, 20, 20) and values(got.train.images) == [1, 2, 3, 4, 5, 6, 7]
    assert load("folder", root, resolution=16).shape == (3, 16, 16)


@pytest.mark.parametrize("size", [(16, 32), (48, 24)])
def test_resizing_equals_torchvisions_resize_and_centre_crop(tmp_path, size):
    path = small(tmp_path) / "train" / "a" / "000.png"
    write(path, size=size, seed=0)
    want = transforms.pil_to_tensor(transforms.center_crop(transforms.resize(Image.open(path), 8), [8, 8]))
    got = load("folder", tmp_path, resolution=8).train.images[0]
    assert int((got.int() - want.int()).abs().max()) <= 1  # rounding: torchvision resizes what it then cuts off


def test_exif_orientation_is_applied(tmp_path):
    root = small(tmp_path)
    picture = np.zeros((8, 8, 3), np.uint8)
    picture[0] = 255  # a bright top row
    turned = Image.fromarray(picture)
    turned.getexif()[0x0112] = 3  # upside down
    turned.save(root / "train" / "a" / "000.png", exif=turned.getexif())
    got = load("folder", root).train.images[0]
    assert got[:, -1].eq(255).all() and got[:, :-1].eq(0).all()


def test_val_stands_in_for_test_and_test_comes_first(tmp_path):
    root = tree(tmp_path, {"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1})
    got = load("folder", root)
    assert len(got.test) == 2 and any("val/" in note for note in got.notes)
    write(root / "test" / "unlabelled.png", 77)  # without class folders it is no test set
    assert load("folder", root).fingerprint == got.fingerprint
    tree(root, {"test/a": 3, "test/b": 1})
    got = load("folder", root)
    assert len(got.test) == 4
    assert got.notes[1] == "val/ is not used: test/ is the test set, the search cuts its splits from train/"


@pytest.mark.parametrize(
    "names",
    [("Train", "Test"), ("TRAIN", "TEST"), ("training", "testing"), ("train", "Validation"), ("Training", "valid")],
)
def test_the_folders_of_a_split_have_other_names(tmp_path, names):
    train, held_out = names
    root = tree(tmp_path, {f"{train}/oak": 4, f"{train}/maple": 3, f"{held_out}/oak": 2, f"{held_out}/maple": 1})
    got = load("folder", root)
    assert got.notes[0] == "2 classes (maple, oak), 7 + 3 images, 3 x 8 x 8"
    assert values(got.test.images) == [10, 8, 9]


def test_classes_may_hold_folders_of_one_name_or_images_beside_them(tmp_path):
    nested = tree(tmp_path / "nested", {"a/images": 5, "b/images": 5})
    assert len(load("folder", nested).train) == 8
    mixed = tree(tmp_path / "mixed", {"a/left": 2, "a/right": 2, "b/left": 2, "b/right": 2, "b": 1})
    assert load("folder", mixed).train.classes == ("a", "b")


def test_the_notes_say_how_many_images_are_left_out(tmp_path):
    root = tree(tmp_path, {f"{part}/{label}": 3 for part in ("train", "test") for label in "abcde"})
    text = load("folder", root, images=10).notes[0]
    assert text == (
        "5 classes (a, b, c and 2 more), 10 + 15 images, 3 x 8 x 8; "
        "10 of 15 training images are used, data.images=null takes all"
    )
    both = load("digits", images=1000, test_images=50).notes[0]
    assert "; 1,000 of 1,438 training images are used" in both and "; 50 of 359 test images are used" in both
    assert "data.test_images=null" in both and "of" not in load("digits").notes[0]


def test_digits_refuse_a_folder(tmp_path):
    with pytest.raises(DataError, match=r"'digits' reads no folder, but data\.root is .*; set data\.dataset=folder"):
        load("digits", tmp_path)


def test_without_a_split_the_last_fifth_of_each_class_is_test(tmp_path):
    got = load("folder", tree(tmp_path, {"cat": 10, "dog": 2, "train": 6}))  # a class may be called train
    assert got.test.classes == ("cat", "dog", "train")
    assert values(got.test.images) == [9, 10, 12, 18]
    assert sorted(values(got.train.images) + values(got.test.images)) == list(range(1, 19))
    assert any("last fifth" in note for note in got.notes)
    assert load("folder", tmp_path, seed=5).fingerprint == got.fingerprint


def test_a_capped_run_decodes_only_what_it_uses(tmp_path, monkeypatch):
    small(tmp_path)
    opened = []
    read = folders.read_picture
    monkeypatch.setattr(folders, "read_picture", lambda path, *rest: opened.append(path) or read(path, *rest))
    assert len(load("folder", tmp_path, images=2, test_images=2).train) == 2
    assert len(opened) == 4


@pytest.mark.parametrize("name", ["digits", "folder"])
def test_leaked_test_images_are_counted(tmp_path, name):
    root = small(tmp_path)
    write(root / "test" / "b" / "again.png", 2)  # the same picture as train/a/001.png
    write(root / "test" / "a" / "twice.png", 2)
    got = load(name, root if name == "folder" else None)
    sentence = "2 of 5 test images are byte-identical to a training image"
    assert (sentence in got.notes) == (name == "folder")


def test_overlap_counts_test_images():
    train = random_set(30)
    test = random_set(10, seed=1)
    assert overlap(train, test) == 0
    test.images[3] = train.images[5]
    test.images[4] = train.images[5]
    assert overlap(train, test) == 2 and overlap(test, train) == 1


def test_images_that_have_two_classes_are_counted(tmp_path):
    """As of a link from the folder of one class to that of another, or of a copy."""
    for place in (tmp_path / "train", tmp_path / "test"):
        for label, name in enumerate("abc"):
            for i in range(3):
                write(place / name / f"{i}.png", 10 * label + i + 50 * (place.name == "test"))
    sentence = "images of one class are byte-identical to one of another: which class is right?"
    assert not any(sentence in note for note in load("folder", tmp_path).notes)
    (tmp_path / "train" / "b" / "more").symlink_to(tmp_path / "train" / "c")
    write(tmp_path / "test" / "a" / "again.png", 0)
    notes = load("folder", tmp_path).notes
    assert f"6 {sentence}" in notes and "1 of 10 test images are byte-identical to a training image" in notes


@pytest.mark.parametrize("link", ["a", "folder"])
def test_a_link_upwards_makes_no_image_one_of_another_class(link, tmp_path):
    root = tmp_path / "photos"
    for label, name in enumerate("ab"):
        for i in range(4):
            write(root / name / f"{i}.png", 10 * label + i)
    place = root / "a"
    if link == "folder":  # the class folder itself is a link
        place = place.rename(tmp_path / "elsewhere")
        (root / "a").symlink_to(place)
    wanted = load("folder", root)
    (place / "up").symlink_to(root)
    (place / "farther").symlink_to(tmp_path)
    got = load("folder", root)
    assert len(got.train) == 6 and got.train.labels.tolist() == wanted.train.labels.tolist()
    assert torch.equal(got.train.images, wanted.train.images) and got.fingerprint == wanted.fingerprint


# Faults of folders


def _no_root(root):
    return "data.root is a directory, but .*gone' does not exist", root / "gone"


def _a_file(root):
    (root / "images.zip").write_bytes(b"")
    return "data.root is a directory, but .*images.zip' is a file", root / "images.zip"


def _an_archive(root):
    with zipfile.ZipFile(root / "images.zip", "w") as archive:
        archive.writestr("cat/0.png", b"")
    return "images.zip' is a zip archive: unpack it, and name the folder; it should hold DIR", root / "images.zip"


def _a_packed_archive(root):
    with tarfile.open(root / "images.tar.gz", "w:gz"):
        pass
    return "images.tar.gz' is an archive of gzip: unpack it", root / "images.tar.gz"


def _a_tar_archive(root):
    with tarfile.open(root / "images.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("cat/0.png"))
    return "images.tar' is a tar archive: unpack it", root / "images.tar"


def _none(root):
    return r"'folder' needs data\.root=DIR, but none was given", None


def _empty(root):
    return "no images in", root


def _images_without_classes(root):
    write(root / "a.png")
    return "no images in .* it should hold CLASS/\\*", root


def _one_class(root):
    words = (
        "at least 2 classes are needed, but .* has only 'a'; add a folder, or sort the images that are in 'a' into a "
    )
    return words, tree(root, {"a": 5})


def _one_class_in_train(root):
    return "at least 2 classes are needed, but .*train' has only 'a'", tree(root, {"train/a": 5, "test/a": 2})


def _class_without_images(root):
    small(root)
    (root / "train" / "c").mkdir()
    (root / "train" / "c" / "readme.txt").write_text("soon")
    return r"every class has an image, but in .*train' none is in c \(.* 1 of another type \(.txt 1\)\); add", root


def _train_alone(root):
    return "train/ and test/ or val/ go together, but .* only train/", tree(root, {"train/a": 2, "train/b": 2})


def _test_alone(root):
    return "test/ and train/ go together, but .* only test/", tree(root, {"test/a": 2, "test/b": 2})


def _other_classes(root):
    tree(small(root), {"test/d": 1})
    (root / "test" / "b").rename(root / "test" / "c")
    return "same classes, but only one of them has b, c, d;", root


def _split_without_classes(root):
    return r"folders of a split hold CLASS/\*, but Test, Train in .* hold images", tree(root, {"Train": 5, "Test": 5})


def _split_of_other_names(root):
    counts = {f"{part}/{label}": 3 for part in ("learn", "exam") for label in ("oak", "maple")}
    return "but exam, learn in .* all hold folders called maple, oak; name the parts", tree(root, counts)


def _two_training_folders(root):
    return "one folder is the train set, but .* has Training, train; keep train/", tree(small(root), {"Training/a": 2})


def _one_image(root):
    return "each class has 2 images or more to be split, but b have 1", tree(root, {"a": 5, "b": 1})


def _truncated(root):
    path = small(root) / "train" / "a" / "big.png"
    write(path, size=(64, 64), seed=0)
    path.write_bytes(path.read_bytes()[:-2000])
    return r"1 of 11 images cannot be read: train.a.big\.png \(.*truncated", root


def _unreadable(root):
    for number in range(3):
        (small(root) / "train" / "a" / f"bad{number}.jpg").write_bytes(b"<html>not found</html>" * number)
    (root / "test" / "a" / "worse.png").symlink_to(root / "nowhere.png")
    return (
        r"4 of 14 images cannot be read: train.a.bad0\.jpg \(an empty file\), .*bad1.*, .*bad2.*, .*worse\.png \(no "
        r"such file or directory\); repair or delete them, or leave them out with data\.unreadable=skip$",
        root,
    )


def _all_unreadable(root):
    for path in small(root).rglob("*.png"):
        path.write_bytes(b"")
    return "10 of 10 images cannot be read", root


def _sixteen_bits(root):
    path = small(root) / "train" / "a" / "deep.png"
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(path)
    return r"1 of 11 images cannot be read: train.a.deep\.png \(mode I;16 has more than 8 bits", root


def _many_unreadable(root):
    for number in range(14):
        (small(root) / "train" / "a" / f"bad{number:02}.jpg").write_bytes(b"")
    ten = ", ".join(rf"train.a.bad{number:02}\.jpg \(an empty file\)" for number in range(10))
    return rf"14 of 24 images cannot be read: {ten} and 4 more; repair .*data\.unreadable=skip", root


@pytest.mark.parametrize(
    "fault",
    [
        _no_root,
        _a_file,
        _an_archive,
        _a_packed_archive,
        _a_tar_archive,
        _none,
        _empty,
        _images_without_classes,
        _one_class,
        _one_class_in_train,
        _class_without_images,
        _train_alone,
        _test_alone,
        _other_classes,
        _split_without_classes,
        _split_of_other_names,
        _two_training_folders,
        _one_image,
        _truncated,
        _unreadable,
        _all_unreadable,
        _many_unreadable,
        _sixteen_bits,
    ],
)
def test_every_fault_of_a_folder_is_one_clear_line(tmp_path, cache, fault):
    rule, root = fault(tmp_path)
    with pytest.raises(DataError, match=rule) as caught:
        load("folder", root)
    assert "\n" not in str(caught.value)
    assert not list(cache.iterdir())


def test_a_set_larger_than_memory_is_refused_before_decoding(tmp_path, monkeypatch):
    real = os.sysconf
    monkeypatch.setattr(os, "sysconf", lambda name: 1 if name == "SC_PHYS_PAGES" else real(name))
    with pytest.raises(DataError, match=r"at 64x64; lower data\.resolution or data\.images"):
        load("folder", small(tmp_path, size=(64, 64)))


def test_the_memory_of_a_container_counts(tmp_path, monkeypatch):
    whole = folders.memory_of_machine()
    files = tmp_path / "memory.max", tmp_path / "limit_in_bytes"
    monkeypatch.setattr(folders, "_CONTAINER", files)
    for text, expected in (("max\n", whole), ("40000\n", 40_000), (f"{2**63 - 4096}\n", whole)):
        files[0].write_text(text)
        assert folders.memory_of_machine() == expected
    files[1].write_text("10000\n")
    assert folders.memory_of_machine() == free_memory(torch.device("cpu")) == 10_000


@pytest.mark.parametrize(
    "statistics", [((0.5,), (0.5,)), ((0.5,) * 3, (0.5,)), ((0.5,) * 3, (0.5, 0.5, 0.0)), (0.5, 0.5)], ids=str
)
def test_mean_and_std_of_a_dataset_are_one_for_each_channel(monkeypatch, statistics):
    """Others would have the compiled augmentation read beyond its table."""
    images, labels = torch.zeros(8, 3, 8, 8, dtype=torch.uint8), torch.arange(8) % 2
    source = in_memory(("a", "b"), (images, labels), (images, labels))
    monkeypatch.setitem(DATASETS, "mine", Entry(lambda root, download: source, statistics))
    for use in (lambda: load("mine"), lambda: check_dataset("mine")):
        with pytest.raises(DataError, match="one number for each channel, here 3, and std is above 0") as caught:
            use()
        assert "\n" not in str(caught.value)
    monkeypatch.setitem(DATASETS, "mine", Entry(lambda root, download: source, ((0.5,) * 3, (0.25,) * 3)))
    check_dataset("mine")
    assert load("mine").std == (0.25,) * 3


# The cache of decoded folders


@pytest.fixture
def decodings(monkeypatch):
    """Counts how often images were decoded."""
    calls = []
    decode = folders._decode
    monkeypatch.setattr(folders, "_decode", lambda *args: calls.append(args) or decode(*args))
    return calls


def same(one, other):
    return one.fingerprint == other.fingerprint and one.notes == other.notes


def test_a_second_load_comes_from_the_cache(tmp_path, cache, decodings):
    small(tmp_path, size=(9, 8))
    first, second = (load("folder", tmp_path) for _ in range(2))
    assert len(decodings) == 1 and same(first, second) and first.notes
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"]


@pytest.mark.parametrize("change", ["pixel", "file", "resolution", "cap"])
def test_the_cache_is_not_used_for_anything_else(tmp_path, decodings, change):
    root = small(tmp_path)
    before = load("folder", root)
    options = {"resolution": {"resolution": 16}, "cap": {"images": 4}}.get(change, {})
    if change == "pixel":
        write(root / "train" / "a" / "000.png", 99)
        os.utime(root / "train" / "a" / "000.png", (1, 1))  # a clock may be coarser than this test
    if change == "file":
        write(root / "train" / "a" / "new.png", 99)
    after = load("folder", root, **options)
    assert len(decodings) == 2 and after.fingerprint != before.fingerprint


def test_the_cache_of_one_background_is_not_used_for_another(tmp_path, decodings):
    root = small(tmp_path)
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(root / "train" / "a" / "000.png")
    white, black = load("folder", root), load("folder", root, background=(0, 0, 0))
    assert len(decodings) == 2 and white.fingerprint != black.fingerprint
    assert values(white.train.images)[0] == 255 and values(black.train.images)[0] == 0
    assert white.notes[1] == "1 image with transparency: laid on white (data.background)"
    assert "laid on black" in black.notes[1] and black.background == (0, 0, 0)
    assert same(load("folder", root), white) and len(decodings) == 2


def test_what_was_skipped_is_known_from_the_cache(tmp_path, cache, decodings):
    root = small(tmp_path)
    (root / "train" / "a" / "000.png").write_bytes(b"no image")
    first, second = (load("folder", root, unreadable="skip") for _ in range(2))
    assert len(decodings) == 1 and same(first, second) and len(list(cache.iterdir())) == 1
    with pytest.raises(DataError, match=r"1 of 10 images cannot be read: train.a.000\.png \(not an image\); repair"):
        load("folder", root)
    (root / "train" / "b" / "002.png").unlink()
    (root / "train" / "b" / "002.png").symlink_to("nowhere.png")  # may be there the next time
    load("folder", root, unreadable="skip")
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("damage", ["empty", "cut", "bit", "foreign", "bare"])
def test_a_damaged_cache_is_ignored_and_rebuilt(tmp_path, cache, decodings, damage):
    before = load("folder", small(tmp_path))
    (path,) = cache.iterdir()
    content = path.read_bytes()
    bare = b'{"images":{"dtype":"U8","shape":[1,1,1,1],"data_offsets":[0,1]}}'
    path.write_bytes(
        {
            "empty": b"",
            "cut": content[:-100],
            "bit": content[:-1] + bytes([content[-1] ^ 1]),
            "foreign": b"\x89PNG" + content,
            "bare": struct.pack("<Q", len(bare)) + bare + b"\0",  # a good file without our checksum
        }[damage]
    )
    for _ in range(2):  # made anew once, good the second time
        assert same(load("folder", tmp_path), before) and len(decodings) == 2


def test_an_unwritable_cache_costs_a_note_only(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("TOPOCELL_CACHE", str(tmp_path / "file"))
    got = load("folder", small(tmp_path / "images"))
    assert len(got.train) == 7 and any("could not be cached" in note for note in got.notes)


# Fingerprints


def test_fingerprint_changes_with_a_pixel_a_label_and_a_class_name():
    base = random_set()
    pixel, label = random_set(), random_set()
    pixel.images[5, 1, 2, 3] += 1
    label.labels[5] = 3
    name = ImageSet(base.images, base.labels, ("a", "b", "c", "x"))
    assert fingerprint(base) == fingerprint(random_set())
    assert len({fingerprint(s) for s in (base, pixel, label, name)}) == 4
    assert fingerprint(base, pixel) != fingerprint(pixel, base)


# Splits


def test_thirds_of_cifar():
    images = torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(50_000, 1, 1, 1)
    train = ImageSet(images, torch.arange(50_000), tuple(map(str, range(50_000))))
    parts = split(train, {"train": 1 / 3, "alpha": 1 / 3, "beta": 1 / 3}, seed=0)
    assert [len(part) for part in parts.values()] == [16_666] * 3
    assert len(torch.cat([part.labels for part in parts.values()]).unique()) == 3 * 16_666
    assert [len(part) for part in split(train, {"train": 0.5, "val": 0.5}, 0).values()] == [25_000] * 2
    assert [len(part) for part in split(train, {"a": 0.29, "b": 0.07}, 0).values()] == [14_500, 3_500]


shares = st.lists(st.floats(0.02, 1.0), min_size=1, max_size=5)


@settings(max_examples=60)
@given(n=st.integers(200, 2_000), shares=shares, total=st.floats(0.3, 1.0), seed=st.integers(0, 2**40))
def test_parts_are_disjoint_of_the_size_asked_and_seeded(n, shares, total, seed):
    fractions = {f"part {i}": share / sum(shares) * total for i, share in enumerate(shares)}
    if min(fractions.values()) * n < 2:
        return
    images = torch.zeros(n, 1, 1, 1, dtype=torch.uint8)
    train = ImageSet(images, torch.arange(n), tuple(map(str, range(n))))  # the label is the place
    parts = split(train, fractions, seed)
    assert list(parts) == list(fractions)
    for name, part in parts.items():
        assert fractions[name] * n - 1 < len(part) <= fractions[name] * n + 1e-6
    places = torch.cat([part.labels for part in parts.values()])
    assert len(places.unique()) == len(places)
    again, other = split(train, fractions, seed), split(train, fractions, seed + 1)
    assert all(torch.equal(parts[name].labels, again[name].labels) for name in parts)
    assert not all(torch.equal(parts[name].labels, other[name].labels) for name in parts)


def test_a_split_mixes_the_classes_of_a_sorted_set():
    n = 1000
    train = ImageSet(torch.zeros(n, 1, 8, 8, dtype=torch.uint8), torch.arange(n) * 10 // n, tuple("0123456789"))
    part = split(train, {"train": 0.5, "val": 0.5}, 0)["val"]
    assert len(part.labels[:64].unique()) == 10


@pytest.mark.parametrize(
    ("fractions", "rule"),
    [
        ({}, "fractions are above 0"),
        ({"a": 0.0}, "fractions are above 0"),
        ({"a": -0.5, "b": 0.5}, "fractions are above 0"),
        ({"a": float("nan")}, "fractions are above 0"),
        ({"a": float("inf")}, "sum to at most 1"),
        ({"a": 0.6, "b": 0.5}, r"sum to at most 1.*sum 1\.1"),
        ({"a": 0.5, "test": 0.5}, "may not be called 'test' \\(the search never sees the test split\\)"),
        ({"all": 0.5}, "may not be called 'all'"),
        (
            {"a": 0.5, "b": 0.02},
            r"data\.splits has 2 training images or more, but 'b' gets 1 of 60; raise its fraction$",
        ),
    ],
)
def test_impossible_splits_are_refused(fractions, rule):
    with pytest.raises(DataError, match=rule):
        split(random_set(60), fractions, 0)


@pytest.mark.parametrize(("n", "way"), [(3, "add images, 4 or more for 2 splits"), (4, "raise its fraction")])
def test_too_few_images_for_any_fractions(n, way):
    with pytest.raises(DataError, match=f"data.splits has 2 training images or more, but 'a' gets 1 of {n}; {way}$"):
        split(random_set(n), {"a": 1 / 3, "b": 2 / 3}, 0)


# What a search sees


def tensors(thing):
    """Every tensor that can be reached from an object's fields."""
    if isinstance(thing, torch.Tensor):
        return [thing]
    children = thing.values() if isinstance(thing, dict) else getattr(thing, "__dict__", {}).values()
    return [tensor for child in children for tensor in tensors(child)]


@pytest.fixture
def folder_set(tmp_path):
    return load("folder", small(tmp_path))


def test_search_data_holds_no_test_image(folder_set):
    sight = search_data(folder_set, {"train": 0.5, "val": 0.4}, seed=0)
    reached = tensors(sight)
    assert len(reached) == 2 * 3 + 2  # images, labels and numbers of two splits, and their two orders
    unseen = {folder_set.test.images.untyped_storage().data_ptr(), folder_set.test.labels.data_ptr()}
    assert not unseen & {tensor.untyped_storage().data_ptr() for tensor in reached}
    seen = [value for part in sight.splits.values() for value in values(part.images)]
    assert set(seen) < set(values(folder_set.train.images))


def test_search_data_refuses_the_test_split(folder_set):
    sight = search_data(folder_set, {"train": 0.5, "val": 0.5}, seed=0)
    with pytest.raises(DataError, match="the search never sees the test split"):
        sight.get("test")
    with pytest.raises(DataError, match=r"unknown split 'trian' \(did you mean 'train'\?\); .* train, val, all"):
        sight.get("trian")


def test_all_is_the_union_in_the_order_of_the_training_set(folder_set):
    sight = search_data(folder_set, {"train": 0.5, "val": 0.5}, seed=3)
    union = sight.get("all")
    assert values(union.images) == sorted(set(values(union.images))) and len(union) == 6
    assert union.labels.tolist() == [int(value > 4) for value in values(union.images)]
    assert torch.equal(sight.get("val").images, split(folder_set.train, {"train": 0.5, "val": 0.5}, 3)["val"].images)


def test_search_data_carries_what_a_network_needs(folder_set):
    sight = search_data(folder_set, {"train": 1.0}, seed=0)
    assert sight.shape == (3, 8, 8) and sight.classes == ("a", "b")
    assert (sight.mean, sight.std, sight.augmentation) == (folder_set.mean, folder_set.std, folder_set.augmentation)
    assert sight.fingerprint == folder_set.fingerprint


def test_constant_images_do_not_divide_by_zero(tmp_path):
    for name in ("a", "b"):
        for number in range(5):
            write(tmp_path / name / f"{number}.png", 40, mode="L")
    black = load("folder", tmp_path)
    source = Batches(
        black.train, 4, mean=black.mean, std=black.std, augmentation=None, device="cpu", seed=0, stream="train"
    )
    x, _ = source.batch(0, 0)
    assert x.isfinite().all() and float(x.abs().max()) < 1e-3


# The real thing, where it is


@pytest.mark.skipif(not CIFAR_JPEG, reason="TOPOCELL_CIFAR_JPEG names no CIFAR-10 in JPEG files (a folder or a zip)")
def test_cifar10_as_jpeg_files(tmp_path):
    root = Path(CIFAR_JPEG)
    if root.suffix == ".zip":
        with zipfile.ZipFile(root) as archive:
            members = [name for name in archive.namelist() if name.endswith(".jpg")]
            first = [name for name in members if int(Path(name).stem) % 250 < 4]
            archive.extractall(tmp_path, first)
        root = next(tmp_path.glob("**/train")).parent
    got = load("folder", root, images=200, test_images=100)
    assert got.shape == (3, 32, 32) and len(got.train.classes) == 10 and got.augmentation.padding == 4
    assert got.train.labels.bincount().tolist() == [20] * 10 and got.test.labels.bincount().tolist() == [10] * 10
    assert got.mean == pytest.approx(splits.CIFAR10_STATISTICS[0], abs=0.06)
    assert got.std == pytest.approx(splits.CIFAR10_STATISTICS[1], abs=0.03)


# --- sets in memory, as a reader of one's own gives them


def stripes(n=24):
    labels = torch.arange(n) % 2
    images = torch.full((n, 1, 8, 8), 51, dtype=torch.uint8)
    images[labels == 1, :, ::2] = 204
    return images, labels


@pytest.mark.parametrize("resolution", [8, 16])
@pytest.mark.parametrize("kind", ["uint8", "floats", "arrays"])
def test_floats_and_arrays_are_the_images_that_bytes_are(kind, resolution):
    images, labels = stripes()
    given = {"uint8": images, "floats": images / 255, "arrays": images.numpy()}[kind]
    numbers = labels.numpy() if kind == "arrays" else labels
    found = load("digits", given=in_memory(("a", "b"), (given, numbers), (given, numbers)), resolution=resolution)
    expected = load("digits", given=in_memory(("a", "b"), (images, labels), (images, labels)), resolution=resolution)
    assert torch.equal(found.train.images, expected.train.images) and torch.equal(found.test.labels, labels)
    assert (int(found.train.images.min()), int(found.train.images.max())) == (51, 204)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda images: images[:, 0],
            r"and labels \(N,\), but those of test are \(24, 8, 8\)",
        ),
        (lambda images: images.float(), "floats in 0..1 before any normalisation, but those of test are torch.float32"),
        (lambda images: images.int(), "but those of test are torch.int32 from 51 to 204; convert them"),
        (lambda images: images.repeat(1, 3, 1, 1), "have the same channels, but got 1 and 3; convert them"),
        (lambda images: images.repeat(1, 3, 1, 1).permute(0, 2, 3, 1).numpy(), r"permute them \(0, 3, 1, 2\)"),
    ],
)
def test_images_in_memory_of_another_kind_are_refused(change, words):
    images, labels = stripes()
    with pytest.raises(DataError, match=words):
        in_memory(("a", "b"), (images, labels), (change(images), labels))

"""ImageNet as people have it: class folders, files of class names, validation images with and without folders."""

import shutil

import pytest
import torch
from tests.helpers.image_tree import make_tree, names_of

from topocell.data.from_files import Streaming
from topocell.data.ilsvrc import read_tree
from topocell.data.splits import load
from topocell.errors import DataError

STREAM = Streaming("stream", workers=0)
A, B, C = names_of(3)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TOPOCELL_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.mark.parametrize("flat", ["", "LOC_val_solution.csv", "val.txt", "val/val_annotations.txt"])
def test_one_tree_in_its_forms(tmp_path, flat):
    make_tree(tmp_path, flat=flat)
    data = load("imagenet", tmp_path, resolution=32, streaming=STREAM)
    assert data.train.classes == (f"{A} thing 0", f"{B} thing 1", f"{C} thing 2")
    assert (len(data.train), len(data.test)) == (18, 6) and data.mean == (0.485, 0.456, 0.406)
    assert data.test.labels.tolist() == [0, 0, 1, 1, 2, 2] and data.train.files[0].startswith(f"train/{A}/")
    said = any(note.startswith("the labels of val/ are those of ") for note in data.notes)
    assert said == bool(flat) and any(note == "val/ is used as the test set" for note in data.notes)


def test_a_tree_that_kaggle_packed_and_one_of_tiny_images(tmp_path):
    make_tree(tmp_path / "ILSVRC/Data/CLS-LOC", flat="LOC_val_solution.csv")
    shutil.move(tmp_path / "ILSVRC/Data/CLS-LOC/LOC_val_solution.csv", tmp_path)
    shutil.move(tmp_path / "ILSVRC/Data/CLS-LOC/LOC_synset_mapping.txt", tmp_path)
    tree = read_tree(tmp_path)
    assert tree.classes[0] == f"{A} thing 0" and tree.val[1].tolist() == [0, 0, 1, 1, 2, 2]
    base = tmp_path / "ILSVRC/Data/CLS-LOC"
    (base / "val" / "images").mkdir()
    for path in list((base / "val").glob("*.JPEG")):
        path.rename(base / "val" / "images" / path.name)
    assert torch.equal(read_tree(tmp_path).val[1], tree.val[1])


def test_labels_may_be_places_in_the_file_of_names(tmp_path):
    make_tree(tmp_path, flat="val.txt")
    lines = (tmp_path / "val.txt").read_text().splitlines()
    names = [line.split()[0] for line in lines]
    (tmp_path / "val.txt").write_text("".join(f"{name} {i // 2}\n" for i, name in enumerate(names)))
    assert read_tree(tmp_path).val[1].tolist() == [0, 0, 1, 1, 2, 2]
    order = [C, A, B]
    (tmp_path / "LOC_synset_mapping.txt").write_text("".join(f"{wnid} x\n" for wnid in order))
    assert read_tree(tmp_path).val[1].tolist() == [2, 2, 0, 0, 1, 1]
    (tmp_path / "val.txt").write_text(f"{names[0]} 3\n")
    with pytest.raises(DataError, match=r"^a class in val\.txt is .* from 0 to 2, but line 1 has 3; mend it"):
        read_tree(tmp_path)


def test_names_are_a_help_and_no_need(tmp_path):
    make_tree(tmp_path, synsets=False)
    assert read_tree(tmp_path).classes == (A, B, C)
    more = "".join(f"{wnid} thing, x\n" for wnid in (*names_of(5), "n99999999"))
    (tmp_path / "synset_words.txt").write_text(more)
    tree = read_tree(tmp_path)
    assert tree.classes[1] == f"{B} thing" and "3 of 6 classes of synset_words.txt have no folder" in tree.notes
    (tmp_path / "synset_words.txt").unlink()
    (tmp_path / "meta.bin").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"^meta\.bin has the class names .* it is damaged .*delete it"):
        read_tree(tmp_path)


def spoilt(root, what):
    if what == "other synsets":
        (root / "LOC_synset_mapping.txt").write_text(f"{A} a\nn00000001 b\n")
    elif what == "an empty class":
        for path in (root / "train" / B).iterdir():
            path.unlink()
    elif what == "a class less in val":
        shutil.rmtree(root / "val" / C)
    elif what == "no labels":
        for path in list((root / "val").rglob("*.JPEG")):
            path.rename(root / "val" / path.name)
        for wnid in (A, B, C):
            (root / "val" / wnid).rmdir()
    return root


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (
            "other synsets",
            rf"names every class folder of train/, but in .* it lacks {B}, {C}, and names n00000001, {A};",
        ),
        ("an empty class", rf"every class has an image, but in .*train' none is in {B}"),
        ("a class less in val", rf"train/ and val/ have the same classes, but only one of them has {C};"),
        ("no labels", r"val/ holds CLASS/\*, or images and a file of their classes, but .*val' has neither; put LOC_"),
    ],
)
def test_faults_of_a_tree_are_one_line(tmp_path, what, words):
    make_tree(tmp_path)
    with pytest.raises(DataError, match=words) as fault:
        load("imagenet", spoilt(tmp_path, what), streaming=STREAM)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda rows: rows[:-1], r"but 1 image of 6 is not in it: ILSVRC2012_val_00000006\.JPEG;"),
        (lambda rows: [row.replace(C, "n00000009") for row in rows], r"has images of n00000009, which have no folder"),
        (lambda rows: [row.replace(C, B) for row in rows], rf"none in val/ is of {C}, says val\.txt;"),
    ],
)
def test_faults_of_labels_are_one_line(tmp_path, change, words):
    make_tree(tmp_path, flat="val.txt")
    path = tmp_path / "val.txt"
    path.write_text("\n".join(change(path.read_text().splitlines())))
    with pytest.raises(DataError, match=words) as fault:
        read_tree(tmp_path)
    assert "\n" not in str(fault.value)

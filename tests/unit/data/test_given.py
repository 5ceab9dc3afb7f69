"""Images given from Python: tensors and datasets of torch, a whole run, and what is refused."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset, random_split

import topocell
from topocell.cli import main
from topocell.data.given import Given, given_source
from topocell.data.image_file import pixels_of, upright
from topocell.data.image_folder import Decoding
from topocell.data.splits import load, search_data
from topocell.errors import DataError, RunError
from topocell.runs.setup import prepared


def pictures(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, 8, 8), generator=draw, dtype=torch.uint8), torch.arange(n) % 3


TRAIN, TEST = pictures(48), pictures(12, 1)


class Photos:
    """A dataset of PIL images, as torchvision's without a transform."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.images[i].permute(1, 2, 0).numpy()), int(self.labels[i])


def closed(values: torch.Tensor) -> np.ndarray:
    """An array that may not be written to, as of a file that is mapped."""
    array = values.numpy().copy()
    array.setflags(write=False)
    return array


def backwards(values: torch.Tensor) -> np.ndarray:
    return values.numpy()[::-1].copy()[::-1]


class Series:
    """An array whose numbers are not places, as a column of a table of pandas after a choice of rows."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values.numpy())

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        return self.values.numpy()

    def __getitem__(self, key: Any) -> Any:
        raise KeyError(key)


@pytest.mark.parametrize(
    "given",
    [
        (TRAIN, TEST),
        Given(TensorDataset(*TRAIN), TensorDataset(*TEST)),
        (Photos(*TRAIN), Photos(*TEST)),
        ((TRAIN[0].float() / 255, TRAIN[1]), (TEST[0].double() / 255, TEST[1].tolist())),
        [(np.asarray(TRAIN[0]), np.asarray(TRAIN[1])), TEST, ("a", "b", "c")],
        ((list(TRAIN[0]), TRAIN[1]), (list(TEST[0]), TEST[1].tolist())),
        (([Photos(*TRAIN)[i][0] for i in range(48)], TRAIN[1].tolist()), TEST),
        (([np.asarray(Photos(*TRAIN)[i][0]) for i in range(48)], np.asarray(TRAIN[1]).astype(object)), TEST),
        ([(image.numpy(), label) for image, label in zip(*TRAIN)], TEST),
        ((closed(TRAIN[0]), closed(TRAIN[1])), (backwards(TEST[0]), backwards(TEST[1]))),
        (((TRAIN[0].float() / 255).requires_grad_(), TRAIN[1]), TEST),
        (((TRAIN[0].float() / 255).to_sparse(), TRAIN[1]), TEST),
        ((TRAIN[0], Series(TRAIN[1])), (list(TEST[0]), Series(TEST[1]))),
    ],
    ids=[
        *("tensors", "TensorDataset", "PIL", "floats", "numpy", "lists of tensors", "lists of PIL", "lists of arrays"),
        *("arrays (C, H, W)", "read-only and reversed arrays", "with a gradient", "sparse", "columns"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_all_forms_give_the_same_pixels(given: Any) -> None:
    source = given_source(given)
    train, test, _ = source.pixels(torch.arange(48), torch.arange(12), Decoding())
    assert torch.equal(train.images, TRAIN[0]) and torch.equal(test.images, TEST[0])
    assert torch.equal(train.indices, torch.arange(48))
    assert torch.equal(source.train_labels, TRAIN[1]) and len(source.classes) == 3


class Named(Photos, Dataset[Any]):
    """With names, as torchvision's ImageFolder."""

    def __init__(self, part: tuple[torch.Tensor, torch.Tensor], *classes: Any) -> None:
        super().__init__(*part)
        self.classes = list(classes)


def test_classes_have_the_names_of_the_dataset() -> None:
    named, test, parts = Named(TRAIN, "cat", "dog", "owl"), Named(TEST, "cat", "dog", "owl"), range(12)
    several: list[Any] = [named + named, Subset(named + named, parts), ConcatDataset([TensorDataset(*TRAIN), named])]
    for train in (named, Subset(named, parts), Subset(Subset(named, parts), [0, 1, 2]), *several):
        assert given_source((train, test)).classes == ("cat", "dog", "owl")
        assert given_source((train, TEST)).classes == ("cat", "dog", "owl")
    assert given_source((Named(TRAIN, "cat", "dog", "owl", "rat"), test)).classes == ("cat", "dog", "owl")
    assert given_source((named, test, ("a", "b", "c"))).classes == ("a", "b", "c")
    for odd in (("cat", "dog"), ("cat", "cat", "owl"), (("cat", 5), ("dog",), ("owl",)), (None, "dog", "owl")):
        source = given_source((Named(TRAIN, *odd), TEST))
        assert source.classes == ("0", "1", "2") and "classes are called by their numbers" in source.notes[1]
    for names in (np.array(["cat", "dog", "owl"]), np.array(["cat", "dog", "owl"], object), torch.tensor([5, 7, 9])):
        named.classes = names  # type: ignore[assignment]
        source = given_source((named, TEST))
        assert source.classes == tuple(map(str, names.tolist())) and len(source.notes) == 1


def test_of_several_words_for_a_class_the_first_is_its_name() -> None:
    """As torchvision has ImageNet's, of which two are cranes."""
    for words, names in (
        ([("cat", "tom"), ("dog",), ("owl",)], ("cat", "dog", "owl")),
        ([("crane",), ("dog",), ("crane", "bird")], ("crane 0", "dog", "crane 2")),
    ):
        named = Named(TRAIN, *words)
        assert given_source((named, Named(TEST, *words))).classes == names
        assert given_source((TRAIN, TEST, named.classes)).classes == names


class Unlisted(Named):
    """Without a list of the labels."""

    def __init__(self, part: tuple[torch.Tensor, torch.Tensor], *classes: Any) -> None:
        super().__init__(part, *classes)
        self.found = self.__dict__.pop("labels")

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        return self.images[i], int(self.found[i])


class Around(Dataset[Any]):
    """A dataset of another one's items, with labels of its own if asked."""

    def __init__(self, dataset: Any, label: Any = lambda label: label) -> None:
        self.dataset, self.label = dataset, label

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        return self.dataset[i][0], self.label(self.dataset[i][1])


class Delegating(Around):
    """One that passes on what it is asked for, as many wrappers do."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["dataset"], name)


def test_names_are_those_of_the_labels_that_are_given() -> None:
    """What changes labels, around a dataset or in it, leaves them without names: they would be those of others."""
    named = Named(TRAIN, "cat", "dog", "owl")
    named.targets = TRAIN[1].tolist()  # type: ignore[attr-defined]
    plain, parts = ("cat", "dog", "owl"), list(range(3, 40))
    for train in (Around(named), Subset(Around(named), parts), Around(Subset(named, parts)), Around(named) + named):
        assert given_source((train, TEST)).classes == plain
    same, turned = (lambda label: label), (lambda label: 2 - label)
    for train in (Around(named, turned), Subset(Around(named, turned), parts), Around(Subset(named, parts), turned)):
        assert given_source((train, TEST)).classes == ("0", "1", "2")
    for train in (Delegating(named, turned), Subset(Delegating(named, turned), parts)):
        assert given_source((train, TEST)).classes == ("0", "1", "2")
    assert given_source((Delegating(named), TEST)).classes == plain
    named.class_to_idx = {"owl": 0, "cat": 1, "dog": 2}  # type: ignore[attr-defined]
    assert given_source((named, TEST)).classes == ("owl", "cat", "dog")
    named.class_to_idx = {"owl": 0, "cat": 0, "dog": 2}  # type: ignore[attr-defined]
    assert given_source((named, TEST)).classes == ("0", "1", "2")
    named.class_to_idx = {"cat": 0, "dog": 1, "owl": 2}  # type: ignore[attr-defined]
    few = Named((TRAIN[0], TRAIN[1] % 2), *plain)
    few.targets = (TRAIN[1] % 2).tolist()  # type: ignore[attr-defined]
    source = given_source((few, (TEST[0], TEST[1] % 2)))
    assert source.classes == ("cat", "dog") and "has 3 names of classes, but labels from 0 to 1" in source.notes[1]
    listed = Unlisted(TRAIN, *plain)
    listed.targets = Series(TRAIN[1])  # type: ignore[attr-defined]
    for around in (Around(Around(named)), Around(Named(TRAIN, *plain), same), Around(listed)):  # of labels elsewhere
        assert given_source((around, TEST)).classes == plain
    none: Any = Subset(named, [])
    assert given_source((ConcatDataset([none, named]), TEST)).classes == plain
    named.class_to_idx = {"cat": [1, 0, 0], "dog": [0, 1, 0], "owl": [0, 0, 1]}  # type: ignore[attr-defined]
    assert given_source((named, TEST)).classes == ("0", "1", "2")
    unlisted = Around(Unlisted(TRAIN, *plain), same)
    named.target_transform = same  # type: ignore[attr-defined]
    for train in (unlisted, named, Around(named), Subset(named, parts)):
        assert given_source((train, TEST)).classes == ("0", "1", "2")
    known = Named(TEST, *plain)
    known.targets = TEST[1].tolist()  # type: ignore[attr-defined]
    for train in (named, Around(Named(TRAIN, *plain), lambda label: 2 - label)):  # of one part alone
        for pair in ((train, known), (known, train)):
            source = given_source(pair)
            assert source.classes == ("0", "1", "2") and "classes are called by their numbers" in " ".join(source.notes)


class Some(Delegating):
    """Items of some classes of another dataset, numbered anew."""

    def __init__(self, dataset: Any, kept: dict[int, int]) -> None:
        super().__init__(dataset, lambda label: kept[label])
        self.places = [i for i, label in enumerate(dataset.targets) if label in kept]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        return super().__getitem__(self.places[i])


class Hidden(Some):
    """The same, of which nothing is passed on."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


@pytest.mark.parametrize("kind", [Some, Hidden])
def test_a_part_with_classes_numbered_anew_has_none_of_the_names(kind: type[Some]) -> None:
    """Sorted by class, as folders are, its labels begin as those of the whole: cats, then what was dogs there."""
    order = TRAIN[1].argsort()
    named = Named((TRAIN[0][order], TRAIN[1][order]), "cat", "dog", "owl")
    named.targets = TRAIN[1][order].tolist()  # type: ignore[attr-defined]
    part = kind(named, {0: 0, 2: 1})
    assert [part[i][1] for i in range(len(part))] == sorted([0, 1] * 16)
    source = given_source((part, (TEST[0], TEST[1] % 2)))
    assert source.classes == ("0", "1") and any("called by their numbers" in note for note in source.notes)


@pytest.mark.filterwarnings("error")
def test_labels_that_are_arrays_are_told_without_a_warning_of_torch() -> None:
    """As MedMNIST has them: an array of one number for each image."""
    items: Any = [(image, np.array([int(label)])) for image, label in zip(*TRAIN)]
    with pytest.raises(DataError, match=r"labels \(N,\), but those of train are \(48, 3, 8, 8\) and \(48, 1\)"):
        given_source((items, TEST))


def test_names_that_a_wrapper_keeps_anywhere_are_told_of() -> None:
    """As `self.subset = subset`: nobody knows that its items are those of it, but the names are worth a word."""

    class Mine(Dataset[Any]):
        def __init__(self, subset: Any) -> None:
            self.subset = subset

        def __len__(self) -> int:
            return len(self.subset)

        def __getitem__(self, i: int) -> Any:
            return self.subset[i]

    source = given_source((Mine(Subset(Named(TRAIN, "cat", "dog", "owl"), range(40))), TEST))
    assert source.classes == ("0", "1", "2") and "called by their numbers" in source.notes[1]


@pytest.mark.parametrize("grey", [0, 1])
def test_grey_images_among_coloured_ones_are_grey(grey: int) -> None:
    """As those of a folder: one image of another mode is no fault."""
    items = [(Image.new("L" if i == grey else "RGB", (8, 8), 90 if i == grey else (9, 8, 7)), i) for i in (0, 1)]
    train, _, _ = given_source((items, items)).pixels(torch.arange(2), torch.arange(2), Decoding())
    assert train.images[:, :, 0, 0].tolist() == [[90] * 3 if i == grey else [9, 8, 7] for i in (0, 1)]


@pytest.mark.parametrize("mode", ["P", "CMYK", "YCbCr", "RGBA", "1", "LA"])
def test_images_of_pillow_are_what_their_files_would_be(mode: str) -> None:
    """The numbers of a palette, say, are no pixels. Two items are a dataset, too."""
    drawn = [Image.fromarray(image.permute(1, 2, 0).numpy()).convert(mode) for image in TRAIN[0][:2]]
    if "A" in mode:
        drawn[0].putalpha(90)
    train, _, _ = given_source(([(drawn[0], 0), (drawn[1], 1)],) * 2).pixels(
        torch.arange(2), torch.arange(2), Decoding()
    )
    wanted = [upright(image, "L" if mode == "1" else "RGB", (255, 255, 255))[0] for image in drawn]
    assert torch.equal(train.images, torch.stack([torch.from_numpy(pixels_of(image).copy()) for image in wanted]))


def test_a_run_on_given_images_is_continued_with_them_and_not_without(tmp_path: Path, capsys: Any) -> None:
    recipe, out = topocell.load_recipe("darts-v1", ["data.test_images=6"], budget="smoke"), tmp_path / "run"
    numbers = load("given", given=given_source((TRAIN, TEST)), test_images=6, seed=recipe.seed).test.names
    topocell.search(recipe, out, data=(TRAIN, TEST))
    topocell.select(out, data=(TRAIN, TEST))
    assert main(["retrain", str(out)]) == 2
    error = capsys.readouterr().err
    assert "came from Python" in error and "data=(train, test)" in error and error.count("\n") == 1
    assert topocell.retrain(out, data=(TRAIN, TEST))["test_images"] == 6
    with open(out / "predictions.csv", encoding="utf-8") as file:
        told = [(row["file"], row["true"]) for row in csv.DictReader(file)]
    assert told == [(number, str(int(TEST[1][int(number)]))) for number in numbers]
    assert topocell.run(recipe, out, data=(TRAIN, TEST)).exists()
    words = r"the data it began with, .*; give the images that it began with \(a random transform makes others .*\), "
    with pytest.raises(RunError, match=words + "choose another --out, or resume all the same by accept_data=True; its"):
        topocell.run(recipe, out, data=(TEST, TEST))


class Changing(Photos):
    """Other images whenever they are read."""

    def __init__(self, part: tuple[torch.Tensor, torch.Tensor]) -> None:
        super().__init__(*part)
        self.draw = torch.Generator().manual_seed(0)
        self.transform = SimpleNamespace(transforms=[self.turned, torch.nn.Dropout()])

    def turned(self, image: torch.Tensor) -> torch.Tensor:
        return image.roll(int(torch.randint(1, 8, (), generator=self.draw)), 2)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        return self.turned(self.images[i]), int(self.labels[i])


def test_a_random_transform_is_told_and_another_reading_may_be_accepted(tmp_path: Path) -> None:
    for part in (Changing(TRAIN), Subset(Changing(TRAIN), range(3))):  # type: ignore[arg-type]
        told = given_source((part, TEST)).notes[1]
        assert "images of train are others when they are read again (transform: turned, Dropout): every" in told
        assert "needs accept_data=True; leave random changes to the run (data.flip" in told
    for part in (Photos(*TRAIN), TensorDataset(*TRAIN), [Photos(*TRAIN)[i] for i in range(3)]):
        assert len(given_source((part, TEST)).notes) == 1
    recipe = topocell.load_recipe("darts-v1", ["space.nodes=1"], budget="smoke")
    data, out = (Changing(TRAIN), TEST), topocell.search(recipe, tmp_path / "run", data=(TRAIN, TEST))
    for name in (None, "other", "other"):
        with pytest.raises(RunError, match="by accept_data=True"):
            topocell.select(out, name=name, data=data)
        assert isinstance(topocell.select(out, name=name, data=data, accept_data=True), topocell.Genotype)


def test_images_have_their_numbers_in_the_set_that_was_given() -> None:
    data = load("given", given=given_source((TRAIN, TEST)), images=30, test_images=6)
    seen = search_data(data, {"train": 0.5, "val": 0.5}, 0)
    parts = [data.train, seen.get("train"), seen.get("val"), seen.get("all")]
    for part, (images, labels) in [*((part, TRAIN) for part in parts), (data.test, TEST)]:
        at = [int(name) for name in part.names]
        assert torch.equal(part.pixels(torch.arange(len(part))), images[at]) and torch.equal(part.labels, labels[at])
        assert at != list(range(len(part)))


def test_transparent_images_are_laid_on_the_background_of_the_recipe() -> None:
    items = [(Image.new("RGBA", (8, 8), (255, 255, 255, 0)), i % 2) for i in range(40)]
    for colour, value in (("black", 0), ("white", 255)):
        recipe = topocell.load_recipe("darts-v1", ["space.nodes=1", f"data.background={colour}"], budget="smoke")
        setup = prepared(recipe, (items, items))
        assert bool((setup.dataset.train.pixels(torch.arange(4)) == value).all())
        assert setup.preprocessing.background == (value,) * 3


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [
        ((12, 16, 16), (12, 16, 16)),
        ((16, 16, 12), (12, 16, 16)),
        ((16, 16, 20), (20, 16, 16)),
        ((20, 16, 16), (20, 16, 16)),
        ((8, 12, 3), (3, 8, 12)),
        ((3, 8, 12), (3, 8, 12)),
        ((8, 12, 16), None),
        ((8, 8, 8), None),
    ],
)
def test_the_channels_of_an_array_are_where_its_sides_differ(sizes: Any, wanted: Any) -> None:
    """As rasterio and numpy have images of many bands; a tensor has them first."""
    array = np.arange(np.prod(sizes)).astype(np.uint8).reshape(sizes)
    tensor, several = torch.from_numpy(array), torch.arange(3)
    alike = [(tensor, 0), (tensor, 1), (tensor, 0)]
    if wanted is None:
        with pytest.raises(DataError, match=r"which may be either; give a tensor \(C, H, W\), as torch.from_numpy"):
            given_source(([(array, i) for i in range(3)], alike))
        assert given_source((alike, alike)).pixels(several, several, Decoding())[0].images.shape[1:] == sizes
    else:
        items = [(array, i) for i in range(3)]
        images = given_source((items, items)).pixels(several, several, Decoding())[0].images
        assert images.shape[1:] == wanted
        assert torch.equal(images[0], tensor if wanted == sizes else tensor.permute(2, 0, 1))


class Elsewhere(torch.Tensor):
    """A tensor whose numbers are on another device, until `cpu` brings them here."""

    def cpu(self, *_: Any, **__: Any) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)


@pytest.mark.parametrize(
    "moved",
    [
        lambda tensor: tensor.as_subclass(Elsewhere),
        pytest.param(
            lambda tensor: tensor.cuda(),
            marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that CUDA can use"),
        ),
    ],
    ids=["stand-in", "GPU"],
)
def test_tensors_on_another_device_are_brought_to_the_cpu(moved: Callable[[torch.Tensor], torch.Tensor]) -> None:
    far = tuple(map(moved, TRAIN))
    for train in (far, TensorDataset(*far), (list(far[0]), far[1])):
        source = given_source((train, TEST))
        first, *_ = source.pixels(torch.arange(48), torch.arange(12), Decoding())
        for found, wanted in ((first.images, TRAIN[0]), (source.train_labels, TRAIN[1])):
            assert type(found) is torch.Tensor and torch.equal(found, wanted)


class Rows:
    """Items of names and values, as the datasets of Hugging Face, of which the first alone may be read."""

    def __init__(self) -> None:
        self.features = {"image": object(), "labels": SimpleNamespace(names=["cat", "dog", "owl"])}

    def __len__(self) -> int:
        return 48

    def __getitem__(self, i: int) -> dict[str, Any]:
        assert i == 0
        return {"path": "0.png", "number": 7, "image": Photos(*TRAIN)[0][0], "labels": 0}


class Stream(IterableDataset[Any]):
    """Images in an order, without numbers."""

    def __len__(self) -> int:
        return 48

    def __iter__(self) -> Iterator[Any]:
        return iter(zip(*TRAIN))


class Unread(Dataset[Any]):
    """That no item may be read of."""

    def __len__(self) -> int:
        return 48

    def __getitem__(self, i: int) -> Any:
        raise AssertionError(i)


def test_a_fault_of_a_dataset_itself_is_not_hidden() -> None:
    """A key that its own table lacks, say; 0 may be such a key, too."""

    class Looking(Dataset[Any]):
        def __init__(self, key: Any) -> None:
            self.key = key

        def __len__(self) -> int:
            return 48

        def __getitem__(self, i: int) -> Any:
            return {"image": TRAIN[0][i]}[self.key], 0

    for key in ("label", 0):
        with pytest.raises(KeyError, match=repr(key)):
            given_source((Looking(key), TEST))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (3, "data are (train, test)"),
        ((TRAIN,), "data are (train, test)"),
        ((TRAIN, 3), "test is (images, labels) or a dataset, but got int"),
        (((TRAIN[0][:, 0], TRAIN[1]), TEST), "(48, 8, 8) and (48,); of grey images give images[:, None]"),
        (((TRAIN[0], TRAIN[1][:, None]), TEST), "(48, 1); give labels[:, 0], of a dataset label[0] in each item"),
        (((TRAIN[0], torch.eye(3)[TRAIN[1]]), TEST), "(48, 3); give labels.argmax(1), of a dataset label.argmax() in"),
        (((TRAIN[0], torch.eye(3)[TRAIN[1]].tolist()), TEST), "(48, 3); give labels.argmax(1)"),
        (
            ((TRAIN[0][:, 0], np.eye(3)[TRAIN[1]]), TEST),
            "of grey images give images[:, None] and give labels.argmax(1)",
        ),
        (((TRAIN[0], torch.ones(48, 3)), TEST), "(48, 3); change them"),
        ((TRAIN, (TEST[0], TEST[1][:5])), "images are (N, C, H, W) and labels (N,)"),
        ((TRAIN, (TEST[0][:, :, :4], TEST[1])), "have one shape"),
        (((TRAIN[0].float() - 128, TRAIN[1]), TEST), "floats in 0..1 before any normalisation"),
        ((TRAIN, [TEST[0][0], TEST[0][1], TEST[0][2]]), "a dataset has items (image, label)"),
        ((TRAIN, TEST, ("a",)), "a name for each label, but there are 1 and labels from 0 to 2; add names"),
        ((TRAIN, TEST, "abc"), "are different names in the order of the labels, as ['cat', 'dog'], but got 'abc'"),
        (((TRAIN[0], TRAIN[1] - 1), TEST), "the lowest is -1; number the classes"),
        (
            ((Photos(*TRAIN)[0][0], 0), (Photos(*TRAIN)[1][0], 1)),
            "images are (N, C, H, W) and labels (N,), but those of",
        ),
        (
            (TRAIN, TEST, TEST),
            "the third has one of type Tensor; of (train, val, test) give (train, test): the search cuts",
        ),
        (
            (TRAIN, TEST, [TEST, TEST, TEST]),
            "the third has one of type tuple; of (train, val, test) give (train, test)",
        ),
        ((Unread(), Unread(), Unread()), "the third is of type Unread; of (train, val, test) give (train, test)"),
        ((Unread(), Unread(), Photos(*TEST)), "the third is of type Photos; of (train"),
        (random_split(Unread(), [0.7, 0.15, 0.15]), "the third is of type Subset; of (train"),
        ((Unread(), Unread(), DataLoader(TensorDataset(*TEST))), "the third has one of type list; of (train"),
        ((Stream(), TEST), "but got Stream; give list(train), whose items are (image, label)"),
        (((item for item in zip(*TRAIN)), TEST), "but got generator; give list(train), whose items are (image, label)"),
        (
            (Rows(), TEST),
            "give [(item['image'], item['labels']) for item in train], and train.features['labels'].names as the third",
        ),
        (
            ([{"label": "cat", "image": image, "id": 3} for image in TRAIN[0]], TEST),
            "give [(item['image'], item['id']) for item in train]",
        ),
        (
            ([{"label": "cat", "image": image} for image in TRAIN[0]], TEST),
            "give [(item['image'], item['label']) for item in train], or the keys of yours",
        ),
        (((np.array(["0.png"] * 48), TRAIN[1]), TEST), "but train has one of type str_; read them"),
        (((torch.zeros(48, 16, 16, 12), TRAIN[1]), TEST), "looks like (N, H, W, C); permute them (0, 3, 1, 2)"),
        (
            ((np.zeros((48, 16, 16, 20)), TRAIN[1]), TEST),
            "permute them (0, 3, 1, 2), or give a tensor if it is (N, C, H, W)",
        ),
        (
            (Named(TRAIN, "cat", "dog", "owl"), Named(TEST, "cat", "owl"), ["cat", "dog", "owl"]),
            "a label is the same class in all images, but 1 is 'dog' and 'owl'; make their classes agree",
        ),
        (
            ((TRAIN[0], TRAIN[1] * 0), TEST),
            "at least 2 classes are needed, but all training images have the label 0; check",
        ),
        (
            ((TRAIN[0], TRAIN[1] + 1), (TEST[0], TEST[1] + 1), ["a", "b", "c"]),
            "labels are integers from 0, but the lowest is 1; subtract 1 from each",
        ),
        (((TRAIN[1], TRAIN[0]), TEST), "are (48,) and (48, 3, 8, 8)"),
        (((TRAIN[1].tolist(), TRAIN[0]), TEST), "but train has one of type int"),
        ((TRAIN, (None, None)), "but test has one of type NoneType"),
        (([(0, image) for image in TRAIN[0]], TEST), "but train has one of type int"),
        ((Series(TRAIN[1]), TEST), "but got Series without item 0; give (list of images, list of labels)"),
        (((TRAIN[0][:, :1], TRAIN[1]), TEST), "(1, 8, 8) and (3, 8, 8); give all of them the same channels"),
        (((TRAIN[0].permute(0, 2, 3, 1), TRAIN[1]), TEST), "looks like (N, H, W, C); permute them"),
        (([(image.permute(1, 2, 0), 0) for image in TRAIN[0]], TEST), "looks like (N, H, W, C)"),
        (
            ((TRAIN[0], TRAIN[1] + 0.5), TEST),
            "labels are integers from 0, but those of train begin with tensor(0.5000)",
        ),
        ((Named(TRAIN, "cat", "dog", "owl"), Named(TEST, "cat", "owl", "dog")), "but 1 is 'dog' and 'owl'; make their"),
        ((DataLoader(TensorDataset(*TRAIN)), TEST), "but got DataLoader; give its dataset"),
        (((TRAIN[0], ["cat", "dog"] * 24), TEST), "begin with 'cat'; number the classes"),
        (((TRAIN[0], TRAIN[1] + 10**9), TEST), "but the highest of 60 is 1000000002; number"),
        (((TRAIN[0], TRAIN[1] + 1), (TEST[0], TEST[1] + 1)), "the lowest is 1; subtract 1 from each"),
        ((TRAIN, TEST, {"owl", "cat", "dog"}), "in the order of the labels, as ['cat', 'dog'], but got {'"),
        ((TRAIN, TEST, {"cat": 0, "dog": 1, "owl": 2}), "in the order of the labels"),
        ((TRAIN, TEST, ("cat", "cat", "owl")), "are different names"),
        ((TRAIN, TEST, 3), "but got 3; change them"),
        ((ConcatDataset([Named(TRAIN, "a", "b"), Named(TRAIN, "a", "c")]), TEST), "but 1 is 'b' and 'c'; make their"),
        (([{"image": image, "label": 0} for image in TRAIN[0]], TEST), "give [(item['image'], item['label']) for item"),
        (([("0.png", 0), ("1.png", 1), ("2.png", 2)], TEST), "but train has one of type str; read them"),
        (((["0.png"] * 48, TRAIN[1]), TEST), "but train has one of type str; read them"),
        (((TRAIN[0][:, :, :0], TRAIN[1]), TEST), "are (48, 3, 0, 8)"),
        (([(image, "cat") for image in TRAIN[0]], TEST), "begin with 'cat'; number the classes"),
        (((TRAIN[0], [0, 1, "?"] * 16), TEST), "those of train have '?' at 2; number the classes"),
        (((TRAIN[0], [0, None, 1] * 16), TEST), "those of train have None at 1; number the classes"),
        (((TRAIN[0], [0, 1, 2, float("nan")] * 12), TEST), "those of train have nan at 3; number the classes"),
        (((TRAIN[0], torch.tensor([0, 1, 0.5] * 16)), TEST), "those of train have tensor(0.5000) at 2; number"),
        (([(image[None], 0) for image in TRAIN[0]], TEST), "of shape (1, 3, 8, 8), of a batch; give image[0] in each"),
        (([(image[0, 0], 0) for image in TRAIN[0]], TEST), "of shape (8,), where one is (C, H, W) or (H, W); reshape"),
        ((TRAIN, Subset(TensorDataset(*TEST), [])), "but test has none; give at least one image"),
        ((TRAIN, []), "but test has none; give at least one image"),
        (
            ([(image, torch.eye(3)[0]) for image in TRAIN[0]], TEST),
            "give labels.argmax(1), of a dataset label.argmax() in",
        ),
        (([(Image.new("I;16", (8, 8)), 0)] * 3, TEST), "mode I;16 has more than 8 bits"),
    ],
)
def test_what_is_no_dataset_is_one_line(given: Any, words: str) -> None:
    with pytest.raises(DataError) as caught:
        source = given_source(given)
        train, *_ = source.pixels(torch.arange(48), torch.arange(12), Decoding())
        topocell.data.batches.ImageSet(train.images, source.train_labels, source.classes)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_classes_without_an_image_are_named() -> None:
    """As where a class was left out, or numbers have gaps."""
    gap = (TRAIN[0], 2 * TRAIN[1]), (TEST[0], 2 * TEST[1])
    source = given_source(gap)
    assert source.classes == ("0", "1", "2", "3", "4")
    assert "classes without a training image: 1, 3" in source.notes
    named = given_source((*((images, labels + 1) for images, labels in (TRAIN, TEST)), ("background", "a", "b", "c")))
    assert "classes without a training image: background" in named.notes


def test_items_of_three_values_do_not_say_which_is_the_label() -> None:
    images, labels = TRAIN
    three = [(image, i % 2, int(label)) for i, (image, label) in enumerate(zip(images, labels))]
    with pytest.raises(DataError, match=r"one has 3 values; give \[\(item\[0\], item\[N\]\) for item in train\]"):
        given_source((three, TEST))
    pairs = [(item[0], item[2]) for item in three]
    assert torch.equal(given_source((pairs, TEST)).train_labels, labels)

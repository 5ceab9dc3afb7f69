"""The pixels of images given from Python: what they become, what is refused at once, and what is said of them."""

import re
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers.odd_images import exif, keyed, orientation
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import Resize

from topocell.data import arrays, image_folder
from topocell.data.given import given_source
from topocell.data.image_file import pixels_of
from topocell.data.image_folder import Decoding
from topocell.data.pictures import find_images, read_pictures
from topocell.data.preprocessing import Preprocessing
from topocell.data.splits import load
from topocell.errors import DataError


def pictures(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, 8, 8), generator=draw, dtype=torch.uint8), torch.arange(n) % 3


TRAIN, TEST = pictures(48), pictures(12, 1)


def kept_of(items: Any, **options: Any) -> torch.Tensor:
    """The training images of a dataset as a run has them."""
    return load("given", given=given_source((items, items)), **options).train.pixels(torch.arange(len(items)))


def predicted(image: Any, like: torch.Tensor) -> torch.Tensor:
    """The same image as a network sees it that was trained on images like these."""
    channels, height, width = like.shape[1:]
    scale = (0.5,) * channels, (0.5,) * channels
    how = Preprocessing(("a", "b"), *scale, (height, width), channels, "stretch", (255, 255, 255), "cifar", "linear")
    pictures = read_pictures(find_images(image)[0], how)
    assert not pictures.faults
    return pictures.pixels[0]


def test_images_of_an_image_folder_are_the_same_pixels_in_training_and_prediction(tmp_path: Path) -> None:
    """torchvision converts what it opens, which keeps the orientation and the clear colour of the file in its notes."""
    for name, block in (("a", exif(orientation(6))), ("b", b"")):
        (tmp_path / name).mkdir()
        photo = Image.fromarray(np.arange(24 * 32 * 3, dtype=np.uint8).reshape(32, 24, 3))
        photo.save(tmp_path / name / "0.jpg", exif=block)
        (tmp_path / name / "1.png").write_bytes(keyed("P"))
    items = ImageFolder(str(tmp_path), transform=Resize((8, 12)))
    found = kept_of(items)
    assert found.shape == (4, 3, 8, 12)
    for (image, _), pixels in zip(items, found):
        assert torch.equal(pixels, torch.from_numpy(pixels_of(image).copy()))
        assert torch.equal(predicted(image, found), pixels)


@pytest.mark.parametrize("beyond", [1e-7, 9e-4])
@pytest.mark.parametrize("kind", ["items", "tensor", "array"])
def test_floats_that_leave_their_range_by_rounding_are_images(kind: str, beyond: float) -> None:
    """As those that are scaled with antialiasing."""
    images = TRAIN[0].float() / 255
    images[0, 0, 0], images[0, 0, 1] = 1 + beyond, -beyond
    given: Any = {"items": list(images), "tensor": images, "array": images.numpy()}[kind]
    source = given_source(((given, TRAIN[1]), TEST))
    found = source.pixels(torch.arange(48), torch.arange(12), Decoding())[0].images
    wanted = TRAIN[0].clone()
    wanted[0, 0, 0], wanted[0, 0, 1] = 255, 0
    assert torch.equal(found, wanted) and torch.equal(predicted(images[0], found), wanted[0])


@pytest.mark.parametrize("at_once", [1, 3 * 64 * 5, 1 << 24])
def test_many_numbers_are_turned_into_bytes_part_by_part(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(arrays, "_AT_ONCE", at_once)
    images = TRAIN[0].float() / 255
    assert torch.equal(arrays.bytes_of(images), TRAIN[0])
    images[40, 0, 0, 0], images[7, 0, 0, 0] = -3, 7
    assert str(arrays.Span.of(images)) == "torch.float32 from -3 to 7"
    images[47, 2, 7, 7] = torch.nan
    assert str(arrays.Span.of(images)) == "torch.float32 with NaN among them" and not arrays.Span.of(images).are_pixels


class Recorded(Dataset[Any]):
    """Images that are made one by one, with what is made of them said, and how many of them are there still."""

    def __init__(self, images: list[Any]) -> None:
        self.images, self.made, self.most = images, list[Any](), 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        made = self.images[i].clone()
        self.made.append(weakref.ref(made))
        self.most = max(self.most, sum(one() is not None for one in self.made))
        return made, i % 2


def test_floats_are_kept_as_bytes_as_they_are_read() -> None:
    items = Recorded([torch.full((3, 8, 8), i / 40) for i in range(40)])
    assert kept_of(items)[:, 0, 0, 0].tolist() == [round(255 * i / 40) for i in range(40)]
    assert len(items.made) > 80 and items.most <= 8  # of those that are read again together


@pytest.mark.parametrize(
    ("others", "words"),
    [
        (torch.zeros(3, 8, 12), r"have one shape, but those of train have \[\(3, 8, 8\), \(3, 8, 12\)\]; resize them"),
        (torch.zeros(4, 8, 8), r"have \[\(3, 8, 8\), \(4, 8, 8\)\]; give all of them the same channels"),
        (torch.full((3, 8, 8), 200.0), "normalisation, but those of train are torch.float32 from 0 to 200; convert"),
        (torch.full((3, 8, 8), -2.5), "those of train are torch.float32 from -2.5 to 0; convert"),
        (torch.full((3, 8, 8), 1.002), "those of train are torch.float32 from 0 to 1.002; convert"),
        (torch.full((3, 8, 8), torch.nan), "those of train are torch.float32 with NaN among them; find what made it"),
        (
            torch.full((3, 8, 8), 9, dtype=torch.uint8),
            "all uint8 or all floats, but train has both; convert them alike",
        ),
    ],
)
def test_the_first_image_that_does_not_fit_ends_the_reading(others: torch.Tensor, words: str) -> None:
    """Dark images of 0..255 are floats in 0..1, too; what follows may be thousands of photos."""
    items = Recorded([torch.zeros(3, 8, 8), torch.zeros(3, 8, 8), others, *[torch.zeros(3, 8, 8)] * 9])
    with pytest.raises(DataError, match=words):
        given_source((items, TEST))
    assert len(items.made) == 3


def test_images_that_do_not_fit_into_memory_are_refused_by_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_folder, "memory_of_machine", lambda: 2 * 40 * 3 * 64 - 2)
    items = Recorded([torch.zeros(3, 8, 8)] * 40)
    with pytest.raises(DataError, match=r"fit into half the memory.* at 8x8; resize them, or give fewer$"):
        given_source((items, TEST))
    assert len(items.made) == 1


@pytest.mark.parametrize(
    ("side", "resolution", "words"),
    [
        ((8, 8), None, ""),
        ((8, 8), 8, ""),
        ((20, 20), 16, "to 16x16, as data.resolution or the budget says; data.resolution=20 keeps more"),
        ((20, 30), 16, r"to 16x16 \(stretched\), as data.resolution or the budget says; data.resolution=20 keeps more"),
        ((200, 200), 16, "to 16x16, as data.resolution or the budget says; data.resolution=64 keeps more"),
        ((8, 8), 16, "to 16x16$"),
        ((8, 12), 16, r"to 16x16 \(stretched\)$"),
    ],
)
def test_that_images_were_resized_is_said(side: tuple[int, int], resolution: int | None, words: str) -> None:
    images, labels = torch.zeros(4, 3, *side, dtype=torch.uint8), torch.arange(4) % 2
    found = load("given", given=given_source(((images, labels),) * 2), resolution=resolution)
    told = [note for note in found.notes if "resized" in note]
    assert len(told) == bool(words) and all(re.search(f"^images were resized {words}", note) for note in told)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_other_colours_are_for_images_that_have_colours(channels: int) -> None:
    images, labels = torch.zeros(4, channels, 8, 8, dtype=torch.uint8), torch.arange(4) % 2
    source = given_source(((images, labels),) * 2)
    for jitter in (None, (0.0, 0.0, 0.0, 0.0)):
        load("given", given=source, jitter=jitter)
    if channels in (1, 3):
        assert load("given", given=source, jitter=(0.4, 0.4, 0.4, 0.2)).augmentation.jitter == (0.4, 0.4, 0.4, 0.2)
    else:
        with pytest.raises(DataError, match=f"^data.jitter changes .* have {channels}; use data.jitter=null$"):
            load("given", given=source, jitter=(0.4, 0.0, 0.0, 0.0))

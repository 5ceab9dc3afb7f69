"""Settings of a recipe for the images."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from topocell.config.values import AnyColour, Crop, Model, one_of


class DataPlan(Model):
    """The images, and how the training images are split for the search.

    Attributes:
        dataset: a row of `topocell.data.splits.DATASETS`; `folder` reads a tree of images by class.
        root: where the images are.
        download: whether torchvision may fetch what is missing.
        resolution: side in pixels to scale images to; default as they are.
        images, test_images: use only so many, balanced over the classes.
        background: what transparent images are laid on: a colour name, "#rrggbb" in quotes, or [red, green, blue].
        unreadable: what is done about images that cannot be read: `refuse` names them and stops, `skip` leaves them
            out and says so.
        flip: mirror training images left and right at random, in search and retraining; null: as the dataset says.
            false for letters, signs and medical images.
        crop: crop training images at random, in search and retraining: pixels of padding on each side; true: an
            eighth of the side; false: not at all; null: as the dataset says.
        splits: name → fraction of the training images, for the search. Every class with as many images as there are
            splits is in each of them.
        class_balanced: the fractions are of each class, not of all images together: 0.1 takes 130 of 1,300 images of
            a class (the subsets of ImageNet on which PC-DARTS and DOTS search).
    """

    dataset: Annotated[str, one_of("dataset")] = "cifar10"
    root: str | None = None
    download: bool = False
    resolution: int | None = None
    images: Annotated[int, Field(ge=4)] | None = None
    test_images: Annotated[int, Field(ge=2)] | None = None
    background: AnyColour = "white"
    unreadable: Literal["refuse", "skip"] = "refuse"
    flip: bool | None = None
    crop: Crop = None
    splits: dict[str, Annotated[float, Field(gt=0, le=1)]] = Field({"train": 0.5, "val": 0.5})
    class_balanced: bool = False

    @model_validator(mode="after")
    def _splits_fit(self) -> "DataPlan":
        if not self.splits or sum(self.splits.values()) > 1 + 1e-9:
            raise ValueError(f"the fractions in splits sum to at most 1, but got {self.splits}")
        if reserved := {"all", "test"} & self.splits.keys():
            raise ValueError(f"a split cannot be called {sorted(reserved)[0]!r}")
        return self

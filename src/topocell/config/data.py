"""Settings of a recipe for the images."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from topocell.config.values import AnyColour, Crop, Model, NonNegative, one_of

Share = Annotated[float, Field(gt=0, le=1)]


class DataPlan(Model):
    """The images, and how the training images are split for the search.

    Attributes:
        dataset: a row of `topocell.data.splits.DATASETS`; `folder` reads a tree of images by class.
        root: where the images are.
        download: whether torchvision may fetch what is missing.
        resolution: side in pixels to scale images to; default as they are, 224 where they are streamed.
        images, test_images: use only so many, balanced over the classes; one of each class at least.
        background: what transparent images are laid on: a colour name, "#rrggbb" in quotes, or [red, green, blue].
        unreadable: what is done about images that cannot be read: `refuse` names them and stops, `skip` leaves them
            out and says so.
        unreadable_share: largest share of the images that `skip` may leave out; null: any.
        store: `memory` decodes all images once and keeps them, `stream` reads their files again in every epoch, by
            worker processes, in images of any number and size; `auto` streams those of which 4 copies do not fit into
            the memory.
        workers: processes that read streamed images, for each stream of batches; 0: none but the training itself;
            null: one for each processor, at most 8. Batches do not depend on it, and it may change while a run lasts.
        cache: shorter side in pixels of copies of streamed images, made once, which are then read in place of the
            files; null: no copies.
        cache_root: folder of the copies; null: below TOPOCELL_CACHE.
        flip: mirror training images left and right at random, in search and retraining; null: as the dataset says.
            false for letters, signs and medical images.
        crop: crop training images at random, in search and retraining: pixels of padding on each side; true: an
            eighth of the side; false: not at all; null: as the dataset says. Streamed images, with true and null: a
            part of random size and shape, scaled to the resolution.
        crop_scale: smallest and largest share of the area of a streamed image that such a part has.
        jitter: change brightness, contrast, saturation and hue of training images at random, each by so much at most
            (0.4, 0.4, 0.4, 0.2 on ImageNet); null: not at all.
        splits: name → fraction of the training images, for the search. Every class with as many images as there are
            splits is in each of them.
        class_balanced: the fractions are of each class, not of all images together: 0.1 takes 130 of 1,300 images of
            a class (the subsets of ImageNet on which PC-DARTS and DOTS search).
    """

    dataset: Annotated[str, one_of("dataset")] = "cifar10"
    root: str | None = None
    download: bool = False
    resolution: Annotated[int, Field(le=4096)] | None = None
    images: Annotated[int, Field(ge=4)] | None = None
    test_images: Annotated[int, Field(ge=2)] | None = None
    background: AnyColour = "white"
    unreadable: Literal["refuse", "skip"] = "refuse"
    unreadable_share: Annotated[float, Field(ge=0, lt=1)] | None = None
    store: Literal["memory", "stream", "auto"] = "auto"
    workers: Annotated[int, Field(ge=0, le=128)] | None = None
    cache: Annotated[int, Field(ge=8, le=4096)] | None = None
    cache_root: str | None = None
    flip: bool | None = None
    crop: Crop = None
    crop_scale: tuple[Share, Share] = (0.08, 1.0)
    jitter: tuple[NonNegative, NonNegative, NonNegative, Annotated[float, Field(ge=0, le=0.5)]] | None = None
    splits: dict[str, Share] = Field({"train": 0.5, "val": 0.5})
    class_balanced: bool = False

    @model_validator(mode="after")
    def _stream_fits(self) -> "DataPlan":
        if self.store == "memory" and self.cache is not None:
            raise ValueError(
                f"cache is of streamed images, but store is memory and cache {self.cache}; set store=stream"
            )
        if self.cache_root is not None and self.cache is None:
            raise ValueError(
                f"cache_root is the folder of the cache, but got {self.cache_root!r} and no cache; set cache=256"
            )
        if self.unreadable_share is not None and self.unreadable == "refuse":
            raise ValueError(
                f"unreadable_share is a limit of unreadable=skip, but unreadable is refuse and the share "
                f"{self.unreadable_share:g}; leave one of them out"
            )
        if self.crop_scale[0] > self.crop_scale[1]:
            raise ValueError(f"crop_scale is (smallest, largest) share, but got {list(self.crop_scale)}; exchange them")
        return self

    @model_validator(mode="after")
    def _splits_fit(self) -> "DataPlan":
        if not self.splits or sum(self.splits.values()) > 1 + 1e-9:
            raise ValueError(f"the fractions in splits sum to at most 1, but got {self.splits}")
        if reserved := {"all", "test"} & self.splits.keys():
            raise ValueError(f"a split cannot be called {sorted(reserved)[0]!r}")
        return self

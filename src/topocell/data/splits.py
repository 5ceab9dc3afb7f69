"""Datasets as uint8 tensors, and the splits that a search may see.

`load` reads a named set or a folder of images; `search_data` cuts its training images into the splits of a
search and keeps nothing of the test images. `Batches` (from `augment`) makes batches of either.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from topocell.data.augment import Augmentation, check_statistics
from topocell.data.batches import Batches, Draw, Images, ImageSet
from topocell.data.fingerprints import fingerprint, measure, overlap, repetitions
from topocell.data.folder_listing import images as images_of
from topocell.data.folder_listing import some
from topocell.data.from_files import IN_MEMORY, Streaming, is_streamed, store_notes, streamed
from topocell.data.image_folder import Decoding, Unreadable
from topocell.data.policies import ColourJitter, check_channels
from topocell.data.preprocessing import Resize
from topocell.data.readers import CIFAR10_STATISTICS, DATASETS, Entry, Part, Source, check_classes
from topocell.data.stratify import RESERVED, split_indices
from topocell.data.stream import StreamedSet
from topocell.errors import DataError, TopocellError, check_known, nearest
from topocell.io.colours import Colour
from topocell.io.files import existing, reason
from topocell.registry import is_foreign, place_in_plugins
from topocell.runtime.rng import generator

__all__ = [
    "CIFAR10_STATISTICS",
    "DATASETS",
    "Augmentation",
    "Batches",
    "Dataset",
    "ImageSet",
    "SearchData",
    "fingerprint",
    "load",
    "overlap",
    "search_data",
    "split",
]


#: Datasets whose images may be of anything, also of what is another thing in a mirror.
OF_ANYTHING = ("folder", "given")


@dataclass(frozen=True, eq=False)
class Dataset:
    """A set as loaded.

    `mean` and `std` are per channel on the scale 0..1; `augmentation` is the default of this set;
    `fingerprint` is a sha256 of all pixels, labels and class names; `notes` are sentences for the report. `resize` and
    `background` say how images got their size, and what transparent ones were laid on.
    """

    name: str
    train: Images
    test: Images
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation
    fingerprint: str
    notes: tuple[str, ...]
    resize: Resize = "stretch"
    background: Colour = (255, 255, 255)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return self.train.shape


def load(
    name: str,
    root: str | Path | None = None,
    *,
    download: bool = False,
    resolution: int | None = None,
    images: int | None = None,
    test_images: int | None = None,
    background: Colour = (255, 255, 255),
    unreadable: Unreadable = "refuse",
    unreadable_share: float | None = None,
    flip: bool | None = None,
    crop: bool | int | None = None,
    jitter: tuple[float, float, float, float] | None = None,
    streaming: Streaming = IN_MEMORY,
    seed: int = 0,
    given: Source | None = None,
) -> Dataset:
    """Read a dataset of the table `DATASETS`, or an image tree with `name="folder"`.

    The default augmentation crops with an eighth of the side as padding (4 at 32×32 as in DARTS, 2 at 16×16
    as in NAS-Bench-201) and flips; that of `digits`, which fill their 8 pixels, does neither. Mean and std are
    published ones for the CIFAR sets, SVHN, ImageNet and ImageNet16-120, otherwise measured on the training images that
    were loaded.
    `cifar100` and `svhn` have those of DARTS-PT (DOTS and PC-DARTS reuse the numbers of CIFAR-10 for CIFAR-100).

    Args:
        name: a row of `DATASETS`.
        root: where the files are; default `data` for the torchvision sets, required for `folder`.
        download: let torchvision fetch what is missing.
        resolution: side in pixels to resize to, a multiple of 4, at least 8; default: as the set is.
        images, test_images: use only so many, the same number per class (± 1); one of each class at least.
        background: red, green and blue of what transparent images are laid on.
        unreadable: `refuse` images that cannot be read, or `skip` them; every class must keep an image in training
            and test set.
        unreadable_share: with `skip`, the largest share of images that may be left out; None for any.
        flip: whether training images are mirrored at random; None: as the row of the dataset says.
        crop: pixels of padding for random crops of training images, or whether there are any; None: as the row of the
            dataset says.
        jitter: changes of colour of training images, see `topocell.data.policies.ColourJitter`; None: none.
        streaming: whether images stay in their files, and how they are read.
        seed: of the choice of those images.
        given: what is taken in place of what the reader of the dataset would find.

    Raises:
        DataError: unknown name, missing or unreadable files, a set or a number that cannot be used.
    """
    check_known("dataset", name, sorted(DATASETS), DataError)
    if resolution is not None and (resolution < 8 or resolution % 4):
        raise DataError(f"data.resolution is a multiple of 4 and at least 8, but got {resolution}; 32 is usual")
    entry = DATASETS[name]
    source = read_source(name, root, download) if given is None else given
    chosen = balanced(source.train_labels, images, "images", len(source.classes), seed)
    held_out = balanced(source.test_labels, test_images, "test_images", len(source.classes), seed)
    decoding = Decoding(resolution, background, unreadable, unreadable_share)
    changes = ColourJitter(*jitter) if jitter and any(jitter) else None
    chosen_of = {"training": chosen, "test": held_out}
    if is_streamed(name, source, chosen_of, resolution, streaming):
        found = streamed(source, chosen_of, decoding, streaming, entry.statistics)
        train: Images = found.train
        test: Images = found.test
        mean, std, digest, notes, (leaked, unsure) = found[2:]
        check_channels(changes, train.shape[0])
    else:
        first, second, notes = source.pixels(chosen, held_out, decoding)
        train = _image_set(first, chosen, source.train_labels, source.train_files, source.classes, "training")
        test = _image_set(second, held_out, source.test_labels, source.test_files, source.classes, "test")
        check_channels(changes, train.shape[0])
        statistics = entry.statistics or measure(train.images)
        check_statistics(statistics, train.shape[0])
        mean, std = statistics
        digest, (leaked, unsure) = fingerprint(train, test), repetitions(train, test)
    raised = [
        f"data.{option}={count} would leave classes without an image: {images_of(len(taken))} are taken, one of each"
        for option, count, taken in (("images", images, chosen), ("test_images", test_images, held_out))
        if count is not None and count < len(taken)
    ]
    notes = [*raised, _found(source, train, test, len(chosen), len(held_out)), *source.notes, *notes]
    if leaked:
        notes.append(f"{leaked} of {len(test)} test images are byte-identical to a training image")
    if unsure:
        notes.append(f"{unsure} images of one class are byte-identical to one of another: which class is right?")
    if flip is None and entry.flip and name in OF_ANYTHING:
        notes.append("training images are mirrored at random; data.flip=false for letters, signs and medical images")
    augmentation = replace(_augmentation(entry, train.shape[-1], flip, crop), jitter=jitter)
    resize: Resize = source.resize
    if isinstance(train, StreamedSet):
        resize = "centre"
        if crop is None or crop is True:
            augmentation = replace(augmentation, padding=0, scale=streaming.crop_scale if entry.crop or crop else None)
    notes += store_notes(source, streaming, not isinstance(train, StreamedSet), augmentation)
    return Dataset(name, train, test, mean, std, augmentation, digest, tuple(notes), resize, background)


def read_source(name: str, root: str | Path | None, download: bool = False) -> Source:
    """Call the reader of a dataset. Raises DataError where one of a user's own fails, or returns no dataset."""
    entry, place = DATASETS[name], place_of(root) if root is not None else None
    if not is_foreign(entry.read):
        return entry.read(place, download)
    try:
        source = entry.read(place, download)
        n = len(source.classes)
        for labels in (source.train_labels, source.test_labels):
            if labels.dtype != torch.int64 or labels.dim() != 1 or not bool(((labels >= 0) & (labels < n)).all()):
                raise DataError(
                    f"labels of dataset {name!r} are int64 (N,) from 0 to {n - 1}, but got {labels}; mend it"
                )
    except TopocellError:
        raise
    except Exception as fault:  # whatever the user's code raises
        words = f"{type(fault).__name__}: {' '.join(str(fault).split())[:300]}"
        raise DataError(
            f"the reader of dataset {name!r} fails or returns no dataset: {words}{place_in_plugins(fault)}; "
            f"topocell.testing.check_dataset({name!r}) says more"
        ) from fault
    return source


def _image_set(
    part: Part, chosen: Tensor, labels: Tensor, files: tuple[str, ...], classes: tuple[str, ...], name: str
) -> ImageSet:
    """The images of a part with their labels. Raises DataError where a class has lost all that were chosen."""
    kept = labels[part.indices]
    check_classes(kept, labels[chosen], classes, name)
    named = tuple(files[i] for i in part.indices.tolist()) if files else ()
    return ImageSet(part.images, kept, classes, named, part.indices)


def _augmentation(entry: Entry, side: int, flip: bool | None, crop: bool | int | None) -> Augmentation:
    """The augmentation of a dataset with images of that side. Raises DataError for a crop that leaves nothing."""
    usual = side // 8
    crop = entry.crop if crop is None else crop
    padding = usual * crop if isinstance(crop, bool) else crop
    if not 0 <= padding < side:
        raise DataError(
            f"data.crop is below the side of the images, {side} pixels, and not negative, but got {padding}; {usual} "
            f"is usual"
        )
    return Augmentation(padding=padding, flip=entry.flip if flip is None else flip)


def _found(source: Source, train: Images, test: Images, chosen: int, held_out: int) -> str:
    """Describe the set and how much of it was chosen: `2 classes (maple, oak), 22 + 6 images, 3 x 16 x 16`."""
    shape = " x ".join(map(str, train.shape))
    text = f"{len(train.classes)} classes ({some(list(train.classes))}), {len(train):,} + {len(test):,} images, {shape}"
    in_training = "training", chosen, len(source.train_labels), "images"
    in_test = "test", held_out, len(source.test_labels), "test_images"
    left_out = [
        f"{used:,} of {whole:,} {part} images are used, data.{option}=null takes all"
        for part, used, whole, option in (in_training, in_test)
        if used < whole
    ]
    return "; ".join([text, *left_out])


def place_of(root: str | Path) -> Path:
    """The folder that a user means, which may not be there. Raises DataError where the system cannot even look."""
    try:
        return existing(root)
    except OSError as fault:
        raise DataError(
            f"data.root names a directory, but {str(root)[:200]!r} cannot be looked up ({reason(fault)}); "
            f"check the path"
        ) from None


def balanced(labels: Tensor, count: int | None, option: str, classes: int, seed: int) -> Tensor:
    """Sorted indices of `count` images, or one of each class: every class in turn gives one, in a seeded order."""
    if count is None or count >= len(labels):
        return torch.arange(len(labels))
    count = max(count, classes, 2)
    shuffled = torch.randperm(len(labels), generator=generator(seed, "data", option))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    sizes = labels.bincount(minlength=classes)
    turn = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes)[labels[by_class]]
    return by_class[turn.argsort(stable=True)[:count]].sort().values


# Splits


def split(train: Images, fractions: Mapping[str, float], seed: int) -> dict[str, Images]:
    """Cut a set into disjoint parts after one seeded shuffle, in which `split_indices` mends missing classes.

    A part stays in shuffled order, so that batches taken in order mix the classes. DARTS halves by index without a
    shuffle: CIFAR's files are in random order, a folder's are not.

    Raises:
        DataError: as `split_indices`.
    """
    return {name: train.subset(indices) for name, indices in split_indices(train.labels, fractions, seed).items()}


@dataclass(frozen=True, eq=False)
class SearchData:
    """The part of a dataset that a search sees: copies of training images only.

    `order[name]` holds where the images of a split stood in the training set; `fingerprint` is the dataset's.
    """

    splits: Mapping[str, Images]
    order: Mapping[str, Tensor]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    fingerprint: str

    def get(self, name: str) -> Images:
        """The split of that name; `"all"` is the union of the splits in the order of the training set.

        Raises:
            DataError: `"test"`, which no search may see, or an unknown name.
        """
        if name == "test":
            raise DataError(f"{RESERVED['test']}, but it was asked for; use one of {', '.join(self.splits)}, all")
        if name == "all":
            parts = [self.splits[part] for part in self.order]
            whole = type(parts[0]).joined(parts)
            return whole.subset(torch.cat(list(self.order.values())).argsort())
        if name not in self.splits:
            known = [*self.splits, "all"]
            raise DataError(f"unknown split {name!r}{nearest(name, known)}; this search has {', '.join(known)}")
        return self.splits[name]


def search_data(
    dataset: Dataset, fractions: Mapping[str, float], seed: int, class_balanced: bool = False
) -> SearchData:
    """Return what a search may see of `dataset`: its training images split by `split_indices`, and no test images.

    Raises:
        DataError: as `split`.
    """
    order = split_indices(dataset.train.labels.cpu(), fractions, seed, class_balanced)
    return SearchData(
        {name: dataset.train.subset(indices) for name, indices in order.items()},
        order,
        dataset.mean,
        dataset.std,
        dataset.augmentation,
        dataset.train.classes,
        dataset.shape,
        dataset.fingerprint,
    )


def split_batches(
    data: SearchData,
    split: str,
    batch_size: int,
    stream: str,
    *,
    seed: int,
    device: torch.device | str,
    augmented: bool = True,
    draw: Draw = "epoch",
) -> Batches:
    """Build the batches of a split, drawn from a stream; augmented as in training unless `augmented` is False."""
    return Batches(
        data.get(split),
        batch_size,
        mean=data.mean,
        std=data.std,
        augmentation=data.augmentation if augmented else None,
        device=device,
        seed=seed,
        stream=stream,
        draw=draw,
    )

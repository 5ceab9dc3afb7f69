"""Which files of a folder of class folders are its images, and which are something else."""

import os
import unicodedata
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from topocell.data.image_formats import advice, readable_formats
from topocell.errors import DataError, typed
from topocell.io.files import reason
from topocell.io.folders import is_helper, is_left_behind, walk

#: Names, in lower case, of folders of images and of masks or labels of these, in data sets of other tasks: VOC, YOLO.
_PICTURES = {"images", "image", "imgs", "img", "jpegimages"}
_ANNOTATIONS = {
    *("labels", "label", "annotations", "annotation", "masks", "mask", "imagesets"),
    *("segmentation", "segmentations", "segmentationclass", "segmentationobject", "ground_truth", "gt"),
}


#: How names of masks of images end, in lower case, before a number: those of BUSI, ISIC and others.
_MASKS = ("mask", "masks", "seg", "segmentation", "segmented", "label", "gt", "groundtruth", "annotation", "overlay")


@dataclass
class Unused:
    """Files of a tree of images that are no images of a class.

    Attributes:
        hidden: how many are hidden, or in a folder that programs keep beside the images, by the name of either.
        others: how many have a suffix that no image has, by the suffix.
        outside: how many images are in no class folder.
        masks: images that are called as masks of others beside them. They are used, as nobody can be sure.
    """

    hidden: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)
    outside: int = 0
    masks: list[str] = field(default_factory=list)

    def add(self, other: "Unused") -> None:
        """Count those of another folder too."""
        self.hidden.update(other.hidden)
        self.others.update(other.others)
        self.outside += other.outside
        self.masks += other.masks

    def notes(self) -> list[str]:
        """One line that says how many there are of which kind; none where there are none."""
        kinds = (
            (self.hidden.total(), f"{self.hidden.total():,} hidden ({some(_counts(self.hidden))})"),
            (self.others.total(), f"{self.others.total():,} of another type ({some(_counts(self.others))})"),
            (self.outside, f"{images(self.outside)} outside the class folders"),
        )
        said = ", ".join(text for count, text in kinds if count)
        ways = {suffix: advice(suffix) for suffix in self.others}
        hints = "".join(f"; {suffix}: {way}" for suffix, way in ways.items() if way)
        notes = [f"files not used: {said}{hints}"] if said else []
        if count := len(self.masks):
            notes.append(
                f"{images(count)} called as masks of others beside them ({some(self.masks)}): they are images of their "
                f"class here; move them out if they are none"
            )
        return notes

    def see(self, name: str) -> bool:
        """Count a file by its name, unless it is one of an image, which is returned."""
        if is_left_behind(name):
            self.hidden["._*" if name.startswith("._") else name] += 1
        elif name.lower().endswith(readable_formats()[0]):
            return True
        else:
            self.others[os.path.splitext(name)[1].lower() or "no suffix"] += 1
        return False


def _counts(counter: Counter[str]) -> list[str]:
    return [f"{name} {count:,}" for name, count in sorted(counter.items(), key=lambda item: (-item[1], item[0]))]


def images(count: int) -> str:
    """`1 image`, `2 images`."""
    return f"{count:,} image{'s' * (count != 1)}"


def some(names: Sequence[str], most: int = 3) -> str:
    """The first few of many names, in quotes where one could not be told from another otherwise."""
    plain = [name if name == name.strip() and name.isprintable() else repr(name) for name in names[:most]]
    return ", ".join(plain) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def is_image(name: str) -> bool:
    """Return whether a file is an image by its name."""
    return name.lower().endswith(readable_formats()[0]) and not is_left_behind(name)


def composed(name: str) -> str:
    """The name of a class folder with its accents as one character each, as macOS does not write them."""
    return unicodedata.normalize("NFC", name)


def class_folders(place: Path) -> list[str]:
    """Names of the folders in a folder, sorted, but of those that are hidden or that programs keep beside the images.

    Empty if the folder does not exist. Raises DataError if it is closed.
    """
    return [name for name, is_folder in _entries(place) if is_folder and not is_helper(name)]


def beside(place: Path, used: Container[str] | None = None) -> Unused:
    """What lies in a folder beside its class folders, or beside the folders that are `used` where only some are.

    Raises DataError for a folder that is closed.
    """
    unused = Unused()
    for name, is_folder in _entries(place):
        if not is_folder:
            unused.outside += unused.see(name)
        elif is_helper(name):
            if count := _files_in(place / name):
                unused.hidden[name] += count
        elif used is not None and name not in used:
            unused.outside += sum(unused.see(file) for _, _, files in os.walk(place / name) for file in files)
    return unused


def listing(place: Path) -> tuple[tuple[str, ...], list[str], Tensor, Unused]:
    """Classes, image files (class by class, sorted by path), labels (N,) and what is not used of a folder of classes.

    A class goes by the composed form (NFC) of the name of its folder: macOS may write `ü` as two characters where Linux
    has one, and copies of one tree would differ.

    Raises:
        DataError: fewer than two classes, two of one name, a class without images, a folder that cannot be read, images
            and their masks or labels in place of classes or in that of a class, a link to nowhere beside the classes.
    """
    if lost := [name for name, is_folder in _entries(place) if not is_folder and _leads_nowhere(place / name)]:
        raise DataError(
            f"a class folder may be a link to a folder, but in {str(place)!r} nothing is where {some(lost)} "
            f"{'lead' if lost[1:] else 'leads'}; mend or delete such links"
        )
    named = sorted((composed(name), name) for name in class_folders(place))
    classes, unused = [label for label, _ in named], beside(place)
    kinds = {(_is_of_pictures(name), _is_of_annotations(name)) for name in classes}
    if kinds == {(True, False), (False, True)}:
        raise DataError(
            f"folders of images are classes, but {some(classes)} in {str(place)!r} are images and what was drawn or "
            f"written about them, as for segmentation or detection; sort the images into a folder for each class"
            f"{_deeper(place)}"
        )
    if twice := sorted(name for name, count in Counter(classes).items() if count > 1):
        raise DataError(
            f"class folders have different names, but {some(twice)} in {str(place)!r} is there twice, with accents as "
            f"one and as two characters; merge or rename the two"
        )
    found = [images_below(place / name, unused) for _, name in named]
    where, aside = repr(str(place)), "".join(f" ({note})" for note in unused.notes())
    if not any(found):
        raise DataError(
            f"no images in {str(place)!r}{aside}: it should hold CLASS/* with {', '.join(readable_formats()[0])} files"
        )
    if empty := [name for name, files in zip(classes, found) if not files]:
        raise DataError(
            f"every class has an image, but in {str(place)!r} none is in {some(empty)}{aside}; add "
            f"images, or delete such folders{_deeper(place)}"
        )
    if len(classes) < 2:
        inner = _branching(place / named[0][1])
        deeper = f"name the folder of the classes, such as data.root={typed(inner)}"
        sort = f"sort the images that are in {classes[0]!r} into a folder for each class"
        way = deeper if class_folders(place / named[0][1]) else sort
        raise DataError(f"at least 2 classes are needed, but {where} has only {classes[0]!r}; add a folder, or {way}")
    if drawn := [folder for (_, name), files in zip(named, found) for folder in _annotations(place / name, files)]:
        raise DataError(
            f"all images in the folder of a class are of that class, but {some(drawn)} in {where} "
            f"{'are' if drawn[1:] else 'is'} called as masks or labels of those beside; move such folders out, or "
            f"rename them if their images are of the class too"
        )
    for files in found:
        unused.masks += _masks(files)
    labels = torch.arange(len(classes)).repeat_interleave(torch.tensor([len(files) for files in found]))
    return tuple(classes), [path for files in found for path in files], labels, unused


def _is_of_pictures(name: str) -> bool:
    """Return whether a folder is called as one of images, of whatever class."""
    return name.lower() in _PICTURES


def _is_of_annotations(name: str) -> bool:
    """Return whether a folder is called as one of masks or labels of images: `masks`, `lung masks`."""
    return name.lower() in _ANNOTATIONS or name.lower().endswith("masks")


def _branching(place: Path) -> Path:
    """The first folder on the way down from a folder that does not hold one folder alone."""
    while len(inside := class_folders(place)) == 1 and class_folders(place / inside[0]):
        place /= inside[0]
    return place


def _deeper(place: Path) -> str:
    """What may be done where one folder, called as of images, holds folders: `images/CLASS` beside `labels`."""
    found = [name for name in class_folders(place) if _is_of_pictures(name) and class_folders(place / name)]
    if len(found) != 1:
        return ""
    return f", or if the folders in {found[0]!r} are the classes, set data.root={typed(place / found[0])}"


def _annotations(top: Path, files: Sequence[str]) -> list[str]:
    """Folders in that of a class, with images, that are called as masks or labels of images which lie beside them."""
    places = {Path(folder) for folder in {os.path.dirname(file) for file in files}}
    inside = {folder for place in places for folder in (place, *place.parents) if top in folder.parents}
    pictured = places | {folder.parent for folder in inside if _is_of_pictures(folder.name)}
    drawn = sorted(folder for folder in inside if _is_of_annotations(folder.name) and folder.parent in pictured)
    return [str(folder.relative_to(top.parent)) for folder in drawn]


def _masks(files: Sequence[str]) -> list[str]:
    """The names of those that end as masks do, of images that are there: `a (1)_mask.png` beside `a (1).png`."""
    stems, found = {os.path.splitext(file)[0] for file in files}, list[str]()
    for file in files:
        stem = os.path.splitext(file)[0].rstrip("0123456789_- ")
        word = next((word for word in _MASKS if stem.lower().endswith(word)), "")
        if word and stem[: -len(word)].rstrip("_- ") in stems:
            found.append(os.path.basename(file))
    return found


def _entries(place: Path) -> list[tuple[str, bool]]:
    """Names in a folder, sorted, and whether each is a folder; none if it does not exist."""
    try:
        return sorted((path.name, path.is_dir()) for path in place.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as fault:
        _refuse(fault)


def _leads_nowhere(path: Path) -> bool:
    """Return whether what may have been a class folder is a link to what is not there; images say so themselves."""
    name = path.name
    return path.is_symlink() and not path.exists() and not (is_image(name) or is_helper(name))


def _refuse(fault: OSError) -> NoReturn:
    raise DataError(
        f"a folder of images must be readable, but {str(fault.filename)!r} is not ({reason(fault)}); change that"
    ) from None


def images_below(top: Path, unused: Unused) -> list[str]:
    """Paths of the images below a folder, sorted; other files are counted. Raises DataError for a closed folder."""
    return sorted(_images_of(top, unused))


def _images_of(top: Path, unused: Unused) -> Iterator[str]:
    """Paths of the images below a class folder; other files are counted.

    Links to folders are followed, but to none that the class folder lies in, by which the images of other classes would
    be taken for its own. Raises DataError for a folder that cannot be read.
    """
    for folder, inside, names in walk(top, onerror=_refuse):
        for helper in filter(is_helper, inside):
            if count := _files_in(Path(folder, helper)):
                unused.hidden[helper] += count
        inside[:] = (name for name in inside if not is_helper(name))
        yield from (os.path.join(folder, name) for name in names if unused.see(name))


def _files_in(folder: Path) -> int:
    """How many files are below a folder, as far as it can be read."""
    return sum(len(names) for _, _, names in os.walk(folder))

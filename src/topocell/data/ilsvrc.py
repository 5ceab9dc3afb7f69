"""The tree of ILSVRC 2012, and trees like it: train/WNID/*, val/WNID/* or val/* with a file of labels, class names.

Neither the archives nor the development kit are needed. What people have beside the images is read where it is there:

class names      LOC_synset_mapping.txt, synset_words.txt or words.txt: a WordNet number and names on each line
labels of val/   LOC_val_solution.csv, val.txt or val_annotations.txt: a file and its class on each line, by WordNet
                 number, or by its place from 0 in the order of the file of class names, or of the folders of train/
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from topocell.data.folder_listing import Unused, class_folders, images, images_below, listing, some
from topocell.errors import DataError
from topocell.io.files import reason

#: Names of files with class names, and with the labels of the validation images.
SYNSETS = ("LOC_synset_mapping.txt", "synset_words.txt", "words.txt")
LABELS = ("LOC_val_solution.csv", "val.txt", "val_annotations.txt")
#: Where the tree lies in the archive of Kaggle.
KAGGLE = "ILSVRC/Data/CLS-LOC"


class Tree(NamedTuple):
    """Files of a tree.

    Args:
        classes: their names: WordNet number and first name, as `crane` is a bird and a machine.
        train, val: files, and labels (N,) int64.
        notes: sentences for the report.
    """

    classes: tuple[str, ...]
    train: tuple[list[str], Tensor]
    val: tuple[list[str], Tensor]
    notes: tuple[str, ...]


def is_tree(root: Path) -> bool:
    """Return whether a folder holds such a tree."""
    base = _base(root)
    return bool(class_folders(base / "train")) and (base / "val").is_dir()


def read_tree(root: Path) -> Tree:
    """List the files of a tree.

    Raises:
        DataError: classes without images, or others in val/ or in the file of class names than in train/; validation
            images without labels.
    """
    base = _base(root)
    wnids, files, labels, unused = listing(base / "train")
    names, order, notes = _names(root, base, wnids)
    if class_folders(base / "val") and not _flat(base):
        val_wnids, val_files, val_labels, in_val = listing(base / "val")
        unused.add(in_val)
        if differing := sorted(set(wnids) ^ set(val_wnids)):
            raise DataError(
                f"train/ and val/ have the same classes, but only one of them has {some(differing)}; make the folders "
                f"in {str(base)!r} agree"
            )
    else:
        val_files, val_labels, source = _labelled(root, base, wnids, order, unused)
        notes.append(f"the labels of val/ are those of {source}")
    classes = tuple(f"{wnid} {names[wnid]}" if names.get(wnid) else wnid for wnid in wnids)
    notes = ["val/ is used as the test set", *notes, *unused.notes()]
    return Tree(classes, (files, labels), (val_files, val_labels), tuple(notes))


def _base(root: Path) -> Path:
    return root / KAGGLE if (root / KAGGLE).is_dir() else root


def _flat(base: Path) -> Path | None:
    """The folder in which validation images of all classes lie side by side; None where they lie in class folders."""
    inside = class_folders(base / "val")
    if not inside:
        return base / "val"
    return base / "val" / "images" if inside == ["images"] else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as fault:
        raise DataError(
            f"a file beside the images must be readable, but {str(path)!r} is not ({reason(fault)}); change that"
        ) from None


def _beside(names: Sequence[str], *folders: Path) -> Path | None:
    """The first of some files that is in one of these folders."""
    return next((folder / name for name in names for folder in folders if (folder / name).is_file()), None)


def _names(root: Path, base: Path, wnids: Sequence[str]) -> tuple[dict[str, str], list[str], list[str]]:
    """First name of each class, all classes in the order of the file of names, and notes.

    Raises DataError where that file has not all classes of the folders.
    """
    path = _beside(SYNSETS, root, base)
    if path is None:
        return _of_torchvision(root), list(wnids), []
    rows = [line.strip().split(maxsplit=1) for line in _lines(path) if line.strip()]
    names = {row[0]: row[1].split(",")[0].strip() if row[1:] else "" for row in rows}
    if unknown := [wnid for wnid in wnids if wnid not in names]:
        raise DataError(
            f"{path.name} names every class folder of train/, but in {str(root)!r} it lacks {some(unknown)}, and names "
            f"{some(sorted(names))}; put the right file there, or delete it to go without names"
        )
    absent = len(names) - len(wnids)
    notes = [f"{absent:,} of {len(names):,} classes of {path.name} have no folder"] if absent else []
    return names, list(names), notes


def _of_torchvision(root: Path) -> dict[str, str]:
    """First names of classes from what torchvision has made of the development kit, if that is there."""
    from torchvision.datasets.imagenet import META_FILE, load_meta_file

    if not (root / META_FILE).is_file():
        return {}
    try:
        found, _ = load_meta_file(str(root))
        return {wnid: names[0] for wnid, names in found.items()}
    except Exception as fault:  # whatever a damaged file leads to
        raise DataError(
            f"{META_FILE} has the class names that torchvision wrote, but in {str(root)!r} it is damaged "
            f"({type(fault).__name__}); delete it to go without names"
        ) from None


def _labelled(
    root: Path, base: Path, wnids: Sequence[str], order: Sequence[str], unused: Unused
) -> tuple[list[str], Tensor, str]:
    """Validation images that lie side by side, by file, with their labels, and the file that has these."""
    folder, path = _flat(base), _beside(LABELS, root, base, base / "val")
    assert folder is not None
    if path is None:
        raise DataError(
            f"val/ holds CLASS/*, or images and a file of their classes, but {str(base / 'val')!r} has neither; put "
            f"{', '.join(LABELS[:-1])} or {LABELS[-1]} beside it, or sort the images into class folders"
        )
    said = {}
    for number, line in enumerate(_lines(path), start=1):
        words = re.split(r"[,\s]+", line.strip())
        if len(words) > 1 and words[0] != "ImageId":
            said[os.path.splitext(words[0])[0]] = _wnid(words[1], order, path, number)
    files = images_below(folder, unused)
    if bare := [os.path.basename(file) for file in files if os.path.splitext(os.path.basename(file))[0] not in said]:
        raise DataError(
            f"{path.name} has the class of every image of val/, but {images(len(bare))} of {len(files):,} is not in "
            f"it: {some(bare)}; put the right file there"
        )
    place = {wnid: number for number, wnid in enumerate(wnids)}
    found = [said[os.path.splitext(os.path.basename(file))[0]] for file in files]
    present = set(found)
    if foreign := sorted(present - set(wnids)):
        raise DataError(
            f"val/ has the classes of train/, but {path.name} has images of {some(foreign)}, which have no folder "
            f"there; add the folders, or delete the images"
        )
    if absent := [wnid for wnid in wnids if wnid not in present]:
        raise DataError(
            f"every class has an image, but none in val/ is of {some(absent)}, says {path.name}; add some, or delete "
            f"the folders of train/"
        )
    return files, torch.tensor([place[wnid] for wnid in found]), path.name


def _wnid(word: str, order: Sequence[str], path: Path, line: int) -> str:
    """The class that a label names. Raises DataError for a number that no class has."""
    if not word.isdecimal():
        return word
    if int(word) >= len(order):
        raise DataError(
            f"a class in {path.name} is a WordNet number or a place from 0 to {len(order) - 1}, but line {line} has "
            f"{word}; mend it, or put the file of all class names beside it ({SYNSETS[0]})"
        )
    return order[int(word)]

"""The folders of a split: what they are called, and folders that look like them where classes should be."""

import re
from collections.abc import Sequence
from pathlib import Path

from topocell.data.folder_listing import class_folders, composed, is_image, some
from topocell.errors import DataError, typed
from topocell.io.folders import is_helper

#: What the folders of a split are called, in any case.
TRAIN, TEST, VAL = ("train", "training"), ("test", "testing"), ("val", "valid", "validation")
_PARTS = {*TRAIN, *TEST, *VAL}


def part_of(root: Path, names: tuple[str, ...]) -> str | None:
    """The folder of class folders that has one of these names, in any case."""
    found = [name for name in class_folders(root) if name.lower() in names and class_folders(root / name)]
    if len(found) > 1:
        raise DataError(
            f"one folder is the {names[0]} set, but {str(root)!r} has {some(found)}; keep {names[0]}/ and move the rest"
        )
    return found[0] if found else None


def check_classes_agree(root: Path, train: str, held_out: str, val: str | None) -> None:
    """Raise DataError where the folders of a split do not have the same class folders."""
    names = [{composed(name) for name in class_folders(root / part)} for part in (train, held_out)]
    if differing := sorted(names[0] ^ names[1]):
        way = f"data.root={typed(root / train)} alone is cut into a training and a test set"
        if val not in (None, held_out):
            way += f", and without {held_out}/ the test set is {val}/"
        raise DataError(
            f"{train}/ and {held_out}/ have the same classes, but only one of them has {some(differing)}; "
            f"make the folders in {str(root)!r} agree; {way}"
        )


def check_flat(root: Path) -> None:
    """Raise DataError where the folders of a flat tree look like the parts of a split instead of classes."""
    classes = class_folders(root)
    inside = [class_folders(root / name) for name in classes]
    same = len(inside[0]) > 1 and all(names == inside[0] for names in inside)
    if same and not any(is_image(path.name) for name in classes for path in (root / name).iterdir()):
        first, within = classes[0], inside[0]
        way = f"rename the folders in them so that they differ: {first}/{first}-{within[0]}"
        if _are_called_as_parts(within):
            way = f"move the parts of the split up: {within[0]}/{first}"
        raise DataError(
            f"the folders of a flat tree are its classes, but {some(classes)} in {str(root)!r} all hold folders "
            f"called {some(within)}; name the parts of a split train/ and test/, or if {some(classes)} are the "
            f"classes, {way}"
        )
    if not _are_called_as_parts(classes):
        return
    if any(inside):
        raise DataError(
            f"the parts of a split are called train/ and test/ (or val/) and hold CLASS/* right inside, but "
            f"{str(root)!r} has {some(classes)}; rename the parts, and move CLASS folders that lie deeper up into them"
        )
    raise DataError(
        f"the folders of a split hold CLASS/*, but {some(classes)} in {str(root)!r} hold images themselves; "
        f"sort them into class folders, or rename them if these are the classes"
    )


def _are_called_as_parts(names: Sequence[str]) -> bool:
    """Return whether folders are called as parts of a split.

    All of them begin with such a word, or the names of two differ in such a word alone: `seg_train` and `seg_test`.
    """
    words = [[word.lower() for word in re.findall("[A-Z]?[a-z]+|[A-Z]+", name)] for name in names]
    kinds: dict[tuple[str, ...], set[str]] = {}
    for of_one in words:
        part = next((word for word in of_one if _part_word(word)), "")
        kinds.setdefault(tuple(word for word in of_one if word != part), set()).add(_part_word(part))
    first = {_part_word(of_one[0]) if of_one else "" for of_one in words}
    return any({"train", "test"} <= found for found in kinds.values()) or (
        "" not in first and (len(first) > 1 or {name.lower() for name in names} <= _PARTS)
    )


def _part_word(word: str) -> str:
    """`train` or `test` (or validation) for a word that a part of a split is called by, empty for any other."""
    plain = re.sub("(set|data|images?)$", "", word)
    return "train" if plain in TRAIN else "test" if plain in _PARTS else ""


def check_apart(root: Path, out: Path) -> None:
    """Raise DataError for a place among the class folders of a tree, where what is written would become a class."""
    tree, place = root.resolve(), out.resolve()
    if tree not in place.parents or not tree.is_dir():
        return
    first, *_ = place.relative_to(tree).parts
    split = part_of(tree, TRAIN) is not None
    if is_helper(first) or (split and first.lower() not in _PARTS):
        return
    raise DataError(
        f"what a run writes is no class, but {str(out)!r} lies among the class folders of data.root={str(root)!r}; "
        f"choose an --out beside it" + ", and move the run there" * out.exists()
    )

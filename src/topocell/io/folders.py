"""What systems and programs leave in folders, and walks through folders that follow links."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

#: How the names of folders begin that programs keep beside the files: .ipynb_checkpoints, @eaDir, __MACOSX.
_HELPERS = (".", "@", "__")
#: Names, in lower case, of what operating systems leave in folders.
_LEFT_BEHIND = (
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
    *("$recycle.bin", "#recycle", "#snapshot", "~snapshot", "system volume information", "lost+found"),
)


def is_helper(name: str) -> bool:
    """Return whether a file or folder of that name is hidden, or a helper of some program or system."""
    return name.startswith(_HELPERS) or is_left_behind(name)


def is_left_behind(name: str) -> bool:
    """Return whether a file of that name is hidden, or left behind by an operating system."""
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


def walk(top: Path, onerror: Callable[[OSError], object] | None = None) -> Iterator[tuple[str, list[str], list[str]]]:
    """Walk as `os.walk` does, from above, but follow links to folders, after all that is there without them.

    A folder is entered once, and none is that `top` lies in. Names of folders are in order, and may be taken out of
    their list.

    Args:
        top: the first folder; it may be a link itself.
        onerror: is given the OSError of a folder that cannot be read; without it such folders are passed over.
    """
    places = [top.resolve(), *([] if ".." in top.parts else [top.absolute()])]  # `a/..` does not lie in `a`
    seen = {_identity(parent) for place in places for parent in place.parents}
    tops = [str(top)]
    for start in tops:
        for folder, inside, names in os.walk(start, onerror=onerror):
            if (identity := _identity(folder)) in seen:
                inside.clear()
                continue
            seen.add(identity)
            inside.sort()
            yield folder, inside, names
            tops += [path for name in inside if _is_link(path := os.path.join(folder, name))]


def _identity(folder: str | Path) -> tuple[int, int] | str:
    """What tells a folder from all others; its path where the system says nothing, as of one that is gone."""
    try:
        found = os.stat(folder)
    except OSError:
        return str(folder)
    return found.st_dev, found.st_ino


def _is_link(path: str) -> bool:
    """Return whether `os.walk` takes a path for a link, and passes it over."""
    return os.path.islink(path) or (sys.version_info >= (3, 12) and os.path.isjunction(path))

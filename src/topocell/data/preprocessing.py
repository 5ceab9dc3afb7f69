"""How an image becomes the input of a trained network, kept beside its weights as preprocessing.json."""

import json
import math
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from topocell.errors import DataError
from topocell.io import files
from topocell.io.colours import Colour, rgb

#: Name of the file in a run directory.
FILE = "preprocessing.json"
#: Bytes of a file; a class name has at most some hundred.
MAX_BYTES = 50_000_000

#: How an image gets another size. `fit`: turned upright by its EXIF orientation, laid on the background, scaled so
#: that it covers the size, what is too much cut off on both sides alike. `stretch`: height and width each by itself.
#: `centre`: turned and laid on the background too, its shorter side scaled to 8/7 of the size, 256 for 224, and the
#: middle taken. All are bilinear, with antialiasing where images shrink.
Resize = Literal["fit", "stretch", "centre"]


@dataclass(frozen=True)
class Preprocessing:
    """What is done to an image before a network sees it: x = (pixels / 255 - mean) / std, (N, channels, *size) float32.

    Args:
        classes: their names, in the order of the network's outputs; all of them.
        mean, std: one number per channel, on the scale 0..1.
        size: (height, width) in pixels.
        channels: 1 for grey images, 3 for red, green and blue.
        resize: how an image gets that size, see `Resize`.
        background: red, green and blue of what transparent pixels are laid on.
        stem, head: of the network, as in `retrain.stem` and `retrain.head`.

    Raises:
        DataError: values that do not fit together.
    """

    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int]
    channels: int
    resize: Resize
    background: Colour
    stem: str
    head: str

    def __post_init__(self) -> None:
        numbers = [*self.mean, *self.std]
        checks = (
            ("classes are names", self.classes, len(self.classes) > 0 and _all(self.classes, str)),
            ("channels is 1 or more", self.channels, _is_size(self.channels)),
            ("size is (height, width)", self.size, len(self.size) == 2 and all(map(_is_size, self.size))),
            ("mean and std are numbers", numbers, all(type(n) in (int, float) and math.isfinite(n) for n in numbers)),
            ("mean has one number per channel", self.mean, len(self.mean) == self.channels),
            ("std has one number per channel", self.std, len(self.std) == self.channels),
            (f"resize is one of {', '.join(get_args(Resize))}", self.resize, self.resize in get_args(Resize)),
            ("size is square where resize is centre", self.size, self.resize != "centre" or len({*self.size}) == 1),
            ("stem and head are names", (self.stem, self.head), _all((self.stem, self.head), str)),
        )
        for rule, value, holds in checks:
            if not holds:
                raise DataError(f"{rule}, but got {repr(value)[:80]}")
        if not all(number > 0 for number in self.std):
            raise DataError(f"std is above 0, but got {self.std}")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Preprocessing":
        """Read a JSON file, or the one in a run directory.

        Raises:
            DataError: no such file, or it is not what `save` writes; the message begins with the path.
        """
        path = Path(path) / FILE if os.path.isdir(path) else Path(path)
        try:
            with open(path, "rb") as file:
                raw = file.read(MAX_BYTES + 1)
            data = files.from_json(raw) if len(raw) <= MAX_BYTES else None
        except (OSError, ValueError) as fault:
            why = files.reason(fault) if isinstance(fault, OSError) else f"it is not JSON: {fault}"
            raise DataError(f"{path}: {FILE} must be readable, but {why}; restore it, or train again") from None
        try:
            return cls._from_dict(data)
        except (DataError, TypeError, ValueError) as fault:
            raise DataError(f"{path}: {fault}; restore it from a copy") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file; an interrupted write leaves the old file as it was.

        Raises:
            DataError: it cannot be written.
        """
        try:
            files.write_out(Path(path), f"{json.dumps(asdict(self), indent=1)}\n".encode())
        except OSError as fault:
            raise DataError(files.write_fault(Path(path), fault)) from None

    @classmethod
    def _from_dict(cls, data: Any) -> "Preprocessing":
        names = [field.name for field in fields(cls)]
        if not isinstance(data, dict) or sorted(data) != sorted(names):
            raise DataError(f"{FILE} has the keys {', '.join(names)} and no others")
        lists = {name: data[name] for name in ("classes", "mean", "std", "size")}
        for name, value in lists.items():
            if not isinstance(value, list):
                raise DataError(f"{name} is a list, but got {repr(value)[:80]}")
        values = {name: tuple(value) for name, value in lists.items()}
        return cls(**{**data, **values, "background": rgb(data["background"])})


def _all(values: tuple[Any, ...], kind: type) -> bool:
    return all(isinstance(value, kind) for value in values)


def _is_size(value: Any) -> bool:
    return type(value) is int and value > 0

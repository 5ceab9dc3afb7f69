"""What is known of a network besides its weights, and stays with each export of it as export.json."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from topocell.errors import RunError
from topocell.io import files
from topocell.io.folders import is_helper
from topocell.networks.classifier import Classifier
from topocell.networks.kept import confusion_of, predictions_name
from topocell.networks.scores import class_scores

#: Name of the file in an export.
FILE = "export.json"
#: Of its layout.
VERSION = 1
#: Directory, in that of a network, where its exports are unless another is named.
EXPORTS = "exports"


@dataclass(frozen=True)
class Facts:
    """What is known of a network.

    Args:
        name: of the run that trained it.
        recipe: its name; None if nothing is known of it.
        method: sentences on how the cell was found.
        results: of this network, under the keys of results.json: `dataset`, `test_images`, `per_class`, `warnings` ...
    """

    name: str
    recipe: str | None = None
    method: tuple[str, ...] = ()
    results: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return what export.json holds of it."""
        return asdict(self)

    @classmethod
    def of_export(cls, place: Path) -> "Facts":
        """Read what an export says; of a directory that says nothing only its name is known."""
        data = read(place)
        try:
            known = {key.name: data[key.name] for key in fields(cls)}
            return cls(**{**known, "method": tuple(known["method"]), "results": dict(known["results"])})
        except (LookupError, TypeError, ValueError):
            return cls(place.resolve().name or "network")


class Samples(NamedTuple):
    """Images on which an export is checked.

    Args:
        pixels: (N, C, H, W) uint8.
        words: what they are: `64 test images of the run`.
        real: whether they are images of the task, and not random ones.
    """

    pixels: Tensor
    words: str
    real: bool


def random_samples(model: Classifier, why: str, count: int = 64, seed: int = 0) -> Samples:
    """Images of independent uniform pixels; `why` says why there are no others."""
    how, draws = model.preprocessing, torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, how.channels, *how.size), generator=draws, dtype=torch.uint8)
    return Samples(pixels, f"{count} random images (seed {seed}), because {why}", False)


def network_results(place: Path, model: Classifier) -> dict[str, Any]:
    """What a run directory says of one of its networks, under the keys of results.json.

    Scores of the classes and warnings are those of this network alone, from its predictions. What is damaged or
    missing is left out.
    """
    try:
        results = files.from_json((place / "results.json").read_bytes())
    except (OSError, ValueError):
        results = {}
    if not isinstance(results, dict):
        results = {}
    number = model.file.networks.index(model.kept)
    keys = ("dataset", "train_images", "test_images", "epochs", "last_mean", "last_std", "n", "warnings")
    found = {key: results[key] for key in keys if key in results}
    try:
        confusion = confusion_of(place / predictions_name(number, model.kept.seed), model.classes)
        train = torch.tensor([entry["train_images"] for entry in results["per_class"]])
        scores = class_scores(model.classes, (train, confusion.sum(1)), [confusion])
    except (OSError, LookupError, TypeError, ValueError, RuntimeError):
        return found
    kept = ("per_class", "majority_class", "balanced_accuracy_mean", "warnings")
    return {**found, "test_images": int(confusion.sum()), **{key: scores[key] for key in kept}}


def read(place: Path) -> dict[str, Any]:
    """The contents of export.json; empty where there is none, or it is damaged."""
    try:
        data = files.from_json((place / FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) and data.get("version") == VERSION else {}


def contents(out: Path) -> list[Path]:
    """What is in a directory, sorted, but for what systems, Python and exports of the export itself leave in one."""
    own = (found for found in out.iterdir() if not is_helper(found.name))
    return sorted(found for found in own if not (found.name == EXPORTS and found.is_dir()))


def digest(data: bytes) -> str:
    """sha256 of a file's contents."""
    return hashlib.sha256(data).hexdigest()


#: How files of networks end.
_FILES = (".onnx", ".pt", ".pt2", ".pth", ".py", ".safetensors", ".torchscript", ".zip")


def refuse_foreign(out: Path) -> None:
    """Refuse a directory with anything but the files of an export, as that wrote them, and what using it leaves there.

    Raises:
        RunError: naming the first.
    """
    with files.guarded(out, "--out"):
        if not out.exists() and out.suffix in _FILES:
            raise RunError(
                f"--out names a directory for the files of an export, but {out} is called as a file; name one such as "
                f"{out.with_suffix('')}"
            )
        if not out.exists():
            return
        if not out.is_dir():
            raise RunError(f"--out must name a directory, but {out} is a file; choose another --out")
        data = read(out).get("files")
        written = data if isinstance(data, dict) else {}
        for found in contents(out):
            if found.name == FILE and written:
                continue
            start = f"--out must name an empty directory or an export as it was written, but {out} holds {found.name!r}"
            if found.name not in written:
                raise RunError(f"{start}, which belongs to none; choose another --out")
            if found.is_dir() or digest(found.read_bytes()) != written[found.name]:
                raise RunError(f"{start}, which was changed since; choose another --out")

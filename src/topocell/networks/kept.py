"""A trained network on the disk: network.json beside its weights and preprocessing.json, complete without the images.

network.json                   the cell, channels, layers, and one entry for each trained network
weights.safetensors            of the first retraining seed, without auxiliary head
weights-SEED.safetensors       of the others
preprocessing.json             class names and how images are prepared, see `topocell.data.preprocessing`
predictions.csv, predictions-SEED.csv      what each says of every test image
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from topocell.data.batches import Images
from topocell.data.preprocessing import Preprocessing
from topocell.errors import CheckpointError, RunError, TopocellError, typed
from topocell.genotype.genotype import Genotype
from topocell.io import files
from topocell.networks.scores import confusion_matrix
from topocell.nn.network import FixedNet
from topocell.registry import imported
from topocell.runtime.hooks import Trained
from topocell.runtime.memory import is_out_of_memory

#: Name of the file that describes the trained networks of a directory.
FILE = "network.json"
#: Of the layout above.
VERSION = 1
#: What stands in a text for bytes of a file name that are no text.
_NO_TEXT = re.compile(r"[\ud800-\udfff]")
#: Columns of predictions.csv.
COLUMNS = ("file", "true", "predicted", "probability")


def weights_name(number: int, seed: int) -> str:
    """Return the file of the weights of the network of a retraining seed, the `number`-th from 0."""
    return f"weights-{seed}.safetensors" if number else "weights.safetensors"


def predictions_name(number: int, seed: int) -> str:
    """Return the file of what that network predicts."""
    return f"predictions-{seed}.csv" if number else "predictions.csv"


def names_of(seeds: Sequence[int]) -> list[str]:
    """Return the files that a retraining over these seeds writes for its networks."""
    numbered = list(enumerate(seeds))
    return [FILE, *(weights_name(*pair) for pair in numbered), *(predictions_name(*pair) for pair in numbered)]


@dataclass(frozen=True)
class Kept:
    """One of the networks of a directory.

    Args:
        seed: of its training.
        weights: file of its weights.
        test_accuracy: a fraction, after the last epoch; None if it was not tested.
    """

    seed: int
    weights: str
    test_accuracy: float | None


@dataclass(frozen=True)
class NetworkFile:
    """The contents of network.json.

    Args:
        genotype: the cell.
        channels, layers: of the network.
        networks: trained with these, in the order of their seeds; one or more.
        imports: pieces of the user's own that the cell may need.
    """

    genotype: Genotype
    channels: int
    layers: int
    networks: tuple[Kept, ...]
    imports: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return what is written to network.json."""
        return {
            "version": VERSION,
            "genotype": self.genotype.to_dict(),
            "channels": self.channels,
            "layers": self.layers,
            "networks": [vars(kept) for kept in self.networks],
            "imports": list(self.imports),
        }

    @classmethod
    def load(cls, path: Path) -> "NetworkFile":
        """Read network.json.

        Raises:
            CheckpointError: it is damaged, or of another version. TopocellError: a cell that cannot be.
        """
        try:
            data = files.from_json(path.read_bytes())
            if data["version"] != VERSION:
                raise CheckpointError(
                    f"{path} has version {VERSION}, but this is {data['version']!r}; use the topocell that wrote it"
                )
            networks = tuple(Kept(one["seed"], one["weights"], one["test_accuracy"]) for one in data["networks"])
            sizes, imports = (data["channels"], data["layers"]), tuple(data["imports"])
            if not networks or not all(type(size) is int and size > 0 for size in sizes):
                raise ValueError("networks and sizes")
            if not all(Path(kept.weights).name == kept.weights for kept in networks):
                raise ValueError("files beside it")
        except TopocellError:
            raise
        except (OSError, LookupError, TypeError, ValueError) as fault:
            why = files.reason(fault) if isinstance(fault, OSError) else "it is not what a retraining writes"
            raise CheckpointError(f"{path} must describe trained networks, but {why}; restore it from a copy") from None
        missing = [text for text in imports if text not in imported()]
        try:
            genotype = Genotype.from_dict(data["genotype"])
        except TopocellError as fault:
            brings = "".join(f" --import {typed(text)}" for text in missing)
            hint = f"; it was written with{brings}: add it" if missing else ""
            raise CheckpointError(f"{path}: {fault}{hint}") from None
        return cls(genotype, *sizes, networks, imports)

    def of_seed(self, seed: int | None) -> Kept:
        """Return the network of a seed; of the first without one. Raises RunError for a seed it has not."""
        found = {kept.seed: kept for kept in self.networks}
        if seed is None:
            return self.networks[0]
        if seed not in found:
            raise RunError(f"a network was trained with seed {', '.join(map(str, found))}, but got {seed}; choose one")
        return found[seed]

    def build(self, how: Preprocessing) -> FixedNet:
        """Build a network with fresh weights, without auxiliary head."""
        return FixedNet(
            self.genotype,
            self.channels,
            self.layers,
            len(how.classes),
            in_channels=how.channels,
            stem=how.stem,
            head=how.head,
        )


def load_weights(net: FixedNet, path: Path) -> None:
    """Load a file of weights.

    Raises:
        CheckpointError: it is missing, damaged, or of another network. MemoryError: memory runs out.
    """
    try:
        net.load_state_dict(safetensors.torch.load_file(path))
    except FileNotFoundError:
        raise CheckpointError(f"{path} must hold the weights of a network, but is missing; restore it") from None
    except (OSError, SafetensorError, RuntimeError) as fault:
        if is_out_of_memory(fault):
            raise MemoryError(str(fault)) from fault
        why = next(iter(str(fault).split("\n")), "")
        raise CheckpointError(f"{path} must hold the weights of {path.parent / FILE}, but does not ({why})") from None


def predictions_csv(test: Images, network: Trained) -> str:
    """Return predictions.csv: the columns `COLUMNS`, one line for each test image."""
    labels = (test.labels.tolist(), network.labels.tolist())
    told = zip(test.names, *labels, network.probabilities.tolist(), strict=True)
    rows = [(name, test.classes[true], test.classes[label], f"{share:.6f}") for name, true, label, share in told]
    return csv_text([COLUMNS, *rows])


def confusion_of(path: Path, classes: Sequence[str]) -> Tensor:
    """Count (K, K) what a predictions.csv says. Raises OSError, LookupError or ValueError for a file that is none."""
    number = {name: i for i, name in enumerate(classes)}
    with open(path, encoding="utf-8", newline="") as file:
        pairs = [(number[row["true"]], number[row["predicted"]]) for row in csv.DictReader(file)]
    true, predicted = torch.tensor(pairs).unbind(1)
    return confusion_matrix(true, predicted, len(classes))


def csv_text(rows: Iterable[Sequence[str]]) -> str:
    """Return rows as CSV. A file name that is no text is written with replacement characters."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_NO_TEXT.sub("\ufffd", cell) for cell in row] for row in rows)
    return text.getvalue()

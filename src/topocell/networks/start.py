"""What a retraining begins with besides its settings: weights to fine-tune, and seeds that are trained already."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from topocell.errors import CheckpointError, RunError
from topocell.io import files
from topocell.networks.kept import confusion_of, predictions_name

#: Name of the file of weights to fine-tune, in the directory of a retraining.
INITIAL = "initial.safetensors"
#: Name of the file that says where they are from.
SOURCE = "initial.json"
#: Name of the file that holds the entries in results.json of the seeds that are trained already.
EARLIER = "earlier.json"
#: Parts of a network that depend on the classes, or are there for training alone.
_HEADS = ("classifier.", "auxiliary_head.")


class Start(NamedTuple):
    """What a retraining begins with.

    Args:
        weights: of a trained network of the same cell and size, where the training goes on from them.
        earlier: entries of results.json of the first seeds, where these are trained already.
        source: where the weights are from, in words.
    """

    weights: Mapping[str, Tensor] | None = None
    earlier: tuple[Mapping[str, Any], ...] = ()
    source: str = ""

    @classmethod
    def read(cls, directory: Path) -> "Start":
        """Read what a run directory says of it. Raises CheckpointError where a file is damaged."""
        weights, entries, source = None, list[Mapping[str, Any]](), ""
        where = directory / INITIAL
        try:
            if where.is_file():
                weights = safetensors.torch.load_file(where)
                where = directory / SOURCE
                source = str(files.from_json(where.read_bytes())["weights"])
            where = directory / EARLIER
            if where.is_file():
                entries = files.from_json(where.read_bytes())
            for number, entry in enumerate(entries):
                if entry["confusion"] is None:  # of more classes than results.json has them of
                    where = directory / "env.json"
                    classes = files.from_json(where.read_bytes())["class_names"]
                    where = directory / predictions_name(number, entry["seed"])
                    entries[number] = {**entry, "confusion": confusion_of(where, classes)}
        except (OSError, SafetensorError, LookupError, TypeError, ValueError):
            raise CheckpointError(f"{where} must be readable, but is damaged; restore it from a copy") from None
        return cls(weights, tuple(entries), source)


#: Fresh weights, and no seed that is trained already.
AFRESH = Start()


def load_initial(net: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load the weights of another network; classifier and auxiliary head stay fresh where they do not fit.

    Raises:
        RunError: a network of another cell or size.
    """
    net.load_state_dict({**net.state_dict(), **fitting(net, weights)})


def fitting(net: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights that fit a network, which may be on the meta device. Raises as `load_initial`."""
    mine = net.state_dict()
    fits = {name: value for name, value in weights.items() if name in mine and mine[name].shape == value.shape}
    others = [name for name in {**mine, **weights} if name not in fits and not name.startswith(_HEADS)]
    if others:
        raise RunError(
            f"weights are fine-tuned in a network of the same cell, channels, layers and image channels, but "
            f"{len(others)} of its tensors are of another shape or missing ({others[0]}); set retrain.channels and "
            f"retrain.layers to those of the weights"
        )
    if "classifier.weight" not in fits:  # other classes
        return without_heads(fits)
    return fits


def without_heads(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights that do not depend on the classes."""
    return {name: value for name, value in weights.items() if not name.startswith(_HEADS)}

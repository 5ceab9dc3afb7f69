"""A trained network in use: from images, as files or in memory, to classes and probabilities."""

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, overload
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from topocell.arguments import checked
from topocell.data import preprocessing
from topocell.data.arrays import BEYOND
from topocell.data.folder_listing import some
from topocell.data.pictures import find_images, read_in_batches
from topocell.data.preprocessing import Preprocessing
from topocell.errors import DataError, RunError, resuming, typed
from topocell.networks.kept import FILE, Kept, NetworkFile, load_weights
from topocell.nn.count import modes_of
from topocell.nn.kernels.cpu import ordinary
from topocell.nn.network import FixedNet
from topocell.reporting.run_files import RunFiles
from topocell.runtime.devices import find_device
from topocell.runtime.memory import naming_memory

#: Images that are in memory at once while a folder is predicted.
BATCH_SIZE = 64


class Prediction(NamedTuple):
    """What a network says of one image.

    Args:
        name: the path of the image, or its number among those given.
        label: the most probable class.
        probability: of that class.
        probabilities: class → probability, most probable first.
    """

    name: str
    label: str
    probability: float
    probabilities: dict[str, float]


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a network says of N images; a sequence of `Prediction`.

    Args:
        names: what each image is called.
        probabilities: (N, K) float32.
        classes: K names.
        notes: sentences on files that were not used or could not be read.
    """

    names: tuple[str, ...]
    probabilities: Tensor
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> list[str]:
        """The most probable class of each image."""
        return [self.classes[i] for i in self.probabilities.argmax(1).tolist()]

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Prediction: ...

    @overload
    def __getitem__(self, index: slice) -> list[Prediction]: ...

    def __getitem__(self, index: int | slice) -> Prediction | list[Prediction]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        values, order = self.probabilities[index].sort(descending=True, stable=True)
        ranked = {self.classes[i]: value for i, value in zip(order.tolist(), values.tolist())}
        label = next(iter(ranked))
        return Prediction(self.names[index], label, ranked[label], ranked)

    def __iter__(self) -> Iterator[Prediction]:
        return (self[index] for index in range(len(self)))


class Classifier(nn.Module):
    """A trained network with all that it takes to use it. Made by `load`.

    Called with pixels (N, C, H, W), uint8, of the size and the channels it was trained on, it returns logits (N, K).
    Pixels of another type, such as floats for a gradient, are in 0..255 as well; what is not is warned of.

    Args:
        net: in evaluation mode.
        preprocessing: how images are prepared for it.
        file: of network.json.
        kept: which of its networks this is.

    Attributes:
        classes: K names, in the order of the outputs.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: FixedNet, preprocessing: Preprocessing, file: NetworkFile, kept: Kept) -> None:
        super().__init__()
        self.net, self.preprocessing, self.file, self.kept = net.eval(), preprocessing, file, kept
        self.classes = preprocessing.classes
        for name in ("mean", "std"):
            numbers = torch.tensor(getattr(preprocessing, name), dtype=torch.float32)
            self.register_buffer(name, numbers[:, None, None])
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (N, K) of pixels (N, C, H, W) uint8: normalised as (pixels / 255 - mean) / std first.

        Raises DataError for what is no tensor.
        """
        if not hasattr(pixels, "float"):
            raise DataError(
                f"a network is called with a tensor of pixels (N, C, H, W), but got a {type(pixels).__name__}; "
                f"its method predict takes files, folders, images of Pillow and arrays"
            )
        if not torch.compiler.is_compiling() and ordinary(pixels) and pixels.is_floating_point():
            _check_scale(pixels)
        normal = (pixels.float() / 255 - self.mean) / self.std
        logits: Tensor = self.net(normal.to(self.mean.dtype))  # that of the network, also after half() and the like
        return logits

    @checked(DataError)
    def predict(self, images: Any, *, batch_size: int = BATCH_SIZE, skip_unreadable: bool = False) -> Predictions:
        """Predict the classes of images.

        Args:
            images: a path of a file or a folder, the bytes of a file or a file that is open, an image of Pillow, an
                array (H, W), (H, W, C) or (N, H, W, C) of uint8, a tensor (C, H, W) or (N, C, H, W), uint8 or float in
                0..1; or these in a list, from an iterator, or in whatever else gives them. They may have any size: they
                are prepared as those of the training were.
            batch_size: images that are read and computed at once; an iterator is asked for so many, each of which is
                read before the next, so that it may give one object again and again, as films of Pillow do.
            skip_unreadable: whether images that cannot be read are left out; if not, the first ten are named.

        Raises:
            DataError: there are no images, or some cannot be read. RunError: memory runs out, or the network was
                changed, and its outputs are no longer one for each of `classes`.
        """
        if batch_size < 1:
            raise DataError(f"batch_size must be 1 or more, but got {batch_size}; leave it out for {BATCH_SIZE}")
        found, unused = find_images(images)
        names, parts = list[str](), list[Tensor]()
        faults = list[str]()
        device = self.mean.device
        with _evaluating(self), naming_memory(lambda: _too_large(device, batch_size)):
            for pictures in read_in_batches(found, batch_size, self.preprocessing):
                names += pictures.names
                faults += pictures.faults
                if len(pictures.pixels):
                    pixels = pictures.pixels.to(device, memory_format=torch.channels_last)
                    with torch.no_grad():
                        logits = self(pixels)
                    if logits.shape[1] != len(self.classes):
                        raise RunError(
                            f"a network has one output for each class, but this has {logits.shape[1]} for "
                            f"{len(self.classes)} classes; set its `classes` to the names of the outputs"
                        )
                    parts.append(logits.float().softmax(1).cpu())
        if faults and not skip_unreadable:
            count = len(names) + len(faults)
            raise DataError(
                f"{len(faults):,} of {count:,} images cannot be read: {some(faults, 10)}; repair them or leave "
                f"them out, or skip them (--skip-unreadable, skip_unreadable=True)"
            )
        if not names:
            raise DataError(
                f"a prediction is for one image or more, but none can be read: {some(faults, 10)}; repair them"
            )
        notes = [*unused.notes(), *(f"not read: {fault}" for fault in faults)]
        empty = torch.empty(0, len(self.classes), device="cpu")
        return Predictions(tuple(names), torch.cat(parts) if parts else empty, self.classes, tuple(notes))


#: Networks that predict now → how many calls do, and the mode that each module had before the first.
_predicting: WeakKeyDictionary[nn.Module, tuple[int, dict[nn.Module, bool]]] = WeakKeyDictionary()
_lock = threading.Lock()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, until the last of the threads that ask for it is done."""
    with _lock:
        count, modes = _predicting.get(model) or (0, modes_of(model))
        _predicting[model] = count + 1, modes
        model.eval()
    try:
        yield
    finally:
        with _lock:
            count, modes = _predicting.pop(model)
            if count > 1:
                _predicting[model] = count - 1, modes
            else:
                for module, training in modes.items():  # each its own: frozen batch norms stay frozen
                    module.training = training


def _too_large(device: torch.device, batch_size: int | None = None) -> str:
    """Say that the memory of a device ran out, for a network, or for a batch of so many images; and what needs less."""
    ways = (
        [f"use a batch size of {batch_size // 2} (--batch-size, batch_size=)"] if batch_size and batch_size > 1 else []
    )
    ways += ["use the CPU (--device cpu, or device='cpu' of load)"] if device.type != "cpu" else []
    what, how = "a network", ""
    if batch_size is not None:
        what, how = "the network and the images of a batch", f" with {batch_size}"
    step = " or ".join(ways) or "end what else runs there"
    return f"{what} must fit in the memory of {device}, but it ran out{how}; {step}"


def _check_scale(pixels: Tensor) -> None:
    """Warn of floats in 0..1, and of normalised ones: the answer to them would be that to a black image."""
    if pixels.device.type == "meta" or not pixels.numel():
        return
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        return
    low, high = (float(bound) for bound in pixels.detach().aminmax())
    if low < 0 or 0 < high <= 1 + BEYOND:
        warnings.warn(
            f"a network of topocell.load takes pixels in 0..255 and normalises them itself, but these are floats from "
            f"{low:g} to {high:g}; call predict, which takes floats in 0..1, or give pixels, or call its `net` with "
            f"normalised images",
            stacklevel=5,  # that of the call
        )


@checked(RunError)
def load(path: str | os.PathLike[str], *, seed: int | None = None, device: str | torch.device = "cpu") -> Classifier:
    """Load the trained network of a run, or of an export.

    Args:
        path: run directory, export directory, or the network.json in one.
        seed: of the retraining; the first without one.
        device: where it computes; `auto` is the first GPU, else the CPU.

    Raises:
        RunError: there is no trained network, or none of that seed, or memory runs out. CheckpointError, DataError:
        what is there is damaged. RecipeError: a device that is not there.
    """
    given = Path(path)
    place = given.parent if given.name == FILE else given
    meta = str(device) == "meta"
    where = torch.device("meta") if meta else find_device(str(device))
    if not (place / FILE).is_file():
        raise RunError(_no_network(place))
    file = NetworkFile.load(place / FILE)
    how = Preprocessing.load(place / preprocessing.FILE)
    cpu = torch.device("cpu")
    with cpu, naming_memory(lambda: _too_large(cpu)):  # whatever the default is: the meta device would lose the weights
        net, kept = file.build(how).float(), file.of_seed(seed)  # also where another type is the default
        load_weights(net, place / kept.weights)
        model = Classifier(net, how, file, kept)
    with naming_memory(lambda: _too_large(where)):
        return model.to(where)


def _no_network(place: Path) -> str:
    """Say why a directory has no trained network, and what makes one."""
    start = f"a network is loaded from a directory with {FILE}, but {place}"
    if not place.exists():
        return f"{start} does not exist; check the path"
    if not (place / "recipe.yaml").is_file():
        return f"{start} has none; name the directory of a finished run, or of an export to safetensors"
    if (place / "results.json").is_file():
        return f"{start} has none: the accuracy of its cell was looked up in a table, and no network was trained"
    if RunFiles(place).results().get("protocol") == "shallow":
        return (
            f"{start} has none: its run ended with the shallow evaluation; name {place / 'shallow'}, which has the "
            f"network of that, or train in full with: topocell retrain {typed(place)} --protocol full"
        )
    return f"{start} has none yet: its network is not trained; continue with: {resuming(place)}"

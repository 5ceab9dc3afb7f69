"""An export from beginning to end: written aside, compared with the network, and put in its place."""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from topocell.errors import RunError, TopocellError, nearest
from topocell.io import files
from topocell.networks.classifier import Classifier
from topocell.networks.exports import card, facts, graphs, standalone
from topocell.networks.exports.facts import Facts, Samples
from topocell.networks.exports.process import Compute
from topocell.reporting.cell_drawing import draw_genotype
from topocell.runtime.memory import naming_memory


class Format(NamedTuple):
    """A format of exports.

    Args:
        write: from the network, a directory and a name to files in it; returns what computes logits by them.
        packages: that it needs.
        tolerance: largest difference of a logit, in units of the largest logit where that is above 1.
        runtime: package whose time for an image is measured besides PyTorch's.
        any_size: whether it takes images of other sizes than that of the training, as far as its cells halve them.
    """

    write: Callable[[Classifier, Path, str], Compute]
    packages: tuple[str, ...] = ()
    tolerance: float = 0.0
    runtime: str | None = None
    any_size: bool = True


FORMATS: Mapping[str, Format] = {
    "safetensors": Format(graphs.write_safetensors),
    "onnx": Format(graphs.write_onnx, ("onnx", "onnxruntime", "onnxscript"), 1e-4, "onnxruntime", False),
    "standalone": Format(standalone.write_standalone),
    "pt2": Format(graphs.write_pt2, (), 1e-5, any_size=False),
    "timm": Format(standalone.write_timm, ("timm",)),
}


@dataclass(frozen=True)
class Exported:
    """An export that was written and checked.

    Args:
        path: its directory.
        files: name → bytes.
        difference: largest difference between a logit of the export and of the network.
        images: on which they were compared.
    """

    path: Path
    files: Mapping[str, int]
    difference: float
    images: str


#: What is said where memory runs out.
_FULL = "an export and its check must fit in the memory of this machine, but it ran out; end what else runs there"


def find_format(to: str) -> Format:
    """Return a format whose packages are there.

    Raises:
        RunError: no such format, or a package is missing.
    """
    if to not in FORMATS:
        raise RunError(f"--to is one of {', '.join(FORMATS)}, but got {to!r}{nearest(to, FORMATS)}; choose one")
    missing = [name for name in FORMATS[to].packages if importlib.util.find_spec(name) is None]
    if missing:
        raise RunError(
            f"an export to {to} needs {', '.join(FORMATS[to].packages)}, but {', '.join(missing)} "
            f"{'are' if missing[1:] else 'is'} not installed; pip install {' '.join(missing)}"
        )
    return FORMATS[to]


def write_export(model: Classifier, to: str, out: Path, known: Facts, samples: Samples) -> Exported:
    """Write a network in a format, with its model card, into a directory that is new, empty, or such an export.

    Args:
        model: on the CPU.
        to: a row of `FORMATS`.
        out: the directory.
        known: what is known of the network.
        samples: images on which it is checked.

    Raises:
        RunError: an unknown format, a missing package, a directory that holds something else, a network that the
            format cannot say, or an export that computes something else; nothing is left behind then.
    """
    form = find_format(to)
    facts.refuse_foreign(out)
    with files.temporary_folder() as folder, files.writing_in(folder):
        try:
            with naming_memory(lambda: _FULL):
                compute = form.write(model, folder, known.name)
                difference, allowed = compare(model, compute, samples.pixels, form.tolerance)
        except (TopocellError, OSError):
            raise
        except Exception as fault:  # whatever an exporter makes of an operation that it does not know
            why = f"{type(fault).__name__}: {' '.join(str(fault).split())[:200]}"
            needs = f", or update {', '.join(form.packages)}" if form.packages else ""
            raise RunError(
                f"an export to {to} writes any network of topocell, but fails on this one ({why}); export to another "
                f"format{needs}"
            ) from fault
        if not difference <= allowed:
            raise RunError(
                f"an export computes what the network does, to {allowed:.1e}, but its logits differ by "
                f"{difference:.1e} on {samples.words}; nothing was written: export to another format, and report it"
            )
        check = f"Compared with the network in topocell on {samples.words}: {difference_words(difference)}."
        one = samples.pixels[:1]
        times = [card.latency(f"PyTorch {torch.__version__}", _without_gradient(model), one)]
        if form.runtime is not None:
            called = f"{form.runtime} {importlib.import_module(form.runtime).__version__}"
            times.append(card.latency(called, lambda image: compute([image]), one))
        draw_genotype(model.file.genotype.to_dict(), folder / "cell.svg")
        files.replace(folder / card.FILE, card.card(model, to, known, check, times, form.any_size).encode())
        contents = {found.name: found.read_bytes() for found in sorted(folder.iterdir()) if found.is_file()}
        described = {
            "version": facts.VERSION,
            "to": to,
            **known.to_dict(),
            "files": {name: facts.digest(data) for name, data in contents.items()},
            "check": {"images": samples.words, "real": samples.real, "difference": difference},
            "latency": times,
        }
        contents[facts.FILE] = f"{files.to_json(described, indent=2)}\n".encode()
        _put(out, contents)
    return Exported(out, {name: len(data) for name, data in contents.items()}, difference, samples.words)


def compare(model: Classifier, compute: Compute, pixels: Tensor, tolerance: float) -> tuple[float, float]:
    """The largest difference of a logit, and the largest that is allowed.

    Images are compared as one batch (N, C, H, W), uint8, and the first one alone.
    """
    batches = [pixels, pixels[:1]]
    expected, found = graphs.computed_by(model)(batches), compute(batches)
    if [a.shape for a in expected] != [b.shape for b in found]:
        return float("inf"), 0.0
    difference = max(float((a - b).abs().max()) for a, b in zip(expected, found))
    return difference, tolerance * max(1.0, *(float(logits.abs().max()) for logits in expected))


def difference_words(difference: float) -> str:
    """A difference in words."""
    return "all logits are equal, bit for bit" if difference == 0 else f"logits differ by {difference:.1e} at most"


def _without_gradient(model: Classifier) -> Callable[[Tensor], Tensor]:
    def call(image: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = model(image)
            return logits

    return call


def _put(out: Path, contents: Mapping[str, bytes]) -> None:
    """Put files in a directory, in place of an earlier export; where the disk refuses, none of them stays."""
    with files.guarded(out, "--out"):
        out.mkdir(parents=True, exist_ok=True)
        before = {found.name for found in facts.contents(out)}
        try:
            for name, data in contents.items():  # the description of all others is the last
                files.replace(out / name, data)
            for name in before - contents.keys():
                (out / name).unlink()
        except BaseException:
            for name in before | contents.keys():
                (out / name).unlink(missing_ok=True)
            raise

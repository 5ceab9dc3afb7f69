"""The model card of an export, README.md: what the network is for, how good, large and fast it is, how it is used."""

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from topocell.data.splits import OF_ANYTHING
from topocell.errors import one_line
from topocell.io.files import file_name
from topocell.networks.classifier import Classifier
from topocell.networks.exports.facts import Facts
from topocell.networks.exports.usage import usage
from topocell.networks.scores import wilson_interval
from topocell.nn.count import count
from topocell.nn.kernels.cpu import instruction_set
from topocell.reporting.scores import accuracy_of, class_table, majority_share, score_warnings
from topocell.reporting.tables import format_count, format_percent, is_number
from topocell.runtime.provenance import cpu_model

#: Name of the file.
FILE = "README.md"
#: Classes up to which the card lists them all.
MOST_CLASSES = 200
#: Calls whose median is the latency, and seconds after which there are no more.
CALLS, SECONDS = 50, 2.0


def latency(by: str, call: Callable[[Tensor], Any], image: Tensor) -> dict[str, Any]:
    """Measure how long one image takes, (1, C, H, W) uint8, and say on what.

    Args:
        by: what computes: `PyTorch 2.9.0`.
        call: computes it.
        image: the image.
    """
    for _ in range(3):
        call(image)
    times = list[float]()
    while len(times) < CALLS and sum(times) < SECONDS:
        start = time.perf_counter()
        call(image)
        times.append(time.perf_counter() - start)
    return {
        "milliseconds": 1e3 * statistics.median(times),
        "calls": len(times),
        "by": by,
        "device": "cpu",
        "cpu": cpu_model(),
        "threads": torch.get_num_threads(),
        "instruction_set": instruction_set().name,
    }


def card(
    model: Classifier, to: str, facts: Facts, check: str, latencies: Sequence[Mapping[str, Any]], any_size: bool
) -> str:
    """Write the model card.

    Args:
        model: the network.
        to: format of the export.
        facts: what is known besides.
        check: a sentence on how the export was checked.
        latencies: from `latency`.
        any_size: whether the export takes images of other sizes than that of the training.
    """
    how, results = model.preprocessing, facts.results
    code, notes = usage(to, how, facts.name, model.file.imports)
    dataset = results.get("dataset")
    named = isinstance(dataset, str) and dataset not in OF_ANYTHING  # a folder may lie anywhere: its name says nothing
    of = f" of {_text(file_name(str(dataset)))}" if named else ""
    parts = [
        f"# {_text(facts.name)}",
        f"A network that tells {len(model.classes):,} classes of images{of} apart, trained by topocell and "
        f"exported to `{to}`. It is a stack of cells:",
        "![The cell](cell.svg)",
        "## Use",
        notes,
        f"```python\n{code}```",
        "## Accuracy",
        *_accuracy(model, results),
        *_warnings(results),
        "## Classes",
        _classes(model, results),
        "## Images",
        _table([["", ""], *_images(model, any_size)]),
        "## Network",
        _table([["", ""], *_network(model, facts)]),
        "## Time",
        *(_latency(found) for found in latencies),
        "## Check",
        check,
        "## Licence",
        "None is given here: who publishes this network chooses one, and sees to the rights in its training images.",
    ]
    return "\n\n".join(parts) + "\n"


def _accuracy(model: Classifier, results: Mapping[str, Any]) -> list[str]:
    share, n = model.kept.test_accuracy, results.get("test_images")
    if share is None:
        return ["It was not tested."]
    text = f"Test accuracy: {format_percent(share)}"
    if isinstance(n, int) and n > 0:
        low, high = wilson_interval(share, n)
        text += f" of n = {n:,} test images (95 % interval of Wilson: {format_percent(low)} to {format_percent(high)})"
    lines = [f"{text}. It is that of this one network, after its last epoch or the one that early stopping kept."]
    majority = results.get("majority_class")
    if isinstance(majority, Mapping) and is_number(majority.get("accuracy")):
        answer = _text(str(majority.get("class")))
        balanced = format_percent(results.get("balanced_accuracy_mean"))
        alone, of_balanced = (majority_share(results, kind) for kind in (False, True))
        lines.append(
            f"Balanced accuracy, the mean recall of the classes: {balanced}. The answer “{answer}” to every image has "
            f"an accuracy of {format_percent(alone)} and a balanced accuracy of {format_percent(of_balanced)}."
        )
    if isinstance(results.get("n"), int) and results["n"] > 1:
        lines.append(f"All networks that were trained of this cell, over seeds: {accuracy_of(results, 'last')}.")
    return lines


def _warnings(results: Mapping[str, Any]) -> list[str]:
    found = score_warnings(results)
    return ["## Warnings", "\n".join(f"- {_text(text)}" for text in found)] if found else []


def _classes(model: Classifier, results: Mapping[str, Any]) -> str:
    if len(model.classes) > MOST_CLASSES:
        return f"{len(model.classes):,} classes; export.json has their names and scores."
    return _table(class_table(results) or [["class"], *([name] for name in model.classes)])


def _images(model: Classifier, any_size: bool) -> list[list[str]]:
    how, divisor = model.preprocessing, model.net.divisor
    others = "no other"
    if any_size:
        others = f"others must be divisible by {divisor}" if divisor > 1 else "any other is taken"
        others += ", and were not tested" if divisor > 1 else ", but was not tested"
    rules = {
        "fit": "turned upright by EXIF, scaled to cover the size (bilinear, antialiased), cut off alike on both sides",
        "centre": "turned upright by EXIF, shorter side scaled to 8/7 of the size (bilinear, antialiased), cut off",
        "stretch": "height and width each scaled to the size (bilinear, antialiased)",
    }
    return [
        ["size", f"{how.size[0]} x {how.size[1]} pixels (height x width); {others}"],
        ["resizing", f"{how.resize}: {rules[how.resize]}"],
        ["channels", {1: "1 (grey)", 3: "3 (red, green, blue)"}.get(how.channels, str(how.channels))],
        ["mean", ", ".join(f"{value:.6g}" for value in how.mean)],
        ["standard deviation", ", ".join(f"{value:.6g}" for value in how.std)],
        ["normalisation", "(pixels / 255 - mean) / standard deviation"],
        ["background of transparent pixels", "#{:02x}{:02x}{:02x}".format(*how.background)],
    ]


def _network(model: Classifier, facts: Facts) -> list[list[str]]:
    how, file = model.preprocessing, model.file
    size = count(model.net, (how.channels, *how.size))
    rows = [
        ["parameters", f"{size.parameters:,} ({format_count(size.parameters)})"],
        ["multiply-adds of an image", f"{size.multiply_adds:,} ({format_count(size.multiply_adds)})"],
        ["cells, initial channels", f"{file.layers}, {file.channels}"],
        ["skeleton, stem, head", f"{file.genotype.skeleton}, {how.stem}, {how.head}"],
        ["seed of the training", str(model.kept.seed)],
        ["recipe", file_name(facts.recipe or "unknown")],
    ]
    return [*rows, ["search", " ".join(facts.method) or "unknown"]]


def _latency(found: Mapping[str, Any]) -> str:
    threads = found["threads"]
    return (
        f"{found['milliseconds']:.3g} ms for one image (batch 1, median of {found['calls']} calls) by {found['by']} on "
        f"device {found['device']}: {_text(str(found['cpu']))}, {threads} thread{'s' * (threads != 1)}, instruction "
        f"set {found['instruction_set']}."
    )


def _table(rows: Iterable[Sequence[str]]) -> str:
    head, *body = [[_text(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *body])


def _text(text: str) -> str:
    """A text from anywhere, on one line, in which Markdown and HTML see nothing."""
    line = one_line(text).encode(errors="replace").decode()
    for sign in ("\\", "|", "<", "*", "_", "`", "[", "#"):
        line = line.replace(sign, f"\\{sign}")
    return line

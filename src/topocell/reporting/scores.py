"""Words and tables of the report and the terminal for a retraining: its accuracy, and what keeps it from misleading.

Where the classes differ much in size, the balanced accuracy leads. Everything is read leniently from a results.json.
"""

import math
from collections.abc import Mapping
from typing import Any

from topocell.errors import one_line
from topocell.reporting.tables import format_accuracy, format_count, format_percent, is_number, kept_epochs

#: Largest class of the test images over smallest, from which the balanced accuracy is the headline.
UNEQUAL = 1.5
#: Of which epoch the weights are after early stopping.
_KEPT = ", the one with the highest accuracy on the images that early stopping held out"
#: Classes whose recall the terminal names; of more, the lowest.
SHOWN = 8
#: Classes up to which the report has a confusion matrix.
MOST_IN_MATRIX = 25


def accuracy_of(results: Mapping[str, Any], which: str) -> str:
    """`97.51 ± 0.06 % (n = 4)` of `last`, `best` or `balanced_accuracy`; an em dash without it."""
    mean, std, n = (results.get(key) for key in (f"{which}_mean", f"{which}_std", "n"))
    if not is_number(mean) or not isinstance(n, int):
        return "—"
    return format_accuracy(mean, std if is_number(std) else None, n)


def score_headline(results: Mapping[str, Any]) -> dict[str, str]:
    """The headline of the report, in the fields of its template; empty without a test accuracy."""
    if accuracy_of(results, "last") == "—":
        return {}
    which, title = _leading(results)
    value, _, count = accuracy_of(results, which).partition(" (")
    plain = "; ".join(text for text in (_interval(results), _majority(results)) if text)
    if which == "last":
        details = [_sentence(plain)] if plain else []
    else:  # the interval is that of the plain accuracy, and stands beside it alone
        details = [_sentence(text) for text in (_majority(results, balanced=True),) if text]
        details.append(
            f"Test accuracy, {_moment(results)}: {accuracy_of(results, 'last')}" + f"; {plain}" * bool(plain)
        )
    if top := _top_k(results):
        details.append(_sentence(top))
    best = accuracy_of(results, "best")
    if best != "—":
        details.append(f"Best epoch, chosen on the test split: {best}")
    return {"title": title, "last": value, "n": count.rstrip(")"), "details": "\n".join(details)}


def score_lines(results: Mapping[str, Any]) -> list[str]:
    """A results.json of a retraining in words, for the terminal; what leads stands first."""
    known = accuracy_of(results, "last"), _interval(results), _majority(results)
    last = f"test accuracy, {_moment(results)}: {'; '.join(text for text in known if text)}"
    balanced = f"balanced accuracy (mean recall of the classes): {accuracy_of(results, 'balanced_accuracy')}"
    if majority := _majority(results, balanced=True):
        balanced += f"; {majority}"
    lines = [last] if "—" in balanced else [last, balanced] if _leading(results)[0] == "last" else [balanced, last]
    size = f"{format_count(results.get('parameters'))} parameters, {format_count(results.get('multiply_adds'))}"
    seeds = [
        f"{run.get('seed')} {format_percent(run.get('last'))}"
        for run in _list(results, "runs")
        if isinstance(run, Mapping)
    ]
    return [
        *lines,
        *filter(None, [_top_k(results)]),
        *([f"by seed: {', '.join(seeds)}"] if len(seeds) > 1 else []),
        *_recalls(results),
        f"test accuracy, best epoch: {accuracy_of(results, 'best')} (chosen on the test split)",
        f"{results.get('dataset', '—')}: {size} multiply-adds",
        *(f"warning: {text}" for text in score_warnings(results)),
    ]


def _top_k(results: Mapping[str, Any]) -> str:
    """How often the class is among the k most probable ones, in words; empty where it was not measured."""
    top = accuracy_of(results, "top_k")
    return "" if top == "—" else f"top-{results.get('k', 'k')} accuracy, {_moment(results)}: {top}"


def score_warnings(results: Mapping[str, Any]) -> list[str]:
    """What a reader of the accuracy should know, as the retraining wrote it down."""
    return [text for text in _list(results, "warnings") if isinstance(text, str)]


def random_cell_words(results: Mapping[str, Any], random_cell: Mapping[str, Any]) -> str:
    """Compare the cell of a run with a random one that was retrained alike, in words; empty without both.

    They are told apart by what test images and seeds leave open: 1.96 standard errors of the difference, of both.
    """
    mine, other = results.get("last_mean"), random_cell.get("last_mean")
    if not is_number(mine) or not is_number(other):
        return ""
    apart = mine - other > 1.96 * math.sqrt(_variance(results) + _variance(random_cell))
    verdict = "no better than" if mine <= other else "better than" if apart else "not told apart from"
    return (
        f"the found cell, {accuracy_of(results, 'last')}, is {verdict} a random cell retrained alike, "
        f"{accuracy_of(random_cell, 'last')}; one random cell is one sample"
    )


def _variance(results: Mapping[str, Any]) -> float:
    """Of the mean accuracy: of its test images, binomial, and of its seeds, as far as they are known."""
    mean, std, n, images = (results.get(key) for key in ("last_mean", "last_std", "n", "test_images"))
    of_images = mean * (1 - mean) / images if is_number(mean) and is_number(images) and images else 0.0
    return of_images + (std**2 / n if is_number(std) and is_number(n) and n else 0.0)


def class_table(results: Mapping[str, Any]) -> list[list[str]]:
    """A table of the classes, the header first; empty without them."""
    rows = [
        [
            entry["class"],
            _count(entry.get("train_images")),
            _count(entry.get("test_images")),
            format_percent(entry.get("recall")),
            format_percent(entry.get("precision")),
        ]
        for entry in _classes(results)
    ]
    return [["class", "training images", "test images", "recall", "precision"], *rows] if rows else []


def confusion_table(results: Mapping[str, Any]) -> list[list[str]]:
    """The confusion matrix of the first seed, the header first; empty without one, or of many classes."""
    names = [entry["class"] for entry in _classes(results)]
    first = next(iter(_list(results, "runs")), None)
    rows = _list(first, "confusion") if isinstance(first, Mapping) else []
    square = len(rows) == len(names) and all(isinstance(row, list) and len(row) == len(names) for row in rows)
    if not rows or not square or len(names) > MOST_IN_MATRIX:
        return []
    return [["true class", *names], *([name, *map(_count, row)] for name, row in zip(names, rows, strict=True))]


def score_notes(results: Mapping[str, Any]) -> list[str]:
    """Notes that a reader must know to trust the accuracy as far as it goes, and no further."""
    notes = [
        "Test accuracy was computed by retraining only. The search and the selection of the cell never see the test "
        "split."
    ]
    if isinstance(source := results.get("initial_weights"), str):
        notes.append(f"The training began with the weights of {source}; it was not one from scratch.")
    if not score_headline(results):
        return [*notes, "No test accuracy has been computed for this run yet; validation accuracies do not replace it."]
    notes.append(
        f"The headline is of the {_moment(results)}{_KEPT * bool(kept_epochs(results))}. "
        "“Best epoch” picks an epoch by its test accuracy and is therefore "
        "optimistic; it is given for comparison with reports that use it."
    )
    if _leading(results)[0] != "last":
        notes.append(
            "The classes have different numbers of test images, so that the headline is the balanced accuracy: the "
            "mean of the recalls of the classes, each of the same weight."
        )
    if interval := _interval(results):
        notes.append(
            f"{_sentence(interval)} (Wilson): what accuracies such a network may have on other images of the same "
            "kind. It is about images, the spread over seeds about trainings."
        )
    if results["n"] >= 2:
        notes.append(
            f"± is the sample standard deviation (n − 1) over {results['n']} retrainings of the same cell. It does "
            "not include how much cells differ between searches with different seeds."
        )
    else:
        notes.append(
            "One seed was retrained, so no spread can be given: small differences from other results mean nothing."
        )
    return notes


def _leading(results: Mapping[str, Any]) -> tuple[str, str]:
    """Which figure leads, and its title."""
    sizes = [entry.get("test_images") for entry in _classes(results)]
    numbers = [size for size in sizes if is_number(size)]
    unequal = bool(numbers) and max(numbers) >= UNEQUAL * max(min(numbers), 1)
    if unequal and is_number(results.get("balanced_accuracy_mean")):
        return "balanced_accuracy", f"Balanced test accuracy, {_moment(results)}"
    return "last", f"Test accuracy, {_moment(results)}"


def _moment(results: Mapping[str, Any]) -> str:
    """Of which epoch the weights are that were tested and kept, and of which training, where it is not the full one."""
    training = f" of the {results['protocol']} evaluation" if "protocol" in results else ""
    return f"{'kept' if kept_epochs(results) else 'last'} epoch{training}"


def _interval(results: Mapping[str, Any]) -> str:
    """`95 % interval for 27 test images: 71.94 % to 96.15 %`; empty without it."""
    bounds = _list(results, "interval")
    if len(bounds) != 2 or not all(map(is_number, bounds)):
        return ""
    images = _count(results.get("test_images"))
    return f"95 % interval for {images} test images: {format_percent(bounds[0])} to {format_percent(bounds[1])}"


def majority_share(results: Mapping[str, Any], balanced: bool = False) -> float | None:
    """The accuracy of the answer "the largest class" to every image, or its balanced accuracy; None without it."""
    found = results.get("majority_class")
    share = found.get("accuracy") if isinstance(found, Mapping) else None
    if not isinstance(share, int | float) or not is_number(share):
        return None
    if not balanced:
        return share
    tested = sum(1 for entry in _classes(results) if entry.get("test_images"))
    return (share > 0) / tested if tested else None  # all images of one class are right, and none of the others


def _majority(results: Mapping[str, Any], balanced: bool = False) -> str:
    """`the answer 'a' to every image has an accuracy of 88.89 %`, or a balanced one of 33.33 %; empty without it."""
    share = majority_share(results, balanced)
    if share is None:
        return ""
    kind = "a balanced accuracy" if balanced else "an accuracy"
    name = str(results["majority_class"].get("class"))
    return f"the answer {name!r} to every image has {kind} of {format_percent(share)}"


def _recalls(results: Mapping[str, Any]) -> list[str]:
    known = [entry for entry in _classes(results) if is_number(entry.get("recall"))]
    if not known:
        return []
    lowest = sorted(known, key=lambda entry: entry["recall"])[:SHOWN]
    shown = known if len(known) <= SHOWN else lowest
    told = ", ".join(
        f"{one_line(str(e['class']))} {format_percent(e['recall'])} of {_count(e.get('test_images'))}" for e in shown
    )
    return [f"recall by class: {told}" if shown is known else f"lowest recalls of {len(known)} classes: {told}"]


def _classes(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [e for e in _list(results, "per_class") if isinstance(e, Mapping) and isinstance(e.get("class"), str)]


def _list(values: Mapping[str, Any], key: str) -> list[Any]:
    value = values.get(key)
    return value if isinstance(value, list) else []


def _count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else "—"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]

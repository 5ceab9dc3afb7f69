"""What a test says of a classifier besides its accuracy: each class by itself, baselines, intervals, warnings."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from topocell.data.folder_listing import some

#: Training images of a class below which it is said that there are few, and test images likewise.
FEW_TRAINING, FEW_TEST = 10, 10
#: Largest class over smallest, in images of training, from which a set counts as imbalanced.
IMBALANCED = 3.0
#: Classes above which results.json has no confusion matrix.
MOST_CLASSES = 200


def confusion_matrix(true: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """(K, K) int64: how many images of class i were taken for class j, from labels (N,) int64."""
    return (true * classes + predicted).bincount(minlength=classes * classes).view(classes, classes)


def balanced_accuracy(confusion: Tensor) -> float:
    """Mean recall of the classes that have images (Brodersen et al., 2010), from (K, K) counts."""
    images = confusion.sum(1)
    return float((confusion.diag()[images > 0].double() / images[images > 0]).mean())


def wilson_interval(share: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of Wilson (1927) for a probability of which `share` of n trials were successes."""
    z = statistics.NormalDist().inv_cdf((1 + level) / 2)
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def over_seeds(runs: Sequence[Mapping[str, Any]], *keys: str) -> dict[str, Any]:
    """Mean and standard deviation (n − 1; null of a single run) of what each run has under `keys`, and n."""
    found: dict[str, Any] = {}
    for key in keys:
        values = [run[key] for run in runs]
        found[f"{key}_mean"] = statistics.fmean(values)
        found[f"{key}_std"] = statistics.stdev(values) if len(values) > 1 else None
    return {**found, "n": len(runs)}


def class_scores(classes: Sequence[str], images: Sequence[Tensor], confusions: Sequence[Tensor]) -> dict[str, Any]:
    """Score the classes, for results.json.

    Args:
        classes: K names.
        images: (K,) training images of each class, (K,) test images.
        confusions: (K, K) counts of each network.

    Returns:
        `per_class`, one entry a class with `recall` and `precision`, means over the networks; a precision is that of
        the networks that predict the class at all, null if none does. `balanced_accuracy_mean` and `_std`,
        `majority_class` (that of most training images, and the test accuracy of always answering it), `interval` (of
        the mean accuracy, for the number of test images: Wilson, 95 %) and `warnings`, sentences.
    """
    train, test = images
    n, whole = int(test.sum()), torch.stack(list(confusions)).double()
    right, taken = whole.diagonal(dim1=1, dim2=2), whole.sum(1)
    per_class = []
    for i, name in enumerate(classes):
        precision = right[:, i][taken[:, i] > 0] / taken[:, i][taken[:, i] > 0]
        per_class.append(
            {
                "class": name,
                "train_images": int(train[i]),
                "test_images": int(test[i]),
                "recall": float(right[:, i].mean() / test[i]) if test[i] else None,
                "precision": float(precision.mean()) if len(precision) else None,
                "predicted": float(taken[:, i].mean()),
            }
        )
    balanced = [balanced_accuracy(confusion) for confusion in confusions]
    accuracy = float(right.sum() / (n * len(confusions)))
    interval, majority = wilson_interval(accuracy, n), int(train.argmax())
    alone = float(test[majority] / n)
    return {
        "per_class": per_class,
        "balanced_accuracy_mean": statistics.fmean(balanced),
        "balanced_accuracy_std": statistics.stdev(balanced) if len(balanced) > 1 else None,
        "majority_class": {"class": classes[majority], "accuracy": alone},
        "interval": list(interval),
        "warnings": _warnings(per_class, accuracy, interval[0], (classes[majority], alone), len(confusions)),
    }


def _warnings(
    per_class: Sequence[dict[str, Any]], accuracy: float, low: float, answer: tuple[str, float], networks: int
) -> list[str]:
    """Say what a reader of the accuracy should know; `answer` is the majority class and the accuracy of that alone."""
    warnings, (majority, alone) = list[str](), answer
    these = "the networks are" if networks > 1 else "the network is"
    if accuracy <= alone:
        warnings.append(
            f"{these} no better than the answer {majority!r} to every image: {100 * accuracy:.2f} % against "
            f"{100 * alone:.2f} %"
        )
    elif alone >= low:
        warnings.append(
            f"{these} not told apart from the answer {majority!r} to every image: {100 * accuracy:.2f} % "
            f"(from {100 * low:.2f} %) against {100 * alone:.2f} %; more epochs may help, see retrain.epochs"
        )
    never = [entry["class"] for entry in per_class if not entry["predicted"]]
    if never:
        warnings.append(f"never predicted: {some(never, 10)}")
    sizes = [entry["train_images"] for entry in per_class]
    if max(sizes) >= IMBALANCED * min(sizes):
        warnings.append(
            f"the classes are imbalanced, from {min(sizes):,} to {max(sizes):,} training images: accuracy is mostly "
            f"that of the large ones; see the balanced accuracy, and retrain.class_weights or retrain.sampling"
        )
    for part, few in (("train_images", FEW_TRAINING), ("test_images", FEW_TEST)):
        rare = [f"{entry['class']} ({entry[part]})" for entry in per_class if entry[part] < few]
        kind = "training" if part == "train_images" else "test"
        if len(rare) == len(per_class):
            warnings.append(f"every class has fewer than {few} {kind} images: the figures say little")
        elif rare:
            warnings.append(f"fewer than {few} {kind} images: {some(rare, 10)}; their figures say little")
    return warnings

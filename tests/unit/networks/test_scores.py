"""Scores of a test: against their definitions by hand, closed forms, and the case that misled."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from topocell.networks.scores import balanced_accuracy, class_scores, confusion_matrix, wilson_interval
from topocell.reporting.scores import (
    class_table,
    confusion_table,
    majority_share,
    score_headline,
    score_lines,
    score_notes,
)

PAIRS = st.integers(2, 5).flatmap(
    lambda k: st.tuples(
        st.just(k), st.lists(st.tuples(st.integers(0, k - 1), st.integers(0, k - 1)), min_size=1, max_size=30)
    )
)


@given(PAIRS)
def test_confusion_recall_precision_by_counting(case: tuple[int, list[tuple[int, int]]]) -> None:
    k, pairs = case
    true, predicted = (torch.tensor([pair[side] for pair in pairs]) for side in (0, 1))
    confusion = confusion_matrix(true, predicted, k)
    assert confusion.tolist() == [[pairs.count((i, j)) for j in range(k)] for i in range(k)]
    names = [f"c{i}" for i in range(k)]
    train = torch.full((k,), 20)
    found = class_scores(names, (train, true.bincount(minlength=k)), [confusion])
    recalls = []
    for i, entry in enumerate(found["per_class"]):
        of, taken, right = (
            sum(t == i for t, _ in pairs),
            sum(p == i for _, p in pairs),
            pairs.count((i, i)),
        )
        assert entry["test_images"] == of and entry["predicted"] == taken
        assert entry["recall"] == (pytest.approx(right / of) if of else None)
        assert entry["precision"] == (pytest.approx(right / taken) if taken else None)
        recalls += [right / of] if of else []
    assert balanced_accuracy(confusion) == pytest.approx(sum(recalls) / len(recalls))
    assert found["balanced_accuracy_mean"] == pytest.approx(sum(recalls) / len(recalls))


@given(st.integers(1, 500), st.floats(0, 1))
def test_the_interval_solves_its_equation(n: int, share: float) -> None:
    """The bounds of Wilson are the p at which |share - p| = z · sqrt(p (1 - p) / n)."""
    low, high = wilson_interval(share, n)
    assert 0 <= low <= share + 1e-12 and share - 1e-12 <= high <= 1
    for bound in (low, high):
        if 0 < bound < 1:
            distance = 1.959963984540054 * math.sqrt(bound * (1 - bound) / n)
            assert abs(share - bound) == pytest.approx(distance, rel=1e-6, abs=1e-7)


def misleading() -> dict[str, object]:
    """Of 120, 12 and 3 images: all 27 test images are taken for the large class."""
    train, test = torch.tensor([96, 10, 2]), torch.tensor([24, 2, 1])
    confusion = torch.tensor([[24, 0, 0], [2, 0, 0], [1, 0, 0]])
    runs = [{"seed": 0, "last": 24 / 27, "best": 24 / 27, "confusion": confusion.tolist()}]
    accuracy = {"last_mean": 24 / 27, "last_std": None, "best_mean": 24 / 27, "best_std": None, "n": 1, "runs": runs}
    size = {"dataset": "folder", "parameters": 9790, "multiply_adds": 531_000, "test_images": 27}
    return {**size, **accuracy, **class_scores("abc", (train, test), [confusion])}


def test_a_network_that_knows_one_class_is_called_that() -> None:
    results = misleading()
    assert results["majority_class"] == {"class": "a", "accuracy": pytest.approx(24 / 27)}
    text = "\n".join(results["warnings"])  # type: ignore[arg-type]
    for words in ("no better than the answer 'a'", "never predicted: b, c", "imbalanced", "c (2)", "b (2), c (1)"):
        assert words in text
    headline = score_headline(results)
    assert headline["title"].startswith("Balanced") and headline["last"] == "33.33 %"
    balanced, plain = headline["details"].splitlines()[:2]  # each figure beside the answer's figure of its own kind
    assert balanced == "The answer 'a' to every image has a balanced accuracy of 33.33 %"
    assert plain == (
        "Test accuracy, last epoch: 88.89 % (n = 1); 95 % interval for 27 test images: 71.94 % to 96.15 %; "
        "the answer 'a' to every image has an accuracy of 88.89 %"
    )
    lines = score_lines(results)
    assert lines[0].startswith("balanced accuracy") and lines[0].endswith(f"33.33 % (n = 1); t{balanced[1:]}")
    assert lines[1] == f"t{plain[1:]}" and "b 0.00 % of 2" in lines[2]
    assert sum(line.startswith("warning: ") for line in lines) == 5
    assert class_table(results)[1] == ["a", "96", "24", "100.00 %", "88.89 %"]
    assert confusion_table(results)[2] == ["b", "2", "0", "0"]
    assert any("balanced accuracy" in note for note in score_notes(results))


def test_equal_classes_lead_with_the_accuracy_and_without_warnings() -> None:
    images = torch.tensor([50, 50])
    confusion = torch.tensor([[40, 10], [5, 45]])
    results = {"last_mean": 0.85, "n": 1, "test_images": 100, **class_scores("ab", (images, images), [confusion])}
    assert results["warnings"] == [] and score_headline(results)["title"] == "Test accuracy, last epoch"
    interval = (
        "95 % interval for 100 test images: 76.72 % to 90.69 %; "
        "the answer 'a' to every image has an accuracy of 50.00 %"
    )
    assert score_lines(results)[0] == f"test accuracy, last epoch: 85.00 % (n = 1); {interval}"
    assert score_headline(results)["details"] == interval
    assert score_lines(results)[1].endswith("the answer 'a' to every image has a balanced accuracy of 50.00 %")


def test_a_class_without_test_images_counts_for_no_balanced_accuracy() -> None:
    """As in `balanced_accuracy`, of which the answer's figure has to be one."""
    confusion = torch.tensor([[4, 0, 0], [0, 2, 0], [0, 0, 0]])
    results = class_scores("abc", (torch.tensor([9, 5, 5]), confusion.sum(1)), [confusion])
    always = torch.zeros_like(confusion)
    always[:, 0] = confusion.sum(1)
    assert majority_share(results, balanced=True) == balanced_accuracy(always) == 0.5
    assert majority_share(results) == pytest.approx(4 / 6) and majority_share({}) is None


@pytest.mark.parametrize(("right", "n", "told"), [(19, 54, True), (30, 54, False), (18, 54, False), (190, 540, True)])
def test_an_accuracy_whose_interval_holds_the_baseline_is_called_that(right: int, n: int, told: bool) -> None:
    """Three equal classes: 19 of 54 are 35.19 %, which 33.33 % may be; 18 of 54 are no better at all."""
    test = torch.full((3,), n // 3)
    confusion = torch.zeros(3, 3, dtype=torch.int64)
    for i in range(3):
        hits = right // 3 + (i < right % 3)
        confusion[i, i], confusion[i, (i + 1) % 3] = hits, n // 3 - hits
    warnings = class_scores("abc", (torch.full((3,), 99), test), [confusion])["warnings"]
    assert any("not told apart" in text for text in warnings) == told
    assert any("no better" in text for text in warnings) == (3 * right <= n)


def test_older_results_and_damaged_ones_have_what_they_have() -> None:
    for damaged in ({}, {"per_class": 3}, {"per_class": [3, {"class": 1}]}, {"interval": ["a", None], "runs": [1]}):
        results = {"last_mean": 0.5, "n": 2, **damaged}
        assert score_headline(results)["last"] == "50.00 %" and class_table(results) == confusion_table(results) == []
        assert score_lines(results) and score_notes(results)
    assert score_headline({}) == {} and score_headline({"last_mean": 0.5, "n": "2"}) == {}

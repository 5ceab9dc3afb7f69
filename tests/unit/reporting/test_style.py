"""Labels of figures: short, printable, and different where their texts are."""

from hypothesis import given
from hypothesis import strategies as st

from topocell.reporting.style import clipped, labels

KEY = "topobench-subsets-incoming search.stages.search."


def test_settings_of_one_recipe_are_told_apart_by_their_ends() -> None:
    assert labels(["random", "topobench-subsets-incoming", f"{KEY}epochs=40", f"{KEY}alpha.lr=0.1 beta.lr=0.1"]) == [
        "random",
        "topobench-subsets-incom…",
        "topobenc…search.epochs=40",
        "topobenc…lr=0.1 beta.lr=0.1",
    ]


def test_what_is_different_anyway_is_cut_at_its_end() -> None:
    texts = ["topobench-subsets-incoming", "topobench-subsets-outgoing", "short"]
    assert labels(texts) == [clipped(text) for text in texts]


@given(st.lists(st.text(max_size=40), max_size=5), st.integers(9, 30))
def test_labels_are_no_longer_than_asked_but_for_their_beginning(texts: list[str], length: int) -> None:
    found = labels(texts, length)
    assert len(found) == len(texts)
    assert all(len(label) <= length + length // 3 for label in found)

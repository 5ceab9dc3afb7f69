"""Stamps and the setting beside the published one: from the recipes that come with the package."""

from typing import Any

import pytest

from topocell.config.load import load_recipe
from topocell.reporting.setting import SMOKE_STAMP
from topocell.runs.setting import setting_of, setting_table, stamp


def recipe(name: str, *changes: str, budget: str = "paper") -> dict[str, Any]:
    return load_recipe(name, changes, budget).model_dump(mode="json")


@pytest.mark.parametrize("name", ["dots", "darts-pt", "toponas-arbitrary-mile", "quickstart", "random", "sdarts-rs"])
def test_smoke_budgets_are_stamped_and_published_sizes_are_not(name: str) -> None:
    title, words = stamp(recipe(name, budget="smoke"))
    assert title == SMOKE_STAMP[0] and words.endswith("and says nothing about the method.")
    assert stamp(recipe(name)) == ("", "")


def test_a_smaller_setting_says_what_is_smaller() -> None:
    title, words = stamp(recipe("dots", budget="small"))
    assert title == "Reduced setting"
    assert "3,000 of all training images, 16 pixels a side" in words and "of 70 search epochs" in words
    assert "of 600 retraining epochs" in words and "8 of 16 channels of the search" in words
    title, words = stamp(recipe("dots", "retrain.layers=19"))
    assert (title, words.split(".")[0]) == ("Reduced setting", "19 of 20 cells of the network")
    assert stamp(recipe("dots", "retrain.seeds=[0]")) == ("", "")
    assert stamp(recipe("dots", "data.dataset=folder", "data.root=photos", "data.resolution=64")) == ("", "")


def test_nothing_is_trained_for_an_accuracy_that_is_looked_up() -> None:
    found = recipe("nb201-darts", "retrain.epochs=1")
    assert stamp(found, looked_up=True) == ("", "") and stamp(found)[0] == SMOKE_STAMP[0]
    assert stamp(recipe("nb201-darts", budget="smoke"), looked_up=True)[0] == SMOKE_STAMP[0]


@pytest.mark.parametrize(
    "damaged", [{}, {"name": 3}, {"name": "mine", "search": 1, "data": []}, {"retrain": {"epochs": None}}]
)
def test_damaged_and_unknown_recipes_have_no_stamp(damaged: dict[str, Any]) -> None:
    assert stamp(damaged) == ("", "") and setting_table(damaged, {}) == []


def test_the_published_figure_stands_beside_ours_with_the_setting_of_each() -> None:
    results = {"dataset": "digits", "last_mean": 0.5, "last_std": 0.01, "n": 2, "train_images": 1437}
    table = {
        row[0]: row[1:] for row in setting_table(recipe("dots", "data.dataset=digits", "retrain.epochs=7"), results)
    }
    assert table["result"] == ["CIFAR-10 accuracy 97.51 ± 0.06 %, 3.5 M", "50.00 ± 1.00 % (n = 2)"]
    assert table["data"] == ["cifar10", "digits"] and table["retraining epochs"] == ["600", "7"]
    assert table["training images"] == ["all", "1,437"]
    found = setting_of(recipe("dots", budget="smoke"), results)
    assert found.stamp == SMOKE_STAMP[0] and found.table[1][1].startswith("CIFAR-10 accuracy")

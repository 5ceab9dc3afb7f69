"""Completion in a shell: names of recipes, keys with the stages of a recipe, and never a fault."""

import os
import subprocess
import sys

import pytest

from topocell.config.completion import complete_overrides, complete_recipes
from topocell.config.load import load_recipe


def test_names_of_recipes_are_completed() -> None:
    assert complete_recipes("quick") == ["quickstart"]
    assert set(complete_recipes("dots-over-darts")) == {"dots-over-darts", "dots-over-darts-2nd"}
    assert complete_recipes("nothing") == []


def test_keys_are_completed_with_the_stages_of_the_recipe() -> None:
    assert complete_overrides("quickstart", "retrain.se") == ["retrain.seeds="]
    found = complete_overrides("quickstart", "search.stages.")
    stages = [stage.name for stage in load_recipe("quickstart").search.stages]
    assert {key.split(".")[2] for key in found} == set(stages) and len(stages) > 1
    assert all(key.endswith("=") for key in found)


@pytest.mark.parametrize("recipe", [None, "nothing", "absent.yaml"])
def test_keys_are_completed_without_a_recipe(recipe: str | None) -> None:
    assert complete_overrides(recipe, "retrain.se") == ["retrain.seeds="]
    assert complete_overrides(recipe, "search.stages.") == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("topocell run quick", ["quickstart"]),
        ("topocell estimate quickstart retrain.ep", ["retrain.epochs="]),
        ("topocell recipes show darts-v", ["darts-v1", "darts-v2"]),
    ],
)
def test_a_shell_is_answered(words: str, expected: list[str]) -> None:
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    program = [sys.executable, "-m", "topocell"]
    environment = {**os.environ, **asked, "_TOPOCELL_COMPLETE": "complete_bash"}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, timeout=600)
    assert (done.stdout.split(), done.stderr) == (expected, "")

"""Recipes that cannot run, and overrides of sound ones."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fuzz.bad import FULL_FORM, NASTY, examples, garbled, mutated, paths, scalars, suite, values

from topocell.config.budgets import BUDGETS
from topocell.config.load import load_recipe, recipe_names, recipe_text, resolved
from topocell.config.recipe import Recipe
from topocell.data import splits
from topocell.errors import RecipeError
from topocell.io import plain_yaml
from topocell.runs import setup
from topocell.runs.image_checks import check_images
from topocell.studies import STUDIES
from topocell.studies._options import parse

NAMES = ("quickstart", "dots", "toponas-arbitrary-mile", "sgas-1", "darts-pt")
SOUND: dict[str, Any] = {
    "name": "short",
    "space": {"name": "darts", "nodes": 2},
    "data": {"dataset": "digits", "images": 40},
    "search": {
        "channels": 4,
        "layers": 2,
        "stages": [
            {"name": "first", "epochs": 4, "relaxation": {"name": "softmax", "offset": {"skip_connect": -1.0}}},
            {
                "name": "second",
                "epochs": 6,
                "topology": {"name": "subsets", "view": "target", "sizes": 2},
                "edge_temperature": {"shape": "exponential", "start": 10, "end": 0.1},
            },
        ],
    },
    "selection": {"edges": "topology"},
    "retrain": {"layers": 2, "channels": 4, "seeds": [0, 1]},
}


def ready(recipe: Recipe) -> bool:
    """All that a run checks before it begins; returns False, the recipe was not refused."""
    assert resolved(recipe.to_yaml()) == recipe
    setup.check(recipe)
    if recipe.data.dataset in ("digits", "folder"):
        dataset = setup.load_data(recipe)
        splits.search_data(dataset, recipe.data.splits, recipe.seed)
        check_images(recipe, setup.build_space(recipe), dataset)
    return False


@cache
def places() -> list[str]:
    """The keys of all places of some recipes, stages by their names."""
    found = set()
    for name in NAMES:
        whole = load_recipe(name).model_dump(mode="json")
        found |= {".".join(map(str, path)) for path in paths(whole) if path}
    return sorted(found)


@st.composite
def overrides(draw: st.DrawFn) -> str:
    key = draw(st.sampled_from(places()))
    if draw(st.booleans()) and draw(st.booleans()):
        word = draw(st.text(max_size=6))
        key = draw(st.sampled_from((f"{key}.{word}", key[:-1], key + word, f"{key}..x", "." * 50, f"x{key}", word)))
    return f"{key}={draw(st.one_of(scalars.map(str), st.sampled_from(NASTY), st.text(max_size=10)))}"


def test_mappings(tmp_path: Path) -> None:
    def attempt(value: Any) -> bool:
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(value), encoding="utf-8", errors="surrogatepass")
        return ready(load_recipe(path))

    suite("recipes", 0.2, mutated(SOUND), attempt, 0.6)


@pytest.mark.parametrize("name", recipe_names())
def test_both_loaders_read_the_recipes_alike(name: str) -> None:
    for text in (recipe_text(name), load_recipe(name).to_yaml()):
        assert yaml.load(text, plain_yaml._Loader) == yaml.load(text, plain_yaml._FastLoader)


@settings(max_examples=examples(0.2), deadline=None, database=None, derandomize=not FULL_FORM)
@given(values)
def test_both_loaders_read_any_value_alike(value: Any) -> None:
    text = yaml.safe_dump(value)
    assert repr(yaml.load(text, plain_yaml._Loader)) == repr(yaml.load(text, plain_yaml._FastLoader))


@pytest.mark.parametrize("budget", BUDGETS)
def test_texts(budget: str, tmp_path: Path) -> None:
    def attempt(text: bytes) -> bool:
        path = tmp_path / "mine.yaml"
        path.write_bytes(text)
        return ready(load_recipe(path, [], budget))

    suite(f"recipe files, {budget}", 0.03, garbled(recipe_text("quickstart")), attempt)


def test_overrides() -> None:
    def attempt(drawn: tuple[str, list[str], str]) -> bool:
        return ready(load_recipe(*drawn))

    names, budgets = st.sampled_from(NAMES), st.sampled_from(sorted(BUDGETS))
    suite("overrides", 0.15, st.tuples(names, st.lists(overrides(), min_size=1, max_size=3), budgets), attempt, 0.6)


def test_options_of_studies() -> None:
    def attempt(drawn: tuple[str, list[str]]) -> bool:
        study, words = drawn
        parse(study, STUDIES[study].options, words)
        return False

    names = [name for row in STUDIES.values() for name in row.options.listed()]
    words = st.tuples(st.sampled_from(sorted(names)), st.one_of(st.sampled_from(NASTY), scalars.map(str))).map("=".join)
    words = st.lists(st.one_of(words, overrides()), min_size=1, max_size=3)
    suite("options of studies", 0.05, st.tuples(st.sampled_from(sorted(STUDIES)), words), attempt)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi")),
        "a: &a {b: 1}\n" + "".join(f"{new}: &{new} {{<<: [*{old}, *{old}]}}\n" for old, new in zip("abcd", "bcde")),
        "a: &a [*a]",
        "[" * 3000,
        "name: x\nname: y",
        "name: 2024-05-01",
        f"seed: 0x{'f' * 4000}",
        "name: !!python/object/apply:os.system [id]",
        "#" * 200_000,
    ],
    ids=["aliases", "merges", "loop", "deep", "twice", "date", "huge", "python", "long"],
)
def test_what_takes_little_to_write_and_much_to_read(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError):
        load_recipe(path)


def test_a_circle_by_another_way_is_found(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/a.yaml").write_text("extends: ../inner/a.yaml\n")
    with pytest.raises(RecipeError, match="in a circle"):
        load_recipe(tmp_path / "inner/a.yaml")

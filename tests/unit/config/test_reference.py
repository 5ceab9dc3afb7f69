"""The reference of keys: every key of every recipe is in it, and what it says is so."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel, TypeAdapter

from topocell.config.load import load_recipe, recipe_names
from topocell.config.recipe import Recipe
from topocell.config.reference import NAME, differences, explain, keys, markdown
from topocell.config.values import Choice, Curve, Model
from topocell.errors import RecipeError
from topocell.io import plain_yaml

KEYS = {key.name: key for key in keys()}


def leaves(value: Any, where: str = "") -> dict[str, Any]:
    """Dotted keys of a recipe, as the reference names them, with their values."""
    if not isinstance(value, BaseModel) or isinstance(value, Choice | Curve):
        return {where: value}
    found: dict[str, Any] = {}
    for name in type(value).model_fields:
        inner = getattr(value, name)
        if f"{where}{name}" == "search.stages":
            for stage in inner:
                found |= leaves(stage, f"search.stages.{NAME}.")
        elif isinstance(inner, BaseModel) and not isinstance(inner, Choice | Curve):
            found |= leaves(inner, f"{where}{name}.")
        else:
            found[where + name] = inner
    return found


@pytest.mark.parametrize("name", recipe_names())
def test_every_key_of_a_recipe_is_in_the_reference(name: str) -> None:
    assert leaves(load_recipe(name)).keys() - KEYS.keys() == set()


def test_defaults_are_those_of_a_recipe_that_says_nothing_else() -> None:
    stages, edges = [{"name": "only", "epochs": 1}], {"selection": {"edges": "magnitude"}}
    bare = leaves(Recipe.model_validate({"name": "bare", "space": "darts", "search": {"stages": stages}, **edges}))
    for name, value in bare.items():
        if name == "selection.edges":
            continue
        if isinstance(value, int | float) and not isinstance(value, bool) and KEYS[name].default != "required":
            assert float(KEYS[name].default) == value, name
        if isinstance(value, str) and KEYS[name].default not in ("required", '""'):
            assert KEYS[name].default == value, name


def test_what_differs_from_the_defaults_is_told_and_nothing_else() -> None:
    stages, edges = [{"name": "only", "epochs": 7, "penalty": 0.5}], {"edges": "magnitude"}
    bare = {"name": "bare", "space": "darts", "search": {"stages": stages}, "selection": edges}
    found = dict(differences(Recipe.model_validate(bare | {"retrain": {"weights": {"momentum": 0.5}}})))
    assert found == {
        "name": "bare",
        "space": "darts",
        "search.stages.only.epochs": "7",
        "search.stages.only.penalty": "0.5",
        "selection.edges": "magnitude",
        "retrain.weights.lr": "0.025 to 0.001, cosine",  # a mapping takes the place of the whole default
        "retrain.weights.momentum": "0.5",
    }


def models(of: type[BaseModel]) -> set[type[BaseModel]]:
    return {of}.union(*(models(below) for below in of.__subclasses__()))


def options(annotation: Any) -> list[Any]:
    """What may stand in the place of an annotation, where it is one of some values."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [each for inner in get_args(annotation) for each in options(inner)]


WORDS = [
    (f"{model.__name__}.{name}", Annotated[field.annotation, *field.metadata, None], word)
    for model in sorted(models(Model), key=lambda model: model.__name__)
    if model.__module__.startswith("topocell.config.")  # studies, once they are imported, have options of their own
    for name, field in model.model_fields.items()
    for word in options(field.annotation)
    if isinstance(word, str)
]


@pytest.mark.parametrize(("name", "kind", "word"), WORDS, ids=[f"{name}={word}" for name, _, word in WORDS])
def test_every_word_that_may_stand_may_be_written_without_quotes(name: str, kind: Any, word: str) -> None:
    """To YAML `off` is no text."""
    several = name == "Stage.reset"
    read = plain_yaml.load(f"[{word}]" if several else word)
    assert TypeAdapter(kind).validate_python(read) == ((word,) if several else word)


def test_the_page_of_all_keys_is_as_it_would_be_made_now() -> None:
    page = Path(__file__).parent.parent.parent.parent / "docs/recipe-keys.md"
    assert page.read_text(encoding="utf-8") == markdown()


def test_one_key_is_explained_and_a_stage_may_be_named() -> None:
    assert explain("retrain.drop_path").about.startswith("probability at the end of training")
    assert explain("search.stages.topology.level").name == f"search.stages.{NAME}.level"
    assert explain("retrain.weights.lr").default == "0.025 to 0, cosine"
    assert [key.name for key in keys("retrain.cuto")] == ["retrain.cutout"]
    assert all(re.fullmatch(r"[a-zA-Z_.]+", name) for name in KEYS) and len(KEYS) > 100


def test_a_key_that_is_none_is_one_line_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"unknown key 'retrain.epoch' .did you mean 'retrain.epochs'"):
        explain("retrain.epoch")
    with pytest.raises(RecipeError, match=r"no key of a recipe begins with 'serach'"):
        keys("serach")

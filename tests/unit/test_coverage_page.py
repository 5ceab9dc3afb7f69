"""Every table and figure of the five papers has a command, and every command on that page can be given as it stands."""

import shlex
from pathlib import Path

import pytest
import typer
from tests.helpers import coverage

from topocell.cli import app
from topocell.config.load import load_recipe, recipe_names
from topocell.genotype.published import published_cells
from topocell.studies import STUDIES
from topocell.studies._options import Searches, Training, parse

ROWS = coverage.rows()
COMMANDS = list(dict.fromkeys(command for row in ROWS for command in row.commands))


def test_every_table_and_figure_has_its_row() -> None:
    assert sorted((row.paper, row.item) for row in ROWS) == sorted(coverage.expected())
    assert len(ROWS) == 74


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.paper}-{row.item}")
def test_a_row_has_commands_or_a_reason(row: coverage.Row) -> None:
    assert bool(row.commands) != bool(row.missing)
    assert set(row.also) <= set(published_cells())
    assert row.shows


def test_only_drawings_are_without_a_command() -> None:
    assert [row for row in ROWS if row.missing not in ("", "a drawing of the method")] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_can_be_given(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The words are those of a command; its recipe or study takes them; what it says is at the published scale."""
    monkeypatch.chdir(tmp_path)
    program, name, *words = shlex.split(command)
    assert program == "topocell"
    group = typer.main.get_command(app)
    inner = getattr(group, "commands", {})[name]
    if getattr(inner, "commands", None):
        inner = inner.commands[words.pop(0)]
    inner.make_context(inner.name, list(words), resilient_parsing=False)  # raises for words that it does not take
    assert "--budget" not in words
    keys = [word for word in words if "=" in word and not word.startswith("-")]
    if name == "run":
        assert words[0] in recipe_names()
        assert load_recipe(words[0], keys).name == words[0]
    elif name == "retrain":
        _, cell, recipe = words[:3]
        assert cell in published_cells() or any(f"--out {cell}" in other for other in COMMANDS)
        assert load_recipe(recipe, keys).retrain.stem == "imagenet"
    elif name == "study":
        study = STUDIES[str(inner.name)]
        options = parse(str(inner.name), study.options, keys)
        if isinstance(options, Searches):
            assert options.arms()
        assert not isinstance(options, Training) or options.budget == "paper"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_has_a_smoke_test(command: str) -> None:
    """In a file that is there; whole runs take every recipe, and studies are run whole by name."""
    place, *_ = coverage.smoke(command).split(",")
    text = (Path(coverage.__file__).parents[2] / place).read_text(encoding="utf-8")
    _, kind, *rest = shlex.split(command)
    if kind == "study":
        assert f'"{rest[0]}": ' in text
    elif kind == "run":
        assert "recipe_names()" in text
    else:
        assert f'"{kind}"' in text


def test_the_page_is_up_to_date() -> None:
    assert coverage.PAGE.read_text(encoding="utf-8") == coverage.page()

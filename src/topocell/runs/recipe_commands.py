"""The commands about recipes: list, show, copy; and the list of spaces."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from topocell.errors import RecipeError, RunError, typed
from topocell.reporting.command_line import (
    Budget,
    BudgetOption,
    Overrides,
    RecipeName,
    show,
)

if TYPE_CHECKING:
    from topocell.config.recipe import Recipe

#: Columns of a terminal from which a table of all keys leaves room for what they mean.
WIDE = 160

recipes = typer.Typer(no_args_is_help=True, help="List, show and copy the recipes that come with topocell.")


def recipe_for(
    out: Path, recipe: str, overrides: list[str] | None, budget: Budget, workers: int | None = None
) -> "Recipe":
    """Return the recipe of a run; where it cannot be read, the fault says which import the run was begun with.

    `workers` are those of its trials of cells. Raises RecipeError where it has none.
    """
    from topocell.config.load import load_recipe
    from topocell.runs.identity import naming_imports

    with naming_imports(out):
        found = load_recipe(recipe, overrides or [], budget.value)
        if workers is None:
            return found
        if found.selection.trials is None:
            raise RecipeError(
                f"--workers evaluate the cells of a search without gradients, such as random-search, but {found.name} "
                f"has no selection.trials; leave it out"
            )
        return load_recipe(recipe, [*(overrides or []), f"selection.trials.workers={workers}"], budget.value)


@recipes.command("list")
def recipes_list() -> None:
    """List the recipes with what each is and the published figure it aims at."""
    from rich.table import Column, Table

    from topocell.config.load import recipe_names, recipe_summary

    table = Table(Column("recipe", no_wrap=True), "what it is", "published")
    for name in recipe_names():
        table.add_row(name, *recipe_summary(name))
    show(table)


@recipes.command("show")
def recipes_show(
    recipe: RecipeName,
    overrides: Overrides = None,
    budget: BudgetOption = Budget.paper,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="With every default filled in; what differs from the defaults first.")
    ] = False,
) -> None:
    """Print a recipe as written, or as it would run.

    Examples:

        topocell recipes show dots

        topocell recipes show dots --resolved --budget small data.dataset=digits
    """
    from topocell.config.load import load_recipe, recipe_text
    from topocell.config.reference import differences

    if resolved or overrides or budget is not Budget.paper:
        loaded = load_recipe(recipe, overrides or [], budget.value)
        text = loaded.to_yaml()
        if resolved:
            different = "".join(f"#   {key}: {value}\n" for key, value in differences(loaded))
            text = f"# What is not the default:\n{different}# All of it:\n{text}"
    else:
        text = recipe_text(recipe)
    typer.echo(_visible(text), nl=False)


def _visible(text: str) -> str:
    """Lines that no terminal acts on: all but line breaks and tabs that cannot be seen is shown as an escape."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


@recipes.command("copy")
def recipes_copy(
    recipe: RecipeName,
    to: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write it; not overwritten.")],
) -> None:
    """Copy a recipe to a file of your own, to edit and run by its path.

    Example:

        topocell recipes copy dots my-dots.yaml
    """
    from topocell.config.load import recipe_text
    from topocell.io import files

    text = recipe_text(recipe)
    if os.path.lexists(to):
        raise RunError(f"{to} exists already and is not overwritten; choose another file")
    try:
        files.replace(to, text.encode())
    except (OSError, ValueError) as fault:
        raise RunError(f"cannot write {to}: {getattr(fault, 'strerror', None) or fault}; choose another file") from None
    typer.echo(f"{to}: run it with: topocell run {typed(to)} --out DIR")


@recipes.command("keys")
def recipes_keys(
    prefix: Annotated[
        str, typer.Argument(metavar="[PREFIX]", help="Only keys that begin so.", show_default=False)
    ] = "",
) -> None:
    """List the keys of a recipe with their types and defaults, where the output is no wide terminal a line each.

    Examples:

        topocell recipes keys

        topocell recipes keys retrain
    """
    from rich.console import Console
    from rich.table import Table

    from topocell.config.reference import keys

    console = Console()
    if not console.is_terminal or console.width < WIDE:
        for key in keys(prefix):
            typer.echo(f"{key.name}: {key.kind}; default {key.default}" + (f"; {key.about}" if key.about else ""))
        return
    table = Table("key", "value", "default", "meaning")
    table.columns[0].no_wrap = True
    for key in keys(prefix):
        table.add_row(*key)
    show(table)


@recipes.command("explain")
def recipes_explain(
    key: Annotated[str, typer.Argument(metavar="KEY", help="A dotted key, e.g. search.stages.search.level.")],
) -> None:
    """Say what one key of a recipe means.

    Example:

        topocell recipes explain retrain.drop_path
    """
    from topocell.config.reference import explain

    found = explain(key)
    typer.echo(f"{found.name}: {found.kind}; default {found.default}")
    if found.about:
        typer.echo(found.about)


def list_spaces() -> None:
    """List the search spaces, with the size of their cells."""
    from rich.table import Table

    from topocell import spaces

    table = Table("space", "cell type", "nodes", "edges", "candidates", "output")
    for name in spaces.SPACES:
        for cell_type, cell in spaces.get(name).cells.items():
            candidates = sorted(
                {op for names in cell.candidates for op in names}, key=list(spaces.KNOWN_OPERATIONS).index
            )
            table.add_row(name, cell_type, str(cell.nodes), str(cell.n_edges), ", ".join(candidates), cell.output)
    show(table)


def list_tables() -> None:
    """List the tables of true accuracies that runs can end in: shipped ones, and those that this environment names."""
    from rich.table import Table

    from topocell.data.benchmarks import BENCHMARKS

    table = Table("space", "cells", "columns", "here", "where it comes from")
    for found in BENCHMARKS:
        here, path = f"no; set {found.variable}", found.path
        if path:
            rows, name = len(found.load(path).archs), "shipped" if path == str(found.shipped) else path
            here = name if rows == found.cells else f"{name}: {rows} of {found.cells}"
        table.add_row(found.space, str(found.cells), found.columns, here, found.source)
    show(table)

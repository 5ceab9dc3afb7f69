"""Shared parts of the commands: arguments and options, the display, tables."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from topocell.errors import RecipeError

if TYPE_CHECKING:
    from rich.table import Table

    from topocell.reporting.terminal import Display


class Budget(StrEnum):
    """Amounts of work: as published, minutes, or seconds."""

    paper = "paper"
    small = "small"
    smoke = "smoke"


def _recipes(incomplete: str) -> list[str]:
    from topocell.config.completion import complete_recipes

    return complete_recipes(incomplete)


def _overrides(ctx: typer.Context, incomplete: str) -> list[str]:
    from topocell.config.completion import complete_overrides

    return complete_overrides(ctx.params.get("recipe"), incomplete)


RecipeName = Annotated[
    str, typer.Argument(metavar="RECIPE", help="Name of a recipe, or path of a YAML file.", autocompletion=_recipes)
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Changes, e.g. data.dataset=digits.",
        show_default=False,
        autocompletion=_overrides,
    ),
]
Out = Annotated[Path, typer.Option("--out", help="Run directory; made if it is missing, continued if it is not.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]
BudgetOption = Annotated[
    Budget, typer.Option(help="paper: as published; small: minutes on two CPU cores; smoke: seconds, on digits.")
]
GenotypePath = Annotated[
    Path,
    typer.Argument(
        metavar="GENOTYPE", help="genotype.json, a run directory, or a text of another tool (docs/how-to/genotypes.md)."
    ),
]
OperationsOption = Annotated[
    str | None,
    typer.Option(
        "--operations",
        metavar="A,B,...",
        help="Operations in the order of a tool whose texts number them.",
        show_default=False,
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress, only errors.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Start a run of more than an hour without asking.")]
AcceptData = Annotated[
    bool, typer.Option("--accept-data", help="Resume although images or true accuracies are not those of before.")
]


@contextmanager
def displayed(quiet: bool, errors: bool = False) -> "Iterator[Display]":
    """Show the work, unless `quiet`, with `errors` on the standard error; the terminal is left in order in any case."""
    from rich.console import Console

    from topocell.reporting.terminal import Quiet, Terminal

    if quiet:
        yield Quiet()
        return
    with Terminal(Console(soft_wrap=True, highlight=False, stderr=True)) if errors else Terminal() as terminal:
        yield terminal


def show(table: "Table") -> None:
    """Print a table; names in brackets are no markup, names in colons no emoji."""
    from rich.console import Console

    Console(markup=False, emoji=False, highlight=False).print(table)


def check_together(source: Path, random_cell: bool, given: Mapping[str, Any], of_recipe: bool) -> None:
    """Raise RecipeError for words after `topocell retrain` of which one would leave another without effect.

    Args:
        source: the run, or the cell.
        random_cell: whether a random cell is retrained.
        given: option → its value, of the others.
        of_recipe: whether the recipe or the budget is not the default.
    """
    words = [option for option, value in given.items() if value]
    if random_cell and words:
        raise RecipeError(
            f"--random-cell retrains a random cell exactly as RUN was, but got {', '.join(words)}; leave that out"
        )
    if given["--out"]:
        if beside := [option for option in words if option in ("--as", "--protocol")]:
            raise RecipeError(f"--out begins a run of its own, but got {', '.join(beside)}; leave out one of them")
    elif source.is_file():
        raise RecipeError(
            f"a cell that comes from no run needs a directory of its own, but {source} has none; add --out DIR"
        )
    elif of_recipe:
        raise RecipeError(
            "--recipe and --budget are for a cell that comes from no run, but there is no --out; a run has a recipe: "
            "change it with --as NAME KEY=VALUE, or add --out DIR"
        )

"""Shared parts of the commands: arguments and options, the display, tables."""

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from glob import glob
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from topocell.arguments import at_home
from topocell.errors import RecipeError
from topocell.runtime.hooks import on_signals

if TYPE_CHECKING:
    from rich.console import RenderableType

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


def complete_cells(incomplete: str) -> list[str]:
    """Return the published cells that begin so."""
    from topocell.genotype.published import published_cells

    return [name for name in published_cells() if name.startswith(incomplete)]


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
CellName = Annotated[
    str,
    typer.Argument(
        metavar="CELL",
        help="A published cell, genotype.json, a run directory, or a text of another tool (docs/how-to/genotypes.md).",
        autocompletion=complete_cells,
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


def order_of(operations: str | None) -> list[str] | None:
    """The words of `OperationsOption`; None without it."""
    return None if operations is None else [word.strip() for word in operations.split(",")]


QuietOption = Annotated[bool, typer.Option("--quiet", help="Only errors, and the accuracy at the end.")]
QuietStudy = Annotated[bool, typer.Option("--quiet", help="Only errors; what was found is in the report.")]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object a line: docs/how-to/watching.md.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Start a run of more than an hour without asking.")]
AcceptData = Annotated[
    bool, typer.Option("--accept-data", help="Resume although images or true accuracies are not those of before.")
]
SweepWords = Annotated[
    list[str],
    typer.Argument(
        metavar="[PLAN.yaml] [KEY=VALUE]...",
        help="recipes, seeds, protocol, baseline, budget, short_epochs; keys of recipes, of which a list is an axis.",
        show_default=False,
    ),
]
SweepOut = Annotated[Path, typer.Option("--out", help="Directory of the sweep; continued if it was begun.")]
SweepBudget = Annotated[Budget | None, typer.Option("--budget", help="The same as budget=.", show_default=False)]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Runs at a time; default as the CPUs have room for.", show_default=False),
]
TrialWorkers = Annotated[
    int | None,
    typer.Option(
        "--workers", min=1, help="Processes that evaluate the cells of a search without gradients.", show_default=False
    ),
]
Threads = Annotated[int, typer.Option("--threads", min=1, help="CPUs, and threads, of each run.")]
Gpus = Annotated[
    float | None,
    typer.Option(
        "--gpus", min=0, help="GPUs of each run, also a part of one; default those here in turn.", show_default=False
    ),
]
RayOption = Annotated[bool, typer.Option("--ray", help="Workers of a Ray of this machine: topocell[ray].")]
Address = Annotated[
    str | None,
    typer.Option(
        "--address", metavar="HOST:PORT", help="Workers of a Ray cluster, also ray://HOST:PORT.", show_default=False
    ),
]


#: What no shell replaces after `--out=` or in quotes.
_HOME = re.compile(r"^(--[\w-]+=)?~(?=/|$)")


def _at_home(found: "re.Match[str]") -> str:
    return f"{found[1] or ''}{at_home('~')}"


def arranged(words: Sequence[str]) -> list[str]:
    """Return the words of a command line, home directories for `~`, with every `--import X` before the command.

    Raises:
        RecipeError: a word is empty, such as `"$RUN"` where no variable has that name: as a path it would be the
            current folder.
    """
    for number, word in enumerate(words):
        if not word or (word.startswith("--") and word.endswith("=")):
            what = word or (f"the word after {words[number - 1]!r}" if number else "the first word")
            raise RecipeError(f"no word of a command may be empty, but {what} is; name what it is, or `.`")
    first, rest, given = list[str](), list[str](), (_HOME.sub(_at_home, word) for word in words)
    for word in given:
        if word == "--import":
            first += [word, *islice(given, 1)]
        else:
            (first if word.startswith("--import=") else rest).append(word)
    return [*first, *rest]


#: Whether the shells of this system leave it to commands to expand wildcards.
UNEXPANDED = os.name == "nt"


def expanded(words: Sequence[str]) -> list[str]:
    """Return the words of a command line with the paths that match in the place of a wildcard, where no shell does it.

    A word stays as it is where something is called so, nothing matches, or it is `KEY=VALUE`. Brackets are no wildcard:
    folders are called so.
    """
    found = list[str]()
    for word in words:
        wild = UNEXPANDED and not {"*", "?"}.isdisjoint(word) and "=" not in word and not os.path.lexists(word)
        found += (sorted(glob(word.replace("[", "[[]"))) if wild else []) or [word]
    return found


@contextmanager
def displayed(quiet: bool, as_json: bool = False, errors: bool = False) -> "Iterator[Display]":
    """Show the work, or its accuracy alone, or events; with `errors` on the standard error.

    The terminal is left in order in any case. Raises RecipeError where both `quiet` and `as_json` are asked for.
    """
    from rich.console import Console

    from topocell.reporting.showing import shown
    from topocell.reporting.terminal import Terminal

    if errors:
        with Terminal(Console(soft_wrap=True, highlight=False, stderr=True)) as terminal:
            yield terminal
        return

    if quiet and as_json:
        raise RecipeError("a command is quiet or tells its events, but got --quiet and --json; leave one of them out")
    with shown("json" if as_json else "quiet" if quiet else "live") as display:
        yield display


def show(table: "RenderableType", whole: bool = False) -> None:
    """Print a table; names in brackets are no markup, names in colons no emoji.

    Args:
        table: to print.
        whole: whether its rows stay whole lines, however long, where the output is no terminal.
    """
    from rich.console import Console
    from rich.measure import Measurement

    console = Console(markup=False, emoji=False, highlight=False)
    if whole and not console.is_terminal:
        console.width = Measurement.get(console, console.options.update(width=10_000), table).maximum
    console.print(table)


class Ended(BaseException):
    """A signal outside a run. No `Exception`, so that no library on the way takes it for a fault."""


@contextmanager
def ending() -> Iterator[None]:
    """Let SIGINT and SIGTERM raise `Ended` inside, also where a library makes a fault of its own out of it."""
    asked: list[int] = []

    def end(number: int) -> NoReturn:
        asked.append(number)
        raise Ended(number)

    try:
        with on_signals(end):
            yield
    except Exception as fault:
        if asked:
            raise Ended(asked[0]) from fault
        raise


def fail(text: str) -> int:
    """Print a fault of the user's; returns its exit code."""
    print(f"error: {text}", file=sys.stderr)
    return 2

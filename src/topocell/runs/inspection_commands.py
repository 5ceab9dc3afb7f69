"""The commands that show what a run has, its selections side by side, its cell, and what one would take."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from topocell.errors import GenotypeError
from topocell.registry import named_imports
from topocell.reporting.command_line import Budget, OperationsOption, complete_cells, order_of, show

if TYPE_CHECKING:
    from topocell.reporting.terminal import Display
    from topocell.runs.consent import Asking
    from topocell.runs.estimate import Estimate


def compare(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|SWEEP|CELL...", help="A run; several runs and sweeps; or cells: published names, files, texts."
        ),
    ],
    operations: OperationsOption = None,
) -> None:
    """Compare the selections of a run, several runs, or several cells, side by side.

    Of several runs and sweeps a first table has a row for each recipe, with mean and deviation over the searches that
    differ in their seeds alone; `topocell report` shows the same as a page, with curves and cells.

    Examples:

        topocell compare runs/dots

        topocell compare runs/dots runs/darts runs/sweep

        topocell compare darts-v2 dots-c10 runs/dots
    """
    from topocell.reporting.comparison import comparison_table, groups_of, read_runs
    from topocell.runs.compare import cells_side_by_side, comparison

    if len(places) == 1 and os.path.isfile(Path(places[0]) / "recipe.yaml"):
        _show_columns(comparison(places[0]))
        return
    if all(os.path.isdir(place) and not _is_export(Path(place)) for place in places):
        runs = read_runs(places)
        _show_columns(comparison_table(groups_of(runs)))
        places = [_shown_path(run.path) for run in runs if (run.path / "genotype.json").is_file()]
    if places:
        _show_columns(cells_side_by_side(places, order_of(operations)))


def _is_export(place: Path) -> bool:
    """Return whether a directory is an export: a cell with weights, and no run."""
    return (place / "network.json").is_file() and not (place / "recipe.yaml").is_file()


def _shown_path(path: Path) -> str:
    """The path as it is shortest: from here, if it is below."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) and path != here else str(path)


def _show_columns(rows: Sequence[Sequence[str]]) -> None:
    """Print rows as the columns of a table: few things, and much about each."""
    from rich.table import Table

    head, *others = zip(*rows)
    table = Table(*head)
    for row in others:
        table.add_row(*row)
    show(table)


def draw(
    cells: Annotated[
        list[str],
        typer.Argument(
            metavar="CELL [CELL]",
            help="A published cell, genotype.json, a run directory, or a text of another tool; two with --diff.",
            autocompletion=complete_cells,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Picture to write: .svg, .png, .pdf, .tex (TikZ) or .dot (Graphviz).")
    ] = Path("cell.svg"),
    diff: Annotated[
        bool, typer.Option("--diff", help="Two cells as one drawing: edges of both, of the first, of the second.")
    ] = False,
    operations: OperationsOption = None,
) -> None:
    """Draw the cells of a genotype, also of a published one and of a text that another tool has written.

    With `--diff` lines of both cells are solid, and those of one alone dashed or dotted, marked A or B.

    Examples:

        topocell draw runs/demo -o cell.png

        topocell draw dots-c10 -o cell.tex

        topocell draw --diff darts-v2 dots-c10 -o difference.pdf
    """
    from topocell.reporting.cell_difference import draw_difference
    from topocell.reporting.cell_drawing import draw_genotype
    from topocell.reporting.rundirs import genotype_of

    if len(cells) != 1 + diff:
        step = "give --diff, or draw one after the other" if len(cells) == 2 else "name them, and no others"
        raise GenotypeError(f"draw takes one cell, and two with --diff, but got {len(cells)}; {step}")
    found = [genotype_of(cell, order_of(operations)) for cell in cells]
    if diff:
        draw_difference(found[0], found[1], out, (cells[0], cells[1]))
    else:
        draw_genotype(found[0].to_dict(), out)
    typer.echo(str(out))


def show_estimate(recipe: str, found: "Estimate") -> None:
    """Print the parts of a run with their sizes and times, and what will not fit."""
    from rich.table import Table

    from topocell.reporting.tables import format_seconds
    from topocell.runs.estimate import gigabytes

    free = f", {gigabytes(found.free)} free" if found.free is not None else ""
    table = Table("part", "parameters", "steps", "a step", "time", "memory", title=f"{recipe} on {found.device}{free}")
    for part in found.parts:
        steps, step = (f"{part.steps:,}", f"{part.step_seconds:.3g} s") if part.steps else ("", "")
        memory = gigabytes(part.memory.peak) if part.memory is not None else ""
        size = f"{part.parameters:,}" if part.parameters else ""
        table.add_row(part.name, size, steps, step, format_seconds(part.seconds), memory)
    table.add_row("the whole run", "", "", "", format_seconds(found.seconds), "")
    show(table)
    for sentence in [found.slowest(), *found.advice()]:
        typer.echo(sentence)


def asking(display: "Display", yes: bool, words: Sequence[str], budget: Budget) -> "Asking":
    """What tells and asks before a long run of a recipe with its overrides."""
    from topocell.runs.consent import Asking

    smaller = "--budget small, minutes, or" if budget is Budget.paper else ""
    given = [] if budget is Budget.paper else ["--budget", budget.value]
    imports = [word for text in named_imports() for word in ("--import", text)]
    command = shlex.join(["topocell", "estimate", *imports, *words, *given])
    return Asking(display, f"{smaller} fewer epochs or seeds; what takes how long: {command}".strip(), yes)

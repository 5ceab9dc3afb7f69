"""The commands that show what a run has: its selections side by side, its cell."""

from pathlib import Path
from typing import Annotated

import typer

from topocell.reporting.command_line import GenotypePath, OperationsOption, RunPath, show


def compare(run_path: RunPath) -> None:
    """Compare the selections of a run and the accuracy of their cells, side by side.

    Example:

        topocell compare runs/dots
    """
    from rich.table import Table

    from topocell.runs.compare import comparison

    names, *rows = zip(*comparison(run_path))
    table = Table(*names)
    for row in rows:
        table.add_row(*row)
    show(table)


def draw(
    genotype: GenotypePath,
    out: Annotated[Path, typer.Option("--out", help="Picture to write: .svg or .png.")] = Path("cell.svg"),
    operations: OperationsOption = None,
) -> None:
    """Draw the cells of a genotype, also of a text that another tool has written.

    Examples:

        topocell draw runs/demo --out cell.png

        topocell draw genotype.json
    """
    from topocell.genotype.genotype import Genotype
    from topocell.reporting.cell_drawing import draw_genotype
    from topocell.reporting.rundirs import genotype_path

    order = operations.split(",") if operations else None
    draw_genotype(Genotype.load(genotype_path(genotype), operations=order).to_dict(), out)
    typer.echo(str(out))

"""The commands about published cells: list and show."""

from enum import StrEnum
from typing import Annotated

import typer

from topocell.errors import GenotypeError
from topocell.reporting.command_line import CellName, OperationsOption, order_of, show

genotypes = typer.Typer(no_args_is_help=True, help="List and show the published cells, which commands take by name.")


class Form(StrEnum):
    """Texts of a cell."""

    summary = "summary"
    json = "json"
    darts = "darts"
    nasbench201 = "nasbench201"


@genotypes.command("list")
def genotypes_list() -> None:
    """List the published cells: paper, published figures, parameters of the network of 36 channels and 20 layers.

    Example:

        topocell genotypes list
    """
    from rich.table import Column, Table

    from topocell.genotype.published import published_cells

    table = Table(Column("cell", no_wrap=True), "source", "published", "parameters")
    for name, cell in published_cells().items():
        table.add_row(name, cell.source, cell.figures, f"{cell.parameters:,}")
    show(table)


@genotypes.command("show")
def genotypes_show(
    cell: CellName,
    form: Annotated[Form, typer.Option("--format", help="What to print: all that is known, or the text alone.")] = (
        Form.summary
    ),
    operations: OperationsOption = None,
) -> None:
    """Print a cell: where it is from, its figures, its size, and its text.

    Examples:

        topocell genotypes show dots-c10

        topocell genotypes show amoebanet-a --format json
    """
    import json

    from topocell.genotype.published import find
    from topocell.nn.count import MOBILE_SIZE, PUBLISHED_SIZES, mobile_size, published_size
    from topocell.reporting.rundirs import genotype_of

    genotype = genotype_of(cell, order_of(operations))
    if form is Form.json:
        typer.echo(json.dumps(genotype.to_dict(), indent=1))
        return
    try:
        arch = form is Form.nasbench201 or (form is Form.summary and "cell" in genotype.cells)
        text = genotype.to_nasbench201() if arch else genotype.to_darts()
    except GenotypeError:  # a text of other tools does not say such cells
        if form is not Form.summary:
            raise
        text = json.dumps(genotype.to_dict())
    if form is Form.summary:
        known = find(cell)
        if known is not None and genotype.origin.get("published") == known.name:
            typer.echo(f"{known.name}: {known.source}; {known.figures}")
        found, (channels, layers) = published_size(genotype), PUBLISHED_SIZES["cell" in genotype.cells]
        typer.echo(
            f"{found.parameters:,} parameters, {found.multiply_adds:,} multiply-adds with {channels} channels and "
            f"{layers} layers, 32 × 32 images, 10 classes, without auxiliary head; key {genotype.key}"
        )
        if "cell" not in genotype.cells:
            found, (channels, layers) = mobile_size(genotype), MOBILE_SIZE
            typer.echo(
                f"{found.parameters:,} parameters, {found.multiply_adds:,} multiply-adds with {channels} channels and "
                f"{layers} layers on ImageNet, 224 × 224 images, 1,000 classes"
            )
    typer.echo(text)

"""The command that writes the report of a run, or of several."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

#: The page that compares several runs.
COMPARISON = "comparison.html"


def report(
    places: Annotated[list[str], typer.Argument(metavar="RUN|SWEEP...", help="A run, or several runs and sweeps.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help=f"File of the page; default report.html in RUN, of several runs {COMPARISON}.",
            show_default=False,
        ),
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            "--figures", help="Also draw curves and cells of a run as SVG files into this folder.", show_default=False
        ),
    ] = None,
) -> None:
    """Write the report of a run, or of several runs side by side, as one self-contained HTML file.

    That of a run is written from its present contents. Runs of one recipe that differ in their seeds alone are one row
    of a comparison, which can be written again with more of them.

    Examples:

        topocell report runs/demo

        topocell report runs/demo --out demo.html --figures figures

        topocell report runs/dots runs/darts runs/sweep --out comparison.html
    """
    for path in _written(places, out, figures):
        typer.echo(str(path))


def _written(places: Sequence[str], out: Path | None, figures: Path | None) -> list[Path]:
    """Write the report of a run, or the page that compares several; return the paths of all files.

    Raises RunError: no run or sweep, or figures are asked for of several.
    """
    from topocell import api
    from topocell.errors import RunError
    from topocell.reporting.html import write_run_figures
    from topocell.runs.reports import write_comparison

    first = Path(places[0])
    alone = len(places) == 1 and ((first / "recipe.yaml").is_file() or not list(first.glob("runs/*/recipe.yaml")))
    if not alone and figures is not None:
        raise RunError(
            f"figures are drawn of one run, but {' '.join(places)} are several; leave --figures out, or name one run"
        )
    if not alone:
        return [write_comparison(places, out or Path(COMPARISON))]
    page = api.report(places[0], out)
    return [page, *([] if figures is None else write_run_figures(places[0], figures))]

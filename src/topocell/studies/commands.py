"""The commands of the studies, one for each row of `STUDIES`."""

from collections.abc import MutableMapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table
from typer.core import TyperGroup

from topocell import studies
from topocell.reporting.command_line import Budget, JsonOption, QuietStudy, displayed, show

app = typer.Typer(rich_markup_mode="markdown")


@app.command("list")
def studies_list() -> None:
    """List the studies with what each shows and the figure or table of a paper that it repeats."""
    table = Table(Column("study", no_wrap=True), "what it shows", "after")
    for name, row in studies.STUDIES.items():
        table.add_row(name, row.about, row.source)
    show(table)


_WORKERS = (
    "Processes of one thread each that make the items of a study whose items are independent: "
    f"{', '.join(name for name, row in studies.STUDIES.items() if row.parallel)}."
)


def _add_study(name: str) -> None:
    """The command of a study; what its help says comes from its row."""

    @app.command(name, help=studies.help_text(name), short_help=studies.STUDIES[name].about)
    def command(
        out: Annotated[Path, typer.Option("--out", help="Directory of the study; continued if it was begun.")],
        options: Annotated[
            list[str] | None,
            typer.Argument(metavar="[KEY=VALUE]...", help="Options, see above.", show_default=False),
        ] = None,
        budget: Annotated[
            Budget | None, typer.Option(help="Of a study that trains, the same as budget=.", show_default=False)
        ] = None,
        workers: Annotated[int, typer.Option(min=1, help=_WORKERS)] = 1,
        quiet: QuietStudy = False,
        as_json: JsonOption = False,
    ) -> None:
        words = [*(options or []), *([f"budget={budget.value}"] if budget else [])]
        with displayed(quiet, as_json) as display:
            studies.run(name, words, out, display, workers)


for _name in studies.STUDIES:
    _add_study(_name)


def commands() -> MutableMapping[str, Any]:
    """Return the commands by name."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    return group.commands

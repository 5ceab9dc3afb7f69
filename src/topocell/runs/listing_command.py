"""The command that lists the runs below a directory."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from topocell.errors import RecipeError, RunError, one_line, typed
from topocell.reporting.command_line import Ended, show

if TYPE_CHECKING:
    from rich.console import RenderableType

    from topocell.runs.listing import Listed

#: Seconds between two readings of the directory.
WATCH_SECONDS = 2.0


def runs(
    place: Annotated[Path, typer.Argument(metavar="DIR", help="With runs and sweeps, at any depth.")] = Path("runs"),
    best: Annotated[bool, typer.Option("--best", help="The highest accuracy first.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show the list until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line: docs/how-to/watching.md.")] = False,
) -> None:
    """List the runs below a directory: state, recipe, where they are, accuracy, age and size.

    A run is running while a process works on it; it is finished with its results, or those of the shallow evaluation
    that its protocol ends with, failed after a fault, which is shown, and stopped otherwise: the command that began it
    resumes it, or, of a sweep, has chosen other cells to go on with.

    Examples:

        topocell runs

        topocell runs runs/sweep --best

        topocell runs runs --watch
    """
    from rich.console import Console

    from topocell.io import files
    from topocell.runs.listing import Listing, by_accuracy

    if watch and (as_json or not Console().is_terminal):
        raise RecipeError("--watch draws on a terminal, but this is none, or --json is given; leave --watch out")
    listing = Listing(place)

    def found() -> "list[Listed]":
        return by_accuracy(listing.read()) if best else listing.read()

    if watch:
        _watch(lambda: table(found(), place))
        return
    listed = found()
    if as_json:
        for run in listed:
            typer.echo(files.to_json(run.facts()))
    elif listed:
        show(table(listed, place), whole=True)
    else:
        raise RunError(
            f"runs are directories with a recipe.yaml, but there is none below {place}; begin with: topocell run "
            f"RECIPE --out {typed(place / 'NAME')}"
        )


def _watch(draw: Any) -> None:
    """Draw again and again, until Ctrl-C."""
    from rich.live import Live

    try:
        with Live(draw(), auto_refresh=False, screen=True, vertical_overflow="crop") as live:
            while True:
                time.sleep(WATCH_SECONDS)
                live.update(draw(), refresh=True)
    except (Ended, KeyboardInterrupt):
        return


def table(listed: "Sequence[Listed]", place: Path) -> "RenderableType":
    """The runs as a table, with the faults below it.

    Args:
        listed: the runs.
        place: the directory that their names are relative to.
    """
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from topocell.reporting.tables import format_bytes
    from topocell.runs.listing import State

    styles = {"running": "green", "failed": "red", "damaged": "red", "stopped": "yellow"}
    rows = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    at = [one_line(run.at) if run.state is not State.FINISHED else "" for run in listed]
    for name, options in (
        ("run", {"overflow": "fold"}),
        ("state", {"no_wrap": True}),
        ("recipe", {"overflow": "fold"}),
        *((("at", {"overflow": "fold"}),) if any(at) else ()),
        ("accuracy", {"no_wrap": True}),
        ("age", {"no_wrap": True}),
        ("size", {"no_wrap": True, "justify": "right"}),
    ):
        rows.add_column(name, **options)
    now, below = time.time(), []
    for run, where in zip(listed, at, strict=True):
        name = str(run.path.relative_to(place)) if run.path != place else place.absolute().name
        seed = "" if run.seed is None else f" seed {run.seed}"
        rows.add_row(
            Text(one_line(name)),
            Text(run.state.value, styles.get(run.state.value, "")),
            Text(one_line(f"{run.recipe}{seed}" if run.recipe else "—")),
            *([Text(where)] if any(at) else []),
            _accuracy(run),
            _age(now - run.changed) if run.changed else "—",
            format_bytes(run.size),
        )
        if run.words:
            below.append(Text(one_line(f"{name}: {run.words}"), styles.get(run.state.value, "")))
    return Group(rows, *below)


def _age(seconds: float) -> str:
    """How long ago something was: `42 s`, `3 min`, `7 h`, `12 d`."""
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def _accuracy(run: "Listed") -> Any:
    """The accuracy of a run, stamped where it says nothing."""
    from rich.text import Text

    from topocell.reporting.tables import format_accuracy, format_percent

    if run.accuracy is None:
        return "—"
    if run.n is None or run.measured == "table":
        words = f"{format_percent(run.accuracy)} ({run.measured})"
    else:
        words = format_accuracy(run.accuracy, run.std, run.n) + (f" {run.measured}" if run.measured != "test" else "")
    stamp = (" smoke", "yellow") if run.smoke else ""
    return Text.assemble((words, "dim" if run.smoke or run.n is None else ""), stamp)

"""The command line. A user's mistake gives one line and exit code 2; Ctrl-C saves, says how to resume, exits 130."""

import errno
import io
import os
import signal
import sys
from collections.abc import MutableMapping, Sequence
from itertools import pairwise
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from topocell import __version__
from topocell.cli.reports import report
from topocell.cli.retraining import retrain
from topocell.errors import ElsewhereError, TopocellError
from topocell.io import files
from topocell.networks.commands import predict
from topocell.registry import load_plugins, place_in_plugins
from topocell.reporting.command_line import (
    AcceptData,
    Address,
    Budget,
    BudgetOption,
    Ended,
    Gpus,
    JsonOption,
    Out,
    Overrides,
    QuietOption,
    RayOption,
    RecipeName,
    RunPath,
    SweepBudget,
    SweepOut,
    SweepWords,
    Threads,
    TrialWorkers,
    Workers,
    YesOption,
    arranged,
    displayed,
    ending,
    expanded,
    fail,
)
from topocell.runs.export_command import export
from topocell.runs.genotype_commands import genotypes
from topocell.runs.inspection_commands import asking, compare, draw
from topocell.runs.listing_command import runs
from topocell.runs.recipe_commands import list_spaces, list_tables, recipe_for, recipes
from topocell.runtime.hooks import Interrupted

# What a command needs is imported when it runs: help, and lists of recipes, come without PyTorch.

app = typer.Typer(
    name="topocell",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Differentiable architecture search in which the topology of a cell is learned.",
)
app.add_typer(recipes, name="recipes")
app.add_typer(genotypes, name="genotypes")


class _Studies(TyperGroup):
    """The commands of the studies, which are imported when one of them is asked for."""

    @property
    def commands(self) -> MutableMapping[str, Any]:
        """The commands by name."""
        from topocell.studies.commands import commands

        return commands()

    @commands.setter
    def commands(self, _: object) -> None:
        """Ignore an assignment: there are no other commands."""


app.add_typer(
    typer.Typer(no_args_is_help=True, cls=_Studies, help="The papers' analyses; each writes a table and a figure."),
    name="study",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"topocell {__version__}")
        raise typer.Exit


@app.callback()
def _app(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    imports: Annotated[
        list[str] | None,
        typer.Option(
            "--import",
            metavar="FILE.py|MODULE",
            help="Import pieces of your own first; repeatable, also behind the command.",
            show_default=False,
        ),
    ] = None,
) -> None:
    load_plugins(imports or [])


@app.command()
def run(
    recipe: RecipeName,
    out: Out,
    overrides: Overrides = None,
    budget: BudgetOption = Budget.paper,
    workers: TrialWorkers = None,
    accept_data: AcceptData = False,
    yes: YesOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Search, derive, retrain and report; the same command again resumes an unfinished run.

    Examples:

        topocell run quickstart --out runs/demo

        topocell run dots --budget small data.dataset=folder data.root=photos --out runs/photos

        topocell run toponas-arbitrary-mile data.download=true retrain.seeds=0,1,2 --out runs/toponas
    """
    from topocell import api

    with displayed(quiet, as_json) as display:
        before = None if quiet else asking(display, yes or as_json, [recipe, *(overrides or [])], budget)
        asked = recipe_for(out, recipe, overrides, budget, workers)
        api.run(asked, out, display, accept_data=accept_data, before=before)


@app.command()
def search(
    recipe: RecipeName,
    out: Out,
    overrides: Overrides = None,
    budget: BudgetOption = Budget.paper,
    accept_data: AcceptData = False,
    yes: YesOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Search only; the supernet stays in the run directory for `select`.

    Examples:

        topocell search dots --budget smoke --out runs/dots

        topocell search my-recipe.yaml seed=3 --out runs/mine-3
    """
    from topocell import api

    with displayed(quiet, as_json) as display:
        before = None if quiet else asking(display, yes or as_json, [recipe, *(overrides or [])], budget)
        api.search(recipe_for(out, recipe, overrides, budget), out, display, accept_data=accept_data, before=before)


@app.command()
def select(
    run_path: RunPath,
    operations: Annotated[str | None, typer.Option("--ops", help="One of magnitude, random, perturbation.")] = None,
    edges: Annotated[
        str | None,
        typer.Option("--edges", help="One of magnitude, magnitude-outgoing, topology, all, random, perturbation."),
    ] = None,
    in_degree: Annotated[int | None, typer.Option(min=1, help="Edges per node for the rule magnitude.")] = None,
    stage: Annotated[
        str | None, typer.Option("--stage", help="Derive from the end of this stage.", show_default=False)
    ] = None,
    epoch: Annotated[
        int | None, typer.Option("--epoch", min=1, help="Derive from this search epoch.", show_default=False)
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--as", help="Make an alternative selection, in RUN/selections/NAME.", show_default=False),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Drop the cell that the run has, with its retraining, for another.")
    ] = False,
    changes: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Of `selection`, e.g. projection.batches=8.", show_default=False),
    ] = None,
    accept_data: AcceptData = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Derive the cell from a searched run, by the recipe's rules or by others, and write genotype.json.

    With `--as`, alternative selections of one supernet each get a run directory, which can be retrained. So does a
    selection by perturbation of a run that has its cell already. Another cell takes the place of one that is
    retrained only with `--replace`.

    Examples:

        topocell select runs/dots

        topocell select runs/dots --ops magnitude --edges magnitude --in-degree 3 --as three

        topocell select runs/dots --stage operations --as without-topology

        topocell select runs/dots --ops perturbation --edges topology --as pt projection.tune_epochs=1
    """
    from topocell import api
    from topocell.config.load import overridden

    given = {"operations": operations, "edges": edges, "in_degree": in_degree, "stage": stage, "after_epoch": epoch}
    wanted = overridden({}, changes or []) | {k: v for k, v in given.items() if v is not None}
    with displayed(quiet, as_json) as display:
        api.select(run_path, display, name, replace=replace, accept_data=accept_data, **wanted)


app.command()(retrain)


app.command()(report)


@app.command()
def estimate(recipe: RecipeName, overrides: Overrides = None, budget: BudgetOption = Budget.paper) -> None:
    """Estimate time and memory of a run before it starts, from a few steps of each of its parts.

    Where something will not fit in memory, it says which settings would.

    Examples:

        topocell estimate quickstart

        topocell estimate dots --budget small data.dataset=digits search.batch_size=128
    """
    from topocell import api
    from topocell.config.load import load_recipe
    from topocell.runs.inspection_commands import show_estimate

    with displayed(False, errors=True) as display:
        found = api.estimate(load_recipe(recipe, overrides or [], budget.value), display)
    show_estimate(recipe, found)


@app.command()
def sweep(
    words: SweepWords,
    out: SweepOut,
    workers: Workers = None,
    threads: Threads = 1,
    gpus: Gpus = None,
    ray: RayOption = False,
    address: Address = None,
    budget: SweepBudget = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Search with a grid of recipes, settings and seeds, and compare what they find; resumes what is left.

    Each run is a run directory in OUT/runs. A key of a recipe with a list of values is an axis of the grid.

    Examples:

        topocell sweep recipes=random,dots seeds=0..3 --budget small data.download=true --out runs/sweep

        topocell sweep recipes=dots 'search.channels=[8,16]' protocol=best-by-validation --out runs/channels

        topocell sweep plan.yaml --ray --out runs/plan
    """
    from topocell.studies.sweep.run import sweep as run_sweep

    asked: dict[str, Any] = {"workers": workers, "threads": threads, "gpus": gpus, "ray": ray, "address": address}
    with displayed(quiet, as_json) as display:
        run_sweep(words, out, display, budget=budget, **asked)


app.command()(predict)
app.command()(export)
app.command()(compare)
app.command()(runs)
app.command()(draw)
app.command("spaces")(list_spaces)
app.command("tables")(list_tables)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    command, given = typer.main.get_command(app), expanded(sys.argv[1:] if argv is None else argv)
    try:
        with ending():  # while there is something to save, `RunMonitor` listens instead
            code = command.main(arranged(given), "topocell", standalone_mode=False)
    except typer.TyperException as fault:
        if type(fault).__name__ == "NoArgsIsHelpError":
            print(fault.format_message())
            return 0
        text = " ".join(fault.format_message().split()).replace("Value error, ", "").rstrip(".")
        context = getattr(fault, "ctx", None)
        return fail(f"{text}; see: {context.command_path if context else 'topocell'} --help")
    except ElsewhereError:
        return 2
    except TopocellError as fault:
        return fail(" ".join(str(fault).split()))
    except Interrupted as stop:
        name = signal.Signals(stop.signal_number).name
        if os.environ.get("RANK", "0") == "0":  # the first of several processes says it for all
            print(f"stopped by {name}; everything is saved, the same command resumes from here", file=sys.stderr)
        return 128 + stop.signal_number
    except Exception as fault:
        where = place_in_plugins(fault)
        if not where and isinstance(fault, OSError) and (path := _named(fault, given)):
            return fail(
                f"{path[:200]} must be a place that can be used, but is not ({files.reason(fault)}); check the path"
            )
        if not where or os.environ.get("TOPOCELL_TRACEBACK"):
            raise
        reason = " ".join(str(fault).split())[:300]
        return fail(
            f"a piece of your own fails: {type(fault).__name__}: {reason}{where}; mend it, the same command "
            f"{'resumes' if _resumes(given) else 'begins again'} (TOPOCELL_TRACEBACK=1 shows more)"
        )
    except Ended as end:
        number = signal.Signals(end.args[0])
        return _stopped(f"stopped by {number.name}", number, given)
    if code == 128 + signal.SIGINT:
        return _stopped("stopped", signal.SIGINT, given)
    return code if isinstance(code, int) else 0


#: Commands that resume what they began.
_RESUMING = ("run", "search", "select", "retrain", "sweep", "study")


def _resumes(words: Sequence[str]) -> bool:
    """Return whether the command among these words resumes what it began."""
    others = [word for before, word in pairwise(["", *words]) if before != "--import" and not word.startswith("--")]
    return bool(others) and others[0] in _RESUMING


def _stopped(text: str, number: int, words: Sequence[str]) -> int:
    """Say that a signal has ended the command, and what the same one does next; returns its exit code."""
    again = "resumes from the last checkpoint" if _resumes(words) else "begins again"
    print(f"{text}; the same command {again}", file=sys.stderr)
    return 128 + number


def _named(fault: OSError, words: Sequence[str]) -> str | None:
    """The path that a fault is about, if the words of a command name it, or no system takes such a name."""
    if not isinstance(fault.filename, str | bytes | os.PathLike):
        return None
    path = os.path.abspath(name := os.fsdecode(fault.filename))
    places = [os.path.abspath(place) for word in words if (place := word.rpartition("=")[2])]
    mine = any(path == place or path.startswith(f"{place.rstrip(os.sep)}{os.sep}") for place in places)
    return name if mine or fault.errno == errno.ENAMETOOLONG else None


def entry() -> None:
    """The console command. What the terminal has no character for is shown as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(main())

"""The command line. A user's mistake gives one line and exit code 2; Ctrl-C saves, says how to go on, exits 130."""

import io
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table

import topocell
from topocell import api, files, spaces, study
from topocell.display import Display, Quiet, Terminal
from topocell.errors import RunError, TopocellError
from topocell.estimate import gigabytes
from topocell.genotype import Genotype
from topocell.monitor import Interrupted, on_signals
from topocell.reading import load_recipe, overridden, recipe_names, recipe_text
from topocell.report.compare import comparison
from topocell.report.rundirs import genotype_path
from topocell.report.tables import format_seconds
from topocell.search.selection import EDGE_RULES, OPERATION_RULES
from topocell.train import PROTOCOLS

app = typer.Typer(
    name="topocell",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Differentiable architecture search in which the topology of a cell is learned.",
)
recipes = typer.Typer(no_args_is_help=True, help="List, show and copy the recipes that come with topocell.")
app.add_typer(recipes, name="recipes")
studies = typer.Typer(no_args_is_help=True, help="The papers' analyses; each writes a table and a figure.")
app.add_typer(studies, name="study")


class Budget(StrEnum):
    """How much work: as published, minutes, or seconds."""

    paper = "paper"
    small = "small"
    smoke = "smoke"


RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a recipe, or path of a YAML file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Changes, e.g. data.dataset=digits.", show_default=False),
]
Out = Annotated[Path, typer.Option("--out", help="Run directory; made if it is missing, continued if it is not.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]
BudgetOption = Annotated[
    Budget, typer.Option(help="paper: as published; small: minutes on two CPU cores; smoke: seconds, on digits.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", help="No progress, only errors.")]
AcceptData = Annotated[
    bool, typer.Option("--accept-data", help="Go on although images or true accuracies are not those of before.")
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"topocell {topocell.__version__}")
        raise typer.Exit


@app.callback()
def _app(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@contextmanager
def _display(quiet: bool) -> Iterator[Display]:
    """What shows the work; however that ends, the terminal is left in order."""
    if quiet:
        yield Quiet()
        return
    with Terminal() as terminal:
        yield terminal


@app.command()
def run(
    recipe: RecipeName,
    out: Out,
    overrides: Overrides = None,
    budget: BudgetOption = Budget.paper,
    accept_data: AcceptData = False,
    quiet: QuietOption = False,
) -> None:
    """The whole way: search, derive, retrain, report. The same command again goes on with an unfinished run.

    Examples:

        topocell run quickstart --out runs/demo

        topocell run dots --budget small data.dataset=folder data.root=photos --out runs/photos

        topocell run toponas-arbitrary-mile data.download=true retrain.seeds=[0,1,2] --out runs/toponas
    """
    with _display(quiet) as display:
        api.run(load_recipe(recipe, overrides or [], budget.value), out, display, accept_data=accept_data)


@app.command()
def search(
    recipe: RecipeName,
    out: Out,
    overrides: Overrides = None,
    budget: BudgetOption = Budget.paper,
    accept_data: AcceptData = False,
    quiet: QuietOption = False,
) -> None:
    """Only the search; the supernet stays in the run directory for `select`.

    Examples:

        topocell search dots --budget smoke --out runs/dots

        topocell search my-recipe.yaml seed=3 --out runs/mine-3
    """
    with _display(quiet) as display:
        api.search(load_recipe(recipe, overrides or [], budget.value), out, display, accept_data=accept_data)


@app.command()
def select(
    run_path: RunPath,
    operations: Annotated[str | None, typer.Option("--ops", help=f"One of {', '.join(OPERATION_RULES)}.")] = None,
    edges: Annotated[str | None, typer.Option("--edges", help=f"One of {', '.join(EDGE_RULES)}.")] = None,
    in_degree: Annotated[int | None, typer.Option(min=1, help="Edges per node for the rule magnitude.")] = None,
    name: Annotated[
        str | None, typer.Option("--as", help="Select beside the run, in RUN/selections/NAME.", show_default=False)
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Drop the cell that the run has, with its retraining, for another.")
    ] = False,
    changes: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Of `selection`, e.g. projection.batches=8.", show_default=False),
    ] = None,
    quiet: QuietOption = False,
) -> None:
    """Derive the cell from a searched run, by the recipe's rules or by others, and write genotype.json.

    With `--as` several selections of one supernet stand side by side, each a run directory that can be retrained. So
    does a selection by perturbation of a run that has its cell already. Another cell takes the place of one that is
    retrained only with `--replace`.

    Examples:

        topocell select runs/dots

        topocell select runs/dots --ops magnitude --edges magnitude --in-degree 3 --as three

        topocell select runs/dots --ops perturbation --edges topology --as pt projection.tune_epochs=1
    """
    given = {"operations": operations, "edges": edges, "in_degree": in_degree}
    wanted = overridden({}, changes or []) | {k: v for k, v in given.items() if v is not None}
    with _display(quiet) as display:
        api.select(run_path, display, name, replace=replace, **wanted)


@app.command()
def compare(run_path: RunPath) -> None:
    """Show what the selections of a run have derived side by side, and how their cells do.

    Example:

        topocell compare runs/dots
    """
    names, *rows = zip(*comparison(run_path))
    table = Table(*names)
    for row in rows:
        table.add_row(*row)
    _show(table)


@app.command()
def retrain(
    run_path: RunPath,
    protocol: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(PROTOCOLS)}; default the recipe's.", show_default=False)
    ] = None,
    accept_data: AcceptData = False,
    quiet: QuietOption = False,
) -> None:
    """Retrain the derived cell of a run from scratch, once per seed of its recipe, and test it.

    The protocol `shallow` trains small networks instead, in RUN/shallow; `filter` does so first, and retrains in full
    what exceeds the recipe's `shallow.threshold`.

    Examples:

        topocell retrain runs/dots

        topocell retrain runs/dots --protocol shallow
    """
    with _display(quiet) as display:
        display.results(api.retrain(run_path, display, protocol, accept_data=accept_data))


@app.command()
def report(run_path: RunPath) -> None:
    """Write report.html, one self-contained file, from what a run directory holds so far.

    Example:

        topocell report runs/demo
    """
    typer.echo(str(api.report(run_path)))


@app.command()
def estimate(recipe: RecipeName, overrides: Overrides = None, budget: BudgetOption = Budget.paper) -> None:
    """Time and memory of a run before it starts, from a few steps of each of its parts.

    Where something will not fit in memory, it says which settings would.

    Examples:

        topocell estimate quickstart

        topocell estimate dots --budget small data.dataset=digits search.batch_size=128
    """
    found = api.estimate(load_recipe(recipe, overrides or [], budget.value))
    free = f", {gigabytes(found.free)} free" if found.free is not None else ""
    table = Table("part", "steps", "a step", "time", "peak memory", title=f"{recipe} on {found.device}{free}")
    for part in found.parts:
        steps, step = (f"{part.steps:,}", f"{part.step_seconds:.3g} s") if part.steps else ("", "")
        memory = gigabytes(part.memory.peak) if part.memory is not None else ""
        table.add_row(part.name, steps, step, format_seconds(part.seconds), memory)
    table.add_row("the whole run", "", "", format_seconds(found.seconds), "")
    _show(table)
    for sentence in found.advice():
        typer.echo(sentence)


@app.command()
def draw(
    genotype: Annotated[Path, typer.Argument(metavar="GENOTYPE", help="genotype.json, or a run directory.")],
    out: Annotated[Path, typer.Option("--out", help="Picture to write: .svg or .png.")] = Path("cell.svg"),
) -> None:
    """Draw the cells of a genotype.

    Examples:

        topocell draw runs/demo --out cell.png

        topocell draw genotype.json
    """
    from topocell.report.draw import draw_genotype

    draw_genotype(Genotype.load(genotype_path(genotype)).to_dict(), out)
    typer.echo(str(out))


@app.command("spaces")
def list_spaces() -> None:
    """List the search spaces, with the size of their cells."""
    table = Table("space", "cell type", "nodes", "edges", "candidates", "output")
    for name in spaces.SPACES:
        for cell_type, cell in spaces.get(name).cells.items():
            candidates = sorted({op for names in cell.candidates for op in names}, key=spaces.OPERATIONS.index)
            row = (name, cell_type, str(cell.nodes), str(cell.n_edges), ", ".join(candidates), cell.output)
            table.add_row(*row)
    _show(table)


@recipes.command("list")
def recipes_list() -> None:
    """List the recipes with what each is and the published figure it aims at."""
    table = Table("recipe", "what it is", "published")
    for name in recipe_names():
        recipe = load_recipe(name)
        table.add_row(name, recipe.about, recipe.published)
    _show(table)


@recipes.command("show")
def recipes_show(
    recipe: RecipeName,
    overrides: Overrides = None,
    budget: BudgetOption = Budget.paper,
    resolved: Annotated[bool, typer.Option("--resolved", help="With every default filled in.")] = False,
) -> None:
    """Print a recipe as written, or as it would run.

    Examples:

        topocell recipes show dots

        topocell recipes show dots --resolved --budget small data.dataset=digits
    """
    if resolved or overrides or budget is not Budget.paper:
        text = load_recipe(recipe, overrides or [], budget.value).to_yaml()
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
    text = recipe_text(recipe)
    if os.path.lexists(to):
        raise RunError(f"{to} exists already and is not overwritten; choose another file")
    try:
        files.replace(to, text.encode())
    except (OSError, ValueError) as fault:
        raise RunError(f"cannot write {to}: {getattr(fault, 'strerror', None) or fault}; choose another file") from None
    typer.echo(f"{to}: run it with: topocell run {to} --out DIR")


@studies.command("list")
def studies_list() -> None:
    """List the studies with what each shows and the figure or table of a paper that it repeats."""
    table = Table("study", "what it shows", "after")
    for name, row in study.STUDIES.items():
        table.add_row(name, row.about, row.source)
    _show(table)


_WORKERS = (
    "Processes of one thread each that make the items of a study whose items are independent: "
    f"{', '.join(name for name, row in study.STUDIES.items() if row.parallel)}."
)


def _add_study(name: str) -> None:
    """The command of a study; what its help says comes from its row."""

    @studies.command(name, help=study.help_text(name), short_help=study.STUDIES[name].about)
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
        quiet: QuietOption = False,
    ) -> None:
        words = [*(options or []), *([f"budget={budget.value}"] if budget else [])]
        with _display(quiet) as display:
            study.run(name, words, out, display, workers)


for _name in study.STUDIES:
    _add_study(_name)


def _show(table: Table) -> None:
    """Print a table; names in brackets are no markup, names in colons no emoji."""
    Console(markup=False, emoji=False, highlight=False).print(table)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    command = typer.main.get_command(app)
    try:
        with on_signals(_end):  # while there is something to save, `RunMonitor` listens instead
            code = command.main(list(argv) if argv is not None else None, "topocell", standalone_mode=False)
    except typer.TyperException as fault:
        if type(fault).__name__ == "NoArgsIsHelpError":
            print(fault.format_message())
            return 0
        text = " ".join(fault.format_message().split()).replace("Value error, ", "").rstrip(".")
        return _fail(f"{text}; see: topocell --help")
    except TopocellError as fault:
        return _fail(" ".join(str(fault).split()))
    except Interrupted as stop:
        name = signal.Signals(stop.signal_number).name
        print(f"stopped by {name}; everything is saved, the same command goes on from here", file=sys.stderr)
        return 128 + stop.signal_number
    except _Ended as end:
        number = signal.Signals(end.args[0])
        print(f"stopped by {number.name}; the same command goes on from the last checkpoint", file=sys.stderr)
        return 128 + number
    if code == 128 + signal.SIGINT:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
    return code if isinstance(code, int) else 0


class _Ended(BaseException):
    """A signal while nothing is in the making. No `Exception`, so that nothing on the way takes it for a fault."""


def _end(number: int) -> NoReturn:
    raise _Ended(number)


def _fail(text: str) -> int:
    print(f"error: {text}", file=sys.stderr)
    return 2


def entry() -> None:
    """The console command. What the terminal has no character for is shown as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(main())

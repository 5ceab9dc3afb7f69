"""The command line. A user's mistake gives one line and exit code 2; Ctrl-C saves, says how to go on, exits 130."""

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

import topocell
from topocell import api, spaces
from topocell.display import Display, Quiet, Terminal
from topocell.errors import RunError, TopocellError
from topocell.genotype import Genotype
from topocell.monitor import Interrupted
from topocell.recipe import load_recipe, recipe_names, recipe_text
from topocell.report.draw import draw_genotype
from topocell.search.selection import EDGE_RULES, OPERATION_RULES

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
    quiet: QuietOption = False,
) -> None:
    """The whole way: search, derive, retrain, report. The same command again goes on with an unfinished run.

    Examples:

        topocell run quickstart --out runs/demo

        topocell run dots --budget small data.dataset=folder data.root=photos --out runs/photos

        topocell run toponas-arbitrary-mile data.download=true retrain.seeds=[0,1,2] --out runs/toponas
    """
    with _display(quiet) as display:
        api.run(load_recipe(recipe, overrides or [], budget.value), out, display)


@app.command()
def search(
    recipe: RecipeName,
    out: Out,
    overrides: Overrides = None,
    budget: BudgetOption = Budget.paper,
    quiet: QuietOption = False,
) -> None:
    """Only the search; the supernet stays in the run directory for `select`.

    Examples:

        topocell search dots --budget smoke --out runs/dots

        topocell search my-recipe.yaml seed=3 --out runs/mine-3
    """
    with _display(quiet) as display:
        api.search(load_recipe(recipe, overrides or [], budget.value), out, display)


@app.command()
def select(
    run_path: RunPath,
    operations: Annotated[str | None, typer.Option("--ops", help=f"One of {', '.join(OPERATION_RULES)}.")] = None,
    edges: Annotated[str | None, typer.Option("--edges", help=f"One of {', '.join(EDGE_RULES)}.")] = None,
    in_degree: Annotated[int | None, typer.Option(min=1, help="Edges per node for the rule magnitude.")] = None,
    quiet: QuietOption = False,
) -> None:
    """Derive the cell from a searched run, by the recipe's rules or by others, and write genotype.json.

    Examples:

        topocell select runs/dots

        topocell select runs/dots --ops magnitude --edges magnitude --in-degree 3
    """
    given = {"operations": operations, "edges": edges, "in_degree": in_degree}
    with _display(quiet) as display:
        api.select(run_path, display, **{k: v for k, v in given.items() if v is not None})


@app.command()
def retrain(run_path: RunPath, quiet: QuietOption = False) -> None:
    """Retrain the derived cell of a run from scratch, once per seed of its recipe, and test it.

    Example:

        topocell retrain runs/dots
    """
    with _display(quiet) as display:
        display.results(api.retrain(run_path, display))


@app.command()
def report(run_path: RunPath) -> None:
    """Write report.html, one self-contained file, from what a run directory holds so far.

    Example:

        topocell report runs/demo
    """
    typer.echo(str(api.report(run_path)))


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
    path = genotype / "genotype.json" if genotype.is_dir() else genotype
    draw_genotype(Genotype.load(path).to_dict(), out)
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
    Console().print(table)


@recipes.command("list")
def recipes_list() -> None:
    """List the recipes with what each is and the published figure it aims at."""
    table = Table("recipe", "what it is", "published")
    for name in recipe_names():
        recipe = load_recipe(name)
        table.add_row(name, recipe.about, recipe.published)
    Console().print(table)


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
        typer.echo(load_recipe(recipe, overrides or [], budget.value).to_yaml(), nl=False)
    else:
        typer.echo(recipe_text(recipe), nl=False)


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
    try:
        with to.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise RunError(f"{to} exists already and is not overwritten; choose another file") from None
    except OSError as fault:
        raise RunError(f"cannot write {to}: {fault.strerror}") from None
    typer.echo(f"{to}: run it with: topocell run {to} --out DIR")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    command = typer.main.get_command(app)
    try:
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
    if code == 128 + signal.SIGINT:
        print("stopped; the same command goes on from the last checkpoint", file=sys.stderr)
    return code if isinstance(code, int) else 0


def _fail(text: str) -> int:
    print(f"error: {text}", file=sys.stderr)
    return 2


def entry() -> None:
    """The console command."""
    sys.exit(main())

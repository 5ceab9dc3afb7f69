"""The command that trains the network of a cell: of a run, of a file, of a published cell."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from topocell.errors import RecipeError, typed
from topocell.reporting.command_line import (
    AcceptData,
    Budget,
    BudgetOption,
    JsonOption,
    OperationsOption,
    QuietOption,
    YesOption,
    complete_cells,
    displayed,
    order_of,
)
from topocell.runs.recipe_commands import recipe_for

#: Whose images and training a cell gets that comes from no run, where no recipe is named.
DEFAULT = "darts-v1"


def retrain(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RUN|CELL|RECIPE",
            help="A run; a cell: file, published name, text; with --genotype, the recipe.",
            autocompletion=complete_cells,
        ),
    ],
    changes: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="E.g. retrain.max_parameters=50000.", show_default=False),
    ] = None,
    genotype: Annotated[
        str | None,
        typer.Option(
            metavar="CELL",
            help="Train this cell as RECIPE trains the one that it finds.",
            show_default=False,
            autocompletion=complete_cells,
        ),
    ] = None,
    operations: OperationsOption = None,
    name: Annotated[
        str | None,
        typer.Option("--as", help="Use other settings, in RUN/retrainings/NAME.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Run directory of a cell that comes from no run.", show_default=False)
    ] = None,
    recipe: Annotated[str, typer.Option(help="Whose images and training a cell from no run gets.")] = DEFAULT,
    budget: BudgetOption = Budget.paper,
    weights_from: Annotated[
        Path | None,
        typer.Option("--from", metavar="RUN", help="Fine-tune the weights of a trained network.", show_default=False),
    ] = None,
    random_cell: Annotated[
        bool, typer.Option("--random-cell", help="Retrain a random cell like that of RUN, for comparison.")
    ] = False,
    protocol: Annotated[
        str | None, typer.Option(help="One of full, shallow, filter; default the recipe's.", show_default=False)
    ] = None,
    accept_data: AcceptData = False,
    yes: YesOption = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Retrain a cell from scratch, once per seed of the recipe, and test it.

    With `--as`, the cell of a run gets further networks without another search: of another size, with other images,
    more seeds. A cell that comes from no run needs `--out`: a file, a text of another tool, or a published cell, of
    which `topocell genotypes list` has the names. The protocol `shallow` trains small networks instead, in
    RUN/shallow; `filter` does so first, and retrains in full what exceeds the recipe's `shallow.threshold`.

    Examples:

        topocell retrain runs/dots

        topocell retrain runs/dots --as small retrain.max_parameters=50000

        topocell retrain runs/dots --as four-seeds retrain.seeds=0,1,2,3

        topocell retrain runs/dots --as longer --from runs/dots retrain.epochs=5 retrain.weights.lr=0.005

        topocell retrain --genotype dots-c10 dots --budget small data.dataset=digits --out runs/dots-c10
    """
    from topocell import api
    from topocell.runs.consent import Asking

    given = {"--as": name, "--from": weights_from, "--protocol": protocol, "KEY=VALUE": changes, "--out": out}
    given |= {"--genotype": genotype, "--operations": operations}
    _check_together(source, random_cell, given, recipe != DEFAULT, budget != Budget.paper)
    with displayed(quiet, as_json) as display:
        before = None if quiet else Asking(display, _shorter(random_cell, name, protocol, out, budget), yes or as_json)
        shared: dict[str, Any] = {"weights_from": weights_from, "accept_data": accept_data, "before": before}
        if random_cell:
            api.retrain_random_cell(Path(source), display, accept_data=accept_data, before=before)
        elif out is None:
            api.retrain(Path(source), display, protocol, name=name, changes=changes or [], **shared)
        else:
            from topocell.reporting.rundirs import genotype_of

            cell = genotype_of(genotype or source, order_of(operations))
            plan = recipe_for(out, source if genotype else recipe, changes, budget)
            api.retrain_cell(cell, plan, out, display, **shared)


def _shorter(random_cell: bool, name: str | None, protocol: str | None, out: Path | None, budget: Budget) -> str:
    """Ways to a shorter training that these words leave open; none where the training has to be that of the run."""
    if random_cell or protocol in ("shallow", "filter"):
        return ""
    if name is None and out is None:
        return "--protocol shallow, small networks first"
    smaller = "--budget small, minutes, or " * (out is not None and budget is Budget.paper)
    return f"{smaller}fewer epochs or seeds"


def _check_together(
    source: str, random_cell: bool, given: Mapping[str, Any], other_recipe: bool, other_budget: bool
) -> None:
    """Raise RecipeError for words after `topocell retrain` of which one would leave another without effect.

    Args:
        source: the run, the cell, or the recipe.
        random_cell: whether a random cell is retrained.
        given: option → its value, of the others.
        other_recipe, other_budget: whether the recipe, or the budget, is not the default.
    """
    from topocell.genotype.literals import shown
    from topocell.genotype.published import find
    from topocell.reporting.rundirs import is_text

    words = [option for option, value in given.items() if value]
    if random_cell and words:
        raise RecipeError(
            f"--random-cell retrains a random cell exactly as RUN was, but got {', '.join(words)}; leave that out"
        )
    if given["--genotype"] and other_recipe:
        raise RecipeError(
            f"with --genotype the recipe stands by itself, but there are two, {source} and --recipe; leave --recipe out"
        )
    if given["--out"]:
        if beside := [option for option in words if option in ("--as", "--protocol")]:
            raise RecipeError(f"--out begins a run of its own, but got {', '.join(beside)}; leave out one of them")
        own = os.path.join(source, "recipe.yaml")
        if not given["--genotype"] and not other_recipe and os.path.isfile(own):
            raise RecipeError(
                f"--out is for a cell that comes from no run, but {source} is one, with a recipe; leave --out out, or "
                f"train its cell in another place by: topocell retrain --genotype {typed(source)} {typed(own)} --out "
                f"{typed(given['--out'])}"
            )
    elif given["--operations"]:
        raise RecipeError("--operations is for the text of a cell, which no run has; leave it out, or add --out DIR")
    elif given["--genotype"] or (
        not os.path.isdir(source) and (os.path.isfile(source) or is_text(source) or find(source))
    ):
        cell = given["--genotype"] or source
        raise RecipeError(
            f"a cell that comes from no run needs a directory of its own, but {shown(cell) if is_text(cell) else cell} "
            f"has none; add --out DIR"
        )
    elif other_recipe or other_budget:
        raise RecipeError(
            "--recipe and --budget are for a cell that comes from no run, but there is no --out; a run has a recipe: "
            "change it with --as NAME KEY=VALUE, or add --out DIR"
        )

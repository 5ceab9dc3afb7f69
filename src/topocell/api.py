"""Functions behind the commands: a run, its steps alone, and an estimate of it.

A run goes search → select → retrain → report. Each step reads what the one before left in the run directory, so
that a run resumes wherever it was stopped, and each step can be taken alone.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from topocell.arguments import checked
from topocell.config.recipe import Recipe
from topocell.config.retrain import PROTOCOLS, RetrainPlan, goes_on, short_plan
from topocell.data.given import Given
from topocell.errors import GenotypeError, RecipeError, RunError, typed
from topocell.genotype.genotype import Genotype
from topocell.reporting.scores import random_cell_words
from topocell.reporting.showing import display_of, shown
from topocell.reporting.terminal import Display, Quiet
from topocell.runs.beside import (
    begin_alternative,
    begin_random_cell,
    begin_retraining,
    begin_shallow,
    begin_validation,
    begin_with_cell,
    begun_retraining,
    check_words,
)
from topocell.runs.consent import Before, announce
from topocell.runs.directory import RunDir
from topocell.runs.estimate import Estimate, estimate_retraining, estimate_search, free_memory
from topocell.runs.identity import names_images, naming_imports, only_resumes
from topocell.runs.logs import Log
from topocell.runs.opening import opened_work, reopened_work, setup_of
from topocell.runs.phases import Phase
from topocell.runs.processes import on_all_processes
from topocell.runs.reports import write_report
from topocell.runs.run import Work, notes_of
from topocell.runs.setup import Setup, execution, prepared
from topocell.runs.trials import held_out_data, trained_in_trials
from topocell.runtime.as_found import as_found


@checked(RecipeError)
@on_all_processes
def run(
    recipe: Recipe,
    out: str | Path,
    display: Display | str | None = None,
    *,
    accept_data: bool = False,
    data: Given | Sequence[Any] | None = None,
    log: Sequence[Log] = (),
    before: Before | None = None,
) -> Path:
    """Search, derive, retrain and report; resume an unfinished run of the same recipe in `out`.

    With a table of true accuracies (see `load_ground_truth`) the cell is looked up instead of retrained. With
    `accept_data` a run resumes even when the images are no longer those it began with (see `RunDir.open`). With `data`,
    tensors or datasets of `torch.utils.data` (see `topocell.data.given.Given`), these are its images in place of those
    that the recipe names; give them again to resume it. `display` shows the work: `live`, `lines`, `json`, `quiet`,
    `none`, or an object of your own; left out, `live` on a terminal and `none` elsewhere. `log` names or brings logs
    beside those of the recipe (see `topocell.runs.logs.Log`). `before` is called when a run that has no checkpoint yet
    would take more than an hour, before anything is written (see `topocell.runs.consent.Before`).

    Returns the path of the report.

    Raises:
        RecipeError, SpaceError, DataError: what the recipe asks for cannot be.
        RunError, CheckpointError: `out` cannot be used, or what it holds is damaged.
        Interrupted: SIGINT or SIGTERM, after the state was saved.
    """
    setup = setup_of(recipe, data, out)
    announce(before, setup, out)
    with opened_work(setup, out, display, accept_data, log) as work:
        work.monitor.outlook.whole = True
        work.search()
        work.select()
        _retrain(work, work.recipe.protocol, accept_data)
        return work.report()


@checked(RecipeError)
@on_all_processes
def search(
    recipe: Recipe,
    out: str | Path,
    display: Display | str | None = None,
    *,
    accept_data: bool = False,
    data: Given | Sequence[Any] | None = None,
    before: Before | None = None,
) -> Path:
    """Search without deriving a cell; leaves `checkpoints/supernet.ckpt`. Returns the run directory.

    Resumes and raises as `run`.
    """
    setup = setup_of(recipe, data, out)
    announce(before, setup, out, retrain=False)
    with opened_work(setup, out, display, accept_data) as work:
        work.search()
        return work.directory.path


@checked(RunError)
@on_all_processes
def select(
    out: str | Path,
    display: Display | str | None = None,
    name: str | None = None,
    *,
    replace: bool = False,
    accept_data: bool = False,
    data: Given | Sequence[Any] | None = None,
    **changes: Any,
) -> Genotype:
    """Derive the cell of a searched run, with the recipe's rules or others, and write genotype.json.

    With a name it is an alternative selection, in selections/NAME: a run directory of its own, which starts from a
    copy of the supernet and can be retrained and reported. The same call again resumes where it was stopped. A
    selection by perturbation of a run that has its cell already, and one with options of its own for the projection,
    is an alternative in any case; its name is then OPERATIONS-EDGES.

    Args:
        out: directory of the run.
        display: as for `run`.
        name: of the directory in OUT/selections; without it the cell becomes the run's own.
        replace: whether a cell whose retraining has begun may give way to another, which drops that retraining.
        accept_data, data: as for `run`.
        changes: fields of `topocell.config.selection.SelectionPlan` to use instead of the recipe's.

    Raises:
        RunError: the search is not finished, `name` has other rules, or the cell is retrained and `replace` is False.
        RecipeError: a rule that does not exist.
    """
    with reopened_work(out, display, accept_data, data) as work:
        name = work.alternative_name(changes) if name is None else name
        if name is None:
            return work.select(again=True, replace=replace, **changes)
        recipe, path = begin_alternative(work, name, changes, accept_data)
    with opened_work(prepared(recipe, like=work.setup, resumes=True), path, display, accept_data) as work:
        return work.select()


@checked(RunError)
@on_all_processes
def retrain(
    out: str | Path,
    display: Display | str | None = None,
    protocol: str | None = None,
    *,
    name: str | None = None,
    changes: Sequence[str] = (),
    weights_from: str | Path | None = None,
    accept_data: bool = False,
    data: Given | Sequence[Any] | None = None,
    before: Before | None = None,
) -> dict[str, Any]:
    """Retrain the derived cell of a run as its recipe says, or look its true accuracy up where there is a table.

    With a name it is a further retraining, in retrainings/NAME: a run directory of its own. The same call again, or
    the name alone, resumes it. Seeds that the run has trained with the same settings are not trained again.

    Args:
        out: directory of the run.
        display: as for `run`.
        protocol: a row of `topocell.config.retrain.PROTOCOLS`, in place of the recipe's own. A shallow evaluation has
            a run directory of its own, OUT/shallow.
        name: of the directory in OUT/retrainings. The cell is trained there, also where there is a table.
        changes: `key=value` of `retrain`, `data`, `device`, `precision`, `compile`, `on_nan`; they need a name.
            `data.root`, where the images are now, and `device` need none by themselves, and resume.
        weights_from: directory with a trained network whose weights are fine-tuned; it needs a name.
        accept_data, data, before: as for `run`; with a name the images may be others than those of the run.

    Returns what results.json holds, of OUT/shallow where there was no full retraining.

    Raises:
        RecipeError: no such protocol. RunError: no cell has been derived yet. Otherwise as `run`.
    """
    check_words(protocol, name, changes, weights_from)
    if name is None:
        with reopened_work(out, display, accept_data, data, changes) as work:
            work.need_genotype()
            if work.phase == Phase.RETRAIN and work.state is None and before is not None:
                wanted = work.recipe.model_copy(update={"protocol": protocol or work.recipe.protocol})
                genotype = Genotype.load(work.directory.genotype_path)
                announce(before, replace(work.setup, recipe=wanted), None, genotype=genotype)
            results = _retrain(work, protocol or work.recipe.protocol, accept_data)
            work.display.results(results)
            return results
    origin = None if weights_from is None else Path(weights_from)
    resumes = only_resumes(changes) or not changes
    if resumes and origin is None and (path := begun_retraining(out, name)) is not None:
        return retrain(path, display, changes=changes, accept_data=accept_data, data=data, before=before)
    if accept_data or data is not None or names_images(changes):  # which need not be those of the run
        with naming_imports(out), RunDir.existing(out) as directory:
            setup, path = begin_retraining(directory, name, changes, origin, before, accept_data, data=data)
    else:
        with reopened_work(out, Quiet(), accept_data) as work:
            setup, path = begin_retraining(work.directory, name, changes, origin, before, accept_data, work.setup)
    return _trained(setup, path, display, accept_data)


@checked(RunError)
@on_all_processes
def validate(
    out: str | Path, display: Display | str | None = None, plan: RetrainPlan | None = None, *, seed: int | None = None
) -> dict[str, Any]:
    """Train the cell of a run on the split of its search, and test it on the images of the architecture there.

    In OUT/validation, which the test split has no part in: cells of several searches are chosen by what it says.

    Args:
        out: directory of the run.
        display: as for `run`.
        plan: of the training; default the `retrain` of the run's recipe for a sixth of its epochs, once (DARTS: 100
            of 600), tested after the last.
        seed: see `topocell.runs.beside.begin_validation`.

    Returns what results.json of OUT/validation holds; what is called test there is validation. Raises as `run`, and
    RunError where no cell has been derived yet, RecipeError where the search has one split only.
    """
    with reopened_work(out, Quiet()) as work:
        work.need_genotype()
        setup, path = begin_validation(work, plan or short_plan(work.recipe.retrain), seed)
    with opened_work(setup, path, display) as beside:
        return beside.retrain()


@checked(RunError)
@on_all_processes
def retrain_random_cell(
    out: str | Path,
    display: Display | str | None = None,
    *,
    accept_data: bool = False,
    data: Given | Sequence[Any] | None = None,
    before: Before | None = None,
) -> dict[str, Any]:
    """Retrain a random cell as that of a run was, in OUT/retrainings/random-cell; the report of the run shows both.

    Returns what its results.json holds. Raises as `retrain`.
    """
    with reopened_work(out, Quiet(), accept_data, data) as work:
        setup, path = begin_random_cell(work, before, accept_data)
        mine = work.directory.read_json("results.json") if work.directory.has("results.json") else {}
    results = _trained(setup, path, display, accept_data)
    write_report(out)
    if words := random_cell_words(mine, results):
        display_of(display).say(words)
    return results


@checked(GenotypeError)
@on_all_processes
def retrain_cell(
    genotype: Genotype,
    recipe: Recipe,
    out: str | Path,
    display: Display | str | None = None,
    *,
    weights_from: str | Path | None = None,
    accept_data: bool = False,
    data: Given | Sequence[Any] | None = None,
    before: Before | None = None,
) -> dict[str, Any]:
    """Retrain a cell that no run of topocell has found, as a recipe says; its search is left out.

    `out` becomes a run directory, which `retrain`, `report` and `load` take. The same call again resumes.

    Args:
        genotype: the cell.
        recipe: whose images and retraining are used.
        out: run directory.
        display: as for `run`.
        weights_from, accept_data, data, before: as for `retrain`.

    Returns what results.json holds. Raises as `retrain`.
    """
    setup, origin = setup_of(recipe, data, out), None if weights_from is None else Path(weights_from)
    begin_with_cell(setup, Path(out), genotype, origin, before=before, accept_data=accept_data)
    return _trained(setup, Path(out), display, accept_data)


def _trained(setup: Setup, path: Path, display: Display | str | None, accept_data: bool) -> dict[str, Any]:
    """Take the retraining of a directory to its end, and write its report."""
    with opened_work(setup, path, display, accept_data) as work:
        results = work.retrain()
        work.report()
        return results


def _retrain(work: Work, protocol: str, accept_data: bool) -> dict[str, Any]:
    """Evaluate and retrain a cell by a protocol; a cell whose accuracy is known needs neither."""
    shallow, full = PROTOCOLS[protocol]
    if work.setup.ground_truth is not None or not shallow:
        return work.retrain()
    recipe, path = begin_shallow(work, accept_data)
    with opened_work(prepared(recipe, like=work.setup, resumes=True), path, work.display, accept_data) as beside:
        results = beside.retrain()
    found, least = results["last_mean"], work.recipe.shallow.threshold
    work.monitor.say(f"shallow evaluation: {100 * found:.2f} % (n = {results['n']}), see {path}")
    if goes_on(protocol, found, least):
        return work.retrain()
    if full:
        work.monitor.say(
            f"the full retraining is for cells above {100 * least:g} %; to train this one all the same: "
            f"topocell retrain {typed(work.directory.path)} --protocol full"
        )
    return results


@checked(RunError)
def report(out: str | Path, page: str | Path | None = None) -> Path:
    """Write the report of a run from what its directory holds so far; returns its path.

    Args:
        out: directory of the run.
        page: file of the report; default report.html in the directory.

    Raises:
        RunError: there is no run, or the file cannot be written.
    """
    with RunDir.existing(out, lock=False) as directory:
        return write_report(directory.path, None if page is None else Path(page))


@checked(RecipeError)
@as_found()
def estimate(recipe: Recipe, display: Display | str | None = None) -> Estimate:
    """Estimate time and memory of a run of the recipe, from probes of a few steps; nothing is written.

    `display`, as for `run`, shows the notes about the data, and which part is measured.

    Raises:
        RecipeError, SpaceError, DataError: what the recipe asks for cannot be.
        RunError: memory runs out in a probe.
    """
    with shown(display) as shows:
        return _estimated(prepared(recipe, checked=False), shows)


def _estimated(setup: Setup, shows: Display) -> Estimate:
    recipe = setup.recipe
    for note in notes_of(setup):
        shows.say(note)
    free = free_memory(setup.device)
    how: dict[str, Any] = {"seed": recipe.seed, "device": setup.device, "execution": execution(recipe), "free": free}
    how["begin"] = lambda part: shows.status(f"measuring {part}")
    plan, data, costs = recipe.selection.projection, setup.search_data, setup.penalised
    parts, genotype = estimate_search(recipe.search, setup.space, data, setup.rules, plan, costs=costs, **how)
    if (trained := trained_in_trials(setup)) is not None:
        number, short = trained
        one = estimate_retraining(genotype, short, held_out_data(setup), **how)
        seconds, steps = number * one.seconds, number * one.steps
        parts.append(replace(one, name="trials", knobs=(), steps=steps, seconds=seconds, seeds=number))
    trainings = recipe.trainings if setup.ground_truth is None else ()
    parts += [estimate_retraining(genotype, plan, setup.dataset, **how) for plan in trainings]
    return Estimate(str(setup.device), free, tuple(parts))

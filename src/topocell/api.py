"""Recipe → objects, and the steps of a run. The only place where configuration becomes objects.

A run goes search → select → retrain → report. Each step reads what the one before left in the run directory, so
that a run goes on wherever it was stopped, and each step can be taken alone.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from topocell import data as datasets
from topocell import spaces
from topocell.arch import ArchState
from topocell.data import Dataset, search_data
from topocell.display import Display, Quiet
from topocell.engine import Supernet
from topocell.errors import RecipeError, RunError, SpaceError
from topocell.estimate import (
    Estimate,
    Knob,
    estimate_retraining,
    estimate_search,
    free_memory,
    is_out_of_memory,
    out_of_memory,
    retrain_knobs,
    stage_knobs,
)
from topocell.execution import Execution
from topocell.genotype import CellGenotype, Genotype
from topocell.network import FixedNet
from topocell.recipe import Recipe, reselected, resolved
from topocell.report.html import write_report
from topocell.rundir import RunDir, environment
from topocell.runmonitor import RunMonitor
from topocell.search.loop import Search
from topocell.search.projection import Projection
from topocell.search.selection import Derived, Rules, check_rules, derive
from topocell.spaces.cell import SpaceSpec
from topocell.tabular import Table, found_truth, holds
from topocell.train import Retraining

#: Steps of a run, in order; a checkpoint says which one it belongs to, `done` that nothing is left.
SEARCH, SELECT, RETRAIN, DONE = "search", "select", "retrain", "done"

#: Phase of the metrics of tuning between decisions, in the step `select`.
TUNE = "tune"

#: Environment variable that names a table of NAS-Bench-201.
TRUTH_VARIABLE = "TOPOCELL_NASBENCH201"


def run(recipe: Recipe, out: str | Path, display: Display | None = None) -> Path:
    """Search, derive, retrain and report; goes on if `out` holds an unfinished run of the same recipe.

    With a table of true accuracies (see `load_truth`) the cell is looked up instead of retrained.

    Returns the path of the report.

    Raises:
        RecipeError, SpaceError, DataError: what the recipe asks for cannot be.
        RunError, CheckpointError: `out` cannot be used, or what it holds is damaged.
        Interrupted: SIGINT or SIGTERM, after the state was saved.
    """
    with _opened(recipe, out, display) as work:
        work.search()
        work.select()
        work.retrain()
        return work.report()


def search(recipe: Recipe, out: str | Path, display: Display | None = None) -> Path:
    """Only the search; leaves `checkpoints/supernet.ckpt`. Returns the run directory. Raises as `run`."""
    with _opened(recipe, out, display) as work:
        work.search()
        return work.directory.path


def select(out: str | Path, display: Display | None = None, name: str | None = None, **changes: Any) -> Genotype:
    """Derive the cell of a searched run, with the recipe's rules or others, and write genotype.json.

    With a name the selection stands beside the run, in selections/NAME: a run directory of its own, which starts from
    a copy of the supernet and can be retrained and reported. The same call again goes on where it was stopped. A
    selection by perturbation of a run that has its cell already, and one with options of its own for the projection,
    stands beside the run in any case; its name is then OPERATIONS-EDGES.

    Args:
        changes: fields of `topocell.recipe.SelectionPlan` to use instead of the recipe's.

    Raises:
        RunError: the search is not finished, or `name` has other rules. RecipeError: a rule that does not exist.
    """
    with _reopened(out, display) as work:
        name = name or work.name_beside(changes)
        if name is None:
            return work.select(again=True, **changes)
        recipe, path = work.begin_beside(name, changes)
    with _opened(recipe, path, display) as work:
        return work.select()


def retrain(out: str | Path, display: Display | None = None) -> dict[str, Any]:
    """Retrain the derived cell of a run as its recipe says, or look its true accuracy up where there is a table.

    Returns what results.json holds.

    Raises:
        RunError: no cell has been derived yet. Otherwise as `run`.
    """
    with _reopened(out, display) as work:
        work.need_genotype()
        return work.retrain()


def report(out: str | Path) -> Path:
    """Write report.html from what a run directory holds so far; returns its path."""
    with RunDir.existing(out, lock=False) as directory:
        return write_report(directory.path)


def estimate(recipe: Recipe) -> Estimate:
    """What a run of the recipe will take, from probes of a few steps; nothing is written.

    Raises:
        RecipeError, SpaceError, DataError: what the recipe asks for cannot be.
    """
    check(recipe)
    truth, dataset, device = load_truth(recipe), load_data(recipe), find_device(recipe.device)
    options: dict[str, Any] = {
        "seed": recipe.seed,
        "device": device,
        "execution": execution(recipe),
        "free": free_memory(device),
    }
    parts, genotype = estimate_search(
        recipe.search,
        build_space(recipe),
        search_data(dataset, recipe.data.splits, recipe.seed),
        recipe.selection.rules(recipe.seed),
        recipe.selection.projection,
        **options,
    )
    if truth is None:
        check_images(recipe, dataset)
        parts.append(estimate_retraining(genotype, recipe.retrain, dataset, **options))
    return Estimate(str(device), options["free"], tuple(parts))


def execution(recipe: Recipe) -> Execution:
    """How the networks of a recipe are called."""
    return Execution(recipe.precision, recipe.compile)


def build_space(recipe: Recipe) -> SpaceSpec:
    """The search space of a recipe. Raises SpaceError."""
    options = recipe.space.model_dump()
    name = options.pop("name")
    try:
        return spaces.get(name, **options)
    except (TypeError, ValueError) as fault:
        given = ", ".join(f"{key}={value!r}" for key, value in options.items())
        raise SpaceError(f"space {name!r} cannot be built with {given}: {fault}; see: topocell spaces") from fault


def load_data(recipe: Recipe) -> Dataset:
    """The dataset of a recipe. Raises DataError."""
    plan = recipe.data
    return datasets.load(
        plan.dataset,
        plan.root,
        download=plan.download,
        resolution=plan.resolution,
        images=plan.images,
        test_images=plan.test_images,
        seed=recipe.seed,
    )


def load_truth(recipe: Recipe) -> Table | None:
    """The table in which the found cell is looked up in place of retraining; None if the cell is retrained.

    It is the one that `truth.table` names, or the environment variable TOPOCELL_NASBENCH201 where the table holds
    the cells of the recipe's space.

    Raises:
        RecipeError: `truth.table` does not hold the cells of the space. DataError: no such table or column.
    """
    space, named = build_space(recipe), recipe.truth.table
    if named is not None and not holds(space):
        raise RecipeError(
            f"truth.table holds the cells of space nasbench201 (3 nodes), but the space is {space.name!r}; "
            f"leave truth.table out, or set space=nasbench201"
        )
    path = named or os.environ.get(TRUTH_VARIABLE)
    if not path or not holds(space):
        return None
    table = Table.load(path)
    table.values(recipe.truth.column)
    return table


def find_device(name: str) -> torch.device:
    """`auto` is the first GPU, else the CPU. Raises RecipeError for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError):
        raise RecipeError(f"device must name a device of this machine, but got {name!r}; use auto or cpu") from None
    return device


def check(recipe: Recipe) -> None:
    """Build what the recipe names without training, so that faults show before anything starts.

    Raises:
        RecipeError, SpaceError: a combination that cannot be.
    """
    space, plan = build_space(recipe), recipe.search
    for name, cell in space.cells.items():
        if all(op == "none" for candidates in cell.candidates for op in candidates):
            raise SpaceError(f"a cell needs an operation besides none, but {name} of space {space.name!r} has none")
    for stage in plan.stages:
        ArchState(space, stage.relaxation.model_dump(), stage.topology.model_dump())
        with torch.device("meta"):
            Supernet(space, classes=2, head=plan.head, memory=plan.memory, **plan.size(stage))


def check_images(recipe: Recipe, dataset: Dataset) -> None:
    """Raises SpaceError for images that the network of the retraining cannot take, before the search begins."""
    plan, cells = recipe.retrain, {}
    for name, cell in build_space(recipe).cells.items():
        cells[name] = CellGenotype(cell.inputs, ((("skip_connect", 0),),) * cell.nodes, (cell.computed[-1],))
    classes, channels = len(dataset.train.classes), dataset.shape[0]
    sizes = plan.channels, plan.layers, classes, channels, plan.stem
    net = FixedNet(Genotype("any", cells), *sizes, auxiliary=plan.auxiliary > 0, head=plan.head)
    with torch.no_grad():
        net(torch.zeros(2, *dataset.shape))


class _Work:
    """The steps of one run on an open run directory."""

    def __init__(
        self, recipe: Recipe, directory: RunDir, dataset: Dataset, truth: Table | None, display: Display
    ) -> None:
        self.recipe, self.directory, self.dataset, self.display = recipe, directory, dataset, display
        self.truth = truth
        self.device = find_device(recipe.device)
        self.monitor = RunMonitor(directory, display)
        saved = directory.latest() or {"phase": SEARCH, "state": None}
        self.phase: str = saved["phase"]
        self.state: Mapping[str, Any] | None = saved["state"]
        for warning in directory.warnings:
            display.say(warning)
        if self.phase == DONE:
            display.say(f"{directory.path} is finished; its report: {directory.report_path}")
        elif self.state is not None:
            display.say(f"going on with {directory.path}: {self.phase}")

    def search(self) -> None:
        """Run the search, or what is left of it."""
        if self.phase != SEARCH:
            return
        with self._timed(SEARCH):
            search = self._search()
            search.run(self.state)
        self.directory.save_named("supernet", search.state_dict())
        self._enter(SELECT)

    def _search(self) -> Search:
        recipe = self.recipe
        return Search(
            recipe.search,
            build_space(recipe),
            search_data(self.dataset, recipe.data.splits, recipe.seed),
            rules=self._rules(),
            seed=recipe.seed,
            device=self.device,
            monitor=self.monitor,
            execution=execution(recipe),
        )

    def select(self, again: bool = False, **changes: Any) -> Genotype:
        """Derive the cell from the searched supernet and write genotype.json; a projection goes on where it was.

        Without changes, a projection that was begun under other rules keeps them.
        """
        self._must_be_searched()
        rules, begun = self._rules(**changes), self.state["rules"] if self.phase == SELECT and self.state else None
        if self.phase != SELECT and (not again or rules.project):
            return Genotype.load(self.directory.genotype_path)
        if begun is not None and not changes:
            rules = Rules(**begun)
        if begun is not None and rules != Rules(**begun):
            self._forget_selection()
        derived = self._project(rules) if rules.project else self._derive(rules)
        origin = {"recipe": self.recipe.name, "seed": self.recipe.seed, "run": self.directory.path.name}
        genotype = Genotype(build_space(self.recipe).name, derived.cells, origin)
        for note in derived.notes:
            self.monitor.say(note)
        another = self.phase != SELECT and Genotype.load(self.directory.genotype_path).cells != genotype.cells
        if another:  # what retraining left belongs to the cell of before
            self._forget_selection()
            self.directory.forget(RETRAIN, "results.json", "weights.safetensors", "report.html")
        genotype.save(self.directory.genotype_path)
        self.display.cell(genotype.to_dict())
        if self.phase == SELECT:
            self._enter(RETRAIN)
        return genotype

    def name_beside(self, changes: Mapping[str, Any]) -> str | None:
        """The name of a selection that must not disturb the cell that the run has; None where there is none."""
        rules = self._rules(**changes)
        mine = not changes and any(record.get("phase") == SELECT for record in self.directory.metrics())
        apart = self.phase not in (SEARCH, SELECT) and rules.project and not mine
        return f"{rules.operations}-{rules.edges}" if apart or "projection" in changes else None

    def begin_beside(self, name: str, changes: Mapping[str, Any]) -> tuple[Recipe, Path]:
        """Make selections/NAME a run that stands before its selection; returns its recipe and directory."""
        self._must_be_searched()
        recipe = reselected(self.recipe, changes)
        path = self.directory.beside(name)
        if (path / "recipe.yaml").exists() and (path / "recipe.yaml").read_text(encoding="utf-8") != recipe.to_yaml():
            raise RunError(f"a selection keeps the rules it began with, but {path} has others; name another with --as")
        with RunDir.open(path, recipe.to_yaml(), env=_environment(recipe, self.dataset, self.truth)) as directory:
            if directory.latest() is None:
                directory.save_named("supernet", self.directory.load_named("supernet"))
                for record in self.directory.metrics():
                    if record.get("phase") == SEARCH:
                        directory.append_metrics(record)
                directory.save_checkpoint({"phase": SELECT, "state": None})
        return recipe, path

    def retrain(self) -> dict[str, Any]:
        """Retrain the derived cell, or what is left of it, and write results.json and weights.safetensors.

        With a table of true accuracies the cell is looked up there instead, and there are no weights.
        """
        if self.phase == DONE:
            results: dict[str, Any] = self.directory.read_json("results.json")
            return results
        genotype = Genotype.load(self.directory.genotype_path)
        if self.truth is not None:
            results = found_truth(self.truth, self.recipe.truth.column, genotype, self.directory.metrics())
            self.directory.write_json("results.json", results)
            self._enter(DONE)
            return results
        with self._timed(RETRAIN):
            training = Retraining(
                genotype,
                self.recipe.retrain,
                self.dataset,
                seed=self.recipe.seed,
                device=self.device,
                monitor=self.monitor,
                execution=execution(self.recipe),
            )
            results = training.run(self.state)
        self.directory.write_tensors("weights.safetensors", training.first_weights)
        self.directory.write_json("results.json", results)
        self._enter(DONE)
        return results

    def report(self) -> Path:
        """Write the report."""
        path = write_report(self.directory.path)
        if self.directory.has("results.json"):
            self.display.results(self.directory.read_json("results.json"))
        self.display.say(f"report: {path}")
        return path

    def need_genotype(self) -> None:
        """Raises RunError unless a cell has been derived."""
        if self.phase in (SEARCH, SELECT) or not self.directory.genotype_path.exists():
            raise RunError(
                f"retraining needs a derived cell, but {self.directory.path} has none yet; "
                f"go on with: topocell select {self.directory.path}"
            )

    def _must_be_searched(self) -> None:
        if self.phase == SEARCH:
            raise RunError(
                f"a cell is derived from a finished search, but the search in {self.directory.path} is not; "
                f"go on with: topocell run or topocell search"
            )

    def _rules(self, **changes: Any) -> Rules:
        named = {key: changes[key] for key in ("operations", "edges") if key in changes}
        check_rules(replace(self.recipe.selection.rules(self.recipe.seed), **named))
        return reselected(self.recipe, changes).selection.rules(self.recipe.seed)

    def _project(self, rules: Rules) -> Derived:
        recipe, search = self.recipe, self._search()
        search.load_state_dict(self.directory.load_named("supernet"))
        projection = Projection(
            search.learner,
            search.data,
            recipe.search.stages[-1],
            recipe.selection.projection,
            rules,
            batch_size=recipe.search.batch_size,
            seed=recipe.seed,
            device=self.device,
            monitor=self.monitor,
        )
        with self._timed(SELECT):
            projection.run(self.state)
        return derive(projection.learner.arch, rules)

    def _forget_selection(self) -> None:
        """Drop what a selection has left, to stand before it."""
        for phase in (SELECT, TUNE):
            self.directory.forget(phase)
        self._enter(SELECT)

    def _derive(self, rules: Rules) -> Derived:
        state = self.directory.load_named("supernet")
        stage = self.recipe.search.stages[-1]
        space = build_space(self.recipe)
        cells = {t: cell.with_candidates(state["candidates"][t]) for t, cell in space.cells.items()}
        arch = ArchState(space.with_cells(cells), stage.relaxation.model_dump(), stage.topology.model_dump())
        arch.load_state_dict(state["arch"])
        return derive(arch, rules)

    def _enter(self, phase: str) -> None:
        self.phase, self.state = phase, None
        self.monitor.phase = phase
        self.directory.save_checkpoint({"phase": phase, "state": None})

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        self.monitor.phase = phase
        start = time.monotonic()
        try:
            with self.monitor.listening():
                yield
        except (RuntimeError, MemoryError) as fault:
            if not is_out_of_memory(fault):
                raise
            raise RunError(out_of_memory(phase, str(self.device), _knobs(self.recipe, phase))) from fault
        finally:
            self.directory.add_seconds(phase, time.monotonic() - start)


@contextmanager
def _opened(recipe: Recipe, out: str | Path, display: Display | None) -> Iterator[_Work]:
    check(recipe)
    truth = load_truth(recipe)
    dataset = load_data(recipe)
    if truth is None:
        check_images(recipe, dataset)
    with RunDir.open(out, recipe.to_yaml(), env=_environment(recipe, dataset, truth)) as directory:
        yield _work(recipe, directory, dataset, truth, display)


@contextmanager
def _reopened(out: str | Path, display: Display | None) -> Iterator[_Work]:
    with RunDir.existing(out, lock=False) as found:
        recipe = resolved(found.recipe_yaml)
    with _opened(recipe, out, display) as work:
        yield work


def _work(recipe: Recipe, directory: RunDir, dataset: Dataset, truth: Table | None, display: Display | None) -> _Work:
    work = _Work(recipe, directory, dataset, truth, display or Quiet())
    if work.phase != DONE:
        for note in dataset.notes:
            work.monitor.say(f"data: {note}")
    return work


def _knobs(recipe: Recipe, phase: str) -> tuple[Knob, ...]:
    """What the memory of a phase depends on."""
    if phase == RETRAIN:
        return retrain_knobs(recipe.retrain)
    of_stages = (stage_knobs(recipe.search, stage) for stage in recipe.search.stages)
    return tuple(dict.fromkeys(knob for knobs in of_stages for knob in knobs))


def _environment(recipe: Recipe, dataset: Dataset, truth: Table | None) -> dict[str, Any]:
    seeds = {"run": recipe.seed, **{f"retrain {i}": s for i, s in enumerate(recipe.retrain.seeds)}}
    found = environment(find_device(recipe.device), dataset.fingerprint, seeds)
    return found if truth is None else {**found, "truth_fingerprint": truth.fingerprint}

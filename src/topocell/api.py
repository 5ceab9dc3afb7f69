"""Recipe → objects, and the steps of a run. The only place where configuration becomes objects.

A run goes search → select → retrain → report. Each step reads what the one before left in the run directory, so
that a run goes on wherever it was stopped, and each step can be taken alone.
"""

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
from topocell.genotype import CellGenotype, Genotype
from topocell.network import FixedNet
from topocell.recipe import Recipe, resolved
from topocell.report.html import write_report
from topocell.rundir import RunDir, environment
from topocell.runmonitor import RunMonitor
from topocell.search.loop import Search
from topocell.search.selection import Derived, Rules, derive
from topocell.spaces.cell import SpaceSpec
from topocell.train import Retraining

#: Steps of a run, in order; a checkpoint says which one it belongs to, `done` that nothing is left.
SEARCH, SELECT, RETRAIN, DONE = "search", "select", "retrain", "done"


def run(recipe: Recipe, out: str | Path, display: Display | None = None) -> Path:
    """Search, derive, retrain and report; goes on if `out` holds an unfinished run of the same recipe.

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


def select(out: str | Path, display: Display | None = None, **rules: Any) -> Genotype:
    """Derive the cell of a searched run, with the recipe's rules or others, and write genotype.json.

    Args:
        rules: fields of `topocell.search.selection.Rules` to use instead of the recipe's.

    Raises:
        RunError: the search is not finished. RecipeError: a rule that does not exist.
    """
    with _reopened(out, display) as work:
        return work.select(again=True, **rules)


def retrain(out: str | Path, display: Display | None = None) -> dict[str, Any]:
    """Retrain the derived cell of a run as its recipe says; returns what results.json holds.

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
            channels, layers = stage.channels or plan.channels, stage.layers or plan.layers
            Supernet(space, channels, layers, 2, head=plan.head, partial=plan.partial)


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

    def __init__(self, recipe: Recipe, directory: RunDir, dataset: Dataset, display: Display) -> None:
        self.recipe, self.directory, self.dataset, self.display = recipe, directory, dataset, display
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
        recipe = self.recipe
        with self._timed(SEARCH):
            learner_of = Search(
                recipe.search,
                build_space(recipe),
                search_data(self.dataset, recipe.data.splits, recipe.seed),
                rules=self._rules(),
                seed=recipe.seed,
                device=self.device,
                monitor=self.monitor,
            )
            learner_of.run(self.state)
        self.directory.save_named("supernet", learner_of.state_dict())
        self._enter(SELECT)

    def select(self, again: bool = False, **rules: Any) -> Genotype:
        """Derive the cell from the searched supernet and write genotype.json."""
        if self.phase == SEARCH:
            raise RunError(
                f"a cell is derived from a finished search, but the search in {self.directory.path} is not; "
                f"go on with: topocell run or topocell search"
            )
        if self.phase != SELECT and not again:
            return Genotype.load(self.directory.genotype_path)
        derived = self._derive(**rules)
        origin = {"recipe": self.recipe.name, "seed": self.recipe.seed, "run": self.directory.path.name}
        genotype = Genotype(build_space(self.recipe).name, derived.cells, origin)
        for note in derived.notes:
            self.monitor.say(note)
        another = self.phase != SELECT and Genotype.load(self.directory.genotype_path).cells != genotype.cells
        if another:  # what retraining left belongs to the cell of before
            self._enter(SELECT)
            self.directory.forget(RETRAIN, "results.json", "weights.safetensors", "report.html")
        genotype.save(self.directory.genotype_path)
        self.display.cell(genotype.to_dict())
        if self.phase == SELECT:
            self._enter(RETRAIN)
        return genotype

    def retrain(self) -> dict[str, Any]:
        """Retrain the derived cell, or what is left of it, and write results.json and weights.safetensors."""
        if self.phase == DONE:
            results: dict[str, Any] = self.directory.read_json("results.json")
            return results
        genotype = Genotype.load(self.directory.genotype_path)
        with self._timed(RETRAIN):
            training = Retraining(
                genotype,
                self.recipe.retrain,
                self.dataset,
                seed=self.recipe.seed,
                device=self.device,
                monitor=self.monitor,
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

    def _rules(self, **changes: Any) -> Rules:
        return replace(Rules(**self.recipe.selection.model_dump(), seed=self.recipe.seed), **changes)

    def _derive(self, **rules: Any) -> Derived:
        state = self.directory.load_named("supernet")
        stage = self.recipe.search.stages[-1]
        space = build_space(self.recipe)
        cells = {t: cell.with_candidates(state["candidates"][t]) for t, cell in space.cells.items()}
        arch = ArchState(space.with_cells(cells), stage.relaxation.model_dump(), stage.topology.model_dump())
        arch.load_state_dict(state["arch"])
        return derive(arch, self._rules(**rules))

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
        finally:
            self.directory.add_seconds(phase, time.monotonic() - start)


@contextmanager
def _opened(recipe: Recipe, out: str | Path, display: Display | None) -> Iterator[_Work]:
    check(recipe)
    dataset = load_data(recipe)
    check_images(recipe, dataset)
    with RunDir.open(out, recipe.to_yaml(), env=_environment(recipe, dataset)) as directory:
        yield _work(recipe, directory, dataset, display)


@contextmanager
def _reopened(out: str | Path, display: Display | None) -> Iterator[_Work]:
    with RunDir.existing(out, lock=False) as found:
        recipe = resolved(found.recipe_yaml)
    with _opened(recipe, out, display) as work:
        yield work


def _work(recipe: Recipe, directory: RunDir, dataset: Dataset, display: Display | None) -> _Work:
    work = _Work(recipe, directory, dataset, display or Quiet())
    if work.phase != DONE:
        for note in dataset.notes:
            work.monitor.say(f"data: {note}")
    return work


def _environment(recipe: Recipe, dataset: Dataset) -> dict[str, Any]:
    seeds = {"run": recipe.seed, **{f"retrain {i}": s for i, s in enumerate(recipe.retrain.seeds)}}
    return environment(find_device(recipe.device), dataset.fingerprint, seeds)

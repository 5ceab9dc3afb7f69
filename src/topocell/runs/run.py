"""The steps of a run on its directory, each of which reads what the one before left there."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from topocell.config.load import reselected
from topocell.config.recipe import Recipe
from topocell.config.selection import Rules
from topocell.data import preprocessing
from topocell.data.accuracy_table import ground_truth_results
from topocell.data.stream import close_streams
from topocell.errors import GenotypeError, RecipeError, RunError, TopocellError, one_line, typed
from topocell.genotype.genotype import Genotype
from topocell.networks import kept
from topocell.networks.start import Start
from topocell.registry import imported
from topocell.reporting.ground_truth import ground_truth_of
from topocell.reporting.history import history
from topocell.reporting.run_files import RunFiles
from topocell.reporting.tables import is_number
from topocell.reporting.terminal import Display
from topocell.runs.costs import cost_line
from topocell.runs.directory import RunDir
from topocell.runs.estimate import Knob, out_of_memory, retrain_knobs, room_of_images, stage_knobs
from topocell.runs.logs import Logs
from topocell.runs.moments import Moment, moment_of
from topocell.runs.monitor import RunHook, RunMonitor, fitting
from topocell.runs.outlook import Outlook, few_steps, parts_of
from topocell.runs.phases import Phase, must_have_cell, read_phase, save_phase
from topocell.runs.processes import check_shares, search_batches
from topocell.runs.records import FAILED
from topocell.runs.reports import write_report
from topocell.runs.setup import Setup
from topocell.runs.trials import trials_of
from topocell.runtime.hooks import Interrupted
from topocell.runtime.memory import naming_memory
from topocell.searching.loop import Search
from topocell.selection.rules import Derived, check_rules, derive
from topocell.supernet.arch_state import ArchState


def of_a_cell(recipe: Recipe) -> tuple[str, ...]:
    """Return the files that belong to the cell of a run, in the order in which they go when it gets another."""
    return "report.html", *kept.names_of(recipe.retrain.seeds), preprocessing.FILE, "results.json"


def notes_of(setup: Setup, phase: Phase = Phase.SEARCH) -> list[str]:
    """Return what is to be known before a phase: the device, the images, the depth of the network and its cutout."""
    notes = [*setup.dataset.notes, *(setup.split_notes if phase == Phase.SEARCH else ())]
    return [*setup.device_notes, *(f"data: {note}" for note in notes), *setup.depth_notes, *setup.cutout_notes]


class Work:
    """The steps of one run on an open run directory.

    Args:
        setup: what its recipe names.
        directory, display: of the run.
        hooks: act on its records and checkpoints.
        logs: follow its records.
    """

    def __init__(
        self,
        setup: Setup,
        directory: RunDir,
        display: Display,
        hooks: Sequence[RunHook] = (),
        logs: Logs | None = None,
    ) -> None:
        self.setup, self.recipe, self.directory = setup, setup.recipe, directory
        self.monitor = RunMonitor(directory, display, hooks, setup.dataset.test, Outlook(parts_of(setup)), logs)
        self._unlogged = display
        self.phase, self.state, self.monitor.seconds = read_phase(directory)
        self.monitor.logs.begin()
        self.display = display if self.phase == Phase.DONE else self.monitor.display  # the log of a finished run ends
        for warning in directory.warnings:
            display.say(warning)
        if self.phase == Phase.DONE:
            display.say(f"{directory.path} is finished; its report: {directory.report_path}")
        elif self.state is not None:
            self.display.say(f"resuming {directory.path}: {self.phase}")

    def say_notes(self) -> None:
        """Say what is to be known before a run that is not finished."""
        if self.phase != Phase.DONE:
            for note in notes_of(self.setup, self.phase):
                self.monitor.say(note)

    def search(self) -> None:
        """Run the search, or what is left of it."""
        if self.phase != Phase.SEARCH:
            return
        with self._timed(Phase.SEARCH):
            if self.state is None:
                self._enter(Phase.SEARCH)  # nothing may be there that no checkpoint tells of
                if line := few_steps(self.setup):
                    self.monitor.say(line)
            search = self.setup.search(self._rules(), self.monitor)
            search.run(self.state)
        seen = history(self.directory.metrics(), self.recipe.model_dump(mode="json"))
        if len(seen.epoch):
            self.directory.write_bytes("history.npz", seen.to_npz())
        self.directory.save_named("supernet", search.state_dict())
        self._enter(Phase.SELECT)

    def select(self, again: bool = False, replace: bool = False, **changes: Any) -> Genotype:
        """Derive the cell from the searched supernet and write genotype.json; a projection resumes where it was.

        Without changes, a projection that was begun under other rules keeps them. A cell whose retraining has begun
        gives way to another one only with `replace`.
        """
        self.must_be_searched()
        rules = self._rules(**changes)
        if self.phase != Phase.SELECT and (not again or rules.computes):
            return Genotype.load(self.directory.genotype_path)
        rules, moment = self.decided(changes)
        begun = self._begun()
        if begun is not None and not changes:
            rules = begun
        if begun is not None and rules != begun:
            self._enter(Phase.SELECT)
        if self.phase == Phase.SELECT and self.state is None:
            self._clear()
        derived = self._computed(rules, moment) if rules.computes else derive(self._architecture(moment), rules)
        chosen: dict[str, Any] = {"operations": rules.operations, "edges": rules.edges}
        if moment is not None:
            chosen |= {"stage": moment.stage.name, "after_epoch": moment.number}
        origin = {"recipe": self.recipe.name, "seed": self.recipe.seed, "run": self.directory.path.name, **chosen}
        space = self.setup.space
        bare = derived.genotype(space)
        cost = self.setup.costs_of_cell(bare)
        genotype = derived.genotype(space, {**origin, "key": bare.key, **({"cost": cost} if cost else {})})
        for note in derived.notes:
            self.monitor.say(note)
        another = self.phase != Phase.SELECT and Genotype.load(self.directory.genotype_path).cells != genotype.cells
        trained = self.setup.ground_truth is None and (self.phase == Phase.DONE or self.state is not None)
        if another and trained and not replace:
            raise RunError(
                f"the retraining in {self.directory.path} is of the cell that it has, but these rules derive another; "
                f"name the new one (--as NAME, name=), or drop that cell and its retraining (--replace, replace=True)"
            )
        if another:  # what retraining left belongs to the cell of before
            self._enter(Phase.SELECT)
            self._clear()
        genotype.save(self.directory.genotype_path)
        self.display.cell(genotype.to_dict())
        if cost:
            self.display.say(cost_line(cost))
        if self.phase == Phase.SELECT:
            self._enter(Phase.RETRAIN)
        return genotype

    def alternative_name(self, changes: Mapping[str, Any]) -> str | None:
        """The name of a selection that must not disturb the cell that the run has; None where there is none."""
        rules = self._rules(**changes)
        of_selection = (Phase.SELECT, Phase.TRIAL)
        mine = not changes and any(record.get("phase") in of_selection for record in self.directory.metrics())
        apart = self.phase not in (Phase.SEARCH, Phase.SELECT) and rules.computes and not mine
        return f"{rules.operations}-{rules.edges}" if apart or "projection" in changes else None

    def retrain(self) -> dict[str, Any]:
        """Retrain the derived cell, or what is left of it, and write results.json and the files of its networks.

        These are complete without the images, see `topocell.networks.kept`. With a table of true accuracies the cell
        is looked up there instead, and there are no weights.
        """
        if self.phase == Phase.DONE:
            return self._results()
        genotype = self._derived()
        if self.setup.ground_truth is not None:
            column = self.recipe.ground_truth.column
            results: dict[str, Any] = ground_truth_results(
                self.setup.ground_truth, column, genotype, self.directory.metrics()
            )
            self.directory.write_json("results.json", results)
            self._enter(Phase.DONE)
            return results
        with self._timed(Phase.RETRAIN):
            training = self.setup.retraining(genotype, self.monitor, Start.read(self.directory.path))
            results = training.run(self.state)
        self.setup.preprocessing.save(self.directory.path / preprocessing.FILE)
        self.directory.write_json(kept.FILE, self._networks(genotype, results).to_dict())
        self.directory.write_json("results.json", results)
        self._enter(Phase.DONE)
        return results

    def _networks(self, genotype: Genotype, results: Mapping[str, Any]) -> kept.NetworkFile:
        """Describe the networks of a retraining."""
        networks = tuple(
            kept.Kept(run["seed"], kept.weights_name(number, run["seed"]), run["last"])
            for number, run in enumerate(results["runs"])
        )
        return kept.NetworkFile(genotype, results["channels"], results["layers"], networks, tuple(imported()))

    def report(self) -> Path:
        """Write the report."""
        if self.directory.has("results.json"):
            self.display.results(self._results())
        elif results := RunFiles(self.directory.path).results():
            self.display.results(results)
        path = write_report(self.directory.path)
        self._unlogged.say(f"report: {path}")  # the report shows the log: written again, it is the same
        if self.directory.has(kept.FILE):
            place = self.directory.path
            use = f"topocell predict {typed(place)} IMAGE..., topocell export {typed(place)} --to onnx"
            self._unlogged.say(f"use it: {use}")
        return path

    def _derived(self) -> Genotype:
        """The cell that is to be retrained. Raises GenotypeError where the file is no longer what was written there."""
        genotype = Genotype.load(self.directory.genotype_path)
        if genotype.origin.get("key", genotype.key) != genotype.key:
            raise GenotypeError(
                f"{self.directory.genotype_path} holds the cell that was derived, with the key "
                f"{genotype.origin['key']}, but the key of its cells is {genotype.key}; restore it from a copy, or "
                f"delete origin.key if the change is yours"
            )
        return genotype

    def _results(self) -> dict[str, Any]:
        """Read results.json. Raises RunError where it lacks what a run writes."""
        results = self.directory.read_json("results.json")
        shown = ("n", "last_mean", "best_mean", "parameters", "multiply_adds")
        found = results if isinstance(results, dict) else {}
        if not ground_truth_of(found) and not ("dataset" in found and all(is_number(found.get(key)) for key in shown)):
            raise RunError(
                f"{self.directory.path / 'results.json'} holds a true accuracy or {', '.join(shown)} and dataset, but "
                f"not this one; restore it from a copy"
            )
        return found

    def need_genotype(self) -> None:
        """Raise RunError unless a cell has been derived."""
        must_have_cell(self.directory, self.phase)

    def must_be_searched(self) -> None:
        """Raise RunError unless the search is finished."""
        if self.phase == Phase.SEARCH:
            raise RunError(
                f"a cell is derived from a finished search, but the search in {self.directory.path} is not; "
                f"continue with: topocell run or topocell search"
            )

    def moment(self, recipe: Recipe) -> Moment | None:
        """The moment of the search that a recipe derives the cell from. Raises RunError where it is not recorded."""
        return moment_of(recipe, self.directory.path, self.directory.metrics())

    def decided(self, changes: Mapping[str, Any]) -> tuple[Rules, Moment | None]:
        """The rules of a selection with changes, and the moment that it derives the cell from.

        Raises RecipeError for a change without effect. Otherwise as `moment`.
        """
        rules, moment = self._rules(**changes), self.moment(reselected(self.recipe, changes))
        rules = rules if moment is None else moment.rules(rules)
        if "in_degree" in changes and rules.edges in ("topology", "all"):
            raise RecipeError(
                f"in_degree is for rules that choose so many inputs of a node, but edges is {rules.edges!r}; leave "
                f"it out, or choose the edges by magnitude (--edges magnitude, edges='magnitude')"
            )
        return rules, moment

    def _rules(self, **changes: Any) -> Rules:
        named = {key: changes[key] for key in ("operations", "edges") if key in changes}
        check_rules(dataclasses.replace(self.recipe.selection.rules(self.recipe.seed), **named))
        return self.setup.priced(reselected(self.recipe, changes).selection.rules(self.recipe.seed))

    def _computed(self, rules: Rules, moment: Moment | None) -> Derived:
        """The cell of a projection, or of trials."""
        if rules.trials:
            architecture, where = self._architecture(moment), self.directory.path
            trials = trials_of(self.setup, architecture, rules, self.monitor, self._search, where)
            with self._timed(Phase.SELECT):
                return trials.run(self.state)
        check_shares(search_batches(self.recipe))
        projection = self.setup.projection(self._search(), rules, self.monitor)
        with self._timed(Phase.SELECT):
            projection.run(self.state)
        return derive(projection.learner.arch, rules)

    def _search(self) -> Search:
        """The search as it ended."""
        search = self.setup.search(self._rules())
        state = self.directory.load_named("supernet")
        with fitting(self.directory.named_path("supernet")):
            search.load_state_dict(state)
        return search

    def _begun(self) -> Rules | None:
        """The rules of a projection, or of trials, that were begun and not finished."""
        if self.phase != Phase.SELECT or self.state is None:
            return None
        with fitting(self.directory.newest):
            return Rules(**self.state["rules"])

    def _clear(self) -> None:
        """Stand before the selection: drop what one before, and what was made of its cell, have left.

        The checkpoint that says where the run stands is saved before, so that a kill on the way leads back here.
        """
        phases = (Phase.SELECT, Phase.TUNE, Phase.TRIAL, Phase.RETRAIN)
        files = of_a_cell(self.recipe)
        left = any(record.get("phase") in phases for record in self.directory.metrics())
        if not left and not any(self.directory.has(name) for name in files[1:]):
            return
        self.directory.forget(phases, *files)
        self.monitor.logs.begin()
        self.monitor.seconds = {p: s for p, s in self.monitor.seconds.items() if p not in phases}
        self.directory.write_json("timings.json", self.monitor.seconds)
        self._enter(Phase.SELECT)

    def _architecture(self, moment: Moment | None) -> ArchState:
        """The architecture at a moment of the search, without its supernet; by default at its end."""
        if moment is not None:
            return moment.architecture(self.setup.space)
        state = self.directory.load_named("supernet")
        stage = self.recipe.search.stages[-1]
        space = self.setup.space
        with fitting(self.directory.named_path("supernet")):
            cells = {t: cell.with_candidates(state["candidates"][t]) for t, cell in space.cells.items()}
            arch = ArchState(space.with_cells(cells), stage.relaxation.model_dump(), stage.topology.model_dump())
            arch.load_state_dict(state["arch"])
        return arch

    def _enter(self, phase: Phase) -> None:
        self.phase, self.state = phase, None
        self.monitor.phase = phase
        save_phase(self.directory, phase, seconds=self.monitor.seconds)

    @contextmanager
    def _timed(self, phase: Phase) -> Iterator[None]:
        self.monitor.begin(phase)
        try:
            with self._log_of_faults(), naming_memory(lambda: self._out_of_memory(phase)), self.monitor.listening():
                yield
        finally:
            close_streams()
            self.monitor.count()
            self.directory.write_json("timings.json", self.monitor.seconds)

    def _out_of_memory(self, phase: Phase) -> str:
        """Say which settings need less memory."""
        device, data = self.setup.device, self.setup.dataset
        switches = room_of_images((data.train, data.test), device)
        return out_of_memory(phase, str(device), knobs(self.recipe, phase), switches=switches)

    @contextmanager
    def _log_of_faults(self) -> Iterator[None]:
        """Leave a fault in the log, as its last line until the run resumes: so it is known to have failed."""
        try:
            yield
        except Interrupted:
            raise
        except Exception as fault:
            kind = "" if isinstance(fault, TopocellError) else f"{type(fault).__name__}: "
            with suppress(RunError):  # of a full disk
                self.directory.log(f"{FAILED}{kind}{one_line(str(fault))}")
            raise


def knobs(recipe: Recipe, phase: str) -> tuple[Knob, ...]:
    """Return the settings that the memory of a phase depends on."""
    if phase == Phase.RETRAIN:
        return retrain_knobs(recipe.retrain)
    of_stages = (stage_knobs(recipe.search, stage) for stage in recipe.search.stages)
    return tuple(dict.fromkeys(knob for knobs in of_stages for knob in knobs))

"""Recipe → objects, once: a `Setup`. The only place where configuration becomes objects."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from topocell import spaces
from topocell.config.cost import CostBudget, CostPlan
from topocell.config.recipe import Recipe
from topocell.config.search import Stage
from topocell.config.selection import NO_TABLE, ProjectionPlan, Rules
from topocell.data.accuracy_table import AccuracyTable
from topocell.data.benchmarks import BENCHMARKS, NASBENCH201
from topocell.data.given import Given, given_source
from topocell.data.preprocessing import Preprocessing
from topocell.data.splits import Dataset, SearchData, search_data
from topocell.data.stratify import split_notes
from topocell.data.stream import StreamedSet
from topocell.errors import RecipeError, SpaceError
from topocell.genotype.genotype import Genotype
from topocell.io.colours import rgb
from topocell.networks.options import check_training
from topocell.networks.retraining import Retraining
from topocell.networks.start import AFRESH, Start
from topocell.nn.kernels.mode import using
from topocell.runs.costs import check_reachable, costs_for, costs_of_cell, network_size
from topocell.runs.image_checks import check_images
from topocell.runs.images import load_data
from topocell.runs.loss_checks import check_losses
from topocell.runs.piece_checks import check_pieces, offered
from topocell.runtime.devices import device_to_resume_on, find_device
from topocell.runtime.hooks import Monitor
from topocell.runtime.losses import check_loss_options
from topocell.runtime.optimizers import check_optimizer
from topocell.runtime.precision import Execution
from topocell.runtime.provenance import environment
from topocell.searching.loop import Search
from topocell.searching.mechanisms import has_ranking, mechanisms_of
from topocell.selection.drawing import CellSpace
from topocell.selection.projection import Projection
from topocell.spaces.cell import SpaceSpec
from topocell.spaces.costs import NetworkCosts
from topocell.spaces.skeletons import least_layers, unplaced
from topocell.supernet import Supernet
from topocell.supernet.arch_state import ArchState

#: Environment variable that names a table of NAS-Bench-201.
GROUND_TRUTH_VARIABLE = NASBENCH201


@dataclass(frozen=True)
class Setup:
    """The objects that a recipe names. Made by `Setup.of`.

    Attributes:
        recipe: checked.
        space: of the first stage.
        dataset: its images, or those given in place of what it names.
        ground_truth: the table in which the cell is looked up; None if it is retrained.
        device: where everything is computed.
        device_notes: a warning where it is not the one that the recipe names.
    """

    recipe: Recipe
    space: SpaceSpec
    dataset: Dataset
    ground_truth: AccuracyTable | None
    device: torch.device
    device_notes: tuple[str, ...] = ()
    _costs: dict[tuple[str, int], NetworkCosts] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        data: Given | Sequence[Any] | None = None,
        like: "Setup | None" = None,
        checked: bool = True,
        out: str | Path | None = None,
        resumes: bool = False,
    ) -> "Setup":
        """Build what a recipe names.

        Args:
            recipe: checked by `check`.
            data: images in place of what it names, see `topocell.data.given.Given`; its dataset is then called `given`.
            like: a setup of the same data and seed, whose images are taken.
            checked: see `topocell.data.from_files.Streaming`.
            out: directory of the run, see `load_data`.
            resumes: whether `auto` takes the place of a device that this machine does not have; the recipe stays.

        Raises:
            RecipeError, SpaceError, DataError: what the recipe asks for cannot be.
        """
        space = build_space(recipe)
        ground_truth = load_ground_truth(recipe, space)
        given = None if data is None else given_source(data, rgb(recipe.data.background))
        if given is not None:
            plan = recipe.data.model_copy(update={"dataset": "given", "root": None})
            recipe = recipe.model_copy(update={"data": plan})
        dataset = load_data(recipe, given, checked, out) if like is None else like.dataset
        execution(recipe).set_up()
        device, note = device_to_resume_on(recipe.device) if resumes else (find_device(recipe.device), "")
        return cls(recipe, space, dataset, ground_truth, device, (note,) if note else ())

    @property
    def rules(self) -> Rules:
        """Return the rules by which the cell is derived."""
        return self.priced(self.recipe.selection.rules(self.recipe.seed))

    def priced(self, rules: Rules) -> Rules:
        """Return rules with the costs of networks, if they have a budget."""
        return rules if rules.budget is None else replace(rules, costs=self.costs(rules.budget))

    @property
    def penalised(self) -> NetworkCosts | None:
        """The costs of networks in the measure of `search.cost`; None where the recipe has no such penalty."""
        return None if self.recipe.search.cost is None else self.costs(self.recipe.search.cost)

    def costs(self, plan: CostPlan | CostBudget) -> NetworkCosts:
        """Return the costs of all networks of the space in a measure, at the size of the retraining."""
        key = (plan.measure, plan.batch)
        if key not in self._costs:
            self._costs[key] = costs_for(plan, self.space, network_size(self.recipe, self.dataset), self.device)
        return self._costs[key]

    def costs_of_cell(self, genotype: Genotype) -> dict[str, Any] | None:
        """Return what the network of a derived cell costs, see `topocell.runs.costs.costs_of_cell`.

        None where the cell is looked up, and its images fit no network of the retraining.
        """
        known = {measure: costs for (measure, _), costs in self._costs.items()}
        try:
            return costs_of_cell(self.recipe, genotype, network_size(self.recipe, self.dataset), known)
        except SpaceError:
            if self.ground_truth is None:
                raise
            return None

    @property
    def search_data(self) -> SearchData:
        """The training images, cut into the splits of the search."""
        plan = self.recipe.data
        return search_data(self.dataset, plan.splits, self.recipe.seed, plan.class_balanced)

    @property
    def split_notes(self) -> list[str]:
        """A warning where some split of the search lacks a class."""
        train, plan = self.dataset.train, self.recipe.data
        return split_notes(train.labels, train.classes, plan.splits, self.recipe.seed, plan.class_balanced)

    @property
    def depth_notes(self) -> list[str]:
        """A warning where a retrained network has no cell of some type."""
        skeleton, plan = self.space.skeleton, self.recipe.retrain
        if self.ground_truth is not None:
            return []
        return [
            f"retrain.layers={plan.layers} has no {name} cell: the {name} cell found is in no part of the network"
            for name in unplaced(skeleton, plan.layers)
        ]

    @property
    def cutout_notes(self) -> list[str]:
        """A warning where training images are blanked more or less as a whole: sizes are those of 32×32 in papers."""
        side, stages = min(self.dataset.shape[1:]), self.recipe.search.stages
        planned = [(f"search.stages.{stage.name}.mechanisms.cutout.size", stage.mechanisms.cutout) for stage in stages]
        sizes = {key: cutout.size for key, cutout in planned if cutout is not None}
        if self.ground_truth is None:
            sizes["retrain.cutout"] = self.recipe.retrain.cutout
        return [
            f"{key}={size} blanks {'all' if size >= 2 * side else 'most'} of a training image of {side} pixels; "
            f"{key}={side // 2} is usual"
            for key, size in sizes.items()
            if size >= side
        ]

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are prepared for the network of the retraining."""
        data, plan = self.dataset, self.recipe.retrain
        channels, height, width = data.shape
        return Preprocessing(
            classes=data.train.classes,
            mean=data.mean,
            std=data.std,
            size=(height, width),
            channels=channels,
            resize=data.resize,
            background=data.background,
            stem=plan.stem,
            head=plan.head,
        )

    def search(self, rules: Rules | None = None, monitor: Monitor | None = None) -> Search:
        """A search before its first step; `rules` are those of its diagnostics, in place of the recipe's."""
        shown = rules or self.rules
        options = self._options(monitor)
        return Search(self.recipe.search, self.space, self.search_data, rules=shown, costs=self.penalised, **options)

    def projection(
        self, search: Search, rules: Rules, monitor: Monitor | None = None, plan: ProjectionPlan | None = None
    ) -> Projection:
        """A projection of a finished search, by the recipe's plan where none is given."""
        options = self._options(monitor)
        del options["execution"]  # that of the search
        return Projection(
            search.learner,
            search.data,
            self.recipe.search.stages[-1],
            plan or self.recipe.selection.projection,
            rules,
            batch_size=self.recipe.search.batch(self.recipe.search.stages[-1]),
            **options,
        )

    def retraining(self, genotype: Genotype, monitor: Monitor | None = None, start: Start = AFRESH) -> Retraining:
        """The retraining of a cell, before its first step."""
        return Retraining(genotype, self.recipe.retrain, self.dataset, start=start, **self._options(monitor))

    def environment(self) -> dict[str, Any]:
        """Return the contents of env.json."""
        seeds = {"run": self.recipe.seed, **{f"retrain {i}": s for i, s in enumerate(self.recipe.retrain.seeds)}}
        with using(self.recipe.search.kernels):
            found = environment(self.device, self.dataset.fingerprint, seeds)
        classes = list(self.dataset.train.classes)
        found |= {"classes": len(classes), "class_names": classes, "image_shape": list(self.dataset.shape)}
        found["data_store"] = "stream" if isinstance(self.dataset.train, StreamedSet) else "memory"
        return (
            found if self.ground_truth is None else {**found, "ground_truth_fingerprint": self.ground_truth.fingerprint}
        )

    def _options(self, monitor: Monitor | None) -> dict[str, Any]:
        """Return the arguments that search, projection and retraining share."""
        recipe = self.recipe
        options = {"seed": recipe.seed, "device": self.device, "monitor": monitor, "on_nan": recipe.on_nan}
        return {**options, "execution": execution(recipe)}


def prepared(
    recipe: Recipe,
    data: Given | Sequence[Any] | None = None,
    like: Setup | None = None,
    checked: bool = True,
    out: str | Path | None = None,
    resumes: bool = False,
) -> Setup:
    """Check a recipe and build what it names, so that faults show before anything starts.

    Args:
        recipe: from `topocell.load_recipe`.
        data: images in place of what it names, see `Setup.of`.
        like, checked, out, resumes: see `Setup.of`.

    Raises:
        RecipeError, SpaceError, DataError: what the recipe asks for cannot be.
    """
    check(recipe)
    setup = Setup.of(recipe, data, like, checked, out, resumes)
    check_losses(recipe, len(setup.dataset.train.classes), setup.device)
    if setup.ground_truth is None:
        check_images(recipe, setup.space, setup.dataset)
    check_reachable(recipe, setup.space, setup.rules, setup.penalised)
    return setup


def execution(recipe: Recipe) -> Execution:
    """Return how the networks of a recipe are executed."""
    return Execution(recipe.precision, recipe.compile, recipe.sync_batch_norm, recipe.runtime.capture)


def build_space(recipe: Recipe) -> SpaceSpec:
    """The search space of a recipe. Raises SpaceError."""
    options = recipe.space.model_dump()
    name = options.pop("name")
    try:
        return spaces.get(name, **options)
    except (TypeError, ValueError) as fault:
        given = ", ".join(f"{key}={value!r}" for key, value in options.items())
        raise SpaceError(f"space {name!r} cannot be built with {given}: {fault}; see: topocell spaces") from fault


def load_ground_truth(recipe: Recipe, space: SpaceSpec | None = None) -> AccuracyTable | None:
    """Load the table in which the found cell is looked up in place of retraining; None if the cell is retrained.

    It is the one that `ground_truth.table` names; else, of the benchmark that holds the cells of the recipe's space
    (`space` if that is built already), the one that its environment variable names, TOPOCELL_NASBENCH201 or
    TOPOCELL_TOPOLOGY_BENCH, or that comes with topocell. The name `none` asks for no table.

    Raises:
        RecipeError: `ground_truth.table` does not hold the cells of the space. DataError: no such table or column.
    """
    space, named = space or build_space(recipe), recipe.ground_truth.table
    if named == NO_TABLE:
        return None
    benchmark = next((found for found in BENCHMARKS if found.holds(space)), None)
    if named is not None and benchmark is None:
        raise RecipeError(
            f"ground_truth.table holds the cells of space nasbench201 (3 nodes) or topology-bench, but the space is "
            f"{space.name!r}; leave ground_truth.table out, or set space=nasbench201"
        )
    path = named or (benchmark.path if benchmark else None)
    if not path or benchmark is None:
        return None
    table = benchmark.load(path)
    table.values(recipe.ground_truth.column)
    if (trials := recipe.selection.trials) is not None and trials.column is not None:
        table.values(trials.column)
    return table


def check(recipe: Recipe) -> None:
    """Build what the recipe names without training, so that faults show before anything starts.

    Raises:
        RecipeError, SpaceError: a combination that cannot be.
    """
    space, plan = build_space(recipe), recipe.search
    check_pieces(recipe, space)
    for name, cell in space.cells.items():
        if all(op == "none" for candidates in cell.candidates for op in candidates):
            raise SpaceError(f"a cell needs an operation besides none, but {name} of space {space.name!r} has none")
    known = offered(space)
    check_loss_options(plan.loss, "search.loss")
    for key, training in recipe.named_trainings.items():
        check_training(training, key)
    for stage in plan.stages:
        check_optimizer(stage.weights, f"search.stages.{stage.name}.weights")
        mechanisms_of(stage)
        attention, stop = stage.mechanisms.attention, stage.mechanisms.early_stop
        if attention is not None and not known & attention.constants.keys():
            raise RecipeError(
                f"attention is for candidates of the space, {', '.join(sorted(known))}, but stage {stage.name!r} has "
                f"it for {', '.join(attention.constants)}; name one of them or leave it out"
            )
        if stop is not None and stop.stable is not None and not any(map(has_ranking, space.cells.values())):
            raise RecipeError(
                f"early_stop.stable needs an edge with two operations that have weights, but space {space.name!r} has "
                f"none, so that no ranking ever changes; use early_stop.skips, or leave early_stop out of stage "
                f"{stage.name!r}"
            )
        arch = ArchState(space, stage.relaxation.model_dump(), stage.topology.model_dump())
    if recipe.selection.trials is not None:
        CellSpace.of(arch, recipe.selection.rules(recipe.seed))
    sizes = [plan.size(stage) for stage in plan.stages]
    for number, (stage, size) in enumerate(zip(plan.stages, sizes, strict=True)):
        if size not in sizes[:number]:
            _check_depth(space, stage, size["layers"])
            with torch.device("meta"):
                fixed: dict[str, Any] = {"head": plan.head, "stem": plan.stem, "memory": plan.memory, **size}
                Supernet(space, classes=2, kernels=plan.kernels, **fixed)


def _check_depth(space: SpaceSpec, stage: Stage, layers: int) -> None:
    """Raise RecipeError for a supernet without a cell of some type, whose cell the search would never try."""
    missing = unplaced(space.skeleton, layers)
    if missing:
        key = "search.layers" if stage.layers is None else f"search.stages.{stage.name}.layers"
        least = least_layers(space.skeleton, layers)
        raise RecipeError(
            f"a search needs a cell of each type in its supernet, but skeleton {space.skeleton!r} has no "
            f"{' and no '.join(missing)} cell in {key}={layers}"
            + ("" if least is None else f"; the least that has is {key}={least}")
        )

"""Agreement of the decisions of races with those on the whole split, and the images that races save."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from topocell.config.recipe import Recipe
from topocell.config.selection import PERTURBATION, Deciding, Racing
from topocell.errors import RecipeError
from topocell.reporting.terminal import Display
from topocell.runs.directory import RunDir
from topocell.runs.monitor import RunMonitor
from topocell.runs.phases import Phase
from topocell.runs.setup import Setup
from topocell.selection.decider import Decided, Decider, decider
from topocell.selection.probe import METRICS, Ablation
from topocell.studies import _plots
from topocell.studies._items import Bench, Outcome, Record
from topocell.studies._options import Arm, Entries, Searches, distinct
from topocell.studies._snapshots import photographed, revived
from topocell.studies._training import begin, spread

#: The decisions that the projection resumes with, those that are published, and both once more with other images.
EXACT, PUBLISHED = "exact", "published"
AGAIN = {EXACT: "exact, other images", PUBLISHED: "published, again"}

Confidences = Annotated[
    tuple[Annotated[float, Field(gt=0.5, lt=1)], ...], Field(min_length=1), BeforeValidator(distinct)
]
Margins = Annotated[tuple[Annotated[float, Field(ge=0)], ...], Field(min_length=1), BeforeValidator(distinct)]


class SelectionAgreement(Searches):
    """Options of `selection-agreement`."""

    recipes: Entries = Field(("darts-pt",), description="recipes that select by perturbation; unread with runs")
    runs: Annotated[tuple[str, ...], BeforeValidator(distinct)] = Field(
        (), description="directories of finished searches, whose recipes and supernets are taken in place of searching"
    )
    confidences: Confidences = Field((0.9, 0.95, 0.99), description="confidences of the races")
    margins: Margins = Field((0.0,), description="margins of the races, in units of the metric")

    def places(self) -> list[tuple[Arm, int, Path | None]]:
        """An arm, its seed and, of a run, its directory. Raises RecipeError."""
        if not self.runs:
            return [(arm, seed, None) for arm in self.arms() for seed in arm.recipes]
        found: list[tuple[Arm, int, Path | None]] = []
        for number, run in enumerate(self.runs, start=1):
            recipe = self.recipe(str(Path(run) / "recipe.yaml"))
            found.append((Arm(run, f"run-{number}", {recipe.seed: recipe}), recipe.seed, Path(run)))
        return found

    def modes(self, recipe: Recipe) -> dict[str, tuple[Deciding, str]]:
        """Ways to decide by name: the settings, and the stream by which images are drawn."""
        plan = recipe.selection.projection
        given = {"decide_by": PERTURBATION, "metric": plan.metric, "batches": plan.batches}
        exact, fresh = Deciding(**given, fixed_batches=True), Deciding(**given)
        modes = {
            EXACT: (exact, "projection probe"),
            AGAIN[EXACT]: (exact, "other images"),
            PUBLISHED: (fresh, "projection probe"),
            AGAIN[PUBLISHED]: (fresh, "other images"),
        }
        for confidence in self.confidences:
            for margin in self.margins:
                race = Racing(confidence=confidence, margin=margin)
                named = f"race at {confidence:g}" + (f", margin {margin:g}" if margin else "")
                modes[named] = Deciding(**given, racing=race), "projection probe"
        return modes


class Panel(Decider):
    """Several deciders of the same supernet. The first one's decisions count; the decisions of all are kept.

    Attributes:
        said: for each decision by mode the positions `kept`, `images`, and `seconds`; and `lost`, how much less the
            kept parts are worth than those that the first decider kept, by the measurements of the first.
    """

    def __init__(self, deciders: Mapping[str, Decider]) -> None:
        first = next(iter(deciders.values()))
        super().__init__(first.learner, first.probe, metric=first.metric)
        self.deciders = deciders
        self.said: list[dict[str, Any]] = []

    def __call__(self, ablations: Sequence[Ablation], keep: int) -> Decided:
        found, decisions = {}, []
        for name, one in self.deciders.items():
            before, start = one.completed_images, time.monotonic()
            decisions.append(one(ablations, keep))
            seconds, images = time.monotonic() - start, one.image_evaluations - before
            worth = [METRICS[self.metric] * read for read in decisions[0].reads]
            lost = sum(worth[i] for i in decisions[0].kept) - sum(worth[i] for i in decisions[-1].kept)
            found[name] = {"kept": decisions[-1].kept, "images": images, "seconds": seconds, "lost": lost / keep}
        self.said.append(found)
        return decisions[0]

    def complete(self) -> None:
        """Mark the decision as made in all deciders."""
        for one in self.deciders.values():
            one.complete()

    @property
    def evaluations(self) -> int:
        """Return those of the first decider."""
        return next(iter(self.deciders.values())).evaluations

    @property
    def image_evaluations(self) -> int:
        """Return those of the first decider."""
        return next(iter(self.deciders.values())).image_evaluations

    def state_dict(self) -> dict[str, Any]:
        """Return the decisions so far, and the states of the deciders."""
        return {"said": list(self.said), "deciders": {name: one.state_dict() for name, one in self.deciders.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict` of a panel of the same deciders."""
        self.said = list(state["said"])
        for name, one in self.deciders.items():
            one.load_state_dict(state["deciders"][name])


def measure(bench: Bench, options: SelectionAgreement) -> Outcome:
    """Repeat every decision of a projection in other ways on the very same supernet, which then resumes with the first.

    `exact` measures all candidates on the same images, the whole held-out split or `selection.projection.batches` of
    it; races measure them on growing parts of these images. `published` draws fresh images for every candidate. Both
    are made a second time with other images: how often they then agree with themselves is as much as can be asked of
    any other. `equal %` is the share of decisions (an operation of an edge, the edges of a node) that agree with
    exact, `equal to published %` that with the published ones; `lost` is by how much what was kept is worth less than
    what exact kept, in units of the metric by exact's own measurements, averaged over all decisions. An image
    evaluation is the answer to one image without one candidate. Seconds are those of measuring; where the study was
    stopped in the middle of a decision, those before the stop are missing.

    Raises:
        RecipeError: a recipe that does not select by perturbation.
    """
    places = options.places()
    for arm, *_ in places:
        if not arm.any.selection.rules(0).project:
            raise RecipeError(
                f"this study repeats decisions by perturbation, but {arm.label} makes none; "
                f"use selection.operations=perturbation"
            )
    items = sum(1 if run else 2 for *_, run in places)
    recipes = {f"{arm.label}, seed {seed}": arm.recipes[seed] for arm, seed, _ in places}
    begin(bench, items, recipes, [seed for _, seed, _ in places])
    records: list[Record] = []
    for arm, seed, run in places:
        recipe, key = arm.recipes[seed], f"{arm.key}-seed-{seed}"
        if run is None:
            bench.trained(f"{key}-search", photographed, recipe, ())
        searched = run or bench.path / "runs" / f"{key}-search"
        records.append(bench.trained(f"{key}-decisions", repeated, recipe, searched, options.modes(recipe)))
    shares = {name: [_equal(record["said"], name, EXACT) for record in records] for name in records[0]["said"][0]}
    rows = [_row(records, name) for name in shares]
    decisions = sum(len(record["said"]) for record in records)
    return Outcome(
        rows,
        lambda path: _plots.bars(
            {name: values for name, values in shares.items() if name != EXACT}, "decisions equal to exact, %", path
        ),
        len(records),
        {"decisions": decisions, "equal %": {row["mode"]: row["equal %"] for row in rows}},
        [
            f"{decisions} decisions on {len(records)} supernets. "
            f"A second exact measurement, with other images, makes {rows[1]['equal %']:.1f} % of them again."
        ],
    )


def repeated(
    recipe: Recipe, searched: Path, modes: Mapping[str, tuple[Deciding, str]], path: Path, display: Display
) -> Record:
    """Project the supernet of a finished search by the first of the modes, and let the others decide along.

    Returns `said`, see `Panel`. Goes on between any two measurements. Raises as `Projection.run`.
    """
    setup = Setup.of(recipe)
    with RunDir.open(path, recipe.to_yaml(), env=setup.environment()) as directory:
        search, stage = revived(recipe, searched), recipe.search.stages[-1]
        size = recipe.search.batch(stage)
        monitor = RunMonitor(directory, display)
        monitor.phase = Phase.SELECT
        seed, device = recipe.seed, search.device
        plan = recipe.selection.projection.model_copy(
            update={"fixed_batches": True, "racing": None, "decide_by": PERTURBATION}
        )
        learner, data = search.learner, search.data
        projection = setup.projection(search, setup.rules, monitor, plan)
        make: Callable[..., Decider] = partial(
            decider, learner, data, stage.alpha_on, batch_size=size, seen=projection.seen, seed=seed, device=device
        )
        panel = Panel({name: make(plan=how, stream=stream) for name, (how, stream) in modes.items()})
        projection.decider = panel
        saved = directory.latest()
        with monitor.listening():
            projection.run(saved["state"] if saved else None)
    return {"said": panel.said}


def _equal(said: Sequence[Mapping[str, Any]], one: str, other: str) -> float:
    """Per cent of the decisions in which two modes keep the same."""
    return 100 * spread([float(each[one]["kept"] == each[other]["kept"]) for each in said])[0]


def _row(records: Sequence[Record], name: str) -> dict[str, Any]:
    said = [each for record in records for each in record["said"]]
    images, whole = (sum(each[mode]["images"] for each in said) for mode in (name, EXACT))
    return {
        "mode": name,
        "decisions": len(said),
        "equal %": None if name == EXACT else _equal(said, name, EXACT),
        "equal to published %": None if name == PUBLISHED else _equal(said, name, PUBLISHED),
        "lost": spread([each[name]["lost"] for each in said])[0],
        "image evaluations": images,
        "exact / these": whole / images,
        "seconds": sum(each[name]["seconds"] for each in said),
    }

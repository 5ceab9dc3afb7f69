"""Items that train: whole runs, searches, and retrainings of a given cell, each in a run directory of its own."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from topocell import api
from topocell.config.load import resolved
from topocell.config.recipe import Recipe
from topocell.genotype.genotype import Genotype
from topocell.reporting.terminal import Display
from topocell.runs import setup
from topocell.runs.directory import RunDir
from topocell.runs.image_checks import check_network
from topocell.runs.images import check_place
from topocell.runs.phases import Phase, save_phase
from topocell.runtime.devices import find_device
from topocell.runtime.provenance import environment
from topocell.searching.loop import Search
from topocell.studies._items import Bench


def check(recipes: Iterable[Recipe], genotypes: Sequence[Genotype] = ()) -> dict[str, str]:
    """Build and load what the recipes name without training; returns the names of their data by fingerprint.

    Args:
        recipes: of the study.
        genotypes: cells that each of them is to retrain.

    Raises:
        RecipeError, SpaceError, DataError: what a recipe asks for cannot be, or not for one of the cells.
    """
    loaded: dict[str, setup.Setup] = {}
    for recipe in recipes:
        key = f"{recipe.data!r} {recipe.seed}"
        loaded[key] = setup.prepared(recipe, like=loaded.get(key))
        for genotype in genotypes:
            check_network(genotype, recipe.retrain, loaded[key].dataset)
    return {each.dataset.fingerprint: each.dataset.name for each in loaded.values()}


def begin(
    bench: Bench,
    items: int,
    recipes: Mapping[str, Recipe],
    seeds: Sequence[int],
    genotypes: Sequence[Genotype] = (),
    **inputs: Any,
) -> None:
    """Check the recipes, label → recipe, and the cells that each is to retrain, and begin a study that trains by them.

    `inputs` are all else that its items depend on.

    Raises as `check`, `Bench.begin`.
    """
    for recipe in recipes.values():
        check_place(recipe, bench.path)
    data = check(recipes.values(), genotypes)
    resolved_recipes = {label: recipe.model_dump(mode="json") for label, recipe in recipes.items()}
    named = {str(number): seed for number, seed in enumerate(seeds)}
    device = find_device(next(iter(recipes.values())).device)
    found = environment(device, ", ".join(data), named)
    cells = {"genotypes": [genotype.to_dict() for genotype in genotypes]} if genotypes else {}
    bench.begin(items, {"recipes": resolved_recipes, "data": data, **cells, **inputs}, found)


def whole_run(recipe: Recipe, path: Path, display: Display) -> dict[str, Any]:
    """Search, derive, retrain and report; returns results, genotype and seconds of each step. Raises as `api.run`."""
    api.run(recipe, path, display)
    return left_by(path)


def retrained(recipe: Recipe, genotype: Genotype, path: Path, display: Display) -> dict[str, Any]:
    """Train the network of a genotype as the recipe's `retrain` says, or look it up; resumes where it was stopped.

    Returns results, genotype and seconds. Raises as `api.retrain`.
    """
    with RunDir.open(path, recipe.to_yaml(), env=setup.Setup.of(recipe, out=path).environment()) as directory:
        if directory.latest() is None:  # before the cell, which no run without a checkpoint has
            save_phase(directory, Phase.RETRAIN)
        if not directory.genotype_path.exists():
            genotype.save(directory.genotype_path)
    api.retrain(path, display)
    return left_by(path)


def searched(recipe: Recipe, path: Path, display: Display) -> list[dict[str, Any]]:
    """Search without deriving a cell; returns the metrics of its epochs. Raises as `api.search`."""
    api.search(recipe, path, display)
    with RunDir.existing(path, lock=False) as directory:
        return [row for row in directory.metrics() if row["phase"] == Phase.SEARCH]


def finished_search(path: Path) -> Search:
    """The search of a run directory as it ended: supernet, architecture state, data.

    Raises:
        CheckpointError: the search is not finished.
    """
    with RunDir.existing(path, lock=False) as directory:
        recipe = resolved(directory.recipe_yaml)
        state = directory.load_named("supernet")
    search = setup.Setup.of(recipe, out=path).search()
    search.load_state_dict(state)
    return search


def accuracies(record: Mapping[str, Any]) -> list[float]:
    """Test accuracies in percent of a record of `whole_run` or `retrained`, last epoch, one per retraining seed.

    Of a cell that was looked up, its one true accuracy.
    """
    if ground_truth := record["results"].get("ground_truth"):
        return [ground_truth["accuracy"]]
    return [100 * run["last"] for run in record["results"]["runs"]]


def parameters(record: Mapping[str, Any]) -> int | None:
    """Return the parameters of the network of a record of `whole_run` or `retrained`; None where it was looked up."""
    found: int | None = record["results"].get("parameters")
    return found


def scale(record: Mapping[str, Any]) -> str:
    """Describe in a sentence what accuracies like that of a record rest on."""
    results = record["results"]
    if ground_truth := results.get("ground_truth"):
        return f"Accuracies are those of the column {ground_truth['column']} of the table of true accuracies."
    epochs = f"{results['epochs']} epoch{'s' * (results['epochs'] != 1)}"
    return (
        f"Retrained on {results['dataset']} with {results['train_images']} images for {epochs}, "
        f"{results['channels']} channels, tested on {results['test_images']} images after the last epoch, "
        f"number of retraining seeds: {results['n']}."
    )


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (n − 1), the latter None for a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def left_by(path: Path) -> dict[str, Any]:
    """Results, genotype and seconds of each step of a finished run. Raises RunError where it is not finished."""
    with RunDir.existing(path, lock=False) as directory:
        return {
            "results": directory.read_json("results.json"),
            "genotype": Genotype.load(directory.genotype_path).to_dict(),
            "timings": directory.read_json("timings.json") if directory.has("timings.json") else {},
        }

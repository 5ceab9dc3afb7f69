"""Exports of the network of a run: what its recipe knows, and its test images for the check, are put together here."""

import os
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from topocell.arguments import checked
from topocell.config.load import resolved
from topocell.config.recipe import Recipe
from topocell.data.pictures import find_images, read_pictures
from topocell.errors import DataError, RunError, one_line
from topocell.networks.classifier import Classifier, load
from topocell.networks.exports.facts import EXPORTS, Facts, Samples, network_results, random_samples, refuse_foreign
from topocell.networks.exports.writing import Exported, find_format, write_export
from topocell.networks.kept import FILE
from topocell.reporting.run_files import RunFiles
from topocell.reporting.rundirs import run_before, source_of
from topocell.runs.directory import RunDir
from topocell.runs.identity import naming_imports
from topocell.runs.images import some_test_images
from topocell.runtime.as_found import as_found

#: Images on which an export is checked, at most.
SAMPLES = 64


@checked(RunError)
@as_found()
def export(
    path: str | os.PathLike[str],
    to: str,
    out: str | os.PathLike[str] | None = None,
    *,
    seed: int | None = None,
    name: str | None = None,
    images: Any = None,
) -> Exported:
    """Export the trained network of a run, or of an export to safetensors, for other programs, with a model card.

    It is compared with the network before anything is written: on the test images of the run where they can be read,
    on random images where not.

    Args:
        path: run directory, export directory, or the network.json in one.
        to: `safetensors`, `onnx`, `standalone`, `pt2` or `timm`; see docs/how-to/use-the-network.md.
        out: directory that is new, empty, or an export as it was written, which is replaced; default exports/TO in that
            of the network.
        seed: of the retraining; the first without one.
        name: of the network on its model card and in timm; default that of the run directory.
        images: on which it is checked in place of the test images of the run, in any form that `predict` takes.

    Raises:
        RunError: there is no trained network, an unknown format, a missing package, a directory that holds something
            else, a network that the format cannot say, or an export that computes something else; nothing is left
            behind then. CheckpointError, DataError: what is there is damaged. RecipeError: a missing import.
    """
    find_format(to)
    given = Path(path)
    place = given.parent if given.name == FILE else given
    target = place / EXPORTS / (to if seed is None else f"{to}-{seed}") if out is None else Path(out)
    refuse_foreign(target)
    model = load(place, seed=seed)
    if (place / "recipe.yaml").is_file():
        with RunDir.existing(place, lock=False) as directory, naming_imports(place):
            recipe = resolved(directory.recipe_yaml)
        known = _facts(place, recipe, model)
        samples = _given(images, model) if images is not None else _test_images(recipe, model)
    else:
        known = Facts.of_export(place)
        samples = _given(images, model) if images is not None else random_samples(model, "an export has no images")
    return write_export(model, to, target, replace(known, name=name or known.name), samples)


def _facts(place: Path, recipe: Recipe, model: Classifier) -> Facts:
    return Facts(_name(place), recipe.name, tuple(_method(place, recipe)), network_results(place, model))


def _name(place: Path) -> str:
    """The name of a run; of a retraining or a selection with that of its run before it."""
    whole = place.resolve()
    if (before := run_before(whole)) is not None:
        return f"{_name(before)}-{whole.name}"
    return whole.name or "network"


def _method(place: Path, recipe: Recipe) -> list[str]:
    """Sentences on how the cell was found."""
    if source := source_of(RunFiles(place).mapping("genotype.json"), recipe.name):
        return [f"The cell was given to the retraining ({one_line(source)}); no search of its run has found it."]
    stages = [
        f"{stage.name} ({stage.level}, relaxation {stage.relaxation.name}, topology {stage.topology.name})"
        for stage in recipe.search.stages
        if stage.epochs
    ]
    about = [f"{recipe.about}."] if recipe.about else []
    about += [f"After {recipe.source}."] if recipe.source else []
    rules = recipe.selection
    chosen = f"Selection: operations by {rules.operations}, edges by {rules.edges}."
    if trials := rules.trials:
        number = f"at most {trials.number} trials" if trials.number else "the trials"
        chosen += (
            f" What is random there was drawn again in each of {number} (proposed by {trials.propose.name}), and the "
            f"cell that did best by {trials.evaluate.name} was taken."
        )
    searched = f"Stages: {', '.join(stages)}." if stages else "No supernet was trained."
    return [*about, searched, chosen]


def _given(images: Any, model: Classifier) -> Samples:
    """Images that the user gives, as far as they are needed. Raises DataError where one cannot be read."""
    pictures = read_pictures(islice(find_images(images)[0], SAMPLES), model.preprocessing)
    if pictures.faults:
        raise DataError(f"an export is checked on images that can be read, but {pictures.faults[0]}; leave it out")
    return Samples(pictures.pixels, f"{len(pictures.pixels)} images given to the export", True)


def _test_images(recipe: Recipe, model: Classifier) -> Samples:
    """Test images of the run, some of each class; random ones where these cannot be read."""
    try:
        pixels = some_test_images(recipe, model.preprocessing, SAMPLES)
    except DataError:  # whose message names a folder of this machine, which is nobody's business elsewhere
        return random_samples(model, "the images of the run cannot be read (--images names others)")
    if pixels is None:
        return random_samples(model, "the images where those of the run were have other classes or another size")
    return Samples(pixels, f"{len(pixels)} test images of the run", True)

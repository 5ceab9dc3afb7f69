"""Run directories that begin with what another has: alternative selections, shallow evaluation, further retrainings.

They lie inside the run that they begin with:

    selections/NAME      another cell of the same supernet
    shallow              the shallow evaluation of the cell (eDARTS)
    validation           the cell trained and validated on the split of the search, without the test images
    retrainings/NAME     the cell retrained with other settings: size, epochs, images, seeds
    retrainings/random-cell    a random cell retrained as that of the run
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from topocell.config.lasting import lasting, recipe_hash
from topocell.config.load import reselected, resolved, retrained, shallow_of
from topocell.config.recipe import Recipe
from topocell.config.retrain import PROTOCOLS, SIZES, RetrainPlan
from topocell.config.selection import NO_TABLE, GroundTruthPlan
from topocell.data.given import Given
from topocell.data.preprocessing import Preprocessing
from topocell.errors import CheckpointError, RecipeError, RunError, nearest, typed
from topocell.genotype.genotype import Genotype
from topocell.networks import kept
from topocell.networks.options import initial_channels
from topocell.networks.start import EARLIER, INITIAL, SOURCE, fitting, without_heads
from topocell.nn.network import FixedNet
from topocell.reporting.rundirs import RANDOM_CELL, readable
from topocell.runs import processes
from topocell.runs.consent import Before, announce
from topocell.runs.directory import OtherRecipe, RunDir
from topocell.runs.identity import names_device, only_resumes
from topocell.runs.image_checks import check_network
from topocell.runs.phases import Phase, must_have_cell, read_phase, save_phase
from topocell.runs.run import Work, of_a_cell
from topocell.runs.setup import Setup, load_ground_truth, prepared
from topocell.runs.trials import held_out_data
from topocell.selection.rules import derive
from topocell.supernet.arch_state import ArchState


def begin_alternative(
    work: Work, name: str, changes: Mapping[str, Any], accept_data: bool = False
) -> tuple[Recipe, Path]:
    """Make selections/NAME a run whose next phase is its selection; returns its recipe and directory."""
    work.must_be_searched()
    setup = Setup.of(reselected(work.recipe, changes), like=work.setup, resumes=True)
    path = work.directory.selection_path(name)
    work.decided(changes)  # before anything is written
    try:
        found = processes.opened(setup, path, accept_data, searched=True)
    except OtherRecipe as fault:
        raise RunError(
            f"a selection keeps the rules it began with, but {path} has others; take another name"
        ) from fault
    with found as directory:
        searched = (record for record in work.directory.metrics() if record.get("phase") == Phase.SEARCH)
        prepare_selection(directory, lambda: work.directory.load_named("supernet"), searched)
    return setup.recipe, path


def prepare_selection(
    directory: RunDir, supernet: Callable[[], dict[str, Any]], searched: Iterable[Mapping[str, Any]] = ()
) -> None:
    """Make a new run directory one whose next phase is its selection, also when a kill has interrupted that.

    Args:
        directory: the new run directory.
        supernet: gives the state of the search that is copied there.
        searched: records of the search, for metrics.jsonl.
    """
    if read_phase(directory)[:2] == (Phase.SEARCH, None):
        save_phase(directory, Phase.SEARCH)
        directory.save_named("supernet", supernet())
        for record in searched:
            directory.append_metrics(record)
        save_phase(directory, Phase.SELECT)


def begin_shallow(work: Work, accept_data: bool = False) -> tuple[Recipe, Path]:
    """Make RUN/shallow a run whose next phase is the shallow evaluation of the cell; returns its recipe and path.

    What an evaluation of another cell has left there is dropped.
    """
    setup = Setup.of(shallow_of(work.recipe), like=work.setup, resumes=True)
    path = work.directory.path / "shallow"
    _begin_evaluation(setup, path, Genotype.load(work.directory.genotype_path), accept_data)
    return setup.recipe, path


def begin_validation(work: Work, plan: RetrainPlan, seed: int | None = None) -> tuple[Setup, Path]:
    """Make RUN/validation a run whose next phase is a training of the cell on the split of the search.

    It is trained on the images that the weights of the search were, and tested on those of the architecture; images
    of the test split are not there, so that cells may be chosen by what it says.

    Args:
        work: the run.
        plan: of the training.
        seed: of the choice of the images, of their split and of the training; default that of the run. Cells that are
            compared have the same.

    Returns its setup and directory. Raises RecipeError for a recipe with one split, SpaceError as `check_network`.
    """
    fit, held = work.recipe.held_out()
    changes = {"retrain": plan, "protocol": "full", "ground_truth": GroundTruthPlan(table=NO_TABLE)}
    seed = work.recipe.seed if seed is None else seed
    recipe = work.recipe.model_copy(update={**changes, "seed": seed})
    like = work.setup if seed == work.recipe.seed else None
    setup = Setup.of(recipe, like=like, out=work.directory.path, resumes=True)
    whole = setup.dataset
    fingerprint = hashlib.sha256(f"{whole.fingerprint} {recipe.data.splits} {seed} {fit} {held}".encode()).hexdigest()
    dataset = dataclasses.replace(
        held_out_data(setup),
        name=f"{whole.name}: trained on the split {fit!r} of the search, tested on {held!r}",
        fingerprint=fingerprint,
    )
    setup = dataclasses.replace(setup, dataset=dataset)
    genotype, path = Genotype.load(work.directory.genotype_path), work.directory.path / "validation"
    check_network(genotype, plan, dataset)
    _begin_evaluation(setup, path, genotype)
    return setup, path


def _begin_evaluation(setup: Setup, path: Path, genotype: Genotype, accept_data: bool = False) -> None:
    """Make a directory a run whose next phase is the training of a cell; what was left of another one is dropped."""
    with processes.opened(setup, path, accept_data, searched=True) as directory:
        there = directory.genotype_path
        if not there.exists() or Genotype.load(there).cells != genotype.cells:
            directory.forget([Phase.RETRAIN], *of_a_cell(setup.recipe))
            save_phase(directory, Phase.RETRAIN)
            genotype.save(there)


def check_words(protocol: str | None, name: str | None, changes: Sequence[str], weights_from: object) -> None:
    """Raise RecipeError for arguments of a retraining of which one would leave another without effect."""
    if protocol is not None and protocol not in PROTOCOLS:
        raise RecipeError(
            f"protocol must be one of {', '.join(PROTOCOLS)}, but got {protocol!r}{nearest(protocol, PROTOCOLS)}"
        )
    if name is None and ((changes and not only_resumes(changes)) or weights_from is not None):
        asked = ", ".join(changes) or f"the weights of {weights_from}"
        raise RecipeError(
            f"a retraining with other settings has a name, but there is none for {asked}; add one (--as NAME, name=)"
        )
    if name is not None and protocol not in (None, "full"):
        raise RecipeError(
            f"a retraining by name trains in full, but got the protocol {protocol!r}; leave out one of the two"
        )


def begun_retraining(out: str | Path, name: str) -> Path | None:
    """Return retrainings/NAME of a run where it was begun with the cell that the run has; None where there is none.

    Raises RunError where it has another cell, which only a random one may be.
    """
    with RunDir.existing(out, lock=False) as run:
        path = run.retraining_path(name)
        if not (path / "genotype.json").is_file():
            return None
        if name != RANDOM_CELL and run.genotype_path.exists():
            _must_have(path / "genotype.json", Genotype.load(run.genotype_path))
        return path


def _must_have(there: Path, genotype: Genotype) -> None:
    if Genotype.load(there).cells != genotype.cells:
        raise RunError(f"a retraining keeps the cell it began with, but {there.parent} has another; take another name")


def begin_retraining(
    directory: RunDir,
    name: str,
    changes: Sequence[str],
    weights_from: Path | None = None,
    before: Before | None = None,
    accept_data: bool = False,
    like: Setup | None = None,
    data: Given | Sequence[Any] | None = None,
) -> tuple[Setup, Path]:
    """Make retrainings/NAME a run whose next phase is the retraining of the cell with other settings.

    Seeds that the run has trained with the same settings and images are taken from it: each is a training of its own.

    Args:
        directory: of the run.
        name: of the directory.
        changes: `key=value` of `retrain`, `data`, and the settings of execution.
        weights_from: a directory with a trained network, whose weights are fine-tuned.
        before: see `announce`.
        accept_data: see `RunDir.open`.
        like: what the recipe of the run names, whose images are taken; without it changes name images, or `data` are
            some, and those of the run need not be there.
        data: images given from Python.

    Returns its setup and directory.

    Raises:
        RecipeError: a change that is not one of a retraining. RunError: no cell has been derived yet, or NAME has other
            settings, or another cell.
    """
    if name == RANDOM_CELL:
        raise RunError(
            f"{RANDOM_CELL!r} is the retraining of a random cell, which the report compares with the cell of the run; "
            f"take another name, or leave the settings out (--random-cell, retrain_random_cell)"
        )
    must_have_cell(directory, read_phase(directory)[0])
    path = directory.retraining_path(name)
    of_run = resolved(directory.recipe_yaml) if like is None else like.recipe
    recipe = retrained(of_run, changes)
    if load_ground_truth(recipe) is not None:  # a look-up would leave the settings without effect
        recipe = recipe.model_copy(update={"ground_truth": GroundTruthPlan(table=NO_TABLE)})
    then, now = (lasting({"data": of.data.model_dump()}) for of in (of_run, recipe))
    begun = directory.path if then == now and not (path / "env.json").exists() else path
    mine = like if recipe.data == of_run.data else None
    setup = prepared(recipe, data, like=mine, out=begun, resumes=not names_device(changes))
    genotype = Genotype.load(directory.genotype_path)
    same_data = setup.dataset.fingerprint == directory.read_json("env.json")["data_fingerprint"]
    earlier = _earlier(directory, of_run, setup) if same_data and weights_from is None else []
    copy = directory, earlier
    begin_with_cell(setup, path, genotype, weights_from, before=before, accept_data=accept_data, copy=copy)
    return setup, path


def begin_random_cell(work: Work, before: Before | None = None, accept_data: bool = False) -> tuple[Setup, Path]:
    """Make retrainings/random-cell a run whose next phase is the retraining of a random cell, as that of the run's own.

    Operations and edges are drawn from the space of the run by its seed, as the recipe `random` does: what its search
    is worth shows against it. A threshold on weights and a budget on cost, which choose by them, do not count.

    Returns its setup and directory. Raises as `begin_retraining`.
    """
    setup, path = work.setup, work.directory.retraining_path(RANDOM_CELL)
    drawing: dict[str, Any] = {"operations": "random", "edges": "random", "threshold": None, "isolated": "rescue"}
    rules = dataclasses.replace(setup.recipe.selection.rules(setup.recipe.seed), **drawing, budget=None)
    stage = setup.recipe.search.stages[-1]
    arch = ArchState(setup.space, stage.relaxation.model_dump(), stage.topology.model_dump())
    drawn = derive(arch, rules).genotype(setup.space, {"recipe": "random", "seed": setup.recipe.seed})
    begin_with_cell(setup, path, drawn, before=before, accept_data=accept_data)
    return setup, path


def begin_with_cell(
    setup: Setup,
    path: Path,
    genotype: Genotype,
    weights_from: Path | None = None,
    *,
    before: Before | None = None,
    accept_data: bool = False,
    copy: tuple[RunDir, Sequence[Mapping[str, Any]]] | None = None,
) -> None:
    """Make a directory a run whose next phase is the retraining of a cell, also when a kill has interrupted that.

    Args:
        setup: of the retraining.
        path: of the directory.
        genotype: the cell.
        weights_from: a directory with a trained network, whose weights are fine-tuned.
        before: see `announce`.
        accept_data: see `RunDir.open`.
        copy: a run that has trained the first seeds, and their entries in results.json.

    Raises:
        RunError: the directory has other settings, or another cell.
    """
    check_network(genotype, setup.recipe.retrain, setup.dataset)
    initial = None if weights_from is None else _weights_of(weights_from, genotype, setup)
    announce(before, setup, path, genotype=genotype)
    try:
        found = processes.opened(setup, path, accept_data, searched=True)
    except OtherRecipe as fault:
        raise RunError(
            f"a retraining keeps the settings it began with, but {path} has others (first difference: "
            f"{fault.difference}); take another name, or delete it"
        ) from fault
    with found as directory:
        if directory.genotype_path.exists():
            _must_have(directory.genotype_path, genotype)
            _must_begin_with(directory, initial)
            return
        if initial is not None:
            weights, source = initial
            directory.write_json(SOURCE, {"weights": source})
            directory.write_bytes(INITIAL, weights)
        if copy is not None and copy[1]:
            _copy_seeds(copy[0], directory, copy[1])
        save_phase(directory, Phase.RETRAIN)
        genotype.save(directory.genotype_path)  # last: with it the directory is what it is to be


def _must_begin_with(directory: RunDir, initial: tuple[bytes, str] | None) -> None:
    """Raise RunError where weights are named that a retraining did not begin with; none need be named again."""
    if initial is None or (directory.has(INITIAL) and (directory.path / INITIAL).read_bytes() == initial[0]):
        return
    began = f"the weights of {directory.read_json(SOURCE)['weights']}" if directory.has(SOURCE) else "fresh weights"
    raise RunError(
        f"a retraining keeps the weights it began with, but {directory.path} began with {began}, and those of "
        f"{initial[1]} are others; take another name"
    )


def _earlier(directory: RunDir, recipe: Recipe, setup: Setup) -> list[Mapping[str, Any]]:
    """Entries of results.json of the first seeds of a setup, where the run has trained them in the same way."""
    mine, seeds = recipe.retrain, setup.recipe.retrain.seeds
    retrained_alike = setup.recipe.model_copy(update={"retrain": mine})
    alike = recipe_hash(retrained_alike.model_dump(mode="json")) == recipe_hash(recipe.model_dump(mode="json"))
    alike = alike and retrained_alike.device == recipe.device  # who names another one wants to train there
    only_seeds = setup.recipe.retrain.model_copy(update={"seeds": mine.seeds}) == mine
    if read_phase(directory)[0] != Phase.DONE or not alike or not only_seeds:
        return []
    known = {run["seed"]: run for run in directory.read_json("results.json").get("runs", [])}
    entries = []
    for seed in seeds:
        if seed not in known or "confusion" not in known[seed]:
            break
        entries.append(known[seed])
    return entries


def _copy_seeds(source: RunDir, directory: RunDir, earlier: Sequence[Mapping[str, Any]]) -> None:
    """Copy the networks of seeds that are trained already, with what was recorded of them."""
    seeds = [run["seed"] for run in source.read_json("results.json")["runs"]]
    for number, entry in enumerate(earlier):
        seed = entry["seed"]
        for name_of in (kept.weights_name, kept.predictions_name):
            with readable(source.path):
                directory.write_bytes(
                    name_of(number, seed), (source.path / name_of(seeds.index(seed), seed)).read_bytes()
                )
    directory.forget([Phase.RETRAIN])  # what was copied before a kill
    for record in source.metrics():
        if record.get("phase") == Phase.RETRAIN and record.get("seed") in [entry["seed"] for entry in earlier]:
            directory.append_metrics(record)
    directory.write_json(EARLIER, list(earlier))


def _weights_of(place: Path, genotype: Genotype, setup: Setup) -> tuple[bytes, str]:
    """The weights of the first network of a directory, and where they are from, in words.

    Raises RunError where there is none, or it is not of the size that is to be trained.
    """
    found = place / kept.FILE if place.is_dir() else place
    if not found.is_file() or found.name != kept.FILE:
        holds = f"is a file; name {place.parent}" if (place.parent / kept.FILE).is_file() else "has none; name another"
        raise RunError(f"weights are taken from a directory with a trained network, but {place} {holds}")
    file, plan, shape = kept.NetworkFile.load(found), setup.recipe.retrain, setup.dataset.shape
    how = Preprocessing.load(found.parent)
    if file.genotype.cells != genotype.cells:
        again = f"retrain that cell: topocell retrain {typed(place)} --as NAME --from {typed(place)}, or "
        raise RunError(
            f"weights are fine-tuned in a network of their own cell, but {place} has that of key {file.genotype.key}, "
            f"not {genotype.key}; {again * (found.parent / 'recipe.yaml').is_file()}leave the weights out"
        )
    if how.channels != shape[0]:
        raise RunError(
            f"weights are fine-tuned on images of as many channels, but those of {place} have {how.channels} and "
            f"these {shape[0]}; convert the images, or leave the weights out"
        )
    classes, first = len(setup.dataset.train.classes), file.networks[0]
    channels, _ = initial_channels(genotype, plan, classes, shape)
    with readable(found.parent):
        weights = (found.parent / first.weights).read_bytes()
    with torch.device("meta"):
        net = FixedNet(genotype, channels, plan.layers, classes, shape[0], plan.stem, head=plan.head)
    try:
        tensors = safetensors.torch.load(weights)
        if how.classes != setup.dataset.train.classes:  # also where they are as many
            tensors = without_heads(tensors)
            weights = safetensors.torch.save(tensors)
        fits = fitting(net, tensors)
    except SafetensorError:
        raise CheckpointError(f"{found.parent / first.weights} must hold weights, but is damaged; restore it") from None
    except RunError as fault:
        chosen = " ".join(f"retrain.{key}=null" for key in SIZES if getattr(plan, key) is not None)
        more = f"; no other key may choose the channels: add {chosen}" * bool(chosen)
        raise RunError(f"{fault}: {place} has channels {file.channels}, layers {file.layers}{more}") from None
    fresh = "" if "classifier.weight" in fits else f"; the classifier is fresh, for {classes} classes"
    return weights, f"{place}, seed {first.seed}{fresh}"

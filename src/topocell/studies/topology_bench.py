"""Our own table of true accuracies: every cell of space topology-bench, trained from scratch with several seeds."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field, model_validator

from topocell.config.load import resolved
from topocell.config.recipe import Recipe
from topocell.config.selection import NO_TABLE
from topocell.config.values import Together, number_of
from topocell.data.batches import Batches, Images
from topocell.data.topology_bench import N_CELLS, different_cells
from topocell.data.topology_bench import TopologyBench as Table
from topocell.genotype.genotype import Genotype
from topocell.nn.network import FixedNet
from topocell.nn.scheduled import hold
from topocell.reporting.terminal import Display
from topocell.runs.setup import Setup, execution
from topocell.runtime.provenance import own_version
from topocell.runtime.rng import derive, generator
from topocell.runtime.workers import Task
from topocell.studies import _plots
from topocell.studies._items import Bench, Outcome
from topocell.studies._loops import PlainTraining
from topocell.studies._options import Seeds, Training, reserved
from topocell.studies._training import begin, spread

#: Images of a batch of an evaluation, which is no part of the result.
EVALUATED = 500
#: Settings of `retrain` that a training of the table takes; the others it does without.
SETTINGS = ("channels", "layers", "stem", "head", "epochs", "batch_size", "weights")
#: Name of the table in the directory of the study.
FILE = "topology-bench.csv.gz"


class TopologyBench(Training):
    """Options of `topology-bench`."""

    growing: ClassVar[frozenset[str]] = frozenset({"cells", "seeds"})
    aside: ClassVar[frozenset[str]] = frozenset({"together"})

    retrain_as: str = Field(
        "topobench-darts",
        description=f"recipe whose data to use, and of whose retraining {', '.join(SETTINGS)}",
    )
    cells: int = Field(N_CELLS, ge=2, le=N_CELLS, description="so many cells, in a fixed shuffled order")
    seeds: Seeds = Field((0, 1, 2), description="trainings of each cell; all cells with the first come first")
    together: Together = Field(
        "auto",
        description="trainings of so many cells at once, as one batched network, each with the result that it has "
        "alone up to rounding; auto: 1, since four and sixteen at once take longer on a CPU; may differ when the study "
        "resumes",
    )

    @model_validator(mode="after")
    def _own_changes(self) -> "TopologyBench":
        reserved(self, space="the study is of space topology-bench", seed="use seeds=[..]")
        return self


def measure(bench: Bench, options: TopologyBench) -> Outcome:
    """Train every cell of space topology-bench and write the table of their accuracies.

    A network is trained on one half of the training images (the split that feeds the weights of a search), validated on
    the other half and tested on the test images, once, after the last epoch. Cells that are equal up to the names of
    their nodes are trained once, with the nodes in canonical order: relabelled nodes permute the channels of the
    cell's output alone, so that their networks are the same but for the draw of the initial weights. A training's own
    seed draws initial weights, order and changes of images, the last two alike for all cells.

    Raises:
        RecipeError: any fault in the recipe.
    """
    recipe = options.recipe(options.retrain_as, last=[f"ground_truth.table={NO_TABLE}"])
    known = different_cells()
    order = torch.randperm(len(known), generator=generator(0, "topology-bench")).tolist()
    archs = [list(known)[at] for at in order[: options.cells]]
    begin(bench, len(archs) * len(options.seeds), {"main": recipe}, options.seeds, [known[archs[0]]])
    text = recipe.to_yaml()
    keys = {(seed, arch): f"seed-{seed}-{known[arch].key}" for seed in options.seeds for arch in archs}
    records: dict[str, list[Mapping[str, Any]]] = {arch: [] for arch in archs}
    for number, seed in enumerate(options.seeds, start=1):
        tasks = {arch: Task(keys[seed, arch], trained_cell, (text, known[arch].to_dict(), seed)) for arch in archs}
        made = bench.all_trained(list(tasks.values()), number_of(options.together), trained_cells)
        for arch, task in tasks.items():
            records[arch].append(made[task.key])
        table = table_of(records, options.seeds[:number], recipe)
        table.save(bench.path / FILE)
    tests = {arch: table.seeds(arch) for arch in sorted(archs, key=lambda arch: -table.lookup(arch).accuracy["test"])}
    rows = [
        {
            "rank": table.rank(arch, "test"),
            "cell": arch,
            "test %": spread(values)[0],
            "± %": spread(values)[1],
            "val %": table.lookup(arch).accuracy["val"],
            "parameters": table.parameters[arch],
        }
        for arch, values in tests.items()
    ]
    noise = noise_of(list(tests.values()))
    return Outcome(
        rows,
        lambda path: _plots.dots(_by_convolutions(table), "test accuracy, %", path),
        len(options.seeds),
        {"cells": len(archs), "of": len(known), "sha256": table.fingerprint, **noise},
        _notes(table, noise),
    )


@functools.cache
def _setup(recipe: str) -> Setup:
    return Setup.of(resolved(recipe))


def trained_cell(recipe: str, cell: Mapping[str, Any], seed: int, path: Path, display: Display) -> dict[str, Any]:
    """Train the network of a cell, keeping nothing on the disk; returns accuracies in percent and parameters."""
    (found,) = trained_cells([(recipe, cell, seed)])
    return found


def trained_cells(given: Sequence[tuple[str, Mapping[str, Any], int]]) -> list[dict[str, Any]]:
    """Train the networks of cells, each given as for `trained_cell`, with the recipe and seed of the first.

    They are trained at once, by recorded steps where a device has them; a single one is trained as ever. Returns what
    `trained_cell` does for each of them, with the number of those that were trained at once.
    """
    recipe, _, seed = given[0]
    setup = _setup(recipe)
    plan, data, device = setup.recipe.retrain, setup.dataset, setup.device
    own, several = derive(setup.recipe.seed, "topology-bench", seed), len(given) > 1
    called = execution(setup.recipe)
    nets = []
    for _, cell, _ in given:
        torch.manual_seed(own)
        sizes = plan.channels, plan.layers, len(data.train.classes), data.shape[0], plan.stem
        net = FixedNet(Genotype.from_dict(dict(cell)), *sizes, head=plan.head)
        if several and called.holds(device):
            hold(net, device)
        nets.append(net.to(device).to(memory_format=torch.channels_last))

    def batches(images: Images, size: int, trains: bool) -> Batches:
        changed, stream = (data.augmentation, "train") if trains else (None, "test")
        how: dict[str, Any] = {"mean": data.mean, "std": data.std, "augmentation": changed, "stream": stream}
        return Batches(images, size, **how, device=device, seed=own)

    fit, held = (setup.search_data.get(name) for name in setup.recipe.held_out())
    recorder = called.recorder(device) if several else None
    settings = plan.weights, plan.epochs, own, device, recorder
    training = PlainTraining(nets, batches(fit, plan.batch_size, True), *settings)
    training.run()
    tests, vals = (training.evaluated(batches(images, EVALUATED, False)) for images in (data.test, held))
    return [
        {
            "test": 100 * test.accuracy,
            "val": 100 * val.accuracy,
            "parameters": sum(parameter.numel() for parameter in net.parameters()),
            **({"together": len(nets)} if several else {}),
        }
        for net, test, val in zip(nets, tests, vals, strict=True)
    ]


def table_of(records: Mapping[str, Sequence[Mapping[str, Any]]], seeds: Sequence[int], recipe: Recipe) -> Table:
    """The table of what was measured, arch → a record for each seed."""
    ordered = sorted(records)
    columns: dict[str, np.ndarray] = {}
    for part in ("test", "val"):
        each = np.array([[round(record[part], 4) for record in records[arch]] for arch in ordered])
        columns[part] = each.mean(1).round(4)
        columns |= {f"{part}_{seed}": each[:, at] for at, seed in enumerate(seeds)}
    sizes = [records[arch][0]["parameters"] for arch in ordered]
    named = recipe.model_dump(mode="json")
    plan = {key: named[key] for key in ("name", "seed", "data")}
    plan["data"] = {key: value for key, value in plan["data"].items() if key != "root"}
    plan["retrain"] = {key: named["retrain"][key] for key in SETTINGS}
    versions = {"topocell": own_version(), "torch": str(torch.__version__)}
    return Table(ordered, columns, sizes, {"recipe": plan, "seeds": list(seeds), "versions": versions})


def noise_of(values: Sequence[Sequence[float]]) -> dict[str, float | None]:
    """Standard deviations in points: of one training about the mean of its cell, and of the means of cells."""
    means = [spread(each)[0] for each in values]
    stds = [std for each in values if (std := spread(each)[1]) is not None]
    within = (sum(std**2 for std in stds) / len(stds)) ** 0.5 if stds else None
    between = spread(means)[1]
    return {
        "between cells": between,
        "between seeds": within,
        "ratio": between / within if between and within else None,
    }


def _by_convolutions(table: Table) -> dict[str, list[float]]:
    """The accuracies of the cells with as many convolutions."""
    found: dict[str, list[float]] = {}
    for cell, value in zip(table.cells(), table.values("test").tolist()):
        found.setdefault(str(cell.operations("normal")["sep_conv_3x3"]), []).append(value)
    return {f"{number} convolutions": found[number] for number in sorted(found)}


def _notes(table: Table, noise: Mapping[str, float | None]) -> list[str]:
    said = [
        f"{len(table.archs)} of {N_CELLS} different cells; the table is {FILE}: search on it with "
        f"topocell run topobench-dots ground_truth.table={FILE}."
    ]
    if noise["ratio"] is not None:
        said.append(
            f"Standard deviation between the means of cells {noise['between cells']:.2f} points, between trainings of "
            f"one cell {noise['between seeds']:.2f}: {noise['ratio']:.1f} times as much."
        )
    groups = [values for values in _by_convolutions(table).values() if len(values) > 1]
    if groups:
        inside = (sum(np.var(values) * len(values) for values in groups) / sum(map(len, groups))) ** 0.5
        said.append(f"Between cells with as many convolutions, by their wiring alone, {inside:.2f} points.")
    return said

"""Whole runs: every recipe from search to report in seconds on digits, and what is left in the run directory.

Also: the steps one by one, recipes and spaces of a user's own, a folder of pictures, and selecting again.
"""

import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from topocell import Genotype, api, spaces
from topocell.cli import main
from topocell.config.load import load_recipe, recipe_names, resolved
from topocell.config.recipe import Recipe
from topocell.data.batches import Batches
from topocell.data.preprocessing import Preprocessing
from topocell.errors import RecipeError, RunError, SpaceError
from topocell.io import checkpoint
from topocell.networks.evaluation import evaluate
from topocell.networks.kept import names_of
from topocell.nn.count import count
from topocell.nn.network import FixedNet
from topocell.runs import moments, setup
from topocell.selection.rules import derive
from topocell.spaces import CellSpec, SpaceSpec

#: The smoke budget on fewer images; every cell is retrained, also those of spaces with a table of true accuracies.
QUICK = ["data.images=24", "data.test_images=10", "ground_truth.table=none"]
RESULT_KEYS = {"dataset", "classes", "train_images", "test_images", "parameters", "multiply_adds", "channels", "layers"}
RESULT_KEYS |= {"epochs", "runs", "last_mean", "last_std", "best_mean", "best_std", "n"}
RESULT_KEYS |= {
    "per_class",
    "balanced_accuracy_mean",
    "balanced_accuracy_std",
    "majority_class",
    "interval",
    "warnings",
}
SEARCH_KEYS = {
    "phase",
    "stage",
    "stage_index",
    "epoch",
    "train_loss",
    "train_accuracy",
    "val_loss",
    "val_accuracy",
    "lr",
}
SEARCH_KEYS |= {"op_temperature", "edge_temperature", "penalty", "alpha_entropy", "beta_entropy", "derived"}
SEARCH_KEYS |= {"operations", "depth", "width", "gap", "warnings", "updates_architecture", "architecture"}
RETRAIN_KEYS = {
    "phase",
    "seed",
    "epoch",
    "train_loss",
    "train_accuracy",
    "test_loss",
    "test_accuracy",
    "lr",
    "drop_path",
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors are tiny here: a second thread only waits. Every cell is retrained, also those of NAS-Bench-201."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(setup.GROUND_TRUTH_VARIABLE, raising=False)
        yield
    torch.set_num_threads(before)


class Said:
    """A display that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.cells: list[Any] = []

    def step(self, *_: object) -> None: ...
    def epoch(self, record: Mapping[str, Any], left: float | None = None) -> None: ...
    def results(self, results: Mapping[str, Any]) -> None: ...

    def cell(self, genotype: Mapping[str, Any]) -> None:
        self.cells.append(genotype)

    def say(self, text: str) -> None:
        self.lines.append(text)


class Run(NamedTuple):
    """A finished run."""

    recipe: Recipe
    path: Path
    said: Said

    def json(self, name: str) -> Any:
        return json.loads((self.path / name).read_text())

    def metrics(self, phase: str) -> list[dict[str, Any]]:
        records = [json.loads(line) for line in (self.path / "metrics.jsonl").read_text().splitlines()]
        return [record for record in records if record["phase"] == phase]

    def genotype(self) -> Genotype:
        return Genotype.load(self.path / "genotype.json")


def finish(recipe: Recipe, path: Path) -> Run:
    said = Said()
    assert api.run(recipe, path, said) == path / "report.html"
    return Run(recipe, path, said)


def smoke(name: str | Path, *overrides: str) -> Recipe:
    return load_recipe(name, [*QUICK, *overrides], budget="smoke")


def contents(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file() and p.name != ".lock"}


def lasting(path: Path) -> dict[str, bytes]:
    """Files that depend on the recipe alone, not on when and by which command it was run."""
    names = ("recipe.yaml", "metrics.jsonl", "genotype.json", "results.json", "weights.safetensors")
    names += ("preprocessing.json", "network.json", "predictions.csv", "history.npz")
    return {name: (path / name).read_bytes() for name in names}


# --- every recipe


#: Recipe → that of the same method on CIFAR-10: with digits in place of both datasets they are one and the same run.
SHARED = {
    name: name.removesuffix(f"-{dataset}")
    for name in recipe_names()
    for dataset in ("cifar100", "svhn")
    if name.endswith(f"-{dataset}") and name.startswith(("darts-s", "darts-pt-"))
}


def fewer(name: str) -> list[str]:
    """Overrides for what is selected by perturbation, which measures each candidate of each edge by itself."""
    if "-pt" not in name or name.startswith("nb201"):
        return []
    if (space := load_recipe(name).space.name) != "darts":
        return ["selection.projection.tune_epochs=0"] if space == "s1" else ["space.nodes=2"]
    nodes = [] if name == "darts-pt" else ["space.nodes=2"]
    return ["space.candidates=[none,skip_connect,sep_conv_3x3]", *nodes]


@pytest.fixture(scope="module", params=[name for name in recipe_names() if name not in SHARED])
def run(request: Any, tmp_path_factory: Any) -> Run:
    name = request.param
    return finish(smoke(name, *fewer(name)), tmp_path_factory.mktemp("runs") / name)


@pytest.mark.parametrize("name", SHARED)
def test_recipes_that_share_a_run_differ_in_words_alone(name: str) -> None:
    def without_words(recipe: Recipe) -> dict[str, Any]:
        return recipe.model_dump(exclude={"name", "about", "source", "published"})

    twin = SHARED[name]
    assert twin not in SHARED and fewer(name) == fewer(twin)
    assert without_words(smoke(name)) == without_words(smoke(twin))
    assert without_words(load_recipe(name)) != without_words(load_recipe(twin))


def test_there_are_recipes_to_run() -> None:
    assert len(recipe_names()) >= 20


def test_the_run_directory_holds_everything(run: Run) -> None:
    top = {"recipe.yaml", "env.json", "metrics.jsonl", "timings.json", "results.json", "genotype.json"}
    top |= {"preprocessing.json", "report.html", "log.txt", *names_of(run.recipe.retrain.seeds)}
    found = contents(run.path)
    searched = sum(stage.epochs for stage in run.recipe.search.stages) > 0
    top |= {"history.npz"} if searched else set()
    assert top == {name for name in found if "/" not in name}
    assert all(found[name] for name in found)
    assert resolved((run.path / "recipe.yaml").read_text()) == run.recipe
    page = (run.path / "report.html").read_text()
    figures = {"retrain", "search", "architecture"} if searched else {"retrain"}
    assert figures <= set(re.findall(r'data-figure="(\w+)"', page)) and page.count('class="cell"') == len(
        run.genotype().cells
    )
    kept = [name for name in found if name.startswith("checkpoints/")]
    assert "checkpoints/supernet.ckpt" in kept and len(kept) == 3
    for name in kept:
        assert checkpoint.load(run.path / name)
    env = run.json("env.json")
    assert env["data_fingerprint"] == setup.load_data(run.recipe).fingerprint
    assert (env["device"], env["threads"], env["seeds"]["run"]) == ("cpu", 1, run.recipe.seed)
    projected = {"select"} if run.recipe.selection.rules(0).computes else set()
    assert set(run.json("timings.json")) == {"search", "retrain"} | projected
    assert all(seconds > 0 for seconds in run.json("timings.json").values())
    assert run.recipe.name in (run.path / "report.html").read_text()


def test_the_metrics_tell_every_epoch(run: Run) -> None:
    plan = run.recipe.search
    searched = run.metrics("search")
    log = (run.path / "log.txt").read_text().splitlines()
    expected = [(i, s.name, epoch) for i, s in enumerate(plan.stages) for epoch in range(s.epochs)]
    assert [(r["stage_index"], r["stage"], r["epoch"]) for r in searched] == expected
    for record in searched:
        progressive = plan.stages[record["stage_index"]].mechanisms.progressive
        own = {"decisions"} if progressive else set()
        own |= {"expected_cost"} if plan.cost else set()
        assert set(record) == SEARCH_KEYS | own
        figures = [record[k] for k in ("train_loss", "val_loss", "lr", "op_temperature", "edge_temperature")]
        assert all(math.isfinite(x) and x > 0 for x in figures)
        assert all(0 <= x <= 1 for x in (record["train_accuracy"], record["val_accuracy"], *record["gap"].values()))
        stage = plan.stages[record["stage_index"]]
        assert record["updates_architecture"] == (stage.level != "weights" and record["epoch"] >= stage.warmup)
        (line,) = [line for line in log if f" {stage.name} epoch {record['epoch'] + 1}: " in line]
        assert ("warm-up: weights only" in line) == (not record["updates_architecture"])
        assert record["lr"] == stage.weights.lr.value(record["epoch"], stage.epochs)
        assert record["edge_temperature"] == stage.edge_temperature.value(record["epoch"], stage.epochs)
        assert (record["penalty"] is not None) == (stage.penalty > 0)
        assert (record["beta_entropy"] is not None) == (stage.topology.name not in ("dense", "fixed"))
        space = setup.build_space(run.recipe)
        named = {"skeleton": space.skeleton} if set(record["derived"]) == {"normal"} else {}
        derived = Genotype.from_dict({"format": 1, "space": "any", "cells": record["derived"], "origin": {}, **named})
        arch = moments.architecture(record["architecture"], space, stage)
        assert derive(arch, run.recipe.selection.rules(run.recipe.seed)).cells == derived.cells  # from the logits alone
    retrained = run.metrics("retrain")
    retrain = run.recipe.retrain
    assert [(r["seed"], r["epoch"]) for r in retrained] == [
        (s, e) for s in retrain.seeds for e in range(retrain.epochs)
    ]
    own = {"test_top_k_accuracy"} if retrain.top_k else set()
    assert all(set(record) == RETRAIN_KEYS | own for record in retrained)


def test_the_cell_is_valid_and_of_the_space(run: Run) -> None:
    genotype, space = run.genotype(), setup.build_space(run.recipe)
    assert genotype.space == space.name and set(genotype.cells) == set(space.cells)
    rules = run.recipe.selection
    origin = {"recipe": run.recipe.name, "seed": run.recipe.seed, "run": run.path.name, "key": genotype.key}
    origin |= {"operations": rules.operations, "edges": rules.edges}
    found, results = genotype.to_dict()["origin"], run.json("results.json")
    cost = found.pop("cost")
    assert found == origin
    told = ("parameters", "multiply_adds", "channels", "layers")
    assert {key: cost[key] for key in told} == {key: results[key] for key in told}
    assert run.said.cells == [genotype.to_dict()]
    topology, rules = run.recipe.search.stages[-1].topology.model_dump(), run.recipe.selection
    for name, cell in genotype.cells.items():
        spec = space.cells[name]
        allowed = dict(zip(spec.edges, spec.candidates))
        edges = [(source, node) for node, pairs in zip(spec.computed, cell.nodes) for _, source in pairs]
        assert len(cell.nodes) == spec.nodes and len(set(edges)) == len(edges)
        for node, pairs in zip(spec.computed, cell.nodes):
            assert all(op in allowed[source, node] and op != "none" for op, source in pairs)
        if space.skeleton == "darts" and spec.output == "concat":
            assert list(cell.concat) == [node for node, pairs in zip(spec.computed, cell.nodes) if pairs]
        inputs = [len(pairs) for pairs in cell.nodes]
        outputs = [sum(source == node for source, _ in edges) for node in range(spec.inputs + spec.nodes - 1)]
        if rules.max_skips is not None and spec.stride == 1:
            assert sum(op == "skip_connect" for node in cell.nodes for op, _ in node) <= rules.max_skips
        if rules.threshold is not None:
            assert all(n <= rules.in_degree for n in inputs) and any(inputs)
            assert rules.isolated == "drop" or min(inputs) >= 1
        elif rules.edges == "magnitude" and not rules.none:
            assert inputs == [min(rules.in_degree, len(spec.incoming(node))) for node in spec.computed]
        elif rules.edges == "all":
            assert sum(inputs) == spec.n_edges or rules.none or genotype.skeleton == "darts"
        elif topology["name"] == "subsets" and topology["sizes"] == 2 and topology["view"] == "target":
            assert inputs == [2] * spec.nodes
        elif topology["name"] == "subsets" and topology["sizes"] == 2:
            assert outputs == [2, 2, 2, 1, 1] and sum(inputs) == 8  # as many edges as DARTS
            assert min(inputs) >= 1
        elif topology["name"] == "subsets" and topology["sizes"] == "any":
            assert min(inputs) >= 1
            assert min(outputs) >= 1 or topology["view"] == "target"
        elif topology["name"] == "edge-softmax":
            assert inputs == [topology["keep"]] * spec.nodes
        elif topology["name"] == "edge-sigmoid":
            assert min(inputs) >= 1


def test_the_results_are_complete_and_agree_with_the_metrics(run: Run) -> None:
    results, plan = run.json("results.json"), run.recipe.retrain
    assert set(results) == RESULT_KEYS | ({"k", "top_k_mean", "top_k_std"} if plan.top_k else set())
    assert (results["dataset"], results["classes"], results["n"]) == ("digits", 10, len(plan.seeds))
    assert (results["train_images"], results["test_images"]) == (24, 10)
    assert (results["layers"], results["epochs"], results["channels"]) == (plan.layers, plan.epochs, plan.channels)
    least = 900 if run.recipe.selection.isolated == "drop" else 1000  # a cell may come down to one edge
    least = 400 if run.recipe.space.name == "topology-bench" else least  # or to skip connections
    assert results["parameters"] > least and results["multiply_adds"] > 10 * least
    tests = {seed: [r["test_accuracy"] for r in run.metrics("retrain") if r["seed"] == seed] for seed in plan.seeds}
    for trained in results["runs"]:
        assert trained["last"] == tests[trained["seed"]][-1]
        assert trained["best"] == max(tests[trained["seed"]]) >= trained["last"]
        assert tests[trained["seed"]][trained["best_epoch"]] == trained["best"]
    assert results["last_mean"] == pytest.approx(sum(r["last"] for r in results["runs"]) / results["n"])
    assert all(0 <= results[key] <= 1 for key in ("last_mean", "best_mean"))


def test_the_weights_give_the_network_that_was_tested(run: Run) -> None:
    results, plan, data = run.json("results.json"), run.recipe.retrain, setup.load_data(run.recipe)
    prepared = Preprocessing.load(run.path)
    assert (prepared.channels, *prepared.size) == data.shape and prepared.classes == data.train.classes
    net = FixedNet(
        run.genotype(),
        results["channels"],
        results["layers"],
        results["classes"],
        in_channels=prepared.channels,
        stem=prepared.stem,
        head=prepared.head,
    )
    net.load_state_dict(load_file(run.path / "weights.safetensors"))
    assert tuple(count(net, data.shape)) == (results["parameters"], results["multiply_adds"])
    if any(op == "noise" for cell in run.genotype().cells.values() for node in cell.nodes for op, _ in node):
        return  # fresh noise in every pass: no two tests agree
    statistics = {"mean": prepared.mean, "std": prepared.std, "augmentation": None}
    batches = Batches(data.test, plan.batch_size, **statistics, device="cpu", seed=0, stream="test")
    loss, accuracy, _ = evaluate(net, batches)
    assert accuracy == results["runs"][0]["last"]
    last = [r for r in run.metrics("retrain") if r["seed"] == plan.seeds[0]][-1]
    assert loss == pytest.approx(last["test_loss"], rel=1e-5)


def again(run: Run) -> None:
    before, said = contents(run.path), Said()
    assert api.run(run.recipe, run.path, said) == run.path / "report.html"
    assert said.lines[0] == f"{run.path} is finished; its report: {run.path / 'report.html'}"
    assert contents(run.path) == before


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes seconds, and some tests are about something else."""
    monkeypatch.setattr("topocell.runs.run.write_report", lambda path: path / "report.html")


@pytest.mark.usefixtures("no_report")
def test_the_same_command_again_says_that_it_is_finished_and_changes_nothing(run: Run) -> None:
    again(run)


# --- the steps one by one

TWO_SEEDS = ("retrain.seeds=[0,1]", "retrain.epochs=2")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: Any) -> Run:
    return finish(smoke("quickstart", *TWO_SEEDS), tmp_path_factory.mktemp("whole") / "run")


def test_the_steps_one_by_one_equal_the_whole(whole: Run, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "run"
    arguments = ["quickstart", "--budget", "smoke", *QUICK, *TWO_SEEDS, "--out", str(path), "--quiet"]
    assert main(["search", *arguments]) == 0
    assert not (path / "genotype.json").exists() and not (path / "results.json").exists()
    assert main(["retrain", str(path)]) == 2  # no cell yet
    assert main(["select", str(path), "--quiet"]) == 0
    assert (path / "genotype.json").exists() and not (path / "results.json").exists()
    assert main(["retrain", str(path), "--quiet"]) == 0
    assert not (path / "report.html").exists()
    assert main(["report", str(path)]) == 0
    capsys.readouterr()
    assert lasting(path) == lasting(whole.path)
    mine, theirs = (checkpoint.load(p / "checkpoints/supernet.ckpt") for p in (path, whole.path))
    assert [k for k in theirs["net"] if not torch.equal(mine["net"][k], theirs["net"][k])] == []
    said = Said()
    assert api.run(whole.recipe, path, said)  # and the whole finds nothing left to do
    assert "is finished" in said.lines[0]


def test_a_search_or_a_selection_again_changes_nothing(whole: Run) -> None:
    before = lasting(whole.path)
    assert api.search(whole.recipe, whole.path) == whole.path
    assert api.select(whole.path) == whole.genotype()
    assert api.retrain(whole.path) == whole.json("results.json")
    assert lasting(whole.path) == before


def test_the_report_of_a_finished_run_is_written_again_as_it_was(whole: Run) -> None:
    again(whole)


@pytest.mark.usefixtures("no_report")
def test_the_same_recipe_gives_the_same_run_and_another_seed_another(whole: Run, tmp_path: Path) -> None:
    second = finish(whole.recipe, tmp_path / "a" / "run")
    assert lasting(second.path) == lasting(whole.path)
    other = finish(smoke("quickstart", *TWO_SEEDS, "seed=1"), tmp_path / "b" / "run")
    assert other.json("results.json") != whole.json("results.json")
    assert [r["train_loss"] for r in other.metrics("search")] != [r["train_loss"] for r in whole.metrics("search")]


def test_seeds_of_retraining_differ_and_are_summed_up(whole: Run) -> None:
    results = whole.json("results.json")
    first, second = (run["last"] for run in results["runs"])
    assert results["n"] == 2
    assert results["last_std"] == pytest.approx(abs(first - second) / math.sqrt(2))
    losses = {seed: [r["train_loss"] for r in whole.metrics("retrain") if r["seed"] == seed] for seed in (0, 1)}
    assert losses[0] != losses[1]


# --- selecting again


@pytest.mark.usefixtures("no_report")
def test_other_rules_on_a_finished_run(whole: Run, tmp_path: Path) -> None:
    """The same as a run with these rules from the start; nothing of the former cell is left to mislead."""
    mine = whole._replace(path=shutil.copytree(whole.path, tmp_path / "mine" / "run"))
    before = lasting(mine.path)
    with pytest.raises(
        RunError, match=r"name the new one \(--as NAME, name=\), or drop that cell .* \(--replace, replace=True\)"
    ):
        api.select(mine.path, edges="magnitude", in_degree=1)
    assert lasting(mine.path) == before and (mine.path / "report.html").exists()
    genotype = api.select(mine.path, edges="magnitude", in_degree=1, replace=True)
    assert [len(pairs) for pairs in genotype.cells["normal"].nodes] == [1, 1, 1, 1]
    assert mine.genotype() == genotype != whole.genotype()
    gone = [name for name in ("results.json", "weights.safetensors", "report.html") if (mine.path / name).exists()]
    assert gone == [] and mine.metrics("retrain") == [] and mine.metrics("search") == whole.metrics("search")
    results = api.retrain(mine.path)
    rules = ("selection.edges=magnitude", "selection.in_degree=1")
    direct = finish(smoke("quickstart", *TWO_SEEDS, *rules), tmp_path / "direct" / "run")
    assert results == direct.json("results.json")
    assert mine.metrics("retrain") == direct.metrics("retrain")
    found, wanted = lasting(mine.path), lasting(direct.path)
    for name in ("genotype.json", "results.json", "weights.safetensors", "preprocessing.json"):
        assert found[name] == wanted[name]


@pytest.mark.usefixtures("no_report")
def test_a_run_goes_on_after_other_rules(whole: Run, tmp_path: Path) -> None:
    mine = whole._replace(path=shutil.copytree(whole.path, tmp_path / "run"))
    api.select(mine.path, operations="random", edges="all", replace=True)
    chosen = mine.genotype()
    assert sum(len(pairs) for pairs in chosen.cells["normal"].nodes) == 14
    finish(whole.recipe, mine.path)  # does not select anew: the user chose
    assert mine.genotype() == chosen
    assert mine.json("results.json")["parameters"] > whole.json("results.json")["parameters"]


def test_wrong_rules_leave_a_finished_run_alone(whole: Run) -> None:
    before = contents(whole.path)
    with pytest.raises(RecipeError, match="operations must be one of"):
        api.select(whole.path, operations="magic")
    with pytest.raises(RecipeError, match="in_degree is for rules that choose"):
        api.select(whole.path, in_degree=3)
    with pytest.raises(RunError, match="letters, digits"):
        api.select(whole.path, name="")
    assert contents(whole.path).keys() == before.keys()
    assert lasting(whole.path) == {name: before[name] for name in lasting(whole.path)}


# --- a user's own recipe, data and space


def test_a_recipe_copied_and_edited(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "my-dots.yaml"
    assert main(["recipes", "copy", "dots", str(path)]) == 0
    text = path.read_text().replace("name: dots\n", "name: my-dots\n").replace("sizes: 2", "sizes: any")
    path.write_text(text.replace("shrink: best", "shrink: 1"))
    arguments = ["--budget", "smoke", *QUICK, "--out", str(tmp_path / "run"), "--quiet"]
    assert main(["run", str(path), *arguments]) == 0
    run = Run(smoke(path), tmp_path / "run", Said())
    assert run.genotype().to_dict()["origin"]["recipe"] == "my-dots"
    assert run.recipe.search.stages[-1].topology.model_dump()["sizes"] == "any"
    kept = checkpoint.load(run.path / "checkpoints/supernet.ckpt")["candidates"]
    assert all(len(names) == 1 for cell in kept.values() for names in cell)
    capsys.readouterr()


def test_a_folder_of_pictures(tmp_path: Path) -> None:
    """Six classes in colour at 16 × 16; number of classes, channels and resolution come from the pictures."""
    noise = torch.Generator().manual_seed(0)
    kinds = ("ash", "maple", "oak", "pine", "yew", "zelkova")
    for label, kind in enumerate(kinds):
        for number in range(15 if kind != "zelkova" else 2):
            pixels = torch.randint(0, 120, (16, 16, 3), generator=noise, dtype=torch.uint8)
            pixels[..., label % 3] += 120
            path = tmp_path / "trees" / kind / f"{number}.png"
            path.parent.mkdir(exist_ok=True, parents=True)
            Image.fromarray(pixels.numpy()).save(path)
    (tmp_path / "trees" / "yew" / "0.jpg").write_bytes(b"torn")
    overrides = ("data.dataset=folder", f"data.root={tmp_path / 'trees'}", "data.test_images=12")
    overrides += ("data.images=null", "data.unreadable=skip", "data.background=[1, 2, 3]", "data.flip=false")
    run = finish(smoke("quickstart", *overrides), tmp_path / "run")
    results = run.json("results.json")
    assert (results["classes"], results["train_images"]) == (6, 61)
    weights = load_file(run.path / "weights.safetensors")
    assert weights["classifier.weight"].shape[0] == 6
    assert weights["stem.conv.weight"].shape[1] == 3
    assert any("the last fifth of each class" in line for line in run.said.lines)
    prepared, data = Preprocessing.load(run.path), setup.load_data(run.recipe)
    assert prepared.classes == kinds  # all of them, also where a line of the log shows three
    assert (prepared.resize, prepared.background, prepared.size) == ("fit", (1, 2, 3), (16, 16))
    assert (prepared.mean, prepared.std, prepared.channels) == (data.mean, data.std, 3)
    assert any("and 3 more" in line for line in run.said.lines) and not data.augmentation.flip
    assert sum("lacks zelkova (1)" in line for line in run.said.lines) == 1  # one training image, two splits


def test_a_space_of_ones_own(tmp_path: Path) -> None:
    """Three nodes, not every edge, candidates that differ from edge to edge: a few lines of data and a name."""

    def diamond(kernel: int = 3) -> SpaceSpec:
        edges = ((0, 2), (1, 2), (2, 3), (0, 3), (2, 4), (3, 4))
        conv = f"sep_conv_{kernel}x{kernel}"
        light, heavy = ("skip_connect", "avg_pool_3x3"), ("none", conv, "dil_conv_3x3")
        candidates = (light, heavy, heavy, light, heavy, light)
        cells = {
            kind: CellSpec(2, 3, edges, candidates, "concat", i + 1) for i, kind in enumerate(("normal", "reduce"))
        }
        return SpaceSpec("diamond", cells)

    spaces.register("diamond", diamond)
    try:
        text = """
            name: own-space
            space: {name: diamond, kernel: 5}
            data: {dataset: digits}
            search:
              stages:
                search:
                  epochs: 2
                  topology: {name: subsets, view: target, sizes: any, norm: mean, scale: none}
            """
        path = tmp_path / "own.yaml"
        path.write_text(text)
        run = finish(smoke(path), tmp_path / "run")
    finally:
        del spaces.SPACES["diamond"]
    genotype = run.genotype()
    assert genotype.space == "diamond"
    used = {
        (op, source, node) for c in genotype.cells.values() for node, p in enumerate(c.nodes, 2) for op, source in p
    }
    assert {(s, n) for _, s, n in used} <= {(0, 2), (1, 2), (2, 3), (0, 3), (2, 4), (3, 4)}
    assert {op for op, _, _ in used} <= {"skip_connect", "avg_pool_3x3", "sep_conv_5x5", "dil_conv_3x3"}
    assert run.json("results.json")["parameters"] > 1000


def test_nasbench201_from_a_recipe_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "nb.yaml"
    path.write_text(
        "extends: darts-v1\nname: darts-nasbench201\nspace: nasbench201\nsearch: {layers: 17}\n"
        "selection: {edges: all, none: true}\nretrain: {layers: 17, auxiliary: 0.0}\n"
    )
    run = finish(smoke(path), tmp_path / "run")
    genotype = run.genotype()
    assert genotype.space == "nasbench201" and set(genotype.cells) == {"cell"}
    assert genotype.to_nasbench201().count("~") == 6
    assert 0 < run.json("results.json")["parameters"] < 1_531_546
    with pytest.raises(SpaceError, match="auxiliary head needs skeleton 'darts'"):  # before the search begins
        api.run(smoke(path, "retrain.auxiliary=0.4"), tmp_path / "other")
    assert not (tmp_path / "other").exists()

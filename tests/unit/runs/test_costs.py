"""Budgets on cost in whole runs: what is counted, what is told, what is refused before anything starts."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from topocell import api, count
from topocell.cli import main
from topocell.config.load import load_recipe
from topocell.errors import RecipeError
from topocell.genotype.genotype import Genotype
from topocell.networks import latency
from topocell.nn.costs import Layer
from topocell.nn.network import FixedNet
from topocell.reporting.terminal import Quiet
from topocell.runs.costs import network_size
from topocell.runs.setup import Setup, prepared
from topocell.selection.budget import least_cost
from topocell.supernet.arch_state import ArchState

TINY = ["data.images=40", "data.test_images=20", "space.nodes=2", "search.evaluation_batches=1"]


class Said(Quiet):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def recipe_of(*words: str, name: str = "darts-v1") -> Any:
    return load_recipe(name, [*TINY, *words], "smoke")


@pytest.fixture(autouse=True)
def without_reports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("topocell.runs.run.write_report", lambda path: path / "report.html")
    monkeypatch.setenv("TOPOCELL_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Latencies of 8 ms for a separable convolution, 1 ms for all else; returns the names of what was measured."""
    seen = list[str]()

    def measure(layer: Layer, device: torch.device, batch: int) -> float:
        seen.append(layer.name)
        return 8.0 if layer.name.startswith("sep_conv") else 1.0

    monkeypatch.setattr(latency, "measured", measure)
    return seen


def least(*words: str) -> float:
    setup = Setup.of(recipe_of(*words))
    arch = ArchState(setup.space, "softmax", "dense", init=0.0)
    return least_cost(arch, setup.rules, setup.costs(setup.recipe.selection.budget or setup.recipe.search.cost))  # type: ignore[arg-type]


def test_a_limited_run_derives_retrains_and_tells_a_cell_within_its_limit(tmp_path: Path) -> None:
    limit = 1.1 * least("selection.budget.limit=1e9")
    said = Said()
    api.run(recipe_of(f"selection.budget.limit={limit}"), out := tmp_path / "run", said)
    results = json.loads((out / "results.json").read_text())
    genotype = Genotype.load(out / "genotype.json")
    assert results["parameters"] <= limit
    cost = genotype.origin["cost"]
    assert {key: cost[key] for key in ("parameters", "multiply_adds", "channels", "layers")} == {
        key: results[key] for key in ("parameters", "multiply_adds", "channels", "layers")
    }
    assert f"its network: {cost['parameters']:,} parameters, {cost['multiply_adds']:,} multiply-adds" in "\n".join(
        said.lines
    )
    assert any("above selection.budget.limit" in line for line in said.lines)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    last = [line for line in lines if line["phase"] == "search"][-1]["derived"]
    assert {t: c["nodes"] for t, c in last.items()} == {
        t: [[list(p) for p in node] for node in c.nodes] for t, c in genotype.cells.items()
    }


def test_a_finished_search_is_selected_again_under_a_limit(tmp_path: Path) -> None:
    api.run(recipe_of(), out := tmp_path / "run")
    words = ["select", str(out), "--edges", "magnitude", "--quiet"]
    limit = 1.05 * least("selection.budget.limit=1e9")
    assert main([*words, f"budget.limit={limit}", "--as", "small"]) == 0
    genotype = Genotype.load(out / "selections" / "small" / "genotype.json")
    assert genotype.origin["cost"]["parameters"] <= limit
    assert "cost" in Genotype.load(out / "genotype.json").origin


def test_a_planted_latency_is_measured_once_and_told(tmp_path: Path, planted: list[str]) -> None:
    words = ["search.cost.measure=latency", "search.cost.weight=1", "search.cost.batch=3"]
    api.run(recipe_of(*words), out := tmp_path / "run")
    once = len(planted)
    assert once == len(set(planted)) > 10
    genotype = Genotype.load(out / "genotype.json")
    setup = prepared(recipe_of(*words))
    assert len(planted) == once
    operations = [name for cell in genotype.cells.values() for pairs in cell.nodes for name, _ in pairs]
    assert genotype.origin["cost"]["latency"] >= sum(8.0 if op.startswith("sep_conv") else 1.0 for op in operations)
    assert setup.penalised is not None and setup.penalised.measure == "latency"
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert all(line["expected_cost"] > setup.penalised.fixed for line in lines if line["phase"] == "search")


def test_the_size_is_that_of_the_retraining() -> None:
    recipe = recipe_of("retrain.channels=6", "retrain.layers=5", "retrain.head=bn-relu", "shallow.channels=8")
    setup = Setup.of(recipe)
    size = network_size(recipe, setup.dataset)
    assert (size.channels, size.layers, size.head, size.shape) == (6, 5, "bn-relu", setup.dataset.shape)
    shallow = network_size(recipe_of("protocol=shallow", "shallow.channels=8", "shallow.layers=4"), setup.dataset)
    assert (shallow.channels, shallow.layers) == (8, 4)


def test_chosen_channels_are_those_that_are_told(tmp_path: Path) -> None:
    api.run(recipe_of("retrain.parameters=9000", "search.cost.weight=1"), out := tmp_path / "run")
    genotype, results = Genotype.load(out / "genotype.json"), json.loads((out / "results.json").read_text())
    cost = genotype.origin["cost"]
    assert (cost["parameters"], cost["channels"]) == (results["parameters"], results["channels"])
    net = FixedNet(genotype, cost["channels"], cost["layers"], 10, 1)
    assert count(net, (1, 8, 8)).parameters == cost["parameters"]


@pytest.mark.parametrize("key", ["search.cost.target", "selection.budget.limit"])
@pytest.mark.parametrize("measure", ["parameters", "multiply_adds", "latency"])
def test_what_no_cell_meets_is_refused_with_the_least(key: str, measure: str, planted: list[str]) -> None:
    section = key.rpartition(".")[0]
    words = [f"{section}.measure={measure}", *(["search.cost.weight=1"] if section == "search.cost" else [])]
    cost = least(*words, f"{key}=1e9")
    prepared(recipe_of(*words, f"{key}={cost}"))
    with pytest.raises(RecipeError, match=f"{key} is at least the cost of the cheapest cell, "):
        prepared(recipe_of(*words, f"{key}={0.99 * cost}"))


MISTAKES = [
    (["search.cost.weight=-1"], "search.cost.weight: input should be greater than or equal to 0, but got -1"),
    (["search.cost.weight=1", "search.cost.measure=flops"], "but got 'flops'"),
    (["search.cost.weight=1", "search.cost.target=0"], "search.cost.target: input should be greater than 0"),
    (["search.cost.weight=1", "search.cost.target=5"], "search.cost.target is at least the cost of the cheapest cell"),
    (["search.cost.measure=latency"], "search.cost.weight: is required"),
    (["search.cost.weight=.inf"], "search.cost.weight: must be finite"),
    (
        ["search.cost.weight=1", "search.cost.wieght=1"],
        "search.cost.wieght: unknown key (did you mean 'search.cost.weight'?)",
    ),
    (["search.cost.weight=1", "search.stages.search.warmup=2"], "no stage of the search updates them"),
    (["selection.budget.limit=5"], "selection.budget.limit is at least the cost of the cheapest cell"),
    (["selection.budget.limit=5", "selection.budget.measure=watts"], "but got 'watts'"),
    (["selection.budget.measure=latency"], "selection.budget.limit: is required"),
    (["selection.budget.limit=1e6", "selection.edges=random"], "selection.budget is for selection.edges magnitude or"),
    (["selection.budget.limit=1e6", "selection.max_skips=2"], "selection.budget and selection.max_skips"),
    (["selection.budget.limit=1e6", "retrain.parameters=9000"], "retrain.parameters chooses the channels"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_a_mistake_is_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    epochs = [] if any("warmup" in word for word in words) else ["search.stages.search.epochs=1"]
    assert main(["run", "darts-v1", "--budget", "smoke", "--out", "new", *TINY, *epochs, *words]) == 2
    out, error = capsys.readouterr()
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert "Traceback" not in out + error and list(tmp_path.iterdir()) == []

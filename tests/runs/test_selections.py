"""Selections of one supernet: in the run, beside it, interrupted, and compared."""

import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from topocell import api
from topocell.cli import main
from topocell.config.load import load_recipe
from topocell.config.load import resolved as recipe_of
from topocell.config.recipe import Recipe
from topocell.errors import RecipeError, RunError
from topocell.genotype.genotype import Genotype
from topocell.io import checkpoint
from topocell.reporting.rankings import agreement, ranking
from topocell.runs.compare import comparison
from topocell.runs.directory import RunDir
from topocell.runs.monitor import RunMonitor
from topocell.runtime.hooks import Interrupted

SMALL = ["data.images=24", "data.test_images=10", "space.nodes=3", "space.candidates=[skip_connect,sep_conv_3x3]"]
PT = ["selection.operations=perturbation", "selection.edges=perturbation", "selection.projection.epochs=2"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topocell.runs.run.write_report", lambda path: path / "report.html")


def recipe(*more: str) -> Recipe:
    return load_recipe("darts-v1", [*SMALL, *more], budget="smoke")


@pytest.fixture(scope="module")
def searched(tmp_path_factory: Any) -> Path:
    """A run whose search is finished, with magnitude as its rule."""
    path = tmp_path_factory.mktemp("searched") / "run"
    api.search(recipe(), path)
    return path


@pytest.fixture(scope="module")
def projected(tmp_path_factory: Any) -> Path:
    """A finished run of the same search with perturbation as its rule."""
    path = tmp_path_factory.mktemp("projected") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("topocell.runs.run.write_report", lambda path: path / "report.html")
        api.run(recipe(*PT), path)
    return path


@pytest.fixture
def mine(searched: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(searched, tmp_path / "run"))


def metrics(path: Path, phase: str) -> list[dict[str, Any]]:
    with RunDir.existing(path, lock=False) as directory:
        return [record for record in directory.metrics() if record["phase"] == phase]


def stop_after(monkeypatch: pytest.MonkeyPatch, looks: int) -> None:
    """The next work is saved and interrupted at its `looks`-th opportunity."""
    left = [looks]

    def checkpoint(self: RunMonitor, state: Callable[[], dict[str, Any]], due: bool = False) -> None:
        left[0] -= 1
        original(self, state, due or left[0] == 0)
        if left[0] == 0:
            raise Interrupted(15)

    original = RunMonitor.checkpoint
    monkeypatch.setattr(RunMonitor, "checkpoint", checkpoint)


PROJECTION = {"epochs": 2}


def test_a_run_by_perturbation_keeps_its_decisions(projected: Path) -> None:
    rows = metrics(projected, "select")
    assert len(rows) == 2 * (9 + 2)  # edges, then nodes 3 and 4
    assert rows[-1]["evaluations"] == 2 * (9 * 2 + 3 + 4 + 3)
    assert len(metrics(projected, "tune")) == 2
    nodes = Genotype.load(projected / "genotype.json").cells["normal"].nodes
    assert [len(pairs) for pairs in nodes] == [2, 2, 2]
    chosen = {r["decided"]: r["kept"] for r in rows if r["cell"] == "normal"}
    assert all(chosen[f"{source}→{node}"] == op for node, pairs in enumerate(nodes, 2) for op, source in pairs)
    log = (projected / "log.txt").read_text()
    assert all(f"{r['cell']}: " in log and r["kept"] in log for r in rows)


def test_selecting_again_by_the_same_rules_does_not_project_again(projected: Path, tmp_path: Path) -> None:
    again = Path(shutil.copytree(projected, tmp_path / "run"))
    assert api.select(again) == Genotype.load(projected / "genotype.json")
    assert not (again / "selections").exists() and (again / "results.json").exists()


def test_a_selection_beside_a_run_equals_a_run_with_its_rules(mine: Path, projected: Path) -> None:
    api.select(mine)
    before = (mine / "genotype.json").read_bytes()
    api.select(mine, operations="perturbation", edges="perturbation", projection=PROJECTION)
    child = mine / "selections" / "perturbation-perturbation"
    assert (mine / "genotype.json").read_bytes() == before
    found, wanted = (Genotype.load(path / "genotype.json").cells for path in (child, projected))
    assert found == wanted
    assert metrics(child, "select") == metrics(projected, "select")
    assert metrics(child, "search") == metrics(mine, "search")
    assert not metrics(mine, "select")
    results = api.retrain(child)
    assert results["last_mean"] == pytest.approx(
        RunDir.existing(projected, lock=False).read_json("results.json")["last_mean"]
    )


@pytest.mark.parametrize("looks", [2, 25])
def test_an_interrupted_selection_goes_on_beside_the_run(
    mine: Path, projected: Path, monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    rules: dict[str, Any] = {"operations": "perturbation", "edges": "perturbation", "projection": PROJECTION}
    with monkeypatch.context() as patch:
        stop_after(patch, looks)
        with pytest.raises(Interrupted):
            api.select(mine, name="pt", **rules)
    child = mine / "selections" / "pt"
    assert not (child / "genotype.json").exists()
    assert api.select(mine, name="pt", **rules).cells == Genotype.load(projected / "genotype.json").cells
    assert metrics(child, "select") == metrics(projected, "select")
    assert metrics(child, "tune") == metrics(projected, "tune")


def test_an_interrupted_selection_in_a_run_keeps_its_rules(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run had no cell yet: it takes the rules that were given, and goes on with them when none are."""
    whole = Path(shutil.copytree(mine, mine.parent / "whole"))
    rules = {"operations": "perturbation", "edges": "magnitude"}
    expected = api.select(whole, **rules)
    with monkeypatch.context() as patch:
        stop_after(patch, 9)
        with pytest.raises(Interrupted):
            api.select(mine, **rules)
    other = Path(shutil.copytree(mine, mine.parent / "other"))
    assert api.select(mine).cells == expected.cells
    assert metrics(mine, "select") == metrics(whole, "select")
    api.select(other, operations="magnitude")  # other rules: what was begun is dropped
    assert metrics(other, "select") == [] and (other / "genotype.json").exists()


def test_other_rules_on_a_projected_run_drop_its_decisions(projected: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(projected, tmp_path / "run"))
    api.select(other, operations="random", edges="all", replace=True)
    assert metrics(other, "select") == metrics(other, "tune") == metrics(other, "retrain") == []
    assert metrics(other, "search") == metrics(projected, "search")


def test_a_name_keeps_its_rules(mine: Path) -> None:
    api.select(mine, name="one", in_degree=1)
    with pytest.raises(RunError, match=r"a selection keeps the rules it began with, .* name another with --as"):
        api.select(mine, name="one", in_degree=2)
    with pytest.raises(RunError, match="letters, digits"):
        api.select(mine, name="../one", in_degree=2)
    with pytest.raises(RecipeError, match=r"selection\.projection\.metric: unknown metric 'los' \(did you mean 'loss'"):
        api.select(mine, name="two", projection={"metric": "los"})


def test_the_command_line_selects_and_compares(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(mine)]) == 2
    assert "has no derived cell to compare; continue with: topocell select" in capsys.readouterr().err
    assert main(["select", str(mine), "--quiet"]) == 0
    options = ["projection.epochs=1", "projection.batches=1"]
    more = ["--ops", "perturbation", "--edges", "magnitude", "--as", "pt", *options]
    assert main(["select", str(mine), *more, "--quiet"]) == 0
    assert main(["select", str(mine), "--as", "bad", "nonsense=1", "--quiet"]) == 2
    assert "selection.nonsense: unknown key" in capsys.readouterr().err
    header, run, pt = comparison(mine)
    assert (run[:3], pt[:3]) == (["(run)", "magnitude", "magnitude"], ["pt", "perturbation", "magnitude"])
    for row, path in ((run, mine), (pt, mine / "selections" / "pt")):
        found = dict(zip(header, row, strict=True))
        genotype = Genotype.load(path / "genotype.json")
        assert found["cell"] == genotype.key and found["edges kept"] == "6 + 6"
        skips = [genotype.operations(kind)["skip_connect"] for kind in ("normal", "reduce")]
        assert found["skips"] == f"{skips[0]} + {skips[1]}"
        assert found["accuracy"] == found["parameters"] == "—"
        assert found[f"τ to {row[0]}"] == "1.00"
    assert run[header.index("τ to pt")] == pt[header.index("τ to (run)")]
    assert -1 <= float(run[header.index("τ to pt")]) <= 1
    assert (run[header.index("images measured")], pt[header.index("images measured")]) == ("—", str(36 * 12))
    assert main(["retrain", str(mine / "selections" / "pt"), "--quiet"]) == 0
    assert "%" in comparison(mine)[2][-1] and "shallow" not in header
    beside = mine / "selections" / "pt"
    assert main(["retrain", str(beside), "--protocol", "shallow", "--quiet"]) == 0
    header, run, pt = comparison(mine)
    at = header.index("shallow")
    assert run[at] == "—" and pt[at].endswith(" % (n = 1)")
    assert main(["report", str(beside)]) == 0
    assert f"<dt>Shallow evaluation</dt><dd>{pt[at]}</dd>" in (beside / "report.html").read_text(encoding="utf-8")
    assert main(["compare", str(mine)]) == 0
    assert "perturbation" in capsys.readouterr().out


def test_rankings_agree_by_edges() -> None:
    """Of three operations on two edges: the same order, and one of three pairs turned round."""
    first = {("normal", "0→2"): {"a": 3.0, "b": 2.0, "c": 1.0}, ("normal", "1→2"): {"a": 3.0, "b": 2.0, "c": 1.0}}
    second = {("normal", "0→2"): {"a": 0.9, "b": 0.8, "d": 5.0}, ("normal", "1→2"): {"a": 2.0, "b": 3.0, "c": 1.0}}
    assert agreement(first, first) == 1 and agreement(first, {}) is None
    assert agreement(first, second) == pytest.approx((1 + 1 / 3) / 2)
    assert agreement(first, {("normal", "0→2"): {"a": 1.0, "b": 1.0, "c": 1.0}}) is None  # no order
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # one operation in common has no order, and SciPy warns of it
        assert agreement(first, {("normal", "0→2"): {"a": 1.0}}) is None


def test_rankings_are_read_from_decisions_or_from_the_supernet(searched: Path, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"phase": "select", "cell": "normal", "decided": "0→2", "accuracy without": {"a": 0.5, "b": 0.25}},
        {"phase": "select", "cell": "reduce", "decided": "0→2", "loss without": {"a": 1.0, "b": 2.0}},
        {"phase": "select", "cell": "normal", "decided": "node 3", "accuracy without": {"0→3": 0.5}},
    ]
    expected = {("normal", "0→2"): {"a": -0.5, "b": -0.25}, ("reduce", "0→2"): {"a": 1.0, "b": 2.0}}
    assert ranking(tmp_path, {}, rows) == expected
    assert ranking(tmp_path, {}, []) == {}
    with RunDir.existing(searched, lock=False) as directory:
        made = recipe_of(directory.recipe_yaml).model_dump(mode="json")
        alpha = directory.load_named("supernet")["arch"]["alpha.reduce"]
    found = ranking(searched, made, [])
    assert len(found) == 18
    assert list(found["reduce", "1→2"].values()) == pytest.approx(alpha[1].softmax(0).tolist())
    cold = tmp_path / "cold/checkpoints/supernet.ckpt"
    cold.parent.mkdir(parents=True)
    state = checkpoint.load(searched / "checkpoints/supernet.ckpt")
    state["arch"]["_extra_state"]["op_temperature"] = 2e-5
    checkpoint.save(cold, state)
    assert ranking(tmp_path / "cold", made, []) == found  # an annealing would leave all losers equal
    made["selection"]["operations"] = "random"
    assert ranking(searched, made, []) == {}
    with pytest.raises(RunError, match=r"recipe\.yaml and .* must belong together"):
        ranking(searched, {"selection": {"operations": "magnitude"}}, [])


def test_only_a_run_is_compared(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds no recipe\.yaml"):
        comparison(tmp_path)

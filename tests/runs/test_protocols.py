"""Protocols of retraining: the shallow evaluation beside the full one, and as its filter."""

import json
from pathlib import Path
from typing import Any

import pytest

import topocell
from topocell import Genotype, Run, api
from topocell.cli import main
from topocell.config.load import load_recipe, shallow_of
from topocell.config.recipe import Recipe
from topocell.config.retrain import PROTOCOLS, RetrainPlan, ShallowPlan
from topocell.errors import RecipeError, RunError
from topocell.genotype.published import published
from topocell.reporting.comparison import comparison_table, groups_of, read_runs
from topocell.reporting.terminal import Quiet
from topocell.runs.listing import Listing, State
from topocell.runs.phases import Phase
from topocell.runs.reports import write_report

TINY = ["data.images=24", "data.test_images=10", "space.nodes=2", "search.evaluation_batches=1", "shallow.seeds=[0,1]"]


@pytest.fixture(autouse=True)
def without_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topocell.runs.run.write_report", lambda path: path / "report.html")


class Said(Quiet):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def recipe(*overrides: str) -> Recipe:
    return load_recipe("random", [*TINY, *overrides], budget="smoke")


def results(path: Path) -> Any:
    return json.loads((path / "results.json").read_text())


def test_the_shallow_plan_is_that_of_the_paper() -> None:
    """eDARTS, Section IV-A; what it does not name is as in the full retraining."""
    shallow, full = ShallowPlan().plan(), RetrainPlan()
    named = {"channels", "layers", "epochs", "batch_size", "auxiliary", "cutout", "seeds"}
    assert {key for key, value in shallow if getattr(full, key) != value} == named
    assert type(shallow) is RetrainPlan
    changed = shallow_of(load_recipe("edarts"))
    assert changed.retrain == shallow and changed.protocol == "full"


def test_a_shallow_network_that_cannot_be_is_refused_before_the_search(tmp_path: Path, capsys: Any) -> None:
    words = ["run", "random", "--budget", "smoke", *TINY, "protocol=filter", "--out", str(tmp_path / "run")]
    for change, fault in (("layers=200", "less than or equal to 128"), ("stem=imagenet", "divisible by 32")):
        assert main([*words, f"shallow.{change}"]) == 2
        error = capsys.readouterr().err
        assert fault in error and error.count("\n") == 1 and not (tmp_path / "run").exists()


def test_results_stand_side_by_side(tmp_path: Path) -> None:
    path = tmp_path / "run"
    api.run(recipe(), path)
    whole = {name: (path / name).read_bytes() for name in ("results.json", "weights.safetensors", "genotype.json")}
    assert main(["retrain", str(path), "--protocol", "shallow", "--quiet"]) == 0
    small = results(path / "shallow")
    assert (small["n"], small["channels"], small["epochs"]) == (2, 4, 1)
    assert {name: (path / name).read_bytes() for name in whole} == whole
    assert Genotype.load(path / "shallow/genotype.json") == Genotype.load(path / "genotype.json")
    again = api.retrain(path, protocol="shallow")  # finished: looked at, not trained
    assert again == small


def test_another_cell_is_evaluated_anew(tmp_path: Path) -> None:
    path = tmp_path / "run"
    api.run(recipe("protocol=shallow"), path)
    assert not (path / "results.json").exists() and results(path / "shallow")["n"] == 2
    before = Genotype.load(path / "genotype.json")
    api.select(path, edges="all")
    assert Genotype.load(path / "genotype.json").cells != before.cells
    api.retrain(path)
    assert Genotype.load(path / "shallow/genotype.json") == Genotype.load(path / "genotype.json")
    records = [json.loads(line) for line in (path / "shallow/metrics.jsonl").read_text().splitlines()]
    assert [record["seed"] for record in records if record["phase"] == Phase.RETRAIN] == [0, 1]


@pytest.mark.parametrize(("threshold", "trained"), [(0.0, True), (0.99, False)])
def test_the_filter(threshold: float, trained: bool, tmp_path: Path) -> None:
    said, path = Said(), tmp_path / "run"
    api.run(recipe("protocol=filter", f"shallow.threshold={threshold}", "data.test_images=60"), path, said)
    small = results(path / "shallow")
    assert 0 < small["last_mean"] < 0.99
    assert (path / "results.json").exists() == trained
    assert any(line.startswith(f"shallow evaluation: {100 * small['last_mean']:.2f} % (n = 2)") for line in said.lines)
    refused = [line for line in said.lines if line.startswith("the full retraining is for cells above 99 %")]
    assert len(refused) == (0 if trained else 1)
    if not trained:
        assert refused[0].endswith(f"topocell retrain {path} --protocol full")
        assert api.retrain(path) == small
        api.retrain(path, protocol="full")
        assert results(path)["n"] == 1


@pytest.mark.parametrize("protocol", ["shallow", "filter"])
def test_a_run_that_its_protocol_ends_with_a_shallow_evaluation_is_finished(
    protocol: str, tmp_path: Path, capsys: Any
) -> None:
    path = tmp_path / "run"
    words = ["random", "--budget", "smoke", *TINY, f"protocol={protocol}", "shallow.threshold=0.99"]
    assert main(["run", *words, "--quiet", "--out", str(path)]) == 0
    small, shown = results(path / "shallow"), f"{100 * results(path / 'shallow')['last_mean']:.2f}"
    assert capsys.readouterr().out.startswith(f"test accuracy, last epoch of the shallow evaluation: {shown} ± ")
    assert Run(path).results == {**small, "protocol": "shallow"}
    page = write_report(path).read_text()
    assert "Test accuracy, last epoch of the shallow evaluation" in page and "unfinished" not in page
    listed = {run.path: run for run in Listing(tmp_path).read()}
    assert {place.name: (run.state, run.measured) for place, run in listed.items()} == {
        "run": (State.FINISHED, "shallow"),
        "shallow": (State.FINISHED, "shallow"),
    }
    with pytest.raises(RunError, match=f"name {path / 'shallow'}, which .*: topocell retrain {path} --protocol full"):
        topocell.load(path)
    assert len(topocell.load(path / "shallow").classes) == 10
    (group,) = groups_of(read_runs([path]))
    assert group.values == pytest.approx([100 * run["last"] for run in small["runs"]])
    assert comparison_table([group])[1][2].endswith(" % (shallow)")
    assert main(["compare", str(path), "dots-c10"]) == 0
    told = capsys.readouterr().out
    assert shown in told and "(shallow)" in told
    assert "--random-cell" not in page and "retrained alike" not in page
    (path / "shallow/genotype.json").write_text(json.dumps(published("dots-c10").genotype.to_dict()))
    with pytest.raises(RunError, match=r"results\.json"):
        _ = Run(path).results
    assert "unfinished" in write_report(path).read_text()


def test_protocols_that_do_not_exist(tmp_path: Path, capsys: Any) -> None:
    assert set(PROTOCOLS) == {"full", "shallow", "filter"}
    with pytest.raises(RecipeError, match="protocol must be one of full, shallow, filter, but got 'shalow'"):
        api.retrain(tmp_path, protocol="shalow")
    with pytest.raises(RecipeError, match="unknown protocol 'deep'"):
        recipe("protocol=deep")

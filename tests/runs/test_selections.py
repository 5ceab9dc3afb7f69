"""Selections of one supernet: in the run, beside it, interrupted, and compared."""

import copy
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
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
from topocell.runs.moments import moment_of
from topocell.runs.monitor import RunMonitor
from topocell.runs.setup import build_space
from topocell.runtime.hooks import Interrupted
from topocell.supernet.arch_state import SCHEDULED

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


@pytest.mark.parametrize("name", [None, "one"])
def test_an_in_degree_without_effect_is_refused_with_and_without_a_name(mine: Path, name: str | None) -> None:
    with pytest.raises(RecipeError, match=r"in_degree is for rules .* but edges is 'all'; leave it out, or choose"):
        api.select(mine, name=name, edges="all", in_degree=1)
    assert not (mine / "selections").exists()
    assert api.select(mine, name=name, edges="magnitude", in_degree=np.int64(1)).cells["normal"].nodes


def test_a_name_keeps_its_rules(mine: Path) -> None:
    api.select(mine, name="one", in_degree=1)
    with pytest.raises(RunError, match=r"a selection keeps the rules it began with, .* take another name"):
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
    state["arch"]["_extra_state"][:, SCHEDULED.index("op_temperature")] = torch.tensor([2e-5, 0.0, 0.0])
    checkpoint.save(cold, state)
    assert ranking(tmp_path / "cold", made, []) == found  # an annealing would leave all losers equal
    made["selection"]["operations"] = "random"
    assert ranking(searched, made, []) == {}
    with pytest.raises(RunError, match=r"recipe\.yaml and .* must belong together"):
        ranking(searched, {"selection": {"operations": "magnitude"}}, [])


def test_only_a_run_is_compared(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"holds no recipe\.yaml"):
        comparison(tmp_path)


# --- from a stage, or an epoch, before the end


@pytest.fixture(scope="module")
def staged(tmp_path_factory: Any) -> tuple[Path, dict[int, dict[str, Any]]]:
    """A finished search of two stages, and the architecture of each of its epochs, as checkpoints have it."""
    path, states = tmp_path_factory.mktemp("staged") / "run", {}
    original = RunMonitor.checkpoint

    def kept(self: RunMonitor, state: Callable[[], dict[str, Any]], due: bool = False) -> None:
        if due and (now := state())["epoch"] > 0:
            states[len(states) + 1] = copy.deepcopy({name: now[name] for name in ("arch", "candidates")})
        original(self, state, due)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunMonitor, "checkpoint", kept)
        api.search(load_recipe("dots", [*STAGED, *TWO_STAGES], budget="smoke"), path)
    return path, states


STAGED = ["data.images=24", "data.test_images=10", "space.nodes=2"]
TWO_STAGES = ["search.stages.operations.epochs=3", "search.stages.operations.warmup=0"]


@pytest.mark.parametrize("epoch", [1, 2, 3, 4, 5])
def test_the_architecture_of_every_epoch_is_that_of_its_checkpoint(staged: Any, epoch: int) -> None:
    """The same bits, so that whatever is derived from them is the same."""
    path, states = staged
    with RunDir.existing(path, lock=False) as directory:
        made = recipe_of(directory.recipe_yaml)
        plan = made.selection.model_copy(update={"after_epoch": epoch})
        moment = moment_of(made.model_copy(update={"selection": plan}), path, directory.metrics())
    assert moment is not None and moment.number == epoch
    space = build_space(made)
    found, wanted = moment.architecture(space), states[epoch]
    assert {t: [list(c) for c in cell.candidates] for t, cell in found.space.cells.items()} == wanted["candidates"]
    mine = found.state_dict()
    for name, value in wanted["arch"].items():
        assert name == "_extra_state" or torch.equal(mine[name], value), name


def test_a_stage_ends_with_its_last_epoch(staged: Any) -> None:
    path, _ = staged
    with RunDir.existing(path, lock=False) as directory:
        made, records = recipe_of(directory.recipe_yaml), directory.metrics()
    for stage, number in (("operations", 3), ("topology-warmup", 4), ("topology", 5)):
        plan = made.selection.model_copy(update={"stage": stage})
        moment = moment_of(made.model_copy(update={"selection": plan}), path, records)
        assert moment is not None and (moment.number, moment.stage.name) == (number, stage)


def test_a_cell_from_the_stage_of_operations_has_the_policy_of_darts(staged: Any, tmp_path: Path) -> None:
    """By brute force: of each edge the largest logit of its groups, of each node the two edges with the largest."""
    path = Path(shutil.copytree(staged[0], tmp_path / "run"))
    assert main(["select", str(path), "--stage", "operations", "--as", "early", "--quiet"]) == 0
    assert main(["select", str(path), "--quiet"]) == 0
    early, late = (Genotype.load(place / "genotype.json") for place in (path / "selections/early", path))
    assert early.origin["edges"] == "magnitude" and late.origin["edges"] == "topology"
    assert (early.origin["stage"], early.origin["after_epoch"], late.origin.get("stage")) == ("operations", 3, None)
    state = staged[1][3]
    groups = load_recipe("dots").search.stages[0].relaxation.model_dump()["groups"]
    for name, cell in early.cells.items():
        of_edge = []
        for row, names in zip(state["arch"][f"alpha.{name}"].double(), state["candidates"][name], strict=True):
            weights = {}
            for group in groups:
                logits = torch.stack([row[names.index(op)] for op in group])
                weights |= dict(zip(group, logits.softmax(0).tolist(), strict=True))
            of_edge.append(max((w, op) for op, w in weights.items() if op != "none"))
        for node, edges in ((2, (0, 1)), (3, (2, 3, 4))):
            best = sorted(sorted(edges, key=lambda e: -of_edge[e][0])[:2])
            assert cell.nodes[node - 2] == tuple((of_edge[e][1], e - edges[0]) for e in best)
    header, run, other = comparison(path)
    at = header.index("derived from")
    assert (run[at], other[at], other[:3]) == ("end", "operations, epoch 3", ["early", "magnitude", "magnitude"])
    assert run[header.index("τ to early")] == other[header.index("τ to (run)")]


def test_a_moment_that_is_not_there_is_refused_with_those_that_are(
    staged: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(shutil.copytree(staged[0], tmp_path / "run"))
    lines = (path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (path / "metrics.jsonl").write_text(
        "".join(lines[:3])
    )  # as of a search that was stopped by a rule, or of old files

    def files() -> dict[Path, bytes]:
        return {file: file.read_bytes() for file in path.rglob("*") if file.is_file() and file.name != "log.txt"}

    before = files()
    for words, fault in [
        (["--stage", "operation"], "selection.stage is one of operations, topology-warmup, topology, but got"),
        (["--stage", "topology"], "has no stage topology; it has epochs 1 to 3 of stage operations"),
        (["--epoch", "5"], "has no epoch 5; it has epochs 1 to 3 of stage operations"),
        (["--epoch", "6"], "selection.after_epoch is within the 5 epochs of the search, but got 6; use 1 to 5"),
        (["--epoch", "2", "--stage", "operations"], "leave one of them out"),
        (["--epoch", "2", "--ops", "perturbation"], "only that of the end of the search is kept"),
        (["--epoch", "2", "--edges", "all", "--in-degree", "1"], "in_degree is for rules that choose so many inputs"),
    ]:
        named = [[], ["--as", "beside"]][: 1 if "--in-degree" in words else 2]
        for name in named:
            assert main(["select", str(path), *words, *name, "--quiet"]) == 2
            error = capsys.readouterr().err
            assert fault in error and error.count("\n") == 1
    assert files() == before


def test_a_damaged_architecture_is_refused(staged: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(shutil.copytree(staged[0], tmp_path / "run"))
    text = (path / "metrics.jsonl").read_text()
    (path / "metrics.jsonl").write_text(text.replace('"candidates": ["none"', '"candidates": ["nothing"', 1))
    assert main(["select", str(path), "--epoch", "1", "--quiet"]) == 2
    assert "the line of search epoch 1 in metrics.jsonl must have an architecture of this" in capsys.readouterr().err
    assert main(["select", str(path), "--epoch", "2", "--quiet"]) == 0


def test_a_recipe_may_derive_from_a_stage(staged: Any, tmp_path: Path) -> None:
    """As `select --stage` does; killed between search and selection it resumes."""
    words = [*STAGED, *TWO_STAGES, "selection.stage=operations"]
    made = load_recipe("dots", words, budget="smoke")
    assert made.selection.stage == "operations"
    path = Path(shutil.copytree(staged[0], tmp_path / "run"))
    api.search(made, tmp_path / "own")
    assert api.select(tmp_path / "own").cells == api.select(path, name="early", stage="operations").cells
    (tmp_path / "mine.yaml").write_text("extends: dots\nname: mine\nselection: {after_epoch: 45}\n")
    assert load_recipe(tmp_path / "mine.yaml").selection.after_epoch == 45
    assert load_recipe(tmp_path / "mine.yaml", budget="smoke").selection.after_epoch == 3  # 2 + 1 + 1 epochs

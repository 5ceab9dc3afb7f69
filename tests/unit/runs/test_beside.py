"""Further retrainings of a cell, and of a cell from elsewhere: what they share with a run, and what they refuse."""

import dataclasses
import html
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.helpers.golden_genotypes import DARTS_V2

import topocell
from topocell import api
from topocell.cli import main
from topocell.config.lasting import recipe_hash
from topocell.config.load import load_recipe, resolved
from topocell.errors import RecipeError, RunError, SpaceError
from topocell.nn.count import channels_for, count, widest
from topocell.nn.network import FixedNet
from topocell.reporting.scores import random_cell_words
from topocell.reporting.terminal import Quiet
from topocell.runs import beside
from topocell.runs.directory import RunDir
from topocell.runs.identity import begun_store
from topocell.runs.phases import Phase, save_phase
from topocell.runtime.hooks import Interrupted

SMALL = ["data.images=40", "data.test_images=20", "space.nodes=1"]
FILES = ("results.json", "weights.safetensors", "weights-1.safetensors", "predictions.csv", "predictions-1.csv")


@pytest.fixture(scope="module")
def found(tmp_path_factory: Any) -> Path:
    """A finished run of two retraining seeds."""
    path = Path(tmp_path_factory.mktemp("runs")) / "run"
    api.run(load_recipe("random", [*SMALL, "retrain.seeds=[0,1]"], "smoke"), path)
    return path


@pytest.fixture
def mine(found: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(found, tmp_path / "run"))


def test_more_seeds_train_only_those_that_are_new(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three seeds of which two are taken over end as three that were all trained."""
    whole = api.retrain(mine, name="whole", changes=["retrain.seeds=[0,1,2]", "retrain.test_every=9"])
    trained = []
    step = topocell.networks.retraining.Retraining.begin_epoch
    monkeypatch.setattr(
        topocell.networks.retraining.Retraining,
        "begin_epoch",
        lambda self: trained.append(self.plan.seeds[self.round]) or step(self),
    )
    more = api.retrain(mine, name="more", changes=["retrain.seeds=[0,1,2]"])
    assert trained == [2]
    assert more == whole
    for name in (*FILES[1:], "weights-2.safetensors", "predictions-2.csv", "network.json"):
        assert (mine / "retrainings/more" / name).read_bytes() == (mine / "retrainings/whole" / name).read_bytes()
    records = [json.loads(line) for line in (mine / "retrainings/more/metrics.jsonl").read_text().splitlines()]
    assert [record["seed"] for record in records] == [0, 1, 2]
    assert "taken from the run, which has trained them: seed 0, 1" in (mine / "retrainings/more/log.txt").read_text()
    fewer = api.retrain(mine, name="fewer", changes=["retrain.seeds=[0]"])
    assert trained == [2] and fewer["runs"] == whole["runs"][:1] and fewer["n"] == 1
    assert topocell.load(mine / "retrainings/more", seed=2).file.of_seed(2).test_accuracy == whole["runs"][2]["last"]


def test_seeds_are_taken_also_where_there_is_no_confusion_matrix(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many classes results.json has none; what the networks have predicted says as much."""
    changes = ["retrain.seeds=[0,1,2]"]
    whole = api.retrain(mine, name="whole", changes=changes)
    results = json.loads((mine / "results.json").read_text())
    for run in (*results["runs"], *whole["runs"]):
        run["confusion"] = None
    (mine / "results.json").write_text(json.dumps(results))
    monkeypatch.setattr("topocell.networks.retraining.MOST_CLASSES", 2)
    assert api.retrain(mine, name="more", changes=changes) == whole
    assert "taken from the run, which has trained them: seed 0, 1" in (mine / "retrainings/more/log.txt").read_text()


@pytest.mark.parametrize("at", ["save_phase", "genotype"])
def test_a_kill_while_seeds_are_taken_over_leaves_each_record_once(
    mine: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def killed(*_: Any, **__: Any) -> None:
        raise Interrupted(15)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        if at == "save_phase":
            patch.setattr(beside, "save_phase", killed)
        else:
            patch.setattr(topocell.Genotype, "save", killed)
        api.retrain(mine, name="more", changes=["retrain.seeds=[0,1,2]"])
    api.retrain(mine, name="more", changes=["retrain.seeds=[0,1,2]"])
    records = [json.loads(line) for line in (mine / "retrainings/more/metrics.jsonl").read_text().splitlines()]
    assert [record["seed"] for record in records] == [0, 1, 2]


@pytest.mark.parametrize("changes", [["retrain.seeds=[2,0]"], ["retrain.seeds=[0,1]", "retrain.epochs=2"]])
def test_other_settings_or_a_new_seed_before_them_train_anew(mine: Path, changes: list[str]) -> None:
    api.retrain(mine, name="other", changes=changes)
    assert not (mine / "retrainings/other/earlier.json").exists()


def test_a_retraining_leaves_the_run_as_it_was_and_resumes_by_its_name(mine: Path) -> None:
    before = {name: (mine / name).read_bytes() for name in (*FILES, "genotype.json", "network.json", "metrics.jsonl")}
    results = api.retrain(mine, name="wide", changes=["retrain.channels=6", "retrain.layers=4"])
    assert (results["channels"], results["layers"]) == (6, 4)
    assert {name: (mine / name).read_bytes() for name in before} == before
    path = mine / "retrainings/wide"
    assert api.retrain(mine, name="wide") == api.retrain(path) == results
    assert (path / "report.html").is_file() and (path / "genotype.json").read_bytes() == before["genotype.json"]
    assert resolved((path / "recipe.yaml").read_text()).retrain.channels == 6
    with pytest.raises(RunError, match=r"keeps the settings it began with.*retrain\.channels is 6 there"):
        api.retrain(mine, name="wide", changes=["retrain.channels=8", "retrain.layers=4"])


def test_a_retraining_that_was_stopped_resumes(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = ["retrain.epochs=3", "retrain.seeds=[4]"]
    whole = api.retrain(mine, name="whole", changes=changes)
    monkeypatch.setenv("TOPOCELL_CHECKPOINT_SECONDS", "0")
    update, steps = topocell.networks.retraining.Retraining.train_step, []

    def stopping(self: Any) -> Any:
        steps.append(self.loop.epoch)
        if len(steps) == 2:
            raise Interrupted(2)
        return update(self)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(topocell.networks.retraining.Retraining, "train_step", stopping)
        api.retrain(mine, name="part", changes=changes)
    assert api.retrain(mine, name="part") == whole
    assert (mine / "retrainings/part/weights.safetensors").read_bytes() == (
        mine / "retrainings/whole/weights.safetensors"
    ).read_bytes()


def test_weights_are_fine_tuned_also_for_other_classes(mine: Path, tmp_path: Path) -> None:
    """With a learning rate of 0 only the statistics of the batch norms change, and the fresh classifier is fresh."""
    still = [
        "retrain.weights.lr=0",
        "retrain.weights.momentum=0",
        "retrain.weights.weight_decay=0",
        "retrain.seeds=[5]",
    ]
    api.retrain(mine, name="same", changes=still, weights_from=mine)
    start, end = (load_file(place / "weights.safetensors") for place in (mine, mine / "retrainings/same"))
    learned = [name for name in start if "running" not in name and "num_batches" not in name]
    assert all(torch.equal(start[name], end[name]) for name in learned)
    images, labels = torch.randint(0, 256, (16, 1, 8, 8), dtype=torch.uint8), torch.arange(16) % 3
    data = ((images, labels), (images, labels), ("x", "y", "z"))
    recipe = load_recipe("random", [*SMALL, *still], "smoke")
    cell = topocell.Genotype.load(mine / "genotype.json")
    results = api.retrain_cell(cell, recipe, tmp_path / "other", data=data, weights_from=mine)
    end = load_file(tmp_path / "other/weights.safetensors")
    assert results["classes"] == 3 and end["classifier.weight"].shape[0] == 3
    assert all(torch.equal(start[name], end[name]) for name in learned if not name.startswith("classifier"))
    with pytest.raises(RunError, match=r"of the same cell, channels.*has channels 4, layers 3"):
        api.retrain(mine, name="wide", changes=["retrain.channels=8"], weights_from=mine)
    assert not (mine / "retrainings/wide").exists()
    assert results["initial_weights"] == f"{mine}, seed 0; the classifier is fresh, for 3 classes"
    assert "it was not one from scratch" in (tmp_path / "other/report.html").read_text()


@pytest.mark.parametrize("names", [[str(i) for i in range(10)], [f"new {i}" for i in range(10)]])
def test_a_classifier_is_kept_for_the_same_classes_only(mine: Path, tmp_path: Path, names: list[str]) -> None:
    """As many classes of other names are other classes."""
    images, labels = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8), torch.arange(40) % 10
    recipe = load_recipe("random", [*SMALL, "retrain.weights.lr=0", "retrain.seeds=[5]"], "smoke")
    data = ((images, labels), (images, labels), names)
    cell = topocell.Genotype.load(mine / "genotype.json")
    results = api.retrain_cell(cell, recipe, tmp_path / "other", data=data, weights_from=mine)
    start, end = (load_file(place / "weights.safetensors") for place in (mine, tmp_path / "other"))
    assert torch.equal(start["stem.conv.weight"], end["stem.conv.weight"])
    assert torch.equal(start["classifier.weight"], end["classifier.weight"]) == (names[0] == "0")
    fresh = "; the classifier is fresh, for 10 classes" if names[0] != "0" else ""
    assert results["initial_weights"] == f"{mine}, seed 0{fresh}"


@pytest.mark.parametrize(
    ("limit", "named"),
    [
        ("retrain.max_parameters=20000", "retrain.max_parameters=null"),
        ("retrain.max_multiply_adds=200000", "retrain.max_multiply_adds=null"),
        ("retrain.parameters=20000", "retrain.parameters=null"),
    ],
)
def test_weights_in_a_network_that_a_limit_chooses_are_told_what_suffices(mine: Path, limit: str, named: str) -> None:
    changes = [limit, "retrain.seeds=[5]"]
    with pytest.raises(RunError, match=rf"channels 4, layers 3; no other key may choose the channels: add {named}$"):
        api.retrain(mine, name="limited", changes=changes, weights_from=mine)
    changes += ["retrain.channels=4", "retrain.layers=3", named]
    assert api.retrain(mine, name="limited", changes=changes, weights_from=mine)["channels"] == 4


def test_a_retraining_by_name_is_of_the_cell_that_the_run_has(mine: Path) -> None:
    """Also where the name alone is given; a random cell is another in any case."""
    first = api.retrain(mine, name="more", changes=(text for text in ["retrain.seeds=[7]"]))
    assert [run["seed"] for run in first["runs"]] == [7] and api.retrain(mine, name="more") == first
    drawn = api.retrain_random_cell(mine)
    api.select(mine, edges="magnitude", in_degree=1, replace=True)
    for changes in ([], ["retrain.seeds=[7]"]):
        with pytest.raises(RunError, match=r"keeps the cell it began with, but .*more has another; take another name"):
            api.retrain(mine, name="more", changes=changes)
    assert api.retrain(mine, name="random-cell") == drawn


def test_a_seed_may_be_a_number_of_numpy(mine: Path) -> None:
    results = api.validate(mine, seed=np.int64(3))
    assert results == api.validate(mine, seed=3) and resolved((mine / "validation/recipe.yaml").read_text()).seed == 3


def test_weights_of_another_cell_or_of_images_of_other_channels_are_told(mine: Path, tmp_path: Path) -> None:
    """Also where each tensor has the shape that it would have: two operations of a node have changed places."""
    cell = topocell.Genotype.load(mine / "genotype.json")
    data = cell.to_dict()
    for one in data["cells"].values():
        first, second = one["nodes"][0]
        one["nodes"][0] = [[first[0], second[1]], [second[0], first[1]]]
    recipe, other = load_recipe("random", SMALL, "smoke"), topocell.Genotype.from_dict(data)
    with pytest.raises(RunError, match=r"of their own cell, but .* retrain that cell: topocell retrain .*weights out"):
        api.retrain_cell(other, recipe, tmp_path / "swapped", weights_from=mine)
    topocell.export(mine, "safetensors", tmp_path / "export")
    with pytest.raises(RunError, match=rf"has that of key {cell.key}, not {other.key}; leave the weights out"):
        api.retrain_cell(other, recipe, tmp_path / "swapped", weights_from=tmp_path / "export")
    images, labels = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8), torch.arange(40) % 10
    with pytest.raises(RunError, match=r"but those of .* have 1 and these 3; convert .*, or leave the weights out"):
        api.retrain_cell(cell, recipe, tmp_path / "coloured", data=[(images, labels)] * 2, weights_from=mine)
    assert not (tmp_path / "swapped").exists() and not (tmp_path / "coloured").exists()


def test_a_cell_is_retrained_on_images_given_from_python(found: Path, mine: Path, tmp_path: Path, capsys: Any) -> None:
    """Others than those of a run on the disk or from Python, and the same, of which seeds are there."""
    images, labels = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8), torch.arange(40) % 5
    other = [(images, labels)] * 2
    results = api.retrain(mine, name="other", changes=["retrain.seeds=[7]"], data=other)
    assert results["classes"] == 5 and api.retrain(mine, name="other", data=other) == results
    assert json.loads((mine / "env.json").read_text()) == json.loads((found / "env.json").read_text())
    run, grey = tmp_path / "given", [(images[:, :1], labels)] * 2
    api.run(load_recipe("random", [*SMALL, "retrain.seeds=[0]"], "smoke"), run, data=grey)
    assert api.retrain(run, name="other", changes=["retrain.seeds=[0]"], data=other)["classes"] == 5
    api.retrain(run, name="more", changes=["retrain.seeds=[0,1]"], data=grey)
    assert "taken from the run, which has trained them: seed 0" in (run / "retrainings/more/log.txt").read_text()
    with pytest.raises(
        RunError, match=r"is trained on these by: topocell\.retrain\('.*given', name=NAME, data=\(train, te"
    ):
        api.retrain(run, data=other)
    capsys.readouterr()
    assert main(["retrain", str(run), "--as", "new"]) == 2
    shown = capsys.readouterr().err
    assert "topocell.retrain(out, data=(train, test)), or name others" in shown and "moved" not in shown
    folder = tmp_path / "photos"
    for number in range(12):
        (folder / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), number).save(folder / "ab"[number % 2] / f"{number}.png")
    words = [
        "data.dataset=folder",
        f"data.root={folder}",
        "retrain.seeds=[0]",
        "data.images=null",
        "data.test_images=null",
    ]
    assert main(["retrain", str(run), "--as", "new", "--quiet", *words]) == 0


def test_a_cell_from_elsewhere_is_retrained_without_a_search(tmp_path: Path, capsys: Any) -> None:
    text = tmp_path / "cell.txt"
    text.write_text(DARTS_V2.to_darts())
    words = ["retrain", str(text), "--budget", "smoke", "--out", str(tmp_path / "out"), *SMALL[:2]]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "test accuracy, last epoch" in out and out.count("balanced accuracy (mean recall") == 1
    results = (tmp_path / "out/results.json").read_bytes()
    assert main(words) == 0 and (tmp_path / "out/results.json").read_bytes() == results
    assert topocell.load(tmp_path / "out").file.genotype.cells == DARTS_V2.cells
    assert main(["retrain", str(tmp_path / "out"), "--as", "two", "retrain.epochs=2", "--quiet"]) == 0
    capsys.readouterr()
    assert main([*words, "retrain.epochs=3"]) == 2
    assert "keeps the settings it began with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["retrain.epochs=2"], "there is none for retrain.epochs=2; add one (--as NAME, name=)"),
        (["--from", "RUN"], "add one (--as NAME, name=)"),
        (["--as", "x", "search.epochs=3"], "a retraining may change retrain, data"),
        (["--as", "x", "retrian.epochs=3"], "did you mean 'retrain'"),
        (["--as", "x", "retrain.epochs=0"], "retrain.epochs"),
        (["--as", "x/y", "retrain.epochs=2"], "a name of up to 60 letters"),
        (["--as", "-x", "retrain.epochs=2"], "that begins with none of '.+-', but got '-x'"),
        (["--as", "x", "--from", "absent"], "has none; name another"),
        (["--as", "x", "--from", "RUN/weights.safetensors"], "weights.safetensors is a file; name {run}"),
        (["--as", "x", "--from", "RUN/genotype.json"], "genotype.json is a file; name {run}"),
        (["--as", "x", "retrain.max_parameters=10"], "which is above retrain.max_parameters=10; raise the limit"),
        (["--as", "x", "retrain.max_parameters=9000", "retrain.parameters=9000"], "keep one of them"),
        (["--as", "x", "data.dataset=folder"], "data.root=DIR"),
        (["--as", "x", "retrain.seeds=[0,1,0]"], "seeds are different"),
        (["--as", "x", "--protocol", "shallow"], "leave out one of the two"),
        (["--as", "random-cell", "retrain.epochs=2"], "leave the settings out (--random-cell, retrain_random_cell)"),
        (["--random-cell", "retrain.epochs=2"], "exactly as RUN was, but got KEY=VALUE"),
        (["--random-cell", "--as", "x", "--from", "RUN"], "exactly as RUN was, but got --as, --from"),
        (["--out", "x", "--as", "x"], "--out begins a run of its own, but got --as"),
        (["--budget", "smoke"], "there is no --out"),
        (["--out", "x"], "by: topocell retrain --genotype {run} {run}/recipe.yaml --out x"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(mine: Path, capsys: Any, words: list[str], said: str) -> None:
    assert main(["retrain", str(mine), *(word.replace("RUN", str(mine)) for word in words)]) == 2
    error = capsys.readouterr().err
    assert said.replace("{run}", str(mine)) in error and error.count("\n") == 1
    assert not (mine / "retrainings/x").exists() and not (mine / "retrainings/random-cell").exists()


def test_the_cell_of_a_run_is_trained_in_another_place_by_the_recipe_of_the_run(mine: Path, tmp_path: Path) -> None:
    words = ["--genotype", str(mine), str(mine / "recipe.yaml"), "--out", str(tmp_path / "there"), "--quiet"]
    assert main(["retrain", *words]) == 0
    found, own = (json.loads((place / "results.json").read_bytes()) for place in (tmp_path / "there", mine))
    assert found["last_mean"] == own["last_mean"] and found["n"] == own["n"] == 2


def test_a_cell_without_a_directory_is_told_what_it_needs(tmp_path: Path, capsys: Any) -> None:
    DARTS_V2.save(tmp_path / "cell.json")
    assert main(["retrain", str(tmp_path / "cell.json")]) == 2
    assert "add --out DIR" in capsys.readouterr().err


def test_a_cell_of_another_skeleton_is_told_all_that_has_to_change(tmp_path: Path, capsys: Any) -> None:
    """What it names suffices."""
    cell = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|"
    words = ["retrain", cell, "--budget", "smoke", "--out", str(tmp_path / "run"), "--quiet"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "an auxiliary head needs" in error and "3N + 2 layers" in error and error.count("\n") == 1
    changes = error.strip().rpartition("; set ")[2].split()
    assert changes == ["retrain.auxiliary=0", "retrain.layers=5"] and not (tmp_path / "run").exists()
    assert main([*words, *changes]) == 0


def test_a_retraining_keeps_the_weights_it_began_with(mine: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(mine, tmp_path / "other"))
    (other / "weights.safetensors").write_bytes((mine / "weights-1.safetensors").read_bytes())
    wanted = api.retrain(mine, name="x", weights_from=mine)
    assert api.retrain(mine, name="x", weights_from=mine) == wanted == api.retrain(mine, name="x")
    with pytest.raises(RunError, match=r"began with the weights of .* are others; take another name"):
        api.retrain(mine, name="x", weights_from=other)
    api.retrain(mine, name="fresh", changes=["retrain.epochs=2"])
    with pytest.raises(RunError, match="began with fresh weights"):
        api.retrain(mine, name="fresh", changes=["retrain.epochs=2"], weights_from=mine)


def test_a_name_of_another_cell_is_kept(mine: Path) -> None:
    api.retrain(mine, name="x", changes=["retrain.epochs=2"])
    DARTS_V2.save(mine / "retrainings/x/genotype.json")
    with pytest.raises(RunError, match="has another; take another name"):
        api.retrain(mine, name="x", changes=["retrain.epochs=2"])


# --- limits


@pytest.mark.parametrize("of", ["parameters", "multiply_adds"])
@pytest.mark.parametrize("limit", [9_000, 50_000, 123_456, 1_000_000])
def test_the_widest_network_within_a_limit(of: str, limit: int) -> None:
    def size(channels: int) -> int:
        return int(getattr(count(FixedNet(DARTS_V2, channels, 3, 10), (3, 8, 8)), of))

    if size(2) > limit:
        with pytest.raises(SpaceError, match=f"at least {size(2):,}"):
            widest(DARTS_V2, {of: limit}, 8, 8, 3, 10)
        return
    channels, (note,) = widest(DARTS_V2, {of: limit}, 8, 8, 3, 10)
    assert size(channels) <= limit < size(channels + 2)
    assert all(
        text in note for text in (f"retrain.channels={channels}", f"{size(channels):,}", f"{size(channels + 2):,}")
    )
    both, _ = widest(DARTS_V2, {"multiply_adds": 4_000_000, "parameters": limit}, 8, 8, 3, 10)
    alone = [widest(DARTS_V2, one, 8, 8, 3, 10)[0] for one in ({"multiply_adds": 4_000_000}, {"parameters": limit})]
    assert both == min(alone)


def test_a_limit_is_kept_where_the_nearest_size_is_above(found: Path) -> None:
    """50,000 parameters: the nearest even width may have more, the widest within never has."""
    cell = topocell.Genotype.load(found / "genotype.json")
    for limit in range(4_000, 60_000, 14_000):
        near = FixedNet(cell, channels_for(cell, limit, 3, 10), 3, 10)
        within = FixedNet(cell, widest(cell, {"parameters": limit}, 8, 8, 3, 10)[0], 3, 10)
        assert count(within, (3, 8, 8)).parameters <= limit
        assert count(within, (3, 8, 8)).parameters <= count(near, (3, 8, 8)).parameters


def test_a_limit_that_no_cell_meets_is_refused_before_the_search(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"above retrain\.max_parameters=10"):
        api.run(load_recipe("random", [*SMALL, "retrain.max_parameters=10"], "smoke"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(RecipeError, match="keep one of them"):
        load_recipe("random", ["retrain.max_multiply_adds=10", "retrain.parameters=10"])


# --- where the data are


def test_other_images_that_a_retraining_accepts_are_not_those_of_its_run(tmp_path: Path) -> None:
    folder, run = tmp_path / "photos", tmp_path / "run"
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        for i in range(8):
            Image.new("RGB", (8, 8), (i * 20, 255 if label == "a" else 0, 0)).save(folder / label / f"{i}.png")
    words = ["space.nodes=1", "data.dataset=folder", f"data.root={folder}", "retrain.seeds=[0]"]
    api.run(load_recipe("random", words, "smoke"), run, "none")
    Image.new("RGB", (8, 8), (9, 9, 9)).save(folder / "a/0.png")
    before = (run / "env.json").read_bytes()
    for more in ([], ["--from", str(run)]):
        asked = ["retrain", str(run), "--as", f"other{len(more)}", "retrain.epochs=1", "--quiet", *more]
        assert main(asked) == 2
        assert main([*asked, "--accept-data"]) == 0
    assert (run / "env.json").read_bytes() == before
    prints = [
        json.loads((place / "env.json").read_text())["data_fingerprint"] for place in (run, run / "retrainings/other0")
    ]
    assert prints[0] != prints[1]


def test_the_place_of_the_images_is_no_part_of_a_run(tmp_path: Path, capsys: Any) -> None:
    for label in ("a", "b"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(8):
            Image.new("RGB", (8, 8), (i * 20, 255 if label == "a" else 0, 0)).save(
                tmp_path / "photos" / label / f"{i}.png"
            )
    words = ["random", "--budget", "smoke", "space.nodes=1", "data.dataset=folder", "--out", str(tmp_path / "run")]
    assert main(["search", *words, f"data.root={tmp_path / 'photos'}", "--quiet"]) == 0
    shutil.move(tmp_path / "photos", tmp_path / "moved")
    capsys.readouterr()
    assert main(["select", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "does not exist" in error and "data.root=DIR --out" in error and error.count("\n") == 1
    assert main(["run", *words, f"data.root={tmp_path / 'photos'}", "--quiet"]) == 2
    error = capsys.readouterr().err
    assert "moved? the same command with data.root=DIR" in error and error.count("\n") == 1
    assert main(["run", *words[:-1], str(tmp_path / "new"), f"data.root={tmp_path / 'photos'}"]) == 2
    assert "moved?" not in capsys.readouterr().err
    assert main(["run", *words, f"data.root={tmp_path / 'moved'}", "data.download=true", "--quiet"]) == 0
    assert main(["retrain", str(tmp_path / "run"), "--quiet"]) == 0
    shutil.move(tmp_path / "moved", tmp_path / "again")
    again = f"data.root={tmp_path / 'again'}"
    assert main(["retrain", str(tmp_path / "run"), "--as", "more", again, "retrain.epochs=2", "--quiet"]) == 0
    place = tmp_path / "run" / "retrainings" / "more"
    wanted = (place / "results.json").read_bytes()
    at = tmp_path / "again"
    for name, its_words in (("later", [str(tmp_path / "run"), "--as", "more"]), ("again", [str(place)])):
        at = at.rename(tmp_path / name)
        assert main(["retrain", *its_words, f"data.root={at}", "--quiet"]) == 0
        assert str(at) in (place / "recipe.yaml").read_text() and (place / "results.json").read_bytes() == wanted
    shutil.move(tmp_path / "again", tmp_path / "moved")
    Image.new("RGB", (8, 8)).save(tmp_path / "moved" / "a" / "0.png")
    capsys.readouterr()
    assert main(["run", *words, f"data.root={tmp_path / 'moved'}", "--quiet"]) == 2
    assert "a run resumes with the data it began with" in capsys.readouterr().err


def test_what_the_memory_of_a_machine_chose_stays_on_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images in memory have a fingerprint of their own: the run would be told that they changed."""
    photos = _photos(tmp_path / "photos", "ab")
    words = ["space.nodes=1", "data.dataset=folder", f"data.root={photos}", "data.workers=0", "retrain.seeds=[0]"]
    recipe = load_recipe("random", words, "smoke")
    for store, memory, other in (("stream", 100, 1e12), ("memory", 1e12, 100)):
        run = tmp_path / store
        monkeypatch.setattr("topocell.data.from_files.memory_of_machine", lambda memory=memory: memory)
        api.search(recipe, run)
        monkeypatch.setattr("topocell.data.from_files.memory_of_machine", lambda memory=other: memory)
        api.select(run)
        api.run(recipe, run)
        api.retrain(run, name="more", changes=["retrain.seeds=[0,1]"])
        shutil.copytree(photos, tmp_path / f"moved-{store}")
        moved = [f"data.root={tmp_path / f'moved-{store}'}", "retrain.seeds=[0,1]"]
        api.retrain(run, name="moved", changes=moved)
        api.validate(run, seed=5)
        for place in (run, run / "retrainings/more", run / "retrainings/moved", run / "validation"):
            assert json.loads((place / "env.json").read_text())["data_store"] == store
        for name in ("more", "moved"):
            assert "taken from the run" in (run / f"retrainings/{name}/log.txt").read_text()
    env = json.loads((run / "env.json").read_text())
    (run / "env.json").write_text(json.dumps({key: value for key, value in env.items() if key != "data_store"}))
    assert [begun_store(place) for place in (run, tmp_path / "none")] == ["half", None]


def _photos(root: Path, labels: str, shade: int = 20) -> Path:
    """A folder of eight images for each class."""
    for number, label in enumerate(labels):
        (root / label).mkdir(parents=True, exist_ok=True)
        for i in range(8):
            Image.new("RGB", (8, 8), (i * shade, number * 100, 0)).save(root / label / f"{i}.png")
    return root


def test_a_retraining_with_images_of_its_own_needs_none_of_the_run(tmp_path: Path, capsys: Any) -> None:
    """The folder of the run has another class now, or is gone: what was asked for is trained, and the run stays."""
    photos, others, run = _photos(tmp_path / "photos", "ab"), _photos(tmp_path / "others", "abc", 9), tmp_path / "run"
    words = ["random", "--budget", "smoke", "space.nodes=1", "data.dataset=folder", "retrain.epochs=1", "--quiet"]
    assert main(["run", *words, f"data.root={photos}", "--out", str(run)]) == 0
    before = (run / "recipe.yaml").read_bytes(), (run / "env.json").read_bytes()

    def further(name: str, *more: str) -> dict[str, Any]:
        assert main(["retrain", str(run), "--as", name, "retrain.seeds=[3]", *more, "--quiet"]) == 0, (
            capsys.readouterr()
        )
        return dict(json.loads((run / "retrainings" / name / "results.json").read_text()))

    _photos(photos, "abc")
    capsys.readouterr()
    assert main(["retrain", str(run), "--as", "small", "retrain.channels=2"]) == 2
    error = capsys.readouterr().err
    assert (
        "but classes of" in error
        and " was 2 and is 3; restore the data" in error
        and f"retrain {run} --as NAME data.root=DIR" in error
    )
    assert further("grown", f"data.root={photos}", "--from", str(run))["classes"] == 3
    assert further("others", f"data.root={others}")["classes"] == 3
    assert further("digits", "data.dataset=digits", "data.root=null")["classes"] == 10
    shutil.rmtree(photos)
    assert main(["retrain", str(run), "--as", "others", "--quiet"]) == 0  # goes on without them
    assert further("gone", f"data.root={others}")["runs"] == further("others", f"data.root={others}")["runs"]
    assert main(["run", *words, f"data.root={others}", "--out", str(run)]) == 2
    assert before == ((run / "recipe.yaml").read_bytes(), (run / "env.json").read_bytes())


def test_a_refused_place_of_the_images_is_not_kept(tmp_path: Path, capsys: Any) -> None:
    photos, others, run = _photos(tmp_path / "photos", "ab"), _photos(tmp_path / "others", "ab", 9), tmp_path / "run"
    words = ["random", "--budget", "smoke", "space.nodes=1", "data.dataset=folder", "--quiet", "--out", str(run)]
    assert main(["search", *words, f"data.root={photos}"]) == 0
    before = (run / "recipe.yaml").read_bytes()
    for changes in ([f"data.root={others}"], [f"data.root={others}", "on_nan=skip"]):
        assert main(["search", *words, *changes]) == 2
        assert "a run resumes with the data it began with" in capsys.readouterr().err
        assert (run / "recipe.yaml").read_bytes() == before
    assert main(["search", *words, f"data.root={photos}", "on_nan=skip"]) == 0
    assert "on_nan: skip" in (run / "recipe.yaml").read_text()
    _photos(photos, "ab", 9)  # which are others now
    assert main(["select", str(run), "--quiet"]) == 2 and "by --accept-data" in capsys.readouterr().err
    assert main(["select", str(run), "--quiet", "--accept-data"]) == 0 and (run / "genotype.json").is_file()


# --- a random cell beside the found one


def test_the_card_says_which_search_has_found_the_cell(mine: Path) -> None:
    """Also of a retraining of a retraining and without the supernet; none has found a random cell or a given one."""
    (mine / "checkpoints/supernet.ckpt").unlink()
    api.retrain(mine, name="again", changes=["retrain.seeds=[0]"])
    again = mine / "retrainings/again"
    api.retrain(again, name="further", changes=["retrain.seeds=[1]"])

    def card(place: Path) -> str:
        return (topocell.export(place, "safetensors").path / "README.md").read_text()

    for place in (mine, again, again / "retrainings/further"):
        assert "| search | Baseline - a random cell" in card(place)
    for origin, named in (({"recipe": "dots", "seed": 0}, "dots"), ({"published": "darts-v2"}, "darts-v2")):
        dataclasses.replace(topocell.Genotype.load(again / "genotype.json"), origin=origin).save(
            again / "genotype.json"
        )
        assert f"given to the retraining ({named}); no search of its run has found it" in card(again)


@pytest.mark.parametrize(
    ("mine", "other", "images", "verdict"),
    [
        ((0.375, 0.1326, 2), (0.3438, 0.0, 2), 32, "not told apart from"),  # one image apart
        ((0.97, 0.001, 4), (0.96, 0.001, 4), 10_000, "better than"),
        ((0.97, 0.02, 4), (0.96, 0.001, 4), 10_000, "not told apart from"),  # seeds differ more
        ((0.97, None, 1), (0.96, None, 1), 500, "not told apart from"),
        ((0.96, None, 1), (0.96, None, 1), 10_000, "no better than"),
    ],
)
def test_a_random_cell_is_told_apart_by_images_and_seeds(
    mine: tuple[Any, ...], other: tuple[Any, ...], images: int, verdict: str
) -> None:
    found, drawn = (
        {"last_mean": mean, "last_std": std, "n": n, "test_images": images} for mean, std, n in (mine, other)
    )
    assert f" is {verdict} a random cell" in random_cell_words(found, drawn)


def test_a_random_cell_is_retrained_alike_and_shown_beside(mine: Path) -> None:
    first = api.retrain_random_cell(mine)
    place = mine / "retrainings/random-cell"
    assert api.retrain_random_cell(mine) == first and topocell.load(place)
    assert (place / "recipe.yaml").read_bytes() == (mine / "recipe.yaml").read_bytes()
    assert (
        f"{100 * first['last_mean']:.2f}" in (mine / "report.html").read_text().split("Random cell, retrained alike")[1]
    )
    found = json.loads((mine / "results.json").read_text())
    words = random_cell_words(found, first)
    assert ("no better than" in words) == (found["last_mean"] <= first["last_mean"])
    assert (words in html.unescape((mine / "report.html").read_text())) == (" is better than " not in words)
    drawn = topocell.Genotype.load(place / "genotype.json")
    assert all(len(pairs) <= 2 for cell in drawn.cells.values() for pairs in cell.nodes)


@pytest.mark.parametrize(
    "selection",
    [
        ["selection.threshold=0.85", "selection.isolated=drop"],
        ["selection.budget.measure=parameters", "selection.budget.limit=1e9"],
    ],
)
def test_a_random_cell_is_drawn_beside_rules_that_read_weights(tmp_path: Path, selection: list[str]) -> None:
    rules = ["selection.operations=magnitude", "selection.edges=magnitude", *selection]
    api.run(load_recipe("random", [*SMALL, *rules], "smoke"), tmp_path / "run")
    results = api.retrain_random_cell(tmp_path / "run")
    drawn = topocell.Genotype.load(tmp_path / "run/retrainings/random-cell/genotype.json")
    assert drawn.origin["recipe"] == "random" and results["n"] == 1


def begun_on(path: Path, device: str) -> Path:
    """A run as it comes from a machine with such a device."""
    for name, before in (("recipe.yaml", "device: auto\n"), ("env.json", '"device": "cpu"')):
        text = (path / name).read_text()
        assert text.count(before) == 1
        (path / name).write_text(text.replace(before, before.replace("auto", device).replace("cpu", device)))
    return path


def device_of(path: Path) -> str:
    return resolved((path / "recipe.yaml").read_text()).device


#: What a caller is told of a device that is not there.
SUBSTITUTE = "this machine has no device 'cuda:97'"


class Heard(Quiet):
    """A display that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


#: A call of the library on a run → the directory in which it computes.
RESUMING: dict[str, tuple[Callable[[Path, Heard], object], str]] = {
    "select": (lambda run, heard: api.select(run, heard, "other", edges="magnitude", in_degree=1), "selections/other"),
    "retrain": (lambda run, heard: api.retrain(run, heard, name="it", changes=["retrain.seeds=[5]"]), "retrainings/it"),
    "accept_data": (
        lambda run, heard: api.retrain(run, heard, name="it", changes=["retrain.seeds=[5]"], accept_data=True),
        "retrainings/it",
    ),
    "images": (
        lambda run, heard: api.retrain(run, heard, name="it", changes=["data.workers=1"]),
        "retrainings/it",
    ),
    "random cell": (lambda run, heard: api.retrain_random_cell(run, heard), "retrainings/random-cell"),
    "validate": (lambda run, heard: api.validate(run, heard), "validation"),
    "validate, seed": (lambda run, heard: api.validate(run, heard, seed=3), "validation"),
}


@pytest.mark.parametrize("call", RESUMING)
def test_a_run_from_a_machine_with_another_device_resumes_on_auto_and_says_so(
    mine: Path, found: Path, call: str
) -> None:
    """On the display of the caller and in the log; the recipe goes on naming the device that it named."""
    begun_on(mine, "cuda:97")
    before = (mine / "recipe.yaml").read_bytes()
    act, place = RESUMING[call]
    heard, again = Heard(), Heard()
    result = act(mine, heard)
    assert [text for text in heard.said if SUBSTITUTE in text] and SUBSTITUTE in (mine / place / "log.txt").read_text()
    assert (mine / "recipe.yaml").read_bytes() == before and device_of(mine / place) == "cuda:97"
    assert json.loads((mine / place / "env.json").read_text())["device"] == "cpu"
    assert act(mine, again) == result
    assert act(Path(shutil.copytree(found, mine.parent / "here")), Heard()) == result


@pytest.mark.parametrize("more", [["data.workers=1"], ["retrain.seeds=[5]"], []])
def test_a_device_that_is_named_must_be_there_also_where_it_is_that_of_the_run(mine: Path, more: list[str]) -> None:
    begun_on(mine, "cuda:97")
    for name in ("it", None) if not more else ("it",):
        with pytest.raises(RecipeError, match="device must name a device of this machine, but got 'cuda:97'"):
            api.retrain(mine, name=name, changes=["device=cuda:97", *more])
    assert not (mine / "retrainings/it").exists()


def test_a_device_that_is_there_and_cannot_be_used_is_not_replaced(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun_on(mine, "cuda:97")

    real = torch.zeros

    def full(*sizes: Any, device: Any = None, **named: Any) -> torch.Tensor:
        if device is not None and torch.device(device).type == "cuda":
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 MiB.")
        return real(*sizes, device=device, **named)

    monkeypatch.setattr(torch, "zeros", full)
    with pytest.raises(RecipeError, match="its memory is full"):
        api.validate(mine)


LATENCY = ["selection.budget.measure=latency", "selection.budget.limit=1e9"]


def test_a_run_that_measures_latency_stays_on_its_kind_of_device(tmp_path: Path) -> None:
    """Its cell rests on the latencies of one: neither `auto` nor another name may change it under way."""
    rules = ["selection.operations=magnitude", "selection.edges=magnitude"]
    recipe = load_recipe("random", [*SMALL, *rules, *LATENCY], "smoke")
    run = begun_on(api.run(recipe, tmp_path / "run").parent, "cuda:97")
    words = "rests on measured latency resumes on the kind of device that it began with, but .* began on cuda and this"
    for act in (
        lambda: api.select(run, name="other", in_degree=1),
        lambda: api.retrain(run, changes=["device=cpu"]),
        lambda: api.run(recipe.model_copy(update={"device": "cpu"}), run),
        lambda: api.run(recipe, run),
    ):
        with pytest.raises(RunError, match=words):
            act()
    dumped = [recipe.model_copy(update={"device": name}).model_dump(mode="json") for name in ("cuda", "cuda:1", "cpu")]
    assert recipe_hash(dumped[0]) == recipe_hash(dumped[1]) != recipe_hash(dumped[2])
    anywhere = [{**recipe, "selection": {**recipe["selection"], "budget": None}} for recipe in dumped]
    assert recipe_hash(anywhere[0]) == recipe_hash(anywhere[2])


def test_what_is_unfinished_resumes_on_the_device_that_is_named(
    mine: Path, found: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Whether the command of the run is given again, or its retraining; what is named must be there."""
    for name in (*FILES, "network.json", "report.html"):
        (mine / name).unlink()
    with RunDir.existing(mine) as directory:
        save_phase(directory, Phase.RETRAIN)
    begun_on(mine, "cuda:97")
    recipe, whole = ["run", str(mine / "recipe.yaml"), "--quiet", "--out", str(mine)], found / "weights.safetensors"
    for words in (recipe, ["retrain", str(mine), "device=cuda:98"], ["retrain", str(mine), "device=[1]"]):
        assert main(words) == 2
        assert re.search("device(:| must name a device of this machine, but got)", capsys.readouterr().err)
    assert device_of(mine) == "cuda:97"
    again = shutil.copytree(mine, mine.parent / "again")
    assert main([*recipe, "device=cpu"]) == 0 and device_of(mine) == "cpu"
    assert (mine / "weights.safetensors").read_bytes() == whole.read_bytes()
    third = shutil.copytree(again, mine.parent / "third")
    assert api.retrain(again, changes=["device=cpu"])["n"] == 2 and device_of(again) == "cpu"
    assert api.retrain(third)["n"] == 2 and device_of(third) == "cuda:97"
    assert SUBSTITUTE in (third / "log.txt").read_text()
    assert (again / "weights.safetensors").read_bytes() == whole.read_bytes()


def test_a_retraining_on_a_device_that_is_named_takes_no_network_from_another(mine: Path) -> None:
    """A name with a device alone is that of a training there, until it has begun; then it resumes."""
    begun_on(mine, "cuda:97")
    first = api.retrain(mine, name="there", changes=["device=cpu"])
    assert "taken from the run" not in (mine / "retrainings/there/log.txt").read_text()
    assert device_of(mine / "retrainings/there") == "cpu" and device_of(mine) == "cuda:97"
    assert api.retrain(mine, name="there", changes=["device=auto"]) == first

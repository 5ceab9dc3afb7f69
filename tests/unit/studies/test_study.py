"""Studies: every one in its smallest form on digits, going on after an interruption, mistakes, and known answers."""

import json
import math
import os
import re
import shlex
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import Field
from tests.helpers.studies import items_of, names_of, rows_of, without_reports  # noqa: F401

from topocell import ArchState, Genotype, api, spaces, studies
from topocell.cli import main
from topocell.config.load import load_recipe, recipe_text
from topocell.config.recipe import Recipe
from topocell.data.nasbench201 import Table, official_archs
from topocell.errors import DataError, RecipeError, RunError
from topocell.io import files
from topocell.reporting.style import clipped
from topocell.reporting.terminal import Quiet
from topocell.runs import setup
from topocell.runs.monitor import RunMonitor
from topocell.runtime.provenance import environment
from topocell.studies import (
    STUDIES,
    Bench,
    Options,
    Outcome,
    Study,
    _plots,
    edge_ranking,
    shallow_final,
    topology_average,
)
from topocell.studies._cells import named_cells
from topocell.studies._options import parse
from topocell.studies._plots import Curve, non_dominated
from topocell.studies._training import finished_search
from topocell.studies.topology_search import PUBLISHED

TINY = ["--budget", "smoke", "data.images=24", "data.test_images=10", "space.nodes=2", "search.evaluation_batches=1"]
CELL = {"inputs": 2, "nodes": [[["skip_connect", 0], ["sep_conv_3x3", 1]], [["skip_connect", 2]]], "concat": [2, 3]}
KEY = Genotype.from_dict({"format": 1, "space": "darts", "cells": {"normal": CELL, "reduce": CELL}}).key
TEXT = "|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_1x1~1|skip_connect~2|"
TABLE_FILES = ("table.csv", "table.md", "figure.png", "figure.svg", "study.json")
REAL_TABLE = os.environ.get(setup.GROUND_TRUTH_VARIABLE, "")

#: The smallest form of every study; {place} is a directory with `cell.json` and `table.csv`.
SMALLEST = {
    "topology-average": ["table={place}/table.csv"],
    "topology-bench": [*TINY[:4], "cells=2", "seeds=[0,1]"],
    "edge-ranking": [*TINY, "recipes=dots"],
    "depth": [*TINY[:4], "genotypes={place}/cell.json", "layers=[1,2]"],
    "shallow-final": [*TINY[:4], "genotypes=[{place}/cell.json, darts-v1]", "shallow.layers=2", "retrain.layers=3"],
    "wirings": [*TINY[:4], "nodes=2", "again=1"],
    "subspaces": [*TINY, "spaces=[ss3,ss4]", "depths=3", "first_also=[]", "seeds=0"],
    "edarts-ablation": [*TINY, "seeds=0"],
    "stability": [*TINY, "recipes=darts-v1", "epochs=[1,2]", "seeds=0"],
    "topology-search": [*TINY, "recipes=dots-over-darts", "seeds=0"],
    "views": [
        *TINY,
        "seeds=0",
        "recipes=[toponas-fixed-darts,toponas-input-view,darts-v1 selection.edges=magnitude-outgoing]",
    ],
    "joint": [*TINY, "seeds=0"],
    "cost-front": [*TINY, "recipes=darts-v1", "weights=[0,2]", "seeds=[0,1]"],
    "compare": [*TINY, "recipes=[random, random search.channels=2]", "seeds=[0,3]"],
    "trajectory": [*TINY, "recipes=darts-pt", "space.nodes=1", "epochs=2", "seeds=0"],
    "operation-strength": [*TINY, "space.candidates=[skip_connect,sep_conv_3x3]", "edges=1"],
    "skip-gap": TINY,
    "skip-optimum": ["edges=2", "channels=2", "steps=2", "moments=1"],
    "edge-shuffle": [*TINY, "shuffles=2", "depth=2"],
    "progressive-tuning": [*TINY, "recipes=darts-pt", "space.nodes=1", "seeds=0"],
    "selection-agreement": [*TINY, "recipes=darts-pt", "space.nodes=1", "confidences=0.9", "seeds=0"],
    "worth-it": [
        *TINY[:4],
        "recipes=[nb201-random, nb201-evolution]",
        "ground_truth.table={place}/table.csv",
        "charge=2.5",
        "seeds=[0,1]",
    ],
    "supernet-ranking": [
        *TINY[:4],
        "recipes=[nb201-darts, nb201-subsets-incoming]",
        "ground_truth.table={place}/table.csv",
        "cells=4",
    ],
    "tuning-epochs": [*TINY, "recipes=darts-pt", "space.nodes=1", "tune_epochs=[0,1]", "seeds=0"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: Any) -> Path:
    folder: Path = tmp_path_factory.mktemp("place")
    cell = {"format": 1, "space": "darts", "cells": {"normal": CELL, "reduce": CELL}}
    (folder / "cell.json").write_text(json.dumps(cell))
    archs = list(official_archs())
    accuracy = [planted(arch) for arch in archs]
    columns = dict.fromkeys(("cifar10_test_200ep", "cifar10_val_12ep"), np.array(accuracy))
    columns["imagenet16_test_12ep"] = np.array(accuracy) / 2
    Table(archs, columns).save(folder / "table.csv")
    return folder


def planted(arch: str) -> float:
    """An accuracy whose mean over the operations of a wiring is 40 + 5 · edges, without edge 0→2 one more."""
    ops = re.findall(r"([a-z0-9_]+)~(\d)", arch)
    edges = [(op, int(p)) for op, p in ops if op != "none"]
    noise = sum({"nor_conv_3x3": 1.0, "nor_conv_1x1": -1.0}.get(op, 0.0) for op, _ in edges)
    return 40 + 5 * len(edges) + noise + (ops[1][0] == "none")


class Toy(Options):
    n: int = Field(3, description="number of items")


def toy(bench: Bench, options: Toy) -> Outcome:
    """Squares."""
    bench.begin(options.n, {}, environment("cpu", "", {}))
    rows = [{"i": i, "square": bench.item(f"item-{i}", square, i)["square"]} for i in range(options.n)]
    return Outcome(rows, lambda path: path.write_text("drawn"), 1)


def square(i: int) -> dict[str, int]:
    return {"square": i * i}


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A study is one function and one row."""
    monkeypatch.setitem(STUDIES, "toy", Study("squares", "", Toy, toy, "n=2"))


def words_of(name: str, place: Path) -> list[str]:
    return [word.format(place=place) for word in SMALLEST[name]]


@pytest.fixture(scope="module")
def done(place: Path) -> Callable[[str], Path]:
    """Runs a study in its smallest form once, on demand; returns its directory."""

    def run(name: str) -> Path:
        folder = place / "done" / name
        if not folder.exists():
            assert main(["study", name, *words_of(name, place), "--quiet", "--out", str(folder)]) == 0
        return folder

    return run


def test_every_study_is_tested() -> None:
    assert set(SMALLEST) == set(STUDIES) and len(STUDIES) >= 7


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_leaves_a_table_and_a_figure(name: str, done: Callable[[str], Path], capsys: Any) -> None:
    folder = done(name)
    assert all((folder / file).stat().st_size > 50 for file in TABLE_FILES)
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    rows, page = rows_of(folder), (folder / "table.md").read_text()
    assert len(rows) >= 2
    assert page.startswith(f"# {name}\n") and page.count("\n| ") == len(rows) + 2
    stated = json.loads((folder / "study.json").read_text())
    assert stated["study"] == name and stated["options"] and stated["inputs"] and stated["n"] >= 1
    assert {"torch", "topocell", "seeds", "data_fingerprint"} <= stated["environment"].keys()
    assert f"n = {stated['n']}" in page and stated["environment"]["torch"] in page
    assert stated["items"] == len(names_of(folder)) == len(set(names_of(folder))) and stated["seconds"] > 0
    for row in rows:
        shares = [float(v) for key, v in row.items() if key.endswith("%") and "difference" not in key and v]
        assert shares and all(0 <= share <= 100 for share in shares)
    capsys.readouterr()


@pytest.mark.parametrize("name", STUDIES)
def test_a_finished_study_is_not_repeated(
    name: str, place: Path, done: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = done(name)
    before = {file: (folder / file).read_bytes() for file in TABLE_FILES}
    for step in ("run", "search", "retrain"):
        monkeypatch.setattr(api, step, lambda *_: pytest.fail("an item was made again"))
    assert main(["study", name, *words_of(name, place), "--quiet", "--out", str(folder)]) == 0
    assert {file: (folder / file).read_bytes() for file in TABLE_FILES} == before


# --- going on


class Once:
    """A function that is interrupted, once, instead of its call number `at`."""

    def __init__(self, function: Callable[..., Any], at: int) -> None:
        self.function, self.at, self.calls = function, at, 0

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return self.function(*args)


def test_cells_trained_before_an_interruption_are_not_trained_again(
    place: Path, tmp_path: Path, done: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    argv = ["study", "depth", *words_of("depth", place), "--out", str(tmp_path / "a")]
    retrain = Once(api.retrain, at=2)
    monkeypatch.setattr(api, "retrain", retrain)
    assert main(argv) == 130
    items = [f"cell-{KEY}-layers-{n}" for n in (1, 2)]
    assert names_of(tmp_path / "a") == items[:1] and not (tmp_path / "a/table.csv").exists()
    assert main(argv) == 0
    assert "resuming" in capsys.readouterr().out
    assert retrain.calls == 3 and names_of(tmp_path / "a") == items
    for file in ("table.csv", "figure.svg"):
        assert (tmp_path / "a" / file).read_bytes() == (done("depth") / file).read_bytes()


def test_an_item_goes_on_in_the_middle(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*TINY[2:4], "budget=smoke", f"genotypes={place / 'cell.json'}", "layers=1", "retrain.epochs=3"]
    studies.run("depth", words, tmp_path / "whole")
    seen: list[int] = []

    def metrics(self: RunMonitor, record: Mapping[str, Any]) -> None:
        seen.append(record["epoch"])
        if len(seen) == 3:
            raise KeyboardInterrupt
        put(self, record)

    put = RunMonitor.metrics
    monkeypatch.setattr(RunMonitor, "metrics", metrics)
    with pytest.raises(KeyboardInterrupt):
        studies.run("depth", words, tmp_path / "broken")
    studies.run("depth", words, tmp_path / "broken")
    assert seen == [0, 1, 2, 2]
    assert rows_of(tmp_path / "broken") == rows_of(tmp_path / "whole")


def test_a_study_refuses_to_go_on_with_something_else(
    place: Path, tmp_path: Path, done: Callable[[str], Path], capsys: Any
) -> None:
    out = str(done("depth"))
    changes = [
        (["study", "depth", *words_of("depth", place), "layers=[1,3]"], "options.layers is [1, 2] there and [1, 3]"),
        (
            ["study", "depth", *TINY[:2], *words_of("depth", place)[4:]],
            "options.overrides is ['data.images=24', 'data.test_images=10'] there and [] here",
        ),
        (["study", "topology-average", *words_of("topology-average", place)], "study is 'depth' there"),
    ]
    before = (done("depth") / "study.json").read_bytes()
    for argv, words in changes:
        assert main([*argv, "--out", out]) == 2
        error = capsys.readouterr().err
        assert "belongs to another study" in error and words in error and error.count("\n") == 1
    assert (done("depth") / "study.json").read_bytes() == before


def test_a_cell_that_changed_is_another_study(place: Path, tmp_path: Path) -> None:
    cell = shutil.copy(place / "cell.json", tmp_path / "cell.json")
    words = ["budget=smoke", *TINY[2:4], f"genotypes={cell}", "layers=1"]
    studies.run("depth", words, tmp_path / "a")
    Path(cell).write_text(Path(cell).read_text().replace("sep_conv_3x3", "sep_conv_5x5"))
    with pytest.raises(
        RunError, match=r"inputs\.genotypes\.0\.cells\.normal\.nodes\.0\.1 is \['sep_conv_3x3', 1\] there"
    ):
        studies.run("depth", words, tmp_path / "a")


def test_directories_that_are_no_study(toys: None, tmp_path: Path) -> None:
    (tmp_path / "things").mkdir()
    (tmp_path / "things/note.txt").write_text("precious")
    (tmp_path / "plain").write_text("")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/study.json").write_text("{")
    for name, rule in (("things", "holds 'note.txt'"), ("plain", "is a file"), ("damaged", "is damaged")):
        with pytest.raises(RunError, match=rule):
            studies.run("toy", [], tmp_path / name)
    (tmp_path / "used").mkdir()
    unlock = files.lock(tmp_path / "used")
    with pytest.raises(RunError, match="one process at a time"):
        studies.run("toy", [], tmp_path / "used")
    unlock()
    assert [row["square"] for row in rows_of(studies.run("toy", [], tmp_path / "used"))] == ["0", "1", "4"]


def test_what_a_kill_leaves_is_put_right(toys: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = studies.run("toy", ["n=4"], tmp_path / "whole")
    monkeypatch.setattr(f"{__name__}.square", Once(square, at=3))
    with pytest.raises(KeyboardInterrupt):
        studies.run("toy", ["n=4"], tmp_path / "a")
    lines = tmp_path / "a/items.jsonl"
    lines.write_text(lines.read_text() + '{"item": "item-2", "squ')
    (tmp_path / "a/.table.csv.12.tmp").write_text("half")
    made = Once(square, at=0)
    monkeypatch.setattr(f"{__name__}.square", made)
    assert rows_of(studies.run("toy", ["n=4"], tmp_path / "a")) == rows_of(whole)
    assert made.calls == 2 and names_of(tmp_path / "a") == [f"item-{i}" for i in range(4)]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == sorted(p.name for p in whole.iterdir())


def test_a_damaged_line_is_named(toys: None, tmp_path: Path) -> None:
    lines = studies.run("toy", [], tmp_path / "a") / "items.jsonl"
    lines.write_text("[]\n" + lines.read_text())
    with pytest.raises(RunError, match="line 1 is damaged"):
        studies.run("toy", [], tmp_path / "a")


def test_a_bench_counts_its_items(tmp_path: Path) -> None:
    said: list[str] = []

    class Said(Quiet):
        def say(self, text: str) -> None:
            said.append(text)

    def draw(path: Path) -> None:
        path.write_text("")

    with Bench("any", "about", {"a": (1,)}, tmp_path / "a", Said()) as bench:
        bench.begin(2, {}, {"topocell": "0", "torch": "0", "python": "0", "gpu": None, "cpu": "c", "threads": 1})
        assert bench.item("one", lambda x: {"value": x}, math.nan)["value"] is None
        assert bench.item("two", dict)["seconds"] >= 0
        bench.finish(Outcome([{"a|b": True, "c %": 1.0, "d": None}], draw, 1, notes=["A note."]))
    assert said[:3] == ["[1/2] one", "[2/2] two", "A note."]
    page = (tmp_path / "a/table.md").read_text()
    assert "| yes | 1.00 | — |" in page and "Options: a=[1]." in page and "\nA note.\n" in page
    files.lock(tmp_path / "a")()  # the lock was given back


# --- mistakes

ODD = ["compare", *TINY[:4], "--out", "new"]
MISTAKES: list[tuple[list[str], str]] = [
    (["fly", "--out", "new"], "No such command 'fly'"),
    (["depht", "--out", "new"], "Did you mean 'depth'?"),
    (["depth", "--out", "new"], "genotypes is required; give genotypes=VALUE"),
    (["depth"], "Missing option '--out'"),
    (["depth", "genotypes=absent.json", "--out", "new"], "absent.json: a genotype must be a file that can be read"),
    (["depth", "genotypes={place}", "--out", "new"], "a cell is in the genotype.json of a run directory, but"),
    (["depth", "genotypes=[{place}/cell.json,dots-c1]", "--out", "new"], "did you mean 'dots-c10'?"),
    (["depth", "genotypes=dots-c10,DOTS_C10", "--out", "new"], "'dots-c10' and 'DOTS_C10' are the same cell"),
    (["depth", "genotypes=darts-v2", "retrain.layers=3", "--out", "new"], "use layers=[..]"),
    (["depth", *TINY[:4], "genotypes=darts-v2", "retrain.max_parameters=9", "--out", "new"], "max_parameters"),
    (["shallow-final", "genotypes=p-dart", "--out", "new"], "did you mean 'p-darts'?"),
    (["shallow-final", "protocol=filter", "--out", "new"], "every cell is trained both ways here"),
    (["shallow-final", "seeds=0,1", "shallow.seeds=0", "--out", "new"], "sets them for both networks"),
    (["shallow-final", "seeds=[0,0]", "--out", "new"], "'0' is named again"),
    (["depth", "genotypes={place}/cell.json", "layers=[0]", "--out", "new"], "layers.0: input should be greater"),
    (["depth", "genotypes={place}/cell.json", "layers=[2,2]", "--out", "new"], "'2' is named again"),
    (["depth", "genotypes={place}/cell.json", "layers=[]", "--out", "new"], "layers: "),
    (["depth", "genotypes={place}/cell.json", "layrs=[2]", "--out", "new"], "'layrs' (did you mean 'layers'?)"),
    (["depth", "genotypes={place}/cell.json", "retrain_as=dotz", "--out", "new"], "did you mean 'dots'?"),
    (["topology-average", "--out", "new"], "none is named; give table=PATH or set TOPOCELL_NASBENCH201"),
    (["topology-average", "table=absent.csv", "--out", "new"], "cannot read the table 'absent.csv'"),
    (["topology-average", "table={place}/table.csv", "columns=c", "--out", "new"], "but not 'c'"),
    (["topology-average", "table={place}/table.csv", "--budget", "smoke", "--out", "new"], "unknown option 'budget'"),
    (
        ["topology-average", "retrain.epochs=1", "--out", "new"],
        "unknown option 'retrain.epochs'; it takes table, columns",
    ),
    (ODD, "recipes is required"),
    ([*ODD, "recipes=dotz"], "unknown recipe 'dotz' (did you mean 'dots'?)"),
    ([*ODD, "recipes=[dots, dots]"], "'dots' is named again"),
    ([*ODD, "recipes=dots", "seed=3"], "use seeds=[..]"),
    ([*ODD, "recipes=[dots seed=3]"], "use seeds=[..]"),
    ([*ODD, "recipes=[dots 'x]"], "No closing quotation"),
    ([*ODD, "recipes=[dots"], "the value must be YAML"),
    ([*ODD, "recipes=dots", "seeds=[-1]"], "seeds.0: input should be greater than or equal to 0, but got -1"),
    (
        [*ODD, "recipes=dots", "seeds=a"],
        "error: study compare: seeds.0: input should be a valid integer, but got 'a'\n",
    ),
    ([*ODD, "recipes=dots", "seeds=[]"], "error: study compare: seeds: list should have at least 1 item, but got []\n"),
    (
        [*ODD, "recipes=dots", "budget=paper"],
        "budget is given once, but got 'paper' and 'smoke'; leave one of them out",
    ),
    (
        ["depth", "genotypes=2024", "--out", "new"],
        "genotypes.0: input should be text, but got 2024; write it in quotes",
    ),
    (["shallow-final", "retrain_as=2024", "--out", "new"], "unknown recipe '2024'"),
    ([*ODD, "recipes=dots", "epochs"], "an option has the form key=value, but got 'epochs'"),
    ([*ODD, "recipes=dots", "retrain.epoch=1"], "retrain.epoch: unknown key (did you mean 'retrain.epochs'?)"),
    ([*ODD, "recipes=dots", "sedes=[0]", "recipe=dots"], "'sedes' (did you mean 'seeds'?)"),
    ([*ODD, "recipes=dots", "data.dataset=folder", "data.root=absent"], "absent"),
    ([*ODD, "recipes=dots", "space=dartz"], "unknown space 'dartz'"),
    (["topology-search", *TINY, "recipes=darts-v1", "stage=search", "--out", "new"], "a topology search follows"),
    (["topology-search", *TINY, "stage=operation", "--out", "new"], "selection.stage is one of operations,"),
    (["topology-search", *TINY, "selection.stage=topology", "--out", "new"], "selection.stage is set by this study"),
    (["stability", *TINY[:4], "epochs=[1,9]", "--out", "new"], "epochs must be within the search"),
    (["edge-ranking", *TINY[:4], "space.nodes=1", "--out", "new"], "ranking needs a last node with three inputs"),
    (["cost-front", *TINY[:4], "weights=[0,-1]", "--out", "new"], "weights.1: input should be greater"),
    (["cost-front", *TINY[:4], "weights=[1,1]", "--out", "new"], "'1' is named again"),
    (["cost-front", *TINY[:4], "measure=flops", "--out", "new"], "measure: input should be 'parameters'"),
    (["cost-front", *TINY[:4], "search.cost.weight=1", "--out", "new"], "use weights=[..]"),
    (["cost-front", *TINY[:4], "target=1", "--out", "new"], "search.cost.target is at least the cost of the cheapest"),
    (["cost-front", *TINY[:4], "retrain.parameters=9000", "--out", "new"], "cost-front compares cells at equal"),
    (["cost-front", *TINY[:4], "recipes=random", "--out", "new"], "no stage of the search updates them"),
    (["views", "--budget", "tiny", "--out", "new"], "'tiny' is not one of"),
]


@pytest.mark.parametrize(("argv", "words"), MISTAKES, ids=[" ".join(argv[:3] + argv[-1:]) for argv, _ in MISTAKES])
def test_a_mistake_is_one_line_and_nothing_is_written(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, argv: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["study", *(word.format(place=place) for word in argv)]) == 2
    out, error = capsys.readouterr()
    assert error.startswith("error: ") and error.count("\n") == 1 and words in error
    assert "Traceback" not in out + error and list(tmp_path.iterdir()) == []


def test_all_faults_of_options_at_once() -> None:
    with pytest.raises(RecipeError, match=r"study depth: .*'a'.*'layrs'.*genotypes is required"):
        parse("depth", STUDIES["depth"].options, ["a", "layrs=3"])
    with pytest.raises(RecipeError, match=r"unknown study 'depht' \(did you mean 'depth'\?\)"):
        studies.run("depht", [], "new")


def test_no_option_hides_a_key_of_recipes() -> None:
    for row in STUDIES.values():
        assert issubclass(row.options, Options) and not set(row.options.listed()) & set(Recipe.model_fields)
        assert all(field.description for field in row.options.listed().values())


# --- help


@pytest.mark.parametrize("name", STUDIES)
def test_help_shows_options_and_an_example_that_works(name: str, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    assert main(["study", name, "--help"]) == 0
    text = capsys.readouterr().out
    for option in [*STUDIES[name].options.listed(), "--out", "--budget", "--quiet"]:
        assert option in text
    example = next(line.strip() for line in text.splitlines() if line.strip().startswith(f"topocell study {name} "))
    words = shlex.split(example)[3:]
    assert words[-2] == "--out"
    values = [word for word in words[:-2] if "=" in word]
    values += [f"budget={words[words.index('--budget') + 1]}"] if "--budget" in words else []
    options = parse(name, STUDIES[name].options, values)
    if hasattr(options, "arms"):
        assert options.arms()


#: Studies as pages of methods write them, at the paper's scale: too long to run, so that they are only resolved.
WRITTEN = [
    line
    for page in ("toponas", "stretchable", "edarts")
    for line in (Path(__file__).parents[3] / f"docs/methods/{page}.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("topocell study ")
]


def test_pages_of_methods_write_studies() -> None:
    assert len(WRITTEN) >= 15


@pytest.mark.parametrize("line", WRITTEN, ids=lambda line: line.rsplit("/", 1)[-1])
def test_a_written_study_resolves_every_recipe(line: str) -> None:
    _, _, name, *words = shlex.split(line)
    assert words[-2] == "--out" and (STUDIES[name].source or name == "compare")
    options: Any = parse(name, STUDIES[name].options, [*words[:-2], *(["seeds=0"] if name != "depth" else [])])
    if name != "depth":  # of a run that is not there
        arms = options.arms()
        assert len({arm.label for arm in arms}) == len(arms) == len(options.recipes)
        assert all(arm.any.data.download for arm in arms)


def test_the_list_names_every_study(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    assert main(["study", "list"]) == 0
    out = capsys.readouterr().out
    for name, row in STUDIES.items():
        assert re.search(rf"│ {name} +│ {re.escape(row.about)} +│ {re.escape(row.source)} +│", out)


# --- topology-average


def test_averages_of_a_planted_table(place: Path, done: Callable[[str], Path]) -> None:
    rows = rows_of(done("topology-average"))
    assert len(rows) == 64 and len({row["wiring"] for row in rows}) == 64
    for row in rows:
        edges = int(row["edges"])
        assert int(row["architectures"]) == 4**edges
        without = "0→2" not in row["wiring"]
        assert float(row["cifar10_test_200ep %"]) == pytest.approx(40 + 5 * edges + without)
        assert float(row["imagenet16_test_12ep %"]) == pytest.approx((40 + 5 * edges + without) / 2)
    by_name = {row["wiring"]: row for row in rows}
    reached = {name for name, row in by_name.items() if row["output reached"] == "True"}
    assert "0→3" in reached and "0→1 1→2 2→3" in reached
    assert not reached & {"no edge", "0→1 0→2 1→2", "1→2 1→3 2→3", "0→1 2→3"}
    summary = json.loads((done("topology-average") / "study.json").read_text())["summary"]["best mean by edges"]
    planted_best = {6: 70.0, **{k: 41.0 + 5 * k for k in range(6)}}
    assert summary["cifar10_test_200ep"] == {str(k): pytest.approx(v) for k, v in planted_best.items()}
    assert summary["imagenet16_test_12ep"] == {str(k): pytest.approx(v / 2) for k, v in planted_best.items()}
    assert (
        "The table has no column imagenet16_test_200ep: imagenet16_test_12ep is taken, accuracies after 12 epochs of "
        "training.\n"
    ) in (done("topology-average") / "table.md").read_text()


def test_a_panel_for_each_column_that_a_table_has() -> None:
    cifar, late, early = "cifar10_test_200ep", "imagenet16_test_200ep", "imagenet16_test_12ep"
    assert topology_average.chosen([late, cifar, early]) == ([cifar, late], [])
    assert topology_average.chosen([cifar]) == (
        [cifar],
        ["The table has no column of ImageNet16-120: its panel is left out."],
    )
    columns, said = topology_average.chosen([cifar, early])
    assert columns == [cifar, early] and len(said) == 1
    assert topology_average.chosen([])[0] == []
    options: Any = parse("topology-average", STUDIES["topology-average"].options, ["columns=c"])
    assert options.columns == ("c",)


@pytest.mark.skipif(not REAL_TABLE, reason=f"{setup.GROUND_TRUTH_VARIABLE} does not name the NAS-Bench-201 table")
def test_topology_average_of_the_benchmark(tmp_path: Path) -> None:
    """TopoNAS, Figure 1, CIFAR-10 after 200 epochs."""
    studies.run("topology-average", [f"table={REAL_TABLE}"], tmp_path / "a")
    found = json.loads((tmp_path / "a/study.json").read_text())["summary"]["best mean by edges"]
    assert list(found) == ["cifar10_test_200ep", "imagenet16_test_12ep"]
    best = found["cifar10_test_200ep"]
    assert [round(best[k], 2) for k in ("6", "5", "4")] == [89.43, 89.81, 89.85]
    assert best["4"] == max(best.values())


def test_the_environment_names_the_table(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(setup.GROUND_TRUTH_VARIABLE, str(place / "table.csv"))
    studies.run("topology-average", [], tmp_path / "a")
    assert len(rows_of(tmp_path / "a")) == 64
    with pytest.raises(DataError, match="cannot read the table"):
        studies.run("topology-average", ["table=absent"], tmp_path / "b")


# --- edge-ranking


def test_pairs_are_weighed_by_their_probability() -> None:
    """DOTS: ten pairs enter the last node of the DARTS cell; β in order gives weights in order."""
    topology = {"name": "subsets", "view": "target", "sizes": 2}
    arch = ArchState(spaces.get("darts", nodes=4), topology=topology)
    with torch.no_grad():
        arch.beta["normal"].copy_(torch.arange(20.0) / 3)
    _, weights = edge_ranking.pair_weights(arch, "normal")
    assert list(weights) == [(a, b) for a in range(9, 14) for b in range(a + 1, 14)]
    values = list(weights.values())
    assert values == sorted(values) and sum(values) == pytest.approx(1)
    assert values[-1] / values[0] == pytest.approx(math.exp(3))
    arch.edge_temperature = 0.001
    assert list(edge_ranking.pair_weights(arch, "normal")[1].values()) == values


def test_sets_of_any_size_are_weighed_by_their_pairs_alone() -> None:
    topology = {"name": "subsets", "view": "target", "sizes": "any"}
    arch = ArchState(spaces.get("darts", nodes=2), topology=topology, init=0.0)
    _, weights = edge_ranking.pair_weights(arch, "normal")
    assert weights == {pair: pytest.approx(1 / 7) for pair in ((2, 3), (2, 4), (3, 4))}


def test_pairs_are_weighed_by_their_operations() -> None:
    """DARTS: an edge counts as much as its strongest operation besides none."""
    arch = ArchState(spaces.get("darts", nodes=2, candidates=["none", "skip_connect", "sep_conv_3x3"]), init=0.0)
    with torch.no_grad():
        arch.alpha["normal"][2, 0] = 9.0  # none
        arch.alpha["normal"][3, 1] = 2.0
        arch.alpha["normal"][4, 2] = 1.0
    _, weights = edge_ranking.pair_weights(arch, "normal")
    e2, e1, none = math.exp(2), math.exp(1), 1 / (2 + math.exp(9))
    assert weights[3, 4] == pytest.approx(e2 / (e2 + 2) + e1 / (e1 + 2))
    assert weights[2, 3] == pytest.approx(none + e2 / (e2 + 2))


def test_every_pair_has_its_cell(done: Callable[[str], Path]) -> None:
    folder = done("edge-ranking")
    search, *pairs = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    assert search["item"] == "dots-seed-0-search" and len(pairs) == 3
    arch = finished_search(folder / "runs" / search["item"]).learner.arch
    assert [len(found["inputs"]) for found in search["pairs"]] == [2, 2, 2]
    assert sorted(found["inputs"] for found in search["pairs"]) == [[0, 1], [0, 2], [1, 2]]
    cells = [Genotype.from_dict(found["genotype"]) for found in search["pairs"]]
    for found, cell, record in zip(search["pairs"], cells, pairs, strict=True):
        *others, last = cell.cells["normal"].nodes
        assert [source for _, source in last] == found["inputs"]
        assert others == list(cells[0].cells["normal"].nodes[:-1])
        assert cell.cells["reduce"] == cells[0].cells["reduce"] and "none" not in dict(last)
        assert Genotype.from_dict(record["genotype"]) == cell
    assert sum(found["derived"] for found in search["pairs"]) == 1
    chosen = max(search["pairs"], key=lambda found: found["weight"])
    decoded = arch.topologies["normal"].decode(arch.beta["normal"])
    assert chosen["derived"] and chosen["inputs"] == [arch.space.cells["normal"].edges[e][0] for e in decoded[-2:]]


def test_a_ranking_that_is_right_has_tau_one(
    place: Path, tmp_path: Path, done: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(done("edge-ranking"), tmp_path / "a")
    lines = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    order = sorted(found["weight"] for found in lines[0]["pairs"])
    for found, record in zip(lines[0]["pairs"], lines[1:], strict=True):
        for one in record["results"]["runs"]:
            one["last"] = 0.5 + 0.1 * order.index(found["weight"])
    (folder / "items.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert main(["study", "edge-ranking", *words_of("edge-ranking", place), "--quiet", "--out", str(folder)]) == 0
    found = json.loads((folder / "study.json").read_text())["summary"]["kendall_tau"]["dots, seed 0"]
    assert found["tau"] == pytest.approx(1.0) and found["pairs"] == 3
    assert "Kendall's τ 1.00" in (folder / "table.md").read_text()


def test_lists_need_no_brackets() -> None:
    words = ["recipes=dots,darts-v1", "seeds=0,2", "data.root=a,b", "retrain.seeds=1,2"]
    options: Any = parse("compare", STUDIES["compare"].options, words)
    assert (options.recipes, options.seeds) == (("dots", "darts-v1"), (0, 2))
    recipe = options.recipe("dots")
    assert (recipe.data.root, recipe.retrain.seeds) == ("a,b", (1, 2))


def test_the_paper_retrains_for_300_epochs() -> None:
    options: Any = parse("edge-ranking", STUDIES["edge-ranking"].options, [])
    assert options.recipes == ("darts-v1", "dots") and options.budget == "paper"
    assert edge_ranking.PUBLISHED_EPOCHS == 300


# --- depth, stability, compare


def test_depth_changes_the_depth_alone(done: Callable[[str], Path]) -> None:
    first, second = rows_of(done("depth"))
    assert (first["layers"], second["layers"]) == ("1", "2")
    assert int(first["parameters"]) < int(second["parameters"])
    recipes = [(done("depth") / f"runs/cell-{KEY}-layers-{n}/recipe.yaml").read_text() for n in (1, 2)]
    assert recipes[0].replace("layers: 1\n", "layers: 2\n") == recipes[1]


def test_depth_of_a_run_takes_its_recipe(
    done: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The figure has an open marker where the network is as deep as the supernet was."""
    drawn: list[Curve] = []
    monkeypatch.setattr(_plots, "curves", lambda lines, x, y, path: (drawn.extend(lines), path.touch()))
    run = done("compare") / "runs/random-1-seed-3"
    studies.run("depth", [f"genotypes={run}", "layers=[3,2]", "budget=smoke"], tmp_path / "a")
    found = Genotype.load(run / "genotype.json")
    item = tmp_path / f"a/runs/cell-{found.key}-layers-3"
    recipe = (item / "recipe.yaml").read_text()
    assert "name: random" in recipe and "images: 24" in recipe
    assert Genotype.load(item / "genotype.json") == found
    assert [(row["genotype"], row["layers"], row["search layers"]) for row in rows_of(tmp_path / "a")] == [
        (str(run), n, "3") for n in ("3", "2")
    ]
    assert [(line.x, line.open) for line in drawn] == [([2, 3], [3])] * 2


def test_depth_of_several_cells(
    done: Callable[[str], Path], place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cells and depths are added to a finished study; a published cell stands beside what its paper reports."""
    drawn: list[list[Curve]] = []
    monkeypatch.setattr(_plots, "curves", lambda lines, x, y, path: (drawn.append(lines), path.touch()))
    folder = shutil.copytree(done("depth"), tmp_path / "a")
    retrain = Once(api.retrain, at=0)
    monkeypatch.setattr(api, "retrain", retrain)
    words = [*TINY[2:4], "budget=smoke", f"genotypes=[{place}/cell.json, darts-v2]", "layers=[1,2,10]"]
    studies.run("depth", words, folder)
    rows = rows_of(folder)
    assert retrain.calls == 4  # two of six were there
    assert [(row["genotype"], row["layers"]) for row in rows] == [
        (name, n) for name in (f"{place}/cell.json", "darts-v2") for n in ("1", "2", "10")
    ]
    assert [row["published %"] for row in rows] == [""] * 5 + ["96.98"]
    assert [line.label for line in drawn[0]] == [clipped(f"{place}/cell.json"), "darts-v2"]
    items = items_of(folder)
    for row in rows:
        item = items[f"{row['genotype'] if row['genotype'] == 'darts-v2' else f'cell-{KEY}'}-layers-{row['layers']}"]
        assert float(row["accuracy %"]) == 100 * item["results"]["last_mean"]
        assert int(row["parameters"]) == item["results"]["parameters"]


def test_shallow_and_final_accuracy(done: Callable[[str], Path], place: Path) -> None:
    folder = done("shallow-final")
    items, rows = items_of(folder), rows_of(folder)
    cells = (f"cell-{KEY}", "darts-v1")
    assert names_of(folder) == [f"{cell}-{kind}" for kind in ("shallow", "final") for cell in cells]
    for cell, row in zip(cells, rows, strict=True):
        for kind, layers in (("shallow", 2), ("final", 3)):
            item = items[f"{cell}-{kind}"]
            assert float(row[f"{kind} %"]) == 100 * item["results"]["last_mean"]
            assert int(row[f"{kind} parameters"]) == item["results"]["parameters"]
            recipe = (folder / f"runs/{cell}-{kind}/recipe.yaml").read_text()
            assert f"  layers: {layers}" in recipe
    assert [row["published shallow %"] for row in rows] == ["", "90.14"]
    assert [row["published final %"] for row in rows] == ["", "97.0"]


def test_what_shallow_final_trains_by_default() -> None:
    """eDARTS, Table III, and Section IV-A."""

    def options(*words: str) -> Any:
        return parse("shallow-final", STUDIES["shallow-final"].options, words)

    cells = named_cells(options().genotypes)
    table = {"darts-v1": (90.14, 97.00), "darts-v2": (91.37, 97.24), "p-darts": (92.76, 97.50)}
    table["pc-darts-cifar"] = (93.00, 97.43)
    assert {c.label: (shallow_final.PUBLISHED[c.label], c.published_accuracy) for c in cells} == table
    both = options().both()
    shallow, final = both["shallow"].retrain, both["final"].retrain
    assert (shallow.channels, shallow.layers, shallow.epochs, shallow.seeds) == (16, 5, 100, tuple(range(10)))
    assert (final.channels, final.layers, final.epochs, final.seeds) == (36, 20, 600, (0,))
    assert {recipe.protocol for recipe in both.values()} == {"full"}
    assert [recipe.retrain.seeds for recipe in options("seeds=3,4").both().values()] == [(3, 4)] * 2
    own = options("shallow.seeds=[0]", "retrain.seeds=1,2").both().values()
    assert [recipe.retrain.seeds for recipe in own] == [(0,), (1, 2)]


def test_named_cells(place: Path, tmp_path: Path) -> None:
    """A published cell keeps its name wherever it was saved, unless it was changed there."""
    known = named_cells(["darts-v2"])[0].genotype
    known.save(tmp_path / "same.json")
    (tmp_path / "run").mkdir()
    other = Genotype.from_dict({"format": 1, "space": "darts", "cells": {"normal": CELL, "reduce": CELL}})
    Genotype(other.space, other.cells, known.origin).save(tmp_path / "run/genotype.json")
    same, changed, text = named_cells([str(tmp_path / "same.json"), str(tmp_path / "run"), TEXT])
    assert (same.label, same.item, same.published_accuracy, same.recipe_path) == ("darts-v2", "darts-v2", 97.24, None)
    assert (changed.label, changed.item) == (str(tmp_path / "run"), f"cell-{KEY}")
    assert changed.published_accuracy is None and changed.recipe_path == tmp_path / "run/recipe.yaml"
    assert (text.label, text.item) == (text.genotype.key, f"cell-{text.genotype.key}")
    assert named_cells(["darts-pt-s1-svhn-1"])[0].published_accuracy is None


def test_the_front_has_the_cost_of_each_cell(done: Callable[[str], Path]) -> None:
    folder = done("cost-front")
    rows = rows_of(folder)
    assert [row["weight"] for row in rows] == ["0.0", "2.0"] and [row["n"] for row in rows] == ["2", "2"]
    items = items_of(folder)
    for row in rows:
        own = [item for name, item in items.items() if f"-weight-{float(row['weight']):g}-" in name]
        assert float(row["parameters"]) == sum(item["results"]["parameters"] for item in own) / 2
        assert float(row["multiply_adds"]) == sum(item["results"]["multiply_adds"] for item in own) / 2
    assert "True" in {row["on the front"] for row in rows}
    recipe = (folder / "runs/darts-v1-weight-2-seed-1/recipe.yaml").read_text()
    assert "weight: 2.0" in recipe and "measure: parameters" in recipe


def test_non_dominated_points() -> None:
    points = [(3.0, 9.0), (1.0, 5.0), (2.0, 5.0), (2.0, 8.0), (4.0, 9.0), (1.0, 4.0), (2.0, 8.0)]
    assert non_dominated(points) == [1, 3, 6, 0]


def test_stability_derives_what_the_search_saw(done: Callable[[str], Path]) -> None:
    folder = done("stability")
    rows = rows_of(folder)
    lines = (folder / "runs/darts-v1-seed-0-search/metrics.jsonl").read_text().splitlines()
    for row, line in zip(rows, lines, strict=True):
        cells = {"format": 1, "space": "darts", "cells": json.loads(line)["derived"]}
        assert row["cell"] == Genotype.from_dict(cells).key
        trained = Genotype.load(folder / f"runs/darts-v1-seed-0-cell-{row['cell']}/genotype.json")
        assert trained.key == row["cell"]
    assert len(names_of(folder)) == 1 + len({row["cell"] for row in rows})  # an equal cell is trained once


def test_both_cells_of_a_topology_search_rest_on_one_operation_search(
    done: Callable[[str], Path], tmp_path: Path
) -> None:
    """The logits of that stage have the bits of a search that ends with it, and edges of both cells its operations."""
    folder = done("topology-search")
    rows, item = rows_of(folder), items_of(folder)["dots-over-darts-seed-0-search"]
    every, without, within = (Genotype.from_dict(item[kind]) for kind in ("operations", "without", "with"))
    for name, whole in every.cells.items():
        assert [len(node) for node in whole.nodes] == [2, 3]
        for cell in (without.cells[name], within.cells[name]):
            assert [len(node) for node in cell.nodes] == [2, 2]
            assert all(set(mine) <= set(all_of) for mine, all_of in zip(cell.nodes, whole.nodes, strict=True))
    alone = ["search.stages.topology-warmup=null", "search.stages.topology=null", "selection.edges=magnitude"]
    api.search(load_recipe("dots-over-darts", [*TINY[2:], "retrain.seeds=[0]", *alone], budget="smoke"), tmp_path / "a")
    lines = [json.loads(line) for line in (tmp_path / "a/metrics.jsonl").read_text().splitlines()]
    both = (folder / "runs/dots-over-darts-seed-0-search/metrics.jsonl").read_text().splitlines()
    assert len(both) > len(lines) and lines[-1]["stage"] == "operations"
    for line, text in zip(lines, both):
        assert line["architecture"] == json.loads(text)["architecture"]
    assert without.cells == api.select(tmp_path / "a").cells
    accuracy = {}
    for kind, cell in (("without", without), ("with", within)):
        run = folder / f"runs/dots-over-darts-seed-0-cell-{cell.key}"
        assert Genotype.load(run / "genotype.json").cells == cell.cells
        accuracy[kind] = 100 * json.loads((run / "results.json").read_text())["last_mean"]
    for row, kind in zip(rows, ("without", "with"), strict=True):
        assert (row["topology search"], row["n"], row["paper %"]) == (kind, "1", "")  # on digits
        assert float(row["accuracy %"]) == pytest.approx(accuracy[kind])
        assert float(row["difference %"]) == pytest.approx(accuracy[kind] - accuracy["without"])
    recipes = {path.parent.name: path.read_text() for path in folder.glob("runs/*/recipe.yaml")}
    assert len(set(recipes.values())) == 1  # equal training
    for kind in ("operations", "without", "with"):
        assert (folder / f"cells-dots-over-darts-{kind}.svg").stat().st_size > 1000


def test_the_published_pairs_are_those_that_recipes_aim_at() -> None:
    for (name, dataset), (without, within) in PUBLISHED.items():
        assert without < within
        if dataset == "cifar10":
            assert f"{within:.2f}" in load_recipe(name).published and f"{without:.2f}" in recipe_text(name)


def test_comparison_of_recipes(done: Callable[[str], Path]) -> None:
    folder = done("compare")
    first, second = rows_of(folder)
    assert (first["recipe"], second["recipe"]) == ("random", "random search.channels=2")
    accuracy = {}
    for arm in (1, 2):
        results = [json.loads((folder / f"runs/random-{arm}-seed-{s}/results.json").read_text()) for s in (0, 3)]
        assert [result["n"] for result in results] == [1, 1]
        accuracy[arm] = np.array([100 * result["last_mean"] for result in results])
    for arm, row in ((1, first), (2, second)):
        assert float(row["accuracy %"]) == pytest.approx(accuracy[arm].mean())
        assert float(row["± %"]) == pytest.approx(accuracy[arm].std(ddof=1))
        assert float(row["difference %"]) == pytest.approx((accuracy[arm] - accuracy[1]).mean())
        assert row["n"] == "2"


def test_pairs_of_recipes(done: Callable[[str], Path]) -> None:
    """Tables 7 and 8 of TopoNAS: each of the recipes with its counterpart."""
    assert [row["recipe"] for row in rows_of(done("views"))] == [
        "toponas-fixed-darts",
        "toponas-input-view",
        "darts-v1",
    ]
    views: Any = parse("views", STUDIES["views"].options, [])
    assert [(arm.any.name, arm.any.selection.edges) for arm in views.arms()] == [
        ("toponas-fixed-darts", "topology"),
        ("toponas-input-view", "topology"),
        ("darts-v2", load_recipe("darts-v2").selection.edges),
        ("darts-v2", "magnitude-outgoing"),
    ]
    rows = rows_of(done("joint"))
    names = ["toponas-fixed-darts", "toponas-joint", "toponas-arbitrary-darts", "toponas-joint-arbitrary"]
    assert [row["recipe"] for row in rows] == names
    errors = [re.search(r"error ([\d.]+)", row["published"]) for row in rows]
    assert [found and found[1] for found in errors] == ["2.72", "3.01", "2.67", "3.08"]


def test_cells_with_a_known_accuracy_are_looked_up(place: Path, tmp_path: Path) -> None:
    words = ["budget=smoke", *TINY[2:4], "recipes=[nb201-darts]", "seeds=[0]"]
    words += [f"ground_truth.table={place / 'table.csv'}"]
    studies.run("compare", words, tmp_path / "a")
    (row,) = rows_of(tmp_path / "a")
    genotype = Genotype.load(tmp_path / "a/runs/nb201-darts-seed-0/genotype.json")
    assert float(row["accuracy %"]) == pytest.approx(planted(genotype.to_nasbench201())) and row["parameters"] == ""
    genotype.save(tmp_path / "found.json")
    with pytest.raises(RecipeError, match="depth retrains cells"):
        studies.run(
            "depth",
            [*words[:3], words[-1], "retrain_as=nb201-darts", f"genotypes={tmp_path / 'found.json'}"],
            tmp_path / "b",
        )


def test_images_are_told_by_their_fingerprint_and_not_by_their_place(tmp_path: Path) -> None:
    """A study goes on with the same images elsewhere, on another device too, and says so where they are others."""

    def begin(root: str, fingerprint: str, measure: str = "parameters", **options: Any) -> None:
        recipe: dict[str, Any] = {
            "data": {"dataset": "folder", "root": root, "workers": len(root)},
            "seed": 0,
            "device": root[:1],
        }
        recipe |= {"on_nan": root, "search": {"cost": {"measure": measure}, "stages": {"a": {}}}}
        asked = {"overrides": [f"data.root={root}", f"device={root[:1]}", "space.nodes=2"], **options}
        recipes = {"recipes": {"dots.data": recipe}, "runs": {"made/run.1": recipe}}
        with Bench("any", "about", asked, tmp_path / f"a {measure}", Quiet()) as bench:
            bench.begin(1, {**recipes, "data": {fingerprint: "folder"}}, {})

    begin("photos", "abc")
    begin("elsewhere/photos", "abc")
    before = (tmp_path / "a parameters/study.json").read_bytes()
    with pytest.raises(
        RunError, match=r"a study resumes with the images it began with, but those of .* changed; restore"
    ):
        begin("photos", "xyz")
    with pytest.raises(RunError, match=r"belongs to another study .*options\.number is None there and 2"):
        begin("photos", "abc", number=2)
    assert (tmp_path / "a parameters/study.json").read_bytes() == before
    begin("photos", "abc", "latency")
    begin("pictures", "abc", "latency")
    with pytest.raises(RunError, match=r"first difference: inputs\.recipes\.dots\.data\.device is 'p' there and 'e'"):
        begin("elsewhere/photos", "abc", "latency")

"""Wirings: how many there are, their names, edges that do not exist, and the study that ranks them."""

import functools
import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.studies import names_of, rows_of

from topocell import ArchState, Genotype, Supernet, spaces, studies, topology
from topocell.cli import main
from topocell.config.load import load_recipe
from topocell.config.search import SearchPlan
from topocell.data import splits
from topocell.errors import RecipeError, RunError, SpaceError
from topocell.reporting.terminal import Quiet
from topocell.searching.loop import Search
from topocell.selection.rules import derive
from topocell.studies._items import Bench
from topocell.studies.wirings import agreement, edges_of, in_words, inputs_of_nodes, noise_of, uniform
from topocell.topology import Fixed
from topocell.topology.assignments import n_wirings, wirings
from topocell.topology.named_wirings import WIRINGS

DARTS = spaces.get("darts").cells["normal"]
TINY = ["budget=smoke", "data.images=24", "data.test_images=10"]


# --- enumeration


def test_the_darts_cell_has_180_wirings_and_two_cells_32400() -> None:
    """eDARTS, Section III-B: two inputs of 2, 3, 4 and 5 predecessors: 1·3·6·10."""
    assert n_wirings(DARTS, 2) == len(wirings(DARTS, 2)) == 180
    assert n_wirings(DARTS, 2) ** 2 == 32_400
    assert {len(edges) for edges in wirings(DARTS, 2)} == {8}  # of 14


@given(nodes=st.integers(1, 4), in_degree=st.integers(1, 4))
def test_every_wiring_is_there_once(nodes: int, in_degree: int) -> None:
    cell = spaces.get("darts", nodes=nodes).cells["normal"]
    every = wirings(cell, in_degree)
    assert len(set(every)) == len(every) == n_wirings(cell, in_degree)
    assert len(every) == math.prod(math.comb(n, min(n, in_degree)) for n in range(2, nodes + 2))
    for edges in every:
        assert list(edges) == sorted(set(edges))
        for node in cell.computed:
            assert len(set(edges) & set(cell.incoming(node))) == min(in_degree, len(cell.incoming(node)))


def test_inputs_and_edges_say_the_same() -> None:
    every = inputs_of_nodes(DARTS, 2)
    assert in_words(every[0]) == "01-01-01-01" and in_words(every[-1]) == "01-12-23-34"
    for inputs, edges in zip(every, wirings(DARTS, 2), strict=True):
        assert [DARTS.edges.index((s, d)) for s, d in edges_of(inputs)] == list(edges)


# --- by name


@pytest.mark.parametrize("name", WIRINGS)
def test_a_named_wiring_is_one_of_the_180(name: str) -> None:
    wiring = WIRINGS[name]
    assert wiring.inputs in inputs_of_nodes(DARTS, 2)
    assert wiring.origin.endswith(".")
    by_name, by_edges = (topology.build("fixed", DARTS, **o) for o in ({"wiring": name}, {"edges": wiring.edges()}))
    none = torch.empty(0)
    assert by_name.decode(none) == by_edges.decode(none) and len(by_name.decode(none)) == 8


def test_names_of_published_cells() -> None:
    """Liu et al., 2019, and Chen et al., 2019, normal cells."""
    assert WIRINGS["darts-v2"].edges() == [(0, 2), (1, 2), (0, 3), (1, 3), (0, 4), (1, 4), (0, 5), (2, 5)]
    assert WIRINGS["p-darts"].edges()[-4:] == [(1, 4), (3, 4), (0, 5), (4, 5)]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({}, RecipeError, "either edges or the name of a wiring"),
        ({"edges": [0, 1], "wiring": "edarts"}, RecipeError, "either edges or the name of a wiring"),
        ({"wiring": "edart"}, RecipeError, r"unknown wiring 'edart' \(did you mean 'edarts'\?\)"),
    ],
)
def test_mistakes_in_a_fixed_wiring(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Fixed(DARTS, **options)


def test_a_wiring_is_for_so_many_nodes() -> None:
    with pytest.raises(SpaceError, match="'edarts' is for 4 nodes and the cell has 2"):
        Fixed(spaces.get("darts", nodes=2).cells["normal"], wiring="edarts")


# --- edges that do not exist


def test_only_the_edges_of_the_wiring_are_in_the_supernet() -> None:
    given_data = splits.search_data(
        splits.load("digits", images=40, test_images=20), {"train": 0.5, "val": 0.5}, seed=0
    )
    edges = [[0, 2], [1, 2], [0, 3], [2, 3]]
    sizes = {"channels": 4, "layers": 3, "batch_size": 16, "evaluation_batches": 1}
    stage = {"name": "search", "epochs": 1, "topology": {"name": "fixed", "edges": edges}}
    space = spaces.get("darts", nodes=2)
    search = Search(SearchPlan.model_validate(sizes | {"stages": [stage]}), space, given_data)
    learner = search.run()
    for name in space.cells:
        live = learner.net.masks()[name].any(1).tolist()
        assert live == learner.arch.mask(name).any(1).tolist() == [True, True, True, False, True]
    left, whole = (sum(p.numel() for p in net.parameters()) for net in (learner.net, Supernet(space, 4, 3, 10, 1)))
    per_edge = {".".join(name.split(".")[:4]) for name in learner.net.per_edge_state_dict() if ".edges." in name}
    assert left < whole and {name.rpartition(".")[2] for name in per_edge} == {"0", "1", "2", "4"}
    for cell in derive(learner.arch, search.rules).cells.values():
        assert [[s, n] for n, pairs in enumerate(cell.nodes, 2) for _, s in pairs] == edges
    again = Search(search.plan, space, given_data)
    again.load_state_dict(search.state_dict())
    assert again.learner.net.masks()["normal"].tolist() == learner.net.masks()["normal"].tolist()


def test_a_later_stage_can_fix_the_wiring() -> None:
    """It goes on with the weights that stay."""
    given_data = splits.search_data(
        splits.load("digits", images=40, test_images=20), {"train": 0.5, "val": 0.5}, seed=0
    )
    sizes = {"channels": 4, "layers": 3, "batch_size": 16, "evaluation_batches": 1}
    fixed = {"name": "fixed", "epochs": 0, "topology": {"name": "fixed", "edges": [0, 1, 2, 4]}}
    stages = [{"name": "dense", "epochs": 1}, fixed]
    space = spaces.get("darts", nodes=2, candidates=("skip_connect", "sep_conv_3x3"))
    first, both = (
        Search(SearchPlan.model_validate(sizes | {"stages": some}), space, given_data).run().net
        for some in (stages[:1], stages)
    )
    whole, left = first.per_edge_state_dict(), both.per_edge_state_dict()
    gone = {name for name in whole if ".edges.3." in name}
    assert gone and left.keys() == whole.keys() - gone
    assert all(torch.allclose(left[name], whole[name], atol=1e-6) for name in left)


def test_a_fixed_wiring_has_the_weights_of_the_whole_supernet() -> None:
    """The wiring takes edges away; what is left starts as it would have."""
    edges = WIRINGS["edarts"].edges()
    arch = ArchState(spaces.get("darts"), topology={"name": "fixed", "wiring": "edarts"}, init=0.0)
    kept = [DARTS.edges.index(edge) for edge in edges]
    ops = arch()["normal"].ops.detach()
    assert torch.allclose(ops[kept], torch.full((8, 8), 1 / 8))
    assert float(ops.sum()) == pytest.approx(8) and int(arch.edges("normal").sum()) == 8


# --- recipes


def test_the_published_search() -> None:
    """eDARTS, Sections III-C to IV-E."""
    recipe = load_recipe("edarts")
    (stage,) = recipe.search.stages
    assert (recipe.search.channels, recipe.search.layers, recipe.search.batch_size) == (16, 5, 64)
    assert (stage.epochs, stage.level, stage.arch_every) == (50, "unrolled", "epoch")
    assert {name: 50_000 * share for name, share in recipe.data.splits.items()} == {"train": 2500, "val": 2500}
    assert recipe.data.images is None  # the retraining has all of them
    offset = {"sep_conv_3x3": 6e-4, "sep_conv_5x5": 4e-4, "dil_conv_5x5": -6e-4, "dil_conv_3x3": -4e-4}
    assert stage.relaxation.model_dump() == {"name": "softmax", "offset": offset}
    assert stage.topology.model_dump() == {"name": "fixed", "wiring": "edarts"}
    final = recipe.retrain
    assert (final.channels, final.layers, final.batch_size, final.drop_path, final.epochs) == (32, 20, 96, 0.3, 600)
    small = recipe.shallow
    assert (small.channels, small.layers, small.epochs, small.batch_size, small.drop_path) == (16, 5, 100, 64, 0.2)
    assert (small.cutout, small.auxiliary, len(small.seeds), small.threshold) == (0, 0.0, 10, 0.93)
    assert load_recipe("edarts-c100").data.dataset == "cifar100"
    assert load_recipe("edarts-no-attention").search.stages[0].relaxation.model_dump() == {"name": "softmax"}


@pytest.mark.parametrize(
    ("name", "images", "every", "layers"),
    [
        ("darts-v2", 25_000, "step", 8),
        ("darts-subset", 2500, "step", 8),
        ("darts-sparse", 25_000, "epoch", 8),
        ("darts-subset-sparse", 2500, "epoch", 8),
    ],
)
def test_the_ablation_changes_images_and_updates_alone(name: str, images: int, every: str, layers: int) -> None:
    recipe = load_recipe(name)
    assert recipe.data.splits["train"] * 50_000 == images and recipe.search.layers == layers
    (stage,), (plain,) = recipe.search.stages, load_recipe("darts-v2").search.stages
    assert stage.arch_every == every and stage.model_copy(update={"arch_every": "step"}) == plain


def test_the_search_for_separable_convolutions_is_the_improved_one_in_16_cells() -> None:
    """Section IV-F: all 14 edges; whether the cell is retrained in full is decided beforehand, over ten searches."""
    recipe, improved = load_recipe("edarts-ss3"), load_recipe("darts-subset-sparse")
    cell = spaces.get(recipe.space.name).cells["normal"]
    assert cell.candidates[0] == ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5")
    assert (cell.n_edges, recipe.search.layers) == (14, 16)
    assert recipe.search.model_copy(update={"layers": 8}) == improved.search
    assert (recipe.data, recipe.retrain, recipe.selection) == (improved.data, improved.retrain, improved.selection)


# --- the study


def test_cells_of_one_operation() -> None:
    cell = Genotype("darts", dict.fromkeys(("normal", "reduce"), uniform(((0, 1), (0, 2)), "sep_conv_3x3")))
    assert cell.to_dict()["cells"]["normal"]["nodes"][1] == [["sep_conv_3x3", 0], ["sep_conv_3x3", 2]]
    assert cell.operations("reduce") == {"sep_conv_3x3": 4}


def test_noise_is_told_by_cells_that_occur_twice() -> None:
    """Node 4 may take node 2 or node 3 where these two are alike: the same cell under another numbering."""
    pairs = [((0, 1), (0, 1), (0, 2)), ((0, 1), (0, 1), (0, 3)), ((0, 1), (0, 1), (0, 1))]
    cells = {w: Genotype("darts", dict.fromkeys(("normal", "reduce"), uniform(w, "skip_connect"))) for w in pairs}
    assert cells[pairs[0]].key == cells[pairs[1]].key != cells[pairs[2]].key
    found = noise_of(dict(zip(pairs, (50.0, 52.0, 55.0))), cells)
    assert found["within"] == pytest.approx(math.sqrt(2)) and found["cells"] == 2
    assert found["between"] == pytest.approx(4 / math.sqrt(2))
    assert noise_of({pairs[0]: 1.0}, cells) == {"within": None, "between": None, "cells": 1}


def test_agreement_of_rankings() -> None:
    assert agreement([1, 2, 3, 4], [10, 20, 30, 40]) == {"kendall": pytest.approx(1), "spearman": pytest.approx(1)}
    assert agreement([1, 2, 3], [3, 2, 1]) == {"kendall": pytest.approx(-1), "spearman": pytest.approx(-1)}
    found = agreement([1, 2, 3, 4], [1, 3, 2, 4])
    assert (found["kendall"], found["spearman"]) == (pytest.approx(4 / 6), pytest.approx(0.8))
    assert agreement([1, 1], [1, 2]) == {"kendall": None, "spearman": None}


def test_a_ranking_by_two_processes_equals_that_of_one(tmp_path: Path) -> None:
    words = [*TINY, "nodes=2", "again=0", "shallow.epochs=1"]
    studies.run("wirings", words, tmp_path / "one")
    studies.run("wirings", words, tmp_path / "two", workers=2)
    assert rows_of(tmp_path / "one") == rows_of(tmp_path / "two")


def test_every_wiring_is_trained_the_best_again_and_all_by_proxies(tmp_path: Path) -> None:
    words = [*TINY, "nodes=2", "again=1", "proxies=['data.images=20']", "shallow.epochs=1"]
    studies.run("wirings", words, tmp_path / "study")
    items = [json.loads(line) for line in (tmp_path / "study/items.jsonl").read_text().splitlines()]
    names = [in_words(w) for w in inputs_of_nodes(spaces.get("darts", nodes=2).cells["normal"], 2)]
    assert sorted(item["item"] for item in items) == sorted(
        [*names, *(f"proxy-1-{n}" for n in names), *again_of(items)]
    )
    assert len(again_of(items)) == 1
    by_name = {item["item"]: Genotype.from_dict(item["genotype"]) for item in items}
    for name in names:
        cell = by_name[name]
        assert set(cell.operations("normal")) == {"sep_conv_3x3"} and set(cell.operations("reduce")) == {"max_pool_3x3"}
        assert cell.cells["reduce"] == by_name[names[0]].cells["reduce"]
    for name in again_of(items):
        cell = by_name[name]
        assert cell.cells["normal"] == cell.cells["reduce"] == by_name[name.removeprefix("again-")].cells["normal"]
    stated = json.loads((tmp_path / "study/study.json").read_text())
    best = stated["summary"]["best"]
    means = {i["item"]: i["results"]["last_mean"] for i in items if i["item"].startswith("again-")}
    assert means[f"again-{best['wiring']}"] == max(means.values())
    Fixed(spaces.get("darts", nodes=2).cells["normal"], edges=best["edges"])
    words = shlex.split(stated["notes"][-2].partition("topocell run ")[2])
    stage = load_recipe(words[0], words[1:]).search.stages[0]
    assert stage.topology.model_dump() == {"name": "fixed", "edges": best["edges"]}
    assert set(stated["summary"]["proxies"]) == {"data.images=20"}


def test_a_finished_ranking_goes_on_with_more_of_the_best_and_more_proxies(tmp_path: Path) -> None:
    words = [*TINY, "nodes=2", "shallow.epochs=1"]
    more = [*words, "again=2", "proxies=['data.images=20']"]
    studies.run("wirings", [*words, "again=1"], tmp_path / "grown")
    before = names_of(tmp_path / "grown")
    studies.run("wirings", more, tmp_path / "grown")
    studies.run("wirings", more, tmp_path / "whole")
    after = names_of(tmp_path / "grown")
    assert after[: len(before)] == before and sorted(after) == sorted(names_of(tmp_path / "whole"))
    assert rows_of(tmp_path / "grown") == rows_of(tmp_path / "whole")
    stated = (tmp_path / "grown/study.json").read_bytes()
    assert json.loads(stated)["options"]["again"] == 2 and len(json.loads(stated)["summary"]["again"]) == 2
    others = {
        "options.again is 2 there and 1 here": [*words, "again=1", "proxies=['data.images=20']"],
        "options.proxies is ['data.images=20'] there and ['data.images=18'] here": [
            *more[:-1],
            "proxies=data.images=18",
        ],
        "options.nodes is 2 there and 3 here": [*more, "nodes=3"],
        "options.overrides is": [*more, "shallow.channels=6"],
    }
    for fault, asked in others.items():
        with pytest.raises(RunError, match=re.escape(fault)):
            studies.run("wirings", asked, tmp_path / "grown")
    assert (tmp_path / "grown/study.json").read_bytes() == stated


def test_a_ranking_on_other_images_is_another_study(tmp_path: Path) -> None:
    bench = functools.partial(Bench, "wirings", "", path=tmp_path, display=Quiet(), growing={"proxies"})
    with bench(options={"proxies": []}) as first:
        first.begin(1, {"data": {"a": "folder"}}, {})
    for images in ({"b": "folder"}, {"b": "folder", "c": "folder"}, {"a": "other", "b": "folder"}):
        words = r"a study resumes with the images it began with, but those of .* changed"
        with pytest.raises(RunError, match=words), bench(options={"proxies": ["x=1"]}) as other:
            other.begin(1, {"data": images}, {})
    with bench(options={"proxies": ["x=1"]}) as more:
        more.begin(1, {"data": {"a": "folder", "b": "folder"}}, {})


@pytest.mark.parametrize(
    ("options", "inputs"),
    [
        ({}, {"data": {"a": "folder"}}),
        ({"again": "x"}, {"data": {"a": "folder"}}),
        ({"again": 1, "old": [{}]}, {"data": {"a": "folder"}}),
        ({"again": 1}, {"data": [{"a": 1}]}),
        ({"again": 1}, {"data": "a"}),
        ({"again": 1}, ["data"]),
        ({"again": 1}, None),
    ],
)
def test_a_study_of_another_version_is_named(tmp_path: Path, options: dict[str, Any], inputs: Any) -> None:
    bench = functools.partial(Bench, "wirings", "", path=tmp_path, display=Quiet(), growing={"again"})
    with bench(options=options) as first:
        first.begin(1, inputs, {})
    with pytest.raises(RunError, match="belongs to another study"), bench(options={"again": 2}) as other:
        other.begin(1, {"data": {"a": "folder"}}, {})


def again_of(items: list[dict[str, Any]]) -> list[str]:
    return [item["item"] for item in items if item["item"].startswith("again-")]


def test_scales_of_budgets(tmp_path: Path) -> None:
    from topocell.studies import STUDIES
    from topocell.studies._options import parse

    def scale(*words: str) -> Any:
        options: Any = parse("wirings", STUDIES["wirings"].options, words)
        return options.scale()

    paper = scale()
    assert (paper.retrain.channels, paper.retrain.layers, paper.retrain.epochs, paper.retrain.seeds) == (
        16,
        5,
        100,
        tuple(range(10)),  # Section IV-A
    )
    assert (paper.retrain.cutout, paper.retrain.auxiliary, paper.data.images) == (0, 0.0, None)
    assert scale("budget=small").retrain.seeds == scale("budget=smoke").retrain.seeds == (0,)
    small = scale("budget=small", "shallow.seeds=[3,4]", "shallow.epochs=3")
    assert (small.retrain.channels, small.retrain.epochs, small.retrain.seeds) == (8, 3, (3, 4))


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["wirings", "retrain.epochs=2"], "trains by shallow, not by retrain, but got retrain.epochs=2"),
        (["wirings", "proxies=['retrain.epochs=1']"], "trains by shallow, not by retrain, but got retrain.epochs=1"),
        (["wirings", "retrain_as='darts-v1 retrain.epochs=1'"], "trains by shallow, not by retrain"),
        (["edarts-ablation", "recipes=['darts-v2 retrain.epochs=3']"], "trains by shallow, not by retrain"),
        (["wirings", "seed=1"], "use shallow.seeds=[..]"),
        (["wirings", "proxies=['shallow.epochs=100']"], "'shallow.epochs=100' changes nothing of it"),
        (["wirings", "space.nodes=2"], "use nodes=N"),
        (["subspaces", "search.layers=8"], "use depths=[..]"),
        (["subspaces", "first_also=[10,10]"], "'10' is named again"),
        (["edarts-ablation", "recipes=nb201-darts", "--budget", "smoke"], "the space of nb201-darts has cell"),
        (
            [
                "stability",
                "recipes=['edarts search.stages.search.mechanisms.early_stop.stable=1']",
                "--budget",
                "smoke",
            ],
            "stage 'search' of edarts may end ahead of time",
        ),
        (
            ["skip-gap", "recipes=['darts-pt search.stages.search.mechanisms.early_stop.skips=1']"],
            "may end ahead of time",
        ),
        (["wirings", "nodes=7"], "nodes: input should be less than or equal to 6"),
        (["wirings", "normal=sep_conv_3", "--budget", "smoke"], "must name an operation"),
        (["wirings", "proxies=['shallow.epoch=1']"], "shallow.epoch: unknown key"),
        (["wirings", "proxies=[a=1, a=1]"], "'a=1' is named again"),
        (["subspaces", "spaces=[ss9]"], "unknown sub-space 'ss9'"),
        (
            ["subspaces", "search_as=dots", "seeds=0", "depths=5", "--budget", "smoke"],
            "stage 'topology-warmup' of ss1, 5 cells has layers",
        ),
        (["stability", "--workers", "2"], "--workers is for studies of independent items"),
    ],
)
def test_mistakes(words: list[str], fault: str, tmp_path: Path, capsys: Any) -> None:
    assert main(["study", *words, "--out", str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err
    assert fault in error and error.count("\n") == 1
    assert not (tmp_path / "new").exists()


# --- sub-spaces and ablation


def test_families_and_effects_of_operations() -> None:
    from topocell.studies.subspaces import effect_of_operations, families, family

    assert [family(f"ss{n}") for n in range(1, 9)] == ["mixed"] * 2 + ["all separable", "all dilated"] + ["mixed"] * 4
    found = {("ss3", 5): [92.0, 94.0], ("ss4", 5): [90.0], ("ss1", 5): [91.0], ("ss1", 10): [10.0]}
    assert families(found, 5) == {"all separable": 93.0, "mixed": 91.0, "all dilated": 90.0}
    effects = effect_of_operations(found, 5)
    assert effects["sep_conv_5x5"] == pytest.approx(93 - 90.5)  # ss3 against ss4 and ss1
    assert effects["sep_conv_3x3"] == pytest.approx(92 - 90)
    assert next(iter(effects)) == "sep_conv_5x5" and effects["dil_conv_5x5"] == pytest.approx(90 - 92)


def test_published_places() -> None:
    """Eight sub-spaces at 5 and 16 cells, the first also at 10 and 20, ten seeds (eDARTS, Section IV-C)."""
    from topocell.studies import STUDIES
    from topocell.studies._options import parse

    options: Any = parse("subspaces", STUDIES["subspaces"].options, [])
    assert len(options.places()) == 18 and options.seeds == tuple(range(20, 30))
    assert [depth for name, depth in options.places() if name == "ss1"] == [5, 10, 16, 20]
    recipe = options.search("ss8", 16, 21)
    assert (recipe.space.name, recipe.search.layers, recipe.search.channels, recipe.seed) == ("ss8", 16, 16, 21)
    assert (recipe.retrain.channels, recipe.retrain.layers, recipe.retrain.seeds) == (16, 5, tuple(range(10)))
    assert recipe.data.splits == {"train": 0.05, "val": 0.05}  # the improved search
    assert [(stage.level, stage.arch_every) for stage in recipe.search.stages] == [("unrolled", "epoch")]
    other: Any = parse("subspaces", STUDIES["subspaces"].options, ["search_as=darts-v2", "shallow.seeds=3,4"])
    assert other.search("ss1", 5, 20).data.splits == {"train": 0.5, "val": 0.5}
    assert other.search("ss1", 5, 20).retrain.seeds == (3, 4)


def test_trainings_of_the_ablation() -> None:
    """Ten of each cell under the budget of the paper, one else (eDARTS, Section IV-A)."""
    from topocell.studies import STUDIES
    from topocell.studies._options import parse

    for words, seeds in ([], range(10)), (["budget=small"], [0]), (["budget=small", "shallow.seeds=[1,2]"], [1, 2]):
        options: Any = parse("edarts-ablation", STUDIES["edarts-ablation"].options, words)
        found = [arm.any.shallow.seeds for arm in options.arms(*options.shallow_seeds)]
        assert found == [tuple(seeds)] * 4

"""Recipes: what ships says what was published, everything is read back as written, and every fault is named at once."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from topocell.config.budgets import BUDGETS
from topocell.config.load import load_recipe, merge, recipe_names, recipe_text, resolved
from topocell.config.recipe import Recipe
from topocell.config.reference import read_argument
from topocell.config.search import Stage
from topocell.config.values import Curve
from topocell.errors import RecipeError, SpaceError
from topocell.io import plain_yaml
from topocell.runs import setup

NAMES = recipe_names()

#: A whole recipe in a few lines, for files of a user's own.
SHORT = """
name: short
space: darts
search:
  stages:
    first: {epochs: 4}
    second: {epochs: 6, level: single}
selection: {edges: magnitude}
"""


def file(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(text, encoding="utf-8")
    return path


def stage(recipe: Recipe, name: str) -> Stage:
    return next(s for s in recipe.search.stages if s.name == name)


def fault(*arguments: Any, **options: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        load_recipe(*arguments, **options)
    text = str(caught.value)
    assert "\n" not in text and text
    return text


# --- the recipes that ship


def test_there_are_recipes() -> None:
    assert len(NAMES) >= 20
    assert {"quickstart", "darts-v1", "dots", "toponas-arbitrary-mile", "stretchable-l8", "random"} <= set(NAMES)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_reads_back_equal(name: str, budget: str) -> None:
    recipe = load_recipe(name, budget=budget)
    assert recipe.name == name
    assert recipe.about
    text = recipe.to_yaml()
    assert resolved(text) == recipe
    assert resolved(text).to_yaml() == text


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_names_what_exists(name: str) -> None:
    setup.check(load_recipe(name, budget="smoke"))


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_opens_with_the_command_that_runs_it(name: str) -> None:
    first, header = recipe_text(name).splitlines()[0], header_of(name)
    words = shlex.split(first.removeprefix("# "))
    assert words[:3] == ["topocell", "run", name]
    assert words[-2] == "--out" and words[-1].startswith("runs/")
    if name != "quickstart":
        assert words[-1] == f"runs/{name}"
    recipe = load_recipe(name, words[3:-2])
    assert "Aims at:" in header or not recipe.published
    if recipe.data.dataset == "imagenet":  # which nobody may fetch for another
        assert recipe.data.root == "imagenet" and not recipe.data.download
    else:
        assert recipe.data.download == (recipe.data.dataset != "digits")  # the command works on a fresh machine


def header_of(name: str) -> str:
    lines = recipe_text(name).splitlines()
    return "\n".join(line for line in lines[: next(i for i, x in enumerate(lines) if not x.startswith("#"))])


OVERRIDE = re.compile(r"\b[a-z]+(?:\.[\w-]+)+=[^\s,;:)]+")
HEADER_OVERRIDES = [(name, text) for name in NAMES for text in OVERRIDE.findall(header_of(name).partition("\n")[2])]


def short_names(cell: str) -> list[tuple[str, list[str]]]:
    """Of a cell of README's table: every recipe in full, and the endings in place of the end of its name."""
    groups: list[tuple[str, list[str]]] = []
    for name in re.findall(r"`([^`]+)`", cell):
        if name.startswith("-"):
            groups[-1][1].append(name)
        else:
            groups.append((name, []))
    return groups


def test_the_table_of_the_readme_names_recipes() -> None:
    """Endings that follow a name share one beginning of it, with which each is a recipe."""
    page = (Path(__file__).parent.parent.parent.parent / "README.md").read_text(encoding="utf-8")
    rows = re.search(r"\| paper \| recipes \|\n(.*?)\n\n", page, re.DOTALL)
    assert rows is not None
    groups = [group for row in rows[1].splitlines() for group in short_names(row)]
    assert len(groups) > 20
    for name, ends in groups:
        parts = name.split("-")
        starts = ["-".join(parts[:n]) for n in range(1, len(parts) + 1)]
        assert name in NAMES and any({start + end for end in ends} <= set(NAMES) for start in starts), (name, ends)


def test_headers_name_the_alternatives_of_the_papers() -> None:
    found = {text for _, text in HEADER_OVERRIDES}
    assert "retrain.channels=48" in found
    assert "search.stages.topology.topology.norm=none" in found
    assert "search.stages.search.topology.scale=printed" in found


@pytest.mark.parametrize(("name", "text"), HEADER_OVERRIDES)
def test_overrides_written_in_headers_are_valid(name: str, text: str) -> None:
    changed = load_recipe(name, [text], budget="paper")
    setup.check(changed.model_copy(update={"search": load_recipe(name, [text], budget="smoke").search}))
    key, _, value = text.partition("=")
    found, written = at(changed.model_dump(mode="json"), key), yaml.safe_load(value)
    if isinstance(found, dict):  # the name alone stands for a choice without options; defaults are filled in
        written = {"name": written} if isinstance(written, str) else written
        assert found | written == found
    else:
        assert found == written


def at(data: Any, key: str) -> Any:
    """The value of a dotted key, stages by name."""
    for part in key.split("."):
        data = next(item for item in data if item["name"] == part) if isinstance(data, list) else data[part]
    return data


# --- what the papers say

COSINE = Curve(shape="cosine", start=0.025, end=0.001)


def test_darts() -> None:
    for name, level in (("darts-v1", "bilevel"), ("darts-v2", "unrolled")):
        recipe = load_recipe(name)
        (only,) = recipe.search.stages
        assert (recipe.search.channels, recipe.search.layers, recipe.search.batch_size) == (16, 8, 64)
        assert (only.epochs, only.warmup, only.level) == (50, 0, level)
        assert only.weights.lr == COSINE
        assert (only.weights.momentum, only.weights.weight_decay, only.weights.clip) == (0.9, 3e-4, 5.0)
        assert not only.weights.nesterov
        assert only.alpha.lr.value(0, 50) == only.alpha.lr.value(49, 50) == 3e-4
        assert (only.alpha.betas, only.alpha.weight_decay, only.init) == ((0.5, 0.999), 1e-3, 1e-3)
        assert only.relaxation.name == "softmax" and only.topology.name == "dense"
        assert recipe.data.splits == {"train": 0.5, "val": 0.5}
        rules = recipe.selection
        assert (rules.operations, rules.edges, rules.in_degree, rules.none) == ("magnitude", "magnitude", 2, False)
        assert setup.build_space(recipe).cells["normal"].n_edges == 14
        assert setup.build_space(recipe).cells["normal"].n_candidates == 8


#: Recipes that retrain in another way than DARTS; what they do instead has tests of its own.
OWN_RETRAINING = {
    "edarts",
    "edarts-c100",
    "edarts-no-attention",
    "edarts-ss3",
    "quickstart",
    "milenas",
    "milenas-200",
    "gdas",
    "gdas-frc",
    "drnas",
    "pc-darts",
    "pc-darts-pt",
    "p-darts",
}
#: Their published figures are over searches, each retrained once.
RETRAINED_ONCE = {"darts-pt", "darts-pt-blank", "darts-pt-mag", "darts-pt-racing", "sdarts-rs-pt"}
RETRAINED_ONCE |= {"sgas-1", "sgas-2", "sgas-pt"}
OWN_RETRAINING |= {name for name in NAMES if name.startswith(("nb201-", "darts-s", "robustdarts-", "bench-"))}
OWN_RETRAINING |= {name for name in NAMES if name.startswith("topobench-")}
OWN_RETRAINING |= {name for name in NAMES if name.startswith(("darts-pt-s", "darts-pt-blank-s"))}
OWN_RETRAINING |= {name for name in NAMES if "imagenet" in name}  # see tests/runs/test_imagenet.py


#: Random cells, and searches without gradients, in the space of TopoNAS.
ARBITRARY = ("random-arbitrary", "random-search-arbitrary")


@pytest.mark.parametrize("name", sorted(set(NAMES) - OWN_RETRAINING))
def test_retraining_is_that_of_darts(name: str) -> None:
    plan = load_recipe(name).retrain
    assert (plan.epochs, plan.batch_size, plan.cutout, plan.auxiliary, plan.drop_path) == (600, 96, 16, 0.4, 0.2)
    assert plan.weights.lr == Curve(shape="cosine", start=0.025, end=0.0)
    assert (plan.weights.momentum, plan.weights.weight_decay, plan.weights.clip) == (0.9, 3e-4, 5.0)
    assert plan.channels == 36 and plan.label_smoothing == 0 and plan.test_every == 1
    expected = {"stretchable-l8": 8, "stretchable-l16": 16, "stretchable-l12": 12}
    expected["stretchable-l8-random-operations"] = 8
    layers = expected.get(name, 12 if name.startswith("toponas") or name in ARBITRARY else 20)
    assert plan.layers == layers
    runs = 4 if name.startswith("dots") or name == "random" else 1 if name in RETRAINED_ONCE else 10
    assert plan.seeds == tuple(range(runs))


def test_milenas() -> None:
    recipe, darts = load_recipe("milenas"), load_recipe("darts-v1")
    (only,), (theirs,) = recipe.search.stages, darts.search.stages
    assert (only.level, only.mixed) == ("mixed", 1.0)
    assert only == theirs.model_copy(update={"level": "mixed", "mixed": 1.0})


def test_dots() -> None:
    recipe = load_recipe("dots")
    operations, warmup, topology = recipe.search.stages
    assert [s.name for s in recipe.search.stages] == ["operations", "topology-warmup", "topology"]
    assert recipe.search.head == "bn-relu"
    assert (operations.epochs, operations.warmup, operations.level, operations.init) == (30, 15, "bilevel", 0.0)
    kinds, parametric = operations.relaxation.model_dump()["groups"]
    assert kinds == ["none", "max_pool_3x3", "avg_pool_3x3", "skip_connect"]
    assert parametric == ["sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"]
    assert operations.alpha.betas == (0.5, 0.999) and operations.alpha.weight_decay == 1e-3
    assert (warmup.epochs, warmup.level, warmup.weights_on, warmup.layers) == (20, "weights", "train", 20)
    assert (warmup.shrink, warmup.shrink_none, set(warmup.reset)) == ("best", True, {"weights", "alpha", "beta"})
    assert (topology.epochs, topology.warmup, topology.level, topology.weights_on) == (20, 0, "single", "all")
    assert topology.layers == 20 and not topology.reset and topology.shrink is None
    for part in (topology.alpha, topology.beta):
        assert (part.lr.start, part.betas, part.weight_decay) == (3e-4, (0.9, 0.999), 1e-3)
    pairs = {"name": "subsets", "view": "target", "sizes": 2, "norm": "mean", "scale": "none"}
    assert warmup.topology.model_dump() == topology.topology.model_dump() == pairs


def test_dots_learning_rate_is_one_cosine_over_seventy_epochs() -> None:
    stages = load_recipe("dots").search.stages
    seen = [s.weights.lr.value(e, s.epochs) for s in stages for e in range(s.epochs)]
    whole = Curve(shape="cosine", start=0.025, end=0.001)
    assert seen == pytest.approx([whole.value(e, 70) for e in range(70)], rel=1e-12)
    assert seen[29] == pytest.approx(0.01619, abs=5e-6) and seen[30] == pytest.approx(0.01567, abs=5e-6)


def test_dots_temperatures() -> None:
    last = load_recipe("dots").search.stages[-1]
    edges = [last.edge_temperature.value(e, 20) for e in range(20)]
    published = (
        "10 7.210 5.199 3.748 2.703 1.949 1.405 1.013 .730 .527 .380 .274 .197 .142 .103 .074 .053 .038 .028 .020"
    )
    assert edges == pytest.approx([float(t) for t in published.split()], abs=5.1e-4)
    operations = [last.op_temperature.value(e, 20) for e in range(20)]
    assert operations == pytest.approx([1e-3 * t for t in edges], rel=1e-12)
    warmup = load_recipe("dots").search.stages[1]
    assert warmup.edge_temperature.value(7, 20) == warmup.op_temperature.value(7, 20) == 1.0


def test_dots_variants_change_one_thing() -> None:
    base = load_recipe("dots")
    for name, changed in (
        ("dots-arbitrary", {"topology-warmup": ["topology"], "topology": ["topology"]}),
        ("dots-edge-softmax", {"topology-warmup": ["topology"], "topology": ["topology"]}),
        ("dots-sigmoid", {"topology-warmup": ["topology"], "topology": ["topology"]}),
        ("dots-group-v1", {"operations": ["relaxation"]}),
        ("dots-top1", {"operations": ["relaxation"], "topology-warmup": ["shrink", "shrink_none"]}),
        ("dots-top2", {"operations": ["relaxation"], "topology-warmup": ["shrink", "shrink_none"]}),
    ):
        variant = load_recipe(name)
        assert (variant.data, variant.retrain, variant.selection, variant.space) == (
            base.data,
            base.retrain,
            base.selection,
            base.space,
        )
        for mine, theirs in zip(variant.search.stages, base.search.stages, strict=True):
            differing = [k for k, v in mine if v != getattr(theirs, k)]
            assert sorted(differing) == sorted(changed.get(mine.name, [])), (name, mine.name)
    chosen = [load_recipe(f"dots-{n}").search.stages[-1].topology.model_dump() for n in ("edge-softmax", "sigmoid")]
    assert chosen == [{"name": "edge-softmax", "keep": 2}, {"name": "edge-sigmoid", "threshold": 0.5}]
    assert load_recipe("dots-arbitrary").search.stages[-1].topology.model_dump()["sizes"] == "any"
    for name, kept in (("dots-top1", 1), ("dots-top2", 2)):
        shrinking = stage(load_recipe(name), "topology-warmup")
        assert (shrinking.shrink, shrinking.shrink_none) == (kept, False)
    groups = stage(load_recipe("dots-group-v1"), "operations").relaxation.model_dump()["groups"]
    assert groups == [
        ["none", "skip_connect"],
        ["max_pool_3x3", "avg_pool_3x3"],
        ["sep_conv_3x3", "sep_conv_5x5"],
        ["dil_conv_3x3", "dil_conv_5x5"],
    ]


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("toponas")])
def test_toponas(name: str) -> None:
    recipe = load_recipe(name)
    (only,) = recipe.search.stages
    assert (only.epochs, recipe.search.layers, recipe.search.channels, recipe.search.batch_size) == (50, 8, 16, 64)
    assert only.weights.lr == COSINE
    for part in (only.alpha, only.beta):
        assert (part.lr.start, part.betas, part.weight_decay) == (3e-4, (0.5, 0.999), 1e-3)
    if "joint" in name:  # one batch for both, and no image unused
        assert recipe.data.splits == {"train": 0.5, "val": 0.5}
        assert (only.weights_on, only.alpha_on, only.beta_on) == ("train", "val", "val")
    else:
        assert recipe.data.splits == dict.fromkeys(("train", "val_alpha", "val_beta"), pytest.approx(1 / 3))
        assert (only.weights_on, only.alpha_on, only.beta_on) == ("train", "val_alpha", "val_beta")
    more_nodes = {"toponas-n8": 5, "toponas-n9": 6, "toponas-n11": 8}
    assert (only.level, only.mixed) == ("mixed" if name.endswith("mile") or name in more_nodes else "bilevel", 1.0)
    assert setup.build_space(recipe).cells["normal"].nodes == more_nodes.get(name, 4)
    assert only.penalty == (0.0 if name == "toponas-input-view" else 10.0)
    options = only.topology.model_dump()
    assert options.pop("name") == "subsets"
    sizes = "any" if "arbitrary" in name or name in more_nodes else {"toponas-k1": 1, "toponas-k3": 3}.get(name, 2)
    if name == "toponas-input-view":
        assert options == {"view": "target", "sizes": 2, "norm": "none", "scale": "none"}
    else:
        assert options == {"view": "source", "sizes": sizes, "norm": "none", "scale": "unit"}
    candidates = {c for cell in setup.build_space(recipe).cells.values() for c in cell.candidates}
    assert len(candidates) == 1
    assert len(next(iter(candidates))) == 7 and "none" not in next(iter(candidates))
    assert (recipe.selection.operations, recipe.selection.edges) == ("magnitude", "topology")


@pytest.mark.parametrize("layers", [8, 12, 16])
def test_stretchable(layers: int) -> None:
    recipe = load_recipe(f"stretchable-l{layers}")
    (only,) = recipe.search.stages
    assert recipe.search.layers == recipe.retrain.layers == layers  # the same depth in both
    assert recipe.retrain.parameters == 3_500_000
    cell = setup.build_space(recipe).cells["normal"]
    assert (cell.nodes, cell.n_edges, cell.n_candidates) == (6, 27, 7)
    assert only.topology.model_dump()["sizes"] == "any-or-none"
    assert only.topology.model_dump()["scale"] == "unit"
    assert only.topology.model_dump()["drop"] == "no-output"
    assert (only.level, only.penalty, only.epochs) == ("mixed", 10.0, 50)


@pytest.mark.parametrize(("name", "base"), [("random", "dots"), ("random-arbitrary", "toponas-arbitrary-darts")])
def test_random_cells_come_from_the_space_they_are_compared_with(name: str, base: str) -> None:
    recipe, searched = load_recipe(name), load_recipe(base)
    assert sum(s.epochs for s in recipe.search.stages) == 0
    assert (recipe.selection.operations, recipe.selection.edges) == ("random", "random")
    assert recipe.space == searched.space and recipe.retrain == searched.retrain
    assert recipe.search.stages[-1].topology == searched.search.stages[-1].topology


@pytest.mark.parametrize(
    ("name", "base", "rules"),
    [
        ("dots-random-operations", "dots", {"operations": "random"}),
        ("dots-random-wiring", "dots", {"edges": "random"}),
    ],
)
def test_half_random_baselines_change_the_selection_alone(name: str, base: str, rules: dict[str, str]) -> None:
    recipe, searched = load_recipe(name), load_recipe(base)
    changed = {"selection": searched.selection.model_copy(update=rules)}
    changed |= {key: getattr(recipe, key) for key in ("name", "about", "source", "published")}
    assert recipe == searched.model_copy(update=changed)


def test_random_operations_of_stretchable_cells_follow_the_random_search_of_darts() -> None:
    recipe, searched = load_recipe("stretchable-l8-random-operations"), load_recipe("stretchable-l8")
    trials = recipe.selection.trials
    assert recipe.search == searched.search and recipe.space == searched.space
    assert (recipe.selection.operations, recipe.selection.edges) == ("random", searched.selection.edges)
    assert trials is not None and trials.number == 24
    assert trials.evaluate.model_dump(exclude_unset=True) == {"name": "training", "epochs": 100}
    assert recipe.retrain == searched.retrain.model_copy(update={"parameters": 3_300_000})


@pytest.mark.parametrize("space", ["s1", "s2", "s3", "s4"])
def test_the_spaces_of_robustdarts_on_three_datasets(space: str) -> None:
    """The large network on CIFAR-10, that of RobustDARTS' appendix elsewhere; the search is that of DARTS."""
    darts = load_recipe("darts-v1")
    for suffix, dataset, network in (
        ("", "cifar10", (36, 20)),
        ("-cifar100", "cifar100", (16, 8)),
        ("-svhn", "svhn", (16, 8)),
    ):
        recipe = load_recipe(f"darts-{space}{suffix}")
        assert (recipe.space.name, recipe.data.dataset) == (space, dataset)
        assert (recipe.search, recipe.selection) == (darts.search, darts.selection)
        assert (recipe.retrain.channels, recipe.retrain.layers) == network
        same = {"channels": 36, "layers": 20, "seeds": darts.retrain.seeds}
        assert recipe.retrain.model_copy(update=same) == darts.retrain and len(recipe.retrain.seeds) == 3


NASBENCH201 = [name for name in NAMES if name.startswith("nb201-")]


@pytest.mark.parametrize("name", NASBENCH201)
def test_nasbench201_is_searched_and_retrained_as_published(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.space.name == "nasbench201"
    assert (recipe.search.channels, recipe.search.layers, recipe.search.batch_size) == (16, 17, 64)
    assert all(stage.layers is None and stage.channels is None for stage in recipe.search.stages)
    plan = recipe.retrain
    assert (plan.channels, plan.layers, plan.epochs, plan.batch_size) == (16, 17, 200, 256)
    assert (plan.drop_path, plan.auxiliary, plan.cutout) == (0.0, 0.0, 0)
    assert plan.weights.lr == Curve(shape="cosine", start=0.1, end=0.0)
    assert (plan.weights.weight_decay, plan.weights.nesterov, plan.weights.clip) == (5e-4, True, None)
    assert (recipe.ground_truth.table, recipe.ground_truth.column) == (None, "cifar10_test_200ep")


def test_nasbench201_with_none_keeps_all_edges_and_without_it_the_topology_decides() -> None:
    for name in NASBENCH201:
        recipe = load_recipe(name)
        operations = setup.build_space(recipe).cells["cell"].candidates[0]
        assert operations[-4:] == ("skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
        if len(operations) == 4:
            assert (recipe.selection.edges, recipe.selection.none) == ("topology", False)
            assert recipe.search.stages[-1].topology.name in ("subsets", "edge-sigmoid")
        else:
            assert recipe.selection.edges in ("all", "perturbation")


def test_methods_on_nasbench201() -> None:
    only = {name: load_recipe(name).search.stages[0] for name in NASBENCH201}
    assert (only["nb201-darts"].level, only["nb201-darts-2nd"].level) == ("bilevel", "unrolled")
    gdas, snas = only["nb201-gdas"], only["nb201-snas"]
    assert (gdas.epochs, gdas.level, gdas.relaxation.name) == (250, "bilevel-weights-first", "gumbel-straight-through")
    assert [gdas.op_temperature.value(e, 250) for e in (0, 1, 249)] == pytest.approx([10, 10 - 9.9 / 249, 0.1])
    assert (snas.epochs, snas.level, snas.weights_on) == (150, "single", "all")
    assert [snas.op_temperature.value(e, 150) for e in (0, 149)] == pytest.approx([1, 0.0365], abs=5e-5)
    partial = load_recipe("nb201-pc-darts").search
    assert (partial.partial, partial.stages[0].topology.name, partial.stages[0].warmup) == (4, "edge-softmax", 15)
    views = {"nb201-subsets-outgoing": ("source", "any", 10.0), "nb201-subsets-incoming": ("target", "any", 0.0)}
    views["nb201-subsets-outgoing-stretchable"] = ("source", "any-or-none", 10.0)
    for name, (view, sizes, penalty) in views.items():
        options = only[name].topology.model_dump()
        assert (options["view"], options["sizes"], only[name].penalty) == (view, sizes, penalty)
        assert (only[name].alpha_on, only[name].beta_on) == ("val_alpha", "val_beta")
    mine, dots = load_recipe("nb201-dots"), load_recipe("dots")
    for stage_of_mine, stage_of_dots in zip(mine.search.stages, dots.search.stages, strict=True):
        differing = {key for key, value in stage_of_mine if value != getattr(stage_of_dots, key)}
        assert differing <= {"relaxation", "topology", "layers"}


def test_searches_on_nasbench201_have_equal_epochs_in_minutes() -> None:
    """Second order takes more passes a step, and two stages share the epochs."""
    recipes = {n: load_recipe(n, budget="small") for n in NASBENCH201}
    total = {n: sum(s.epochs for s in r.search.stages) for n, r in recipes.items() if r.selection.trials is None}
    assert total.pop("nb201-darts-2nd") == 10 and total.pop("nb201-random") == 0
    assert set(total.values()) == {25}
    assert all(load_recipe(n, budget="small").data.images == 5000 for n in NASBENCH201)


def test_the_quickstart_needs_no_download_and_little_time() -> None:
    recipe = load_recipe("quickstart")
    assert recipe.data.dataset == "digits" and not recipe.data.download
    assert recipe.retrain.seeds == (0, 1, 2)
    assert sum(s.epochs for s in recipe.search.stages) <= 20 and recipe.retrain.epochs <= 30
    assert [s.layers or recipe.search.layers for s in recipe.search.stages] == [3, 3, 3]


# --- reading, merging, overriding


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    recipe = load_recipe(file(tmp_path, SHORT))
    assert recipe.name == "short" and recipe.space.name == "darts"
    assert [s.name for s in recipe.search.stages] == ["first", "second"]
    assert recipe == load_recipe(str(tmp_path / "mine.yaml"))
    assert recipe.data.dataset == "cifar10"  # defaults are those of DARTS
    assert stage(recipe, "first").weights.lr == COSINE


def test_a_later_layer_wins(tmp_path: Path) -> None:
    path = file(
        tmp_path,
        "extends: quickstart\nname: own\nsearch: {stages: {operations: {epochs: 4}}}\nretrain: {epochs: 7}\n"
        "budgets: {smoke: {search: {stages: {operations: {epochs: 3}}}, retrain: {epochs: 2}}}\n",
    )
    assert stage(load_recipe("quickstart"), "operations").epochs == 5
    paper, smoke = load_recipe(path), load_recipe(path, budget="smoke")
    assert (stage(paper, "operations").epochs, paper.retrain.epochs) == (4, 7)
    assert (stage(smoke, "operations").epochs, smoke.retrain.epochs) == (3, 2)
    both = load_recipe(path, ["retrain.epochs=5"], budget="smoke")
    assert (stage(both, "operations").epochs, both.retrain.epochs) == (3, 5)
    assert stage(paper, "operations").warmup == 1  # what the file leaves out stays


def test_extends_chains_through_files_and_finds_them_beside_the_file(tmp_path: Path, monkeypatch: Any) -> None:
    file(tmp_path, "extends: dots\nname: a\nseed: 3\n", "parts/a.yaml")
    file(tmp_path, "extends: a.yaml\nname: b\n", "parts/b.yaml")
    path = file(tmp_path, "extends: parts/b.yaml\nname: c\nretrain: {epochs: 9}\n", "c.yaml")
    monkeypatch.chdir("/")
    recipe = load_recipe(path)
    assert (recipe.name, recipe.seed, recipe.retrain.epochs, len(recipe.search.stages)) == ("c", 3, 9, 3)
    monkeypatch.chdir(tmp_path)
    assert load_recipe("c.yaml") == recipe


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({"a.yaml": "extends: a.yaml\n"}, "in a circle"),
        ({"a.yaml": "extends: b.yaml\n", "b.yaml": "extends: ./a.yaml\n"}, "in a circle"),
        ({"a.yaml": "extends: dotz\n"}, "did you mean 'dots'?"),
        ({"a.yaml": "extends: b.yaml\n"}, "b.yaml"),
        ({"a.yaml": "extends: [dots]\n"}, "extends must be the name or path"),
    ],
)
def test_extends_that_lead_nowhere(tmp_path: Path, texts: dict[str, str], words: str) -> None:
    for name, text in texts.items():
        file(tmp_path, text, name)
    assert words in fault(tmp_path / "a.yaml")


def test_merging() -> None:
    base = {"a": {"name": "x", "k": 1}, "splits": {"train": 0.5, "val": 0.5}, "n": [1, 2], "o": {"p": 1, "q": 2}}
    assert merge(base, {}) == base
    assert merge(base, {"o": {"q": 3, "r": 4}})["o"] == {"p": 1, "q": 3, "r": 4}
    assert merge(base, {"a": {"name": "x", "j": 2}})["a"] == {"name": "x", "k": 1, "j": 2}
    assert merge(base, {"a": {"name": "y"}})["a"] == {"name": "y"}  # options of another choice make no sense
    assert merge(base, {"splits": {"train": 1.0}})["splits"] == {"train": 1.0}
    assert merge(base, {"n": [3]})["n"] == [3]
    assert merge({"name": "one", "o": {"p": 1}}, {"name": "two"}) == {"name": "two", "o": {"p": 1}}
    stages = {"stages": {"a": {"epochs": 1}, "b": {"epochs": 2}}}
    assert merge(stages, {"stages": {"b": {"epochs": 5}}})["stages"] == {"a": {"epochs": 1}, "b": {"epochs": 5}}
    other = merge(stages, {"stages": {"a": None, "c": {"epochs": 3}}})["stages"]
    assert list(other.items()) == [("b", {"epochs": 2}), ("c", {"epochs": 3})]
    with pytest.raises(RecipeError, match=r"no stage 'bb' \(did you mean 'b'\?\); the stages are a, b"):
        merge(stages, {"stages": {"bb": {}}})


def test_merging_leaves_both_sides_alone() -> None:
    base, change = {"o": {"p": [1]}}, {"o": {"q": [2]}}
    out = merge(base, change)
    out["o"]["p"].append(5)
    out["o"]["q"].append(5)
    assert (base, change) == ({"o": {"p": [1]}}, {"o": {"q": [2]}})


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("seed=7", "seed", 7),
        ("search.stages.topology.epochs=5", "search.stages.topology.epochs", 5),
        ("retrain.seeds=[4, 5]", "retrain.seeds", [4, 5]),
        ("retrain.seeds.1=9", "retrain.seeds", [0, 9, 2]),
        ("data.splits={train: 0.7, val: 0.2}", "data.splits", {"train": 0.7, "val": 0.2}),
        ("space.nodes=3", "space", {"name": "darts", "nodes": 3}),
        ("search.stages.operations.relaxation=softmax", "search.stages.operations.relaxation", {"name": "softmax"}),
        ("search.stages.topology.alpha.lr=6e-3", "search.stages.topology.alpha.lr.start", 6e-3),
        ("search.stages.topology.alpha.lr=.5", "search.stages.topology.alpha.lr.start", 0.5),
        ("retrain.weights.lr=5e-2", "retrain.weights.lr.start", 5e-2),
        ("retrain.weights.lr.start=1E-2", "retrain.weights.lr.start", 1e-2),
        ("retrain.epochs=1e2", "retrain.epochs", 100),
        ("data.root=a=b", "data.root", "a=b"),
        ("data.root=", "data.root", None),
        (" seed = 3", "seed", 3),
    ],
)
def test_overrides(text: str, key: str, value: Any) -> None:
    found = at(load_recipe("quickstart", [text]).model_dump(mode="json"), key)
    assert found == value if not isinstance(value, dict) else value.items() <= found.items()


def test_an_option_is_added_to_a_choice_and_to_a_curve_written_short(tmp_path: Path) -> None:
    path = file(tmp_path, SHORT.replace("level: single", "level: single, topology: edge-softmax, op_temperature: 2"))
    curve = ["search.stages.second.op_temperature.end=3", "search.stages.second.op_temperature.shape=linear"]
    changed = load_recipe(path, ["search.stages.second.topology.keep=1", *curve])
    assert stage(changed, "second").topology.model_dump() == {"name": "edge-softmax", "keep": 1}
    assert stage(changed, "second").op_temperature == Curve(shape="linear", start=2, end=3)


def test_the_last_override_of_a_key_wins_and_order_matters() -> None:
    assert load_recipe("quickstart", ["seed=1", "seed=2"]).seed == 2
    changed = load_recipe("quickstart", ["retrain.weights.lr=0.1", "retrain.weights.lr.start=0.2"])
    assert changed.retrain.weights.lr.start == 0.2


def test_yaml_anchors_are_copies_not_ties(tmp_path: Path) -> None:
    text = SHORT.replace("epochs: 4}", "epochs: 4, alpha: &a {lr: 0.001}}").replace("6,", "6, alpha: *a,")
    path = file(tmp_path, text)
    changed = load_recipe(path, ["search.stages.first.alpha.lr=0.5"])
    assert (stage(changed, "first").alpha.lr.start, stage(changed, "second").alpha.lr.start) == (0.5, 0.001)
    small = load_recipe(path, budget="small")
    assert [s.alpha.lr.start for s in small.search.stages] == pytest.approx([0.01, 0.01])


# --- faults


def test_all_faults_at_once_with_the_nearest_names() -> None:
    text = fault(
        "quickstart",
        [
            "search.lyers=3",
            "search.stages.topology.epoch=3",
            "search.stages.operations.level=bilevl",
            "search.stages.topology.relaxation=sofmax",
            "search.stages.topology.weights.moment=0.5",
            "data.dataset=cifar11",
            "data.images=-3",
            "selection.operations=magnitud",
            "retrain.drop_path=2",
            "retrain.weights.lr=.nan",
            "sed=1",
        ],
    )
    for words in (
        "search.lyers: unknown key (did you mean 'search.layers'?)",
        "search.stages.topology.epoch: unknown key (did you mean 'search.stages.topology.epochs'?)",
        "search.stages.operations.level: unknown level 'bilevl' (did you mean 'bilevel'?)",
        "search.stages.topology.relaxation: unknown relaxation 'sofmax' (did you mean 'softmax'?)",
        "search.stages.topology.weights.moment: unknown key (did you mean 'search.stages.topology.weights.momentum'?)",
        "data.dataset: unknown dataset 'cifar11' (did you mean 'cifar10'?)",
        "data.images: input should be greater than or equal to 4, but got -3",
        "selection.operations: unknown operation rule 'magnitud' (did you mean 'magnitude'?)",
        "retrain.drop_path: input should be less than 1, but got 2",
        "retrain.weights.lr: must be finite, but got nan",
        "sed: unknown key (did you mean 'seed'?)",
    ):
        assert words in text
    assert text.startswith("quickstart: ")
    assert text.count(";") - text.count("; known") == 10  # eleven faults, each once


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "search.epochs=5",
            "search.epochs: unknown key (did you mean 'search.stages.NAME.epochs', where NAME is one of operations, "
            "topology-warmup, topology?)",
        ),
        ("lr=0.01", "lr: unknown key (did you mean 'retrain.weights.lr', 'selection.projection.lr' or 'shallow.wei"),
        ("optimizer.momentum=1", "optimizer: unknown key (did you mean 'retrain.weights.momentum' or 'shallow.weight"),
        ("data.batch_size=16", "data.batch_size: unknown key (did you mean 'retrain.batch_size', 'search.batch_size'"),
        ("resolution=32", "resolution: unknown key (did you mean 'data.resolution'?)"),
        ("budget=smoke", "budget: unknown key (did you mean '--budget'?)"),
        ("out=runs/x", "out: unknown key (did you mean '--out'?)"),
        ("data.image_size=32", "data.image_size: unknown key (did you mean 'data.resolution'?)"),
        ("data.size=32", "data.size: unknown key (did you mean 'data.resolution'?)"),
        ("data.name=digits", "data.name: unknown key (did you mean 'data.dataset'?)"),
        ("data.path=photos", "data.path: unknown key (did you mean 'data.root'?)"),
        ("seeds=[1]", "seeds: unknown key (did you mean 'retrain.seeds'?)"),
        ("search.stages.topology.lr=3", "lr: unknown key (did you mean 'search.stages.NAME.weights.lr', 'search."),
        ("datasets_root=here", "datasets_root: unknown key; known: name, about"),
        ("data.retrain.epoch=3", "data.retrain: unknown key (did you mean 'retrain.epochs'?)"),
    ],
)
def test_a_key_that_stands_elsewhere_is_suggested(override: str, words: str) -> None:
    assert words in fault("quickstart", [override])


@pytest.mark.parametrize("key", ["extend", "Extends", "exends"])
def test_the_recipe_that_a_file_goes_on_from_is_suggested(key: str, tmp_path: Path) -> None:
    assert f"{key}: unknown key (did you mean 'extends'?)" in fault(file(tmp_path, f"{key}: darts-v1\nname: mine\n"))


@pytest.mark.parametrize("coding", ["utf-16", "latin-1"])
def test_a_recipe_of_other_characters_is_told_to_be_saved_as_utf8(coding: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes("extends: darts-v1\nabout: für Käfer\n".encode(coding))
    assert fault(path).endswith("it is not UTF-8 text; save it as UTF-8")


@pytest.mark.parametrize("search", ["5", "[1]", "{stages: 5}", "null"])
def test_a_key_is_suggested_in_a_recipe_without_stages(search: str, tmp_path: Path) -> None:
    path = file(tmp_path, f"name: none\nspace: darts\nlr: 0.1\nsearch: {search}\n")
    assert "lr: unknown key (did you mean 'retrain.weights.lr'" in fault(path)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("retrain.seeds=0,1", "seeds", (0, 1)),
        ("retrain.seeds=[0,1]", "seeds", (0, 1)),
        ("retrain.seeds=3", "seeds", (3,)),
    ],
)
def test_a_list_needs_no_brackets(override: str, key: str, value: Any) -> None:
    assert getattr(load_recipe("quickstart", [override]).retrain, key) == value


def test_only_a_list_is_cut_at_commas() -> None:
    recipe = load_recipe("quickstart", ["space.candidates=skip_connect,sep_conv_3x3", "data.root=a,b", "about='1,2'"])
    assert recipe.space.model_dump()["candidates"] == ["skip_connect", "sep_conv_3x3"]
    assert (recipe.data.root, recipe.about) == ("a,b", "1,2")
    stages = load_recipe("quickstart", ["search.stages.topology.alpha.betas=0.1,0.2"]).search.stages
    assert next(s for s in stages if s.name == "topology").alpha.betas == (0.1, 0.2)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.splits={train: 0.8, val: 0.8}", "sum to at most 1"),
        ("data.splits={}", "sum to at most 1"),
        ("data.splits={all: 0.5}", "a split cannot be called 'all'"),
        (
            "data.splits={train: 0.5, va: 0.5}",
            "needs the split 'val', but data.splits has train, va; add it, or call one so, e.g. 'data.splits={train",
        ),
        ("search.stages.operations.alpha_on=test", "needs the split 'test'"),
        ("search.stages.topology.topology=dense", "selection.edges: topology needs a topology that decides edges"),
        ("search.stages.operations.warmup=31", "warmup is at most epochs, but got warmup=31"),
        (
            "search.stages.topology.name=operations",
            "a stage is called by its key, topology, but it has name='operations'",
        ),
        (
            "search.stages.topology.alpha.lr=-1",
            "search.stages.topology.alpha.lr: must be at least 0 and at most 1e+38, but got -1",
        ),
        ("search.stages.topology.op_temperature=0", "search.stages.topology.op_temperature: must be above 0"),
        ("search.stages.topology.edge_temperature={start: 1, end: -1, shape: linear}", "must be above 0, but got -1"),
        ("search.stages.topology.edge_temperature={start: 1, shape: linear}", "needs an end"),
        ("search.stages.topology.weights.lr.span=[3, 2, 1]", "from <= to <= of"),
        ("retrain.weights.lr=-1", "retrain.weights.lr: must be at least 0"),
        ("retrain.weights.lr=.inf", "retrain.weights.lr: must be finite, but got inf"),
        ("search.stages.topology.alpha.betas=[0.5]", "search.stages.topology.alpha.betas.1: is required"),
        ("search.stages=[]", "search.stages"),
        ("search={}", "search.stages: is required"),
        ("search.foo=1", "search.foo: unknown key; known: channels, layers, batch_size, "),
        ("search.stages.topology.mechanisms.early_stop.x=1", "early_stop.x: unknown key; known: skips, stable, first"),
        (
            "search.stages.topology.mechanisms.early_stpo.x=1",
            "unknown mechanism 'early_stpo' (did you mean 'early_stop'?)",
        ),
        ("retrain={seeds: 5}", "retrain.seeds: input should be a list, but got 5"),
        ("retrain.seeds=[]", "retrain.seeds: list should have at least 1 item, but got []"),
        ("data.images=x", "data.images: input should be a valid integer, but got 'x'"),
        ("data.background=wite", "data.background: a colour is a name such as white, "),
        ("data.background=wite", "but got 'wite' (did you mean 'white'?)"),
        ("data.background=#ffffff", "but got nothing; write it in quotes, # begins a comment"),
        ("data.background=[0, 0, 300]", "from 0 to 255, but got [0, 0, 300]"),
        ("data.unreadable=ignore", "data.unreadable: input should be 'refuse' or 'skip', but got 'ignore'"),
        ("data.flip=maybe", "data.flip: input should be a valid boolean"),
        ("data.crop=-2", "data.crop: crop is true, false or a number of pixels from 0, but got -2"),
        ("data.crop=some", "data.crop: crop is true, false or a number of pixels from 0, but got 'some'"),
        ("data=5", "data: input should be a mapping, but got 5"),
        ("name=a/b", "name: it has letters, digits and . _ - alone, and begins with a letter or digit, but got 'a/b'"),
        ("search.stages.7.epochs=1", "there is no '7'; known: operations, topology-warmup, topology"),
        ("search.stages.topologie.epochs=1", "there is no 'topologie' (did you mean 'topology'?)"),
        ("retrain.seeds.0.x=1", "retrain.seeds.0 is a single value"),
        ("name.x=1", "name is a single value, so 'name.x' cannot be set inside it"),
        ("retrain.seeds=0..2", "retrain.seeds: input should be a list, but got '0..2'; write it as 0,1,2"),
        ("retrain.weights.lr=1/40", "lr: input should be a number or a mapping, but got '1/40'"),
        ("data.splits=0.5,0.5", "a mapping, but got '0.5,0.5'; write data.splits.NAME=VALUE for each of its keys"),
        ("retrain.weights=0.1", "a mapping, but got 0.1; write retrain.weights.NAME=VALUE for each of its keys"),
        ("selection.budget=off", "selection.budget: input should be a mapping, but got False; null leaves it out"),
        ("retrain.cutout=true", "retrain.cutout: input should be a number, but got True"),
        ("retrain.epochs=yes", "retrain.epochs: input should be a number, but got True"),
        ("retrain.layers=off", "retrain.layers: input should be a number, but got False"),
        ("retrain.seeds=[0, true]", "retrain.seeds: input should be a number, but got [0, True]"),
        ("data.images=None", "data.images: input should be a valid integer, but got 'None'; none is written null"),
        ("data.flip=None", "but got 'None'; none is written null"),
        ("seed", "has the form key=value, but got 'seed'"),
        ("=5", "has the form key=value"),
        ("data.splits={train:0.5,val:0.5}", "a colon and a blank after each key, but data.splits has 'train:0.5'"),
        ("data.splits={train=0.5}", "a colon and a blank after each key, but data.splits has 'train=0.5'"),
        ("seed=[1", "the value of the override 'seed=[1' is not valid YAML"),
        ("seed=!!timestamp x", "is not valid YAML"),
    ],
)
def test_each_fault_names_the_rule_and_the_value(override: str, words: str) -> None:
    assert words in fault("quickstart", [override])


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("data.background=black", "black"),
        ("data.background='#0a0B0c'", "#0a0B0c"),
        ("data.background=[1, 2, 3]", (1, 2, 3)),
        ("data.unreadable=skip", "skip"),
        ("data.flip=false", False),
        ("data.flip=null", None),
        ("data.crop=true", True),
        ("data.crop=1", 1),
        ("data.crop=0", 0),
    ],
)
def test_what_a_recipe_says_of_images_is_kept_as_written(override: str, value: Any) -> None:
    recipe = load_recipe("quickstart", [override])
    got = getattr(recipe.data, override.partition("=")[0].removeprefix("data."))
    assert got == value and type(got) is type(value)
    assert resolved(recipe.to_yaml()) == recipe


@pytest.mark.parametrize("word", ["none", "off", "false", "null"])
def test_no_augmentation_has_the_usual_words(word: str) -> None:
    assert load_recipe("quickstart", [f"retrain.augment={word}"]).retrain.augment.name == "none"


WORDS = [
    *(
        "2024",
        "1_000",
        "0x10",
        "+1",
        "08",
        "1.0",
        ".5",
        "1e3",
        "-6E+3",
        "12:30:00",
        "2024-01-01",
        "yes",
        "No",
        "on",
        "true",
    ),
    *(
        "a: b",
        "[cats]",
        "{x}",
        "- x",
        "photos #2",
        "#2",
        "*star",
        "&amp",
        "@home",
        "%20",
        "!x",
        "|",
        "> x",
        "?",
        "-",
        "--",
    ),
    *("~/photos", "a=b", "a, b", "C:\\photos", "it's", "'a' 'b'", "photos\tnew", "Fotos à Noël"),
]


@pytest.mark.parametrize("word", WORDS)
def test_text_is_taken_as_it_is_written(word: str) -> None:
    assert read_argument("data.root", word) == read_argument("data.root", f" {json.dumps(word)} ") == word
    assert plain_yaml.load(plain_yaml.dump({"root": word})) == {"root": word}


def test_a_key_of_a_command_line_in_a_file_is_told_how_it_is_written_there(tmp_path: Path) -> None:
    path = file(tmp_path, "extends: dots\nname: a\nretrain.weights.momentum: 0.8\n")
    words = "unknown key; in a file it is written retrain: {weights: {momentum: VALUE}}"
    with pytest.raises(RecipeError, match=re.escape(words)):
        load_recipe(path)


def test_a_folder_may_be_called_like_a_number() -> None:
    recipe = load_recipe("quickstart", ["data.root=1e3", "about=2024 #2"])
    assert (recipe.data.root, recipe.about) == ("1e3", "2024 #2") and resolved(recipe.to_yaml()) == recipe


@pytest.mark.parametrize("word", ["", " ", "null", "Null", "~"])
def test_no_text_is_written_as_in_yaml(word: str) -> None:
    assert read_argument("data.root", word) is None


def test_a_number_in_a_file_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: quickstart\ndata: {root: 2024}\n", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"data\.root: input should be text, but got 2024; write it in quotes$"):
        load_recipe(tmp_path / "mine.yaml")


def test_a_fault_in_the_only_stage_is_the_only_fault() -> None:
    text = fault("darts-v1", ["search.stages.search.level=bilevl"])
    assert text == (
        "darts-v1: search.stages.search.level: unknown level 'bilevl' (did you mean 'bilevel'?); "
        "known: bilevel, bilevel-weights-first, mixed, single, unrolled, weights, or one of your own with --import FILE"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1\n", "is not valid YAML: expected ',' or ']', but got '<stream end>' (line 2)"),
        ("a: b: c\n", "(line 1)"),
        ("x: !!timestamp x\n", "is not valid YAML"),
        ("x: !!bool maybe\n", "is not valid YAML"),
        ("x: !!python/object/apply:os.system [ls]\n", "is not valid YAML"),
        ("x: \0\n", "is not valid YAML"),
        ("[" * 600, "is not valid YAML"),
        ("x: &a [*a]\n", "is not valid YAML"),
        ("- 1\n", "a recipe is a mapping of keys to values, but got list"),
        ("", "a recipe is a mapping of keys to values, but got NoneType"),
        ("just words\n", "but got str"),
        ("1: 2\n", "a recipe is a mapping"),
        ("name: x\n", "space: is required; search"),
        ("extends: quickstart\nbudgets: [1]\n", "budgets has a mapping of changes"),
        ("extends: quickstart\nbudgets: {smoke: 3}\n", "budgets has a mapping of changes"),
        ("extends: quickstart\nbudgets: {smok: {seed: 3}}\n", "unknown budget (did you mean 'smoke'?)"),
        ("extends: quickstart\nsearch: {stages: {5: {epochs: 2}}}\n", "there is no stage 5"),
        ("extends: quickstart\nsearch: {stages: 5}\n", "search.stages: input should be a list, but got 5"),
        ("extends: quickstart\nsearch: 5\n", "search: input should be a mapping, but got 5"),
        ("extends: quickstart\ndata: 5\n", "data: input should be a mapping, but got 5"),
        (
            "extends: quickstart\nretrain: {layers: abc, channels: {}}\n",
            "retrain.layers: input should be a valid integer",
        ),
        ("extends: quickstart\nsearch: {stages: [{name: a, epochs: 2}]}\n", "write each `- name: NAME` as `NAME:`"),
        ("extends: quickstart\nspace: 5\n", "space: input should be a name or a mapping, but got 5"),
    ],
)
@pytest.mark.parametrize("budget", ["paper", "smoke"])
def test_files_that_are_no_recipes(tmp_path: Path, text: str, words: str, budget: str) -> None:
    found = fault(file(tmp_path, text), budget=budget)
    assert words in found


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00abc")
    assert "it is not UTF-8 text" in fault(tmp_path / "bytes.yaml")
    assert "No such file" in fault(tmp_path / "missing.yaml")
    assert "cannot read" in fault(tmp_path)
    assert "unknown recipe 'dotz' (did you mean 'dots'?)" in fault("dotz")
    assert "unknown budget 'tiny'" in fault("dots", budget="tiny")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("space.nodes=0", "1 to 16 computed nodes"),
        ("space.nodes=many", "nodes must be a whole number, but got nodes='many'"),
        ("space.nodez=4", "has no option 'nodez' (did you mean 'nodes'?)"),
        ("space.candidates=[none]", "needs an operation besides none"),
        ("space.candidates=[sep_conv]", "unknown operation 'sep_conv'"),
        ("space.candidates=5", "candidates must be a sequence of which each is a text, but got candidates=5"),
        ("search.partial=3", "choose a multiple of 6"),
        ("search.stages.topology.partial=3", "choose a multiple of 6"),
        ("search.stages.topology.mechanisms.auxiliary_skip.weight=-1", "weight: must be at least 0, but got -1"),
        (
            "search.stages.topology.mechanisms.skip_dropout.rate=1.5",
            "rate: must be at least 0 and at most 1, but got 1.5",
        ),
        (
            "search.stages.topology.mechanisms.drop_path.rate=1",
            "rate: must be below 1, or nothing is left, but got 1; 0.2 to 0.6 are usual",
        ),
        (
            "search.stages.topology.mechanisms.cutout.size=0",
            "size: input should be greater than or equal to 1, but got 0",
        ),
        (
            "search.stages.topology.mechanisms.perturbation.epsilon=-0.1",
            "epsilon: must be at least 0 and at most 1, but",
        ),
        (
            "search.stages.topology.mechanisms={perturbation: {}}",
            "topology: a perturbation is for a weights' step of its own",
        ),
        ("selection.threshold=0.5", "part of the edge rule magnitude, but selection.edges is topology"),
        ("selection.max_skips=-1", "selection.max_skips"),
        ("search.stages.topology.topology.view=inner", "view is one of source, target, but got 'inner'"),
        ("search.stages.topology.topology.sizez=1", "(did you mean 'sizes'?)"),
        ("search.stages.operations.relaxation.groups=[[none]]", "exactly one group"),
        ("search.stages.operations.relaxation.temperature=1", "has no option 'temperature'"),
    ],
)
def test_combinations_without_a_meaning_are_refused_before_training(override: str, words: str) -> None:
    with pytest.raises((RecipeError, SpaceError)) as caught:
        setup.check(load_recipe("quickstart", [override]))
    assert words in str(caught.value)


# --- whatever is given, a recipe or one clear error comes back

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 100),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(["dots", "subsets", "softmax", "bilevel", "train", "any", "best", "digits", "1e400"]),
)
KEYS = st.sampled_from(
    [
        *Recipe.model_fields,
        *Stage.model_fields,
        *("channels", "layers", "stages", "operations", "topology-warmup", "0", "3", "name", "lr", "start", "end"),
        *("span", "betas", "splits", "images", "seeds", "budgets", "extends", "smoke", "", "groups", "nodes"),
    ]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.integers(0, 2), inner, max_size=4),
    max_leaves=8,
)
OVERRIDES = st.builds(
    lambda path, value: f"{'.'.join(path)}={yaml.safe_dump(value, default_flow_style=True, width=10**6).strip()}",
    st.lists(KEYS, min_size=1, max_size=5),
    VALUES,
)


def recipe_or_error(*arguments: Any, **options: Any) -> None:
    try:
        recipe = load_recipe(*arguments, **options)
    except RecipeError as error:
        assert str(error)
        return
    text = recipe.to_yaml()
    assert resolved(text).to_yaml() == text


@settings(max_examples=60)
@given(overrides=st.lists(OVERRIDES | st.text(max_size=12), max_size=3), budget=st.sampled_from(list(BUDGETS)))
@example(overrides=["search.stages=[a, b]", "search.stages.0.x=1"], budget="smoke")
@example(overrides=["data=", "data.images.x=1"], budget="smoke")
@example(overrides=["search.stages.0.name=3"], budget="paper")
def test_any_overrides(overrides: list[str], budget: str) -> None:
    recipe_or_error("quickstart", overrides, budget=budget)


@settings(max_examples=60)
@given(
    data=st.dictionaries(KEYS, VALUES, max_size=6),
    base=st.none() | st.just("dots"),
    budget=st.sampled_from(list(BUDGETS)),
)
def test_any_file(tmp_path_factory: Any, data: dict[str, Any], base: str | None, budget: str) -> None:
    folder = tmp_path_factory.getbasetemp()
    extended = data | ({"extends": base} if base else {})
    recipe_or_error(file(folder, yaml.safe_dump(extended), "any.yaml"), budget=budget)


@settings(max_examples=60)
@given(text=st.text(max_size=60) | st.binary(max_size=60).map(lambda b: b.decode("latin-1")))
def test_any_text(tmp_path_factory: Any, text: str) -> None:
    try:
        path = file(tmp_path_factory.getbasetemp(), text, "text.yaml")
    except UnicodeEncodeError:  # half of a surrogate pair cannot be in a file
        return
    recipe_or_error(path)

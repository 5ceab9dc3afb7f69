"""ImageNet: its recipes against what papers and codes say, and any cell in its mobile setting."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from topocell import studies
from topocell.cli import main
from topocell.config.load import load_recipe, recipe_names
from topocell.config.retrain import RetrainPlan
from topocell.config.values import Curve
from topocell.genotype.published import published
from topocell.networks.classifier import load
from topocell.nn.count import count
from topocell.nn.network import FixedNet
from topocell.runs.setup import build_space
from topocell.searching.schedules import updates_architecture
from topocell.supernet import Supernet

QUICK = ["data.images=24", "data.test_images=10"]
RECIPES = [name for name in recipe_names() if "imagenet" in name]
LINEAR = [0.5 * (1 - e / 250) * min((e + 1) / 5, 1) for e in range(250)]
COSINE = [0.25 * (1 + math.cos(math.pi * e / 250)) * min((e + 1) / 5, 1) for e in range(250)]
#: Recipe → initial rates of its retraining, batch size.
TRAININGS = {
    "imagenet-transfer": (LINEAR, 1024),
    "imagenet-transfer-darts": ([0.1 * 0.97**e for e in range(250)], 128),
    "pc-darts-imagenet": (LINEAR, 1024),
    "stretchable-imagenet-l8": (LINEAR, 1024),
    "dots-imagenet": (COSINE, 1024),
}


@pytest.mark.parametrize("name", RECIPES)
def test_the_training_of_the_mobile_setting(name: str) -> None:
    recipe = load_recipe(name)
    plan, (rates, batch) = recipe.retrain, TRAININGS[name]
    assert [plan.weights.lr.value(e, plan.epochs) for e in range(plan.epochs)] == pytest.approx(rates)
    assert (plan.epochs, plan.batch_size, plan.micro_batch) == (250, batch, 128 if batch > 128 else None)
    assert (plan.channels, plan.layers) == ((36, 8) if plan.parameters else (48, 14))
    assert (plan.weights.momentum, plan.weights.weight_decay, plan.weights.clip) == (0.9, 3e-5, 5)
    assert (plan.label_smoothing, plan.auxiliary, plan.drop_path, plan.cutout) == (0.1, 0.4, 0, 0)
    assert (plan.stem, plan.top_k, plan.seeds) == ("imagenet", 5, (0,))
    data = recipe.data
    assert (data.dataset, data.resolution, data.crop) == ("imagenet", 224, None)
    assert (data.store, data.crop_scale, data.jitter) == ("stream", (0.08, 1.0), (0.4, 0.4, 0.4, 0.2))


def test_dots_on_imagenet() -> None:
    recipe, dots = load_recipe("dots-imagenet"), load_recipe("dots")
    assert (recipe.data.splits, recipe.data.class_balanced) == ({"train": 0.1, "val": 0.025}, True)
    operations, warmup, topology = stages = recipe.search.stages
    assert [recipe.search.size(s) for s in stages] == [{"channels": 16, "layers": 14, "partial": 1}] * 3
    assert (recipe.search.stem, recipe.search.head, recipe.search.batch_size) == ("imagenet", "bn-relu", 512)
    assert [(s.epochs, s.level, s.weights_on) for s in stages] == [
        (30, "bilevel", "train"),
        (20, "weights", "train"),
        (20, "single", "all"),
    ]
    assert [e for e in range(30) if updates_architecture(operations, e)] == list(range(20, 30))
    assert operations.weights.lr == Curve(shape="cosine", start=0.25, end=0.001)
    rates = [0.001 + 0.1245 * (1 + math.cos(math.pi * e / 70)) for e in range(30, 70)]
    assert [s.weights.lr.value(e, 20) for s in (warmup, topology) for e in range(20)] == pytest.approx(rates)
    assert rates[0] == pytest.approx(0.153, abs=5e-4)
    for adam in (operations.alpha, topology.alpha, topology.beta):
        assert (adam.lr.start, adam.betas, adam.weight_decay) == (3e-3, (0.9, 0.999), 1e-3)
    assert (operations.arch_clip, topology.arch_clip, {s.weights.weight_decay for s in stages}) == (5, None, {3e-4})
    assert topology.edge_temperature == dots.search.stages[2].edge_temperature
    assert [s.topology for s in stages] == [s.topology for s in dots.search.stages]


def test_pc_darts_on_imagenet() -> None:
    recipe = load_recipe("pc-darts-imagenet")
    (stage,) = recipe.search.stages
    assert (recipe.data.splits, recipe.data.class_balanced) == ({"train": 0.1, "val": 0.025}, True)
    assert recipe.search.size(stage) == {"channels": 16, "layers": 8, "partial": 2}
    assert (recipe.search.stem, recipe.search.head, recipe.search.batch_size) == ("imagenet", "plain", 1024)
    assert [e for e in range(50) if updates_architecture(stage, e)] == list(range(35, 50))
    rates = [0.25 * (1 + math.cos(math.pi * e / 50)) * min((e + 1) / 5, 1) for e in range(50)]
    assert [stage.weights.lr.value(e, 50) for e in range(50)] == pytest.approx(rates)
    for adam in (stage.alpha, stage.beta):
        assert (adam.lr.start, adam.betas, adam.weight_decay) == (6e-3, (0.5, 0.999), 1e-3)
    assert (stage.arch_clip, stage.topology.name) == (5, "edge-softmax")


def test_stretchable_cells_on_imagenet() -> None:
    recipe, cifar = load_recipe("stretchable-imagenet-l8"), load_recipe("stretchable-l8")
    assert recipe.search == cifar.search.model_copy(update={"stem": "imagenet"})
    assert {s: round(share, 9) for s, share in recipe.data.splits.items()} == dict.fromkeys(cifar.data.splits, 0.01)
    assert build_space(recipe).cells["normal"].nodes == 4
    assert (recipe.retrain.parameters, recipe.retrain.layers) == (5_600_000, 8)


@pytest.mark.parametrize(("name", "resolution"), [("dots-imagenet", 14), ("pc-darts-imagenet", 8)])
def test_supernets_take_the_images_of_imagenet(name: str, resolution: int) -> None:
    """Shapes alone: 224 pixels are 28 in the first cell and 7 in the last."""
    recipe = load_recipe(name)
    plan, stage, space = recipe.search, recipe.search.stages[0], build_space(recipe)
    with torch.device("meta"):
        net = Supernet(space, classes=1000, head=plan.head, stem=plan.stem, **plan.size(stage))
    assert 224 % net.skeleton.divisor == 0
    first, last = (net.skeleton.cells[i].preprocess1.conv.weight.shape for i in (0, -1))
    assert (first[1], last[0]) == (48, 64)  # the stem is 3C wide, the last cells 4C
    assert len(net.slots) == resolution


@pytest.mark.parametrize(
    ("name", "channels", "parameters", "multiply_adds"),
    [
        ("dots-imagenet", 48, 5.35, None),  # 5.3 M in the paper, whose text has 46 channels
        ("dots-imagenet", 46, 4.95, None),
        ("dots-c100", 46, 5.23, None),
        ("gdas", 50, None, 581.0),  # exactly as the paper prints it
        ("sgas-cri1-3", 48, 5.29, 594.8),
    ],
)
def test_networks_of_imagenet_have_their_known_sizes(
    name: str, channels: int, parameters: float | None, multiply_adds: float | None
) -> None:
    with torch.device("meta"):
        net = FixedNet(published(name).genotype, channels, 14, 1000, stem="imagenet")
        found = sum(p.numel() for p in net.parameters()), multiply_adds and count(net, (3, 224, 224)).multiply_adds
    if parameters is not None:
        assert found[0] / 1e6 == pytest.approx(parameters, abs=0.0075)
    if multiply_adds is not None:
        assert found[1] / 1e6 == pytest.approx(multiply_adds, abs=0.05)


def test_a_published_cell_is_retrained_by_a_recipe_of_imagenet(tmp_path: Path) -> None:
    words = ["retrain", "--genotype", "dots-c10", "imagenet-transfer", "--budget", "smoke", *QUICK, "--quiet"]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (results["k"], results["n"], results["channels"]) == (5, 1, 4)
    assert 0 <= results["last_mean"] <= results["top_k_mean"] <= 1
    assert "Top-5 accuracy, last epoch" in (tmp_path / "run" / "report.html").read_text()
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert records[-1]["test_top_k_accuracy"] == results["runs"][0]["top_k"]
    assert load(tmp_path / "run").net.stem(torch.zeros(2, 1, 32, 32))[1].shape == (2, 4, 4, 4)


def test_depth_on_imagenet_has_the_figures_of_its_table(tmp_path: Path) -> None:
    words = [*QUICK, "budget=smoke", "genotypes=darts-v2", "layers=[10]", "retrain_as=imagenet-transfer"]
    studies.run("depth", words, tmp_path / "depth")
    rows = (tmp_path / "depth" / "table.csv").read_text().splitlines()
    header = rows[0].split(",")
    column: list[Any] = [row.split(",")[header.index("published %")] for row in rows[1:]]
    assert column == ["72.1"]


def test_the_recipes_of_imagenet_shrink_to_what_their_stem_takes() -> None:
    for name in RECIPES:
        for budget, side in (("small", 64), ("smoke", 32)):
            recipe = load_recipe(name, budget=budget)
            assert recipe.data.resolution == side
            assert sum(recipe.data.splits.values()) == pytest.approx(1)
    assert load_recipe("dots-imagenet", budget="smoke").data.dataset == "digits"
    assert isinstance(load_recipe("dots-imagenet", budget="smoke").retrain, RetrainPlan)

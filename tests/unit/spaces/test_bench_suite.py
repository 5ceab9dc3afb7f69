"""The nine benchmarks of DARTS-Bench-Suite in our reading: candidates, sizes, parameter counts, recipes, and a run."""

import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.studies import without_reports  # noqa: F401

from topocell import Genotype, Supernet, api, spaces
from topocell.cli import main
from topocell.config.load import load_recipe
from topocell.errors import SpaceError
from topocell.nn.primitives import PRIMITIVES, make
from topocell.runs import setup
from topocell.spaces.bench_suite import CANDIDATES, SUPERNETS
from topocell.spaces.operations import RESIDUAL_OPERATIONS
from topocell.spaces.skeletons import layout
from topocell.testing import check_operation, check_skeleton

METHODS = ("darts", "pc-darts", "dots", "toponas")
NINE = list(product(SUPERNETS, CANDIDATES))


def test_the_three_sets_of_candidates() -> None:
    pools, convs = ("max_pool_3x3", "avg_pool_3x3"), ("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5")
    assert CANDIDATES["regular"] == ("none", *pools, "skip_connect", *convs)
    assert CANDIDATES["no-skip"] == ("none", *pools, *convs)
    assert CANDIDATES["all-skip"] == ("skip_connect", *(f"residual_{name}" for name in (*pools, *convs)))
    assert {f"residual_{name}": name for name in (*pools, *convs)} == RESIDUAL_OPERATIONS


@pytest.mark.parametrize(("supernet", "operations"), NINE)
def test_the_space_of_each_benchmark(supernet: str, operations: str) -> None:
    space = spaces.get("bench-suite", supernet=supernet, operations=operations)
    assert set(space.cells) == ({"normal"} if supernet == "single-cell" else {"normal", "reduce"})
    for cell in space.cells.values():
        assert cell.candidates == (CANDIDATES[operations],) * 14 and (cell.inputs, cell.nodes) == (2, 4)
    slots = layout(space.skeleton, *SUPERNETS[supernet][:2])
    kinds = {"wide": "nrrn", "deep": "nnnnnrnnnnrnnnnn", "single-cell": "n"}[supernet]
    assert [slot.cell_type[0] for slot in slots] == list(kinds)
    assert {"wide": 96, "deep": 32, "single-cell": 32}[supernet] == slots[-1].channels


def weights_of(operation: str, c: int, stride: int) -> int:
    """Weights of an operation in a supernet, whose batch norms have none (closed forms of DARTS' layers)."""
    inner = RESIDUAL_OPERATIONS.get(operation, operation)
    skip = c * c if stride == 2 and (inner != operation or operation == "skip_connect") else 0
    kernel = int(inner[-1]) if "conv" in inner else 0
    once = c * kernel**2 + c * c if kernel else 0
    return skip + once * (2 if inner.startswith("sep") else 1)


def supernet_weights(channels: int, layers: int, uniform: bool, operations: tuple[str, ...], n: int) -> int:
    """Stem, preprocess layers, operations on the edges of n nodes (strided from both inputs), and classifier."""
    edges = 2 * n + n * (n - 1) // 2
    total, c, before = 3 * channels * 27 + 6 * channels, channels, (3 * channels, 3 * channels)
    for index in range(layers):
        reduces = not uniform and index in (layers // 3, 2 * layers // 3)
        c *= 2 if reduces else 1
        total += c * sum(before)
        strided = 2 * n if reduces else 0
        total += sum(strided * weights_of(o, c, 2) + (edges - strided) * weights_of(o, c, 1) for o in operations)
        before = (before[1], n * c)
    return total + n * c * 10 + 10


def test_the_closed_form_is_that_of_darts() -> None:
    assert supernet_weights(16, 8, False, spaces.DARTS_OPERATIONS, 4) == 1_930_618  # published supernet


@pytest.mark.parametrize(("supernet", "operations"), NINE)
def test_parameters_of_each_supernet(supernet: str, operations: str) -> None:
    channels, layers, skeleton = SUPERNETS[supernet]
    space = spaces.get("bench-suite", supernet=supernet, operations=operations, nodes=2)
    net = Supernet(space, channels=channels, layers=layers, classes=10)
    expected = supernet_weights(channels, layers, skeleton == "uniform", CANDIDATES[operations], 2)
    assert sum(p.numel() for p in net.parameters()) == expected


@pytest.mark.parametrize("name", RESIDUAL_OPERATIONS)
def test_an_operation_with_a_skip_connection_adds_its_input(name: str) -> None:
    check_operation(name)
    x = torch.randn(2, 4, 8, 8)
    module = make(name, 4, 1, affine=True).eval()
    inner = make(RESIDUAL_OPERATIONS[name], 4, 1, affine=True).eval()
    inner.load_state_dict(module.op.state_dict())
    assert torch.equal(module(x), inner(x) + x)
    strided = make(name, 4, 2, affine=True).eval()
    assert torch.equal(strided(x), strided.op(x) + strided.skip(x)) and strided(x).shape == (2, 4, 4, 4)
    assert PRIMITIVES[name].family == PRIMITIVES[RESIDUAL_OPERATIONS[name]].family


def test_the_skeleton_without_reductions() -> None:
    check_skeleton("uniform")
    with pytest.raises(SpaceError, match="skeleton 'uniform' takes the cell types"):
        spaces.SpaceSpec("mine", spaces.get("darts").cells, "uniform")
    with pytest.raises(SpaceError, match="skeleton 'uniform' has no reduction cell; leave reduce out"):
        spaces.get("custom", skeleton="uniform", reduce={"nodes": 2})


@pytest.mark.parametrize("method", METHODS)
def test_the_page_names_the_sizes_of_all_supernets(method: str) -> None:
    """The words on the page are those of `SUPERNETS`, for every recipe; a cell is retrained at twice the channels."""
    text = (Path(__file__).parents[3] / "docs/methods/others.md").read_text(encoding="utf-8")
    found = {"wide": []} | {
        n: r.split() for n, r in re.findall(r"space\.supernet=(\S+) (search\.channels[^`]*)`", text)
    }
    assert set(found) == set(SUPERNETS)
    for supernet, words in found.items():
        for operations in CANDIDATES:
            named = [f"space.supernet={supernet}", f"space.operations={operations}"]
            recipe = load_recipe(f"bench-{method}", [*named, *words])
            channels, layers, skeleton = SUPERNETS[supernet]
            assert setup.build_space(recipe) == spaces.get("bench-suite", supernet=supernet, operations=operations)
            sizes = [recipe.search.size(stage) for stage in recipe.search.stages]
            assert all((size["channels"], size["layers"]) == (channels, layers) for size in sizes)
            assert (recipe.retrain.channels, recipe.retrain.layers) == (2 * channels, layers)
            assert setup.build_space(recipe).skeleton == skeleton


def test_a_single_cell_with_skips_everywhere_is_searched_and_retrained(tmp_path: Path) -> None:
    words = ["space.supernet=single-cell", "space.operations=all-skip", "space.nodes=2", "data.images=40"]
    recipe = load_recipe("bench-dots", [*words, "search.layers=1", "retrain.layers=1"], budget="smoke")
    api.run(recipe, tmp_path / "run")
    genotype = Genotype.load(tmp_path / "run/genotype.json")
    assert list(genotype.cells) == ["normal"] and genotype.skeleton == "uniform"
    operations = genotype.operations("normal")
    assert set(operations) <= set(CANDIDATES["all-skip"]) and sum(operations.values()) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["space.supernet=tall"], "supernet of space bench-suite is one of wide, deep, single-cell, but got 'tall'"),
        (["space.operations=no-skips"], "operations of space bench-suite is one of regular, no-skip, all-skip, but"),
        (["space.operations=3"], "operations of space bench-suite is one of regular, no-skip, all-skip, but got 3"),
        (["space.nodes=0"], "a cell has 1 to 16 computed nodes, but got nodes=0"),
        (["space.supernet=wide", "search.layers=1"], "no normal cell in search.layers=1; the least that has is"),
        (["space.width=3"], "space 'bench-suite' has no option 'width'"),
    ],
)
def test_benchmarks_that_cannot_be(words: list[str], message: str, tmp_path: Path, capsys: Any) -> None:
    assert main(["run", "bench-darts", *words, "--budget", "smoke", "--out", str(tmp_path / "a")]) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "a").exists()

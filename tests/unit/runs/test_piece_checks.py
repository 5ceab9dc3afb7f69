"""Pieces of a user's own that are right in the recipe that names them are not refused by checks on other settings."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import topocell
from topocell import registry, testing
from topocell.errors import RecipeError, SpaceError
from topocell.nn.primitives import Primitive
from topocell.registry import known
from topocell.relaxation import Softmax
from topocell.runs.setup import check
from topocell.runtime.losses import cross_entropy
from topocell.searching.mechanisms import Mechanism
from topocell.spaces import SpaceSpec, Stacking, get
from topocell.spaces.operations import KNOWN_OPERATIONS, Operation
from topocell.spaces.skeletons import darts_layout

STAGE = "search.stages.search"
TINY = "space={name: custom, nodes: 2, candidates: [skip_connect, sep_conv_3x3]}"


class ReadsBeta(Mechanism):
    def __init__(self, level: float = 1.0, mechanism: int = 0, name: str = "") -> None:
        self.level = level

    def on_epoch_end(self, search: Any) -> dict[str, Any]:
        return {"largest": {name: float(beta.detach().max()) for name, beta in search.learner.arch.beta.items()}}


class ReadsAlphaOfCell(Mechanism):
    def on_step_end(self, search: Any) -> None:
        search.learner.arch.alpha["cell"].data.mul_(0.9)


class OwnSoftmax(Softmax):
    pass


class Blur(nn.Module):
    """A depthwise convolution whose weights are float32, whatever the dtype of the module."""

    weight = torch.full((1, 1, 3, 3), 1 / 9)

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight.repeat(self.channels, 1, 1, 1)
        return nn.functional.conv2d(x, weight, stride=self.stride, padding=1, groups=self.channels)


def grouped(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, channels, 3, stride, 1), nn.GroupNorm(8, channels))


def at_stride_1(channels: int, stride: int, affine: bool) -> nn.Module:
    assert stride == 1
    return nn.Sequential(nn.Conv2d(channels, channels, 3, 1, 1), nn.BatchNorm2d(channels, affine=affine))


def strongest_beta(arch: Any, cell_type: str, rules: Any, allowed: torch.Tensor) -> tuple[list[int], None]:
    return sorted({int(arch.beta[cell_type].argmax()), 0, 1}), None


def in_threes(channels: int, layers: int) -> Any:
    if layers % 3:
        raise SpaceError(f"layers come in threes, but got layers={layers}")
    return darts_layout(channels, layers)


def loss_of_loss(logits: torch.Tensor, target: torch.Tensor, loss: float = 1.0) -> torch.Tensor:
    return loss * cross_entropy(logits, target)


def first_edge_alone() -> SpaceSpec:
    """DARTS cells whose first edge has one candidate, and the others two."""
    cells = {
        name: replace(cell, candidates=(("skip_connect",), *(("skip_connect", "sep_conv_3x3"),) * (cell.n_edges - 1)))
        for name, cell in get("darts", nodes=2).cells.items()
    }
    return SpaceSpec("first-edge-alone", cells)


@pytest.fixture(autouse=True)
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, name, piece in (
        ("mechanism", "reads-beta", ReadsBeta),
        ("mechanism", "reads-alpha-of-cell", ReadsAlphaOfCell),
        ("edge rule", "strongest-beta", strongest_beta),
        ("skeleton", "in-threes", Stacking(in_threes)),
        ("operation", "grouped", Primitive(grouped)),
        ("operation", "at-stride-1", Primitive(at_stride_1)),
        ("operation", "blur", Primitive(lambda c, s, a: nn.Sequential(Blur(c, s), nn.BatchNorm2d(c, affine=a)))),
        ("relaxation", "own-softmax", OwnSoftmax),
        ("space", "first-edge-alone", first_edge_alone),
        ("loss", "loss-of-loss", loss_of_loss),
    ):
        monkeypatch.setitem(known(kind), name, piece)
        if isinstance(piece, Primitive):
            monkeypatch.setitem(KNOWN_OPERATIONS, name, Operation(name, piece.family))


@pytest.mark.parametrize(
    "changes",
    [
        [TINY, f"{STAGE}.topology=edge-softmax", f"{STAGE}.mechanisms.reads-beta={{}}"],
        [TINY, f"{STAGE}.topology=edge-softmax", "selection.edges=strongest-beta"],
        ["space={name: nasbench201, nodes: 2}", f"{STAGE}.mechanisms.reads-alpha-of-cell={{}}", "search.layers=5"],
        ["space={name: custom, nodes: 2, skeleton: in-threes, candidates: [skip_connect]}", "search.layers=6"],
        [TINY.replace("sep_conv_3x3", "grouped"), "search.channels=16"],
        [TINY.replace("sep_conv_3x3", "grouped"), "search.channels=16", f"{STAGE}.partial=2"],
        [TINY.replace("sep_conv_3x3", "blur")],
        ["space={name: nasbench201, candidates: [skip_connect, at-stride-1]}", "search.layers=5"],
        ["space=first-edge-alone", f"{STAGE}.relaxation=own-softmax"],
        ["search.loss={name: loss-of-loss, loss: 2.0}"],
    ],
)
def test_a_piece_that_fits_the_recipe_is_taken(changes: list[str]) -> None:
    check(topocell.load_recipe("darts-v1", ["retrain.layers=3", *changes], budget="smoke"))


def test_options_of_any_name_reach_a_mechanism() -> None:
    testing.check_mechanism("reads-beta", {"topology": "edge-softmax"}, level=2.0, mechanism=3, name="x")
    built = registry.build("mechanism", known("mechanism"), "reads-beta", level=2.0, mechanism=3, name="x")
    assert built.level == 2.0
    with pytest.raises(RecipeError, match="mechanism 'reads-alpha-of-cell' has no option 'level'; it takes: none"):
        testing.check_mechanism("reads-alpha-of-cell", level="weights")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ([f"{STAGE}.mechanisms.reads-beta={{}}"], "mechanism 'reads-beta' fails on a small example: RuntimeError"),
        (["selection.edges=strongest-beta"], "edge rule 'strongest-beta' fails on a small example: IndexError"),
        ([TINY.replace("sep_conv_3x3", "grouped"), "search.channels=12"], "operation 'grouped' at stride 1 fails"),
    ],
)
def test_a_piece_that_does_not_fit_the_recipe_is_refused(changes: list[str], words: str) -> None:
    with pytest.raises(testing.ContractError, match=words):
        check(topocell.load_recipe("darts-v1", [TINY, *changes], budget="smoke"))


def test_a_skeleton_without_any_depth_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(channels: int, layers: int) -> Any:
        raise SpaceError("no")

    monkeypatch.setitem(known("skeleton"), "never", Stacking(never))
    with pytest.raises(testing.ContractError, match="it can have some number of layers, but got SpaceError for each"):
        testing.check_skeleton("never")

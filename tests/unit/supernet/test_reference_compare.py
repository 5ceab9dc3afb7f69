"""The oracles of search levels against closed forms, and the comparison against known faults."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.reference.compare import Weights, assert_matches, random_weights, repeatable_noise
from tests.helpers.reference.levels import f12_case, unrolled_gradient
from tests.helpers.reference.supernet import ReferenceSupernet
from torch import Tensor

from topocell import spaces
from topocell.spaces import OPERATIONS, CellSpec, SpaceSpec, complete_edges

F64 = torch.float64


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def small_space(candidates: tuple[str, ...] = OPERATIONS[:11]) -> SpaceSpec:
    return spaces.get("darts", nodes=2, candidates=candidates)


# --- levels


@given(seed=st.integers(0, 2**31), n=st.integers(1, 8), m=st.integers(1, 8), xi=st.floats(0.001, 1.0))
@settings(max_examples=30)
def test_the_unrolled_gradient_has_the_closed_form(seed: int, n: int, m: int, xi: float) -> None:
    case = f12_case(seed, n, m, xi)
    got = unrolled_gradient(
        case.loss_train, case.loss_val, case.w, case.alpha, xi, momentum_buffer=None, mu=0.0, weight_decay=0.0
    )
    torch.testing.assert_close(got, case.gradient, rtol=1e-9, atol=1e-9)


def test_the_unrolled_gradient_follows_momentum_weight_decay_and_the_direct_path() -> None:
    """Central differences of the whole composition agree, for losses without a closed form."""
    w, alpha, v, mix = random(4, seed=1), random(3, seed=2), random(4, seed=3), random(4, 3, seed=4)
    xi, mu, decay = 0.1, 0.9, 0.3

    def loss_train(w: Tensor, a: Tensor) -> Tensor:
        return torch.sin(w * (mix @ a)).sum() + w.pow(4).sum()

    def loss_val(w: Tensor, a: Tensor) -> Tensor:
        return torch.cos(w).sum() * a.square().sum() + a.pow(3).sum()

    def composed(a: Tensor) -> float:
        x = w.clone().requires_grad_()
        (g,) = torch.autograd.grad(loss_train(x, a), x)
        return loss_val(w - xi * (mu * v + g + decay * w), a).item()

    h = 1e-5
    steps = h * torch.eye(3, dtype=F64)
    expected = torch.tensor([(composed(alpha + s) - composed(alpha - s)) / (2 * h) for s in steps], dtype=F64)
    got = unrolled_gradient(loss_train, loss_val, w, alpha, xi, v, mu, decay)
    torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-7)


# --- the comparison


class PerEdge(ReferenceSupernet):
    """The reference with the exchange methods of a supernet, and faults to be found."""

    def __init__(self, *args: Any, fault: str = "", **options: Any) -> None:
        super().__init__(*args, **options)
        self.fault = fault
        self.removed: tuple[str, ...] = ("nothing",)

    def forward(self, x: Tensor, weights: Mapping[str, Any]) -> Tensor:
        if self.fault == "ops":
            weights = {kind: Weights(w.ops.abs(), w.edges) for kind, w in weights.items()}
        if self.removed[0].startswith("cells."):  # edge 0 of the normal cell: both its candidates
            keep = torch.ones(5, dtype=F64).index_fill(0, torch.tensor(0), 0)
            normal = weights["normal"]
            weights = {**weights, "normal": Weights(normal.ops * keep[:, None], normal.edges * keep)}
        if self.fault == "edges":
            weights = {kind: Weights(w.ops, w.edges.detach()) for kind, w in weights.items()}
        return super().forward(x, weights) + (1e-3 if self.fault == "logits" else 0)

    def per_edge_state_dict(self) -> dict[str, Tensor]:
        return {name: p for name, p in self.state_dict().items() if not name.startswith(self.removed)}

    def per_edge_grad_dict(self) -> dict[str, Tensor]:
        found = {name: p.grad for name, p in self.named_parameters() if p.grad is not None and p.grad.any()}
        if self.fault == "gradient":
            del found["cells.1.edges.0.sep_conv_3x3.dw2.weight"]
        if self.fault == "shape":
            found["classifier.bias"] = found["classifier.bias"][:1]
        if self.fault == "nan":
            found["classifier.bias"] = found["classifier.bias"] * float("nan")
        if self.fault == "name":
            found["cells.1.edges.0.sep_conv_3x3.dw3.weight"] = torch.zeros(1)
        return found


def pair(space: SpaceSpec, layers: int, fault: str = "", **options: Any) -> tuple[PerEdge, ReferenceSupernet]:
    """A network with a fault, and the reference with other weights."""
    torch.manual_seed(0)
    return (
        PerEdge(space, 4, layers, 3, fault=fault, **options).double(),
        ReferenceSupernet(space, 4, layers, 3, **options).double(),
    )


@pytest.mark.parametrize("options", [{}, {"partial": 2}, {"head": "bn-relu"}])
@pytest.mark.parametrize("layers", [1, 3])
def test_equal_networks_match(layers: int, options: dict[str, Any]) -> None:
    """With one layer there is no normal cell: gradients that do not exist count as zero on both sides."""
    space = small_space()
    engine, reference = pair(space, layers, **options)
    weights = random_weights(space, zero_share=0.3)
    assert_matches(engine, reference, space, random(2, 3, 8, 8), weights, atol=1e-12, rtol=1e-12)


def test_a_float32_network_matches_a_float64_reference_within_its_precision() -> None:
    space = spaces.get("nasbench201")
    engine, reference = pair(space, 5)
    x = random(2, 3, 8, 8).float()
    assert_matches(engine.float(), reference, space, x, random_weights(space), atol=1e-4, rtol=1e-4)
    with pytest.raises(AssertionError, match="tensors differ"):
        assert_matches(engine, reference, space, x, random_weights(space), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("ops", "gradient of ops of normal"),
        ("edges", "gradient of edges of reduce"),
        ("logits", "^1 of .*\nlogits: differs by 0.001"),
        ("gradient", "^1 of .*\ngradient of cells.1.edges.0.sep_conv_3x3.dw2.weight: differs"),
        ("shape", r"^1 of .*\ngradient of classifier.bias: shape \(1,\), but the reference has \(3,\)"),
        ("nan", "^1 of .*\ngradient of classifier.bias: differs by nan"),
        ("name", "keys that per_edge_state_dict has not: .*dw3.weight"),
    ],
)
def test_different_networks_do_not_match(fault: str, message: str) -> None:
    space = small_space(("skip_connect", "sep_conv_3x3"))
    engine, reference = pair(space, 3, fault)
    with pytest.raises(AssertionError, match=message):
        assert_matches(engine, reference, space, random(2, 3, 8, 8), random_weights(space), 1e-9, 1e-9)


@pytest.mark.parametrize("partial", [1, 2])
def test_removed_candidates_count_as_zero(partial: int) -> None:
    """The bypass of partial channels goes with the last candidate of its edge."""
    space = small_space(("skip_connect", "sep_conv_3x3"))
    engine, reference = pair(space, 3, partial=partial)
    engine.removed = ("cells.0.edges.0.sep_conv_3x3.",)
    masks = {"normal": torch.tensor([[False, False]] + [[True, True]] * 4)}
    x, weights = random(2, 3, 8, 8), random_weights(space)
    assert_matches(engine, reference, space, x, weights, 1e-12, 1e-12, masks)
    with pytest.raises(AssertionError, match=r"lacks .*cells.0.edges.0.sep_conv_3x3.dw1.weight"):
        assert_matches(engine, reference, space, x, weights, 1e-12, 1e-12)
    engine.removed = ("nothing",)
    with pytest.raises(AssertionError, match=r"unknown .*cells.0.edges.0.sep_conv_3x3.dw1.weight"):
        assert_matches(engine, reference, space, x, weights, 1e-12, 1e-12, masks)


def test_cell_weights_of_another_shape_are_refused() -> None:
    space = small_space(("skip_connect", "sep_conv_3x3"))
    engine, reference = pair(space, 3)
    weights = random_weights(small_space(("skip_connect",)))
    with pytest.raises(AssertionError, match="ops of normal"):
        assert_matches(engine, reference, space, random(2, 3, 8, 8), weights, 1e-9, 1e-9)


def test_repeatable_noise_depends_on_sample_row_and_column_only() -> None:
    with repeatable_noise():
        grouped = torch.randn_like(torch.empty(2, 6, 4, 4, dtype=F64))
        single = torch.randn(2, 1, 4, 4, dtype=F64)
        assert torch.equal(torch.randn((2, 1, 4, 4), dtype=F64), single)
    assert torch.equal(grouped, single.expand(2, 6, 4, 4))
    assert single.unique().numel() > 16
    assert not torch.equal(torch.randn(2, 1, 4, 4, dtype=F64), single)


def test_random_weights_are_padded_with_zeros() -> None:
    names = (("skip_connect", "none"), ("noise",), ("none",), ("skip_connect",), ("sep_conv_3x3",))
    cells = {
        kind: CellSpec(2, 2, complete_edges(2, 2), names, stride=stride)
        for kind, stride in (("normal", 1), ("reduce", 2))
    }
    weights = random_weights(SpaceSpec("padded", cells), seed=5)["normal"]
    assert (weights.ops != 0).tolist() == [[True, True]] + [[True, False]] * 4
    assert (weights.edges > 0).all()

"""Drop path in the supernet: the plain per-edge supernet with the same edges dropped, and passes that share draws."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from tests.helpers.reference.compare import assert_matches, random_weights
from tests.helpers.reference.supernet import ReferenceSupernet
from torch import Tensor
from torch.optim import SGD, Adam

from topocell import spaces
from topocell.spaces import SpaceSpec
from topocell.supernet import ArchWeights, OneHotWeights, Supernet
from topocell.supernet.arch_state import ArchState
from topocell.supernet.cell import SuperCell
from topocell.supernet.learner import ArchBatch, Learner
from topocell.supernet.levels import unrolled_gradient

F32, F64 = torch.float32, torch.float64
MIX = ("none", "max_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_5x5")
SPACE = spaces.get("darts", nodes=2, candidates=MIX)
NB201 = spaces.get("nasbench201")
IMAGES, LAYERS = 6, 5


def supernet(space: SpaceSpec = SPACE, dtype: torch.dtype = F64, **options: Any) -> Supernet:
    torch.manual_seed(0)
    return Supernet(space, 4, LAYERS, 3, **options).to(dtype)


def images(dtype: torch.dtype = F64, seed: int = 0) -> Tensor:
    return torch.randn(IMAGES, 3, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Seeded:
    """A supernet whose draws are the same in every pass."""

    def __init__(self, net: Supernet) -> None:
        self._net = net

    def __call__(self, x: Tensor, weights: Mapping[str, Any]) -> Tensor:
        torch.manual_seed(5)
        out: Tensor = self._net(x, weights)
        return out

    def __getattr__(self, name: str) -> Any:
        return getattr(self._net, name)


@pytest.mark.parametrize(
    ("space", "options"),
    [(SPACE, {}), (SPACE, {"partial": 2}), (SPACE, {"memory": "low"}), (NB201, {})],
    ids=["darts", "partial", "low memory", "nasbench201"],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-9), (F32, 2e-4)], ids=str)
def test_the_supernet_is_the_plain_one_with_the_same_edges_dropped(
    space: SpaceSpec, options: dict[str, Any], dtype: torch.dtype, tolerance: float
) -> None:
    net, rate = supernet(space, dtype, **options), 0.4
    plain = ReferenceSupernet(space, 4, LAYERS, 3, partial=options.get("partial", 1)).double()
    net.drop_path = rate
    torch.manual_seed(5)
    dropped, of_all = 0, 0
    for cell in plain.cells:  # each cell draws a number for each edge and image, in the order of cells
        kept = torch.rand(cell.spec.n_edges, IMAGES) < 1 - rate
        cell.passed = kept.double() / (1 - rate)
        dropped, of_all = dropped + int((~kept).sum()), of_all + kept.numel()
    assert 0.25 < dropped / of_all < 0.55
    weights = random_weights(space, zero_share=0.1)
    assert_matches(Seeded(net), plain, space, images(dtype), weights, tolerance, tolerance)
    for cell in plain.cells:
        cell.passed = None
    with pytest.raises(AssertionError, match="logits: differs"):
        assert_matches(Seeded(net), plain, space, images(dtype), weights, tolerance, tolerance)


def test_candidates_that_were_not_drawn_are_dropped_with_their_edge() -> None:
    """One-hot weights run one operation of an edge; the others are zero and keep their gradient, times that factor."""
    net = supernet()
    net.drop_path = 0.4
    found = {}
    for kind in (OneHotWeights, ArchWeights):
        leaves = {t: torch.eye(5, dtype=F64)[torch.arange(5) % 5].requires_grad_() for t in SPACE.cells}
        logits = Seeded(net)(images(), {t: kind(ops, torch.ones(5, dtype=F64)) for t, ops in leaves.items()})
        logits.square().sum().backward()
        found[kind] = logits.detach(), leaves
    torch.testing.assert_close(found[OneHotWeights][0], found[ArchWeights][0])
    for t, cell in SPACE.cells.items():
        slopes = [found[kind][1][t].grad for kind in (OneHotWeights, ArchWeights)]
        drawn = torch.eye(5, dtype=torch.bool)
        torch.testing.assert_close(slopes[0][drawn], slopes[1][drawn])
        for e in range(cell.n_edges):  # what was not drawn counts as a scalar that is added: alike for all on an edge
            others = slopes[0][e][~drawn[e]]
            assert others[0] != 0 and torch.equal(others, others[0].expand(4))


def test_drop_path_is_for_training_alone_and_none_is_bit_for_bit_none() -> None:
    net, x = supernet(dtype=F32), images(F32)
    weights = {t: ArchWeights(torch.full((5, 5), 0.2), torch.ones(5)) for t in SPACE.cells}
    same = Seeded(net)(x, weights)
    net.drop_path = 0.3
    assert not torch.equal(Seeded(net)(x, weights), same)
    assert torch.equal(Seeded(net.eval())(x, weights), same)
    net.train().drop_path = 0.0
    before = torch.get_rng_state()
    assert torch.equal(net(x, weights), same) and torch.equal(torch.get_rng_state(), before)  # nothing is drawn


def test_both_ends_of_the_finite_difference_drop_the_same_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    net, arch = supernet(), ArchState(SPACE, init=0.5).double()
    net.drop_path = 0.4
    learner = Learner(net, arch, SGD(net.parameters(), lr=0.1), Adam(arch.alpha.values()), None, None)
    drawn: list[Tensor] = []
    plain = SuperCell._passed

    def record(cell: SuperCell, x: Tensor) -> Tensor | None:
        found = plain(cell, x)
        assert found is not None
        drawn.append(found.flatten())
        return found

    monkeypatch.setattr(SuperCell, "_passed", record)
    labels = torch.arange(IMAGES) % 3
    torch.manual_seed(0)
    train, val = (images(), labels), (images(seed=1), labels)
    unrolled_gradient(learner, train, ArchBatch(val, True, False))
    step, ahead, up, down = (torch.cat(drawn[i : i + LAYERS]) for i in range(0, 4 * LAYERS, LAYERS))
    assert len(drawn) == 4 * LAYERS
    assert torch.equal(up, down) and not torch.equal(step, ahead) and not torch.equal(ahead, up)
    learner.weights_step(train)
    assert not torch.equal(torch.cat(drawn[4 * LAYERS :]), up)  # the step of the weights draws its own

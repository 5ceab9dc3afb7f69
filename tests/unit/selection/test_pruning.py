"""Deciding for good: what leaves the supernet, what the optimizers keep, and what no longer moves."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.utils._python_dispatch import TorchDispatchMode

from topocell import spaces
from topocell.config.search import WeightOptimizer
from topocell.runtime.optimizers import build_optimizer
from topocell.selection.pruning import decide, follow, only, undecided, without_edges
from topocell.supernet import Supernet
from topocell.supernet.arch_state import ArchState
from topocell.supernet.learner import ArchBatch, Batch, Learner
from topocell.supernet.levels import bilevel

F64 = torch.float64
#: Edges 0→2, 1→2, 0→3, 1→3, 2→3.
SPACE = spaces.get("darts", nodes=2, candidates=("none", "skip_connect", "sep_conv_3x3"))


def learner(space: Any = SPACE, partial: int = 1) -> Learner:
    torch.manual_seed(0)
    net = Supernet(space, 4, 3, 3, in_channels=1, partial=partial).double()
    arch = ArchState(space, init=0.5, generator=torch.Generator().manual_seed(1)).double()
    weights = SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=3e-4)
    alpha = Adam(arch.alpha.values(), lr=0.05, betas=(0.5, 0.999), weight_decay=1e-1)
    return Learner(net, arch, weights, alpha, None, clip=None)


def batch(seed: int) -> Batch:
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(4, 1, 8, 8, generator=draws, dtype=F64), torch.randint(3, (4,), generator=draws)


def steps(of: Learner, first: int, n: int) -> None:
    for seed in range(first, first + n):
        bilevel(of, batch(2 * seed), [ArchBatch(batch(2 * seed + 1), True, True)])


def by_edge(of: Learner, look: Callable[[Any], Tensor | None]) -> dict[str, Tensor]:
    """What `look` finds for each parameter, under the names of the weights of single edges."""
    found = {}
    for name, piece in of.net._pieces().items():
        value = look(piece.parameter)
        assert value is not None and value.shape == piece.parameter.shape, name
        found[name] = piece.of(value).detach().clone()
    return found


def momentum(of: Learner) -> dict[str, Tensor]:
    return by_edge(of, lambda p: of.weights_optimizer.state[p]["momentum_buffer"])


def some_masks(of: Learner) -> dict[str, Tensor]:
    """Normal cell: edge 0 is sep_conv_3x3, edge 3 is pruned; reduction cell: edge 4 is skip_connect."""
    normal, reduce = of.arch.mask("normal"), of.arch.mask("reduce")
    return {"normal": without_edges(only(normal, 0, 2), [3]), "reduce": only(reduce, 4, 1)}


def test_a_mask_takes_its_candidates_out_of_everything() -> None:
    subject = learner()
    steps(subject, 0, 2)
    weights, moments = by_edge(subject, lambda p: p), momentum(subject)
    decide(subject, some_masks(subject))
    left, left_moments = by_edge(subject, lambda p: p), momentum(subject)
    gone = set(weights) - set(left)
    assert gone and not set(left) - set(weights)
    by_cell = {"cells.0.": ("edges.3.",), "cells.1.": ("edges.4.sep",), "cells.2.": ("edges.4.sep",)}
    kinds = [slot.cell_type for slot in subject.net.slots]
    assert kinds == ["normal", "reduce", "reduce"]
    assert gone == {
        n for n in weights for cell, parts in by_cell.items() if n.startswith(cell) for p in parts if p in n
    }
    assert all(torch.equal(left[name], weights[name]) for name in left)
    assert all(torch.equal(left_moments[name], moments[name]) for name in left)
    held = {id(p) for group in subject.weights_optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in subject.net.parameters()} == {id(p) for p in subject.weights_optimizer.state}
    expected = [[0, 0, 1], [1, 1, 1], [1, 1, 1], [0, 0, 0], [1, 1, 1]]
    assert subject.arch.mask("normal").int().tolist() == expected
    assert undecided(subject.arch.mask("normal")) == [1, 2, 4]
    assert subject.net.masks()["normal"].int().tolist() == expected


@pytest.mark.parametrize("partial", [1, 2])
def test_what_is_left_learns_as_if_the_rest_were_there_with_weight_zero(partial: int) -> None:
    """Also the momentum goes on as it was."""
    cut, whole = learner(partial=partial), learner(partial=partial)
    for subject in (cut, whole):
        steps(subject, 0, 2)
    masks = some_masks(cut)
    if partial > 1:  # the channels that bypass a pruned edge would still be there
        masks["normal"] = only(cut.arch.mask("normal"), 0, 2)
    decide(cut, masks)
    whole.arch.restrict(masks)
    steps(cut, 2, 3)
    steps(whole, 2, 3)
    expected = by_edge(whole, lambda p: p)
    for name, weight in by_edge(cut, lambda p: p).items():
        assert torch.allclose(weight, expected[name], rtol=1e-9, atol=1e-12), name
    for kind in SPACE.cells:
        assert torch.allclose(cut.arch.alpha[kind], whole.arch.alpha[kind], rtol=1e-9)


def test_decided_logits_neither_decay_nor_coast() -> None:
    subject = learner()
    steps(subject, 0, 3)
    assert all(state["exp_avg"].abs().min() > 0 for state in subject.alpha_optimizer.state.values())
    decide(subject, some_masks(subject))
    before = {kind: alpha.detach().clone() for kind, alpha in subject.arch.alpha.items()}
    steps(subject, 3, 3)
    decided = {"normal": [True, False, False, True, False], "reduce": [False, False, False, False, True]}
    for kind, rows in decided.items():
        for edge, still in enumerate(rows):
            moved = subject.arch.alpha[kind][edge].ne(before[kind][edge])
            assert not moved.any() if still else moved.all()
    one_left = subject.arch()["normal"].ops[0]
    assert one_left.tolist() == [0, 0, 1]


def test_an_edge_with_a_single_candidate_from_the_start_is_not_decided() -> None:
    """Its logit is worth nothing in a softmax, and much in a relaxation that weighs each candidate by itself."""
    cell = SPACE.cells["normal"].with_candidates([("skip_connect",)] + [("skip_connect", "none")] * 4)
    arch = ArchState(SPACE.with_cells({"normal": cell, "reduce": SPACE.cells["reduce"]}))
    assert arch.decided("normal").tolist() == [[False, True]] + [[False, False]] * 4


def test_a_node_may_lose_all_its_inputs() -> None:
    subject = learner()
    masks = {"normal": without_edges(subject.arch.mask("normal"), [0, 1])}
    decide(subject, masks)
    steps(subject, 0, 1)
    assert torch.isfinite(subject.net(batch(9)[0], subject.arch())).all()


class Calls(TorchDispatchMode):
    """Counts calls of operators on tensors."""

    n = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.n += 1
        return func(*args, **(kwargs or {}))


def calls(of: Learner) -> int:
    with Calls() as counted:
        of.net(batch(0)[0], of.arch())
    return counted.n


def test_every_decision_makes_the_next_steps_cheaper() -> None:
    subject = learner(spaces.get("darts", nodes=2, candidates=("max_pool_3x3", "sep_conv_3x3", "dil_conv_3x3")))
    costs = [calls(subject)]
    sizes = [sum(p.numel() for p in subject.net.parameters())]
    for edge in range(5):
        for kind in SPACE.cells:
            decide(subject, {kind: only(subject.arch.mask(kind), edge, 0)})
        costs.append(calls(subject))
        sizes.append(sum(p.numel() for p in subject.net.parameters()))
    assert costs == sorted(costs, reverse=True) and costs[-1] < 0.6 * costs[0]
    assert sizes == sorted(set(sizes), reverse=True)


@pytest.mark.parametrize("name", ["adamw", "adafactor", "rmsprop", "asgd"])
def test_the_state_of_any_optimizer_is_cut_with_the_weights(name: str) -> None:
    """After a decision steps go on as those of an optimizer that has only ever seen what stays."""
    plan = WeightOptimizer.model_validate({"optimizer": name, "lr": 0.01})
    draws = torch.Generator().manual_seed(0)
    start, kept = torch.randn(4, 3, 3, 3, generator=draws), torch.tensor([0, 2])
    whole, part = nn.Parameter(start.clone()), nn.Parameter(start[kept].clone())
    gone = nn.Parameter(torch.ones(3))
    first, second = build_optimizer([whole, gone], plan, 0.01), build_optimizer([part], plan, 0.01)
    for _ in range(3):
        whole.grad, gone.grad = torch.ones_like(whole), torch.ones_like(gone)
        first.step()
    whole.data = whole.data[kept].clone()
    follow(first, [whole], [(whole, kept)])
    assert first.param_groups[0]["params"] == [whole] and set(first.state) == {whole}
    for value in first.state[whole].values():
        if isinstance(value, Tensor) and value.dim():
            assert all(have in (1, size) for have, size in zip(value.shape, whole.shape))
    for optimizer, weight in ((first, whole), (second, part)):
        for _ in range(3 if weight is part else 0):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    if name != "adafactor":  # whose step has the size of the whole weight
        torch.testing.assert_close(whole, part)

"""Optimizers by name: each is torch's, resumes exactly, and refuses what it does not take."""

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn, optim

import topocell
from topocell.config.search import Stage, WeightOptimizer
from topocell.errors import RecipeError
from topocell.io import checkpoint
from topocell.io.checkpoint import restore_optimizer
from topocell.runtime.optimizers import OPTIMIZERS, build_optimizer, check_optimizer, rate_of, set_rate
from topocell.supernet.learner import Learner, weight_optimizer

OPTIONS: dict[str, dict[str, Any]] = {
    "sgd": {"dampening": 0.1},
    "adamw": {"betas": [0.8, 0.9], "amsgrad": True},
    "rmsprop": {"momentum": 0.5, "centered": True},
    "adafactor": {"d": 1.5},
}


def plan(name: str, **options: Any) -> WeightOptimizer:
    decay = 0.0 if name == "rprop" else 0.01
    return WeightOptimizer.model_validate(
        {"optimizer": name, "lr": 0.01, "weight_decay": decay, "options": OPTIONS.get(name, {})} | options
    )


def weights() -> list[nn.Parameter]:
    draws = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(size, generator=draws)) for size in ((4, 3, 3, 3), (5, 4), (5,))]


def descend(optimizer: optim.Optimizer, given: list[nn.Parameter], steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        loss = sum(((p - 1).square().sum() for p in given), start=torch.zeros(()))
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_each_is_the_one_of_torch_with_its_options(name: str) -> None:
    mine, other = weights(), weights()
    descend(build_optimizer(mine, plan(name), 0.01), mine, 5)
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in OPTIONS.get(name, {}).items()}
    if name == "sgd":
        given |= {"momentum": 0.9, "nesterov": False}
    if name != "rprop":
        given["weight_decay"] = 0.01
    by_name = {kind.lower(): kind for kind in dir(optim)}[name]
    descend(getattr(optim, by_name)(other, lr=0.01, **given), other, 5)
    for a, b in zip(mine, other, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_each_resumes_bit_for_bit_from_a_checkpoint(name: str, tmp_path: Any) -> None:
    whole, cut = weights(), weights()
    descend(build_optimizer(whole, plan(name), 0.01, fused=True), whole, 6)
    first = build_optimizer(cut, plan(name), 0.01, fused=True)
    descend(first, cut, 2)
    checkpoint.save(tmp_path / "state.ckpt", {"state": first.state_dict()})
    second = build_optimizer(cut, plan(name), 0.01, fused=True)
    restore_optimizer(second, checkpoint.load(tmp_path / "state.ckpt")["state"])
    descend(second, cut, 4)
    for a, b in zip(whole, cut, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_each_passes_the_check_before_a_run(name: str) -> None:
    check_optimizer(plan(name), "retrain.weights")


def test_a_state_of_weights_of_other_shapes_is_refused() -> None:
    given = weights()
    trained = build_optimizer(given, plan("adamw", options={}), 0.01)
    descend(trained, given, 1)
    other = [nn.Parameter(torch.zeros(size)) for size in ((4, 3, 3, 3), (5, 4), (6,))]
    with pytest.raises(ValueError, match=r"exp_avg of an optimizer has shape \(5,\), its parameter \(6,\)"):
        restore_optimizer(build_optimizer(other, plan("adamw", options={}), 0.01), trained.state_dict())


def test_updates_are_fused_where_they_can_be() -> None:
    for name, fused in (("sgd", True), ("adamw", True), ("rmsprop", None), ("adagrad", None)):
        assert build_optimizer(weights(), plan(name), 0.01, fused=True).param_groups[0].get("fused") is fused
    assert build_optimizer(weights(), plan("sgd"), 0.01).param_groups[0]["fused"] is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"optimizer": "LBFGS"}, "updates all weights from one gradient, but LBFGS evaluates the loss several times"),
        ({"optimizer": "sparseadam"}, "is for sparse gradients, which no operation has; use adamw"),
        ({"optimizer": "muon"}, "is for matrices only"),
        ({"optimizer": "adamv"}, r"unknown optimizer 'adamv' \(did you mean 'adam"),
        ({"optimizer": 3}, "valid string"),
        ({"optimizer": "adamw", "nesterov": True}, "momentum and nesterov are of sgd, but optimizer is 'adamw'"),
        ({"optimizer": "rmsprop", "momentum": 0.5}, "set momentum=0.9 and nesterov=false, which it ignores"),
    ],
)
def test_plans_that_cannot_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        WeightOptimizer.model_validate(options)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("adamw", {"options": {"beta": 0.9}}, r"has no option 'beta' \(did you mean 'betas'\?\); it takes: betas, eps"),
        ("adamw", {"options": {"lr": 0.1}}, "do not hold 'lr'; set lr beside optimizer"),
        ("adamw", {"options": {"maximize": True}}, "do not hold 'maximize'; leave it out"),
        ("sgd", {"options": {"momentum": 0.1}}, "do not hold 'momentum'; set momentum beside optimizer"),
        ("adamw", {"options": {"betas": [1.5, 0.9]}}, "does not take .*: Invalid beta parameter at index 0: 1.5"),
        ("adamw", {"options": {"betas": "high"}}, "change"),
        ("adamw", {"options": {"betas": 3}}, "change"),
        ("rprop", {"weight_decay": 0.1}, "has no weight decay, but got 0.1; set weight_decay=0"),
        ("sgd", {"nesterov": True, "momentum": 0.0, "options": {}}, "Nesterov momentum requires a momentum"),
    ],
)
def test_options_that_cannot_be_are_one_line(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words) as caught:
        check_optimizer(plan(name, **options), "retrain.weights")
    assert "\n" not in str(caught.value) and str(caught.value).startswith("retrain.weights: ")


def test_names_may_be_written_as_torch_has_them() -> None:
    assert WeightOptimizer.model_validate({"optimizer": "AdamW"}).optimizer == "adamw"


def test_an_optimizer_of_ones_own() -> None:
    class Plain(optim.Optimizer):
        def __init__(self, params: Any, lr: float, share: float = 1.0) -> None:
            super().__init__(params, {"lr": lr, "share": share})

        @torch.no_grad()
        def step(self, closure: Any = None) -> None:
            for group in self.param_groups:
                for p in group["params"]:
                    p.sub_(p.grad, alpha=group["lr"] * group["share"])

    topocell.register("optimizer", "my-plain", Plain)
    given, start = weights(), [p.detach().clone() for p in weights()]
    descend(build_optimizer(given, plan("my-plain", weight_decay=0, options={"share": 0.5}), 0.1), given, 1)
    for p, before in zip(given, start, strict=True):
        assert isinstance(before, Tensor)
        torch.testing.assert_close(p.detach(), before - 0.05 * 2 * (before - 1))
    with pytest.raises(RecipeError, match=r"has to be a torch.optim.optimizer.Optimizer"):
        topocell.register("optimizer", "my-adder", lambda params, lr: None)


def test_the_second_order_level_looks_ahead_by_sgd() -> None:
    with pytest.raises(ValidationError, match=r"looks ahead by a plain step of sgd, but weights.optimizer is 'adamw'"):
        Stage.model_validate({"name": "a", "epochs": 2, "level": "unrolled", "weights": {"optimizer": "adamw"}})


class Grouped(optim.Optimizer):
    """Biases and batch norms are not decayed, and take steps of twice the size."""

    def __init__(self, params: Any, lr: float, weight_decay: float = 0.0, factor: float = 2.0) -> None:
        groups: list[list[nn.Parameter]] = [[], []]
        for p in params:
            groups[p.dim() < 2].append(p)
        others = {"params": groups[1], "lr": factor * lr, "weight_decay": 0.0}
        super().__init__([{"params": groups[0]}, others], {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                mean = self.state[p].setdefault("mean", torch.zeros_like(p))
                mean.lerp_(p.grad + group["weight_decay"] * p, 0.5)
                p.sub_(mean, alpha=group["lr"])


def rates(optimizer: optim.Optimizer) -> list[float]:
    return [group["lr"] for group in optimizer.param_groups]


@pytest.mark.parametrize("first", [0.1, 0.0])
def test_groups_of_parameters_keep_the_ratio_of_their_rates(first: float, tmp_path: Any) -> None:
    """Also through a rate of 0, and in one that resumes."""
    topocell.register("optimizer", "my-grouped", Grouped)
    check_optimizer(plan("my-grouped"), "retrain.weights")
    given = weights()
    built = build_optimizer(given, plan("my-grouped"), first)
    assert rates(built) == [first, 2 * first] and [len(g["params"]) for g in built.param_groups] == [2, 1]
    for rate in (0.4, 0.0, 0.2):
        set_rate(built, rate)
        assert rates(built) == [rate, 2 * rate] and rate_of(built) == rate
    descend(built, given, 2)
    checkpoint.save(tmp_path / "state.ckpt", {"state": built.state_dict()})
    others = [nn.Parameter(p.detach().clone()) for p in given]
    second = build_optimizer(others, plan("my-grouped"), 0.05)
    restore_optimizer(second, checkpoint.load(tmp_path / "state.ckpt")["state"])
    assert rates(second) == [0.2, 0.4]
    for optimizer, moved in ((built, given), (second, others)):
        set_rate(optimizer, 0.1)
        descend(optimizer, moved, 2)
    assert all(torch.equal(a, b) for a, b in zip(given, others, strict=True))


def test_rates_that_have_no_ratio_are_refused() -> None:
    class Frozen(Grouped):
        def __init__(self, params: Any, lr: float, weight_decay: float = 0.0) -> None:
            super().__init__(params, lr, weight_decay)
            self.param_groups[0]["lr"] = 0.0

    topocell.register("optimizer", "my-frozen", Frozen)
    with pytest.raises(RecipeError, match=r"retrain.weights: .*follow that of the first one, which is 0; change"):
        check_optimizer(plan("my-frozen"), "retrain.weights")


def test_a_fault_of_one_kind_of_weights_shows_before_a_run() -> None:
    class OfMaps(Grouped):
        def step(self, closure: Any = None) -> None:
            for group in self.param_groups:
                for p in group["params"]:
                    p.grad.mean((2, 3))

    topocell.register("optimizer", "my-maps", OfMaps)
    with pytest.raises(RecipeError, match="optimizer 'my-maps' fails in a step on two weights: IndexError"):
        check_optimizer(plan("my-maps"), "retrain.weights")


def test_all_groups_are_weights_of_the_learner() -> None:
    topocell.register("optimizer", "my-grouped", Grouped)
    space = topocell.spaces.get("darts", nodes=1)
    net, arch = topocell.Supernet(space, 4, 3, 3), topocell.ArchState(space)
    built = weight_optimizer(net, plan("my-grouped"))
    learner = Learner(net, arch, built, optim.Adam(arch.alpha.values()), None, None)
    moved = learner.groups({"weights": "weights.lr", "alpha": "alpha.lr"})[0]
    assert {id(p) for p in moved.parameters} == {id(p) for p in net.parameters()} and moved.rate == 0.01
    assert all(group["params"] for group in built.param_groups)

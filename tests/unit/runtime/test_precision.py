"""bf16 against float32 and compiled against plain, with stated tolerances; what must stay float32 does."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.helpers.identical import assert_identical
from torch import Tensor, nn
from torch.optim import SGD, Adam

from topocell import api, spaces
from topocell.config.load import load_recipe
from topocell.config.retrain import RetrainPlan
from topocell.data import splits
from topocell.errors import RecipeError
from topocell.genotype.genotype import Genotype
from topocell.networks.retraining import Retraining
from topocell.nn.count import count
from topocell.nn.network import FixedNet
from topocell.runs import setup
from topocell.runtime.precision import KINDS, PLAIN, Execution, recompile_limit
from topocell.supernet import Supernet
from topocell.supernet.arch_state import ArchState
from topocell.supernet.learner import ArchBatch, Learner
from topocell.supernet.levels import LEVELS

#: Relative to ‖·‖. A bfloat16 has 8 bits of mantissa: a rounding is worth 2⁻⁹ = 0.2 %, and a dozen layers follow each
#: other. Gradients on noise, where terms cancel and rounding decides which units are on, lose ten times as much.
LOGITS, GRADIENTS = 0.03, 0.3
BF16 = Execution("bf16")
CELL = {"inputs": 2, "nodes": [[["skip_connect", 0], ["dil_conv_3x3", 1]]], "concat": [2]}
GENOTYPE = Genotype.from_dict({"format": 1, "space": "darts", "cells": {"normal": CELL, "reduce": CELL}})


def learner(execution: Execution, topology: Any = "dense", **options: Any) -> Learner:
    """A small supernet with every operation of DARTS, always the same one."""
    torch.manual_seed(0)
    space = spaces.get("darts", nodes=2)
    net = Supernet(space, 8, 3, 5, in_channels=1, **options)
    arch = ArchState(space, "softmax", topology, init=0.5)
    beta = [b for b in arch.beta.values() if b.numel()]
    adam = {"lr": 3e-3, "betas": (0.5, 0.999)}
    return Learner(
        net,
        arch,
        SGD(net.parameters(), lr=0.05, momentum=0.9),
        Adam(arch.alpha.values(), **adam),  # type: ignore[arg-type]
        Adam(beta, **adam) if beta else None,  # type: ignore[arg-type]
        clip=5.0,
        execution=execution,
    )


def batch(seed: int, size: int = 16) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(size, 1, 8, 8, generator=draw), torch.randint(5, (size,), generator=draw)


def relative(got: Tensor, wanted: Tensor) -> float:
    """‖got − wanted‖ / ‖wanted‖."""
    return float((got - wanted).detach().norm() / wanted.detach().norm().clamp(min=1e-12))


@pytest.fixture
def seen() -> Iterator[dict[str, set[torch.dtype]]]:
    """Which types each kind of function was given."""
    found: dict[str, set[torch.dtype]] = {}

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            tensors = [a.dtype for a in args if isinstance(a, Tensor) and a.is_floating_point()]
            found.setdefault(getattr(func, "__name__", ""), set()).update(tensors)
            return func(*args, **(kwargs or {}))

    with Watch():
        yield found


# --- bf16


def test_a_supernet_in_bf16_is_close_to_float32() -> None:
    full, half = learner(PLAIN), learner(BF16)
    x, y = batch(0, 32)
    logits = [of.logits(x, of.arch()) for of in (full, half)]
    assert 0 < relative(logits[1], logits[0]) < LOGITS
    update = ArchBatch((x, y), True, False)
    for a, b in zip(full.arch_gradient(update), half.arch_gradient(update)):
        assert 0 < relative(b, a) < GRADIENTS
    for of in (full, half):
        of.weights_step((x, y))
    a, b = (torch.cat([p.grad.flatten() for p in of.net.parameters() if p.grad is not None]) for of in (full, half))
    assert 0 < relative(b, a) < GRADIENTS


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_runs_in_bf16_and_keeps_its_state_in_float32(level: str) -> None:
    of = learner(BF16, {"name": "subsets", "view": "source", "sizes": "any"})
    before = [p.detach().clone() for p in of.arch.parameters()]
    seen = LEVELS[level](of, batch(0), [ArchBatch(batch(1), True, True)])
    assert seen.loss.dtype == torch.float32 and seen.loss.isfinite()
    state = [
        t
        for o in (of.weights_optimizer, of.alpha_optimizer, of.beta_optimizer)
        if o
        for s in o.state.values()
        for t in s.values()
    ]
    for tensor in [*of.net.parameters(), *of.arch.parameters(), *state]:
        assert tensor is None or tensor.dtype == torch.float32
    moved = [not torch.equal(p, b) for p, b in zip(of.arch.parameters(), before)]
    assert all(moved) == (level != "weights")


def test_convolutions_are_in_bf16_and_the_softmax_is_not(seen: dict[str, set[torch.dtype]]) -> None:
    of = learner(BF16, {"name": "subsets", "view": "source", "sizes": "any"})
    seen.clear()
    F.cross_entropy(of.logits(batch(0)[0], of.arch()), batch(0)[1])
    assert torch.bfloat16 in seen["conv2d"] and seen["conv2d"] <= {torch.bfloat16, torch.float32}  # the images
    assert torch.bfloat16 in seen["batch_norm"]
    assert seen["softmax"] == seen["cross_entropy"] == {torch.float32}


def test_batch_norm_weights_and_statistics_stay_in_float32() -> None:
    net = FixedNet(GENOTYPE, 4, 3, 5, in_channels=1)
    BF16(net, batch(0)[0]).sum().backward()
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    for norm in norms:
        assert norm.running_mean is not None and norm.running_mean.dtype == torch.float32
        assert norm.running_mean.any() and norm.weight.grad is not None
        assert norm.weight.dtype == norm.weight.grad.dtype == torch.float32


def test_a_fixed_network_in_bf16_is_close_to_float32() -> None:
    torch.manual_seed(0)
    net = FixedNet(GENOTYPE, 8, 3, 5, in_channels=1, auxiliary=True)
    x, y = batch(0, 32)
    found = []
    for execution in (PLAIN, BF16):
        net.zero_grad()
        logits, extra = execution(net, x)
        assert logits.dtype == extra.dtype == torch.float32
        (F.cross_entropy(logits, y) + F.cross_entropy(extra, y)).backward()
        found.append((logits, extra, torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])))
    for (a, b), tolerance in zip(zip(*found), (LOGITS, 2 * LOGITS, GRADIENTS)):
        assert 0 < relative(b, a) < tolerance


def test_plain_execution_is_a_plain_call() -> None:
    of = learner(PLAIN)
    x, weights = batch(0)[0], of.arch()
    assert torch.equal(of.logits(x, weights), of.net(x, weights))
    double = FixedNet(GENOTYPE, 4, 1, 5, in_channels=1).double()
    assert PLAIN(double, x.double()).dtype == torch.float64


@pytest.fixture(scope="module")
def digits() -> splits.Dataset:
    return splits.load("digits", images=32, test_images=16)


def retraining(of: splits.Dataset, execution: Execution, **options: Any) -> Retraining:
    sizes = {"channels": 4, "layers": 1, "epochs": 1, "batch_size": 16, "auxiliary": 0.0, "cutout": 0}
    plan = RetrainPlan.model_validate(sizes | options)
    return Retraining(GENOTYPE, plan, of, execution=execution)


def test_a_retraining_in_bf16_learns_what_one_in_float32_does(digits: splits.Dataset) -> None:
    full, half, again = (retraining(digits, e, epochs=4, weights={"lr": 0.1}) for e in (PLAIN, BF16, BF16))
    for training in (full, half, again):
        training.run()
    assert_identical(half.state_dict(), again.state_dict())
    for name, wanted in full.net.state_dict().items():
        if wanted.is_floating_point():
            assert half.net.state_dict()[name].dtype == torch.float32
    a, b = (torch.cat([t.flatten() for t in of.net.parameters()]) for of in (full, half))
    assert 0 < relative(b, a) < 0.1


# --- compiled


def test_a_compiled_network_is_the_plain_one(digits: splits.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss, gradients and running statistics of a cell agree to 1e-4; tests and names are those of a plain one.

    The compiler runs in this process, and without vectors, of which it would first have to try each kind.
    """
    from torch._inductor import config

    monkeypatch.setattr(config, "compile_threads", 1)
    monkeypatch.setattr(config.cpp, "vec_isa_ok", False)
    torch._dynamo.reset()
    torch._dynamo.utils.counters["stats"].clear()
    found = []
    for execution in (PLAIN, Execution(compile=True)):
        training = retraining(digits, execution, batch_size=32, weights={"lr": 0.1})
        results = training.run()
        found.append((training, results))
    (plain, wanted), (ours, got) = found
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert list(ours.net.state_dict()) == list(plain.net.state_dict())
    for name, value in plain.net.state_dict().items():
        torch.testing.assert_close(ours.net.state_dict()[name], value, rtol=1e-4, atol=1e-5)
    assert {k: got[k] for k in ("parameters", "multiply_adds")} == {
        k: wanted[k] for k in ("parameters", "multiply_adds")
    }
    assert got["last_mean"] == pytest.approx(wanted["last_mean"], abs=1 / 16)


def test_drop_path_does_not_compile_every_epoch_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """One graph without drop path, one for all probabilities; and the same for a last batch of another size."""
    original = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module, **options: original(module, backend="eager", **options))
    torch._dynamo.reset()
    graphs = torch._dynamo.utils.counters["stats"]
    graphs.clear()
    net = FixedNet(GENOTYPE, 4, 1, 5, in_channels=1)
    execution = Execution(compile=True)
    execution.prepare(net.cells)
    assert getattr(torch._dynamo.config, recompile_limit()) >= KINDS
    for drop_path in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5):
        net.drop_path = drop_path
        execution(net, batch(0)[0]).sum().backward()
    assert graphs["unique_graphs"] == 2
    for size in (5, 16, 5):
        execution(net, batch(0, size)[0]).sum().backward()
    assert graphs["unique_graphs"] == 3
    with execution.plain():
        assert count(net.eval(), (1, 8, 8)).multiply_adds > 0
    assert graphs["unique_graphs"] == 3


# --- recipes


def test_recipes_say_how_networks_are_executed() -> None:
    plain, other = load_recipe("quickstart"), load_recipe("quickstart", ["precision=bf16", "compile=true"])
    assert setup.execution(plain) == PLAIN
    assert setup.execution(other) == Execution("bf16", compile=True)
    with pytest.raises(RecipeError, match=r"unknown precision 'bf6' \(did you mean 'bf16'\?\)"):
        load_recipe("quickstart", ["precision=bf6"])


def test_a_run_in_bf16_goes_from_search_to_report(tmp_path: Any) -> None:
    sizes = ["data.images=24", "data.test_images=10", "precision=bf16", "search.memory=low"]
    recipe = load_recipe("quickstart", sizes, budget="smoke")
    assert api.run(recipe, tmp_path / "run").exists()

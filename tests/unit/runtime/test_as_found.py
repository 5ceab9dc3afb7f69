"""What holds for all of a process is no matter to a call of topocell, and is left as it was found."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import topocell
from topocell import ArchState, Supernet, api, spaces, testing
from topocell.config.cost import CostBudget
from topocell.config.load import load_recipe
from topocell.config.selection import Rules
from topocell.nn.costs import NetworkSize, network_costs
from topocell.runtime.as_found import as_found
from topocell.runtime.precision import Execution
from topocell.selection.budget import least_cost
from topocell.selection.cell_scores import CellDistribution, at_equal_logits
from topocell.selection.drawing import CellSpace
from topocell.selection.pruning import real_candidates
from topocell.selection.rules import derive

SMALL = ["data.images=40", "data.test_images=20", "space.nodes=1"]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run under the defaults of PyTorch."""
    return api.run(load_recipe("random", SMALL, "smoke"), tmp_path_factory.mktemp("runs") / "run").parent


def state() -> tuple[Any, ...]:
    library = torch.backends.cudnn
    parts = (torch.backends.cuda.matmul, *(getattr(library, kind) for kind in ("conv", "rnn")))
    older = torch.get_float32_matmul_precision(), library.allow_tf32
    flags = library.deterministic, *older, *(part.fp32_precision for part in parts)
    return *flags, torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()


@pytest.mark.parametrize(
    "call",
    [
        lambda path: api.retrain(path, name="more", changes=["retrain.seeds=[5]"]),
        lambda path: api.retrain_random_cell(path),
        lambda path: api.validate(path),
        lambda path: api.select(path, name="one", operations="random"),
        lambda path: api.estimate(load_recipe("random", SMALL, "smoke")),
        lambda path: api.run(load_recipe("random", SMALL, "smoke"), path / "another"),
        lambda path: topocell.export(path, "safetensors"),
        lambda path: testing.check_operation("sep_conv_3x3"),
    ],
)
def test_a_call_draws_nothing_of_the_caller_s_and_leaves_flags(expected: Path, call: Callable[[Path], object]) -> None:
    torch.manual_seed(5)
    drawn, found = torch.rand(6), state()
    torch.manual_seed(5)
    first = torch.rand(3)
    call(expected)
    assert torch.equal(torch.cat([first, torch.rand(3)]), drawn) and state() == found


@pytest.mark.parametrize("wanted", ["highest", "high", "medium"])
def test_the_precision_of_before_is_put_back(wanted: str) -> None:
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(wanted)
        found = state()
        for precision in ("tf32", "fp32"):
            with as_found():
                Execution(precision).set_up()
                assert torch.backends.cuda.matmul.allow_tf32 == (precision == "tf32")
                assert torch.backends.cudnn.deterministic
            assert state() == found
    finally:
        torch.set_float32_matmul_precision(before)


class DefaultType(AbstractContextManager[None]):
    def __enter__(self) -> None:
        torch.set_default_dtype(torch.float64)

    def __exit__(self, *fault: object) -> None:
        torch.set_default_dtype(torch.float32)


class DefaultDevice(AbstractContextManager[None]):
    def __enter__(self) -> None:
        torch.set_default_device("meta")

    def __exit__(self, *fault: object) -> None:
        torch.set_default_device(None)


@pytest.mark.parametrize(
    "surroundings",
    [
        DefaultType,
        DefaultDevice,
        lambda: torch.device("meta"),
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        nullcontext,
    ],
)
def test_a_run_is_the_same_whatever_the_caller_has_set(
    expected: Path, tmp_path: Path, surroundings: Callable[[], AbstractContextManager[Any]]
) -> None:
    recipe = load_recipe("random", SMALL, "smoke")
    with surroundings():
        found = state()
        api.run(recipe, tmp_path / "run")
        assert state() == found
    for name in ("genotype.json", "results.json", "weights.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (expected / name).read_bytes()


def of_cells(arch: ArchState) -> list[Any]:
    """What public functions make of an architecture that is there."""
    costs = network_costs(arch.space, NetworkSize(4, 3, 10, (3, 8, 8)))
    rules = [Rules(operations, edges) for operations in ("magnitude", "random") for edges in ("topology", "magnitude")]
    rules += [Rules(edges="random"), Rules(edges="all", none=True), Rules(edges="magnitude-outgoing", max_skips=0)]
    found: list[Any] = [derive(arch, chosen).cells for chosen in rules]
    for chosen in rules[:2]:
        least = least_cost(arch, chosen, costs)
        within = Rules(chosen.operations, chosen.edges, budget=CostBudget(limit=least), costs=costs)
        scores = CellDistribution(arch, at_equal_logits(arch), chosen)
        found += [least, derive(arch, within).cells, scores.log_probability(found[0])]
    cells, draw = CellSpace.of(arch, Rules("random", "random")), torch.Generator().manual_seed(1)
    found += [drawn := cells.random(draw), cells.mutated(drawn, draw)]
    found += [arch.strengths_of_all("normal").tolist(), real_candidates(arch.space.cells["normal"]).tolist()]
    return [*found, arch.alpha_entropy(), arch.beta_entropy(), arch.retained()]


@pytest.mark.parametrize(
    "surroundings", [DefaultDevice, lambda: torch.device("meta"), DefaultType, torch.inference_mode]
)
@pytest.mark.parametrize("topology", ["dense", "edge-softmax", "edge-sigmoid", {"name": "subsets", "sizes": 2}])
def test_what_is_made_of_an_architecture_is_the_same_whatever_the_caller_has_set(
    topology: Any, surroundings: Callable[[], AbstractContextManager[Any]]
) -> None:
    space = spaces.get("darts", nodes=2, candidates=("none", "skip_connect", "sep_conv_3x3"))
    arch = ArchState(space, topology=topology, init=1.0, generator=torch.Generator().manual_seed(0))
    wanted = of_cells(arch)
    with surroundings():
        assert of_cells(arch) == wanted


@pytest.mark.parametrize("surroundings", [DefaultDevice, lambda: torch.device("meta")])
def test_candidates_are_removed_whatever_the_default_device_is(
    surroundings: Callable[[], AbstractContextManager[Any]],
) -> None:
    space = spaces.get("darts", nodes=2)
    net, arch = Supernet(space, 4, 3, 10), ArchState(space)
    masks = {name: arch.mask(name).clone() for name in space.cells}
    for mask in masks.values():
        mask[0, :-1] = False
    with surroundings():
        for form in (lambda mask: mask, lambda mask: mask.numpy(), lambda mask: mask.tolist()):
            for target in (net, arch):
                target.restrict({name: form(mask) for name, mask in masks.items()})
    assert all(
        torch.equal(net.masks()[name], mask) and torch.equal(arch.mask(name), mask) for name, mask in masks.items()
    )
    assert net(torch.randn(2, 3, 8, 8), arch()).isfinite().all()


@pytest.mark.parametrize("surroundings", [DefaultDevice, lambda: torch.device("meta"), DefaultType])
def test_a_network_predicts_whatever_the_caller_has_set(
    expected: Path, surroundings: Callable[[], AbstractContextManager[Any]]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (8, 8), dtype=np.uint8)
    wanted = topocell.load(expected).predict(pixels).probabilities
    with surroundings():
        assert torch.equal(topocell.load(expected).predict(pixels).probabilities, wanted)

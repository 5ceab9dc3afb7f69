"""What holds for all of a process is no matter to a call of topocell, and is left as it was found."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

import topocell
from topocell import api, testing
from topocell.config.load import load_recipe
from topocell.runtime.as_found import as_found
from topocell.runtime.precision import Execution

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

"""What only a GPU can show; `python -m benchmarks.gpu` runs the same checks where pytest is not installed."""

from pathlib import Path

import pytest
import torch
from benchmarks import gpu_checks
from benchmarks.gpu import FIRST_RECIPES

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that CUDA can use"),
]
GPU = torch.device("cuda")


def judge(found: list[gpu_checks.Found]) -> None:
    assert found and [row for row in found if not row.fine] == []


def test_the_engine_equals_one_module_per_edge_and_operation() -> None:
    judge(gpu_checks.engine(GPU))


@pytest.mark.parametrize("name", [*gpu_checks.STAGES, *gpu_checks.CHANGING, "retraining"])
def test_recorded_steps_are_those_that_are_called(name: str) -> None:
    judge(gpu_checks.captured(GPU, name))


def test_what_is_resumed_goes_on_bit_for_bit() -> None:
    judge(gpu_checks.resumed(GPU))


@pytest.mark.parametrize("name", FIRST_RECIPES)
def test_recipes_run_to_their_end(name: str, tmp_path: Path) -> None:
    judge(gpu_checks.smoke(name, GPU, tmp_path))

"""Instruction sets: what the processor has, what is asked for, and that all compute the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from topocell.errors import RunError
from topocell.nn.kernels import cpu
from topocell.nn.kernels.cpu import instruction_set, isa, offered, widths
from topocell.runtime.provenance import environment

#: One forward and backward pass of everything that is compiled, as numbers.
PROGRAM = """
import sys, torch
from topocell.nn.modules import ReLUConvBN, FactorizedReduce
from topocell.nn.primitives import make
from topocell.nn.kernels.cpu import instruction_set, kernels
assert instruction_set().name == sys.argv[1], instruction_set()
torch.manual_seed(0)
found = []
for channels in (2, 3, 8, 12, 17):
    x = torch.randn(4, channels, 10, 6).contiguous(memory_format=torch.channels_last)
    assert (kernels(channels, x) is None) == (sys.argv[1] == "none")
    for op in (make("sep_conv_5x5", channels, 1, True), make("dil_conv_3x3", channels, 2, True),
               ReLUConvBN(channels, 5, True), FactorizedReduce(channels, 7, False)):
        given = x.clone(memory_format=torch.preserve_format).requires_grad_()
        out = op(given)
        gradients = torch.autograd.grad((out * torch.arange(out.numel()).view_as(out).cos()).sum(),
                                        [given, *op.parameters()])
        found += [out.detach(), *gradients]
torch.save(found, sys.argv[2])
"""


def test_the_widest_set_that_torch_uses_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOPOCELL_ISA", raising=False)
    known = {"AVX512": "avx512", "AVX2": "avx2"}
    capability = torch.backends.cpu.get_cpu_capability()
    assert instruction_set() in offered()
    if capability in known:
        assert instruction_set().name == known[capability]


@pytest.mark.parametrize(
    "lanes,channels,wanted",
    [
        (16, 1, (4,)),
        (16, 4, (4,)),
        (16, 5, (8, 4)),
        (16, 8, (8, 4)),
        (16, 9, (16, 8, 4)),
        (16, 36, (16, 8, 4)),
        (8, 16, (8, 4)),
        (8, 3, (4,)),
        (4, 16, (4,)),
        (0, 16, ()),
    ],
)
def test_vectors_are_never_wider_than_the_processor_s_nor_half_empty(
    lanes: int, channels: int, wanted: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "instruction_set", lambda: isa.NONE._replace(lanes=lanes))
    assert widths(channels) == wanted


def test_a_set_that_there_is_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPOCELL_ISA", "avx3")
    with pytest.raises(RunError, match=r"TOPOCELL_ISA is one of .*, but got 'avx3' .did you mean 'avx2'"):
        instruction_set()
    monkeypatch.setattr(isa, "offered", lambda: ())
    isa._chosen.cache_clear()
    monkeypatch.setenv("TOPOCELL_ISA", "sse")
    with pytest.raises(RunError, match="this processor, which has none, but got 'sse'"):
        instruction_set()
    isa._chosen.cache_clear()


def test_a_command_refuses_it_in_one_line(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "topocell",
        "run",
        "quickstart",
        "--budget",
        "smoke",
        "--out",
        str(tmp_path / "run"),
    ]
    ended = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "TOPOCELL_ISA": "mmx"}, timeout=120
    )
    assert ended.returncode == 2
    assert "TOPOCELL_ISA is one of" in ended.stderr and "Traceback" not in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def test_what_was_used_is_written_down() -> None:
    assert environment("cpu", "", {})["instruction_set"] == instruction_set().name


def test_all_sets_compute_the_same(tmp_path: Path) -> None:
    found = {}
    for name in [known.name for known in offered()] + ["none"]:
        path = tmp_path / f"{name}.pt"
        env = {**os.environ, "TOPOCELL_ISA": name, "TOPOCELL_NATIVE": "1", "OMP_NUM_THREADS": "2"}
        subprocess.run([sys.executable, "-c", PROGRAM, name, str(path)], check=True, env=env, timeout=300)
        found[name] = torch.load(path)
    assert len(found) >= 2
    for name, tensors in found.items():
        for tensor, wanted in zip(tensors, found["none"], strict=True):
            error = float((tensor - wanted).norm() / (wanted.norm() + 1e-6))
            assert error < 2e-4, (name, tuple(wanted.shape), error)

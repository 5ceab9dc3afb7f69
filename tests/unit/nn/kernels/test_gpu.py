"""The Triton kernels: in the interpreter (interpreted.py), compiled for cards that are not there, and on a card."""

import importlib.util
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from topocell.errors import SpaceError
from topocell.nn import fused_check, separable
from topocell.nn.fused_plan import Chain, Plan
from topocell.nn.kernels import choice
from topocell.nn.kernels.gpu import state
from topocell.nn.kernels.mode import mode, using
from topocell.runs.directory import RunDir
from topocell.runs.identity import other_machine
from topocell.spaces import get
from topocell.supernet import ArchWeights, Supernet

LONG = os.environ.get("TOPOCELL_LONG") == "1"
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed (it is for Linux)"
)
on_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that CUDA can use")
CARD = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def nothing_found() -> Iterator[None]:
    state.forget()
    yield
    state.forget()


@needs_triton
def test_every_kernel_in_the_interpreter() -> None:
    """In a process of its own: Triton decides when it is imported whether it interprets."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    answer = subprocess.run(
        [*command, str(Path(__file__).with_name("interpreted.py"))],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[4],
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert answer.returncode == 0, answer.stdout[-4000:] + answer.stderr[-2000:]


# --- compiled without a card


def compiled(cards: tuple[int, ...], cases: list[tuple[int, str, int]], operations: list[tuple[int, int, int]]) -> None:
    """No variant spills more than a few registers, or takes more shared memory than every card has."""
    from benchmarks.gpu_kernels import compiled, described, variants

    found = variants(cases, operations)
    assert {one.name for one in found} >= {"stage_forward", "depthwise_input", "pointwise_weight", "mix_forward"}
    for one in found:
        for card in cards:
            usage = compiled(one, card)
            words = f"{one.name} ({described(one)}) for sm_{card}: {usage}"
            assert usage.registers <= 255 and usage.stack <= SPILLED, words
            assert usage.shared <= SHARED, words


#: Bytes of stack that a variant may have, and of shared memory: what a block has on every card without being asked for.
SPILLED, SHARED = 64, 48 * 1024


@needs_triton
def test_some_variants_compile_for_a_card_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    compiled((90,), [(16, "bf16", 1)], [(3, 1, 2)])


@needs_triton
@pytest.mark.skipif(not LONG, reason="takes an hour; TOPOCELL_LONG=1 runs it")
def test_all_variants_compile_for_all_cards() -> None:
    from benchmarks.gpu_kernels import CARDS, CHANNELS, OPERATIONS, TYPES

    compiled(CARDS, [(c, kind, stride) for c in CHANNELS for kind in TYPES for stride in (1, 2)], list(OPERATIONS))


# --- whether they are used


def test_one_switch_for_all_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOPOCELL_NATIVE")
    assert mode() == "auto"
    with using("plain"):
        assert mode() == "plain"
        assert not separable.usable(torch.zeros(1), 8)
    for forced, wanted in (("0", "plain"), ("1", "fused")):
        monkeypatch.setenv("TOPOCELL_NATIVE", forced)
        with using("auto"):
            assert mode() == wanted


def test_a_plain_supernet_has_pytorch_s_functions_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOPOCELL_NATIVE")
    space = get("darts", nodes=1)
    weights = {t: ArchWeights(torch.rand(2, 8), torch.rand(2)) for t in space.cells}
    steps = []
    for kernels in ("plain", "fused"):
        net = Supernet(space, 4, 3, 2, kernels=kernels)
        seen, nodes = set(), [net(torch.randn(2, 3, 8, 8), weights).grad_fn]
        while nodes:
            node = nodes.pop()
            if node is not None and node not in seen:
                seen.add(node)
                nodes += [following for following, _ in node.next_functions]
        steps.append({type(node).__name__ for node in seen})
    own = {"_SeparableBackward", "_MaxPoolBackward", "_ProjectedBackward"}
    assert not own & steps[0]
    assert own <= steps[1] or not separable.usable(torch.zeros(1), 4)


def test_kernels_that_there_are_not_are_refused() -> None:
    with pytest.raises(
        SpaceError, match=r"kernels is one of auto, fused, plain, but got 'fussed' \(did you mean 'fused'"
    ):
        Supernet(get("darts", nodes=1), 4, 3, 2, kernels="fussed")


def fails(device: torch.device) -> str | None:
    raise AssertionError("no card is checked that kernels are not for")


@pytest.mark.parametrize("what", ["no Triton", "an old card", "another maker's card"])
def test_where_there_are_no_kernels_it_is_said_once(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.find_spec
    triton = None if what == "no Triton" else object()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: triton if name == "triton" else spec(name))
    monkeypatch.setattr(torch.version, "hip", "6.0" if what == "another maker's card" else None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    with pytest.warns(UserWarning, match="PyTorch's own functions do the work") as said:
        assert not state.usable(CARD, fails) and not state.usable(CARD, fails)
    assert len(said) == 1
    assert state.words(CARD).startswith("left: ")


def test_a_card_is_checked_once_and_what_was_found_is_kept_in_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "missing", lambda device: None)
    asked: list[torch.device] = []

    def check(device: torch.device) -> str | None:
        asked.append(device)
        return "wrong by 0.1 in gradients"

    with RunDir.open(tmp_path / "run", "seed: 0\n", env={}), pytest.warns(UserWarning, match="wrong by"):
        assert not state.usable(CARD, check) and not state.usable(CARD, check)
    assert asked == [CARD]
    kept = json.loads((tmp_path / "run/kernels.json").read_text())
    assert kept == {"fused kernels on cuda:0": "left: wrong by 0.1 in gradients"}
    state.forget()
    with RunDir.open(tmp_path / "run", "seed: 0\n", env={}), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not state.usable(CARD, lambda device: None)  # a run that is resumed takes the ways it began with
    assert state.usable(CARD, lambda device: None)


def test_env_json_says_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOPOCELL_NATIVE")
    assert fused_check.found(torch.device("cpu")) is None
    monkeypatch.setattr(state, "missing", lambda device: "Triton is not installed")
    with pytest.warns(UserWarning, match="not installed"):
        assert fused_check.found(CARD) == "left: Triton is not installed"
    state.forget()
    with using("plain"):
        assert fused_check.found(CARD) == "not used"
    assert "gpu_kernels" in other_machine({"gpu_kernels": "triton 3.8.0, checked"}, {"gpu_kernels": "left: x"})[0]
    assert choice.recall("fused kernels on cuda:0") is None


# --- on a card


def step(kernels: str) -> list[Tensor]:
    """Logits and all gradients of a small supernet on the card."""
    space = get("darts", nodes=2)
    torch.manual_seed(0)
    net = Supernet(space, 16, 4, 10, kernels=kernels).to(CARD)
    weights = {t: ArchWeights(torch.rand(5, 8), torch.rand(5)) for t in space.cells}
    weights = {t: ArchWeights(w.ops.to(CARD).requires_grad_(), w.edges.to(CARD)) for t, w in weights.items()}
    x = torch.randn(8, 3, 32, 32).to(CARD)
    logits = net(x, weights)
    wanted = [*(w.ops for w in weights.values()), *net.parameters()]
    return [logits, *torch.autograd.grad(logits.square().sum(), wanted)]


@pytest.mark.gpu
@on_card
def test_fused_is_plain_on_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOPOCELL_NATIVE")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    fused, plain = step("fused"), step("plain")
    assert state.words(CARD).endswith("checked"), state.words(CARD)
    for a, b in zip(fused, plain, strict=True):
        assert float((a - b).norm()) <= 2e-3 * float(b.norm()) + 1e-6


@pytest.mark.gpu
@on_card
def test_fused_steps_are_the_same_bits_on_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOPOCELL_NATIVE")
    plan = Plan((Chain(5, 1, 2, (0, 1), (0, 1)), Chain(3, 2, 1, (1,), (2,))), 1, (False, False), ((3, 4),), (), True)
    shapes = [(64, 16, 32, 32), (5,), *[(2, 16, 1, 5, 5), (2, 16, 16, 1, 1)] * 2, (1, 16, 1, 3, 3), (1, 16, 16, 1, 1)]
    for dtype in (torch.float32, torch.bfloat16):
        given = [torch.randn(shape, device=CARD, dtype=dtype).requires_grad_() for shape in shapes]
        found = []
        for _ in range(2):
            outputs, _ = separable.separable(given[0], plan, given[2:], given[1])
            found.append([*outputs, *torch.autograd.grad([out.square().sum() for out in outputs], given)])
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))

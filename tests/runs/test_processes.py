"""Runs of several processes: the same numbers as one process, one run directory, kills and what they leave."""

import functools
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.identical import assert_same_run
from tests.helpers.processes import End, trained_together
from torch import Tensor, nn

from topocell import api, cli, spaces
from topocell.config.load import load_recipe
from topocell.config.search import ArchOptimizer, WeightOptimizer
from topocell.data.augment import Augmentation
from topocell.data.batches import Batches, ImageSet
from topocell.errors import ElsewhereError, RunError, TopocellError
from topocell.runs.monitor import RunMonitor
from topocell.runtime import distributed
from topocell.runtime.batch_statistics import batch_norm
from topocell.runtime.precision import Execution
from topocell.supernet import Supernet
from topocell.supernet.arch_state import ArchState
from topocell.supernet.learner import ArchBatch, Learner, adam, weight_optimizer
from topocell.supernet.levels import LEVELS

STEPS = 20


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def searched(level: str) -> dict[str, Tensor]:
    """α, β and weights after `STEPS` steps of a small search in float64, whose batch statistics are of all images."""
    torch.manual_seed(0)
    space = spaces.get("darts", nodes=2, candidates=["skip_connect", "sep_conv_3x3"])
    net = Supernet(space, channels=2, layers=1, classes=3, in_channels=3).double()
    arch = ArchState(space, {"name": "softmax"}, {"name": "edge-softmax"}).double()
    weights = weight_optimizer(net, WeightOptimizer(lr=0.05, momentum=0.9, weight_decay=1e-3, clip=5.0))
    options = ArchOptimizer(lr=0.05, betas=(0.5, 0.999), weight_decay=1e-3)
    learner = Learner(
        net,
        arch,
        weights,
        adam(arch.alpha.values(), options),
        adam(arch.beta.values(), options),
        5.0,
        execution=Execution(sync_batch_norm=True),
    )
    images = ImageSet(torch.randint(256, (48, 3, 8, 8), dtype=torch.uint8), torch.arange(48) % 3, ("a", "b", "c"))
    named = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "augmentation": Augmentation(1, True, 0), "device": "cpu"}
    train, held_out = (Batches(images, 12, seed=1, stream=s, **named) for s in ("train", "val"))
    train.shared = held_out.shared = True

    def batch(batches: Batches, step: int) -> tuple[Tensor, Tensor]:
        x, y = batches.batch(0, step)
        return x.double(), y

    for step in range(STEPS):
        LEVELS[level](learner, batch(train, step), [ArchBatch(batch(held_out, step), True, True)])
    return {name: p.detach().clone() for part in (net, arch) for name, p in part.named_parameters()}


@functools.cache
def alone(level: str) -> Mapping[str, Tensor]:
    return searched(level)


@pytest.mark.parametrize(("level", "n"), [("bilevel", 3), ("mixed", 2), ("unrolled", 2), ("single", 2)])
def test_equal_shares_move_alpha_and_beta_as_one_process_does(tmp_path: Path, level: str, n: int) -> None:
    def act(number: int) -> None:
        with distributed.joined():
            torch.save(searched(level), tmp_path / f"{number}.pt")

    ends = trained_together(n, act, tmp_path)
    assert [end.code for end in ends] == [0] * n, ends
    first, *others = (torch.load(tmp_path / f"{number}.pt") for number in range(n))
    for found in others:
        assert all(torch.equal(found[name], first[name]) for name in first)
    moved = 0.0
    for name, expected in alone(level).items():
        assert torch.allclose(first[name], expected, rtol=0, atol=1e-9), name
        moved = max(moved, float(expected.abs().max()))
    assert moved > 0.01


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.bfloat16, 2**-5)])
def test_batch_statistics_of_all_processes_are_those_of_one_batch(
    tmp_path: Path, dtype: torch.dtype, atol: float
) -> None:
    torch.manual_seed(0)
    x, share = ((10 + torch.randn(6, 4, 3, 2)).to(dtype), torch.randn(6, 4, 3, 2).to(dtype))
    weight, bias = (torch.randn(4).to(torch.promote_types(dtype, torch.float32)) for _ in range(2))

    def figures(norm: Callable[..., Tensor], *given: Tensor) -> list[Tensor]:
        *leaves, share = (t.clone().requires_grad_() for t in given)
        mean, variance = torch.zeros(4).double(), torch.ones(4).double()
        out = norm(leaves[0], mean, variance, leaves[1], leaves[2], True, 0.2, 1e-5)
        assert out.dtype == given[0].dtype
        grads = torch.autograd.grad(out, leaves, share.detach())
        return [t.detach().double() for t in (out, mean, variance, *grads)]

    def act(number: int) -> None:
        with distributed.joined():
            given = distributed.share(x), weight, bias, distributed.share(share)
            torch.save(figures(batch_norm, *given), tmp_path / f"{number}.pt")

    ends = trained_together(2, act, tmp_path)
    assert [end.code for end in ends] == [0, 0], ends
    one, two = (torch.load(tmp_path / f"{number}.pt") for number in range(2))
    expected = figures(nn.functional.batch_norm, *(t.double() for t in (x, weight, bias, share)))
    for place in (0, 3):  # outputs and the gradient of the images, each process its own
        together = torch.stack([one[place], two[place]], 1).flatten(0, 1)
        assert torch.allclose(together, expected[place], rtol=0, atol=atol)
    for place in (1, 2):
        assert torch.allclose(one[place], expected[place], rtol=0, atol=min(atol, 1e-5))
    for place in (4, 5):
        assert torch.allclose(one[place] + two[place], expected[place], rtol=0, atol=atol)


COMMAND = ["run", "toponas-arbitrary-mile", "data.images=64", "data.test_images=20", "space.nodes=2"]
COMMAND += ["--budget", "smoke", "--out"]


def command(out: Path, n: int, *more: str, at: Callable[[int], None] = lambda number: None) -> list[End]:
    def act(number: int) -> int:
        at(number)
        return cli.main([*COMMAND, str(out), *more])

    return trained_together(n, act, out.parent / "said")


def signalled(who: int, number: int, count: int, name: signal.Signals) -> None:
    """Let process `who` send itself a signal after so many steps."""
    if number != who:
        return
    steps, step = 0, RunMonitor.step

    def counted(self: RunMonitor, *args: Any) -> None:
        nonlocal steps
        step(self, *args)
        steps += 1
        if steps == count:
            os.kill(os.getpid(), name)

    RunMonitor.step = counted  # type: ignore[method-assign]  # of a forked process, which ends


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    ends = command(out, 2)
    assert [end.code for end in ends] == [0, 0], ends
    return out


def test_one_process_writes_and_shows_the_run(unbroken: Path) -> None:
    env = json.loads((unbroken / "env.json").read_text())
    assert env["processes"] == 2
    said = [(unbroken.parent / "said" / f"{number}.txt").read_text() for number in range(2)]
    assert "test accuracy" in said[0] and said[1] == ""
    results = json.loads((unbroken / "results.json").read_text())
    assert results["test_images"] == 20 and len(results["runs"][0]["confusion"]) == 10
    assert sum(map(sum, results["runs"][0]["confusion"])) == 20


@pytest.mark.parametrize(("who", "count", "between"), [(1, 2, "0"), (0, 3, "30")])
def test_a_process_that_dies_ends_the_run_and_the_next_one_resumes(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: int, count: int, between: str
) -> None:
    monkeypatch.setenv("TOPOCELL_CHECKPOINT_SECONDS", between)
    out = tmp_path / "run"
    ends = command(out, 2, at=lambda number: signalled(who, number, count, signal.SIGKILL))
    assert ends[who].code == -signal.SIGKILL
    other = ends[1 - who]
    assert other.code == 2, other
    assert other.text.splitlines()[-1].startswith("error: all processes of a run go on together, but another one has")
    assert "Traceback" not in other.text
    again = command(out, 2)
    assert [end.code for end in again] == [0, 0], again
    assert_same_run(out, unbroken)


def test_a_request_to_stop_reaches_all_and_is_saved(unbroken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ends = command(out, 2, at=lambda number: signalled(1, number, 3, signal.SIGTERM))
    assert [end.code for end in ends] == [128 + signal.SIGTERM] * 2, ends
    assert "everything is saved" in ends[0].text and ends[1].text == ""
    shutil.copytree(out, tmp_path / "alone")
    assert [end.code for end in command(out, 2)] == [0, 0]
    assert_same_run(out, unbroken)
    assert cli.main([*COMMAND, str(tmp_path / "alone")]) == 0
    assert "processes was 2, is 1" in (tmp_path / "alone" / "log.txt").read_text()


def test_what_the_processes_cannot_do_is_said_once(tmp_path: Path) -> None:
    ends = command(tmp_path / "run", 3)
    assert [end.code for end in ends] == [2, 2, 2]
    assert ends[0].text.startswith("error: every process takes an equal share of a batch, of 2 images or more, but")
    assert ends[1].text == ends[2].text == ""

    def other(number: int) -> int:
        images = f"data.images={64 + number}"
        return cli.main([*COMMAND, str(tmp_path / "other"), images])

    ends = trained_together(2, other, tmp_path / "said")
    assert [end.code for end in ends] == [2, 2]
    assert ends[0].text.startswith("error: all processes of a run need the same recipe, but process 0 has")
    assert ends[1].text == "" and not (tmp_path / "other").exists()


def test_a_retraining_asks_for_nothing_of_the_search_and_begins_nothing_that_cannot_go_on(
    unbroken: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(unbroken, run)
    recipe = run / "recipe.yaml"
    assert "\n  batch_size: 16\n" in recipe.read_text()

    def act(*words: str) -> list[End]:
        return trained_together(3, lambda number: cli.main(["retrain", *words]), tmp_path / "said")

    for other, size in ((["--as", "odd", "retrain.batch_size=8"], 8), (["--random-cell"], 16)):
        ends = act(str(run), *other)
        assert [end.code for end in ends] == [2, 2, 2]
        assert f"but retrain.batch_size is {size} and there are 3 processes" in ends[0].text
        assert not (run / "retrainings").exists()
    ends = act(str(run), "--as", "even", "retrain.batch_size=12")
    assert [end.code for end in ends] == [0, 0, 0], ends


def test_a_selection_that_takes_up_the_batches_of_the_search_asks_for_shares_of_them(tmp_path: Path) -> None:
    out = tmp_path / "run"
    trainings = ("retrain.batch_size=12", "shallow.batch_size=12")
    assert cli.main([*COMMAND, str(out), *trainings]) == 0

    def act(*words: str) -> list[End]:
        return trained_together(3, lambda number: cli.main(["select", str(out), *words]), tmp_path / "said")

    ends = act("--ops", "perturbation", "--as", "tuned")
    assert [end.code for end in ends] == [2, 2, 2], ends
    assert "but search.batch_size is 16 and there are 3 processes" in ends[0].text
    assert ends[1].text == ends[2].text == ""
    ends = act("--ops", "magnitude", "--as", "plain")
    assert [end.code for end in ends] == [0, 0, 0], ends


def test_a_log_that_the_first_process_alone_keeps_is_missed_once(tmp_path: Path) -> None:
    def act(number: int) -> int:
        sys.modules["torch.utils.tensorboard"] = None  # type: ignore[assignment]  # of a forked process, which ends
        return cli.main([*COMMAND, str(tmp_path / "run"), "log=[tensorboard]"])

    ends = trained_together(2, act, tmp_path / "said")
    assert [end.code for end in ends] == [2, 2], ends
    assert ends[0].text.startswith("error: a log for TensorBoard needs the package tensorboard")
    assert ends[1].text == "" and not (tmp_path / "run").exists()


def test_the_first_process_waits_until_the_others_know_what_it_says(tmp_path: Path) -> None:
    def act(number: int) -> int:
        with distributed.joined():
            time.sleep(0.5 * number)  # slower ones ask later, when the first could have gone
            return int(distributed.reported("the same fault"))

    assert [end.code for end in trained_together(3, act, tmp_path)] == [1, 0, 0]


def test_a_script_calls_several_times_and_what_one_call_has_left_is_not_for_the_next(tmp_path: Path) -> None:
    """Faults are told in both, by the first process; then a run is searched, derived and retrained in three calls."""

    def act(number: int) -> None:
        odd, recipe = (
            load_recipe(COMMAND[1], [*COMMAND[2:5], *more], "smoke") for more in (["search.batch_size=15"], [])
        )
        for _ in range(2):
            with pytest.raises(TopocellError) as fault:
                api.search(odd, tmp_path / "run")
            assert isinstance(fault.value, ElsewhereError) == (number > 0)
        api.search(recipe, tmp_path / "run")
        assert distributed.world() == 1
        cell = api.select(tmp_path / "run")
        torch.save((cell.key, api.retrain(tmp_path / "run")["last_mean"]), tmp_path / f"{number}.pt")

    ends = trained_together(2, act, tmp_path / "said", seconds=100)
    assert [end.code for end in ends] == [0, 0], ends
    assert torch.load(tmp_path / "0.pt") == torch.load(tmp_path / "1.pt")


def test_a_group_of_a_script_s_own_is_refused_in_one_line_and_left_alone(tmp_path: Path) -> None:
    def act(number: int) -> None:
        torch.distributed.init_process_group("gloo")
        with pytest.raises(
            RunError, match=r"^[^\n]* a process group of 2 already; leave init_process_group out, or call"
        ):
            api.run(load_recipe(COMMAND[1], COMMAND[2:5], "smoke"), tmp_path / "run")
        assert distributed.world() == 2
        torch.distributed.destroy_process_group()

    ends = trained_together(2, act, tmp_path / "said")
    assert [end.code for end in ends] == [0, 0], ends
    assert not (tmp_path / "run").exists()

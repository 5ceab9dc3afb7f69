"""Estimates: what is counted is what a run has, memory is that of the real thing, and what will not fit is said."""

import errno
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.golden_genotypes import DARTS_V2

from topocell import api
from topocell.cli import main
from topocell.config.load import load_recipe
from topocell.config.recipe import Recipe
from topocell.config.selection import Racing
from topocell.data.batches import ImageSet
from topocell.data.splits import search_data
from topocell.errors import RunError
from topocell.networks.retraining import Retraining
from topocell.nn.separable import usable
from topocell.runs import estimate, setup
from topocell.runs.estimate import Estimate, Knob, Memory, Part, estimate_retraining
from topocell.runs.estimate.parts import _measurements, stage_knobs
from topocell.runs.estimate.probe import Stopwatch, measure_memory
from topocell.runtime.hooks import Silent
from topocell.runtime.memory import LiveBytes, SavedBytes, is_out_of_memory, naming_memory
from topocell.searching.loop import Search
from topocell.selection.projection import Projection

CPU = torch.device("cpu")
SIZES = ["data.images=96", "data.test_images=20", "search.batch_size=32", "retrain.batch_size=32", "space.nodes=2"]


def recipe_of(name: str = "quickstart", *overrides: str) -> Recipe:
    return load_recipe(name, [*SIZES, *overrides], budget="smoke")


@pytest.fixture(scope="module")
def found() -> tuple[Recipe, Estimate]:
    recipe = recipe_of("quickstart", "search.stages.operations.epochs=3", "search.stages.operations.warmup=1")
    return recipe, api.estimate(recipe)


class Counter(Silent):
    """Counts steps, and notes the phases that they belong to."""

    def __init__(self) -> None:
        self.steps: dict[str, int] = {}

    def step(self, phase: str, done: int, total: int, figures: Any) -> None:
        name = phase.split(",")[0]
        self.steps[name] = self.steps.get(name, 0) + 1


def searched(recipe: Recipe, monitor: Any) -> Search:
    dataset = setup.load_data(recipe)
    data = search_data(dataset, recipe.data.splits, recipe.seed)
    search = Search(recipe.search, setup.build_space(recipe), data, monitor=monitor)
    search.run()
    return search


# --- steps and time


def test_the_steps_are_those_of_the_run(found: tuple[Recipe, Estimate]) -> None:
    recipe, guess = found
    names = [f"search stage {stage.name}" for stage in recipe.search.stages if stage.epochs]
    assert [part.name for part in guess.parts] == [*names, "selection", "retraining"]
    counter = Counter()
    searched(recipe, counter)
    assert [part.steps for part in guess.parts[: len(names)]] == list(counter.steps.values())
    counter = Counter()
    Retraining(DARTS_V2, recipe.retrain, setup.load_data(recipe), monitor=counter).run()
    assert guess.parts[-1].steps == sum(counter.steps.values())


def test_the_time_is_made_of_its_parts(found: tuple[Recipe, Estimate]) -> None:
    _, guess = found
    assert guess.seconds == sum(part.seconds for part in guess.parts)
    for part in guess.parts:
        assert part.seconds > 0
        if part.steps:
            assert part.seconds >= 0.3 * part.steps * part.step_seconds > 0  # warm-up steps are shorter


def test_a_stopwatch_leaves_out_the_first_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock = iter([0.0, 10.0, 11.0, 12.0, 15.0, 15.5, 20.0, 22.0, 24.0, 24.5, 24.75])
    monkeypatch.setattr("topocell.runs.estimate.meters.time.perf_counter", lambda: next(clock))
    watch = Stopwatch(CPU, tmp_path)
    for _ in range(3):
        watch.step("search", 0, 0, dict)
    watch.metrics({})
    watch.checkpoint(dict, due=True)
    watch.checkpoint(dict)  # not due
    for _ in range(3):
        watch.step("search", 0, 0, dict)
    watch.metrics({})
    watch.checkpoint(dict, due=True)
    assert (watch.usual(0), watch.usual(-1), watch.once) == (1.0, 2.0, 9.0 + 2.5)
    assert (watch.end, watch.save) == (1.75, 0.25)


def test_measurements_of_a_projection_are_counted() -> None:
    """DARTS with 2 nodes: 5 edges of 3 operations, then node 3 loses one of its three inputs."""
    candidates = "space.candidates=[none,skip_connect,max_pool_3x3,sep_conv_3x3]"
    recipe = recipe_of("darts-v1", candidates, "search.stages.search.epochs=0")
    for changes in ({}, {"fixed_batches": True}, {"racing": Racing()}, {"decide_by": "magnitude"}):
        plan = recipe.selection.projection.model_copy(update={"tune_epochs": 0, **changes})
        rules = replace(recipe.selection.rules(0), operations="perturbation", edges="perturbation")
        search = searched(recipe, Silent())
        guess = _measurements(search.learner, plan, rules)
        projection = Projection(search.learner, search.data, recipe.search.stages[0], plan, rules, batch_size=32)
        projection.run()
        assert guess == projection.decider.evaluations == (0 if "decide_by" in changes else 2 * (5 * 3 + 3))


def test_a_selection_by_perturbation_is_estimated() -> None:
    overrides = ["selection.operations=perturbation", "selection.edges=perturbation", "retrain.layers=1"]
    guess = api.estimate(recipe_of("darts-v1", *overrides))
    selection = next(part for part in guess.parts if part.name == "selection")
    assert selection.steps > 0 and selection.seconds > selection.steps * selection.step_seconds


def test_a_display_by_name(capsys: Any) -> None:
    overrides = ["retrain.layers=1", "data.images=40", "data.test_images=20"]
    api.estimate(recipe_of("random", *overrides), display="lines")
    assert "measuring retraining" in capsys.readouterr().out


def test_the_parameters_are_those_of_the_network(found: tuple[Recipe, Estimate]) -> None:
    recipe, guess = found
    setup_ = setup.prepared(recipe)
    training = setup_.retraining(DARTS_V2)
    training.plan = recipe.retrain.model_copy(update={"epochs": 1})
    training.run()
    own = sum(p.numel() for p in training.net.parameters())
    sizes = {part.name: part.parameters for part in guess.parts}
    assert sizes["retraining"] and 0.3 < sizes["retraining"] / own < 3 and sizes["selection"] is None
    first = recipe.search.model_copy(update={"stages": recipe.search.stages[:1]})
    net = searched(recipe.model_copy(update={"search": first}), Silent()).learner.net
    assert guess.parts[0].parameters == sum(p.numel() for p in net.parameters())


def test_the_longest_part_is_named_with_its_seeds() -> None:
    parts = Part("search stage only", 10, 1.0, 10.0), Part("retraining", 9, 3.0, 30.0, seeds=3)
    assert Estimate("cpu", None, parts).slowest() == "longest: retraining, 75 % of the time, 10 s for each of 3 seeds"
    assert Estimate("cpu", None, parts[:1]).slowest() == "longest: search stage only, 100 % of the time"


# --- memory


def exact_peak(run: Any) -> int:
    with LiveBytes() as alive:
        run()
    return alive.peak


@pytest.mark.parametrize("stage", [0, 2])
def test_the_memory_of_a_stage_is_that_of_the_stage(found: tuple[Recipe, Estimate], stage: int) -> None:
    """Predicted from batches of 4, 8 and 16; here are 32, and every step of two epochs."""
    recipe, guess = found
    memory = guess.parts[stage].memory
    assert memory is not None and memory.batch == 32
    stages = [
        s.model_copy(update={"epochs": 2 * (i == stage), "warmup": 0, "init": 1.0})  # the same candidates are kept
        for i, s in enumerate(recipe.search.stages)
    ]
    plan = recipe.search.model_copy(update={"stages": tuple(stages[: stage + 1])})
    short = recipe.model_copy(update={"search": plan})
    data = search_data(setup.load_data(recipe), recipe.data.splits, 0)
    exact = exact_peak(lambda: Search(plan, setup.build_space(short), data).run())
    assert memory.peak - memory.data == pytest.approx(exact, rel=0.15)


def test_the_memory_of_a_retraining_is_what_it_saves_and_holds() -> None:
    """Against exact counts: saved for backward, parameters, gradients, momentum and running statistics."""
    recipe = recipe_of("quickstart", "retrain.channels=8")
    dataset = setup.load_data(recipe)
    memory = estimate_retraining(DARTS_V2, recipe.retrain, dataset).memory
    assert memory is not None
    training = Retraining(DARTS_V2, recipe.retrain.model_copy(update={"epochs": 1}), dataset)
    exact = exact_peak(training.run) + memory.data
    assert memory.peak == pytest.approx(exact, rel=0.15)
    x = torch.randn(32, *dataset.shape)
    net = training.net.train()
    with SavedBytes(net.parameters()) as saved:
        net(x)
    held = 3 * sum(p.nbytes for p in net.parameters()) + sum(b.nbytes for b in net.buffers())
    assert memory.peak - memory.data == pytest.approx(saved.total + held, rel=0.15)


@pytest.mark.parametrize(
    ("floor", "fixed", "per_image", "batch", "tried"),
    [
        (0, 1000, 500, 64, [2, 8, 16, 32]),  # a straight line
        (7000, 1000, 500, 64, [2, 8, 16, 32, 64]),  # an optimizer that needs more than the first two passes
        (90_000, 1000, 500, 64, [2, 8, 16, 32, 64]),  # and more than all of them
        (0, 1000, 500, 50, [2, 6, 12, 24]),
        (9000, 1000, 500, 50, [2, 6, 12, 24, 48, 50]),
        (0, 1000, 500, 2, [2, 3]),
        (0, 0, 500, 3, [2, 3]),
    ],
)
def test_the_line_of_memory_is_found(floor: int, fixed: int, per_image: int, batch: int, tried: list[int]) -> None:
    sizes: list[int] = []

    def probe(size: int, steps: int, stopwatch: Stopwatch) -> None:
        sizes.append(size)
        torch.empty(max(floor, fixed + per_image * size), dtype=torch.uint8)

    memory = measure_memory(probe, batch, 10, CPU, None)
    assert sizes == tried
    assert memory.peak == pytest.approx(10 + max(floor, fixed + per_image * batch), rel=0.03)
    sizes.clear()
    measure_memory(probe, batch, 10, CPU, free=1)
    assert sizes == [2]


@given(
    floor=st.integers(0, 200_000),
    fixed=st.integers(0, 20_000),
    per_image=st.integers(1, 2000),
    batch=st.integers(2, 600),
    free=st.integers(5000, 1_000_000),
)
def test_nothing_is_tried_that_would_not_fit(floor: int, fixed: int, per_image: int, batch: int, free: int) -> None:
    """But two images; and a plan that will not fit is never taken for one that does."""
    tried: list[int] = []

    def peak(size: int) -> int:
        return max(floor, fixed + per_image * size)

    def look(probe: Any, size: int, device: torch.device) -> int:
        tried.append(size)
        return peak(size)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("topocell.runs.estimate.probe._peak", look)
        memory = measure_memory(lambda *_: None, batch, 0, CPU, free)
    size = memory.trial(free)
    assert all(peak(n) <= 0.8 * free for n in tried[1:]) and tried[0] == 2 <= size <= max(batch, 2)
    assert size == 2 or peak(size) <= 0.83 * free  # a line within 3 %
    assert len(tried) < 25


def test_running_out_of_memory_in_a_probe_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def full(*_: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")

    for steps, name, key in ((Search, "search stage search", "search"), (Retraining, "retraining", "retrain")):
        with monkeypatch.context() as patched:
            patched.setattr(steps, "run", full)
            assert main(["estimate", "darts-v1", "--budget", "smoke", *SIZES]) == 2
        *shown, error = capsys.readouterr().err.splitlines()
        assert all(line.startswith(("data: ", "measuring ")) for line in shown)
        assert error.startswith(f"error: {name} must fit in the memory of cpu, but it ran out in a probe; lower {key}.")
        assert error.endswith("or make room") and "checkpoint" not in error


def test_memory_grows_with_the_batch() -> None:
    memory = Memory(fixed=100.0, per_image=7.0, batch=10, data=20)
    assert memory.peak == 170
    assert memory.fits(None) and memory.fits(180) and not memory.fits(170)


def test_there_is_free_memory() -> None:
    free = estimate.free_memory(CPU)
    assert free is None or free > 1e6
    assert estimate.free_memory(torch.device("meta")) is None


def test_memory_is_that_of_a_micro_batch_and_time_that_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The images of the batch that wait are ready, as float32; the rest exists for those that are computed."""
    recipe = load_recipe("darts-v1", ["data.dataset=digits", "data.images=32", "data.test_images=10"], "smoke")
    plan = recipe.retrain.model_copy(update={"batch_size": 32, "micro_batch": 4})
    tried: list[int] = []

    def peak(probe: Any, size: int, device: torch.device) -> int:
        tried.append(size)
        return 1000 * size

    monkeypatch.setattr("topocell.runs.estimate.probe._peak", peak)
    monkeypatch.setattr("topocell.runs.estimate.probe.Stopwatch.usual", lambda self, epoch: 1.0)
    dataset = setup.load_data(recipe)
    part = estimate_retraining(DARTS_V2, plan, dataset)
    assert part.memory is not None and max(tried) == part.memory.batch == 4
    waiting = 4 * 8 * 8 * 28
    assert part.memory.data == dataset.train.images.nbytes + dataset.test.images.nbytes + waiting
    assert part.step_seconds == 32 / part.memory.trial(None)  # a probe of four images, which takes a second here
    assert part.knobs[0] == Knob("retrain.micro_batch", 4)


# --- what will not fit


def test_the_batches_of_a_stage_are_what_its_memory_depends_on() -> None:
    plan = load_recipe("dots-over-gdas").search
    knobs = [stage_knobs(plan, stage)[0] for stage in plan.stages]
    assert knobs == [
        Knob("search.stages.operations.batch_size", 256),
        Knob("search.batch_size", 64),
        Knob("search.batch_size", 64),
    ]


KNOBS = (Knob("search.batch_size", 64), Knob("search.channels", 16, 4), Knob("search.layers", 8))


def test_settings_that_fit_are_named() -> None:
    memory = Memory(fixed=2e9, per_image=1e8, batch=64, data=0)  # 8.4 GB
    text = estimate.smaller("search stage x", memory, KNOBS, (), round(4.2e9 / 0.95), "cpu")
    assert text == (
        "search stage x must fit in the memory of cpu, of which 4.42 GB are free, but needs about 8.4 GB; "
        "set search.batch_size=22 or search.channels=8 or search.layers=4"
    )
    assert "set search.memory=low or search.b" in estimate.smaller(
        "x", memory, KNOBS, ("search.memory=low",), round(4.2e9), "cpu"
    )
    assert estimate.smaller("x", memory, KNOBS, (), 10**6, "cpu").endswith(
        "1 MB are free, but needs about 8.4 GB; use another device"
    )


def test_only_what_will_not_fit_is_advised_about() -> None:
    parts = [Part("search stage x", 1, 1.0, 1.0, Memory(0.0, size, 64, 0), KNOBS) for size in (1e6, 1e9)]
    assert Estimate("cpu", None, tuple(parts)).advice() == []
    (text,) = Estimate("cpu", 10**9, (*parts, Part("selection", 0, 0.0, 1.0))).advice()
    assert "64 GB" in text and "search.batch_size=" not in text


def test_a_plan_that_does_not_fit_is_not_tried(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """No step of a probe has the planned batch; advice leads to a plan that fits."""
    recipe, sizes = recipe_of("darts-v1", "retrain.layers=1"), list[int]()
    original = Search.begin_epoch

    def spy(self: Search) -> int:
        sizes.append(self.plan.batch_size)
        return original(self)

    monkeypatch.setattr(Search, "begin_epoch", spy)
    free = 3_000_000
    monkeypatch.setattr(api, "free_memory", lambda device: free)
    guess = api.estimate(recipe)
    assert max(sizes) < 32
    first, *_ = guess.advice()
    assert first.startswith("search stage search must fit in the memory of cpu, of which 3 MB are free, but needs")
    if usable(torch.zeros(1), 4):  # only compiled kernels compute again what they did not keep
        assert "set search.memory=low or" in first
    fitting = int(first.split("search.batch_size=")[1].split()[0])
    memory = guess.parts[0].memory
    assert memory is not None and memory.fixed + memory.per_image * fitting <= 0.95 * free
    assert memory.fixed + memory.per_image * (fitting + 1) > 0.95 * free
    monkeypatch.setattr(api, "estimate", lambda recipe, display: guess)
    assert main(["estimate", "darts-v1"]) == 0
    assert first in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fault", "full"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("could not create a primitive"), True),
        (MemoryError(), True),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), True),  # of a process that cannot be started
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), False),
        (RuntimeError("size mismatch"), False),
    ],
)
def test_running_out_of_memory_is_recognised(fault: Exception, full: bool) -> None:
    assert is_out_of_memory(fault) == full
    with pytest.raises(RunError if full else type(fault)), naming_memory(lambda: "words"):
        raise fault


@pytest.mark.parametrize(("phase", "key"), [("search", "search.batch_size (now 32)"), ("retrain", "retrain.channels")])
def test_a_run_that_runs_out_of_memory_says_what_to_change_and_keeps_its_state(
    phase: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    recipe, path = recipe_of("darts-v1"), tmp_path / "run"
    steps = {"search": Search, "retrain": Retraining}[phase]
    original = steps.state_dict
    monkeypatch.setenv("TOPOCELL_CHECKPOINT_SECONDS", "0")

    def breaks(self: Any) -> Any:
        if (self.loop.step == 0 and self.loop.epoch == 1) or phase == "retrain":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self)

    with monkeypatch.context() as patched:
        patched.setattr(steps, "state_dict", breaks)
        words = ["run", "darts-v1", "--budget", "smoke", *SIZES, "--quiet", "--out", str(path)]
        assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {phase} must fit in the memory of cpu, but it ran out; lower ")
    assert key in error and error.count("\n") == 1 and "topocell estimate" in error
    assert list((path / "checkpoints").glob("*.ckpt"))
    assert api.run(recipe, path).exists()


def test_images_of_files_make_room_where_they_take_much_of_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.zeros(10, 3, 8, 8, dtype=torch.uint8)
    of_files = ImageSet(images, torch.arange(10) % 2, ("a", "b"), tuple(map(str, range(10))))
    for memory, parts, makes_room in (
        (40 * images.nbytes - 1, (of_files,), True),
        (40 * images.nbytes, (of_files,), False),
        (100, (of_files, replace(of_files, files=())), False),
    ):
        monkeypatch.setattr("topocell.runs.estimate.memory.memory_of_machine", lambda memory=memory: memory)
        switches = estimate.room_of_images(parts, CPU)
        assert bool(switches) == makes_room
        words = estimate.out_of_memory("search", "cpu", KNOBS[:1], switches=switches)
        assert (", or set data.store=stream (in a new run): topocell estimate" in words) == makes_room


def test_other_faults_stay_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Search, "begin_epoch", breaks)
    with pytest.raises(RuntimeError, match="a bug") as caught:
        api.run(recipe_of(), tmp_path / "run")
    assert not isinstance(caught.value, RunError)


# --- the command


def test_the_command_prints_a_table(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["estimate", "random", "--budget", "smoke", *SIZES]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0].strip().startswith("random on cpu")
    for name in ("retraining", "selection", "the whole run"):
        assert sum(name in line for line in lines if line.startswith(("│", "|"))) == 1
    assert re.fullmatch(r"longest: [a-z ]+, \d+ % of the time", lines[-1])
    shown = err.splitlines()
    assert shown[0].startswith("data: 10 classes")
    assert [line for line in shown if not line.startswith("data: ")] == [
        *(f"measuring search stage {stage.name}" for stage in recipe_of("random").search.stages if stage.epochs),
        "measuring selection",
        "measuring retraining",
    ]
    assert main(["estimate", "quikstart"]) == 2
    assert "did you mean 'quickstart'" in capsys.readouterr().err

"""The time left: steps are those of the run, and what is to come follows from the pace so far."""

from typing import Any

import pytest

from topocell.config.load import load_recipe
from topocell.reporting.terminal import Quiet
from topocell.runs.directory import RunDir
from topocell.runs.monitor import RunMonitor
from topocell.runs.outlook import Outlook, Part, few_steps, parts_of, total_work
from topocell.runs.setup import prepared

PARTS = (Part("search 1/2 operations", 100, 2.0), Part("search 2/2 topology", 50, 4.0), Part("retrain", 300, 1.0))


class Clock:
    """Moves when it is told to."""

    now = 50.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_time_left_is_that_of_the_part_and_of_all_that_follow(clock: Clock) -> None:
    outlook = Outlook(PARTS, clock)
    outlook.whole = True
    assert outlook.left("search 1/2 operations", 1, 100) is None  # the first step builds and compiles
    clock.now += 10
    ahead = 0.5 * (50 * 4 + 300 * 1)  # 0.5 seconds for a unit of work
    assert outlook.left("search 1/2 operations", 11, 100) == pytest.approx(89 * 1.0 + ahead)
    clock.now += 89
    assert outlook.left("search 1/2 operations", 100, 100) == pytest.approx(ahead)
    assert outlook.left("search 2/2 topology", 1, 50) is None
    clock.now += 196
    pace = (99 + 196) / (99 * 2 + 49 * 4)
    assert outlook.left("search 2/2 topology", 50, 50) == pytest.approx(300 * pace)
    assert outlook.left("retrain, seed 1/3", 1, 300) is None
    clock.now += 40
    assert outlook.left("retrain, seed 1/3", 101, 300) == pytest.approx(199 * 0.4)
    assert outlook.left("retrain, seed 2/3", 102, 300) is None  # each seed builds a network


def test_a_warm_up_takes_less(clock: Clock) -> None:
    outlook = Outlook((Part("search 1/1 only", 100, 2.0, "only", 20, 1.0), PARTS[2]), clock)
    outlook.whole = True
    outlook.left("search 1/1 only", 1, 100)
    clock.now += 9
    assert outlook.left("search 1/1 only", 10, 100) == pytest.approx(10 + 80 * 2 + 300)
    clock.now += 10 + 2 * 10
    assert outlook.left("search 1/1 only", 30, 100) == pytest.approx(70 * 2 + 300)


def test_of_two_trainings_the_second_is_the_last(clock: Clock) -> None:
    outlook = Outlook((PARTS[0], Part("retrain", 50, 3.0), PARTS[2]), clock)
    outlook.whole = True
    outlook.left("search 1/2 operations", 1, 100)
    clock.now += 2
    assert outlook.left("search 1/2 operations", 2, 100) == pytest.approx(2 * 98 + 150 + 300)
    outlook.left("retrain, seed 1/1", 1, 300)
    clock.now += 7
    assert outlook.left("retrain, seed 1/1", 2, 300) == pytest.approx(7 * 298)


def test_a_search_alone_does_not_count_a_retraining(clock: Clock) -> None:
    outlook = Outlook(PARTS, clock)
    outlook.left("search 1/2 operations", 1, 100)
    clock.now += 10
    assert outlook.left("search 1/2 operations", 11, 100) == pytest.approx(89 + 0.5 * 50 * 4)


def test_a_run_that_resumes_counts_from_there(clock: Clock) -> None:
    outlook = Outlook(PARTS, clock)
    outlook.whole = True
    outlook.left("retrain, seed 3/3", 250, 300)
    clock.now += 5
    assert outlook.left("retrain, seed 3/3", 260, 300) == pytest.approx(40 * 0.5)


def test_decisions_of_a_selection_have_a_pace_of_their_own(clock: Clock) -> None:
    outlook = Outlook((PARTS[0], Part("select", 40, 2.0), PARTS[2]), clock)
    outlook.left("select, deciding", 1, 5)
    clock.now += 20
    assert outlook.left("select, deciding", 3, 5) == pytest.approx(20)
    outlook.whole = True
    clock.now += 10
    assert outlook.left("select, deciding", 4, 5) is None  # of the retraining nothing is known yet


def test_what_is_in_no_part_is_counted_alone(clock: Clock) -> None:
    outlook = Outlook((), clock)
    outlook.left("measuring", 0, 10)
    clock.now += 3
    assert outlook.left("measuring", 3, 10) == pytest.approx(7)
    clock.now -= 100  # a clock that goes backwards
    assert outlook.left("measuring", 4, 10) == 0


def test_the_parts_are_those_of_the_recipe() -> None:
    sizes = ["data.images=96", "data.test_images=20", "search.batch_size=32", "retrain.batch_size=32"]
    recipe = load_recipe("quickstart", [*sizes, "retrain.seeds=0,1", "retrain.epochs=3"], budget="smoke")
    setup = prepared(recipe)
    parts = parts_of(setup)
    stages = recipe.search.stages
    names = [f"search {n}/{len(stages)} {stage.name}" for n, stage in enumerate(stages, 1) if stage.epochs]
    assert [part.name for part in parts] == [*names, "retrain"]
    assert parts[-1].steps == 2 * 3 * 3
    images = [len(setup.search_data.get(stage.weights_on)) for stage in stages]
    assert [p.steps for p in parts[:-1]] == [s.epochs * -(-n // 32) for s, n in zip(stages, images) if s.epochs]
    larger = prepared(recipe.model_copy(update={"retrain": recipe.retrain.model_copy(update={"layers": 6})}))
    assert parts_of(larger)[-1].work == 2 * parts[-1].work
    assert total_work(parts) == sum(part.work_until(part.steps) for part in parts) > 0
    warm = parts_of(prepared(load_recipe("quickstart", sizes)))[0]
    assert 0 < warm.light < warm.steps and 0 < warm.light_work < warm.work


@pytest.mark.parametrize("name", ["dots", "darts-v2", "pc-darts-pt", "edarts", "nb201-pt", "p-darts", "random"])
def test_every_method_has_parts(name: str) -> None:
    parts = parts_of(prepared(load_recipe(name, budget="smoke")))
    assert parts[-1].name == "retrain" and all(part.steps >= 1 and part.work > 0 for part in parts)
    assert ("select" in [part.name for part in parts]) == name.endswith("-pt")


def test_the_monitor_hands_the_time_left_to_the_display(tmp_path: Any, clock: Clock) -> None:
    seen: list[Any] = []

    class Watching(Quiet):
        def step(self, phase: str, done: int, total: int, figures: Any, left: float | None = None) -> None:
            seen.append(left)

        def epoch(self, record: Any, left: float | None = None) -> None:
            seen.append((record["epoch"], left))

    record = {"phase": "retrain", "seed": 0, "epoch": 0, "train_loss": 2.0, "train_accuracy": 0.25}
    with RunDir.open(tmp_path / "run", "name: any\n", env={}) as directory:
        monitor = RunMonitor(directory, Watching(), outlook=Outlook(PARTS, clock))
        monitor.step("retrain, seed 1/3", 1, 300, dict)
        clock.now += 1
        monitor.step("retrain, seed 1/3", 2, 300, dict)
        monitor.metrics(record)
        assert directory.metrics() == [record]  # no time in there
        monitor.say("a note")
        log = (directory.path / "log.txt").read_text().splitlines()
    assert seen == [None, 298.0, (0, 298.0)]
    assert [line.split(" ", 1)[1] for line in log] == ["retrain seed 0 epoch 1: loss 2.000, accuracy 25.0 %", "a note"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["data.images=288"], "for 160 steps only (32 epochs of 288 images)"),
        (["data.images=288", "retrain.epochs=60", "retrain.batch_size=16"], None),  # what the line advises
        (["data.images=288", "retrain.epochs=1"], None),
    ],
)
def test_a_training_of_few_steps_is_told_before_it_starts(words: list[str], line: str | None) -> None:
    setup = prepared(load_recipe("dots", ["data.dataset=digits", *words], "small"))
    found = few_steps(setup)
    assert (found is None) == (line is None)
    if line is not None and found is not None:
        assert line in found
        assert "retrain.epochs=60 retrain.batch_size=16 makes 1080" in found

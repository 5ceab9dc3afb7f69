"""Sweeps: plans and grids, what each protocol does next, workers that die, and whole small ones."""

import csv
import json
import os
import re
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.studies import without_reports  # noqa: F401

from topocell.cli import main
from topocell.errors import RecipeError, RunError
from topocell.reporting.terminal import Quiet
from topocell.runtime.hooks import Interrupted
from topocell.studies.sweep.board import Board
from topocell.studies.sweep.comparison import outcome_of, run_rows
from topocell.studies.sweep.crew import Answer, Processes, _surroundings, shared_gpus
from topocell.studies.sweep.jobs import Job, attempt
from topocell.studies.sweep.plan import SweepPlan, read_plan
from topocell.studies.sweep.protocols import Course
from topocell.studies.sweep.schedule import TRIES, carry_out

TINY = ["data.images=24", "data.test_images=10", "space.nodes=2", "search.evaluation_batches=1", "retrain.epochs=1"]
CELL = {"inputs": 2, "nodes": [[["skip_connect", 0], ["sep_conv_3x3", 1]]], "concat": [2]}
GENOTYPE = {"format": 1, "space": "darts", "cells": {"normal": CELL, "reduce": CELL}}


def course_of(*words: str) -> Course:
    plan = read_plan(words, "smoke")
    return Course(plan, plan.grid(), lambda key: Path("runs") / key, 1)


def retrained(*accuracies: float) -> dict[str, Any]:
    """The record of a finished run, of accuracies in percent."""
    runs = [{"seed": seed, "last": value / 100} for seed, value in enumerate(accuracies)]
    sizes = {"train_images": 9, "test_images": 9, "epochs": 1, "channels": 4, "parameters": 100, "dataset": "digits"}
    return {
        "results": {"runs": runs, "n": len(runs), **sizes},
        "genotype": GENOTYPE,
        "key": "k",
        "timings": {"search": 1.0},
    }


def validated(accuracy: float) -> dict[str, Any]:
    return {"validation": {"mean": accuracy / 100, "n": 1}, "genotype": GENOTYPE, "key": "k"}


# Plans ------------------------------------------------------------------------------------------------------------


def test_a_list_is_an_axis_and_the_grid_is_their_product() -> None:
    plan = read_plan(["recipes=[random,dots]", "seeds=0..2", "search.channels=[4,8]", "retrain.layers=[2,3]"], "smoke")
    arms = plan.grid()
    assert plan.seeds == (0, 1, 2) and len(arms) == 8 and len({arm.key for arm in arms}) == 8
    assert [arm.label for arm in arms][:2] == [
        "random search.channels=4 retrain.layers=2",
        "random search.channels=4 retrain.layers=3",
    ]
    found = [(arm.any.search.channels, arm.any.retrain.layers) for arm in arms[4:]]
    assert found == [(4, 2), (4, 3), (8, 2), (8, 3)]
    assert [recipe.seed for recipe in arms[0].recipes.values()] == [0, 1, 2]
    assert all(arm.any.retrain.seeds == (0,) and arm.any.protocol == "full" for arm in arms)


def test_a_key_that_takes_a_list_is_an_axis_of_lists() -> None:
    assert [a.any.retrain.seeds for a in read_plan(["recipes=random", "retrain.seeds=[0,1]"]).grid()] == [(0, 1)]
    many = read_plan(["recipes=random", "retrain.seeds=[[0],[0,1]]"]).grid()
    assert [arm.any.retrain.seeds for arm in many] == [(0,), (0, 1)]


def test_a_plan_is_a_file_that_the_command_line_changes(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text(
        "recipes: [random, dots search.channels=8]\nseeds: 1..3\nprotocol: all\nbudget: smoke\n"
        "search: {batch_size: [8, 16]}\ndata.test_images: 10\ndata: {images: 24}\nspace: {name: darts, nodes: 2}\n"
    )
    plan = read_plan([str(file), "seeds=5", "data.test_images=20", "search.batch_size=8"])
    (first, second) = plan.grid()
    assert plan.seeds == (5,) and plan.budget == "smoke" and first.any.search.batch_size == 8
    assert first.any.data.test_images == 20 and first.any.data.images == 24
    assert first.any.space.nodes == 2 and second.any.search.channels == 8  # type: ignore[attr-defined]


def test_each_protocol_has_its_number_of_retrainings() -> None:
    """A sweep decides itself what is retrained: the protocol of a recipe, which looks at test images, is left out."""
    best = read_plan(["recipes=edarts", "protocol=best-by-validation", "seeds=0"]).grid()[0].any
    assert best.retrain.seeds == (0, 1, 2, 3) and best.protocol == "full"
    asked = read_plan(["recipes=darts-v1", "protocol=best-by-validation", "retrain.seeds=[0,1]", "seeds=0"])
    assert asked.grid()[0].any.retrain.seeds == (0, 1)


@pytest.mark.parametrize(
    ("words", "base"),
    [
        (["recipes=[dots,random,darts-v1]"], {"dots": "random", "random": None, "darts-v1": "random"}),
        (["recipes=[dots,darts-v1]"], {"dots": None, "darts-v1": "dots"}),
        (["recipes=[dots,random]", "baseline=dots"], {"dots": None, "random": "dots"}),
        (
            ["recipes=dots", "search.channels=[4,8]"],
            {"dots search.channels=4": None, "dots search.channels=8": "dots search.channels=4"},
        ),
        (
            ["recipes=[dots,random]", "search.channels=[4,8]"],
            {
                "dots search.channels=4": "random search.channels=4",
                "dots search.channels=8": "random search.channels=8",
                "random search.channels=4": None,
                "random search.channels=8": None,
            },
        ),
    ],
)
def test_rows_are_compared_with_the_baseline_of_their_settings(words: list[str], base: dict[str, str | None]) -> None:
    plan = read_plan([*words, "seeds=0"], "smoke")
    arms = plan.grid()
    assert {arm.label: found and found.label for arm in arms for found in [plan.base_of(arm, arms)]} == base


BAD: list[tuple[list[str], str]] = [
    (["recipes=random", "search.chanels=[4,8]"], "search.chanels: unknown key (did you mean 'search.channels'?)"),
    (["recipes=random", "seds=0"], "unknown option 'seds' (did you mean 'seeds'?)"),
    (["seeds=0"], "recipes is required; give recipes=VALUE"),
    (["recipes=[]"], "recipes: list should have at least 1 item"),
    (["recipes=random", "seeds=3..1"], "a span FIRST..LAST has 1 to 1000 numbers, but got '3..1'"),
    (["recipes=random", "seeds=0..99999"], "a span FIRST..LAST has 1 to 1000 numbers"),
    (["recipes=random", "search.channels=[]"], "has one or more different values, but got search.channels=[]; there"),
    (["recipes=random", "search.channels=[4,4]"], "there would be the same run twice"),
    (["recipes=random", "seed=[0,1]"], "but got seed=[0,1]; use seeds=[..]"),
    (["recipes=[random,dots]", "baseline=dats"], "but got 'dats' (did you mean 'dots'?)"),
    (["recipes=random", "protocol=best"], "'all', 'best-by-validation' or 'shallow-filter', but got 'best'"),
    (["recipes='random search.channels=4'", "search.channels=[4,8]"], "is an axis of the grid, but an entry"),
    (["recipes=radom"], "unknown recipe 'radom' (did you mean 'random'?)"),
    (["recipes=random", "seeds=0..999", f"search.channels={[*range(11)]}"], "at most 10000 runs, but this has 11000"),
    (
        ["recipes=random", "data.splits={train: 1.0}", "search.stages.nothing.level=single", "protocol=shallow-filter"],
        "has only 'train'; add a split",
    ),
    (["nowhere.yaml"], "cannot be read: No such file or directory; check the path"),
    (["recipes=random", "--ray", "--address", "auto"], "--ray starts a Ray of this machine, --address auto joins a"),
    (["recipes=random", "--address", "nowhere"], "has the form HOST:PORT, ray://HOST:PORT or auto, but got 'nowhere'"),
]


@pytest.mark.parametrize(("words", "fault"), BAD)
def test_a_plan_that_cannot_be_is_one_line(words: list[str], fault: str, tmp_path: Path, capsys: Any) -> None:
    assert main(["sweep", *words, "--budget", "smoke", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and fault in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "fault"),
    [("- a\n", "must be a mapping of keys, but is none"), ("a: [\n", "must be YAML"), ("{}", "recipes is required")],
)
def test_a_damaged_plan_is_one_line(text: str, fault: str, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(RecipeError, match=fault):
        read_plan([str(tmp_path / "plan.yaml")])


# Protocols --------------------------------------------------------------------------------------------------------


def test_every_run_of_the_grid_is_due_and_finished_ones_are_its_accuracies() -> None:
    course = course_of("recipes=[random,dots]", "seeds=[0,3]")
    jobs = course.due({}, set())
    assert [job.key for job in jobs] == ["random-seed-0", "dots-seed-0", "random-seed-3", "dots-seed-3"]
    assert course.total == 4 and Path(jobs[0].path) == (Path("runs") / jobs[0].key).absolute()
    records = {"dots-seed-3": retrained(90.0, 92.0), "dots-seed-0": retrained(80.0)}
    assert course.accuracies(course.arms[1], records) == {0: 80.0, 3: pytest.approx(91.0)}
    assert course.accuracies(course.arms[0], records) == {}


def test_the_best_cell_by_validation_is_retrained_once_all_are_validated() -> None:
    course = course_of("recipes=[random,dots]", "seeds=0..2", "protocol=best-by-validation")
    assert course.total == 8 and len(course.due({}, set())) == 6
    records: dict[str, Any] = {f"dots-seed-{seed}": validated(value) for seed, value in enumerate((50, 70, 70))}
    last = course.due(records, set())[-1]
    assert last.key == "dots-seed-1-retrained" and Path(last.path).name == "dots-seed-1"
    assert last.args[0].seed == 1
    del records["dots-seed-1"]
    assert len(course.due(records, set())) == 6  # it may still be the best
    assert course.due(records, {"dots-seed-1"})[-1].key == "dots-seed-2-retrained"  # or has failed
    records["dots-seed-2-retrained"] = retrained(90.0, 91.0, 92.0, 93.0)
    assert course.accuracies(course.arms[1], records) == {0: 90.0, 1: pytest.approx(91.0), 2: 92.0, 3: 93.0}


def test_the_filter_compares_what_it_has_kept() -> None:
    course = course_of("recipes=random", "seeds=0..1", "protocol=shallow-filter", "shallow.threshold=0.6")
    job = course.due({}, set())[0]
    assert job.args[1].seeds == course.arms[0].any.shallow.seeds and job.args[3] == 0.6
    records = {"random-seed-0": validated(50), "random-seed-1": validated(70) | retrained(90.0)}
    assert course.accuracies(course.arms[0], records) == {1: 90.0}


def test_the_comparison_says_what_is_better() -> None:
    course = course_of("recipes=[random,dots,darts-v1]", "seeds=0..3")
    values = {"random": (80, 80.5, 81, 80.2), "dots": (90, 90.4, 90.2, 91), "darts-v1": (80.1, 80.9, 80.3, 80.4)}
    records = {f"{name}-seed-{s}": retrained(value) for name, of in values.items() for s, value in enumerate(of)}
    outcome = outcome_of(course, records, {"dots-seed-9": "it was ended"}, "2 processes")
    rows = {row["recipe"]: row for row in outcome.rows}
    assert rows["dots"]["n"] == 4 and rows["dots"]["accuracy %"] == pytest.approx(90.4)
    assert rows["random"]["baseline"] is None and rows["dots"]["baseline"] == "random"
    words = outcome.summary["verdicts"]
    assert words[0].startswith("dots: better than random, +9.98 points") and "corrected for 2 comparisons" in words[0]
    assert words[1].startswith("darts-v1: not told apart from random")
    assert "Failed: dots-seed-9: it was ended." in outcome.notes
    assert [row["accuracies"] for row in run_rows(outcome)][:2] == ["80.0", "80.5"]


def test_cells_are_compared_with_all_of_the_table_too() -> None:
    """The mean of two uniform numbers exceeds that of 90 and 94 with probability 0.16² / 2; twice for both sides."""
    course = course_of("recipes=[random,dots,darts-v1]", "seeds=0..1")
    places = {"random": (40, 60), "dots": (90, 94), "darts-v1": (45, 75)}
    records = {
        f"{name}-seed-{s}": retrained(value) | {"percentile": float(value)}
        for name, of in places.items()
        for s, value in enumerate(of)
    }
    outcome = outcome_of(course, records, {}, "2 processes")
    rows = {row["recipe"]: row for row in outcome.rows}
    assert [rows[name]["percentile %"] for name in places] == [50.0, 92.0, 60.0]
    assert rows["random"]["p (percentiles)"] is None  # the baseline is drawn from the space, and no method
    assert rows["dots"]["p (percentiles)"] == "0.051" and rows["darts-v1"]["p (percentiles)"] == "0.64"
    better, other = outcome.summary["standings"]
    assert better.startswith("dots: not told apart from cells drawn from the space, above 92.0 % of them, p = 0.051")
    assert other.startswith("darts-v1: not told apart") and other.endswith("corrected for 2 comparisons)")
    assert any("Irwin-Hall" in note for note in outcome.notes)


# Workers ----------------------------------------------------------------------------------------------------------


class Fake:
    """A crew of two that answers from a script: of each key what its tries come to."""

    about = "two"

    def __init__(self, script: Mapping[str, list[Answer]]) -> None:
        self.script, self.busy, self.begun, self.closed = script, list[str](), list[str](), 0

    def room(self) -> int:
        return 2 - len(self.busy)

    def begin(self, job: Job) -> None:
        assert self.room() > 0
        self.busy.append(job.key)
        self.begun.append(job.key)

    def wait(self, seconds: float) -> list[Answer]:
        return [self.script[self.busy.pop(0)].pop(0)] if self.busy else []

    def close(self) -> None:
        self.closed += 1


def carried_out(crew: Any, course: Course, records: dict[str, Any]) -> tuple[dict[str, str], list[str]]:
    said: list[str] = []

    class Heard(Quiet):
        def say(self, text: str) -> None:
            said.append(text)

    failed = carry_out(
        course.due, crew, Board(course, records, Heard()), records, lambda key, record, _: records.update({key: record})
    )
    return failed, said


def good(key: str, accuracy: float = 90.0) -> Answer:
    return Answer(key, {"record": retrained(accuracy), "seconds": 1.0})


def dead(key: str) -> Answer:
    return Answer(key, death="its worker was ended by SIGKILL")


def test_a_job_whose_worker_dies_is_tried_three_times_and_the_others_go_on() -> None:
    course, records = course_of("recipes=random", "seeds=0..3"), dict[str, Any]()
    a, b, c, d = (job.key for job in course.due({}, set()))
    fault = Answer(c, {"fault": "the loss must be finite, but is nan; lower the learning rate"})
    crew = Fake({a: [dead(a)] * 3, b: [dead(b), good(b)], c: [fault], d: [good(d)]})
    failed, said = carried_out(crew, course, records)
    assert failed == {
        a: "its worker was ended by SIGKILL, 3 times; with fewer workers if memory was short",
        c: "the loss must be finite, but is nan; lower the learning rate",
    }
    assert set(records) == {b, d} and crew.begun.count(a) == TRIES and crew.closed == 1
    assert f"{b}: its worker was ended by SIGKILL; it resumes from its checkpoint (try 2 of 3)" in said


def test_what_is_finished_is_not_begun() -> None:
    course = course_of("recipes=random", "seeds=0..1")
    records = {"random-seed-0": retrained(90.0)}
    crew = Fake({"random-seed-1": [good("random-seed-1")]})
    assert carried_out(crew, course, records)[0] == {} and crew.begun == ["random-seed-1"]


def test_a_full_disk_ends_the_sweep_and_keeps_what_is_finished() -> None:
    course, records = course_of("recipes=random", "seeds=0..2"), dict[str, Any]()
    full = Answer("random-seed-1", {"fault": "the disk must have room for x, but it is full", "full": True})
    crew = Fake({"random-seed-0": [good("random-seed-0")], "random-seed-1": [full], "random-seed-2": []})
    with pytest.raises(RunError, match=r"random-seed-1: the disk must have room .*; finished runs are kept"):
        carried_out(crew, course, records)
    assert list(records) == ["random-seed-0"] and crew.closed == 1


def test_a_signal_stops_the_crew() -> None:
    course = course_of("recipes=random", "seeds=0..2")

    class Stopped(Fake):
        def wait(self, seconds: float) -> list[Answer]:
            os.kill(os.getpid(), signal.SIGTERM)
            return []

    crew = Stopped({})
    with pytest.raises(Interrupted):
        carried_out(crew, course, {})
    assert crew.closed == 1


def test_the_time_left_is_that_of_like_runs() -> None:
    """Two at a time, 10 s of each dots and 2 s of each random: 1 random and 2 dots, one of them half done."""
    now = [0.0]
    course, records = course_of("recipes=[random,dots]", "seeds=0..2"), dict[str, Any]()
    board = Board(course, records, Quiet(), clock=lambda: now[0])
    jobs = {job.key: job for job in course.due({}, set())}
    assert board.left() is None
    for name, seconds in (("random-seed-0", 2.0), ("dots-seed-0", 10.0), ("random-seed-1", 2.0)):
        board.begun(jobs[name])
        records[name] = retrained(90.0)
        board.done(jobs[name], records[name], seconds)
    board.begun(jobs["dots-seed-1"])
    board.begun(jobs["dots-seed-2"])
    now[0] = 5.0
    assert board.left() == pytest.approx((2 + 5 + 5) / 2)
    board.failed(jobs["dots-seed-2"], "it was ended")
    assert board.left() == pytest.approx((2 + 5) / 2)
    shown = board.table()
    assert [list(column.cells)[1] for column in shown.columns[1:2]] == ["1/3"]
    assert str(shown.title).startswith("[3/6] done, left 3.5 s")


# Functions of this module, which real workers import by name.


def die_once(path: str) -> dict[str, Any]:
    """End this process at the first try; the second finds what the first has left."""
    mark = Path(f"{path}.mark")
    if not mark.exists():
        mark.write_text("begun")
        os.kill(os.getpid(), signal.SIGKILL)
    return {"text": mark.read_text(), "pid": os.getpid()}


def surroundings(path: str) -> dict[str, Any]:
    import torch

    return {"threads": torch.get_num_threads(), "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"), "pid": os.getpid()}


def fill(path: str) -> dict[str, Any]:
    from topocell.io import files

    with files.guarded(Path(path)):
        raise OSError(28, "No space left on device")


def break_down(path: str) -> dict[str, Any]:
    raise ValueError("broken\nin two")


def gathered(crew: Processes, jobs: list[Job]) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    try:
        for job in jobs:
            crew.begin(job)
        until = time.monotonic() + 300
        while len(answers) < len(jobs) and time.monotonic() < until:
            answers |= {answer.key: answer for answer in crew.wait(1.0)}
    finally:
        crew.close()
    return answers


def test_processes_that_end_are_replaced(tmp_path: Path) -> None:
    crew = Processes(1, 0)
    job = Job("a", die_once, (), str(tmp_path / "a"))
    crew.begin(job)
    answers: list[Answer] = []
    while not answers:
        answers = crew.wait(1.0)
    assert answers == [Answer("a", death="its worker was ended by SIGKILL")] and crew.room() == 1
    again = gathered(crew, [job])["a"]
    assert again.result["record"]["text"] == "begun" and again.result["record"]["pid"] != os.getpid()


def test_workers_have_the_threads_and_gpus_of_a_run(tmp_path: Path) -> None:
    jobs = [Job(name, surroundings, (), str(tmp_path / name), threads=2) for name in "ab"]
    found = gathered(Processes(2, 0), jobs)
    records = [answer.result["record"] for answer in found.values()]
    assert [record["threads"] for record in records] == [2, 2] and {record["gpus"] for record in records} == {""}


def test_gpus_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def seen(workers: int, gpus: float | None) -> list[str]:
        return [of["CUDA_VISIBLE_DEVICES"] for of in _surroundings(workers, gpus)]

    assert seen(5, None) == ["0", "1", "2", "3", "0"] and seen(2, 2) == ["0,1", "2,3"]
    assert seen(4, 0.5) == ["0", "0", "1", "1"] and seen(2, 0) == ["", ""]
    with pytest.raises(RunError, match="need 8 GPUs, but this machine has 4; take fewer workers"):
        seen(4, 2)
    assert [shared_gpus(workers) for workers in (1, 4, 5, 9)] == [1.0, 1.0, 0.5, pytest.approx(1 / 3)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,7,8,9")
    assert seen(2, 2) == ["6,7", "8,9"]


def test_faults_are_answers(tmp_path: Path) -> None:
    full = attempt(Job("a", fill, (), str(tmp_path / "a")))
    assert full["full"] and "but it is full (no space left on device)" in full["fault"]
    broken = attempt(Job("a", break_down, (), str(tmp_path / "a")))
    assert broken["fault"] == "ValueError: broken in two" and "break_down" in broken["trace"]
    absent = attempt(Job("a", surroundings, (), str(tmp_path / "nowhere" / "a")))
    assert "every node must see the directory of the sweep" in absent["fault"]


class Here:
    """A crew of one, in this process: what a sweep does, without the seconds that processes take to begin."""

    about = "1 process"

    def __init__(self, workers: int, gpus: float | None) -> None:
        self.answers: list[Answer] = []

    def room(self) -> int:
        return 1 - len(self.answers)

    def begin(self, job: Job) -> None:
        self.answers.append(Answer(job.key, attempt(job)))

    def wait(self, seconds: float) -> list[Answer]:
        return [self.answers.pop()]

    def close(self) -> None:
        pass


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("topocell.studies.sweep.run.Processes", Here)


# Whole sweeps -----------------------------------------------------------------------------------------------------


def rows_of(folder: Path, name: str = "table.csv") -> list[dict[str, str]]:
    with (folder / name).open() as file:
        return list(csv.DictReader(file))


def test_a_sweep_searches_compares_and_goes_on(here: None, tmp_path: Path, capsys: Any) -> None:
    """A finished one is only compared again; more seeds are added; another sweep is refused."""
    words = ["sweep", "recipes=[random,dots]", *TINY, "--budget", "smoke", "--workers", "1", "--out", str(tmp_path)]
    assert main([*words, "seeds=0"]) == 0
    said = capsys.readouterr().out
    assert "[2/2] done: dots-seed-0" in said and "not tested, which takes two or more runs" in said
    page = (tmp_path / "report.html").read_text()
    written = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert "://" not in written.replace("http://www.w3.org", "") and 'href="runs/dots-seed-0/report.html"' in page
    assert (tmp_path / "runs" / "dots-seed-0" / "recipe.yaml").is_file()
    written = (tmp_path / "items.jsonl").read_bytes()
    assert main([*words, "seeds=0", "--quiet"]) == 0 and (tmp_path / "items.jsonl").read_bytes() == written
    assert main([*words, "seeds=0..1", "--quiet"]) == 0
    assert (tmp_path / "items.jsonl").read_bytes().startswith(written)
    assert [row["n"] for row in rows_of(tmp_path)] == ["2", "2"] and len(rows_of(tmp_path, "runs.csv")) == 4
    before = {path: path.read_bytes() for path in tmp_path.glob("*.*") if path.is_file()}
    assert main([*words, "seeds=0..1", "search.batch_size=6", "--quiet"]) == 2
    assert "belongs to another sweep (first difference: options.overrides" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.glob("*.*") if path.is_file()} == before


def test_cells_are_chosen_without_the_test_images(here: None, tmp_path: Path) -> None:
    words = ["recipes=random", "seeds=0..1", "protocol=best-by-validation", "retrain.seeds=[0,1]", *TINY]
    assert main(["sweep", *words, "--budget", "smoke", "--workers", "1", "--quiet", "--out", str(tmp_path)]) == 0
    items = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()]
    first, second, last = items
    best = max((first, second), key=lambda item: item["validation"]["mean"])
    assert last["item"] == f"{best['item']}-retrained" and last["results"]["n"] == 2
    other = second if best is first else first
    for item in (first, second):
        place = tmp_path / "runs" / item["item"]
        results = json.loads((place / "validation" / "results.json").read_text())
        assert results["test_images"] == item["validation"]["images"] == 12 and results["train_images"] == 12
        assert "split 'train' of the search, tested on 'val'" in results["dataset"]
        assert (place / "results.json").exists() == (item is best)
    assert [row["state"] for row in rows_of(tmp_path, "runs.csv")].count("not chosen") == 1
    assert other["validation"]["mean"] <= best["validation"]["mean"]


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["sweep", "recipes=random", "seeds=0", *TINY, "--budget", "smoke", "--out", str(tmp_path)]) == 2
    assert "--out must name a sweep or an empty directory, but" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_plan_is_read_into_options() -> None:
    assert {"recipes", "seeds", "protocol", "baseline", "budget", "short_epochs"} == set(SweepPlan.listed())

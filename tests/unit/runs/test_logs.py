"""Logs follow metrics.jsonl: after a kill they are those of a run that was never killed."""

import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import topocell
from topocell import api
from topocell.config.load import load_recipe
from topocell.errors import RecipeError, RunError
from topocell.reporting.terminal import Quiet
from topocell.runs.directory import RunDir
from topocell.runs.logs import Callback, CsvLog, Log, Logger, Logs, TensorBoardLog, figures, loggers_of

RECIPE = "name: x\n"


def record(epoch: int, **more: Any) -> dict[str, Any]:
    return {
        "phase": "search",
        "stage": "s",
        "epoch": epoch,
        "train_loss": 1.0 / (epoch + 1),
        "gap": {"soft": 0.5, "derived": float("nan")},
        "operations": {"normal": {"skip_connect" if epoch % 2 else "sep_conv_3x3": epoch}},
        "architecture": {"normal": {"alpha": [[1.0]]}},
        "derived": {"normal": {}},
        "warnings": ["a, b", "c"] if epoch == 2 else [],
        **more,
    }


RECORDS = [record(0), record(1), record(2), {"phase": "retrain", "seed": 3, "epoch": 0, "test_accuracy": None}]


@contextmanager
def opened(path: Path, *logs: Log) -> Iterator[tuple[RunDir, Logs]]:
    """A run directory with its logs, which is dropped as a kill would: nothing is ended."""
    with RunDir.open(path, RECIPE, env={}) as directory:
        directory.latest()
        found = Logs(loggers_of((), logs), directory)
        found.begin()
        yield directory, found


def add(directory: RunDir, logs: Logs, records: Sequence[Mapping[str, Any]]) -> None:
    for each in records:
        directory.append_metrics(each)
        logs.add(each)


def in_one_go(path: Path, *logs: Log) -> None:
    with opened(path, *logs) as (directory, found):
        add(directory, found, RECORDS)
        found.close()


def killed_and_resumed(path: Path, *logs: Log) -> None:
    """Killed twice with records on the disk that no checkpoint tells of."""
    with opened(path, *logs) as (directory, found):
        add(directory, found, RECORDS[:1])
        directory.save_checkpoint({})
        add(directory, found, RECORDS[1:3])
    with opened(path, *logs) as (directory, found):
        add(directory, found, RECORDS[1:2])
        directory.save_checkpoint({})
        add(directory, found, RECORDS[2:])
    with opened(path, *logs) as (directory, found):
        add(directory, found, RECORDS[2:])
        found.close()


def test_figures_are_numbers_and_words_by_dotted_name() -> None:
    assert dict(figures(RECORDS[2])) == {
        "phase": "search",
        "stage": "s",
        "epoch": 2,
        "train_loss": pytest.approx(1 / 3),
        "gap.soft": 0.5,
        "gap.derived": pytest.approx(float("nan"), nan_ok=True),
        "operations.normal.sep_conv_3x3": 2,
        "warnings": "a, b; c",
    }


def test_a_csv_has_a_row_for_each_record_and_a_column_for_each_figure(tmp_path: Path) -> None:
    in_one_go(tmp_path, "csv")
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "0"]
    assert [float(row["train_loss"] or "nan") for row in rows[:3]] == [1.0, 0.5, 1 / 3]
    assert [row["operations.normal.skip_connect"] for row in rows] == ["", "1", "", ""]
    assert [row["warnings"] for row in rows] == ["", "", "a, b; c", ""]
    assert rows[0]["gap.derived"] == "" and rows[3]["seed"] == "3" and "architecture" not in rows[0]


def test_a_csv_of_a_killed_run_is_that_of_one_which_was_left_alone(tmp_path: Path) -> None:
    in_one_go(tmp_path / "alone", "csv")
    killed_and_resumed(tmp_path / "killed", "csv")
    assert (tmp_path / "killed/metrics.csv").read_bytes() == (tmp_path / "alone/metrics.csv").read_bytes()


def test_a_csv_that_is_asked_for_later_has_all_records(tmp_path: Path) -> None:
    in_one_go(tmp_path / "alone", "csv")
    in_one_go(tmp_path / "later")
    with RunDir.open(tmp_path / "later", RECIPE, env={}) as directory:
        Logs([CsvLog()], directory).begin()
    assert (tmp_path / "later/metrics.csv").read_bytes() == (tmp_path / "alone/metrics.csv").read_bytes()


def points(path: Path) -> list[tuple[str, int, float]]:
    """Everything in the files of events, doubles included."""
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    found = [
        (value.tag, event.step, value.tensor.float_val[0] if value.HasField("tensor") else value.simple_value)
        for file in sorted((path / "tensorboard").iterdir())
        for event in loader.EventFileLoader(str(file)).Load()
        for value in event.summary.value
    ]
    return sorted(found)


def test_curves_of_a_killed_run_are_those_of_one_which_was_left_alone(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    in_one_go(tmp_path / "alone", "tensorboard")
    killed_and_resumed(tmp_path / "killed", "tensorboard")
    alone = points(tmp_path / "alone")
    assert points(tmp_path / "killed") == alone
    assert [point for point in alone if point[0] == "search/gap.soft"] == [
        ("search/gap.soft", n, 0.5) for n in (1, 2, 3)
    ]
    assert not [
        tag for tag, _, _ in alone if tag.endswith(("gap.derived", "test_accuracy", "epoch"))
    ]  # not finite, null


def test_what_somebody_keeps_beside_the_curves_stays(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    in_one_go(tmp_path, "tensorboard")
    (tmp_path / "tensorboard" / "layout.json").write_text("{}")
    (tmp_path / "tensorboard" / "other").mkdir()
    before = {path.name for path in (tmp_path / "tensorboard").iterdir()}
    with opened(tmp_path, "tensorboard") as (directory, found):
        add(directory, found, [record(0)])
    after = {path.name for path in (tmp_path / "tensorboard").iterdir()}
    assert {"layout.json", "other"} <= after and len(after) == 3 and len(before & after) == 2


def test_a_folder_of_curves_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    with opened(tmp_path / "run"):
        pass
    (tmp_path / "run" / "tensorboard").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="plain files and directories"), opened(tmp_path / "run", "tensorboard"):
        pass


def test_times_of_curves_stay_when_a_run_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    now = [1000.0]
    monkeypatch.setattr("torch.utils.tensorboard.summary.time", None, raising=False)
    monkeypatch.setattr("tensorboard.summary.writer.event_file_writer.time.time", lambda: now[0])
    monkeypatch.setattr("torch.utils.tensorboard.writer.time.time", lambda: now[0])
    in_one_go(tmp_path, "tensorboard")
    now[0] = 2000.0
    with opened(tmp_path, "tensorboard") as (directory, found):
        add(directory, found, [record(0)])  # no checkpoint tells of the records of before
        found.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.wall_time for event in events.Scalars("search/train_loss")] == [2000.0]
    with opened(tmp_path / "other", "tensorboard") as (directory, found):
        add(directory, found, [record(0)])
        directory.save_checkpoint({})
    now[0] = 3000.0
    with opened(tmp_path / "other", "tensorboard") as (directory, found):
        add(directory, found, [record(1)])
        found.close()
    events = accumulator.EventAccumulator(str(tmp_path / "other/tensorboard"))
    events.Reload()
    assert [event.wall_time for event in events.Scalars("search/train_loss")] == [2000.0, 3000.0]


def test_without_tensorboard_the_fault_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(RunError, match=r"pip install 'topocell\[tensorboard\]', or leave tensorboard out of log"):
        api.run(load_recipe("quickstart", ["log=[csv,tensorboard]"], "smoke"), tmp_path / "out", Quiet())
    assert not (tmp_path / "out").exists()


def test_a_function_gets_each_record_as_it_is_written_with_its_number(tmp_path: Path) -> None:
    heard: list[tuple[int, Mapping[str, Any]]] = []
    killed_and_resumed(tmp_path, lambda number, record: heard.append((number, record)))
    written = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [number for number, _ in heard] == [0, 1, 2, 1, 2, 3, 2, 3]
    assert all(each == written[number] for number, each in heard)


def test_a_logger_of_ones_own_stands_in_a_recipe_with_its_options(tmp_path: Path) -> None:
    @topocell.register("logger", "mine")
    class Mine(Logger):
        def __init__(self, word: str = "x") -> None:
            self.word = word

    (made,) = loggers_of(load_recipe("quickstart", ["log=[{name: mine, word: y}]"], "smoke").log)
    assert isinstance(made, Mine) and made.word == "y"
    with pytest.raises(RecipeError, match=r"has no option 'wort' .did you mean 'word'"):
        loggers_of(load_recipe("quickstart", ["log=[{name: mine, wort: y}]"], "smoke").log)
    with pytest.raises(RecipeError, match=r"unknown logger 'cvs' .did you mean 'csv'"):
        load_recipe("quickstart", ["log=cvs"], "smoke")
    with pytest.raises(RecipeError, match=r"has to be a topocell\.runs\.logs\.Logger"):
        topocell.register("logger", "function", print)
    assert isinstance(loggers_of((), [print])[0], Callback) and TensorBoardLog.__doc__


class Killed(BaseException):
    """Stands for a kill: nothing that catches faults sees it."""


class Until(Quiet):
    """Kills after the record of an epoch is written and logged, and before the state behind it is saved."""

    def __init__(self, epochs: int) -> None:
        self.left = epochs

    def epoch(self, record: Mapping[str, Any], left: float | None = None) -> None:
        self.left -= 1
        if not self.left:
            raise Killed


def test_a_whole_run_resumes_in_the_same_log(tmp_path: Path) -> None:
    sizes = ["data.images=48", "data.test_images=20", "space.nodes=1", "search.stages.search.epochs=2", "log=csv"]
    recipe = load_recipe("darts-v1", sizes, "smoke")
    heard: list[int] = []
    api.run(recipe, tmp_path / "alone", Quiet(), log=[lambda number, _: heard.append(number)])
    for epochs in (2, 2):
        with pytest.raises(Killed):
            api.run(recipe, tmp_path / "killed", Until(epochs))
    api.run(recipe, tmp_path / "killed", Quiet())
    assert (tmp_path / "killed/metrics.csv").read_bytes() == (tmp_path / "alone/metrics.csv").read_bytes()
    rows = (tmp_path / "alone/metrics.csv").read_text().splitlines()
    assert heard == list(range(len(rows) - 1)) and len(rows) == 4  # two epochs of search, one of retraining

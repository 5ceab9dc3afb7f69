"""The list of runs: the state of each from what its directory holds, whatever that is."""

import json
import os
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from topocell.cli import main
from topocell.config.load import load_recipe
from topocell.io import files
from topocell.runs import listing_command
from topocell.runs.directory import RunDir
from topocell.runs.listing import Listing, State, by_accuracy

RESULTS = {"last_mean": 0.9, "last_std": 0.01, "n": 2, "dataset": "digits", "parameters": 1, "multiply_adds": 1}
SEARCHED = {"phase": "search", "stage": "operations", "epoch": 0, "val_accuracy": 0.5}


@cache
def text_of(budget: str, *overrides: str) -> str:
    return load_recipe("dots", overrides, budget).to_yaml()


def made(path: Path, *overrides: str, budget: str = "small", **files_: Any) -> Path:
    """A run directory with a recipe and such files, written as they are or as JSON."""
    path.mkdir(parents=True)
    (path / "recipe.yaml").write_text(text_of(budget, *overrides))
    for name, value in files_.items():
        text = value if isinstance(value, str) else json.dumps(value)
        (path / {"results": "results.json", "metrics": "metrics.jsonl", "log": "log.txt"}[name]).write_text(text)
    return path


def states(place: Path) -> dict[str, State]:
    return {str(run.path.relative_to(place)): run.state for run in Listing(place).read()}


def test_states(tmp_path: Path) -> None:
    metrics = json.dumps(SEARCHED) + "\n"
    made(tmp_path / "done", results=RESULTS, metrics=metrics)
    made(tmp_path / "stopped", metrics=metrics, log="T resuming it\n")
    made(tmp_path / "failed", metrics=metrics, log="T a\nT failed: the loss is nan\n")
    made(tmp_path / "resumed", metrics=metrics, log="T failed: the loss is nan\nT resuming it: search\n")
    made(tmp_path / "sweep/runs/one", results=RESULTS)
    made(tmp_path / "done/selections/other", metrics=metrics)
    made(tmp_path / "at work", metrics=metrics + '{"phase": "se')  # a line that is being written
    unlock = files.lock(tmp_path / "at work")
    found = states(tmp_path)
    assert found == {
        "at work": State.RUNNING,
        "done": State.FINISHED,
        "done/selections/other": State.STOPPED,
        "failed": State.FAILED,
        "resumed": State.STOPPED,
        "stopped": State.STOPPED,
        "sweep/runs/one": State.FINISHED,
    }
    unlock()
    assert states(tmp_path)["at work"] == State.STOPPED
    (failed,) = (run for run in Listing(tmp_path).read() if run.state is State.FAILED)
    assert failed.words == "the loss is nan" and failed.at == "operations 1/12" and failed.measured == "validation"
    assert (failed.recipe, failed.dataset, failed.seed, failed.accuracy) == ("dots", "cifar10", 0, 0.5)


def test_accuracies_on_validation_images_are_no_test_accuracies(tmp_path: Path) -> None:
    """Of the training by which a sweep chooses cells: named as such, and ranked after those of tests."""
    made(tmp_path / "run", results={**RESULTS, "last_mean": 0.4})
    made(tmp_path / "run/validation", results=RESULTS)
    made(tmp_path / "run/shallow", results={**RESULTS, "last_mean": 0.3})
    made(tmp_path / "validation", results={**RESULTS, "last_mean": 0.5})  # a run of a user, called so
    found = by_accuracy(Listing(tmp_path).read())
    assert [(str(run.path.relative_to(tmp_path)), run.measured) for run in found] == [
        ("validation", "test"),
        ("run", "test"),
        ("run/shallow", "shallow"),
        ("run/validation", "validation"),
    ]
    assert listing_command._accuracy(found[-1]).plain.startswith("90.00 ± 1.00 % (n = 2) validation")


def test_a_lock_of_a_process_that_is_gone_is_none(tmp_path: Path) -> None:
    program = f"from topocell.io import files; from pathlib import Path; files.lock(Path({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=600)
    assert (tmp_path / files.LOCK).read_text().strip() and not files.is_locked(tmp_path)
    unlock = files.lock(tmp_path)
    assert files.is_locked(tmp_path)
    unlock()
    assert not files.is_locked(tmp_path) and not files.is_locked(tmp_path / "nowhere")
    RunDir.open(tmp_path / "run", "name: x\n", env={}).close()  # a look keeps nobody out


def test_whatever_is_damaged_is_a_row_that_says_so(tmp_path: Path) -> None:
    made(tmp_path / "yaml").joinpath("recipe.yaml").write_text("a: [")
    made(tmp_path / "list").joinpath("recipe.yaml").write_text("[1]")
    made(tmp_path / "bytes").joinpath("recipe.yaml").write_bytes(b"\xff\xfe")
    made(tmp_path / "results", results="{")
    made(tmp_path / "no accuracy", results={"n": 1})
    made(tmp_path / "metrics", metrics="x\n" + json.dumps(SEARCHED) + "\n")
    made(tmp_path / "strange", metrics='{"phase": "search", "stage": [], "epoch": "x"}\n')
    made(tmp_path / "link").joinpath("results.json").symlink_to(tmp_path)
    made(tmp_path / "whole", results=RESULTS)
    found = {run.path.name: run for run in Listing(tmp_path).read()}
    assert {name for name, run in found.items() if run.state is State.DAMAGED} == set(found) - {"whole"}
    words = {"yaml": "cannot be read", "list": "holds a list", "results": "results.json cannot be read"}
    words |= {"no accuracy": "has no accuracy", "metrics": "a line that is no record", "link": "is a link"}
    for name, part in words.items():
        assert part in found[name].words and "\n" not in found[name].words
    if hasattr(os, "mkfifo"):
        os.mkfifo(made(tmp_path / "pipe") / "metrics.jsonl")
        assert states(tmp_path)["pipe"] == State.DAMAGED  # and nobody waits for it


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
def test_links_to_runs_are_followed_and_each_run_is_listed_once(tmp_path: Path) -> None:
    """A folder of links as somebody makes one for a paper; and links in a circle, and up."""
    place, shared = tmp_path / "runs", tmp_path / "shared"
    made(shared / "far" / "selections" / "other", results=RESULTS)
    made(shared / "far" / "run", results=RESULTS)
    made(place / "z own", results=RESULTS)
    (place / "a latest").symlink_to(place / "z own")
    (place / "m linked").symlink_to(shared / "far" / "run")
    (place / "paper").mkdir()
    (place / "paper" / "1").symlink_to(shared / "far")
    (place / "paper" / "circle").symlink_to(place)
    (place / "paper" / "up").symlink_to(tmp_path)
    (place / "gone").symlink_to(tmp_path / "nowhere")
    assert states(place) == dict.fromkeys(("z own", "m linked", "paper/1/selections/other"), State.FINISHED)
    (tmp_path / "entry").symlink_to(place)
    assert set(states(tmp_path / "entry")) == set(states(place))


def test_only_what_changed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path / "a", results=RESULTS)
    place = made(tmp_path / "b", metrics="")
    listing, read = Listing(tmp_path), list[Path]()
    from topocell.runs import listing as module

    original = module._read
    monkeypatch.setattr(module, "_read", lambda path, *rest: (read.append(path), original(path, *rest))[1])
    listing.read()
    assert len(read) == 2
    (place / "metrics.jsonl").write_text(json.dumps(SEARCHED) + "\n")
    assert [run.accuracy for run in listing.read()] == [0.9, 0.5] and read[2:] == [place]


def test_the_best_first_and_smoke_runs_stamped(tmp_path: Path, capsys: Any) -> None:
    made(tmp_path / "small", results=RESULTS)
    made(tmp_path / "smoke", budget="smoke", results=RESULTS | {"last_mean": 0.95})
    made(tmp_path / "table", results={"ground_truth": {"accuracy": 93.25, "column": "test"}})
    made(tmp_path / "begun", metrics=json.dumps(SEARCHED | {"val_accuracy": 0.99}) + "\n")
    runs = by_accuracy(Listing(tmp_path).read())
    assert [run.path.name for run in runs] == ["smoke", "table", "small", "begun"]
    assert [run.smoke for run in runs] == [True, False, False, False]
    assert main(["runs", str(tmp_path), "--best"]) == 0
    rows = capsys.readouterr().out.splitlines()
    lines = [next(row for row in rows if name in row.split()) for name in ("smoke", "table", "small", "begun")]
    for line, words in zip(
        lines,
        ["95.00 ± 1.00 % (n = 2) smoke", "93.25 % (table)", "90.00 ± 1.00 % (n = 2)", "99.00 % (validation)"],
        strict=True,
    ):
        assert words in " ".join(line.split()), line
    assert [rows.index(line) for line in lines] == sorted(rows.index(line) for line in lines)


def test_the_list_as_json(tmp_path: Path, capsys: Any) -> None:
    place = made(tmp_path / "a", "seed=3", results=RESULTS)
    assert main(["runs", str(place), "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    fact = json.loads(line)
    assert fact.pop("changed") == pytest.approx(time.time(), abs=600)
    assert fact.pop("size") == sum(path.stat().st_size for path in place.iterdir())
    assert fact == {
        "path": str(place),
        "state": "finished",
        "words": "",
        "recipe": "dots",
        "dataset": "cifar10",
        "seed": 3,
        "at": "",
        "accuracy": 0.9,
        "std": 0.01,
        "n": 2,
        "measured": "test",
        "smoke": False,
    }


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["nowhere"], "listed below a directory, but nowhere is not there"),
        (["file"], "listed below a directory, but file is no directory"),
        (["."], "directories with a recipe.yaml, but there is none below ."),
        ([".", "--watch"], "--watch draws on a terminal"),
    ],
)
def test_a_bad_directory_is_one_line(
    words: list[str], fault: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert main(["runs", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and fault in err and err.count("\n") == 1


def test_watching_ends_with_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def sleep(_: float) -> None:
        if len(drawn) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(listing_command.time, "sleep", sleep)
    listing_command._watch(lambda: drawn.append(1) or "a list")
    assert len(drawn) == 3


def test_ages_in_short() -> None:
    ages = [listing_command._age(seconds) for seconds in (-3, 42, 119, 150, 7300, 200_000)]
    assert ages == ["0 s", "42 s", "119 s", "2 min", "2 h", "2 d"]


def test_rows_stay_whole_where_there_is_no_terminal(tmp_path: Path, capsys: Any) -> None:
    name = "a-run-whose-name-is-longer-than-a-line-of-a-terminal-usually-has-room-for-in-all-of-its-columns"
    made(tmp_path / name, results=RESULTS)
    assert main(["runs", str(tmp_path)]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "finished" in line]
    assert row.split()[0] == name and "90.00 ± 1.00 % (n = 2)" in row

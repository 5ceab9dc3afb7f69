"""Run directories: whose they are, who holds them, and that nothing saved is lost to kills and full disks."""

import errno
import itertools
import json
import math
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from topocell.errors import CheckpointError, RunError
from topocell.io import checkpoint, files
from topocell.networks.exports import facts
from topocell.reporting.terminal import Quiet
from topocell.runs.directory import RunDir
from topocell.runs.identity import other_machine
from topocell.runtime.provenance import environment
from topocell.studies._items import Bench

RECIPE = "name: quickstart\nsearch:\n  stages:\n    one: {epochs: 50, lr: 0.025}\n    two: {epochs: 25}\nseed: 0\n"
ENV = {"data_fingerprint": "abc", "torch": "2.13.0", "device": "cpu", "threads": 2}


def opened(path: Path, recipe: str = RECIPE, **env: object) -> RunDir:
    return RunDir.open(path, recipe, env=ENV | env)


def refused(path: Path, *words: str, **arguments: object) -> str:
    with pytest.raises(RunError) as caught:
        opened(path, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    for word in (str(path), *words):
        assert word in message
    return message


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDir]:
    with opened(tmp_path / "run") as made:
        yield made


# --- whose it is


def test_a_new_directory_is_made_and_the_same_recipe_reopens_it(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "demo"
    with opened(path) as run:
        assert run.recipe_yaml == RECIPE
        assert run.read_json("env.json") == ENV
        assert run.latest() is None
    with opened(path) as run:
        assert run.warnings == []
        assert run.recipe_yaml == RECIPE


def test_an_empty_directory_and_one_left_by_an_early_kill_are_taken(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".recipe.yaml.4711.tmp").write_text("half a rec")
    with opened(tmp_path) as run:
        assert run.recipe_yaml == RECIPE
    assert not (tmp_path / ".recipe.yaml.4711.tmp").exists()


def test_a_kill_between_recipe_and_environment_is_made_good(tmp_path: Path) -> None:
    opened(tmp_path).close()
    (tmp_path / "env.json").unlink()
    with opened(tmp_path) as run:
        assert run.read_json("env.json") == ENV


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (RECIPE.replace("epochs: 25", "epochs: 30"), "key search.stages.two.epochs is 25 there and 30 here"),
        (RECIPE.replace("    two: {epochs: 25}\n", ""), "key search.stages.two is {'epochs': 25} there and None here"),
        (RECIPE.replace("one", "x").replace("two", "one").replace("x:", "two:"), "key search.stages.one.epochs is 50"),
        (
            "name: quickstart\nsearch:\n  stages:\n    two: {epochs: 25}\n    one: {epochs: 50, lr: 0.025}\nseed: 0\n",
            "key search.order of stages[0] is 'one' there and 'two' here",
        ),
        (RECIPE.replace("seed: 0", "seed: false"), "key seed is 0 there and False here"),
        (RECIPE + "extra: 1\n", "key extra is None there and 1 here"),
        ("just text", "key (top)"),
    ],
)
def test_another_recipe_is_refused_and_nothing_changes(tmp_path: Path, other: str, difference: str) -> None:
    with opened(tmp_path) as run:
        run.append_metrics({"epoch": 0})
        run.save_checkpoint({"epoch": 0})
    before = contents(tmp_path)
    refused(tmp_path, "belongs to another recipe", difference, "choose another --out", recipe=other)
    assert contents(tmp_path) == before
    opened(tmp_path).close()  # the refusal has not kept the lock


def contents(path: Path) -> dict[str, bytes]:
    return {str(found.relative_to(path)): found.read_bytes() for found in path.rglob("*") if found.is_file()}


def test_the_same_recipe_written_differently_is_the_same(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with opened(tmp_path, "# a remark\n" + RECIPE) as run:
        assert run.recipe_yaml == RECIPE


def test_a_damaged_recipe_is_refused(tmp_path: Path) -> None:
    opened(tmp_path).close()
    (tmp_path / "recipe.yaml").write_bytes(b"a: [1, 2")
    refused(tmp_path, "recipe.yaml must be YAML")
    (tmp_path / "recipe.yaml").write_bytes(b"\xff\xfe\xfa")
    refused(tmp_path, "recipe.yaml must be text")


def test_a_directory_with_other_things_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    refused(tmp_path, "'thesis.tex'", "no recipe.yaml")
    assert contents(tmp_path) == {"thesis.tex": b"years of work"}


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    refused(tmp_path / "file", "is a file")
    refused(tmp_path / "file" / "run", "not a directory")


@pytest.fixture
def closed_folder() -> Iterator[Path]:
    """A directory in which this process, even as root's, may not write."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "inner").mkdir()
        folder.chmod(0o755)
        (folder / "inner").chmod(0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            yield folder / "inner"
        finally:
            os.seteuid(user)
            (folder / "inner").chmod(0o755)


def test_a_directory_that_is_not_writable_is_refused(closed_folder: Path) -> None:
    refused(closed_folder / "run", "must be writable", "permission denied")
    refused(closed_folder, "must be writable", "permission denied")


def test_other_data_is_refused(tmp_path: Path) -> None:
    opened(tmp_path).close()
    refused(tmp_path, "the data of", "was abc, is xyz", data_fingerprint="xyz")
    opened(tmp_path).close()


def test_other_data_is_accepted_when_told_so_and_remembered(tmp_path: Path) -> None:
    opened(tmp_path, classes=10).close()
    with RunDir.open(tmp_path, RECIPE, env=ENV | {"data_fingerprint": "xyz", "classes": 10}, accept_data=True) as run:
        assert len(run.warnings) == 1 and "was abc, is xyz" in run.warnings[0]
        assert run.warnings[0] in (tmp_path / "log.txt").read_text()
        found = run.read_json("env.json")
        assert (found["data_fingerprint"], found["earlier_data_fingerprints"]) == ("xyz", ["abc"])
    with opened(tmp_path, data_fingerprint="xyz") as run:  # from now on it is the run's own
        assert run.warnings == []


def test_another_table_of_true_accuracies_is_other_data(tmp_path: Path) -> None:
    opened(tmp_path, ground_truth_fingerprint="old").close()
    for now in ({"ground_truth_fingerprint": "new"}, {}):
        words = f"was old, is {now.get('ground_truth_fingerprint')}"
        refused(tmp_path, "the table of true accuracies it began with", words, "--accept-data", **now)
    env = ENV | {"ground_truth_fingerprint": "new", "data_fingerprint": "xyz"}
    with RunDir.open(tmp_path, RECIPE, env=env, accept_data=True) as run:
        assert len(run.warnings) == 2
        found = run.read_json("env.json")
        assert (found["earlier_ground_truth_fingerprints"], found["earlier_data_fingerprints"]) == (["old"], ["abc"])
    with RunDir.open(tmp_path, RECIPE, env=env) as run:
        assert run.warnings == []


def test_earlier_fingerprints_that_are_no_list_are_refused(tmp_path: Path) -> None:
    opened(tmp_path, earlier_data_fingerprints=5).close()
    before = contents(tmp_path)
    with pytest.raises(RunError, match=r"earlier_data_fingerprints in .*env.json must be a list, but is 5; restore"):
        RunDir.open(tmp_path, RECIPE, env=ENV | {"data_fingerprint": "xyz"}, accept_data=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("part", "then", "now"), [("classes", 10, 7), ("class_names", ["cat", "dog"], ["dog", "zcat"])]
)
def test_data_that_the_networks_do_not_fit_is_never_accepted(tmp_path: Path, part: str, then: Any, now: Any) -> None:
    """Nor those of other names: what a trained network says would mean another class."""
    opened(tmp_path, **{part: then}).close()
    before = contents(tmp_path)
    with pytest.raises(
        RunError, match=f"{part} of .* was {re.escape(str(then))} and is {re.escape(str(now))}; restore"
    ):
        RunDir.open(tmp_path, RECIPE, env=ENV | {"data_fingerprint": "xyz", part: now}, accept_data=True)
    assert contents(tmp_path) == before


def test_what_is_done_about_faults_may_change_while_a_run_lasts(tmp_path: Path) -> None:
    opened(tmp_path, RECIPE + "on_nan: stop\n").close()
    with opened(tmp_path, RECIPE + "on_nan: skip\n") as run:
        assert run.recipe_yaml == RECIPE + "on_nan: skip\n"
    refused(tmp_path, "belongs to another recipe", "key extra", recipe=RECIPE + "extra: 1\non_nan: stop\n")


@pytest.mark.parametrize(("text", "fault"), [("{", "must be JSON"), ("[]", "must hold a JSON object")])
def test_a_damaged_environment_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    opened(tmp_path).close()
    (tmp_path / "env.json").write_text(text)
    refused(tmp_path, fault)


def test_another_machine_is_a_warning_and_the_first_environment_stays(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with opened(tmp_path, torch="2.15.0", threads=8) as run:
        assert len(run.warnings) == 1
        assert "torch was 2.13.0, is 2.15.0, threads was 2, is 8" in run.warnings[0]
        assert run.warnings[0] in (tmp_path / "log.txt").read_text()
        assert run.read_json("env.json") == ENV


@pytest.mark.parametrize(
    ("before", "now", "named"),
    [
        (None, {"/a/mine.py": "1"}, None),  # begun without
        ({"/a/mine.py": "1"}, {"/b/mine.py": "1"}, None),  # moved
        ({"/a/mine.py": "1"}, {"/a/mine.py": "1", "/a/other.py": "2"}, None),
        ({"/a/mine.py": "1", "/a/other.py": "2"}, {"/a/mine.py": "3", "/a/other.py": "2"}, "(/a/mine.py)"),
        ({"/a/mine.py": "1"}, {}, "(/a/mine.py)"),
    ],
)
def test_imported_files_are_those_that_a_run_began_with_wherever_they_are(before: Any, now: Any, named: Any) -> None:
    warnings = other_machine({"import_fingerprints": before}, {"import_fingerprints": now})
    assert len(warnings) == bool(named) and all(f"began with {named}" in text for text in warnings)


def test_existing_opens_without_a_recipe_and_suggests_the_nearest(tmp_path: Path) -> None:
    opened(tmp_path / "cifar-seed1").close()
    (tmp_path / "cifar-seed").mkdir()  # nearer by name, but no run
    with RunDir.existing(tmp_path / "cifar-seed1") as run:
        assert run.recipe_yaml == RECIPE
    for missing in ("cifar-seed", "cifar-sed1"):
        with pytest.raises(RunError, match=r"did you mean 'cifar-seed1'\?"):
            RunDir.existing(tmp_path / missing)
    with pytest.raises(RunError) as caught:
        RunDir.existing(tmp_path / "nowhere" / "zzz")
    assert "did you mean" not in str(caught.value)
    assert not (tmp_path / "nowhere").exists()


# --- who holds it

HOLDER = """
import os, sys, time
from topocell.runs.directory import RunDir

run = RunDir.existing(sys.argv[1])
grandchild = os.fork()  # as a data loader's worker: it outlives its parent and must not hold the lock
if grandchild:
    print(grandchild, flush=True)
time.sleep(60)
"""


def test_a_live_process_keeps_others_out_and_a_killed_one_does_not(tmp_path: Path) -> None:
    opened(tmp_path).close()
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    grandchild = int(process.stdout.readline())
    try:
        with pytest.raises(RunError) as caught:
            RunDir.existing(tmp_path)
        assert f"process {process.pid} on " in str(caught.value)
        refused(tmp_path, f"process {process.pid} on ")
        RunDir.existing(tmp_path, lock=False)  # readers pass
        process.kill()
        process.wait()
        os.kill(grandchild, 0)  # it is alive
        RunDir.existing(tmp_path).close()
    finally:
        process.kill()
        os.kill(grandchild, signal.SIGKILL)
        process.stdout.close()
        process.wait()


def test_the_lock_holds_within_a_process_until_closed_or_collected(tmp_path: Path) -> None:
    run = opened(tmp_path)
    refused(tmp_path, f"process {os.getpid()} on ")
    run.close()
    run.close()
    run = opened(tmp_path)
    del run
    opened(tmp_path).close()


def test_a_reader_changes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        run.save_checkpoint({"epoch": 1})
        run.append_metrics({"epoch": 2})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "tor')
    (tmp_path / ".results.json.77.tmp").touch()
    before = contents(tmp_path)
    reader = RunDir.existing(tmp_path, lock=False)
    assert reader.latest() == {"epoch": 1}
    assert reader.metrics() == [{"epoch": 2}]
    for refuse in (
        lambda: reader.save_checkpoint({}),
        lambda: reader.save_named("supernet", {}),
        lambda: reader.append_metrics({}),
        lambda: reader.forget(["search"]),
    ):
        with pytest.raises(RuntimeError, match="not locked"):
            refuse()
    assert contents(tmp_path) == before


# --- checkpoints


def test_the_newest_checkpoint_wins_and_only_the_last_are_kept(run: RunDir) -> None:
    for epoch in range(5):
        run.save_checkpoint({"epoch": epoch, "weights": torch.full((3,), float(epoch))})
    assert sorted(os.listdir(run.path / "checkpoints")) == ["000004.ckpt", "000005.ckpt"]
    run.save_checkpoint({"epoch": 5}, keep=3)
    assert len(os.listdir(run.path / "checkpoints")) == 3
    assert run.latest() == {"epoch": 5}


def test_numbers_beyond_six_digits_stay_in_order(run: RunDir) -> None:
    checkpoint.save(run.path / "checkpoints" / "999999.ckpt", {"metrics_bytes": 0, "state": {"epoch": 1}})
    run.save_checkpoint({"epoch": 2})
    assert (run.path / "checkpoints" / "1000000.ckpt").exists()
    assert run.latest() == {"epoch": 2}


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-20] ^= 4
    path.write_bytes(data)


def test_damaged_newer_checkpoints_are_passed_over_with_a_warning(run: RunDir) -> None:
    for epoch in range(3):
        run.append_metrics({"epoch": epoch})
        run.save_checkpoint({"epoch": epoch}, keep=3)
    folder = run.path / "checkpoints"
    damage(folder / "000003.ckpt")
    checkpoint.save(folder / "000004.ckpt", {"foreign": 1})
    assert run.latest() == {"epoch": 1}
    assert run.metrics() == [{"epoch": 0}, {"epoch": 1}]
    assert len(run.warnings) == 2
    assert all("000002.ckpt" in warning for warning in run.warnings)
    log = (run.path / "log.txt").read_text()
    assert "000003.ckpt is damaged" in log
    assert "000004.ckpt holds something else" in log
    run.save_checkpoint({"epoch": 2})  # what is damaged does not count among those kept
    assert sorted(os.listdir(folder)) == ["000002.ckpt", "000005.ckpt"]


def test_when_all_are_damaged_the_run_stops_and_metrics_stay(run: RunDir) -> None:
    run.append_metrics({"epoch": 0})
    run.save_checkpoint({"epoch": 0})
    run.save_checkpoint({"epoch": 1})
    for path in (run.path / "checkpoints").iterdir():
        damage(path)
    with pytest.raises(CheckpointError) as caught:
        run.latest()
    assert "all 2 in" in str(caught.value)
    assert "delete its directory" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert run.metrics() == [{"epoch": 0}]


@pytest.mark.parametrize(
    "envelope",
    [
        {"metrics_bytes": "x", "state": {}},
        {"metrics_bytes": -1, "state": {}},
        {"metrics_bytes": 0, "state": [1]},
        {"metrics_bytes": 0, "state": {}, "recipe": 5},
        {"metrics_bytes": 0, "state": {}, "more": 1},
    ],
)
def test_a_checkpoint_of_something_else_is_passed_over(run: RunDir, envelope: dict) -> None:
    run.save_checkpoint({"epoch": 0})
    checkpoint.save(run.path / "checkpoints" / "000002.ckpt", envelope)
    assert run.latest() == {"epoch": 0}
    assert "000002.ckpt holds something else" in run.warnings[0]


def test_checkpoints_of_another_recipe_are_refused(run: RunDir, tmp_path: Path) -> None:
    run.save_checkpoint({"epoch": 0})
    run.append_metrics({"epoch": 1})
    with opened(tmp_path / "other", RECIPE.replace("seed: 0", "seed: 1")) as other:
        other.save_checkpoint({"epoch": 8})
        other.save_checkpoint({"epoch": 9})
        other.save_named("supernet", {"net": 1})
        for name in ("000002", "supernet"):
            shutil.copy(other.path / f"checkpoints/{name}.ckpt", run.path / "checkpoints")
    before = contents(run.path)
    with pytest.raises(CheckpointError, match=r"000002\.ckpt must be of the recipe in .*; restore both"):
        run.latest()
    with pytest.raises(CheckpointError, match=r"supernet\.ckpt must be of the recipe in "):
        run.load_named("supernet")
    assert contents(run.path) == before


def test_checkpoints_outlast_what_may_change_in_a_recipe_and_tell_which_it_was(tmp_path: Path) -> None:
    with opened(tmp_path, RECIPE + "on_nan: stop\n") as run:
        run.save_checkpoint({"epoch": 0})
        run.save_named("supernet", {"net": 1})
    (tmp_path / "recipe.yaml").write_text("on_nan: skip\nseed: 0\n" + RECIPE.replace("seed: 0\n", ""))
    with RunDir.existing(tmp_path) as run:
        assert run.latest() == {"epoch": 0} and run.load_named("supernet") == {"net": 1}
        checkpoint.save(tmp_path / "checkpoints/000002.ckpt", {"metrics_bytes": 0, "state": {"epoch": 1}})
        checkpoint.save(tmp_path / "checkpoints/supernet.ckpt", {"net": 2})
        for use in (run.latest, lambda: run.load_named("supernet")):
            with pytest.raises(CheckpointError, match="must be of the recipe in"):
                use()


def test_named_checkpoints_stay_beside_the_numbered(run: RunDir) -> None:
    assert not run.has_named("supernet")
    with pytest.raises(CheckpointError, match="no checkpoint 'supernet' yet"):
        run.load_named("supernet")
    run.save_named("supernet", {"weights": torch.ones(2)})
    for epoch in range(4):
        run.save_checkpoint({"epoch": epoch})
    assert run.has_named("supernet")
    assert torch.equal(run.load_named("supernet")["weights"], torch.ones(2))
    run.save_named("supernet", {"weights": None})
    assert run.load_named("supernet") == {"weights": None}
    damage(run.path / "checkpoints" / "supernet.ckpt")
    with pytest.raises(CheckpointError, match=r"supernet\.ckpt is damaged"):
        run.load_named("supernet")
    assert run.latest() == {"epoch": 3}


@pytest.mark.parametrize("name", ["000001", "../recipe", "", "a/b", ".lock"])
def test_names_of_checkpoints_are_words(run: RunDir, name: str) -> None:
    with pytest.raises(CheckpointError, match="must be a word"):
        run.save_named(name, {})


def test_a_full_disk_while_saving_keeps_the_earlier_checkpoints(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    run.save_checkpoint({"epoch": 0})
    run.save_checkpoint({"epoch": 1})
    fill_the_disk(monkeypatch)
    with pytest.raises(CheckpointError, match="full"):
        run.save_checkpoint({"epoch": 2})
    monkeypatch.undo()
    assert sorted(os.listdir(run.path / "checkpoints")) == ["000001.ckpt", "000002.ckpt"]
    assert run.latest() == {"epoch": 1}
    run.save_checkpoint({"epoch": 2})
    assert run.latest() == {"epoch": 2}


def fill_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on every write stores seven bytes and the next one none."""
    real, seen = os.write, set()

    def write(descriptor: int, data: bytes) -> int:
        if descriptor in seen:
            seen.remove(descriptor)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        seen.add(descriptor)
        return real(descriptor, data[:7])

    monkeypatch.setattr(os, "write", write)


FORK = multiprocessing.get_context("fork")


def steps(path: Path, count: int) -> None:
    """A run that resumes, then `count` times logs metrics and saves, with a named checkpoint and a result."""
    with opened(path) as run:
        step = (run.latest() or {"step": 0})["step"]
        for now in range(step + 1, step + 1 + count):
            run.append_metrics({"step": now})
            run.save_checkpoint({"step": now, "weights": torch.full((3000,), float(now))}, keep=1)
            run.save_named("supernet", {"step": now})
            run.write_json("results.json", {"step": now})


def newest(path: Path) -> str:
    return max(found.name for found in (path / "checkpoints").glob("[0-9]*.ckpt"))


def check_after_kill(path: Path) -> int:
    """The step that a resumed run resumes from; everything else in the directory must fit to it."""
    with opened(path) as run:
        state = run.latest()
        assert run.warnings == []
        assert not [found for found in path.rglob("*") if files.is_temporary(found)]
        if state is None:
            assert run.metrics() == []
            return 0
        step = state["step"]
        assert torch.equal(state["weights"], torch.full((3000,), float(step)))
        assert [record["step"] for record in run.metrics()] == list(range(1, step + 1))
        assert not run.has_named("supernet") or run.load_named("supernet")["step"] <= step
        assert not run.has("results.json") or run.read_json("results.json")["step"] <= step
        return step


def test_kills_at_random_times_never_cost_a_checkpoint(tmp_path: Path) -> None:
    steps(tmp_path, 1)
    reached, chance = 1, random.Random(0)
    for _ in range(8):
        before = newest(tmp_path)
        process = FORK.Process(target=steps, args=(tmp_path, 1_000_000))
        process.start()
        while process.is_alive() and newest(tmp_path) == before:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.02))
        process.kill()
        process.join()
        now = check_after_kill(tmp_path)
        assert now > reached
        reached = now


def steps_with_a_kill(path: Path, allowed: int) -> None:
    """`steps`, killed at the call that follows `allowed` calls into the file system."""
    calls = itertools.count()

    def watched(real: Callable) -> Callable:
        def call(*arguments: object, **named: object) -> object:
            if next(calls) == allowed:
                if real is real_write:  # a part of the bytes arrives
                    real(arguments[0], arguments[1][: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **named)

        return call

    real_write = os.write
    for name in ("mkdir", "open", "write", "fsync", "ftruncate", "replace", "unlink"):
        setattr(os, name, watched(getattr(os, name)))
    steps(path, 2)
    os._exit(0)


def test_a_kill_at_every_call_into_the_file_system_is_survived(tmp_path: Path) -> None:
    reached = []
    for allowed in range(1000):
        path = tmp_path / str(allowed)
        process = FORK.Process(target=steps_with_a_kill, args=(path, allowed))
        process.start()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        reached.append(check_after_kill(path))
        steps(path, 1)  # and the run goes on
    assert len(reached) > 60
    assert reached == sorted(reached)
    assert set(reached) == {0, 1, 2}


# --- metrics


def test_metrics_after_a_resume_equal_those_of_an_unbroken_run(tmp_path: Path) -> None:
    with opened(tmp_path / "unbroken") as run:
        for epoch in range(4):
            run.append_metrics({"epoch": epoch, "loss": epoch / 7})
            run.save_checkpoint({"epoch": epoch})
        whole = (run.path / "metrics.jsonl").read_bytes()
    with opened(tmp_path / "broken") as run:
        for epoch in range(3):
            run.append_metrics({"epoch": epoch, "loss": epoch / 7})
            if epoch < 2:
                run.save_checkpoint({"epoch": epoch})
    with (tmp_path / "broken" / "metrics.jsonl").open("ab") as file:
        file.write(b'{"epoch": 3, "lo')
    with opened(tmp_path / "broken") as run:
        state = run.latest()
        assert state == {"epoch": 1}
        for epoch in range(2, 4):
            run.append_metrics({"epoch": epoch, "loss": epoch / 7})
            run.save_checkpoint({"epoch": epoch})
        assert (run.path / "metrics.jsonl").read_bytes() == whole


def test_metrics_without_any_checkpoint_start_anew(run: RunDir) -> None:
    run.append_metrics({"epoch": 0})
    assert run.latest() is None
    assert run.metrics() == []


@pytest.mark.parametrize("name", ["genotype.json", "results.json", "checkpoints/supernet.ckpt"])
def test_a_run_whose_checkpoints_are_gone_is_refused_and_stays_as_it_is(run: RunDir, name: str) -> None:
    run.append_metrics({"epoch": 0})
    (run.path / name).write_text("{}")
    before = contents(run.path)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=rf"checkpoints has none, and .*{name} says .*; restore them from a"):
            run.latest()
    assert contents(run.path) == before


def test_metrics_that_lost_lines_are_a_warning_and_are_not_padded(run: RunDir) -> None:
    run.append_metrics({"epoch": 0})
    run.append_metrics({"epoch": 1})
    run.save_checkpoint({"epoch": 1})
    (run.path / "metrics.jsonl").write_text('{"epoch": 0}\n')
    assert run.latest() == {"epoch": 1}
    assert run.metrics() == [{"epoch": 0}]
    assert "lost records" in run.warnings[0]


def test_a_torn_last_line_is_ignored_and_never_joined_to_the_next(tmp_path: Path) -> None:
    whole = '{"epoch": 0}\n{"epoch": 1, "loss": 0.5}\n'
    first = whole.index("\n") + 1
    opened(tmp_path).close()
    for length in range(first, len(whole)):
        (tmp_path / "metrics.jsonl").write_text(whole[:length])
        assert RunDir.existing(tmp_path, lock=False).metrics() == [{"epoch": 0}]
        with RunDir.existing(tmp_path) as run:
            run.append_metrics({"epoch": 9})
            assert run.metrics() == [{"epoch": 0}, {"epoch": 9}]
    (tmp_path / "metrics.jsonl").write_bytes(b'{"epoch": 0}\n\0\0\0\0\n')
    assert RunDir.existing(tmp_path, lock=False).metrics() == [{"epoch": 0}]


def test_a_damaged_line_in_the_middle_is_named(run: RunDir) -> None:
    (run.path / "metrics.jsonl").write_text('{"a": 1}\nnonsense\n{"a": 2}\n')
    with pytest.raises(RunError, match="line 2 is not"):
        run.metrics()


def test_a_full_disk_leaves_no_part_of_a_line(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    run.append_metrics({"epoch": 0})
    before = contents(run.path)
    fill_the_disk(monkeypatch)
    for write in (
        lambda: run.append_metrics({"epoch": 1}),
        lambda: run.log("a message"),
        lambda: run.write_json("env.json", {"new": 1}),
        lambda: run.write_tensors("weights.safetensors", {"a": torch.ones(3)}),
    ):
        with pytest.raises(RunError, match="full"):
            write()
    monkeypatch.undo()
    (run.path / "log.txt").unlink()
    assert contents(run.path) == before


def test_numbers_that_json_lacks_become_null(run: RunDir) -> None:
    record = {"loss": math.nan, "gap": {"soft": math.inf, "derived": 0.5}, "rows": [(1, -math.inf)]}
    run.append_metrics(record)
    run.write_json("results.json", record)
    plain = {"loss": None, "gap": {"soft": None, "derived": 0.5}, "rows": [[1, None]]}
    assert run.metrics() == [plain]
    assert run.read_json("results.json") == plain


# --- other files


def test_a_json_file_is_replaced_at_once(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    run.write_json("results.json", {"n": 1})
    seen = []
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        seen.append((json.loads(Path(source).read_text()), json.loads(Path(target).read_text())))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    run.write_json("results.json", {"n": 2})
    assert seen == [({"n": 2}, {"n": 1})]
    assert run.read_json("results.json") == {"n": 2}


def test_reading_what_is_missing_or_damaged(run: RunDir) -> None:
    assert not run.has("results.json")
    with pytest.raises(RunError, match=r"has no results\.json yet"):
        run.read_json("results.json")
    run.write_text("results.json", "{")
    with pytest.raises(RunError, match="must be JSON"):
        run.read_json("results.json")


@pytest.mark.parametrize("name", ["", ".", "..", "../up.json", "a/b.json", "a\\b", "/etc/x", ".lock", "a\0b", "a\n"])
def test_names_stay_inside_the_directory(run: RunDir, name: str) -> None:
    for use in (
        lambda: run.write_text(name, "x"),
        lambda: run.write_json(name, 1),
        lambda: run.write_tensors(name, {}),
        lambda: run.read_json(name),
    ):
        with pytest.raises(RunError, match="has a name of up to 60 letters"):
            use()


def test_a_link_is_replaced_and_not_followed(run: RunDir, tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    (run.path / "genotype.json").symlink_to(outside)
    run.write_json("genotype.json", {"format": 1})
    assert outside.read_text() == "mine"
    assert json.loads(run.genotype_path.read_text()) == {"format": 1}


def test_tensors_are_stored_as_safetensors(run: RunDir) -> None:
    weight = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last).requires_grad_()
    run.write_tensors("weights.safetensors", {"weight": weight, "again": weight, "part": weight[:, 1]})
    loaded = safetensors.torch.load_file(run.weights_path)
    assert torch.equal(loaded["weight"], weight)
    assert torch.equal(loaded["again"], weight)
    assert torch.equal(loaded["part"], weight[:, 1])


def test_phases_and_files_are_forgotten_for_good(run: RunDir) -> None:
    for phase in ("search", "tune", "retrain", "search"):
        run.append_metrics({"phase": phase})
    run.write_json("results.json", {})
    run.forget(["tune", "retrain"], "report.html", "results.json")
    assert run.metrics() == [{"phase": "search"}] * 2
    assert not run.has("results.json")


def test_a_log_entry_is_one_line_with_the_time(run: RunDir) -> None:
    run.log("two\nlines, and a lone surrogate \ud800")
    run.log("next")
    first, second = (run.path / "log.txt").read_text().splitlines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ two lines, and a lone surrogate \\ud800", first)
    assert second.endswith("Z next")


def test_places_of_files(run: RunDir) -> None:
    assert run.report_path == run.path / "report.html"


def test_the_environment_can_be_stored_and_says_where_it_ran(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["topocell", "run", "quickstart"])
    found = environment("cpu", "fingerprint", {"search": 0})
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["command"] == ["topocell", "run", "quickstart"]
    assert (found["data_fingerprint"], found["seeds"], found["device"]) == (
        "fingerprint",
        {"search": 0},
        "cpu",
    )
    assert found["git_commit"] is None
    run.write_json("env.json", found)
    assert run.read_json("env.json") == found
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@y"]
    subprocess.run(["git", "init", "-q", "."], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    assert re.fullmatch("[0-9a-f]{40}", environment("cpu", "", {})["git_commit"])


LEFT = (".DS_Store", "Thumbs.db", "desktop.ini", "lost+found", "System Volume Information", "@eaDir", "._x")


@pytest.mark.parametrize("kind", ["run", "study", "export"])
def test_a_folder_with_what_systems_leave_there_is_empty(kind: str, tmp_path: Path) -> None:
    """Of a new volume, of one that a file manager has shown."""
    for name in LEFT:
        (tmp_path / name).mkdir() if "." not in name else (tmp_path / name).write_bytes(b"x")
    if kind == "run":
        RunDir.open(tmp_path, "name: x\n", env={}).close()
    elif kind == "study":
        with Bench("depth", "a study", {}, tmp_path, Quiet()) as bench:
            bench.begin(1, {}, {})
    else:
        facts.refuse_foreign(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= set(LEFT)
    (tmp_path / "other").mkdir()
    with pytest.raises(RunError, match="holds 'mine'"):
        (tmp_path / "other" / "mine").write_bytes(b"x")
        RunDir.open(tmp_path / "other", "name: x\n", env={})

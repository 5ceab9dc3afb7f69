"""Run directories in which files are missing, garbled, or something else than files."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from tests.fuzz.bad import NASTY, contents, garbled, mutated, suite

from topocell import api, files
from topocell.cli import main
from topocell.errors import RunError, TopocellError
from topocell.genotype import Genotype
from topocell.reading import load_recipe
from topocell.report.compare import comparison
from topocell.report.draw import draw_genotype
from topocell.rundir import RunDir
from topocell.search.loop import Search
from topocell.train import Retraining

SIZES = ["space.nodes=1", "data.images=40", "data.test_images=20", "search.layers=2", "retrain.layers=2"]
NAMES = (
    *("recipe.yaml", "env.json", "metrics.jsonl", "genotype.json", "results.json", "timings.json", "log.txt", ".lock"),
    *("checkpoints", "checkpoints/supernet.ckpt", "checkpoints/000001.ckpt", "weights.safetensors", "figures"),
)
JSON = ("env.json", "genotype.json", "results.json", "timings.json")


class Trains(Exception):
    """What is left of the run was taken, and would now be computed."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: Any) -> Path:
    """A finished run."""
    path: Path = tmp_path_factory.mktemp("sound") / "run"
    assert main(["run", "random", "--budget", "smoke", "--quiet", "--out", str(path), *SIZES]) == 0
    return path


STEPS: dict[str, Callable[[Path], object]] = {
    "run": lambda path: api.run(load_recipe("random", SIZES, "smoke"), path),
    "select": api.select,
    "select beside": lambda path: api.select(path, name="mine", operations="random"),
    "retrain": api.retrain,
    "report": api.report,
    "compare": comparison,
    "draw": lambda path: draw_genotype(Genotype.load(path / "genotype.json").to_dict(), path / "cell.svg"),
}


def spoil(place: Path, kind: str, data: bytes) -> None:
    """Put something else in the place of a file."""
    whole = place.read_bytes() if place.is_file() else b"x" * 100
    if place.is_dir() and kind != "folder":
        shutil.rmtree(place)
    elif place.exists() and kind != "cut":
        place.unlink() if place.is_file() else None
    if kind == "folder":
        place.mkdir(exist_ok=True)
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind == "link":
        place.symlink_to("../victim")
    elif kind in ("data", "cut"):
        place.write_bytes(data if kind == "data" else whole[: len(whole) // 2])


@st.composite
def spoilt(draw: st.DrawFn, sound: Path) -> list[tuple[str, str, bytes]]:
    """Which files to spoil, how, and what to write."""
    found = []
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True)):
        kind = draw(st.sampled_from(("data", "data", "data", "data", "gone", "cut", "folder", "pipe", "link")))
        data = draw(st.one_of(st.binary(max_size=30), st.sampled_from(NASTY).map(lambda t: t.encode(errors="replace"))))
        if kind == "data" and (sound / name).is_file() and draw(st.integers(0, 3)):
            before = (sound / name).read_bytes()
            structured = name in JSON and draw(st.booleans())
            data = (
                files.to_json(draw(mutated(files.from_json(before)))).encode() if structured else draw(garbled(before))
            )
        found.append((name, kind, data))
    return sorted(found)


def test_spoilt_runs(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trains(*_: object, **__: object) -> None:
        raise Trains

    for kind in (Search, Retraining):
        monkeypatch.setattr(kind, "run", trains)
    path, victim = tmp_path / "run", tmp_path / "victim"

    def attempt(drawn: tuple[str, list[tuple[str, str, bytes]]]) -> bool:
        step, faults = drawn
        shutil.rmtree(path, ignore_errors=True)
        victim.unlink(missing_ok=True)
        victim.write_text("precious")
        shutil.copytree(sound, path)
        for name, kind, data in faults:
            if (path / name).parent.is_dir():
                spoil(path / name, kind, data)
        kept = {"recipe.yaml", "env.json", "genotype.json", "results.json", "weights.safetensors"}
        before = {name: data for name, data in contents(path).items() if name in kept and data is not None}
        try:
            STEPS[step](path)
        except Trains:
            return False
        except TopocellError:
            after = contents(path)
            assert {name: after.get(name) for name in before} == before, "what was there is gone"
            raise
        finally:
            assert contents(tmp_path).get("victim") == b"precious", "something outside was written"
            assert set(os.listdir(tmp_path)) == {"run", "victim"}
            assert not [name for name in contents(path) if name.endswith(".tmp")], "a part of a file was left"
        return False

    suite("run directories", 0.12, st.tuples(st.sampled_from(sorted(STEPS)), spoilt(sound)), attempt)


@pytest.mark.parametrize(
    "name", [".lock", "metrics.jsonl", "log.txt", "checkpoints", "figures", "report.html", "selections"]
)
@pytest.mark.parametrize("step", ["run", "retrain", "report"])
def test_links_in_a_run_directory_are_not_followed(name: str, step: str, sound: Path, tmp_path: Path) -> None:
    path, outside = tmp_path / "run", tmp_path / "outside"
    shutil.copytree(sound, path)
    outside.mkdir()
    (outside / "search.svg").write_text("precious")
    place = path / name
    shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    place.symlink_to(outside if name in ("checkpoints", "figures", "selections") else outside / "search.svg")
    with pytest.raises(RunError, match=f"{name} is a link; put"):
        STEPS[step](path)
    assert contents(outside) == {"search.svg": b"precious"}


def test_the_run_directory_itself_may_be_a_link(sound: Path, tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to(sound)
    assert api.report(tmp_path / "run").is_file()


@pytest.mark.parametrize("name", ["..", "../up", "a/b", "/tmp/x", "", ".", ".x", "a\0", "a\n", "x" * 300, "-x"])
def test_a_selection_stands_inside_its_run(name: str, sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path / "run")
    with RunDir.existing(tmp_path / "run") as directory:
        if name:
            with pytest.raises(RunError, match="choose another"):
                directory.beside(name)
        for use in (directory.has, directory.read_json, lambda n: directory.write_text(n, "x")):
            with pytest.raises(RunError, match="choose another"):
                use(name)
    assert sorted(os.listdir(tmp_path)) == ["run"]


def test_a_phase_that_is_none_is_refused(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path / "run")
    with RunDir.existing(tmp_path / "run") as directory:
        directory.save_checkpoint({"phase": "elsewhere", "state": None})
    with pytest.raises(TopocellError, match="names its phase"):
        api.retrain(tmp_path / "run")

"""Run directories in which files are missing, garbled, or something else than files, and states are of other things."""

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import strategies as st
from rich.console import Console
from tests.fuzz.bad import NASTY, changed, contents, garbled, in_time, mutated, scalars, suite

from topocell import api, cli
from topocell.cli import main
from topocell.config.load import load_recipe
from topocell.errors import RunError, TopocellError
from topocell.io import checkpoint, files
from topocell.networks.retraining import Retraining
from topocell.reporting.terminal import Quiet, Terminal
from topocell.runs.directory import RunDir
from topocell.searching.loop import Search
from topocell.selection.projection import Projection

SIZES = ["space.nodes=1", "data.images=40", "data.test_images=20", "search.layers=3", "retrain.layers=3"]
#: What is spoilt; a pattern stands for all that it matches.
NAMES = (
    *("recipe.yaml", "env.json", "metrics.jsonl", "genotype.json", "results.json", "timings.json", "log.txt", ".lock"),
    *("checkpoints", "checkpoints/supernet.ckpt", "checkpoints/000001.ckpt", "weights.safetensors"),
    *("preprocessing.json", "checkpoints/[0-9]*.ckpt", "selections", "selections/x", "shallow", "shallow/recipe.yaml"),
    *(f"selections/x/{name}" for name in ("recipe.yaml", "genotype.json", "results.json", "metrics.jsonl")),
    *("selections/x/checkpoints/supernet.ckpt", "shallow/genotype.json", "shallow/results.json"),
)
JSON = ("env.json", "genotype.json", "results.json", "timings.json")
#: What is never lost where a run is refused.
KEPT = ("recipe.yaml", "env.json", "genotype.json", "results.json", "weights.safetensors", "metrics.jsonl")


class Trains(BaseException):
    """What is left of the run was taken, and would now be computed. No `Exception`: nothing takes it for a fault."""


@pytest.fixture
def nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows once a state is loaded raises `Trains`, at a place that there is."""

    def trains(training: Search | Projection | Retraining) -> None:
        where = {name: getattr(training, name, 0) for name in ("round", "turn", "number")}
        where |= {name: getattr(training.loop, name) for name in ("epoch", "step")}
        assert all(type(at) is int and at >= 0 for at in where.values()), where
        raise Trains

    for kind, names in (
        (Search, ["begin_epoch"]),
        (Projection, ["_take_turn", "begin_epoch"]),
        (Retraining, ["begin_epoch"]),
    ):
        for name in names:
            monkeypatch.setattr(kind, name, trains)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: Any) -> Path:
    """A finished run with a selection and a shallow evaluation beside it."""
    path: Path = tmp_path_factory.mktemp("sound") / "run"
    assert main(["run", "random", "--budget", "smoke", "--quiet", "--out", str(path), *SIZES]) == 0
    assert main(["select", str(path), "--as", "x", "--ops", "random", "--quiet"]) == 0
    assert main(["retrain", str(path / "selections/x"), "--quiet"]) == 0
    assert main(["retrain", str(path), "--protocol", "shallow", "--quiet"]) == 0
    return path


def screen() -> Terminal:
    """A display that shows everything, to nobody."""
    return Terminal(Console(file=io.StringIO(), width=200))


STEPS: dict[str, Callable[[Path], object]] = {
    "run": lambda path: api.run(load_recipe("random", SIZES, "smoke"), path, screen()),
    "select": lambda path: api.select(path, screen()),
    "select beside": lambda path: api.select(path, screen(), name="mine", operations="random"),
    "select x": lambda path: api.select(path, screen(), name="x", operations="random"),
    "retrain": lambda path: screen().results(api.retrain(path, screen())),
    "retrain x": lambda path: screen().results(api.retrain(path / "selections/x", screen())),
    "retrain, shallow": lambda path: screen().results(api.retrain(path, screen(), "shallow")),
    "report": api.report,
    "compare": lambda path: cli.compare([str(path)]),
    "draw": lambda path: cli.draw([str(path)], path / "cell.svg"),
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
            structured = name.rpartition("/")[2] in JSON and draw(st.booleans())
            data = (
                files.to_json(draw(mutated(files.from_json(before)))).encode() if structured else draw(garbled(before))
            )
        found.append((name, kind, data))
    return sorted(found)


def whole_lines(data: bytes) -> bytes:
    """Lines of JSON without a last one that is torn, which whoever opens a run may cut off."""
    lines = data.splitlines(keepends=True)
    return b"".join(lines[:-1] if lines and not (lines[-1].endswith(b"\n") and files.is_json(lines[-1])) else lines)


def taken(path: Path, step: Callable[[Path], object], spoilt: tuple[str, ...] = ()) -> None:
    """Take a step on a run directory.

    Raises TopocellError where it was refused; what lasts of the run is as it was then, but for records at the end of
    a metrics.jsonl that was itself spoilt.
    """
    kept = [name for name in KEPT if (path / name).is_file() and not (path / name).is_symlink()]
    before = {name: (path / name).read_bytes() for name in kept}
    try:
        step(path)
    except Trains:
        return
    except TopocellError:
        after = {name: (path / name).read_bytes() if (path / name).is_file() else None for name in kept}
        if "metrics.jsonl" in spoilt:
            found = after.pop("metrics.jsonl", None)
            was = before.pop("metrics.jsonl", None)
            assert was is None or (found is not None and was.startswith(found)), "metrics were changed"
        assert after == before, "what was there is gone"
        raise


def test_spoilt_runs(sound: Path, tmp_path: Path, nothing_is_trained: None) -> None:
    path, victim = tmp_path / "run", tmp_path / "victim"

    def attempt(drawn: tuple[str, list[tuple[str, str, bytes]]]) -> bool:
        step, faults = drawn
        shutil.rmtree(path, ignore_errors=True)
        victim.unlink(missing_ok=True)
        victim.write_text("precious")
        shutil.copytree(sound, path)
        for name, kind, data in faults:
            for place in sorted(path.glob(name)) or [path / name] * ("[" not in name):
                if place.parent.is_dir():
                    spoil(place, kind, data)
        try:
            taken(path, STEPS[step], tuple(name for name, _, _ in faults))
        finally:
            assert contents(tmp_path).get("victim") == b"precious", "something outside was written"
            assert set(os.listdir(tmp_path)) == {"run", "victim"}
            assert not [name for name in contents(path) if name.endswith(".tmp")], "a part of a file was left"
        return False

    suite("run directories", 0.12, st.tuples(st.sampled_from(sorted(STEPS)), spoilt(sound)), attempt)


INSIDE = ("results.json", "shallow/results.json", "selections/x/genotype.json", "selections/x/recipe.yaml")


@pytest.mark.parametrize(
    ("step", "name"),
    [*(("compare", name) for name in INSIDE), *(("report", name) for name in INSIDE[:2]), ("draw", "results.json")],
)
@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_what_a_reader_might_wait_for_is_refused(kind: str, step: str, name: str, sound: Path, tmp_path: Path) -> None:
    """A pipe has no end until somebody writes, and a link may lead to /dev/zero, which has none at all."""
    path = tmp_path / "run"
    shutil.copytree(sound, path)
    (path / name).rename(tmp_path / "elsewhere")
    os.mkfifo(path / name) if kind == "pipe" else (path / name).symlink_to(tmp_path / "elsewhere")
    words = f"{name} is {'neither' if kind == 'pipe' else 'a link'}; put"
    with in_time(20), pytest.raises(RunError, match=words):
        STEPS[step](path)


# --- states


class Hostile(NamedTuple):
    """A saved state that is none of the run's; `words` says what of it."""

    words: str
    state: Any

    def __repr__(self) -> str:
        return self.words


class Until(Quiet):
    """Ends a run at step `count` of a phase."""

    def __init__(self, phase: str, count: int) -> None:
        self.phase, self.count = phase, count

    def step(self, phase: str, *_: object) -> None:
        self.count -= phase.startswith(self.phase)
        if self.count == 0:
            raise Trains


#: Where a run stands → its recipe, and the phase at whose step of that number it was stopped.
BEGUN = {
    "search": ("dots", "search 3/3", 2),
    "decisions": ("sgas-2", "search", 4),
    "deciding": ("darts-pt", "select, deciding", 3),
    "tuning": ("darts-pt", "select, tuning", 2),
    "retraining": ("dots", "retrain", 2),
}


def begun_recipe(name: str) -> Any:
    return load_recipe(BEGUN[name][0], [*SIZES, "data.images=64"], "smoke")


@pytest.fixture(scope="module")
def begun(tmp_path_factory: Any) -> dict[str, Path]:
    """Runs that were stopped in mid-epoch, each with its states."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOPOCELL_CHECKPOINT_SECONDS", "0")
        for name, (_, phase, count) in BEGUN.items():
            found[name] = tmp_path_factory.mktemp(name) / "run"
            with pytest.raises(Trains):
                api.run(begun_recipe(name), found[name], Until(phase, count))
    return found


def newest(path: Path) -> Path:
    return max(path.glob("checkpoints/[0-9]*.ckpt"))


TENSORS = (
    *(torch.zeros(()), torch.zeros(3), torch.ones(2, 3, 4, 5), torch.zeros(0), torch.tensor(float("nan"))),
    *(torch.ones(2, 2, dtype=torch.long), torch.tensor([True]), torch.zeros(1, dtype=torch.complex64)),
    torch.tensor(-7),
)
things = st.one_of(st.sampled_from(TENSORS), scalars, st.sampled_from(({}, [], (), {"a": []}, [{}], {0: None})))


@st.composite
def hostile(draw: st.DrawFn, sound: Any, others: list[Any]) -> Hostile:
    """A state with a place changed, or with that of another run in it; each level of it is as likely as the next."""
    path: tuple[Any, ...] = ()
    inside, choices = sound, others
    while isinstance(inside, dict | list) and inside and (not path or draw(st.integers(0, 3))):
        key = draw(st.sampled_from(sorted(inside, key=str) if isinstance(inside, dict) else range(len(inside))))
        path, inside = (*path, key), inside[key]
        choices = [other[key] for other in choices if isinstance(other, dict) and key in other]
    new = st.one_of(things, st.sampled_from(choices)) if choices else things
    return Hostile(".".join(map(str, path)), changed(sound, path, draw, new))


def test_hostile_states(begun: dict[str, Path], tmp_path: Path, nothing_is_trained: None) -> None:
    """With a right checksum around them, whatever they hold: taken, or refused in one line with nothing changed."""
    path = tmp_path / "run"
    states = {name: checkpoint.load(newest(run)) for name, run in begun.items()}
    supernets = {name: run / "checkpoints/supernet.ckpt" for name, run in begun.items()}
    named = {name: checkpoint.load(file) for name, file in supernets.items() if file.exists()}

    def attempt(drawn: tuple[str, bool, bool, Hostile]) -> bool:
        name, of_supernet, alone, found = drawn
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(begun[name], path)
        place = path / "checkpoints/supernet.ckpt" if of_supernet else newest(path)
        if alone and not of_supernet:
            for other in path.glob("checkpoints/[0-9]*.ckpt"):
                other.unlink()
        assert isinstance(found.state, dict)
        checkpoint.save(place, found.state)
        taken(path, lambda path: api.run(begun_recipe(name), path))
        return False

    def draws(name: str, of_supernet: bool) -> st.SearchStrategy[Any]:
        whole = named if of_supernet else states
        other = [state for another, state in whole.items() if another != name]
        found = hostile(whole[name], other).filter(lambda found: isinstance(found.state, dict))
        return st.tuples(st.just(name), st.just(of_supernet), st.booleans(), found)

    kinds = [draws(name, False) for name in states] + [draws(name, True) for name in ("deciding", "tuning")]
    suite("hostile states", 0.1, st.one_of(kinds), attempt)


# --- links


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl", "log.txt", "checkpoints", "report.html", "selections"])
@pytest.mark.parametrize("step", ["run", "retrain", "report"])
def test_links_in_a_run_directory_are_not_followed(name: str, step: str, sound: Path, tmp_path: Path) -> None:
    path, outside = tmp_path / "run", tmp_path / "outside"
    shutil.copytree(sound, path)
    outside.mkdir()
    (outside / "search.svg").write_text("precious")
    place = path / name
    shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
    place.symlink_to(outside if name in ("checkpoints", "selections") else outside / "search.svg")
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
                directory.selection_path(name)
        for use in (directory.has, directory.read_json, lambda n: directory.write_text(n, "x")):
            with pytest.raises(RunError, match="choose another"):
                use(name)
    assert sorted(os.listdir(tmp_path)) == ["run"]


def test_a_phase_that_is_none_is_refused(sound: Path, tmp_path: Path) -> None:
    shutil.copytree(sound, tmp_path / "run")
    with RunDir.existing(tmp_path / "run") as directory:
        directory.save_checkpoint({"phase": "elsewhere", "state": None, "seconds": {}})
    with pytest.raises(TopocellError, match="names its phase"):
        api.retrain(tmp_path / "run")

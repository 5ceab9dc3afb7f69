"""The cost of a run is said before it is spent: when, in which words, and that nothing is written without consent."""

import io
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from rich.console import Console

from topocell import api, registry
from topocell.cli import main
from topocell.config.load import load_recipe
from topocell.errors import RecipeError
from topocell.reporting.terminal import Terminal
from topocell.runs import consent
from topocell.runs.consent import Asking, announce
from topocell.runs.estimate import Estimate, Part, quick, quick_estimate
from topocell.runs.setup import prepared

SIZES = ["data.images=40", "data.test_images=20", "retrain.layers=2"]
LONG = Estimate("cpu", None, (Part("search stage only", 10, 1.0, 7200.0), Part("retraining", 9, 3.0, 3e5, seeds=3)))
SAID = "this will take about 3 d 13 h on cpu: search stage only 2 h 00 min, retraining 3 d 11 h"
RUN = ["run", "random", "--budget", "smoke", *SIZES]


@pytest.fixture
def terminal_of_a_person(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[str]]:
    """Answers for `input`, as on a terminal; returns the questions."""

    def set_up(answer: str) -> list[str]:
        questions: list[str] = []

        def ask(question: str) -> str:
            questions.append(question)
            if answer == "end":
                raise EOFError
            return answer

        monkeypatch.setattr("builtins.input", ask)
        for stream in (sys.stdin, sys.stdout):
            monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
        return questions

    return set_up


@pytest.fixture
def long(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Every run is expected to take long; returns what was asked for."""
    asked: list[dict[str, Any]] = []

    def estimated(setup: Any, **options: Any) -> Estimate:
        asked.append(options)
        return LONG

    monkeypatch.setattr(consent, "quick_estimate", estimated)
    return asked


def test_off_a_terminal_it_is_said_and_the_run_starts(tmp_path: Path, long: list[Any], capsys: Any) -> None:
    assert main([*RUN, "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == [
        SAID,
        "shorter: fewer epochs or seeds; what takes how long: topocell estimate random data.images=40 "
        "data.test_images=20 retrain.layers=2 --budget smoke",
    ]
    assert (tmp_path / "run" / "report.html").exists() and len(long) == 1
    assert main([*RUN, "--out", str(tmp_path / "run")]) == 0  # finished: nothing is measured
    assert len(long) == 1


@pytest.mark.parametrize("answer", ["", "n", "no", "x", "end"])
@pytest.mark.parametrize("command", ["run", "search"])
def test_without_a_yes_nothing_is_written(
    tmp_path: Path, long: list[Any], capsys: Any, terminal_of_a_person: Any, answer: str, command: str
) -> None:
    questions = terminal_of_a_person(answer)
    assert main([command, *RUN[1:], "--out", str(tmp_path / "run")]) == 0
    assert questions == ["start it? [y/N] "]
    assert capsys.readouterr().out.splitlines()[-1] == "nothing was started, nothing was written"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("options", "asked"), [([], 1), (["--yes"], 0), (["--quiet"], 0)])
def test_a_yes_starts_it(
    tmp_path: Path, long: list[Any], terminal_of_a_person: Any, options: list[str], asked: int
) -> None:
    questions = terminal_of_a_person("y")
    assert main([*RUN, *options, "--out", str(tmp_path / "run")]) == 0
    assert len(questions) == asked and (tmp_path / "run" / "report.html").exists()
    assert len(long) == ("--quiet" not in options)


def test_a_retraining_is_measured_alone_and_not_when_it_resumes(
    tmp_path: Path, long: list[Any], capsys: Any, terminal_of_a_person: Any
) -> None:
    out = str(tmp_path / "run")
    assert main(["search", *RUN[1:], "--quiet", "--out", out]) == 0
    assert main(["select", out, "--quiet"]) == 0
    terminal_of_a_person("n")
    assert main(["retrain", out]) == 0
    assert "shorter: --protocol shallow, small networks first" in capsys.readouterr().out
    assert long[-1]["genotype"].cells and not (tmp_path / "run" / "results.json").exists()
    terminal_of_a_person("y")
    assert main(["retrain", out]) == 0
    assert (tmp_path / "run" / "results.json").exists() and len(long) == 2
    assert main(["retrain", out]) == 0  # done
    assert len(long) == 2


@pytest.mark.parametrize(
    ("words", "shorter"),
    [
        (["OUT", "--as", "other", "retrain.epochs=2"], "shorter: fewer epochs or seeds"),
        (["OUT", "--random-cell"], None),
        (["OUT", "--protocol", "shallow"], None),
        (["--genotype", "OUT", "OUT/recipe.yaml", "--out", "NEW"], "shorter: --budget small, minutes, or fewer epochs"),
    ],
)
def test_what_is_shorter_is_what_the_command_may_say(
    tmp_path: Path, long: list[Any], capsys: Any, terminal_of_a_person: Any, words: list[str], shorter: str | None
) -> None:
    out = str(tmp_path / "run")
    assert main(["search", *RUN[1:], "--quiet", "--out", out]) == 0 and main(["select", out, "--quiet"]) == 0
    terminal_of_a_person("n")
    given = [word.replace("OUT", out).replace("NEW", str(tmp_path / "new")) for word in words]
    assert main(["retrain", *given]) == 0
    said = capsys.readouterr().out
    assert "this will take about" in said and (shorter in said if shorter else "shorter" not in said)


def test_the_estimate_of_a_run_with_pieces_of_ones_own_imports_them(
    tmp_path: Path, long: list[Any], capsys: Any, terminal_of_a_person: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = "own (of an installed package)"
    entry = metadata.EntryPoint("own", "ownpieces", "topocell.plugins")
    monkeypatch.setattr(registry, "_imported", ["/a b/mine.py", installed])
    monkeypatch.setattr(registry, "_installed", lambda: {installed: entry})
    terminal_of_a_person("n")
    assert main([*RUN, "--out", str(tmp_path / "run")]) == 0
    assert "topocell estimate --import '/a b/mine.py' random" in capsys.readouterr().out


def test_a_search_does_not_count_its_retraining(tmp_path: Path, long: list[Any]) -> None:
    assert main(["search", *RUN[1:], "--out", str(tmp_path / "run")]) == 0
    assert long[0]["retrain"] is False


def test_a_published_recipe_names_the_small_budget(
    tmp_path: Path, long: list[Any], capsys: Any, terminal_of_a_person: Any
) -> None:
    terminal_of_a_person("n")
    assert main(["run", "quickstart", "retrain.seeds=[0]", "--out", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.splitlines()[1] == (
        "shorter: --budget small, minutes, or fewer epochs or seeds; what takes how long: "
        "topocell estimate quickstart 'retrain.seeds=[0]'"
    )


def test_in_python_nobody_is_asked(tmp_path: Path, long: list[Any]) -> None:
    api.search(load_recipe("random", SIZES, budget="smoke"), tmp_path / "run")
    assert long == []


def test_before_may_be_a_plain_function(tmp_path: Path) -> None:
    """With a run that is measured: the small one of the command line."""
    given: list[Estimate] = []
    recipe = load_recipe("random", [*SIZES, "retrain.epochs=1000000"], budget="smoke")

    def stop(found: Estimate) -> None:
        given.append(found)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        api.run(recipe, tmp_path / "run", before=stop)
    assert given[0].seconds > 3600 and list(tmp_path.iterdir()) == []

    class Measuring:
        def measuring(self, part: str) -> None: ...

    with pytest.raises(RecipeError, match="before must be a function or None, but got"):
        api.run(recipe, tmp_path / "run", before=Measuring())  # type: ignore[arg-type]


def test_what_is_short_is_not_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = Estimate("cpu", None, (Part("retraining", 9, 3.0, 3500.0),))
    for found in (None, short):
        monkeypatch.setattr(consent, "quick_estimate", lambda *_, found=found, **__: found)
        announce(Asking(Terminal(), "no way"), prepared(load_recipe("random", SIZES, budget="smoke")), tmp_path)


def test_the_question_comes_after_what_moves(monkeypatch: pytest.MonkeyPatch, terminal_of_a_person: Any) -> None:
    out = io.StringIO()
    terminal_of_a_person("n")
    with Terminal(Console(file=out, force_terminal=True, width=200)) as terminal, pytest.raises(typer.Exit):
        asking = Asking(terminal, "--budget small")
        asking.measuring("retraining")
        asking(LONG)
    assert "measuring retraining" in out.getvalue() and SAID in out.getvalue()
    assert out.getvalue().index("\x1b[?25h") < out.getvalue().index(SAID)


# --- the estimate itself


class Measured:
    """Fake probes: parts that take as long as is said, on a clock of their own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, each: float) -> None:
        self.now, self.begun, self.each = 0.0, list[str](), each
        monkeypatch.setattr(quick, "estimate_retraining", self.retraining)
        monkeypatch.setattr(quick, "estimate_search", self.search)

    def part(self, name: str, begin: Any) -> list[Part]:
        if begin(name) is False:
            return []
        self.now += self.each
        self.begun.append(name)
        return [Part(name, 10, 1.0, 100.0)]

    def retraining(self, *_: Any, begin: Any, **__: Any) -> Part:
        return self.part("retraining", begin)[0]

    def search(self, plan: Any, *_: Any, begin: Any, **__: Any) -> tuple[list[Part], None]:
        names = [f"search stage {stage.name}" for stage in plan.stages if stage.epochs]
        return [part for name in names for part in self.part(name, begin)], None


def test_what_is_short_by_its_size_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = Measured(monkeypatch, 1.0)
    for name, budget in (("quickstart", "paper"), ("quickstart", "smoke"), ("dots", "small")):
        recipe = load_recipe(name, ["data.dataset=digits"], budget)
        assert quick_estimate(prepared(recipe), measured.begun.append) is None
    assert measured.begun == []


@pytest.mark.parametrize(("each", "begun"), [(1.0, 4), (5.0, 2), (60.0, 1)])
def test_a_measurement_that_takes_long_ends_early(monkeypatch: pytest.MonkeyPatch, each: float, begun: int) -> None:
    """What is left out is taken in proportion to its work."""
    monkeypatch.setattr(quick, "PACE", 1.0)
    measured = Measured(monkeypatch, each)
    setup = prepared(load_recipe("quickstart", budget="small"))
    found = quick_estimate(setup, lambda name: None, clock=lambda: measured.now)
    assert found is not None and measured.begun[0] == "retraining" and len(measured.begun) == begun
    names = [f"search stage {stage.name}" for stage in setup.recipe.search.stages]
    assert [part.name for part in found.parts] == [*names, "retraining"]
    assert all(part.seconds > 0 for part in found.parts)
    parts = {part.stage or part.name: quick.total_work([part]) for part in quick.parts_of(setup)}
    if begun == 1:
        of_search, of_training = (parts[key] for key in (setup.recipe.search.stages[0].name, "retrain"))
        assert found.parts[0].seconds == pytest.approx(100.0 * of_search / of_training)


def test_both_trainings_of_a_protocol_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick, "PACE", 1.0)
    Measured(monkeypatch, 1.0)
    recipe = load_recipe("quickstart", ["protocol=filter"], budget="smoke")
    found = quick_estimate(prepared(recipe), lambda name: None)
    assert found is not None and [part.name for part in found.parts][-2:] == ["retraining"] * 2


def test_a_real_measurement_leaves_random_states_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick, "PACE", 1.0)
    setup = prepared(load_recipe("quickstart", SIZES, budget="smoke"))
    torch.manual_seed(3)
    before, begun = torch.get_rng_state(), list[str]()
    found = quick_estimate(setup, begun.append, clock=lambda: 0.0)
    assert found is not None and torch.equal(torch.get_rng_state(), before)
    assert {part.name for part in found.parts} == set(begun) and found.seconds > 0
    assert all(part.parameters and part.memory is None for part in found.parts)
    only = quick_estimate(setup, begun.append, retrain=False)
    assert only is not None and "retraining" not in [part.name for part in only.parts]


def test_a_run_is_the_same_with_and_without_a_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert main([*RUN, "--quiet", "--out", str(tmp_path / "plain")]) == 0
    monkeypatch.setattr(quick, "PACE", 1e-9)
    monkeypatch.setattr(consent, "LONG", 0.0)
    assert main([*RUN, "--out", str(tmp_path / "measured")]) == 0
    assert "this will take about" in capsys.readouterr().out
    for name in ("metrics.jsonl", "genotype.json", "results.json", "weights.safetensors"):
        first, second = ((tmp_path / run / name).read_bytes() for run in ("plain", "measured"))
        assert first.replace(b'"plain"', b'"measured"') == second, name


def test_without_memory_for_a_probe_the_run_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick, "PACE", 1.0)

    def full(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("topocell.networks.retraining.Retraining.run", full)
    assert quick_estimate(prepared(load_recipe("quickstart", SIZES, budget="smoke")), lambda name: None) is None

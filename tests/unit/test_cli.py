"""The command line: a mistake is one line and exit code 2 with nothing written; help shows by example."""

import contextlib
import ctypes
import io
import json
import os
import re
import resource
import shlex
import shutil
import signal
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from rich.console import Console

from topocell import api, cli
from topocell.cli import main
from topocell.config import reference
from topocell.config.load import load_recipe, recipe_names, recipe_text, resolved
from topocell.config.search import Stage
from topocell.reporting import command_line, showing
from topocell.reporting.command_line import Ended
from topocell.reporting.terminal import Terminal
from topocell.runs.directory import RunDir
from topocell.runs.setup import load_data
from topocell.runtime.hooks import Interrupted
from topocell.runtime.provenance import environment
from topocell.selection.rules import EDGE_RULES
from topocell.studies.sweep.plan import read_plan

SIZES = ["data.images=40", "data.test_images=20", "retrain.layers=2"]
RUN = ["run", "quickstart", "--budget", "smoke", "--quiet", "--out", "new", *SIZES]
FOLDER = ["run", "quickstart", "--budget", "smoke", "--out", "new", "data.dataset=folder"]
RANDOM = ["run", "random", "--budget", "smoke", "--quiet", *SIZES]
COMMANDS = ["run", "search", "select", "retrain", "report", "draw", "spaces", "recipes list", "recipes show"]
COMMANDS += ["recipes copy", "compare", "runs", "estimate", "predict", "export", "sweep", "tables"]


def genotype(source: int) -> str:
    cell = {"inputs": 2, "nodes": [[["skip_connect", source]]], "concat": [2]}
    return json.dumps({"format": 1, "space": "darts", "cells": {"normal": cell, "reduce": cell}})


@pytest.fixture(scope="module")
def place(tmp_path_factory: Any) -> Path:
    """A directory with all that users get wrong, a finished run `done` and one `begun` whose search is not finished."""
    folder: Path = tmp_path_factory.mktemp("place")
    texts = {
        "circle.yaml": "extends: circle.yaml\n",
        "broken.yaml": "a: [1\n",
        "list.yaml": "- 1\n",
        "wrong.yaml": "extends: quickstart\nbudgets: [1]\n",
        "mine.yaml": "extends: random\nname: mine\n",
        "forward.json": genotype(4),
        "sound.json": genotype(1),
        "cell.txt": "genotype = Genotype([('noise', 0), ('noise', 1)], [2], [('noise', 0), ('noise', 1)], range(2, 3))",
        "numbers.txt": "[[(0, 0), (1, 1)], [(0, 1), (1, 1)]]",
        "plain": "",
        "things/note.txt": "precious",
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    for tree, classes in (("single", ["cat"]), ("torn", ["cat", "dog"]), ("lost", ["cat", "dog"])):
        for number in range(8):
            for shade, kind in enumerate(classes):
                path = folder / tree / kind / f"{number}.png"
                path.parent.mkdir(exist_ok=True, parents=True)
                Image.new("L", (16, 16), 20 * number + 100 * shade).save(path)
    (folder / "torn/dog/3.png").write_bytes(b"no image")
    for path in (folder / "lost/dog").iterdir():
        path.write_bytes(b"")
    recipe = load_recipe("random", SIZES, budget="smoke")
    assert main([*RANDOM, "--out", str(folder / "done")]) == 0
    env = environment("cpu", load_data(recipe).fingerprint, {})
    RunDir.open(folder / "begun", recipe.to_yaml(), env=env).close()
    return folder


@pytest.fixture
def inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    monkeypatch.setenv("COLUMNS", "250")
    return place


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file but locks and logs."""
    found = {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}
    return {name: data for name, data in found.items() if not name.endswith((".lock", "log.txt"))}


LONG = "x" * 300

MISTAKES: list[tuple[list[str], str]] = [
    # recipes
    (["run", "quikstart", "--out", "new"], "unknown recipe 'quikstart' (did you mean 'quickstart'?)"),
    (["run", "absent.yaml", "--out", "new"], "cannot read the recipe 'absent.yaml': No such file"),
    (["run", "circle.yaml", "--out", "new"], "in a circle"),
    (["run", "broken.yaml", "--out", "new"], "broken.yaml is not valid YAML: expected ',' or ']'"),
    (["run", "list.yaml", "--out", "new"], "a recipe is a mapping"),
    (["run", "wrong.yaml", "--out", "new"], "budgets"),
    (["search", "dotz", "--out", "new"], "did you mean 'dots'?"),
    (["run"], "Missing argument 'RECIPE'; see: topocell run --help"),
    (["run", "quickstart"], "Missing option '--out'; see: topocell run --help"),
    (["recipes", "show"], "see: topocell recipes show --help"),
    (["rnu"], "see: topocell --help"),
    # overrides
    ([*RUN, "search.epoch=3"], "(did you mean 'search.stages.NAME.epochs', where NAME is one of operations"),
    ([*RUN, "data.test_root=x"], "data.test_root: unknown key (did you mean 'data.root'?)"),
    ([*RUN, "seeds=0,1"], "seeds: unknown key (did you mean 'retrain.seeds'?)"),
    ([*RUN, "search.lyers=3"], "search.lyers: unknown key (did you mean 'search.layers'?)"),
    ([*RUN, "epochs"], "an override has the form key=value, but got 'epochs'"),
    ([*RUN, "search.layers=many"], "search.layers: input should be a valid integer"),
    (
        [*RUN, "--workers", "2"],
        "--workers evaluate the cells of a search without gradients, such as random-search, but",
    ),
    (
        [*RUN, "retrain.batch_size=16", "retrain.micro_batch=5"],
        "micro_batch divides the batch, but got micro_batch=5 for batch_size=16; use 4",
    ),
    ([*RUN, "search.batch_size=16", "search.micro_batch=32"], "for batch_size=16; use 16"),
    (
        [*RUN, "search.batch_size=16", "search.micro_batch=8", "search.stages.operations.level=unrolled"],
        "level unrolled looks ahead on a whole batch",
    ),
    ([*RUN, "search.layers=0"], "search.layers: input should be greater than or equal to 1, but got 0"),
    ([*RUN, "retrain.drop_path=1"], "retrain.drop_path: input should be less than 1, but got 1"),
    ([*RUN, "retrain.weights.lr=-0.1"], "retrain.weights.lr: must be at least 0 and at most 1e+38, but got -0.1"),
    ([*RUN, "retrain.seeds={a: 3}"], "retrain.seeds: input should be a list"),
    ([*RUN, "search.stages.topolgy.epochs=3"], "there is no 'topolgy' (did you mean 'topology'?)"),
    ([*RUN, "search.stages.topology.level=bilevl"], "unknown level 'bilevl' (did you mean 'bilevel'?)"),
    ([*RUN, "search.stages.topology.topology.view=inner"], "view is one of source, target"),
    ([*RUN, "search.stages.topology.relaxation=softmx"], "unknown relaxation 'softmx' (did you mean 'softmax'?)"),
    ([*RUN, "search.stages.operations.alpha_on=vall"], "(did you mean 'val'?)"),
    ([*RUN, "search.partial=3"], "channels must be divisible by partial=3"),
    ([*RUN, "seed=1", "sed=2", "name=a/b"], "; "),
    # spaces and operations
    ([*RUN, "space=dartz"], "unknown space 'dartz' (did you mean 'darts'?)"),
    ([*RUN, "space.candidates=[sep_conv]"], "unknown operation 'sep_conv'"),
    ([*RUN, "space.nodes=few"], "nodes must be a whole number, but got nodes='few'"),
    ([*RUN, "space.candidates=[none]"], "needs an operation besides none"),
    # data and devices
    ([*RUN, "data.dataset=cifar11"], "unknown dataset 'cifar11' (did you mean 'cifar10'?)"),
    ([*RUN, "data.dataset=cifar10", "data.root=nowhere"], "data.download=true"),
    ([*RUN, "data.resolution=9"], "multiple of 4"),
    ([*RUN, "data.splits={train: 0.9, val: 0.9}"], "sum to at most 1"),
    ([*RUN, "retrain.stem=imagenet"], "divisible by 32"),
    ([*RUN, "search.stem=imagenet"], "divisible by 32"),
    (
        [*RUN, "retrain.top_k=10"],
        "top_k is below the number of classes, but got retrain.top_k=10 for the 10",
    ),
    ([*RUN, "retrain.max_multiply_adds=1"], "has at least"),
    ([*RUN, "retrain.max_multiply_adds=600G"], "a number with k or M behind it, but got '600G'"),
    (
        [*RUN, "retrain.multiply_adds=600M"],
        "retrain.multiply_adds: unknown key (did you mean 'retrain.max_multiply_adds'?)",
    ),
    ([*RUN, "device=cuda:77"], "device must name a device of this machine, but got 'cuda:77'"),
    ([*RUN, "device=meta"], "device must name a device of this machine, but got 'meta'"),
    (FOLDER, "needs data.root=DIR"),
    ([*FOLDER, "data.root=nowhere"], "does not exist"),
    ([*FOLDER, "data.root=plain"], "is a file"),
    ([*FOLDER, "data.root=single"], "at least 2 classes are needed"),
    ([*FOLDER, "data.root=torn"], "dog/3.png (not an image)"),
    ([*FOLDER, "data.root=torn"], "or leave them out with data.unreadable=skip"),
    (
        [*FOLDER, "data.root=lost", "data.unreadable=skip"],
        "a training image that can be read, but dog",
    ),
    ([*FOLDER, "data.root=torn", "data.background=wite"], "but got 'wite' (did you mean 'white'?)"),
    ([*FOLDER, "data.root=torn", "data.unreadable=skip", "data.crop=16"], "data.crop is below the side of the images"),
    ([*RUN, "data.flip=sideways"], "data.flip: input should be a valid boolean"),
    ([*RUN, "data.store=stream"], "images are streamed from files of their own, but those of 'digits' have none"),
    ([*RUN, "data.store=memory", "data.cache=256"], "cache is of streamed images, but store is memory and cache 256"),
    ([*RUN, "data.cache_root=copies"], "cache_root is the folder of the cache, but got 'copies' and no cache"),
    ([*RUN, "data.unreadable_share=0.1"], "unreadable_share is a limit of unreadable=skip, but unreadable is refuse"),
    ([*RUN, "data.crop_scale=[0.5,0.1]"], "crop_scale is (smallest, largest) share, but got [0.5, 0.1]"),
    ([*FOLDER, "data.root=torn", "data.store=stream", "data.workers=0"], "dog/3.png (not an image)"),
    (
        [
            *FOLDER,
            "data.root=torn",
            "data.store=stream",
            "data.workers=0",
            "data.unreadable=skip",
            "data.unreadable_share=0.001",
        ],
        "data.unreadable_share is 0.001 of the images, but 1 of",
    ),
    # directories
    ([*RANDOM, "--out", "plain"], "--out must name a directory, but plain is a file"),
    ([*RANDOM, "--out", "things"], "things holds 'note.txt' and no recipe.yaml"),
    ([*RANDOM, "--out", "done", "seed=5"], "belongs to another recipe (first difference: key seed is 0 there and 5"),
    ([*RUN[:6], "done", *SIZES], "belongs to another recipe"),
    ([*RANDOM, "--out", "done", "retrain.epochs=9"], "train its cell otherwise: topocell retrain done --as NAME"),
    ([*RANDOM, "--out", "plain/new"], "plain/new must be writable"),
    (["select", "dome"], "a run directory holds a recipe.yaml, but dome does not (did you mean 'done'?)"),
    (["retrain", "things"], "a run directory holds a recipe.yaml, but things does not"),
    (["report", "nowhere"], "a run directory holds a recipe.yaml"),
    (["select", "begun"], "a cell is derived from a finished search, but the search in begun is not"),
    (["retrain", "begun"], "retraining needs a derived cell, but begun has none yet"),
    (["select", "done", "--ops", "magnitud"], "(did you mean 'magnitude'?)"),
    (["select", "done", "--edges", "best"], "selection.edges must be one of magnitude,"),
    (["select", "done", "--in-degree", "0"], "--in-degree"),
    # pictures and copies
    (["draw", "sound.json", "--out", "cell.gif"], "draw writes .svg, .png, .pdf, .tex or .dot, but got 'cell.gif'"),
    (["draw", "forward.json", "--out", "cell.svg"], "edge from the future: node 2 takes nodes below 2, but got 4"),
    (["draw", "absent.json", "--out", "cell.svg"], "absent.json"),
    (["draw", "broken.yaml", "--out", "cell.svg"], "every bracket must be closed"),
    (["draw", "begun", "--out", "cell.svg"], "begun has none; its search has derived none yet: topocell run"),
    (["draw", "things", "--out", "cell.svg"], "but things has none; name a run, or a file with a genotype"),
    # words that are empty, as "$RUN" is where there is no such variable
    (["predict", "done", ""], "no word of a command may be empty, but the word after 'done' is"),
    (["draw", ""], "no word of a command may be empty, but the word after 'draw' is"),
    (["export", "done", "--to", "onnx", "--out="], "no word of a command may be empty, but --out= is"),
    ([""], "no word of a command may be empty, but the first word is"),
    (
        ["draw", "numbers.txt", "--out", "cell.svg"],
        "numbers.txt: read as the form 'compact', of topocell, darts, pt.darts",
    ),
    (["draw", "numbers.txt", "--operations", "noise", "--out", "cell.svg"], "must be a number below 1, but got 1"),
    (["recipes", "copy", "dots", "plain"], "plain exists already and is not overwritten"),
    (["recipes", "copy", "dotz", "new.yaml"], "did you mean 'dots'?"),
    (["recipes", "copy", "dots", "nowhere/new.yaml"], "cannot write nowhere/new.yaml"),
    (["recipes", "copy", "absent.yaml", "new.yaml"], "cannot read the recipe 'absent.yaml'"),
    (["recipes", "show", "dotz"], "did you mean 'dots'?"),
    (["recipes", "show", "dots", "seed"], "key=value"),
    # a name that no system takes
    (["report", LONG], "(file name too long); check the path"),
    (["report", "done", LONG, "--out", "side.html"], "file name too long"),
    (["compare", LONG], "is none; `topocell genotypes list` shows"),
    (["compare", "done", LONG], "is none; `topocell genotypes list` shows"),
    (["runs", LONG], "(file name too long); check the path"),
    (["predict", LONG, "a.png"], "(file name too long); check the path"),
    (["predict", "done", LONG], "(file name too long); check the path"),
    (["export", LONG, "--to", "onnx"], "file name too long"),
    (["select", LONG], "file name too long"),
    (["retrain", LONG], "file name too long"),
    (["run", "quickstart", "--out", LONG], "(file name too long); check the path"),
    ([*FOLDER, f"data.root={LONG}"], "(file name too long); check the path"),
    # the command line itself
    (["fly"], "No such command 'fly'"),
    (["recipes", "fly"], "No such command 'fly'"),
    (["run", "quickstart"], "Missing option '--out'"),
    (["run"], "Missing argument 'RECIPE'"),
    (["run", "quickstart", "--out"], "requires an argument"),
    ([*RUN, "--fast"], "No such option: --fast"),
    (["run", "quickstart", "--budget", "tiny", "--out", "new"], "'tiny' is not one of 'paper', 'small', 'smoke'"),
    (["spaces", "darts"], "unexpected extra argument"),
]


@pytest.mark.parametrize(("argv", "words"), MISTAKES, ids=[" ".join(argv[-2:]) for argv, _ in MISTAKES])
def test_a_mistake_is_one_line_and_nothing_is_written(inside: Path, capsys: Any, argv: list[str], words: str) -> None:
    before = contents(inside)
    assert main(argv) == 2
    out, error = capsys.readouterr()
    assert error.startswith("error: ") and error.count("\n") == 1 and error.endswith("\n")
    assert words in error
    assert "Traceback" not in error and not out.startswith("Traceback")
    assert contents(inside) == before


def test_there_are_many_mistakes() -> None:
    assert len(MISTAKES) >= 60


def test_a_number_of_seconds_that_is_none(inside: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("soon", "-1", "nan"):
        monkeypatch.setenv("TOPOCELL_CHECKPOINT_SECONDS", text)
        assert main(["select", "done"]) == 2
        assert (
            f"TOPOCELL_CHECKPOINT_SECONDS is a number of seconds, 0 or more, but is {text!r}" in capsys.readouterr().err
        )


@contextlib.contextmanager
def ordinary_user() -> Iterator[None]:
    """Root without its right to pass over permissions, which it has again afterwards (Linux)."""
    if os.geteuid() != 0:
        yield
        return
    system, version_3, held = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    if not hasattr(system, "capset") or system.capget(version_3, held) != 0:
        pytest.skip("root can read what is closed here")
    system.capset(version_3, (ctypes.c_uint32 * 6)(0, held[1], held[2], 0, held[4], held[5]))
    try:
        yield
    finally:
        system.capset(version_3, held)


#: What is closed → the command, and what it says.
CLOSED = {
    "images": ([*FOLDER, "--quiet", "data.root=images"], "a folder of images must be readable, but 'images' is not"),
    "images/cat": ([*FOLDER, "--quiet", "data.root=images"], "a folder of images must be readable, but 'images/cat"),
    "images/cat/more": ([*FOLDER, "--quiet", "data.root=images"], "must be readable, but 'images/cat/more"),
    "place": (["study", "depth", "genotypes=place/run", "--out", "new"], "place/run: a genotype must be a file"),
    "place/run": (["study", "depth", "genotypes=place/run", "--out", "new"], "place/run must be readable"),
    "run/metrics.jsonl": (["compare", "run"], "run/metrics.jsonl must be readable, but is not (permission denied)"),
    "run/checkpoints": (["compare", "run"], "run/checkpoints must be readable, but is not (permission denied)"),
    "run/genotype.json": (["draw", "run"], "run/genotype.json: a genotype must be a file that can be read"),
}


@pytest.mark.parametrize(
    "argv",
    [
        ["report", "closed/run"],
        ["compare", "closed/run"],
        ["compare", "closed/run", "closed/other"],
        ["runs", "closed/run"],
        ["predict", "closed/run", "a.png"],
        ["export", "closed/run", "--to", "onnx"],
        ["select", "closed/run"],
        ["retrain", "closed/run"],
        ["draw", "closed/run", "-o", "cell.png"],
        ["run", "quickstart", "--out", "closed/run"],
        ["run", "closed/recipe.yaml", "--out", "new"],
        ["sweep", "closed/sweep.yaml", "--out", "new"],
        [*FOLDER, "data.root=closed/images"],
    ],
    ids=" ".join,
)
def test_a_folder_that_may_not_be_entered(
    argv: list[str], tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "closed" / "run").mkdir(parents=True)
    (tmp_path / "closed").chmod(0)
    try:
        with ordinary_user():
            assert main(argv) == 2
    finally:
        (tmp_path / "closed").chmod(0o700)
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1 and error.startswith("error: ") and "closed" in error, error
    assert [*tmp_path.rglob("*")] == [tmp_path / "closed", tmp_path / "closed" / "run"]


@pytest.mark.parametrize("closed", CLOSED)
def test_what_is_closed_to_us_is_named(
    closed: str, inside: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    argv, words = CLOSED[closed]
    for name in ("images/cat/more", "images/dog/more"):
        shutil.copytree(inside / "torn/cat", tmp_path / name)
    for name in ("run", "place/run"):
        shutil.copytree(inside / "done", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / closed).chmod(0)
    try:
        with ordinary_user():
            assert main(argv) == 2
    finally:
        (tmp_path / closed).chmod(0o700)
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1 and words in error, error
    assert not (tmp_path / "new").exists()


def test_a_bug_of_ours_keeps_its_traceback(inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(api, "report", broken)
    with pytest.raises(ZeroDivisionError):
        main(["report", "done"])


# --- stopping


def test_ctrl_c_says_how_to_go_on_and_leaves_the_terminal_in_order(
    inside: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()

    def stopped(recipe: object, out: object, display: Any, **_: object) -> None:
        display.step("search 1/1 search", 1, 9, lambda: {"loss": 1.0, "accuracy": 0.5})
        assert "\x1b[?25l" in screen.getvalue()  # the cursor is hidden
        raise Interrupted(signal.SIGTERM)

    drawn = Terminal(Console(file=screen, force_terminal=True, width=100))
    monkeypatch.setattr(showing, "Terminal", lambda console: drawn)
    monkeypatch.setattr(api, "run", stopped)
    assert main([a for a in RUN if a != "--quiet"]) == 143
    assert screen.getvalue().rfind("\x1b[?25h") > screen.getvalue().rfind("\x1b[?25l") >= 0
    error = capsys.readouterr().err
    assert error == "stopped by SIGTERM; everything is saved, the same command resumes from here\n"


@pytest.mark.parametrize("quiet", [True, False])
def test_ctrl_c_while_nobody_listens(inside: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, quiet: bool) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(api, "run", stopped)
    assert main([a for a in RUN if quiet or a != "--quiet"]) == 130
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("stopped; the same command resumes")


RESUMING = ("run", "search", "select", "retrain", "sweep", "study")


def test_only_what_a_command_resumes_is_promised(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(words: Any) -> list[str]:
        raise Ended(signal.SIGINT)

    monkeypatch.setattr(cli, "arranged", stopped)
    groups = {group.name for group in cli.app.registered_groups}
    commands = {c.name or c.callback.__name__ for c in cli.app.registered_commands if c.callback is not None}
    assert commands | groups >= {*RESUMING, "predict", "export", "report", "draw", "compare", "estimate"}
    for command in sorted(filter(None, commands | groups)):
        for before in ([], ["--import", "run"], ["--import=run"]):
            assert main([*before, command, "run"]) == 130
            then = "resumes from the last checkpoint" if command in RESUMING else "begins again"
            assert capsys.readouterr().err == f"stopped by SIGINT; the same command {then}\n"


def test_wildcards_are_expanded_where_no_shell_does_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a [1]/2.jpg", "a [1]/1.jpg", "a [1]/1.png", "b/1.jpg", "odd*.jpg", "odds.jpg"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    words = ["predict", "runs/x", "a [1]/*.jpg", "odd*.jpg", "?/1.jpg", "none*", "data.root=b*"]
    assert command_line.expanded(words) == words
    monkeypatch.setattr(command_line, "UNEXPANDED", True)
    images = ["a [1]/1.jpg", "a [1]/2.jpg", "odd*.jpg", "b/1.jpg"]
    assert command_line.expanded(words) == ["predict", "runs/x", *images, "none*", "data.root=b*"]


# --- help and lists


def help_of(command: str, capsys: Any) -> str:
    assert main([*command.split(), "--help"]) == 0
    out: str = capsys.readouterr().out
    return re.sub(r"\x1b\[[0-9;]*m", "", out)


def examples_of(text: str) -> list[list[str]]:
    return [shlex.split(line.strip(" │")) for line in text.splitlines() if line.strip(" │").startswith("topocell ")]


def test_the_list_of_commands_is_complete(inside: Path, capsys: Any) -> None:
    assert main([]) == 0
    top = capsys.readouterr().out
    names = {command.split()[0] for command in COMMANDS}
    assert names <= set(re.findall(r"[a-z]+", top))
    registered = {c.name or c.callback.__name__ for c in cli.app.registered_commands if c.callback is not None}
    assert registered | {"recipes"} == names


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in ("spaces", "tables", "recipes list")])
def test_every_help_ends_with_examples_that_work(inside: Path, capsys: Any, command: str) -> None:
    text = help_of(command, capsys)
    examples = examples_of(text)
    assert examples and re.search(r"Examples?:", text)
    for words in examples:
        assert words[1 : 1 + len(command.split())] == command.split()
        if command in ("run", "search", "estimate") and not words[2].endswith(".yaml"):
            arguments = words[3:]
            budget = arguments[arguments.index("--budget") + 1] if "--budget" in arguments else "paper"
            load_recipe(words[2], [a for a in arguments if "=" in a], budget=budget)
        if command == "recipes show":
            assert main(words[1:]) == 0
        if command == "sweep" and not words[2].endswith(".yaml"):
            assert read_plan([a for a in words if "=" in a]).grid()


def test_help_says_what_options_take(inside: Path, capsys: Any) -> None:
    text = help_of("run", capsys)
    for words in ("--out", "--budget", "paper", "small", "smoke", "KEY=VALUE", "--quiet", "[required]"):
        assert words in text
    assert ", ".join(EDGE_RULES) in help_of("select", capsys)


def test_version(capsys: Any) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"topocell {metadata.version('topocell')}\n"


def test_recipes_list_and_spaces(inside: Path, capsys: Any) -> None:
    assert main(["recipes", "list"]) == 0
    out = capsys.readouterr().out
    for name in recipe_names():
        recipe = load_recipe(name)
        assert re.search(rf"│ {re.escape(name)} +│ {re.escape(recipe.about)} +│ {re.escape(recipe.published)} +│", out)
    assert main(["spaces"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"darts +│ normal +│ 4 +│ 14 +│ none, max_pool_3x3, .*dil_conv_5x5 +│ concat", out)
    assert re.search(r"nasbench201 +│ cell +│ 3 +│ 6 +│ none, .* +│ last", out)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_a_library_turns_into_a_fault_of_its_own_still_ends_the_command(
    number: signal.Signals, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pydantic wraps whatever is raised while it serialises, and so may others that call back."""
    monkeypatch.setattr(Stage, "model_dump", lambda *_, **__: os.kill(os.getpid(), number))
    assert main(["recipes", "show", "quickstart", "--resolved"]) == 128 + number
    assert capsys.readouterr().err == f"stopped by {number.name}; the same command begins again\n"


def test_recipes_show(inside: Path, capsys: Any) -> None:
    assert main(["recipes", "show", "dots"]) == 0
    assert capsys.readouterr().out == recipe_text("dots")
    assert main(["recipes", "show", "dots", "--resolved"]) == 0
    assert resolved(capsys.readouterr().out) == load_recipe("dots")
    assert main(["recipes", "show", "dots", "seed=4", "--budget", "small"]) == 0
    assert resolved(capsys.readouterr().out) == load_recipe("dots", ["seed=4"], budget="small")
    assert main(["recipes", "show", "mine.yaml"]) == 0
    assert capsys.readouterr().out == "extends: random\nname: mine\n"


def test_keys_are_whole_lines_where_the_output_is_no_wide_terminal(inside: Path, capsys: Any) -> None:
    for prefix in ("", "retrain.weights"):
        assert main(["recipes", "keys", *([prefix] if prefix else [])]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.partition(": ")[0] for line in lines] == [key.name for key in reference.keys(prefix)]
        assert all(f"default {key.default}" in line for line, key in zip(lines, reference.keys(prefix), strict=True))
        assert all(line.endswith(key.about) for line, key in zip(lines, reference.keys(prefix), strict=True))


def test_recipes_copy(inside: Path, capsys: Any, tmp_path: Path) -> None:
    to = tmp_path / "copy.yaml"
    assert main(["recipes", "copy", "darts-v2", str(to)]) == 0
    assert f"topocell run {to} --out DIR" in capsys.readouterr().out
    assert to.read_text() == recipe_text("darts-v2")
    assert load_recipe(to) == load_recipe("darts-v2")
    assert main(["recipes", "copy", "darts-v2", str(to)]) == 2
    capsys.readouterr()


def test_a_copy_that_the_disk_refuses_can_be_tried_again(inside: Path, capsys: Any, tmp_path: Path) -> None:
    to, (_, most) = tmp_path / "copy.yaml", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, most))
    try:
        assert main(["recipes", "copy", "dots", str(to)]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    assert f"cannot write {to}: File too large; choose another" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert main(["recipes", "copy", "dots", str(to)]) == 0
    capsys.readouterr()


def test_a_recipe_is_shown_without_what_a_terminal_acts_on(capsys: Any, tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text("name: x\t# \x1b]0;evil\x07\x9b2J\u202e\u2028é\n", encoding="utf-8")
    assert main(["recipes", "show", str(path)]) == 0
    assert capsys.readouterr().out == "name: x\t# \\x1b]0;evil\\x07\\x9b2J\\u202e\\u2028é\n"


# --- pictures and reports


def test_draw_takes_the_order_of_operations(inside: Path, tmp_path: Path) -> None:
    out = tmp_path / "cell.svg"
    assert main(["draw", "numbers.txt", "--operations", "noise,skip_connect", "--out", str(out)]) == 0
    assert out.stat().st_size > 2000


@pytest.mark.parametrize("source", ["sound.json", "cell.txt", "done"])
@pytest.mark.parametrize(("name", "begins"), [("cell.svg", b"<?xml"), ("cell.png", b"\x89PNG\r\n")])
def test_draw(inside: Path, capsys: Any, tmp_path: Path, source: str, name: str, begins: bytes) -> None:
    assert main(["draw", source, "--out", str(tmp_path / name)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / name}\n"
    data = (tmp_path / name).read_bytes()
    assert data.startswith(begins) and len(data) > 2000


def test_report_prints_where_it_is(inside: Path, capsys: Any, tmp_path: Path) -> None:
    assert main(["report", "done"]) == 0
    assert capsys.readouterr().out.split() == ["done/report.html"]
    begun = shutil.copytree(inside / "begun", tmp_path / "begun")
    assert main(["report", str(begun)]) == 0  # whatever there is so far
    assert "quickstart" not in (begun / "report.html").read_text() and (begun / "report.html").stat().st_size > 1000
    capsys.readouterr()


# --- what is shown


def lines_of(run: Callable[[], int], capsys: Any) -> list[str]:
    assert run() == 0
    out: str = capsys.readouterr().out
    return out.splitlines()


def test_what_a_run_prints(inside: Path, capsys: Any, tmp_path: Path) -> None:
    loud = [a for a in RANDOM if a != "--quiet"]
    lines = lines_of(lambda: main([*loud, "--out", str(tmp_path / "a")]), capsys)
    assert any(line.startswith("derived cell") for line in lines)
    assert any(re.match(r"retrain seed 0 epoch 1: loss \d\.\d{3}, accuracy [\d.]+ %, test [\d.]+ %", x) for x in lines)
    assert any(re.match(r"test accuracy, last epoch: [\d.]+ % \(n = 1\)", line) for line in lines)
    assert lines[-2] == f"report: {tmp_path / 'a' / 'report.html'}"
    assert lines[-1].startswith(f"use it: topocell predict {tmp_path / 'a'} ")
    again = lines_of(lambda: main([*loud, "--out", str(tmp_path / "a")]), capsys)
    assert again[0].startswith(f"{tmp_path / 'a'} is finished; its report: ")
    quiet = lines_of(lambda: main([*RANDOM, "--out", str(tmp_path / "a")]), capsys)
    assert quiet == [line for line in again if line.startswith("test accuracy, last epoch: ")]


def test_a_file_with_overrides_runs_by_its_path(inside: Path, tmp_path: Path, capsys: Any) -> None:
    out = str(tmp_path / "mine")
    assert main(["run", "mine.yaml", "--budget", "smoke", "--quiet", "seed=3", *SIZES, "--out", out]) == 0
    stored = yaml.safe_load((tmp_path / "mine/recipe.yaml").read_text())
    assert (stored["name"], stored["seed"], stored["data"]["images"]) == ("mine", 3, 40)
    capsys.readouterr()

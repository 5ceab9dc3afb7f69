"""Every public function refuses arguments of another type than annotated, in one line."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_type_hints

import numpy as np
import pytest
import torch

import topocell
from topocell import Genotype, api, spaces
from topocell.arguments import _fits, checked
from topocell.cli import main
from topocell.config.load import load_recipe
from topocell.config.selection import Rules
from topocell.errors import DataError, RecipeError, TopocellError
from topocell.genotype.published import published
from topocell.networks.classifier import Classifier
from topocell.nn.costs import NetworkSize, network_costs
from topocell.relaxation.softmax import GroupedSoftmax, Softmax
from topocell.selection.rules import derive
from topocell.spaces import CellSpec
from topocell.spaces.darts import darts
from topocell.spaces.nasbench201 import nasbench201
from topocell.spaces.robustdarts import s2, s3, s4
from topocell.topology.assignments import wirings

CELL, SPACE = published("darts-v2").genotype, spaces.get("darts", nodes=1)
RECIPE = load_recipe("quickstart", budget="smoke")

#: Public function → arguments that it takes.
TAKEN: dict[Callable[..., Any], dict[str, Any]] = {
    topocell.FixedNet: {"genotype": CELL, "channels": 4, "layers": 3, "classes": 2},
    topocell.Supernet: {"space": SPACE, "channels": 4, "layers": 3, "classes": 2},
    topocell.ArchState: {"space": SPACE},
    topocell.SpaceSpec: {"name": "mine", "cells": dict(SPACE.cells)},
    CellSpec: {"inputs": 2, "nodes": 1, "edges": ((0, 2), (1, 2)), "candidates": ("skip_connect", "none")},
    topocell.Genotype: {"space": "mine", "cells": dict(CELL.cells)},
    topocell.Genotype.load: {"path": "cell.json"},
    topocell.Genotype.from_text: {"text": "a cell"},
    CELL.save: {"path": "cell.json"},
    topocell.count: {"net": torch.nn.Identity(), "input_size": (3, 4, 4)},
    topocell.load_recipe: {"name_or_path": "quickstart"},
    topocell.register: {"kind": "relaxation", "name": "mine"},
    topocell.load: {"path": "run"},
    topocell.export: {"path": "run", "to": "onnx"},
    topocell.Run: {"path": "run"},
    topocell.run: {"recipe": RECIPE, "out": "run"},
    topocell.search: {"recipe": RECIPE, "out": "run"},
    topocell.select: {"out": "run"},
    topocell.retrain: {"out": "run"},
    topocell.report: {"out": "run"},
    api.validate: {"out": "run"},
    api.retrain_random_cell: {"out": "run"},
    api.retrain_cell: {"genotype": CELL, "recipe": RECIPE, "out": "run"},
    api.estimate: {"recipe": RECIPE},
    published: {"name": "darts-v2"},
    spaces.get: {"name": "darts"},
    wirings: {"cell": SPACE.cells["normal"], "in_degree": 2},
    Rules: {},
    derive(topocell.ArchState(SPACE), Rules()).genotype: {"space": SPACE},
    derive: {"arch": topocell.ArchState(SPACE), "rules": Rules()},
    network_costs: {"space": SPACE, "size": NetworkSize(4, 3, 2, (3, 8, 8))},
    Softmax: {"cell": SPACE.cells["normal"]},
    GroupedSoftmax: {"cell": SPACE.cells["normal"], "groups": ()},
    **{space: {} for space in (darts, nasbench201, s2, s3, s4)},
}

#: Of types that hardly any argument has.
OTHERS = (object(), 1.5, torch.zeros(2), [1], {"a": 1}, b"x", None, CELL, "\0")


def names() -> list[Any]:
    return [
        pytest.param(function, name, id=f"{function.__qualname__}-{name}")
        for function in TAKEN
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]


def test_every_public_function_is_here() -> None:
    public = {getattr(topocell, name) for name in topocell.__all__}
    models = {topocell.Recipe, topocell.ArchWeights}  # of pydantic, which checks by itself; of two tensors
    assert {f for f in public if callable(f)} - models <= set(TAKEN)


@pytest.mark.parametrize(("function", "name"), names())
def test_other_types_are_one_line(
    function: Callable[..., Any], name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    hints = get_type_hints(function.__init__ if inspect.isclass(function) else function)
    hint = hints.get(name) or get_type_hints(function)[name]
    wrong = [value for value in OTHERS if not _fits(value, hint)]
    assert len(wrong) >= 4 or hint in (Any, None) or name == "data", wrong
    for value in wrong:
        with pytest.raises(TopocellError, match=rf"^[^\n]*{name}[^\n]*$"):
            function(**{**TAKEN[function], name: value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [None, "a", 1.5])
def test_a_batch_size_of_a_prediction(value: Any) -> None:
    with pytest.raises(DataError, match="batch_size must be a whole number"):
        Classifier.predict(Classifier.__new__(Classifier), [], batch_size=value)


def takes(
    number: int = 1,
    share: float = 0.5,
    switch: bool = False,
    size: tuple[int, int] = (1, 2),
    texts: Sequence[str] = (),
    several: tuple[str | int, ...] = (),
    path: str | Path | None = None,
    options: Mapping[str, int] | None = None,
    call: Callable[[int], int] | None = None,
    word: Literal["a", "b"] = "a",
) -> None: ...


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("number", True, "number must be a whole number, but got number=True"),
        ("number", np.bool_(True), "a whole number"),
        ("number", 1.0, "a whole number"),
        ("number", "1", "a whole number"),
        ("share", "0.5", "share must be a number, but got share='0.5'"),
        ("share", torch.zeros(2), "a number"),
        ("switch", "False", "True or False"),
        ("size", (1,), "size must be 2 values, each a whole number"),
        ("size", (1, 2.5), "2 values"),
        ("size", {1, 2}, "2 values"),
        ("size", np.array([1.0, 2.0]), "2 values"),
        ("size", np.zeros((2, 2), int), "2 values"),
        ("texts", np.array(["a", "b"]), "a sequence of which each is a text"),
        ("texts", "a, b", r"texts must be a sequence of which each is a text, but .*; write texts=\['a', 'b'\]"),
        ("texts", "lr=[1,2]", r"write texts=\['lr=\[1,2\]'\]"),
        ("texts", [1], "a sequence of which each is a text"),
        ("texts", iter([1]), r"each is a text, but got texts=\[1\]"),
        ("several", ["a", 1.5], "a sequence of which each is a text or a whole number"),
        ("path", 1, "a text or a path or None"),
        ("path", "a\0b", "no byte of zero"),
        ("options", 1, "a mapping or None"),
        ("call", 1, "a function or None"),
        ("word", 1, "one of a, b"),
    ],
)
def test_words(name: str, value: object, words: str) -> None:
    with pytest.raises(TopocellError, match=words):
        checked(TopocellError)(takes)(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("number", one) for one in (np.int64(3), np.uint8(3), torch.tensor(3))],
        *[("share", one) for one in (1, np.float32(0.5), torch.tensor(0.5), True)],
        *[("switch", one) for one in (1, 0, np.bool_(True), torch.tensor(True))],
        *[("size", one) for one in ([1, 2], torch.Size([1, 2]), np.array([1, 2]), torch.tensor([1, 2]))],
        *[("texts", one) for one in ([], ["a"], ("a", "b"), {"a": 1}.keys(), {"a"}, iter("ab"))],
        *[("path", one) for one in (Path("a"), "a", None)],
        ("options", {"a": "b"}),
        ("call", int),
        ("word", "c"),  # the function says which words there are
    ],
)
def test_what_stands_for_a_type(name: str, value: object) -> None:
    checked(TopocellError)(takes)(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [np.int64(3), np.uint8(3), torch.tensor(3)])
def test_whole_numbers_arrive_as_those_of_python(value: Any) -> None:
    @checked(TopocellError)
    def given(number: int, other: int | None = None, share: float = 0.5) -> tuple[Any, ...]:
        return number, other, share

    assert [type(one) for one in given(value, value, value)] == [int, int, type(value)]
    assert type(topocell.SpaceSpec("mine", dict(SPACE.cells), stem_multiplier=value).stem_multiplier) is int


def test_what_can_be_read_once_arrives_as_a_list() -> None:
    @checked(TopocellError)
    def given(texts: Sequence[str], anything: Any = None) -> Any:
        return texts, anything

    once = iter("ab")
    assert given((text for text in "ab"), once) == (["a", "b"], once) and given({"a": 1}.keys())[0] == {"a"}
    edges = ((0, 2), (1, 2))
    plain = CellSpec(2, 1, edges, ("skip_connect", "none"))
    assert CellSpec(2, 1, iter(edges), iter(("skip_connect", "none"))) == plain  # type: ignore[arg-type]
    assert CellSpec(2, 1, edges, (iter(("skip_connect", "none")) for _ in edges)) == plain  # type: ignore[arg-type]


def test_a_missing_or_unknown_argument_is_python_s_own_error() -> None:
    with pytest.raises(TypeError, match=r"FixedNet.__init__\(\) missing 4 required"):
        topocell.FixedNet()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'depth'"):
        topocell.FixedNet(CELL, 4, 3, 2, depth=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("rule", [{"in_degree": 0}, {"max_skips": -1}, {"threshold": 0.0}, {"threshold": 2.0}])
def test_rules_have_the_ranges_of_recipes(rule: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=f"^{next(iter(rule))} is "):
        Rules(**rule)


def test_memory_has_two_names() -> None:
    with pytest.raises(topocell.errors.SpaceError, match="memory is one of standard, low, but got 'lo'"):
        topocell.Supernet(SPACE, 4, 3, 2, memory="lo")


@pytest.mark.parametrize("path", ["~/a", Path("~/a"), "~"])
def test_a_path_in_the_home_directory(path: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    given = []
    checked(TopocellError)(lambda place: given.append(place))("~/a")
    assert given == ["~/a"]  # not said to be a path

    @checked(TopocellError)
    def taken(place: str | Path, text: str = "") -> None:
        given.append((place, text))

    taken(path, "~/a")
    assert given[1:] == [(type(path)(str(path).replace("~", str(tmp_path))), "~/a")]


def test_home_directories_of_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell leaves `~` as it is in quotes and after `--out=`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["draw", "dots-c10", "--out=~/one.svg"]) == 0
    assert main(["draw", "dots-c10", "-o", "~/two.svg"]) == 0
    CELL.save("~/cell.json")
    assert Genotype.load("~/cell.json") == Genotype.load("cell.json") == CELL
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cell.json", "one.svg", "two.svg"]

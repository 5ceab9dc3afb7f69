"""Docstrings name the arguments that there are: all of them, once, in their order, and no others."""

import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from typing import Any

import pytest

import topocell


def entries(text: str | None, section: str) -> list[str] | None:
    """Names that a section of a docstring explains, such as `a` and `b` of "a, b: the sides."; None without one."""
    lines = iter(inspect.cleandoc(text or "").splitlines())
    if section not in lines:  # which moves the iterator behind it
        return None
    found: list[str] = []
    for line in lines:
        if line and not line.startswith(" "):
            break
        if entry := re.match(r" {4}(\w+(?:, \w+)*):(?: |$)", line):
            found += entry[1].split(", ")
    return found


def public() -> Iterator[tuple[str, Any]]:
    """Every public class, function and method of the package, by its full name."""
    for module in pkgutil.walk_packages(topocell.__path__, "topocell."):
        if module.name == "topocell.__main__":  # which runs a command
            continue
        for name, item in vars(importlib.import_module(module.name)).items():
            if name.startswith("_") or getattr(item, "__module__", None) != module.name:
                continue
            if inspect.isclass(item):
                yield f"{module.name}.{name}", item
                for member, method in vars(item).items():
                    function = method.__func__ if isinstance(method, classmethod | staticmethod) else method
                    if not member.startswith("_") and getattr(function, "__module__", None) == module.name:
                        yield f"{module.name}.{name}.{member}", function
            elif inspect.isfunction(item):
                yield f"{module.name}.{name}", item


def explained(section: str) -> dict[str, Any]:
    return {name: item for name, item in public() if entries(item.__doc__, section) is not None}


ARGS, ATTRIBUTES = explained("Args:"), explained("Attributes:")


def test_there_are_docstrings_to_read() -> None:
    assert {"topocell.nn.network.FixedNet", "topocell.nn.count.count", "topocell.selection.racing.Race"} <= set(ARGS)
    assert len(ARGS) > 50 and len(ATTRIBUTES) > 30


@pytest.mark.parametrize("name", ARGS)
def test_the_arguments_are_those_of_the_signature(name: str) -> None:
    named = [each for each in inspect.signature(ARGS[name]).parameters if each not in ("self", "cls")]
    assert entries(ARGS[name].__doc__, "Args:") == named


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_of_data_classes_exist(name: str) -> None:
    """Those that speak for themselves may be left out."""
    item = ATTRIBUTES[name]
    fields = [*getattr(item, "model_fields", ()), *getattr(item, "_fields", ())]
    fields += [field.name for field in dataclasses.fields(item)] if dataclasses.is_dataclass(item) else []
    if fields:
        assert set(entries(item.__doc__, "Attributes:") or ()) <= {*fields, *dir(item)}


def _grown_together(a: int, b: int, c: int) -> None:
    """A function.

    Args:
        a: the first: it counts
        up. b: the second.
            x: of a continued line.
        c: the third.

    Returns nothing:
        d: not an argument.
    """


def test_an_argument_that_another_has_swallowed_is_missed() -> None:
    assert entries(_grown_together.__doc__, "Args:") == ["a", "c"]
    assert entries(entries.__doc__, "Args:") is None

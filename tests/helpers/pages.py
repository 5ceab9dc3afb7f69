"""Pages of the documentation that are made from the code: the command line, the recipes and the Python API.

python -m tests.helpers.pages    writes docs/command-line.md, docs/recipes.md and docs/python-api.md
"""

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from typing import Any

import typer
from pydantic import BaseModel

import topocell
from topocell.cli import app
from topocell.io import plain_yaml

DOCS = Path(__file__).parent.parent.parent / "docs"
RECIPES = Path(topocell.__file__).parent / "config" / "recipes"

#: Folder of recipes → its heading.
FAMILIES = {
    "baselines": "Baselines",
    "bench-suite": "DARTS-Bench-Suite",
    "darts": "DARTS and what builds on it",
    "dots": "DOTS",
    "edarts": "eDARTS",
    "imagenet": "ImageNet",
    "nb201": "NAS-Bench-201",
    "pt": "DARTS-PT",
    "recipes": "Quick start",
    "stretchable": "Stretchable cells",
    "topobench": "The space of our own table",
    "toponas": "TopoNAS",
}

#: What the Python page shows besides `topocell.__all__`: module → names.
MORE = {
    "topocell.relaxation": ("Relaxation",),
    "topocell.topology": ("Topology", "Decoded"),
    "topocell.nn.costs": ("NetworkSize", "Layer", "network_costs"),
    "topocell.spaces.costs": ("NetworkCosts", "CellCosts"),
    "topocell.nn.primitives": ("Primitive", "Pool"),
    "topocell.selection.pruning": ("follow",),
    "topocell.searching.mechanisms": ("Mechanism", "Running"),
    "topocell.runs.logs": ("Logger", "figures"),
    "topocell.spaces": ("Slot", "Stacking", "complete_edges"),
    "topocell.data.readers": ("Entry", "in_memory"),
    "topocell.testing": tuple(import_module("topocell.testing").__all__),
}


def command_line() -> str:
    """The page of all commands."""
    parts = ["# Command line", "Made from the commands, by `python -m tests.helpers.pages`."]
    for words, command in _commands(typer.main.get_command(app), ["topocell"]):
        parts += [f"## {' '.join(words)}", _prose(command.help or "")]
        rows = [_option(parameter) for parameter in command.params if not getattr(parameter, "hidden", False)]
        if rows:
            parts.append("\n".join(["| argument or option | default | meaning |", "|---|---|---|", *rows]))
    return "\n\n".join(part for part in parts if part) + "\n"


def _commands(command: Any, words: list[str]) -> Iterator[tuple[list[str], Any]]:
    if not (inner := getattr(command, "commands", None)):
        yield words, command
        return
    for name, each in inner.items():
        yield from _commands(each, [*words, name])


def _option(parameter: Any) -> str:
    names = parameter.opts + parameter.secondary_opts
    shown = ", ".join(names) if names[0].startswith("-") else (parameter.metavar or parameter.name.upper())
    default = parameter.default
    plain = default if isinstance(default, str | int | float) and not isinstance(default, bool) else ""
    return f"| `{shown}` | {plain} | {_line(getattr(parameter, 'help', '') or '')} |"


def _prose(text: str) -> str:
    """Help with its paragraphs; lines of commands stay as they are."""
    return "\n\n".join(paragraph.replace("\b\n", "") for paragraph in inspect.cleandoc(text).split("\n\n"))


def _line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def python_api() -> str:
    """The page of all public names."""
    parts = [
        "# Python",
        "Made from the docstrings, by `python -m tests.helpers.pages`.",
        "`import topocell` is enough for what stands under the first heading, and for `topocell.relaxation`, "
        "`topocell.spaces` and `topocell.topology`. Everything else is imported from its module: "
        "`from topocell.nn.costs import network_costs`.",
    ]
    homes = {"topocell": tuple(n for n in topocell.__all__ if not inspect.ismodule(getattr(topocell, n))), **MORE}
    for home, names in homes.items():
        parts.append(f"## {home}")
        for name in names:
            parts += _described(name, getattr(import_module(home), name))
    return "\n\n".join(parts) + "\n"


def _described(name: str, piece: Any) -> Iterator[str]:
    yield f"### {name}"
    if inspect.isclass(piece) and issubclass(piece, BaseModel):
        yield "Its fields are the [keys of recipes](recipe-keys.md)."
    elif callable(piece):
        yield f"```text\n{name}{_signature(piece)}\n```"
    yield _as_list(inspect.cleandoc(piece.__doc__ or ""))
    if inspect.isclass(piece):
        for inner, function in vars(piece).items():
            if inner.startswith("_") or not (inspect.isfunction(function) or isinstance(function, classmethod)):
                continue
            plain = function.__func__ if isinstance(function, classmethod) else function
            if text := inspect.cleandoc(plain.__doc__ or ""):
                yield f"`{inner}{_signature(plain)}`: {_line(text.split(chr(10) * 2)[0])}"


def _signature(piece: Any) -> str:
    try:
        text = str(inspect.signature(piece))
    except (TypeError, ValueError):
        return "(...)"
    return re.sub(r" at 0x[0-9a-f]+", "", re.sub(r"\b(?:[A-Za-z_]\w*\.)+(\w+)", r"\1", text))


def _as_list(text: str) -> str:
    """A docstring whose sections (Args, Attributes, Raises) are lists."""
    out = []
    for part in text.split("\n\n"):
        title, _, body = part.partition(":\n")
        if title in ("Args", "Attributes", "Raises", "Returns") and body:
            entries = re.split(r"\n(?=    \S)", "\n" + body)[1:]
            out.append(f"{title}:\n\n" + "\n".join(f"- {' '.join(entry.split())}" for entry in entries))
        else:
            out.append(part)
    return "\n\n".join(out)


def recipes() -> str:
    """The page of all recipes: what each is, its source and aim, and what its file says before its keys."""
    parts = ["# Recipes", "Made from the recipes, by `python -m tests.helpers.pages`."]
    parts.append(
        "A recipe is run by its command, shown with all its keys by `topocell recipes show NAME`, and copied by"
    )
    parts.append("    topocell recipes copy dots my-dots.yaml")
    folder = ""
    for path in sorted(RECIPES.rglob("*.yaml"), key=lambda path: (path.parent != RECIPES, path.parent.name, path.name)):
        if path.parent.name != folder:
            folder = path.parent.name
            parts.append(f"## {FAMILIES.get(folder, folder)}")
        parts += _recipe(path)
    return "\n\n".join(parts) + "\n"


def _recipe(path: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    data = plain_yaml.load(text)
    head = list(takewhile(lambda line: line.startswith("#"), text.splitlines()))
    yield f"### {path.stem}"
    base = data.get("extends")
    told = [data.get("about"), data.get("source"), data.get("published") and f"Published: {data['published']}"]
    told.append(base and f"Extends [{base}](#{base})")
    if any(told):
        yield ". ".join(part for part in told if part) + "."
    if head:
        yield "```yaml\n" + "\n".join(head) + "\n```"


#: Page → what makes it.
PAGES = {"command-line.md": command_line, "python-api.md": python_api, "recipes.md": recipes}

if __name__ == "__main__":
    for page, make in PAGES.items():
        (DOCS / page).write_text(make(), encoding="utf-8")

"""The page of the papers' tables and figures, each with the commands that repeat it; made from coverage.yaml.

python -m tests.helpers.coverage    writes docs/reference/coverage.md
"""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

PAGE = Path(__file__).parent.parent.parent / "docs" / "reference" / "coverage.md"
#: Command → the file with the test that runs it in smoke mode, and what the test is called by.
SMOKE = {
    "run": ("tests/runs/test_runs.py", "recipe {}"),
    "study": ("tests/unit/studies/test_study.py", "study {}"),
    "retrain": ("tests/runs/test_imagenet.py", ""),
    "draw": ("tests/unit/genotype/test_published.py", ""),
    "spaces": ("tests/unit/test_cli.py", ""),
}
ROMAN = ("I", "II", "III", "IV", "V")

INTRO = """# The papers' tables and figures

Made by `python -m tests.helpers.coverage`. Every table and figure of the five papers, with the commands that repeat it
at the published scale, which takes GPU-hours to GPU-weeks, and the test that runs the same in smoke mode; with
`--budget small` the commands take minutes on two cores. "also" names published cells that stand in the table: `topocell
retrain --genotype NAME` trains them. A cell `-` in place of commands says why there is none."""


class Row(NamedTuple):
    """A table or a figure of a paper."""

    paper: str
    item: str
    shows: str
    commands: list[str]
    also: list[str]
    note: str
    missing: str


def papers() -> list[dict[str, Any]]:
    """Return the papers as they stand in coverage.yaml."""
    found: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    return found


def rows() -> list[Row]:
    """Return all rows, in the order of the papers."""
    return [
        Row(
            paper["paper"],
            item,
            row["shows"],
            [" ".join(command.split()) for command in row.get("commands", [])],
            row.get("with", []),
            row.get("note", ""),
            "a drawing of the method" if row.get("drawing") else row.get("missing", ""),
        )
        for paper in papers()
        for item, row in paper["rows"].items()
    ]


def expected() -> list[tuple[str, str]]:
    """Return paper and name of every table and figure that there is."""
    found = []
    for paper in papers():
        roman = any(f"Table {number}" in paper["rows"] for number in ROMAN)
        found += [(paper["paper"], item) for item in paper["rows"] if not item.startswith(("Figure", "Table"))]
        found += [(paper["paper"], f"Figure {n}") for n in range(1, paper["figures"] + 1)]
        found += [(paper["paper"], f"Table {ROMAN[n - 1] if roman else n}") for n in range(1, paper["tables"] + 1)]
    return found


def smoke(command: str) -> str:
    """Return the test that runs a command in smoke mode."""
    _, kind, *rest = shlex.split(command)
    place, words = SMOKE[kind]
    return ", ".join(filter(None, (place, words.format(f"`{rest[0]}`" if rest else ""))))


def page() -> str:
    """Return the page."""
    return "\n".join([INTRO, *_sections()]) + "\n"


def _sections() -> Iterator[str]:
    paper = ""
    for row in rows():
        if row.paper != paper:
            paper = row.paper
            yield f"\n## {paper}\n\n| | what it shows | commands | in smoke mode |\n|---|---|---|---|"
        commands = "<br>".join(f"`{command}`" for command in row.commands) or f"- ({row.missing})"
        also = f"<br>also {', '.join(f'`{name}`' for name in row.also)}" if row.also else ""
        tests = "<br>".join(dict.fromkeys(map(smoke, row.commands)))
        yield f"| {row.item} | {row.shows}{f'; {row.note}' if row.note else ''} | {commands}{also} | {tests} |"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")

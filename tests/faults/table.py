"""The table of faults: what was injected, survived and lost, from the record of the suites.

    python -m tests.faults.table RECORD [PAGE]

Prints it, and writes it into a page between two markers. Exit code 1 when a fault was not survived, or lost something,
and with TOPOCELL_FAULTS=full when there were too few of a kind.
"""

import datetime
import importlib
import json
import os
import platform
import re
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from tests.faults.pipelines import PIPELINES
from tests.faults.record import BAD_INPUT, GUIDED, KILLS, Tally

#: The full form injects at least so many malformed inputs in all, and kills of each pipeline.
LEAST_INPUTS, LEAST_KILLS = 5000, 50
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"


def tallies(lines: Iterable[str]) -> list[Tally]:
    """The tallies of a record, those of one name added up, in the order of their first lines."""
    found: dict[str, Tally] = {}
    for line in lines:
        one = Tally(**json.loads(line))
        whole = found.setdefault(one.name, Tally(one.name))
        whole.injected += one.injected
        whole.survived += one.survived
        whole.lost += one.lost
    return list(found.values())


def table(rows: list[Tally]) -> str:
    """A Markdown table with its sums."""
    everything = Tally("all", *(sum(getattr(row, key) for row in rows) for key in ("injected", "survived", "lost")))
    lines = ["| fault | injected | survived | data lost |", "|---|---:|---:|---:|"]
    for row in [*rows, everything]:
        lines.append(f"| {row.name} | {row.injected:,} | {row.survived:,} | {row.lost:,} |")
    return "\n".join(lines)


def machine() -> str:
    """Where and when, and with what, the record was made."""
    source = Path("/proc/cpuinfo")
    lines = source.read_text().splitlines() if source.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    packages = ", ".join(f"{name} {version(name)}" for name in ("topocell", "torch"))
    today = datetime.datetime.now(datetime.UTC).date()
    return (
        f"{today}, {packages}, Python {platform.python_version()}, {platform.system()} {platform.release()}, "
        f"{os.cpu_count()} × {next(models, platform.processor())}"
    )


def placed(page: str, text: str) -> str:
    """The page with `text` between its markers."""
    return re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n\n{text}\n\n{END}", page, flags=re.DOTALL)


def can_be_guided() -> bool:
    """Whether the package of fuzzing guided by coverage is here."""
    try:
        importlib.import_module("atheris")
    except ImportError:
        return False
    return True


def too_few(rows: list[Tally], guided: bool) -> list[str]:
    """What of the full form is missing, in words; `guided`: fuzzing guided by coverage was possible."""
    injected = {row.name: row.injected for row in rows}
    inputs = sum(n for name, n in injected.items() if name.startswith(BAD_INPUT) and name != GUIDED)
    found = [f"{inputs:,} malformed inputs of at least {LEAST_INPUTS:,}"] if inputs < LEAST_INPUTS else []
    for name in PIPELINES:
        if (kills := injected.get(KILLS + name, 0)) < LEAST_KILLS:
            found.append(f"{kills} kills of at least {LEAST_KILLS}: {name}")
    if guided and not injected.get(GUIDED):
        found.append(f"none: {GUIDED}")
    return found


def main(argv: list[str]) -> int:
    """Print the table and keep it."""
    rows = tallies(Path(argv[0]).read_text(encoding="utf-8").splitlines())
    text = f"{table(rows)}\n\nMeasured {machine()}."
    print(text)
    if argv[1:]:
        page = Path(argv[1])
        page.write_text(placed(page.read_text(encoding="utf-8"), text), encoding="utf-8")
    missing = []
    if os.environ.get("TOPOCELL_FAULTS") == "full":
        missing = too_few(rows, can_be_guided())
    for words in missing:
        print(f"too few faults: {words}", file=sys.stderr)
    return int(any(row.lost or row.survived < row.injected for row in rows) or not rows or bool(missing))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

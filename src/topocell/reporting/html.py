"""The report of a run: one self-contained HTML file, written from whatever the run directory holds so far.

The page needs no network and runs no scripts: figures are inline SVG, styles are inline, and every string that came
from a file is escaped. Equal run directories give equal reports.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from topocell.errors import GenotypeError, RunError
from topocell.io import files, plain_yaml
from topocell.reporting.cells import draw_text
from topocell.reporting.epochs import Epoch, search_epochs
from topocell.reporting.ground_truth import (
    ground_truth_facts,
    ground_truth_headline,
    ground_truth_notes,
    ground_truth_of,
)
from topocell.reporting.page import inlined, template
from topocell.reporting.report_figures import CURVES, OPTIONAL, draw_curves
from topocell.reporting.rundirs import RANDOM_CELL
from topocell.reporting.scores import (
    accuracy_of,
    class_table,
    confusion_table,
    random_cell_words,
    score_headline,
    score_notes,
    score_warnings,
)
from topocell.reporting.selection_table import selection_table
from topocell.reporting.style import printable
from topocell.reporting.tables import (
    _value,
    flattened,
    format_count,
    format_percent,
    format_seconds,
    is_number,
    results_table,
)

_LOG_LINES = 60
_FILES = {
    "recipe.yaml": "the resolved recipe",
    "env.json": "versions and machine",
    "metrics.jsonl": "figures of every epoch",
    "genotype.json": "the derived cell",
    "results.json": "test accuracy by seed and class or true accuracy",
    "network.json": "the trained networks, for topocell.load and topocell predict",
    "weights.safetensors": "weights of the first seed, after the last epoch",
    "preprocessing.json": "class names, and how images are prepared for the networks",
    "predictions.csv": "what that network predicts for every test image",
    "timings.json": "seconds per phase",
    "log.txt": "the log",
}


class _Files:
    """The files of a run directory, each read once and leniently; `states` says of each what was found."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.texts: dict[str, str] = {}
        self.states: dict[str, str] = {}

    def text(self, name: str) -> str:
        """A file's text; empty if it is not there."""
        if name not in self.texts:
            self.texts[name], self.states[name] = "", "present"
            try:
                self.texts[name] = (self.path / name).read_bytes().decode("utf-8", errors="replace")
            except FileNotFoundError:
                self.states[name] = "missing"
            except OSError as fault:
                self.states[name] = f"unreadable: {files.reason(fault)}"
        return self.texts[name]

    def state(self, name: str) -> str:
        """What was found of a file, also of one that was not read."""
        return self.states.get(name) or ("present" if (self.path / name).is_file() else "missing")

    def mapping(self, name: str) -> dict[str, Any]:
        """The mapping that a JSON or YAML file holds; empty if there is none."""
        text = self.text(name)
        try:
            read = plain_yaml.load if name.endswith(".yaml") else files.from_json
            value = read(text) if text else {}
        except ValueError as fault:
            self.states[name] = f"damaged: {' '.join(str(fault).split())}"
            return {}
        if not isinstance(value, dict):
            self.states[name] = f"damaged: it holds a {type(value).__name__} in place of a mapping"
            return {}
        return value

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Parse a file of JSON objects, one per line; torn or damaged lines are counted and skipped."""
        rows, damaged = [], 0
        for line in self.text(name).split("\n"):
            try:
                row = files.from_json(line) if line.strip() else None
            except ValueError:
                row = line
            if isinstance(row, dict):
                rows.append(row)
            elif row is not None:
                damaged += 1
        if damaged:
            self.states[name] = f"present, {damaged} damaged line{'s' * (damaged != 1)} left out"
        return rows


def write_report(run_path: Path | str) -> Path:
    """Write `report.html` and `figures/*.svg` of a run directory, finished or not, and return the report's path.

    Raises:
        RunError: there is no such directory, it holds a link, a pipe or a device, or the files cannot be written.
    """
    path = Path(run_path)
    if not os.path.isdir(path):
        raise RunError(f"a report is written from a run directory, but {str(path)!r} is none; check the path")
    with files.guarded(path):
        files.refuse_links(path, "figures", "shallow", "retrainings")
    found = _Files(path)
    recipe, env, results, timings, genotype = (
        found.mapping(name) for name in ("recipe.yaml", "env.json", "results.json", "timings.json", "genotype.json")
    )
    metrics = found.rows("metrics.jsonl")
    log = found.text("log.txt").splitlines()
    report = path / "report.html"
    with files.guarded(report):
        drawn = draw_curves(path, metrics, recipe, results)
        ground_truth = ground_truth_of(results)
        cells, drawing_fault = _draw_cells(path, genotype)
        epochs = search_epochs(metrics)
        page = template("report.html").render(
            name=str(recipe.get("name") or path.resolve().name),
            run=path.resolve().name,
            dataset=str(results.get("dataset") or _part(recipe, "data").get("dataset") or ""),
            finished=bool(_headline(results)),
            progress=_progress(recipe, epochs, genotype, metrics, results),
            headline=_headline(results),
            facts=[*_facts(results), *_beside(path)],
            cells=cells,
            cell_texts=[] if drawing_fault or not genotype else _cell_texts(genotype),
            drawing_fault=drawing_fault,
            genotype=found.text("genotype.json"),
            origin=flattened(genotype.get("origin")),
            curves=[
                (*curve, drawn[curve[0]])
                for curve in CURVES
                if curve[0] != ("retrain" if ground_truth else "ground_truth")
                and (drawn[curve[0]] or curve[0] not in OPTIONAL)
            ],
            looked_up=bool(ground_truth),
            warnings=_warnings(epochs),
            selection=selection_table(metrics, _value),
            seeds=results_table(results),
            cautions=[*score_warnings(results), *_beaten(path, results)],
            classes=class_table(results),
            confusion=confusion_table(results),
            timings=[(phase, format_seconds(seconds)) for phase, seconds in timings.items()],
            total=format_seconds(sum(s for s in timings.values() if is_number(s))),
            recipe=found.text("recipe.yaml"),
            versions=flattened(env),
            notes=_notes(results, epochs, bool(_beside(path))),
            files=[(name, what, found.state(name)) for name, what in _FILES.items()],
            log=log[-_LOG_LINES:],
            log_lines=len(log),
        )
        files.replace(report, printable(page).encode("utf-8"))
    return report


def _draw_cells(path: Path, genotype: Mapping[str, Any]) -> tuple[Markup | None, str]:
    """The drawing of the cells, or None and the reason why a genotype cannot be drawn."""
    from topocell.reporting.cell_drawing import draw_genotype

    target = path / "figures" / "cells.svg"
    try:
        if genotype:
            draw_genotype(genotype, target)
            return inlined(target, "cells", "The derived cells as graphs"), ""
    except GenotypeError as fault:
        target.unlink(missing_ok=True)
        return None, str(fault)
    target.unlink(missing_ok=True)
    return None, ""


def _cell_texts(genotype: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(kind), draw_text(genotype, kind)) for kind in genotype["cells"]]


def _part(recipe: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """One section of a recipe; empty if it is missing or no mapping."""
    part = recipe.get(key)
    return part if isinstance(part, dict) else {}


def _headline(results: Mapping[str, Any]) -> dict[str, str]:
    """Mean accuracy of the last epoch and, apart from it, of the best epoch; empty without results.

    Of a look-up, the true accuracy and its regret.
    """
    if ground_truth := ground_truth_of(results):
        return ground_truth_headline(ground_truth)
    return score_headline(results)


def _facts(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Size of the network and of the task, those that are known; of a look-up, what the table says."""
    if ground_truth := ground_truth_of(results):
        return ground_truth_facts(ground_truth)
    facts = [
        ("Parameters", format_count(results.get("parameters"))),
        ("Multiply-adds", format_count(results.get("multiply_adds"))),
        ("Initial channels", str(results.get("channels", "—"))),
        ("Cells", str(results.get("layers", "—"))),
        ("Epochs", str(results.get("epochs", "—"))),
        ("Classes", str(results.get("classes", "—"))),
        ("Training images", _thousands(results.get("train_images"))),
        ("Test images", _thousands(results.get("test_images"))),
    ]
    return [(label, value) for label, value in facts if value != "—"]


def _beside(path: Path) -> list[tuple[str, str]]:
    """Return the accuracies of the shallow evaluation and of a random cell retrained alike, if there were any."""
    places = (("Shallow evaluation", "shallow"), ("Random cell, retrained alike", f"retrainings/{RANDOM_CELL}"))
    found = [(title, accuracy_of(_Files(path / place).mapping("results.json"), "last")) for title, place in places]
    return [(title, accuracy) for title, accuracy in found if accuracy != "—"]


def _beaten(path: Path, results: Mapping[str, Any]) -> list[str]:
    """Say so where a random cell, retrained alike, is as good as that of the run or better."""
    words = random_cell_words(results, _Files(path / "retrainings" / RANDOM_CELL).mapping("results.json"))
    return [words] if "no better" in words else []


def _thousands(value: object) -> str:
    return f"{value:,}".replace(",", "\u202f") if isinstance(value, int) else "—"


def _progress(
    recipe: Mapping[str, Any],
    epochs: list[Epoch],
    genotype: Mapping[str, Any],
    metrics: Iterable[Mapping[str, Any]],
    results: Mapping[str, Any],
) -> list[tuple[str, str]]:
    """Return the progress of each step, from what was recorded and what the recipe plans."""
    stages = _part(recipe, "search").get("stages")
    planned = [s.get("epochs") for s in stages.values() if isinstance(s, dict)] if isinstance(stages, dict) else []
    known = [n for n in planned if isinstance(n, int)]
    total = sum(known) if known and len(known) == len(planned) else None
    seeds: dict[str, int] = {}
    for row in metrics:
        if row.get("phase") == "retrain" and isinstance(row.get("epoch"), int):
            seed = str(row.get("seed"))
            seeds[seed] = max(seeds.get(seed, 0), row["epoch"] + 1)
    goal = _part(recipe, "retrain").get("epochs")
    of = f" of {goal}" if isinstance(goal, int) else ""
    trained = ", ".join(f"seed {seed}: {done}{of} epochs" for seed, done in seeds.items())
    if len(seeds) > 1 and len(set(seeds.values())) == 1:
        trained = f"{len(seeds)} seeds, {max(seeds.values())}{of} epochs each"
    return [
        ("Search", _of(epochs[-1].number if epochs else 0, total)),
        ("Cell", "derived" if genotype else "not derived yet"),
        ("Retraining", trained or "not begun"),
        ("Results", "complete" if _headline(results) else "not yet"),
    ]


def _of(done: int, total: int | None) -> str:
    return f"{done} of {total} epochs" if total is not None else f"{done} epochs" if done else "not begun"


def _warnings(epochs: list[Epoch]) -> list[tuple[str, str, str]]:
    """List each different warning of the diagnostics with its stage and its epochs: (text, stage, epochs)."""
    when: dict[tuple[str, str], list[int]] = {}
    for epoch in epochs:
        given = epoch.row.get("warnings")
        for text in given if isinstance(given, list) else []:
            when.setdefault((str(text), epoch.stage), []).append(epoch.number)
    return [(text, stage, _ranges(numbers)) for (text, stage), numbers in when.items()]


def _ranges(numbers: list[int]) -> str:
    """`1–3, 7` for 1, 2, 3, 7."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in parts)


def _notes(results: Mapping[str, Any], epochs: list[Epoch], beside: bool) -> list[str]:
    """Notes that a reader must know to trust the numbers as far as they go, and no further."""
    ground_truth = ground_truth_of(results)
    notes = ground_truth_notes(ground_truth) if ground_truth else score_notes(results)
    if "last_mean" in results and not beside:
        notes.append(
            "Whether the search was worth its time shows beside a random cell, retrained alike: topocell retrain RUN "
            "--random-cell."
        )
    gaps = [(e, e.row["gap"]) for e in epochs if isinstance(e.row.get("gap"), dict)]
    if gaps and all(is_number(gaps[-1][1].get(key)) for key in ("soft", "derived")):
        epoch, gap = gaps[-1]
        notes.append(
            f"After search epoch {epoch.number} the supernet reached {format_percent(gap['soft'])} on the validation "
            f"split with its soft weights and {format_percent(gap['derived'])} masked to the derived cell. The wider "
            "this gap, the less the supernet says about the cell."
        )
    return notes

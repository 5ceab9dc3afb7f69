"""The report of a run: one self-contained HTML file, written from whatever the run directory holds so far.

The page needs no network: its style, its data and the scripts that draw its charts stand in it, and its policy lets
nothing else in. Every string that came from a file is escaped. Equal run directories give equal reports.
"""

import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from topocell.errors import GenotypeError, RunError, TopocellError
from topocell.genotype.genotype import Genotype
from topocell.io import files
from topocell.reporting import architecture_series, series
from topocell.reporting.cell_shapes import families_of
from topocell.reporting.cell_svg import headed
from topocell.reporting.cells import ShownCell, draw_text, shown_cells
from topocell.reporting.collapse import signs
from topocell.reporting.epochs import Epoch, search_epochs
from topocell.reporting.ground_truth import (
    ground_truth_facts,
    ground_truth_headline,
    ground_truth_notes,
    ground_truth_of,
)
from topocell.reporting.page import rendered
from topocell.reporting.replay import decisions, replay
from topocell.reporting.run_figures import write_figures
from topocell.reporting.run_files import RunFiles
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
from topocell.reporting.setting import SettingOf, unknown
from topocell.reporting.style import FAMILIES, Family
from topocell.reporting.tables import (
    flattened,
    format_count,
    format_seconds,
    is_number,
    kept_epochs,
    results_table,
    value_text,
)

_LOG_LINES = 60
_FILES = {
    "recipe.yaml": "the resolved recipe",
    "env.json": "versions and machine",
    "metrics.jsonl": "figures of every epoch",
    "history.npz": "logits and weights of the architecture after every search epoch, for topocell.Run or numpy.load",
    "genotype.json": "the derived cell",
    "results.json": "test accuracy by seed and class or true accuracy",
    "network.json": "the trained networks, for topocell.load and topocell predict",
    "weights.safetensors": "weights of the first seed, after the last epoch or the one that early stopping kept",
    "preprocessing.json": "class names, and how images are prepared for the networks",
    "predictions.csv": "what that network predicts for every test image",
    "timings.json": "seconds per phase",
    "log.txt": "the log",
}


def write_report(run_path: Path | str, setting_of: SettingOf = unknown, out: Path | None = None) -> Path:
    """Write the report of a run directory, finished or not, and return its path.

    Args:
        run_path: of the directory.
        setting_of: what the page says of the setting.
        out: of the page, in folders that are made; default report.html in the directory.

    Raises:
        RunError: there is no such directory, it holds a link, a pipe or a device, or the file cannot be written.
    """
    found = _opened(run_path)
    page = _page(found, setting_of).encode("utf-8")
    report = found.path / "report.html" if out is None else out
    with files.guarded(report, "topocell report --out"):
        if out is None:
            files.replace(report, page)
        else:
            out.parent.mkdir(parents=True, exist_ok=True)
            files.write_out(out, page)
    return report


def write_run_figures(run_path: Path | str, folder: Path) -> list[Path]:
    """Draw the curves of a run directory and its cells as SVG files into a folder, and return their paths.

    Raises as `write_report`.
    """
    from topocell.reporting.cell_drawing import draw_genotype

    found = _opened(run_path)
    metrics, recipe, results = found.rows("metrics.jsonl"), found.mapping("recipe.yaml"), found.results()
    drawn = write_figures(metrics, recipe, _trajectory(results), folder)
    if genotype := found.mapping("genotype.json"):
        draw_genotype(genotype, folder / "cells.svg")
        drawn.append(folder / "cells.svg")
    return drawn


def _opened(run_path: Path | str) -> RunFiles:
    path = Path(run_path)
    if not os.path.isdir(path):
        raise RunError(f"a report is written from a run directory, but {str(path)!r} is none; check the path")
    with files.guarded(path):
        files.refuse_links(path, "shallow", "retrainings")
    return RunFiles(path)


def _page(found: RunFiles, setting_of: SettingOf) -> str:
    path = found.path
    recipe, env, timings, genotype = (
        found.mapping(name) for name in ("recipe.yaml", "env.json", "timings.json", "genotype.json")
    )
    results = found.results()
    metrics, log = found.rows("metrics.jsonl"), found.text("log.txt").splitlines()
    cells, drawing_fault = _cells(genotype)
    epochs, headline = search_epochs(metrics), _headline(results)
    looked_up, beside = bool(ground_truth_of(results)), _beside(path, results)
    figures, data = _charts(metrics, recipe, results)
    setting = setting_of(recipe, results)
    return rendered(
        "report.html",
        data,
        name=str(recipe.get("name") or path.resolve().name),
        about=str(recipe.get("about") or ""),
        run=path.resolve().name,
        dataset=str(results.get("dataset") or _part(recipe, "data").get("dataset") or ""),
        stamp=setting.stamp,
        stamp_words=setting.words,
        finished=bool(headline),
        progress=_progress(recipe, epochs, genotype, metrics, results),
        headline=headline,
        facts=[*_facts(results), *beside],
        cells=headed(cells),
        legend=families_of(cells),
        cell_texts=[(cell.kind, draw_text(genotype, cell.kind)) for cell in cells],
        drawing_fault=drawing_fault,
        genotype=found.text("genotype.json"),
        one_line=_one_line(genotype),
        origin=flattened(genotype.get("origin")),
        setting=setting.table,
        figures=figures,
        stages=[(s.number, s.name, _ranges(list(range(s.first, s.last + 1)))) for s in series.stages_of(epochs)],
        replayed=data["replay"] is not None,
        signs=signs(epochs),
        retained=_retained(metrics, recipe),
        decided=bool(data["decisions"]),
        looked_up=looked_up,
        warnings=_warnings(epochs),
        selection=selection_table(metrics, value_text),
        seeds=results_table(results),
        cautions=[*score_warnings(results), *_beaten(path, results)],
        classes=class_table(results),
        confusion=confusion_table(results),
        timings=[(phase, format_seconds(seconds)) for phase, seconds in timings.items()],
        total=format_seconds(sum(s for s in timings.values() if is_number(s))),
        recipe=found.text("recipe.yaml"),
        versions=_versions(env),
        notes=_notes(results, bool(beside)),
        files=[(name, what, found.state(name)) for name, what in _FILES.items()],
        log=log[-_LOG_LINES:],
        log_lines=len(log),
    )


def _charts(
    metrics: Sequence[Mapping[str, Any]], recipe: Mapping[str, Any], results: Mapping[str, Any]
) -> tuple[set[str], dict[str, Any]]:
    """The names of the figures that have something to draw, and the data of the page."""
    seen = architecture_series.seen_of(metrics, recipe)
    panels = architecture_series.run_panels(metrics, seen, _trajectory(results))
    drawn = {name: [panel.to_dict() for panel in of] for name, of in panels.items()}
    families = {key: row.label for key, row in FAMILIES.items()}
    data = {"figures": drawn, "replay": replay(seen), "decisions": decisions(metrics), "families": families}
    return set(drawn), data


def _trajectory(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The rows of the true-accuracy curve, each with the accuracy of the best cell beside its own."""
    rows, optimum = results.get("trajectory"), ground_truth_of(results).get("optimum")
    return [{**row, "optimum": optimum} for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _cells(genotype: Mapping[str, Any]) -> tuple[list[ShownCell], str]:
    """The cells, or none and the reason why they cannot be drawn."""
    try:
        return (shown_cells(genotype) if genotype else []), ""
    except GenotypeError as fault:
        return [], str(fault)


def _one_line(genotype: Mapping[str, Any]) -> str:
    """The cell in one line, in the text form that other tools read; empty where it has none."""
    try:
        read = Genotype.from_dict(genotype)
        return read.to_nasbench201() if "cell" in read.cells else read.to_darts()
    except (TopocellError, TypeError, ValueError, LookupError, AttributeError):
        return ""


def _retained(
    metrics: Iterable[Mapping[str, Any]], recipe: Mapping[str, Any]
) -> list[tuple[str, list[str], list[tuple[str, list[tuple[str, Family]]]]]]:
    """Tables of what edges retain: cell type, edges, and for each group its name and operation of each edge."""
    kept = architecture_series.retained(metrics, recipe)
    if kept is None:
        return []
    return [
        (
            kind,
            kept.arrows[kind],
            [(f"{kept.heads} {n}", series.labelled(row)) for n, row in enumerate(kept.rows(kind), start=1)],
        )
        for kind in kept.names
    ]


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
        ("Epochs, at most" if kept_epochs(results) else "Epochs", str(results.get("epochs", "—"))),
        ("Classes", str(results.get("classes", "—"))),
        ("Training images", _thousands(results.get("train_images"))),
        ("Test images", _thousands(results.get("test_images"))),
    ]
    return [(label, value) for label, value in facts if value != "—"]


def _beside(path: Path, results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the accuracies of a random cell retrained alike and of the shallow evaluation, where these are others."""
    places = {"Shallow evaluation": "shallow", "Random cell, retrained alike": f"retrainings/{RANDOM_CELL}"}
    if "protocol" in results:  # which is the shallow evaluation, and no random cell was trained alike
        return []
    found = [
        (title, accuracy_of(RunFiles(path / place).mapping("results.json"), "last")) for title, place in places.items()
    ]
    return [(title, accuracy) for title, accuracy in found if accuracy != "—"]


def _beaten(path: Path, results: Mapping[str, Any]) -> list[str]:
    """Say so where a random cell, retrained alike, is as good as that of the run or better, or not told apart."""
    if "protocol" in results:
        return []
    words = random_cell_words(results, RunFiles(path / "retrainings" / RANDOM_CELL).mapping("results.json"))
    return [words] if words and " is better than " not in words else []


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


def _versions(env: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Versions and machine as rows; the command as it can be typed again."""
    command = env.get("command")
    typed = {"command": shlex.join(map(str, command))} if isinstance(command, list) else {}
    return flattened({key: value for key, value in {**env, **typed}.items() if value not in (None, [], {})})


def _notes(results: Mapping[str, Any], beside: bool) -> list[str]:
    """Notes that a reader must know to trust the numbers as far as they go, and no further."""
    ground_truth = ground_truth_of(results)
    notes = ground_truth_notes(ground_truth) if ground_truth else score_notes(results)
    if "last_mean" in results and "protocol" not in results and not beside:
        notes.append(
            "Whether the search was worth its time shows beside a random cell, retrained alike: topocell retrain RUN "
            "--random-cell."
        )
    return notes

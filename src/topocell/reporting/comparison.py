"""Finished runs side by side, whatever made them: accuracies by recipe, curves, cells, and what differs.

Runs of one recipe, on the same images, that differ in their seeds alone are a group: its ± is over searches, so that a
comparison becomes surer with every run that is named with the others. Retrainings of one search are no further ones,
and neither is a search again that has found the same cell from the same seed. A cell that the recipe has trained and
not found is of a group of its own. All is read leniently, as a report reads it.
"""

import dataclasses
import functools
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from topocell.config.lasting import lasting
from topocell.errors import GenotypeError, RunError
from topocell.genotype.genotype import Genotype
from topocell.io import files
from topocell.reporting.cell_shapes import families_of
from topocell.reporting.cell_svg import headed
from topocell.reporting.cells import ShownCell, shown_cells
from topocell.reporting.epochs import Epoch, number_at, retrain_epochs, search_epochs
from topocell.reporting.ground_truth import ground_truth_of
from topocell.reporting.page import rendered
from topocell.reporting.run_files import RunFiles
from topocell.reporting.rundirs import evaluation_of, readable, run_before, source_of
from topocell.reporting.scores import accuracy_of
from topocell.reporting.series import DASHES, Line, Panel, cycle, spread_line
from topocell.reporting.setting import SMOKE_STAMP, SettingOf, unknown
from topocell.reporting.style import clipped
from topocell.reporting.tables import flattened, format_count, format_seconds, is_number

#: Settings of those that last that runs of one group may differ in.
_OWN = ("seed", "about", "source", "published")
#: Whose cell a run has trained that has found it by its recipe, or has none yet.
_FOUND = "found"
#: What stands for stamps of one title with different words, of a reduced setting and of a smoke budget.
_SEVERAL = (
    "Each in its own way, which its report tells. Accuracies and the order of methods may be others at full size.",
    SMOKE_STAMP[1],
)
#: Most runs whose cells a page shows, and most settings in the name of a group.
MOST_CELLS, MOST_NAMED = 8, 3


@dataclass(frozen=True)
class FinishedRun:
    """A run as it is compared: its directory, its files, and the accuracies of its networks in percent.

    `images` are what env.json says of its images: the names of their classes, and their fingerprint.
    """

    path: Path
    recipe: Mapping[str, Any]
    results: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    genotype: Mapping[str, Any]
    timings: Mapping[str, Any]
    images: Mapping[str, Any]

    @property
    def networks(self) -> list[tuple[Any, float]]:
        """Seed of the training and test accuracy after its last epoch of each network; or the true accuracy."""
        if truth := ground_truth_of(self.results):
            return [(None, float(truth["accuracy"]))]
        runs = self.results.get("runs")
        found = [run for run in runs if isinstance(run, Mapping)] if isinstance(runs, list) else []
        return [(run.get("seed"), 100 * run["last"]) for run in found if is_number(run.get("last"))]

    @property
    def search(self) -> Path | str:
        """What searched its cell: the seed and what it found, or the run, where none is found yet.

        A retraining and a selection have no search of their own. Of a cell that was given it is the cell: trained again
        it is not searched again.
        """
        origin, cells = self.genotype.get("origin"), repr(self.genotype.get("cells"))
        if self.cell != _FOUND:
            return cells
        if isinstance(origin, Mapping) and "seed" in origin:
            return f"{origin['seed']!r} {cells}"
        place = self.path
        while (before := run_before(place)) is not None:
            place = before
        return place

    @property
    def cell(self) -> str:
        """Where its cell comes from: `found` by its recipe, the name of a published one or of another recipe, a key."""
        return source_of(self.genotype, self.recipe.get("name")) or _FOUND

    @functools.cached_property
    def cells(self) -> list[ShownCell]:
        """The cells; none where they cannot be drawn."""
        try:
            return shown_cells(self.genotype) if self.genotype else []
        except GenotypeError:
            return []


@dataclass(frozen=True)
class Group:
    """Runs of one recipe that differ in their seeds alone, and what tables call them."""

    label: str
    runs: tuple[FinishedRun, ...]

    @functools.cached_property
    def measured(self) -> list[list[float]]:
        """The accuracies of each search that has some, in percent: of each of its networks, once."""
        found: dict[Path | str, dict[tuple[Any, ...], float]] = {}
        for run in self.runs:
            found.setdefault(run.search, {}).update(
                {(run.recipe.get("seed"), *network): network[1] for network in run.networks}
            )
        return [list(networks.values()) for networks in found.values() if networks]

    @property
    def values(self) -> list[float]:
        """The mean accuracy of each search that has one, in percent; of a single one that of each network."""
        return self.measured[0] if len(self.measured) == 1 else [statistics.fmean(values) for values in self.measured]

    @property
    def searches(self) -> int:
        """How many searches there are; several retrainings of one are one."""
        return len({run.search for run in self.runs})

    @property
    def over(self) -> str:
        """What the mean is of, in words: `3 searches`, `3 of 4 searches`, `2 retrainings of 1 of 4 searches`."""
        measured, several = len(self.measured), self.searches > 1
        some = f"{measured} of {self.searches} searches" if measured < self.searches else f"{measured} searches"
        if measured != 1:
            return some if measured else "—"
        trained = f"{len(self.values)} retrainings" if len(self.values) > 1 else ""
        return " of ".join(filter(None, (trained, some * several))) or "—"

    @property
    def spread(self) -> float | None:
        """Their sample standard deviation; None of fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def mean(self, value: Callable[[FinishedRun], Any]) -> float | None:
        """The mean over the runs that have a value."""
        known = [found for run in self.runs if is_number(found := value(run))]
        return statistics.fmean(known) if known else None


def run_paths(place: Path) -> list[Path]:
    """Return the run directories of a place: itself, or those of a sweep or a study in its folder `runs`.

    Raises RunError where there is none, or it cannot be read.
    """
    with readable(place):
        if (place / "recipe.yaml").is_file():
            return [place]
        found = sorted(path.parent for path in place.glob("runs/*/recipe.yaml"))
    if not found:
        raise RunError(
            f"runs are compared, but {place} is neither a run directory, which holds a recipe.yaml, nor a sweep, which "
            f"holds some in its folder runs; check the path"
        )
    return found


def read_runs(places: Sequence[Path | str]) -> list[FinishedRun]:
    """Return the runs of some places, each and all copies of it once, in their order. Raises as `run_paths`."""
    paths = dict.fromkeys(Path(os.path.abspath(path)) for place in places for path in run_paths(Path(place)))
    found: list[FinishedRun] = []
    for run in map(_read, paths):
        if not run.results or not any(dataclasses.replace(run, path=other.path) == other for other in found):
            found.append(run)
    return found


def _read(path: Path) -> FinishedRun:
    with files.guarded(path):
        files.refuse_links(path)
    found = RunFiles(path)
    recipe, genotype, timings, env = (
        found.mapping(name) for name in ("recipe.yaml", "genotype.json", "timings.json", "env.json")
    )
    images: dict[str, Any] = {name: env[name] for name in ("class_names", "data_fingerprint") if name in env}
    return FinishedRun(path, recipe, found.results(), found.rows("metrics.jsonl"), genotype, timings, images)


def groups_of(runs: Sequence[FinishedRun]) -> list[Group]:
    """Return the groups in the order of their first runs; names tell apart groups of one recipe by their settings."""
    found: dict[tuple[tuple[str, str], ...], list[FinishedRun]] = {}
    for run in runs:
        found.setdefault(tuple(_settings(run).items()), []).append(run)
    rows = [dict(key) for key in found]
    labels = []
    for row in rows:
        alike = [other for other in rows if other.get("name") == row.get("name")]
        changed = [f"{key}={row.get(key, '—')}" for key in _changed(alike)]
        more = f" (and {len(changed) - MOST_NAMED} more)" if len(changed) > MOST_NAMED else ""
        labels.append(" ".join([row.get("name", "—"), *changed[:MOST_NAMED]]) + more)
    return [Group(label, tuple(of)) for label, of in zip(labels, found.values())]


def _settings(run: FinishedRun) -> dict[str, str]:
    """Cell and recipe as settings by dotted keys, without those that runs of one group may differ in."""
    recipe = {key: value for key, value in lasting(run.recipe).items() if key not in _OWN}
    told = {"weights": "initial_weights", "evaluation": "protocol"}
    trained = {name: run.results[key] for name, key in told.items() if run.results.get(key)}
    return dict(flattened({"cell": run.cell, **trained, **recipe, **_images_of(run)}))


def _images_of(run: FinishedRun) -> dict[str, Any]:
    """What tells the images of a run from others: not their place, but a fingerprint, and the names of their classes.

    Where a part of them is chosen the fingerprint depends on the seed, and tells nothing.
    """
    data, plan = (part if isinstance(part := run.recipe.get(key), Mapping) else {} for key in ("data", "retrain"))
    found = {"classes": run.images["class_names"]} if "class_names" in run.images else {}
    taken = {"images": None if plan.get("early_stop") else "train_images", "test_images": "test_images"}
    counts = {key: run.results.get(str(count)) for key, count in taken.items()}  # where there are fewer, all are taken
    if data.get("unreadable") == "skip" or evaluation_of(run.path) == "validation":  # or some of them are left out
        counts = {}
    if all(data.get(key) is None or (is_number(n := counts.get(key)) and n < data[key]) for key in taken):
        found["fingerprint"] = str(run.images.get("data_fingerprint", ""))[:12]
    return {f"data.{name}": value for name, value in found.items()}


def _changed(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """The settings in which some of the recipes differ."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return [key for key in keys if len({row.get(key) for row in rows}) > 1]


def comparison_table(groups: Sequence[Group]) -> list[list[str]]:
    """A row of texts for each group, the header first."""
    head = ["recipe", "searches", "accuracy", "mean of", "parameters", "multiply-adds", "skips", "search time"]
    rows = []
    for group in groups:
        values = group.values
        spread = f" ± {group.spread:.2f}" if group.spread is not None else ""
        kind = next((f" ({run.results['protocol']})" for run in group.runs if "protocol" in run.results), "")
        mean = f"{statistics.fmean(values):.2f}{spread} %{kind}" if values else "—"
        rows.append(
            [
                clipped(group.label, 120),
                str(group.searches),
                mean,
                group.over,
                format_count(group.mean(lambda run: run.results.get("parameters"))),
                format_count(group.mean(lambda run: run.results.get("multiply_adds"))),
                _number(group.mean(_skips)),
                format_seconds(group.mean(lambda run: run.timings.get("search"))),
            ]
        )
    return [head, *rows]


def _skips(run: FinishedRun) -> int | None:
    """Skip connections of the cells of a run."""
    return sum(op == "skip_connect" for cell in run.cells for op, _, _ in cell.edges) if run.cells else None


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:.3g}"


def differences_table(groups: Sequence[Group]) -> list[list[str]]:
    """The settings in which groups differ, a column for each group; empty where there is one group."""
    rows = [_settings(group.runs[0]) for group in groups]
    changed = _changed(rows)
    head = ["setting", *(clipped(group.label, 60) for group in groups)]
    return [head, *([key, *(row.get(key, "—") for row in rows)] for key in changed)] if changed else []


def write_comparison(places: Sequence[Path | str], out: Path, setting_of: SettingOf = unknown) -> Path:
    """Write a page that compares runs, and return its path.

    Raises RunError as `run_paths`, or where the page cannot be written.
    """
    groups = groups_of(read_runs(places))
    with files.guarded(out, "--out"):
        out.parent.mkdir(parents=True, exist_ok=True)
        files.write_out(out, _page(groups, out, setting_of).encode("utf-8"))
    return out


def _page(groups: Sequence[Group], out: Path, setting_of: SettingOf) -> str:
    runs = [run for group in groups for run in group.runs]
    search, trained = _search_panels(groups), _retrain_panels(groups)
    figures = {
        name: [panel.to_dict() for panel in panels]
        for name, panels in (("search", search), ("retrain", trained))
        if panels
    }
    truths = [bool(ground_truth_of(run.results)) for run in runs]
    label = "true accuracy, %" if all(truths) else "accuracy, %" if any(truths) else "test accuracy, %"
    dots = {"rows": [_dots(group, name) for group, name in zip(groups, _names(groups))], "label": label}
    shown = [(group, run) for group in groups for run in (group.runs if len(runs) <= MOST_CELLS else group.runs[:1])]
    drawn = [(group, run) for group, run in shown if run.cells][: 2 * MOST_CELLS]
    return rendered(
        "comparison.html",
        {"figures": figures, "dots": {"accuracy": dots}},
        name="Comparison",
        about=f"{len(runs)} runs, {len(groups)} recipes or settings",
        stamps=_stamps(runs, setting_of),
        table=comparison_table(groups),
        figures=set(figures),
        drawn=any(group.values for group in groups),
        cells=[(clipped(group.label, 120), run.path.name, headed(run.cells)) for group, run in drawn],
        legend=families_of(cell for _, run in drawn for cell in run.cells),
        differences=differences_table(groups),
        runs=[_run_row(group, run, out) for group in groups for run in group.runs],
    )


def _names(groups: Sequence[Group]) -> list[str]:
    """Short labels for charts, in which equal ones would be one row: those that clipping makes equal bear numbers."""
    short = [clipped(group.label, 40) for group in groups]
    return [
        f"{clipped(name, 36)} ({short[: k + 1].count(name)})" if short.count(name) > 1 else name
        for k, name in enumerate(short)
    ]


def _dots(group: Group, name: str) -> dict[str, Any]:
    values, spread = group.values, group.spread
    mean = statistics.fmean(values) if values else None
    ends = (mean - spread, mean + spread) if mean is not None and spread is not None else (None, None)
    return {"label": name, "values": values, "mean": mean, "low": ends[0], "high": ends[1]}


def _stamps(runs: Sequence[FinishedRun], setting_of: SettingOf) -> list[tuple[str, str]]:
    """The stamps of the runs, each once, with how many runs bear it."""
    found: dict[str, list[str]] = {}
    for run in runs:
        title, words, _ = setting_of(run.recipe, run.results)
        if title:
            found.setdefault(title, []).append(words)
    return [
        (f"{title} ({len(of)} of {len(runs)} runs)", of[0] if len(set(of)) == 1 else _SEVERAL[title == SMOKE_STAMP[0]])
        for title, of in found.items()
    ]


def _run_row(group: Group, run: FinishedRun, out: Path) -> tuple[str, str, list[str]]:
    """The directory of a run, the place of its report from the page (empty without one), and cells of a table."""
    report = run.path / "report.html"
    place = quote(os.path.relpath(report, out.absolute().parent).replace(os.sep, "/")) if report.is_file() else ""
    truth = ground_truth_of(run.results)
    accuracy = f"{truth['accuracy']:.2f} % (table)" if truth else accuracy_of(run.results, "last")
    try:
        key = Genotype.from_dict(run.genotype).key
    except (GenotypeError, TypeError, ValueError, AttributeError):
        key = "—"
    return run.path.name, place, [clipped(group.label, 120), str(run.recipe.get("seed", "—")), key, accuracy]


def _search_panels(groups: Sequence[Group]) -> list[Panel]:
    courses = [[_numbered(search_epochs(run.metrics)) for run in group.runs] for group in groups]
    return [
        *_overlaid("Validation accuracy, search", "%", groups, courses, "val_accuracy", 100, "search epoch"),
        *_overlaid("Validation loss, search", "", groups, courses, "val_loss", 1, "search epoch"),
    ]


def _numbered(epochs: Sequence[Epoch]) -> list[dict[str, Any]]:
    """The rows of search epochs with numbers from 0 through all stages."""
    return [{**epoch.row, "epoch": epoch.number - 1} for epoch in epochs]


def _retrain_panels(groups: Sequence[Group]) -> list[Panel]:
    courses = [[rows for run in group.runs for rows in retrain_epochs(run.metrics).values()] for group in groups]
    return [
        *_overlaid("Test accuracy, retraining", "%", groups, courses, "test_accuracy", 100, "epoch of retraining"),
        *_overlaid("Training loss, retraining", "", groups, courses, "train_loss", 1, "epoch of retraining"),
    ]


def _overlaid(
    title: str,
    unit: str,
    groups: Sequence[Group],
    courses: Sequence[Sequence[Sequence[Mapping[str, Any]]]],
    key: str,
    scale: float,
    x: str,
) -> list[Panel]:
    """A panel with a line for each group: the mean of its courses, and a band."""
    last = max((row["epoch"] + 1 for of in courses for rows in of for row in rows), default=0)
    epochs = list(range(1, last + 1))
    lines: list[Line] = []
    for k, (name, of) in enumerate(zip(_names(groups), courses)):
        value = lambda row: number_at(row, key, scale=scale)  # noqa: E731
        lines.append(spread_line(name, of, value, epochs, cycle(k), DASHES[k % len(DASHES)]))
    found = [line for line in lines if line.drawn]
    return [Panel(title, unit, epochs, found, x=x)] if found else []

"""What a sweep has come to: a row per setting, each compared with its baseline, and the figure."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from topocell.genotype.genotype import Genotype
from topocell.studies import _plots
from topocell.studies._items import Outcome
from topocell.studies._statistics import (
    Comparison,
    compare,
    format_p,
    holm,
    interval_text,
    place_verdict,
    summary,
    uniform_p,
    verdict,
)
from topocell.studies._training import parameters, scale
from topocell.studies.compare import skips
from topocell.studies.sweep.plan import Arm
from topocell.studies.sweep.protocols import Course, Records


def outcome_of(course: Course, records: Records, failed: Mapping[str, str], workers: str) -> Outcome:
    """The table, the figure and the sentences of a sweep."""
    plan, arms = course.plan, course.arms
    values = {arm.label: course.accuracies(arm, records) for arm in arms}
    bases = {arm.label: plan.base_of(arm, arms) for arm in arms}
    compared = {
        arm.label: compare(values[arm.label], values[base.label])
        for arm in arms
        if (base := bases[arm.label]) is not None and values[arm.label] and values[base.label]
    }
    corrected = dict(zip(compared, holm([found.p for found in compared.values()])))
    paired = dict(zip(compared, holm([found.paired_p for found in compared.values()])))
    tests = sum(found.p is not None for found in compared.values())
    sentences = [
        verdict(label, bases[label].label, found, corrected[label], tests)  # type: ignore[union-attr]
        for label, found in compared.items()
    ]
    means, places = _places(course, records, {base.label for base in bases.values() if base is not None})
    standings = [place_verdict(label, means[label], p, len(places)) for label, p in places.items()]
    rows = [
        _row(course, arm, records, values[arm.label])
        | {"p (percentiles)": format_p(places[arm.label]) if arm.label in places else None}
        | _against(bases[arm.label], compared.get(arm.label), corrected.get(arm.label), paired.get(arm.label))
        for arm in arms
    ]
    runs = {arm.label: _runs(course, arm, records) for arm in arms}
    details = {
        "protocol": plan.protocol,
        "workers": workers,
        "accuracies": {label: list(of.values()) for label, of in values.items()},
        "intervals": {label: _interval(list(of.values())) for label, of in values.items()},
        "rows": rows,
        "verdicts": sentences,
        "standings": standings,
        "runs": runs,
        "failed": dict(failed),
    }
    notes = [*sentences, *standings, *_notes(course, records, failed, tests, len(places))]
    shown = {label: list(of.values()) for label, of in values.items() if of}

    def draw(path: Path) -> None:
        if shown:
            _plots.dots(shown, _axis(course, records), path)

    return Outcome(rows, draw, len(plan.seeds), details, notes)


def _places(course: Course, records: Records, bases: Collection[str]) -> tuple[dict[str, float], dict[str, float]]:
    """The mean percentile of the cells of each row but the `bases`, and p of `uniform_p`, corrected for these rows."""
    found = {arm.label: _percentiles(course, arm, records) for arm in course.arms if arm.label not in bases}
    kept = {label: values for label, values in found.items() if values}
    p = holm([uniform_p(values) for values in kept.values()])
    means = {label: sum(values) / len(values) for label, values in kept.items()}
    return means, {label: value for label, value in zip(kept, p) if value is not None}


def _percentiles(course: Course, arm: Arm, records: Records) -> list[float]:
    return [record["percentile"] for record in course.finals(arm, records).values() if "percentile" in record]


def _interval(values: list[float]) -> list[float | None]:
    """The 95 % interval of the mean; None where there is none."""
    found = summary(values) if values else None
    return [found.low, found.high] if found else [None, None]


def _row(course: Course, arm: Arm, records: Records, values: Mapping[int, float]) -> dict[str, Any]:
    finals = course.finals(arm, records)
    found = summary(list(values.values())) if values else None
    cells = [Genotype.from_dict(record["genotype"]) for record in finals.values()]
    sizes = [size for record in finals.values() if (size := parameters(record)) is not None]
    checked = [100 * records[key]["validation"]["mean"] for key in _keys(course, arm, records)]
    percentiles = _percentiles(course, arm, records)
    seconds = [record["timings"].get("search") for record in finals.values() if record["timings"].get("search")]
    return {
        "recipe": arm.label,
        "n": found.n if found else 0,
        "accuracy %": found.mean if found else None,
        "± %": found.std if found else None,
        "95 % interval": interval_text(found.low if found else None, found.high if found else None),
        "best %": max(values.values()) if values else None,
        "validation %": max(checked) if checked else None,
        "percentile %": sum(percentiles) / len(percentiles) if percentiles else None,
        "parameters": sum(sizes) / len(sizes) if sizes else None,
        "skips": sum(map(skips, cells)) / len(cells) if cells else None,
        "search seconds": sum(seconds) / len(seconds) if seconds else None,
    }


def _keys(course: Course, arm: Arm, records: Records) -> list[str]:
    keys = [arm.run_key(seed) for seed in course.plan.seeds]
    return [key for key in keys if key in records and "validation" in records[key]]


def _against(base: Arm | None, found: Comparison | None, p: float | None, paired_p: float | None) -> dict[str, Any]:
    return {
        "baseline": base.label if base is not None else None,
        "difference %": found.difference if found else None,
        "of the difference": interval_text(found.low, found.high) if found else None,
        "p (Welch)": format_p(p) if p is not None else None,
        "paired difference": interval_text(found.paired_low, found.paired_high) if found else None,
        "p (bootstrap)": format_p(paired_p) if paired_p is not None else None,
    }


def _runs(course: Course, arm: Arm, records: Records) -> list[dict[str, Any]]:
    """Each run of a row: its seed, directory, cell, accuracies, and what was made of it."""
    found = []
    finals = course.finals(arm, records)
    for seed in course.plan.seeds:
        key = arm.run_key(seed)
        first, final = records.get(key), finals.get(seed)
        checked = (first or {}).get("validation")
        whole = final or {}
        values = [100 * run["last"] for run in whole["results"].get("runs", [])] if final else []
        looked_up = bool(final) and "ground_truth" in whole["results"]
        if looked_up:
            values = [whole["results"]["ground_truth"]["accuracy"]]
        state = "looked up" if looked_up else "retrained" if final else "not chosen" if first else "not finished"
        found.append(
            {
                "seed": seed,
                "directory": f"runs/{key}",
                "cell": (first or {}).get("key"),
                "validation": None if checked is None else 100 * checked["mean"],
                "accuracies": values,
                "percentile": whole.get("percentile"),
                "host": whole.get("host"),
                "state": state,
            }
        )
    return found


def run_rows(outcome: Outcome) -> list[dict[str, Any]]:
    """A row for each run of a sweep, for a file: accuracies in percent, several of them with blanks between."""
    return [
        {"recipe": label, **run, "accuracies": " ".join(map(repr, run["accuracies"]))}
        for label, runs in outcome.summary["runs"].items()
        for run in runs
    ]


def _axis(course: Course, records: Records) -> str:
    looked_up = any("percentile" in record for arm in course.arms for record in course.finals(arm, records).values())
    return "true accuracy, %" if looked_up else "test accuracy, %"


def _notes(course: Course, records: Records, failed: Mapping[str, str], tests: int, places: int) -> list[str]:
    plan = course.plan
    finals = [record for arm in course.arms for record in course.finals(arm, records).values()]
    evaluated = "looked up" if finals and all("ground_truth" in record["results"] for record in finals) else "retrained"
    said = {
        "all": f"Every cell is {evaluated}; ± and n are over searches, {len(plan.seeds)} of each row.",
        "best-by-validation": f"Of {len(plan.seeds)} searches of each row, the cell of the highest accuracy in a short "
        f"training on the search split was kept; ± and n are over its retrainings, not over searches.",
        "shallow-filter": "Cells whose mean accuracy in shallow networks, trained and validated on the search split, "
        "exceeds shallow.threshold are retrained; ± and n are over these.",
    }[plan.protocol]
    notes = [said, "The test images have decided nothing."]
    if finals:
        notes.append(scale(finals[0]))
    if tests:
        notes.append(
            "95 % intervals are by Student's t. p is that of Welch's t-test, two-sided, and of a bootstrap of the "
            f"differences at equal seeds, each corrected for {tests} comparison{'s' * (tests != 1)} (Holm). “Better” "
            "and “worse” go by Welch's test at 5 %."
        )
    if places:
        notes.append(
            "p of percentiles is the probability that as many cells, drawn uniformly from all of the table, exceed "
            "a share of them so far from 50 % in the mean: exact (Irwin-Hall), two-sided, corrected for "
            f"{places} row{'s' * (places != 1)} (Holm). It knows all cells, Welch's test only those of the baseline."
        )
    for arm in course.arms:
        if not course.finals(arm, records):
            notes.append(f"{arm.label}: no cell was retrained.")
    notes += [f"Failed: {key}: {reason}." for key, reason in failed.items()]
    return notes

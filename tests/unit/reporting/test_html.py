"""The report: honest numbers, nothing unescaped, finished or unfinished, the same bytes for the same run."""

import base64
import errno
import hashlib
import json
import math
import os
import re
import statistics
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topocell.cli import main
from topocell.data.preprocessing import Preprocessing
from topocell.errors import RunError, TopocellError
from topocell.genotype.published import published
from topocell.io import files
from topocell.reporting import series
from topocell.reporting.epochs import search_epochs
from topocell.reporting.html import write_report, write_run_figures
from topocell.reporting.page import SCRIPTS
from topocell.reporting.scores import score_headline, score_lines
from topocell.reporting.tables import (
    format_accuracy,
    format_count,
    format_percent,
    format_seconds,
    is_number,
    results_table,
)

CELL = {
    "inputs": 2,
    "nodes": [[["sep_conv_3x3", 0], ["skip_connect", 1]], [["dil_conv_5x5", 2], ["max_pool_3x3", 0]]],
    "concat": [2, 3],
}
GENOTYPE = {
    "format": 1,
    "space": "darts",
    "cells": {"normal": CELL, "reduce": CELL},
    "origin": {"recipe": "dots", "seed": 7, "run": "demo"},
}
CURVES = {
    "search": series.search_panels,
    "architecture": series.architecture_panels,
    "operations": series.operation_panels,
    "retrain": series.retrain_panels,
}
VOID = {"meta", "br", "path", "use", "input", "rect"}


def search_row(stage, index, epoch, **changes):
    return {
        "phase": "search",
        "stage": stage,
        "stage_index": index,
        "epoch": epoch,
        "train_loss": 2.0 / (1 + epoch + index),
        "train_accuracy": 0.5,
        "val_loss": 2.1,
        "val_accuracy": 0.4,
        "lr": 0.025,
        "op_temperature": 5.0,
        "edge_temperature": 1.0,
        "penalty": None,
        "alpha_entropy": {"normal": 1.9, "reduce": 1.8},
        "beta_entropy": None if index == 0 else {"normal": 0.6, "reduce": 0.5},
        "derived": GENOTYPE["cells"],
        "operations": {"normal": {"skip_connect": 1 + epoch, "sep_conv_3x3": 3 - epoch}, "reduce": {"noise": 4}},
        "depth": {"normal": 2, "reduce": 2},
        "width": {"normal": 1, "reduce": 1},
        "gap": {"soft": 0.4321, "derived": 0.1234},
        "warnings": ["skip connections take over the normal cell"] if epoch else [],
        **changes,
    }


def retrain_row(seed, epoch, **changes):
    row = {"phase": "retrain", "seed": seed, "epoch": epoch, "train_loss": 1.0, "train_accuracy": 0.8, "lr": 0.02}
    return {**row, "test_loss": 1.1, "test_accuracy": 0.7 + 0.01 * epoch, "drop_path": 0.1, **changes}


def results(n=3):
    runs = [{"seed": s, "last": 0.97 + 0.001 * s, "best": 0.975 + 0.001 * s, "best_epoch": 4 + s} for s in range(n)]
    summary = {}
    for which in ("last", "best"):
        values = [run[which] for run in runs]
        summary[f"{which}_mean"] = statistics.mean(values)
        summary[f"{which}_std"] = statistics.stdev(values) if n > 1 else None
    sizes = {"parameters": 3_349_342, "multiply_adds": 528_000_000, "channels": 36, "layers": 20, "epochs": 3}
    images = {"dataset": "cifar10", "classes": 10, "train_images": 50000, "test_images": 10000}
    return {**images, **sizes, "runs": runs, **summary, "n": n}


METRICS = [
    *(search_row("operations", 0, e) for e in range(3)),
    *(search_row("topology", 1, e) for e in range(2)),
    {"phase": "select", "cell": "normal", "chosen": "sep_conv_3x3", "accuracy": 0.912345678},
    *(retrain_row(s, e) for s in range(3) for e in range(3)),
]
RECIPE = """name: dots
data: {dataset: cifar10}
search:
  stages: {operations: {epochs: 3}, topology: {epochs: 4}}
retrain: {epochs: 3}
"""
PARTS = {
    "recipe.yaml": RECIPE,
    "env.json": json.dumps({"torch": "2.15.0", "git_commit": None, "seeds": {"search": 11, "retrain": 12}}),
    "metrics.jsonl": "".join(json.dumps(row) + "\n" for row in METRICS),
    "genotype.json": json.dumps(GENOTYPE),
    "results.json": json.dumps(results()),
    "timings.json": json.dumps({"search": 3725.0, "retrain": 65.2}),
    "log.txt": "".join(f"line {k}\n" for k in range(100)),
}


def make_run(path, **changes):
    """A run directory; a change of None leaves the file out, `recipe_yaml` stands for recipe.yaml."""
    path.mkdir()
    for name, text in PARTS.items():
        text = changes.get(name.replace(".", "_"), text)
        if text is not None:
            (path / name).write_text(text)
    return path


class Page(HTMLParser):
    """Tags with attributes, the visible text, and a check that every element is closed in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words, self.scripts, self.open = [], [], [], []
        self.feed(text)
        self.close()
        self.text = re.sub(r"\s+", " ", " ".join(self.words))
        self.data = json.loads(self.scripts[0]) if self.scripts else {}

    @property
    def figures(self):
        """The names of the figures that the page has a place and data for."""
        placed = {attrs["data-figure"] for _, attrs in self.tags if "data-figure" in attrs}
        assert placed == set(self.data["figures"])
        return placed

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["script"]:
            self.scripts.append(data)
        elif self.open[-1:] != ["style"]:
            self.words.append(data)


def read(path):
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == []
    return page


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The report of a finished run; read only."""
    return write_report(make_run(tmp_path_factory.mktemp("finished") / "demo"))


def test_a_finished_run_shows_everything(finished):
    page = read(finished)
    for words in (
        "97.10 ± 0.10 %",
        "n = 3",
        "Best epoch, chosen on the test split: 97.60 ± 0.10 % (n = 3)",
        "3.35 M",
        "528 M",
        "2 ← sep 3×3(0) + skip(1)",
        "recipe dots, seed 7, run demo",
        "skip connections take over the normal cell operations 2–3",
        "skip connections take over the normal cell topology 5",
        "normal sep_conv_3x3 0.912346",
        "0 97.00 % 97.50 % 5",
        "mean of 3 97.10 ± 0.10 % 97.60 ± 0.10 %",
        "search 1 h 02 min",
        "in all 1 h 03 min",
        "torch 2.15.0",
        "seeds.retrain 12",
        "Test accuracy was computed by retraining only.",
        "over 3 retrainings of the same cell",
        "43.21 % on the validation split with its soft weights and 12.34 % masked",
        "The last 60 of 100 lines of the log",
    ):
        assert words in page.text
    assert "unfinished" not in page.text
    assert "line 99" in page.text
    assert "line 39 " not in page.text
    assert json.dumps(GENOTYPE) in "".join(page.words)
    assert RECIPE in "".join(page.words)
    assert page.figures == set(CURVES)
    assert sum(attrs.get("class") == "cell" for _, attrs in page.tags) == 2


def test_the_page_is_self_contained_and_runs_what_it_holds_alone(finished):
    page = read(finished)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"link", "img", "iframe", "object", "embed", "form", "base"}
    assert finished.stat().st_size < 6_000_000
    identifiers = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(identifiers) == len(set(identifiers))
    for _, attrs in page.tags:
        for name, value in attrs.items():
            assert not name.startswith("on")
            if name in ("href", "xlink:href", "src"):
                assert value.startswith("#")
                assert value[1:] in identifiers
            for target in re.findall(r"url\(#([^)]*)\)", value or ""):
                assert target in identifiers
    policy = next(a for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy")
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in page.scripts[1:]]
    assert len(hashes) == len(SCRIPTS)
    allowed = " ".join(f"'sha256-{found}'" for found in hashes)
    assert policy["content"] == (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed}; base-uri 'none'; form-action 'none'"
    )


def test_equal_runs_give_equal_bytes(finished, tmp_path):
    run = make_run(tmp_path / "demo")
    assert write_report(run).read_bytes() == finished.read_bytes()
    assert write_report(run).read_bytes() == finished.read_bytes()
    assert str(tmp_path) not in finished.read_text()


def test_hostile_strings_are_shown_and_not_run(tmp_path):
    evil = "</pre></svg><script>alert('x')</script><img src=x onerror=alert(1)>&amp;{{ 7*7 }}$\\x$\x07"
    rows = [search_row(evil, 0, 0, warnings=[evil], operations={evil: {evil: 2}}, depth={evil: 1}), retrain_row(0, 0)]
    rows.append({"phase": "select", evil: evil})
    run = make_run(
        tmp_path / "demo",
        recipe_yaml=json.dumps({"name": evil, "classes": [evil]}),
        env_json=json.dumps({evil: evil}),
        metrics_jsonl="".join(json.dumps(row) + "\n" for row in rows),
        genotype_json=json.dumps(
            {"cells": {evil: {"inputs": 1, "nodes": [[[evil, 0]]], "concat": [1]}}, "origin": {evil: evil}}
        ),
        results_json=json.dumps({**results(1), "dataset": evil, "channels": evil}),
        timings_json=json.dumps({evil: 1.0}),
        log_txt=evil,
    )
    page = read(write_report(run))
    assert "img" not in {tag for tag, _ in page.tags}
    assert sum(tag == "script" for tag, _ in page.tags) == len(SCRIPTS) + 1
    assert page.data["figures"]["operations"][0]["title"].startswith("Operations, </pre></svg>")
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert page.text.count("<script>alert('x')</script>") >= 12
    assert "{{ 7*7 }}" in page.text
    assert "\x07" not in (tmp_path / "demo/report.html").read_text()
    for figure in write_run_figures(run, tmp_path / "figures"):
        ET.parse(figure)


@pytest.mark.parametrize("there", [(), *((name,) for name in PARTS)], ids=lambda there: "".join(there) or "nothing")
def test_any_file_may_be_alone(there, tmp_path):
    missing = [name for name in PARTS if name not in there]
    run = make_run(tmp_path / "demo", **{name.replace(".", "_"): None for name in missing})
    page = read(write_report(run))
    for name in PARTS:
        state = "missing" if name in missing else "present"
        assert re.search(rf"{re.escape(name)} [a-z ]+ {state}", page.text)
    assert ("unfinished" in page.text) == ("results.json" in missing)
    assert ("No cell has been derived yet." in page.text) == ("genotype.json" in missing)
    assert ("no test accuracy yet" in page.text) == ("results.json" in missing)
    assert any(attrs.get("class") == "cell" for _, attrs in page.tags) == ("genotype.json" not in missing)
    assert ("search" in page.figures) == ("metrics.jsonl" not in missing)
    assert not (run / "figures").exists()


def test_an_unfinished_run_says_how_far_it_came(tmp_path):
    rows = [*METRICS[:5], retrain_row(0, 0), retrain_row(0, 1)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    page = read(write_report(make_run(tmp_path / "demo", results_json=None, metrics_jsonl=text)))
    assert "Search 5 of 7 epochs" in page.text
    assert "Retraining seed 0: 2 of 3 epochs" in page.text
    assert "No test accuracy has been computed for this run yet" in page.text
    assert "±" not in page.text


@pytest.mark.parametrize("name", [n for n in PARTS if n.endswith((".json", ".yaml"))])
@pytest.mark.parametrize("damage", ["{torn", "[1]", "\xff\x00"])
def test_a_damaged_file_is_named_and_the_rest_is_reported(name, damage, tmp_path):
    run = make_run(tmp_path / "demo", metrics_jsonl=None, genotype_json=None)
    (run / name).write_bytes(damage.encode("latin-1"))
    page = read(write_report(run))
    assert re.search(rf"{re.escape(name)} [a-z ]+ damaged: ", page.text)
    assert "Reading these numbers" in page.text


def test_torn_lines_of_the_metrics_are_counted_and_left_out(tmp_path):
    text = json.dumps(METRICS[5]) + "\n" + '[1, 2]\n{"phase": "retrain", "se'
    page = read(write_report(make_run(tmp_path / "demo", metrics_jsonl=text)))
    assert "present, 2 damaged lines left out" in page.text


def test_a_genotype_that_cannot_be_drawn_is_shown_with_the_reason(tmp_path):
    run = make_run(tmp_path / "demo", genotype_json='{"cells": {"normal": 3}}', metrics_jsonl=None)
    page = read(write_report(run))
    assert "The genotype cannot be drawn. a genotype lists for every cell" in page.text
    assert '{"cells": {"normal": 3}}' in page.text


def test_one_seed_is_given_without_a_spread(tmp_path):
    page = read(write_report(make_run(tmp_path / "demo", results_json=json.dumps(results(1)), metrics_jsonl=None)))
    assert "97.00 % n = 1" in page.text
    assert "±" not in page.text
    assert "One seed was retrained" in page.text
    assert "mean of" not in page.text


def test_figures_are_valid_reproducible_svg(tmp_path):
    run = make_run(tmp_path / "demo")
    first, second = (write_run_figures(run, tmp_path / name) for name in "ab")
    assert {path.stem for path in first} == {*CURVES, "cells"}
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert all(ET.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg" for path in first)
    text = (tmp_path / "a/search.svg").read_text()
    assert ">Stages: 1 operations · 2 topology<" in text and ">Discretisation gap, points<" in text


def test_no_run_directory_is_an_error_in_one_line(tmp_path):
    with pytest.raises(RunError, match=r"a report is written from a run directory, but .*none'"):
        write_report(tmp_path / "none")


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"phase": "select"}, {}],
        [{"phase": "search", "stage": "s", "stage_index": 0, "epoch": 0}],
        [{"phase": "retrain", "seed": 0, "epoch": 0, "test_loss": None, "train_accuracy": math.nan}],
        [{**search_row("s", 0, 0), "epoch": "x"}, retrain_row("y", 0)],
    ],
)
def test_nothing_is_drawn_from_nothing(name, rows):
    assert CURVES[name](rows) == []


@pytest.mark.parametrize("name", ["search", "architecture", "operations"])
def test_stages_are_marked_only_when_there_are_several(name):
    """Also a stage of a single epoch."""
    rows = [
        search_row(stage, k, e) for k, (stage, n) in enumerate((("one", 5), ("two", 1), ("three", 5))) for e in range(n)
    ]
    assert {tuple(panel.starts) for panel in CURVES[name](rows)} == {(1, 6, 7)}
    assert {tuple(panel.starts) for panel in CURVES[name](rows[:5])} == {()}
    found = series.stages_of(search_epochs(rows))
    assert [(s.number, s.name, s.first, s.last) for s in found] == [
        (1, "one", 1, 5),
        (2, "two", 6, 6),
        (3, "three", 7, 11),
    ]


def test_the_gap_is_that_of_soft_weights_and_derived_cell():
    (gap,) = [panel for panel in series.search_panels(METRICS) if panel.title == "Discretisation gap"]
    (line,) = gap.lines
    assert line.values == pytest.approx([43.21 - 12.34] * 5) and gap.unit == "points" and gap.rule == 0.0


def test_seeds_are_drawn_as_their_mean_and_a_band_of_one_deviation():
    rows = [retrain_row(s, e, test_accuracy=0.5 + 0.1 * s) for s in range(3) for e in range(3 - (s == 2))]
    (line,) = [
        line
        for panel in series.retrain_panels(rows)
        for line in panel.lines
        if (panel.title, line.label) == ("Accuracy", "test")
    ]
    assert line.values == pytest.approx([60.0, 60.0, 55.0])
    assert line.low == pytest.approx([50.0, 50.0, 55.0 - 50**0.5]) and line.high == pytest.approx(
        [70.0, 70.0, 55.0 + 50**0.5]
    )
    (alone,) = [
        line
        for panel in series.retrain_panels(rows[:3])
        for line in panel.lines
        if (panel.title, line.label) == ("Loss", "test")
    ]
    assert alone.low == () and alone.values == pytest.approx([1.1] * 3)


def test_epochs_count_through_stages_and_a_repeated_epoch_replaces_the_earlier_one():
    rows = [search_row("a", 0, 0), search_row("a", 0, 1), search_row("b", 1, 0), search_row("b", 1, 0, lr=0.5)]
    epochs = search_epochs([rows[2], rows[0], rows[1], rows[3], retrain_row(0, 0)])
    assert [(e.number, e.stage) for e in epochs] == [(1, "a"), (2, "a"), (3, "b")]
    assert epochs[2].row["lr"] == 0.5


def test_test_accuracy_of_the_last_half_gets_its_own_panel_from_ten_epochs_on():
    for n in (9, 10):
        panels = series.retrain_panels([retrain_row(0, e) for e in range(n)])
        assert [panel.epochs for panel in panels if "last half" in panel.title] == (
            [[6, 7, 8, 9, 10]] if n == 10 else []
        )


@pytest.mark.parametrize(
    ("mean", "std", "n", "text"),
    [
        (0.9751, 0.0006, 4, "97.51 ± 0.06 % (n = 4)"),
        (0.9751, None, 1, "97.51 % (n = 1)"),
        (0.9751, 0.0006, 1, "97.51 % (n = 1)"),
        (1.0, 0.0, 2, "100.00 ± 0.00 % (n = 2)"),
    ],
)
def test_accuracy_has_a_spread_only_for_several_runs(mean, std, n, text):
    assert format_accuracy(mean, std, n) == text


def test_accuracies_after_early_stopping_are_of_the_epoch_that_it_kept(tmp_path):
    stopped = results(2)
    for run in stopped["runs"]:
        run |= {"kept_epoch": 4, "stopped_epoch": 6, "validation": 0.9}
    assert results_table(stopped)[:2] == [
        ["seed", "kept epoch", "kept of", "best epoch", "best at epoch"],
        ["0", "97.00 %", "epoch 5 of 7", "97.50 %", "5"],
    ]
    assert {len(row) for row in results_table(stopped)} == {5}
    assert score_headline(stopped)["title"] == "Test accuracy, kept epoch"
    assert score_lines(stopped)[0].startswith("test accuracy, kept epoch: 97.05 ± 0.07 % (n = 2)")
    page = read(write_report(make_run(tmp_path / "run", results_json=json.dumps(stopped)))).text
    assert "last epoch" not in page.replace("after the last epoch or the one that early stopping kept", "")
    assert "the one with the highest accuracy on the images that early stopping held out" in page
    assert "Epochs, at most" in page


def test_results_table_has_a_mean_row_only_for_several_runs():
    assert results_table(results(2)) == [
        ["seed", "last epoch", "best epoch", "best at epoch"],
        ["0", "97.00 %", "97.50 %", "5"],
        ["1", "97.10 %", "97.60 %", "6"],
        ["mean of 2", "97.05 ± 0.07 %", "97.55 ± 0.07 %", ""],
    ]
    assert len(results_table(results(1))) == 2
    assert len(results_table({})) == 1


@pytest.mark.parametrize(
    ("value", "count", "seconds"),
    [
        (0, "0", "0.0 s"),
        (9.96, "10", "10 s"),
        (59.6, "60", "1 min 00 s"),
        (999, "999", "16 min 39 s"),
        (3599.7, "3.60 k", "1 h 00 min"),
        (999_950, "1.00 M", "11 d 14 h"),
        (528e6, "528 M", "6111 d 03 h"),
        (None, "—", "—"),
        (True, "—", "—"),
        ("12", "—", "—"),
        (math.nan, "—", "—"),
    ],
)
def test_counts_and_durations(value, count, seconds):
    assert format_count(value) == count
    assert format_seconds(value) == seconds


@given(st.floats(1000, 1e12))
def test_counts_keep_three_digits(value):
    number, unit = format_count(value).split(" ")
    assert float(number) * {"k": 1e3, "M": 1e6, "G": 1e9}[unit] == pytest.approx(value, rel=0.00501)


@given(st.one_of(st.none(), st.text(), st.booleans(), st.floats(), st.integers(-5, 5), st.lists(st.integers())))
def test_percent_takes_any_value(value):
    assert (format_percent(value) == "—") == (not is_number(value))


# --- a run that ends in a table

ARCH = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|skip_connect~0|none~1|avg_pool_3x3~2|"
GROUND_TRUTH = {"column": "cifar10_test_200ep", "accuracy": 93.2051, "regret": 1.1682, "optimum": 94.3733, "arch": ARCH}
TRAJECTORY = [{"stage": "search", "epoch": e, "arch": ARCH, "accuracy": 60.0 + 10 * e} for e in range(4)]
NASBENCH201 = {
    "format": 1,
    "space": "nasbench201",
    "cells": {"cell": {"inputs": 1, "nodes": [[["nor_conv_3x3", 0]], [["skip_connect", 1]], []], "concat": [3]}},
    "origin": {},
}


def looked_up(path, **changes):
    written = json.dumps({"ground_truth": {**GROUND_TRUTH, **changes}, "trajectory": TRAJECTORY})
    metrics = "".join(json.dumps(row) + "\n" for row in METRICS if row["phase"] == "search")
    run = make_run(path, results_json=written, genotype_json=json.dumps(NASBENCH201), metrics_jsonl=metrics)
    return read(write_report(run)), run


def test_a_run_that_ends_in_a_table_shows_the_true_accuracy_and_no_retraining(tmp_path):
    page, _ = looked_up(tmp_path / "demo")
    assert "True accuracy 93.21 % 1.17 points below the best cell (94.37 %)" in page.text
    assert "Regret 1.17 points Best cell 94.37 % Column cifar10_test_200ep" in page.text
    assert ARCH in page.text and "nothing was retrained" in page.text
    assert page.figures == {"search", "architecture", "operations", "ground_truth"}
    for absent in ("Accuracy per seed", "unfinished", "retraining only", "not yet", "Best epoch"):
        assert absent not in page.text
    (panel,) = page.data["figures"]["ground_truth"]
    assert [line["label"] for line in panel["lines"]] == ["derived cell", "best cell of the table"]


def test_a_run_that_was_retrained_shows_no_table(tmp_path):
    page = read(write_report(make_run(tmp_path / "demo")))
    assert "True accuracy" not in page.text and "Retraining" in page.text
    assert "ground_truth" not in page.figures


@pytest.mark.parametrize("value", [None, "high", float("nan"), True, [1]])
def test_a_true_accuracy_that_is_no_number_is_none(tmp_path, value):
    page, _ = looked_up(tmp_path / "demo", accuracy=value)
    assert "This run is unfinished" in page.text
    page, _ = looked_up(tmp_path / "other", regret=value, optimum=value)
    assert "True accuracy 93.21 % — points below the best cell (— %)" in page.text


@pytest.mark.parametrize("rows", [[], [{"epoch": 0}], [{"accuracy": None}, {"accuracy": "93"}]])
def test_a_trajectory_without_numbers_is_not_drawn(rows):
    assert series.ground_truth_panels(rows) == []


def test_the_trajectory_has_its_stages_and_the_best_cell():
    rows = [
        {"stage": stage, "epoch": e, "accuracy": 80.0 + e, "optimum": 94.4}
        for stage in ("operations", "edges")
        for e in range(6)
    ]
    (panel,) = series.ground_truth_panels(rows)
    assert panel.starts == [1, 7] and panel.lines[1].values == [94.4] * 12


def test_where_a_run_is_read_only_its_report_goes_elsewhere_before_any_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    run, page = make_run(tmp_path / "demo"), tmp_path / "page.html"
    real = files.replace

    def replace(path: Path, *parts: bytes) -> None:
        if run in path.parents:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        real(path, *parts)

    monkeypatch.setattr(files, "replace", replace)
    assert main(["report", str(run), "--figures", str(tmp_path / "figures")]) == 2
    said = capsys.readouterr().err
    assert "(read-only file system); change that or choose another place (topocell report --out)\n" in said
    assert not (tmp_path / "figures").exists()
    assert main(["report", str(run), "--figures", str(tmp_path / "figures"), "--out", str(page)]) == 0
    assert page.stat().st_size > 1000 and list((tmp_path / "figures").glob("*.svg"))


def test_a_place_that_cannot_be_written_names_an_option_where_there_is_one(tmp_path: Path) -> None:
    genotype = published("darts-v2").genotype
    how = Preprocessing(("a", "b"), (0.5,), (0.2,), (8, 8), 1, "fit", (0, 0, 0), "cifar", "plain")
    for write in (genotype.save, how.save):
        with pytest.raises(TopocellError, match=r"mend that or choose another place$"):
            write(tmp_path / "absent" / "file.json")
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"choose another place \(--figures\)$"):
        write_run_figures(make_run(tmp_path / "demo"), tmp_path / "file")

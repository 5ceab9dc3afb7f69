"""Runs side by side: groups by recipe, means and deviations in closed form, a page that holds what it shows."""

import io
import json
import re
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.reporting.test_html import METRICS, PARTS, Page, results

from topocell.cli import main
from topocell.config.load import load_recipe
from topocell.errors import RunError
from topocell.genotype.genotype import Genotype
from topocell.genotype.published import published
from topocell.reporting.comparison import (
    comparison_table,
    differences_table,
    groups_of,
    read_runs,
)
from topocell.reporting.tables import flattened
from topocell.runs.reports import write_comparison

RECIPE = yaml.safe_load(PARTS["recipe.yaml"])


def make(path: Path, seed: int, lasts: list[float], **changes: Any) -> Path:
    """A finished run of a seed with the accuracies of its networks."""
    path.mkdir(parents=True)
    recipe = {**RECIPE, "seed": seed, **changes}
    found = results(len(lasts))
    for run, last in zip(found["runs"], lasts, strict=True):
        run["last"] = last
    found["last_mean"] = statistics.mean(lasts)
    cell = json.loads(PARTS["genotype.json"])
    cell["origin"] = {**cell["origin"], "seed": seed}
    for name, text in {**PARTS, "genotype.json": json.dumps(cell)}.items():
        (path / name).write_text(text)
    (path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (path / "results.json").write_text(json.dumps(found))
    return path


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two seeds of dots and one of another setting; of the latter with two networks."""
    return [
        make(tmp_path / "a", 0, [0.90, 0.92]),
        make(tmp_path / "b", 1, [0.80]),
        make(tmp_path / "wide", 0, [0.5, 0.6], retrain={"epochs": 9}),
    ]


def test_runs_that_differ_in_their_seeds_alone_are_a_group(runs: list[Path]) -> None:
    """± of several searches is over them, of one over its networks."""
    first, wide = groups_of(read_runs([*runs, runs[0]]))
    assert [run.path.name for run in first.runs] == ["a", "b"] and [run.path.name for run in wide.runs] == ["wide"]
    assert (first.label, wide.label) == ("dots retrain.epochs=3", "dots retrain.epochs=9")
    assert first.values == pytest.approx([91.0, 80.0]) and wide.values == pytest.approx([50.0, 60.0])
    assert first.spread == pytest.approx(11 / 2**0.5) and wide.spread == pytest.approx(10 / 2**0.5)
    head, *rows = comparison_table([first, wide])
    table = [dict(zip(head, row, strict=True)) for row in rows]
    assert [(row["searches"], row["accuracy"], row["mean of"]) for row in table] == [
        ("2", "85.50 ± 7.78 %", "2 searches"),
        ("1", "55.00 ± 7.07 %", "2 retrainings"),
    ]
    assert table[0]["parameters"] == "3.35 M" and table[0]["skips"] == "2" and table[0]["search time"] == "1 h 02 min"
    assert differences_table([first, wide]) == [["setting", first.label, wide.label], ["retrain.epochs", "3", "9"]]
    assert differences_table([first]) == []


def test_cells_that_the_recipe_has_not_found_are_rows_of_their_own(tmp_path: Path) -> None:
    """A random cell beside a run, published ones, one without an origin; not a retraining of a found one."""
    mine = json.loads(PARTS["genotype.json"])
    bare = Genotype.from_dict({**mine, "origin": {}})
    cells = {
        "a": mine,
        "b": {**mine, "origin": {**mine["origin"], "seed": 8}},
        "random": {**mine, "origin": {"recipe": "random", "seed": 7}},
        "v1": published("darts-v1").genotype.to_dict(),
        "v2": published("darts-v2").genotype.to_dict(),
        "text": bare.to_dict(),
    }
    for seed, (name, cell) in enumerate(cells.items()):
        (make(tmp_path / name, seed, [0.9]) / "genotype.json").write_text(json.dumps(cell))
    (make(tmp_path / "begun", 9, [0.9]) / "genotype.json").unlink()
    groups = groups_of(read_runs([tmp_path / name for name in [*cells, "begun"]]))
    assert {group.label: [run.path.name for run in group.runs] for group in groups} == {
        "dots cell=found": ["a", "b", "begun"],
        "dots cell=random": ["random"],
        "dots cell=darts-v1": ["v1"],
        "dots cell=darts-v2": ["v2"],
        f"dots cell={bare.key}": ["text"],
    }


def test_a_copy_of_a_run_is_no_further_search(runs: list[Path], tmp_path: Path) -> None:
    shutil.copytree(runs[0], tmp_path / "copy")
    (tmp_path / "link").symlink_to(runs[0], target_is_directory=True)
    found = read_runs([*runs, tmp_path / "copy", tmp_path / "link"])
    assert [run.path.name for run in found] == ["a", "b", "wide"]


def test_retrainings_of_a_search_are_no_further_searches(runs: list[Path]) -> None:
    """The same network counts once, one of another seed makes the accuracy of the search surer."""
    again = make(runs[0] / "retrainings/again", 0, [0.90, 0.92])
    (group,) = groups_of(read_runs([runs[0], again]))
    assert group.values == pytest.approx([90.0, 92.0]) and group.searches == 1
    assert comparison_table([group])[1][1:4] == ["1", "91.00 ± 1.41 %", "2 retrainings"]
    further = make(again / "retrainings/further", 0, [0.94, 0.96])
    (group,) = groups_of(read_runs([runs[0], runs[1], further]))
    assert group.values == pytest.approx([93.0, 80.0]) and group.searches == 2
    assert comparison_table([group])[1][3] == "2 searches"


def test_trainings_of_a_given_cell_are_no_searches(tmp_path: Path) -> None:
    cell = json.dumps(published("darts-v2").genotype.to_dict())
    for seed, last in enumerate((0.9, 0.8)):
        (make(tmp_path / str(seed), seed, [last]) / "genotype.json").write_text(cell)
    (group,) = groups_of(read_runs([tmp_path / "0", tmp_path / "1"]))
    assert group.searches == 1 and comparison_table([group])[1][2:4] == ["85.00 ± 7.07 %", "2 retrainings"]
    (make(tmp_path / "2", 2, [0.9]) / "genotype.json").write_text(cell)
    (group,) = groups_of(read_runs([tmp_path / name for name in "012"]))
    assert group.values == pytest.approx([90.0, 80.0, 90.0])


def test_fine_tuned_networks_are_a_row_of_their_own(runs: list[Path]) -> None:
    tuned = make(runs[0] / "retrainings/tuned", 0, [0.99])
    found = json.loads((tuned / "results.json").read_text())
    (tuned / "results.json").write_text(json.dumps({**found, "initial_weights": "a, seed 0"}))
    scratch, of_weights = groups_of(read_runs([runs[0], tuned]))
    assert scratch.values == pytest.approx([90.0, 92.0]) and of_weights.values == pytest.approx([99.0])
    assert of_weights.label == "dots weights=a, seed 0"


def seen(path: Path, classes: list[str], fingerprint: str) -> Path:
    (path / "env.json").write_text(json.dumps({"class_names": classes, "data_fingerprint": fingerprint}))
    return path


def test_runs_on_other_images_are_rows_of_their_own(tmp_path: Path) -> None:
    """Those given from Python have no place that tells them apart; a part of them is chosen by the seed of the run."""
    given = {**RECIPE["data"], "dataset": "given", "root": None, "images": None}
    some = {**given, "images": results(1)["train_images"]}
    sets = [
        ("a", given, ["cat"], "x"),
        ("b", given, ["cat"], "y"),
        ("c", given, ["cat"], "x"),
        ("d", given, ["dog"], "x"),
    ]
    sets += [("e", some, ["cat"], "x"), ("f", some, ["cat"], "y"), ("g", some, ["dog"], "x")]
    places = [seen(make(tmp_path / name, 0, [0.9], data=data), *of) for name, data, *of in sets]
    groups = groups_of(read_runs([seen(path, *of) for path, (_, _, *of) in zip(places, sets)]))
    assert sorted(["".join(run.path.name for run in group.runs) for group in groups]) == ["a", "b", "d", "ef", "g"]
    folder = {**RECIPE["data"], "dataset": "folder", "root": "photos"}
    places = [seen(make(tmp_path / f"{n}", n, [0.9], data=folder), ["cat"], "xxy"[n]) for n in range(3)]
    assert [len(group.runs) for group in groups_of(read_runs(places))] == [2, 1]


def test_what_changes_no_result_makes_no_row(tmp_path: Path) -> None:
    """Where images are and who reads them, how steps are carried out, how many processes make the trials."""
    changes: list[dict[str, Any]] = [
        {"data": {**RECIPE["data"], "download": True, "root": "photos/", "workers": 2, "cache_root": "c"}},
        {"runtime": {"capture": "off"}},
        {"selection": {"trials": {"workers": 4}}},
        {"log": ["csv"], "on_nan": "skip"},
    ]
    base = {"data": {**RECIPE["data"], "root": "/a/photos"}, "selection": {"trials": {"workers": 1}}}
    places = [make(tmp_path / str(n), n, [0.9], **{**base, **change}) for n, change in enumerate(changes)]
    (group,) = groups_of(read_runs(places))
    assert group.label == "dots" and group.searches == 4


def test_a_search_that_finds_the_same_from_the_same_seed_is_no_further_one(tmp_path: Path) -> None:
    """The same command again, a found cell trained in another place; not another seed, nor another cell."""
    first, again = make(tmp_path / "a", 0, [0.90, 0.92]), make(tmp_path / "b", 0, [0.90, 0.92])
    (group,) = groups_of(read_runs([first, again]))
    assert comparison_table([group])[1][1:4] == ["1", "91.00 ± 1.41 %", "2 retrainings"]
    elsewhere = make(tmp_path / "c", 1, [0.94])
    (elsewhere / "genotype.json").write_text((first / "genotype.json").read_text())
    (group,) = groups_of(read_runs([first, elsewhere]))
    assert group.searches == 1 and group.values == pytest.approx([90.0, 92.0, 94.0])
    cell = json.loads((again / "genotype.json").read_text())
    cell["cells"]["normal"]["nodes"][0][0][0] = "sep_conv_5x5"
    (again / "genotype.json").write_text(json.dumps(cell))
    (group,) = groups_of(read_runs([first, again]))
    assert group.searches == 2


def test_folders_of_a_user_that_are_called_as_those_of_a_run(tmp_path: Path) -> None:
    places = [make(tmp_path / "retrainings" / str(n), n, [0.9]) for n in range(2)]
    for place in places:
        (place / "genotype.json").unlink()
    assert groups_of(read_runs(places))[0].searches == 2


def test_the_mean_says_of_how_many_searches_it_is(tmp_path: Path) -> None:
    places = [make(tmp_path / str(n), n, [0.9, 0.92]) for n in range(4)]
    for place, words in zip(places, ("3 of 4 searches", "2 of 4 searches", "2 retrainings of 1 of 4 searches", "—")):
        (place / "results.json").unlink()
        (row,) = comparison_table(groups_of(read_runs(places)))[1:]
        assert (row[1], row[3]) == ("4", words)
        assert row[2] == ("—" if words == "—" else f"91.00 ± {1.41 if 'retrainings' in words else 0:.2f} %")
    make(tmp_path / "one", 0, [0.9])
    assert comparison_table(groups_of(read_runs([tmp_path / "one"])))[1][1:4] == ["1", "90.00 %", "—"]


def test_more_seeds_make_the_same_row_surer(runs: list[Path], tmp_path: Path) -> None:
    more = make(tmp_path / "c", 2, [0.85])
    (group,) = groups_of(read_runs([*runs[:2], more]))
    assert len(group.values) == 3 and group.spread == pytest.approx(statistics.stdev([91.0, 80.0, 85.0]))


def test_a_sweep_is_its_runs_and_an_unfinished_run_has_no_accuracy(tmp_path: Path) -> None:
    make(tmp_path / "sweep/runs/x", 0, [0.9])
    (make(tmp_path / "sweep/runs/y", 1, [0.9]) / "results.json").unlink()
    (group,) = groups_of(read_runs([tmp_path / "sweep"]))
    assert [run.path.name for run in group.runs] == ["x", "y"] and group.values == [90.0] and group.spread is None
    with pytest.raises(RunError, match=r"is neither a run directory, .*, nor a sweep"):
        read_runs([tmp_path])


def test_the_page_shows_table_curves_cells_and_leads_to_the_reports(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs[0] / "report.html").write_text("x")
    out = tmp_path / "pages/side.html"
    assert main(["report", *map(str, runs), "--out", str(out)]) == 0
    assert capsys.readouterr().out.split() == [str(out)]
    page = Page(out.read_text())
    assert page.open == [] and page.figures == {"search", "retrain"}
    for words in ("3 runs, 2 recipes or settings", "85.50 ± 7.78 %", "55.00 ± 7.07 %", "retrain.epochs 3 9"):
        assert words in page.text
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    assert links == ["../a/report.html"]
    assert sum(attrs.get("class") == "cell" for _, attrs in page.tags) == 6
    dots, wide = page.data["dots"]["accuracy"]["rows"]
    assert dots["values"] == pytest.approx([91.0, 80.0]) and wide["mean"] == pytest.approx(55.0)
    (accuracy,) = [panel for panel in page.data["figures"]["retrain"] if panel["title"].startswith("Test accuracy")]
    assert [line["label"] for line in accuracy["lines"]] == ["dots retrain.epochs=3", "dots retrain.epochs=9"]
    tested = [row["test_accuracy"] for row in METRICS if row["phase"] == "retrain" and row["epoch"] == 2]
    assert accuracy["lines"][1]["values"][2] == pytest.approx(100 * statistics.mean(tested))
    before = out.read_bytes()
    assert write_comparison(runs, out).read_bytes() == before


def test_runs_that_are_too_small_are_stamped(tmp_path: Path) -> None:
    """Once for all of a kind, also where their words differ."""
    small = [make(tmp_path / str(n), 0, [0.9], retrain={"epochs": 1}, data={"images": n}) for n in (48, 96)]
    page = Page(write_comparison(small, tmp_path / "side.html").read_text())
    assert page.text.count("Smoke budget (2 of 2 runs)") == 1
    assert "This shows that every step works, and says nothing about the method." in page.text


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    run = make(tmp_path / "a", 0, [0.9], name=evil)
    page = Page(write_comparison([run, make(tmp_path / "b", 1, [0.9])], tmp_path / "side.html").read_text())
    assert page.open == [] and evil in page.text and sum(tag == "script" for tag, _ in page.tags) == 5


def test_the_command_compares_in_the_terminal_what_the_page_shows(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *map(str, runs)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "85.50 ± 7.78 %" in shown and "2 searches" in shown and "multiply-adds" in shown
    assert main(["report", *map(str, runs), "--figures", str(tmp_path / "figures")]) == 2
    assert "figures are drawn of one run" in capsys.readouterr().err
    make(runs[0] / "runs" / "within", 0, [0.9])  # a run that holds others is one all the same
    page = tmp_path / "new" / "page.html"
    assert main(["report", str(runs[0]), "--out", str(page)]) == 0
    assert capsys.readouterr().out == f"{page}\n" and not (runs[0] / "report.html").exists()
    assert main(["report", str(runs[0])]) == 0 and capsys.readouterr().out == f"{runs[0] / 'report.html'}\n"
    assert (runs[0] / "report.html").read_bytes() == page.read_bytes()
    assert main(["report", str(tmp_path / "none"), str(runs[0]), "--out", str(tmp_path / "x.html")]) == 2
    assert "is neither a run directory" in capsys.readouterr().err and not (tmp_path / "x.html").exists()
    assert main(["report", str(runs[0]), "--figures", str(tmp_path / "figures")]) == 0
    assert str(tmp_path / "figures/retrain.svg") in capsys.readouterr().out


def test_a_cell_that_is_given_as_its_text_is_called_by_its_place(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = published("dots-c10").genotype.to_darts()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert main(["compare", text, "darts-v2", "-"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"\bcell\W+text 1\W+darts-v2\W+text 3\W*\n", shown) and "Genotype" not in shown


def test_groups_whose_names_are_cut_to_the_same_words_stay_apart(tmp_path: Path) -> None:
    alike = [f"a-recipe-whose-name-is-far-too-long-for-a-chart-{end}" for end in ("one", "two", "three")]
    runs = [make(tmp_path / name, 0, [0.1 * n], name=name) for n, name in enumerate(alike, start=1)]
    page = Page(write_comparison(runs, tmp_path / "side.html").read_text())
    labels = [row["label"] for row in page.data["dots"]["accuracy"]["rows"]]
    assert len(set(labels)) == 3 and all(len(label) <= 40 for label in labels)
    for panels in page.data["figures"].values():
        assert all([line["label"] for line in panel["lines"]] == labels for panel in panels)


def test_reports_are_linked_to_whatever_their_directory_is_called(tmp_path: Path) -> None:
    run = make(tmp_path / "runs" / "100 % #1?", 0, [0.9])
    (run / "report.html").write_text("x")
    page = Page(write_comparison([run], tmp_path / "side.html").read_text())
    assert [attrs["href"] for tag, attrs in page.tags if tag == "a"] == ["runs/100%20%25%20%231%3F/report.html"]


def test_a_setting_of_a_row_is_one_that_can_be_given() -> None:
    """null as well: data.images=null, and not a word that a recipe does not take."""
    recipe = load_recipe("dots", ["data.images=null", "data.test_images=null", "retrain.top_k=null"])
    unset = [
        f"{key}={text}" for key, text in flattened(recipe.model_dump(mode="json")["data"], "data") if text == "null"
    ]
    assert "data.images=null" in unset and load_recipe("dots", unset).data == recipe.data

"""What notebooks show of genotypes, runs and recipes: it says what is there, is well formed, and runs nothing."""

import base64
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest

import topocell
from topocell.genotype.genotype import CellGenotype, Genotype
from topocell.genotype.published import published

EVIL = "</pre><script>alert(1)</script><img src=x onerror='alert(1)'>\"'"
PLAIN = ("div", "strong", "table", "tr", "details", "summary", "pre")
ALLOWED = {**{tag: set() for tag in PLAIN}, "th": {"style"}, "td": {"style"}, "img": {"alt", "style", "src"}}


class Strict(HTMLParser):
    """Reads HTML of which every tag is allowed and closed; `text` is its words, `pictures` its images."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.pictures: list[ET.Element] = []
        self.feed(html)
        self.close()
        assert self.open == []
        self.text = " ".join(self.words)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED and {name for name, _ in attributes} <= ALLOWED[tag], (tag, attributes)
        if tag != "img":
            self.open.append(tag)
            return
        kind, _, data = (dict(attributes)["src"] or "").partition(";base64,")
        assert kind == "data:image/svg+xml"
        self.pictures.append(svg(base64.b64decode(data).decode()))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def svg(text: str) -> ET.Element:
    """A drawing, of whose elements and attributes none runs or loads anything."""
    root = ET.fromstring(text)
    for element in root.iter():
        tag = element.tag.rpartition("}")[2]
        assert tag in {"svg", "rect", "path", "polygon", "text", "tspan"}, tag
        assert not [name for name in element.attrib if name.startswith("on") or "href" in name]
    return root


def test_a_genotype_is_shown_as_its_drawing() -> None:
    genotype = published("dots-c10").genotype
    root = svg(genotype._repr_svg_() or "")
    ids = [element.get("id") or "" for element in root.iter()]
    edges = sum(len(pairs) for cell in genotype.cells.values() for pairs in cell.nodes)
    assert sum("-edge-" in name for name in ids) == edges


def test_a_genotype_too_large_for_a_drawing_is_shown_as_text() -> None:
    nodes = tuple(tuple(("skip_connect", 0) for _ in range(200)) for _ in range(2))
    cell = CellGenotype(2, nodes, (2, 3))
    genotype = Genotype("own", {"normal": cell, "reduce": cell})
    assert genotype._repr_svg_() is None
    assert genotype.key in {genotype.key} and "skip_connect" in repr(genotype)


def test_a_recipe_is_shown_with_its_choices_and_all_keys() -> None:
    recipe = topocell.load_recipe("dots", ["seed=3"])
    shown = Strict(recipe._repr_html_())
    assert "Recipe dots" in shown.words and recipe.about in shown.words and "darts" in shown.words
    assert "operations 30, topology-warmup 20, topology 20" in shown.words
    assert recipe.to_yaml() in shown.words


def test_a_recipe_with_names_from_anywhere_stays_text() -> None:
    recipe = topocell.load_recipe("dots").model_copy(update={"about": EVIL, "source": EVIL})
    assert Strict(recipe._repr_html_()).words.count(EVIL) == 2


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The directory of a finished run whose texts come from anywhere."""
    path = tmp_path / "run"
    path.mkdir()
    recipe = topocell.load_recipe("quickstart", budget="smoke").model_copy(update={"about": EVIL})
    (path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    rows = [{"phase": "search", "stage_index": 0, "stage": "a", "epoch": epoch} for epoch in range(3)]
    (path / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    results = {"last_mean": 0.91, "last_std": 0.02, "n": 3, "parameters": 55930, "runs": []}
    (path / "results.json").write_text(json.dumps(results))
    published("dots-c10").genotype.save(path / "genotype.json")
    return path


def test_a_run_is_shown_with_progress_accuracy_cell_and_recipe(run: Path) -> None:
    shown = Strict(topocell.Run(run)._repr_html_())
    assert {str(run), EVIL, "Run of quickstart", "Smoke budget", "3 epochs", "derived", "55.9 k"} <= set(shown.words)
    assert re.search(r"91\.00 ± 2\.00 %.*n = 3", shown.text)
    assert len(shown.pictures) == 1
    assert (run / "recipe.yaml").read_text(encoding="utf-8") in shown.words


def test_a_run_that_has_just_begun_is_shown(run: Path) -> None:
    for name in ("metrics.jsonl", "results.json", "genotype.json"):
        (run / name).unlink()
    shown = Strict(topocell.Run(run)._repr_html_())
    assert {"0 epochs", "not derived yet", "not retrained yet"} <= set(shown.words) and not shown.pictures


@pytest.mark.parametrize("damaged", ["metrics.jsonl", "results.json", "genotype.json"])
def test_a_damaged_run_is_shown_all_the_same(damaged: str, run: Path) -> None:
    (run / damaged).write_text('{"cells": {"normal": 3}, "last_mean": "x"')
    assert "Run of quickstart" in Strict(topocell.Run(run)._repr_html_()).words
    (run / damaged).write_text('{"cells": {"normal": 3}, "last_mean": "x", "phase": "search", "epoch": []}')
    assert "Run of quickstart" in Strict(topocell.Run(run)._repr_html_()).words

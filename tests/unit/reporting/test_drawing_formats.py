"""Cells as SVG, TikZ, Graphviz, PDF and PNG: what each file shows is read back from where its lines begin and end."""

import re
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from topocell.cli import main
from topocell.genotype.genotype import CellGenotype, Genotype
from topocell.genotype.published import published
from topocell.reporting.cell_difference import draw_difference
from topocell.reporting.cell_drawing import draw_genotype
from topocell.reporting.style import short

SVG = "{http://www.w3.org/2000/svg}"
NUMBER = r"-?[\d.]+"
POINT = rf"\(({NUMBER}),({NUMBER})\)"


def stretched() -> Genotype:
    """Nodes of one, three and no inputs, one pair of edges between the same two nodes."""
    normal = ((("sep_conv_3x3", 0), ("skip_connect", 0)), (), (("max_pool_3x3", 0), ("dil_conv_5x5", 2), ("none", 1)))
    reduce = ((("skip_connect", 1),), (("avg_pool_3x3", 2),), (("sep_conv_5x5", 3),))
    cells = {"normal": CellGenotype(2, normal, (2, 4)), "reduce": CellGenotype(2, reduce, (4,))}
    return Genotype("own", cells)


GENOTYPES = {
    "darts": published("darts-v2").genotype,
    "nasnet": published("nasnet-a").genotype,
    "nasbench201": Genotype.from_nasbench201("|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|none~1|none~2|"),
}


class Box(NamedTuple):
    """A box or disc that has a name: its middle and half its sides."""

    name: str
    x: float
    y: float
    half_width: float
    half_height: float

    def touches(self, x: float, y: float, slack: float) -> bool:
        inside = abs(x - self.x) <= self.half_width + slack and abs(y - self.y) <= self.half_height + slack
        return inside and (
            abs(abs(x - self.x) - self.half_width) <= slack  # at a side of a rectangle, or on the rim of a disc
            or abs((x - self.x) ** 2 + (y - self.y) ** 2 - self.half_width**2) <= 4 * slack * self.half_width
        )


class Line(NamedTuple):
    """A line with its ends and the lengths of its dashes."""

    start: tuple[float, float]
    end: tuple[float, float]
    dashes: tuple[float, ...]


class Sheet(NamedTuple):
    """What a drawing shows: named boxes, lines, texts with their places, and how far rounding moves points."""

    boxes: list[Box]
    lines: list[Line]
    texts: list[tuple[float, float, str]]
    slack: float


def read_svg(path: Path) -> Sheet:
    boxes, lines, texts = [], [], []
    for element in ET.parse(path).iter():
        if element.tag == f"{SVG}rect" and element.get("id"):
            x, y, width, height = (float(element.get(key, "")) for key in ("x", "y", "width", "height"))
            boxes.append(Box(element.get("id", ""), x + width / 2, y + height / 2, width / 2, height / 2))
        elif element.tag == f"{SVG}path" and element.get("class") != "s-paper":
            way = element.get("d", "")
            numbers = [float(word) for word in re.findall(NUMBER, way)]
            if re.search(r"H[^C]*$", way):  # a level end has its x alone; its height is that before it
                points = re.sub(r"H[^CH]*", "", way)
                numbers = [*numbers[:2], numbers[-1], [float(word) for word in re.findall(NUMBER, points)][-1]]
            dashes = tuple(round(float(word) / 96 * 72, 1) for word in (element.get("stroke-dasharray") or "").split())
            lines.append(Line((numbers[0], numbers[1]), (numbers[-2], numbers[-1]), dashes))
        elif element.tag == f"{SVG}text":
            texts.append((float(element.get("x", "")), float(element.get("y", "")) - 4, "".join(element.itertext())))
    return Sheet(boxes, lines, texts, 0.16)


def read_tikz(path: Path) -> Sheet:
    boxes, lines, texts = [], [], []
    for line in path.read_text(encoding="utf-8").splitlines():
        places = [(float(x), float(y)) for x, y in re.findall(POINT, line)]
        name = line.partition("  % ")[2]
        if name and "circle" in line:
            radius = float(re.search(rf"radius=({NUMBER})in", line)[1])
            boxes.append(Box(name, *places[0], radius, radius))
        elif name:
            (left, low), (right, high) = places
            boxes.append(Box(name, (left + right) / 2, (low + high) / 2, (right - left) / 2, (high - low) / 2))
        elif line.startswith("\\draw[") and not line.startswith("\\draw[paper"):
            pattern = re.search(r"dash pattern=([^\]]*)", line)
            dashes = tuple(float(word) for word in re.findall(rf"({NUMBER})pt", pattern[1])) if pattern else ()
            lines.append(Line(places[0], places[-1], dashes))
        elif line.startswith("\\node["):
            words = re.search(r"\\selectfont(?:\\bfseries)? (.*)\};$", line)[1]
            texts.append((*places[0], words.replace("$\\times$", "×").replace("{-}", "-").replace("\\_", "_")))
    return Sheet(boxes, lines, texts, 0.0015)


def edges_of(sheet: Sheet) -> tuple[Counter, Counter]:
    """(cell type, label, source, node, dashes) of every edge; (cell type, node, dashes) of every line to an output."""
    found, outputs = Counter(), Counter()
    parts = [box for box in sheet.boxes if "-edge-" not in box.name]

    def at(place: tuple[float, float]) -> tuple[str, str]:
        """Cell type and number of the node, or `output`, whose box a line touches there."""
        touched = [box.name for box in parts if box.touches(*place, sheet.slack)]
        assert len(touched) == 1, (place, touched)
        kind, _, part = touched[0].partition("-")
        return kind, part.split("-")[-1]

    labels = [box for box in sheet.boxes if "-edge-" in box.name]
    for box in labels:
        halves = [
            line for line in sheet.lines if box.touches(*line.start, sheet.slack) or box.touches(*line.end, sheet.slack)
        ]
        (first,) = (line for line in halves if box.touches(*line.end, sheet.slack))
        (second,) = (line for line in halves if box.touches(*line.start, sheet.slack))
        assert first.dashes == second.dashes
        (kind, src), (_, dst) = at(first.start), at(second.end)
        near = (box.half_width, box.half_height)
        (label,) = (t for x, y, t in sheet.texts if abs(x - box.x) < near[0] and abs(y - box.y) < near[1])
        found[kind, label, int(src), int(dst), first.dashes] += 1
        for half in halves:
            sheet.lines.remove(half)
    for line in sheet.lines:
        if any(box.touches(*line.end, sheet.slack) for box in parts):  # those of the legend touch nothing
            (kind, node), (_, output) = at(line.start), at(line.end)
            assert output == "output"
            outputs[kind, int(node), line.dashes] += 1
    return found, outputs


def read_dot(path: Path) -> tuple[Counter, Counter]:
    """As `edges_of`, with the style of lines for their dashes."""
    found, outputs = Counter(), Counter()
    for line in path.read_text(encoding="utf-8").splitlines():
        if not (arrow := re.fullmatch(r'\s*"(\w+)/(\d+)" -> "(\w+)/(\w+)" \[(.*)\];', line)):
            continue
        kind, src, same, dst, rest = arrow.groups()
        attributes = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        assert kind == same
        if dst == "out":
            outputs[kind, int(src), attributes.get("style", "solid")] += 1
        else:
            found[kind, attributes["label"], int(src), int(dst), attributes["style"]] += 1
    return found, outputs


def true_edges(genotype: Genotype) -> tuple[Counter, Counter]:
    edges = Counter(
        (kind, short(op), src, cell.inputs + k)
        for kind, cell in genotype.cells.items()
        for k, pairs in enumerate(cell.nodes)
        for op, src in pairs
    )
    return edges, Counter((kind, node) for kind, cell in genotype.cells.items() for node in cell.concat)


def without_dashes(counted: Counter) -> Counter:
    plain = Counter()
    for key, number in counted.items():
        plain[key[:-1]] += number
    return plain


READERS = {
    ".svg": lambda path: edges_of(read_svg(path)),
    ".tex": lambda path: edges_of(read_tikz(path)),
    ".dot": read_dot,
}


@pytest.mark.parametrize("suffix", READERS)
@pytest.mark.parametrize("name", [*GENOTYPES, "stretched"])
def test_lines_join_the_nodes_that_the_genotype_joins(name: str, suffix: str, tmp_path: Path) -> None:
    genotype = GENOTYPES[name] if name in GENOTYPES else stretched()
    draw_genotype(genotype.to_dict(), tmp_path / f"cell{suffix}")
    edges, outputs = READERS[suffix](tmp_path / f"cell{suffix}")
    assert (without_dashes(edges), without_dashes(outputs)) == true_edges(genotype)


#: Suffix → how lines of both cells, of A alone and of B alone are drawn; outputs of both are plain.
SIDES = {
    ".svg": {"": (), "A": (6.0, 2.0), "B": (1.5, 1.5)},
    ".tex": {"": (), "A": (6.0, 2.0), "B": (1.5, 1.5)},
    ".dot": {"": "solid", "A": "dashed", "B": "dotted"},
}


def other() -> Genotype:
    """`stretched` with one edge moved, one operation exchanged, a node more and so another output."""
    normal = ((("sep_conv_3x3", 0), ("skip_connect", 1)), (("none", 0),), (("max_pool_3x3", 0), ("dil_conv_3x3", 2)))
    cells = {"normal": CellGenotype(2, normal, (2, 3)), "reduce": stretched().cells["reduce"]}
    return Genotype("own", cells)


@pytest.mark.parametrize("suffix", READERS)
def test_a_difference_has_the_edges_of_both_and_of_each_alone(suffix: str, tmp_path: Path) -> None:
    pairs = [(stretched(), other()), (published("darts-v2").genotype, published("dots-c10").genotype)]
    for a, b in pairs:
        draw_difference(a, b, tmp_path / f"diff{suffix}", ("one", "two"))
        (edges, outputs), looks = READERS[suffix](tmp_path / f"diff{suffix}"), SIDES[suffix]
        (mine, to_mine), (others, to_others) = true_edges(a), true_edges(b)
        expected = Counter()
        for mark, part in {"": mine & others, "A": mine - others, "B": others - mine}.items():
            for (kind, label, src, dst), number in part.items():
                expected[kind, f"{mark}: {label}" if mark else label, src, dst, looks[mark]] += number
        assert edges == expected
        assert {key[-1] for key in edges} == set(looks.values()), "each of the three kinds of lines occurs"
        ends = {"": to_mine & to_others, "A": to_mine - to_others, "B": to_others - to_mine}
        assert outputs == Counter({(*key, looks[mark]): n for mark, part in ends.items() for key, n in part.items()})


def test_cells_that_differ_in_the_numbers_of_their_nodes_alone_have_no_difference(tmp_path: Path) -> None:
    nodes = ((("sep_conv_3x3", 0), ("skip_connect", 1)), (("max_pool_3x3", 0), ("max_pool_3x3", 1)))
    cells = [{k: CellGenotype(2, n, (2, 3)) for k in ("normal", "reduce")} for n in (nodes, nodes[::-1])]
    a, b = (Genotype("own", c) for c in cells)
    assert a.key == b.key and a.cells != b.cells
    draw_difference(a, b, tmp_path / "diff.dot")
    assert {key[-1] for key in read_dot(tmp_path / "diff.dot")[0]} == {"solid"}


def test_no_difference_of_cells_of_different_spaces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    five = published("nasnet-a").genotype
    for second, told in ((GENOTYPES["nasbench201"], "nasbench201"), (Genotype("darts", five.cells), "2 + 5 nodes")):
        second.save(tmp_path / "second.json")
        words = ["draw", "--diff", "darts-v2", str(tmp_path / "second.json"), "-o", str(tmp_path / "diff.svg")]
        assert main(words) == 2
        message = capsys.readouterr().err
        assert "a difference is drawn of two cells of one space, but got darts (" in message and told in message
        assert message.count("\n") == 1 and not (tmp_path / "diff.svg").exists()


@pytest.mark.parametrize("words", [["darts-v2", "dots-c10"], ["--diff", "darts-v2"]])
def test_a_drawing_takes_one_cell_and_a_difference_two(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["draw", *words, "-o", str(tmp_path / "cell.svg")]) == 2
    assert "draw takes one cell, and two with --diff, but got" in capsys.readouterr().err


def test_the_command_draws_a_difference_of_any_two_cells(tmp_path: Path) -> None:
    published("dots-c10").genotype.save(tmp_path / "cell.json")
    assert main(["draw", "--diff", "darts-v2", str(tmp_path / "cell.json"), "-o", str(tmp_path / "diff.svg")]) == 0
    words = ["".join(text.itertext()) for text in ET.parse(tmp_path / "diff.svg").iter(f"{SVG}text")]
    assert words[0].startswith("A: darts-v2,  B: ") and {"A alone", "B alone", "both"} <= set(words)


def test_a_pdf_is_one_page_of_the_size_of_the_drawing(tmp_path: Path) -> None:
    genotype = GENOTYPES["darts"].to_dict()
    draw_genotype(genotype, tmp_path / "cell.pdf")
    draw_genotype(genotype, tmp_path / "cell.tex")
    data = (tmp_path / "cell.pdf").read_bytes()
    assert data.startswith(b"%PDF-1.") and data.rstrip().endswith(b"%%EOF")
    assert data.count(b"/Type /Page\n") + data.count(b"/Type /Page ") == 1
    box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ([\d.]+) ?\]", data)
    text = (tmp_path / "cell.tex").read_text()
    size = re.search(rf"\\useasboundingbox \(0,0\) rectangle \(({NUMBER}),({NUMBER})\);", text)
    inches = [float(word) for word in size.groups()]
    assert [float(word) / 72 for word in box.groups()] == pytest.approx(inches, abs=0.002)
    assert b"CreationDate" not in data


EVIL = "a\\b{c}$d_e^f~g%h&i#j\n\\input{x} <|>'\"`--\t×é日"


def test_names_in_tikz_are_text_and_end_no_line(tmp_path: Path) -> None:
    cell = {"inputs": 2, "nodes": [[[EVIL, 0]]], "concat": [2]}
    draw_genotype({"space": "own", "cells": {EVIL: cell}}, tmp_path / "cell.tex", title=EVIL)
    text = (tmp_path / "cell.tex").read_text(encoding="utf-8")
    body = text.split("\\begin{tikzpicture}")[1].split("\\end{tikzpicture}")[0].splitlines()[1:]
    assert all(re.match(r"\\(draw|fill|filldraw|node|useasboundingbox)\b.*;(  % .*)?$", line) for line in body if line)
    title = next(line for line in body if "bfseries" in line)
    written = (
        r"a\textbackslash{}b\{c\}\$d\_e\textasciicircum{}f\textasciitilde{}g\%h\&i\#j \textbackslash{}input\{x\} "
        r"$<$$|$$>$'''`{-}{-} $\times$é?"
    )
    assert written in title


def test_names_in_dot_are_strings(tmp_path: Path) -> None:
    cell = {"inputs": 2, "nodes": [[[EVIL, 0]]], "concat": [2]}
    draw_genotype({"space": "own", "cells": {EVIL: cell}}, tmp_path / "cell.dot", title=EVIL)
    lines = (tmp_path / "cell.dot").read_text(encoding="utf-8").splitlines()
    string = r'"(?:[^"\\]|\\.)*"'
    statement = rf"(?:\w+|{string}(?: -> {string})?) \[(?:\w+={string}(?:, )?)*\];|(?:label|color)={string};"
    inner = [line.strip() for line in lines[2:] if line.strip() not in ("}", "subgraph cluster_0 {")]
    assert inner and all(re.fullmatch(statement, line) for line in inner)
    assert "\\\\input{x} <|>'\\\"`" in lines[2]

"""Drawings: complete, legible (nothing overlaps), reproducible, and safe with names from files."""

import itertools
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import matplotlib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.golden_genotypes import DARTS_V2

from topocell.errors import GenotypeError
from topocell.genotype.genotype import Genotype
from topocell.reporting.cell_difference import draw_difference
from topocell.reporting.cell_drawing import draw_genotype
from topocell.reporting.cell_shapes import Panel
from topocell.reporting.cells import draw_text, shown_cells
from topocell.reporting.layout import Box, place
from topocell.reporting.run_figures import panels_figure
from topocell.reporting.series import Panel as Curves
from topocell.reporting.series import architecture_panels, retrain_panels
from topocell.reporting.style import family, save, short, styled
from topocell.spaces import OPERATIONS

SEP, SKIP, POOL, DIL = "sep_conv_3x3", "skip_connect", "max_pool_3x3", "dil_conv_5x5"


def cell(nodes, inputs=2, concat=None):
    """A cell dict; the concat defaults to all nodes that have an edge."""
    return {"inputs": inputs, "nodes": nodes, "concat": concat or [inputs + k for k, n in enumerate(nodes) if n]}


DARTS = {
    "format": 1,
    "space": "darts",
    "cells": {
        "normal": cell([[[SEP, 0], [SEP, 1]], [[SEP, 0], [SEP, 1]], [[SEP, 1], [SKIP, 0]], [[SKIP, 0], [DIL, 2]]]),
        "reduce": cell(
            [[[POOL, 0], [POOL, 1]], [[SKIP, 2], [POOL, 1]], [[POOL, 0], [SKIP, 2]], [[SKIP, 2], [POOL, 1]]]
        ),
    },
}
STRETCHED = {"format": 1, "space": "darts", "cells": {"normal": cell([[[SEP, 0]], [], [[SEP, 1], [SKIP, 2]], []])}}
NASBENCH = {
    "format": 1,
    "space": "nasbench201",
    "cells": {"cell": cell([[], [["nor_conv_1x1", 0], [SKIP, 1]], [["nor_conv_3x3", 2]]], inputs=1, concat=[3])},
}


def texts(path):
    """Every text of an SVG file in document order; tspans of one text joined."""
    return ["".join(t.itertext()).strip() for t in ET.parse(path).iter("{http://www.w3.org/2000/svg}text")]


def ids(path):
    return {e.get("id") for e in ET.parse(path).iter() if e.get("id")}


@pytest.mark.parametrize("genotype", [DARTS, STRETCHED, NASBENCH], ids=["darts", "stretched", "nasbench201"])
def test_svg_shows_every_node_and_operation_once(genotype, tmp_path):
    draw_genotype(genotype, tmp_path / "cells.svg")
    shown, marks = texts(tmp_path / "cells.svg"), ids(tmp_path / "cells.svg")
    for kind, drawn in genotype["cells"].items():
        for k, node in enumerate(drawn["nodes"]):
            assert f"{kind}-node-{drawn['inputs'] + k}" in marks
            for op, src in node:
                assert any(re.fullmatch(rf"{kind}-edge-{src}-{drawn['inputs'] + k}-\d+-{op}", m) for m in marks)
        assert {f"{kind}-input-{i}" for i in range(drawn["inputs"])} | {f"{kind}-output"} <= marks
    edges = [op for drawn in genotype["cells"].values() for node in drawn["nodes"] for op, _ in node]
    for op in set(edges):
        in_legend = int(short(op) == family(op).label)
        assert shown.count(short(op)) - in_legend == edges.count(op)
        assert family(op).label in shown
    numbers = [str(d["inputs"] + k) for d in genotype["cells"].values() for k in range(len(d["nodes"]))]
    assert sorted(t for t in shown if t.isdigit()) == sorted(numbers)


def test_dropped_nodes_are_dashed_and_named(tmp_path):
    draw_genotype(STRETCHED, tmp_path / "cells.svg")
    discs = {disc.get("id"): disc for disc in ET.parse(tmp_path / "cells.svg").iter()}
    dashed = {k for k in range(2, 6) if discs[f"normal-node-{k}"].get("stroke-dasharray")}
    assert dashed == {3, 5}
    assert "dropped" in texts(tmp_path / "cells.svg")


def test_empty_node_of_nasbench201_is_zero_and_not_dropped(tmp_path):
    draw_genotype(NASBENCH, tmp_path / "cells.svg")
    shown = texts(tmp_path / "cells.svg")
    assert "dropped" not in shown
    assert any("node 1 is zero" in text for text in shown)


def test_a_zero_node_that_an_edge_leaves_is_drawn(tmp_path):
    """Between the input and the node stands no operation."""
    cell = {"inputs": 1, "nodes": [[], [], [["avg_pool_3x3", 2]]], "concat": [3]}
    draw_genotype({"format": 1, "space": "nasbench201", "cells": {"cell": cell}, "origin": {}}, tmp_path / "cells.svg")
    assert any("node 1 is zero, node 2 is zero" in text for text in texts(tmp_path / "cells.svg"))


def test_png_has_its_signature_and_a_size_that_can_be_read(tmp_path):
    draw_genotype(DARTS, tmp_path / "cells.PNG")
    data = (tmp_path / "cells.PNG").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(data[16:20]) > 800


@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf", ".tex", ".dot"])
def test_equal_genotypes_give_equal_files_whatever_the_users_settings(suffix, tmp_path):
    draw_genotype(DARTS, tmp_path / f"a{suffix}", title="x")
    with matplotlib.rc_context({"font.size": 31, "svg.fonttype": "path", "axes.facecolor": "red"}):
        draw_genotype(DARTS, tmp_path / f"b{suffix}", title="x")
        assert matplotlib.rcParams["font.size"] == 31
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_hostile_title_cell_type_and_operation_stay_text(tmp_path):
    evil = "</text><script>$\\frac$\x00"
    genotype = {"space": "darts", "cells": {evil: cell([[[evil, 0]]])}}
    draw_genotype(genotype, tmp_path / "cells.svg", title=evil)
    assert not list(ET.parse(tmp_path / "cells.svg").iter("{http://www.w3.org/2000/svg}script"))
    clean = evil.replace("\x00", "\ufffd")
    assert sum(clean in text for text in texts(tmp_path / "cells.svg")) == 3


def test_a_long_operation_name_is_cut_in_the_drawing(tmp_path):
    draw_genotype({"space": "own", "cells": {"normal": cell([[["x" * 25, 0], ["y" * 24, 1]]])}}, tmp_path / "cells.svg")
    shown = texts(tmp_path / "cells.svg")
    assert "x" * 23 + "…" in shown
    assert "y" * 24 in shown


@pytest.mark.parametrize("suffix", ["svg", "png", "dot"])
def test_a_drawing_goes_where_a_link_leads(suffix, tmp_path):
    (tmp_path / f"link.{suffix}").symlink_to(f"deep.{suffix}")
    draw_genotype(DARTS, tmp_path / f"link.{suffix}")
    draw_genotype(DARTS, tmp_path / f"other.{suffix}")
    assert (tmp_path / f"link.{suffix}").is_symlink()
    assert (tmp_path / f"deep.{suffix}").read_bytes() == (tmp_path / f"other.{suffix}").read_bytes()


@pytest.mark.parametrize("name", ["cells.eps", "cells", "cells.svg.gz"])
def test_other_suffixes_are_refused(name, tmp_path):
    with pytest.raises(GenotypeError, match=re.escape(f"draw writes .svg, .png, .pdf, .tex or .dot, but got {name!r}")):
        draw_genotype(DARTS, tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "genotype",
    [
        {},
        {"cells": {}},
        {"cells": []},
        {"cells": {"normal": {"inputs": 2, "nodes": []}}},
        {"cells": {"normal": cell([[[SEP, 2]]])}},
        {"cells": {"normal": cell([[[SEP, -1]]])}},
        {"cells": {"normal": cell([[[SEP]]])}},
        {"cells": {"normal": cell([[[SEP, 0]]], concat=[1])}},
    ],
)
def test_what_describes_no_cell_is_refused_in_one_line(genotype, tmp_path):
    with pytest.raises(GenotypeError, match=r"a genotype .*, but got .*; check it with") as caught:
        draw_genotype(genotype, tmp_path / "cells.svg")
    assert "\n" not in str(caught.value)


def test_text_drawing_has_one_line_per_node():
    assert draw_text(DARTS, "normal").splitlines() == [
        "2 ← sep 3×3(0) + sep 3×3(1)",
        "3 ← sep 3×3(0) + sep 3×3(1)",
        "4 ← sep 3×3(1) + skip(0)",
        "5 ← skip(0) + dil 5×5(2)",
        "out ← concat(2, 3, 4, 5)",
    ]
    assert draw_text(STRETCHED, "normal").splitlines()[1] == "3 ← dropped"
    assert draw_text(NASBENCH, "cell").splitlines() == [
        "1 ← zeros",
        "2 ← conv 1×1(0) + skip(1)",
        "3 ← conv 3×3(2)",
        "out ← 3",
    ]


@pytest.mark.parametrize("kind", ["normal", "reduce", "cell"])
def test_the_type_of_a_cell_says_what_its_empty_nodes_are_whatever_the_name_of_its_space(kind, tmp_path):
    """As the network that is built from it does, which sees no name of a space."""
    nodes = [[], [[SKIP, 0]]] if kind == "cell" else [[], [[SKIP, 0], [SKIP, 1]]]
    drawn = cell(nodes, inputs=1 if kind == "cell" else 2)
    if kind == "cell":
        cells = {"cell": drawn}
    else:
        cells = {"normal": drawn, "reduce": drawn}
    told = []
    for space in ("nasbench201", "darts", "mine"):
        genotype = Genotype.from_dict({"format": 1, "space": space, "cells": cells})
        told.append(draw_text(genotype.to_dict(), kind).splitlines()[0].split()[-1])
        draw_genotype(genotype.to_dict(), tmp_path / "cells.svg")
        assert any("is zero" in text for text in texts(tmp_path / "cells.svg")) == (kind == "cell")
    assert told == ["zeros" if kind == "cell" else "dropped"] * 3


def test_text_drawing_of_an_unknown_cell_type_names_the_nearest():
    with pytest.raises(GenotypeError, match=r"'redcue' \(did you mean 'reduce'\?\)"):
        draw_text(DARTS, "redcue")


def test_every_operation_has_its_own_short_label_and_a_family():
    assert len({short(op) for op in OPERATIONS}) == len(OPERATIONS)
    assert all(len(short(op)) <= 12 and "_" not in short(op) for op in OPERATIONS)
    assert {op for op in OPERATIONS if family(op).label == "other"} == {"none", "noise"}


@st.composite
def graphs(draw):
    """Boxes in layers and edges that go right, skip layers, or run parallel."""
    layers = draw(st.lists(st.integers(1, 4), min_size=2, max_size=6))
    sizes = st.floats(0.1, 1.0)
    boxes = [Box(d, draw(sizes), draw(sizes), draw(st.booleans())) for d, n in enumerate(layers) for _ in range(n)]
    pairs = [(a, b) for a in range(len(boxes)) for b in range(len(boxes)) if boxes[a].layer < boxes[b].layer]
    return boxes, draw(st.lists(st.sampled_from(pairs), max_size=12))


@settings(max_examples=60)
@given(graphs())
def test_boxes_never_overlap_and_no_edge_touches_a_foreign_box(graph):
    boxes, edges = graph
    routes = place(boxes, edges)
    for a, box in enumerate(boxes):
        for other in boxes[:a]:
            apart_x = abs(box.x - other.x) - (box.width + other.width) / 2
            apart_y = abs(box.y - other.y) - (box.height + other.height) / 2
            assert max(apart_x, apart_y) > 0.05
    for (src, dst), route in zip(edges, routes):
        assert len(route) == boxes[dst].layer - boxes[src].layer + 1
        for (_, leave, _), (enter, _, _) in pairwise(route):
            # An edge bends only in the free space between two layers ...
            assert not any(
                leave + 1e-9 < b.x + b.width / 2 and b.x - b.width / 2 < enter - 1e-9
                for b in boxes
                if boxes[src].layer < b.layer < boxes[dst].layer
            )
        for enter, leave, y in route[1:-1]:
            # ... and passes a layer on a level that no box of the layer takes.
            assert enter <= leave
            middle = (enter + leave) / 2
            for box in boxes:
                if abs(box.x - middle) < 1e-9:
                    assert abs(box.y - y) > box.height / 2
        assert abs(route[0][2] - boxes[src].y) <= boxes[src].height / 2
        assert abs(route[-1][2] - boxes[dst].y) <= boxes[dst].height / 2


def test_crossings_are_removed_where_they_can_be():
    boxes = [Box(0, 1, 1), Box(0, 1, 1), Box(1, 1, 1), Box(1, 1, 1)]
    place(boxes, [(0, 3), (1, 2)])
    assert boxes[3].y > boxes[2].y
    assert boxes[0].y > boxes[1].y


@pytest.mark.parametrize(
    "sources",
    [[[0], [2], [1, 3], [2, 3]], [[1], [1, 2], [1, 3], []], [[0, 1], [0, 2], [0, 3], [0, 3], [1, 2]]],
    ids=["below", "below, one dropped", "above"],
)
def test_no_line_leaves_its_panel(sources):
    nodes = [[[SKIP, source] for source in node] for node in sources]
    panel = Panel(shown_cells({"cells": {"normal": cell(nodes)}})[0])
    heights = [y for route in panel.routes for _, _, y in route]
    low = min(box.y - box.height / 2 for box in panel.boxes)
    high = max(box.y + box.height / 2 for box in panel.boxes)
    assert min(heights) < low or max(heights) > high  # a line passes outside all boxes
    foot = 0.0 if nodes[-1] else 0.5  # dropped nodes stand below
    assert min(low, *heights) >= foot - 1e-9 and max(high, *heights) <= panel.height + 1e-9


def test_nine_complete_nodes_can_be_drawn(tmp_path: Path):
    nodes = [[[OPERATIONS[1 + (src + k) % 7], src] for src in range(k + 2)] for k in range(9)]
    draw_genotype({"space": "darts", "cells": {"normal": cell(nodes)}}, tmp_path / "cells.svg")
    assert sum("-edge-" in mark for mark in ids(tmp_path / "cells.svg")) == 54


# --- axes of curves


def ticks(panels: list[Curves], path: Path):
    """The numbers that a figure shows, as written."""
    with styled():
        save(panels_figure(panels, []), path)
    return [text for text in texts(path) if re.fullmatch(r"[−\d].*", text)]


def search_row(epoch, entropy, depth):
    kinds = {"alpha_entropy": entropy, "depth": depth, "width": depth}
    kinds = {key: {"normal": value} for key, value in kinds.items() if value is not None}
    return {"phase": "search", "stage_index": 0, "stage": "all", "epoch": epoch, **kinds}


def test_rounding_noise_of_an_entropy_is_no_rise(tmp_path):
    """No offset, no more than two decimals: what differs in the seventh is drawn flat."""
    panels = architecture_panels([search_row(e, 1.609437 + 1e-7 * e, None) for e in range(3)])
    shown = [text for text in ticks(panels, tmp_path / "a.svg") if "." in text]
    assert "1.61" in shown and all(re.fullmatch(r"1\.\d\d", text) for text in shown)


@pytest.mark.parametrize(("depths", "expected"), [([2, 2], "123"), ([0, 0], "01"), ([2, 3], "23")])
def test_depths_are_whole_numbers(depths, expected, tmp_path):
    panels = architecture_panels([search_row(e, None, depth) for e, depth in enumerate(depths)])
    assert ticks(panels, tmp_path / "a.svg") == ["1", "2", *expected]  # epochs, then depths


@pytest.mark.parametrize("n", [1, 2])
def test_epochs_of_retraining_are_whole_numbers(n, tmp_path):
    rows = [{"phase": "retrain", "seed": 0, "epoch": e, "train_loss": 0.5 + e, "test_loss": 0.6} for e in range(n)]
    shown = ticks(retrain_panels(rows), tmp_path / "a.svg")
    assert [text for text in shown if "." not in text][:n] == ["1", "2"][:n]
    assert not {"0.95", "1.05", "1.2", "1.25", "1.5"} & set(shown[: n + 1])


@pytest.mark.parametrize("sources", list(itertools.product(["none", "skip_connect"], repeat=6)))
def test_a_caption_has_the_depth_of_the_cell_and_not_of_its_zeros(sources):
    a, b, c, d, e, f = sources
    genotype = Genotype.from_nasbench201(f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|")
    (cell,) = shown_cells(genotype.to_dict())
    assert f"depth {genotype.depth('cell')}," in Panel(cell).heading()


def test_a_line_to_the_output_of_one_cell_alone_is_marked_and_counted(tmp_path: Path) -> None:
    normal = DARTS_V2.cells["normal"]
    other = replace(DARTS_V2, cells={**DARTS_V2.cells, "normal": replace(normal, concat=(3, 4, 5))})
    for first, second, mark in ((DARTS_V2, other, "A"), (other, DARTS_V2, "B")):
        draw_difference(first, second, tmp_path / "d.svg")
        drawn = (tmp_path / "d.svg").read_text()
        assert f"; to the output 1 of {mark} alone" in drawn and drawn.count(f">{mark} alone<") == 1
        assert drawn.count(f">{mark}<") == 1
        draw_difference(first, second, tmp_path / "d.dot")
        assert f'"normal/2" -> "normal/out" [label="{mark}"' in (tmp_path / "d.dot").read_text()
    draw_difference(DARTS_V2, DARTS_V2, tmp_path / "d.svg")
    assert "to the output" not in (tmp_path / "d.svg").read_text()

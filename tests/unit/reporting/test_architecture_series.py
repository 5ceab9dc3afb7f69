"""Curves of the architecture: the weights that they show, in closed form, what each edge retains, and the replay."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from topocell import ArchState, spaces
from topocell.config.load import load_recipe
from topocell.reporting.architecture_series import annealing_panels, retained, seen_of, weight_panels
from topocell.reporting.replay import decisions, replay
from topocell.reporting.run_figures import write_figures
from topocell.searching.diagnostics import architecture

RECIPE: dict[str, Any] = load_recipe("dots", ["space.nodes=2"]).model_dump(mode="json")
SECOND = "dil3 sep3 sep3 sep3 sep3 sep3 sep3 dil3 dil3 dil5 sep3 sep3 dil3 sep3"
#: What DOTS retains in its Figure 5a, edge by edge.
FIGURE_5A = [
    ["skip_connect"] * 13 + ["none"],
    [f"{word[:-1]}_conv_{word[-1]}x{word[-1]}" for word in SECOND.split()],
]


def row(arch: ArchState, stage: int, epoch: int, **more: Any) -> dict[str, Any]:
    names = list(RECIPE["search"]["stages"])
    own = {"phase": "search", "stage": names[stage], "stage_index": stage, "epoch": epoch, "architecture": None}
    temperatures = {"op_temperature": arch.op_temperature, "edge_temperature": arch.edge_temperature}
    return own | temperatures | {"architecture": architecture(arch)} | more


def states() -> tuple[ArchState, ArchState]:
    """DOTS on two nodes after its operation search, and in its topology search."""
    stages, draw = RECIPE["search"]["stages"], torch.Generator().manual_seed(3)
    space = spaces.get("darts", nodes=2)
    first = ArchState(space, stages["operations"]["relaxation"], init=1.0, generator=draw)
    cells = {t: cell.with_candidates([["none", "dil_conv_3x3"]] * 5) for t, cell in space.cells.items()}
    topology = stages["topology"]
    second = ArchState(space.with_cells(cells), topology["relaxation"], topology["topology"], init=0.1, generator=draw)
    second.op_temperature, second.edge_temperature = 0.05, 0.5
    return first, second


def softmax(logits: list[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp((value - max(logits)) / temperature) for value in logits]
    return [power / sum(powers) for power in powers]


def test_mean_weights_of_operations_are_those_of_the_supernet() -> None:
    first, second = states()
    panels = weight_panels(seen_of([row(first, 0, 0), row(second, 2, 0)], RECIPE))
    assert [p.title for p in panels] == ["Mean weight of operations, normal", "Mean weight of operations, reduce"]
    for kind, panel in zip(("normal", "reduce"), panels, strict=True):
        found = {line.label: line.values for line in panel.lines}
        assert list(found) == ["none", "max 3×3", "avg 3×3", "skip", "sep 3×3", "sep 5×5", "dil 3×3", "dil 5×5"]
        groups = [softmax(edge[:4]) + softmax(edge[4:]) for edge in first.alpha[kind].tolist()]
        means = [sum(edge[k] for edge in groups) / 5 for k in range(8)]
        assert [values[0] for values in found.values()] == pytest.approx(means, rel=1e-5)
        later = [softmax(edge, 0.05) for edge in second.alpha[kind].tolist()]
        for label, k in (("none", 0), ("dil 3×3", 1)):
            assert found[label][1] == pytest.approx(sum(edge[k] for edge in later) / 5, rel=1e-4)
        assert math.isnan(found["skip"][1])


def test_weights_by_edge_are_those_of_the_supernet() -> None:
    """γ of DOTS' Eq. 7: node 2 has one pair of inputs, node 3 has three."""
    first, second = states()
    panels = annealing_panels(seen_of([row(first, 0, 0), row(second, 2, 0)], RECIPE))
    kinds = [(what, kind) for kind in ("normal", "reduce") for what in ("Largest operation", "Edge")]
    assert [panel.title for panel in panels] == [f"{what} weight, {kind}" for what, kind in kinds]
    lines = [panel.lines for panel in panels]
    for kind, operations, edges in (("normal", *lines[:2]), ("reduce", *lines[2:])):
        early = [max(softmax(edge[:4]) + softmax(edge[4:])) for edge in first.alpha[kind].tolist()]
        late = [max(softmax(edge, 0.05)) for edge in second.alpha[kind].tolist()]
        assert [line.values for line in operations] == [pytest.approx(pair, rel=1e-4) for pair in zip(early, late)]
        pairs = softmax(second.beta[kind].tolist()[1:], 0.5)
        members = [(0, 1), (0, 2), (1, 2)]
        gamma = [0.5, 0.5, *(sum(p for p, pair in zip(pairs, members) if e in pair) / 2 for e in range(3))]
        assert [line.values[1] for line in edges] == pytest.approx(gamma, rel=1e-5)
        assert all(math.isnan(line.values[0]) for line in edges)  # dense: nothing to learn


def test_weights_by_edge_are_for_edges_with_weights_and_for_annealings() -> None:
    first, _ = states()
    rows = [row(first, 0, 0), row(first, 0, 1)]
    assert not annealing_panels(seen_of(rows, RECIPE))
    rows[1]["op_temperature"] = 0.5
    assert annealing_panels(seen_of(rows, RECIPE))


def test_the_table_of_what_is_retained_is_figure_5a(tmp_path: Path) -> None:
    recipe = load_recipe("dots").model_dump(mode="json")
    space = spaces.get("darts")
    first = ArchState(space, recipe["search"]["stages"]["operations"]["relaxation"])
    kept = [list(pair) for pair in zip(*FIGURE_5A, strict=True)]
    second = ArchState(space.with_cells({t: cell.with_candidates(kept) for t, cell in space.cells.items()}))
    rows = [row(first, 0, 0), row(first, 0, 1), row(second, 1, 0), row(second, 2, 0)]
    write_figures(rows, recipe, [], tmp_path)
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", (tmp_path / "retained.svg").read_text())
    assert texts.count("group 1") == texts.count("group 2") == 2
    assert [text for text in texts if "→" in text] == [f"{s}→{d}" for s, d in space.cells["normal"].edges] * 2
    shown = [text for text in texts if text in {"skip", "none", "dil 3×3", "dil 5×5", "sep 3×3"}]
    words = {"skip_connect": "skip", "none": "none"}
    expected = [words.get(op) or f"{op[:3]} {op[-3:].replace('x', '×')}" for row in FIGURE_5A for op in row]
    assert shown == expected * 2
    table = retained(rows, recipe)
    assert table is not None and [list(column) for column in zip(*table.rows("reduce"))] == kept
    assert retained(rows[:2], recipe) is None and retained(rows[2:], recipe) is None


def test_a_search_without_groups_retains_by_rank(tmp_path: Path) -> None:
    """Blocks of at most 14 edges: with five nodes a cell has 20."""
    recipe = load_recipe("dots-top2", ["space.nodes=5"]).model_dump(mode="json")
    space = spaces.get("darts", nodes=5)
    cells = {t: cell.with_candidates([["skip_connect", "sep_conv_3x3"]] * 20) for t, cell in space.cells.items()}
    rows = [row(ArchState(space), 0, 0), row(ArchState(space.with_cells(cells)), 1, 0)]
    write_figures(rows, recipe, [], tmp_path)
    text = (tmp_path / "retained.svg").read_text()
    assert text.count("operation 2") == 4 and text.count("skip") == text.count("sep 3×3") == 40


@pytest.mark.parametrize(
    "damage", [None, 3, {}, {"normal": 3}, {"normal": {"alpha": [], "beta": [], "candidates": []}}]
)
def test_damaged_rows_are_passed_over(damage: Any) -> None:
    first, second = states()
    damaged = [row(first, 0, 0, architecture=damage), row(second, 2, 0, architecture=damage)]
    for rows, recipe in ((damaged, RECIPE), ([row(first, 0, 0)], {}), ([], RECIPE)):
        seen = seen_of(rows, recipe)
        assert not weight_panels(seen) and not annealing_panels(seen) and replay(seen) is None
        assert retained(rows, recipe) is None
    assert weight_panels(seen_of([*damaged[:1], row(second, 2, 0)], RECIPE))


def test_the_replay_has_weights_sets_of_edges_and_the_cell_of_each_epoch() -> None:
    (first, second), cell = states(), {"inputs": 2, "concat": [2, 3]}
    cells = [
        {kind: {**cell, "nodes": nodes} for kind in ("normal", "reduce")}
        for nodes in (
            [[["skip_connect", 0], ["skip_connect", 1]], [["sep_conv_3x3", 0], ["skip_connect", 1]]],
            [[["dil_conv_3x3", 0], ["dil_conv_3x3", 1]], [["dil_conv_3x3", 1], ["dil_conv_3x3", 2]]],
        )
    ]
    rows = [
        row(first, 0, 0, derived=cells[0]),
        row(second, 2, 0, derived=cells[1]),
        row(second, 2, 1, derived=cells[1]),
    ]
    found = replay(seen_of(rows, RECIPE))
    assert found is not None
    assert [at["number"] for at in found["epochs"]] == [1, 2, 3] and found["last"] == 3
    assert len(found["drawings"]) == 4 and found["cells"]["reduce"]["drawing"] == [2, 3, 3]
    normal = found["cells"]["normal"]
    assert normal["edges"] == ["0→2", "1→2", "0→3", "1→3", "2→3"] and normal["gates"][0] is None
    labels = [operation["label"] for operation in normal["operations"]]
    assert [normal["edges"][e] + " " + labels[k] for e, k in normal["kept"][1]] == [
        *("0→2 dil 3×3", "1→2 dil 3×3", "1→3 dil 3×3", "2→3 dil 3×3")
    ]
    expected = softmax(first.alpha["normal"].tolist()[4][:4])
    assert normal["weights"][0][4][:4] == pytest.approx(expected, abs=2e-3) and normal["weights"][1][4].count(None) == 6
    assert normal["groups"][0] == []
    (of_node,) = normal["groups"][1]
    pairs = softmax(second.beta["normal"].tolist()[1:], 0.5)
    shown = {choice["label"]: choice for choice in of_node["choices"]}
    assert of_node["title"] == "into node 3" and of_node["more"] == 0
    assert [shown[label]["p"] for label in ("0, 1", "0, 2", "1, 2")] == pytest.approx(pairs, abs=2e-3)
    assert [label for label, choice in shown.items() if choice["chosen"]] == ["1, 2"]


def test_a_long_replay_leaves_epochs_out_and_keeps_the_last() -> None:
    first, _ = states()
    found = replay(seen_of([row(first, 0, e) for e in range(301)], RECIPE))
    assert found is not None
    numbers = [at["number"] for at in found["epochs"]]
    assert numbers == list(range(1, 302, 3))


def test_decisions_have_the_measure_of_each_candidate() -> None:
    rows = [
        {"phase": "select", "cell": "normal", "decided": "0→2", "kept": "skip_connect",
         "accuracy without": {"skip_connect": 0.25, "none": 0.5, "noise": None}},
        {"phase": "select", "cell": "reduce", "decided": "node 3", "kept": "0→3, 2→3",
         "weight": {"0→3": 1, "1→3": 2, "2→3": 3}},
        {"phase": "select", "cell": "reduce", "kept": None},
        {"phase": "search"},
    ]  # fmt: skip
    first, second = decisions(rows)
    assert (first["label"], first["measure"], first["edges"]) == ("1. normal 0→2", "accuracy without, %", False)
    assert [(c["label"], c["value"], c["kept"]) for c in first["candidates"]] == [
        ("skip", 25, True),
        ("none", 50, False),
    ]
    assert (second["label"], second["measure"], second["edges"]) == ("2. reduce node 3", "weight", True)
    assert [c["label"] for c in second["candidates"] if c["kept"]] == ["0→3", "2→3"]

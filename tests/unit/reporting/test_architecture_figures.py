"""Figures of the architecture: the weights that they draw, in closed form, and what each edge retains."""

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from topocell import ArchState, spaces
from topocell.config.load import load_recipe
from topocell.reporting import architecture_figures, report_figures
from topocell.reporting.run_figures import Line
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


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[Line]]]:
    """The panels that are drawn."""
    found: list[tuple[str, list[Line]]] = []

    def keep(epochs: Any, panels: Any, path: Path) -> bool:
        found.extend((title, lines) for title, _, lines in panels)
        return bool(panels)

    monkeypatch.setattr(architecture_figures, "search_figure", keep)
    return found


def softmax(logits: list[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp((value - max(logits)) / temperature) for value in logits]
    return [power / sum(powers) for power in powers]


def test_mean_weights_of_operations_are_those_of_the_supernet(drawn: list[tuple[str, list[Line]]]) -> None:
    first, second = states()
    assert architecture_figures.operation_weights([row(first, 0, 0), row(second, 2, 0)], RECIPE, Path("unused"))
    assert [title for title, _ in drawn] == ["Mean weight of operations, normal", "Mean weight of operations, reduce"]
    for kind, (_, lines) in zip(("normal", "reduce"), drawn, strict=True):
        found = {line.label: line.values for line in lines}
        assert list(found) == ["none", "max 3×3", "avg 3×3", "skip", "sep 3×3", "sep 5×5", "dil 3×3", "dil 5×5"]
        groups = [softmax(edge[:4]) + softmax(edge[4:]) for edge in first.alpha[kind].tolist()]
        means = [sum(edge[k] for edge in groups) / 5 for k in range(8)]
        assert [values[0] for values in found.values()] == pytest.approx(means, rel=1e-5)
        later = [softmax(edge, 0.05) for edge in second.alpha[kind].tolist()]
        for label, k in (("none", 0), ("dil 3×3", 1)):
            assert found[label][1] == pytest.approx(sum(edge[k] for edge in later) / 5, rel=1e-4)
        assert math.isnan(found["skip"][1])


def test_weights_by_edge_are_those_of_the_supernet(drawn: list[tuple[str, list[Line]]]) -> None:
    """γ of DOTS' Eq. 7: node 2 has one pair of inputs, node 3 has three."""
    first, second = states()
    assert architecture_figures.annealing([row(first, 0, 0), row(second, 2, 0)], RECIPE, Path("unused"))
    kinds = [(what, kind) for kind in ("normal", "reduce") for what in ("Operation", "Edge")]
    assert [title for title, _ in drawn] == [f"{what} weight, {kind}" for what, kind in kinds]
    for kind, operations, edges in (("normal", drawn[0][1], drawn[1][1]), ("reduce", drawn[2][1], drawn[3][1])):
        early = [max(softmax(edge[:4]) + softmax(edge[4:])) for edge in first.alpha[kind].tolist()]
        late = [max(softmax(edge, 0.05)) for edge in second.alpha[kind].tolist()]
        assert [line.values for line in operations] == [pytest.approx(pair, rel=1e-4) for pair in zip(early, late)]
        pairs = softmax(second.beta[kind].tolist()[1:], 0.5)
        members = [(0, 1), (0, 2), (1, 2)]
        gamma = [0.5, 0.5, *(sum(p for p, pair in zip(pairs, members) if e in pair) / 2 for e in range(3))]
        assert [line.values[1] for line in edges] == pytest.approx(gamma, rel=1e-5)
        assert all(math.isnan(line.values[0]) for line in edges)  # dense: nothing to learn


def test_weights_by_edge_are_for_edges_with_weights_and_for_annealings(drawn: list[tuple[str, list[Line]]]) -> None:
    first, _ = states()
    rows = [row(first, 0, 0), row(first, 0, 1)]
    assert not architecture_figures.annealing(rows, RECIPE, Path("unused")) and not drawn
    rows[1]["op_temperature"] = 0.5
    assert architecture_figures.annealing(rows, RECIPE, Path("unused")) and drawn


def test_the_table_of_what_is_retained_is_figure_5a(tmp_path: Path) -> None:
    recipe = load_recipe("dots").model_dump(mode="json")
    space = spaces.get("darts")
    first = ArchState(space, recipe["search"]["stages"]["operations"]["relaxation"])
    kept = [list(pair) for pair in zip(*FIGURE_5A, strict=True)]
    second = ArchState(space.with_cells({t: cell.with_candidates(kept) for t, cell in space.cells.items()}))
    rows = [row(first, 0, 0), row(first, 0, 1), row(second, 1, 0), row(second, 2, 0)]
    assert architecture_figures.retained_operations(rows, recipe, tmp_path / "a.svg")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", (tmp_path / "a.svg").read_text())
    assert texts.count("group 1") == texts.count("group 2") == 2
    assert [text for text in texts if "→" in text] == [f"{s}→{d}" for s, d in space.cells["normal"].edges] * 2
    shown = [text for text in texts if text in {"skip", "none", "dil 3×3", "dil 5×5", "sep 3×3"}]
    words = {"skip_connect": "skip", "none": "none"}
    expected = [words.get(op) or f"{op[:3]} {op[-3:].replace('x', '×')}" for pair in kept for op in pair]
    assert shown == expected * 2
    assert not architecture_figures.retained_operations(rows[:2], recipe, tmp_path / "b.svg")
    assert not architecture_figures.retained_operations(rows[2:], recipe, tmp_path / "b.svg")


def test_a_search_without_groups_retains_by_rank(tmp_path: Path) -> None:
    """Blocks of at most 14 edges: with five nodes a cell has 20."""
    recipe = load_recipe("dots-top2", ["space.nodes=5"]).model_dump(mode="json")
    space = spaces.get("darts", nodes=5)
    cells = {t: cell.with_candidates([["skip_connect", "sep_conv_3x3"]] * 20) for t, cell in space.cells.items()}
    rows = [row(ArchState(space), 0, 0), row(ArchState(space.with_cells(cells)), 1, 0)]
    assert architecture_figures.retained_operations(rows, recipe, tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert text.count("operation 2") == 4 and text.count("skip") == text.count("sep 3×3") == 40


@pytest.mark.parametrize(
    "damage", [None, 3, {}, {"normal": 3}, {"normal": {"alpha": [], "beta": [], "candidates": []}}]
)
def test_damaged_rows_are_passed_over(damage: Any, tmp_path: Path) -> None:
    first, second = states()
    damaged = [row(first, 0, 0, architecture=damage), row(second, 2, 0, architecture=damage)]
    for key in report_figures.OPTIONAL:
        draw = report_figures._OF_ARCHITECTURES[key]
        assert not draw(damaged, RECIPE, tmp_path / "a.svg")
        assert not draw([row(first, 0, 0)], {}, tmp_path / "a.svg")
        assert not draw([], RECIPE, tmp_path / "a.svg")
    assert not (tmp_path / "a.svg").exists()
    assert architecture_figures.operation_weights([*damaged[:1], row(second, 2, 0)], RECIPE, tmp_path / "a.svg")

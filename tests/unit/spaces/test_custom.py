"""A space written down in a recipe: what it may say, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

import topocell
from topocell import spaces
from topocell.cli import main
from topocell.errors import SpaceError
from topocell.genotype.genotype import Genotype

SPACE = """
space:
  name: custom
  inputs: 1
  nodes: 3
  edges: [[0, 1], [0, 2], [1, 2], [2, 3]]
  candidates: [[skip_connect, sep_conv_3x3], [max_pool_3x3], [sep_conv_3x3, sep_conv_5x5], [skip_connect, dil_conv_3x3]]
  reduce: {candidates: [max_pool_3x3, avg_pool_3x3]}
"""


def recipe_file(folder: Path, space: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(f"extends: darts-v1\nname: mine\n{space}selection: {{edges: all}}\n")
    return path


def test_without_options_it_is_the_darts_space() -> None:
    assert spaces.get("custom").cells == spaces.get("darts").cells


def test_edges_and_candidates_are_those_written_down() -> None:
    cells = spaces.get("custom", nodes=2, edges=[[0, 2], [2, 3]], candidates=["skip_connect"], output="last").cells
    assert cells["normal"].edges == ((0, 2), (2, 3)) and cells["normal"].candidates == (("skip_connect",),) * 2
    assert cells["reduce"].stride == 2 and cells["reduce"].output == "last"


def test_a_run_of_a_space_in_a_recipe(tmp_path: Path) -> None:
    out = tmp_path / "run"
    topocell.run(topocell.load_recipe(recipe_file(tmp_path, SPACE), budget="smoke"), out)
    cells = Genotype.load(out / "genotype.json").cells
    assert [len(node) for node in cells["normal"].nodes] == [1, 2, 1]
    assert {op for node in cells["reduce"].nodes for op, _ in node} <= {"max_pool_3x3", "avg_pool_3x3"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"edges": [[3, 2]], "nodes": 2}, "src < dst"),
        ({"edges": [[0, 2], [5, 3]], "nodes": 2}, "src < dst"),
        ({"edges": [[0, 2]], "nodes": 2}, "no edge enters node 3"),
        ({"edges": ["0-2"]}, "an edge is [source, destination]"),
        ({"edges": [[0, "2"]]}, "an edge is [source, destination]"),
        ({"candidates": "skip_connect"}, "candidates is a list"),
        ({"candidates": ["sep_conv_3x4"]}, "did you mean 'sep_conv_3x3'"),
        ({"nodes": "two"}, "inputs and nodes are integers"),
        ({"reduce": {"stride": 2}}, "reduce takes inputs, nodes, edges, candidates, output, but got 'stride'"),
    ],
)
def test_what_no_cell_can_be_is_one_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SpaceError) as caught:
        spaces.get("custom", **options)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_an_edge_from_the_future_in_a_recipe_is_one_line(tmp_path: Path, capsys: Any) -> None:
    path = recipe_file(tmp_path, SPACE.replace("[2, 3]]", "[3, 2]]"))
    assert main(["run", str(path), "--budget", "smoke", "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "src < dst" in error and "(3, 2)" in error and error.count("\n") == 1 and not (tmp_path / "run").exists()


def test_a_space_as_data_on_another_skeleton() -> None:
    options = {"inputs": 1, "nodes": 3, "output": "last", "candidates": list(spaces.NASBENCH201_OPERATIONS)}
    cell = spaces.get("custom", skeleton="nasbench201", **options)
    ours = spaces.get("nasbench201")
    assert (cell.skeleton, list(cell.cells)) == (ours.skeleton, ["cell"])
    assert (cell.cells["cell"].edges, cell.cells["cell"].candidates) == (
        ours.cells["cell"].edges,
        ours.cells["cell"].candidates,
    )
    with pytest.raises(SpaceError, match="skeleton 'nasbench201' has no reduction cell; leave reduce out"):
        spaces.get("custom", skeleton="nasbench201", reduce={}, **options)
    with pytest.raises(SpaceError, match="skeleton 'nasbench201' takes a cell with one input and stride 1"):
        spaces.get("custom", skeleton="nasbench201")
    with pytest.raises(
        SpaceError, match="takes the last node of its cell, but its output is 'concat'; set output: last"
    ):
        spaces.get("custom", skeleton="nasbench201", inputs=1)
    with pytest.raises(SpaceError, match=r"unknown skeleton 'dart' .did you mean 'darts'"):
        spaces.get("custom", skeleton="dart")

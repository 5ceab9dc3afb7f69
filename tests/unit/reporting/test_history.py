"""The history of a search: logits as they were, weights in closed form, the same file for the same records."""

import io
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from topocell import ArchState, Run, spaces
from topocell.config.load import load_recipe
from topocell.errors import RecipeError, RunError
from topocell.reporting.history import history
from topocell.runs.directory import RunDir
from topocell.searching.diagnostics import architecture

DOTS = load_recipe("dots", ["space.nodes=2"])
RECIPE: dict[str, Any] = DOTS.model_dump(mode="json")


def row(arch: ArchState, stage: int, epoch: int) -> dict[str, Any]:
    names = list(RECIPE["search"]["stages"])
    own = {"phase": "search", "stage": names[stage], "stage_index": stage, "epoch": epoch}
    temperatures = {"op_temperature": arch.op_temperature, "edge_temperature": arch.edge_temperature}
    return own | temperatures | {"architecture": architecture(arch)}


def states() -> tuple[ArchState, ArchState]:
    """DOTS on two nodes in its operation search, and in its topology search."""
    stages, draw = RECIPE["search"]["stages"], torch.Generator().manual_seed(3)
    space = spaces.get("darts", nodes=2)
    first = ArchState(space, stages["operations"]["relaxation"], init=1.0, generator=draw)
    cells = {t: cell.with_candidates([["none", "dil_conv_3x3"]] * 5) for t, cell in space.cells.items()}
    topology = stages["topology"]
    second = ArchState(space.with_cells(cells), topology["relaxation"], topology["topology"], init=0.1, generator=draw)
    second.op_temperature, second.edge_temperature = 0.05, 0.5
    return first, second


def records() -> list[dict[str, Any]]:
    first, second = states()
    return [row(first, 0, 0), {"phase": "retrain", "seed": 0, "epoch": 0}, row(second, 2, 0)]


def softmax(logits: list[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp((value - max(logits)) / temperature) for value in logits]
    return [power / sum(powers) for power in powers]


def test_logits_are_kept_to_the_bit_and_weights_are_those_of_the_supernet() -> None:
    """Of DOTS' Eq. 3 by groups, and γ of its Eq. 7: node 2 has one pair of inputs, node 3 has three."""
    (first, second), found = states(), history(records(), RECIPE)
    assert found.epoch.tolist() == [1, 2] and found.stage.tolist() == ["operations", "topology"]
    assert found.op_temperature.tolist() == [1.0, 0.05] and found.edge_temperature.tolist() == [1.0, 0.5]
    assert list(found.cells) == ["normal", "reduce"]
    for kind, cell in found.cells.items():
        assert [tuple(pair) for pair in cell.edges] == [(0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
        assert cell.operations[:2] == ("none", "max_pool_3x3") and len(cell.operations) == 8
        assert np.array_equal(cell.alpha[0], first.alpha[kind].detach().numpy())
        kept = [cell.operations.index(name) for name in ("none", "dil_conv_3x3")]
        gone = [k for k in range(8) if k not in kept]
        assert np.array_equal(cell.alpha[1][:, kept], second.alpha[kind].detach().numpy())
        assert np.isnan(cell.alpha[1][:, gone]).all() and not cell.live[1][:, gone].any() and cell.live[0].all()
        for e, edge in enumerate(first.alpha[kind].tolist()):
            assert cell.weights[0, e].tolist() == pytest.approx(softmax(edge[:4]) + softmax(edge[4:]), rel=1e-5)
        for e, edge in enumerate(second.alpha[kind].tolist()):
            assert cell.weights[1, e, kept].tolist() == pytest.approx(softmax(edge, 0.05), rel=1e-4)
        assert np.isnan(cell.beta[0]).all() and (cell.gates[0] == 1).all()
        assert np.array_equal(cell.beta[1], second.beta[kind].detach().numpy())
        pairs = softmax(second.beta[kind].tolist()[1:], 0.5)
        assert cell.probabilities[1].tolist() == pytest.approx([1.0, *pairs], rel=1e-5)
        gamma = [sum(p for p, pair in zip(pairs, [(0, 1), (0, 2), (1, 2)]) if e in pair) / 2 for e in range(3)]
        assert cell.gates[1].tolist() == pytest.approx([0.5, 0.5, *gamma], rel=1e-5)


def test_a_search_without_epochs_has_an_empty_history() -> None:
    found = history([], RECIPE)
    assert len(found.epoch) == 0 and found.cells["normal"].alpha.shape == (0, 5, 8)
    assert all(len(column) == 0 for column in found.columns().values())


def test_fifty_epochs_of_darts_take_less_than_a_megabyte() -> None:
    """Random logits, which compress worst."""
    recipe = load_recipe("darts-v2").model_dump(mode="json")
    space = spaces.get("darts")
    (name,) = recipe["search"]["stages"]
    rows = []
    for epoch in range(50):
        arch = ArchState(space, init=1.0, generator=torch.Generator().manual_seed(epoch))
        rows.append(row(arch, 0, epoch) | {"stage": name})
    written = history(rows, recipe).to_npz()
    assert len(written) < 2**20
    with np.load(io.BytesIO(written)) as arrays:
        assert arrays["reduce.alpha"].shape == (50, 14, 8) and arrays["stage"].tolist() == [name] * 50


@pytest.fixture
def run(tmp_path: Path) -> Run:
    with RunDir.open(tmp_path / "run", DOTS.to_yaml(), env={}) as directory:
        for record in records():
            directory.append_metrics(record)
    return Run(tmp_path / "run")


def test_a_run_gives_its_history_and_its_metrics(run: Run) -> None:
    assert run.recipe == DOTS
    assert run.history().to_npz() == history(records(), RECIPE).to_npz()
    assert len(run.metrics()) == 3 and run.metrics("retrain") == [records()[1]]


class Frame(SimpleNamespace):
    """A stand-in for pandas, which need not be there."""

    def __init__(self) -> None:
        super().__init__(DataFrame=dict, json_normalize=lambda rows: ("normalized", rows))


def test_frames_are_made_by_pandas(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", Frame())
    table = run.history(frame=True)
    assert {len(column) for column in table.values()} == {2 * 5 * (8 + 2)}
    at = [
        i
        for i in range(100)
        if (table["epoch"][i], table["cell"][i], table["source"][i], table["node"][i]) == (2, "reduce", 1, 3)
    ]
    assert [table["operation"][i] for i in at] == ["none", "dil_conv_3x3"]
    assert [table["alpha"][i] for i in at] == states()[1].alpha["reduce"][3].tolist()
    assert run.metrics("retrain", frame=True) == ("normalized", [records()[1]])
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(RunError, match=r"but that is not installed: pip install 'topocell\[pandas\]'"):
        run.metrics(frame=True)


@pytest.mark.parametrize("damage", [None, {}, {"normal": 3}])
def test_a_damaged_record_is_an_error_in_one_line(damage: Any, tmp_path: Path) -> None:
    with RunDir.open(tmp_path / "run", DOTS.to_yaml(), env={}) as directory:
        directory.append_metrics(records()[0] | {"architecture": damage})
    with pytest.raises(RunError, match="a history is read from the architecture in each search record"):
        Run(tmp_path / "run").history()


def test_a_run_whose_space_is_not_imported_says_what_brings_it(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    text = DOTS.to_yaml().replace("name: darts\n", "name: mine\n", 1)
    (tmp_path / "run/recipe.yaml").write_text(text)
    (tmp_path / "run/env.json").write_text('{"imports": ["mine.py"]}')
    with pytest.raises(RecipeError, match=r"was begun with --import mine\.py: add it"):
        Run(tmp_path / "run").history()

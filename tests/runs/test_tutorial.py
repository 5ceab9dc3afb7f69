"""The tutorial runs as it is kept, and what it is kept with is what its cells gave."""

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import tutorial

from topocell.io.cache import cache_folder

pytest.importorskip("nbclient", reason="runs the tutorial; make test installs it")
pytest.importorskip("ipykernel", reason="runs the tutorial; make test installs it")


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell: Any) -> list[tuple[str, ...]]:
    """The kinds of what a cell shows: streams by their name, the rest by its types."""
    return [tuple(sorted(o["data"])) if "data" in o else (o.get("name", o.output_type),) for o in cell.outputs]


def test_the_tutorial_is_kept_with_what_its_cells_gave_in_order() -> None:
    kept = tutorial.read()
    assert kept.metadata[tutorial.EXECUTED] == tutorial.source_hash(kept), "run: python -m tests.helpers.tutorial"
    cells = code_cells(kept)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell.outputs for cell in cells) and "error" not in {kind for cell in cells for (kind, *_) in shown(cell)}
    kinds = {kind for cell in cells for found in shown(cell) for kind in found}
    assert {"image/png", "image/svg+xml", "text/html", "stdout"} <= kinds


def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, cache = cache_folder() / "kernels", tmp_path / "cache"
    cache.mkdir()
    if compiled.is_dir():  # as every test has them; the images of the tutorial are kept apart
        shutil.copytree(compiled, cache / "kernels")
    monkeypatch.setenv("TOPOCELL_CACHE", str(cache))
    kept = tutorial.read()
    again = tutorial.executed(copy.deepcopy(kept), tmp_path)  # raises where a cell fails
    assert tutorial.source_hash(again) == tutorial.source_hash(kept)
    assert [shown(cell) for cell in code_cells(again)] == [shown(cell) for cell in code_cells(kept)]
    for place in ("runs/shapes/report.html", "runs/shapes/genotype.json", "network/network.py"):
        assert (tmp_path / place).is_file()

"""Latencies: measured once and kept, whatever has happened to the cache folder."""

import json
import multiprocessing
from pathlib import Path

import pytest
import torch
from torch import nn

from topocell import spaces
from topocell.networks import latency
from topocell.networks.latency import Latency, measured
from topocell.nn.costs import Layer, NetworkSize, network_costs

LAYER = Layer("a convolution", nn.Conv2d(3, 4, 3, device="meta"), (3, 8, 8))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOPOCELL_CACHE", str(tmp_path))
    monkeypatch.setattr(latency, "LEAST", 3)
    monkeypatch.setattr(latency, "ENOUGH", 0.0)
    return tmp_path / "latency"


def planted(monkeypatch: pytest.MonkeyPatch, *values: float) -> list[str]:
    """Let measurements give these values, one after the other; returns the names of the layers as they are measured."""
    seen, left = list[str](), list(values)

    def measure(layer: Layer, device: torch.device, batch: int) -> float:
        seen.append(layer.name)
        return left.pop(0)

    monkeypatch.setattr(latency, "measured", measure)
    return seen


def test_a_layer_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = planted(monkeypatch, 1.5, 2.5)
    assert [Latency("cpu")(LAYER), Latency("cpu")(LAYER)] == [1.5, 1.5]
    assert Latency("cpu", batch=8)(LAYER) == 2.5
    assert seen == ["a convolution"] * 2


def test_threads_are_part_of_the_question(monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, 1.5, 2.5)
    assert Latency("cpu")(LAYER) == 1.5
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    assert Latency("cpu")(LAYER) == 2.5


@pytest.mark.parametrize(
    "damage",
    [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"milliseconds": 1.0}', None, -1.0, 0.0, "1", float("inf"), True],
    ids=str,
)
def test_a_damaged_file_is_measured_anew(damage: object, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(monkeypatch, 1.5, 2.5)
    ask = Latency("cpu")
    ask(LAYER)
    (path,) = folder.iterdir()
    text = damage if isinstance(damage, bytes) else json.dumps({**ask.question(LAYER), "milliseconds": damage}).encode()
    path.write_bytes(text)
    assert [ask(LAYER), ask(LAYER)] == [2.5, 2.5]
    assert json.loads(path.read_bytes())["milliseconds"] == 2.5
    assert list(folder.iterdir()) == [path]


def test_the_first_to_write_decides(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = Latency("cpu")

    def slower(layer: Layer, device: torch.device, batch: int) -> float:
        monkeypatch.setattr(latency, "measured", lambda *_: 1.5)
        assert Latency("cpu")(layer) == 1.5  # another process, in the meantime
        return 9.0

    monkeypatch.setattr(latency, "measured", slower)
    assert ask(LAYER) == 1.5


def _ask(results: "multiprocessing.SimpleQueue[float]") -> None:
    results.put(Latency("cpu")(LAYER))


def test_processes_that_measure_at_once_agree() -> None:
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    processes = [context.Process(target=_ask, args=(results,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert len({results.get() for _ in processes}) == 1


def test_a_cache_that_cannot_be_written_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TOPOCELL_CACHE", str(tmp_path / "file"))
    planted(monkeypatch, 1.5, 2.5)
    assert [Latency("cpu")(LAYER), Latency("cpu")(LAYER)] == [1.5, 2.5]


def test_every_layer_of_a_space_can_be_measured() -> None:
    space = spaces.get("darts", nodes=1)
    found = network_costs(space, NetworkSize(4, 3, 2, (1, 8, 8)), "latency", Latency("cpu", batch=2))
    assert found.fixed > 0 and all(c > 0 for row in found.cells["reduce"].operations.values() for c in row.values())


def test_measuring_leaves_the_random_numbers_and_modes_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    with torch.inference_mode():
        assert measured(LAYER, torch.device("cpu"), 2) > 0
    assert torch.equal(before, torch.get_rng_state())


def test_more_work_takes_longer() -> None:
    large = Layer("large", nn.Conv2d(64, 64, 3, device="meta"), (64, 64, 64))
    assert measured(large, torch.device("cpu"), 1) > 3 * measured(LAYER, torch.device("cpu"), 1)

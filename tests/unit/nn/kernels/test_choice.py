"""Which way is taken: measured once for a machine, kept, and kept by a run above all."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from topocell.errors import RunError
from topocell.nn.fused_choice import chosen
from topocell.nn.fused_plan import Chain
from topocell.nn.kernels import choice
from topocell.nn.kernels.choice import LIBRARY, Record, fastest, follow, leave
from topocell.nn.kernels.cpu import instruction_set
from topocell.nn.projection import faster
from topocell.runs.directory import RunDir


@pytest.fixture(autouse=True)
def measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TOPOCELL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TOPOCELL_NATIVE", "auto")
    monkeypatch.setattr(choice, "_known", {})
    monkeypatch.setattr(choice, "_records", [])
    yield


class Ways:
    """Ways that take so many milliseconds each, and how often each was called."""

    def __init__(self, **milliseconds: float) -> None:
        self.calls = dict.fromkeys(milliseconds, 0)
        self.ways: dict[str, Callable[[], object]] = {
            name: self._way(name, 1e-3 * duration) for name, duration in milliseconds.items()
        }

    def _way(self, name: str, duration: float) -> Callable[[], None]:
        def call() -> None:
            self.calls[name] += 1
            time.sleep(duration)

        return call


def test_the_fastest_way_is_taken_and_measured_once() -> None:
    ways = Ways(a=20, b=1, c=20)
    assert fastest("something", ways.ways) == "b"
    counted = dict(ways.calls)
    assert fastest("something", ways.ways) == "b"
    assert ways.calls == counted
    assert fastest("something else", Ways(a=1, b=20).ways) == "a"


def test_another_process_takes_what_this_one_has_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fastest("something", Ways(a=20, b=1).ways) == "b"
    monkeypatch.setattr(choice, "_known", {})
    ways = Ways(a=1, b=20)
    assert fastest("something", ways.ways) == "b"
    assert ways.calls == {"a": 0, "b": 0}


def test_a_damaged_decision_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fastest("something", Ways(a=20, b=1).ways)
    (kept,) = (path for path in (tmp_path / "cache/choices").rglob("*") if path.is_file())
    kept.write_bytes(b"\xff nonsense")
    monkeypatch.setattr(choice, "_known", {})
    assert fastest("something", Ways(a=1, b=20).ways) == "a"
    assert kept.read_text() == "a"


def test_without_a_cache_folder_it_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file")
    assert fastest("something", Ways(a=20, b=1).ways) == "b"


def test_the_kernels_are_taken_without_measuring_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPOCELL_NATIVE", "1")
    ways = Ways(a=20, b=1)
    assert fastest("something", ways.ways) == "a"
    assert ways.calls == {"a": 0, "b": 0}


def test_what_a_run_has_decided_comes_before_what_the_machine_has() -> None:
    assert fastest("something", Ways(a=20, b=1).ways) == "b"
    question = f"{instruction_set().name}, {torch.get_num_threads()} threads: something"
    saved: list[dict[str, str]] = []
    record = Record({question: "a"}, lambda found: saved.append(dict(found)))
    follow(record)
    assert fastest("something", Ways(a=20, b=1).ways) == "a"
    assert saved == []
    assert fastest("more", Ways(a=20, b=1).ways) == "b"
    assert [*saved[-1].values()] == ["a", "b"]
    leave(record)
    assert fastest("something", Ways(a=20, b=1).ways) == "b"
    assert len(saved) == 1


def test_measuring_is_not_seen_by_the_caller() -> None:
    """No random number is drawn, no mode of the caller's is in force, and no gradient is missing."""
    x = torch.zeros(2, 4, 8, 8).contiguous(memory_format=torch.channels_last)
    before = torch.get_rng_state()
    with torch.no_grad():
        chain = Chain(3, 1, 2, (0,), (0,))
        found = [chosen(x, chain, 1), chosen(x, chain, 2), chosen(x, chain, 1, affine=True)]
        assert all(way is None or way.lanes in (4, 8, 16) for way in found)
        assert faster(x, [4], 1, affine=True) in (True, False)
    assert torch.equal(torch.get_rng_state(), before)
    if instruction_set().lanes:
        assert len(choice._known) == 4
        assert all(way in (LIBRARY, "kernels", "4", "8", "16") for way in choice._known.values())


def test_a_run_directory_keeps_its_decisions(tmp_path: Path) -> None:
    with RunDir.open(tmp_path / "run", "seed: 0\n", env={}):
        assert fastest("something", Ways(a=20, b=1).ways) == "b"
    assert "something" in (tmp_path / "run/kernels.json").read_text()
    assert choice._records == []
    (kept,) = (path for path in (tmp_path / "cache/choices").rglob("*") if path.is_file())
    kept.unlink()
    with RunDir.open(tmp_path / "run", "seed: 0\n", env={}):
        assert fastest("something", Ways(a=1, b=20).ways) == "b"
    (tmp_path / "run/kernels.json").write_text("[")
    with pytest.raises(RunError, match=r"kernels\.json"):
        RunDir.open(tmp_path / "run", "seed: 0\n", env={})
    assert choice._records == []


def test_a_run_that_is_forgotten_unclosed_is_unlocked(tmp_path: Path) -> None:
    run = RunDir.open(tmp_path / "run", "seed: 0\n", env={})
    del run
    with RunDir.open(tmp_path / "run", "seed: 0\n", env={}):
        pass

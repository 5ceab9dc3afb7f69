"""Sweeps on Ray: it is absent, nothing answers, a node of a cluster on loopback is killed."""

import importlib.util
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from topocell.cli import main
from topocell.errors import RunError
from topocell.studies.sweep.jobs import Job
from topocell.studies.sweep.ray_crew import RayCrew

SWEEP = ["sweep", "recipes=random", "seeds=0", "--budget", "smoke", "data.images=24"]

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: topocell[ray]")


def test_without_ray_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([*SWEEP, "--ray", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: --ray and --address need Ray") and "pip install 'topocell[ray]'" in said
    assert said.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "ray://localhost:{}"])
def test_an_address_that_nothing_answers_is_one_line(form: str, tmp_path: Path, capsys: Any) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        address = form.format(closed.getsockname()[1])
        assert main([*SWEEP, "--address", address, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert f"error: a Ray cluster must answer at --address {address}, but nothing does" in said
    assert said.count("\n") == 1 and not (tmp_path / "out").exists()


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def stay_where_it_is_to_die(path: str) -> dict[str, Any]:
    """On its first try, stay until this process ends; on another one, say who is at it."""
    mark = Path(f"{path}.mark")
    if not mark.exists():
        mark.write_text(str(os.getpid()))
        time.sleep(600)
    return {"first": mark.read_text(), "pid": os.getpid()}


def be_quick(path: str) -> dict[str, Any]:
    import torch

    return {"threads": torch.get_num_threads(), "pid": os.getpid()}


def refuse(path: str) -> dict[str, Any]:
    raise RunError("no")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two nodes of one CPU each, on loopback (Ray takes 127.0.0.1 for something else)."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    from ray import cloudpickle
    from ray.cluster_utils import Cluster

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import the tests
    made = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "node_ip_address": "127.0.0.2"}
    )
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@needs_ray
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes of a node in /proc")
def test_what_a_killed_node_has_left_is_done_by_another(cluster: Any, tmp_path: Path) -> None:
    """Faults come back as lines; room is that of the nodes that live; a job too large for any is refused."""
    node = cluster.add_node(num_cpus=1, node_ip_address="127.0.0.2")
    cluster.wait_for_nodes()
    with pytest.raises(RunError, match="needs 2 CPUs and 0 GPUs of one node, but no node of the cluster has more"):
        RayCrew(cluster.address, None, 2, 0.0)
    crew = RayCrew(cluster.address, None, 1, 0.0)
    try:
        assert crew.room() == 2 and crew.about.endswith("2 nodes")
        jobs = {name: Job(name, make, (), str(tmp_path / name)) for name, make in MADE.items()}
        crew.begin(jobs["quick"])
        crew.begin(jobs["refuse"])
        found = collect(crew, 2)
        assert found["quick"].result["record"]["threads"] == 1
        assert found["refuse"].result == {"fault": "no", "full": False}
        raylet = node.all_processes["raylet"][0].process.pid
        for name in ("one", "two"):  # one on each node
            crew.begin(jobs[name])
        marks = {name: tmp_path / f"{name}.mark" for name in ("one", "two")}
        wait_until(lambda: all(mark.exists() and mark.read_text() for mark in marks.values()))
        processes = {name: int(mark.read_text()) for name, mark in marks.items()}
        (name,) = (name for name, process in processes.items() if parent_of(process) == raylet)
        for process in (raylet, processes[name]):  # all of the node ends at once, as when a machine does
            os.kill(process, signal.SIGKILL)
        lost = collect(crew, 1)[name]
        assert lost.death.startswith("its worker or node was lost (")
        os.kill(next(process for process in processes.values() if process != processes[name]), signal.SIGKILL)
        assert list(collect(crew, 1)) == [other for other in processes if other != name]
        wait_until(lambda: crew.room() == 1)  # the cluster knows that it has one node left
        crew.begin(jobs[name])
        record = collect(crew, 1)[name].result["record"]
        assert record["first"] == str(processes[name]) and record["pid"] != processes[name]
    finally:
        crew.close()


MADE = {"quick": be_quick, "refuse": refuse, "one": stay_where_it_is_to_die, "two": stay_where_it_is_to_die}


def collect(crew: RayCrew, count: int) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    wait_until(lambda: len(answers.update({a.key: a for a in crew.wait(0.5)}) or answers) == count)
    return answers


def wait_until(found: Any) -> None:
    until = time.monotonic() + 500
    while not found():
        assert time.monotonic() < until
        time.sleep(0.1)

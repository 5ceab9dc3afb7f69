"""Workers of a Ray cluster (extra `ray`): one of this machine, or one that is there already.

Every node needs topocell, the images, and the directory of the sweep, so several machines share a file system.
"""

import importlib
import os
import re
import socket
import time
from collections.abc import Mapping
from typing import Any

from topocell.errors import RunError, one_line
from topocell.registry import load_plugins
from topocell.runtime.hooks import Interrupted
from topocell.runtime.workers import GRACE_SECONDS
from topocell.studies.sweep.crew import Answer
from topocell.studies.sweep.jobs import Job, attempt

#: Seconds in which something must answer at an address.
CONNECT_SECONDS = 5.0
#: Variables by which Ray reports nothing and gives a cluster up sooner; those that are set already stay.
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_NUM_REDIS_GET_RETRIES": "2",
}
#: HOST:PORT and ray://HOST:PORT, HOST also a bracketed IPv6 address.
_ADDRESS = re.compile(r"(?:ray://)?\[?([^/\]]+?)\]?:(\d{1,5})")


class RayCrew:
    """Tasks in a Ray cluster. Ray itself repeats none: a job that has lost its node is an answer.

    Args:
        address: of a cluster, HOST:PORT, ray://HOST:PORT or auto; None starts one on this machine.
        workers: jobs at a time at most; None for as many as there is room for.
        threads: CPUs of each job.
        gpus: GPUs of each job.

    Raises:
        RunError: Ray is not installed, nothing answers at the address, no node has room for a job.
    """

    def __init__(self, address: str | None, workers: int | None, threads: int, gpus: float) -> None:
        if address is not None:
            _must_answer(address)
        self._ray = _imported()
        self._workers, self._threads, self._gpus = workers, threads, gpus
        self._busy: dict[Any, str] = {}
        self._connect(address)
        self._task = self._ray.remote(num_cpus=threads, num_gpus=gpus, max_retries=0, scheduling_strategy="SPREAD")(
            _attempt
        )
        nodes = self._alive()
        self.about = f"Ray {self._ray.__version__}, {len(nodes)} node{'s' * (len(nodes) != 1)}"
        if self._capacity() < 1:
            most = max((node.get("CPU", 0.0) for node in nodes), default=0.0)
            gpus_there = max((node.get("GPU", 0.0) for node in nodes), default=0.0)
            self._ray.shutdown()
            raise RunError(
                f"a run needs {threads} CPUs and {gpus:g} GPUs of one node, but no node of the cluster has more than "
                f"{most:g} CPUs and {gpus_there:g} GPUs; choose smaller --threads or --gpus"
            )

    def _connect(self, address: str | None) -> None:
        options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
        if address is None:
            cpus = (self._workers or 1) * self._threads
            options |= {"address": "local", "num_cpus": cpus, "include_dashboard": False}
        else:
            _must_be_in_the_network(address, self._ray.util.get_node_ip_address())
            options["address"] = address
        try:
            self._ray.init(**options)
        except Exception as fault:  # whatever Ray raises for a cluster that it cannot join or start
            reason = one_line(f"{type(fault).__name__}: {fault}")[:200]
            where = "start on this machine" if address is None else f"join the cluster at {address}"
            raise RunError(f"Ray must {where}, but cannot ({reason}); check it with: ray status") from None

    def _alive(self) -> list[Mapping[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _capacity(self) -> int:
        """How many jobs the nodes have room for, if there are none."""
        rooms = []
        for node in self._alive():
            rooms.append(int(node.get("CPU", 0.0) // self._threads))
            if self._gpus:
                gpus = node.get("GPU", 0.0)
                each = int(gpus // self._gpus) if self._gpus >= 1 else int(gpus) * int(1 // self._gpus)
                rooms[-1] = min(rooms[-1], each)
        most = sum(rooms)
        return most if self._workers is None else min(most, self._workers)

    def room(self) -> int:
        """How many more jobs may begin now, as nodes come and go."""
        return self._capacity() - len(self._busy)

    def begin(self, job: Job) -> None:
        """Give a job to the cluster."""
        environment = {key: value for key, value in os.environ.items() if key.startswith("TOPOCELL_")}
        if not self._gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        self._busy[self._task.remote(job, environment)] = job.key

    def wait(self, seconds: float) -> list[Answer]:
        """The answers since the last call."""
        if not self._busy:  # no node has room: perhaps another one comes
            time.sleep(seconds)
            return []
        ready, _ = self._ray.wait(list(self._busy), num_returns=1, timeout=seconds)
        if ready:
            ready, _ = self._ray.wait(list(self._busy), num_returns=len(self._busy), timeout=0)
        return [self._answer(reference, self._busy.pop(reference)) for reference in ready]

    def _answer(self, reference: Any, key: str) -> Answer:
        faults = self._ray.exceptions
        try:
            return Answer(key, self._ray.get(reference))
        except faults.RayTaskError as fault:
            cause = getattr(fault, "cause", None)
            if isinstance(cause, Interrupted):
                return Answer(key, death="its worker was told to stop")
            return Answer(key, {"fault": one_line(f"{type(cause).__name__}: {cause}")[:300]})
        except faults.RayError as fault:
            words = re.sub(r"\b[0-9a-f]{32,}\b", "…", re.split(r"\n|\. ", str(fault).strip())[0])
            return Answer(key, death=f"its worker or node was lost ({type(fault).__name__}: {one_line(words)[:120]})")

    def close(self) -> None:
        """Tell all to save and end, and leave the cluster; one of our own ends with that."""
        references = list(self._busy)
        for reference in references:
            self._ray.cancel(reference, force=False)
        if references:
            self._ray.wait(references, num_returns=len(references), timeout=GRACE_SECONDS)
        self._busy.clear()
        self._ray.shutdown()


def _attempt(job: Job, environment: Mapping[str, str]) -> dict[str, Any]:
    """The task of a node."""
    os.environ.update(environment)
    load_plugins()
    return attempt(job)


def _imported() -> Any:
    """The package Ray. Raises RunError where it is not installed."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        ray: Any = importlib.import_module("ray")
        importlib.import_module("ray.exceptions")
    except ImportError as fault:
        raise RunError(
            f"--ray and --address need Ray, which cannot be imported ({one_line(str(fault))[:100]}); install it with: "
            f"pip install 'topocell[ray]', or leave them out for worker processes"
        ) from None
    return ray


def _must_answer(address: str) -> None:
    """Raise RunError unless something listens at an address: Ray itself would wait for long, and say much."""
    if address == "auto":
        return
    found = _ADDRESS.fullmatch(address)
    if found is None or int(found[2]) > 65535:
        raise RunError(f"--address has the form HOST:PORT, ray://HOST:PORT or auto, but got {address!r}; check it")
    if reason := _silence(found[1], int(found[2])):
        raise RunError(
            f"a Ray cluster must answer at --address {address}, but nothing does ({reason}); start one with: "
            f"ray start --head, or leave --address out"
        )


def _must_be_in_the_network(address: str, node: str) -> None:
    """Raise RunError for a cluster on 127.0.0.1 alone: Ray takes that for the address of the machine, and waits."""
    found = _ADDRESS.fullmatch(address)
    if found is None or address.startswith("ray://") or found[1] not in ("127.0.0.1", "localhost"):
        return
    if reason := _silence(node, int(found[2])):
        raise RunError(
            f"Ray takes --address {address} for {node}:{found[2]}, but nothing answers there ({reason}); give the "
            f"address that ray start --head has shown"
        )


def _silence(host: str, port: int) -> str:
    """Why nothing answers at an address; empty where something does."""
    try:
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except OSError as fault:
        return fault.strerror or str(fault)
    return ""

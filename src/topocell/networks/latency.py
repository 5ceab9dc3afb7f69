"""Latency of layers, measured once for each machine and kept in the cache folder.

A layer runs alone, forward, in evaluation mode, in float32 and channels-last, on a batch of the given size: some passes
to warm up, then passes whose median counts. The latency of a network is taken as the sum of its layers, as in the
look-up tables of ProxylessNAS (Cai et al., 2019) and FBNet (Wu et al., 2019); sums of edges and concatenations, which
those leave out too, are not measured.
"""

import copy
import hashlib
import json
import math
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from topocell.io import files
from topocell.io.cache import cache_folder
from topocell.nn.costs import Layer
from topocell.nn.kernels.cpu import instruction_set
from topocell.runtime.provenance import cpu_model

#: Passes before the first that counts, the least and the most that count, and seconds after which they are enough.
WARM_UP, LEAST, MOST, ENOUGH = 5, 11, 101, 0.1


class Latency:
    """Milliseconds of a layer: a meter for `topocell.nn.costs.network_costs`.

    Args:
        device: that layers run on.
        batch: images of a pass.
    """

    def __init__(self, device: torch.device | str, batch: int = 1) -> None:
        self.device, self.batch = torch.device(device), batch

    def __call__(self, layer: Layer) -> float:
        """Return what the cache folder says, or what is measured and then written there; the first to write decides."""
        question = self.question(layer)
        path = cache_folder() / "latency" / f"{hashlib.sha256(json.dumps(question).encode()).hexdigest()[:20]}.json"
        known = _read(path, question)
        return self._measured_for(path, question, layer) if known is None else known

    def question(self, layer: Layer) -> dict[str, Any]:
        """Return all that a latency depends on: layer, batch, device, threads, PyTorch, instruction set."""
        on_gpu = self.device.type == "cuda"
        return {
            "layer": layer.name,
            "batch": self.batch,
            "device": torch.cuda.get_device_name(self.device) if on_gpu else cpu_model(),
            "threads": torch.get_num_threads(),
            "torch": str(torch.__version__),
            "instruction_set": f"{torch.backends.cpu.get_cpu_capability()}, {instruction_set().name}",
        }

    def _measured_for(self, path: Path, question: Mapping[str, Any], layer: Layer) -> float:
        milliseconds = measured(layer, self.device, self.batch)
        with suppress(OSError):  # a cache that cannot be written is none
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
                file.write(files.to_json({**question, "milliseconds": milliseconds}).encode())
            try:
                with suppress(FileExistsError):
                    os.link(file.name, path)
                if _read(path, question) is None:  # damaged
                    os.replace(file.name, path)
            finally:
                Path(file.name).unlink(missing_ok=True)
        kept = _read(path, question)
        return milliseconds if kept is None else kept


def _read(path: Path, question: Mapping[str, Any]) -> float | None:
    """The latency that a file holds for a question; None where it holds no such thing."""
    try:
        found = files.from_json(path.read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or any(found.get(key) != value for key, value in question.items()):
        return None
    value = found.get("milliseconds")
    return value if isinstance(value, float) and math.isfinite(value) and value > 0 else None


def measured(layer: Layer, device: torch.device, batch: int) -> float:
    """Return the median milliseconds of a pass of `batch` images through a layer.

    Measured in a thread of its own, where no mode, hook or setting of the caller's is in force.
    """
    times: list[float] = []
    fault: list[BaseException] = []

    def measure() -> None:
        try:
            module = _materialised(layer.module, device)
            shape, generator = (batch, *layer.shape), torch.Generator().manual_seed(0)
            x = torch.randn(shape, generator=generator).to(device).to(memory_format=torch.channels_last)
            with torch.no_grad():
                begin = time.perf_counter()
                while len(times) < WARM_UP + LEAST or (
                    len(times) < WARM_UP + MOST and time.perf_counter() - begin < ENOUGH
                ):
                    _wait(device)
                    start = time.perf_counter()
                    module(x)
                    _wait(device)
                    times.append(1000 * (time.perf_counter() - start))
        except BaseException as raised:
            fault.append(raised)

    thread = threading.Thread(target=measure)
    thread.start()
    thread.join()
    if fault:
        raise fault[0]
    return statistics.median(times[WARM_UP:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _materialised(module: nn.Module, device: torch.device) -> nn.Module:
    """A copy of a module of the meta device, in evaluation mode, with weights of an ordinary size."""
    real = copy.deepcopy(module).to_empty(device=device).to(memory_format=torch.channels_last).eval()
    with torch.no_grad():
        for parameter in real.parameters():
            parameter.fill_(0.01)
        for buffer in real.buffers():
            buffer.fill_(1)
    return real

"""Provenance of a run: versions, machine, commit, command line, data and seeds."""

import importlib.metadata
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from topocell.nn.fused_check import found
from topocell.nn.kernels.cpu import instruction_set
from topocell.registry import fingerprints, imported
from topocell.runtime.distributed import world


def own_version() -> str:
    """Return the version of topocell; not from its metadata, which a checkout that is not installed lacks."""
    return str(sys.modules["topocell"].__version__)


def environment(device: str | torch.device, data_fingerprint: str, seeds: Mapping[str, int]) -> dict[str, Any]:
    """Collect the contents of env.json: versions, machine, git commit, command line, data and seeds."""
    gpu = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else None
    return {
        "topocell": own_version(),
        **{name: importlib.metadata.version(name) for name in ("torchvision", "numpy")},
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "instruction_set": instruction_set().name,
        "device": str(device),
        "gpu": gpu,
        "gpu_kernels": found(torch.device(device)),
        "threads": torch.get_num_threads(),
        "processes": world(),
        "git_commit": _git_commit(),
        "command": list(sys.argv),
        "imports": imported(),
        "import_fingerprints": fingerprints(),
        "data_fingerprint": data_fingerprint,
        "seeds": dict(seeds),
    }


def cpu_model() -> str | None:
    """Return the name of the processor; None where the system does not say."""
    source = Path("/proc/cpuinfo")
    lines = source.read_text().splitlines() if source.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, None) or platform.processor() or None


def _git_commit() -> str | None:
    """Commit checked out in the current directory, or None outside a repository."""
    try:
        answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()

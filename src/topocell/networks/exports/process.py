"""Logits computed in a process of its own, in which topocell cannot be imported."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from topocell.errors import RunError
from topocell.io import files

#: From batches of pixels (N, C, H, W), uint8, to logits (N, K) of each.
Compute = Callable[[Sequence[Tensor]], list[Tensor]]
#: Seconds after which a check is given up.
PATIENCE = 600


def in_process(folder: Path, program: str) -> Compute:
    """Return what computes logits by a program in a folder.

    The program is given the files of batches and of logits, and the number of threads. The value raises RunError with
    the last line of its fault.
    """

    def compute(batches: Sequence[Tensor]) -> list[Tensor]:
        with files.temporary_folder() as place:
            given, found = place / "batches.pt", place / "logits.pt"
            with files.guarded(given):
                files.replace_by(given, lambda file: torch.save(list(batches), file))
            words = [sys.executable, "-c", program, str(given), str(found), str(torch.get_num_threads())]
            settings = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
            done = subprocess.run(words, cwd=folder, env=settings, capture_output=True, timeout=PATIENCE, check=False)
            if done.returncode:
                why = done.stderr.decode(errors="replace").strip().split("\n")[-1]
                raise RunError(f"an export computes what the network does, but it fails: {why[:300]}; report it")
            logits: list[Tensor] = torch.load(found, weights_only=True)
            return logits

    return compute

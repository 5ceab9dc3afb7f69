"""Faults of files: they name the file, and only what is a fault of a place is told as one."""

import errno
import os
import re
from pathlib import Path

import pytest
import torch

from topocell.errors import CheckpointError, RunError
from topocell.io import files
from topocell.runs.estimate.memory import Memory
from topocell.runs.estimate.probe import Stopwatch, measure_time


def fault(number: int, *names: str) -> OSError:
    return OSError(number, os.strerror(number), *names)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("name", ["", "model.onnx"])
def test_a_folder_that_is_full_or_closed_is_one_line(number: int, name: str) -> None:
    with files.temporary_folder() as folder:
        place = folder / name
        words = re.escape(f"have room, but {place} cannot be written ({os.strerror(number).lower()}); make room")
        with pytest.raises(RunError, match=words), files.writing_in(folder):
            raise fault(number, *([str(place)] if name else []))


@pytest.mark.parametrize(
    "raised",
    [
        ConnectionResetError(),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        fault(errno.ENOMEM),
        fault(errno.EIO),
        fault(errno.ENOSPC, "/elsewhere/images"),
        fault(errno.EACCES, "/elsewhere/images"),
    ],
)
def test_faults_of_something_else_are_raised_as_they_are(raised: OSError) -> None:
    with pytest.raises(OSError) as caught, files.temporary_folder() as folder, files.writing_in(folder):
        raise raised
    assert caught.value is raised


@pytest.mark.parametrize("raised", [ConnectionResetError(), fault(errno.ENOSPC), fault(errno.EACCES)])
def test_a_fault_of_a_dataset_in_a_probe_is_raised_as_it_is(raised: OSError) -> None:
    def probe(batch: int, steps: int, stopwatch: Stopwatch) -> None:
        raise raised

    with pytest.raises(OSError) as caught:
        measure_time(probe, Memory(0, 0, 2, 0), torch.device("cpu"), None, 2)
    assert caught.value is raised


def test_a_checkpoint_of_a_probe_that_fills_the_disk_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def probe(batch: int, steps: int, stopwatch: Stopwatch) -> None:
        stopwatch.checkpoint(dict, due=True)

    def full(descriptor: int, *parts: bytes) -> None:
        raise fault(errno.ENOSPC)

    monkeypatch.setattr(files, "_write", full)
    with pytest.raises(CheckpointError, match=r"have room, but \S+/probe\.ckpt cannot be written .* set TMPDIR"):
        measure_time(probe, Memory(0, 0, 2, 0), torch.device("cpu"), None, 2)


@pytest.mark.parametrize("act", ["write", "fsync", "replace", "open"])
def test_what_replaces_a_file_names_it_in_its_fault(act: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise fault(errno.ENOSPC)

    monkeypatch.setattr(files.os, act, full)
    with pytest.raises(OSError) as caught:
        files.replace(tmp_path / "it", b"x")
    assert caught.value.filename == str(tmp_path / "it") and caught.value.filename2 is None
    assert not any(tmp_path.iterdir())

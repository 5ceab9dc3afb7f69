"""Damaged and hostile files in a run directory: refused by name, or passed over for the last good one."""

import hashlib
import io
import json
import os
import pickle
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.faults.pipelines import Workshop, contents, copied, one_line, run
from tests.faults.record import Tally
from tests.faults.test_kills import at_retraining
from tests.helpers.identical import differences

from topocell.io import checkpoint

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[: len(data) * 2 // 3],
    "bit-flipped": lambda data: flipped(data, 8 * (len(data) // 2) + 3),
    "header bit-flipped": lambda data: flipped(data, 8 * 20),
    "empty": lambda data: b"",
    "zeroed": lambda data: bytes(len(data)),
    "of a foreign version": lambda data: data[:8] + struct.pack("<I", 7) + data[12:],
    "of a foreign program": lambda data: torch_bytes({"epoch": 3}),
    "malicious": lambda data: checkpoint_of(pickle.dumps(Malicious())),
    "malicious and zipped": lambda data: checkpoint_of(torch_bytes({"net": Malicious()})),
}
#: What the malicious payload would make, had it run.
TRACE = "TOPOCELL_TEST_TRACE"


class Malicious:
    """Leaves a folder behind when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (os.environ[TRACE],)


def flipped(data: bytes, bit: int) -> bytes:
    """The bytes with one bit changed."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def torch_bytes(value: object) -> bytes:
    """A file as `torch.save` writes it."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def checkpoint_of(payload: bytes) -> bytes:
    """A checkpoint file with a right checksum around any payload."""
    digest = hashlib.sha256(payload).digest()
    return checkpoint.MAGIC + struct.pack("<I", checkpoint.VERSION) + digest + payload


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(TRACE, str(tmp_path / "executed"))
    return tmp_path / "executed"


def chosen(full: bool) -> list[str]:
    return list(DAMAGES) if full else ["truncated", "bit-flipped", "malicious"]


def test_a_damaged_newest_state_is_passed_over_for_the_one_before(
    full: bool, workshop: Workshop, tally: Callable[[str], Tally], tmp_path: Path, trace: Path
) -> None:
    name, faults = "two-stage DOTS", tally("newest checkpoint damaged")
    wanted = workshop.unbroken(name)
    (tmp_path / "begun").mkdir()
    begun = workshop.stopped(name, tmp_path / "begun/run", 4)
    for kind in chosen(full):
        path = copied(begun, tmp_path / kind)
        newest = max(path.glob("checkpoints/[0-9]*.ckpt"))
        newest.write_bytes(DAMAGES[kind](newest.read_bytes()))
        faults.injected += 1
        assert workshop.forked(run(name, path)) == (0, ""), (kind, workshop.said)
        said = (path / "log.txt").read_text()
        assert newest.name in said and "resuming from" in said, kind
        changed = differences(path, wanted)
        faults.survived += not changed
        faults.lost += bool(changed)
        assert changed == [] and not trace.exists()


def test_where_no_sound_state_is_left_the_run_is_refused_and_stays_as_it_is(
    full: bool, workshop: Workshop, tally: Callable[[str], Tally], tmp_path: Path, trace: Path
) -> None:
    """All states of a search, and the only copy of the supernet that a selection starts from."""
    name, faults = "two-stage DOTS", tally("every checkpoint damaged")
    (tmp_path / "begun").mkdir()
    begun = workshop.stopped(name, tmp_path / "begun/run", 4)
    searched = searched_run(workshop, name, tmp_path)
    for kind in chosen(full):
        for source, pattern, argv in (
            (begun, "[0-9]*.ckpt", run(name, tmp_path / kind / begun.name)),
            (searched, "supernet.ckpt", ["select", str(tmp_path / kind / searched.name), "--quiet"]),
        ):
            path = copied(source, tmp_path / kind)
            files = list(path.glob(f"checkpoints/{pattern}"))
            for file in files:
                file.write_bytes(DAMAGES[kind](file.read_bytes()))
            before = contents(path)
            faults.injected += 1
            code, _ = workshop.forked(argv)
            assert code == 2 and one_line(workshop.said), (kind, workshop.said)
            assert any(str(file) in workshop.said for file in files), (kind, workshop.said)
            faults.lost += contents(path) != before
            faults.survived += contents(path) == before and not trace.exists()
            shutil.rmtree(tmp_path / kind)
    assert faults.survived == faults.injected > 0 and not trace.exists()
    os.mkdir(os.environ[TRACE])
    assert trace.exists()  # which the payloads would have made


def searched_run(workshop: Workshop, name: str, folder: Path) -> Path:
    """A run that has searched and not yet derived its cell."""
    (folder / "searched").mkdir()
    argv = run(name, folder / "searched/searched")
    assert workshop.forked(["search", *argv[1:]])[0] == 0, workshop.said
    return folder / "searched/searched"


def test_a_damaged_genotype_is_refused_by_name(
    full: bool, workshop: Workshop, tally: Callable[[str], Tally], tmp_path: Path, trace: Path
) -> None:
    """Every flipped bit counts, also one that turns an operation or a number into another one that would be valid."""
    faults, draw = tally("genotype damaged"), random.Random(5)
    path = at_retraining(workshop, tmp_path / "at" / "run")
    file = path / "genotype.json"
    sound = file.read_bytes()
    cells = sound.index(b'"cells"'), sound.index(b'"origin"')
    swapped = sound.replace(b"sep_conv_3x3", b"sep_conv_5x5", 1) if b"sep_conv_3x3" in sound else b"[]"
    damaged = {kind: DAMAGES[kind](sound) for kind in ("truncated", "empty", "zeroed", "malicious")}
    damaged |= {"of format 2": sound.replace(b'"format": 1', b'"format": 2'), "another operation": swapped}
    damaged |= {
        f"bit {bit}": flipped(sound, bit)
        for bit in (draw.randrange(8 * cells[0], 8 * cells[1]) for _ in range(150 if full else 3))
        if parsed(flipped(sound, bit)) != parsed(sound)  # not in white space
    }
    for kind, data in damaged.items():
        file.write_bytes(data)
        before = contents(path)
        faults.injected += 1
        code, _ = workshop.forked(["retrain", str(path), "--quiet"])
        assert code == 2 and one_line(workshop.said) and str(file) in workshop.said, (kind, workshop.said)
        faults.lost += contents(path) != before
        faults.survived += contents(path) == before
    assert faults.survived == faults.injected and not trace.exists()
    file.write_bytes(sound)
    assert workshop.forked(["retrain", str(path), "--quiet"])[0] == 0, workshop.said


def parsed(data: bytes) -> object:
    """The value of a JSON text, or the text where it is none."""
    try:
        return json.loads(data)["cells"]
    except (ValueError, KeyError):
        return data

"""Checkpoint files: what goes in comes out, and no damaged, foreign or hostile file gets past `load`."""

import errno
import hashlib
import io
import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from topocell.errors import CheckpointError
from topocell.io import checkpoint

STATE = {
    "model": {"weight": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(7)},
    "half": torch.ones(3, dtype=torch.bfloat16),
    "epoch": 3,
    "lr": 0.025,
    "stage": "operations",
    "done": False,
    "nothing": None,
    "groups": [{"betas": (0.9, 0.999), 0: [1, 2]}],
}


def packed(payload: bytes, version: int = checkpoint.VERSION) -> bytes:
    return struct.pack("<8sI32s", b"TOPOCELL", version, hashlib.sha256(payload).digest()) + payload


def refused(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or a != a)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a.ckpt", STATE)
    assert same(checkpoint.load(tmp_path / "a.ckpt"), STATE)
    assert os.listdir(tmp_path) == ["a.ckpt"]


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
leaves |= st.lists(st.floats(width=32, allow_nan=False), max_size=4).map(torch.tensor)
nests = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=st.dictionaries(st.text(max_size=5), nests, max_size=4))
def test_any_nested_state_survives(tmp_path: Path, state: dict) -> None:
    path = tmp_path / "a.ckpt"
    checkpoint.save(path, state)
    assert same(checkpoint.load(path), state)


def test_optimizer_and_module_state_survive(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.randn(4, 3)).square().sum().backward()
    optimizer.step()
    checkpoint.save(tmp_path / "a.ckpt", {"net": net.state_dict(), "optimizer": optimizer.state_dict()})
    loaded = checkpoint.load(tmp_path / "a.ckpt")
    again = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    again.load_state_dict(loaded["net"])
    second = torch.optim.Adam(again.parameters())
    second.load_state_dict(loaded["optimizer"])
    assert same(dict(again.state_dict()), dict(net.state_dict()))
    assert same(second.state_dict(), optimizer.state_dict())


def test_subclasses_come_back_plain(tmp_path: Path) -> None:
    state = {"loss": np.float64(0.5), "net": OrderedDict(weight=torch.nn.Parameter(torch.ones(2)))}
    checkpoint.save(tmp_path / "a.ckpt", state)
    loaded = checkpoint.load(tmp_path / "a.ckpt")
    assert type(loaded["loss"]) is float
    assert type(loaded["net"]) is dict
    assert type(loaded["net"]["weight"]) is torch.Tensor
    assert not loaded["net"]["weight"].requires_grad


def test_a_view_is_stored_without_the_rest_of_its_storage(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a.ckpt", {"slice": torch.zeros(1_000_000)[:10]})
    assert (tmp_path / "a.ckpt").stat().st_size < 10_000


@pytest.mark.parametrize(
    ("state", "place"),
    [
        ({"a": [1, {2, 3}]}, "state['a'][1] is a set"),
        ({"a": {"b": np.float32(1)}}, "state['a']['b'] is a float32"),
        ({"a": {(1, 2): 3}}, "state['a'] has (1, 2)"),
    ],
)
def test_other_types_are_refused_on_saving(tmp_path: Path, state: dict, place: str) -> None:
    with pytest.raises(TypeError) as caught:
        checkpoint.save(tmp_path / "a.ckpt", state)
    assert place in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_missing_and_empty_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    with pytest.raises(CheckpointError, match="no such file"):
        checkpoint.load(path)
    assert "is empty" in refused(path, b"")
    assert "must begin with" in refused(path, b"PK\x03\x04 some other file that is long enough for a header")
    assert "must begin with" in refused(path, pickle.dumps({"a": 1}))
    assert "must hold a dict" in refused(path, packed(torch_bytes([1, 2])))
    assert "must be of format version 1, but is of 2" in refused(path, packed(torch_bytes(STATE), version=2))
    assert "tensors and plain values only" in refused(path, packed(b"not what torch.save writes"))


def torch_bytes(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_every_truncation_is_found(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a.ckpt", STATE)
    whole = (tmp_path / "a.ckpt").read_bytes()
    for length in [*range(64), *range(64, len(whole), 97), len(whole) - 1]:
        refused(tmp_path / "cut.ckpt", whole[:length])
    refused(tmp_path / "long.ckpt", whole + b"\0")


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_flipped_bit_is_found(tmp_path: Path, data: st.DataObject) -> None:
    whole = bytearray(packed(torch_bytes({"a": torch.arange(9), "b": "text"})))
    bit = data.draw(st.integers(0, 8 * len(whole) - 1) | st.integers(0, 8 * 44 - 1))
    whole[bit // 8] ^= 1 << bit % 8
    refused(tmp_path / "a.ckpt", bytes(whole))


class Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_hostile_payload_is_refused_and_not_executed(tmp_path: Path, legacy: bool) -> None:
    target = tmp_path / "executed"
    buffer = io.BytesIO()
    torch.save({"a": Hostile(target)}, buffer, _use_new_zipfile_serialization=not legacy)
    for payload in (buffer.getvalue(), pickle.dumps(Hostile(target), protocol=2)):
        message = refused(tmp_path / "a.ckpt", packed(payload))
        assert "tensors and plain values only" in message
    assert not target.exists()
    pickle.loads(pickle.dumps(Hostile(target)))  # would have shown, had it run
    assert target.exists()


class FailingDisk:
    """Lets `allowed` calls of the functions that `checkpoint.save` uses pass, then fails every one."""

    def __init__(self, patch: pytest.MonkeyPatch, allowed: int, code: int) -> None:
        self.left = allowed
        self.failed: str | None = None
        for name in ("open", "write", "fsync", "replace"):
            patch.setattr(os, name, self.failing(name, getattr(os, name), code))

    def failing(self, name: str, real: object, code: int) -> object:
        def call(*arguments: object) -> object:
            if self.left == 0:
                self.failed = self.failed or name
                if name == "write":  # a full disk takes a part first
                    real(arguments[0], arguments[1][:5])
                raise OSError(code, os.strerror(code))
            self.left -= 1
            if name == "write":
                return real(arguments[0], arguments[1][:1000])
            return real(*arguments)

        return call


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_a_disk_that_fails_at_any_call_leaves_the_old_file(tmp_path: Path, code: int) -> None:
    path = tmp_path / "a.ckpt"
    old, new = {"epoch": 1}, {"epoch": 2, "weights": torch.zeros(500)}
    checkpoint.save(path, old)
    where = []
    for allowed in range(100):
        with pytest.MonkeyPatch.context() as patch:
            disk = FailingDisk(patch, allowed, code)
            if not (fails := attempt(path, new)):
                break
        where.append(disk.failed)
        assert "\n" not in fails
        assert str(path) in fails
        assert "full" in fails if code == errno.ENOSPC else "full" not in fails
        assert os.listdir(tmp_path) == ["a.ckpt"]
        # only syncing the directory comes after the new file is whole and in place
        replaced = "replace" in where[:-1] and disk.failed in ("open", "fsync")
        assert checkpoint.load(path)["epoch"] == (2 if replaced else 1)
        checkpoint.save(path, old)
    assert set(where) == {"open", "write", "fsync", "replace"}
    assert where.count("write") >= 4
    assert where[-2:] == ["open", "fsync"]
    assert same(checkpoint.load(path), new)


def attempt(path: Path, state: dict) -> str:
    try:
        checkpoint.save(path, state)
    except CheckpointError as fault:
        return str(fault)
    return ""


def test_an_interrupt_while_writing_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path / "a.ckpt", STATE)
    assert os.listdir(tmp_path) == []

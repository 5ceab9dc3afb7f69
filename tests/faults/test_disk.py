"""A disk that is full, fails, or may not be written: one line, the states before it intact, the same end after it."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.faults.pipelines import Workshop, contents, one_line, run
from tests.faults.record import Tally
from tests.helpers.forked import Forked
from tests.helpers.identical import differences

from topocell.runs.directory import RunDir

#: What the operating system may say, and the words in which topocell passes it on.
FAILURES = {("write", "ENOSPC"): "it is full", ("fsync", "ENOSPC"): "it is full", ("replace", "EIO"): "writing failed"}


@pytest.mark.parametrize("call", FAILURES, ids=" ".join)
def test_every_call_in_turn_fails(
    call: tuple[str, str], full: bool, workshop: Workshop, tally: Callable[[str], Tally], tmp_path: Path
) -> None:
    """Call number 1, 2, 3, ... of a run fails with all after it; the run goes on when the disk is well again."""
    name = "two-stage DOTS"
    wanted, faults = workshop.unbroken(name), tally(f"{call[1]} at each {call[0]} in turn")
    at, stride = 1, 1 if full else {"write": 61, "fsync": 43, "replace": 17}[call[0]]
    while True:
        path = tmp_path / str(at) / "run"
        path.parent.mkdir()
        fault = ["failing call", {"name": call[0], "at": at, "code": call[1]}]
        code, _ = workshop.forked(run(name, path), fault=fault)
        if code == 0:
            break
        faults.injected += 1
        assert code == 2 and one_line(workshop.said) and FAILURES[call] in workshop.said, (at, workshop.said)
        if (path / "recipe.yaml").exists():
            with RunDir.existing(path, lock=False) as left:
                left.latest()  # no state that was saved is damaged
                assert left.warnings == []
        assert workshop.forked(run(name, path)) == (0, ""), workshop.said
        changed = differences(path, wanted)
        faults.survived += not changed
        faults.lost += bool(changed)
        assert changed == []
        shutil.rmtree(path.parent)
        at += stride
    assert faults.injected >= (15 if full else 2)  # a run of this size replaces 20 files


class Mounted:
    """A server whose processes see a file system of their own at `folder`."""

    def __init__(self, forked: Forked, folder: Path) -> None:
        self.forked = forked
        self.seen = Path(f"/proc/{forked.process.pid}/root{folder}")

    def remount(self, *words: str) -> None:
        """Change the options of the file system."""
        pid = str(self.forked.process.pid)
        subprocess.run(["nsenter", "-t", pid, "-m", "mount", "-o", *words], check=True)


def mounted(folder: Path, errors: Path, *words: str) -> Iterator[Mounted]:
    """A server in its own mount namespace, where `mount WORDS FOLDER` was done. Skips where that is not allowed."""
    shell = ["unshare", "--mount", "sh", "-c", f'mount {" ".join(words)} "$0" && exec "$@"', str(folder)]
    allowed = shutil.which("unshare") and subprocess.run([*shell, "true"], capture_output=True).returncode == 0
    if not allowed:
        pytest.skip("mounting a file system needs root and mount namespaces")
    server = Forked(errors, prefix=shell)
    yield Mounted(server, folder)
    server.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Mounted]:
    (tmp_path / "disk").mkdir()
    yield from mounted(tmp_path / "disk", tmp_path, "-t", "tmpfs", "-o", "size=64k", "tmpfs")


@pytest.fixture
def lockable(tmp_path: Path) -> Iterator[Mounted]:
    (tmp_path / "disk").mkdir()
    yield from mounted(tmp_path / "disk", tmp_path, "--bind", str(tmp_path / "disk"))


@pytest.mark.full
def test_a_disk_that_is_too_small_and_grows(
    small_disk: Mounted, workshop: Workshop, tally: Callable[[str], Tally], tmp_path: Path
) -> None:
    """A real full file system, which gets 32 kB more whenever the run asks for it."""
    name, disk = "two-stage DOTS", tmp_path / "disk"
    wanted, faults, size = workshop.unbroken(name), tally("file system too small"), 64
    while (code := small_disk.forked(run(name, disk / "run"))[0]) != 0:
        said = small_disk.forked.errors.read_text()
        assert code == 2 and one_line(said) and "it is full" in said, said
        faults.injected += 1
        assert size < 100_000
        size += 32
        small_disk.remount(f"remount,size={size}k", str(disk))
    shutil.copytree(small_disk.seen / "run", tmp_path / "copy")
    changed = differences(tmp_path / "copy", wanted)
    faults.survived, faults.lost = (0, 1) if changed else (faults.injected, 0)
    assert changed == [] and faults.injected >= 5


@pytest.mark.full
def test_a_file_system_that_is_read_only(
    lockable: Mounted, workshop: Workshop, tally: Callable[[str], Tally], tmp_path: Path
) -> None:
    """Read-only for root as well: refused in one line, and not a byte changes."""
    name, path, faults = "two-stage DOTS", tmp_path / "disk/run", tally("read-only file system")
    for steps in (1, 3, 5, 7):
        code, _ = lockable.forked(run(name, path), "0", event="step", count=2)
        assert code == -9
        before = contents(lockable.seen / "run")
        lockable.remount("remount,ro,bind", str(tmp_path / "disk"))
        code, _ = lockable.forked(run(name, path))
        faults.injected += 1
        said = lockable.forked.errors.read_text()
        assert code == 2 and one_line(said) and "must be writable" in said and "read-only" in said, (steps, said)
        lockable.remount("remount,rw,bind", str(tmp_path / "disk"))
        faults.lost += contents(lockable.seen / "run") != before
        faults.survived += 1
    assert lockable.forked(run(name, path))[0] == 0, lockable.forked.errors.read_text()
    faults.lost += bool(differences(path, workshop.unbroken(name)))
    assert faults.lost == 0


def test_a_directory_of_somebody_else(workshop: Workshop, tally: Callable[[str], Tally], tmp_path: Path) -> None:
    """Mode 0555, as an ordinary user meets it."""
    faults, folder = tally("directory that may not be written"), tmp_path / "closed"
    folder.mkdir(mode=0o555)
    tmp_path.chmod(0o755)
    options: dict[str, Any] = {"fault": ["ordinary user", {}]} if os.geteuid() == 0 else {}
    for path in (folder, folder / "run"):
        code, _ = workshop.forked(run("two-stage DOTS", path), **options)
        faults.injected += 1
        assert code == 2 and one_line(workshop.said) and "must be writable" in workshop.said, workshop.said
        faults.survived += 1
    assert list(folder.iterdir()) == []

"""A second process, a clock that goes backwards, and images that are not those of before."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.faults.pipelines import Workshop, contents, copied, one_line, run
from tests.faults.record import Tally
from tests.helpers.identical import differences

from topocell.runs.directory import RunDir


def test_a_second_process_is_refused_and_a_dead_one_leaves_no_lock(
    full: bool, workshop: Workshop, tally: Callable[[str], Tally], tmp_path: Path
) -> None:
    """The first is stopped in its tracks (SIGSTOP) while the second tries, then killed."""
    name, path = "two-stage DOTS", tmp_path / "run"
    faults = tally("second process on a run directory")
    with workshop.forked.twin(tmp_path) as first:
        for step in (2, 3, 4) if full else (2,):
            first.begin(run(name, path), "0", event="step", count=step, signal=signal.SIGSTOP)
            pid = stopped_holder(path)
            before = contents(path)
            for argv in (run(name, path), ["select", str(path), "--quiet"], ["retrain", str(path), "--quiet"]):
                code, _ = workshop.forked(argv)
                faults.injected += 1
                assert code == 2 and one_line(workshop.said), workshop.said
                assert f"but process {pid} on" in workshop.said and str(path) in workshop.said
                assert contents(path) == before
                faults.survived += 1
            os.kill(pid, signal.SIGKILL)
            assert first.end()[0] == -signal.SIGKILL
    assert workshop.forked(run(name, path)) == (0, ""), workshop.said
    changed = differences(path, workshop.unbroken(name))
    faults.lost += bool(changed)
    assert changed == []


def stopped_holder(path: Path) -> int:
    """The process that holds the lock of a run, once it has been stopped."""
    for _ in range(3000):
        time.sleep(0.02)
        words = (path / ".lock").read_text().split() if (path / ".lock").exists() else []
        stat = Path(f"/proc/{words[0]}/stat") if words else path / "none"
        if stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] == "T":
            return int(words[0])
    raise AssertionError("no process has been stopped")


@pytest.mark.parametrize("seconds", [0.5, 86_400.0])
def test_clocks_that_go_backwards(
    seconds: float, workshop: Workshop, tally: Callable[[str], Tally], tmp_path: Path
) -> None:
    """Wall clock and monotonic clock, in every process of a run that is killed; files from the future and the past."""
    name, path = "two-stage DOTS", tmp_path / "run"
    faults = tally("clocks going backwards")
    for moment in ({"event": "step", "count": 3}, {"event": "metrics", "count": 3}, {}):
        faults.injected += 1
        code, _ = workshop.forked(run(name, path), "0.5", fault=["backward clocks", {"seconds": seconds}], **moment)
        assert code == (-9 if moment else 0), workshop.said
        for number, file in enumerate(sorted(path.rglob("*"))):
            os.utime(file, times=(0, 0) if number % 2 else (4e9, 4e9))
    changed = differences(path, workshop.unbroken(name))
    faults.survived, faults.lost = (0, 1) if changed else (faults.injected, 0)
    assert changed == []


FOLDER = ["data.dataset=folder", "data.images=40", "space.nodes=2", "--budget", "smoke", "--quiet"]


def test_images_that_changed_between_start_and_resume(
    full: bool, workshop: Workshop, tally: Callable[[str], Tally], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused, with nothing touched, unless `--accept-data` says otherwise; other classes are refused in any case."""
    faults, photos = tally("images changed before a run goes on"), tmp_path / "photos"
    paint(photos, "cat", "dog")
    argv = ["run", "dots", f"data.root={photos}", *FOLDER]
    (tmp_path / "begun").mkdir()
    begun = tmp_path / "begun/run"
    code, _ = workshop.forked([*argv, "--out", str(begun)], "0", event="step", count=3, signal=signal.SIGTERM)
    assert code == 143, workshop.said
    changes: dict[str, Callable[[], object]] = {
        "one pixel": lambda: touch_pixel(photos / "dog/3.png"),
        "an image gone": lambda: (photos / "cat/0.png").unlink(),
        "an image more": lambda: shutil.copy(photos / "cat/1.png", photos / "cat/z.png"),
        "a label": lambda: (photos / "cat/1.png").rename(photos / "dog/x.png"),
        "a class more": lambda: paint(photos, "owl"),
    }
    for name in changes if full else ("one pixel", "a label", "a class more"):
        path = copied(begun, tmp_path / name)
        before = contents(path)
        shutil.copytree(photos, tmp_path / name / "kept")
        changes[name]()
        faults.injected += 1
        code, _ = workshop.forked([*argv, "--out", str(path)])
        assert code == 2 and one_line(workshop.said), (name, workshop.said)
        helps = name != "a class more"  # to which the networks do not fit
        assert ("resumes with the data it began with" in workshop.said) == helps, workshop.said
        assert ("--accept-data" in workshop.said) == helps, workshop.said
        assert contents(path) == before
        code, _ = workshop.forked([*argv, "--out", str(path), "--accept-data"])
        if name == "a class more":
            assert code == 2 and " was 2 and is 3; restore the data" in workshop.said, workshop.said
            assert contents(path) == before
        else:
            assert code == 0, (name, workshop.said)
            with RunDir.existing(path, lock=False) as run_directory:
                assert len(run_directory.read_json("env.json")["earlier_data_fingerprints"]) == 1
                assert "--accept-data" in (path / "log.txt").read_text()
        faults.survived += 1
        shutil.rmtree(photos)
        shutil.copytree(tmp_path / name / "kept", photos)
    assert workshop.forked([*argv, "--out", str(begun)]) == (0, ""), workshop.said


def paint(root: Path, *classes: str) -> None:
    """Twelve small images of noise for each class."""
    for label, name in enumerate(classes):
        draw = torch.Generator().manual_seed(label + len(classes))
        (root / name).mkdir(parents=True)
        for i in range(12):
            noise = torch.randint(0, 120, (8, 8, 3), generator=draw) + 60 * label
            Image.fromarray(noise.to(torch.uint8).numpy()).save(root / name / f"{i}.png")


def touch_pixel(path: Path) -> None:
    """Change one pixel by one."""
    with Image.open(path) as image:
        pixels = image.convert("RGB")
    red, green, blue = pixels.getpixel((1, 1))  # type: ignore[misc]
    pixels.putpixel((1, 1), (red ^ 1, green, blue))
    pixels.save(path)

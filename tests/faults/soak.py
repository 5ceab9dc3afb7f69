"""A soak: long runs in which memory, open files and the size of the checkpoint directory must stay flat.

    python -m tests.faults.soak --minutes 30

Two thirds of the time a search with its states saved every second, the rest retraining, each in a real process that
ends by SIGTERM. Prints a table; exit code 1 when something grew.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.record import Tally
from tests.helpers.forked import ROOT

#: Seconds between two looks.
PERIOD = 2.0
#: The first part of a run, in which caches fill.
WARM_UP = 0.25
#: What may grow from the end of the warm-up to the end, by the trend of all looks: a share, and a number of bytes.
MEMORY_SHARE, MEMORY_BYTES = 0.02, 4_000_000

#: Files in the folder of checkpoints at a moment: two numbered ones, the one that is being written, the supernet.
MOST_CHECKPOINTS = 4

SMALL = ["data.images=256", "data.test_images=64", "space.nodes=2", "--budget", "smoke", "--quiet"]
ENDLESS = 1_000_000
RUNS = {
    "search": (2 / 3, ["dots", f"search.stages.operations.epochs={ENDLESS}"]),
    "retraining": (
        1 / 3,
        ["dots", "retrain.auxiliary=0.0", f"retrain.epochs={ENDLESS}", f"retrain.test_every={ENDLESS // 2}"],
    ),
}


@dataclass(frozen=True)
class Look:
    """What a process occupies at a moment: resident bytes, open files, bytes and number of its checkpoints."""

    seconds: float
    memory: int
    files: int
    checkpoint_bytes: int
    checkpoints: int


def look(pid: int, run: Path, start: float) -> Look:
    """A look at a process and its run directory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    sizes = []
    for found in (run / "checkpoints").glob("*"):
        try:
            sizes.append(found.stat().st_size)
        except FileNotFoundError:  # replaced meanwhile
            continue
    handles = len(os.listdir(f"/proc/{pid}/fd"))
    return Look(time.monotonic() - start, pages * os.sysconf("SC_PAGE_SIZE"), handles, sum(sizes), len(sizes))


def soaked(name: str, recipe: Sequence[str], folder: Path, seconds: float) -> list[Look]:
    """Looks at a run over that many seconds after its first checkpoint."""
    run = folder / name
    process = subprocess.Popen(
        [sys.executable, "-m", "topocell", "run", *recipe, *SMALL, "--out", str(run)],
        cwd=ROOT,
        env=os.environ | {"TOPOCELL_CHECKPOINT_SECONDS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not list(run.glob("checkpoints/[0-9]*.ckpt")) and process.poll() is None:
            time.sleep(0.1)
        start, looks = time.monotonic(), []
        while time.monotonic() - start < seconds and process.poll() is None:
            looks.append(look(process.pid, run, start))
            time.sleep(PERIOD)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    if process.returncode != 143:
        raise SystemExit(f"the {name} ended with exit code {process.returncode}: {errors.strip()}")
    return looks


def growth(looks: Sequence[Look]) -> float:
    """Bytes of memory by which a straight line through the looks after the warm-up rises."""
    warm = looks[int(len(looks) * WARM_UP) :]
    slope = statistics.linear_regression([one.seconds for one in warm], [one.memory for one in warm]).slope
    return slope * (warm[-1].seconds - warm[0].seconds)


def faults(looks: Sequence[Look]) -> list[str]:
    """What is not flat, in words."""
    warm = looks[int(len(looks) * WARM_UP) :]
    median = statistics.median(one.memory for one in warm)
    found = []
    if (grown := growth(looks)) > max(MEMORY_SHARE * median, MEMORY_BYTES):
        found.append(f"memory grew by {grown / 1e6:.1f} MB")
    half = len(warm) // 2
    if max(one.files for one in warm[half:]) > max(one.files for one in warm[:half]):
        found.append("open files grew")
    first, second = (statistics.median(one.checkpoint_bytes for one in part) for part in (warm[:half], warm[half:]))
    if second > 1.02 * first or max(one.checkpoints for one in warm) > MOST_CHECKPOINTS:
        found.append("the checkpoint directory grew")
    return found


def main() -> int:
    """Soak and report."""
    parser = argparse.ArgumentParser(description="Long runs whose memory, files and checkpoints must stay flat.")
    parser.add_argument("--minutes", type=float, default=30.0)
    minutes = parser.parse_args().minutes
    tally, failed = Tally(f"soak of {minutes:g} minutes: runs"), False
    with tempfile.TemporaryDirectory() as folder:
        for name, (share, recipe) in RUNS.items():
            looks = soaked(name, recipe, Path(folder), 60 * minutes * share)
            warm = looks[int(len(looks) * WARM_UP) :]
            found = faults(looks)
            failed |= bool(found)
            tally.injected += 1
            tally.survived += not found
            metrics = Path(folder) / name / "metrics.jsonl"
            print(
                f"{name}: {looks[-1].seconds / 60:.1f} minutes, {len(metrics.read_text().splitlines())} epochs; memory "
                f"{warm[0].memory / 1e6:.0f} → {warm[-1].memory / 1e6:.0f} MB (trend {growth(looks) / 1e6:+.1f} MB), "
                f"open files {min(one.files for one in warm)}–{max(one.files for one in warm)}, checkpoints "
                f"{max(one.checkpoints for one in warm)} files, at most "
                f"{max(one.checkpoint_bytes for one in warm) / 1e3:.0f} kB: {'; '.join(found) or 'flat'}"
            )
    tally.keep()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

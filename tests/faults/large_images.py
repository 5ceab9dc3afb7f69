"""Whole runs on thousands of photos, killed and resumed by other numbers of workers: the same bits as an unbroken one?

    python -m tests.helpers.image_tree photos               # 40 classes, 4,320 files, some odd, some broken
    python -m tests.faults.large_images photos --out runs/large

A search on ImageNet in three stages and its retraining, then the network of its cell in the mobile setting, on all
images of the tree at a low resolution, from files and from a cache. The runs are kept in `--out`; called again it makes
only those that are missing. Prints a table as it goes; exit code 1 when anything differed. Half an hour on two cores.
"""

import argparse
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.forked import Forked
from tests.helpers.identical import differences, lasting_differences


@dataclass(frozen=True)
class Part:
    """A part of a run: how many workers read images, and where it is killed: in which phase, after how many steps."""

    workers: int
    phase: str = ""
    steps: int = 0


UNBROKEN = {"unbroken, no workers": (Part(0),)}
#: What is run → the parts that it is run in; the first of each kind is the unbroken one that the others must equal.
SEARCHES = UNBROKEN | {
    "killed in each stage and in the retraining, other workers each time": (
        Part(1, "1/3", 60),
        Part(3, "2/3", 30),
        Part(0, "3/3", 20),
        Part(1, "retrain", 25),
        Part(3),
    ),
    "killed twice in one stage, 1 worker": (Part(1, "1/3", 10), Part(1, "1/3", 65), Part(1)),
    "unbroken, 3 workers": (Part(3),),
}
TRANSFERS = UNBROKEN | {
    "killed twice, other workers each time": (Part(3, "retrain", 20), Part(1, "retrain", 30), Part(0)),
    "unbroken, 1 worker": (Part(1),),
}
SHARED = ("data.dataset=imagenet", "data.unreadable=skip", "data.images=null", "data.test_images=null")
SHARED += ("search.batch_size=64", "retrain.batch_size=64", "--budget", "smoke", "--quiet")


def command(root: Path, words: Sequence[str], cache: int | None, workers: int, out: Path) -> list[str]:
    """The command of a part."""
    data = [f"data.root={root}", f"data.workers={workers}", f"data.cache={'null' if cache is None else cache}"]
    return [*words, *data, *SHARED, "--out", str(out)]


def done(forked: Forked, arguments: Sequence[str], part: Part) -> str:
    """Run a part; returns where it was killed, in words. Raises SystemExit where it ended otherwise than it should."""
    moment = {"event": "step", "count": part.steps, "phase": part.phase} if part.steps else {}
    code, where = forked(list(arguments), "0.5", **moment)
    if code != (-signal.SIGKILL if part.steps else 0) or part.phase not in where:
        raise SystemExit(f"{part} ended with {code} in {where!r}: {forked.errors.read_text()}")
    return f"{where}, step {part.steps}" if part.steps else "the end"


def compared(
    forked: Forked, root: Path, out: Path, words: Sequence[str], cache: int | None, cases: Mapping[str, Sequence[Part]]
) -> int:
    """Run all cases of a kind, and print a line for each; returns how many differ from the first."""
    first, differing = None, 0
    for number, (name, parts) in enumerate(cases.items()):
        run, start, told = out / f"{number}" / "run", time.monotonic(), []
        if not (run / "results.json").exists():
            shutil.rmtree(run, ignore_errors=True)
            for part in parts:
                place = done(forked, command(root, words, cache, part.workers, run), part)
                told.append(f"{part.workers} to {place}")
        first = first or run
        found = (differences if words[0] == "run" else lasting_differences)(run, first)
        found = [each for each in found if each != "recipe.yaml"]  # which has the number of workers
        differing += bool(found)
        end = ", ".join(found) or ("the same bits" if run != first else "compared with")
        took = f"{time.monotonic() - start:.0f} s" if told else "kept"
        print(f"| {words[1]} | {cache or 'files'} | {name} | {'; '.join(told)} | {took} | {end} |", flush=True)
    return differing


def main() -> int:
    """Run and report."""
    parser = argparse.ArgumentParser(description="Whole runs on thousands of photos, killed and resumed.")
    parser.add_argument("root", type=Path, help="tree of images")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    root, out = chosen.root.resolve(), chosen.out.resolve()
    forked, differing = Forked(out), 0
    print("| recipe | read from | run | workers, to where | took | result |\n| --- | --- | --- | --- | --- | --- |")
    for cache, most in ((None, 4), (72, 2)):
        kind = out / ("files" if cache is None else "cache")
        searches, transfers = (dict(list(cases.items())[:most]) for cases in (SEARCHES, TRANSFERS))
        differing += compared(forked, root, kind / "search", ["run", "dots-imagenet"], cache, searches)
        cell = kind / "search/0/run/genotype.json"
        words = ["retrain", "imagenet-transfer", "--genotype", str(cell)]
        differing += compared(forked, root, kind / "transfer", words, cache, transfers)
    forked.close()
    return int(differing > 0)


if __name__ == "__main__":
    sys.exit(main())

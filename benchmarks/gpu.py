"""What a GPU has to show: that all is right there, how long steps take, and whole searches as far as the minutes reach.

python -m benchmarks.gpu --minutes 15 --data cifar10_jpeg.zip --table nasbench201.csv.gz --out gpu
python -m benchmarks.gpu --device cpu --minutes 3 --out gpu     # the program itself, at tiny sizes

It takes items one after the other, the most valuable first, each in a process and with a time limit of its own, and
writes `results.jsonl` and `report.md` into the folder as they come. Called again with the same folder it goes on: what
is done stays, searches resume. It runs from a checkout (`PYTHONPATH=src`) where all is there that topocell needs; the
package itself need not be.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu_checks, gpu_steps
from benchmarks.measure import machine, table

#: Seconds that a search has to save its state once it is told to stop.
GRACE = 45.0
#: Seconds without which no item is begun: starting alone takes ten.
LEAST = 20.0
#: In smoke mode on the device; the rest of all recipes comes last.
FIRST_RECIPES = (
    *("quickstart", "darts-v1", "darts-v2", "dots", "toponas-arbitrary-mile", "stretchable-l8", "edarts", "darts-pt"),
    *("pc-darts", "gdas", "nb201-dots"),
)
#: Whole searches at the published setting, and the minutes that each may take at most.
SEARCHES = {"edarts": 3.0, "darts-v1": 25.0, "dots": 40.0, "darts-pt": 60.0}
#: Searches whose cells a table knows, by seeds.
KNOWN = (
    "nb201-dots",
    "nb201-darts",
    "nb201-subsets-incoming",
    "nb201-subsets-outgoing",
    "nb201-pc-darts",
    "nb201-gdas",
)
SEEDS = (0, 1, 2)
PARTS = {"a": "Checks", "b": "Steps", "c": "Searches"}


@dataclass(frozen=True)
class Item:
    """Something to be done.

    Args:
        part: a row of `PARTS`.
        name: of the item.
        limit: seconds that it may take.
        command: what does it, after the interpreter; it writes rows of JSON to the file that `{out}` stands for.
        lacks: why it cannot be done here; empty if it can.
    """

    part: str
    name: str
    limit: float
    command: tuple[str, ...] = ()
    lacks: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do as many items as the minutes reach; returns 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15.0, help="time for all (default 15)")
    parser.add_argument("--device", default="cuda", help="cuda (default), or cpu for tiny sizes")
    parser.add_argument("--data", type=Path, help="training images: a folder with one folder a class, or a zip of one")
    parser.add_argument("--table", type=Path, help="NAS-Bench-201's accuracies, nasbench201.csv.gz")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--parts", default="a,b,c", help="checks, steps, searches (default a,b,c)")
    parser.add_argument("--item", help="do this one in this process (for its own use)")
    parser.add_argument("--rows", type=Path, help="where that one writes its rows")
    chosen = parser.parse_args(arguments)
    small = torch.device(chosen.device).type == "cpu"
    if chosen.item is not None:
        rows = PLAIN[chosen.item.split(":")[0]](chosen.item, torch.device(chosen.device), small, chosen.out)
        chosen.rows.write_text(json.dumps(rows), encoding="utf-8")
        return 0
    if not small and not torch.cuda.is_available():
        print("error: no GPU is found; use --device cpu for the tiny form", file=sys.stderr)
        return 2
    chosen.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + 60 * chosen.minutes
    data = unpacked(chosen.data, chosen.out)
    results = Results(chosen.out)
    for item in items(chosen.device, small, data, chosen.table, chosen.out):
        if item.part in chosen.parts.split(","):
            take(item, end, results, chosen.device, chosen.out)
    results.write()
    print(results.report())
    return 1 if any(record["status"] in ("wrong", "failed") for record in results.records.values()) else 0


# What there is to do


def items(device: str, small: bool, data: Path | None, table_of: Path | None, out: Path) -> Iterator[Item]:
    """All items, the most valuable first."""
    yield own("a", "engine", 90)
    for name in gpu_checks.STAGES | gpu_checks.CHANGING if not small else ["gdas"]:
        yield own("a", f"captured:{name}", 60)
    yield own("a", "captured:retraining", 60)
    yield own("a", "resumed", 60)
    yield own("a", "at once", 60)
    yield own("b", "bandwidth", 30)
    for name in gpu_steps.SEARCHES:
        yield own("b", f"steps:{name}", 150)
    yield own("b", "steps:retraining", 150)
    yield own("b", "steps:at once", 90)
    yield own("b", "steps:cells at once", 90)
    if (without := fused(device)).lacks:
        yield without
    yield from searches(device, small, data, {"edarts": SEARCHES["edarts"]}, out)
    for name in FIRST_RECIPES if not small else FIRST_RECIPES[:1]:
        yield own("a", f"recipe:{name}", 120)
    for seed in SEEDS if not small else SEEDS[:1]:
        for name in KNOWN if not small else KNOWN[:1]:
            yield known(name, seed, device, small, data, table_of, out)
    yield from searches(device, small, data, {k: v for k, v in SEARCHES.items() if k != "edarts"}, out)
    if not small:
        yield from (own("a", f"recipe:{name}", 120) for name in gpu_checks.recipes() if name not in FIRST_RECIPES)


def own(part: str, name: str, limit: float) -> Item:
    """An item that a function of `PLAIN` does."""
    return Item(part, name, limit, ("-m", "benchmarks.gpu", "--item", name, "--rows", "{rows}"))


def fused(device: str) -> Item:
    """What the rows of steps lack where this device has no fused kernels."""
    return Item("b", "fused kernels", 0, lacks="" if device.startswith("cuda") else "needs a GPU")


def searches(device: str, small: bool, data: Path | None, which: Mapping[str, float], out: Path) -> Iterator[Item]:
    """Searches on the images that were given; on a CPU in smoke mode, on digits."""
    for name, minutes in which.items():
        lacks = "" if small or data is not None else "needs training images (--data)"
        settings = ("--budget", "smoke") if small else (*_folder(data), "data.test_images=1000")
        yield Item("c", name, 60 * minutes, _search("search", name, device, settings, out / "runs" / name), lacks)


def known(name: str, seed: int, device: str, small: bool, data: Path | None, table_of: Path | None, out: Path) -> Item:
    """A search of NAS-Bench-201, whose cell is looked up."""
    lacks = "" if table_of is not None else "needs the table of accuracies (--table)"
    lacks = lacks or ("" if small or data is not None else "needs training images (--data)")
    settings = (f"ground_truth.table={table_of}", f"seed={seed}", *(("--budget", "smoke") if small else _folder(data)))
    command = _search("run", name, device, settings, out / "runs" / f"{name}-{seed}")
    return Item("c", f"{name}, seed {seed}", 60 * 15.0, command, lacks)


def _folder(data: Path | None) -> tuple[str, ...]:
    return ("data.dataset=folder", f"data.root={data}", "data.resolution=32")


def _search(command: str, name: str, device: str, settings: Sequence[str], folder: Path) -> tuple[str, ...]:
    return ("-m", "topocell", command, name, f"device={device}", *settings, "--out", str(folder))


def unpacked(given: Path | None, out: Path) -> Path | None:
    """The folder of the images: of a zip, in `out`, that which holds `train`, or the one folder that it has."""
    if given is None or not zipfile.is_zipfile(given):
        return given
    folder = out / "images"
    if not (out / "images.done").exists():
        with zipfile.ZipFile(given) as archive:
            archive.extractall(folder)
        (out / "images.done").touch()
    while not (folder / "train").is_dir() and len(inside := [path for path in folder.iterdir() if path.is_dir()]) == 1:
        folder = inside[0]
    return folder


# Doing it


class Results:
    """What was found so far, kept in a folder: a line of `results.jsonl` for each item, the last one counts."""

    def __init__(self, out: Path) -> None:
        self._out, self._file = out, out / "results.jsonl"
        self.records: dict[str, dict[str, Any]] = {}
        if self._file.exists():
            for line in self._file.read_text(encoding="utf-8").splitlines():
                with suppress(json.JSONDecodeError):  # the last line of a stretch that was killed
                    record = json.loads(line)
                    self.records[record["item"]] = record

    def add(self, item: Item, status: str, seconds: float, rows: Sequence[Any] = (), words: str = "") -> None:
        """Note how an item ended."""
        before = self.records.get(item.name, {}).get("seconds", 0.0) if status in ("done", "unfinished") else 0.0
        record = {"part": item.part, "item": item.name, "status": status, "seconds": round(before + seconds, 1)}
        record |= {"rows": list(rows), "words": words, "machine": machine()}
        self.records[item.name] = record
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        print(f"{item.part} {item.name}: {status}, {seconds:.0f} s {words}", flush=True)
        self.write()

    def write(self) -> None:
        """Write the report."""
        (self._out / "report.md").write_text(self.report(), encoding="utf-8")

    def report(self) -> str:
        """All that was found, in Markdown; and what was not done, and why."""
        sections = [f"# On this device\n\n{machine()}"]
        for part, title in PARTS.items():
            of = [record for record in self.records.values() if record["part"] == part]
            sections += [f"## {title}\n\n{SHOWN[part](of)}"] if of else []
        left = [r for r in self.records.values() if r["status"] not in ("done", "wrong")]
        lines = [f"- {r['item']}: {r['status']}{', ' + r['words'] if r['words'] else ''}" for r in left]
        sections.append("## Not done\n\n" + ("\n".join(lines) or "Nothing is left."))
        return "\n\n".join(sections) + "\n"


def take(item: Item, end: float, results: Results, device: str, out: Path) -> None:
    """Do an item, unless it is done; note how it ended."""
    if results.records.get(item.name, {}).get("status") in ("done", "wrong"):
        return
    if item.lacks:
        results.add(item, "cannot", 0.0, words=item.lacks)
        return
    limit = min(item.limit, end - time.monotonic() - (GRACE if item.part == "c" else 0.0))
    if limit < LEAST:
        results.add(item, "not reached", 0.0)
        return
    rows = out / "rows.json"
    rows.unlink(missing_ok=True)
    command = [part.format(rows=rows) if part == "{rows}" else part for part in item.command]
    if "--item" in command:
        command += ["--device", device, "--out", str(out)]
    code, seconds, said = called([sys.executable, *command], limit, GRACE if item.part == "c" else 5.0)
    if code is None:
        again = "resumes when called again" if item.part == "c" else "took longer than its limit"
        results.add(item, "unfinished", seconds, words=again)
    elif code:
        results.add(item, "failed", seconds, words=" / ".join(said.strip().splitlines()[-2:])[-300:])
    elif item.part == "c":
        results.add(item, "done", seconds, _of_run(Path(command[-1])))
    else:
        found = json.loads(rows.read_text(encoding="utf-8"))
        fine = all(row.get("fine", True) for row in found)
        results.add(item, "done" if fine else "wrong", seconds, found)


def called(command: Sequence[str], limit: float, grace: float) -> tuple[int | None, float, str]:
    """Exit code of a command, None where it was told to stop; seconds; and what it said last."""
    start = time.monotonic()
    how: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    with subprocess.Popen(command, **how, start_new_session=True) as process:
        try:
            said, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            try:
                said, _ = process.communicate(timeout=grace)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # with what it has started, in the session that is its own
                said, _ = process.communicate()
            return None, time.monotonic() - start, said
    return process.returncode, time.monotonic() - start, said


def _of_run(folder: Path) -> list[dict[str, Any]]:
    """The seconds of each phase of a run, its cell, and its true accuracy where it was looked up."""
    found: dict[str, Any] = {}
    for name in ("timings.json", "results.json", "genotype.json"):
        with suppress(OSError, json.JSONDecodeError):
            found[name.removesuffix(".json")] = json.loads((folder / name).read_text(encoding="utf-8"))
    return [found]


# One item each, in a process of its own

Rows = list[dict[str, Any]]


def _check(
    check: Callable[..., list[gpu_checks.Found]], item: str, device: torch.device, small: bool, out: Path
) -> Rows:
    return [found._asdict() for found in check(device)]


def _captured(item: str, device: torch.device, small: bool, out: Path) -> Rows:
    return [found._asdict() for found in gpu_checks.captured(device, item.partition(":")[2])]


def _recipe(item: str, device: torch.device, small: bool, out: Path) -> Rows:
    return [found._asdict() for found in gpu_checks.smoke(item.partition(":")[2], device, out / "smoke")]


def _steps(item: str, device: torch.device, small: bool, out: Path) -> Rows:
    name, repetitions = item.partition(":")[2], 2 if small else 20
    if name == "retraining":
        return [dict(row) for row in gpu_steps.retraining(device, 1 if small else 4, small)]
    if name == "at once":
        return [dict(row) for row in gpu_steps.at_once(device, repetitions, small)]
    if name == "cells at once":
        return [dict(row) for row in gpu_steps.cells_at_once(device, repetitions, small)]
    return [dict(row) for row in gpu_steps.steps(name, device, repetitions, small)]


def _bandwidth(item: str, device: torch.device, small: bool, out: Path) -> Rows:
    return [{"case": "copy", "bandwidth": gpu_steps.bandwidth(device, 16 if small else 1024)}]


PLAIN: dict[str, Callable[[str, torch.device, bool, Path], Rows]] = {
    "engine": partial(_check, gpu_checks.engine),
    "captured": _captured,
    "resumed": partial(_check, gpu_checks.resumed),
    "at once": partial(_check, gpu_checks.at_once),
    "recipe": _recipe,
    "bandwidth": _bandwidth,
    "steps": _steps,
}


# The report


def _checks(records: Sequence[Mapping[str, Any]]) -> str:
    rows = [["check", "", "found"]]
    for record in records:
        name = record["item"].partition(":")[0]
        rows += [[name, row["what"], row["found"] if row["fine"] else f"**{row['found']}**"] for row in record["rows"]]
        if not record["rows"]:
            rows.append([record["item"], record["status"], record["words"]])
    return table(rows)


def _timings(records: Sequence[Mapping[str, Any]]) -> str:
    rows = [["case", "step", "time", "times faster", "peak memory", "times what bytes need"]]
    lines = []
    for row in (row for record in records for row in record["rows"]):
        if "way" not in row:
            lines.append(f"A copy reads and writes {row['bandwidth'] / 1e9:.4g} GB/s.")
            continue
        peak = f"{row['peak'] / 1e9:.3g} GB" if row.get("peak") else ""
        faster = f"{row['times_faster']:.2f}" if "times_faster" in row else ""
        times = f"{row['times_bytes']:.2f}" if "times_bytes" in row else ""
        rows.append([row["case"], row["way"], f"{1000 * row['seconds']:.3g} ms", faster, peak, times])
    return "\n".join(lines) + "\n\n" + table(rows)


def _searches(records: Sequence[Mapping[str, Any]]) -> str:
    rows = [["search", "status", "seconds", "of them searching", "test accuracy of the cell, looked up"]]
    for record in records:
        of = record["rows"][0] if record["rows"] else {}
        accuracy = of.get("results", {}).get("ground_truth", {}).get("accuracy")
        found = "" if accuracy is None else f"{accuracy:.2f} %"
        searching = of.get("timings", {}).get("search")
        seconds = "" if searching is None else f"{searching:.0f}"
        rows.append([record["item"], record["status"], f"{record['seconds']:.0f}", seconds, found])
    return table(rows)


SHOWN = {"a": _checks, "b": _timings, "c": _searches}


if __name__ == "__main__":
    sys.exit(main())

"""What a GPU has to show: ours equals one module per edge and operation there, steps of both, recipes from end to end.

python -m benchmarks.gpu [--device cuda] [--repetitions 20] [--parts equal,steps,recipes] [--out FILE]

Runs on a CPU too (`--device cpu --batch 4`), so that the program itself can be tried anywhere.
"""

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from tests.helpers.reference.compare import assert_matches
from tests.helpers.reference.supernet import ReferenceSupernet

from benchmarks.measure import in_turn, options, parsed, table, write_section
from benchmarks.supernet import CASES, LAST, OURS, PUBLISHED, UPDATES, Subject, subjects_of
from topocell import api, spaces
from topocell.config.load import load_recipe
from topocell.io import files
from topocell.spaces.cell import SpaceSpec
from topocell.supernet import Supernet

#: Recipes that are taken from search to report, with what makes them shorter.
RECIPES = {
    "quickstart": (),
    "darts-v1": (),
    "darts-v2": (),
    "dots": (),
    "toponas-arbitrary-mile": (),
    "stretchable-l8": (),
    "edarts": (),
    "darts-pt": ("space.candidates=[none,skip_connect,sep_conv_3x3]",),
    "pc-darts": (),
    "gdas": (),
}
#: Precision → how far ours may be from a float64 reference, relative to the largest value of each tensor.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}


def main(arguments: list[str] | None = None) -> int:
    """Measure, and write a section for each part; returns 1 where something is wrong."""
    parser = options(__doc__ or "")
    parser.add_argument("--device", default="cuda", help="where (default cuda)")
    parser.add_argument("--parts", default="equal,steps,recipes", help="which, in this order")
    chosen = parsed(parser, arguments)
    device = torch.device(chosen.device)
    parts: dict[str, Callable[[], tuple[str, bool]]] = {
        "equal": lambda: equality(device),
        "steps": lambda: steps(device, chosen),
        "recipes": lambda: recipes(device),
    }
    good = True
    for name in chosen.parts.split(","):
        try:
            body, fine = parts[name]()
        except Exception:
            body, fine = f"```\n{traceback.format_exc()}```", False
        write_section(chosen.out, f"GPU: {name}", body)
        good = good and fine
    return 0 if good else 1


def equality(device: torch.device) -> tuple[str, bool]:
    """Compare outputs and all gradients with one module per edge and operation, in float64."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    rows, fine = [["space", "precision", "allowed", "found"]], True
    cases = {"darts": spaces.get("darts", nodes=3), "s2": spaces.get("s2"), "nasbench201": spaces.get("nasbench201")}
    for name, space in cases.items():
        for dtype, tolerance in TOLERANCE.items():
            said = difference(space, device, dtype, tolerance)
            fine = fine and said == "equal"
            rows.append([name, str(dtype).removeprefix("torch."), f"{tolerance:g}", said])
    return f"Logits and the gradients of operation weights, edge weights and all weights.\n\n{table(rows)}", fine


def difference(space: SpaceSpec, device: torch.device, dtype: torch.dtype, tolerance: float) -> str:
    """`equal`, or the first line of what differs."""
    layers = 5 if space.skeleton == "nasbench201" else 3
    torch.manual_seed(0)
    net = Supernet(space, 4, layers, 3).to(device, dtype)
    reference = ReferenceSupernet(space, 4, layers, 3).double().to(device)
    weights = {
        kind: (torch.rand(cell.n_edges, cell.n_candidates), torch.rand(cell.n_edges))
        for kind, cell in space.cells.items()
    }
    moved = {kind: tuple(w.to(device, dtype) for w in pair) for kind, pair in weights.items()}
    try:
        assert_matches(net, reference, space, torch.rand(4, 3, 8, 8).to(device, dtype), moved, tolerance, tolerance)
    except AssertionError as fault:
        return str(fault).splitlines()[0]
    return "equal"


def steps(device: torch.device, chosen: argparse.Namespace) -> tuple[str, bool]:
    """Time the steps of a supernet of one module per edge and operation, and of ours, in turn."""
    rows = [["case", "", "α step", "w step", "bilevel step", "of (a)"]]
    for name in CASES:
        case = CASES[name] if chosen.batch is None else replace(CASES[name], batch=chosen.batch)
        timings = measured(subjects_of(case), device, chosen.repetitions)
        first = sum(timings[f"{PUBLISHED} {u}"] for u in UPDATES)
        for subject in (PUBLISHED, LAST, OURS):
            alpha, weights = (timings[f"{subject} {u}"] for u in UPDATES)
            cells = [f"{1000 * t:.3g} ms" for t in (alpha, weights, alpha + weights)]
            rows.append([name, subject, *cells, f"{first / (alpha + weights):.2f}x faster"])
    return f"Medians of {chosen.repetitions}, float32.\n\n{table(rows)}", True


def measured(subjects: Mapping[str, Subject], device: torch.device, repetitions: int) -> dict[str, float]:
    """Seconds of each update of each subject."""
    calls = dict[str, Callable[[], object]]()
    for name, subject in subjects.items():
        subject.net.to(device)
        subject.arch.to(device)
        subject.batches = {u: (x.to(device), y.to(device)) for u, (x, y) in subject.batches.items()}
        calls |= {f"{name} {update}": partial(subject.step, update) for update in UPDATES}
    return {key: timing.wall for key, timing in in_turn(calls, repetitions).items()}


def recipes(device: torch.device) -> tuple[str, bool]:
    """Take recipes from search to report in smoke mode."""
    rows, fine = [["recipe", "seconds", "test accuracy, last epoch", "fault"]], True
    with tempfile.TemporaryDirectory() as folder:
        for name, changes in RECIPES.items():
            start, accuracy, fault = time.perf_counter(), "", ""
            try:
                api.run(load_recipe(name, [f"device={device}", *changes], "smoke"), Path(folder) / name)
                accuracy = str(files.from_json((Path(folder) / name / "results.json").read_bytes())["last_mean"])
            except Exception as found:
                traceback.print_exc()
                fault, fine = f"{type(found).__name__}: {' '.join(str(found).split())[:200]}", False
            rows.append([name, f"{time.perf_counter() - start:.1f}", accuracy, fault])
    return table(rows), fine


if __name__ == "__main__":
    sys.exit(main())

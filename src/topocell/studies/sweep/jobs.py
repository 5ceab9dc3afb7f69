"""What a worker of a sweep does: runs and parts of them, in run directories that resume themselves."""

import errno
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from topocell import api
from topocell.config.recipe import Recipe
from topocell.config.retrain import RetrainPlan
from topocell.errors import RunError, TopocellError
from topocell.genotype.genotype import Genotype
from topocell.io import files
from topocell.reporting.ground_truth import ground_truth_of
from topocell.reporting.terminal import Quiet
from topocell.runs.setup import load_ground_truth
from topocell.runtime.hooks import Interrupted
from topocell.studies._training import left_by

#: Seconds for which a run directory is waited for that another process holds: one that is just ending.
LOCK_SECONDS = 60.0


@dataclass(frozen=True)
class Job:
    """A piece of work for one worker: `make(*args, path)`, a function of a module, returns its record.

    Attributes:
        key: its name.
        make, args: the function, and its arguments before the path.
        path: the run directory in which it works.
        threads: that it computes with.
    """

    key: str
    make: Callable[..., Mapping[str, Any]]
    args: tuple[Any, ...]
    path: str
    threads: int = 1


def attempt(job: Job) -> dict[str, Any]:
    """Carry out a job in this process.

    Returns `record` and `seconds`; or `fault`, one line, with `full` where it is one of a full disk, and `trace` where
    it is no fault of the user's. An interruption is raised, after the state was saved.
    """
    begun = time.monotonic()
    torch.set_num_threads(job.threads)
    try:
        _await(Path(job.path))
        return {"record": dict(job.make(*job.args, job.path)), "seconds": time.monotonic() - begun}
    except Interrupted:
        raise
    except TopocellError as fault:
        return {"fault": str(fault), "full": _is_full(fault)}
    except Exception as fault:  # a bug, of ours or of a user's own piece: the other runs go on
        trace = "".join(traceback.format_exception(fault))
        return {"fault": f"{type(fault).__name__}: {' '.join(str(fault).split())[:300]}", "trace": trace}


def _await(path: Path) -> None:
    """Wait until no other process holds a run directory, as one does that has lost its node and is about to end."""
    if not path.parent.is_dir():
        raise RunError(f"every node must see the directory of the sweep, but {path.parent} is not there; share it")
    until = time.monotonic() + LOCK_SECONDS
    while path.is_dir():
        try:
            files.lock(path)()
            return
        except RunError:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def _is_full(fault: BaseException) -> bool:
    """Return whether a fault is one of a full disk."""
    return any(isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT) for cause in _causes(fault))


def _causes(fault: BaseException | None) -> Iterator[BaseException]:
    while fault is not None:
        yield fault
        fault = fault.__cause__ or fault.__context__


def whole(recipe: Recipe, path: str) -> dict[str, Any]:
    """Search, derive, retrain or look up, and report. Raises as `api.run`."""
    api.run(recipe, path, Quiet())
    return _record(recipe, path)


def validated(recipe: Recipe, plan: RetrainPlan, seed: int, path: str) -> dict[str, Any]:
    """Search, derive, train the cell on the split of the search, and validate it there. Raises as `api.validate`."""
    _derived(recipe, path)
    return {"validation": _validation(path, plan, seed), **_cell(path)}


def filtered(recipe: Recipe, plan: RetrainPlan, seed: int, threshold: float, path: str) -> dict[str, Any]:
    """The same, and retrain the cell if its mean validation accuracy exceeds the threshold. Raises as `api.run`."""
    found = validated(recipe, plan, seed, path)
    if found["validation"]["mean"] <= threshold:
        return found
    return found | whole(recipe, path)


def _derived(recipe: Recipe, path: str) -> None:
    """Search and derive, or what is left of it."""
    place = Path(path)
    if not (place / "genotype.json").is_file():
        api.search(recipe, place, Quiet())
        api.select(place, Quiet())


def _validation(path: str, plan: RetrainPlan, seed: int) -> dict[str, Any]:
    """Mean, deviation and number of the validation accuracies, fractions."""
    results = api.validate(path, Quiet(), plan, seed=seed)
    return {
        "mean": results["last_mean"],
        "std": results["last_std"],
        "n": results["n"],
        "images": results["test_images"],
        "epochs": results["epochs"],
    }


def _record(recipe: Recipe, path: str) -> dict[str, Any]:
    """What a finished run has left, and how its cell stands among all of the table, where there is one."""
    found = left_by(Path(path))
    if ground_truth := ground_truth_of(found["results"]):
        table = load_ground_truth(recipe)
        if table is not None and table.complete:
            values = table.values(ground_truth["column"])
            found["percentile"] = 100.0 * float((values < ground_truth["accuracy"]).mean())
    return {**found, **_cell(path), "host": os.uname().nodename if hasattr(os, "uname") else ""}


def _cell(path: str) -> dict[str, Any]:
    cell = Genotype.load(Path(path) / "genotype.json")
    return {"key": cell.key, "genotype": cell.to_dict()}

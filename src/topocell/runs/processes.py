"""A run of several processes (torchrun): the first one writes the run directory, the others work in copies of it."""

import hashlib
import inspect
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

from topocell.config.recipe import Recipe
from topocell.errors import ElsewhereError, RecipeError, TopocellError
from topocell.io import files
from topocell.reporting.showing import shown
from topocell.runs.directory import RunDir
from topocell.runs.setup import Setup
from topocell.runtime import distributed
from topocell.runtime.as_found import as_found

#: What a run directory has when its search is over.
_SEARCHED = ("checkpoints/supernet.ckpt", "genotype.json")

Asked = ParamSpec("Asked")
Result = TypeVar("Result")


def on_all_processes(act: Callable[Asked, Result]) -> Callable[Asked, Result]:
    """Let a function with a run directory `out` be called in every process that torchrun has started.

    The first process has the directory and shows the work. The others have a copy in a temporary folder, which they
    read what the run has left from, and which is dropped at the end: `out` must be on a file system that all of them
    see. Nobody is asked before a long run.

    What holds for a whole process is set as a run needs it, and left as it was (see `topocell.runtime.as_found`).

    Its argument `display` may be a name, or be left out, see `topocell.reporting.showing.shown`.
    """
    signature = inspect.signature(act)

    @wraps(act)
    def acting(*args: Asked.args, **named: Asked.kwargs) -> Result:
        bound = signature.bind(*args, **named)
        with as_found(), shown(bound.arguments.get("display")) as display:
            bound.arguments["display"] = display
            if distributed.asked_for() and distributed.world() == 1:
                return in_company(bound)
            distributed.check_company()
            return act(*bound.args, **bound.kwargs)

    def in_company(bound: inspect.BoundArguments) -> Result:
        with distributed.joined():
            try:
                with _directory(Path(bound.arguments["out"])) as path:
                    bound.arguments["out"] = path
                    bound.arguments.pop("before", None)
                    return act(*bound.args, **bound.kwargs)
            except TopocellError as fault:
                if isinstance(fault, ElsewhereError) or distributed.reported(str(fault)):
                    raise
                raise ElsewhereError(str(fault)) from fault

    return acting


@contextmanager
def _directory(out: Path) -> Iterator[Path]:
    states = sorted((out / "checkpoints").glob("*.ckpt"))
    distributed.same(f"checkpoints in {out}", [(state.name, state.stat().st_size) for state in states])
    if distributed.rank() == 0:
        distributed.together(lambda: None)  # until the others have their copies
        yield out
        return
    with ExitStack() as stack:

        def copy() -> Path:
            with files.guarded(Path(tempfile.gettempdir())):
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="topocell-"))
                mine = Path(folder) / (out.absolute().name or "run")
                if out.is_dir():
                    shutil.copytree(out, mine, ignore=shutil.ignore_patterns("*.lock", "*.tmp"))
            return mine

        yield distributed.together(copy)


def check_shares(sizes: Mapping[str, int]) -> None:
    """Check that each batch can be shared out; `sizes` are those of whole batches, by the key that names them.

    Raises:
        RecipeError: a batch size that does not divide, or shares of one image.
    """
    n = distributed.world()
    for key, size in sizes.items() if n > 1 else ():
        if size % n or size < 2 * n:
            raise RecipeError(
                f"every process takes an equal share of a batch, of 2 images or more, but {key} is {size} and there "
                f"are {n} processes; set it to {max(2, round(size / n)) * n}"
            )


def search_batches(recipe: Recipe) -> dict[str, int]:
    """Sizes of the batches of a search, which a selection by perturbation takes up again, by their keys."""
    plan = recipe.search
    return {
        f"search.stages.{stage.name}.batch_size" if stage.batch_size else "search.batch_size": plan.batch(stage)
        for stage in plan.stages
    }


def check_processes(setup: Setup, data: str, sizes: Mapping[str, int]) -> None:
    """Check that all processes have the same recipe, images and versions, and that each batch can be shared out.

    Args:
        setup: what the recipe names.
        data: fingerprint of its images.
        sizes: see `check_shares`.

    Raises:
        RecipeError: a batch size that does not divide, or shares of one image.
        RunError: the processes differ.
    """
    if distributed.world() == 1:
        return
    check_shares(sizes)
    code = hashlib.sha256()
    for file in sorted(Path(__file__).parent.parent.rglob("*.py")):
        code.update(file.read_bytes())
    distributed.same("version of torch", str(torch.__version__))
    distributed.same("code of topocell (as a fingerprint)", code.hexdigest()[:12])
    distributed.same("recipe", setup.recipe.to_yaml())
    distributed.same("images (as a fingerprint)", data)


def opened(setup: Setup, out: str | Path, accept_data: bool = False, searched: bool = False) -> RunDir:
    """Open the run directory of a setup in every process, or in none (see `RunDir.open`, `check_processes`).

    What is done already shares out no batches: the search where `searched` is true, or where its supernet or the cell
    is there, trainings where the results are.
    """
    env = setup.environment()
    *ready, trained = ((Path(out) / name).exists() for name in (*_SEARCHED, "results.json"))
    sizes = {} if searched or any(ready) or trained else search_batches(setup.recipe)
    if not trained:
        sizes |= {f"{key}.batch_size": each.batch_size for key, each in setup.recipe.named_trainings.items()}
    check_processes(setup, env["data_fingerprint"], sizes)
    return distributed.together(lambda: RunDir.open(out, setup.recipe.to_yaml(), env=env, accept_data=accept_data))

"""The run directory: all that one run leaves behind, safe against kills, full disks and second processes.

    recipe.yaml  env.json  kernels.json  metrics.jsonl  history.npz  timings.json  log.txt  results.json
    checkpoints/NNNNNN.ckpt, NAME.ckpt    genotype.json  weights.safetensors  preprocessing.json  report.html
    tensorboard/, metrics.csv where a log asks for them

Whole files are replaced atomically; metrics.jsonl and log.txt grow by whole lines.
"""

import datetime
import functools
import re
import weakref
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Self

import safetensors.torch
import torch

from topocell.config.lasting import first_difference, lasting, recipe_hash
from topocell.config.load import RETRAINED
from topocell.errors import CheckpointError, RunError, nearest, typed
from topocell.io import files, plain_yaml
from topocell.io.checkpoint import Checkpoints, load, save
from topocell.nn.kernels import choice
from topocell.runs.identity import accept_other_data, other_machine, refuse_foreign
from topocell.runs.records import Records

#: Directories in which a run writes.
_FOLDERS = ("checkpoints", "selections", "shallow", "validation", "retrainings", "tensorboard")
#: What only a run with a checkpoint has.
_LEFT = ("genotype.json", "results.json", "checkpoints/supernet.ckpt")
#: Entry of a named checkpoint that tells its recipe.
_RECIPE = "recipe"
#: Which kernels the numbers of the run rest on.
_KERNELS = "kernels.json"


class OtherRecipe(RunError):
    """A run directory that belongs to another recipe; `difference` is the first one, in words, at one of `keys`."""

    def __init__(self, path: Path, difference: str, keys: Collection[str] = ()) -> None:
        again = f", or train its cell otherwise: topocell retrain {typed(path)} --as NAME KEY=VALUE"
        images = ", or give the images of the run again: data=(train, test)" * ("'given' there" in difference)
        super().__init__(
            f"output directory {path} belongs to another recipe (first difference: {difference}); "
            f"choose another --out or delete it{images}{again * bool(keys and set(keys) <= set(RETRAINED))}"
        )
        self.difference = difference


class RunDir:
    """One run directory, locked against other processes until `close()` or the end of the `with` block.

    Made by `open` (a recipe in hand) or `existing` (only the directory known). `warnings` collects, in words,
    what was found amiss and survived; log.txt has them too. `newest` is the file of the state that `latest` returned.
    """

    def __init__(self, path: Path, *, lock: bool) -> None:
        self.path = path
        self.warnings: list[str] = []
        self.newest: Path | None = None
        self._checkpoints = Checkpoints(path / "checkpoints")
        self._records = Records(path / "metrics.jsonl")
        self._record: choice.Record | None = None
        self._unlock = weakref.finalize(self, files.lock(path)) if lock else None

    @classmethod
    def open(cls, path: str | Path, recipe_yaml: str, *, env: Mapping[str, Any], accept_data: bool = False) -> Self:
        """Create the run directory of a resolved recipe, or reopen it to resume.

        `env` is what `environment` returns. Reopening keeps the first env.json; differences that can change
        numbers become warnings. With `accept_data` other images of the same shape and classes are such a difference,
        and so is another table of true accuracies; env.json lists the fingerprints of all. Raises RunError, with
        nothing overwritten, when `path` is no directory, is not writable, holds something that is no run, belongs to
        other data, or is in use; OtherRecipe when it belongs to another recipe.
        """
        path = Path(path)
        with files.guarded(path):
            if path.exists() and not path.is_dir():
                raise RunError(f"--out must name a directory, but {path} is a file; choose another --out")
            if not path.exists():
                path.mkdir(parents=True, exist_ok=True)
                files.sync_directory(path.parent)
            refuse_foreign(path)
            files.refuse_links(path, *_FOLDERS)
            run = cls(path, lock=True)
            try:
                other = run.has("recipe.yaml") and run._differs(recipe_yaml)
                if not run.has("recipe.yaml"):
                    run.write_text("recipe.yaml", recipe_yaml)
                run._repair()
                if run.has("env.json"):
                    run._compare_environment(env, accept_data)
                else:
                    run.write_json("env.json", env)
                if other:  # last: what is refused above leaves the recipe as it was
                    run.write_text("recipe.yaml", recipe_yaml)
                run._follow_decisions()
            except BaseException:
                run.close()
                raise
        return run

    @classmethod
    def existing(cls, path: str | Path, *, lock: bool = True) -> Self:
        """Open the run at `path`, whatever its recipe. `lock=False` is for readers: neither this nor `latest`
        changes the directory then, and what adds to metrics or checkpoints is refused.

        Raises RunError when there is no run (suggesting the nearest beside it) or when it is in use.
        """
        path = Path(path)
        with files.guarded(path):
            if not (path / "recipe.yaml").is_file():
                runs = [found.parent.name for found in path.absolute().parent.glob("*/recipe.yaml")]
                raise RunError(
                    f"a run directory holds a recipe.yaml, but {path} does not"
                    f"{nearest(path.absolute().name, runs)}; begin with: topocell run RECIPE --out DIR"
                )
            files.refuse_links(path, *_FOLDERS)
            run = cls(path, lock=lock)
            if lock:
                run._repair()
        return run

    def close(self) -> None:
        """Give up the lock; what needs it is refused from now on."""
        if self._record is not None:
            choice.leave(self._record)
            self._record = None
        if self._unlock is not None:
            self._unlock()
            self._unlock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def genotype_path(self) -> Path:
        return self.path / "genotype.json"

    @property
    def weights_path(self) -> Path:
        return self.path / "weights.safetensors"

    @property
    def report_path(self) -> Path:
        return self.path / "report.html"

    def selection_path(self, name: str) -> Path:
        """Return the path of a selection by name, a run directory itself. Raises RunError for a name that is none."""
        return self.path / "selections" / self._file(name).name

    def retraining_path(self, name: str) -> Path:
        """Return the path of a further retraining by name, a run directory itself. Raises as `selection_path`."""
        return self.path / "retrainings" / self._file(name).name

    @property
    def recipe_yaml(self) -> str:
        """Text of the resolved recipe. Raises RunError when the file cannot be read as text."""
        path = self.path / "recipe.yaml"
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, ValueError) as fault:
            raise RunError(f"{path} must be text, but is not ({fault}); restore it from a copy") from fault

    def has(self, name: str) -> bool:
        """Return whether the run holds the file `name`."""
        return self._file(name).is_file()

    def write_text(self, name: str, text: str) -> None:
        """Replace the file `name`. Raises RunError when that is no plain file name or the disk refuses."""
        self._replace(name, text.encode())

    def write_bytes(self, name: str, data: bytes) -> None:
        """Replace the file `name`. Raises as `write_text`."""
        self._replace(name, data)

    def write_json(self, name: str, value: Any) -> None:
        """Replace the file `name` by `value` as JSON, NaN and infinities as null. Raises as `write_text`."""
        self._replace(name, f"{files.to_json(value, indent=2)}\n".encode())

    def read_json(self, name: str) -> Any:
        """Read what `write_json` wrote. Raises RunError when the file is missing or is not JSON."""
        path = self._file(name)
        try:
            return files.from_json(path.read_bytes())
        except FileNotFoundError as fault:
            raise RunError(f"{self.path} has no {name} yet; run the step that writes it first") from fault
        except (OSError, ValueError) as fault:
            raise RunError(f"{path} must be JSON, but is not ({fault}); restore it from a copy") from fault

    def write_tensors(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Replace the file `name` by `tensors` in safetensors format. Raises as `write_text`."""
        contiguous = torch.contiguous_format
        own = {key: value.detach().cpu().clone(memory_format=contiguous) for key, value in tensors.items()}
        self._replace(name, safetensors.torch.save(own))

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Add one line to metrics.jsonl, on the disk when this returns; NaN and infinities become null.

        Raises RunError when the disk refuses; no part of the line stays then.
        """
        self._must_be_locked()
        self._records.append(record)

    def metrics(self) -> list[dict[str, Any]]:
        """Read the records of metrics.jsonl in order; a last line that a kill has torn is skipped.

        Raises RunError, naming the line, when any other line is damaged.
        """
        return self._records.read()

    def forget(self, phases: Collection[str], *names: str) -> None:
        """Drop the files `names`, one after the other, then the records of `phases` from metrics.jsonl.

        Raises RunError.
        """
        self._must_be_locked()
        for name in names:
            with files.guarded(self._file(name)):
                self._file(name).unlink(missing_ok=True)
        self._records.replace(record for record in self.metrics() if record.get("phase") not in phases)

    def log(self, text: str) -> None:
        """Add `text`, on one line behind the time in UTC, to log.txt. Raises RunError."""
        now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        path = self.path / "log.txt"
        with files.guarded(path):
            files.append_line(path, f"{now} {' '.join(text.splitlines())}")

    def save_checkpoint(self, state: dict[str, Any], *, keep: int = 2) -> None:
        """Store `state` as the newest checkpoint and drop all but the `keep` newest intact ones.

        Raises CheckpointError when it cannot be written; the earlier ones are all there then, and so is what
        `latest` returns. For the types that `state` may hold see `topocell.io.checkpoint.save`.
        """
        self._must_be_locked()
        self._checkpoints.save(state, self._records.size, keep, self._recipe_hash)

    def latest(self, map_location: str | torch.device = "cpu") -> dict[str, Any] | None:
        """Load the newest intact state, or None when none was ever saved.

        metrics.jsonl is cut back to what it was when that state was saved, so that the metrics of a resumed
        run equal those of an unbroken one. Damaged newer checkpoints become warnings. Raises CheckpointError
        when there are checkpoints and all are damaged, when there are none and the run has come so far that it must
        have had some, and when the newest is one of another recipe.
        """
        saved = self._checkpoints.latest(map_location)
        while self._checkpoints.warnings:
            self._warn(self._checkpoints.warnings.pop(0))
        if saved is None:
            self._must_be_new()
            self._cut_metrics(0)
            return None
        self._must_be_mine(saved.path, saved.recipe)
        self._cut_metrics(saved.metrics_bytes)
        self.newest = saved.path
        return saved.state

    def save_named(self, name: str, state: dict[str, Any]) -> None:
        """Keep `state` as checkpoints/NAME.ckpt until the next save of that name. Raises CheckpointError."""
        self._must_be_locked()
        save(self._checkpoints.named(name), {**state, _RECIPE: self._recipe_hash})

    def load_named(self, name: str, map_location: str | torch.device = "cpu") -> dict[str, Any]:
        """Load what `save_named` kept. Raises CheckpointError when it is missing, damaged or of another recipe."""
        if not self.has_named(name):
            raise CheckpointError(f"{self.path} has no checkpoint {name!r} yet; run the step that saves it first")
        state = load(self._checkpoints.named(name), map_location)
        self._must_be_mine(self._checkpoints.named(name), state.pop(_RECIPE, None))
        return state

    def named_path(self, name: str) -> Path:
        """Return the path of a named state. Raises CheckpointError for a name that is no plain word."""
        return self._checkpoints.named(name)

    def has_named(self, name: str) -> bool:
        """Return whether `save_named` has kept a state of that name."""
        return self._checkpoints.named(name).is_file()

    def _file(self, name: str) -> Path:
        if not re.fullmatch(r"\w[\w.+-]{,59}", name):
            raise RunError(
                f"a file of a run has a name of up to 60 letters, digits and '_.+-' that begins with none of '.+-', "
                f"but got {name[:80]!r}; choose another"
            )
        return self.path / name

    def _replace(self, name: str, data: bytes) -> None:
        path = self._file(name)
        with files.guarded(path):
            files.replace(path, data)

    def _follow_decisions(self) -> None:
        """Apply the decisions of the run about kernels, and record those that are made from now on."""
        found = self._read_object(_KERNELS) if self.has(_KERNELS) else {}
        mine = weakref.ref(self)  # a record must not keep the lock alive

        def save(decisions: dict[str, str]) -> None:
            if (run := mine()) is not None:
                run.write_json(_KERNELS, decisions)

        self._record = choice.Record({q: way for q, way in found.items() if isinstance(way, str)}, save)
        choice.follow(self._record)

    def _read_object(self, name: str) -> dict[str, Any]:
        value = self.read_json(name)
        if not isinstance(value, dict):
            raise RunError(f"{self.path / name} must hold a JSON object, but does not; restore it from a copy")
        return value

    def _must_be_locked(self) -> None:
        if self._unlock is None:
            raise RuntimeError(f"{self.path} is not locked by this RunDir: open it with lock=True to add to it")

    def _must_be_new(self) -> None:
        found = next((name for name in _LEFT if (self.path / name).exists()), None)
        if found is not None:
            raise CheckpointError(
                f"a run resumes from its newest checkpoint, but {self._checkpoints.folder} has none, and "
                f"{self.path / found} says that there were some; restore them from a copy, or choose another --out"
            )

    def _must_be_mine(self, path: Path, recipe: Any) -> None:
        if recipe != self._recipe_hash:
            raise CheckpointError(
                f"checkpoint {path} must be of the recipe in {self.path / 'recipe.yaml'}, but is of another one; "
                "restore both from a copy, or delete the checkpoint if it was put there by mistake"
            )

    @functools.cached_property
    def _recipe_hash(self) -> str:
        """Hash what stays as it is while the run lasts. Raises RunError."""
        return recipe_hash(self._stored_recipe())

    def _stored_recipe(self) -> Any:
        try:
            return plain_yaml.load(self.recipe_yaml)
        except ValueError as fault:
            where = self.path / "recipe.yaml"
            raise RunError(f"{where} must be YAML, but is damaged; restore it or choose another --out") from fault

    def _repair(self) -> None:
        """Repair what a kill may have left: temporary files, missing parts, a torn line."""
        self._checkpoints.folder.mkdir(exist_ok=True)
        for folder in (self.path, self._checkpoints.folder):
            for found in filter(files.is_temporary, folder.iterdir()):
                found.unlink()
        self._records.repair()

    def _differs(self, recipe_yaml: str) -> bool:
        """Return whether a recipe differs from that of the run in what may change. Raises OtherRecipe: in more."""
        if self.recipe_yaml == recipe_yaml:
            return False
        stored, given = self._stored_recipe(), plain_yaml.load(recipe_yaml)
        then, now = map(lasting, (stored, given))
        difference = first_difference(then, now)
        if difference is not None:
            both = isinstance(then, dict) and isinstance(now, dict)
            keys = [key for key in {**then, **now} if then.get(key) != now.get(key)] if both else []
            raise OtherRecipe(self.path, difference, keys)
        return bool(stored != given)

    def _compare_environment(self, env: Mapping[str, Any], accept_data: bool) -> None:
        stored = self._read_object("env.json")
        accepted = accept_other_data(self.path, stored, env, accept_data)
        if accepted:
            self.write_json("env.json", stored)
        for words in [*accepted, *other_machine(stored, env)]:
            self._warn(words)

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        if self._unlock is not None:
            self.log(f"warning: {text}")

    def _cut_metrics(self, length: int) -> None:
        """Cut metrics.jsonl back to `length` bytes, when this process holds the lock."""
        size = self._records.size
        if size < length:
            self._warn(f"{self._records.path} lost records: it has {size} bytes, but {length} had been written")
        elif size > length and self._unlock is not None:
            self._records.cut(length)

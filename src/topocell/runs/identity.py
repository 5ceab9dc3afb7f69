"""The identity of a run besides its recipe: the data it began with, and the machine."""

import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from topocell.config.load import overridden, resolved
from topocell.config.recipe import Recipe
from topocell.errors import RecipeError, RunError, typed
from topocell.io import files, plain_yaml
from topocell.io.folders import is_helper
from topocell.registry import fingerprints, imported

#: What a run rests on besides its recipe, by the key of its fingerprint in env.json.
_FINGERPRINTS = {"data_fingerprint": "the data", "ground_truth_fingerprint": "the table of true accuracies"}


#: What of env.json no change of the data may touch: the networks are built for it.
_BUILT_FOR = ("classes", "class_names", "image_shape")


_VERSIONS = ("topocell", "torch", "torchvision", "numpy")


_MACHINE = (*_VERSIONS, "platform", "cpu", "instruction_set", "device", "gpu", "gpu_kernels", "threads", "processes")


def other_machine(stored: Mapping[str, Any], env: Mapping[str, Any]) -> list[str]:
    """Warn, in words, of versions and hardware that are not those of the stored env.json."""
    changed = [key for key in _MACHINE if stored.get(key) != env.get(key)]
    now = set(_import_hashes(env).values())
    others = [text for text, content in _import_hashes(stored).items() if content not in now]
    named = f"the imported files are not those the run began with ({', '.join(others)}): its figures rest on both"
    warnings = [named] if others else []
    if not changed:
        return warnings
    words = ", ".join(f"{key} was {stored.get(key)}, is {env.get(key)}" for key in changed)
    return [*warnings, f"the run resumes in another place, and numbers may differ a little: {words}"]


def accept_other_data(path: Path, stored: dict[str, Any], env: Mapping[str, Any], accept: bool) -> list[str]:
    """Put the fingerprints of other data into `stored`, those of before beside them; return warnings.

    Raises:
        RunError: the data changed, and `accept` is False, or the images have another shape or other classes.
    """
    return [_accepted(path, key, stored, env, accept) for key in _FINGERPRINTS if stored.get(key) != env.get(key)]


def _accepted(path: Path, key: str, stored: dict[str, Any], env: Mapping[str, Any], accept: bool) -> str:
    """Put another fingerprint into `stored` and the one before beside it; returns a warning. Raises RunError."""
    what, then, now, list_key = _FINGERPRINTS[key], stored.get(key), env.get(key), f"earlier_{key}s"
    restore, accepted, beside = f"restore {what}", "--accept-data", ""
    by = f"topocell retrain {typed(path)} --as NAME data.root=DIR"
    if re.search(r"^ *dataset: given$", (path / "recipe.yaml").read_text(encoding="utf-8"), re.MULTILINE):
        accepted, by = "accept_data=True", f"topocell.retrain({str(path)!r}, name=NAME, data=(train, test))"
        if key == "data_fingerprint":
            restore = "give the images that it began with (a random transform makes others whenever they are read)"
    if (path / "genotype.json").is_file() and key == "data_fingerprint":
        beside = f"; its cell is trained on these by: {by}"
    others = f"{restore}, or choose another --out{beside}"
    words = f"{what} of {path} changed (it was {then}, is {now})"
    for part in _BUILT_FOR if key == "data_fingerprint" else ():
        if part in stored and stored[part] != env.get(part):
            raise RunError(
                f"a run resumes with images of the shape and classes that it began with, but {part} of {path} was "
                f"{reprlib.repr(stored[part])} and is {reprlib.repr(env.get(part))}; {others}"
            )
    if not accept:
        raise RunError(
            f"a run resumes with {what} it began with, but {words}; {restore}, choose another --out, "
            f"or resume all the same by {accepted}{beside}"
        )
    earlier = stored.get(list_key, [])
    if not isinstance(earlier, list):
        raise RunError(
            f"{list_key} in {path / 'env.json'} must be a list, but is {reprlib.repr(earlier)}; "
            "restore the file from a copy"
        )
    stored |= {key: now, list_key: [*earlier, then]}
    return f"{words}, which {accepted} allows: its figures rest on both"


def refuse_foreign(path: Path) -> None:
    """Raise RunError for a directory that holds something and is no run; what systems leave there is nothing."""
    names = sorted(found.name for found in path.iterdir() if not is_helper(found.name))
    if names and "recipe.yaml" not in names:
        raise RunError(
            f"--out must name a run or an empty directory, but {path} holds {names[0]!r} and no recipe.yaml; "
            "choose another --out"
        )


@contextmanager
def naming_imports(path: str | Path) -> Iterator[None]:
    """Turn a recipe fault inside into one that names the missing imports that the run at `path` was begun with."""
    try:
        yield
    except RecipeError as fault:
        if missing := _missing_imports(Path(path)):
            brings = " ".join(f"--import {typed(text)}" for text in missing)
            raise RecipeError(f"{fault}; the run in {path} was begun with {brings}: add it") from fault
        raise


def begun_store(path: Path) -> str | None:
    """How the run at `path` was begun to read its images, see `Streaming.begun`; None of one that is not begun."""
    environment = _environment_of(path)
    store = environment.get("data_store", "half" if environment else None)
    return store if store in ("memory", "stream", "half") else None


def _environment_of(path: Path) -> Mapping[str, Any]:
    """What the env.json of a run holds; nothing where there is none, or it is damaged."""
    try:
        found = files.from_json((path / "env.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _missing_imports(path: Path) -> list[str]:
    """The imports that a run was begun with, as far as it says, but for those that are there, from whatever place."""
    env, now = _environment_of(path), set(fingerprints().values())
    named, before = env.get("imports"), _import_hashes(env)
    every = [text for text in named if isinstance(text, str)] if isinstance(named, list) else []
    return [text for text in every if text not in imported() and before.get(text) not in now]


def _import_hashes(env: Mapping[str, Any]) -> dict[str, str]:
    """The hash of each imported file that the contents of an env.json have."""
    found = env.get("import_fingerprints")
    return {text: str(content) for text, content in found.items()} if isinstance(found, dict) else {}


#: Keys that say where the images are now, and which device computes: with them alone a run resumes.
_PLACES = ("data.root", "device")


def moved(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """The recipe of a run with changes of these keys; images of no place keep none. Raises RecipeError."""
    placed = [change for change in changes if _key(change) != "data.root" or recipe.data.root is not None]
    return resolved(plain_yaml.dump(overridden(recipe.model_dump(mode="json"), placed))) if placed else recipe


def only_resumes(changes: Sequence[str]) -> bool:
    """Return whether changes say where images are now, or which device computes, and nothing else."""
    return bool(changes) and all(_key(change) in _PLACES for change in changes)


def _key(change: str) -> str:
    return change.partition("=")[0].strip()


def names_images(changes: Sequence[str]) -> bool:
    """Return whether changes say which images are taken, where they are, or how they are read."""
    return "data" in overridden({}, changes)


def names_device(changes: Sequence[str]) -> bool:
    """Return whether changes say which device computes, also where the run names it too."""
    return any(_key(change) == "device" for change in changes)


def begun_kind(path: Path) -> str | None:
    """The kind of device, its `type`, on which the run at `path` was begun; None of one that is not begun."""
    device = _environment_of(path).get("device")
    return device.partition(":")[0] if isinstance(device, str) else None

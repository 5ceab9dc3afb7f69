"""Named pieces: the table of each kind, found when a name is first looked up, and a piece built from its options."""

import hashlib
import importlib.util
import inspect
import os
import re
import reprlib
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, TypeVar

from topocell.arguments import checked
from topocell.errors import RecipeError, check_known, nearest

Part = TypeVar("Part")

#: Files and modules with pieces of a user's own, separated as in PATH. Processes that are started take it along.
IMPORT_VARIABLE = "TOPOCELL_IMPORT"

#: Kind of piece → module and name of its table. The module is imported when a name is first looked up, so that
#: recipes can be read and listed without what builds networks.
HOMES = {
    "criterion": "topocell.selection.progressive:CRITERIA",
    "dataset": "topocell.data.readers:DATASETS",
    "decision": "topocell.selection.decider:DECISIONS",
    "edge rule": "topocell.selection.rules:EDGE_RULES",
    "level": "topocell.supernet.levels:LEVELS",
    "logger": "topocell.runs.logs:LOGGERS",
    "loss": "topocell.runtime.losses:LOSSES",
    "mechanism": "topocell.searching.mechanisms:MECHANISMS",
    "metric": "topocell.selection.probe:METRICS",
    "operation": "topocell.nn.primitives:PRIMITIVES",
    "operation rule": "topocell.selection.rules:OPERATION_RULES",
    "optimizer": "topocell.runtime.optimizers:OPTIMIZERS",
    "perturbation": "topocell.searching.perturbation:PERTURBATIONS",
    "precision": "topocell.runtime.precision:PRECISIONS",
    "protocol": "topocell.config.retrain:PROTOCOLS",
    "relaxation": "topocell.relaxation:RELAXATIONS",
    "skeleton": "topocell.spaces.skeletons:SKELETONS",
    "space": "topocell.spaces:SPACES",
    "study": "topocell.studies:STUDIES",
    "topology": "topocell.topology:TOPOLOGIES",
}


class Registry(dict[str, Part]):
    """The pieces of one kind by name: a dictionary that checks each piece that is added.

    Args:
        kind: a row of `HOMES`.
        pieces: those that come with the package.
        base: what a piece that is added is an instance of, or a class derived from; default any callable.
    """

    #: How many pieces have been added to all tables.
    added = 0

    def __init__(self, kind: str, pieces: Mapping[str, Part], base: type | None = None) -> None:
        super().__init__(pieces)
        self.kind, self._base = kind, base

    def add(self, name: str, piece: Part) -> Part:
        """Add a piece, and return it.

        Raises:
            RecipeError: the name is taken, or cannot stand in a recipe, or the piece is none of this kind.
        """
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][\w.+-]{0,59}", name):
            rule = "the name of a piece has up to 60 letters, digits and '_.+-'"
            raise RecipeError(f"{rule}, but got {reprlib.repr(name)}; choose another")
        if name in self and self[name] is not piece:
            raise RecipeError(f"a name stands for one piece, but the {self.kind} {name!r} exists; choose another")
        whole = piece.func if isinstance(piece, partial) else piece
        derived = self._base is not None and isinstance(whole, type) and issubclass(whole, self._base)
        if not (callable(piece) if self._base is None else derived or isinstance(whole, self._base)):
            what = "something to call" if self._base is None else f"a {self._base.__module__}.{self._base.__name__}"
            raise RecipeError(f"the {self.kind} {name!r} has to be {what}, but is {reprlib.repr(piece)}; change it")
        self[name] = piece
        Registry.added += 1
        return piece


def known(kind: str) -> Any:
    """Return the table of a kind of pieces, a row of `HOMES`: names, or a mapping from names."""
    module, _, name = HOMES[kind].partition(":")
    return getattr(import_module(module), name)


@checked(RecipeError)
def register(kind: str, name: str, piece: Any = None) -> Any:
    """Make a piece of a user's own known by name to recipes and the command line, in this process.

    With a piece: add it. Without one: a decorator, as in `@topocell.register("relaxation", "mine")`. What a piece of
    each kind has to be is in docs/how-to/imports.md.

    Raises:
        RecipeError: no such kind, or a name that is taken.
    """
    if kind not in HOMES or not isinstance(table := known(kind), Registry):
        kinds = [other for other in HOMES if isinstance(known(other), Registry)]
        raise RecipeError(f"unknown kind of piece {kind!r}{nearest(kind, kinds)}; known: {', '.join(kinds)}")
    if piece is None:
        return lambda decorated: register(kind, name, decorated)
    return table.add(name, piece)


_imported: list[str] = []


def imported() -> list[str]:
    """Return what `load_plugins` has imported, as it was named."""
    return list(_imported)


def named_imports() -> list[str]:
    """Return the files and modules that were imported because somebody named them."""
    installed = _installed()
    return [text for text in _imported if text not in installed]


def fingerprints() -> dict[str, str]:
    """Return a hash of each imported file, as it is now, by the name it was imported under; modules have none."""
    files = {text: Path(text) for text in _imported if text.endswith(".py")}
    return {text: hashlib.sha256(file.read_bytes()).hexdigest()[:16] for text, file in files.items() if file.exists()}


def load_plugins(named: Sequence[str] = ()) -> None:
    """Import pieces of the user's own: installed ones, those of TOPOCELL_IMPORT, those named here; each once.

    Installed packages offer theirs by an entry point of the group `topocell.plugins`. What is named here is added to
    TOPOCELL_IMPORT, so that worker processes import it too.

    Args:
        named: files that end in .py, or modules.

    Raises:
        RecipeError: one of them cannot be imported, or registers nothing.
    """
    for text, entry in _installed().items():
        _import(text, entry.load)
    before = [text for text in os.environ.get(IMPORT_VARIABLE, "").split(os.pathsep) if text]
    listed = list(dict.fromkeys(map(_absolute, [*before, *named])))  # files go by their place, whoever has named them
    if listed:
        os.environ[IMPORT_VARIABLE] = os.pathsep.join(listed)
    for text in listed:
        _import(text, partial(_execute, text))


def is_foreign(piece: object) -> bool:
    """Return whether a piece does not come with topocell."""
    piece = piece.func if isinstance(piece, partial) else piece
    return not getattr(piece, "__module__", "topocell").startswith("topocell.")


def place_in_plugins(fault: BaseException) -> str:
    """Return where in an imported file a fault arose, as `; see FILE, line N`; empty where it did not arise in one."""
    named, folders = {text for text in _imported if text.endswith(".py")}, list[str]()
    installed = {text: entry.module for text, entry in _installed().items()}
    for text in set(_imported) - named:
        whole = sys.modules.get(installed.get(text, text).partition(".")[0])  # pieces may lie anywhere in a package
        named.add(getattr(whole, "__file__", None) or text)
        folders += getattr(whole, "__path__", [])
    frames = traceback.extract_tb(fault.__traceback__)
    found = [f for f in frames if f.filename in named or any(map(Path(f.filename).is_relative_to, folders))]
    return f"; see {found[-1].filename}, line {found[-1].lineno}" if found else ""


def _installed() -> dict[str, metadata.EntryPoint]:
    """What installed packages offer, by what it is called once it is imported."""
    offered = metadata.entry_points(group="topocell.plugins")
    return {f"{entry.name} (of an installed package)": entry for entry in offered}


def _absolute(text: str) -> str:
    return str(Path(text).resolve()) if text.endswith(".py") else text


def _import(text: str, load: Callable[[], object]) -> None:
    if text in _imported:
        return
    before = Registry.added
    try:
        load()
    except RecipeError as fault:
        raise RecipeError(f"cannot import {text}: {fault}") from fault
    except FileNotFoundError as fault:
        raise RecipeError(f"cannot import {text}: there is no such file; check the path") from fault
    except (Exception, SystemExit) as fault:  # whatever the user's code raises
        raise RecipeError(
            f"cannot import {text}: {type(fault).__name__}: {' '.join(str(fault).split())[:300]}; mend it, or leave "
            f"--import out"
        ) from fault
    if Registry.added == before:
        raise RecipeError(
            f"an import brings pieces, but {text} registers none; call topocell.register(kind, name, piece) in it, or "
            f"leave --import out"
        )
    _imported.append(text)


def _execute(text: str) -> None:
    """Import a module by its name, or run a file as one."""
    if not text.endswith(".py"):
        import_module(text)
        return
    name = f"topocell_import_{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, text)
    if spec is None or spec.loader is None:
        raise ImportError(f"no module can be made of {text}")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def build(axis: str, table: Mapping[str, Callable[..., Part]], name: str, /, *given: Any, **options: Any) -> Part:
    """`table[name](*given, **options)`, after a check of the name and of the names of the options.

    Raises:
        RecipeError: unknown name, or an option that is unknown, missing or of another type than its parameter.
    """
    check_known(axis, name, table, RecipeError)
    check_options(axis, name, table[name], len(given), options)
    return table[name](*given, **options)


def check_options(axis: str, name: str, piece: Callable[..., Any], given: int, options: Mapping[str, Any]) -> None:
    """Check options against the parameters of a piece, of which the first `given` are not options.

    Raises:
        RecipeError: an option that is unknown, missing or of another type than its parameter.
    """
    open_ended, known = False, {}
    for option, parameter in list(inspect.signature(piece).parameters.items())[given:]:
        open_ended |= parameter.kind == parameter.VAR_KEYWORD
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            known[option] = parameter
    for option in options:
        if option not in known and not open_ended:
            raise RecipeError(
                f"{axis} {name!r} has no option {option!r}{nearest(option, known)}; "
                f"it takes: {', '.join(known) or 'none'}"
            )
    for option, parameter in known.items():
        if parameter.default is parameter.empty and option not in options:
            raise RecipeError(f"{axis} {name!r} needs the option {option!r}; add {option}=...")
    for option, value in options.items():
        if option in known:
            _check_type(f"{axis}.{option}", known[option].annotation, value)


def _check_type(where: str, annotation: Any, value: Any) -> None:
    """Raise a RecipeError unless a value from a recipe is what the parameter's annotation says."""
    from pydantic import PydanticUndefinedAnnotation, PydanticUserError, TypeAdapter, ValidationError

    if annotation is inspect.Parameter.empty:
        return
    try:
        TypeAdapter(annotation).validate_python(value, strict=True)
    except ValidationError as fault:
        if isinstance(value, str) and any(item["type"] == "literal_error" for item in fault.errors()):
            return  # the part knows which words it takes, and what comes nearest
        rule = fault.errors()[0]["msg"]
        raise RecipeError(f"{where}: {rule[:1].lower()}{rule[1:]}, but got {reprlib.repr(value)}; change it") from None
    except (PydanticUserError, PydanticUndefinedAnnotation):  # a type that only the author of the part knows
        return

"""Arguments of public functions have the types of their annotations, or one line says which has not, before any work.

Annotations say what a function takes; this module holds callers to them where a wrong type would end in an error from
inside, or in something else than was meant. Ranges and names are checked by the functions themselves.
"""

import inspect
import io
import operator
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache, wraps
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from topocell.errors import TopocellError

P = ParamSpec("P")
R = TypeVar("R")

#: Name of a type → how one is made, for somebody who gave something else in its place.
MAKES = {
    "Genotype": "topocell.genotype.published.published(NAME).genotype, Genotype.load(FILE) and "
    "Genotype.from_text(TEXT) make one",
    "SpaceSpec": "topocell.spaces.get(NAME) makes one",
    "Recipe": "topocell.load_recipe(NAME) makes one",
    "Display": "its names are live, lines, json, quiet and none",
    "Given": "see docs/how-to/own-dataset.md",
    "Module": "FixedNet(genotype, channels, layers, classes) makes one",
}

#: What is no text, and how one is made of it.
_TO_TEXT = ((bytes, ".decode()"), (os.PathLike, ".read_text()"), (io.IOBase, ".read()"))

_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "True or False", NoneType: "None"}


def checked(error: type[TopocellError]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function so that an argument of another type than annotated raises `error`, in one line.

    Lists stand for tuples, and paths of any kind for `Path`; a path that begins with `~` is in the home directory. What
    can be read once reaches the function as a list, a whole number of NumPy or PyTorch as one of Python. Names that an
    annotation lists (`Literal`) and what a mapping holds are left to the function.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                bound = signature.bind(*args, **kwargs)
            except TypeError:  # an argument is missing, or there is none of that name: Python says which
                return function(*args, **kwargs)
            for name, value in bound.arguments.items():
                if signature.parameters[name].kind not in _SEVERAL:
                    bound.arguments[name] = check_argument(name, value, _hints(function).get(name, Any), error)
            return function(*bound.args, **bound.kwargs)

        return call

    return decorate


_SEVERAL = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def check_fields(instance: Any, error: type[TopocellError], *but: str) -> None:
    """The same for the fields of a dataclass, from its `__post_init__`, `but` those that it checks itself."""
    kind: Any = type(instance)
    hints = _hints(kind)
    for one in fields(instance):
        if one.name not in but:
            meant = check_argument(one.name, getattr(instance, one.name), hints[one.name], error)
            object.__setattr__(instance, one.name, meant)  # also where it is frozen


def at_home(path: Any) -> Any:
    """Return a path, or another value, with the home directory in the place of `~`."""
    text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else ""
    return type(path)(os.path.expanduser(text)) if text[:1] == "~" else path


@cache
def _hints(annotated: Any) -> dict[str, Any]:
    return get_type_hints(annotated)


def check_argument(name: str, value: Any, hint: Any, error: type[TopocellError]) -> Any:
    """Return a value as a function takes it that annotates it with the type `hint`, see `checked`.

    Raises `error` where it is not of that type; the line begins with `name`.
    """
    kinds = _alternatives(hint)
    if isinstance(value, Iterator) and {tuple, Sequence}.intersection(map(get_origin, kinds)):
        value = list(value)
    if not _fits(value, hint):
        steps = [MAKES[kind.__name__] for kind in kinds if getattr(kind, "__name__", "") in MAKES]
        if isinstance(value, str) and Sequence in [get_origin(kind) for kind in kinds]:
            steps.append(f"write {name}={[value] if '=' in value else re.split(' *, *', value)!r:.80}")
        if str in kinds:
            steps += [f"{name}{call} is one" for kind, call in _TO_TEXT if isinstance(value, kind)]
            several = isinstance(value, tuple | list | Mapping) and not _takes_paths(hint)
            steps += [f"str({name}) is one"] if several else []
        step = "".join(f"; {step}" for step in steps)
        raise error(f"{name} must be {_words(hint)}, but got {name}={repr(value)[:80]}{step}")
    if isinstance(value, (str, os.PathLike)) and _takes_paths(hint) and "\0" in os.fsdecode(value):
        raise error(f"{name} is a path, which has no byte of zero, but got {name}={repr(value)[:80]}")
    if int in kinds and not isinstance(value, int) and _fits_one(value, int):
        return operator.index(value)
    return at_home(value) if _takes_paths(hint) else value


def _takes_paths(hint: Any) -> bool:
    return any((get_origin(kind) or kind) in (Path, os.PathLike) for kind in _alternatives(hint))


def _alternatives(hint: Any) -> tuple[Any, ...]:
    if get_origin(hint) is Annotated:
        return _alternatives(get_args(hint)[0])
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _fits(value: object, hint: Any) -> bool:
    return any(_fits_one(value, kind) for kind in _alternatives(hint))


def _fits_one(value: object, kind: Any) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return any(isinstance(value, type(name)) for name in inner)
    if origin in (tuple, Sequence):
        return _fits_sequence(value, origin, inner)
    if origin is not None:  # of mappings and functions, the outside alone
        return isinstance(value, origin)
    if kind is None:
        return value is None
    if kind in (Any, object):
        return True
    if getattr(kind, "_is_protocol", False):
        named = _methods(kind)  # of which some may be of no use to it, but what is to be called can be called
        return any(callable(getattr(value, name, None)) for name in ({"__call__"}.intersection(named) or named))
    if kind in _NUMBERS:
        return _is_number(value, *_NUMBERS[kind])
    return not isinstance(kind, type) or isinstance(value, os.PathLike if kind is Path else kind)


#: What a number is converted by, as those of NumPy and PyTorch can be → what does not stand for it all the same.
_NUMBERS: dict[Any, tuple[Callable[[Any], Any], tuple[type, ...]]] = {
    int: (operator.index, (bool,)),
    float: (float, (str, bytes, bytearray)),
    bool: (operator.index, ()),
}


def _is_number(value: object, convert: Callable[[Any], Any], never: tuple[type, ...]) -> bool:
    try:
        convert(value)
    except Exception:  # each type has errors of its own
        return type(value).__name__ == "bool" and convert is operator.index and not never
    return not isinstance(value, never)


def _methods(protocol: type) -> list[str]:
    return [name for name, own in vars(protocol).items() if callable(own) and (name[0] != "_" or name == "__call__")]


def _fits_sequence(value: object, origin: type, inner: tuple[Any, ...]) -> bool:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        return False
    if origin is tuple and inner[-1] is not Ellipsis:  # in an order, which arrays have too
        values = list(value) if isinstance(value, Sequence) or getattr(value, "ndim", 0) == 1 else []
        return len(values) == len(inner) and all(map(_fits, values, inner))
    if not isinstance(value, Sequence):  # keys, sets and generators, which can be read once
        return not hasattr(value, "__array__")
    return all(_fits(each, inner[0]) for each in value)


def _words(hint: Any) -> str:
    return " or ".join(dict.fromkeys(_words_of_one(kind) for kind in _alternatives(hint)))


def _words_of_one(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin is tuple and inner[-1] is not Ellipsis:
        alike = len(set(inner)) == 1
        return f"{len(inner)} values, each {_words(inner[0])}" if alike else f"({', '.join(map(_words, inner))})"
    if origin in (tuple, Sequence):
        return "a sequence" + f" of which each is {_words(inner[0])}" * (inner[0] is not Any)
    if Mapping in (origin, kind):
        return "a mapping"
    if Callable in (origin, kind) or (getattr(kind, "_is_protocol", False) and "__call__" in vars(kind)):
        return "a function"
    if _takes_paths(kind):
        return "a path"
    name = getattr(kind, "__name__", str(kind))
    return _WORDS.get(kind) or f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"

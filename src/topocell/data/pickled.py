"""Numbers, texts, lists and arrays of bytes from pickled files, read as data: nothing that a file names is called.

The pickle format is a program for a small stack machine, whose instructions `pickletools.genops` lists without running
them. Here those are followed that build plain values and NumPy arrays; any other is refused. Files of Python 2 and 3,
of protocols 0 to 5, are read alike: texts of Python 2 come as `str`, byte by byte.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

#: Instructions whose argument is the value itself.
_VALUES = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
_VALUES |= {"STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
_VALUES |= {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass
class Array:
    """An array as it stands in a file: `raw` bytes of elements `dtype`, in the order of C unless `fortran`."""

    shape: tuple[int, ...] = ()
    dtype: str = ""
    fortran: bool = False
    raw: bytes = b""

    def uint8(self) -> np.ndarray:
        """Return the array of bytes. Raises ValueError for elements of another type, and for another number of them."""
        size = 1
        for length in self.shape:
            size *= length
        if self.dtype not in ("u1", "|u1") or self.fortran or len(self.raw) != size:
            raise ValueError(f"an array of {len(self.raw)} bytes is {self.dtype or 'untyped'} {self.shape}")
        return np.frombuffer(self.raw, np.uint8).reshape(self.shape)


@dataclass(frozen=True)
class _Name:
    """Something that the file would import."""

    of: str


@dataclass
class _Type:
    """The type of the elements of an array."""

    code: str


def load(file: BinaryIO) -> Any:
    """Read the value of a pickled file: numbers, texts, bytes, lists, tuples, dicts, and arrays as `Array`.

    Raises:
        ValueError: it is damaged, or holds anything else.
    """
    reader = _Reader()
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "STOP":
            break
        reader.follow(opcode.name, argument)
    return reader.pop()


class _Reader:
    """The stack machine, for the instructions that make plain values."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def pop(self) -> Any:
        """Take the uppermost value. Raises ValueError where there is none."""
        if len(self._stack) <= (self._marks[-1] if self._marks else 0):
            raise ValueError("it takes a value where there is none")
        return self._stack.pop()

    def follow(self, name: str, argument: Any) -> None:
        """Follow one instruction. Raises ValueError."""
        if name in _VALUES:
            self._stack.append(argument)
        elif name in _CONSTANTS:
            self._stack.append(_CONSTANTS[name]())
        elif name in _TUPLES:
            self._stack.append(tuple(self.pop() for _ in range(_TUPLES[name]))[::-1])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if argument is None else argument] = self._top()
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self._stack.append(_entry(self._memo, argument))
        elif name == "MARK":
            self._marks.append(len(self._stack))
        elif name in ("TUPLE", "LIST", "DICT"):
            items = self._since_mark()
            self._stack.append(_pairs(items) if name == "DICT" else tuple(items) if name == "TUPLE" else items)
        elif name in ("APPEND", "APPENDS"):
            items = [self.pop()] if name == "APPEND" else self._since_mark()
            self._top(list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = [self.pop(), self.pop()][::-1] if name == "SETITEM" else self._since_mark()
            self._top(dict).update(_pairs(items))
        elif name == "GLOBAL":
            self._stack.append(_Name(argument))
        elif name == "STACK_GLOBAL":
            attribute, module = self.pop(), self.pop()
            self._stack.append(_Name(f"{module} {attribute}"))
        elif name == "REDUCE":
            arguments, function = self.pop(), self.pop()
            self._stack.append(_made(function, arguments))
        elif name == "BUILD":
            state = self.pop()
            _set_state(self._top(), state)
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"it has the instruction {name}")

    def _top(self, kind: type = object) -> Any:
        value = self.pop()
        if not isinstance(value, kind):
            raise ValueError(f"it changes a {type(value).__name__} as if it were a {kind.__name__}")
        self._stack.append(value)
        return value

    def _since_mark(self) -> list[Any]:
        if not self._marks:
            raise ValueError("it ends a list that has not begun")
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items


def _entry(memo: dict[int, Any], key: int) -> Any:
    if key not in memo:
        raise ValueError("it refers to a value that is not there")
    return memo[key]


def _pairs(items: list[Any]) -> dict[Any, Any]:
    keys = items[::2]
    if len(items) % 2 or not all(isinstance(key, str | int | bytes) for key in keys):
        raise ValueError("it has a dict whose keys are no texts or numbers")
    return dict(zip(keys, items[1::2]))


def _made(function: Any, arguments: Any) -> Any:
    """What an array is made of in the place of what the file would call. Raises ValueError for anything else."""
    of = function.of.removeprefix("numpy").replace("._core", ".core") if isinstance(function, _Name) else ""
    match of, arguments:
        case ".core.multiarray _reconstruct", (_Name(of="numpy ndarray"), *_):
            return Array()
        case ".core.numeric _frombuffer", (
            bytes() | bytearray() as raw,
            _Type() as kind,
            tuple() as shape,
            str() as order,
        ):
            return Array(_lengths(shape), kind.code, order == "F", bytes(raw))
        case " dtype", (str() as code, *_):
            return _Type(code)
        case "_codecs encode", (str() as text, "latin1"):
            return text.encode("latin1")
        case _:
            raise ValueError(f"it would call {function.of if isinstance(function, _Name) else 'what is no function'!r}")


def _set_state(value: Any, state: Any) -> None:
    """Complete an array. Raises ValueError for anything else."""
    match value, state:
        case Array(), (int(), tuple() as shape, _Type() as kind, fortran, bytes() | str() as raw):
            value.shape, value.dtype, value.fortran = _lengths(shape), kind.code, bool(fortran)
            value.raw = raw.encode("latin1") if isinstance(raw, str) else raw
        case _Type(), tuple():
            pass  # byte order and alignment, which single bytes have none of
        case _:
            raise ValueError(f"it sets the state of a {type(value).__name__}")


def _lengths(shape: tuple[Any, ...]) -> tuple[int, ...]:
    if not all(type(length) is int and 0 <= length < 2**40 for length in shape):
        raise ValueError("it has an array of an impossible shape")
    return shape

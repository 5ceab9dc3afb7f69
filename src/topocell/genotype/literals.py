"""Plain data as Python writes it, parsed and never evaluated: numbers, texts, lists, a call of `Genotype`."""

import ast
import re
import reprlib
import warnings
from typing import Any, NamedTuple

from topocell.errors import GenotypeError

MAX_NUMBER = 1_000
MAX_DEPTH = 8

_JSON = {"true": True, "false": False, "null": None}
_NUMPY = {"int": int, "uint": int, "float": float, "str_": str}
_RANGES = ("range", "np.arange", "numpy.arange", "torch.arange")
_MAPPINGS = ("dict", "OrderedDict", "collections.OrderedDict")
_LISTS = ("list", "tuple")
_ARRAYS = ("array", "np.array", "numpy.array", "tensor", "torch.tensor")
#: What arrays and tensors print beside their values.
_OF_ARRAYS = ("dtype", "device", "requires_grad")


class Call(NamedTuple):
    """A call of `Genotype`: its arguments by position, and those by name."""

    args: tuple[Any, ...]
    fields: dict[str, Any]


def shown(value: object) -> str:
    """A short form of any value for a message."""
    try:
        return reprlib.repr(value)
    except ValueError:  # an integer with more digits than Python prints
        return f"a huge {type(value).__name__}"


def parsed(piece: str) -> Any:
    """The value of plain data; lists, ranges and arrays are tuples. Raises GenotypeError for all else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(piece, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg[:100] if isinstance(error, SyntaxError) else "too deeply nested or not text"
        if reason.startswith("unterminated string"):
            reason = "a quote is not closed on its line; join the lines of a name that is broken"
        elif isinstance(error, SyntaxError) and "\n" in piece and error.text and error.text.strip():
            reason += f", at {shown(error.text.strip())}"
        raise GenotypeError(f"a genotype must be plain data, but got {shown(piece)} ({reason})") from None
    return _value(tree.body, 0)


def _value(node: ast.expr, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise GenotypeError(f"a genotype is nested at most {MAX_DEPTH} levels deep, but this is deeper")
    match node:
        case ast.Constant(value=str() | int() | float() | None):
            return node.value
        case ast.Name(id=name) if name in _JSON:
            return _JSON[name]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return tuple(_value(item, depth + 1) for item in items)
        case ast.Dict(keys=keys, values=items):
            names = [_key(key, depth + 1) for key in keys]
            return _unique(names, [_value(item, depth + 1) for item in items])
        case ast.Call(func=function, args=[], keywords=[ast.keyword(arg=None, value=ast.Dict() as fields)]):
            return _called(_dotted(function), (), _value(fields, depth + 1))
        case ast.Call(func=function, args=arguments, keywords=keywords):
            name = _dotted(function)
            args = tuple(_value(argument, depth + 1) for argument in arguments)
            named = [word for word in keywords if name not in _ARRAYS or word.arg not in _OF_ARRAYS]
            by_name = [_value(keyword.value, depth + 1) for keyword in named]
            return _called(name, args, _unique([keyword.arg for keyword in named], by_name))
    if isinstance(node, ast.Constant) and node.value is ...:
        raise GenotypeError("a genotype must be whole, but a part is left out as `...`; restore it")
    if isinstance(node, ast.Set):
        raise GenotypeError(f"a genotype must be plain data, but {_written(node)} has no order; write a list")
    hint = "; put the name in quotes" if isinstance(node, ast.Name) else ""
    if isinstance(node, ast.Name) and re.match("normal|redu|gene|concat|op", node.id):  # of a list, and of no operation
        hint = f"; write what {node.id} is in its place"
    raise GenotypeError(f"a genotype must be plain data, but has {_written(node)} to compute{hint}")


def _key(node: ast.expr | None, depth: int) -> str | None:
    """The key of an entry as a text, as JSON has them; None for `**`, which has none."""
    if node is None:
        return None
    key = _value(node, depth)
    return key if isinstance(key, str) else repr(key)


def _written(node: ast.expr) -> str:
    """How a node is written, for a message."""
    try:
        return shown(ast.unparse(node))
    except (RecursionError, ValueError):  # of thousands of signs, or a number with more digits than Python prints
        return f"a {type(node).__name__}"


def _unique(names: list[Any], values: list[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in zip(names, values):
        if not isinstance(name, str) or name in found:
            raise GenotypeError(f"the names of fields must be texts, each once, but got {shown(name)}")
        found[name] = value
    return found


def _dotted(function: ast.expr) -> str:
    """`a.b.c` of a function's name; empty where it is no name."""
    parts: list[str] = []
    while isinstance(function, ast.Attribute):
        parts.append(function.attr)
        function = function.value
    return ".".join([function.id, *reversed(parts)]) if isinstance(function, ast.Name) else ""


def _called(name: str, args: tuple[Any, ...], fields: dict[str, Any]) -> Any:
    """The value of a call: of `Genotype`, of `range`, of `list`, of a scalar or an array of NumPy, of a tensor."""
    if name.rpartition(".")[2] == "Genotype":
        return Call(args, fields)
    if name.rpartition(".")[2] in ("Structure", "CellStructure") and len(args) == 1 and not fields:
        return args[0]
    if name in ("dict", "CellGenotype") and not args:
        return fields
    alone = args[0] if not fields and len(args) == 1 else None
    if name in _MAPPINGS and isinstance(alone, dict):
        return alone
    if name in _MAPPINGS and isinstance(alone, tuple) and all(isinstance(p, tuple) and len(p) == 2 for p in alone):
        return _unique([key for key, _ in alone], [item for _, item in alone])
    kinds = {**dict.fromkeys(_LISTS, (tuple,)), **dict.fromkeys(_ARRAYS, (tuple, int, float))}
    if type(alone) in kinds.get(name, ()):
        return alone
    if not fields and name in _RANGES:
        if 1 <= len(args) <= 3 and all(type(a) is int and abs(a) <= MAX_NUMBER for a in args) and args[2:] != (0,):
            return tuple(range(*args))
        raise GenotypeError(f"must be range(first, last + 1), numbers up to {MAX_NUMBER}, but got {name}{shown(args)}")
    library, _, kind = name.rpartition(".")
    wanted = _NUMPY.get(kind.rstrip("0123456789"))
    if library in ("np", "numpy") and type(alone) is wanted:
        return alone
    if not name:
        near = shown((*args, *fields))
        raise GenotypeError(f"a genotype must be plain data, but misses a comma, or has too much, before {near}")
    raise GenotypeError(f"a genotype must be plain data, but has the call {shown(f'{name}(...)')}")

"""Other projects' genotype texts, read and written. Text is parsed, never evaluated, and every bad one is a
GenotypeError.

These functions return plain lists; `Genotype` checks what they mean.
"""

import ast
import re
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from topocell.errors import GenotypeError

Pair = tuple[str, int]

MAX_TEXT = 20_000
MAX_NUMBER = 1_000

_FORM = "a DARTS genotype is the text `Genotype(normal=[...], ...)`"
_FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")
_EDGE = re.compile(r"([^|~+]+)~([0-9]{1,3})")


def parse_darts(text: str) -> dict[str, tuple[list[Pair], list[int]]]:
    """DARTS' `Genotype(normal=[...], normal_concat=..., reduce=[...], reduce_concat=...)`, or its assignment.

    Returns cell type → (pairs, concat), two pairs a node.
    """
    _bounded(text)
    try:
        body = ast.parse(text.strip()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg[:100] if isinstance(error, SyntaxError) else "too deeply nested or not text"
        raise GenotypeError(f"{_FORM}, but {reason}") from None
    call = body[0].value if len(body) == 1 and isinstance(body[0], (ast.Expr, ast.Assign)) else None
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Genotype"):
        raise GenotypeError(f"{_FORM}, but got {reprlib.repr(text)}")
    fields: dict[str, ast.expr] = dict(zip(_FIELDS, call.args))
    names = [*fields, *(keyword.arg for keyword in call.keywords)]
    if sorted(map(str, names)) != sorted(_FIELDS) or len(call.args) > len(_FIELDS):
        raise GenotypeError(f"a DARTS genotype has the fields {', '.join(_FIELDS)}, but got {reprlib.repr(names)}")
    fields |= {str(keyword.arg): keyword.value for keyword in call.keywords}
    return {
        name: (_pairs(name, fields[name]), _numbers(f"{name}_concat", fields[f"{name}_concat"]))
        for name in ("normal", "reduce")
    }


def format_darts(cells: Mapping[str, tuple[Sequence[Sequence[Pair]], Sequence[int]]]) -> str:
    """DARTS' text of cell type → (nodes, concat) for the types `normal` and `reduce`."""
    parts = []
    for name in ("normal", "reduce"):
        if name not in cells:
            raise GenotypeError(f"DARTS' format has the cell type {name!r}, but got {', '.join(cells)}")
        nodes, concat = cells[name]
        for index, pairs in enumerate(nodes):
            if len(pairs) != 2:
                raise GenotypeError(
                    f"cells.{name}.nodes[{index}]: DARTS' format has two inputs per node, "
                    f"but got {len(pairs)}; save JSON instead"
                )
        whole = range(concat[0], concat[-1] + 1)
        listed = str(whole) if list(concat) == list(whole) else str(list(concat))
        parts.append(f"{name}={[pair for pairs in nodes for pair in pairs]}, {name}_concat={listed}")
    return f"Genotype({', '.join(parts)})"


def parse_nasbench201(text: str) -> list[list[Pair]]:
    """NAS-Bench-201's `|op~0|+|op~0|op~1|+...`: the pairs of each computed node, without those of `none`."""
    _bounded(text)
    nodes = []
    for index, group in enumerate(text.strip().split("+")):
        inner = group[1:-1].split("|") if len(group) > 2 and group[0] == group[-1] == "|" else []
        found = [_EDGE.fullmatch(edge) for edge in inner]
        pairs = [(match[1], int(match[2])) for match in found if match]
        if sorted(p for _, p in pairs) != list(range(index + 1)) or len(pairs) != len(inner):
            raise GenotypeError(
                f"node {index + 1} of an architecture string is `|op~0|..|op~{index}|`, one operation per "
                f"predecessor, but got {reprlib.repr(group)}"
            )
        nodes.append([(name, p) for name, p in pairs if name != "none"])
    return nodes


def format_nasbench201(nodes: Sequence[Sequence[Pair]]) -> str:
    """NAS-Bench-201's architecture string of the computed nodes; absent edges are `none`."""
    groups = []
    for index, pairs in enumerate(nodes):
        names = {p: name for name, p in pairs}
        if len(names) != len(pairs):
            raise GenotypeError(
                f"cells.cell.nodes[{index}]: an architecture string has one operation per edge, but got "
                f"{reprlib.repr(list(pairs))}; save JSON instead"
            )
        groups.append("|" + "".join(f"{names.get(p, 'none')}~{p}|" for p in range(index + 1)))
    return "+".join(groups)


def _bounded(text: str) -> None:
    if not isinstance(text, str) or len(text) > MAX_TEXT:
        shown = f"{len(text)}" if isinstance(text, str) else reprlib.repr(text)
        raise GenotypeError(f"a genotype is a text of at most {MAX_TEXT} characters, but got {shown}")


def _constant(node: ast.expr, kind: type) -> Any:
    """The value of a literal of exactly that type, else None."""
    return node.value if isinstance(node, ast.Constant) and type(node.value) is kind else None


def _pairs(field: str, node: ast.expr) -> list[Pair]:
    if not isinstance(node, (ast.List, ast.Tuple)) or len(node.elts) % 2:
        raise GenotypeError(f"{field}: must be a list of pairs, two for each node")
    pairs = []
    for number, element in enumerate(node.elts):
        parts = element.elts if isinstance(element, (ast.List, ast.Tuple)) else []
        name = _constant(parts[0], str) if len(parts) == 2 else None
        predecessor = _constant(parts[1], int) if len(parts) == 2 else None
        if name is None or predecessor is None or predecessor > MAX_NUMBER:
            raise GenotypeError(f"{field}[{number}]: must be a pair ('operation', predecessor)")
        pairs.append((name, predecessor))
    return pairs


def _numbers(field: str, node: ast.expr) -> list[int]:
    """A list of integers, or `range(a, b)` or `range(b)` of a sensible size."""
    is_range = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range"
    elements = node.args if is_range and isinstance(node, ast.Call) and not node.keywords else []
    if isinstance(node, (ast.List, ast.Tuple)):
        elements = node.elts
    values = [_constant(element, int) for element in elements]
    if not values or any(v is None or v > MAX_NUMBER for v in values) or (is_range and len(values) > 2):
        raise GenotypeError(f"{field}: must be a list of node numbers, or range(first, last + 1)")
    return list(range(*values)) if is_range else values

"""Cells that other tools print as `Genotype(normal=..., normal_concat=..., reduce=..., reduce_concat=...)`.

Four forms share these fields, and the same in a dictionary; they differ in what a cell lists:

- `darts`: pairs (operation, input), two for each node (DARTS, P-DARTS, PC-DARTS, ...);
- `pt.darts`: a list of pairs for each node;
- `gdas`: triples (operation, input, weight), flat or a list for each node; the weight is a float, and left out;
- `fairdarts`: triples (operation, node, input) of integers, by ascending node. Its network concatenates every node that
  has an operation, whatever the concat lists; a concat that leaves one of them out is refused, and nodes without an
  operation have been dropped.

A triple of two integers is read in one way only: its first number is a node, thus at least 2, or it is the input of the
first node, thus 0 or 1.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from topocell.errors import GenotypeError
from topocell.genotype.canonical import Pair
from topocell.genotype.literals import MAX_NUMBER, Call, shown
from topocell.genotype.texts import listed
from topocell.genotype.values import as_integer

#: Cell type → (pairs of each node, concat).
Cells = dict[str, tuple[list[list[Pair]], list[int]]]

FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")
#: Fields of later versions of GDAS, which must be None.
NONE_FIELDS = ("connectN", "connects")
TYPES = ("normal", "reduce")

#: Kind of an item, and whether nodes have lists of their own → form.
_FORMS = {
    ("pair", False): "darts",
    ("pair", True): "pt.darts",
    ("triple with a weight", False): "gdas",
    ("triple with a weight", True): "gdas",
    ("triple of integers", False): "fairdarts",
}
_ITEM = "a pair ('operation', input), a triple with a weight or with a node, or a list of those for a node"


def fields_of(value: Call | Mapping[str, Any]) -> dict[str, Any]:
    """The four fields of a call or a dictionary.

    Raises:
        GenotypeError: a field is missing, unknown, or given twice.
    """
    args, named = (value.args, value.fields) if isinstance(value, Call) else ((), value)
    names = [*FIELDS[: len(args)], *(name for name in named if name not in NONE_FIELDS or named[name] is not None)]
    if len(args) > len(FIELDS) or sorted(names) != sorted(FIELDS):
        raise GenotypeError(f"a Genotype has the fields {', '.join(FIELDS)}, but got {shown(names)}")
    found = {**dict(zip(FIELDS, args)), **{name: named[name] for name in names[len(args) :]}}
    return {name: _with_integers(value, name.endswith("_concat")) for name, value in found.items()}


def _with_integers(value: Any, number: bool = False) -> Any:
    """A cell or a concat in which nodes are integers that a tool wrote as `2.0` or `'2'`.

    Of a triple they stay as they are, but for texts: a float there is a weight.
    """
    if isinstance(value, tuple) and len(value) == 3 and all(isinstance(item, str) for item in value):
        numbers = [
            int(n) if n.isdecimal() else float(n) for n in value[1:] if re.fullmatch(r"[0-9]{1,3}(?:\.[0-9]*)?", n)
        ]
        return (value[0], *numbers) if len(numbers) == 2 else value
    if isinstance(value, tuple) and len(value) == 3 and isinstance(value[0], str) and isinstance(value[2], float):
        return value if value[2].is_integer() else (value[0], as_integer(value[1]), value[2])
    if isinstance(value, tuple):
        pair = len(value) == 2 and isinstance(value[0], str) and not number
        return tuple(_with_integers(item, number or (pair and i == 1)) for i, item in enumerate(value))
    return as_integer(value) if number else value


def kind_of(fields: Mapping[str, Any]) -> str:
    """The form of the cells: `darts`, `pt.darts`, `gdas` or `fairdarts`.

    Raises:
        GenotypeError: an item is none of these, or they are mixed.
    """
    found: dict[tuple[str, bool], str] = {}
    for name in TYPES:
        if not isinstance(fields[name], tuple):
            raise GenotypeError(f"{name}: must be a list, but got {shown(fields[name])}")
        for number, item in enumerate(fields[name]):
            nested, place = _is_node(item), f"{name}[{number}]"
            for inner in item if nested else (item,):
                kind = _kind(inner)
                if kind is None:
                    raise GenotypeError(f"{place}: must be {_ITEM}, but got {shown(item)}")
                found.setdefault((kind, nested), place)
            if item == ():
                found.setdefault(("pair", True), place)
    if found.keys() == {("triple of integers", True)}:
        raise GenotypeError(
            f"a triple in the list of a node is GDAS' (operation, input, weight) with a float as weight, but got "
            f"{shown(fields[TYPES[0]][0])}; FairDARTS' (operation, node, input) has no lists of nodes"
        )
    mixed = len(found) > 1 or not set(found) <= set(_FORMS)
    if mixed:
        kinds = ", ".join(f"a {'list of a ' * nested}{kind} in {place}" for (kind, nested), place in found.items())
        raise GenotypeError(f"all items must be of one kind, {_ITEM}, but got {kinds}")
    return _FORMS[next(iter(found))] if found else "darts"


def _is_node(item: Any) -> bool:
    return isinstance(item, tuple) and all(isinstance(inner, tuple) for inner in item)


def _kind(item: Any) -> str | None:
    """The kind of an item as in `_FORMS`; None where it is none of them."""
    if not isinstance(item, tuple) or len(item) not in (2, 3) or not isinstance(item[0], str):
        return None
    if type(item[1]) is not int or abs(item[1]) > MAX_NUMBER:
        return None
    if len(item) == 2:
        return "pair"
    if type(item[2]) is int and abs(item[2]) <= MAX_NUMBER:
        return "triple of integers"
    return "triple with a weight" if type(item[2]) is float else None


def read_cells(form: str, fields: Mapping[str, Any]) -> Cells:
    """Nodes and concat of each cell.

    Raises:
        GenotypeError: naming the place.
    """
    cells: Cells = {}
    for name in TYPES:
        concat = listed(fields[f"{name}_concat"])
        if not isinstance(concat, tuple) or not all(type(node) is int for node in concat):
            raise GenotypeError(f"{name}_concat: must be a list of node numbers, but got {shown(concat)}")
        if form == "fairdarts":
            cells[name] = _by_node(name, fields[name], concat)
            continue
        items = fields[name]
        nodes = list(items) if any(map(_is_node, items)) else _used(name, in_twos(name, items), concat)
        cells[name] = [[pair[:2] for pair in node] for node in nodes], list(concat)
    return cells


def unused(nodes: Sequence[Sequence[Pair]], concat: Sequence[int]) -> list[int]:
    """Numbers of the nodes of a cell of two inputs that are neither in the concat nor taken by another."""
    used = {*concat, *(source for node in nodes for _, source in node)}
    return [node for node in range(2, 2 + len(nodes)) if node not in used]


def in_twos(name: str, items: Sequence[Any]) -> list[Sequence[Any]]:
    """Two items for each node. Raises GenotypeError where one is left."""
    if len(items) % 2:
        raise GenotypeError(f"{name}: must list two pairs for each node, but got {len(items)}")
    return [items[i : i + 2] for i in range(0, len(items), 2)]


def _used(name: str, nodes: list[Sequence[Any]], concat: Sequence[int]) -> list[Sequence[Any]]:
    """The nodes of a flat list. Raises GenotypeError for one without use: others than two pairs made a node there."""
    if left := unused([[pair[:2] for pair in node] for node in nodes], concat):
        raise GenotypeError(
            f"{name}: two pairs make a node, and each node is in {name}_concat or taken by another, but node {left[0]} "
            f"is neither; where nodes have other than two inputs, write a list for each"
        )
    return nodes


def _by_node(name: str, triples: tuple[Any, ...], concat: tuple[int, ...]) -> tuple[list[list[Pair]], list[int]]:
    """Nodes and concat of triples (operation, node, input)."""
    rule = (
        "two integers are FairDARTS' (operation, node, input), nodes ascending from 2 and inputs below them; "
        "GDAS' (operation, input, weight) has a float"
    )
    nodes: dict[int, list[Pair]] = {}
    last = 2
    for number, (operation, node, source) in enumerate(triples):
        if node < last or not 0 <= source < node:
            raise GenotypeError(f"{name}[{number}]: {rule}, but got {shown(triples[number])}")
        nodes.setdefault(node, []).append((operation, source))
        last = node
    kept = [node for node in concat if node in nodes or not 2 <= node <= MAX_NUMBER]
    if left := sorted(set(nodes) - set(kept)):
        raise GenotypeError(
            f"{name}_concat: must list every node that has an operation, as the tool concatenates all of them, "
            f"but leaves out {shown(left)}"
        )
    return [nodes.get(node, []) for node in range(2, last + 1)], kept

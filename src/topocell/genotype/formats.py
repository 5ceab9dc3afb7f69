"""DARTS' text, written, and NAS-Bench-201's architecture string, read and written.

These functions take and return plain lists; `Genotype` checks what they mean. Other texts: `topocell.genotype.forms`.
"""

import re
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

from topocell.errors import GenotypeError
from topocell.genotype.canonical import Pair
from topocell.genotype.characters import bounded
from topocell.genotype.comments import GAP
from topocell.genotype.literals import shown
from topocell.genotype.namedtuples import unused
from topocell.genotype.texts import BesideError, SeveralError, is_another
from topocell.genotype.values import as_integer

_EDGE = re.compile(r"([^|~+]+)~([0-9]{1,3})")
_GROUP = r"\|(?:\s*[^|~+\s\\'\"`,;]+\s*~\s*[0-9]{1,3}\s*\|)+"
_ARCH = re.compile(rf"{_GROUP}(?:\s*\+\s*{_GROUP})*")

#: What is left of a longer architecture string, in a text where the whole ones are `\x01`: an edge, a bar, a plus sign.
_LEFT = re.compile(
    r"\w~[0-9]|\w\s*(?:\\textasciitilde|\$\\sim\$)|~\s*[0-9]+\s*\\?\||\|\s*\\?\w+\s*~|\|\\?\+|\+\\?\|"
    r"|(?<![-=])\+(?![-=])\W{0,40}?\x01|\x01\W{0,40}?(?<![-=])\+(?![0-9.=-])"
    r"|\|[^\w\s'\"`\x01*]{1,20}\x01|\x01[^\w\s'\"`\x01*]{1,20}\|"
    r"|\x01 *\n\s*+\|[^|\n]*(?:\n|\Z)|(?m:^)[^|\n\x01]*\x01[^|\n\x01]*[^\s|'\"`\x01]\|"
)

#: The same in comments: a line that goes on with a string, or begins one, or has a part of it.
_LEFT_OUT = re.compile(r"(?m)^\W{0,20}?\+\s*\x01|\x01\s*\+\s*$|\w~[0-9]")

#: A comment behind a string.
_BEHIND = re.compile(r"\s#\s|(?<=[,;'\"])\s+//\s")
#: By which a string is cut.
_CUT_AFTER = re.compile(r"\s*(?:\+|(?:[(\[{<]\s*)?(?:…|\.\.|truncated|cut\b|etc\b))|[\w~|]")
_CUT_BEFORE = re.compile(r"[\w~|+]\Z|(?:…|\.\.)\s*(?:[)\]}]\s*)?\Z")
#: What makes another of a string: a method, a part, a condition.
_USED = re.compile(r"['\"`]\s*(?:\.\s*\w+\s*\(|\[).*|['\"`]?[ \t]+if\b.*\belse\b.*")


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
        if left := unused(nodes, concat):  # in a text it would say that the number of inputs is another
            raise GenotypeError(
                f"cells.{name}: in DARTS' format each node is in the concat or taken by another, but node {left[0]} is "
                f"neither; save JSON instead"
            )
        whole = range(concat[0], concat[-1] + 1)
        listed = str(whole) if list(concat) == list(whole) else str(list(concat))
        parts.append(f"{name}={[pair for pairs in nodes for pair in pairs]}, {name}_concat={listed}")
    return f"Genotype({', '.join(parts)})"


def find_nasbench201(text: str, out: str = "") -> str | None:
    """The one architecture string in a text of which `out` is left out; None where there is none.

    Raises:
        GenotypeError: there are several, or a part of one.
    """
    found = list(_ARCH.finditer(text))
    begin = 0
    for match in found:
        before, after = text[begin : match.start()].rpartition("\n")[2], text[match.end() :]
        begin = match.end()
        if re.search(r"#(?![0-9])", before) or is_another(before.rstrip("'\"`")):
            raise BesideError(f"before a genotype may stand `NAME =` or a log prefix, but got {reprlib.repr(before)}")
        if used := _USED.match(after):
            raise BesideError(f"nothing may follow a genotype on its line, but got {reprlib.repr(used[0])}")
        told = re.search(r"([0-9]+) nodes with\s*\Z", before)  # as a Structure prints it, with its input
        if told and int(told[1]) != match[0].count("+") + 2:
            raise GenotypeError(
                f"an architecture string must have the {told[1]} nodes, with the input, that stand before it, but got "
                f"{reprlib.repr(match[0])}"
            )
        # A cell of fewer nodes would be read.
        quote = re.search(r"['\"`]\Z", before)
        open_quote = quote is not None and quote[0] not in after.partition("\n")[0]
        if open_quote or _CUT_AFTER.match(after) or _CUT_BEFORE.search(before):
            raise GenotypeError(
                f"an architecture string must be whole, but around {reprlib.repr(match[0])} stand "
                f"{reprlib.repr(before)} and {reprlib.repr(after.lstrip())}; restore it"
            )
    if found:
        _check_rest(_LEFT, text, found[0][0])
        _check_rest(_LEFT_OUT, out, found[0][0])
    if len({_joined(match[0]) for match in found}) > 1:
        raise SeveralError(f"a text must hold one genotype, but has {len(found)} architecture strings; keep one")
    return found[0][0] if found else None


def without_comments(text: str) -> tuple[str, str]:
    """The text without what a program says behind an architecture string on its line; and that."""
    kept, out = [], []
    for line in text.split("\n"):
        string = _ARCH.search(line)
        comment = _BEHIND.search(line, string.end()) if string else None
        kept.append(line[: comment.start()] if comment else line)
        out += [line[comment.start() :]] if comment else []
    return "\n".join(kept), "\n".join(out)


def _check_rest(left: re.Pattern[str], text: str, read: str) -> None:
    """Raise GenotypeError where a text has a part of an architecture string beside whole ones."""
    rest = _ARCH.sub("\x01", text)
    if found := left.search(rest):
        around = rest[max(0, found.start() - 15) : found.end() + 15].replace("\x01", "|..|").replace(GAP, "")
        raise GenotypeError(
            f"an architecture string must be whole, but beside {reprlib.repr(read)} stands a part of one, "
            f"{reprlib.repr(around)}; restore it"
        )


def _joined(text: str) -> str:
    """An architecture string without the blanks and ends of lines that stand between its parts."""
    return re.sub(r"\s*([|~+])\s*", r"\1", text)


def parse_nasbench201(text: str) -> list[list[Pair]]:
    """NAS-Bench-201's `|op~0|+|op~0|op~1|+...`: the pairs of each computed node, without those of `none`."""
    nodes = []
    for index, group in enumerate(_joined(bounded(text).strip()).split("+")):
        inner = group[1:-1].split("|") if len(group) > 2 and group[0] == group[-1] == "|" else []
        found = [_EDGE.fullmatch(edge) for edge in inner]
        pairs = [(match[1], int(match[2])) for match in found if match]
        if sorted(p for _, p in pairs) != list(range(index + 1)) or len(pairs) != len(inner):
            edges = "|".join(["op~0", *[".."] * (index > 1), *[f"op~{index}"] * (index > 0)])
            also = "; Genotype.from_text reads other forms" if "(" in text or "{" in text else ""
            raise GenotypeError(
                f"node {index + 1} of an architecture string is `|{edges}|`, one operation per predecessor, but got "
                f"{reprlib.repr(group)}{also}"
            )
        nodes.append([(name, p) for name, p in pairs if name != "none"])
    return nodes


def _are_pairs(value: Any) -> bool:
    """Return whether something is a list of pairs (operation, node)."""
    return isinstance(value, tuple) and all(
        isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) and type(as_integer(pair[1])) is int
        for pair in value
    )


def nodes_of_nasbench201(value: tuple[Any, ...]) -> str | None:
    """The architecture string of the nodes of a `Structure`, each a list of (operation, node); None for other lists.

    Raises:
        GenotypeError: there are nodes, but not as many pairs as there are inputs.
    """
    if len(value) < 2 or not all(map(_are_pairs, value)) or len(value[0]) != 1:
        return None
    for number, pairs in enumerate(value, 1):
        if [as_integer(source) for _, source in pairs] != list(range(number)):
            raise GenotypeError(
                f"a node of NAS-Bench-201 has one operation for each node before it, in their order, but node {number} "
                f"has {shown(pairs)}"
            )
    return "+".join("|" + "".join(f"{name}~{as_integer(source)}|" for name, source in pairs) for pairs in value)


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

"""The forms of a genotype that are read: which one a text has, and its cells."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from topocell.errors import GenotypeError, nearest
from topocell.genotype import exports, formats, namedtuples
from topocell.genotype.beside import check_concats, check_lines
from topocell.genotype.changes import ChangedError, check_unchanged
from topocell.genotype.characters import bounded, named, unescaped, unquoted
from topocell.genotype.comments import GAP, uncommented
from topocell.genotype.exports import BENCH_PREFIX, HUB_KEY, NNI_KEY
from topocell.genotype.literals import MAX_DEPTH, Call, shown
from topocell.genotype.prefixes import framed, unprefixed
from topocell.genotype.refusals import next_step
from topocell.genotype.settings import (
    has_compact,
    is_numbers,
    is_ours,
    is_text,
    parted,
    structure,
)
from topocell.genotype.texts import (
    BesideError,
    SeveralError,
    another,
    literal,
    more_numbers,
    more_than,
    read,
)
from topocell.io import files
from topocell.spaces.nasbench201 import NASBENCH201_OPERATIONS
from topocell.spaces.operations import KNOWN_OPERATIONS

#: Name of a form → what it looks like.
FORMS: dict[str, str] = {
    "topocell": '{"format": 1, "space": "darts", "cells": {...}}',
    "darts": "Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2, 6), reduce=[...], reduce_concat=...)",
    "pt.darts": "Genotype(normal=[[('sep_conv_3x3', 0), ('skip_connect', 1)], ...], ...)",
    "gdas": "Genotype(normal=[('skip_connect', 0, 0.13), ...], ...)",
    "fairdarts": "Genotype(normal=[('skip_connect', 2, 0), ...], ...)",
    "nasbench201": "|nor_conv_3x3~0|+|none~0|skip_connect~1|+...",
    "compact": "[[(0, 5), (1, 0), ...], [...]], with the order of operations",
    "nni": "{'normal_n2_p0': 'sepconv3x3', 'normal_n2_switch': [...], ...} or {'normal/op_2_0': ...}",
    "nasbench301": "{'NetworkSelectorDatasetInfo:darts:edge_normal_0': 'sep_conv_3x3', ...}",
}
#: Those of `Genotype(...)` and of dictionaries with the same fields.
NAMEDTUPLES = ("darts", "pt.darts", "gdas", "fairdarts")

_KNOWN = f"a genotype is a JSON file or a text in one of the forms {', '.join(FORMS)}"
_EXAMPLE = f"; e.g. {FORMS['darts']}; `topocell genotypes show darts-v2` prints one"

#: Names of AutoDL-Projects for operations that are the same in all layers.
_SAME = {
    "dua_sepc_3x3": "sep_conv_3x3",
    "dua_sepc_5x5": "sep_conv_5x5",
    "dil_sepc_3x3": "dil_conv_3x3",
    "dil_sepc_5x5": "dil_conv_5x5",
}
_OTHER = {
    "dil_sep_conv_3x3": "has two dilated convolutions where dil_conv_3x3 has one",
    "identity": "is skip_connect in normal cells; in reductions it has no one meaning",
    "conv_1x1": "has no one meaning; with ReLU before and batch norm after, it is nor_conv_1x1",
    "conv_3x3": "has no one meaning; with ReLU before and batch norm after, it is nor_conv_3x3",
}

#: A comment of C and JavaScript behind a part of data.
_C_COMMENT = re.compile(r"(?<=[\[{(,\])}])[ \t]*//[^\n]*")
#: Forms whose keys may stand among others.
_KEYED = ("nni", "nasbench301")


class _Found(NamedTuple):
    """What is, or may be, a genotype in data.

    Args:
        key: under which it is; empty for the whole.
        form: its form and what is read of it; None for what may be one, and is not read.
    """

    key: str
    form: tuple[str, Any] | None


class _UnknownError(GenotypeError):
    """A text in no form that is read."""


def recognise(text: str) -> tuple[str, Any]:
    """The form of a text, and its value.

    Raises:
        GenotypeError: no form that is read, more than one genotype, or no plain data.
    """
    plain = bounded(text)
    typeset = not files.is_json(plain) and files.is_json(named(text))  # with quotes of word processors in its texts
    inside = _in_data(named(text) if typeset else plain)
    return inside or _beside_others(bounded(plain))  # pages escape what is escaped already


def _in_data(text: str) -> tuple[str, Any] | None:
    """The form of the genotype in a text that is data as a whole, and its value; None where it has none.

    Raises:
        SeveralError: it has more, or says of the one what may make it another.
    """
    found, data = _several(text)
    if (form := _single(found)) is None:
        return None
    try:
        _check_more(form, repr(data))
    except BesideError as fault:
        raise SeveralError(f"{fault}; keep one") from None
    check_concats(_concats(*form), data)
    return form


def _beside_others(text: str) -> tuple[str, Any]:
    """The form of a genotype that stands among other things in a text, and its value. Raises as `recognise`."""
    try:
        return _recognised(text, no_data=text)
    except ChangedError:
        raise
    except GenotypeError as error:
        for other in (unescaped(text), unprefixed(text), unquoted(text), framed(text), _C_COMMENT.sub("", text)):
            if other != text:
                with suppress(GenotypeError):
                    return _recognised(bounded(other))
        with suppress(RecursionError):
            _form_of(_as_tuples(structure(text)))  # of YAML, whose fields are named
        kind = SeveralError if isinstance(error, SeveralError) else GenotypeError
        known = _EXAMPLE if isinstance(error, _UnknownError) else ""
        raise kind(f"{error}{next_step(text, error) or known}") from None


def _single(found: Sequence[_Found]) -> tuple[str, Any] | None:
    """The form of the one genotype that was found; None for none, and for what is not read. Raises SeveralError."""
    if len(found) > 1:
        keys = list(dict.fromkeys(repr(one.key) for one in found if one.key))
        where = f" under {', '.join(keys[:3])}{' and others' * (len(keys) > 3)}" if keys else ""
        raise SeveralError(f"a text must hold one genotype, but has {len(found)}{where}; keep one")
    return found[0].form if found else None


def _several(text: str) -> tuple[list[_Found], Any]:
    """The different genotypes of a text that is data as a whole, as `_different` has them, and the data.

    None of other texts. Raises GenotypeError for a notebook.
    """
    data = structure(text)
    if isinstance(data, dict) and "nbformat" in data:
        raise GenotypeError(
            "a text must hold one genotype, but it looks like a notebook, whose cells are none of a network; save the "
            "lines of the genotype"
        )
    with suppress(RecursionError):
        value = None if files.is_json(text) else literal(text)  # of Python, whose escapes YAML leaves as they are
        for known in (value, _as_tuples(data)):
            if several := _different(known):
                return several, known
    return [], None


def _different(data: Any) -> list[_Found]:
    """The different genotypes of data, at any depth, with what may be one and is not read. Empty where none is."""
    found: list[_Found] = []
    for one in _all(data, 0, "") if isinstance(data, dict | tuple) else ():
        found += [] if one.form in [other.form for other in found] else [one]
    return found if any(one.form for one in found) else []


def _all(value: Any, depth: int, key: str) -> Iterator[_Found]:
    """What there is in data, at any depth, that is or may be a genotype.

    Args:
        value: a part of the data.
        depth: of that part.
        key: under which it is, or the list that it is in.
    """
    if isinstance(value, str):
        if is_text(value) or another(value) or "~0" in value or more_than("", value):
            try:
                yield _Found(key, recognise(value))
            except SeveralError:
                raise
            except GenotypeError:
                yield _Found(key, None)
        return
    if depth > MAX_DEPTH:
        yield _Found(key, None)
        return
    for name in value if isinstance(value, dict) else ():
        if "(" in name or "[" in name or "~" in name:
            yield from _all(name, depth + 1, key)
    own, beside = parted(value)
    try:
        form = None if _has_a_format(own) else _form_of(own)
    except GenotypeError:
        yield _Found(key, None)
        return
    if form is None:
        if _has_a_format(value) and isinstance(value.get("cells"), dict):
            yield _Found(key, None)
        several = [(key, item) for item in value] if isinstance(value, tuple) else ()
        for name, item in value.items() if isinstance(value, dict) else several:
            yield from _all(item, depth + 1, name)
    elif depth and form[0] == "compact" and key != "genotype":  # of which numbers alone say nothing
        if has_compact(value):
            yield _Found(key, None)
    else:
        yield _Found(key, form)
        if form[0] in _KEYED:
            beside = {name: item for name, item in value.items() if not exports.is_key(name)}
        yield from _all(beside, depth + 1, key)


def _concats(form: str, value: Any) -> dict[str, list[Any]]:
    """The concats of a genotype for each type of cell: as they were written, and as they are read."""
    if form == "topocell":
        cells = value.get("cells")
        named = cells.items() if isinstance(cells, dict) else ()
        return {name: [cell.get("concat")] for name, cell in named if isinstance(cell, dict)}
    if form in NAMEDTUPLES:
        with suppress(GenotypeError):
            read_as = {name: concat for name, (_, concat) in read_cells(form, value).items()}
            return {name: [concat, value[f"{name}_concat"]] for name, concat in read_as.items()}
        return {name: [value[f"{name}_concat"]] for name in namedtuples.TYPES}
    with suppress(GenotypeError):
        return {name: [concat] for name, (_, concat) in read_cells(form, value).items()}
    return {}


def _has_a_format(value: Any) -> bool:
    """Return whether a mapping has a format, as our files have one, and not what they have beside it."""
    return isinstance(value, dict) and "format" in value and not ("space" in value and "cells" in value)


def _as_tuples(data: Any) -> Any:
    """Data with tuples in place of lists, and with the values that wandb keeps beside a description."""
    if isinstance(data, dict) and "value" in data and data.keys() <= {"desc", "value"}:
        return _as_tuples(data["value"])
    if isinstance(data, dict):
        return {str(key): _as_tuples(item) for key, item in data.items()}
    return tuple(map(_as_tuples, data)) if isinstance(data, list) else data


def _recognised(text: str, no_data: str = "") -> tuple[str, Any]:
    """The form of a text, and its value; `no_data`: a text that is known not to be data. Raises as `recognise`."""
    plain, out = uncommented(text)
    plain, behind = formats.without_comments(plain)
    found = _found(plain, f"{out}\n{behind}", no_data)
    _check_more(found, plain)
    check_lines(_concats(*found), plain)
    if numbers := more_numbers(repr(found[1]), plain):
        raise SeveralError(f"a text must hold one genotype, but has {numbers} beside that of one; keep one")
    return found


def _check_more(found: tuple[str, Any], text: str) -> None:
    """Raise BesideError where a text has operations that are not those of what was found in it."""
    _, value = found
    if more := more_than(value if isinstance(value, str) else repr(value), text):
        raise BesideError(f"a text must hold one genotype, but has {more} with a number more often than that of one")


def _found(plain: str, out: str, no_data: str) -> tuple[str, Any]:
    """The form of a text without comments, and its value, which may stand beside a second one that has no form."""
    arch = formats.find_nasbench201(plain, out)
    if arch is None and re.match(r"\s*\|[^|\\]*~", plain):  # its reader says what is wrong
        return "nasbench201", plain
    if arch is not None:
        if other := another(plain.replace(arch, "")):
            raise SeveralError(f"a text must hold one genotype, but has {other} beside {shown(arch)}; keep one")
        check_unchanged(plain, arch)
        return "nasbench201", arch
    whole = plain.replace(GAP, "")
    if whole != no_data and (form := _in_data(whole)):
        return form
    value = read(plain)
    if isinstance(value, str):
        return _recognised(bounded(value))
    if form := _form_of(value):
        return form
    if form := _single(_different(value)):
        check_concats(_concats(*form), value)
        return form
    what = f"a dictionary of {shown(list(value))}" if isinstance(value, dict) else shown(plain.replace(GAP, "").strip())
    raise _UnknownError(f"{_KNOWN}, but got {what}")


def _form_of(value: Any) -> tuple[str, Any] | None:
    """The form of a value, and what is read of it; None for no form. Raises GenotypeError where a field is wrong."""
    if isinstance(value, Call) and not value.args and "cells" in value.fields:  # as ours is printed
        return "topocell", {"format": 1, **value.fields}
    if isinstance(value, Call) or (isinstance(value, dict) and "normal" in value and "format" not in value):
        fields = namedtuples.fields_of(value)
        return namedtuples.kind_of(fields), fields
    if isinstance(value, dict):
        inner = value.get(exports.RESULT_KEY)
        value = inner if isinstance(inner, dict) else value
        if "format" in value or is_ours(value):
            return "topocell", value
        if any(NNI_KEY.fullmatch(key) or HUB_KEY.fullmatch(key) for key in value):
            return "nni", value
        spelt = {key.replace("_COLON_", ":"): item for key, item in value.items()}  # as YAHPO Gym spells it
        if len(spelt) == len(value) and any(key.startswith(BENCH_PREFIX) for key in spelt):
            return "nasbench301", spelt
        return None
    if isinstance(value, tuple) and len(value) == 2 and all(map(is_numbers, value)):
        return "compact", value
    if isinstance(value, tuple) and (arch := formats.nodes_of_nasbench201(value)):
        return "nasbench201", arch
    if _is_four(value):
        fields = namedtuples.fields_of(dict(zip(namedtuples.FIELDS, value)))
        return namedtuples.kind_of(fields), fields
    return None


def _is_four(value: Any) -> bool:
    """Return whether a list may be the four fields, since JSON has no names for those of a namedtuple."""
    return isinstance(value, tuple) and len(value) == len(namedtuples.FIELDS) and isinstance(value[0], tuple)


def checked(wanted: str | None, found: str) -> None:
    """Raise GenotypeError where there is no form of the name `wanted`, or it is not the form `found`."""
    if wanted is not None and wanted not in FORMS:
        near = nearest(wanted, FORMS) if isinstance(wanted, str) else ""
        raise GenotypeError(f"a form is one of {', '.join(FORMS)}{near}, but got {shown(wanted)}")
    if wanted is not None and wanted != found:
        raise GenotypeError(f"the text must have the form {wanted!r}, {FORMS[wanted]}, but has the form {found!r}")


def read_cells(form: str, value: Any, operations: Sequence[str] | None = None) -> namedtuples.Cells:
    """Cell type → (pairs of each node, concat).

    Args:
        form: a row of `FORMS`, not `topocell`.
        value: of that form, from `recognise`.
        operations: names of operations by their number, for forms that have numbers.

    Raises:
        GenotypeError: naming the place; also where an operation is the same as none of ours.
    """
    if form in NAMEDTUPLES:
        cells = namedtuples.read_cells(form, value)
    elif form == "nasbench201":
        nodes = formats.parse_nasbench201(value)
        cells = {"cell": (nodes, [len(nodes)])}
    else:
        readers = {"compact": exports.read_compact, "nni": exports.read_nni, "nasbench301": exports.read_nasbench301}
        cells = readers[form](value, operations)
    return {name: ([_named(name, pairs) for pairs in nodes], concat) for name, (nodes, concat) in cells.items()}


def _named(cell_type: str, pairs: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """The pairs with our names of their operations."""
    named = []
    for name, source in pairs:
        ours = _SAME.get(name, name) if name not in KNOWN_OPERATIONS else name
        if ours not in KNOWN_OPERATIONS:
            known = NASBENCH201_OPERATIONS if cell_type == "cell" else KNOWN_OPERATIONS
            why = f"; {name} {_OTHER[name]}" if name in _OTHER else nearest(name[:100], known)
            raise GenotypeError(
                f"{cell_type}: an operation must be one of topocell's or registered, but got {shown(name)}{why}"
            )
        named.append((ours, source))
    return named

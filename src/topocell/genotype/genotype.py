"""A derived architecture as data: JSON in and out, validation, canonical form, other formats.

Nodes are numbered as in DARTS: inputs first, then computed nodes; each computed node lists `(operation,
predecessor)` pairs, of any number, and sums them. The cell's output is the channel concat of the nodes in
`concat`. In the cell types `normal` and `reduce` a node without pairs has been dropped: it keeps its number
and nothing may use it. In the cell type `cell` (NAS-Bench-201) a node without pairs is zero, and the output
is the last node.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from topocell.arguments import checked
from topocell.errors import GenotypeError, check_known, nearest
from topocell.genotype import formats, forms
from topocell.genotype.canonical import Pair, canonical
from topocell.genotype.characters import decoded
from topocell.genotype.reading import file_of, read_file
from topocell.genotype.settings import is_ours, lines_of_json
from topocell.genotype.values import Fixed, check_fields, is_list, whole, wrong
from topocell.io import files
from topocell.spaces.operations import KNOWN_OPERATIONS
from topocell.spaces.skeletons import SKELETONS

FORMAT = 1
MAX_NODES = 64
MAX_PAIRS = 256


def keeps_empty_nodes(cell_type: str) -> bool:
    """Return whether a computed node without pairs is zero, as in the type `cell`; otherwise it has been dropped."""
    return cell_type == "cell"


@dataclass(frozen=True)
class CellGenotype:
    """One cell: number of inputs, `(operation, predecessor)` pairs of each computed node, nodes of the
    output.

    Plain data; it is checked, and lists become tuples, when it enters a `Genotype`.
    """

    inputs: int
    nodes: tuple[tuple[Pair, ...], ...]
    concat: tuple[int, ...]


@dataclass(frozen=True)
class Genotype:
    """A derived architecture, valid by construction.

    Args:
        space: name of the search space, for users; the network follows from cells and skeleton.
        cells: cell type → cell; the types are `normal` and `reduce` (DARTS family, 1 or 2 inputs) or `cell`
            (NAS-Bench-201, 1 input).
        origin: where it came from, e.g. recipe, seed and run; any JSON object.
        skeleton: how the cells are stacked, a row of `topocell.spaces.skeletons.SKELETONS`; default `nasbench201` for
            the cell type `cell`, else `darts`.

    The same pair may occur twice in a node, as in NASNet-A; each occurrence is a layer of its own. In the
    type `cell`, pairs with `none` are left out.

    Raises:
        GenotypeError: naming the place, e.g. `cells.normal.nodes[2][0]: unknown operation 'sep_conv_3'`.
    """

    space: str
    cells: Mapping[str, CellGenotype]
    origin: Mapping[str, Any] = field(default_factory=dict)
    skeleton: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.space, str) or not self.space:
            raise wrong("space", "must be a name", self.space)
        _check_types(self.cells, self.skeleton)
        object.__setattr__(self, "skeleton", _checked_skeleton(self.skeleton, self.cells))
        try:
            json.dumps(dict(self.origin), allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            raise wrong("origin", "must be a JSON object", self.origin) from None
        checked = {name: _check(f"cells.{name}", name, self.cells[name]) for name in sorted(self.cells)}
        object.__setattr__(self, "cells", Fixed(checked))
        object.__setattr__(self, "origin", dict(self.origin))

    def __hash__(self) -> int:
        return hash(self.key)

    def _repr_svg_(self) -> str | None:
        """Return the drawing that notebooks show; None for a cell too large to be drawn."""
        drawings = import_module("topocell.reporting.notebook")  # by name, as pieces are: it knows genotypes
        try:
            return str(drawings.genotype_svg(self.to_dict()))
        except GenotypeError:
            return None

    def operations(self, cell_type: str) -> Counter[str]:
        """Count each operation of a cell."""
        return Counter(name for pairs in self._cell(cell_type).nodes for name, _ in pairs)

    def depth(self, cell_type: str) -> int:
        """Longest path, in edges, from an input node to a computed node; 0 if no input is used."""
        cell = self._cell(cell_type)
        depth: list[int | None] = [0] * cell.inputs
        for pairs in cell.nodes:
            reached = [d + 1 for _, p in pairs if (d := depth[p]) is not None]
            depth.append(max(reached, default=None))
        return max((d for d in depth if d is not None), default=0)

    def width(self, cell_type: str) -> int:
        """Number of computed nodes that take an input node."""
        cell = self._cell(cell_type)
        return sum(any(p < cell.inputs for _, p in pairs) for pairs in cell.nodes)

    def _cell(self, cell_type: str) -> CellGenotype:
        check_known("cell type", cell_type, self.cells, GenotypeError)
        return self.cells[cell_type]

    def canonical(self) -> "Genotype":
        """The same architecture without origin and dropped nodes, pairs and nodes in an order of their own.

        Its network is the same up to a permutation of the concatenated channels.
        """
        cells = {
            name: CellGenotype(
                cell.inputs, *canonical(cell.inputs, cell.nodes, cell.concat, not keeps_empty_nodes(name))
            )
            for name, cell in self.cells.items()
        }
        return Genotype(self.space, cells, skeleton=self.skeleton)

    @cached_property
    def key(self) -> str:
        """16 hexadecimal characters that equal architectures share.

        It depends neither on the space's name and the origin nor on the order of pairs, the numbering of
        nodes, the order of the concat or dropped nodes.
        """
        form = self.canonical().to_dict()
        told = {**form["cells"], "skeleton": form["skeleton"]} if "skeleton" in form else form["cells"]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, `format: 1`."""
        cells = {
            name: {
                "inputs": cell.inputs,
                "nodes": [[list(pair) for pair in pairs] for pairs in cell.nodes],
                "concat": list(cell.concat),
            }
            for name, cell in self.cells.items()
        }
        stacked = {} if self.skeleton == _usual_skeleton(self.cells) else {"skeleton": self.skeleton}
        return {"format": FORMAT, "space": self.space, **stacked, "cells": cells, "origin": dict(self.origin)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Genotype":
        """The genotype of a JSON form.

        Raises:
            GenotypeError: naming the place of the first fault.
        """
        check_fields("genotype", data, ("format", "space", "cells"), ("origin", "skeleton"))
        if type(data["format"]) is not int or data["format"] != FORMAT:
            raise wrong("format", f"must be {FORMAT}, the only one this version reads", data["format"])
        _check_types(data["cells"], data.get("skeleton", ""))
        built = {}
        for name, cell in data["cells"].items():
            check_fields(f"cells.{name}", cell, ("inputs", "nodes", "concat"))
            built[name] = CellGenotype(cell["inputs"], cell["nodes"], cell["concat"])
        return cls(data["space"], built, data.get("origin", {}), data.get("skeleton", ""))

    @classmethod
    @checked(GenotypeError)
    def load(
        cls, path: str | os.PathLike[str], form: str | None = None, operations: Sequence[str] | None = None
    ) -> "Genotype":
        """Read a file: JSON as `save` writes it, or a text that `from_text` reads.

        Args:
            path: the file, or the directory of a run or of an export to safetensors.
            form, operations: of a text, see `from_text`.

        Raises:
            GenotypeError: no such file, neither of both, or no valid genotype; the message begins with the path.
        """
        path = file_of(Path(path))
        raw = read_file(path)
        damage = ""
        try:
            data = files.from_json(raw, unique=True)
        except ValueError as error:
            data = None
            torn = raw.lstrip().startswith(b"{") and (b'"cells"' in raw or b'"format"' in raw)
            if torn and lines_of_json(decoded(raw)) is None:
                damage = f"a genotype is a JSON file, but this is not: {error}"
        try:
            if is_ours(data) and {"nbformat", "genotype"}.isdisjoint(data):
                forms.checked(form, "topocell")
                return cls.from_dict(data)
            return cls.from_text(decoded(raw), form, operations)
        except GenotypeError as error:
            raise GenotypeError(f"{path}: {damage or error}") from None

    @checked(GenotypeError)
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file; an interrupted write leaves the old file as it was.

        Raises:
            GenotypeError: if the file cannot be written.
        """
        try:
            files.write_out(Path(path), f"{json.dumps(self.to_dict(), indent=1)}\n".encode())
        except OSError as fault:
            raise GenotypeError(files.write_fault(Path(path), fault)) from None

    @classmethod
    @checked(GenotypeError)
    def from_text(cls, text: str, form: str | None = None, operations: Sequence[str] | None = None) -> "Genotype":
        """From a text of another tool, in one of the forms of `topocell.genotype.forms.FORMS`.

        The text is parsed, never evaluated. Around the genotype may stand an indent, comment lines, `NAME =`, the
        prefix of a log line, and other lines. What can be read in two ways is refused.

        Args:
            text: it holds one genotype.
            form: what the text must be; default any form, recognised from the text.
            operations: names of the tool's operations in its order, for forms that number them.

        Raises:
            GenotypeError: no form that is read, or another one; no valid cell; an operation that is the same as none
                of ours; numbers of operations without their order.
        """
        found, value = forms.recognise(text)
        forms.checked(form, found)
        try:
            if found == "topocell":
                return cls.from_dict(value)
            cells = forms.read_cells(found, value, operations)
            inputs, space = (1, "nasbench201") if "cell" in cells else (2, "darts")
            built = {n: CellGenotype(inputs, tuple(map(tuple, nodes)), tuple(c)) for n, (nodes, c) in cells.items()}
            return cls(space, built)
        except GenotypeError as error:
            raise GenotypeError(f"read as the form {found!r}, of {', '.join(forms.FORMS)}: {error}") from None

    @classmethod
    @checked(GenotypeError)
    def from_darts(cls, text: str) -> "Genotype":
        """Parse `Genotype(normal=[('sep_conv_3x3', 1), ...], normal_concat=range(2, 6), reduce=..., ...)`.

        Two pairs make a node. `from_text` takes this form and others.

        Raises:
            GenotypeError: the text has another form, or names no valid cell.
        """
        return cls.from_text(text, "darts")

    def to_darts(self) -> str:
        """The text that `from_darts` reads.

        Raises:
            GenotypeError: a cell that DARTS' format cannot express: nodes have exactly two pairs there.
        """
        if any(cell.inputs != 2 for cell in self.cells.values()):
            raise GenotypeError("DARTS' format has cells of two inputs, but got one; save JSON instead")
        cells = {name: (cell.nodes, cell.concat) for name, cell in self.cells.items()}
        return formats.format_darts(cells)

    @classmethod
    @checked(GenotypeError)
    def from_nasbench201(cls, text: str) -> "Genotype":
        """Parse an architecture string, `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`; `none` edges are left out.

        Raises:
            GenotypeError: the text has another form, or names an unknown operation.
        """
        nodes = tuple(map(tuple, formats.parse_nasbench201(text)))
        return cls("nasbench201", {"cell": CellGenotype(1, nodes, (len(nodes),))})

    def to_nasbench201(self) -> str:
        """The architecture string that `from_nasbench201` reads.

        Raises:
            GenotypeError: another cell type, or an edge with more than one operation.
        """
        if "cell" not in self.cells:
            raise GenotypeError(
                f"an architecture string has the cell type 'cell', but got {', '.join(self.cells)}; save JSON instead"
            )
        return formats.format_nasbench201(self.cells["cell"].nodes)


def _check_types(cells: object, skeleton: object) -> None:
    """Check which cells there are; a normal cell alone says which skeleton it is for, as DARTS' needs both."""
    known: list[set[str]] = [{"normal", "reduce"}, {"cell"}]
    if not isinstance(skeleton, str) or skeleton:
        known.append({"normal"})
    if not isinstance(cells, Mapping) or set(cells) not in known:
        found = list(cells) if isinstance(cells, Mapping) else cells
        alone = ", or with a skeleton of 'normal' alone" if found == ["normal"] else ""
        raise wrong("cells", f"must be an object of 'normal' and 'reduce', or of 'cell'{alone}", found)


def _usual_skeleton(cells: Mapping[str, CellGenotype]) -> str:
    return "nasbench201" if "cell" in cells else "darts"


def _checked_skeleton(name: object, cells: Mapping[str, CellGenotype]) -> str:
    """The skeleton of that name, the usual one of its cells for an empty name."""
    if isinstance(name, str) and not name:
        return _usual_skeleton(cells)
    if not isinstance(name, str) or name not in SKELETONS:
        near = nearest(name[:100], SKELETONS) if isinstance(name, str) else ""
        raise wrong("skeleton", f"must be one of {', '.join(SKELETONS)}{near}, or --import the file that has it", name)
    if set(SKELETONS[name].strides) != set(cells):
        raise wrong("skeleton", f"must take the cell types {', '.join(sorted(cells))}", name)
    return name


def _check(place: str, cell_type: str, cell: object) -> CellGenotype:
    """The cell with tuples for lists, after every rule of the module's docstring has been checked."""
    if not isinstance(cell, CellGenotype):
        raise wrong(place, "must be a CellGenotype", cell)
    zeros = keeps_empty_nodes(cell_type)
    inputs, allowed = whole(cell.inputs), (1,) if zeros else (1, 2)
    if inputs is None or inputs not in allowed:
        raise wrong(f"{place}.inputs", f"must be {' or '.join(map(str, allowed))}", cell.inputs)
    if not is_list(cell.nodes) or not 1 <= len(cell.nodes) <= MAX_NODES:
        raise wrong(f"{place}.nodes", f"must be a list of 1 to {MAX_NODES} nodes", cell.nodes)
    nodes: list[tuple[Pair, ...]] = []
    for number_of_node, pairs in enumerate(cell.nodes):
        node, where = inputs + number_of_node, f"{place}.nodes[{number_of_node}]"
        if not is_list(pairs) or len(pairs) > MAX_PAIRS:
            raise wrong(where, f"must be a list of at most {MAX_PAIRS} [operation, predecessor]", pairs)
        checked = [_checked_pair(f"{where}[{number}]", pair, node) for number, pair in enumerate(pairs)]
        for number, (_, predecessor) in enumerate(checked):
            if not zeros and predecessor >= inputs and not nodes[predecessor - inputs]:
                raise wrong(f"{where}[{number}]", "a predecessor must not be a dropped node", predecessor)
        nodes.append(tuple((name, p) for name, p in checked if not (zeros and name == "none")))
    rule = f"must list computed nodes ({inputs}..{inputs + len(nodes) - 1}) once each, at least one"
    if not is_list(cell.concat) or not 1 <= len(cell.concat) <= MAX_NODES:
        raise wrong(f"{place}.concat", rule, cell.concat)
    concat: list[int] = []
    for given in cell.concat:
        listed = whole(given)
        if listed is None or not inputs <= listed < inputs + len(nodes):
            raise wrong(f"{place}.concat", rule, given)
        if not zeros and not nodes[listed - inputs]:
            raise wrong(f"{place}.concat", "must not list a dropped node", listed)
        concat.append(listed)
    if len(set(concat)) != len(concat):
        raise wrong(f"{place}.concat", rule, cell.concat)
    if zeros and concat != [len(nodes)]:
        raise wrong(f"{place}.concat", f"must be [{len(nodes)}], the last node", cell.concat)
    return CellGenotype(inputs, tuple(nodes), tuple(concat))


def _checked_pair(where: str, pair: Any, node: int) -> Pair:
    predecessor = whole(pair[1]) if is_list(pair) and len(pair) == 2 else None
    if predecessor is None or not isinstance(pair[0], str):
        raise wrong(where, "must be [operation, predecessor], a name and an integer", pair)
    name = str(pair[0])
    if name not in KNOWN_OPERATIONS:
        raise wrong(where, f"must name an operation{nearest(name[:100], KNOWN_OPERATIONS)}", name)
    if predecessor < 0:
        raise wrong(where, "a predecessor is numbered from 0", predecessor)
    if predecessor >= node:
        raise wrong(where, f"edge from the future: node {node} takes nodes below {node}", predecessor)
    return name, predecessor

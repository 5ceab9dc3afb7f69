"""Cells that other tools export as dictionaries and lists: NNI, NAS-Bench-301, and lists of numbers.

All have two inputs, numbered 0 and 1 as in DARTS, and computed nodes from 2; all nodes are concatenated.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from topocell.errors import GenotypeError
from topocell.genotype.canonical import Pair
from topocell.genotype.literals import shown
from topocell.genotype.namedtuples import TYPES, Cells, in_twos
from topocell.genotype.values import as_integer

#: What the operations of the DARTS example of NNI 1 and 2 are called here; its pools have batch norm.
NNI_NAMES = {
    "none": "none",
    "maxpool": "max_pool_3x3",
    "avgpool": "avg_pool_3x3",
    "skipconnect": "skip_connect",
    "sepconv3x3": "sep_conv_3x3",
    "sepconv5x5": "sep_conv_5x5",
    "dilconv3x3": "dil_conv_3x3",
    "dilconv5x5": "dil_conv_5x5",
}
#: Operations of DARTS' space in NNI's model hub and in NAS-Bench-301.
DARTS_NAMES = tuple(name for name in NNI_NAMES.values() if name != "none")

_NUMBER = r"(0|[1-9][0-9]?)"
NNI_KEY = re.compile(rf"(normal|reduce)_n{_NUMBER}_(?:p{_NUMBER}|switch)")
HUB_KEY = re.compile(rf"(normal|reduce)/(op|input)_{_NUMBER}_{_NUMBER}")
BENCH_PREFIX = "NetworkSelectorDatasetInfo:darts:"
RESULT_KEY = "optimized_hyperparamater_config"  # as NAS-Bench-301 spells it
_BENCH_KEY = re.compile(rf"{BENCH_PREFIX}(edge|inputs_node)_(normal|reduce)_{_NUMBER}")
#: What is in keys of all of them, behind which a second genotype may be, as in lines of a log.
IN_KEY = re.compile(r"\b(?:normal|reduce)(?:_n[0-9]+_|/(?:op|input)_)|(?:edge|inputs_node)_(?:normal|reduce)_[0-9]")
Operations = Sequence[str] | None


def read_compact(value: Any, operations: Operations) -> Cells:
    """`((input, number of operation), ...)` of the normal cell, then of the reduction cell; two for each node.

    Raises:
        GenotypeError: no order of operations, or a number that it does not have.
    """
    cells: Cells = {}
    for name, pairs in zip(TYPES, value):
        named = [
            (numbered(f"{name}[{number}]", as_integer(operation), operations), as_integer(source))
            for number, (source, operation) in enumerate(pairs)
        ]
        cells[name] = _all_nodes([list(node) for node in in_twos(name, named)])
    return cells


def numbered(place: str, number: Any, operations: Operations) -> str:
    """The operation of that number in the order that the user gave.

    Raises:
        GenotypeError: there is none.
    """
    if operations is None:
        raise GenotypeError(
            f"{place}: an operation must have a name, but is the number {shown(number)}, whose meaning depends on the "
            f"tool and its version; give their order as operations=[...], on the command line --operations A,B,..."
        )
    if type(number) is not int or not 0 <= number < len(operations):
        raise GenotypeError(f"{place}: must be a number below {len(operations)}, but got {shown(number)}")
    return operations[number]


def read_nni(value: Mapping[str, Any], operations: Operations) -> Cells:
    """NNI's `normal_n2_p0: sepconv3x3`, `normal_n2_switch: [normal_n2_p0, ..]`, or `normal/op_2_0`, `normal/input_2_0`.

    Raises:
        GenotypeError: naming the key.
    """
    of_hub = any(HUB_KEY.fullmatch(key) for key in value)
    _check_keys(value, HUB_KEY if of_hub else NNI_KEY)
    own = {key: item for key, item in value.items() if key.startswith(tuple(TYPES))}  # beside other settings
    return _hub(own) if of_hub else _mutables(own, operations)


def is_key(key: str) -> bool:
    """Return whether a key is one of a genotype in one of these forms, or of the settings beside it."""
    plain = key.replace("_COLON_", ":")
    return IN_KEY.search(key) is not None or plain.startswith(BENCH_PREFIX) or key == RESULT_KEY


def _check_keys(value: Mapping[str, Any], known: re.Pattern[str]) -> None:
    """Raise GenotypeError for a key that has one of a genotype with something beside it."""
    for key in value:
        if not known.fullmatch(key) and IN_KEY.search(key):
            raise GenotypeError(f"a text must hold one genotype, but beside its keys has {shown(key)}; keep one")


def _mutables(value: Mapping[str, Any], operations: Operations) -> Cells:
    """NNI 1 and the DARTS example of NNI 2: an operation per input, and a switch that says which inputs are taken."""
    chosen: dict[tuple[str, int], dict[int, str]] = {}
    switches: dict[tuple[str, int], Any] = {}
    for key, item in value.items():
        match = NNI_KEY.fullmatch(key)
        if not match:
            raise GenotypeError(f"keys must be like normal_n2_p0 or normal_n2_switch, but got {shown(key)}")
        cell = match[1], int(match[2])
        if match[3] is None:
            switches[cell] = item
            continue
        of_node = chosen.setdefault(cell, {})
        if type(item) is int:
            item = numbered(key, item, operations)
        if isinstance(item, str):
            of_node[int(match[3])] = NNI_NAMES.get(item, item)
        elif item not in ((), None):
            raise GenotypeError(f"{key}: must be an operation, or [] for none, but got {shown(item)}")
    cells: Cells = {}
    for name in TYPES:
        numbers = sorted(node for cell, node in {**chosen, **switches} if cell == name)
        nodes = [
            _switched(f"{name}_n{node}", chosen.get((name, node), {}), switches.get((name, node)))
            for node in _from_two(name, numbers)
        ]
        cells[name] = _all_nodes(nodes)
    return cells


def _switched(place: str, operations: Mapping[int, str], switch: Any) -> list[Pair]:
    """The pairs of a node: those that its switch names, or numbers as NNI 2 does, or both of two where it has none."""
    if switch is None:
        if len(operations) != 2:
            raise GenotypeError(
                f"{place}: a node has a {place}_switch that names its inputs, but has none for {len(operations)} inputs"
            )
        return [(operations[source], source) for source in sorted(operations)]
    order = sorted(operations)
    named = [f"{place}_p{source}" for source in order]
    places, rule = dict(zip(map(shown, named), order)), f"must list some of {shown(named)}"
    if order and order[-1] < len(order):  # a number then counts the inputs, and stands behind p
        places |= {str(source): source for source in order}
        rule += f", or numbers from 0 to {order[-1]}"
    sources = [places.get(shown(as_integer(item))) for item in switch] if isinstance(switch, tuple) else [None]
    if None in sources or len(set(sources)) != len(sources):
        raise GenotypeError(f"{place}_switch: {rule}, but got {shown(switch)}")
    return [(operations[source], source) for source in sources if source is not None]


def _hub(value: Mapping[str, Any]) -> Cells:
    """NNI's model hub: two operations for each of the four nodes of its DARTS space, and their inputs."""
    found: dict[tuple[str, str, int, int], Any] = {}
    for key, item in value.items():
        if match := HUB_KEY.fullmatch(key):
            single = match[2] == "input" and isinstance(item, tuple) and len(item) == 1
            found[match[1], match[2], int(match[3]), int(match[4])] = as_integer(item[0] if single else item)
        else:
            raise GenotypeError(f"keys must be like normal/op_2_0 or normal/input_2_0, but got {shown(key)}")
    nodes = sorted({place[2] for place in found})
    if nodes != [2, 3, 4, 5]:
        raise GenotypeError(
            f"a cell must have the nodes 2 to 5 of the DARTS space, as spaces of other nodes, NASNet, ENAS, AmoebaNet "
            f"and PNAS, differ in what they concatenate, but got nodes {shown(nodes)}"
        )
    wanted = {(cell, kind, node, i) for cell in TYPES for kind in ("op", "input") for node in nodes for i in (0, 1)}
    if differing := sorted(wanted ^ set(found)):
        cell, kind, node, i = differing[0]
        state = "has none" if differing[0] in wanted else "has more"
        raise GenotypeError(f"{cell}/{kind}_{node}_{i}: a node has two operations and their inputs, but {state}")
    cells: Cells = {}
    for name in TYPES:
        pairs = [[(found[name, "op", n, i], found[name, "input", n, i]) for i in (0, 1)] for n in nodes]
        for node, of_node in zip(nodes, pairs):
            for i, (operation, source) in enumerate(of_node):
                if operation not in DARTS_NAMES:
                    raise GenotypeError(f"{name}/op_{node}_{i}: must be of the DARTS space, but got {shown(operation)}")
                if type(source) is not int:
                    raise GenotypeError(f"{name}/input_{node}_{i}: must be one input, but got {shown(source)}")
        cells[name] = _all_nodes(pairs)
    return cells


def read_nasbench301(value: Mapping[str, Any], operations: Operations) -> Cells:
    """NAS-Bench-301's `..:edge_normal_0: sep_conv_3x3`, `..:inputs_node_normal_3: 0_1`; node 2 takes both inputs.

    Edges are numbered by node, then by input: 0 and 1 lead to node 2, 2 to 4 to node 3, up to 13. Other keys are
    settings of its training, and left out.

    Raises:
        GenotypeError: naming the key.
    """
    _check_keys(value, _BENCH_KEY)
    found: dict[tuple[str, str, int], Any] = {}
    for key, item in value.items():
        if match := _BENCH_KEY.fullmatch(key):
            found[match[1], match[2], int(match[3])] = item
    cells: Cells = {}
    for name in TYPES:
        nodes: list[list[Pair]] = []
        unused = {(kind, number) for kind, cell, number in found if cell == name}
        first = 0
        for node in range(2, 6):
            taken = found.get(("inputs_node", name, node), "0_1" if node == 2 else None)
            sources = re.fullmatch(r"([0-9])_([0-9])", taken) if isinstance(taken, str) else None
            if not sources or not int(sources[1]) < int(sources[2]) < node:
                key = f"inputs_node_{name}_{node}"
                how = "; YAML has it in quotes" if type(taken) is int else ""
                raise GenotypeError(
                    f"{key}: must be two inputs below {node} such as '0_1', but got {shown(taken)}{how}"
                )
            pairs: list[Pair] = []
            for source in map(int, sources.groups()):
                operation = found.get(("edge", name, first + source))
                if operation not in DARTS_NAMES:
                    key = f"edge_{name}_{first + source}"
                    raise GenotypeError(f"{key}: must be an operation of the DARTS space, but got {shown(operation)}")
                unused.discard(("edge", first + source))
                pairs.append((operation, source))
            unused.discard(("inputs_node", node))
            nodes.append(pairs)
            first += node
        for kind, number in sorted(unused):
            raise GenotypeError(f"{kind}_{name}_{number}: must belong to a node, but no node from 2 to 5 takes it")
        cells[name] = _all_nodes(nodes)
    return cells


def _from_two(name: str, numbers: list[int]) -> list[int]:
    if not numbers or sorted(set(numbers)) != list(range(2, 2 + len(set(numbers)))):
        raise GenotypeError(f"{name}: nodes must be numbered from 2 without a gap, but got {shown(numbers)}")
    return sorted(set(numbers))


def _all_nodes(nodes: list[list[Pair]]) -> tuple[list[list[Pair]], list[int]]:
    return nodes, list(range(2, 2 + len(nodes)))

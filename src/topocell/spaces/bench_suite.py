"""The spaces of DARTS-Bench-Suite (Jha et al., confopt, 2025), in our reading: three supernets, three candidate sets.

Its documentation names the supernets wide, deep and single-cell and the sets regular, no-skip and all-skip. Sizes
and sets are what we take these names for: wide supernets have few cells of many channels, deep ones many cells of few,
the last a single normal cell; no-skip leaves skip_connect out, and all-skip adds a skip connection to each of its
candidates, so that `none` becomes skip_connect.
"""

from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

from topocell.errors import SpaceError, nearest
from topocell.spaces.cell import SpaceSpec
from topocell.spaces.darts import DARTS_OPERATIONS, darts
from topocell.spaces.operations import RESIDUAL_OPERATIONS


class Sizes(NamedTuple):
    """A supernet of the suite: initial channels, cells, and the skeleton that stacks them."""

    channels: int
    layers: int
    skeleton: str = "darts"


#: Channels are multiples of 8, as PC-DARTS with K = 4 asks for where cells reduce.
SUPERNETS = MappingProxyType({"wide": Sizes(24, 4), "deep": Sizes(8, 16), "single-cell": Sizes(32, 1, "uniform")})

_NO_SKIP = tuple(name for name in DARTS_OPERATIONS if name != "skip_connect")
_WITH_SKIP = {inner: name for name, inner in RESIDUAL_OPERATIONS.items()} | {"none": "skip_connect"}
CANDIDATES = MappingProxyType(
    {"regular": DARTS_OPERATIONS, "no-skip": _NO_SKIP, "all-skip": tuple(_WITH_SKIP[name] for name in _NO_SKIP)}
)


def bench_suite(supernet: str = "wide", operations: str = "regular", nodes: int = 4) -> SpaceSpec:
    """A space of the suite. The sizes of its supernet, `SUPERNETS`, are settings of the search.

    Args:
        supernet: `wide`, `deep` (both with normal and reduction cells) or `single-cell` (a normal cell alone).
        operations: `regular`, `no-skip` or `all-skip`.
        nodes: intermediate nodes of a cell.

    Raises:
        SpaceError: another supernet or another set.
    """
    for option, value, table in (("supernet", supernet, SUPERNETS), ("operations", operations, CANDIDATES)):
        if value not in table:
            near = nearest(value, table) if isinstance(value, str) else ""
            raise SpaceError(f"{option} of space bench-suite is one of {', '.join(table)}, but got {value!r}{near}")
    space = replace(darts(nodes, CANDIDATES[operations]), name="bench-suite")
    if SUPERNETS[supernet].skeleton == "darts":
        return space
    return replace(space, cells={"normal": space.cells["normal"]}, skeleton=SUPERNETS[supernet].skeleton)

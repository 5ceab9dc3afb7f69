"""The spaces S1–S4 of RobustDARTS (Zela et al., 2020): DARTS cells with few candidates, in which DARTS fails.

S1 holds for each edge the two candidates that a pruning left over; the others offer the same everywhere.
"""

from dataclasses import replace

from topocell.arguments import checked
from topocell.errors import SpaceError
from topocell.spaces.cell import CellSpec, SpaceSpec, complete_edges
from topocell.spaces.darts import darts

_SKIP, _MAX, _AVG = "skip_connect", "max_pool_3x3", "avg_pool_3x3"
_SEP3, _DIL3, _DIL5 = "sep_conv_3x3", "dil_conv_3x3", "dil_conv_5x5"

#: Candidates of S1 in edge order: into node 2 from 0, 1; into node 3 from 0, 1, 2; and so on.
S1_NORMAL: tuple[tuple[str, ...], ...] = (
    (_SKIP, _DIL3),
    (_SKIP, _DIL5),
    (_SKIP, _DIL5),
    (_SKIP, _SEP3),
    (_SKIP, _DIL3),
    (_MAX, _SKIP),
    (_SKIP, _SEP3),
    (_SKIP, _SEP3),
    (_SKIP, _DIL3),
    (_SKIP, _SEP3),
    (_MAX, _SKIP),
    (_SKIP, _DIL3),
    (_DIL3, _DIL5),
    (_DIL3, _DIL5),
)
S1_REDUCE: tuple[tuple[str, ...], ...] = (
    (_MAX, _AVG),
    (_MAX, _DIL3),
    (_MAX, _AVG),
    (_MAX, _AVG),
    (_SKIP, _DIL5),
    (_MAX, _AVG),
    (_MAX, _SEP3),
    (_SKIP, _DIL3),
    (_SKIP, _DIL5),
    (_MAX, _AVG),
    (_MAX, _AVG),
    (_SKIP, _DIL5),
    (_SKIP, _DIL5),
    (_SKIP, _DIL5),
)


def s1() -> SpaceSpec:
    """S1: two candidates per edge, different from edge to edge and in both cell types; four nodes."""
    edges = complete_edges(2, 4)
    cells = {
        "normal": CellSpec(2, 4, edges, S1_NORMAL, stride=1),
        "reduce": CellSpec(2, 4, edges, S1_REDUCE, stride=2),
    }
    return SpaceSpec("s1", cells)


@checked(SpaceError)
def s2(nodes: int = 4) -> SpaceSpec:
    """S2: skip_connect and sep_conv_3x3."""
    return replace(darts(nodes, (_SKIP, _SEP3)), name="s2")


@checked(SpaceError)
def s3(nodes: int = 4) -> SpaceSpec:
    """S3: none, skip_connect and sep_conv_3x3."""
    return replace(darts(nodes, ("none", _SKIP, _SEP3)), name="s3")


@checked(SpaceError)
def s4(nodes: int = 4) -> SpaceSpec:
    """S4: noise and sep_conv_3x3; noise is the harmful candidate that a search should learn to avoid."""
    return replace(darts(nodes, ("noise", _SEP3)), name="s4")

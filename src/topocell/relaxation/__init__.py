"""α → ops: the weight of each candidate operation on each edge.

The supernet only sees `weights(alpha, mask) -> (E, K)`; cells are derived from `expected(alpha, mask) -> (E, K)`,
which never samples. `mask` says which candidates are live: not padding on an edge with fewer than K candidates, and
not removed by a shrink or a decision. A new relaxation is one class that implements `Relaxation` and one row in
`RELAXATIONS`.
"""

from typing import Any

from topocell import registry
from topocell.registry import Registry
from topocell.relaxation.base import Relaxation, candidate_mask, candidate_table
from topocell.relaxation.sampled import Dirichlet, GumbelSoftmax, GumbelStraightThrough
from topocell.relaxation.softmax import GroupedSoftmax, Sigmoid, Softmax, Uniform
from topocell.spaces.cell import CellSpec

__all__ = [
    "RELAXATIONS",
    "Dirichlet",
    "GroupedSoftmax",
    "GumbelSoftmax",
    "GumbelStraightThrough",
    "Relaxation",
    "Sigmoid",
    "Softmax",
    "Uniform",
    "build",
    "candidate_mask",
    "candidate_table",
]

RELAXATIONS = Registry[type[Relaxation]](
    "relaxation",
    {
        "softmax": Softmax,
        "grouped-softmax": GroupedSoftmax,
        "gumbel-softmax": GumbelSoftmax,
        "gumbel-straight-through": GumbelStraightThrough,
        "sigmoid": Sigmoid,
        "dirichlet": Dirichlet,
        "uniform": Uniform,
    },
    Relaxation,
)


def build(name: str, cell: CellSpec, **options: Any) -> Relaxation:
    """The relaxation of that name for one cell, e.g. `build("softmax", cell, offset={"sep_conv_3x3": 6e-4})`.

    Raises:
        RecipeError: unknown name, or an option that is unknown, missing or out of range.
    """
    return registry.build("relaxation", RELAXATIONS, name, cell, **options)

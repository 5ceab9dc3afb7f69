"""Search spaces by name. A new space is one function that returns a `SpaceSpec` and one row in `SPACES`."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from topocell.arguments import checked
from topocell.errors import SpaceError, check_known, nearest
from topocell.registry import Registry
from topocell.spaces.bench_suite import bench_suite
from topocell.spaces.cell import CellSpec, SpaceSpec, complete_edges
from topocell.spaces.custom import custom
from topocell.spaces.darts import DARTS_OPERATIONS, DARTS_OPERATIONS_WITHOUT_NONE, darts
from topocell.spaces.edarts import SUBSPACES, subspace
from topocell.spaces.nasbench201 import NASBENCH201_OPERATIONS, NASBENCH201_OPERATIONS_WITHOUT_NONE, nasbench201
from topocell.spaces.operations import KNOWN_OPERATIONS, OPERATIONS
from topocell.spaces.robustdarts import s1, s2, s3, s4
from topocell.spaces.skeletons import SKELETONS, Slot, Stacking
from topocell.spaces.topology_bench import topology_bench

SPACES = Registry[Callable[..., SpaceSpec]](
    "space",
    {
        "darts": darts,
        "custom": custom,
        "nasbench201": nasbench201,
        "bench-suite": bench_suite,
        "topology-bench": topology_bench,
        "s1": s1,
        "s2": s2,
        "s3": s3,
        "s4": s4,
        **{name: functools.partial(subspace, name) for name in SUBSPACES},
    },
)

__all__ = [
    "DARTS_OPERATIONS",
    "DARTS_OPERATIONS_WITHOUT_NONE",
    "KNOWN_OPERATIONS",
    "NASBENCH201_OPERATIONS",
    "NASBENCH201_OPERATIONS_WITHOUT_NONE",
    "OPERATIONS",
    "SKELETONS",
    "SPACES",
    "CellSpec",
    "Slot",
    "SpaceSpec",
    "Stacking",
    "complete_edges",
    "get",
    "register",
]


@checked(SpaceError)
def get(name: str, **options: Any) -> SpaceSpec:
    """The space of that name, e.g. `get("darts", nodes=4)`.

    Raises:
        SpaceError: unknown name, or an option that the space does not take.
    """
    check_known("space", name, sorted(SPACES), SpaceError)
    known = inspect.signature(SPACES[name]).parameters
    for option in options:
        if option not in known:
            raise SpaceError(
                f"space {name!r} has no option {option!r}{nearest(option, known)}; it takes: "
                f"{', '.join(known) or 'none'}"
            )
    return SPACES[name](**options)


def register(name: str, build: Callable[..., SpaceSpec]) -> None:
    """Make a user's own space known by name to recipes and the command line of this process.

    Raises:
        RecipeError: the name is taken.
    """
    SPACES.add(name, build)

"""The sub-spaces SS1–SS8 of eDARTS: DARTS cells with none, one pool, skip_connect and two or three convolutions.

The paper leaves open which pool it takes ("max or average"); max_pool_3x3 is taken here, and `pool` chooses.
"""

from collections.abc import Mapping
from dataclasses import replace

from topocell.arguments import checked
from topocell.errors import SpaceError
from topocell.spaces.cell import SpaceSpec
from topocell.spaces.darts import darts

#: The convolutions of each sub-space.
SUBSPACES: Mapping[str, tuple[str, ...]] = {
    "ss1": ("sep_conv_3x3", "dil_conv_3x3"),
    "ss2": ("sep_conv_5x5", "dil_conv_5x5"),
    "ss3": ("sep_conv_3x3", "sep_conv_5x5"),
    "ss4": ("dil_conv_3x3", "dil_conv_5x5"),
    "ss5": ("sep_conv_3x3", "dil_conv_5x5"),
    "ss6": ("sep_conv_5x5", "dil_conv_3x3"),
    "ss7": ("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3"),
    "ss8": ("sep_conv_3x3", "sep_conv_5x5", "dil_conv_5x5"),
}


@checked(SpaceError)
def subspace(name: str, nodes: int = 4, pool: str = "max_pool_3x3") -> SpaceSpec:
    """The sub-space of that name, a key of `SUBSPACES`."""
    return replace(darts(nodes, ("none", pool, "skip_connect", *SUBSPACES[name])), name=name)

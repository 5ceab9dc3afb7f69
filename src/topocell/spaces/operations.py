"""Properties of operations that spaces, rules and drawings read: a name, and a few words about each."""

from typing import Literal, NamedTuple

Family = Literal["sep_conv", "dil_conv", "conv", "pool", "skip", "other"]


class Operation(NamedTuple):
    """A row of `KNOWN_OPERATIONS`.

    Args:
        label: short name in drawings and tables.
        family: which of the families that drawings tell apart it belongs to.
        weightless: whether it has no weights of its own at stride 1.
    """

    label: str
    family: Family = "other"
    weightless: bool = False


#: Every operation that a cell may name; the first eight, none to dil_conv_5x5, in the order of DARTS' PRIMITIVES. Those
#: of a user's own come after them, see `topocell.nn.primitives.Primitive`.
KNOWN_OPERATIONS: dict[str, Operation] = {
    "none": Operation("none", weightless=True),
    "max_pool_3x3": Operation("max 3×3", "pool", weightless=True),
    "avg_pool_3x3": Operation("avg 3×3", "pool", weightless=True),
    "skip_connect": Operation("skip", "skip", weightless=True),
    "sep_conv_3x3": Operation("sep 3×3", "sep_conv"),
    "sep_conv_5x5": Operation("sep 5×5", "sep_conv"),
    "dil_conv_3x3": Operation("dil 3×3", "dil_conv"),
    "dil_conv_5x5": Operation("dil 5×5", "dil_conv"),
    "sep_conv_7x7": Operation("sep 7×7", "sep_conv"),
    "conv_7x1_1x7": Operation("conv 7×1 1×7", "conv"),
    "noise": Operation("noise", weightless=True),
    "nor_conv_1x1": Operation("conv 1×1", "conv"),
    "nor_conv_3x3": Operation("conv 3×3", "conv"),
}

#: Those that come with the package, but for `RESIDUAL_OPERATIONS`.
OPERATIONS: tuple[str, ...] = tuple(KNOWN_OPERATIONS)

#: Operations with a skip connection around them, by those inside: `residual_sep_conv_3x3` adds its input to its output.
RESIDUAL_OPERATIONS: dict[str, str] = {
    f"residual_{name}": name for name, row in list(KNOWN_OPERATIONS.items())[1:8] if row.family != "skip"
}
KNOWN_OPERATIONS |= {
    name: Operation(f"{KNOWN_OPERATIONS[inner].label} + id", KNOWN_OPERATIONS[inner].family)
    for name, inner in RESIDUAL_OPERATIONS.items()
}

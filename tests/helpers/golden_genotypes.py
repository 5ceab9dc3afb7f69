"""Published cells, for tests: DARTS, P-DARTS, PC-DARTS, GDAS, DOTS, NASNet-A and AmoebaNet-A.

A three-character word is an operation and its predecessor, `s31` = sep_conv_3x3 from node 1; `|` ends a node.
The parameter counts are of the published evaluation network without auxiliary head: 36 channels, 20 layers,
10 classes. They agree with the original networks, built for their shapes only.
"""

from topocell.genotype.genotype import CellGenotype, Genotype

_OPERATIONS = {
    "sk": "skip_connect",
    "m3": "max_pool_3x3",
    "a3": "avg_pool_3x3",
    "s3": "sep_conv_3x3",
    "s5": "sep_conv_5x5",
    "s7": "sep_conv_7x7",
    "d3": "dil_conv_3x3",
    "d5": "dil_conv_5x5",
    "c7": "conv_7x1_1x7",
}


def cell(text: str, concat: tuple[int, ...] = (2, 3, 4, 5)) -> CellGenotype:
    """A cell of two inputs from its words."""
    nodes = (node.split() for node in text.split("|"))
    return CellGenotype(2, tuple(tuple((_OPERATIONS[w[:2]], int(w[2:])) for w in node) for node in nodes), concat)


def genotype(normal: str, reduce: str) -> Genotype:
    return Genotype("darts", {"normal": cell(normal), "reduce": cell(reduce)})


DARTS_V1 = genotype(
    "s31 s30 | sk0 s31 | sk0 s31 | s30 sk2",
    "m30 m31 | sk2 m30 | m30 sk2 | sk2 a30",
)
DARTS_V2 = genotype(
    "s30 s31 | s30 s31 | s31 sk0 | sk0 d32",
    "m30 m31 | sk2 m31 | m30 sk2 | sk2 m31",
)
PDARTS = genotype(
    "sk0 d31 | sk0 s31 | s31 s33 | s30 d54",
    "a30 s51 | s30 d52 | m30 d31 | d31 d53",
)
PC_DARTS_CIFAR = genotype(
    "s31 sk0 | s30 d31 | s50 s31 | a30 d31",
    "s51 m30 | s51 s52 | s30 s33 | s31 s32",
)
GDAS_V1 = genotype(
    "sk0 sk1 | sk0 s52 | s33 sk0 | s54 s33",
    "s50 s31 | s52 s51 | d52 s31 | s50 s51",
)
DOTS_C10 = genotype(
    "sk0 s31 | s30 s31 | s30 s31 | sk1 d33",
    "s30 s31 | m30 m31 | m30 d53 | m30 d54",
)
DOTS_C100 = genotype(
    "s30 s31 | sk0 s31 | s31 s33 | s31 d34",
    "a30 a31 | s50 s51 | s30 d53 | s33 d34",
)
NASNET_A = Genotype(
    "nasnet",
    {
        "normal": cell("s51 s30 | s50 s30 | a31 sk0 | a30 a30 | s31 sk1", (2, 3, 4, 5, 6)),
        "reduce": cell("s51 s70 | m31 s70 | a31 s50 | sk3 a32 | s32 m31", (4, 5, 6)),
    },
)
AMOEBANET_A = Genotype(
    "nasnet",
    {
        "normal": cell("a30 m31 | s30 s52 | s30 a33 | s31 sk1 | sk0 a31", (4, 5, 6)),
        "reduce": cell("a30 s31 | m30 s72 | s70 a31 | m30 m31 | c70 s35", (3, 4, 6)),
    },
)

#: Name → (genotype, parameters).
PARAMETERS = {
    "DARTS_V1": (DARTS_V1, 3_169_414),
    "DARTS_V2": (DARTS_V2, 3_349_342),
    "PDARTS": (PDARTS, 3_433_798),
    "PC_DARTS_CIFAR": (PC_DARTS_CIFAR, 3_634_678),
    "GDAS_V1": (GDAS_V1, 3_368_782),
    "DOTS_C10": (DOTS_C10, 3_526_030),
    "DOTS_C100": (DOTS_C100, 4_009_438),
}

ALL = {name: found for name, (found, _) in PARAMETERS.items()} | {
    "NASNET_A": NASNET_A,
    "AMOEBANET_A": AMOEBANET_A,
}

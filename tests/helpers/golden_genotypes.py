"""Published cells under the names that tests use, and the parameters of some of their networks.

The counts are of the published evaluation network without auxiliary head: 36 channels, 20 layers, 10 classes. They
agree with the original networks, built for their shapes only.
"""

from topocell.genotype.genotype import Genotype
from topocell.genotype.published import published


def _plain(name: str) -> Genotype:
    """The cell as a text has it, which does not say where it is from."""
    genotype = published(name).genotype
    return Genotype(genotype.space, genotype.cells)


DARTS_V1 = _plain("darts-v1")
DARTS_V2 = _plain("darts-v2")
PDARTS = _plain("p-darts")
PC_DARTS_CIFAR = _plain("pc-darts-cifar")
GDAS_V1 = _plain("gdas")
DOTS_C10 = _plain("dots-c10")
DOTS_C100 = _plain("dots-c100")
NASNET_A = _plain("nasnet-a")
AMOEBANET_A = _plain("amoebanet-a")

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

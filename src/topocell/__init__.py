"""topocell: differentiable architecture search in which the topology of a cell is learned.

The steps of a run are `run`, `search`, `select` and `retrain`; `load_recipe` reads what they need. The parts that
they are made of can be used alone: `spaces`, `Supernet`, `ArchState`, `topology`, `Genotype`, `FixedNet`.
"""

from topocell import relaxation, spaces, topology
from topocell.api import report, retrain, run, search, select
from topocell.arch import ArchState
from topocell.engine import ArchWeights, Supernet
from topocell.genotype import Genotype
from topocell.network import FixedNet, count
from topocell.reading import load_recipe
from topocell.recipe import Recipe
from topocell.spaces import CellSpec, SpaceSpec

__version__ = "0.1.0"

__all__ = [
    "ArchState",
    "ArchWeights",
    "CellSpec",
    "FixedNet",
    "Genotype",
    "Recipe",
    "SpaceSpec",
    "Supernet",
    "count",
    "load_recipe",
    "relaxation",
    "report",
    "retrain",
    "run",
    "search",
    "select",
    "spaces",
    "topology",
]

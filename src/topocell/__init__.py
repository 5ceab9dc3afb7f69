"""topocell: differentiable architecture search in which the topology of a cell is learned.

The steps of a run are `run`, `search`, `select` and `retrain`; `load_recipe` reads what they need, `Run` what they
leave, `load` the trained network that they end with, and `export` writes it for other programs. The parts can be used
alone: `spaces`, `Supernet`, `ArchState`, `topology`, `Genotype`, `FixedNet`.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from topocell import relaxation, spaces, topology
    from topocell.api import report, retrain, run, search, select
    from topocell.config.load import load_recipe
    from topocell.config.recipe import Recipe
    from topocell.genotype.genotype import Genotype
    from topocell.networks.classifier import load
    from topocell.nn.count import count
    from topocell.nn.network import FixedNet
    from topocell.registry import register
    from topocell.runs.exporting import export
    from topocell.runs.reading import Run
    from topocell.spaces import CellSpec, SpaceSpec
    from topocell.supernet import ArchWeights, Supernet
    from topocell.supernet.arch_state import ArchState

__version__ = "0.1.0"

#: Name → where it is defined. It is imported when it is first used, so that commands that need no PyTorch start fast.
_HOMES = {
    "ArchState": "supernet.arch_state",
    "ArchWeights": "supernet",
    "CellSpec": "spaces",
    "FixedNet": "nn.network",
    "Genotype": "genotype.genotype",
    "Recipe": "config.recipe",
    "Run": "runs.reading",
    "SpaceSpec": "spaces",
    "Supernet": "supernet",
    "count": "nn.count",
    "export": "runs.exporting",
    "load": "networks.classifier",
    "load_recipe": "config.load",
    "register": "registry",
    "report": "api",
    "retrain": "api",
    "run": "api",
    "search": "api",
    "select": "api",
}

__all__ = [
    "ArchState",
    "ArchWeights",
    "CellSpec",
    "FixedNet",
    "Genotype",
    "Recipe",
    "Run",
    "SpaceSpec",
    "Supernet",
    "count",
    "export",
    "load",
    "load_recipe",
    "register",
    "relaxation",
    "report",
    "retrain",
    "run",
    "search",
    "select",
    "spaces",
    "topology",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name in _HOMES:
        return getattr(import_module(f"topocell.{_HOMES[name]}"), name)
    if name in ("relaxation", "spaces", "topology"):
        return import_module(f"topocell.{name}")
    missing = f"module 'topocell' has no attribute {name!r}"
    if not name.startswith("_") and find_spec(f"topocell.{name}") is not None:
        missing += f" before it is imported: import topocell.{name}, and each module of it likewise"
    raise AttributeError(missing)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

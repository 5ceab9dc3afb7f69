"""The batched supernet. Start with `cell.py`; `banks.py` holds the operations."""

from topocell.engine.supernet import Branches, Supernet
from topocell.engine.weights import ArchWeights, OneHotWeights, uniform_weights

__all__ = ["ArchWeights", "Branches", "OneHotWeights", "Supernet", "uniform_weights"]

"""The batched supernet. Start with `cell.py`; `banks.py` holds the operations."""

from topocell.supernet.supernet import Branches, Supernet
from topocell.supernet.weights import ArchWeights, OneHotWeights, uniform_weights

__all__ = ["ArchWeights", "Branches", "OneHotWeights", "Supernet", "uniform_weights"]

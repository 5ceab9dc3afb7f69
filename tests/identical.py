"""Are two states the same, bit for bit?"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def flat(state: Any, name: str = "state") -> dict[str, Any]:
    """Leaves of nested dicts and lists by their path; tensors as bytes, so that equal means bit for bit."""
    if isinstance(state, Mapping):
        items = [(str(key), value) for key, value in state.items()]
    elif isinstance(state, list | tuple):
        items = [(str(index), value) for index, value in enumerate(state)]
    else:
        leaf = (state.shape, state.contiguous().numpy().tobytes()) if isinstance(state, Tensor) else state
        return {name: leaf}
    found: dict[str, Any] = {}
    for key, value in items:
        found |= flat(value, f"{name}.{key}")
    return found


def assert_identical(first: Any, second: Any) -> None:
    one, other = flat(first), flat(second)
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []

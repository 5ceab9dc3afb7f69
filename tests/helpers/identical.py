"""Are two states, or two runs, the same, bit for bit?"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from topocell.io import checkpoint

#: What a finished run leaves and another one of the same recipe must repeat.
LASTING: tuple[str, ...] = ("recipe.yaml", "genotype.json", "metrics.jsonl", "results.json", "weights.safetensors")
LASTING += ("preprocessing.json", "network.json", "predictions.csv")


def flat(state: Any, name: str = "state") -> dict[str, Any]:
    """Leaves of nested dicts and lists by their path; tensors as bytes, so that equal means bit for bit."""
    if isinstance(state, Mapping):
        items = [(str(key), value) for key, value in state.items()]
    elif isinstance(state, list | tuple):
        items = [(str(index), value) for index, value in enumerate(state)]
    else:
        if isinstance(state, Tensor):
            return {name: (str(state.dtype), tuple(state.shape), state.detach().cpu().contiguous().numpy().tobytes())}
        return {name: state}
    found: dict[str, Any] = {}
    for key, value in items:
        found |= flat(value, f"{name}.{key}")
    return found


def assert_identical(first: Any, second: Any) -> None:
    one, other = flat(first), flat(second)
    assert one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []


def differences(found: Path, wanted: Path) -> list[str]:
    """Names of the files of a finished run, and of entries of its supernet, that differ from those of another run."""
    names = lasting_differences(found, wanted)
    one, other = (flat(checkpoint.load(path / "checkpoints/supernet.ckpt")) for path in (found, wanted))
    assert any(".alpha." in name for name in other)
    return names + [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)]


def lasting_differences(found: Path, wanted: Path) -> list[str]:
    """Names of the files of a finished run, which need not have searched, that differ from those of another run."""
    lasting = [*LASTING, *(["metrics.csv"] if (wanted / "metrics.csv").exists() else [])]
    names = [n for n in lasting if not (found / n).exists() or (found / n).read_bytes() != (wanted / n).read_bytes()]
    return names + [p.name for p in found.rglob("*.tmp")]


def assert_same_run(found: Path, wanted: Path) -> None:
    assert differences(found, wanted) == []

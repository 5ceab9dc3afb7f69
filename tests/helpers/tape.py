"""A stand-in for CUDA graphs on the CPU: operators are recorded, and executed again on the very same tensors.

As in a CUDA graph, every result has one place in memory, and nothing of Python runs when a step is replayed: a number
that it took from Python stays what it was when the step was recorded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from topocell.runtime.precision import Execution

Result = TypeVar("Result")

#: Operators that make the host wait for a value of a device.
WAITING = (
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.equal.default,
)


def waits(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether an operator makes the host wait, were its tensors on a GPU: it reads one, or its size depends on one."""
    if func in WAITING:
        return True
    if func in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default, torch.ops.aten.index_put.default):
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return False


class NoWaiting(TorchDispatchMode):
    """Fails at the first operator inside that would make the host wait for a GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        assert not waits(func, args), f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


class OneDevice(TorchDispatchMode):
    """Fails at the first operator inside that takes tensors of several devices; numbers (0-dim) may be on the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.dim()]
        assert len({tensor.device for tensor in given}) < 2, f"{func} mixes devices"
        return func(*args, **(kwargs or {}))


class _Tape(NoWaiting):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[Tensor]]] = []
        self.before: dict[int, tuple[Tensor, Tensor]] = {}  # of what was there and is written to: its value
        self._made: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        for tensor in _written(func, args):
            storage = tensor.untyped_storage().data_ptr()
            if storage not in self._made:
                self.before.setdefault(id(tensor), (tensor, tensor.detach().clone()))
        out = super().__torch_dispatch__(func, types, args, kwargs)
        # Without their history, which would keep parameters from changing their shape later.
        places = [leaf.detach() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        args, kwargs = tree_map_only(Tensor, Tensor.detach, (args, kwargs or {}))
        given = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        self._made |= {place.untyped_storage().data_ptr() for place in places} - given
        self.calls.append((func, args, kwargs, places))
        return out

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, places in self.calls:
                found = [leaf for leaf in tree_leaves(func(*args, **kwargs)) if isinstance(leaf, Tensor)]
                for place, value in zip(places, found, strict=True):
                    if place.untyped_storage().data_ptr() != value.untyped_storage().data_ptr():
                        place.copy_(value)


def _written(func: Any, args: tuple[Any, ...]) -> list[Tensor]:
    """The tensors that an operator writes to; statistics of batch norm are not marked as such."""
    if func is torch.ops.aten.native_batch_norm.default:
        return [tensor for tensor in args[3:5] if tensor is not None and args[5]]
    marks = [argument.alias_info is not None and argument.alias_info.is_write for argument in func._schema.arguments]
    return [leaf for given, marked in zip(args, marks) if marked for leaf in tree_leaves(given)]


class Tape:
    """A recorder (`topocell.runtime.capture.Recorder`); counts what was recorded, and how often it was replayed.

    What recording changes is undone, as nothing is computed while a CUDA graph is recorded.
    """

    def __init__(self) -> None:
        self.recorded = self.replays = 0

    def warm_up(self, act: Callable[[], Result]) -> Result:
        with NoWaiting():
            return act()

    def record(self, act: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
        generator, tape = torch.get_rng_state(), _Tape()
        with tape:
            result = act()
        with torch.no_grad():
            for tensor, value in tape.before.values():
                tensor.copy_(value)
        torch.set_rng_state(generator)
        self.recorded += 1

        def replay() -> None:
            self.replays += 1
            tape.replay()

        return result, replay

    def forget(self) -> None:
        """There is no pool of memory."""


@dataclass(frozen=True)
class Recorded(Execution):
    """An execution whose steps are recorded by a stand-in."""

    given: Any = None

    def recorder(self, device: torch.device) -> Any:
        return self.given


class Unrecordable:
    """A recorder that cannot record anything: every step is called as it is."""

    def warm_up(self, act: Callable[[], Result]) -> Result:
        return act()

    def record(self, act: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
        raise RuntimeError("not on this device")

    def forget(self) -> None:
        """Nothing was recorded."""

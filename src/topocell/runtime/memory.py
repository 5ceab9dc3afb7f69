"""Exact costs of a computation: bytes saved for backward, bytes alive, dispatcher calls; and memory that runs out.

with SavedBytes(exclude=net.parameters()) as saved:
    loss = net(x).sum()
saved.total
"""

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from topocell.errors import RunError

#: What torch and the system say, on a GPU and on a CPU, when memory runs out; the last is oneDNN's.
FULL = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "Cannot allocate memory",
    "could not create a primitive",
)


def is_out_of_memory(fault: BaseException) -> bool:
    """Return whether a fault says that memory ran out, of whatever device."""
    return isinstance(fault, MemoryError) or any(words in str(fault) for words in FULL)


@contextmanager
def naming_memory(words: Callable[[], str]) -> Iterator[None]:
    """Turn a fault inside by which memory ran out into a RunError of `words()`."""
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as fault:
        if not is_out_of_memory(fault):
            raise
        raise RunError(words()) from fault


class SavedBytes:
    """Counts what autograd keeps for the backward pass of the forward pass inside; each storage once.

    Args:
        exclude: tensors that are alive anyway, such as the parameters; what shares their storage is not counted.

    Attributes:
        total: bytes. To be read before the backward pass, after which the same address may be another tensor's.
    """

    def __init__(self, exclude: Iterable[Tensor] = ()) -> None:
        self._excluded = {tensor.untyped_storage().data_ptr() for tensor in exclude}
        self._found: dict[int, int] = {}
        self._hooks = saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def __enter__(self) -> "SavedBytes":
        self._hooks.__enter__()
        return self

    def __exit__(self, *fault: Any) -> None:
        self._hooks.__exit__(*fault)

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._excluded:
            self._found[storage.data_ptr()] = storage.nbytes()
        return tensor

    @property
    def total(self) -> int:
        """Bytes saved so far."""
        return sum(self._found.values())


class DispatcherCalls(TorchDispatchMode):
    """Counts the operators that reach a backend inside; `total` is their number.

    A composite operator counts as the operators that it is made of. Forward and backward passes count alike.
    """

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.total += 1
        return func(*args, **(kwargs or {}))


class LiveBytes(TorchDispatchMode):
    """Follows every tensor that is made inside until it is freed; `peak` is the most bytes alive at once.

    What kernels allocate for themselves and give back before they return is not seen. Views share the storage of
    their base, and a storage counts once. A tensor of before counts once it is written to or viewed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._followed: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._follow(tensor.untyped_storage())
        return out

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._followed:
            return

        def freed(_: object) -> None:
            del self._followed[key]
            self.live -= size

        self._followed[key] = weakref.ref(storage, freed)
        self.live += size
        self.peak = max(self.peak, self.live)

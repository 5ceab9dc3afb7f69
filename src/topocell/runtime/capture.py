"""Recorded steps: on a GPU a step is recorded once as a graph of kernels, and then replayed by one call.

A step of a supernet is tens of thousands of small kernels, and launching each of them from Python takes longer than it
runs. What is replayed is what was computed when the step was recorded: the same kernels on the same places in memory.
So a step that is recorded takes its batches from places that are filled beforehand, reads all that follows a schedule
from tensors (`topocell.nn.scheduled`), updates its state in place, and waits for nothing. Random numbers are those of
torch's generator, which is seeded before each step as ever: replayed kernels read the seed anew.
"""

import gc
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from topocell.config.values import Capture
from topocell.errors import RunError
from topocell.runtime.nan_guard import Guard

Result = TypeVar("Result")


class Recorder(Protocol):
    """Records what a call computes, and gives a call that computes it again in the same places."""

    def warm_up(self, act: Callable[[], Result]) -> Result:
        """Call `act` as it is, so that all it makes on first use is made: optimizer state, constants, workspaces."""

    def record(self, act: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
        """Return the result of `act`, whose tensors hold nothing yet, and what fills them and acts, again and again.

        Raises:
            RuntimeError: it cannot be recorded. Nothing has been computed then.
        """

    def forget(self) -> None:
        """Give back the memory of what was recorded, none of which is used any more."""


class CudaGraphs:
    """Records CUDA graphs. All share one pool of memory, since one is replayed after the other.

    Args:
        device: a GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)
        self.forget()

    def warm_up(self, act: Callable[[], Result]) -> Result:
        """Call `act` on the stream on which graphs are recorded."""
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            result = act()
        current.wait_stream(self._stream)
        return result

    def record(self, act: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
        """Record a graph. The monitor's threads may use the GPU meanwhile."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            result = act()
        return result, graph.replay

    def forget(self) -> None:
        """Begin another pool: one that no graph uses any more cannot be taken again."""
        gc.collect()
        self._pool = torch.cuda.graph_pool_handle()


@dataclass(frozen=True)
class _Recorded:
    """A kind of step: where its inputs go, its result, and what makes it anew."""

    inputs: tuple[Tensor, ...]
    result: Any
    replay: Callable[[], None]


class Steps:
    """Takes steps, and where there is a recorder, records the second step of each kind and replays it from then on.

    The first step of a kind is called as it is. Whatever is recorded or not, results are the same.

    Args:
        recorder: None to call every step as it is.
        say: takes a line for the user, where something cannot be recorded.
    """

    def __init__(self, recorder: Recorder | None, say: Callable[[str], None] = lambda text: None) -> None:
        self._recorder, self._say = recorder, say
        self._kinds: dict[Hashable, _Recorded | None] = {}
        self._structure: Hashable = None
        if recorder is not None:
            recorder.forget()  # of steps before these, whose graphs may be gone

    @property
    def records(self) -> bool:
        """Whether steps are recorded."""
        return self._recorder is not None

    def __call__(
        self, structure: Hashable, kind: Hashable, act: Callable[..., Result], inputs: tuple[Tensor, ...]
    ) -> Result:
        """Return the result of `act(*inputs)`; tensors in it are overwritten by the next step of its kind.

        Args:
            structure: what all recorded steps depend on; whenever it changes, they are recorded again.
            kind: what besides tells steps apart that take other ways.
            act: the step. It changes its state in place, and its result depends on tensors alone.
            inputs: what differs from step to step, of the same number for a kind.
        """
        if self._recorder is None:
            return act(*inputs)
        if structure != self._structure:
            self.forget()
            self._structure = structure
        key = kind, *((tensor.shape, tensor.dtype, tensor.device) for tensor in inputs)
        if key not in self._kinds:
            self._kinds[key] = None
            return self._recorder.warm_up(lambda: act(*inputs))
        recorded = self._kinds[key]
        if recorded is None:
            try:
                recorded = self._record(act, inputs)
            except RuntimeError as fault:
                return self._without(fault, lambda: act(*inputs))
            self._kinds[key] = recorded
        for place, tensor in zip(recorded.inputs, inputs, strict=True):
            place.copy_(tensor)
        recorded.replay()
        result: Result = recorded.result
        return result

    def forget(self) -> None:
        """Drop what was recorded, and its memory."""
        if self._kinds and self._recorder is not None:
            self._kinds.clear()
            self._recorder.forget()

    def _record(self, act: Callable[..., Result], inputs: tuple[Tensor, ...]) -> _Recorded:
        assert self._recorder is not None
        places = tuple(tensor.clone(memory_format=torch.preserve_format) for tensor in inputs)
        with _recording():
            return _Recorded(places, *self._recorder.record(lambda: act(*places)))

    def _without(self, fault: RuntimeError, act: Callable[[], Result]) -> Result:
        """Take this step and all others as they are, after one that could not be recorded."""
        words = " ".join(str(fault).split())[:200]
        self.forget()
        self._recorder = None
        self._say(f"steps are taken one kernel after the other, which is slower: they cannot be recorded ({words})")
        try:
            return act()
        except RuntimeError as second:
            raise RunError(
                f"steps must go on after one that could not be recorded ({words}), but the next one fails as well: "
                f"{' '.join(str(second).split())[:200]}; resume with runtime.capture=off"
            ) from second


def take(
    steps: Steps,
    guard: Guard,
    structure: Hashable,
    kind: Hashable,
    act: Callable[..., Result],
    inputs: tuple[Tensor, ...],
) -> Result:
    """Return the result of a step that is recorded; the guard reads later what is seen in it."""

    def gathering(*given: Tensor) -> tuple[Result, tuple[str, ...], Tensor]:
        with guard.gathering() as found:
            result = act(*given)
        return result, tuple(name for name, _ in found), torch.stack([value.float() for _, value in found])

    result, names, values = steps(structure, kind, gathering, inputs)
    guard.collect(names, values.clone())
    return result


def recorder_for(device: torch.device, capture: Capture) -> Recorder | None:
    """Return what records the steps of a device; None where steps are called as they are.

    Args:
        device: where they are computed.
        capture: `auto`, or `off`.
    """
    return CudaGraphs(device) if capture == "auto" and device.type == "cuda" else None


_depth = 0


@contextmanager
def _recording() -> Iterator[None]:
    global _depth
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1


def is_recording() -> bool:
    """Return whether a step is being recorded right now: nothing may be read, and no random state be moved."""
    return _depth > 0

"""Numerical faults: a step whose loss or gradient is not finite is found, explained, and never saved.

The values that are checked are computed anyway: the loss, and the gradient norm that clipping needs (a pass over the
gradients where nothing is clipped). On a CPU every value is read before the update that it would spoil. On other
devices reading means waiting for the device: with `stop`, values are collected there and read at the end of an epoch,
before a state is saved, and when there are `READ_EVERY` entries; with `skip` and `rollback` they are read at each step.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from topocell.config.values import OnNan
from topocell.errors import RunError

#: Entries (values, or all those of a recorded step) that are collected on a device at most before they are read.
READ_EVERY = 500

#: At most this share of the batches of an epoch is skipped, and one at least.
MOST = 0.1

#: Weights and logits beyond this have grown through their learning rate.
GROWN = 1e4

Result = TypeVar("Result")


class Stateful(Protocol):
    """A module or an optimizer."""

    def state_dict(self) -> dict[str, Any]:
        """Return its state."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Restore a state."""


@dataclass(frozen=True)
class Group:
    """Parameters that move together: what they are called, and the recipe's key and value of their learning rate."""

    name: str
    parameters: Sequence[Tensor]
    key: str
    rate: float


@dataclass(frozen=True)
class Place:
    """The place of a step in a training.

    Attributes:
        words: such as "stage 'search', epoch 3, step 17".
        groups: what it moves, in the order in which they are suspected.
        batches: per split the numbers of the images in it (B,) and the images (B, C, H, W) of the step.
    """

    words: str
    groups: Sequence[Group]
    batches: Sequence[tuple[str, Tensor, Tensor]]


class NotFinite(Exception):
    """Raised inside a step, before the update that it would spoil: a loss or a gradient norm is not finite."""

    def __init__(self, what: str, value: float) -> None:
        super().__init__(what)
        self.what, self.value = what, value


class Guard:
    """Checks the steps of a training and acts as `on_nan` says.

    A training calls `begin_epoch`, `step` for each batch, `check` before its state is saved, `end_epoch`; its updates
    tell `see` what must be finite. What happens is a function of what is computed: no clock, and no moment at which a
    state was saved, matters.

    Attributes:
        skipped: batches of this epoch that were skipped.

    Args:
        on_nan: see `OnNan`.
        device: of the training.
        parts: what a step changes: modules and optimizers by name.
        place: where a step of the epoch in progress happened; called when there is something to explain.
        say: takes a line for the user.
    """

    def __init__(
        self,
        on_nan: OnNan,
        device: torch.device,
        parts: Callable[[], Mapping[str, Stateful]],
        place: Callable[[int], Place],
        say: Callable[[str], None],
    ) -> None:
        self._on_nan, self._parts, self._place, self._say = on_nan, parts, place, say
        self._reads_at_once = on_nan != "stop" or device.type == "cpu"
        self._collected: list[tuple[int, tuple[str, ...], Tensor]] = []
        self._gathered: list[tuple[str, Tensor]] | None = None
        self._number = 0
        self._start: dict[str, Any] | None = None
        self.skipped = 0

    def begin_epoch(self) -> None:
        """Note the present state as the one that a rollback restores."""
        self._start = self._copied() if self._on_nan == "rollback" else None

    def end_epoch(self) -> None:
        """Forget the epoch; the next one does not depend on it."""
        self.skipped, self._start = 0, None

    def step(self, number: int, steps: int, act: Callable[[], Result]) -> Result | None:
        """Return the result of `act`, step `number` of `steps` of the epoch; None when its batch was skipped.

        Raises:
            RunError: a value is not finite, and `on_nan` is `stop` or too many batches were skipped before.
        """
        self._number = number
        before = self._copied() if self._on_nan == "skip" else self._start
        try:
            result = act()
        except NotFinite as fault:
            explained = _explained(fault.what, fault.value, self._place(number))
            if before is None:
                raise RunError(f"{explained}; {_STOPPED}") from None
            self.skipped += 1
            if self.skipped > max(1, math.floor(MOST * steps)):
                raise RunError(
                    f"at most one batch in ten of an epoch may be skipped, but this is number {self.skipped} of "
                    f"{steps}: {explained}"
                ) from None
            self._restore(before)
            self._say(f"{explained}; on_nan={self._on_nan}: {_DONE[self._on_nan]}")
            return None
        if len(self._collected) >= READ_EVERY:
            self._read_collected()
        return result

    def see(self, what: str, value: Tensor) -> None:
        """`value` (0-dim) must be finite; `what` names it, such as "the loss". Raises NotFinite inside `step`."""
        if self._gathered is not None:
            self._gathered.append((what, value.detach()))
        elif not self._reads_at_once:
            self.collect((what,), value.detach().float().view(1))
        elif not math.isfinite(number := float(value.detach())):
            raise NotFinite(what, number)

    @contextmanager
    def gathering(self) -> Iterator[list[tuple[str, Tensor]]]:
        """List what is seen inside, with its names, in place of checking it: for steps that are recorded."""
        self._gathered = []
        try:
            yield self._gathered
        finally:
            self._gathered = None

    def collect(self, names: tuple[str, ...], values: Tensor) -> None:
        """Let `values` (len(names),) of the step in progress be read later; they are not to be overwritten."""
        self._collected.append((self._number, names, values))

    def check(self) -> None:
        """Check the values that were collected, and the parameters.

        Raises:
            RunError: a value or a parameter is not finite, and nothing may be saved.
        """
        self._read_collected()
        modules = [part for part in self._parts().values() if isinstance(part, nn.Module)]
        finite = [p.detach().isfinite().all() for module in modules for p in module.parameters()]
        if finite and not bool(torch.stack(finite).all()):
            raise RunError(f"{_explained('every parameter', math.nan, self._place(self._number))}; {_STOPPED}")

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the rest of the epoch depends on."""
        return {"skipped": self.skipped, "start": self._start}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken. The state of an epoch that began under another `on_nan` has no start:
        a rollback goes back to now then.
        """
        self.skipped, self._start = state["skipped"], None
        if self._on_nan == "rollback":
            self._start = state["start"] or self._copied()

    def _read_collected(self) -> None:
        collected, self._collected = self._collected, []
        if not collected:
            return
        seen = [(number, what) for number, names, _ in collected for what in names]
        for (number, what), value in zip(seen, torch.cat([values for _, _, values in collected]).tolist(), strict=True):
            if not math.isfinite(value):
                raise RunError(f"{_explained(what, value, self._place(number))}; {_STOPPED}")

    def _copied(self) -> dict[str, Any]:
        return {name: copy.deepcopy(part.state_dict()) for name, part in self._parts().items()}

    def _restore(self, state: Mapping[str, Any]) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
            if isinstance(part, nn.Module):
                part.zero_grad(set_to_none=True)


def total_norm(tensors: Iterable[Tensor | None]) -> Tensor:
    """Euclidean norm (0-dim) of all gradients that there are, as clipping computes it."""
    return nn.utils.get_total_norm([tensor for tensor in tensors if tensor is not None])


_STOPPED = (
    "the state before is saved; to resume from there, with RUN for the run directory: "
    "topocell run RUN/recipe.yaml on_nan=skip --out RUN, or on_nan=rollback"
)

_DONE = {
    "skip": "the batch is skipped",
    "rollback": "back to the start of the epoch, which resumes behind the batch",
}


def _explained(what: str, value: float, place: Place) -> str:
    """One line: what is not finite, where, and the likely cause with its remedy."""
    cause, remedy = _cause(place)
    return f"{what} must stay finite, but is {value:g} in {place.words}: {cause}; {remedy}"


def _cause(place: Place) -> tuple[str, str]:
    for split, numbers, images in place.batches:
        broken = numbers[~images.flatten(1).isfinite().all(1)].tolist()
        if broken:
            names = ", ".join(map(str, broken[:5])) + (f" and {len(broken) - 5} more" if len(broken) > 5 else "")
            return f"image {names} of the split {split!r} is not finite", "mend it, or leave it out"
    for group in place.groups:
        largest = [p.detach().abs().max() for p in group.parameters if p.numel()]
        size = float(torch.stack(largest).max()) if largest else 0.0
        if not size <= GROWN:
            return f"{group.name} have grown to {size:.2g} at a learning rate of {group.rate:g}", f"lower {group.key}"
    keys = " or ".join(group.key for group in place.groups)
    return "images, weights and logits before it are finite", f"lower {keys}"

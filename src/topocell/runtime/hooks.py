"""The interface by which long work reports and is told to stop; search and retraining know nothing else of it."""

import copy
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor

#: Reads what a step has come to: `loss` and `accuracy` (a fraction) so far, `trained_images`, or what else is measured.
Figures = Callable[[], Mapping[str, float]]


class Interrupted(Exception):
    """Raised after a checkpoint when the user or the system asked to stop."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.signal_number = signal_number


class Trained(NamedTuple):
    """A trained network, and what it says of the test images.

    Args:
        number: of its seed among those of the retraining, from 0.
        seed: of its training.
        weights: name → tensor, on the CPU, without auxiliary head.
        labels: (N,) int64, the class that it predicts for each test image.
        probabilities: (N,) float32, of that class.
    """

    number: int
    seed: int
    weights: "dict[str, Tensor]"
    labels: "Tensor"
    probabilities: "Tensor"


class Monitor(Protocol):
    """The surroundings of long work."""

    def step(self, phase: str, done: int, total: int, figures: Figures) -> None:
        """`done` of `total` steps are behind us; `figures` may be called every now and then."""

    def metrics(self, record: Mapping[str, Any]) -> None:
        """One line for metrics.jsonl."""

    def checkpoint(self, state: Callable[[], dict[str, Any]], due: bool = False) -> None:
        """A state may be saved here, and is when `due`; raises `Interrupted` after saving if told to stop."""

    def say(self, text: str) -> None:
        """One line for the user and the log."""

    def trained(self, network: Trained) -> None:
        """A network is trained; after a resumption at this very place it may come once more, the same."""

    def loading(self) -> AbstractContextManager[None]:
        """Around the loading of a saved state, which may be one of something else."""


class Silent:
    """A monitor that ignores everything: for library use and tests."""

    def step(self, phase: str, done: int, total: int, figures: Figures) -> None:
        """Ignored."""

    def metrics(self, record: Mapping[str, Any]) -> None:
        """Ignored."""

    def checkpoint(self, state: Callable[[], dict[str, Any]], due: bool = False) -> None:
        """Ignored."""

    def say(self, text: str) -> None:
        """Ignored."""

    def trained(self, network: Trained) -> None:
        """Ignored."""

    def loading(self) -> AbstractContextManager[None]:
        """Faults are let through."""
        return nullcontext()


class Keeping(Silent):
    """A monitor that keeps everything in memory: for tests and short studies.

    Attributes:
        states: a copy of every state that could be saved.
        records: the lines of metrics.jsonl.
        networks: those that were trained.
    """

    def __init__(self) -> None:
        self.states: list[dict[str, Any]] = []
        self.records: list[Mapping[str, Any]] = []
        self.networks: list[Trained] = []

    def trained(self, network: Trained) -> None:
        """Keep the network."""
        self.networks.append(network)

    def metrics(self, record: Mapping[str, Any]) -> None:
        """Keep the record."""
        self.records.append(record)

    def checkpoint(self, state: Callable[[], dict[str, Any]], due: bool = False) -> None:
        """Keep a copy of the state."""
        self.states.append(copy.deepcopy(state()))


@contextmanager
def on_signals(act: Callable[[int], None]) -> Iterator[None]:
    """Call `act` with the number of each SIGINT and SIGTERM inside. Only the main thread can listen."""
    try:
        before = {
            number: signal.signal(number, lambda number, frame: act(number))
            for number in (signal.SIGINT, signal.SIGTERM)
        }
    except ValueError:
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

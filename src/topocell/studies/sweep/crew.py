"""Those who carry out the jobs of a sweep: processes of this machine."""

import os
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from typing import Any, Protocol

from topocell.errors import RunError
from topocell.runtime.workers import Ended, Task, Worker, forking
from topocell.studies.sweep.jobs import Job, attempt


@dataclass(frozen=True)
class Answer:
    """What came of a job: what `attempt` returns, or how the worker or node that was at it ended."""

    key: str
    result: Mapping[str, Any] = field(default_factory=dict)
    death: str = ""


class Crew(Protocol):
    """Workers that take jobs and answer."""

    #: In words, for the report.
    about: str

    def room(self) -> int:
        """How many more jobs may begin now."""

    def begin(self, job: Job) -> None:
        """Give a job to a worker. It is called only where there is room."""

    def wait(self, seconds: float) -> list[Answer]:
        """The answers since the last call; waits for one, no longer than that."""

    def close(self) -> None:
        """Tell all to save and end, and wait until they have."""


class Processes:
    """Processes of this machine; one that has ended is replaced by another.

    Args:
        workers: how many.
        gpus: that each sees, `None` for one each in turn where the machine has some. Below 1, several share one.
    """

    def __init__(self, workers: int, gpus: float | None = None) -> None:
        self.about = f"{workers} process{'es' * (workers != 1)}"
        self._free = deque(_surroundings(workers, gpus))
        self._context: Any = None
        self._idle: list[tuple[Worker, Mapping[str, str]]] = []
        self._busy: dict[Any, tuple[Worker, Mapping[str, str]]] = {}

    def room(self) -> int:
        return len(self._free) + len(self._idle)

    def begin(self, job: Job) -> None:
        if not self._idle:
            self._context = self._context or forking()
            environment = self._free.popleft()
            self._idle.append((Worker(self._context, environment), environment))
        worker, environment = self._idle.pop()
        self._busy[worker.pipe] = worker, environment
        worker.begin(Task(job.key, attempt, (job,)), lambda _: None)

    def wait(self, seconds: float) -> list[Answer]:
        answers = []
        for pipe in connection.wait(list(self._busy), seconds):
            worker, environment = self._busy.pop(pipe)
            assert worker.task is not None
            key = worker.task.key
            try:
                made = worker.answer()
            except Ended as end:
                self._free.append(environment)
                worker.pipe.close()
                answers.append(Answer(key, death=f"its worker was ended by {end}"))
                continue
            self._idle.append((worker, environment))
            if made.fault is not None:
                raise made.fault
            answers.append(Answer(key, made.record))
        return answers

    def close(self) -> None:
        crew = [worker for worker, _ in [*self._idle, *self._busy.values()]]
        for worker in crew:
            worker.stop()
        for worker in crew:
            worker.join()


def shared_gpus(workers: int) -> float:
    """GPUs of each run where so many workers share those of this machine."""
    import torch

    count = torch.cuda.device_count()
    return 0.0 if not count else 1.0 if workers <= count else 1.0 / -(-workers // count)


def _surroundings(workers: int, gpus: float | None) -> Sequence[Mapping[str, str]]:
    """The variables of the environment of each worker: the GPUs that it sees.

    Raises:
        RunError: the machine has fewer GPUs than asked for.
    """
    import torch

    found = _visible(torch.cuda.device_count())
    if gpus is None:
        if not found:
            return [{}] * workers
        return [{"CUDA_VISIBLE_DEVICES": found[number % len(found)]} for number in range(workers)]
    if gpus == 0:
        return [{"CUDA_VISIBLE_DEVICES": ""}] * workers
    if workers * gpus > len(found):
        raise RunError(
            f"--workers {workers} with --gpus {gpus:g} each need {workers * gpus:g} GPUs, but this machine has "
            f"{len(found)}; take fewer workers, or a fraction such as --gpus 0.5"
        )
    each = max(1, int(gpus))
    places = [int(number * gpus) for number in range(workers)]
    return [{"CUDA_VISIBLE_DEVICES": ",".join(found[place : place + each])} for place in places]


def _visible(count: int) -> list[str]:
    """The names of the GPUs that this process sees."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(number) for number in range(count)]

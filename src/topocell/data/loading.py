"""Processes that read images: a `DataLoader` of torch whose workers outlive signals, and end with us."""

import multiprocessing
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader

from topocell.errors import RunError
from topocell.runtime.workers import forking, stand_alone, usable_cores

#: Processes of one stream of batches, unless a recipe says how many.
MOST_WORKERS = 8


def image_loader(reader: Any, requests: Iterable[Any], workers: int, pin_memory: bool) -> DataLoader:
    """Return a loader whose workers make what is requested, in order, two requests ahead for each of them.

    They stay from one pass over the requests to the next.

    Args:
        reader: with a method `__getitems__(request)`, of a class of a module.
        requests: a batch sampler; each pass begins with `iter`.
        workers: at least 1.
        pin_memory: whether tensors come in pinned memory.
    """
    warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)  # the number is the user's choice
    return DataLoader(
        reader,
        batch_sampler=requests,
        num_workers=workers,
        collate_fn=_unchanged,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        multiprocessing_context=forking("torchvision.transforms.v2", script=False),
        generator=torch.Generator(),  # which would else be that of the training
        persistent_workers=True,
    )


def made_of(reader: Any, requests: Sequence[Any], workers: int) -> Iterator[Any]:
    """Yield what is requested, once, made by workers, or by this process where there are none or it is one itself.

    Raises:
        RunError: a worker was ended.
    """
    workers = min(workers, len(requests))
    if not workers or multiprocessing.current_process().daemon:
        yield from map(reader.__getitems__, requests)
        return
    made = iter(image_loader(reader, requests, workers, pin_memory=False))
    for _ in requests:
        with ended_workers():
            found = next(made)
        yield found


@contextmanager
def ended_workers(close: Callable[[], object] = int) -> Iterator[None]:
    """Turn what torch says of a worker that has ended into a RunError; `close` is called before, if given."""
    try:
        yield
    except (RuntimeError, ConnectionError, FileNotFoundError, EOFError) as fault:
        if isinstance(fault, RuntimeError) and "DataLoader worker" not in str(fault):
            raise
        close()
        raise RunError(
            "a worker that reads images must live, but one was ended from outside; the same command resumes, with "
            "fewer data.workers if memory, or the shared memory of a container (--shm-size), was short"
        ) from fault


def _unchanged(made: Any) -> Any:
    return made


def _start_worker(_: int) -> None:
    """Let a worker end with the process that started it, and by nothing else that is meant for that one."""
    stand_alone([signal.SIGTERM])


def usual_workers() -> int:
    """Return one process for each processor that this one may use, at most `MOST_WORKERS`."""
    return min(usable_cores(), MOST_WORKERS)

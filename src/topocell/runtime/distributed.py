"""Several processes that train one network, on `torch.distributed`; started by torchrun, one for each GPU.

Every process holds the network, the architecture and their optimizers, and takes its share of the images of each batch;
gradients are averaged before anything moves, so that all of them stay the same. Where there is one process, all of this
does nothing.
"""

import hashlib
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from topocell.errors import ElsewhereError, RunError, TopocellError

Made = TypeVar("Made")

#: Bytes of gradients that travel together.
BUCKET = 25 * 2**20

#: Seconds that a process waits for the faults of the others.
_PATIENCE = 5.0

_store: list[dist.Store] = []

#: Calls of this process so far that were one of several, as many in each.
_calls = itertools.count()


def rank() -> int:
    """The number of this process, 0-based; 0 where it is alone."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world() -> int:
    """How many processes train together; 1 where this one is alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def asked_for() -> bool:
    """Return whether torchrun, or a cluster with its variables, has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ and "MASTER_ADDR" in os.environ


@contextmanager
def joined() -> Iterator[None]:
    """Be one of the processes that the environment names (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT).

    On GPUs each process takes the one of its LOCAL_RANK, inside. Gradients travel by NCCL on GPUs and by Gloo on CPUs,
    what is agreed on by Gloo. Without these variables nothing happens.

    Raises:
        RunError: the others cannot be reached; inside, that another one has ended.
    """
    if not asked_for():
        yield
        return
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    backend = "cpu:gloo,cuda:nccl" if gpus else "gloo"
    try:
        met, number, count = _meet(*map(os.environ.get, ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE")))
        store = dist.PrefixStore(f"topocell {next(_calls)}", met)  # what one call leaves there is not for the next
        dist.init_process_group(backend, store=store, rank=number, world_size=count)
    except (RuntimeError, ValueError) as fault:
        place = f"{os.environ['MASTER_ADDR']}:{os.environ.get('MASTER_PORT', '')}"
        raise RunError(
            f"the processes of a run find each other at MASTER_ADDR:MASTER_PORT, but nothing answers as needed at "
            f"{place} ({next(iter(str(fault).splitlines()), '')}); start them with torchrun"
        ) from fault
    _store[:] = [store]
    try:
        with torch.cuda.device(int(os.environ.get("LOCAL_RANK", "0")) % gpus) if gpus else nullcontext():
            yield
    finally:
        _store.clear()
        dist.destroy_process_group()


@cache
def _meet(*named: str | None) -> tuple[dist.Store, int, int]:
    """The store of the processes that the environment names so, for all calls, and the number and count of this one."""
    met: tuple[dist.Store, int, int] = next(dist.rendezvous("env://", timeout=timedelta(minutes=5)))
    return met


def check_company() -> None:
    """Raise RunError where this process is one of several that a script of one's own has made a group of."""
    if world() > 1 and not _store:
        raise RunError(
            f"the processes of a run join each other and leave again by themselves, but there is a process group of "
            f"{world()} already; leave init_process_group out, or call destroy_process_group() before"
        )


def reported(text: str) -> bool:
    """Return whether this process is the one to print a fault: the first, or one whose fault the first has not.

    The first one, which has the store, waits a little for the others to read what it prints.
    """
    if not _store:
        return True
    mine = rank()
    with suppress(RuntimeError):  # another one has ended
        if mine == 0:
            _store[0].set("fault 0", text)
            _appear([f"heard {other}" for other in range(1, world())])
        elif _appear(["fault 0"]):
            first = _store[0].get("fault 0").decode()
            _store[0].set(f"heard {mine}", "")
            return first != text
    return True


def _appear(keys: list[str]) -> bool:
    """Whether keys are set within a few seconds; asked for again and again, as a wait that fails prints a warning."""
    end = time.monotonic() + _PATIENCE
    while not (there := _store[0].check(keys)) and time.monotonic() < end:
        time.sleep(0.02)
    return there


@contextmanager
def reaching() -> Iterator[None]:
    """Say in one line that another process has ended, where a collective operation inside finds out."""
    try:
        yield
    except RuntimeError as fault:
        raise RunError(
            "all processes of a run go on together, but another one has ended; what is in the run directory is kept, "
            "the same command resumes from the last checkpoint"
        ) from fault


def together(make: Callable[[], Made]) -> Made:
    """Return what `make` gives, in every process, or raise in every process: its fault where it failed.

    Raises:
        ElsewhereError: it failed in another process, which is to report it.
    """
    if world() == 1:
        return make()
    fault: TopocellError | None = None
    try:
        made = make()
    except TopocellError as raised:
        fault = raised
    failed = gathered(None if fault is None else str(fault))
    if fault is not None:
        if failed.index(str(fault)) < rank():  # the first one with this fault reports it
            raise ElsewhereError(str(fault)) from fault
        raise fault
    if any(text is not None for text in failed):
        raise ElsewhereError("another process failed")
    return made


def agreed(asked: int) -> int:
    """Return the largest of what the processes ask for, so that all do the same."""
    if world() == 1:
        return asked
    found = torch.tensor(asked)
    with reaching():
        dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


def same(what: str, value: Any) -> None:
    """Check that all processes have an equal `value`, which `what` names.

    Raises:
        RunError: they have not, in every process.
    """
    if world() == 1:
        return
    values = gathered(value)
    other = next((number for number, found in enumerate(values) if found != values[0]), None)
    if other is not None:
        first, second = apart(str(values[0]), str(values[other]))
        raise RunError(
            f"all processes of a run need the same {what}, but process 0 has {first} and process {other} {second}; "
            f"give all of them the same"
        )


def same_tensors(what: str, tensors: Mapping[str, Tensor]) -> None:
    """Check, by a hash, that all processes have the same bits in what are named tensors. Raises as `same`."""
    if world() == 1:
        return
    digest = hashlib.sha256()
    for name in sorted(tensors):
        values = tensors[name].detach().cpu()
        digest.update(f"{name} {tuple(values.shape)} {values.dtype}".encode())
        digest.update(values.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    same(f"{what} (as a fingerprint)", digest.hexdigest()[:16])


def apart(one: str, other: str, most: int = 60) -> tuple[str, str]:
    """Return the first lines of two texts that differ, each with at most so many characters from where they do."""
    pairs = itertools.zip_longest(one.splitlines(), other.splitlines(), fillvalue="nothing")
    lines = next((pair for pair in pairs if pair[0] != pair[1]), (one, other))
    alike = next((i for i, (a, b) in enumerate(zip(*lines)) if a != b), min(map(len, lines)))
    start = max(alike - most // 2, 0) if max(map(len, lines)) > most else 0
    first, second = (" ".join(line[start:].split()) for line in lines)
    before = "..." if start else ""
    return f"{before}{_short(first, most)}", f"{before}{_short(second, most)}"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def share(batch: Tensor) -> Tensor:
    """Return this process's images of a batch (B, ...): every `world`-th, from its own number on."""
    return batch[rank() :: world()] if world() > 1 else batch


def average(gradients: Iterable[Tensor | None]) -> None:
    """Replace each gradient by its mean over the processes; in buckets, the next of which is packed meanwhile."""
    found = [gradient for gradient in gradients if gradient is not None] if world() > 1 else []
    pending: list[tuple[Any, Tensor, list[Tensor]]] = []
    with reaching():
        for bucket in _buckets(found):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            pending.append((dist.all_reduce(flat, async_op=True), flat, bucket))
        for work, flat, bucket in pending:
            work.wait()
            flat /= world()
            for gradient, part in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(part.view_as(gradient))


def _buckets(gradients: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Gradients of one type each, of about `BUCKET` bytes."""
    bucket: list[Tensor] = []
    size = 0
    for gradient in gradients:
        more = gradient.numel() * gradient.element_size()
        if bucket and (size + more > BUCKET or gradient.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(gradient)
        size += more
    if bucket:
        yield bucket


def total(*sums: Tensor) -> tuple[Tensor, ...]:
    """Return the sums (0-dim) over all processes."""
    if world() == 1:
        return sums
    flat = torch.stack([value.detach().double().cpu() for value in sums])
    with reaching():
        dist.all_reduce(flat)
    return tuple(part.to(value.dtype) for part, value in zip(flat.unbind(), sums, strict=True))


def follow_first(net: nn.Module) -> None:
    """Take over the buffers of the first process, such as running statistics, which each keeps of its own images."""
    if world() == 1:
        return
    with reaching():
        for buffer in net.buffers():
            dist.broadcast(buffer, 0)


def gathered(value: Any) -> list[Any]:
    """Return the values of all processes, by their numbers."""
    found: list[Any] = [None] * world()
    with reaching():
        dist.all_gather_object(found, value)
    return found

"""Jobs meet workers: what a worker has left goes to another one, and a job that fails lets the others go on."""

from collections import Counter, deque
from collections.abc import Callable, Collection, Mapping
from typing import Any

from topocell.errors import RunError, one_line
from topocell.runtime.hooks import Interrupted
from topocell.runtime.workers import POLL_SECONDS, stop_requests
from topocell.studies.sweep.board import Board
from topocell.studies.sweep.crew import Answer, Crew
from topocell.studies.sweep.jobs import Job

#: How often a job is begun at most whose workers end.
TRIES = 3

Due = Callable[[Mapping[str, Any], Collection[str]], list[Job]]


def carry_out(
    due: Due, crew: Crew, board: Board, records: Mapping[str, Any], keep: Callable[[str, Mapping[str, Any], float], Any]
) -> dict[str, str]:
    """Carry out all jobs that are due and not kept yet, and those that become so.

    A job whose worker or node ends is begun again, from its checkpoint, `TRIES` times in all.

    Args:
        due: the jobs that may begin by what is finished and what has failed, see `Course.due`.
        crew: does them.
        board: shows them.
        records: the finished ones by name; `keep` adds one.
        keep: keeps the record of a job and the seconds it took.

    Returns the jobs that have failed, and why.

    Raises:
        Interrupted: SIGINT or SIGTERM, after every worker has saved what it was at.
        RunError: the disk is full.
    """
    failed: dict[str, str] = {}
    tries: Counter[str] = Counter()
    begun: dict[str, Job] = {}
    waiting: deque[Job] = deque()
    with stop_requests() as stops:
        try:
            while True:
                known = {job.key for job in waiting} | begun.keys() | records.keys() | failed.keys()
                waiting += [job for job in due(records, failed.keys()) if job.key not in known]
                while waiting and crew.room() > 0:
                    job = waiting.popleft()
                    tries[job.key] += 1
                    begun[job.key] = job
                    board.begun(job)
                    crew.begin(job)
                if not begun and not waiting:
                    return failed
                for answer in crew.wait(POLL_SECONDS):
                    job = begun.pop(answer.key)
                    if answer.death and tries[job.key] < TRIES:
                        waiting.appendleft(job)
                        board.again(job, answer.death, tries[job.key] + 1, TRIES)
                    elif reason := _reason(answer):
                        failed[job.key] = reason
                        board.failed(job, reason)
                    else:
                        keep(job.key, answer.result["record"], answer.result["seconds"])
                        board.done(job, answer.result["record"], answer.result["seconds"])
                board.tick()
                if stops:
                    raise Interrupted(stops[0])
        finally:
            crew.close()
            board.close()


def _reason(answer: Answer) -> str:
    """Why a job has failed; nothing where it is finished. Raises RunError for a full disk."""
    if answer.death:
        return f"{answer.death}, {TRIES} times; with fewer workers if memory was short"
    fault = str(answer.result.get("fault", ""))
    if fault and answer.result.get("full"):
        raise RunError(f"{answer.key}: {fault}; finished runs are kept")
    return one_line(fault)

"""A sweep from its plan to its report."""

from collections.abc import Sequence
from pathlib import Path

from topocell.errors import RunError
from topocell.io import files
from topocell.reporting.sweep_report import write_sweep_report
from topocell.reporting.terminal import Display, Quiet
from topocell.runtime.as_found import as_found
from topocell.runtime.workers import usable_cores
from topocell.studies._items import Bench, csv_text
from topocell.studies._training import begin
from topocell.studies.sweep.board import Board
from topocell.studies.sweep.comparison import outcome_of, run_rows
from topocell.studies.sweep.crew import Crew, Processes, shared_gpus
from topocell.studies.sweep.plan import read_plan
from topocell.studies.sweep.protocols import Course
from topocell.studies.sweep.ray_crew import RayCrew
from topocell.studies.sweep.schedule import carry_out

#: Failed runs that an error names.
NAMED = 3


@as_found()
def sweep(
    words: Sequence[str],
    out: str | Path,
    display: Display | None = None,
    *,
    budget: str | None = None,
    workers: int | None = None,
    threads: int = 1,
    gpus: float | None = None,
    ray: bool = False,
    address: str | None = None,
) -> Path:
    """Carry out a sweep, or what is left of it, in the directory `out`, and compare its rows.

    Args:
        words: PLAN.yaml first, if there is one, and `key=value`, see `SweepPlan`.
        out: directory; continued if it was begun.
        display: shows the work; nothing is shown without one.
        budget: the same as `budget=` among the words.
        workers: runs at a time; default as many as the CPUs have room for.
        threads: that each run computes with. Results depend on it in the last digits, so it is 1 unless set.
        gpus: of each run; default: the GPUs of this machine in turn, none of a cluster at an address.
        ray: whether the workers are those of a Ray of this machine.
        address: of a Ray cluster whose workers they are.

    Returns `out`.

    Raises:
        RecipeError: the plan cannot be. Otherwise what a recipe asks for cannot be, as `topocell.run`.
        RunError: `out` belongs to another sweep; Ray is absent, or nothing answers; or some runs have failed, after
            the others were finished and compared.
        Interrupted: SIGINT or SIGTERM, after the states were saved.
    """
    plan, show = read_plan(words, budget), display or Quiet()
    if ray and address is not None:
        raise RunError(
            f"--ray starts a Ray of this machine, --address {address} joins a cluster; leave one of them out"
        )
    arms = plan.grid()
    plan.base_of(arms[0], arms)
    asked = plan.model_dump(mode="json", exclude={"baseline"})  # what runs are compared with changes none of them
    with Bench(
        plan.protocol, "A comparison of searches", asked, out, show, growing=plan.growing, kind="sweep"
    ) as bench:
        course = Course(plan, arms, bench.run_path, threads)
        crew = _crew(show, workers, threads, gpus, ray, address)
        try:
            begin(bench, course.total, {arm.label: arm.any for arm in arms}, plan.seeds)
            (bench.path / "runs").mkdir(exist_ok=True)
            board = Board(course, bench.records, show)
        except BaseException:
            crew.close()
            raise
        failed = carry_out(course.due, crew, board, bench.records, bench.keep)
        outcome = outcome_of(course, bench.records, failed, crew.about)
        bench.finish(outcome)
        with files.guarded(bench.path, "--out"):
            files.replace(bench.path / "runs.csv", csv_text(run_rows(outcome)).encode())
        show.say(f"report: {write_sweep_report(bench.path)}")
    if failed:
        said = "; ".join(f"{key} ({reason})" for key, reason in list(failed.items())[:NAMED])
        more = f" and {len(failed) - NAMED} more" * (len(failed) > NAMED)
        raise RunError(
            f"{len(failed)} of {course.total} jobs failed: {said}{more}; the others are finished and compared, the "
            f"same command tries again what failed"
        )
    return Path(out)


def _crew(show: Display, workers: int | None, threads: int, gpus: float | None, ray: bool, address: str | None) -> Crew:
    """The workers. Raises RunError."""
    cores = usable_cores()
    if address is not None:
        return RayCrew(address, workers, threads, gpus or 0.0)
    here = workers or max(1, cores // threads)
    if here * threads > cores:
        show.say(f"warning: {here} workers with {threads} threads each share {cores} CPUs, and slow each other down")
    if not ray:
        return Processes(here, gpus)
    return RayCrew(None, here, threads, shared_gpus(here) if gpus is None else gpus)

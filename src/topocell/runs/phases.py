"""Phases of a run, and the checkpoints that say which one a run is in."""

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from topocell.errors import CheckpointError, RunError, typed
from topocell.runs.directory import RunDir


class Phase(StrEnum):
    """Phases of a run, in order.

    `tune` and `trial` are parts of `select`: records of the tuning between decisions, and of trials, bear their names.
    """

    SEARCH = "search"
    SELECT = "select"
    TUNE = "tune"
    TRIAL = "trial"
    RETRAIN = "retrain"
    DONE = "done"


#: Those that a checkpoint may be in.
_SAVED = (Phase.SEARCH, Phase.SELECT, Phase.RETRAIN, Phase.DONE)


def save_phase(
    directory: RunDir, phase: Phase, state: Mapping[str, Any] | None = None, seconds: Mapping[str, float] | None = None
) -> None:
    """Save a checkpoint: the run is in `phase`, at its start or at `state`; `seconds` is what each phase has taken.

    Raises:
        CheckpointError: it cannot be written.
    """
    directory.save_checkpoint({"phase": phase.value, "state": state, "seconds": dict(seconds or {})})


def read_phase(directory: RunDir) -> tuple[Phase, Mapping[str, Any] | None, dict[str, float]]:
    """Return phase, state and seconds of the newest checkpoint; those of a run that begins where there is none.

    Raises:
        CheckpointError: the checkpoint is damaged, or of something else.
    """
    saved = directory.latest()
    if saved is None:
        return Phase.SEARCH, None, {}
    phase, state, seconds = (saved.get(key) for key in ("phase", "state", "seconds"))
    if (
        saved.keys() != {"phase", "state", "seconds"}
        or phase not in list(_SAVED)
        or not isinstance(state, dict | None)
        or not isinstance(seconds, dict)
        or not all(isinstance(of, str) and isinstance(s, float) and 0 <= s < math.inf for of, s in seconds.items())
    ):
        raise CheckpointError(
            f"a checkpoint of a run names its phase, the state in it and its seconds, but {directory.newest} is of "
            f"something else; restore it from a copy or delete it"
        )
    return Phase(phase), state, seconds


def must_have_cell(directory: RunDir, phase: Phase) -> None:
    """Raise RunError unless a cell has been derived."""
    if phase in (Phase.SEARCH, Phase.SELECT) or not directory.genotype_path.exists():
        raise RunError(
            f"retraining needs a derived cell, but {directory.path} has none yet; "
            f"continue with: topocell select {typed(directory.path)}"
        )

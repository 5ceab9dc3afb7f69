"""Estimates of a run: time and memory of each of its parts, from probes of a few steps before anything starts.

A probe is the search or the retraining itself, on the first images of its splits, with a stopwatch for a monitor.
Memory is measured at small batches and extended to the batch of the plan, since what is kept for the backward pass
grows in proportion to it: a plan that would not fit is never tried.

What cannot be known before a search is guessed: which candidates a stage hands to the next (drawn at random), and the
operations of the cell that is retrained (every candidate about equally often). Stages that drop candidates on the way
are timed as they begin: their time is an upper bound.
"""

from topocell.runs.estimate.memory import (
    Knob,
    Memory,
    free_memory,
    gigabytes,
    out_of_memory,
    room_of_images,
    smaller,
)
from topocell.runs.estimate.parts import (
    Estimate,
    Part,
    estimate_retraining,
    estimate_search,
    retrain_knobs,
    stage_knobs,
)
from topocell.runs.estimate.quick import LONG, quick_estimate

__all__ = [
    "LONG",
    "Estimate",
    "Knob",
    "Memory",
    "Part",
    "estimate_retraining",
    "estimate_search",
    "free_memory",
    "gigabytes",
    "out_of_memory",
    "quick_estimate",
    "retrain_knobs",
    "room_of_images",
    "smaller",
    "stage_knobs",
]

"""What a long run takes is said before it starts, and on a terminal its user is asked."""

import sys
from pathlib import Path
from typing import Any, Protocol

import typer

from topocell.reporting.tables import format_seconds
from topocell.reporting.terminal import Display
from topocell.runs.estimate import LONG, Estimate, quick_estimate
from topocell.runs.setup import Setup


class Before(Protocol):
    """What is done before a long run starts: a function, which may have the method `measuring` as well."""

    def measuring(self, part: str) -> None:
        """A part is about to be measured."""

    def __call__(self, found: Estimate) -> None:
        """A long run is about to start; whatever this raises stops it, and nothing is written then."""


def announce(before: Before | None, setup: Setup, out: str | Path | None, **options: Any) -> None:
    """Measure a run, and call `before` if it takes long; not where `out` has a checkpoint to resume from.

    Options are those of `quick_estimate`.
    """
    if before is None or (out is not None and any((Path(out) / "checkpoints").glob("*.ckpt"))):
        return
    begin = getattr(before, "measuring", lambda part: None)
    found = quick_estimate(setup, begin=begin, **options)
    if found is not None and found.seconds > LONG:
        before(found)


class Asking:
    """Says how long a run takes and what would be shorter, and asks whether to start it.

    Args:
        display: shows it.
        shorter: ways to a shorter run, in words, if there are some.
        yes: whether it starts in any case; off a terminal it does.
    """

    def __init__(self, display: Display, shorter: str, yes: bool = False) -> None:
        self._display, self._shorter, self._yes = display, shorter, yes

    def measuring(self, part: str) -> None:
        """Show which part is measured."""
        self._display.status(f"how long will this take? measuring {part}")

    def __call__(self, found: Estimate) -> None:
        """Say it and ask. Raises typer.Exit where the answer is not yes."""
        parts = ", ".join(f"{part.name} {format_seconds(part.seconds)}" for part in found.parts if part.steps)
        self._display.say(f"this will take about {format_seconds(found.seconds)} on {found.device}: {parts}")
        if self._shorter:
            self._display.say(f"shorter: {self._shorter}")
        if self._yes or not (sys.stdin.isatty() and sys.stdout.isatty()):
            return
        try:
            answer = input("start it? [y/N] ")
        except EOFError:
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            self._display.say("nothing was started, nothing was written")
            raise typer.Exit

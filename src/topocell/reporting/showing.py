"""The display of a piece of work, by what its user asks for."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from topocell.errors import RecipeError, TopocellError, nearest
from topocell.reporting.events import Events, Headline
from topocell.reporting.terminal import Display, Quiet, Terminal

#: What can be asked for by name: a live view on a terminal and lines elsewhere; lines in any case; events as JSON; the
#: accuracy at the end; nothing.
NAMES = ("live", "lines", "json", "quiet", "none")


@contextmanager
def shown(asked: Display | str | None) -> Iterator[Display]:
    """Make the display that is asked for, and leave the terminal in order at the end.

    Of several processes (torchrun) the first one alone shows something.

    Args:
        asked: one of `NAMES`; a display, which need not have all methods; None for `live` on a terminal, else `none`.

    Raises RecipeError for another name.
    """
    if os.environ.get("RANK", "0") != "0":
        asked = "none"
    if asked is None:
        asked = "live" if sys.stdout is not None and sys.stdout.isatty() else "none"
    if not isinstance(asked, str):
        yield _whole(asked)
    elif asked in ("live", "lines"):
        console = Console(soft_wrap=True, highlight=False, force_terminal=False if asked == "lines" else None)
        with Terminal(console) as terminal:
            yield terminal
    elif asked == "json":
        events = Events()
        try:
            yield events
        except TopocellError as fault:
            events.event("error", text=str(fault))
            raise
    elif asked == "quiet":
        headline = Headline()
        yield headline
        headline.close()
    elif asked == "none":
        yield Quiet()
    else:
        raise RecipeError(f"a display is one of {', '.join(NAMES)}, but got {asked!r}{nearest(asked, NAMES)}; use one")


def _whole(display: Display) -> Display:
    """A display of a user's own with all methods; those that it lacks show nothing."""
    whole = Quiet()
    methods = [name for name in vars(Quiet) if name[0] != "_"]
    own = {name: method for name in methods if callable(method := getattr(display, name, None))}
    vars(whole).update(own)
    return display if len(own) == len(methods) else whole


def display_of(display: Display | str | None) -> Display:
    """Return a display that `shown` has made; `Quiet` for what was asked for by name, which is shown elsewhere."""
    return Quiet() if display is None or isinstance(display, str) else display

"""Errors that a user can cause. Each message states the rule, the value, and the next step.

The command line prints the message of a `TopocellError` on one line and exits with code 2; anything else that
escapes is a bug of ours and keeps its traceback.
"""

import difflib
import os
import shlex
from collections.abc import Iterable


def one_line(text: str) -> str:
    """Text from anywhere on one line that no terminal acts on: breaks become blanks, what cannot be seen escapes."""
    line = " ".join(text.splitlines())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


class TopocellError(Exception):
    """Base of every error that a user's input can cause; its message is one line, whatever it quotes."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class RecipeError(TopocellError):
    """A recipe, an override, or a combination of choices that has no meaning."""


class SpaceError(TopocellError):
    """A cell or search space that cannot exist."""


class GenotypeError(TopocellError):
    """A genotype that names no network."""


class DataError(TopocellError):
    """A dataset that is missing, unreadable, or unfit for the task."""


class CheckpointError(TopocellError):
    """A checkpoint that is damaged, foreign, or belongs to another run."""


class RunError(TopocellError):
    """A run directory that cannot be used as asked."""


class ElsewhereError(TopocellError):
    """A fault that another process of the same run reports; this one ends without a word."""


def nearest(word: object, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the known name closest to `word`, or an empty string when none is close."""
    found = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f" (did you mean {found[0]!r}?)" if found else ""


def check_known(kind: str, name: object, known: Iterable[str], error: type[TopocellError]) -> None:
    """Raise `error` where a name is not among the known ones of its kind."""
    if not isinstance(name, str) or name not in known:
        raise error(f"unknown {kind} {name!r:.100}{nearest(name, known)}; known: {', '.join(known)}")


def typed(path: object) -> str:
    """A path as it is typed in a command, in quotes where a shell needs them."""
    return shlex.quote(str(path))


def resuming(run: str | os.PathLike[str], *changes: str) -> str:
    """The command that resumes a run, by its directory."""
    recipe = os.path.join(run, "recipe.yaml")
    return " ".join(("topocell run", typed(recipe), *changes, "--out", typed(run)))

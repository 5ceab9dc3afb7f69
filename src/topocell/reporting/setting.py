"""What a page says of the setting of a run; `topocell.runs.setting` works it out, which knows the published recipes."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

#: The stamp of what a smoke budget gives, and what it means.
SMOKE_STAMP = ("Smoke budget", "This shows that every step works, and says nothing about the method.")


class Setting(NamedTuple):
    """The stamp of a run and what it means, empty for none, and a table of its setting beside the published one."""

    stamp: str = ""
    words: str = ""
    table: Sequence[Sequence[str]] = ()


#: recipe, results → what a page says of them.
SettingOf = Callable[[Mapping[str, Any], Mapping[str, Any]], Setting]


def unknown(recipe: Mapping[str, Any], results: Mapping[str, Any]) -> Setting:
    """Say nothing."""
    return Setting()

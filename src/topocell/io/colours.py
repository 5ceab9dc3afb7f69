"""Colours as recipes name them."""

import re
from typing import Any

from PIL.ImageColor import colormap, getrgb

from topocell.errors import nearest

#: Red, green and blue, 0..255.
Colour = tuple[int, int, int]

_HEX = re.compile(r"#[0-9a-fA-F]{6}")
#: CSS name → colour. Pillow's own table may have a text or, once it was asked, three numbers.
_NAMES: dict[str, Colour] = {name: getrgb(name)[:3] for name in tuple(colormap)}
_RULE = 'a colour is a name such as white, "#rrggbb" or [red, green, blue] from 0 to 255'


def rgb(value: Any) -> Colour:
    """The colour that a recipe names: a CSS name, `"#rrggbb"` or three whole numbers from 0 to 255.

    Raises:
        ValueError: anything else.
    """
    if isinstance(value, str):
        if named := _NAMES.get(value.lower()):
            return named
        if _HEX.fullmatch(value):
            return int(value[1:3], 16), int(value[3:5], 16), int(value[5:7], 16)
        raise ValueError(f"{_RULE}, but got {value[:60]!r}{nearest(value.lower()[:60], _NAMES)}")
    if isinstance(value, list | tuple) and len(value) == 3 and all(type(part) is int for part in value):
        red, green, blue = value
        if min(value) >= 0 and max(value) <= 255:
            return red, green, blue
    quotes = "; write it in quotes, # begins a comment" if value is None else ""
    raise ValueError(f"{_RULE}, but got {'nothing' if value is None else repr(value)[:60]}{quotes}")


def colour_name(colour: Colour) -> str:
    """The CSS name of a colour; `[red, green, blue]` for one that has none."""
    return next((name for name, value in _NAMES.items() if value == tuple(colour)), str(list(colour)))

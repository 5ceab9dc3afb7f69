"""Values of a genotype as somebody gives them: what they must be, and what is said of others."""

import re
from collections.abc import Mapping
from operator import index
from typing import Any, NoReturn

from topocell.errors import GenotypeError, nearest
from topocell.genotype.literals import shown


class Fixed(dict[str, Any]):
    """A dictionary that stays as it was made, since what is in it has been checked."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise GenotypeError(
            "a genotype stays as it was made; make another, e.g. by dataclasses.replace(genotype, cells=...)"
        )

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[Any, ...]:
        return Fixed, (dict(self),)


def wrong(place: str, rule: str, value: object) -> GenotypeError:
    """Return the error that says of a place its rule and what is there."""
    return GenotypeError(f"{place}: {rule}, but got {shown(value)}")


def check_fields(place: str, data: object, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> None:
    """Check the fields of an object. Raises GenotypeError."""
    if not isinstance(data, Mapping):
        also = "; Genotype.from_text(str(...)) reads a namedtuple of another tool" if hasattr(data, "_asdict") else ""
        raise GenotypeError(f"{wrong(place, 'must be an object', data)}{also}")
    for name in required:
        if name not in data:
            named = "normal" in data and "reduce" in data
            also = "; Genotype.from_text(str(...)) reads a dictionary of another tool" if named else ""
            fault = wrong(place, f"the fields {', '.join(required)} are required", list(data))
            raise GenotypeError(f"{fault}{also}")
    for name in data:
        if name not in required + optional:
            known = required + optional
            raise wrong(place, f"the fields are {', '.join(known)}{nearest(str(name)[:100], known)}", name)


def as_integer(value: Any) -> Any:
    """The integer that a tool wrote as `2.0` or `'2'`; any other value as it is."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return int(float(value)) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,3}(?:\.0*)?", value) else value


def is_list(value: object) -> bool:
    """Return whether something counts as a list: also an array or a tensor of one dimension."""
    return isinstance(value, (list, tuple, range)) or (hasattr(value, "tolist") and getattr(value, "ndim", 0) == 1)


def whole(value: Any) -> int | None:
    """An integer of Python, NumPy or PyTorch as one of Python; None for all else, also for truth values."""
    kind = getattr(value, "dtype", type(value))
    if kind is bool or "bool" in str(kind) or isinstance(value, str | float):
        return None
    try:
        return index(value)
    except TypeError:
        return None

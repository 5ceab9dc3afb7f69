"""What the suites of bad input share: how many examples, values that nobody expects, and what counts as survived.

The short form runs with all other tests. Each suite draws its share of TOPOCELL_FUZZ_EXAMPLES, or with
TOPOCELL_FAULTS=full (`make faults`) of `FULL`: what each must refuse at `least` makes more than 9,000 malformed inputs
certain then.
"""

import contextlib
import os
import re
import signal
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.faults.record import BAD_INPUT, Tally

from topocell.errors import TopocellError

SHORT, FULL = 400, 9000
#: Seconds that one input may take; the machine may be busy with other things.
DEADLINE = 120

#: What a message says its rule and value with.
SAID = re.compile(
    r" but | has no | at most | needs |unknown |cannot |is required|no images|there is no |must be |in a circle|takes "
    r"|is not valid YAML|belongs to another |must begin with|is damaged|is empty",
    re.I,
)


FULL_FORM = "TOPOCELL_FUZZ_EXAMPLES" in os.environ or os.environ.get("TOPOCELL_FAULTS") == "full"


def examples(share: float) -> int:
    """How many inputs a suite draws that has this share of all."""
    wanted = int(os.environ.get("TOPOCELL_FUZZ_EXAMPLES") or (FULL if FULL_FORM else SHORT))
    return max(3, round(share * wanted))


class Hangs(BaseException):
    """An input took longer than the deadline. No `Exception`, so that nothing on the way takes it for a fault."""


@contextlib.contextmanager
def in_time(seconds: float = DEADLINE) -> Iterator[None]:
    """Raises `Hangs` inside after so many seconds."""

    def ring(number: int, frame: object) -> None:
        raise Hangs(f"took more than {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def check_message(text: str) -> None:
    """A message is one printable line of a sensible length that says what rule was broken by what."""
    assert text.isprintable(), text
    assert 20 <= len(text) <= 20_000 and "Traceback" not in text, text
    assert SAID.search(text), text


def suite(
    name: str, share: float, inputs: st.SearchStrategy[Any], attempt: Callable[[Any], bool], least: float = 0.3
) -> None:
    """Draw inputs and try them all.

    Args:
        least: share of the inputs that must have been refused, lest nothing be tested.
        attempt: tries one input; returns True, or raises TopocellError, where it was refused, and False where it was
            taken, or would have been. Anything else that it raises is a fault of ours.
    """
    tally = Tally(BAD_INPUT + name)

    @settings(
        max_examples=examples(share),
        deadline=None,
        database=None,
        derandomize=not FULL_FORM,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        print_blob=True,
    )
    @given(inputs)
    def draw(value: Any) -> None:
        try:
            with in_time():
                refused = attempt(value)
        except TopocellError as fault:
            check_message(str(fault))
            refused = True
        tally.injected += refused
        tally.survived += refused

    try:
        draw()
    except BaseException:
        tally.injected += 1
        raise
    finally:
        tally.keep()
    assert tally.injected >= least * examples(share), "the inputs are not bad enough to test anything"


def contents(folder: Path) -> dict[str, bytes | None]:
    """All names below a folder, links not followed, with what files hold."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in sorted(folder.rglob("*"))
    }


NASTY = (
    *("", " ", "\0", "\x1b[2J", "a\nb", "é" * 300, "../../etc/passwd", "/etc/passwd", "~nobody/x", "~", "/dev/zero"),
    *("[/red]", "{{ 7*7 }}", "<script>alert(1)</script>", "%s%n", "$(id)", "null", "true", "1e999", "-0.0", "nan"),
    *("__import__('os').system('id')", "!!python/object/apply:os.system [id]", "\ud800", "\u202egnp.exe", "x" * 5000),
    *("9" * 5000, "0x" + "f" * 5000, "1:" * 500 + "1", "2024-02-30", "2001-01-01", "!!timestamp x", "!!bool x"),
    *("!!int ''", "!!binary =", "!!set {a, b}", "? {a: b}\n: c", "&a [*a]", "*a", "[" * 500, "{a: " * 100, "- " * 300),
    *("<<: [1]", "{<<: *x}", "%YAML 9.9", "---\n---\n", "a: b: c", "\t- x", "'", '"', "|", "@", "`", "=", "::", ".."),
)
numbers = st.one_of(
    st.integers(),
    st.sampled_from((0, -1, 1, 2**31, 2**63, 2**64, 10**30, 10**400, -(10**30))),
    st.floats(),
    st.sampled_from((1e308, 1e-320, float("nan"), float("inf"), -1.0, 0.5)),
)
scalars = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=12), st.sampled_from(NASTY))
values = st.recursive(
    scalars,
    lambda inside: st.one_of(
        st.lists(inside, max_size=4), st.dictionaries(st.text(string.ascii_lowercase, max_size=6), inside, max_size=3)
    ),
    max_leaves=6,
)


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all places in nested mappings and lists, the whole last."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [*(path for key, item in inside for path in paths(item, (*at, key))), at]


@st.composite
def mutated(draw: st.DrawFn, sound: Any, most: int = 2) -> Any:
    """Nested mappings and lists with a few places changed, removed, renamed or doubled."""
    for _ in range(draw(st.integers(1, most))):
        sound = changed(sound, draw(st.sampled_from(paths(sound))), draw)
    return sound


def changed(value: Any, path: tuple[Any, ...], draw: st.DrawFn, new: st.SearchStrategy[Any] = values) -> Any:
    """Nested mappings and lists with the place at `path` changed, removed, renamed or doubled; what is put is `new`."""
    if not path:
        return draw(new)
    key, rest = path[0], path[1:]
    if rest:
        inside = changed(value[key], rest, draw, new)
        return {**value, key: inside} if isinstance(value, dict) else [*value[:key], inside, *value[key + 1 :]]
    kind = draw(st.sampled_from(("replace", "replace", "replace", "remove", "rename", "double")))
    if isinstance(value, dict):
        others = {name: item for name, item in value.items() if name != key}
        if kind == "replace":
            return {**value, key: draw(new)}
        if kind == "rename":
            return {**others, draw(st.one_of(st.text(max_size=8), st.just(f"{key}s"))): value[key]}
        return others if kind == "remove" else {**value, f"{key}_": value[key]}
    put = {"replace": [draw(new)], "rename": [[value[key]]], "double": [value[key]] * 2, "remove": []}[kind]
    return [*value[:key], *put, *value[key + 1 :]]


@st.composite
def garbled(draw: st.DrawFn, sound: str | bytes) -> bytes:
    """A text with pieces cut out, put in, doubled, or its end missing; sometimes any bytes at all."""
    data = sound.encode() if isinstance(sound, str) else sound
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        span = draw(st.integers(0, 20))
        piece = draw(
            st.one_of(
                st.binary(max_size=8),
                st.sampled_from(NASTY).map(lambda text: text.encode(errors="surrogatepass")),
                st.just(data[at : at + 40] * 2),
            )
        )
        data = draw(st.sampled_from((data[:at] + piece + data[at + span :], data[:at], data[at:])))
    return data

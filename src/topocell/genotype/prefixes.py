"""What a log or a tool puts before every line of a text: times, names of processes and files, numbers of lines."""

import re

from topocell.genotype.comments import is_comment
from topocell.genotype.texts import another

_DAY = r"\d{4}[-/]\d\d[-/]\d\d[T ]|\d\d/\d\d |[A-Z][a-z]{2} [ \d]\d "
_TIME = re.compile(rf"\s*\[?(?:{_DAY})?\d\d:\d\d(?::[\d.,+Z:-]+)?(?: [AP]M)?\]?\s(?:(?:DEBUG|INFO|WARNING|ERROR):?\s)?")
#: `file.py:12:` and `file.py-13-`, as `grep` prints lines and those beside them.
_PLACE = re.compile(r"([\w./]+?)[:-](?:\d+[:-])?(?![\w./]*[:-]\d)")
_NUMBER = re.compile(r"\s*(\d+)(?:\t|[:|] ?| {1,2})")
#: How a name before lines ends.
_NAMED = re.compile(r".*(?:[:|\])] | [FP] |<std(?:out|err)>:)")


def unprefixed(text: str) -> str:
    """The text without what all its lines begin with; as it is where they do not, or where there is one alone."""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < 2:
        return text
    if numbered := _matched(_NUMBER, lines):
        first = int(numbered[0][1])
        if [int(number[1]) for number in numbered] == list(range(first, first + len(lines))):
            return "\n".join(line[number.end() :] for line, number in zip(lines, numbered))
    times = _matched(_TIME, lines)
    if not times and (places := _matched(_PLACE, lines)) and len({place[1] for place in places}) == 1:
        return unprefixed("\n".join(line[place.end() :] for line, place in zip(lines, places)))  # `trainer-1  | `
    lines = [line[time.end() :] for line, time in zip(lines, times)] or lines
    least, most = min(lines), max(lines)
    differ = (place for place, (one, other) in enumerate(zip(least, most)) if one != other)
    if is_comment(least):
        return text
    named = _NAMED.match(least[: next(differ, len(least))])
    if named and (another(named[0]) or "~0|" in named[0]):  # of a line with two, which is there twice
        return text
    return "\n".join(line[named.end() if named else 0 :] for line in lines) if named or times else text


def _matched(pattern: re.Pattern[str], lines: list[str]) -> list[re.Match[str]]:
    """A match at the beginning of each line; none where one line has none."""
    found = [match for line in lines if (match := pattern.match(line))]
    return found if len(found) == len(lines) else []

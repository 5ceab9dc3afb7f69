"""What a log or a tool puts before every line of a text: times, names of processes and files, numbers of lines.

And what a document puts around it.
"""

import re
from contextlib import suppress

from topocell.errors import GenotypeError
from topocell.genotype.changes import check_unchanged
from topocell.genotype.comments import is_comment
from topocell.genotype.texts import another, is_another, more_than

_DAY = r"\d{4}[-/]\d\d[-/]\d\d[T ]|\d\d/\d\d |[A-Z][a-z]{2} [ \d]\d "
_TIME = re.compile(rf"\s*\[?(?:{_DAY})?\d\d:\d\d(?::[\d.,+Z:-]+)?(?: [AP]M)?\]?\s(?:(?:DEBUG|INFO|WARNING|ERROR):?\s)?")
#: `file.py:12:` and `file.py-13-`, as `grep` prints lines and those beside them.
_PLACE = re.compile(r"([\w./]+?)[:-](?:\d+[:-])?(?![\w./]*[:-]\d)")
_NUMBER = re.compile(r"\s*[(\[L]?(\d+)(?:\t|[:|-]|[.)\]]+[: ]| *(?:│|\|(?= ))| {1,2})")
#: What `git blame` puts before lines.
_BLAMED = re.compile(r"\^?[0-9a-f]{7,40} (?:\S+ +)?\([^()\n]* +\d+\) ?")
#: What a log puts before lines, without quotes and braces of a genotype, and what is assigned to.
_NAMED = re.compile(r"""(?:[^'"`{}~=]|(?<=\w)=(?=\w))*(?:\s|\]:|<std(?:out|err)>:|│)""")
_MAX_NAME = 200
#: A name to which something is assigned, whose second value may be another genotype.
_ASSIGNED = re.compile(r"\s*[\w.]+\s*(?::[^=]*)?=")
#: A listing of Markdown, of Org, of LaTeX, of HTML, of reStructuredText; of a diff it is none.
_LISTING = re.compile(
    r"^ *(```|~~~)(?! *diff)[^\n`]*\n(?P<fence>.*?)^ *\1[ ]*$"
    r"|^ *\#\+(?i:begin)_(\w{1,20})[^\n]*\n(?P<org>.*?)^ *\#\+(?i:end)_\3[ ]*$"
    r"|^ *\\begin\{(lstlisting|verbatim|minted)\}[^\n]*\n(?P<tex>.*?)^ *\\end\{\5\}"
    r"|^ *<pre>(?:<code>)?(?P<pre>.*?)(?:</code>)?</pre>"
    r"|::(?: \w{1,20})?[ ]*\n(?: +:[\w-]+:[^\n]*\n)*[ ]*\n(?P<rst>(?:(?: {2,}[^\n]*)?\n)+)",
    re.MULTILINE | re.DOTALL,
)
_BEGINS = re.compile(r"^ *(?:#\+(?i:begin)_|\\begin\{|<pre>)", re.MULTILINE)
_FENCES = re.compile(r"^ *(?:```|~~~)", re.MULTILINE)
#: By which what is around a listing may take it away, or change it.
_AROUND = re.compile(r"<!--|<(?:del|s|strike)\b|\\iffalse|\\begin\{comment\}|/\*|\"{3}|'{3}|#if 0|--\[\[|=begin|<#|~~")


def framed(text: str) -> str:
    """The one listing in a text whose other words say nothing of a genotype; the text as it is where there is none."""
    if len(_BEGINS.findall(text)) > 1 or len(_FENCES.findall(text)) > 2:
        return text
    found = list(_LISTING.finditer(text + "\n"))
    if len(found) != 1:
        return text
    inside = next(part for part in found[0].groupdict().values() if part is not None)
    before, after = text[: found[0].start()], text[found[0].end() :]
    around = f"{before}\n{after}"
    if not inside.strip() or _AROUND.search(around) or another(around) or "~0" in around or more_than("", around):
        return text
    if is_another(before.rstrip(" \n:")) or any(
        is_comment(line) and "Genotype" in line for line in around.splitlines()
    ):
        return text
    with suppress(GenotypeError):
        check_unchanged(text, inside)
        return inside
    return text


def without_numbers(text: str) -> str | None:
    """The text without numbers that count up before its lines; None where these have none, or there is one alone."""
    lines = [line for line in text.splitlines() if line.strip()]
    numbered = _matched(_NUMBER, lines) if len(lines) > 1 else []
    first = int(numbered[0][1]) if numbered else 0
    if not numbered or [int(number[1]) for number in numbered] != list(range(first, first + len(lines))):
        return None
    return "\n".join(line[number.end() :] for line, number in zip(lines, numbered))


def unprefixed(text: str) -> str:
    """The text without what all its lines begin with; as it is where they do not, or where there is one alone."""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < 2:
        return text
    if (bare := without_numbers(text)) is not None:
        return bare
    if commits := _matched(_BLAMED, lines):
        return "\n".join(line[commit.end() :] for line, commit in zip(lines, commits))
    times = _matched(_TIME, lines)
    if not times and (places := _matched(_PLACE, lines)) and len({place[1] for place in places}) == 1:
        return unprefixed("\n".join(line[place.end() :] for line, place in zip(lines, places)))  # `trainer-1  | `
    lines = [line[time.end() :] for line, time in zip(lines, times)] or lines
    if is_comment(min(lines)) or _matched(_ASSIGNED, lines):
        return "\n".join(lines) if times else text
    names = _names(lines)
    if any(another(name) or "~0|" in name or is_another(name) for name in names):  # of a line with two, there twice
        return text
    return "\n".join(line[len(name) :] for line, name in zip(lines, names)) if any(names) or times else text


def _names(lines: list[str]) -> list[str]:
    """What each line begins with where all have the same but for times and the number of blanks; up to one blank."""
    parts = [re.findall(r"\d+(?:[:.,]\d+)+|\s+|.", line[:_MAX_NAME]) for line in lines]
    shapes = ["".join("0" if part[1:] and part[0] != " " else part[0] for part in line) for line in parts]
    least, most = min(shapes), max(shapes)
    differ = (place for place, (one, other) in enumerate(zip(least, most)) if one != other)
    named = _NAMED.match(least[: next(differ, len(least))])
    if not named or any(named[0].count(opens) > named[0].count(closes) for opens, closes in ("()", "[]")):
        return [""] * len(lines)
    names = ("".join(line[: named.end()]) for line in parts)
    return [name.rstrip() + name[len(name.rstrip()) :][:1] for name in names]


def _matched(pattern: re.Pattern[str], lines: list[str]) -> list[re.Match[str]]:
    """A match at the beginning of each line; none where one line has none."""
    found = [match for line in lines if (match := pattern.match(line))]
    return found if len(found) == len(lines) else []

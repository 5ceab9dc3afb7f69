"""What a text does not say: comments, and lines that a diff takes away."""

import re
import textwrap

from topocell.errors import GenotypeError

#: What stands for a part that is left out, where a genotype must not go on: whether it is a comment there, none knows.
#: A comment behind something else.
BEHIND = re.compile(r"(?<=\S)[ \t]+# .*")

GAP = "\0"
#: A sign of comment in Python; several before a genotype draw its title, and one before a number counts.
_HASH = r"#(?![#0-9].*(?:\bGenotype\s*\(|~0\||[\[{]\s*(?:['\"\[({]|$)))"
#: A line of comment in Python, or in JSON.
_PLAIN = re.compile(rf"\s*(?:{_HASH}|//)")
#: Dashes and arrows as logs draw them before a title: they take nothing away.
_DRAWN = r"-+>|---"
#: A line of comment in some language, or one that a diff takes away: `- item` and `-   item` are of a list.
_COMMENT = re.compile(
    rf"\s*(?:{_HASH}|//|%(?!7[Cc]|5[Bb]|28|7[Bb])|;|--\s|[<!]\s|(['\"])\s(?!.*\1\W*$)"
    rf"|(?i:@?rem)\s|::|(?!{_DRAWN})-(?! (?: {{2}})?\S|-\w|-?\s*$|[0-9.,;]))"
)
#: A line that a diff takes away where it has others in its place.
_TAKEN = re.compile(rf"\s*(?!{_DRAWN})-(?! - )")
#: A line that a diff of two columns takes away, or has with the one in its place.
_OF_TWO = re.compile(r".*\s<\s*$|\s*([\w.]+\s*=).*\s\|\s*\1")
#: Where other parts that are none begin and end; those of `_OPEN` only where they end, or where a line begins so in C.
_BLOCKS = {
    "<!--": "-->",
    "\\iffalse": "\\fi",
    "\\begin{comment}": "\\end{comment}",
    "#if 0": "#endif",
    "--[[": "]]",
    "<#": "#>",
    "\n=begin": "\n=end",
    "/*": "*/",
    "<del": "</del>",
    "<s>": "</s>",
    "<strike": "</strike>",
}
_OPEN = ("/*", "<del", "<s>", "<strike", "<#", "--[[")
#: Not what stands in a path such as `search/*/log.txt`.
_BEGINS = {"/*": re.compile(r"(?<![\w*/.'\"~$?}-])/\*")}
#: A string over lines that has no name, in a program.
_STRING = re.compile(r"""("{3}|'{3}).*?\1""", re.DOTALL)
#: The head of a hunk, of as many versions as it has signs less one.
_HUNK = re.compile(r"^( *)@(@+) .*?@@", re.MULTILINE)
#: What a diff says of its files.
_FILES = re.compile(r" *(?:diff --\w|index [0-9a-f]+\.\.|(?:new|deleted) file mode |(?:---|\+\+\+) \S)")
#: What may be of a genotype above a diff, where else is what a commit or a mail says; and what a mail has below one.
_ABOVE = re.compile(r"Genotype|normal|reduc|conv|pool|skip|[\[({]\s*[\[({]|~[0-9]+\|")
_SIGNED = re.compile(r"^-- \n[0-9][\w.() -]*\s*\Z", re.MULTILINE)
#: What a diff of context has of the old file: all up to the new one.
_OLD = re.compile(r"^\*{3} [0-9,]+ \*{4}$.*?(?:^--- [0-9,]+ -{4}$|\Z)", re.MULTILINE | re.DOTALL)
#: A diff among other lines of Markdown.
_DIFF = re.compile(r"^ *(?:```|~~~)diff *\n(.*?)(?:^ *(?:```|~~~) *$|\Z)", re.MULTILINE | re.DOTALL)
_ADDED = re.compile(r"^( *)\+(?![0-9.=-])(.*)", re.MULTILINE)
#: Lines that all begin with a plus sign, as those that a diff adds; one before a bar joins an architecture string.
_ALL_ADDED = re.compile(r"(?:\s*^\+(?! ?\|).*$)+\s*", re.MULTILINE)
#: What a line of a diff has of a genotype.
_PART = re.compile(r"Genotype\s*\(|\b(?:normal|reduce)|~[0-9]+\||['\"]\w+['\"]\s*,\s*[0-9]")
_CONFLICT = re.compile(r"^ *(?:<{7}|>{7}|\|{7})(?: |$)", re.MULTILINE)

#: The sign before an architecture string that a diff adds: its first node has one input, no other has.
_FIRST_ADDED = re.compile(r"^ *\+ ?(?=\|[^|~\n]+~0\|\s*\+)")

#: A comment with a genotype behind another one, which ends in two brackets.
_BEHIND = re.compile(r"(?<=[\])]\))['\"`,;]*\s+(?:#|%|//)\s.*\bGenotype\s*\(.*")

_GENOTYPE = re.compile(r"(?<!class )\bGenotype\s*\(|~0\|")
#: The same in data.
_DATA = re.compile(r"['\"]normal['\"]\s*:|\[\s*\[\s*\[?\s*['\"]")


def uncommented(text: str) -> tuple[str, str]:
    """The text without marks of quotation and prompts, comments, and lines that a diff takes away; and these two.

    Raises GenotypeError where it has two versions of a conflict.
    """
    if _CONFLICT.search(text):
        raise GenotypeError("a text must have one version, but has those of a conflict; keep one")
    kept, out = _parted(text)
    return textwrap.dedent("\n".join(kept)), "\n".join(out)


def _applied(diff: str, out: list[str]) -> str:
    """The lines of a diff as they are after it."""
    kept = []
    for line in diff.splitlines():
        if line.startswith("-"):
            out.append(line)
        elif not (line.startswith(("@@", "+++")) or (line[:1] != " " and _FILES.match(line))):
            kept.append(line[1:] if line[:1] in ("+", " ") else line)
    return "\n".join(kept)


def is_comment(line: str) -> bool:
    """Return whether a line is one of comment."""
    return _COMMENT.match(line) is not None


def is_commented(text: str) -> bool:
    """Return whether a genotype is in what `uncommented` leaves out, and none in what it keeps."""
    kept, out = ("\n".join(lines) for lines in _parted(text))
    return any(sign.search(out) and not sign.search(kept) for sign in (_GENOTYPE, _DATA))


def _is_genotype(text: str) -> bool:
    return any(sign.search(text) for sign in (_GENOTYPE, _DATA))


def _parted(text: str) -> tuple[list[str], list[str]]:
    """The lines that are kept, and what is left out."""
    marks = r"(?:>+|\.\.\.:?|In \[\d+\]:)" if re.search(r">>> |\bIn \[\d+\]: ", text) else ">+"
    if all(line.startswith(">") for line in text.splitlines() if line.strip()):  # also without a blank behind the mark
        text = re.sub(r"(?m)^>+", "", text)
    text = re.sub(rf"(?m)^[ \t]*(?:{marks}[ \t])+", "", text).expandtabs()
    if _ALL_ADDED.fullmatch(text):
        text = re.sub(r"(?m)^\+", "", text)
    out: list[str] = []
    text = _DIFF.sub(lambda diff: _applied(diff[1], out), text)
    text = "\n" + re.sub(r"(?m)^[ ]*(?:(?:```|~~~)\w*|\.\. (?:code-block|code|sourcecode):: *\w*)[ ]*$", "", text)
    for begin, end in _BLOCKS.items():
        text = _without(text, begin, end, out)
    bare: list[str] = []
    rest = _STRING.sub(lambda string: _kept(string, bare), text)
    odd = any(text.count(quotes) % 2 for quotes in ('"""', "'''"))
    if odd and any(map(_GENOTYPE.search, bare)):
        raise GenotypeError("a string over several lines must be whole, but quotes open none or close none; restore it")
    if re.search(r"\w", _STRING.sub("", rest)):  # a program, not texts alone
        if any(map(_is_genotype, bare)) and _is_genotype(rest):
            raise GenotypeError("a text must hold one genotype, but has another one in three quotes; keep one")
        out, text = out + bare, rest
    out += _OLD.findall(text)
    lines = _OLD.sub("", text).split("\n")
    head = _HUNK.search(text)
    hunk = head is not None or _is_hunk(lines)
    if hunk:
        indent, width = (head[1], len(head[2])) if head else ("", 1)
        lines = _SIGNED.sub("", "\n".join(lines)).split("\n")
        first = next((n for n, line in enumerate(lines) if _HUNK.match(line) or _FILES.match(line)), 0)
        if not _ABOVE.search("\n".join(lines[:first])):
            out += lines[:first]
            lines = lines[first:]
        lines = [line.removeprefix(indent) for line in lines if not (_HUNK.match(line) or _FILES.match(line))]
        taken = ["-" in line[:width] for line in lines]
        lines = [line[width if not line[:width].strip("+ ") else 0 :] for line in lines]
    else:
        added: dict[str, str] = {}
        for plus in _ADDED.finditer(text):
            added[plus[1]] = added.get(plus[1], "") + plus[2]
        indents = [line[: len(line) - len(line.lstrip())] for line in lines]
        taken = [_TAKEN.match(line) is not None and indent in added for line, indent in zip(lines, indents)]
        for line, indent, is_taken in zip(lines, indents, taken):
            if is_taken and _GENOTYPE.search(line) and not _PART.search(added[indent]):
                raise GenotypeError(
                    f"a genotype must not be in a line that a diff takes away, but no line that begins with + has one "
                    f"in place of {line.strip()[:60]!r}; leave the signs out"
                )
    kept: list[str] = []
    for line, is_taken in zip(lines, taken):
        if behind := _BEHIND.search(line):
            out.append(behind[0])
            line = line[: behind.start()]
        if not (is_taken or _COMMENT.match(line) or _OF_TWO.match(line)):
            kept.append(_FIRST_ADDED.sub("", line))
            continue
        out.append(line)
        if kept and not (hunk and is_taken) and not _PLAIN.match(line):
            kept[-1] += GAP
    return kept, out


def _is_hunk(lines: list[str]) -> bool:
    """Return whether lines are of a diff without its head: each has a sign or a blank, and those of both have parts."""
    known = all(line[:1] in ("", " ", "+", "-") for line in lines)
    several = sum(line.startswith(("+", "-")) for line in lines) > 2 or any(line.startswith(" ") for line in lines)
    both = (any(line.startswith(sign) and _PART.search(line) for line in lines) for sign in "+-")
    return known and several and any("Genotype" in line for line in lines) and all(both)


def _kept(string: re.Match[str], bare: list[str]) -> str:
    """A string of a program; nothing in place of one over lines that begins its line, which goes to `bare`."""
    before = string.string[: string.start()].rpartition("\n")[2]
    if before.strip() or "\n" not in string[0]:
        return string[0]
    bare.append(string[0])
    return ""


def _without(text: str, begin: str, end: str, out: list[str]) -> str:
    """The text without what stands from `begin` to `end`, or to its end, which goes to `out`."""
    kept, begins = "", _BEGINS.get(begin, re.compile(re.escape(begin)))
    while found := begins.search(text):
        before = text[: found.start()]
        block, closed, after = text[found.end() :].partition(end)
        line = before.rpartition("\n")[2]
        if not closed and begin in _OPEN and (begin != "/*" or line.strip()):
            break
        out.append(block)
        kept += before
        kept, text = kept + GAP * (begin != "/*" and not kept.isspace()), after
    return kept + text

"""The value in a text of another tool: names, numbers, lists, dictionaries, or a call of `Genotype`.

The text is parsed, never evaluated. What may stand around the value: an indent, comment lines, an assignment, the
prefix of a log line, other cells of a table, a call that prints it, other lines. Every other text is a GenotypeError.
"""

import html
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from topocell.errors import GenotypeError
from topocell.genotype.changes import ChangedError, check_unchanged
from topocell.genotype.characters import unescaped, unquoted
from topocell.genotype.comments import BEHIND, GAP
from topocell.genotype.literals import Call, parsed, shown

#: Not the beginning of a class of that name, nor the word before a bracket in a sentence.
CALL = re.compile(
    r"(?<![\w.])(?<!class )(?:[A-Za-z_]\w*\.)*Genotype\s*\((?=\s*(?:#.*\n\s*)*(?:[\[(]|\w+\s*=|\*\*\s*\{))"
)
_FIELD = re.compile(r"\s*(?:normal|reduce)(?:_concat)?\s*[=:]")
#: A name to which a value is assigned, and the key of an entry of settings.
_ASSIGNED = re.compile(r"\A[A-Za-z_][\w.]*\s*=\s*")
_ENTRY = re.compile(r"""(['"])[^'"\\\n]*\1\s*:""")
_LIST = re.compile(r"\s*(?:[A-Za-z_][\w.]*\s*[=:]\s*)?(?=[\[(])")
#: Where lists of pairs begin, behind something else.
_LISTED = re.compile(r"(?:(?<![\w.\])(\[])|(?<=\w\())(?=[\[(](?:\s*+[\[(])++\s*+['\"]?\w+['\"]?\s*,\s*[0-9])")
_TOKEN = re.compile(r"""'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|#[^\n]*|[()\[\]{}]""")
_MAPPING = re.compile(
    r"(?<![\w.])(?:dict\s*\(|(?:collections\.)?OrderedDict\s*\(|(?:\w+\.)*(?:Cell)?Structure\s*\((?=\s*[\[(]))"
)
_ANY_TAG = re.compile(r"<[^<>()\[\]|~\n]*>")
#: A name of an operation before the number of its input: in quotes, brackets or a list of YAML; or before a tilde.
_OPERATION = r"(?<!\w)(?=\w*?(?:conv|pool|skip|connect|sepc|noise|identity){0})(\w++)"
_NUMBERED = re.compile(
    rf"(?:(?<=['\"(\[`“”‘’{{])|(?<=- )){_OPERATION.format('|none')}['\")`”’]*+(?:\s*+,|[^\S\n]*+\n\s*+-)\s*+['\"`“‘]*+"
    rf"(?:[A-Za-z_]\w*+\.)?(?:\w++\()?['\"]*+([0-9]{{1,3}})(?![0-9.])|{_OPERATION.format('|none')}\s*+~\s*+([0-9])"
)
#: A pair of numbers alone, over lines with or without something before each.
_LINE = r"(?:,?\s*\n[^\n\[\](]{0,80}?)?\s*"
_NUMBERS = re.compile(
    rf"[\[(]{_LINE}([0-9]{{1,2}})\s*,{_LINE}([0-9]{{1,2}}){_LINE}[\])]"
    r"|- +- +([0-9]{1,2})[^\S\n]*\n[^\n]{0,80}?- +([0-9]{1,2})[^\S\n]*$",
    re.MULTILINE,
)
#: How many of them stand beside a genotype, as sizes, ranges and the like.
_MAX_NUMBERS = 5
#: An array around the lists of a whole text.
_ARRAY = re.compile(
    r"(\s*(?:[A-Za-z_][\w.]*\s*[=:]\s*)?)(?:\w+\.)?(?:array|tensor)\((\[.*\])(?:,\s*dtype=[\w.]+)?\)\s*", re.DOTALL
)
_GRADIENT = re.compile(r",\s*grad_fn=<\w*>")
#: An array as NumPy prints it.
_PRINTED = re.compile(r"\[\s*[0-9]+\.?(?:\s+[0-9]+\.?)+\s*\]")

#: A genotype in a form that is neither a call of `Genotype` nor an architecture string.
_MAPPED = re.compile(
    r"""['"](?:cells|normal|reduce)['"]+\s*:\s*['"]*[\[({]|\b(?:normal|reduce)(?:_n[0-9]+_(?:p[0-9]|switch)|/op_)"""
    r"|(?:\b|_COLON_)edge_(?:normal|reduce)_[0-9]"
    r"|\b(?:normal|reduce)['\"]?:\s*\n\s*- "
    r"|- (?=\w*?(?:conv|pool|skip))\w++[^\S\n]*+\n[^\n]{0,80}- [0-9]{1,3}(?=\s)"
    r"|\b(?:normal|reduce)\s*=\s*[\[(]\s*[\[(]|\b(?:normal|reduce)_concat['\"]?\s*[=:]\s*(?:(?:range|list)\s*\(|\[|\()"
    r"|[\[(]\s*['\"]\w+['\"]\s*,\s*[0-9]+\s*[\])][\s,\[\]()]*['\"]\w+['\"]\s*,\s*[0-9]+\s*[\])]"
    r"|(?:[\[(]\s*[0-9]+\s*,\s*[0-9]+\s*[\])][\s,]*){4}"
    r"|(?:- +(?:\[ *[0-9]+, *[0-9]+ *\]|(?:- +)?[0-9]+\s+- +[0-9]+)\s+){3}- "
)
#: Quotes as a cell of CSV has them, and the end of a line or a blank in a string.
_QUOTES = re.compile(r"""(['"])\1+""")
_CONTINUED = re.compile(r"""(['"])\s*\n\s*\1""")  # a string over several lines
_LINE_END = re.compile(r"\\+[nrt](?=[\W_]|normal|reduc|edge_)")
#: A character by its number, as in strings of JSON and Python.
_CODE = re.compile(r"\\+(?:u00([0-9a-fA-F]{2})|x([0-9a-fA-F]{2}))")
_DEFINED = re.compile(r"namedtuple|class\s+Genotype\b", re.IGNORECASE)

#: Cells of a table, names of files and groups of numbers, which say nothing of a genotype beside them.
_QUOTED = re.compile(r"""(["'`])[^"'`()\[\]{}#]*\1(?=\s*[,;|\s])""")
_COMMAND = re.compile(r"\\[A-Za-z]+\*?\{[^()\[\]{}]*\}")
_GROUP = re.compile(r"(?<=\s)(?:\((?![^()]*\.\w*\()[^()\[\]{}'\"=]*\)|\[[^()\[\]{}'\"=,]*\])")
#: A comment, or a statement: in a log each part before a semicolon has a number, in a table it is the last character.
_SIGNS = re.compile(r"#(?![0-9])|=.*;.|(?:\A|;)[^;0-9]*;(?:.*[^;])\Z")
#: What may stand before a genotype on its line: `NAME =`, a log prefix, or cells of a table; or a call that prints it.
_BEFORE = re.compile(r"|.*[\s=:\]]|[^()\[\]{}]*[,;|>&]")
_PRINTS = re.compile(
    r"""[\w.\s]*\b(?:print|pprint|log|debug|info|warning|critical|write|echo)\s*\(\s*(?:(['"])[^'"]*\1\s*[,%]\s*)?"""
)
#: A bracket around all that is assigned.
_IN_BRACKET = re.compile(r"(?<==)\s*\(\Z")
#: Commands of TeX that set a text as it is.
_TYPESET_IN = re.compile(r"\\(?:texttt|text|mbox|code|verb|lstinline)\{\Z")
#: Settings as argparse and a dictionary print them, before and after a genotype.
_SETTINGS = (
    (
        re.compile(r"([^()\[\]{}]*)\bNamespace\((?:[^()\[\]{}]*,\s*)?(?:genotype|arch)="),
        re.compile(r"(?:,\s*\w+=[^()\[\]{}]*)?\)"),
    ),
    (
        re.compile(r"([^()\[\]{}]*)\{(?:[^()\[\]{}]*,\s*)?(?:'genotype'|'arch'):\s*"),
        re.compile(r"(?:,\s*'\w+':[^()\[\]{}]*)?\}"),
    ),
)
#: An option of a command before a genotype, and those after it.
_OPTION = re.compile(r"(?<!\S)(--[\w-]+)[ =]\Z")
_OPTIONS = re.compile(r"(?:\s++--[\w-]++(?:[ =](?!-)[\w.,/:-]++)?+)++\s*")
#: By which a program says that it is another, or that there may be another; a comment of TeX or C.
_UNLESS = re.compile(
    r"~~|(?:!=|<>|\b(?:or|else)|(?:\bnot|n't|\bdel)\b[^.,;]*)\s*\Z|(?<![0-9])\s(?:%|//)\s"
    r"|\b(?:mutat|cross|neighbo|replace|remove|discard|permut)\w*\W{0,5}\Z"
)
#: What may follow it: a comment, a line that is drawn, or further cells of a table.
_AFTER = re.compile(
    r"(?:\s+\(?(?:[A-Za-z_][\w./]*\s?[=:]\s?)?[0-9]+(?:[.,][0-9]+)?(?: ?%)?\)?)*\s*"
    r"(?:#.*|[-=*]{3,}\s*|[,;|<&│┃][^()\[\]{}]*|\\\\(?:\s*\\[a-z]+rule|\s*\\hline)?\s*)?"
)


#: Words behind a genotype that may take something of it away, and operations.
_ALTERS = re.compile(
    r"\b(?:but|instead|except|without|sed|awk|perl|replac\w*|remov\w*|prun\w*|swap\w*|chang\w*|edit\w*|minus)\b"
    r"|\b(?:sep|dil|nor)_conv_|\b(?:skip_connect|(?:max|avg)_pool_)",
    re.IGNORECASE,
)


class BesideError(GenotypeError):
    """Something beside a genotype on its line, by which it may be another one."""


class SeveralError(GenotypeError):
    """A text with several genotypes, where one must be."""


def more_than(read: str, text: str) -> str | None:
    """An operation that a text has with an input beside what is read of it, once or several times; None for none.

    It sees a second genotype also where its brackets, bars or quotes are written in a way that no form has.
    """
    there, known = _operations(BEHIND.sub("", text)), _operations(read)
    of_text, of_one = (Counter(name for name, _ in pairs) for pairs in (there, known))
    if of_text <= of_one:
        return None
    if of_text == Counter({name: len(there) // len(known) * count for name, count in of_one.items()} if known else ()):
        every = [known[place:] + known[:place] for place in range(len(known))]  # also with the reduction first
        again = (there[place : place + len(known)] for place in range(0, len(there), len(known)))
        other = next((part for part in again if part not in every), None)
        return None if other is None else shown(next(pair for pair, own in zip(other, known) if pair != own)[0])
    return next((shown(name) for name in of_text - of_one), None)


def more_numbers(read: str, text: str) -> str | None:
    """What a text has of pairs of numbers beside what is read of it, as of a genotype of numbers; None for a few."""
    there, known = (_NUMBERS.findall(_LINE_END.sub("\n", part).replace("\\", "")) for part in (text, read))
    beside = len(there) - len(known)
    again = known and there == known * (len(there) // len(known))
    return f"{beside} pairs of numbers" if beside > _MAX_NUMBERS and not again else None


def _operations(text: str) -> list[tuple[str, str]]:
    """Each operation before a number in a text, with it."""
    text = _CODE.sub(lambda code: chr(int(code[1] or code[2], 16)), text)
    plain = html.unescape(unescaped(_ANY_TAG.sub("", unquoted(_LINE_END.sub("\n", text)))))
    plain = plain.replace("\\", "").replace(" _ ", "_")
    return [(found[1] or found[3], found[2] or found[4]) for found in _NUMBERED.finditer(plain)]


def is_operation(name: str) -> bool:
    """Return whether a name is that of an operation, as far as words say."""
    return re.fullmatch(_OPERATION.format("|none"), name) is not None


def another(text: str) -> str | None:
    """What says that a text holds a genotype, other than an architecture string; None where nothing does."""
    text = unquoted(BEHIND.sub("", text))
    text = _QUOTES.sub(r"\1", _LINE_END.sub("\n", text).replace("\\", ""))  # a text in JSON, or a cell of CSV
    found = CALL.search(text) or _MAPPED.search(text) or _MAPPED.search(_CONTINUED.sub("", text))
    return shown(found[0]) if found else None


def is_another(before: str) -> bool:
    """Return whether what stands before a genotype says that it is another, or that there may be another."""
    return _UNLESS.search(before) is not None


def listed(value: Any) -> Any:
    """The value of a text such as "range(2, 6)", in which a writer of JSON left a list; any other value as it is."""
    return parsed(value.strip()) if isinstance(value, str) and value.strip()[:1] in ("[", "(", "r") else value


def read(text: str) -> Any:
    """The value in a text without comments; None where there is none that could be a genotype.

    Lists, tuples, arrays and tensors become tuples, `range(..)` too; `np.int64(3)` and `tensor(3)` become 3; `true`,
    `false`, `null` are those of JSON. The same value twice is one.

    Raises:
        GenotypeError: the text is too long, has two values, or one that is no plain data.
    """
    plain = _PRINTED.sub(lambda array: re.sub(r"(?<=[0-9.])\s+(?=[0-9])", ", ", array[0]), _GRADIENT.sub("", text))
    if (value := literal(plain)) is not None:
        return value
    if whole := _ARRAY.fullmatch(plain):
        plain = whole[1] + whole[2]
    if calls := list(CALL.finditer(plain)):
        try:
            pieces = [_cut(plain, call.start(), call.end() - 1) for call in calls]
        except GenotypeError:
            if (settings := _around(plain, calls[0].start())) is None:
                raise
            return settings
        value, *others = map(parsed, pieces)
        if any(_unweighted(other) != _unweighted(value) for other in others):
            raise SeveralError(f"a text must hold one genotype, but has {len(calls)} calls of Genotype; keep one")
        rest = plain
        for piece in pieces:
            rest = rest.replace(piece, "")
        check_unchanged(plain, *pieces)  # of which another may be a part
        if other := another(rest):
            raise SeveralError(f"a text must hold one genotype, but has another with {other}; keep one")
        if isinstance(value, Call) and value.args and _DEFINED.search(rest):
            raise GenotypeError("fields must be given by name where the text defines Genotype, but are by position")
        return value
    if _FIELD.match(plain):
        raise GenotypeError(f"the fields of a genotype must stand in one Genotype(...), but got {shown(plain)}")
    if mapping := _MAPPING.search(plain):
        return parsed(_cut(plain, mapping.start(), mapping.end() - 1, alone=True))
    begin = next((start for start, end in _groups(plain) if another(plain[start:end])), plain.find("{"))
    if begin < 0 and (found := _LIST.match(plain) or _LISTED.search(plain)):
        begin = found.end()
    return None if begin < 0 else parsed(_cut(plain, begin, begin, alone=True))


def literal(text: str) -> Any:
    """The value of a text that is settings, a list or a string of Python, or a line of such; None for all others."""
    plain = _ASSIGNED.sub("", text.strip().rstrip(",;"), count=1)
    if _ENTRY.match(plain):
        plain = "{" + plain + "}"
    try:
        value = parsed(plain) if plain[:1] in ("{", "[", "(", "'", '"') or _MAPPING.match(plain) else None
    except GenotypeError:
        return None
    return None if isinstance(value, Call) else value


def _around(text: str, place: int) -> Any:
    """The value of the settings in which a place of a text is; None where it is in none that are plain data."""
    start = next((start for start, end in _groups(text) if start < place < end), None)
    if start is None or text[start] == "(":
        return None
    try:
        return parsed(_cut(text, start, start, alone=True))
    except GenotypeError:
        return None


def _groups(text: str) -> Iterator[tuple[int, int]]:
    """Begin and end of each bracket of a text that is in no other, but for those of a call."""
    depth, start = 0, 0
    for token in _TOKEN.finditer(text):
        if token[0] in "([{":
            called = not depth and token[0] == "(" and re.match(r"\w", text[token.start() - 1 : token.start()])
            start = start if depth else token.start()
            depth += not called
        elif token[0] in ")]}" and depth:
            depth -= 1
            if not depth:
                yield start, token.end()


def _cut(text: str, start: int, bracket: int, alone: bool = False) -> str:
    """The piece from `start` to the end of the bracket that opens at `bracket`; `alone`: no other bracket follows."""
    depth, end = 0, None
    for token in _TOKEN.finditer(text, bracket):
        if token[0] in "([{":
            depth += 1
        elif token[0] in ")]}":
            depth -= 1
            if not depth:
                end = token.end()
                break
    if end is None:
        raise GenotypeError(f"every bracket must be closed, but one is not in {shown(text[start:])}")
    if GAP in text[start:end]:
        whole = shown(text[start:end].replace(GAP, ""))
        raise GenotypeError(
            f"a genotype must be whole, but a part of {whole} is in a comment or taken away; restore it"
        )
    head, tail = text[:start].replace(GAP, ""), text[end:].replace(GAP, "")
    if head.rstrip().endswith("("):  # of a call over several lines
        head, tail = head.rstrip(), tail.lstrip().removeprefix(",").lstrip()
    before, after = head.rpartition("\n")[2], tail.partition("\n")[0]
    above = head[: len(head) - len(before)]
    before, after = _bared(before, after)
    if _opens(above):
        raise BesideError(f"before a genotype every bracket must be closed, but one is not in {shown(above.strip())}")
    told, behind = _told(before), _told(after)
    signs = any(c in told for c in "'\"`{") or _SIGNS.search(told)
    if signs or _opens(told) or is_another(before) or not _BEFORE.fullmatch(told):
        raise BesideError(f"before a genotype may stand `NAME =` or a log prefix, but got {shown(before)}")
    if method := re.match(r"['\")\]]*(\._?\w+\()", after):
        raise ChangedError(f"a genotype must be written out, but the text changes it by {shown(method[1])}")
    if (not _AFTER.fullmatch(behind) and behind.strip() != ".") or _ALTERS.search(after):
        raise BesideError(f"nothing may follow a genotype on its line, but got {shown(after)}")
    piece = text[start:end]
    if alone and re.search(r"[\[({]", _GROUP.sub("", _COMMAND.sub("", text[end:].replace(piece, "")))):
        rest = shown(text[end:].replace(GAP, "").strip())
        raise GenotypeError(f"a text must hold one genotype, but got {rest} after it")
    if alone and (other := another(text.replace(piece, ""))):
        raise GenotypeError(f"a text must hold one genotype, but has another with {other}; keep one")
    if alone:
        check_unchanged(text, piece)
    return piece


def _unweighted(value: Any) -> Any:
    """The value without the weights that GDAS prints."""
    if isinstance(value, dict):
        return {name: _unweighted(item) for name, item in value.items()}
    if not isinstance(value, tuple):
        return value
    weighted = len(value) == 3 and isinstance(value[0], str) and isinstance(value[2], float)
    return tuple(map(_unweighted, value[:2] if weighted else value))


def has_call(value: Any) -> bool:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ()
    return isinstance(value, Call) or any(map(has_call, items))


def _told(beside: str) -> str:
    """What stands beside a genotype on its line, without what only looks like a part of a program."""
    return _GROUP.sub("", _COMMAND.sub("", _QUOTED.sub("", beside)))


def _bared(before: str, after: str) -> tuple[str, str]:
    """What stands on the line before and after a genotype, without quotes and calls that leave it as it is."""
    for _ in range(3):
        if before and before[-1] in "'\"`" and after.startswith(before[-1]):  # a text in quotes, or bytes
            before, after = before[:-1].removesuffix("b"), after[1:]
    if (opened := _IN_BRACKET.search(before)) and after.startswith(")"):
        return before[: opened.start()], after[1:]
    if _PRINTS.fullmatch(before) and after.startswith(")"):
        return "", after[1:]
    if (command := _TYPESET_IN.search(before)) and after.startswith("}"):
        return before[: command.start()], after[1:]
    for around, behind in _SETTINGS:
        if (settings := around.fullmatch(before)) and (others := behind.match(after)):
            return settings[1], after[others.end() :]
    if (option := _OPTION.search(before)) and _OPTIONS.fullmatch(after):
        again = any(option[1].startswith(word.partition("=")[0]) for word in after.split())  # the last one counts
        return before, after if again else ""
    return before, after


def _opens(text: str) -> bool:
    """Return whether a text has brackets that it does not close."""
    return sum(map(text.count, "([{")) > sum(map(text.count, ")]}"))

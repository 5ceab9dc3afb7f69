"""The characters of a text of another tool, as it would have them in a file of its own."""

import codecs
import html
import quopri
import re
from urllib.parse import unquote_plus

from topocell.errors import GenotypeError
from topocell.genotype.literals import shown

MAX_TEXT = 20_000

#: What terminals, word processors and PDF files put in place of, or beside, what a program wrote.
_DECORATION = re.compile(
    "\x1b\\[[0-?]*[ -/]*[@-~]|\x1b\\][^\x07\x1b]*(?:\x07|\x1b\\\\)|[\u00ad\u200b-\u200d\u2060\ufeff]"
)
_BLANK = re.compile(r"[^\S \t\r\n]")
#: Other signs for those of ASCII: quotes of several languages, and signs as wide as a character of Chinese.
_TYPESET = (
    {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
    | dict.fromkeys(map(ord, "‘’′‚‹›´"), "'")
    | dict.fromkeys(map(ord, "“”″„«»"), '"')
    | {0x223C: "~", 0x02DC: "~", 0xD7: "x"}
)
#: Where a text of Python goes on in its next line.
_JOINED = re.compile(r"""(['"])[ \t]*\\\n\s*\1""")
#: A tag of HTML with attributes, but those that may strike out or hide what is in it.
_TAG = re.compile(
    r"<(table|tbody|tr|t[dh]|code|pre|span|p|div|li)\s"
    r"(?![^<>]*(?<![a-z])(?:del(?:eted|etion)?|\w*(?:strik|through|remov)\w*|old|minus|hid(?:e|den)?|none)(?![a-z]))[^<>()\[\]]*>",
    re.IGNORECASE,
)
#: A name in quotes of LaTeX, among brackets and commas.
_LATEX = re.compile(r"(?<=[(\[,\s])`{1,2}([\w\\]+)'{1,2}(?=[,)\]])")
_ESCAPE = re.compile(r"""\\([_|~'"\[\]()])""")
#: Characters and what stands for them in LaTeX.
_IN_LATEX = {
    "~": r"\\textasciitilde(?:\{\}|\s|(?=[0-9]))|\$\\sim\$|\\~\{\}",
    "|": r"\\textbar(?:\{\}|\s|(?=\W))|\$(?:\\vert|\\mid|\|)\$",
    "_": r"\\textunderscore(?:\{\}|\s)",
    "x": r"\$\\times\$",
    "[": r"\{\[\}",
    "]": r"\{\]\}",
    "'": r"\\textquotesingle(?:\{\}|\s)",
    " ": r"\\ (?=\S)",
}
#: A configuration as newer versions of ConfigSpace print it: a call around a dictionary.
_CONFIGURATION = re.compile(r"\bConfiguration\s*\(\s*values\s*=(?=\s*\{)")
#: How a diff of words marks what it takes away, also in colours.
_WORDS_TAKEN = re.compile(r"-\]\{\+")
_COLOURED = re.compile(r"(?<=[^\n])\x1b\[(?:\d+;)*31m|\x1b\[(?:\d+;)*31m(?!-)")


def decoded(raw: bytes) -> str:
    """The text of a file in UTF-8, or in UTF-16 as a shell of Windows writes it; other bytes are shown as escapes."""
    wide = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return raw.decode("utf-16" if wide else "utf-8", errors="backslashreplace")


def bounded(text: object) -> str:
    """The text without byte order mark, colours of a terminal, typeset quotes and blanks, escapes of HTML.

    Raises GenotypeError where it is no text, longer than `MAX_TEXT`, or a diff of words.
    """
    if not isinstance(text, str) or len(text) > MAX_TEXT:
        value = f"{len(text)}; keep the lines of one genotype" if isinstance(text, str) else shown(text)
        raise GenotypeError(f"a genotype is a text of at most {MAX_TEXT} characters, but got {value}")
    if _WORDS_TAKEN.search(text) or (re.search(r"@@ -[0-9]", text) and _COLOURED.search(text)):
        raise GenotypeError(
            "a diff must have whole lines, but one of words has the old and the new ones in one; print it without "
            "--color-words or --word-diff"
        )
    text = _CONFIGURATION.sub("dict(", _JOINED.sub("", re.sub(r"<br ?/?>", "\n", text)))
    plain = html.unescape(_TAG.sub(r"<\1>", _DECORATION.sub("", text)))
    plain = named(plain)
    return _LATEX.sub(r"'\1'", _BLANK.sub(" ", plain.translate(_TYPESET)))


def named(text: str) -> str:
    """The text with names that have no escapes, as Markdown and LaTeX write them; in YAML these are blanks."""
    return re.sub(r"(?<=\w)\\_(?=\w)", "_", text)


def unescaped(text: str) -> str:
    """The text without what is put before `_`, `|` and quotes by Markdown, LaTeX, strings in strings, and CSV.

    And with the characters that LaTeX has by their names.
    """
    for character, command in _IN_LATEX.items():
        text = re.sub(command, character, text)
    return re.sub('(?<!")""(?!")', '"', _ESCAPE.sub(r"\1", text))


def unquoted(text: str) -> str:
    """The text without the signs by which a link or a mail has what is no part of one."""
    if re.search(r"=3D|=5F|=5B", text):
        text = quopri.decodestring(text.encode(errors="replace")).decode(errors="replace")
    return unquote_plus(text) if re.search("%[0-9A-Fa-f]{2}", text) else text

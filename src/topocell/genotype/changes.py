"""What a program does to the genotype that it has written out: a text with that is not read."""

import re

from topocell.errors import GenotypeError
from topocell.genotype.comments import BEHIND
from topocell.genotype.literals import shown

#: What a program changes about a genotype that it has written out.
_CHANGES = r"\.(?:append|extend|insert|pop|remove|reverse|sort|clear|__setitem__)\("
#: An assignment to what is there, also with an operator.
_OPERATED = r"(?:[-+*/%&|^@]|//|\*\*|<<|>>)"
_SET = rf"[ \t]*{_OPERATED}?=(?!=)"
_CHANGED = (
    rf"\b_replace\(|\.(?:normal|reduce)\w*(?:\[[^\]\n]*\])*\s*(?:[+*|-]?=(?!=)|{_CHANGES})"
    r"|\bdel\s+\w+\.(?:normal|reduce)|\b(?:sed|perl)\b[^\n]*\bs([/|#,])[^\n]+?\1"
)
#: Parts of what a name has, and those of a cell.
_PART = r"(?:\.\w+|\[[^\]\n]*\])"
_OWN = rf"{_PART}*\.(?:normal|reduce|nodes|cells|edges|concat|ops)\w*(?:\[[^\]\n]*\])*|(?:\[[^\]\n]*\])+"
#: The same of what is called by a name, and of what a name is given that is computed, or once more.
_NAME_CHANGED = (
    r"|\b(?:setattr|shuffle|__setattr__|replace|_make)\(\s*{0}\b|\bre\.sub\([^\n]*\b{0}\b|\b{0}\.replace\(|\bdel\s+{0}\b"
    rf"|\b{{0}}(?:{_OWN}){_SET}|\b{{0}}{_PART}*{_CHANGES}"
)
_NAME_COMPUTED = (
    r"|(?m:^[ \t]*(?:[\w.]+,[ \t]*)*{0}[ \t]*(?:,[ \t\w.]+)*+(?::[^=\n]*+)?=(?!=)(?:[^\n]*\w\(|[^\n]*[^\n,\s][ \t]*$))"
    rf"|(?m:^[ \t]*{{0}}[ \t]*{_OPERATED}=)"
)
#: A second genotype that is computed: a call with names by position, other than the names of its fields.
_COMPUTED = re.compile(
    r"(?<![\w'\"])(?<!class )(?:[A-Za-z_]\w*\.)*Genotype(?:\._make)?\("
    r"(?!\s*normal,\s*normal_concat,)\s*(?:\*|[A-Za-z_]\w*(?:\.\w|[\[(]|\s*,\s*[\w.]+(?:[\[(]|,[^()]*,)))"
)
#: A further name of a part of it.
_ALIAS = (
    r"\b(\w+)[ \t]*=(?!=)[ \t]*(?:\[[^\n]*\bin[ ]+|(?:(?:\w+\.)*[a-z_]\w*\()*){0}\b|\bfor\s+(\w+)\s+in\b[^\n]*\b{0}\b"
)
#: The name that a line assigns to what a function makes of a genotype; what a class makes of one is a network.
_OF_LINE = re.compile(r"\A[ \t]*([A-Za-z_]\w*)[ \t]*(?::[^=\n]*)?=(?!=)(?!.*\b[A-Z]\w*\([^()]*\Z)")


class ChangedError(GenotypeError):
    """A text that changes its genotype, or makes another of it, whatever its lines begin with."""


def check_unchanged(text: str, *pieces: str) -> None:
    """Raise ChangedError where a text changes the genotype of which it has these pieces, or computes another of it."""
    names, rest = set[str](), text
    for piece in pieces:
        if assigned := re.search(
            r"([A-Za-z_]\w*)\s*(?::[^=\n]*)?=\s*(?:\\\s*)?['\"(]*\s*\Z", text.partition(piece)[0][-200:]
        ):
            names.add(assigned[1])
        if assigned := _OF_LINE.match(text.partition(piece)[0].rpartition("\n")[2]):
            names.add(assigned[1])
        rest = rest.replace(piece, "")
    aliases = {alias for name in names for found in re.findall(_ALIAS.replace("{0}", name), rest) for alias in found}
    changed = _CHANGED + "".join(_NAME_CHANGED.replace("{0}", name) for name in sorted(names | aliases - {""}))
    computed = "".join(_NAME_COMPUTED.replace("{0}", name) for name in sorted(names))
    after = text.rpartition(pieces[-1])[2] if pieces else ""
    if found := re.search(changed, rest) or (re.search(computed[1:], after) if computed else None):
        raise ChangedError(f"a genotype must be written out, but the text changes it by {shown(found[0])}")
    if found := _COMPUTED.search(BEHIND.sub("", rest)):
        line = rest[found.start() :].partition("\n")[0]
        raise ChangedError(f"a text must hold one genotype, but computes another by {shown(line)}; keep one")

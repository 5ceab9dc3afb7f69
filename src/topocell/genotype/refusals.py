"""What a refusal of a text says besides its fault: what the text looks like, and what to do next."""

import re

from topocell.errors import GenotypeError
from topocell.genotype.comments import is_commented
from topocell.genotype.namedtuples import FIELDS
from topocell.genotype.settings import yaml_fault
from topocell.genotype.texts import CALL, BesideError
from topocell.io import files

#: What is no form, and what it is; None for what is commented out.
_FOREIGN = (
    (r"conv[13]x[13]-bn-relu|module_adjacency|ModelSpec\(", "a cell of NAS-Bench-101, whose operations are its nodes"),
    (r"\brecurrent['\"]?\s*[=:]", "a recurrent cell"),
    (r"\A\W*[0-9]+-[0-9]+-[0-9]_[0-9]{2}_[0-9]{3}\W*\Z", "a cell of TransNAS-Bench-101 in numbers"),
    (r"\A\W*[0-9]+(:[0-9]+)+\W*\Z", "the sizes of NATS-Bench, which are no cell"),
    (
        r"!!python/object|['\"]py/object",
        "an object that PyYAML or jsonpickle keeps; load and print it",
    ),
    (r"\b(?:di)?graph\s*\w*\s*\{", "a drawing of Graphviz, which does not have all of a cell"),
    (r"(?m)^(extends|search|selection|retrain):", "a recipe, which has no genotype"),
    (
        r"NetworkSelectorDatasetInfo[\w:]+, Value:",
        "a configuration as ConfigSpace prints it, of which JSON is read",
    ),
    (
        r"(?is)\A(?!.*(?:Genotype\s*\(|_concat)).*(?<![\w.])(?:normal|reduc(?:e|tion))(?: cell)?['\"]?\s*[:=]\s*[\[(]",
        "the lists of a cell without Genotype(...) and its concat",
    ),
    (None, "a genotype in a comment, or in a line that a diff takes away"),
    (r"\A[\s,;()\[\]]*[0-9][\s,;()\[\]0-9]*\Z", "numbers without the names of operations, as of ENAS and NAO"),
)

#: A text that says where a genotype is.
_PLACE = re.compile(r"\s*+(?=.*[^\W\d_])(?!None\b|null\b|nan\b)[\w.~/\\-]{2,200}\s*")

#: A name of a field that goes on in the next line.
_BROKEN_FIELD = re.compile(r"(?<=[(,\s])((?:n|r)[a-z_]{0,12})\n\s*([a-z_]+)(?=\s*=)")
#: A name in quotes that goes on in the next line.
_BROKEN = re.compile(
    r"""(?m)^(?=[^"'\n]*(?:(?:"[^"\n]*"|'[^'\n]*')[^"'\n]*)*(["'])[\w:/]*$).*\n\s*[\w:/]+\1\s*[:,)\]}]"""
)


def next_step(text: str, error: GenotypeError) -> str:
    """What a refusal says of the whole text; empty where there is no more to say."""
    if _PLACE.fullmatch(text):
        return (
            "; a name or a path is not read: topocell.genotype.published.published(NAME).genotype is a published "
            "cell, Genotype.load(PATH) reads a file or the directory of a run"
        )
    if files.is_json(text):
        try:
            files.from_json(text, unique=True)
        except ValueError as twice:
            return f"; {twice}: keep one of them"
    if "!!python/object" not in text and (fault := yaml_fault(text)):
        return f"; it looks like YAML, which cannot be read: {fault}; keep the lines of one genotype"
    fields = (part for part in _BROKEN_FIELD.finditer(text) if part[1] + part[2] in FIELDS)
    if broken := _BROKEN.search(text) or next(fields, None):
        line = text.count("\n", 0, broken.start()) + 1
        return f"; a name is broken over lines {line} and {line + 1}: join them"
    for hint, kind in _FOREIGN:
        if is_commented(text) if hint is None else re.search(hint, text):
            return f"; it looks like {kind}: give the genotype alone, in one of the forms"
    if isinstance(error, BesideError):
        return f"; give {_alone(text)}"
    return ""


def _alone(text: str) -> str:
    """What of a text would be read where it stood for itself."""
    if calls := list(CALL.finditer(text)):
        one = "\n" in text.strip() and len(calls) == 1
        line = f" in line {text.count(chr(10), 0, calls[0].start()) + 1}" if one else ""
        return f"one genotype alone, from `Genotype(`{line} to its closing bracket"
    if other := re.search(r"([A-Za-z_][\w.<>]*)\s*\(\s*normal\s*=", text):
        return f"`Genotype(` in the place of `{other[1]}(`"
    if "~0" in text:
        return "the architecture string alone"
    whole = "{" in text or "dict(" in text
    return "the genotype alone, from its first bracket to its last" if whole else "its four fields in one Genotype(...)"

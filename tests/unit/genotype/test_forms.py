"""Genotypes as other tools write them: each form is read as what it says, or refused by its name."""

import codecs
import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.forms import FORMS_OF_TEXTS, HUB, MUTABLES, ORDER, cells_for, in_form, mutations
from tests.helpers.golden_genotypes import DARTS_V2, GDAS_V1

from topocell.errors import GenotypeError
from topocell.genotype.characters import MAX_TEXT
from topocell.genotype.forms import FORMS
from topocell.genotype.genotype import CellGenotype, Genotype

V2 = DARTS_V2.to_darts()
NOISE = V2.replace("skip_connect", "noise")
ARCH = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|avg_pool_3x3~1|nor_conv_1x1~2|"
PREFIXES = ["trainer_1  | ", "0: ", "[rank0]: ", "(pid=1234) ", "2022-05-01T10:00:00.123456789Z stdout F "]
PREFIXES += ["11/29 05:07:05 PM ", "17:07:05 ", "Nov 29 17:07:05 ", "2026-11-29 17:07:05,123 INFO ", "[1,0]<stdout>:"]
NODES = [[("nor_conv_3x3", 0)], [("none", 0), ("skip_connect", 1)]]
SHORT = ARCH[: ARCH.rfind("+")]
MARKDOWN_NOISE = re.sub(r"([\[\]()_])", r"\\\1", NOISE)
HTML_NOISE = "<span>Genotype</span>" + NOISE[8:].replace("'", "<i>&#39;</i>")


def prefixed(line_of: Callable[[int, str], str]) -> str:
    """The genotype over several lines, each with something before it."""
    lines = f"genotype = {V2}".replace("), (", "),\n    (").splitlines()
    return "\n".join(line_of(number, line) for number, line in enumerate(lines))


# --- round trips ---


@pytest.mark.parametrize("writer", FORMS_OF_TEXTS)
@given(data=st.data())
def test_each_form_is_read_as_what_was_written(writer: str, data: Any) -> None:
    genotype = data.draw(cells_for(writer))
    form = "nni" if writer in (HUB, MUTABLES) else writer
    again = Genotype.from_text(in_form(writer, genotype), form, ORDER)
    assert again.cells == genotype.cells
    assert Genotype.from_text(in_form(writer, genotype), operations=ORDER) == again


@pytest.mark.parametrize("writer", FORMS_OF_TEXTS)
@given(data=st.data())
def test_changed_texts_are_refused_in_one_line_or_valid(writer: str, data: Any) -> None:
    text = data.draw(mutations(in_form(writer, data.draw(cells_for(writer)))))
    try:
        genotype = Genotype.from_text(text, operations=data.draw(st.sampled_from((None, ORDER))))
    except GenotypeError as fault:
        assert str(fault).isprintable() and len(str(fault)) < 1000
        return
    assert Genotype.from_dict(json.loads(json.dumps(genotype.to_dict()))) == genotype


def test_every_form_has_a_writer() -> None:
    assert set(FORMS) == {"nni" if name in (HUB, MUTABLES) else name for name in FORMS_OF_TEXTS}


# --- what may stand around a genotype ---

FIELDS_OF_V2: dict[str, Any] = {
    name: value
    for kind in ("normal", "reduce")
    for name, value in (
        (kind, [pair for node in DARTS_V2.cells[kind].nodes for pair in node]),
        (f"{kind}_concat", list(DARTS_V2.cells[kind].concat)),
    )
}


@pytest.mark.parametrize(
    "text",
    [
        f"    {V2}",
        f"\t\tDARTS_V2 = {V2}\n",
        f"# found by hand\n\n# old = {V2.replace('skip_connect', 'noise')}\n{V2}  # the best\n",
        V2.replace("reduce=", "\n    # reduction\n    reduce="),
        V2.replace("range(2, 6)", "range(2, 6, 1)"),
        V2.replace("range(2, 6)", "[np.int64(2), np.int32(3), 4, 5]"),
        V2.replace("range(2, 6)", "list(range(2, 6))"),
        V2.replace("range(2, 6)", "np.arange(2, 6)", 1).replace("range(2, 6))", "array([2, 3, 4, 5]))"),
        f"\ufeff{V2}",
        f"\ufeffV2 = {V2}\r\n",
        V2.replace("', 0)", "', np.int64(0))").replace("', 1)", "', numpy.int64(1))"),
        V2.replace("'sep_conv_3x3'", "np.str_('sep_conv_3x3')"),
        f"2024-01-01 10:00:00,123 genotype = {V2}",
        f"01/02 03:04:05 PM genotype = {V2}",
        f"epoch 49 lr 1e-3\n[2024-01-01 10:00:00] INFO: genotype: {V2}\nvalid_acc 88.1\n",
        V2.replace("Genotype(", "genotypes.Genotype("),
        V2.replace("Genotype(", "cnn.genotypes.Genotype("),
        f"from collections import namedtuple\nGenotype = namedtuple('Genotype', 'normal reduce')\nV2 = {V2}\n",
        V2.replace("reduce_concat=range(2, 6)", "reduce_concat=range(2, 6), connectN=None, connects=None"),
        json.dumps({"normal": DARTS_V2.to_dict()["cells"]["normal"]["nodes"], "normal_concat": [2, 3, 4, 5]})[:-1]
        + ", "
        + json.dumps({"reduce": DARTS_V2.to_dict()["cells"]["reduce"]["nodes"], "reduce_concat": [2, 3, 4, 5]})[1:],
        # as results of experiments are stored, and as texts are copied
        json.dumps(list(FIELDS_OF_V2.values())),  # of a namedtuple
        str(tuple(FIELDS_OF_V2.values())),
        json.dumps(FIELDS_OF_V2 | {"normal_concat": "range(2, 6)", "reduce_concat": "[2, 3, 4, 5]"}),
        json.dumps({"accuracy": 97.2, "genotype": V2}, indent=1),
        json.dumps({"genotype": FIELDS_OF_V2}),
        json.dumps({"genotype": DARTS_V2.to_dict()}),
        json.dumps(V2),
        f"OrderedDict({list(FIELDS_OF_V2.items())})",
        f"OrderedDict({FIELDS_OF_V2})",  # as Python 3.12 prints it
        f"best = collections.OrderedDict({FIELDS_OF_V2})",
        f"best = dict({FIELDS_OF_V2})",
        f"best = dict({', '.join(f'{name}={value}' for name, value in FIELDS_OF_V2.items())})",
        f"the cell is `{V2}`",
        f"'{V2}',",
        f"{V2},",
        f"{V2};",
        f"\x1b[32mgenotype = {V2}\x1b[0m",
        V2.replace("'", "’").replace("’sep", "‘sep"),
        V2.replace(", ", ",\u00a0"),
        # numbers of other kinds, and a log that says it twice
        V2.replace("', 0)", "', tensor(0))").replace("', 1)", "', tensor(1, device='cuda:0', dtype=torch.int64))"),
        V2.replace("', 0)", "', '0')").replace("', 1)", "', 1.0)"),
        V2.replace("range(2, 6)", "tensor([2, 3, 4, 5])", 1).replace("range(2, 6)", "array([2., 3., 4., 5.])"),
        json.dumps(FIELDS_OF_V2 | {"normal_concat": ["2", "3", "4", "5"]}),
        V2.replace("'", "&#39;"),
        json.dumps(FIELDS_OF_V2).replace('"', "&quot;"),
        f"epoch 1 genotype = {V2}\nvalid 0.9\nbest: {V2.replace('range(2, 6)', '[2, 3, 4, 5]')}\n",
        f"{json.dumps(FIELDS_OF_V2)}\n{json.dumps(FIELDS_OF_V2)}",
        # as topocell prints it, YAML, escapes, more blanks, and the word in a sentence
        repr(DARTS_V2),
        f"best = {DARTS_V2}",
        yaml.safe_dump(DARTS_V2.to_dict()),
        yaml.safe_dump(json.loads(json.dumps(FIELDS_OF_V2))),
        yaml.dump(FIELDS_OF_V2),
        yaml.safe_dump({"epochs": 50, "genotype": V2}, width=60),
        V2.replace("_", "\\_"),
        "'" + V2.replace("'", "\\'") + "'",
        repr(V2.encode()),
        f'"""{V2}"""',
        V2.replace(", ", ",\u202f").replace("(", "(\u200b"),
        V2.replace("'", "′"),
        V2.replace("range(2, 6)", "torch.arange(2, 6)"),
        f"class Genotype(NamedTuple):\n    normal: list\n\nV2 = {V2}\n",
        f"The Genotype (of the second search) is\n{V2}",
        # in a table, in a program, and as arrays and word processors print it
        f'epoch,genotype,accuracy\n49,"{V2}",97.24\n',
        f'49;"{V2}";97,24',
        f"49\t{V2}\t97.24",
        f"| DARTS | {V2} | 97.24 |",
        f"DARTS: {V2} (97.24 %)",
        f"<tr><td>DARTS</td><td>{V2}</td></tr>",
        '49,"' + json.dumps(FIELDS_OF_V2).replace('"', '""') + '",97.24',
        f"print({V2})",
        f"logging.info('genotype = %s', {V2})",
        f'    logger.info("genotype = %s", {V2});',
        V2.replace("range(2, 6)", "[2 3 4 5]", 1).replace("range(2, 6)", "[2. 3. 4. 5.]"),
        V2.replace("_3x3", "_3×3"),
        f"|DARTS|{V2}|97.24|",
        f"DARTS & {V2} & 97.24 \\\\".replace("_", "\\_"),
        # with a cell that is none any more: comments, and what a diff takes away
        f"# old = {ARCH}\nbest = {V2}",
        f"-BEST = {NOISE}\n+BEST = {V2}",
        f"@@ -1,2 +1,2 @@\n def cell():\n-    return {NOISE}\n+    return {V2}\n",
        f"// {NOISE}\n% {NOISE}\n-- {NOISE}\n<!-- {NOISE} -->\n{V2}",
        f"<!--\n{NOISE}\n-->\n{V2}",
        f"/*\n * {NOISE}\n */\n{V2} /* best */",
        f"acc 97.2 % {V2}",
        # quoted, in a session, and printed over several lines
        "> " + V2.replace("), (", "),\n> ("),
        ">>> best = " + V2.replace("), (", "),\n... ("),
        f"print(\n    {V2}\n)",
        f"genotype: {V2}\nepoch: 3\nbest genotype: {V2}",
        # as settings are printed, typeset and given to a command
        f"Genotype(**{FIELDS_OF_V2})",
        json.dumps({"arch": V2, "accuracy": 97.2}),
        f"args = Namespace(genotype={V2}, layers=20)",
        f"03/04, INFO args = Namespace(lr=0.1, genotype={V2})",
        f"DARTS & \\texttt{{{V2}}} & 97.24 \\\\".replace("_", "\\_"),
        f'python train.py --auxiliary --arch "{V2}" --cutout --gpu 0',
        # in the last column of LaTeX, in its quotes, and as wandb and others keep settings
        f"DARTS & 2.76 & {V2} \\\\".replace("_", "\\_"),
        f"DARTS & 2.76 & \\texttt{{{V2}}} \\\\ \\hline".replace("_", "\\_"),
        V2.replace("('", "(`").replace("_", "\\_"),
        V2.replace("('", "(``").replace("',", "'',"),
        json.dumps({"genotype": {"desc": None, "value": V2}, "lr": {"desc": None, "value": 0.1}}),
        yaml.safe_dump({"genotype": {"desc": None, "value": V2}, "wandb_version": 1}),
        yaml.safe_dump({"model": {"layers": 8, "genotype": json.loads(json.dumps(FIELDS_OF_V2))}}),
        json.dumps({"model": {"genotype": FIELDS_OF_V2}, "epochs": 50}),
        json.dumps({"results": [{"genotype": V2, "accuracy": 97.2}, {"lr": 0.1}]}),
        json.dumps([{"genotype": FIELDS_OF_V2}, [{"genotype": FIELDS_OF_V2}]]),
        yaml.safe_dump({"runs": [{"seed": 1, "genotype": json.loads(json.dumps(FIELDS_OF_V2))}]}),
        yaml.safe_dump([{"genotype": json.loads(json.dumps(FIELDS_OF_V2))}]),
        json.dumps({"format": "darts", "genotype": V2}),
        "".join(json.dumps({"epoch": epoch, "genotype": V2}) + "\n" for epoch in range(2)),
        "\n".join(json.dumps({"epoch": epoch, "genotype": FIELDS_OF_V2}) for epoch in range(2)),
        f"date: 2024-01-01\ngenotype: {V2}\n",
        f"{{'layers': 20, 'genotype': {V2}, 'lr': 0.1}}",
        "\n".join(json.dumps({"epoch": i, "genotype": of}) for i, of in enumerate((None, None, FIELDS_OF_V2))),
        json.dumps({"genotype": None, "result": {"genotype": FIELDS_OF_V2}}),
        str({"layers": 20, "genotype": V2}),
        str({"layers": 20, "genotype": FIELDS_OF_V2}),
        str({"genotype": None, "best": [{"genotype": FIELDS_OF_V2}]}),
        "\n".join(f"trainer-1  | {line}" for line in V2.replace(", reduce=", ",\n    reduce=").splitlines()),
        *(
            yaml.safe_dump(json.loads(json.dumps(of)), default_flow_style=style)
            for of in (FIELDS_OF_V2, {"genotype": FIELDS_OF_V2, "lr": 0.1}, list(FIELDS_OF_V2.values()))
            for style in (True, False, None)
        ),
        f"-> {V2}",
        str({"genotype": FIELDS_OF_V2}),
        # under any key, where all fields are there
        json.dumps({"parameter_id": 0, "parameters": json.loads(in_form(HUB, DARTS_V2))}),
        json.dumps({"parameter_id": 0, "arch": [json.loads(in_form(MUTABLES, DARTS_V2))]}),
        json.dumps({"config": list(FIELDS_OF_V2.values()), "acc": 93, "betas": [[[0, 1]], [[2, 3]]]}),
        json.dumps({"EA_BPE1": V2}),
        yaml.dump({"genotype": V2, "layers": 20}, default_style='"'),
        f'"genotype": "{V2}"\n"layers": 20\n',
        json.dumps({"epoch": 3, "cell": FIELDS_OF_V2}),
        json.dumps({"genotype": [FIELDS_OF_V2]}),
        json.dumps([FIELDS_OF_V2]),
        json.dumps({"best": {"arch": DARTS_V2.to_dict()}, "format": "darts", "cells": 20}),
        str({"model": {"arch": FIELDS_OF_V2}}),
        yaml.safe_dump({"arch": json.loads(json.dumps(FIELDS_OF_V2)), "lr": 0.1}),
        f"{{epochs: 50, genotype: '{V2.replace(chr(39), chr(39) * 2)}', lr: 0.1}}",
        f"model: {{layers: 8, genotype: '{V2.replace(chr(39), chr(39) * 2)}'}}",
        json.dumps({"note": "our “best” cell", "genotype": V2}, ensure_ascii=False),
        # other cells of a table
        f'0;49;"{V2}";97,24',
        f'"DARTS, second order","{V2}",2.76',
        f"| `DARTS` | `{V2}` | 97.24 (0.10) |",
        f"DARTS~\\cite{{liu2019}} & {V2} & \\textbf{{2.76}} \\\\".replace("_", "\\_"),
        f'<tr><td style="font-weight: bold" class="model">{V2}</td></tr>',
        f'49,none,0.1,"{V2}"\n50,no-skip,7,x',
        # prefixes of logs, and lines with brackets
        f"trial #3: genotype = {V2}",
        f"epoch 49; valid 97.2; genotype = {V2}",
        f"loaded 'best.pt', genotype = {V2}",
        f"best = {FIELDS_OF_V2}\n[INFO] test accuracy 97.24 (best 97.31)",
        f"$ tail -n1 search/*/log.txt\ngenotype = {V2}\n$ ls retrain/*/",
        f"{{e: 1, best: {{{', '.join(f'{k}: {json.dumps(v)}' for k, v in FIELDS_OF_V2.items())}}}}}",
        str({"arch": {"genotype": V2, "lr": 0.1}}),
        V2.replace("'", "&amp;#x27;"),
        json.dumps(list(FIELDS_OF_V2.values())).replace('"', "”"),
        "\n".join(f"+{line}" for line in textwrap.wrap(V2, 40)),
        "\n".join(f"+{line}" for line in json.dumps(FIELDS_OF_V2, indent=1).splitlines()),
        V2.replace("('skip_connect', 0)", "('skip_connect', 0),  # was ('noise', 0)\n").replace("\n,", "\n"),
        "In [3]: best = " + V2.replace("), (", "),\n   ...: ("),
        'V2 = "' + V2.replace("reduce=", '" \\\n    "reduce=') + '"',
        V2.replace("), (", "),<br>("),
        f"-V2 = {NOISE}\n+V2 = {V2}".replace(", reduce=", ",\n@    reduce=").replace("@", "-", 1).replace("@", "+"),
        f" V2 = Genotype(\n-    normal={FIELDS_OF_V2['reduce']},\n+    normal={FIELDS_OF_V2['normal']},\n"
        f"     normal_concat=range(2, 6),\n     reduce={FIELDS_OF_V2['reduce']}, reduce_concat=range(2, 6))",
        # quoted twice, added without a head, and below a head that quotes another
        "> > " + V2.replace("), (", "),\n> > ("),
        "+" + V2.replace("), (", "),\n+    ("),
        repr(DARTS_V2).replace("_", "\\_"),
        json.dumps(list(FIELDS_OF_V2.values())).replace("_", "\\_"),
        f"@@ -77,0 +78 @@ OTHER = {NOISE[:60]}\n+MINE = {V2}",
        "\n".join(f"{number:3d} {line}" for number, line in enumerate(V2.replace("), (", "),\n    (").split("\n"), 9)),
        f"```python\n{V2}\n```",
        V2.replace("[", "\\[").replace("]", "\\]").replace("(", "\\(").replace(")", "\\)"),
        f"class Genotype(NamedTuple):\n    normal: list[tuple[str, int]]\n    normal_concat: list[int]\n\nV2 = {V2}\n",
        f"V2 = {V2}\nconcat = genotype.normal_concat     # normal_concat: range(2,6)",
        f"```diff\n-{V2.replace('range(2, 6)', 'range(2, 5)')}\n+{V2}\n```",
        f"```diff\n best = Genotype(\n     normal={FIELDS_OF_V2['normal']},\n-    normal_concat=[2],\n"
        f"+    normal_concat=range(2, 6),\n     reduce={FIELDS_OF_V2['reduce']}, reduce_concat=range(2, 6))\n```",
        f"best = {V2}  # was {NOISE}",
        f"{V2} % was {NOISE}",
        f"DARTS & {V2} & 97.24 \\\\".replace("_", "\\textunderscore{}"),
        yaml.dump(FIELDS_OF_V2 | {"normal_concat": range(2, 6), "reduce_concat": range(2, 6)}),
        # beside what only looks as if it took the cell away or changed it
        f'X = """\nhelp\n"""\nDARTS = {V2}\ndef f():\n    """Doc."""',
        f"- current best: {V2}\n```diff\n-lr=0.1\n+lr=0.2\n```\n",
        f"see [below](<#cells>)\n{V2}",
        f"DARTS = {V2}\nmodel = torch.compile(model)\nname = name.replace('-', '_')\nx[0][1] = 3\nrandom.shuffle(data)",
        f"% old: {NOISE}\nDARTS & {V2} & 97.24 \\\\".replace("_", "\\_"),
        f"<td class='org-left'>{V2}</td>",
        f'<table border="1"><tr><td style="text-align: left">{V2}</td></tr></table>',
        f'<code class="python">{V2}</code>',
        f"\x1b[01;31m\x1b[Kgenotype\x1b[m\x1b[K = {V2}",
        f"100%|####| 3/3\x1b[A\n\x1b[2K\x1b[?25lgenotype = {V2}\x1b]8;;\x07",
        # with the same before every line
        *(prefixed(lambda number, line, before=before: before + line) for before in PREFIXES),
        prefixed(lambda number, line: f"{number + 70:6d}\t{line}"),
        prefixed(lambda number, line: f"{number + 9}: {line}"),
        prefixed(lambda number, line: f"search/log.txt{':-'[number > 0]}{line}"),
        prefixed(lambda number, line: f"log.txt{':-'[number > 0]}{number + 12}{':-'[number > 0]}{line}"),
        prefixed(lambda number, line: f"2022-01-01 10:00:0{number % 10},123 INFO search: {line}"),
    ],
)
def test_what_stands_around_a_genotype(text: str, tmp_path: Path) -> None:
    assert Genotype.from_text(text) == DARTS_V2
    (tmp_path / "cell.txt").write_text(text, encoding="utf-8")
    assert Genotype.load(tmp_path / "cell.txt") == DARTS_V2


def test_the_nodes_of_a_structure_are_its_architecture_string() -> None:
    nodes = [[pair.rsplit("~", 1) for pair in group.strip("|").split("|")] for group in ARCH.split("+")]
    value = tuple(tuple((name, int(source)) for name, source in group) for group in nodes)
    for text in (str(value), f"arch = {value}", json.dumps(value)):
        assert Genotype.from_text(text) == Genotype.from_text(ARCH)
    texts = f"first {ARCH}\nagain {ARCH}", ARCH.replace("|", "&#124;"), ARCH.replace("|", "\\|").replace("_", "\\_")
    texts = *texts, f"@@ -1 +1 @@\n-{ARCH.replace('none', 'noise')}\n+{ARCH}"
    ends = f"{ARCH},93.5\n", f"{ARCH} 93.5", f'"{ARCH}",93.5', f"{ARCH}\n{ARCH}", f"# {SHORT}\n{ARCH}", f"{ARCH}.\n"
    tildes = "\\textasciitilde{}", "\\textasciitilde ", "$\\sim$", "\\~{}"
    ends = (
        *ends,
        f"{ARCH} (+0.3)",
        f"acc ~93, {ARCH}, ~3 h",
        f"|1|`{ARCH}`|93|",
        f"INFO|arch={ARCH}",
        f"a + b\n[{ARCH}]",
        f"arch = '{ARCH}'  # was {SHORT}",
        f"arch = '{ARCH}';  // {SHORT}",
        ARCH.replace("~", "\\~").replace("|", "\\|").replace("_", "\\_"),
        *(f"1 & {ARCH.replace('~', tilde)} & 93 \\\\".replace("_", "\\_") for tilde in tildes),
        ARCH.replace("|", "\\textbar{}").replace("~", "\\textasciitilde{}").replace("_", "\\_"),
        f"X = Structure({value})",
        f"CellStructure({value})",
        f"```python\n{value}\n```",
        f"2022-01-01 INFO best = {value}",
        f"print({value})",
        f"-{ARCH.replace('none', 'noise')}\n+{ARCH}",
        f"- {ARCH.replace('none', 'noise')}\n+ {ARCH}",
        f"+{ARCH}",
    )
    around = f"Structure(4 nodes with {ARCH})", f"CellStructure(arch_str='{ARCH}')"
    for text in (*texts, *ends, *around, f"| 1 | `{ARCH}` | 93 |", repr(Genotype.from_text(ARCH))):
        assert Genotype.from_text(text) == Genotype.from_text(ARCH)
    with pytest.raises(GenotypeError, match="in one of the forms"):
        Genotype.from_text(str(value[1:]))


REFUSED = {
    # what: text, part of the message
    "blank": ("\n\n", "but got ''"),
    "brackets": ("[]", "but got '[]'"),
    "nothing": ("", "in one of the forms topocell, darts, pt.darts, gdas, fairdarts"),
    "words": ("hello", "but got 'hello'"),
    "sentence": ("hello you", "e.g. Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=range(2, 6)"),
    "two": (
        f"{V2}\n{V2}\n{V2.replace('skip_connect', 'noise')}",
        "must hold one genotype, but has 3 calls of Genotype",
    ),
    "two in a list": (json.dumps([{"genotype": V2}, {"genotype": NOISE}]), "but has 2 under 'genotype'; keep one"),
    "format and entry": (
        json.dumps({"format": 1, "genotype": V2, "cells": {}}),
        "but has 2 under 'genotype'; keep one",
    ),
    "yaml with a date": (
        yaml.safe_dump({"genotype": json.loads(json.dumps(FIELDS_OF_V2))}) + "date: 2024-01-01\n",
        "it looks like YAML, which cannot be read: values are text, numbers, lists and mappings, but one is a date",
    ),
    "dict and more": (f"dict({FIELDS_OF_V2}, normal=[])", "has the call 'dict(...)'"),
    **{
        f"two beside {what}": (text, "one genotype")
        for what, text in {
            "globs": f"$ tail search/*/log.txt\ngenotype = {V2}\n$ tail retrain/*/log.txt\ngenotype = {NOISE}",
            "hashes": f"epoch 48: {V2}\n##### Final: {NOISE} #####",
            "a heading": f"epoch 48: {V2}\n### Best: {NOISE}",
            "a percentage": f"searched: {V2}\ntest 97.24 (best 97.31) % genotype = {NOISE}",
            "an arrow, twice": f"epoch #10: {V2} -> {NOISE}\n" * 2,
            "yaml": yaml.safe_dump({"genotype": json.loads(json.dumps(FIELDS_OF_V2))}) + f"best: {NOISE}",
            "a log in YAML": f"genotype = {V2}\n" + yaml.safe_dump(DARTS_V2.to_dict()).replace("skip_connect", "noise"),
            "JSON in quotes": f"genotype = {V2}\n"
            + json.dumps(json.dumps(FIELDS_OF_V2).replace("skip_connect", "noise")),
            "rows of a table": f'1,"{V2}"\n2,' + str(NODES).replace("'", '""'),
            "escaped brackets": f"Old: {MARKDOWN_NOISE}\n{V2}",
            "highlighted": f"{HTML_NOISE}<p>{V2}</p>",
            "an attribute": f'<td title="{NOISE}">first</td>\n<td>{V2}</td>',
            "a number": f"#1 {NOISE}\n{V2}",
            "quotes": f'" {NOISE} "\n{V2}',
            "keys": json.dumps({"parent": FIELDS_OF_V2, "child": FIELDS_OF_V2 | {"normal_concat": [5]}}),
        }.items()
    },
    "two strings beside globs": (f"ls a/*/\n{ARCH}\nls b/*/\n{SHORT}", "must hold one genotype"),
    "two strings in a line, twice": (f"parent: {ARCH} child: {SHORT}\n" * 2, "must hold one genotype"),
    "diff of words": (
        f"\x1b[36m@@ -1 +1 @@\x1b[m\nX = {V2.replace('(', chr(27) + '[31m(', 3)}",
        "print it without --color-words",
    ),
    "string and another in LaTeX": (ARCH + "\n" + SHORT.replace("~", "$\\sim$").replace("|", "$|$"), "must be whole"),
    "entry and another as JSON": (
        json.dumps({"genotype": V2, "first": json.dumps({**FIELDS_OF_V2, "normal": FIELDS_OF_V2["reduce"]})}),
        "but has 2 under 'genotype', 'first'; keep one",
    ),
    "comment in a line of grep": (f"73:#V1 = {V2}", "before a genotype may stand"),
    "cut in a string": (
        f'"""\nV1 = {V2}\ndef f():\n    """Doc."""\n    pass\nV2 = {NOISE}',
        "must be whole, but quotes",
    ),
    "diff of words, plain": (f"X = {V2.replace('sep_conv_3x3', '[-sep_conv_3x3-]{+noise+}', 1)}", "print it without"),
    "sum of many": (f"Genotype(normal={'+'.join('1' * 400)}, normal_concat=[2])", "has a BinOp to compute"),
    "part left out": (
        "Genotype(normal=[('skip_connect', 0), ...], normal_concat=[2], reduce=[], reduce_concat=[2])",
        "a part is left out as `...`; restore it",
    ),
    "without quotes": (V2.replace("'", ""), "has 'sep_conv_3x3' to compute; put the name in quotes"),
    "without a comma": (
        V2.replace("), (", ") ("),
        "misses a comma, or has too much, before ('dil_conv_3x3', 2)",
    ),
    "something behind": (
        f"epoch 3\n{V2} acc=(97)",
        "alone, from `Genotype(` in line 2 to its closing",
    ),
    "kept by PyYAML": ("!!python/object/new:genotypes.Genotype\n- []\n", "an object that PyYAML or jsonpickle keeps"),
    "drawing": ('digraph {\n  "c_{k-1}" -> 0 [label=sep_conv_3x3]\n}', "a drawing of Graphviz"),
    "name over two lines": (V2.replace("sep_", "sep_\n", 1), "join the lines of a name that is broken"),
    "in a list, two": (f"[{V2}, {NOISE}]", "one genotype, but has 2"),
    "in a call": (f"mutated({V2})", "before a genotype may stand"),
    "in a printed call": (f"print(mutated({V2}))", "before a genotype may stand"),
    "printed and more": (f"print({V2}._replace(normal=[]))", "before a genotype may stand"),
    "then replaced": (f"best = {V2}; best._replace(normal=[])", "nothing may follow a genotype"),
    "one of two arguments": (f"cross({V2}, other)", "before a genotype may stand"),
    "other identity": (V2.replace("skip_connect", "identity"), "identity is skip_connect in normal cells; in"),
    "call and a list of nodes": (f"a = {V2}\nb = {NODES}", "must hold one genotype"),
    "string and a list of nodes": (f"a = '{SHORT}'\nb = {NODES}", "must hold one genotype"),
    "list of nodes and a string": (f"b = {NODES}\na = '{SHORT}'", "must hold one genotype"),
    "call and a list of four": (f"a = {V2}\nb = {json.dumps([*FIELDS_OF_V2.values()])}", "must hold one genotype"),
    "call and numbers": (
        f"a = {V2}\nb = [[(0, 5), (1, 0), (0, 5), (1, 0)], [(0, 5), (1, 0)]]",
        "must hold one genotype",
    ),
    "a name of another tool": (ARCH.replace("nor_conv_3x3", "conv3x3"), "did you mean 'nor_conv_3x3'?"),
    "struck out in a table": (f'<td class="deleted">{V2}</td>', "before a genotype may stand"),
    "one in a named string": (f'OLD = """\n{NOISE}\n"""\nBEST = {V2}\n\ndef f():\n    """Doc."""', "one genotype"),
    "one in a list of others": (f"- DARTS: {V2}\n  + searched on CIFAR\n* other: {NOISE}", "must hold one genotype"),
    "one in a list with merits": (f"- DARTS: {V2}\n+ fast\n* other: {NOISE}", "in a line that a diff takes away"),
    "one beside a diff": (
        f"- current best: {V2}\n```diff\n-lr=0.1\n+lr=0.2\n```\nwas: {NOISE}",
        "must hold one genotype",
    ),
    "one after a link": (f"{V2}\nsee [below](<#cells>)\n{NOISE}", "must hold one genotype"),
    "commented with a name": (
        "\n".join(f"# old: {line}" for line in json.dumps(FIELDS_OF_V2, indent=1).splitlines()),
        "in one of the forms",
    ),
    "nested without end": ('{"a":' * 900 + "1" + "}" * 900, "too many nested"),
    "lists alone": (
        "Normal cell: [('skip_connect', 0)]\nReduction cell: [('noise', 0)]",
        "the lists of a cell without",
    ),
    "of a small letter": (V2.replace("Genotype", "genotype"), "but got 'genotype(nor"),
    "printed by ConfigSpace": (
        "Configuration:\n  NetworkSelectorDatasetInfo:darts:edge_normal_0, Value: 'sep_conv_3x3'",
        "a configuration as ConfigSpace prints it, of which JSON is read",
    ),
    "of two processes": (
        "\n".join(f"[rank{i % 2}] {line}" for i, line in enumerate(V2.replace("), (", "),\n(").splitlines())),
        "a genotype must be plain data, but ",
    ),
    "lines left out of numbered ones": (
        "\n".join(f"{i + i // 2}: {line}" for i, line in enumerate(V2.replace("), (", "),\n(").splitlines())),
        "a genotype must be plain data, but ",
    ),
    **{
        f"changed by {change}": (f"best = {V2}\n{change}", "must be written out, but the text changes it by")
        for change in (
            *("del best.normal[0]", "random.shuffle(best.normal)", "best.normal += []", "best[0][1] = ('noise', 0)"),
            *("setattr(best, 'normal', [])", "best = mutate(best)", "best = ops.swap(best, 2)", "best.normal.clear()"),
            *("best = mutate(copy.deepcopy(best))", "best = mutate(\n    best,\n    rate=0.1,\n)", "best[0].reverse()"),
            *("best, _ = mutate(best)", "_, best = mutate(best)", "best = best.mutate()", "best: list = mutate(best)"),
            *("for cell in (best.normal, best.reduce):\n    cell.reverse()", "edges = best.normal\nedges[4] = edge"),
        )
    },
    **{
        f"a notebook with {name}": (
            json.dumps({"cells": [{"cell_type": "code", "source": source}], "nbformat": 4, "nbformat_minor": 5}),
            "it looks like a notebook, whose cells are none of a network; save the lines of the genotype",
        )
        for name, source in {
            "a change": [f"best = {V2}\n", "best = best._replace(normal=[])"],
            "a text": f"best = {V2}\nprint(best)",
            "a comment": f"# best = {V2}\nbest = search()",
        }.items()
    },
    "replaced": (f"{V2}._replace(normal=[])", "the text changes it by '._replace('"),
    "indexed": (f"{V2}[0]", "nothing may follow a genotype"),
    "after a comment sign": (f"x = 1  # {V2}", "before a genotype may stand"),
    "open": (V2[:-1], "every bracket must be closed"),
    "other order": (
        "Genotype = namedtuple('Genotype', 'reduce reduce_concat normal normal_concat')\nGenotype([], [2], [], [2])",
        "fields must be given by name",
    ),
    "twice": (V2.replace("normal_concat=", "normal="), "each once, but got 'normal'"),
    "field": (V2.replace("reduce_concat", "concat"), "has the fields normal, normal_concat, reduce, reduce_concat"),
    "connects": (V2.replace("range(2, 6))", "range(2, 6), connectN=3)"), "'reduce_concat', 'connectN']"),
    "computed": (V2.replace("range(2, 6)", "[1 + 1]", 1), "has '1 + 1' to compute"),
    "call": (V2.replace("range(2, 6)", "open('x')", 1), "has the call 'open(...)'"),
    "long range": (V2.replace("range(2, 6)", "range(2, 100000)", 1), "numbers up to 1000"),
    "step": (V2.replace("range(2, 6)", "range(2, 6, 0)", 1), "numbers up to 1000"),
    "deep": (f"Genotype(normal={'[' * 20}{']' * 20})", "nested at most 8 levels"),
    "long": (V2 + " " * MAX_TEXT, f"at most {MAX_TEXT} characters"),
    "mixed": (V2.replace("('sep_conv_3x3', 0)", "('sep_conv_3x3', 0, 0.5)", 1), "a triple with a weight in normal[0]"),
    "nested and flat": (V2.replace("('sep_conv_3x3', 0)", "[('sep_conv_3x3', 0)]", 1), "a list of a pair in normal[0]"),
    "empty node": (V2.replace("('sep_conv_3x3', 0)", "[]", 1), "a list of a pair in normal[0], a pair in normal[1]"),
    "triples without a weight": (
        str({"normal": [[("noise", 0, 1)]], "normal_concat": [2], "reduce": [[("noise", 0, 1)]], "reduce_concat": [2]}),
        "is GDAS' (operation, input, weight) with a float as weight, but got (('noise', 0, 1),); FairDARTS'",
    ),
    "broken in a name": (
        json.dumps(FIELDS_OF_V2).replace("max_pool", "max_\npool", 1),
        "a name is broken over lines 1 and 2: join them",
    ),
    "list of four": (str([[], [2], []]), "in one of the forms"),
    "quote on one side": (f"'{V2}", "before a genotype may stand"),
    "item": (V2.replace("('sep_conv_3x3', 0)", "('sep_conv_3x3', '-0')", 1), "normal[0]: must be a pair"),
    "half": (V2.replace("('sep_conv_3x3', 0)", "('sep_conv_3x3', 0.5)", 1), "normal[0]: must be a pair"),
    "tensor of two": (V2.replace("', 0)", "', tensor([0, 1]))", 1), "normal[0]: must be a pair"),
    "name": (V2.replace("dil_conv_3x3", "dil_conv"), "normal: an operation must be one of topocell's or registered"),
    "not the same": (V2.replace("dil_conv_3x3", "dil_sep_conv_3x3"), "two dilated convolutions where dil_conv_3x3 has"),
    "numbers": ("[[(0, 5), (1, 0)], [(0, 5), (1, 0)]]", "read as the form 'compact', of topocell, darts"),
    "arch string cut at an edge": (f"arch: {ARCH[:-1]}", "must be whole"),
    "arch string cut at a node": (f"arch: {ARCH[: ARCH.rfind('+') + 1]}", "must be whole, but"),
    "arch string cut in a node": (f"arch: {ARCH[: ARCH.rfind('~0')]}", "and '+|none'; restore it"),
    "arch string of which a part": (f"arch: {ARCH[: ARCH.rfind('+')]}+...", "must be whole"),
    "arch string with dots": (f"{SHORT}...", "must be whole"),
    "arch string with dots in brackets": (f"arch: {SHORT}(...)", "must be whole"),
    "arch string after dots in brackets": (f"[...] {SHORT}", "must be whole"),
    "arch string in a quote that is cut": (f"arch = '{SHORT}", "must be whole"),
    "arch string with dots apart": (f"arch: {SHORT} …", "must be whole"),
    **{
        f"arch string beside a part, {rest}": (text, "must be whole, but")
        for rest, text in {
            "an edge": "arch = |none~0|, none~0|",
            "an edge before": "none~0|+ x |none~0|",
            "a bar": "|none~0|-|",
            "a bar after something": "|none~0| 1|",
            "a bar below": "|none~0|\n|",
            "an edge that is cut": "|none~0|\n|skip",
            "a plus": "|none~0| (+)",
            "a plus before": "+ |none~0|",
            "a sum": "'|none~0|' '+' '|none~0|'",
            "escapes": r"|none~0\|+\|none~0|\skip_connect~1\|",
            "escapes on another side": r"\|none~0\|+\|none~0|\skip_connect~1|",
            "an escape": r"|none~0|\|",
        }.items()
    },
    "arch string of other nodes": (
        f"Structure(4 nodes with {SHORT})",
        "must have the 4 nodes, with the input, that stand",
    ),
    "arch string after a comment sign": (f"x = 1  # {ARCH}", "before a genotype may stand"),
    # two, of which one was taken
    "arch string and call": (f"{ARCH}\n{V2}", "must hold one genotype, but has 'Genotype(' beside '|nor_conv_3x"),
    "call and dictionary": (f"{V2}\n{json.dumps(FIELDS_OF_V2)}", "must hold one genotype, but has another with"),
    "call and NNI": (f"{V2}\n{{'normal_n2_p0': 'maxpool'}}", "but has another with 'normal_n2_p0'"),
    "call and JSON of ours": (f"x {json.dumps(DARTS_V2.to_dict())}\n{V2}", "but has another with '\"cells\": {'"),
    "call and the end of another": (f"{V2[-30:]}\n{V2}", "but has another with 'reduce_concat=range('"),
    "dictionary and the end of another": (
        f"{in_form(HUB, DARTS_V2)[-70:]}\n{in_form(HUB, DARTS_V2)}",
        "but has another with 'reduce/op_'",
    ),
    "dictionary and its end": (f"{in_form(HUB, DARTS_V2)}\n{in_form(HUB, DARTS_V2)[-70:]}", "but has another with"),
    "call and another's": (f"{V2}\nPruned{NOISE}", "but has another with 'normal=[('"),
    "log in yaml": (
        f"genotype: {V2}\nepoch: 3\nbest genotype: {NOISE}",
        "but has 2 under 'genotype', 'best genotype'; keep one",
    ),
    "entry and another": (
        json.dumps({"genotype": V2, "last": {**FIELDS_OF_V2, "normal": FIELDS_OF_V2["reduce"]}}),
        "but has 2 under 'genotype', 'last'; keep one",
    ),
    "entry and arch string": (
        json.dumps({"genotype": V2, "last": ARCH}),
        "but has 2 under 'genotype', 'last'; keep one",
    ),
    "entry twice": (f'{{"genotype": {json.dumps(FIELDS_OF_V2)}, "genotype": {{}}}}', "each once, but got 'genotype'"),
    # what is none any more, or becomes another
    **{
        f"comment {sign}": (f"{sign}{V2}", "a genotype in a comment, or")
        for sign in ("# ", "// ", "% ", "-- ", "; ", "-")
    },
    "comment in HTML": (f"<!--\n{V2}\n-->", "a genotype in a comment, or"),
    "comment in C": (f"/*\n * {V2}\n */", "a genotype in a comment, or"),
    "comment in TeX": (f"old % {V2}", "before a genotype may stand"),
    "arch string taken away": (f"-{ARCH}", "a line that a diff takes away"),
    "comment in a file": (f"import x\n# {V2}\n", "looks like a genotype in a comment"),
    "taken away": (f"@@ -1 +1 @@\n-    BEST = {V2}\n+    BEST = OTHER\n", "line that a diff takes away"),
    "not": (f"assert best != {V2}", "before a genotype may stand"),
    "or": (f"best = found or {V2}", "before a genotype may stand"),
    "fields beside a dictionary": (f"Genotype(**{FIELDS_OF_V2}, normal=[])", "each once, but got None"),
    "settings and another": (json.dumps({"arch": V2, "best": NOISE}), "but has 2 under 'arch', 'best'; keep one"),
    "not settings": (f"old != Namespace(genotype={V2})", "before a genotype may stand"),
    "settings in a call": (f"mutated(Namespace(genotype={V2}))", "before a genotype may stand"),
    "settings of what was": (f"Namespace(old_genotype={V2}, layers=20)", "before a genotype may stand"),
    "crossed out in part": (f"~~old: {V2}\nis bad~~", "before a genotype may stand"),
    "crossed out": (f"\\sout{{{V2}}}", "before a genotype may stand"),
    "option twice": (f'train.py --arch "{V2}" --cutout --arch X', "nothing may follow a genotype on its line"),
    "option twice, shorter": (f'train.py --arch "{V2}" --ar=X', "nothing may follow a genotype on its line"),
    "not in words": (f"this is not the cell: {V2}", "before a genotype may stand"),
    "by name in a call over lines": (f"best = mutated(genotype={V2},\n    times=3)", "before a genotype may stand"),
    **{
        f"arch string {what}": (text, message)
        for what, text, message in (
            ("not", f"assert arch != '{ARCH}'", "before a genotype may stand"),
            ("not in words", f"not this: {ARCH}", "before a genotype may stand"),
            ("not in other words", f"this isn't the cell: {ARCH}", "before a genotype may stand"),
            ("or", f"arch = found or '{ARCH}'", "before a genotype may stand"),
            ("del", f"del archs['{ARCH}']", "before a genotype may stand"),
            ("in a call that changes it", f"arch = mutate('{ARCH}', 1)", "before a genotype may stand"),
            ("replaced", f"arch = '{ARCH}'.replace('none', 'noise')", "nothing may follow a genotype on its line"),
            ("replaced later", f"a = '{ARCH}'\na = a.replace('none', 'noise')", "the text changes it by 'a.replace('"),
            ("cut by a number", f"'{ARCH}'[:15]", "nothing may follow a genotype on its line"),
            ("on a condition", f"arch = '{ARCH}' if found else OTHER", "nothing may follow a genotype on its line"),
        )
    },
    "in a call over lines": (f"best = mutated(\n    {V2},\n)", "before a genotype may stand"),
    "second of a call over lines": (f"best = cross(\n    other,\n    {V2},\n)", "every bracket must be closed"),
    "replaced later": (
        f"best = {V2}\nbest = best._replace(normal=[])",
        "must be written out, but the text changes it by",
    ),
    "changed later": (f"best = {V2}\nbest.normal[0] = ('noise', 0)", "the text changes it by 'best.normal[0] ='"),
    "longer later": (f"best = {V2}\nbest.normal.append(('noise', 0))", "the text changes it by 'best.normal.append('"),
    "class of another order": (
        "class Genotype(NamedTuple):\n    reduce: list\n    normal: list\nX = Genotype([], [2], [], [2])",
        "fields must be given by name",
    ),
    "node twice": (
        V2.replace("normal=[", "normal=[('noise', 0), ('noise', 1), "),
        "a node, and each node is in normal_",
    ),
    "three pairs a node": (
        V2.replace("_concat=range(2, 6)", "_concat=range(2, 5)"),
        "but node 5 is neither; where nodes",
    ),
    "fields alone": (f"{V2[9:-1]}", "must stand in one Genotype(...), but got"),
    "fields in lines": (V2[9:-1].replace("], ", "]\n"), "must stand in one Genotype(...), but got"),
    "fields in yaml": ("normal:\n- - sep_conv_3x3\n  - 0\n", "has the fields normal, normal_concat, reduce"),
    "yaml with types": ("normal: !!python/object:os.system []\n", "must stand in one Genotype(...)"),
    "yaml of aliases": ("normal: &a [1]\n" + "".join(f"{c}: &{c} [{', '.join('*a' * 9)}]\n" for c in "bc"), "Genotype"),
    "printed in part": (repr(DARTS_V2).replace("space='darts', ", ""), "the fields format, space, cells are required"),
    "list of two": (V2.replace("range(2, 6)", "list([2], [3])", 1), "has the call 'list(...)'"),
    "long arange": (V2.replace("range(2, 6)", "np.arange(2, 1e9)", 1), "but got np.arange(2, 1000000000.0)"),
    "log": ("\n".join([V2] * 60), "keep the lines of one genotype"),
    "NAS-Bench-101": ("[[0, 1], [0, 0]]\n['input', 'conv3x3-bn-relu']", "it looks like a cell of NAS-Bench-101, whose"),
    "NAS-Bench-101 in json": ('{"module_adjacency": [[0, 1], [0, 0]]}', "it looks like a cell of NAS-Bench-101"),
    "recurrent": ("Genotype(recurrent=[('tanh', 0)], concat=range(1, 9))", "it looks like a recurrent cell: give the"),
    "name of a cell": (
        "darts-v2",
        "a name or a path is not read: topocell.genotype.published.published(NAME)",
    ),
    "path": ("runs/dots", "a name or a path is not read"),
    "file": ("../cell.json\n", "a path is not read"),
    "TransNAS-Bench-101": ("64-41414-1_02_333", "it looks like a cell of TransNAS-Bench-101 in numbers"),
    "NATS-Bench": ("64:32:16:8:48", "it looks like the sizes of NATS-Bench, which are no cell"),
    "ENAS": ("0\n1 0\n2 1 0\n", "it looks like numbers without the names of operations, as of ENAS and NAO"),
    "arch strings": ("a |none~0|\nb |noise~0|", "has 2 architecture strings"),
    "dictionary": ("{'a': 1}", "but got a dictionary of ['a']"),
    "two dictionaries": ("{'normal_n2_p0': []} {'a': 1}", "nothing may follow"),
    "key twice": ("{'normal_n2_p0': 'maxpool', 'normal_n2_p0': 'avgpool'}", "each once, but got 'normal_n2_p0'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_what_is_wrong(name: str) -> None:
    text, message = REFUSED[name]
    with pytest.raises(GenotypeError) as caught:
        Genotype.from_text(text)
    assert message in str(caught.value) and len(str(caught.value)) < 500
    assert ("ENAS and NAO" in str(caught.value)) == (name in ("ENAS", "list of four"))


def test_a_comment_is_told_only_where_nothing_else_is_there() -> None:
    several = "\n".join(f"C{number} = {cell}" for number, cell in enumerate((V2, NOISE, V2, NOISE, V2)))
    with pytest.raises(GenotypeError, match=r"has 5 calls of Genotype; keep one$"):
        Genotype.from_text(f"{several}\n# OLD = {NOISE}\n")
    with pytest.raises(GenotypeError, match="must be whole") as caught:
        Genotype.from_text(f"{ARCH[:-1]}\n# {ARCH}")
    assert "comment" not in str(caught.value)
    with pytest.raises(GenotypeError, match="it looks like a genotype in a comment"):
        Genotype.from_text(f"class Genotype(NamedTuple):\n    normal: list\n\n# OLD = {V2}\n")


@pytest.mark.parametrize(
    "around",
    ["{}" + "  1" * 2000 + " x", "{}" + " (1 %" * 1000 + "!", "{}" + "\n" * 15_000 + "x = 1 +"],
    ids=["numbers", "shares", "lines"],
)
def test_what_stands_around_takes_no_time_that_doubles(around: str) -> None:
    """With each further number on its line, say: such a text would never be done."""
    code = "import sys; from topocell import Genotype; Genotype.from_text(sys.stdin.read())"
    done = subprocess.run(
        [sys.executable, "-c", code], input=around.format(V2), capture_output=True, text=True, timeout=300
    )
    assert done.returncode in (0, 1) and ("GenotypeError" in done.stderr) == bool(done.returncode)


def test_a_form_that_was_asked_for_is_held_to() -> None:
    assert Genotype.from_text(V2, "darts") == DARTS_V2
    with pytest.raises(GenotypeError, match=r"must have the form 'gdas', Genotype.*, but has the form 'darts'"):
        Genotype.from_text(V2, "gdas")
    with pytest.raises(GenotypeError, match=r"a form is one of .* \(did you mean 'gdas'\?\), but got 'gdass'"):
        Genotype.from_text(V2, "gdass")
    with pytest.raises(GenotypeError, match=r"but has the form 'pt\.darts'"):
        Genotype.from_darts(in_form("pt.darts", DARTS_V2))


# --- triples ---


def triples(normal: str, concat: str = "range(2, 6)") -> str:
    reduce = "[('skip_connect', 2, 0), ('skip_connect', 3, 1)]"
    return f"Genotype(normal={normal}, normal_concat={concat}, reduce={reduce}, reduce_concat=range(2, 6))"


def test_the_published_text_of_gdas() -> None:
    weighted = re.sub(r"\('(\w+)', (\d)\)", r"('\1', \2, 0.13017432391643524)", GDAS_V1.to_darts())
    assert Genotype.from_text(weighted, "gdas") == GDAS_V1
    again = f"epoch 1: {weighted}\nepoch 2: {weighted.replace('0.13017432391643524', '0.2')}"
    assert Genotype.from_text(again, "gdas") == GDAS_V1
    for weight in ("0.5", "tensor(0.1302, grad_fn=<SelectBackward0>)", "tensor(0.1, device='cuda:0')"):
        assert Genotype.from_text(weighted.replace("0.13017432391643524", weight), "gdas") == GDAS_V1
    assert Genotype.from_text(re.sub(r"', (\d), ([\d.]+)\)", r"', '\1', '\2')", weighted), "gdas") == GDAS_V1
    later = weighted.replace("sep_conv_", "dua_sepc_").replace("dil_conv_", "dil_sepc_")
    assert Genotype.from_text(later, "gdas") == GDAS_V1


def test_the_published_text_of_fairdarts() -> None:
    """Its node 3 has no operation, and its concat lists it all the same."""
    text = triples("[('sep_conv_3x3', 2, 0), ('sep_conv_5x5', 2, 1), ('max_pool_3x3', 4, 0), ('sep_conv_3x3', 5, 0)]")
    cell = Genotype.from_text(text, "fairdarts").cells["normal"]
    expected = ((("sep_conv_3x3", 0), ("sep_conv_5x5", 1)), (), (("max_pool_3x3", 0),), (("sep_conv_3x3", 0),))
    assert cell == CellGenotype(2, expected, (2, 4, 5))
    of_numpy = re.sub(r"', (\d), (\d)\)", r"', '\1', '\2')", text)
    assert Genotype.from_text(of_numpy, "fairdarts").cells["normal"] == cell


@pytest.mark.parametrize(
    ("normal", "concat", "message"),
    [
        ("[('noise', 0, 1), ('noise', 1, 1)]", "[2]", "GDAS' (operation, input, weight) has a float"),
        ("[('noise', 0, 2), ('noise', 1, 2)]", "[2]", "two integers are FairDARTS' (operation, node, input)"),
        ("[('noise', 3, 0), ('noise', 2, 1)]", "[2, 3]", "normal[1]: two integers are FairDARTS'"),
        ("[('noise', 2, 2)]", "[2]", "normal[0]: two integers are FairDARTS'"),
        ("[('noise', 2, -1)]", "[2]", "normal[0]: two integers are FairDARTS'"),
        ("[('noise', 2, 0), ('noise', 4, 3)]", "[2, 4]", "a predecessor must not be a dropped node"),
        ("[('noise', 2, 0), ('noise', 3, 1)]", "[3]", "normal_concat: must list every node that has an operation"),
        ("[('noise', 2, 0), ('noise', 65, 1)]", "[2]", "normal_concat: must list every node"),
        ("[('noise', 2, 0), ('noise', 999, 1)]", "[2, 999]", "cells.normal.nodes: must be a list of 1 to 64"),
        ("[[('noise', 2, 0)]]", "[2]", "a list of a triple of integers in normal[0]"),
        ("[('noise', 2, 0.5)]", "[2]", "a triple with a weight in normal[0], a triple of integers in reduce[0]"),
        ("[('noise', 2, True)]", "[2]", "normal[0]: must be a pair"),
    ],
)
def test_triples_that_are_neither_form_are_refused(normal: str, concat: str, message: str) -> None:
    with pytest.raises(GenotypeError) as caught:
        Genotype.from_text(triples(normal, concat))
    assert message in str(caught.value)


# --- dictionaries and numbers ---

BOTH: dict[str, Any] = {}
for cell in ("normal", "reduce"):
    BOTH |= {f"{cell}_n2_p0": "sepconv5x5", f"{cell}_n2_p1": "maxpool", f"{cell}_n2_switch": [f"{cell}_n2_p1"]}


def test_the_switch_of_nni_says_which_inputs_are_taken() -> None:
    expected = CellGenotype(2, ((("max_pool_3x3", 1),),), (2,))
    assert Genotype.from_text(json.dumps(BOTH)).cells == {"normal": expected, "reduce": expected}
    without = {key: value for key, value in BOTH.items() if "switch" not in key}
    assert len(Genotype.from_text(str(without)).cells["normal"].nodes[0]) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normal_n2_switch": None, "normal_n2_p1": []}, "normal_n2: a node has a normal_n2_switch"),
        ({"normal_n2_switch": ["normal_n2_p3"]}, "normal_n2_switch: must list some of"),
        ({"normal_n2_switch": ["normal_n2_p1"] * 2}, "normal_n2_switch: must list some of"),
        ({"normal_n2_switch": [2]}, "_p1'], or numbers from 0 to 1, but got (2,)"),
        ({"normal_n2_switch": [True]}, "normal_n2_switch: must list some of"),
        ({"normal_n2_switch": [{"a": 1}]}, "normal_n2_switch: must list some of"),
        ({"normal_n2_switch": [1, "normal_n2_p1"]}, "normal_n2_switch: must list some of"),
        ({"normal_n2_switch": [1], "normal_n2_p0": []}, "must list some of ['normal_n2_p1'], but got (1,)"),
        ({"normal_n2_p0": [True, False]}, "normal_n2_p0: must be an operation, or [] for none"),
        ({"normal_n2_p0": 3}, "normal_n2_p0: an operation must have a name, but is the number 3"),
        ({"normal_n4_p0": "maxpool", "normal_n4_switch": ["normal_n4_p0"]}, "must be numbered from 2 without a gap"),
        ({"normal_lr": 0.1}, "keys must be like normal_n2_p0 or normal_n2_switch, but got 'normal_lr'"),
        ({"normal_n2_p1": "sepconv9x9"}, "normal: an operation must be one of topocell's"),
        ({"normal_n2_p2": "maxpool", "normal_n2_switch": ["normal_n2_p2"]}, "edge from the future"),
    ],
)
def test_faults_of_nni_name_the_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(GenotypeError) as caught:
        Genotype.from_text(json.dumps(BOTH | changes))
    assert message in str(caught.value) and "read as the form 'nni'" in str(caught.value)


def test_the_switch_of_nni_2_has_numbers() -> None:
    """Which count all inputs of the node, the most likely first."""
    found: dict[str, Any] = {}
    for name, cell in DARTS_V2.cells.items():
        for node, pairs in enumerate(cell.nodes, 2):
            found |= {f"{name}_n{node}_p{source}": "maxpool" for source in range(node)}
            found |= {f"{name}_n{node}_p{source}": operation for operation, source in pairs}
            found[f"{name}_n{node}_switch"] = [source for _, source in pairs]
    assert Genotype.from_text(json.dumps(found)) == DARTS_V2


def test_numbers_of_nni_need_their_order() -> None:
    names = ["maxpool", "avgpool", "skipconnect", "sepconv3x3"]
    genotype = Genotype.from_text(json.dumps(BOTH | {"normal_n2_p1": 3}), operations=names)
    assert genotype.cells["normal"].nodes == ((("sep_conv_3x3", 1),),)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("normal/op_6_0", "skip_connect", "spaces of other nodes, NASNet, ENAS, AmoebaNet and PNAS, differ"),
        ("normal/op_2_2", "skip_connect", "normal/op_2_2: a node has two operations and their inputs, but has more"),
        ("normal/op_2_0", "sep_conv_7x7", "normal/op_2_0: must be of the DARTS space"),
        ("normal/input_2_0", [0, 1], "normal/input_2_0: must be one input"),
        ("normal/input_2_0", 2, "edge from the future"),
        ("normal/nodes", 4, "keys must be like normal/op_2_0 or normal/input_2_0, but got 'normal/nodes'"),
    ],
)
def test_faults_of_the_model_hub_name_the_key(key: str, value: Any, message: str) -> None:
    sound = json.loads(in_form(HUB, DARTS_V2))
    assert Genotype.from_text(json.dumps(sound | {"width": 16, "num_cells": 20, "accuracy": 0.9})) == DARTS_V2
    lists = {k: [v] if "input" in k else v for k, v in sound.items()}
    assert Genotype.from_text(str(lists)) == DARTS_V2
    with pytest.raises(GenotypeError) as caught:
        Genotype.from_text(json.dumps(sound | {key: value}))
    assert message in str(caught.value)
    del sound["reduce/input_5_1"]
    with pytest.raises(GenotypeError, match="reduce/input_5_1: a node has two operations and their inputs, but has no"):
        Genotype.from_text(json.dumps(sound))


BENCH = "NetworkSelectorDatasetInfo:darts:"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("edge_normal_2", None, "edge_normal_2: must be an operation of the DARTS space, but got None"),
        ("inputs_node_normal_3", "1_0", "inputs_node_normal_3: must be two inputs below 3 such as '0_1'"),
        ("inputs_node_normal_3", "0_3", "inputs_node_normal_3: must be two inputs below 3"),
        ("inputs_node_normal_3", None, "inputs_node_normal_3: must be two inputs below 3"),
        ("inputs_node_normal_6", "0_1", "inputs_node_normal_6: must belong to a node"),
        ("edge_normal_4", "skip_connect", "edge_normal_4: must belong to a node"),
    ],
)
def test_faults_of_nasbench301_name_the_key(key: str, value: Any, message: str) -> None:
    sound = json.loads(in_form("nasbench301", DARTS_V2))
    wanted = Genotype.from_text(json.dumps(sound))
    assert wanted.key == DARTS_V2.key
    assert Genotype.from_text(json.dumps(sound).replace(":darts:", "_COLON_darts_COLON_")) == wanted
    result = {"optimized_hyperparamater_config": sound | {"OptimizerSelector:optimizer": "sgd"}, "test_accuracy": 94.1}
    assert Genotype.from_text(json.dumps(result)) == wanted
    with pytest.raises(GenotypeError) as caught:
        Genotype.from_text(json.dumps(sound | {BENCH + key: value}))
    assert message in str(caught.value)


def test_a_configuration_as_newer_versions_of_configspace_print_it() -> None:
    text = in_form("nasbench301", DARTS_V2)
    wanted = Genotype.from_text(text)
    lines = "".join(f"  {name!r}: {value!r},\n" for name, value in json.loads(text).items())
    printed = f"Configuration(values={{\n{lines}}})"
    for around in ("{}", "2024-01-02 10:00:00 INFO incumbent {}", "({}, 0.93)", "config = {}"):
        assert Genotype.from_text(around.format(printed)) == wanted
    with pytest.raises(GenotypeError, match="one genotype"):
        Genotype.from_text(f"{printed}\n{printed.replace('sep_conv_3x3', 'dil_conv_5x5', 1)}")


def test_the_compact_text_of_naslib_by_hand() -> None:
    cells = Genotype.from_text("(((0, 3), (1, 2)), ((1, 0), (0, 6)))", operations=ORDER).cells
    assert cells["normal"].nodes == (((ORDER[3], 0), (ORDER[2], 1)),)
    assert cells["reduce"].nodes == (((ORDER[0], 1), (ORDER[6], 0)),)


def test_numbers_below_the_order() -> None:
    text = "compact = (((0, 1), (1, 0)), ((0, 1), (1, 0)))"
    assert Genotype.from_text(text, operations=["noise", "skip_connect"]).cells["normal"].nodes == (
        (("skip_connect", 0), ("noise", 1)),
    )
    with pytest.raises(GenotypeError, match=r"normal\[0\]: must be a number below 1, but got 1"):
        Genotype.from_text(text, operations=["noise"])
    with pytest.raises(GenotypeError, match="normal: must list two pairs for each node, but got 1"):
        Genotype.from_text("[[(0, 1)], [(0, 0)]]", operations=ORDER)


# --- files ---


@pytest.mark.parametrize("writer", FORMS_OF_TEXTS)
def test_files_are_read_in_every_form(writer: str, tmp_path: Path) -> None:
    path = tmp_path / "cell.txt"
    sound = Genotype.from_nasbench201("|noise~0|+|none~0|noise~1|") if writer == "nasbench201" else DARTS_V2
    path.write_text(f"{in_form(writer, sound)}\n", encoding="utf-8")
    assert Genotype.load(path, operations=ORDER).key == sound.key


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("text", [V2, f"best = {V2}\r\n", json.dumps(DARTS_V2.to_dict())])
def test_files_of_windows_are_read(encoding: str, text: str, tmp_path: Path) -> None:
    """Its editor writes a byte order mark, and a redirection in its shell writes UTF-16."""
    path = tmp_path / "cell.txt"
    path.write_bytes((codecs.BOM_UTF16_BE if encoding == "utf-16-be" else b"") + text.encode(encoding))
    assert Genotype.load(path) == DARTS_V2


@pytest.mark.parametrize("raw", [b"\x89PNG\r\n\x1a\n\0\0", b"\x10\0\0\0\0\0\0\0{}" + bytes(30_000)])
def test_a_file_that_is_no_text_is_said_to_be_none(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(raw)
    with pytest.raises(GenotypeError, match=r"weights\.bin: a genotype is a text, but this file is none"):
        Genotype.load(tmp_path / "weights.bin")


def test_a_file_of_another_form_than_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "cell.json"
    DARTS_V2.save(path)
    with pytest.raises(GenotypeError, match=r"cell\.json: the text must have the form 'nni'"):
        Genotype.load(path, "nni")


def test_a_torn_json_file_is_said_to_be_one(tmp_path: Path) -> None:
    path = tmp_path / "genotype.json"
    path.write_text(json.dumps(DARTS_V2.to_dict())[:100])
    with pytest.raises(GenotypeError, match="a genotype is a JSON file, but this is not: Unterminated"):
        Genotype.load(path)
    path.write_text(json.dumps(DARTS_V2.to_dict()).replace('"cells": {', '"cells": {"normal": {}, '))
    with pytest.raises(GenotypeError, match="a genotype is a JSON file, but this is not: a key is there twice in"):
        Genotype.load(path)

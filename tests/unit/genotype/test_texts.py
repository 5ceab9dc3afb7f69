"""Cells in texts as people have them: programs, settings, logs, tables and copies from documents."""

import csv
import io
import json
import pprint
import quopri
import re
from ast import literal_eval
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
import yaml
from tests.helpers.forms import HUB, ORDER, in_form
from tests.helpers.golden_genotypes import DARTS_V2

from topocell.errors import GenotypeError
from topocell.genotype.genotype import Genotype

V2 = DARTS_V2.to_darts()
OTHER = Genotype.from_text(V2.replace("('skip_connect', 0)", "('skip_connect', 1)"))
B = OTHER.to_darts()
#: The two cells in forms that are data: (text of the first, text of the second).
WRITERS = ("compact", HUB, "nasbench301", "topocell")
DATA = {name: tuple(in_form(name, cell) for cell in (DARTS_V2, OTHER)) for name in WRITERS}
FIELDS = {
    name: json.dumps(
        {
            key: value
            for kind in ("normal", "reduce")
            for key, value in (
                (kind, [pair for node in cell.cells[kind].nodes for pair in node]),
                (f"{kind}_concat", list(cell.cells[kind].concat)),
            )
        }
    )
    for name, cell in (("A", DARTS_V2), ("B", OTHER))
}
FOUR = json.dumps(list(json.loads(FIELDS["A"]).values()))
TUPLES = str({name: [*map(tuple, of)] if type(of[0]) is list else of for name, of in json.loads(FIELDS["A"]).items()})
IN_TOML = "".join(f"{key} = {json.dumps(value)}\n" for key, value in json.loads(FIELDS["A"]).items())
WIDE = str.maketrans({code - 0xFEE0: code for code in range(0xFF01, 0xFF5F)} | {0x5F: 0x5F})


def of_quotes(first: str, last: str) -> str:
    return V2.replace("('", f"({first}").replace("',", f"{last},")


READ = {
    # characters
    "wide": V2.translate(WIDE),
    "wide colon": f"最终结构：{V2}",
    "low quotes": of_quotes("‚", "‘"),
    "guillemets": of_quotes("«", "»"),
    "accents": of_quotes("´", "´"),
    "a link": f"https://example.org/draw?cell={quote(V2)}",
    "a form": f"arch={quote_plus(V2)}&layers=20",
    # brackets before a form of data
    "NASLib's log": f"[01/02 10:00:00 nl.defaults.trainer]: genotype = {DATA['compact'][0]}",
    "a log of NNI": f"[2024-01-01 10:00:00] INFO (nni/MainThread) {DATA['compact'][0]}",
    "a list behind ray": f"(pid=1234) {FOUR}",
    "lstlisting": f"\\begin{{lstlisting}}[language=Python]\n{FIELDS['A']}\n\\end{{lstlisting}}",
    "TOML of fields": f"# found\n{IN_TOML}",
    "TOML of fields in a table": f"lr = 0.1\nday = 2024-01-01\n\n[best.cell]\n{IN_TOML}",
    "TOML": f"[model]\ngenotype = {FOUR}\nlayers = 20\n",
    # Python that looks like YAML
    "tuples behind a name": f"genotype: {TUPLES}",
    "numbers behind a name": f"model: darts\ngenotype: {DATA['compact'][0]}\n",
    # values of Python as a whole
    "any key": f"{{'accuracy': 97.2, 'best_arch': {V2}}}",
    "any key behind a log": f"INFO: {{'accuracy': 97.2, 'best_arch': {V2}}}",
    "pairs": f"OrderedDict([('lr', 0.1), ('genotype', {V2!r})])",
    "a list": f"[{V2}]",
    "a list of texts": json.dumps([V2]),
    "a tuple": str((0.97, V2)),
    "a tuple of data": str((0.97, json.loads(FIELDS["A"]))),
    "pprint": pprint.pformat({"accuracy": 0.97, "genotype": V2, "lr": 0.1}, width=60),
    "pprint of a text": f"best = {pprint.pformat(V2, width=60)}",
    "used by a program": (
        f"best = {V2}\nnet = Net(16, best)\nfor pair in best.normal:\n    names.append(pair[0])\nprint(best, end='')"
    ),
    "a bracket": f"best = (\n    {V2}\n)",
    "a line of a dictionary": f"    'DARTS_V2': {V2},",
    # JSON and YAML
    "a line of JSON": f'  "genotype": {json.dumps(V2)},\n',
    "some lines of JSON": f'  "best": {json.dumps(json.loads(FIELDS["A"]), indent=2)},\n',
    "data as a text": json.dumps({"params": [{"key": "lr", "value": "0.1"}, {"key": "arch", "value": FIELDS["A"]}]}),
    "data as a text in a text": json.dumps({"body": json.dumps({"arch": json.dumps({"genotype": FIELDS["A"]})})}),
    "YAML of any key": yaml.safe_dump({"id": 3, "arch": repr(DARTS_V2)}),
    "YAML of a list": yaml.safe_dump({"args": ["--genotype", V2]}, default_style="'"),
    # beside it
    "a bar": f" 49%|████▉     | 49/100 [1:02:03<1:02:03, 12.3s/it]{V2}",
    "a line of loguru": json.dumps({"text": f"10:00:00 | INFO | a:b:3 - {V2}\n", "record": {"line": 3, "message": V2}}),
    "a result": f"genotype = {V2} valid_acc: 97.24 lr=0.1",
    "a panel": f"╭── Best ──╮\n│ {V2} │\n╰──────────╯",
}


def csv_of(*rows: tuple[str, ...]) -> str:
    file = io.StringIO()
    csv.writer(file).writerows([[f"column {i}" for i in range(len(rows[0]))], *rows])
    return file.getvalue()


def added(text: str) -> str:
    """As a diff adds the lines of a file."""
    return "".join(f"+{line}\n" for line in text.strip().splitlines())


def in_yaml(data: object, style: bool | None = False) -> str:
    return yaml.safe_dump(data, default_flow_style=style, sort_keys=False)


GIT = "diff --git a/c.yaml b/c.yaml\nnew file mode 100644\nindex 0000000..1234567\n"
GIT += "--- /dev/null\n+++ b/c.yaml\n@@ -0,0 +1,9 @@\n"
OF_FIELDS = in_yaml(json.loads(FIELDS["A"]), None)
YAML = {
    **{f"{name} below keys": in_yaml({"model": {"arch": json.loads(DATA[name][0])}}) for name in (HUB, "nasbench301")},
    **{f"{name} of wandb": in_yaml({"arch": {"desc": None, "value": json.loads(DATA[name][0])}}) for name in (HUB,)},
    "a text and its data": json.dumps({"genotype": V2, "last": json.loads(FIELDS["A"])}),
    "a text and its data as text": json.dumps({"genotype": V2, "first": FIELDS["A"]}),
    "a configuration as text": json.dumps({"config": f"Configuration(values={json.loads(DATA['nasbench301'][0])})"}),
    "YAML as text": json.dumps({"cell": OF_FIELDS}),
    "fields below a key": in_yaml({"cell": json.loads(FIELDS["A"])}),
    "fields beside others": f"lr: 0.1\n{OF_FIELDS}",
    "fields below words": f"Our cell:\n\n{OF_FIELDS}",
    "fields beside others in Python": str({"lr": 0.1} | json.loads(FIELDS["A"])),
    "added": added(OF_FIELDS),
    "added below a key": added(in_yaml({"cell": json.loads(FIELDS["A"])})),
    "added in one line": added(in_yaml(json.loads(FIELDS["A"]), True)),
    "of git show": GIT + added(OF_FIELDS),
    "in a fence": f"```yaml\n{OF_FIELDS}```",
    "in reStructuredText": ".. code-block:: yaml\n\n" + "".join(f"   {line}\n" for line in OF_FIELDS.splitlines()),
}


IN_GIT = (
    "commit 1234567\nAuthor: A <a@b.c>\nDate:   Mon Jan 1 10:00:00 2024 +0000\n\n    Add the cell: longer\n\n" + GIT
)
YAML |= {
    "of git show with its head": IN_GIT + added(OF_FIELDS),
    "of a mail of git": f"From 1234567\nSubject: Add: it\n---\n c.yaml | 9 +++\n\n{GIT}{added(OF_FIELDS)}-- \n2.39.2\n",
    "of a diff in a fence": f"```diff\n{GIT}{added(OF_FIELDS)}```\n",
    "in a fence of a page": f"# Results\n\nIn 4 hours: a cell.\n\n```yaml\n{OF_FIELDS}```\n\nIt reaches 97.2 %.\n",
    "in a listing of LaTeX": f"We find:\n\\begin{{lstlisting}}\n{OF_FIELDS}\\end{{lstlisting}}\nIt is good.\n",
    "in a block of reStructuredText": "The cell::\n\n    " + OF_FIELDS.replace("\n", "\n    ") + "\n\nIt is good.\n",
    "of grep -n": "".join(
        f"{number}:{line}\n" for number, line in enumerate(in_yaml(json.loads(FIELDS["A"])).splitlines(), 1)
    ),
    "of braces": yaml.safe_dump({"model": {"arch": json.loads(DATA[HUB][0])}}, default_flow_style=True, width=9999),
    "of NAS-Bench-301 in braces": yaml.safe_dump(
        json.loads(DATA["nasbench301"][0]), default_flow_style=True, width=9999
    ),
    "lists in braces": yaml.safe_dump({"model": {"arch": json.loads(FOUR)}}, default_flow_style=True, width=9999),
}


COLON = {key.replace(":", "_COLON_"): value for key, value in json.loads(DATA["nasbench301"][0]).items()}
YAML |= {
    "keys of YAHPO Gym": in_yaml(COLON),
    "keys of YAHPO Gym below a key": in_yaml({"best": COLON}),
    "a record of keys of YAHPO Gym": json.dumps({"epoch": 1}) + "\n" + json.dumps({"epoch": 2, "best": COLON}),
    "a record of the hub": json.dumps({"epoch": 1}) + "\n" + json.dumps({"epoch": 2, "best": json.loads(DATA[HUB][0])}),
    "the second document": f"---\nlr: 0.1\n---\n{OF_FIELDS}",
    "the same in two documents": f"{OF_FIELDS}---\n{OF_FIELDS}",
    "front matter": f"---\ntitle: ours\n{OF_FIELDS}---\nIt reaches 97.2 %.\n",
    "the same in two records": "\n".join(json.dumps({**json.loads(FIELDS["A"]), "epoch": n}) for n in range(2)),
}


@pytest.mark.parametrize("name", YAML)
def test_yaml_is_read_wherever_json_is(name: str) -> None:
    assert Genotype.from_text(YAML[name]).key == DARTS_V2.key


def test_nodes_in_yaml_are_read_below_keys() -> None:
    nodes = [[["nor_conv_3x3", 0]], [["none", 0], ["skip_connect", 1]], [["nor_conv_1x1", 0], ["none", 1], ["none", 2]]]
    wanted = Genotype.from_text(json.dumps(nodes))
    for data in (nodes, {"model": {"arch": nodes}}):
        assert Genotype.from_text(in_yaml(data)) == wanted
        assert Genotype.from_text(yaml.safe_dump(data, indent=4)) == wanted


@pytest.mark.parametrize("name", READ)
def test_texts_are_read(name: str) -> None:
    assert Genotype.from_text(READ[name], operations=ORDER) == DARTS_V2


FOUR_NUMBERS = "[[[0, 4], [1, 4], [0, 4], [1, 3]], [[0, 4], [1, 4], [0, 1], [1, 1]]]"
STRING = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|nor_conv_1x1~0|avg_pool_3x3~1|nor_conv_3x3~2|"
TWO = {
    "a wide one": f"{B.translate(WIDE)}\n{V2}",
    "one of other quotes": f"{FIELDS['B'].replace(chr(34), '„')}\n{V2}",
    "one in a link": f"https://example.org/?cell={quote(B)}\n{V2}",
    "data in a link": f"https://example.org/?cell={quote(DATA[HUB][1])}\n{V2}",
    "slashes with signs": DATA[HUB][1].replace("/", "\\/") + f"\n{V2}",
    "copied blanks": f"{FIELDS['B'].replace('_', ' _ ')}\n{V2}",
    "numbers beside YAML": f"genotype: {V2}\nlr: 0.1\nOut[3]: {DATA['compact'][1]}",
    "numbers above YAML": f"The cell is:\n\n    {DATA['compact'][1]}\n\n{yaml.safe_dump({'genotype': {'value': V2}})}",
    "a call and a text": f"{{'best': {V2}, 'start': {B!r}}}",
    "a call and data": f"{{'best': {V2}, 'start': {FIELDS['B']}}}",
    "a call and data as text": f"{{'best': {V2}, 'start': {FIELDS['B']!r}}}",
    "two calls": f"[{V2}, {B}]",
    "two texts": str((V2, B)),
    "two texts of data": json.dumps([FIELDS["A"], FIELDS["B"]]),
    "data and its text": json.dumps({"best": json.loads(FIELDS["A"]), "start": FIELDS["B"]}),
    "two keys": json.dumps({"best": FIELDS["A"], "start": FIELDS["B"]}),
    "numbers beside data": json.dumps({"start": json.loads(FOUR_NUMBERS), "nni": json.loads(DATA[HUB][0])}),
    "numbers beside a text in JSON": json.dumps({"start": json.loads(FOUR_NUMBERS), "darts": V2}),
    "numbers beside fields": json.dumps({"start": json.loads(FOUR_NUMBERS), **json.loads(FIELDS["A"])}),
    "two forms": json.dumps({"best": DATA[HUB][0], "start": DATA["nasbench301"][1]}),
    "a line of JSON": f'"best": {json.dumps(V2)},\n"start": {json.dumps(B)},',
    "after brackets": f"[INFO] {DATA['compact'][0]}\n[INFO] {DATA['compact'][1]}",
    "below two keys in YAML": in_yaml({"best": json.loads(DATA[HUB][0]), "start": {"arch": json.loads(DATA[HUB][1])}}),
    "fields beside data in YAML": in_yaml({**json.loads(FIELDS["A"]), "start": json.loads(DATA[HUB][1])}),
    "fields beside a text in YAML": in_yaml({**json.loads(FIELDS["A"]), "start": B}),
    "keys of YAHPO Gym": json.dumps(COLON) + "\n" + B,
    "YAML as text beside data": json.dumps(
        {"best": json.loads(FIELDS["A"]), "parent": in_yaml(json.loads(FIELDS["B"]))}
    ),
    "two texts of a map": in_yaml({"data": {"a.json": FIELDS["A"], "b.yaml": in_yaml(json.loads(FIELDS["B"]))}}),
    "a list with an indent": json.dumps(
        {"best": V2, "parent": json.dumps([*json.loads(FIELDS["B"]).values()], indent=2)}
    ),
    "a line of a log beside data": json.dumps({"found": json.loads(DATA[HUB][0]), "log": f"12:00:00 INFO best = {B}"}),
    "data in a line of a log": json.dumps({"found": json.loads(DATA[HUB][0]), "log": f"INFO best = {DATA[HUB][1]}"}),
    "a line of a log among keys": json.dumps({**COLON, "log": f"12:00:00 INFO best = {FIELDS['B']}"}),
    "a configuration beside data": json.dumps(
        {"hub": json.loads(DATA[HUB][0]), "b": f"Configuration(values={json.loads(DATA['nasbench301'][1])})"}
    ),
    "documents of YAML": f"{OF_FIELDS}---\n{in_yaml(json.loads(FIELDS['B']))}",
    "a document of YAML above": f"---\n{OF_FIELDS}---\nBefore: {B}\n",
    "a row without a name": csv_of(("ours", V2), ("-", B)),
    "a row without a name above": csv_of(("-", B), ("ours", V2)),
    "a row of tabs without a name": f"ours\t{V2}\n-\t{B}\n",
    "a title before data": f"{V2}\n## before: {FIELDS['B']}",
    "a title before a dictionary": f"{V2}\n### {json.loads(FIELDS['B'])}",
    "a title above data": f"{V2}\n## before: {json.dumps(json.loads(FIELDS['B']), indent=1)}",
    "a rank before data": f"Best: {FIELDS['A']}\n#2: {FIELDS['B']}",
    "a text in three quotes": f"'''{V2}'''\n'''\n{B}\n'''\n",
    "three quotes above a program": f'"""\n{B}\n"""\nX = {V2}',
    "three quotes in a mail": f'Hi,\n"""\n{FIELDS["B"]}\n"""\nwas beaten by\n{V2}',
    "keys of two forms": json.dumps({**json.loads(FIELDS["A"]), **json.loads(DATA["nasbench301"][1])}),
    "keys of two forms in YAML": in_yaml({**json.loads(DATA[HUB][1]), **json.loads(FIELDS["A"])}),
    "keys of two forms of tools": json.dumps({**json.loads(DATA[HUB][1]), **COLON}),
    "a trace of a shell": f"+ cat old.yaml\n{in_yaml(json.loads(FIELDS['A']))}+ echo '{B}'\n",
    "wide signs after a line": f"{FOUR}\n---\n{B.translate(WIDE)}\n",
    "keys of YAHPO Gym in JSON": json.dumps({"a": COLON, "b": B}),
    "a link that begins a line": f"{quote(STRING)}\n{V2}",
    "a cell of CSV": f'1,"{FOUR.replace(chr(34), 2 * chr(34))}",97\n{B}',
    "a line of JSON with a text": json.dumps({"arch": FIELDS["A"]}) + f"\n{B}",
    "a line of JSON with a text of ours": json.dumps({"arch": DATA["topocell"][0]}) + f"\n{B!s}",
    "a text over lines": f"{pprint.pformat({'arch': FOUR}, width=40)}\n{B}",
    "in a listing": f"\\begin{{lstlisting}}\n{FIELDS['A']}\n{FIELDS['B']}\n\\end{{lstlisting}}",
}


for _name, _around in {
    "above": (f"{B}\n\n", ""),
    "below": ("", f"\n\n{FIELDS['B']}"),
    "in another listing": ("", f"\n```\n{B}\n```\n"),
    "in a comment around": ("Words.\n\n<!--\n", "\n-->\n"),
    "by a change": ("Words: but\n\n", "\n\ngenotype.normal[0] = 1\n"),
}.items():
    TWO[f"a listing and one {_name}"] = f"{_around[0]}```yaml\n{OF_FIELDS}```{_around[1]}"
TWO["a listing of nothing"] = "Words.\n\n```\n```\n\nWords.\n"
LOGGED = "2024-01-01 10:00:00,123 INFO "
for _name in (HUB, "nasbench301", "topocell"):
    _first, _second = (in_yaml(json.loads(text)).splitlines(True) for text in DATA[_name])
    TWO[f"lines of a log before YAML of {_name}"] = "".join([*(LOGGED + line for line in _second), *_first])
    TWO[f"lines of a log in YAML of {_name} before a call"] = "".join([*(LOGGED + line for line in _second), V2])
TWO["lines with numbers"] = (
    "".join(f"{n}: {line}" for n, line in enumerate(in_yaml(json.loads(FOUR)).splitlines(True))) + B
)


@pytest.mark.parametrize("name", TWO)
def test_two_cells_are_refused(name: str) -> None:
    with pytest.raises(GenotypeError):
        Genotype.from_text(TWO[name], operations=ORDER)


@pytest.mark.parametrize("text", [f"swap([{V2}])", f"swap ({V2}, 1)", f"swap({{'genotype': {V2}}})", f"[swap({V2})]"])
def test_a_call_around_settings_is_refused(text: str) -> None:
    with pytest.raises(GenotypeError, match="before a genotype may stand"):
        Genotype.from_text(text)


def test_refusals_show_what_is_there() -> None:
    with pytest.raises(GenotypeError) as caught:
        Genotype.from_text(f"{DATA['compact'][0]}\n% old\nthen ({DATA['compact'][1]})", operations=ORDER)
    assert "\\x00" not in str(caught.value)


LINES = V2.replace("), (", "),\n    (").splitlines()
BEFORE = ["2024-01-01 10:00:0{},123 - INFO - ", "2024-01-01 10:00:0{}.123 | INFO     | __main__:main:42 - "]
BEFORE += ["I0102 10:00:0{}.1 140 train.py:42] ", "nas-0 main ", "search\tRun\t2024-05-06T10:11:1{}.1Z "]
BEFORE += ["[default0]:", "E       ", "│ ", ">"]


@pytest.mark.parametrize("before", ["{}. ", "{}) ", "({}) ", "[{}] ", "L{}: ", "{}: ", "{} | ", "{:>4} | "])
def test_lines_in_a_list_with_numbers(before: str) -> None:
    assert Genotype.from_text("\n".join(before.format(n) + line for n, line in enumerate(LINES, 1))) == DARTS_V2


@pytest.mark.parametrize("field", ["format", "space", "cells"])
def test_a_file_of_ours_that_lacks_a_field_is_told_so(field: str) -> None:
    data = json.loads(DATA["topocell"][0])
    del data[field]
    with pytest.raises(GenotypeError, match="the fields format, space, cells are required, but got"):
        Genotype.from_text(json.dumps(data))


def test_a_fault_of_syntax_is_shown_where_it_is() -> None:
    with pytest.raises(GenotypeError, match=r"Perhaps you forgot a comma\?, at \"\('skip_connect' 0\)"):
        Genotype.from_text("\n".join(LINES).replace("('skip_connect', 0)", "('skip_connect' 0)", 1))


def numbers_as(how: Callable[[int], Any], data: Any) -> Any:
    """Data in which each integer is written in another way."""
    if isinstance(data, dict):
        return {key: numbers_as(how, item) for key, item in data.items()}
    if isinstance(data, list | tuple):
        return [numbers_as(how, item) for item in data]
    return how(data) if type(data) is int else data


@pytest.mark.parametrize("how", [str, float])
@pytest.mark.parametrize("name", ["fields", "four", "compact", HUB])
def test_numbers_that_tools_write_as_floats_or_texts(name: str, how: Callable[[int], Any]) -> None:
    data = {"fields": json.loads(FIELDS["A"]), "four": json.loads(FOUR), "compact": literal_eval(DATA["compact"][0])}
    data[HUB] = json.loads(DATA[HUB][0])
    assert Genotype.from_text(json.dumps(numbers_as(how, data[name])), operations=ORDER).key == DARTS_V2.key


@pytest.mark.parametrize("how", [str, float])
def test_nodes_of_nasbench201_with_floats_or_texts(how: Callable[[int], Any]) -> None:
    nodes = [[["nor_conv_3x3", 0]], [["none", 0], ["skip_connect", 1]]]
    assert Genotype.from_text(json.dumps(numbers_as(how, nodes))) == Genotype.from_text(json.dumps(nodes))


TABLES = {
    "a name with an apostrophe": csv_of(("Bob's run", V2)),
    "a name with quotes": csv_of(('the "best"', V2)),
    "a semicolon": csv_of(("a; b", V2)),
    "brackets": csv_of(("DARTS (2nd order), seed 3", V2)),
    "an open bracket": csv_of(("(old", V2)),
    "a call": csv_of(("f(x)", V2)),
    "a list": csv_of(("[1, 2]", V2)),
    "a dictionary": csv_of(('{"lr": 0.1}', V2)),
    "two lines": csv_of(("two\nlines", V2)),
    "an end of a line": csv_of(("3", f"{V2}\n", "97.1")),
    "our file": csv_of(("3", f"{DATA['topocell'][0]}\n", "97.1")),
    "the same twice": csv_of((V2, V2)),
    "no value": csv_of(("-", V2)),
    "no value and data": csv_of(("-", FIELDS["A"])),
    "a rank": csv_of(("#1", FIELDS["A"])),
    "tabs": f"method\tcell\tacc\n-\t{V2}\t97.2\n",
    "data": csv_of(("1", FIELDS["A"]), ("2", "")),
}
#: Texts with characters by their numbers or names, and with ends of lines as texts.
ESCAPED = {
    "of PowerShell": json.dumps({"epoch": 50, "genotype": V2}).replace("'", "\\u0027"),
    "of PowerShell in YAML": f'epoch: 50\narch: "{V2}"\n'.replace("'", "\\u0027"),
    "of Python": f"{{'arch': '{V2}'}}".replace("('", "(\\x27").replace("',", "\\x27,"),
    "data with ends of lines in YAML": f"arch: {json.dumps(json.dumps(json.loads(FIELDS['A']), indent=2))}\nseed: 1\n",
    "data with an end in Python": repr({"g": DATA["nasbench301"][0] + "\n"}),
    "comments of C": FIELDS["A"].replace("]],", "]], // of the normal cell\n", 1).replace("{", "{ // best\n"),
    "of pandoc": V2.replace("[", "{[}").replace("]", "{]}").replace("'", "\\textquotesingle{}"),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_read_whatever_its_other_cells_hold(name: str) -> None:
    assert Genotype.from_text(TABLES[name]).key == DARTS_V2.key


@pytest.mark.parametrize("name", ESCAPED)
def test_characters_by_their_numbers_and_names_are_read(name: str) -> None:
    assert Genotype.from_text(ESCAPED[name]).key == DARTS_V2.key


@pytest.mark.parametrize(
    "text", ['arch = """{}\n"""\nseed = 1\n', "arch = '''\n{}\n'''\n", 'seed,arch\n1,"{}\n"\n', 'a: "{}\\n"\n']
)
def test_a_string_with_ends_of_lines_around_it_is_whole(text: str) -> None:
    assert Genotype.from_text(text.format(STRING)) == Genotype.from_text(STRING)


@pytest.mark.parametrize("after", ["[truncated]", "(truncated)", "<truncated>", "[cut]", "etc.", "…", "[...]"])
def test_a_string_that_is_said_to_be_cut_is_refused(after: str) -> None:
    with pytest.raises(GenotypeError, match="an architecture string must be whole"):
        Genotype.from_text(f"12:00:01 arch = {STRING} {after}\n")


@pytest.mark.parametrize("sign", ["# ", "// ", "% "])
@pytest.mark.parametrize("text", [V2, FIELDS["A"], TUPLES, STRING])
def test_a_genotype_in_a_comment_is_told_to_be_in_one(text: str, sign: str) -> None:
    with pytest.raises(GenotypeError, match="it looks like a genotype in a comment"):
        Genotype.from_text(sign + text)


COMMENTED = {
    "YAML": "# genotype: {b}\ngenotype: {a}\n",
    "TOML": '# genotype = "{b}"\ngenotype = "{a}"\n',
    "an environment": '# GENOTYPE="{b}"\nGENOTYPE="{a}"\n',
}


@pytest.mark.parametrize("name", COMMENTED)
def test_a_comment_in_data_is_none_of_it(name: str) -> None:
    other = V2.replace("dil_conv_3x3", "dil_conv_5x5")  # with an operation that the first has not
    assert Genotype.from_text(COMMENTED[name].format(a=V2, b=other)).key == DARTS_V2.key
    assert Genotype.from_text(f"# - [dil_conv_5x5, 0]\n{OF_FIELDS}").key == DARTS_V2.key


@pytest.mark.parametrize("name", ["fields", HUB, "nasbench301"])
@pytest.mark.parametrize("described", [True, False])
def test_settings_as_wandb_keeps_each_of_them(name: str, described: bool) -> None:
    data = json.loads(FIELDS["A"] if name == "fields" else DATA[name][0])
    kept = {key: {"desc": None, "value": item} if described else {"value": item} for key, item in data.items()}
    for text in (json.dumps(kept), in_yaml(kept), in_yaml({"wandb_version": 1, **kept})):
        assert Genotype.from_text(text).key == DARTS_V2.key


@pytest.mark.parametrize("number", ["{}.0", "'{}'", "'{}.0'", "np.int64({})", "tensor({})"])
def test_numbers_beside_the_weights_of_gdas(number: str) -> None:
    text = re.sub(r"', ([0-9])\)", lambda found: f"', {number.format(found[1])}, 0.13)", V2)
    assert Genotype.from_text(text, form="gdas").key == DARTS_V2.key


def test_quoted_printable_mail_is_read() -> None:
    assert Genotype.from_text(quopri.encodestring(V2.encode()).decode()).key == DARTS_V2.key


@pytest.mark.parametrize("text", [V2.replace("), (", "),\n    ("), OF_FIELDS])
@pytest.mark.parametrize(
    "before", ["3f2a1b0c (Ann Lee 2024-01-01 10:00:00 +0000 {:2}) ", "^3f2a1b0 net.py (A 2024-01-01 {}) "]
)
def test_what_git_blame_prints(text: str, before: str) -> None:
    lines = "\n".join(before.format(number) + line for number, line in enumerate(text.splitlines(), 1))
    assert Genotype.from_text(lines).key == DARTS_V2.key


@pytest.mark.parametrize("before", BEFORE)
def test_what_stands_before_each_line(before: str) -> None:
    lines = [before.format(number % 10) + line for number, line in enumerate(LINES)]
    assert Genotype.from_text("\n".join(lines)) == DARTS_V2
    lines += [before.format(0) + line for line in B.replace("), (", "),\n    (").splitlines()]
    with pytest.raises(GenotypeError):
        Genotype.from_text("\n".join(lines))


def test_numbers_of_lines_as_bat_and_grep_print_them() -> None:
    for sign in ("-", " │ ", "   │ "):
        lines = [f"{number:4d}{sign}{line}" for number, line in enumerate(LINES, 8)]
        assert Genotype.from_text("\n".join(lines)) == DARTS_V2
        with pytest.raises(GenotypeError):
            Genotype.from_text("\n".join(lines[:4] + lines[6:]))

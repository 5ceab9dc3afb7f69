"""One cell is read wherever the page on texts says so; two are refused: in all forms, however they are written."""

import csv
import io
import json
import os
import pprint
import random
import re
from collections.abc import Callable, Iterator

import pytest
import yaml
from tests.helpers.forms import FORMS_OF_TEXTS, HUB, ORDER, in_form
from tests.helpers.golden_genotypes import DARTS_V2

from topocell.errors import GenotypeError
from topocell.genotype.genotype import Genotype

OTHER = Genotype.from_text(DARTS_V2.to_darts().replace("dil_conv_3x3", "dil_conv_5x5"))
#: Texts of cells of another space; DARTS has none of NAS-Bench-201.
NEXT = "\n"
STRINGS = ("|nor_conv_3x3~0|+|none~0|skip_connect~1|", "|nor_conv_3x3~0|+|none~0|nor_conv_1x1~1|")


def fields(cell: Genotype) -> dict[str, object]:
    """The four fields of `Genotype(...)` as data."""
    found: dict[str, object] = {}
    for name, part in cell.cells.items():
        found[name] = [list(pair) for node in part.nodes for pair in node]
        found[f"{name}_concat"] = list(part.concat)
    return found


def data_of(cell: Genotype) -> dict[str, object]:
    """The cell in each form that is plain data."""
    found = {name: json.loads(in_form(name, cell)) for name in ("topocell", HUB, "nni mutables", "nasbench301")}
    found["compact"] = json.loads(in_form("compact", cell).replace("(", "[").replace(")", "]"))
    found["yahpo"] = {key.replace(":", "_COLON_"): item for key, item in found["nasbench301"].items()}
    return found | {"fields": fields(cell), "four": list(fields(cell).values())}


#: How data is written as a text.
SPELT: dict[str, Callable[[object], str]] = {
    "JSON": json.dumps,
    "indented JSON": lambda data: json.dumps(data, indent=2),
    "Python": repr,
    "narrow Python": lambda data: pprint.pformat(data, width=60),
    "YAML": lambda data: yaml.safe_dump(data, sort_keys=False),
    "YAML of short lines": lambda data: yaml.safe_dump(data, default_flow_style=None),
    "YAML in braces": lambda data: yaml.safe_dump(data, default_flow_style=True, width=9999),
}


def written(cell: Genotype, string: str) -> dict[str, str]:
    """All that is read alone: the texts of a cell, and of one of NAS-Bench-201."""
    calls = ("darts", "pt.darts", "gdas", "fairdarts")
    found = {name: in_form(name, cell) for name in calls} | {"nasbench201": string}
    found["ours, printed"] = repr(cell)
    found["configuration"] = f"Configuration(values={data_of(cell)['nasbench301']})"
    found["TOML"] = "".join(f"{key} = {value}\n" for key, value in fields(cell).items()).replace("'", '"')
    for name, data in data_of(cell).items():
        found |= {f"{name} in {how}": spell(data) for how, spell in SPELT.items()}
    return found


def as_csv(*texts: str) -> str:
    file = io.StringIO()
    csv.writer(file).writerows([["epoch", "cell"], *enumerate(texts)])
    return file.getvalue()


def indented(text: str, by: str) -> str:
    return "".join(f"{by}{line}\n" for line in text.splitlines())


#: What is data, and of numbers without a name.
NOT_ALONE = ("compact in YAML", "compact in YAML of short lines")
#: The share of all pairs of texts that is tried; all of them take a quarter of an hour.
SHARE = float(os.environ.get("TOPOCELL_TEXTS", "0.01"))


#: What stands around two texts.
AROUND: dict[str, Callable[[str, str], str]] = {
    "lines": lambda a, b: f"{a}\n{b}\n",
    "prose": lambda a, b: f"We begin with\n\n{a}\n\nand find\n\n{b}\n",
    "names": lambda a, b: f"best = {a}\nlast = {b}\n",
    "log": lambda a, b: f"10:00:00 INFO epoch 1 {a}\n10:00:01 INFO epoch 2 {b}\n",
    "log of lines": lambda a, b: indented(f"{a}\n{b}", "10:00:00 INFO "),
    "numbered": lambda a, b: "".join(f"{n}: {line}\n" for n, line in enumerate(f"{a}\n{b}".splitlines(), 1)),
    "quoted": lambda a, b: indented(f"{a}\n\n{b}", "> "),
    "items": lambda a, b: "".join(f"- {text.replace(NEXT, NEXT + '  ')}\n" for text in (a, b)),
    "listings": lambda a, b: f"```\n{a}\n```\n\nand\n\n```\n{b}\n```\n",
    "listing": lambda a, b: f"Words.\n\n```\n{a}\n{b}\n```\n",
    "listing and line": lambda a, b: f"Words.\n\n```yaml\n{a}\n```\n\n{b}\n",
    "code": lambda a, b: f"a = '''{a}'''\nb = '''{b}'''\n",
    "table": lambda a, b: f"| 1 | {a} |\n| 2 | {b} |\n",
    "page": lambda a, b: f"<tr><td>{a}</td><td><pre>{b}</pre></td></tr>",
    "CSV": as_csv,
    "texts in JSON": lambda a, b: json.dumps({"best": a, "parent": b}),
    "indented texts in JSON": lambda a, b: json.dumps({"run": {"best": a}, "history": [{"cell": b}]}, indent=1),
    "records": lambda a, b: f"{json.dumps({'epoch': 1, 'cell': a})}\n{json.dumps({'epoch': 2, 'cell': b})}\n",
    "texts in Python": lambda a, b: repr({"best": a, "parent": b}),
    "texts in YAML": lambda a, b: yaml.safe_dump({"best": a, "parent": b}),
    "blocks in YAML": lambda a, b: f"best: |\n{indented(a, '  ')}parent: |\n{indented(b, '  ')}",
    "texts in TOML": lambda a, b: f"best = '''\n{a}'''\nparent = '''\n{b}'''\n",
    "text in text": lambda a, b: json.dumps({"body": json.dumps({"best": a, "old": json.dumps({"cell": b})})}),
    "added": lambda a, b: indented(f"{a}\n{b}", "+"),
}


def joined(around: str, share: float) -> Iterator[tuple[str, str]]:
    """Names of two different cells, and the text with both; a share of all pairs, the same ones each time."""
    firsts, seconds = written(DARTS_V2, STRINGS[0]), written(OTHER, STRINGS[1])
    drawn = random.Random(around)
    for first, a in firsts.items():
        for second, b in seconds.items():
            if drawn.random() < share:
                yield f"{first} and {second}", AROUND[around](a, b)


def test_each_alone_is_read() -> None:
    for cell, string in ((DARTS_V2, STRINGS[0]), (OTHER, STRINGS[1])):
        wanted = {"nasbench201": Genotype.from_text(string).key}
        for name, text in written(cell, string).items():
            if name in NOT_ALONE:
                continue
            assert Genotype.from_text(text, operations=ORDER).key == wanted.get(name, cell.key), name
    assert set(FORMS_OF_TEXTS) <= {name.partition(" in ")[0] for name in written(DARTS_V2, STRINGS[0])}


@pytest.mark.parametrize("around", AROUND)
def test_two_are_refused(around: str) -> None:
    read = []
    for names, text in joined(around, SHARE):
        try:
            Genotype.from_text(text, operations=ORDER)
            read.append(names)
        except GenotypeError:
            pass
    assert not read, f"{len(read)} read as one: {read[:20]}"


def each_line(before: str) -> Callable[[str], str]:
    return lambda text: indented(text, before)


#: What the page on texts says may stand around one genotype: in lines, and around the whole of a text.
IN_LINES: dict[str, Callable[[str], str]] = {
    "an indent": each_line("    "),
    "a name": lambda text: f"best = {text}",
    "a name and another line": lambda text: f"args.genotype = {text}\nargs.layers = 20\n",
    "a log": lambda text: f"2024-01-01 10:00:00,123 INFO genotype = {text}",
    "a log without a date": lambda text: f"[12:00:01] epoch 49 best: {text}",
    "a comment above": lambda text: f"# the best one of 3 seeds\n{text}",
    "a comment below": lambda text: f"{text}\n# accuracy 97.2 %\n",
    "lines": lambda text: f"Epoch 49 done\n{text}\nsaving to runs/x\n",
    "lines with numbers": lambda text: f"epoch 49 lr 1.25e-03 train 97.1\n\n{text}\n\nepoch 50 lr 1.2e-03 train 97.3\n",
    "a log before each line": each_line("2024-01-01 10:00:00,123 - INFO - "),
    "a process before each line": each_line("[rank0]: "),
    "a mail": each_line("> "),
    "a prompt": lambda text: indented(text, "... ").replace("... ", ">>> ", 1),
    "lines that are added": lambda text: f"@@ -0,0 +1,9 @@\n{indented(text, '+')}",
    "numbers of lines": lambda text: "".join(f"{n:4d}  {line}\n" for n, line in enumerate(text.splitlines(), 1)),
    "a listing": lambda text: f"# Results\n\nWe found:\n\n```\n{text}\n```\n\nIt reaches 97.2 %.\n",
}
AS_TEXT: dict[str, Callable[[str], str]] = {
    "JSON": lambda text: json.dumps({"epoch": 50, "best": {"cell": text, "acc": 97.2}}),
    "a list in JSON": lambda text: json.dumps([1, {"g": text}]),
    "records": lambda text: json.dumps({"epoch": 1}) + "\n" + json.dumps({"epoch": 2, "cell": text}) + "\n",
    "YAML": lambda text: yaml.safe_dump({"lr": 0.1, "model": {"cell": text}}),
    "a block of YAML": lambda text: f"lr: 0.1\ncell: |\n{indented(text, '  ')}",
    "two quotes in YAML": lambda text: f"lr: 0.1\ncell: {json.dumps(text)}\n",
    "TOML": lambda text: f"lr = 0.1\n[model]\ncell = {json.dumps(text)}\n",
    "three quotes in TOML": lambda text: f"lr = 0.1\n[model]\ncell = '''\n{text}\n'''\n",
    "CSV": lambda text: as_csv("none", text),
    "a dictionary": lambda text: repr({"lr": 0.1, "cell": text}),
    "a list": lambda text: repr([1, text]),
    "pprint": lambda text: pprint.pformat({"lr": 0.1, "runs": [{"cell": text}]}, width=80),
    "wandb": lambda text: yaml.safe_dump({"arch": {"desc": None, "value": text}}),
}
AS_DATA: dict[str, Callable[[object], object]] = {
    "a key": lambda data: {"lr": 0.1, "best": {"arch": data}},
    "a list": lambda data: [{"epoch": 1}, {"epoch": 2, "arch": data}],
    "wandb": lambda data: {"arch": {"desc": None, "value": data}},
}


def check_read(texts: dict[str, str]) -> None:
    """Each text is read as the cell that it has."""
    keys = {"nasbench201": Genotype.from_text(STRINGS[0]).key}
    refused = []
    for name, text in texts.items():
        try:
            assert Genotype.from_text(text, operations=ORDER).key == keys.get(name, DARTS_V2.key), name
        except GenotypeError as fault:
            refused.append(f"{name}: {str(fault)[:80]}")
    assert not refused


@pytest.mark.parametrize("around", IN_LINES)
def test_one_is_read_among_lines(around: str) -> None:
    """But for YAML and TOML, which are read where the whole text is such data."""
    of_lines = {name: text for name, text in written(DARTS_V2, STRINGS[0]).items() if not re.search("YAML|TOML", name)}
    check_read({name: IN_LINES[around](text) for name, text in of_lines.items()})


@pytest.mark.parametrize("around", AS_TEXT)
def test_one_is_read_as_a_text_in_data(around: str) -> None:
    every = {name: text for name, text in written(DARTS_V2, STRINGS[0]).items() if name not in NOT_ALONE}
    check_read({name: AS_TEXT[around](text) for name, text in every.items()})


@pytest.mark.parametrize("around", AS_DATA)
def test_one_is_read_as_data_below_a_key(around: str) -> None:
    forms = {name: data for name, data in data_of(DARTS_V2).items() if name != "compact"}
    check_read({f"{n} in {how}": spell(AS_DATA[around](d)) for n, d in forms.items() for how, spell in SPELT.items()})


@pytest.mark.parametrize("how", SPELT)
def test_fields_are_read_among_others(how: str) -> None:
    forms = {name: data for name, data in data_of(DARTS_V2).items() if isinstance(data, dict) and name != "topocell"}
    check_read({name: SPELT[how]({"lr": 0.1, "epoch": 3} | data) for name, data in forms.items()})

"""Texts with two different cells are refused, whatever the forms, how they are written, and what stands around them."""

import csv
import io
import json
import os
import pprint
import random
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
SHARE = float(os.environ.get("TOPOCELL_TEXTS", "0.005"))


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

"""What stands beside a genotype and makes another cell of it, and what does not."""

import csv
import dataclasses
import io
import json
from collections import namedtuple
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from topocell.errors import GenotypeError
from topocell.genotype.genotype import CellGenotype, Genotype
from topocell.genotype.published import published

CELL = dataclasses.replace(published("darts-v2").genotype, origin={})
TEXT = CELL.to_darts()
FIELDS = {name: [list(pair) for node in CELL.cells[name].nodes for pair in node] for name in ("normal", "reduce")} | {
    f"{name}_concat": [2, 3, 4, 5] for name in ("normal", "reduce")
}


def table(settings: dict[str, Any], delimiter: str = ",") -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows([["name", *settings], ["a", *settings.values()]])
    return out.getvalue()


def toml(settings: dict[str, Any]) -> str:
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())


PRINTED: Any = namedtuple("Genotype", FIELDS)(*FIELDS.values())
WRITERS = {
    "JSON": json.dumps,
    "the other way round": lambda settings: json.dumps(dict(reversed(settings.items()))),
    "lines of JSON": lambda settings: "\n".join(json.dumps({key: value}) for key, value in settings.items()),
    "Python": repr,
    "YAML": yaml.safe_dump,
    "documents of YAML": lambda settings: "---\n".join(yaml.safe_dump({k: v}) for k, v in settings.items()),
    "TOML": toml,
    "CSV": table,
    "TSV": lambda settings: table(settings, "\t"),
    "deeper": lambda settings: json.dumps({"a": [settings], "b": 1}),
    "wandb": lambda settings: yaml.safe_dump({k: {"desc": None, "value": v} for k, v in settings.items()}),
}
KEYS = (
    "normal_concat",
    "reduce_concat",
    "genotype_normal_concat",
    "overrides.reduce_concat",
    "concat",
    "concat_normal",
)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("written", [list, str, lambda nodes: f"range({nodes[0]}, 6)"], ids=["list", "text", "range"])
def test_a_concat_beside_a_genotype_is_that_of_the_genotype(key: str, writer: str, written: Any) -> None:
    for held in (TEXT, FIELDS) if writer not in ("TOML", "CSV", "TSV") else (TEXT,):
        with pytest.raises(GenotypeError, match=r"must hold one genotype, but|has another concat"):
            Genotype.from_text(WRITERS[writer]({"genotype": held, key: written([4, 5])}))
    assert Genotype.from_text(WRITERS[writer]({"genotype": TEXT, key: written([2, 3, 4, 5])})) == CELL


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize(
    "beside",
    [
        {"milestones": [60, 80, 100, 120]},
        {"betas": [0.9, 0.999, 0.1, 0.2]},
        {"names": ["a", "b", "c", "d"]},
        {"sizes": [[3, 32], [32, 10]]},
        {"concat": True},
        {"concat_dim": 1},
        {"normal_concat": None},
        {"nconcat": [1]},
    ],
    ids=str,
)
def test_settings_that_say_nothing_of_the_cell_may_stand_beside_it(writer: str, beside: dict[str, Any]) -> None:
    if writer == "TOML" and None in beside.values():
        pytest.skip("TOML has no null")
    assert Genotype.from_text(WRITERS[writer]({"genotype": TEXT, **beside})) == CELL


@given(st.lists(st.one_of(st.integers(0, 200), st.floats(0, 1), st.text("abc", max_size=3)), max_size=6))
def test_any_list_of_settings_may_stand_beside_it(values: list[Any]) -> None:
    assert Genotype.from_text(json.dumps({"genotype": TEXT, "values": values})) == CELL


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("nasbench201", "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|"),
        ("topocell", CELL.to_dict()),
    ],
)
def test_other_forms_have_no_second_concat_either(form: str, text: Any) -> None:
    with pytest.raises(GenotypeError, match=r"has another concat, \(4, 5\), under 'normal_concat'"):
        Genotype.from_text(json.dumps({"arch": text, "normal_concat": [4, 5]}))


@pytest.mark.parametrize(
    "line",
    [
        "SMALL = Genotype(G.normal[:4], range(2, 4), G.reduce[:4], range(2, 4))",
        "SWAPPED = Genotype(G.reduce, G.reduce_concat, G.normal, G.normal_concat)",
        "MINE = Genotype(**dict(G._asdict(), reduce=G.normal))",
        "MINE = genotypes.Genotype(*(G[2:] + G[:2]))",
        "MINE = Genotype._make(G[2:] + G[:2])",
        "MINE = dataclasses.replace(G, reduce=G.normal)",
        "def small(g):\n    return Genotype(g.normal[:4], range(2, 4), g.reduce[:4], range(2, 4))",
        "MINE = Genotype(normal, range(2, 6), reduce, range(2, 6))",
        "MINE = Genotype(a, b, c, d)",
        "G = G._replace(normal_concat=[4, 5])",
    ],
)
def test_a_second_genotype_that_is_computed_is_refused(line: str) -> None:
    with pytest.raises(GenotypeError, match=r"but computes another by|but the text changes it by"):
        Genotype.from_text(f"G = {TEXT}\n{line}\n")


SMALL = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('dil_conv_5x5', 1)], normal_concat=range(2, 3), "
    "reduce=[('max_pool_3x3', 0), ('sep_conv_5x5', 1)], reduce_concat=range(2, 3))"
)
STRING = "|nor_conv_3x3~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|"


@pytest.mark.parametrize(
    "lines",
    [
        "s = CellStructure.str2structure('{}')\ns.nodes[2] = ()",
        "s = CellStructure.str2structure('{}')\ns.nodes[0][1] = pair",
        "s = CellStructure.str2structure('{}')\ns.nodes.pop()",
        "s = CellStructure.str2structure('{}')\ns.nodes += more",
        "arch = '{}'\narch += tail",
        "arch = '{}'\narch = arch + tail",
        "arch = '{}'\nx = list(arch)\nx[0] = y",
        "arch = '{}'\nparts = arch.split('+')\nparts[1] = z",
        "arch = '{}'\nfor part in arch:\n    part[0] = y",
        "arch = '{}'\ndel arch",
        "g = '{}'.replace('a', 'b')",
        "g = '{}'\n$ sed -i s/skip_connect/none/g genotypes.py",
        "g = '{}'\nh = eval(re.sub('skip_connect', 'none', g))",
    ],
)
@pytest.mark.parametrize("text", [STRING, SMALL.replace("'", '"')], ids=["string", "call"])
def test_programs_that_change_it_are_refused(lines: str, text: str) -> None:
    with pytest.raises(GenotypeError, match=r"the text changes it by|nothing may follow|before a genotype may stand"):
        Genotype.from_text(lines.format(text))


@pytest.mark.parametrize(
    "lines",
    [
        "net = Network(16, genotype=arch)\nnet.train()",
        "net = Network(arch)\nnet.drop_path_prob = 0.2",
        "print(arch)",
        "other = 3\nother += 1",
        "x = parse(arch)\nprint(x)",
    ],
)
@pytest.mark.parametrize("text", [f"'{STRING}'", SMALL], ids=["string", "call"])
def test_programs_that_use_it_are_read(lines: str, text: str) -> None:
    assert Genotype.from_text(f"arch = {text}\n{lines}\n") == Genotype.from_text(text)


@pytest.mark.parametrize(
    "line",
    [
        "normal_concat -> {}",
        "| normal_concat | {} |",
        "assert normal_concat == {}",
        "concat: {}",
        "EDIT: normal_concat should be {}.",
        "I set normal_concat to {}",
        "(the reduction concatenates {})",
        "reduce concat {}",
    ],
)
def test_a_line_with_another_concat_is_refused(line: str) -> None:
    for other in ("[2, 3]", "(2, 3)", "range(2, 4)"):
        with pytest.raises(GenotypeError, match=r"another concat|has another with"):
            Genotype.from_text(f"{SMALL}\n{line.format(other)}\n")
    for same in ("[2]", "range(2, 3)"):
        assert Genotype.from_text(f"{SMALL}\n{line.format(same)}\n") == Genotype.from_text(SMALL)
    assert Genotype.from_text(f"{SMALL}\nwe concat the maps of 3 nodes\n") == Genotype.from_text(SMALL)


LINES = SMALL.replace(", normal_concat", ",\n  normal_concat").replace(", reduce", ",\n  reduce").split("\n")
PREFIXES = (
    "2023-05-01T10:12:1{}.1234567Z ",
    "2023-05-01T10:12:1{}.1234567Z stdout F ",
    "04/12 12:22:0{} PM ",
    "04/12 12:22:0{} ",
    "04/12 12:22:0{} PM INFO ",
    "04/12 12:22:0{} PM | ",
    "2021-04-12 12:22:0{},451 ",
    "[2021-04-12 12:22:0{}] ",
    "2021-04-12 12:22:0{},451 - root - INFO - ",
    "12:22:0{} ",
    "Apr 12 12:22:0{} host app[123]: ",
    "INFO:root:",
    "[rank0]: ",
)


@pytest.mark.parametrize("name", ["", "genotype = ", "args.arch: ", "MINE = (\n", "best genotype = "])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_log_before_each_line_and_a_name(prefix: str, name: str) -> None:
    lines = (name + "\n".join(LINES) + ")" * name.endswith("(\n")).split("\n")
    for times in (range(len(lines)), [3] * len(lines)):
        text = "\n".join(prefix.format(second) + line for second, line in zip(times, lines))
        assert Genotype.from_text(text) == Genotype.from_text(SMALL), text


@pytest.mark.parametrize("key", [0, -1, 97.2, None, ("c10", 2)], ids=repr)
def test_keys_of_python_need_not_be_texts(key: Any) -> None:
    small, string = Genotype.from_text(SMALL), repr(SMALL)
    for data in (
        f"{{{key!r}: {SMALL}}}",
        f"{{{key!r}: {string}}}",
        f"[{{{key!r}: {SMALL}}}]",
        f"x = {{{key!r}: {SMALL}}}",
    ):
        assert Genotype.from_text(data) == small
    assert Genotype.from_text(f"{{'seeds': {{{key!r}: {{'genotype': {SMALL}, 'acc': 97.0}}}}}}") == small
    with pytest.raises(GenotypeError, match="has 2 under"):
        Genotype.from_text(f"{{{key!r}: {SMALL}, 1: {SMALL.replace('max', 'avg')}}}")


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([[("none", 0)], [("none", 0)]], "but node 2 has"),
        ([[("none", 0)], [("none", 0), ("none", 0)]], "but node 2 has"),
        ([[("none", 1)], [("none", 0), ("none", 1)]], "but node 1 has"),
    ],
)
def test_nodes_of_nasbench201_are_told_what_is_wrong(nodes: Any, words: str) -> None:
    with pytest.raises(GenotypeError, match=words):
        Genotype.from_text(repr(nodes))


def test_a_set_has_no_order() -> None:
    with pytest.raises(GenotypeError, match="has no order; write a list"):
        Genotype.from_text(SMALL.replace("range(2, 3)", "{2}"))


@pytest.mark.parametrize("name", ["none", "sep_conv_3x3", "noise", "skip_connect"])
def test_a_further_pair_is_refused(name: str) -> None:
    pair = [name, 1]
    for text in (
        f"{SMALL}\nnormal[1] = ('{name}', 1)\n",
        f"genotype = {SMALL}\n2020-01-01 pruning: normal node 2 edge 1 -> ('{name}', 1)\n",
        json.dumps({"genotype": SMALL, "pruned_normal": [[name, 0], pair]}),
        json.dumps({"genotype": SMALL, "overrides": {"normal.1": pair}}),
        yaml.safe_dump({"genotype": SMALL, "overrides": [pair]}),
    ):
        with pytest.raises(GenotypeError, match=r"more often than that of one|has another with|has 2"):
            Genotype.from_text(text)
    for beside in ({"x": [name, 2.5]}, {"x": name, "y": 3}):
        assert Genotype.from_text(json.dumps({"genotype": SMALL, **beside})) == Genotype.from_text(SMALL)


@pytest.mark.parametrize(
    ("line", "is_read"),
    [
        ('echo "{}" | sed s/skip_connect/none/g', False),
        ("{} | replace skip_connect by none", False),
        ("{} (skip_connect replaced by none)", False),
        ("{}, but with the skip removed", False),
        ("{}, in node 2 use sep_conv_3x3 instead", False),
        ("{} | 97.2 | 3.3M", True),
        ("{}, acc 97.2", True),
        ("{} (epoch 3)", True),
        ("{}; lr 0.1", True),
    ],
)
def test_what_stands_behind_it_on_its_line(line: str, is_read: bool) -> None:
    if is_read:
        assert Genotype.from_text(line.format(SMALL)) == Genotype.from_text(SMALL)
    else:
        with pytest.raises(GenotypeError, match="nothing may follow a genotype on its line"):
            Genotype.from_text(line.format(SMALL))


def test_triples_in_data_are_told_both_readings() -> None:
    cells = {"normal": [["sep_conv_3x3", 0, 2], ["sep_conv_5x5", 1, 2]], "normal_concat": [2]}
    data = cells | {"reduce": cells["normal"], "reduce_concat": [2]}
    with pytest.raises(GenotypeError, match=r"two integers are FairDARTS' .*GDAS'"):
        Genotype.from_text(json.dumps(data))


@pytest.mark.parametrize(
    "line",
    [
        "Genotype = namedtuple('Genotype', 'normal normal_concat reduce reduce_concat')",
        "class Genotype(NamedTuple):\n    normal: list",
        "Genotype (found in epoch 3)",
        "# Genotype(normal, normal_concat, reduce, reduce_concat)",
        "Genotype(normal, normal_concat, reduce, reduce_concat) is a namedtuple",
        "isinstance(g, Genotype)",
        "print(G)",
        "name.replace('a', 'b')",
    ],
)
def test_what_only_names_the_class_is_no_second_genotype(line: str) -> None:
    assert Genotype.from_text(f"{line}\nG = {TEXT}\n") == CELL


@pytest.mark.parametrize(
    "array", [np.arange(2, 6), torch.arange(2, 6), range(2, 6), [np.int64(n) for n in range(2, 6)]]
)
def test_a_concat_may_be_an_array(array: Any) -> None:
    cells = {name: dataclasses.replace(cell, concat=array) for name, cell in CELL.cells.items()}
    assert Genotype("darts", cells) == CELL
    with pytest.raises(GenotypeError, match="must list computed nodes"):
        Genotype("darts", {name: CellGenotype(2, cell.nodes, np.array([[2, 3]])) for name, cell in CELL.cells.items()})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "step"),
    [
        (lambda: Genotype.from_text({"normal": []}), "str(text) is one"),  # type: ignore[arg-type]
        (lambda: Genotype.from_text(b"Genotype()"), "text.decode() is one"),  # type: ignore[arg-type]
        (lambda: Genotype.from_text(io.StringIO("x")), "text.read() is one"),  # type: ignore[arg-type]
        (lambda: Genotype.from_dict(FIELDS), "Genotype.from_text(str(...)) reads"),
        (lambda: Genotype.load(TEXT), "Genotype.from_text reads a text"),
        (lambda: Genotype.load("darts-v2"), "published(NAME) gives one"),
        (lambda: Genotype.from_dict(PRINTED), "from_text(str(...)) reads a namedtuple"),
        (lambda: Genotype.from_nasbench201(TEXT), "node 1 of an architecture string is `|op~0|`"),
        (lambda: Genotype.from_nasbench201(TEXT), "Genotype.from_text reads other forms"),
        (lambda: Genotype.from_text(TEXT.replace("reduce_concat", "reduce_con\ncat")), "is broken over lines 1 and 2"),
        (lambda: Genotype.from_text(" ".join(map(str, FIELDS.values()))), "its four fields in one Genotype(...)"),
        (lambda: Genotype.from_text(TEXT.replace("Genotype(", "Cell(")), "`Genotype(` in the place of `Cell(`"),
        (lambda: Genotype.from_text(f'{{"genotype": "{TEXT}", "genotype": "{TEXT}"}}'), "a key is there twice"),
        (lambda: Genotype.from_text("g = Genotype(normal=normal, reduce=reduce)"), "write what normal is in its place"),
    ],
)
def test_what_is_given_in_another_way_is_told_the_right_one(make: Any, step: str) -> None:
    with pytest.raises(GenotypeError) as caught:
        make()
    assert step in str(caught.value) and "\n" not in str(caught.value)

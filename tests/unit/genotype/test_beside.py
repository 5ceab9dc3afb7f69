"""What stands beside a genotype and makes another cell of it, and what does not."""

import csv
import dataclasses
import io
import json
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
    same = WRITERS[writer]({"genotype": TEXT, key: written([2, 3, 4, 5])})
    try:
        read = Genotype.from_text(same)
    except GenotypeError as error:
        assert written is list and "keep one" in str(error)  # where it may be one of two
    else:
        assert read == CELL


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
        (lambda: Genotype.load(TEXT), "Genotype.from_text for a text"),
        (lambda: Genotype.load("darts-v2"), "published(NAME) for a published cell"),
        (lambda: Genotype.from_text(TEXT.replace("Genotype(", "Cell(")), "`Genotype(` in the place of `Cell(`"),
        (lambda: Genotype.from_text(f'{{"genotype": "{TEXT}", "genotype": "{TEXT}"}}'), "a key is there twice"),
        (lambda: Genotype.from_text("g = Genotype(normal=normal, reduce=reduce)"), "write what normal is in its place"),
    ],
)
def test_what_is_given_in_another_way_is_told_the_right_one(make: Any, step: str) -> None:
    with pytest.raises(GenotypeError) as caught:
        make()
    assert step in str(caught.value) and "\n" not in str(caught.value)

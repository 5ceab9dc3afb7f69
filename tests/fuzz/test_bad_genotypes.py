"""Genotypes that are none: JSON files, and texts in the forms of other tools."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from tests.fuzz.bad import NASTY, garbled, in_time, mutated, suite
from tests.helpers.forms import FORMS_OF_TEXTS, ORDER, in_form
from tests.helpers.golden_genotypes import DARTS_V2

from topocell.genotype.genotype import Genotype
from topocell.reporting.cells import draw_text

CELL = {"inputs": 2, "nodes": [[["sep_conv_3x3", 0], ["skip_connect", 1]], [["max_pool_3x3", 2]]], "concat": [2, 3]}
ONE = {"inputs": 1, "nodes": [[["nor_conv_3x3", 0]], [["none", 0], ["skip_connect", 1]]], "concat": [2]}
SOUND: tuple[dict[str, Any], ...] = (
    {"format": 1, "space": "darts", "cells": {"normal": CELL, "reduce": CELL}, "origin": {"seed": 0}},
    {"format": 1, "space": "nasbench201", "cells": {"cell": ONE}, "origin": {}},
)
PAIRS = "[('sep_conv_3x3', 0), ('skip_connect', 1), ('max_pool_3x3', 0), ('dil_conv_5x5', 2)]"
DARTS = f"Genotype(normal={PAIRS}, normal_concat=range(2, 4), reduce={PAIRS}, reduce_concat=[2, 3])"
#: Parsers take few of these, and are quick: most of what is refused in all is refused here.
LEAST = 0.7
ARCH = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|avg_pool_3x3~1|nor_conv_1x1~2|"


def used(genotype: Genotype) -> bool:
    """Do what is done with a genotype that was taken; returns False, it was not refused."""
    assert Genotype.from_dict(json.loads(json.dumps(genotype.to_dict()))).key == genotype.key
    for cell_type in genotype.cells:
        assert draw_text(genotype.to_dict(), cell_type)
    return False


@pytest.mark.parametrize("sound", SOUND, ids=["darts", "nasbench201"])
def test_values(sound: dict[str, Any]) -> None:
    suite("genotype values", 0.2, mutated(sound, 3), lambda value: used(Genotype.from_dict(value)), LEAST)


def test_files(tmp_path: Path) -> None:
    def attempt(data: bytes) -> bool:
        path = tmp_path / "genotype.json"
        path.write_bytes(data)
        return used(Genotype.load(path))

    suite("genotype files", 0.2, garbled(json.dumps(SOUND[0])), attempt, LEAST)


def texts(sound: str) -> st.SearchStrategy[str]:
    return st.one_of(
        garbled(sound).map(lambda data: data.decode(errors="surrogateescape")), st.text(), st.sampled_from(NASTY)
    )


def test_the_key_of_the_most_symmetric_cell_is_found_in_time() -> None:
    """Every numbering of a large cell was tried once, which took minutes."""
    first = [[["skip_connect", 0]] for _ in range(32)]
    tops = [[["skip_connect", 2 + k] for k in (i - i % 2, i - i % 2 + 1, (i + 2) % 32)] * 80 for i in range(32)]
    cell = {"inputs": 2, "nodes": [*first, *tops], "concat": list(range(2, 66))}
    with in_time():
        assert Genotype.from_dict({"format": 1, "space": "d", "cells": {"normal": cell, "reduce": CELL}}).key


def test_darts_texts() -> None:
    suite("genotype texts", 0.2, texts(DARTS), lambda text: used(Genotype.from_darts(text)), LEAST)


def test_arch_strings() -> None:
    suite("architecture strings", 0.2, texts(ARCH), lambda text: used(Genotype.from_nasbench201(text)), LEAST)


@pytest.mark.parametrize("writer", FORMS_OF_TEXTS)
def test_texts_of_other_tools(writer: str) -> None:
    sound = Genotype.from_nasbench201(ARCH) if writer == "nasbench201" else DARTS_V2
    suite(
        f"texts in the form {writer}",
        0.05,
        texts(in_form(writer, sound)),
        lambda text: used(Genotype.from_text(text, operations=ORDER)),
        LEAST,
    )

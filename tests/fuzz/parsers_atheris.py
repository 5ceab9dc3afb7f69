"""Coverage-guided fuzzing of the genotype parsers: JSON, DARTS' text, architecture strings, forms of other tools.

    python -m tests.fuzz.parsers_atheris --minutes 10

needs `pip install -e .[dev-fuzz]`. Whatever comes in, a parser returns a genotype that survives its own formats or
raises a GenotypeError of one line; anything else, and any input that takes ten seconds, is a crash: its bytes are
kept, and the exit code is 1. The fuzzer is libFuzzer, which ends its process: it runs in one of its own.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.faults.record import GUIDED, Tally
from tests.helpers.forms import FORMS_OF_TEXTS, in_form
from tests.helpers.golden_genotypes import DARTS_V2

WORDS = (
    *("Genotype(", "normal=", "normal_concat=", "reduce=", "reduce_concat=", "range(2, 6)", "('skip_connect', 0)"),
    *("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_5x5", "nor_conv_1x1", "noise"),
    *('"format": 1', '"space"', '"cells"', '"normal"', '"reduce"', '"cell"', '"inputs": 2', '"nodes"', '"concat"'),
    *('"origin"', "[[", "]]", "|none~0|", "|+|", "~1|", "1e999", "-1", "\\ud800", "*", "**", "lambda:", "__import__"),
)


def fuzz(corpus: str, *options: str) -> None:
    """Run libFuzzer in this process; it does not return."""
    import atheris

    modules = ("", ".formats", ".forms", ".texts", ".namedtuples", ".exports")
    with atheris.instrument_imports(include=[*(f"topocell.genotype{m}" for m in modules), "topocell.errors"]):
        from topocell.errors import GenotypeError
        from topocell.genotype.genotype import Genotype

    def through(genotype: Genotype) -> None:
        again = Genotype.from_dict(json.loads(json.dumps(genotype.to_dict())))
        assert again.key == genotype.key and again.canonical().key == genotype.key

    def as_json(data: bytes) -> None:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            return
        through(Genotype.from_dict(value))

    def as_darts(data: bytes) -> None:
        genotype = Genotype.from_darts(data.decode("utf-8", errors="surrogateescape"))
        through(genotype)
        try:
            text = genotype.to_darts()
        except GenotypeError:
            return
        assert Genotype.from_darts(text).key == genotype.key

    def as_arch(data: bytes) -> None:
        genotype = Genotype.from_nasbench201(data.decode("utf-8", errors="surrogateescape"))
        through(genotype)
        assert Genotype.from_nasbench201(genotype.to_nasbench201()).key == genotype.key

    def as_text(data: bytes) -> None:
        text = data.decode("utf-8", errors="surrogateescape")
        through(Genotype.from_text(text, operations=["skip_connect", "max_pool_3x3"]))

    def one_input(data: bytes) -> None:
        """The first byte says which parser takes the rest."""
        target = (as_json, as_darts, as_arch, as_text)[data[0] % 4] if data else as_json
        try:
            target(data[1:])
        except GenotypeError as fault:
            assert "\n" not in str(fault) and len(str(fault)) > 10

    atheris.Setup([sys.argv[0], corpus, *options], one_input)
    atheris.Fuzz()


def seeds() -> list[bytes]:
    """An input that each parser takes."""
    cell = {"inputs": 2, "nodes": [[["sep_conv_3x3", 0], ["skip_connect", 1]], [["noise", 2]]], "concat": [2, 3]}
    pairs = "[('sep_conv_3x3', 0), ('skip_connect', 1), ('max_pool_3x3', 0), ('dil_conv_5x5', 2)]"
    one = {"inputs": 1, "nodes": [[["nor_conv_3x3", 0]], [["none", 0], ["skip_connect", 1]]], "concat": [2]}
    return [
        b"\0" + json.dumps({"format": 1, "space": "d", "cells": {"normal": cell, "reduce": cell}}).encode(),
        b"\0" + json.dumps({"format": 1, "space": "n", "cells": {"cell": cell | one}}).encode(),
        f"\1Genotype(normal={pairs}, normal_concat=range(2, 4), reduce={pairs}, reduce_concat=[2, 3])".encode(),
        f"\1X = Genotype({pairs}, range(4), {pairs}, [3])".encode(),
        *(
            f"\3{in_form(writer, DARTS_V2)}".encode()
            for writer in FORMS_OF_TEXTS
            if writer not in ("nasbench201", "compact")
        ),
        b"\3[[(0, 1), (1, 0)], [(0, 1), (1, 0)]]",
        b"\2|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|avg_pool_3x3~1|nor_conv_1x1~2|",
    ]


def main() -> int:
    """Fuzz for the minutes asked for; prints and records how many inputs ran and how many crashed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="where inputs that crash are kept")
    parser.add_argument("--child", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        fuzz(*asked.child)
    asked.keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        corpus, words = Path(folder) / "corpus", Path(folder) / "words"
        corpus.mkdir()
        for number, seed in enumerate(seeds()):
            (corpus / str(number)).write_bytes(seed)
        words.write_text("".join('"' + re.sub(r'(["\\])', r"\\\1", word) + '"\n' for word in WORDS))
        options = [f"-max_total_time={60 * asked.minutes:.0f}", "-timeout=10", "-rss_limit_mb=4096", "-max_len=8192"]
        options += ["-print_final_stats=1", f"-dict={words}", f"-artifact_prefix={asked.keep.resolve()}/"]
        command = [sys.executable, "-m", "tests.fuzz.parsers_atheris", "--child", str(corpus), *options]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
    counted = re.search(r"number_of_executed_units: *([0-9]+)", done.stderr)
    executed = int(counted[1]) if counted else 0
    crashed = int(done.returncode != 0 or not executed)
    if crashed:
        print(done.stderr[-8000:], file=sys.stderr)
    print(f"{executed} inputs in {asked.minutes:g} minutes, {crashed} crashes")
    Tally(GUIDED, executed, executed - crashed).keep()
    return crashed


if __name__ == "__main__":
    sys.exit(main())

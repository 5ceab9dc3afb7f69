"""Command lines that nobody means: one line on stderr, exit code 2, nothing written."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from tests.fuzz.bad import FULL_FORM, NASTY, check_message, contents, scalars, suite
from tests.fuzz.test_bad_recipes import overrides, ready

from topocell import api, cli, studies
from topocell.config.recipe import Recipe
from topocell.studies._options import parse

COMMANDS = ("run", "search", "select", "compare", "retrain", "report", "estimate", "draw", "spaces", "recipes", "study")
WORDS = (
    *(
        "list",
        "show",
        "copy",
        "depth",
        "compare",
        "quickstart",
        "dots",
        "quikstart",
        "--out",
        "--budget",
        "smoke",
        "tiny",
    ),
    *("--quiet", "--ops", "perturbation", "--edges", "--as", "--in-degree", "0", "--resolved", "--help", "-h", "--x=1"),
    *(
        "seed=-1",
        "space.nodes=0",
        "layers=[]",
        "genotypes=x",
        "table=x.csv",
        "plain",
        "things",
        "things/broken.json",
        "--",
    ),
)
argvs = st.lists(
    st.one_of(st.sampled_from(WORDS), st.sampled_from(WORDS), overrides(), scalars.map(str), st.sampled_from(NASTY)),
    max_size=5,
)


def test_command_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def prepared(recipe: Recipe, *_: object, **__: object) -> Any:
        ready(recipe)
        raise SystemExit(0)  # from here on it would run

    def parsed(name: str, words: list[str], *_: object) -> None:
        parse(name, studies.STUDIES[name].options, words)
        raise SystemExit(0)

    for name in ("run", "search", "estimate"):
        monkeypatch.setattr(api, name, prepared)
    monkeypatch.setattr(studies, "run", parsed)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain").write_text("precious")
    (tmp_path / "things").mkdir()
    (tmp_path / "things/broken.json").write_text("{")
    before = contents(tmp_path)

    def attempt(argv: list[str]) -> bool:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = cli.main(argv)
            except SystemExit as end:
                code = int(end.code or 0)
        if code == 0:
            for name in set(contents(tmp_path)) - set(before):  # `recipes copy` has made what it was asked for
                (tmp_path / name).unlink()
            return False
        assert code == 2, (code, err.getvalue())
        assert err.getvalue().count("\n") == 1 and err.getvalue().startswith("error: "), err.getvalue()
        assert len(err.getvalue()) > 20
        assert contents(tmp_path) == before, "something was written"
        return True

    suite("command lines", 0.12, st.tuples(st.sampled_from(COMMANDS), argvs).map(lambda t: [t[0], *t[1]]), attempt)


@pytest.mark.parametrize(
    "argv",
    [
        [b"recipes", b"show", b"\xff\xfe"],
        [b"report", b"\xff/run"],
        [b"draw", b"x" * 300],
        [b"run", b"quickstart", b"--out", b"x" * 300, b"--budget", b"smoke"],
        [b"run", b"quickstart", b"--out", b"new", b"--budget", b"smoke", b"data.root=~nobody", b"data.dataset=folder"],
        [b"run", b"quickstart", b"--out", b"new", b"search.layers=100000"],
        [b"run", b"/dev/zero", b"--out", b"new"],
        [b"select", b".", b"--as", b"../up"],
    ],
    ids=lambda argv: b" ".join(argv)[:24].decode(errors="replace").replace("/", "_"),
)
def test_processes(argv: list[bytes], tmp_path: Path) -> None:
    if not FULL_FORM and argv[0] != b"report":
        pytest.skip("only in the full form: a process takes seconds to start")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable.encode(), b"-m", b"topocell", *argv],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        timeout=120,
    )
    said = done.stderr.decode("ascii")
    assert done.returncode == 2, said
    assert said.count("\n") == 1 and said.startswith("error: ")
    check_message(said.strip())
    assert contents(tmp_path) == {}

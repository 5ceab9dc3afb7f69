"""Published cells as data: all are there, their networks have the published sizes, every command takes them by name."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.golden_genotypes import PARAMETERS

from topocell.cli import main
from topocell.errors import GenotypeError
from topocell.genotype.genotype import CellGenotype, Genotype
from topocell.genotype.published import Published, published, published_cells
from topocell.io import plain_yaml
from topocell.nn.count import mobile_size, published_size
from topocell.reporting.rundirs import genotype_of

CELLS = published_cells()
ARCH = "|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_1x1~1|skip_connect~2|"
NODE = '{"inputs": 2, "nodes": [[["noise", 0], ["skip_connect", 1], ["noise", 1]]], "concat": [2]}'
THREE = f'{{"format": 1, "space": "mine", "cells": {{"normal": {NODE}, "reduce": {NODE}}}}}'


def operation(name: str, c: int, stride: int) -> int:
    """Parameters of an operation, from its definition."""
    if name.startswith(("sep_conv", "dil_conv")):
        k = int(name[-1])
        once = c * k * k + c * c + 2 * c
        return 2 * once if name.startswith("sep") else once
    if name == "conv_7x1_1x7":
        return 14 * c * c + 2 * c
    return c * c + 2 * c if name == "skip_connect" and stride == 2 else 0


def parameters(genotype: Genotype, channels: int, layers: int, classes: int) -> int:
    """Parameters of the CIFAR network of a cell of two inputs, added up by hand."""
    total, c0, c1, c = 27 * 3 * channels + 6 * channels, 3 * channels, 3 * channels, channels
    for layer in range(layers):
        kind = "reduce" if layer in (layers // 3, 2 * layers // 3) else "normal"
        c *= 2 if kind == "reduce" else 1
        cell: CellGenotype = genotype.cells[kind]
        total += c0 * c + 2 * c + c1 * c + 2 * c
        for pairs in cell.nodes:
            total += sum(operation(name, c, 2 if kind == "reduce" and p < 2 else 1) for name, p in pairs)
        c0, c1 = c1, c * len(cell.concat)
    return total + (c1 + 1) * classes


def test_all_are_there() -> None:
    assert len(CELLS) == 71 and len(set(CELLS)) == 71
    of_papers = {
        source: sum(cell.source == source for cell in CELLS.values()) for source in {c.source for c in CELLS.values()}
    }
    assert of_papers["Li et al., SGAS (2020)"] == 20
    assert of_papers["Wang et al., DARTS-PT (2021)"] == 8 + 25
    assert len(of_papers) == 12


@pytest.mark.parametrize("cell", CELLS.values(), ids=lambda cell: cell.name)
def test_a_cell_is_whole(cell: Published) -> None:
    genotype = cell.genotype
    assert re.fullmatch(r"[a-z0-9-]+", cell.name)
    assert re.search(r"error \d+\.\d+", cell.figures)
    assert cell.parameters == parameters(genotype, 36, 20, 10)
    assert all(len(pairs) == 2 for c in genotype.cells.values() for pairs in c.nodes)
    assert Genotype.from_dict(json.loads(json.dumps(genotype.to_dict()))) == genotype
    assert Genotype.from_darts(genotype.to_darts()).cells == genotype.cells
    assert genotype_of(cell.name) == genotype


@pytest.mark.parametrize("name", ["nasnet-a", "amoebanet-a", "snas-aggressive", "darts-pt-s1-c10-1"])
def test_the_network_has_that_size(name: str) -> None:
    assert published_size(published(name).genotype).parameters == CELLS[name].parameters


def test_the_counts_are_those_of_the_authors() -> None:
    counts = {cell.genotype.key: cell.parameters for cell in CELLS.values()}
    assert [counts[genotype.key] for genotype, _ in PARAMETERS.values()] == [found for _, found in PARAMETERS.values()]


def test_sgas_prints_the_sizes_of_these_networks() -> None:
    cells = [cell for name, cell in CELLS.items() if name.startswith("sgas")]
    printed = [float(re.findall(r"(\d\.\d+) M", cell.figures)[0]) for cell in cells]
    assert printed == [pytest.approx(cell.parameters / 1e6, abs=0.006) for cell in cells]


@pytest.mark.parametrize(("name", "found", "millions"), [("darts-v2", 4_718_752, 529.9), ("p-darts", 4_944_352, 542.8)])
def test_imagenet(name: str, found: int, millions: float) -> None:
    size = mobile_size(published(name).genotype)
    assert size.parameters == found and size.multiply_adds / 1e6 == pytest.approx(millions, abs=0.05)


def test_cells_as_users_name_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory, a file, a name, a text; what is there as a file goes first."""
    monkeypatch.chdir(tmp_path)
    mine = published("dots-c10").genotype
    (tmp_path / "run").mkdir()
    mine.save("run/genotype.json")
    mine.save("cell.json")
    Path("cell.txt").write_text(mine.to_darts())
    for place in ("run", "cell.json", "cell.txt", "dots-c10", mine.to_darts(), Path("run")):
        assert genotype_of(place).cells == mine.cells
    assert genotype_of("DOTS_C10").cells == mine.cells
    assert genotype_of(ARCH) == Genotype.from_nasbench201(ARCH)
    for settings in (mine.to_dict(), {"path": "a/b.json", "genotype": mine.to_dict()}):
        assert genotype_of(plain_yaml.dump(settings).strip()).cells == mine.cells
    for text in (mine.to_darts().encode(), b"\xef\xbb\xbf" + json.dumps(mine.to_dict()).encode()):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
        assert genotype_of("-").cells == mine.cells
    published("darts-v2").genotype.save("gdas")
    assert genotype_of("gdas") == published("darts-v2").genotype


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["genotypes", "show", "dots-c1"], "did you mean 'dots-c10'?"),
        (["draw", "darts-v3"], "did you mean 'darts-v2'?"),
        (["draw", "missing/cell.json"], "a genotype must be a file that can be read"),
        (["draw", "genotype (1).json"], "a genotype must be a file that can be read, but No such file"),
        (["draw", "runs/[a|b]/cell.txt"], "a genotype must be a file that can be read, but No such file"),
        (["compare", "-", "-"], "- is a cell from the standard input, but nothing, or nothing more, comes from there"),
        (["genotypes", "show", THREE, "--format", "darts"], "two inputs per node, but got 3; save JSON instead"),
        (
            ["genotypes", "show", ARCH, "--format", "darts"],
            "DARTS' format has cells of two inputs, but got one; save JSON",
        ),
        (["retrain", "--genotype", "dart-v2", "dots", "--out", "there"], "did you mean 'darts-v2'?"),
        (["retrain", "--genotype", "darts-v2", "dotz", "--out", "there"], "did you mean 'dots'?"),
        (["retrain", "--genotype", "darts-v2", "dots"], "darts-v2 has none; add --out DIR"),
        (["retrain", "--genotype", "darts-v2", "dots", "--recipe", "gdas", "--out", "there"], "leave --recipe out"),
        (["retrain", "darts-v2"], "add --out DIR"),
        (["retrain", "DARTS_V2"], "but DARTS_V2 has none; add --out DIR"),
        (["retrain", ARCH], "has none; add --out DIR"),
        (["retrain", CELLS["darts-v2"].genotype.to_darts()], "but 'Genotype(nor...=range(2, 6))' has none; add --out"),
        (["retrain", "--genotype", ARCH, "dots"], "has none; add --out DIR"),
        (["draw", "epochs: 3\nlayers: 8"], "but got 'epochs: 3\\nlayers: 8'; e.g. Genotype("),
        (["retrain", "--genotype", ARCH, "dots", "--budget", "smoke", "--out", "there"], "skeleton"),
        (["study", "depth", "genotypes=dots-c1", "--out", "there"], "did you mean 'dots-c10'?"),
        (["compare", "dots-c10", "dots-c1"], "did you mean 'dots-c10'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(argv: list[str], words: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(ARCH.encode())))
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert words in " ".join(said.split()) and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_unknown_names_are_refused() -> None:
    with pytest.raises(GenotypeError, match=r"'dots-c11' is none \(did you mean 'dots-c10'\?\)"):
        published("dots-c11")
    with pytest.raises(GenotypeError, match=r"but 'x{90,100} is none; `topocell genotypes list`"):
        published("x" * 400)


def test_a_published_cell_is_retrained_without_a_search(tmp_path: Path, capsys: Any) -> None:
    words = ["dots", "--budget", "smoke", "data.images=24", "data.test_images=10", "--quiet"]
    assert main(["retrain", "--genotype", "dots-c10", *words, "--out", str(tmp_path / "run")]) == 0
    results = json.loads((tmp_path / "run/results.json").read_text())
    genotype = Genotype.load(tmp_path / "run/genotype.json")
    assert genotype == published("dots-c10").genotype and genotype.origin == {"published": "dots-c10"}
    assert results["n"] >= 1 and (tmp_path / "run/report.html").exists()
    capsys.readouterr()
    assert main(["compare", "darts-v2", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().out
    assert "3.53 M" in said and "2.76" in said and f"{100 * results['last_mean']:.2f}" in said


@pytest.mark.parametrize("name", ["darts-pt-s5-3", "darts-pt-s4-svhn-2", "nasnet-a"])
def test_a_published_cell_is_drawn(name: str, tmp_path: Path) -> None:
    assert main(["draw", name, "--out", str(tmp_path / "cell.svg")]) == 0
    assert (tmp_path / "cell.svg").read_text().count("<svg") == 1


ALONE = f'{{"format": 1, "space": "mine", "skeleton": "uniform", "cells": {{"normal": {NODE}}}}}'
ONE = THREE.replace('"inputs": 2', '"inputs": 1').replace(", 1]", ", 0]").replace("[2]", "[1]")


@pytest.mark.parametrize("text", [THREE, ONE, ALONE])
def test_cells_that_no_text_of_others_says_are_shown_as_json(text: str, capsys: Any) -> None:
    """Those of other numbers of inputs, and a normal cell alone."""
    assert main(["genotypes", "show", text]) == 0
    size, *_, last = capsys.readouterr().out.strip().splitlines()
    assert "multiply-adds with 36 channels" in size and Genotype.from_dict(json.loads(last)) == Genotype.from_text(text)


def test_lists_and_texts(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["genotypes", "list"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in CELLS) and "3,349,342" in said
    assert main(["genotypes", "show", "darts-v2"]) == 0
    said = capsys.readouterr().out
    assert "4,718,752 parameters, 529,911,552 multiply-adds" in said and "ImageNet" in said
    assert "2.76 ± 0.09 %" in said and "3,349,342 parameters" in said and CELLS["darts-v2"].genotype.to_darts() in said
    assert main(["genotypes", "show", "nasnet-a", "--format", "json"]) == 0
    assert Genotype.from_dict(json.loads(capsys.readouterr().out)) == CELLS["nasnet-a"].genotype
    assert main(["genotypes", "show", ARCH, "--format", "nasbench201"]) == 0
    assert capsys.readouterr().out.strip() == ARCH


def test_every_command_takes_the_order_of_numbered_operations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = "none,max_pool_3x3,skip_connect,sep_conv_3x3"
    text = str([[(0, 3), (1, 2), (0, 1), (2, 3)]] * 2)
    cell = Genotype.from_text(text, operations=names.split(","))
    for words in (["draw", text, "-o", str(tmp_path / "cell.svg")], ["genotypes", "show", text], ["compare", text]):
        assert main(words) == 2 and "on the command line --operations A,B" in capsys.readouterr().err
        assert main([*words, "--operations", names]) == 0
        assert "draw" in words or cell.key in "".join(capsys.readouterr().out.split())
    out = ["--budget", "smoke", "data.images=40", "--out", str(tmp_path / "out"), "--quiet"]
    words = ["retrain", "--genotype", text, "random", *out]
    assert main(words) == 2 and not (tmp_path / "out").exists()
    assert main([*words, "--operations", names.replace(",", ", ")]) == 0
    assert Genotype.load(tmp_path / "out/genotype.json").cells == cell.cells
    capsys.readouterr()
    assert main(["retrain", str(tmp_path / "out"), "--operations", names]) == 2
    assert "--operations is for the text of a cell, which no run has" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "near"), [("PC-DARTS", "pc-darts-cifar"), ("PDARTS", "p-darts"), ("Darts_V9", "darts-v2")]
)
def test_a_name_is_told_the_nearest_in_any_case(name: str, near: str) -> None:
    with pytest.raises(GenotypeError, match=f"is none \\(did you mean '{near[:8]}"):
        published(name)


@pytest.mark.parametrize("name", ["darts-v2", "DARTS_V2", "Darts-V2"])
def test_figures_are_shown_by_every_spelling_of_the_name(name: str, capsys: Any) -> None:
    assert main(["genotypes", "show", name]) == 0
    assert capsys.readouterr().out.startswith("darts-v2: Liu et al.")

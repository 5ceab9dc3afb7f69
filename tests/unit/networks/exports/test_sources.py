"""The source that is written of a network computes what the network does, for every operation and skeleton."""

import ast
import importlib.util
import os
import runpy
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.helpers.golden_genotypes import DARTS_V2
from tests.helpers.odd_images import ODD_RATIONAL, claims, encoded, exif, orientation
from tests.helpers.painted import paint
from tests.helpers.untrained import classifier
from torch import nn

from topocell.data.pictures import find_images, read_pictures
from topocell.data.preprocessing import Preprocessing
from topocell.errors import RunError, SpaceError, TopocellError
from topocell.genotype.genotype import CellGenotype, Genotype
from topocell.networks.classifier import Classifier
from topocell.networks.exports import reading
from topocell.networks.exports.code import OPERATIONS, quoted
from topocell.networks.exports.graphs import computed_by
from topocell.networks.exports.standalone import model_name, write_standalone, write_timm
from topocell.nn.primitives import PRIMITIVES, Primitive
from topocell.spaces import KNOWN_OPERATIONS, SKELETONS, Slot, Stacking
from topocell.spaces.operations import OPERATIONS as PLAIN
from topocell.spaces.operations import RESIDUAL_OPERATIONS

OURS = (*PLAIN, *RESIDUAL_OPERATIONS)
NASBENCH201 = Genotype.from_nasbench201(
    "|nor_conv_3x3~0|+|nor_conv_1x1~0|avg_pool_3x3~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"
)
HALF = Genotype(
    "topology-bench",
    {"normal": CellGenotype(2, ((("skip_connect", 0),), (("sep_conv_3x3", 2), ("skip_connect", 1))), (2, 3))},
    skeleton="uniform-half",
)
EMPTY = Genotype.from_nasbench201("|none~0|+|none~0|none~1|+|none~0|none~1|nor_conv_3x3~2|")


def module_of(path: Path) -> ModuleType:
    """Import a file by its path, as a user does whose program lies beside it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[path.stem]
    return module


def pixels_for(model: Classifier) -> torch.Tensor:
    how, draws = model.preprocessing, torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (5, how.channels, *how.size), generator=draws, dtype=torch.uint8)


def agree(model: Classifier, folder: Path) -> None:
    """The file alone gives the logits of the network, bit for bit, in both memory formats."""
    write_standalone(model, folder, "some network")
    found = module_of(folder / "network.py")
    alone, pixels = found.load(), pixels_for(model)
    for batch in (pixels, pixels.contiguous(memory_format=torch.channels_last), pixels[:1]):
        (expected,), (logits,) = computed_by(model)([batch]), computed_by(alone)([batch])
        assert torch.equal(logits, expected)
    maps: list[torch.Tensor] = []
    side = 64
    alone.features(torch.zeros(1, model.preprocessing.channels, side, side), maps)
    assert [side // m.shape[-1] for m in maps] == alone.reductions
    assert model.classes == found.CLASSES
    assert {name: value.shape for name, value in alone.state_dict().items()} == {
        name: value.shape for name, value in model.net.state_dict().items()
    }


@pytest.mark.parametrize(("dtype", "apart"), [(torch.float64, 1e-5), (torch.bfloat16, 0.2)])
def test_the_file_alone_computes_in_the_precision_of_its_weights(
    dtype: torch.dtype, apart: float, tmp_path: Path
) -> None:
    model = classifier(DARTS_V2, 3)
    write_standalone(model, tmp_path, "some network")
    found = module_of(tmp_path / "network.py")
    pixels = pixels_for(model)
    other = found.load().to(dtype)(pixels)
    assert other.dtype == dtype and float((other.float() - found.load()(pixels)).abs().max()) < apart


def test_floats_that_are_no_pixels_are_warned_of(tmp_path: Path) -> None:
    """As `topocell.load` warns of them; what transforms networks does not see the values."""
    model = classifier(DARTS_V2, 3)
    write_standalone(model, tmp_path, "some network")
    alone, pixels = module_of(tmp_path / "network.py").load(), pixels_for(model)
    for scaled in ((pixels / 255 - 0.5) / 0.2, 1.0005 * pixels / pixels.max(), pixels / 255):
        with pytest.warns(UserWarning, match="takes pixels in 0..255") as said:
            scaled_logits = alone(scaled)
        assert said[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        wanted = alone(pixels)
        assert torch.equal(alone(pixels.float()), wanted)
        for other in (torch.vmap(alone)((pixels / 255)[:, None])[:, 0], torch.fx.symbolic_trace(alone)(pixels / 255)):
            torch.testing.assert_close(other, scaled_logits)


@pytest.mark.parametrize("alone", [False, True])
def test_scripting_is_refused_in_one_line(alone: bool, tmp_path: Path) -> None:
    model = classifier(DARTS_V2, 3)
    write_standalone(model, tmp_path, "some network")
    with pytest.raises((TopocellError, NotImplementedError), match=r"use torch.export, torch.compile or torch.jit"):
        torch.jit.script(module_of(tmp_path / "network.py").load() if alone else model)


def both(name: str) -> Genotype:
    """Cells of one operation, at stride 1 and 2."""
    edges = (((name, 0), ("nor_conv_1x1", 1)), ((name, 2), (name, 1)))
    return Genotype("one", dict.fromkeys(("normal", "reduce"), CellGenotype(2, edges, (2, 3))))


def test_every_operation_has_a_source() -> None:
    assert tuple(sorted(OPERATIONS)) == tuple(sorted(OURS))


@pytest.mark.parametrize("name", OURS)
def test_each_operation_alone(name: str, tmp_path: Path) -> None:
    agree(classifier(both(name), 3), tmp_path)


@pytest.mark.parametrize(
    ("genotype", "options"),
    [
        (DARTS_V2, {}),
        (DARTS_V2, {"head": "bn-relu"}),
        (DARTS_V2, {"stem": "imagenet", "images": (3, 64, 32), "layers": 4}),
        (DARTS_V2, {"stem": "imagenet", "images": (1, 32, 32), "head": "bn-relu", "layers": 1}),
        (DARTS_V2, {"images": (5, 8, 8), "resize": "stretch"}),
        (DARTS_V2, {"channels": 5, "layers": 3}),
        (NASBENCH201, {}),
        (NASBENCH201, {"layers": 8, "images": (1, 8, 12)}),
        (EMPTY, {}),
        (HALF, {}),
    ],
)
def test_each_skeleton_stem_and_head(genotype: Genotype, options: dict[str, Any], tmp_path: Path) -> None:
    agree(classifier(genotype, **options), tmp_path)


@st.composite
def darts(draw: Any) -> Genotype:
    """A genotype of the DARTS space, of any number of edges and nodes."""
    ours = [name for name in OURS if name != "none"]
    cells = {}
    for kind in ("normal", "reduce"):
        nodes = []
        for node in range(2, 2 + draw(st.integers(1, 4))):
            sources = draw(st.lists(st.integers(0, node - 1), min_size=1, max_size=3, unique=True))
            nodes.append(tuple((draw(st.sampled_from(ours)), source) for source in sorted(sources)))
        computed = list(range(2, 2 + len(nodes)))
        concat = draw(st.lists(st.sampled_from(computed), min_size=1, unique=True))
        cells[kind] = CellGenotype(2, tuple(nodes), tuple(sorted(concat)))
    return Genotype("any", cells)


@settings(max_examples=12)
@given(darts(), st.integers(1, 4))
def test_any_cell(genotype: Genotype, layers: int) -> None:
    with TemporaryDirectory() as place:
        agree(classifier(genotype, layers), Path(place))


def test_a_skeleton_of_a_users_own_is_data(tmp_path: Path) -> None:
    SKELETONS.add(
        "wide", Stacking(lambda c, n: [Slot("reduce" if i == 1 else "normal", c * (i + 1), i) for i in range(n)])
    )
    agree(classifier(Genotype("x", DARTS_V2.cells, skeleton="wide"), 3), tmp_path)


def test_an_operation_of_a_users_own_is_refused_in_one_line(tmp_path: Path) -> None:
    PRIMITIVES.add("mine", Primitive(lambda c, s, affine: nn.Conv2d(c, c, 3, s, 1)))
    assert "mine" in KNOWN_OPERATIONS
    for write in (write_standalone, write_timm):
        with pytest.raises(RunError, match="topocell's own operations, but this cell has mine; export it to") as fault:
            write(classifier(both("mine"), 3), tmp_path, "x")
        assert "\n" not in str(fault.value)
    assert list(tmp_path.iterdir()) == []


def test_only_what_a_network_needs_is_written(tmp_path: Path) -> None:
    write_standalone(classifier(NASBENCH201), tmp_path, "x")
    text = (tmp_path / "network.py").read_text(encoding="utf-8")
    assert "import topocell" not in text and "class OneInputNetwork" in text
    for name in ("SepConv", "DilConv", "FactorizedReduce(", "TwoInputNetwork", "ImageNetStem", "Noise"):
        assert (name in text) == (name == "FactorizedReduce("), name  # of skip_connect


def test_names_that_could_be_code_are_texts(tmp_path: Path) -> None:
    odd = ('"""', "\\", "'''); import os", "\u2028\u202e", "{0}", "\ud800")
    model = classifier(NASBENCH201, classes=odd)
    write_standalone(model, tmp_path, 'evil """\nimport os {x}')
    found = module_of(tmp_path / "network.py")
    assert odd == found.CLASSES and not hasattr(found, "os")
    assert "\u202e" not in (tmp_path / "network.py").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "wanted"), [("Photos 2", "topocell_photos_2"), ("ÄÖ", "topocell_network"), ("a-b.c", "topocell_a_b_c")]
)
def test_names_of_models(name: str, wanted: str) -> None:
    assert model_name(name) == wanted


def test_quoted_texts_are_python() -> None:
    assert [quoted(text) for text in ("a", 'ü"', "\n")] == ['"a"', '"ü\\""', '"\\n"']
    for text in ("\U0001f989\u200b", "\U000e0001", "\U0001f989\n", "\ud83d", "\\u200b\x7f"):
        assert ast.literal_eval(quoted(text)) == text and quoted(text).isprintable()


@pytest.mark.parametrize("damage", ["bomb", "chunk"])
def test_a_damaged_file_is_one_line(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_standalone(classifier(NASBENCH201), tmp_path, "x")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 300, 3)).astype(np.uint8))
    first, second, rest = encoded(noise, "PNG").split(b"IDAT", 2)
    broken = first + b"IDAT" + second + b"\0DAT" + rest  # of which Pillow says SyntaxError
    (tmp_path / "odd.png").write_bytes(claims(60_000, 60_000) if damage == "bomb" else broken)
    monkeypatch.setattr(sys, "argv", ["network.py", str(tmp_path / "odd.png")])
    with pytest.raises(SystemExit, match=r"^error: '.*odd.png' cannot be read as an image: "):
        runpy.run_path(str(tmp_path / "network.py"), run_name="__main__")


@pytest.mark.parametrize(("resize", "size"), [("fit", (12, 16)), ("stretch", (12, 16)), ("centre", (12, 12))])
@pytest.mark.parametrize("channels", [1, 3])
def test_files_are_read_as_topocell_reads_them(
    resize: Any, size: tuple[int, int], channels: int, tmp_path: Path
) -> None:
    paint(tmp_path, 0, 8)
    Image.fromarray(np.zeros((5, 9), np.uint8)).convert("P").save(tmp_path / "p.gif", transparency=0)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 14, 3)).astype(np.uint8))
    for turn in (6, 7):
        noise.save(tmp_path / f"{turn}.jpg", exif=exif(ODD_RATIONAL, orientation(turn)))
    how = Preprocessing(
        ("a", "b"), (0.5,) * channels, (0.5,) * channels, size, channels, resize, (9, 200, 30), "cifar", "plain"
    )
    found = list(find_images(tmp_path)[0])
    wanted = read_pictures(found, how)
    read = reading.READERS[resize]
    assert not wanted.faults and len(found) == 27
    ours: Sequence[torch.Tensor] = [read(name, how.size, channels, how.background) for name in wanted.names]
    assert torch.equal(torch.stack(list(ours)), wanted.pixels)
    deep = tmp_path / "deep.png"
    Image.fromarray(np.arange(100, dtype=np.uint16).reshape(10, 10)).save(deep)
    assert "more than 8 bits" in read_pictures(find_images(deep)[0], how).faults[0]
    with pytest.raises(ValueError, match="more than 8 bits"):
        read(str(deep), how.size, channels, how.background)


@pytest.mark.parametrize(
    ("genotype", "options", "divisor"),
    [
        (DARTS_V2, {"layers": 4}, 4),
        (DARTS_V2, {"stem": "imagenet", "images": (3, 64, 32), "layers": 4}, 32),
        (NASBENCH201, {"layers": 8}, 4),
        (HALF, {"layers": 2}, 2),
    ],
)
def test_sides_that_cannot_be_halved_are_refused_as_topocell_does(
    genotype: Genotype, options: Any, divisor: int, tmp_path: Path
) -> None:
    model = classifier(genotype, **options)
    write_standalone(model, tmp_path, "some network")
    alone = module_of(tmp_path / "network.py").load()
    height, width = (divisor * 2 + divisor // 2, divisor * 2)
    sizes = (height, width), (width, width + 1)
    for size in sizes:
        odd = torch.zeros(1, 3, *size, dtype=torch.uint8)
        with pytest.raises(SpaceError, match=f"divisible by {divisor} for this network, but got") as ours:
            model(odd)
        with pytest.raises(ValueError, match="divisible") as theirs:
            alone(odd)
        assert str(theirs.value) == str(ours.value)
    pixels = torch.zeros(1, 3, width, 2 * width, dtype=torch.uint8)
    assert torch.equal(alone(pixels), model(pixels))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(torch.jit.trace(alone, pixels)(pixels), model(pixels))
    program = torch.export.export(alone, (pixels,), dynamic_shapes=({2: divisor * torch.export.Dim("h", min=2)},))
    assert torch.equal(program.module()(pixels), model(pixels))


def test_the_program_shows_names_that_the_terminal_has_no_characters_for(tmp_path: Path) -> None:
    write_standalone(classifier(DARTS_V2, 3), tmp_path, "some network")
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    settings = {**os.environ, "PYTHONIOENCODING": "ascii"}
    words = [sys.executable, "network.py", "a.png"]
    done = subprocess.run(words, cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and "\\xfc" in done.stdout, done.stderr

"""Exports of runs: each computes what the network does, says how it is used, and leaves nothing where it does not."""

import errno
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.helpers.golden_genotypes import DARTS_V2
from tests.helpers.painted import CLASSES, paint
from tests.helpers.untrained import classifier, directory
from torch import Tensor, nn

import topocell
from topocell import api
from topocell.cli import main
from topocell.config.load import load_recipe
from topocell.errors import DataError, RunError, TopocellError
from topocell.genotype.genotype import CellGenotype, Genotype
from topocell.io import files
from topocell.networks.exports import graphs, writing
from topocell.networks.exports.facts import Facts, network_results, random_samples
from topocell.networks.exports.writing import FORMATS, Format, write_export
from topocell.networks.scores import wilson_interval
from topocell.nn.kernels.gpu import state
from topocell.nn.primitives import PRIMITIVES, Primitive
from topocell.runs import exporting

NASBENCH201 = Genotype.from_nasbench201(
    "|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|none~1|nor_conv_1x1~2|"
)
UNIFORM = Genotype(
    "topology-bench",
    {"normal": CellGenotype(2, ((("skip_connect", 0),), (("sep_conv_3x3", 2), ("skip_connect", 1))), (2, 3))},
    skeleton="uniform",
)
FILES = {
    "safetensors": {"network.json", "weights.safetensors", "preprocessing.json"},
    "onnx": {"model.onnx", "preprocessing.json"},
    "standalone": {"network.py", "network.pt"},
    "pt2": {"model.pt2", "preprocessing.json"},
    "timm": {"model.safetensors", "topocell_{name}.py"},
}
ALWAYS = {"README.md", "cell.svg", "export.json"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: Any) -> Path:
    """Two runs, `digits` and `photos`, the latter with two seeds, and its images."""
    place = Path(tmp_path_factory.mktemp("exports"))
    paint(place / "images", 0, 10)
    photos = ["data.dataset=folder", f"data.root={place / 'images'}", "data.resolution=16", "space.nodes=1"]
    photos += ["retrain.seeds=[3,1]", "data.background=red"]
    api.run(load_recipe("random", photos, "smoke"), place / "photos")
    api.run(load_recipe("quickstart", [], "smoke"), place / "digits")
    return place


class Exports(dict[tuple[str, str], writing.Exported]):
    """An export of each run to each format, beneath the runs, made when it is first asked for."""

    def __init__(self, made: Path) -> None:
        super().__init__()
        self.made = made

    def __missing__(self, key: tuple[str, str]) -> writing.Exported:
        self[key] = topocell.export(self.made / key[0], key[1], seed=1 if key[0] == "photos" else None)
        return self[key]


@pytest.fixture(scope="module")
def exported(made: Path) -> Exports:
    return Exports(made)


EACH = [(run, to) for run in ("digits", "photos") for to in FORMATS]


@pytest.mark.parametrize(("run", "to"), EACH)
def test_each_format_is_checked_on_test_images(made: Path, exported: Any, run: str, to: str) -> None:
    done = exported[run, to]
    assert done.path == made / run / "exports" / (to if run == "digits" else f"{to}-1")
    assert set(done.files) == ALWAYS | {name.format(name=run) for name in FILES[to]}
    assert {file.name: file.stat().st_size for file in done.path.iterdir()} == done.files
    assert done.images == f"{60 if run == 'digits' else 6} test images of the run"
    assert done.difference <= (1e-4 if to == "onnx" else 0)
    assert json.loads((done.path / "export.json").read_text())["check"]["real"] is True


@pytest.mark.parametrize(("run", "to"), EACH)
def test_the_block_of_each_card_runs(
    made: Path, exported: Any, run: str, to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    place = Path(shutil.copytree(exported[run, to].path, tmp_path / "moved"))
    image = sorted((made / "images").rglob("*.bmp"))[0]
    with Image.open(image) as upright:  # as a phone stores it
        upright.crop((0, 0, 20, 16)).save(tmp_path / "upright.png")
        turned = upright.crop((0, 0, 20, 16)).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[274] = 6
    turned.save(place / "photo.jpg", "PNG", exif=exif)
    image = tmp_path / "upright.png"
    model = topocell.load(made / run, seed=1 if run == "photos" else None)
    with Image.open(image) as opaque:  # its left half is of the background, once below transparent pixels
        seen = opaque.convert("RGB")
    clear = seen.convert("RGBA")
    seen.paste(model.preprocessing.background, (0, 0, 10, 16))
    clear.paste((1, 2, 3, 0), (0, 0, 10, 16))
    seen.save(tmp_path / "seen.png")
    clear.save(tmp_path / "clear.png")
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(place)
    before = set(sys.modules)
    (block,) = re.findall(r"```python\n(.*?)```", (place / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    try:
        known: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(block, "card", "exec"), known)
        shutil.copy(image, place / "photo.jpg")
        again = dict(known)
        exec(compile(block, "card", "exec"), again)
        halves = []
        for name in ("seen.png", "clear.png"):
            shutil.copy(tmp_path / name, place / "photo.jpg")
            halves.append(dict(known))
            exec(compile(block, "card", "exec"), halves[-1])
    finally:
        for name in set(sys.modules) - before:
            if name == "network" or name.startswith("topocell_"):
                del sys.modules[name]
    label = model.predict(image).labels[0]
    first, second, *both = capsys.readouterr().out.splitlines()
    assert (
        label in first
        and first == second
        and both[0] == both[1]
        and model.predict(tmp_path / "clear.png").labels[0] in both[0]
    )
    for name in {"pixels", "x"} & known.keys():
        for pair in ((known, again), halves):
            assert torch.equal(*(torch.as_tensor(found[name]) for found in pair))


@pytest.mark.parametrize("run", ["digits", "photos"])
def test_a_card_says_what_a_reader_has_to_know(made: Path, exported: Any, run: str) -> None:
    text = (exported[run, "onnx"].path / "README.md").read_text(encoding="utf-8")
    model = topocell.load(made / run, seed=1 if run == "photos" else None)
    share, n = model.kept.test_accuracy, len((made / run / "predictions.csv").read_text().splitlines()) - 1
    low, high = wilson_interval(share, n)
    size = topocell.count(model.net, (model.preprocessing.channels, *model.preprocessing.size))
    words = [
        f"Test accuracy: {100 * share:.2f} % of n = {n} test images",
        f"{100 * low:.2f} % to {100 * high:.2f} %",
        f"{size.parameters:,}",
        f"{size.multiply_adds:,}",
        *(f"| {name} |" for name in model.classes),
        "quickstart" if run == "digits" else "random",
        "ms for one image (batch 1",
        "by onnxruntime",
        "None is given here",
        "![The cell](cell.svg)",
        "stretch" if run == "digits" else "fit",
        "| #ffffff |".replace("#", "\\#") if run == "digits" else "\\#ff0000",
    ]
    assert [word for word in words if word not in text] == []
    warnings = network_results(made / run, model)["warnings"]
    assert warnings and text.count("\n- ") == len(warnings)


def test_the_warnings_of_one_of_several_networks_are_its_own(made: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made / "photos", tmp_path / "run", ignore=shutil.ignore_patterns("exports")))
    for name, one in (("predictions.csv", None), ("predictions-1.csv", CLASSES[0])):
        head, *rows = (run / name).read_text().splitlines()
        told = [row.split(",") for row in rows]
        lines = [",".join((file, true, one or true, share)) for file, true, _, share in told]
        (run / name).write_text("\n".join([head, *lines, ""]))
    first, second = (network_results(run, topocell.load(run, seed=seed))["warnings"] for seed in (3, 1))
    assert not [text for text in first if "never predicted" in text or "no better" in text]
    assert f"never predicted: {', '.join(sorted(CLASSES[1:]))}" in second
    assert [text for text in second if text.startswith("the network is no better than the answer")]


@pytest.mark.parametrize(
    ("recipe", "searched", "chosen"),
    [
        ("dots", "Stages: operations (", "operations by "),
        ("random", "No supernet was trained.", "operations by random, edges by random.$"),
        (
            "random-search",
            "No supernet",
            r"in each of at most 24 trials \(proposed by random\), .* best by training was",
        ),
        ("evolution", "No supernet", r"in each of the trials \(proposed by evolution\), .* best by training was taken"),
    ],
)
def test_a_card_says_how_the_cell_was_chosen(recipe: str, searched: str, chosen: str, tmp_path: Path) -> None:
    changes = ["selection.trials.number=null", "selection.trials.seconds=60"] if recipe == "evolution" else []
    words = exporting._method(tmp_path, load_recipe(recipe, changes))
    assert any(word.startswith(searched) for word in words) and re.search(chosen, words[-1])


def test_an_export_to_safetensors_is_loaded_and_exported_again(made: Path, exported: Any, tmp_path: Path) -> None:
    place, images = exported["photos", "safetensors"].path, made / "images"
    wanted = topocell.load(made / "photos", seed=1).predict(images)
    found = topocell.load(place).predict(images)
    assert torch.equal(found.probabilities, wanted.probabilities)
    assert topocell.load(place, seed=1).kept == topocell.load(place).kept
    again = topocell.export(place, "standalone", tmp_path / "again")
    assert again.images == "64 random images (seed 0), because an export has no images" and again.difference == 0
    facts = [json.loads((at / "export.json").read_text()) for at in (place, again.path)]
    for key in ("name", "recipe", "method", "results"):
        assert facts[0][key] == facts[1][key]
    shown = topocell.export(place, "safetensors", tmp_path / "shown", images=images, name="Other name")
    assert shown.images == "30 images given to the export"
    assert (shown.path / "README.md").read_text().startswith("# Other name\n")


def test_the_file_alone_is_a_program(made: Path, exported: Any) -> None:
    image = sorted((made / "images").rglob("*.jpg"))[0]
    block = "import runpy, sys; sys.modules['topocell'] = None; runpy.run_path('network.py', run_name='__main__')"
    place = exported["photos", "standalone"].path
    done = subprocess.run([sys.executable, "-c", block, str(image)], cwd=place, capture_output=True, text=True)
    best = topocell.load(made / "photos", seed=1).predict(image)[0].probabilities
    shown = ", ".join(f"{name} {100 * share:.1f} %" for name, share in best.items())
    assert done.stdout == f"{image}: {shown}\n", done.stderr
    for words, said in (([], "usage: python network.py photo.jpg"), (["absent.jpg"], "error: 'absent.jpg' cannot be")):
        failed = subprocess.run([sys.executable, "network.py", *words], cwd=place, capture_output=True, text=True)
        assert failed.returncode == 1 and failed.stderr.startswith(said) and failed.stderr.count("\n") == 1


def test_the_text_of_an_export_is_the_same_each_time(made: Path, exported: Any, tmp_path: Path) -> None:
    for to in ("safetensors", "standalone"):
        first = exported["digits", to].path
        second = topocell.export(made / "digits", to, tmp_path / to).path
        for file in first.iterdir():
            ours, theirs = file.read_bytes(), (second / file.name).read_bytes()
            if file.name == "README.md":
                ours, theirs = (re.sub(rb"[\d.]+ ms .* of \d+ calls", b"", text) for text in (ours, theirs))
            assert file.name == "export.json" or ours == theirs, file.name


def test_metadata_of_onnx_and_no_folder_of_this_machine(exported: Any) -> None:
    import onnx

    path = exported["photos", "onnx"].path
    graph = onnx.load(path / "model.onnx")
    told = {entry.key: entry.value for entry in graph.metadata_props}
    how = json.loads((path / "preprocessing.json").read_text(encoding="utf-8"))
    assert json.loads(told["classes"]) == sorted(CLASSES) == how["classes"]
    assert json.loads(told["mean"]) == how["mean"] and told["resize"] == "fit"
    (pixels,), (logits,) = graph.graph.input, graph.graph.output
    assert (pixels.name, logits.name) == ("pixels", "logits")
    assert pixels.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [dim.dim_param or dim.dim_value for dim in pixels.type.tensor_type.shape.dim][1:] == [3, 16, 16]
    for file in (path / "model.onnx", exported["photos", "pt2"].path / "model.pt2"):
        assert str(Path(topocell.__file__).parent).encode() not in file.read_bytes()


def test_a_card_names_no_folder_of_this_machine(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither that of the images, also where they cannot be read, nor those of the maker's own pieces."""

    def gone(*_: Any) -> None:
        raise DataError(f"data.root is a directory, but '{made}/photos' does not exist")

    monkeypatch.setattr(exporting, "some_test_images", gone)
    run = Path(shutil.copytree(made / "photos", tmp_path / "run", ignore=shutil.ignore_patterns("exports")))
    described = json.loads((run / "network.json").read_text())
    (run / "network.json").write_text(json.dumps(described | {"imports": ["/home/me/pieces.py"]}))
    done = topocell.export(run, "safetensors", name="owls")
    text = (done.path / "README.md").read_text()
    assert "because the images of the run cannot be read (--images names others)" in text and done.difference == 0
    assert "`--import` pieces.py" in text and "3 classes of images apart" in text
    assert str(tmp_path) not in text and str(made) not in text and "/home" not in text


def test_a_model_of_timm_can_get_other_classes_and_features(exported: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    place = exported["photos", "timm"].path
    program = """
import timm, torch, topocell_photos
model = timm.create_model("topocell_photos", pretrained=True)
assert model.pretrained_cfg["mean"] == topocell_photos.MEAN and model.num_classes == 3
given = timm.create_model("topocell_photos", checkpoint_path="model.safetensors")
assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), given.state_dict().values()))
other = timm.create_model("topocell_photos", pretrained=True, num_classes=7)
x = torch.randn(2, 3, 16, 16)
assert other(x).shape == (2, 7) and torch.equal(other.stem.conv.weight, model.stem.conv.weight)
bare = timm.create_model("topocell_photos", pretrained=True, num_classes=0).eval()
assert bare(x).shape == (2, bare.num_features)
maps = timm.create_model("topocell_photos", pretrained=True, num_classes=0, global_pool="").eval()
torch.testing.assert_close(maps(x).mean((2, 3)), bare(x))
bare.reset_classifier(0, "max")
torch.testing.assert_close(bare(x), maps(x).amax((2, 3)))
try:
    bare.reset_classifier(3, "catavg")
    raise SystemExit("a pooling that is none was ignored")
except ValueError as fault:
    assert "'catavg'" in str(fault)
for pooled in (lambda: maps.reset_classifier(3), lambda: timm.create_model("topocell_photos", global_pool="")):
    try:
        pooled()
        raise SystemExit("maps were given to a last layer")
    except ValueError as fault:
        assert "without pooling there are maps" in str(fault)
maps.reset_classifier(0)
levels = timm.create_model("topocell_photos", pretrained=True, features_only=True).eval()
found, info = levels(x), levels.feature_info
sizes = [(c, 16 // r, 16 // r) for c, r in zip(info.channels(), info.reduction())]
assert [tuple(map.shape[1:]) for map in found] == sizes
assert info.reduction() == [1, 2, 4] and torch.equal(found[-1], maps(x))
last, (two, three) = maps.forward_intermediates(x, indices=2)
assert torch.equal(two, found[1]) and torch.equal(last, three)
(one,) = timm.create_model("topocell_photos", pretrained=True, features_only=True, out_indices=[-2]).eval()(x)
assert torch.equal(one, two)
grey = timm.create_model("topocell_photos", pretrained=True, in_chans=1)
assert grey(x[:, :1]).shape == (2, 3)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


OTHER_FORMS: dict[str, tuple[Genotype, dict[str, Any]]] = {
    "nasbench201": (NASBENCH201, {"images": (1, 8, 12)}),
    "imagenet": (
        DARTS_V2,
        {"stem": "imagenet", "images": (3, 64, 32), "head": "bn-relu", "layers": 3, "resize": "stretch"},
    ),
    "five channels": (DARTS_V2, {"images": (5, 8, 8), "layers": 1}),
}


@pytest.mark.parametrize(
    ("form", "to"),
    [
        *(("nasbench201", to) for to in ("onnx", "timm")),
        *(("imagenet", to) for to in ("onnx", "pt2", "timm")),
        ("five channels", "pt2"),
    ],
)
def test_networks_of_other_forms(form: str, to: str, tmp_path: Path) -> None:
    genotype, options = OTHER_FORMS[form]
    source = directory(classifier(genotype, **options), tmp_path / "network")
    done = topocell.export(source, to)
    assert done.difference <= (1e-4 if to == "onnx" else 0)


@pytest.mark.parametrize(("channels", "reads"), [(1, True), (3, True), (5, False)])
def test_files_are_read_by_a_network_of_their_channels_alone(channels: int, reads: bool, tmp_path: Path) -> None:
    """And nothing says so of another."""
    source = directory(classifier(DARTS_V2, images=(channels, 8, 8), layers=1), tmp_path / "network")
    place = topocell.export(source, "standalone").path
    for name in ("network.py", "README.md"):
        assert ("photo.jpg" in (place / name).read_text(encoding="utf-8")) == reads
    program = (place / "network.py").read_text(encoding="utf-8")
    assert ("Pillow" in program) == reads and ('if __name__ == "__main__"' in program) == reads


def test_operations_of_a_users_own_and_noise(tmp_path: Path) -> None:
    PRIMITIVES.add("mine", Primitive(lambda c, s, affine: nn.Conv2d(c, c, 3, s, 1)))
    edges = ((("mine", 0), ("skip_connect", 1)),)
    own = Genotype("one", dict.fromkeys(("normal", "reduce"), CellGenotype(2, edges, (2,))))
    source = directory(classifier(own, 3), tmp_path / "own")
    assert topocell.export(source, "pt2").difference == 0
    with pytest.raises(TopocellError, match="this cell has mine; export it to safetensors, onnx or pt2"):
        topocell.export(source, "standalone")
    noisy = Genotype("one", dict.fromkeys(("normal", "reduce"), CellGenotype(2, ((("noise", 0), ("noise", 1)),), (2,))))
    source = directory(classifier(noisy, 3), tmp_path / "noisy")
    assert topocell.export(source, "standalone").difference == 0
    with pytest.raises(TopocellError, match="noise gives others each time; export it to safetensors, standalone"):
        topocell.export(source, "onnx")
    assert [path.name for path in (source / "exports").iterdir()] == ["standalone"]


class Deciding(nn.Module):
    """What it computes depends on the images, which no graph can say."""

    def forward(self, x: Tensor) -> Tensor:
        """The images, or their negative."""
        return x if float(x.sum()) > 0 else -x


@pytest.mark.parametrize("to", ["pt2", "onnx"])
def test_what_an_exporter_cannot_say_is_one_line(to: str, tmp_path: Path) -> None:
    PRIMITIVES.add("deciding", Primitive(lambda c, s, affine: nn.Sequential(nn.AvgPool2d(s), Deciding())))
    own = Genotype("one", dict.fromkeys(("normal", "reduce"), CellGenotype(2, ((("deciding", 0),),), (2,))))
    source = directory(classifier(own, 3), tmp_path / "own")
    with pytest.raises(TopocellError, match=f"an export to {to} writes any .* fails on this one .* another format"):
        topocell.export(source, to)
    assert not (source / "exports").exists()


# --- what is refused


def refused(words: Sequence[object], capsys: Any) -> str:
    """The one line with which a command ends."""
    assert main(["export", *map(str, words)]) == 2
    out, error = capsys.readouterr()
    assert out == "" and error.startswith("error: ") and error.count("\n") == 1
    return str(error)


def test_commands_that_cannot_be(made: Path, tmp_path: Path, capsys: Any) -> None:
    run = made / "digits"
    assert "but got 'onxx' (did you mean 'onnx'?)" in refused([run, "--to", "onxx"], capsys)
    assert "does not exist" in refused([made / "absent", "--to", "pt2"], capsys)
    assert "trained with seed 0, but got 4" in refused([run, "--to", "pt2", "--seed", "4"], capsys)
    (tmp_path / "file").write_text("x")
    assert "is a file; choose another --out" in refused([run, "--to", "pt2", "--out", tmp_path / "file"], capsys)
    said = refused([run, "--to", "onnx", "--out", tmp_path / "new" / "owls.onnx"], capsys)
    assert (
        f"is called as a file; name one such as {tmp_path / 'new' / 'owls'}" in said and not (tmp_path / "new").exists()
    )
    assert "holds 'file', which belongs to none" in refused([run, "--to", "pt2", "--out", tmp_path], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "x"
    assert "file (not an image); leave it out" in refused(
        [run, "--to", "pt2", "--out", tmp_path / "x", "--images", tmp_path / "file"], capsys
    )
    table = tmp_path / "table"
    table.mkdir()
    for name in ("recipe.yaml", "results.json"):
        shutil.copy(run / name, table)
    assert "looked up in a table" in refused([table, "--to", "pt2"], capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "table"]


def test_an_export_is_replaced_as_long_as_it_is_one(made: Path, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "out"
    for to in ("standalone", "safetensors", "safetensors"):
        assert main(["export", str(made / "digits"), "--to", to, "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == ALWAYS | FILES["safetensors"]
    assert "compared on 60 test images of the run: all logits are equal, bit for bit" in capsys.readouterr().out
    left = (".DS_Store", "Thumbs.db", "__pycache__/network.pyc", "exports/pt2/model.pt2")
    for name in left:  # by using it
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("x")
    assert main(["export", str(made / "digits"), "--to", "standalone", "--out", str(out)]) == 0
    assert main(["export", str(made / "digits"), "--to", "safetensors", "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == ALWAYS | FILES["safetensors"] | {x.split("/")[0] for x in left}
    assert all((out / name).read_text() == "x" for name in left)
    capsys.readouterr()
    card = out / "README.md"
    card.write_text(f"{card.read_text(encoding='utf-8')}MIT", encoding="utf-8")
    error = refused([made / "digits", "--to", "safetensors", "--out", out], capsys)
    assert "holds 'README.md', which was changed since; choose another --out" in error
    assert card.read_text(encoding="utf-8").endswith("MIT")


@pytest.mark.parametrize(("to", "package"), [("onnx", "onnxruntime"), ("timm", "timm")])
def test_a_missing_package_is_named(
    made: Path, to: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == package else there(name, *rest)
    )
    error = refused([made / "digits", "--to", to, "--out", tmp_path / "out"], capsys)
    assert f"but {package} is not installed; pip install {package}" in error and not (tmp_path / "out").exists()


def test_an_export_that_computes_something_else_is_not_left_behind(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def write(model: Any, folder: Path, name: str) -> Any:
        exact = graphs.write_safetensors(model, folder, name)

        def compute(batches: Sequence[Tensor]) -> list[Tensor]:
            return [logits + 0.25 for logits in exact(batches)]

        return compute

    monkeypatch.setattr(writing, "FORMATS", {"near": Format(write, (), 1e-4)})
    error = refused([made / "digits", "--to", "near", "--out", tmp_path / "deep" / "out"], capsys)
    assert "its logits differ by 2.5e-01 on 60 test images of the run; nothing was written" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_agree_with_nothing(value: float, tmp_path: Path) -> None:
    model = classifier(NASBENCH201)
    nn.init.constant_(model.net.classifier.bias, value)
    with pytest.raises(TopocellError, match="its logits differ by nan"):
        write_export(model, "safetensors", tmp_path / "out", Facts("x"), random_samples(model, "there are none"))
    assert list(tmp_path.iterdir()) == []


def test_an_export_is_named_as_a_cell(made: Path, tmp_path: Path, capsys: Any) -> None:
    run, out = str(made / "photos"), str(tmp_path / "out")
    topocell.export(run, "safetensors", out)
    assert topocell.Genotype.load(out) == topocell.Genotype.load(run)
    capsys.readouterr()
    assert main(["genotypes", "show", out]) == 0
    assert capsys.readouterr().out.endswith(f"{topocell.Genotype.load(run).to_darts()}\n")
    assert main(["compare", out, run]) == 0
    assert topocell.Genotype.load(run).key in capsys.readouterr().out
    assert main(["draw", out, "-o", str(tmp_path / "cell.svg")]) == 0


def test_without_the_images_of_the_run_random_ones_are_taken_and_that_is_said(made: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made / "photos", tmp_path / "run", ignore=shutil.ignore_patterns("exports")))
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(made / "images"), str(tmp_path / "gone")))
    done = topocell.export(run, "safetensors")
    assert done.images.startswith("64 random images (seed 0), because the images of the run cannot be read (")
    assert done.images in (done.path / "README.md").read_text().replace("\\", "")
    paint(tmp_path / "gone", 0, 4)
    shutil.rmtree(tmp_path / "gone" / CLASSES[0])
    assert "have other classes or another size" in topocell.export(run, "safetensors").images


def test_the_test_images_are_taken_as_the_network_takes_them(made: Path, tmp_path: Path) -> None:
    """Where a part of the images would be of another size and grey, and the test images of a class are unreadable."""
    run = Path(shutil.copytree(made / "photos", tmp_path / "run", ignore=shutil.ignore_patterns("exports")))
    photos = Path(shutil.copytree(made / "images", tmp_path / "images"))
    for file in photos.rglob("*.*"):
        with Image.open(file) as image:
            image.convert("L").resize((40, 40)).save(file.with_suffix(".png"))
        if file.suffix != ".png":
            file.unlink()
    for file in sorted((photos / CLASSES[0]).iterdir())[-2:]:
        file.write_bytes(b"")
    recipe = (run / "recipe.yaml").read_text().replace(str(made / "images"), str(photos))
    for before, after in (("resolution: 16", "resolution: null"), ("unreadable: refuse", "unreadable: skip")):
        assert before in recipe
        recipe = recipe.replace(before, after)
    (run / "recipe.yaml").write_text(recipe)
    assert topocell.export(run, "safetensors").images == "4 test images of the run"


@pytest.mark.parametrize("damage", ["{", "[]", '{"per_class": 3}', '{"per_class": [{}], "warnings": 3, "n": "x"}'])
def test_damaged_results_cost_the_card_its_scores_alone(made: Path, damage: str, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made / "digits", tmp_path / "run", ignore=shutil.ignore_patterns("exports")))
    (run / "results.json").write_text(damage)
    text = (topocell.export(run, "safetensors").path / "README.md").read_text()
    assert "Test accuracy:" in text and "| class |" in text


@pytest.mark.parametrize(
    ("skeleton", "words"),
    [
        ("uniform", "any other is taken, but was not tested"),
        ("uniform-half", "others must be divisible by 2, and were"),
    ],
)
@pytest.mark.parametrize("to", FORMATS)
def test_a_card_says_which_other_sizes_are_taken(to: str, skeleton: str, words: str, tmp_path: Path) -> None:
    """None by a graph, which refuses them."""
    model = classifier(replace(UNIFORM, skeleton=skeleton), layers=2)
    done = write_export(model, to, tmp_path / "out", Facts("x"), random_samples(model, "there are none"))
    if to in ("onnx", "pt2"):
        words = "no other |"
    assert f"pixels (height x width); {words}" in (done.path / "README.md").read_text()
    if to == "pt2":
        with pytest.raises(Exception, match=r"[Gg]uard|size|shape"):
            torch.export.load(done.path / "model.pt2").module()(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))


def test_a_full_disk_leaves_no_part_of_an_export(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = writing.files.replace

    def full(path: Path, *parts: bytes) -> None:
        if path.parent == tmp_path / "out" and path.name == "network.json":
            raise OSError(28, "No space left on device")
        real(path, *parts)

    monkeypatch.setattr(writing.files, "replace", full)
    with pytest.raises(TopocellError, match="the disk must have room for"):
        topocell.export(made / "digits", "safetensors", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_packages_are_known_by_their_modules_whatever_they_were_installed_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The module onnxruntime also comes with onnxruntime-gpu, and triton with pytorch-triton."""
    import onnxruntime
    import triton

    asked = metadata.version

    def version(name: str) -> str:
        if name in ("onnxruntime", "triton"):
            raise metadata.PackageNotFoundError(name)
        return asked(name)

    monkeypatch.setattr(metadata, "version", version)
    model = classifier(NASBENCH201)
    done = write_export(model, "onnx", tmp_path / "out", Facts("x"), random_samples(model, "there are none"))
    assert f" by onnxruntime {onnxruntime.__version__} on " in (done.path / "README.md").read_text()
    state._version.cache_clear()
    assert state._version() == triton.__version__


#: Format and a file of it that fills the disk: each that is written, and what a check is given.
FILLING = [
    ("safetensors", "network.json"),
    ("safetensors", "weights.safetensors"),
    ("safetensors", "preprocessing.json"),
    ("onnx", "model.onnx"),
    ("pt2", "model.pt2"),
    ("standalone", "network.py"),
    ("standalone", "network.pt"),
    ("standalone", "batches.pt"),
    ("timm", "model.safetensors"),
    ("timm", "README.md"),
]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="tells files by their descriptors")
@pytest.mark.parametrize(("to", "name"), FILLING)
def test_a_full_folder_of_temporary_files_is_one_line(
    to: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the file, whoever writes it; what was written before fits."""
    real = files._write

    def full(descriptor: int, *parts: bytes | memoryview) -> None:
        if Path(os.readlink(f"/proc/self/fd/{descriptor}")).name.startswith(f".{name}."):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor, *parts)

    model = classifier(NASBENCH201)
    monkeypatch.setattr(files, "_write", full)
    words = (
        rf"temporary files must be writable and have room, but \S+/{name} cannot be written \(no space .* set TMPDIR"
    )
    with pytest.raises(TopocellError, match=words):
        write_export(model, to, tmp_path / "out", Facts("x"), random_samples(model, "there are none"))
    assert not (tmp_path / "out").exists()


def test_without_a_folder_for_temporary_files_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "absent")])
    model = classifier(NASBENCH201)
    with pytest.raises(RunError, match=r"but none of this system is \(No usable .* TMPDIR"):
        write_export(model, "standalone", tmp_path / "out", Facts("x"), random_samples(model, "there are none"))
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_runs_out_of_memory_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(model: Any, folder: Path, name: str) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")

    model = classifier(NASBENCH201)
    monkeypatch.setattr(writing, "FORMATS", {"large": Format(write)})
    with pytest.raises(RunError, match="must fit in the memory of this machine, but it ran out; end what else"):
        write_export(model, "large", tmp_path / "out", Facts("x"), random_samples(model, "there are none"))
    assert list(tmp_path.iterdir()) == []

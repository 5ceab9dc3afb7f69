"""A trained network in use: what it says of images in any form is what its retraining said of them."""

import copy
import csv
import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from tests.helpers.painted import CLASSES, paint
from torch import Tensor

import topocell
from topocell import api
from topocell.cli import main
from topocell.config.load import load_recipe
from topocell.data.pictures import find_images, read_pictures
from topocell.data.preprocessing import Preprocessing
from topocell.errors import DataError, RunError, TopocellError
from topocell.networks import classifier, commands, kept
from topocell.networks.kept import csv_text
from topocell.runs.setup import load_data

RECIPE = [
    *("data.dataset=folder", "data.resolution=16", "space.nodes=1", "retrain.seeds=[3,1]"),
    *("retrain.auxiliary=0.4", "data.background=red"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: Any) -> Path:
    """A run on photos; `photos/`, `run/`."""
    place = Path(tmp_path_factory.mktemp("photos"))
    paint(place / "photos", 0, 10)
    api.run(load_recipe("random", [*RECIPE, f"data.root={place / 'photos'}"], "smoke"), place / "run")
    return place


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("seed", "name"), [(None, "predictions.csv"), (3, "predictions.csv"), (1, "predictions-1.csv")]
)
def test_predictions_of_the_test_files_are_those_of_the_retraining(made: Path, seed: int | None, name: str) -> None:
    model = topocell.load(made / "run", seed=seed)
    rows = rows_of(made / "run" / name)
    files = [made / "photos" / row["file"] for row in rows]
    found = model.predict(files, batch_size=3)
    assert [str(file) for file in files] == list(found.names) and model.classes == tuple(sorted(CLASSES))
    assert found.labels == [row["predicted"] for row in rows]
    assert [row["true"] for row in rows] == [file.parent.name for file in files]
    for prediction, row in zip(found, rows, strict=True):
        assert prediction.probability == pytest.approx(float(row["probability"]), abs=2e-6)
        assert sum(prediction.probabilities.values()) == pytest.approx(1, abs=1e-5)
    right = sum(row["true"] == row["predicted"] for row in rows) / len(rows)
    results = json.loads((made / "run" / "results.json").read_text())
    assert right == pytest.approx(results["runs"][1 if seed == 1 else 0]["last"])


def test_images_in_memory_are_what_their_files_are(made: Path) -> None:
    model = topocell.load(made / "run" / "network.json")
    files = sorted((made / "photos").rglob("*.bmp"))
    wanted = model.predict(files).probabilities
    opened = [Image.open(file) for file in files]
    arrays = [np.asarray(image) for image in opened]
    tensors = [torch.from_numpy(array.copy()).permute(2, 0, 1) for array in arrays]
    for form in (opened, arrays, tensors, [tensor.float() / 255 for tensor in tensors]):
        assert torch.equal(model.predict(form).probabilities, wanted)
    assert torch.equal(model.predict([file.read_bytes() for file in files]).probabilities, wanted)
    with open(files[0], "rb") as file:
        assert torch.equal(model.predict([file, io.BytesIO(files[1].read_bytes())]).probabilities, wanted[:2])
    assert torch.equal(model.predict(io.BytesIO(files[0].read_bytes())).probabilities, wanted[:1])
    assert torch.equal(model.predict(iter(arrays)).probabilities, wanted)
    same = np.stack([arrays[0]] * 3)
    assert torch.equal(model.predict(same).probabilities, model.predict([arrays[0]] * 3).probabilities)
    grey = opened[0].convert("L")
    as_array = model.predict([np.asarray(grey), np.asarray(grey)[..., None], torch.from_numpy(np.array(grey))[None]])
    assert torch.equal(as_array.probabilities, model.predict([grey] * 3).probabilities)


def test_a_stack_of_pixels_is_taken_as_it_is(made: Path) -> None:
    data = load_data(load_recipe("random", [*RECIPE, f"data.root={made / 'photos'}"], "smoke"))
    model = topocell.load(made / "run")
    rows = rows_of(made / "run" / "predictions.csv")
    assert model.predict(data.test.images).labels == [row["predicted"] for row in rows]
    assert list(data.test.files) == [row["file"] for row in rows]
    with torch.no_grad():
        assert torch.equal(model(data.test.images).argmax(1), model.predict(data.test.images).probabilities.argmax(1))


def test_images_of_a_stack_are_numbered_one_after_the_other(made: Path) -> None:
    model = topocell.load(made / "run")
    one = np.zeros((9, 9, 3), np.uint8)
    found = model.predict([one, np.stack([one] * 3), torch.zeros(2, 3, 9, 9)])
    assert found.names == ("0", "1", "2", "3", "4", "5")
    assert [prediction.name for prediction in found[1:3]] == ["1", "2"] and found[-1].name == "5"


def test_a_network_without_memory_gets_its_normalisation_with_its_weights(made: Path) -> None:
    model = topocell.load(made / "run")
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    wanted = model(pixels)
    bare = copy.deepcopy(model).to("meta").to_empty(device="cpu")
    bare.load_state_dict(model.state_dict())
    assert torch.equal(bare(pixels), wanted)
    with torch.device("meta"):
        assert torch.equal(topocell.load(made / "run")(pixels), wanted)


@pytest.mark.parametrize("outputs", [1, 9])
def test_a_network_of_other_outputs_predicts_once_they_have_names(made: Path, outputs: int) -> None:
    model = topocell.load(made / "run")
    model.net.classifier = torch.nn.Linear(model.net.classifier.in_features, outputs)
    image = np.zeros((9, 9, 3), np.uint8)
    with pytest.raises(RunError, match=f"has {outputs} for {len(CLASSES)} classes; set its `classes`"):
        model.predict(image)
    model.classes = tuple(f"new {i}" for i in range(outputs))
    assert model.predict(image)[0].label in model.classes


def test_arrays_of_any_layout_are_read_without_a_warning(made: Path) -> None:
    """Read-only, as those of Pillow are, of the other byte order, reversed, in columns."""
    model = topocell.load(made / "run")
    with Image.open(min((made / "photos").rglob("*.bmp"))) as image:
        pixels = np.asarray(image.convert("RGB"))
    turned = np.ascontiguousarray(pixels[:, ::-1])[:, ::-1]
    floats = (pixels / 255).astype(">f4")
    wanted = model.predict(pixels.copy()).probabilities
    torch.set_warn_always(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for form in (pixels, turned, np.asfortranarray(pixels), floats):
                assert torch.equal(model.predict(form).probabilities, wanted)
    finally:
        torch.set_warn_always(False)


def test_floats_that_are_no_pixels_are_warned_of(made: Path) -> None:
    model = topocell.load(made / "run")
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    for scaled in (pixels / 255, pixels / 255 * (1 + 1e-6), (pixels / 255 - 0.5) / 0.2):
        with pytest.warns(UserWarning, match="takes pixels in 0..255"):
            model(scaled)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for good in (pixels, pixels.float(), pixels[:0].float(), torch.zeros(1, 3, 16, 16)):
            model(good)
        assert model(pixels.float().requires_grad_()).requires_grad
        model.predict((pixels / 255).requires_grad_())


def test_a_prediction_leaves_each_module_in_its_mode(made: Path) -> None:
    model = topocell.load(made / "run").train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    modes = [module.training for module in model.modules()]
    model.predict(np.zeros((9, 9, 3), np.uint8))
    assert [module.training for module in model.modules()] == modes and len(set(modes)) == 2


def test_threads_that_predict_at_once_agree_and_leave_the_modes(made: Path) -> None:
    """One of them may end, and restore the modes, while another one computes."""
    model = topocell.load(made / "run").train()
    stacks = [torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8) for _ in range(2)]
    wanted = [model.predict(stack).probabilities for stack in stacks]
    first, second, forward = threading.Event(), threading.Event(), model.net.forward

    def slow(x: Tensor) -> Tensor:
        if threading.current_thread().name == "late":
            first.set()
            assert second.wait(60)
        return forward(x)

    model.net.forward = slow
    found = []
    late = threading.Thread(target=lambda: found.append(model.predict(stacks[1]).probabilities), name="late")
    late.start()
    assert first.wait(60)
    found.append(model.predict(stacks[0]).probabilities)
    assert not model.training
    second.set()
    late.join()
    assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1]) and model.training
    assert all(module.training for module in model.modules())


def test_arrays_of_floats_are_as_tensors_of_floats(made: Path) -> None:
    model, draw = topocell.load(made / "run"), np.random.default_rng(0)
    whole = draw.integers(0, 256, (2, 9, 11, 3), dtype=np.uint8)
    for dtype in (np.float64, np.float32):
        assert list(model.predict((whole / 255).astype(dtype))) == list(model.predict(whole))
    assert model.predict(whole[0, ..., 0] / 255)[0] == model.predict(whole[0, ..., 0])[0]


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_has_an_image(made: Path, size: int) -> None:
    with pytest.raises(DataError, match=f"batch_size must be 1 or more, but got {size}"):
        topocell.load(made / "run").predict(np.zeros((9, 9, 3), np.uint8), batch_size=size)


def test_a_folder_is_searched_and_what_is_no_image_is_said(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "photos", tmp_path / "new")
    (tmp_path / "new" / "notes.txt").write_text("x")
    (tmp_path / "new" / "ship" / ".hidden.png").write_text("x")
    found = topocell.load(made / "run").predict(tmp_path / "new")
    assert len(found) == 30 and found.notes == ("files not used: 1 hidden (.hidden.png 1), 1 of another type (.txt 1)",)


def test_all_images_that_cannot_be_read_are_named_or_skipped(made: Path, tmp_path: Path) -> None:
    model = topocell.load(made / "run")
    files = sorted((made / "photos").rglob("*.bmp"))
    for name in ("a.png", "b.jpg"):
        (tmp_path / name).write_text("no image")
    given = [tmp_path / "a.png", *files, tmp_path / "b.jpg"]
    with pytest.raises(DataError, match=r"2 of \d+ images cannot be read: .*a.png \(not an image\), .*b.jpg"):
        model.predict(given, batch_size=2)
    found = model.predict(given, batch_size=2, skip_unreadable=True)
    assert torch.equal(found.probabilities, model.predict(files).probabilities) and len(found.notes) == 2
    with pytest.raises(DataError, match=r"none can be read: .*a\.png"):
        model.predict(tmp_path, skip_unreadable=True)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (3, "int is no image"),
        (np.full((4, 4, 3), 2.0), "an array is uint8, or float in 0..1"),
        (np.zeros((4, 4), np.int64), "uint8"),
        (np.zeros((2, 2, 2, 2, 2), np.uint8), r"\(H, W\)"),
        (torch.full((3, 4, 4), 2.0), "float in 0..1"),
        (torch.zeros(4, 4), r"\(C, H, W\)"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "uint8"),
        (torch.zeros(9, 4, 3, dtype=torch.uint8), r"1 to 4 channels, but this is \(9, 4, 3\): permute it"),
        (torch.zeros(3, 0, 4), "no pixels"),
        (torch.zeros(3, 4, 0, dtype=torch.uint8), "no pixels"),
        (np.zeros((3, 9, 9), np.uint8), r"1 to 4 channels, but this is \(3, 9, 9\): transpose it"),
        (np.zeros(9, np.uint8), r"1 to 4 channels, but this is \(9,\): transpose it"),
        (torch.zeros(9, 28, 28), r"but this is \(9, 28, 28\): of many grey images give images\[:, None\]"),
        (np.zeros((9, 28, 28), np.uint8), r"but this is \(9, 28, 28\): .* give images\[..., None\]"),
        ([], "no image|there is none"),
        ("absent.jpg", "is not; check the path"),
        ("", "but got an empty one"),
        ("a" * 5000, "is named by its path, but 'aaa.*' cannot be looked up"),
        ("nul\0.jpg", "is named by its path, but 'nul.*' cannot be looked up"),
        ("~nobody-of-that-name/a.jpg", "is named by its path, but '~nobody.*' cannot be looked up"),
        ("https://example.org/cat.jpg", "is a file on this machine, but got 'https://example.org/cat.jpg'; fetch it"),
        (Path("https://example.org/cat.jpg"), "is a file on this machine, but got 'https:/example.org/cat.jpg'; fetch"),
        ("data:image/png;base64,iVBORw0KGgo=", "is a file on this machine, but got 'data:image/png.*'; fetch it"),
        (b"no image", "not an image"),
    ],
)
def test_what_is_no_image_is_refused(made: Path, image: Any, words: str) -> None:
    with pytest.raises(DataError, match=words) as fault:
        topocell.load(made / "run").predict(image)
    assert "\n" not in str(fault.value)


def test_what_has_labels_is_told_how_to_be_given(made: Path) -> None:
    model, images = topocell.load(made / "run"), torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
    dataset = torch.utils.data.TensorDataset(images, torch.arange(4))
    loader = torch.utils.data.DataLoader(dataset, 2)
    for given in (dataset, loader, iter(loader), [dataset[0]], [{"image": images[0], "label": 1}]):
        with pytest.raises(DataError, match=r"takes images alone, but got .*\[image for image, label in dataset\]"):
            model.predict(given)
    assert len(model.predict([image for image, label in dataset])) == 4
    assert len(model.predict(torch.utils.data.DataLoader(images, 2))) == 4
    assert [len(model.predict(batch)) for batch, _ in loader] == [2, 2]


def test_paths_may_stand_in_any_collection(tmp_path: Path) -> None:
    """As in a column of a table."""
    paths = [str(tmp_path / f"{number}.png") for number in range(3)]
    for path in paths:
        Image.new("RGB", (2, 2)).save(path)
    numbered = dict(enumerate(paths))
    for given in (np.array(paths), np.array(paths, object), {*paths}, deque(map(Path, paths)), numbered.values()):
        assert sorted(named.name for named in find_images(given)[0]) == paths
    with pytest.raises(DataError, match="takes images alone, but got dict;"):
        find_images(numbered)


def test_images_may_stand_in_any_collection(made: Path) -> None:
    model, stack = topocell.load(made / "run"), np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    wanted, each = model.predict(stack).probabilities, list(stack)
    objects = np.empty(3, object)
    objects[:] = each
    for given in (deque(each), dict(enumerate(each)).values(), objects, map(Image.fromarray, each)):
        assert torch.equal(model.predict(given, batch_size=2).probabilities, wanted)


def test_an_iterator_may_take_back_what_it_has_given(made: Path, tmp_path: Path) -> None:
    """Films of Pillow give one object again and again; a file is closed when the next is asked for."""
    model, draw = topocell.load(made / "run"), np.random.default_rng(0)
    frames = [Image.fromarray(draw.integers(0, 256, (16, 16, 3), np.uint8)) for _ in range(5)]
    frames[0].save(tmp_path / "film.tiff", save_all=True, append_images=frames[1:])
    wanted = model.predict(frames)
    assert len({prediction.probability for prediction in wanted}) == 5

    def files() -> Iterator[io.BufferedReader]:
        for number, frame in enumerate(frames):
            frame.save(tmp_path / f"{number}.png")
            with open(tmp_path / f"{number}.png", "rb") as file:
                yield file

    def filled() -> Iterator[np.ndarray]:
        buffer = np.empty((1, 16, 16, 3), np.uint8)
        for frame in frames:
            buffer[0] = frame
            yield buffer

    with Image.open(tmp_path / "film.tiff") as film:
        for given in (ImageSequence.Iterator(film), files(), filled()):
            found = model.predict(given, batch_size=3)
            assert torch.equal(found.probabilities, wanted.probabilities) and found.names == wanted.names


def test_an_iterator_is_asked_for_a_batch_at_a_time(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked, batches = topocell.load(made / "run"), list[int](), list[tuple[int, int]]()
    forward = model.net.forward
    monkeypatch.setattr(model.net, "forward", lambda x: batches.append((len(x), len(asked))) or forward(x))

    def images() -> Iterator[np.ndarray]:
        for number in range(5):
            asked.append(number)
            yield np.zeros((16, 16, 3), np.uint8)

    assert len(model.predict(images(), batch_size=2)) == 5 and batches == [(2, 2), (2, 4), (1, 5)]


def test_an_image_may_be_there_several_times(made: Path, tmp_path: Path) -> None:
    """Neither an image of Pillow nor a file can be read by two threads."""
    path, model = tmp_path / "large.png", topocell.load(made / "run")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)).save(path)
    (wanted,) = model.predict(path).probabilities
    with open(path, "rb") as file:
        for one in (Image.open(path), file):
            assert torch.equal(model.predict([one] * 40).probabilities, wanted.expand(40, -1))


@pytest.mark.parametrize("given", ["a.jpg", Path("a.jpg"), np.zeros((1, 3, 8, 8), np.uint8), Image.new("L", (8, 8))])
def test_a_call_with_what_is_no_tensor_says_what_takes_it(made: Path, given: Any) -> None:
    with pytest.raises(DataError, match=r"is called with a tensor .* but got a .*; its method predict takes files"):
        topocell.load(made / "run")(given)


def how(resize: Any, size: tuple[int, int], channels: int = 3) -> Preprocessing:
    numbers = (0.5,) * channels
    return Preprocessing(("a", "b"), numbers, numbers, size, channels, resize, (255, 255, 255), "cifar", "plain")


def test_images_are_stretched_where_those_of_the_training_were() -> None:
    image = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    named = find_images([image, Image.fromarray(image.permute(1, 2, 0).numpy())])[0]
    stretched = read_pictures(named, how("stretch", (8, 12))).pixels
    wanted = torch.nn.functional.interpolate(image[None].float(), (8, 12), mode="bilinear", antialias=True)
    assert torch.equal(stretched, wanted.round().byte().repeat(2, 1, 1, 1))
    fitted = read_pictures(named, how("fit", (8, 8))).pixels
    assert torch.equal(fitted[0], fitted[1]) and not torch.equal(
        fitted, read_pictures(named, how("stretch", (8, 8))).pixels
    )


def test_images_of_other_channels_than_a_picture_has_are_tensors() -> None:
    five: Tensor = torch.randint(0, 256, (5, 6, 6), dtype=torch.uint8)
    assert torch.equal(read_pictures(find_images(five)[0], how("fit", (6, 6), 5)).pixels[0], five)
    for wrong in (torch.zeros(3, 6, 6, dtype=torch.uint8), np.zeros((6, 6, 3), np.uint8)):
        assert "5 channels" in read_pictures(find_images([wrong])[0], how("fit", (6, 6), 5)).faults[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_network_is_what_was_trained_whatever_the_default(made: Path, dtype: torch.dtype) -> None:
    wanted = topocell.load(made / "run")
    torch.set_default_dtype(dtype)
    try:
        found = topocell.load(made / "run")
    finally:
        torch.set_default_dtype(torch.float32)
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    assert torch.equal(found(images), wanted(images)) and found(images).dtype == torch.float32


@pytest.mark.parametrize(("dtype", "apart"), [(torch.float64, 1e-5), (torch.float16, 2e-2), (torch.bfloat16, 1e-1)])
def test_a_network_of_another_precision_predicts_alike(made: Path, dtype: torch.dtype, apart: float) -> None:
    model = topocell.load(made / "run")
    files = sorted((made / "photos").rglob("*.bmp"))
    wanted = model.predict(files).probabilities
    found = model.to(dtype).predict(files).probabilities
    assert found.dtype == torch.float32 and float((found - wanted).abs().max()) < apart


def test_a_network_is_copied_pickled_traced_and_exported(made: Path) -> None:
    model = topocell.load(made / "run")
    x = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    wanted = model(x)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), wanted) and other.classes == model.classes
    for other in (torch.jit.trace(model, x), torch.export.export(model, (x,)).module(), torch.fx.symbolic_trace(model)):
        torch.testing.assert_close(other(x), wanted, rtol=1e-4, atol=1e-4)
    pixels = x.float().requires_grad_()
    model(pixels).sum().backward()
    assert pixels.grad is not None and bool(pixels.grad.any())


# --- the command, and what can be wrong with a directory


def test_the_command_shows_and_writes(made: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    files = sorted(map(str, (made / "photos").rglob("*.bmp")))
    assert main(["predict", str(made / "run"), *files]) == 0
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert re.match(r"network of seed 3, test accuracy [\d.]+ %; others by --seed: 1\n", said.err)
    assert len(lines) == len(files) and lines[0].startswith(f"{files[0]}: ") and lines[0].count(" %") == 3
    assert main(["predict", str(made / "run"), files[0], "--csv", str(tmp_path / "absent" / "p.csv")]) == 2
    assert capsys.readouterr().err.startswith("error: --csv must name a file that can be written")  # before it predicts
    assert main(["predict", str(made / "run"), files[0], "--csv", "."]) == 2
    assert "but . cannot be (is a directory)" in capsys.readouterr().err
    table = tmp_path / "p.csv"
    assert main(["predict", str(made / "run"), *files, "--csv", str(table), "--seed", "1"]) == 0
    rows = rows_of(table)
    assert [row["file"] for row in rows] == files
    assert list(rows[0]) == ["file", "predicted", "probability", *sorted(CLASSES)]
    assert all(row["probability"] == row[row["predicted"]] for row in rows)
    capsys.readouterr()
    assert main(["predict", str(made / "run"), *files, "--csv", "-", "--seed", "1"]) == 0
    assert capsys.readouterr().out == table.read_text() and not Path("-").exists()
    with monkeypatch.context() as patched:  # as where the terminal has no such characters, or line ends of its own
        stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="backslashreplace", newline="\r\n")
        patched.setattr(sys, "stdout", stream)
        named = shutil.copy(files[0], tmp_path / "ü.bmp")
        assert main(["predict", str(made / "run"), str(named), "--csv", "-"]) == 0
        written = stream.buffer.getvalue()  # type: ignore[attr-defined]
        assert main(["predict", str(made / "run"), str(named), "--csv", str(tmp_path / "u.csv")]) == 0
        assert written == (tmp_path / "u.csv").read_bytes() and "ü.bmp".encode() in written
    assert main(["predict", str(made / "run"), files[0], "--csv", str(table)]) == 0 and len(rows_of(table)) == 1
    own = (made / "run" / "predictions.csv").read_bytes()
    for other in (made / "run" / "predictions.csv", Path(files[0])):
        capsys.readouterr()
        assert main(["predict", str(made / "run"), files[0], "--csv", str(other)]) == 2
        assert "--csv replaces tables of predictions alone" in capsys.readouterr().err
    assert (made / "run" / "predictions.csv").read_bytes() == own


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_a_table_goes_where_a_link_leads_and_into_what_is_no_file(made: Path, tmp_path: Path) -> None:
    """As /dev/null and /dev/stdout: neither is read first, which would wait, nor replaced."""
    words = ["predict", str(made / "run"), str(min((made / "photos").rglob("*.bmp"))), "--csv"]
    (tmp_path / "link.csv").symlink_to("table.csv")
    for _ in range(2):
        assert main([*words, str(tmp_path / "link.csv")]) == 0
    assert (tmp_path / "link.csv").is_symlink() and len(rows_of(tmp_path / "table.csv")) == 1
    pipe, read = tmp_path / "pipe", list[str]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    assert main([*words, str(pipe)]) == 0
    reader.join(60)
    assert read == [(tmp_path / "table.csv").read_text()] and pipe.is_fifo()
    assert sorted(found.name for found in tmp_path.iterdir()) == ["link.csv", "pipe", "table.csv"]


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="needs /dev/stdout")
def test_a_table_may_be_cut_off(made: Path) -> None:
    """As by `--csv /dev/stdout | head`."""
    image = str(min((made / "photos").rglob("*.bmp")))
    words = [sys.executable, "-m", "topocell", "predict", str(made / "run"), *[image] * 2000, "--csv", "/dev/stdout"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline().startswith("file,predicted,probability,")
        process.stdout.close()
        said = process.stderr.read()
        assert process.wait(300) == 1 and said.count("\n") == 1 and said.startswith("network of seed 3")


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="needs /dev/stdout")
def test_tables_behind_each_other_in_one_file(tmp_path: Path) -> None:
    """As by `--csv /dev/stdout >> all.csv`, which is open: it is not replaced by a file with the last table alone."""
    program = "import pathlib; from topocell.io import files; files.write_out(pathlib.Path('/dev/stdout'), b'x;')"
    for _ in range(2):
        with (tmp_path / "all.csv").open("a") as out:
            subprocess.run([sys.executable, "-c", program], stdout=out, check=True, timeout=300)
    assert (tmp_path / "all.csv").read_text() == "x;x;"


def test_names_are_written_as_they_are_whatever_the_system_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsencode", lambda text: text.encode("iso-8859-1", "surrogateescape"))
    assert csv_text([("café", "\U0001f600", "a\udcff.png")]) == "café,\U0001f600,a\ufffd.png\n"


def test_a_class_called_like_a_column_has_a_column_of_its_own() -> None:
    assert commands._columns_of(["file", "owl", "class file", "probability"]) == [
        *("class class file", "owl", "class file", "class probability")
    ]


def test_a_name_that_a_terminal_would_act_on_is_one_line(made: Path, tmp_path: Path, capsys: Any) -> None:
    place = tmp_path / "two\nlines"
    place.mkdir()
    shutil.copy(next((made / "photos").rglob("*.bmp")), place / "red\x1b[31m.bmp")
    assert main(["predict", str(made / "run"), str(place)]) == 0
    shown = capsys.readouterr().out
    assert shown.count("\n") == 1 and "two lines/red\\x1b[31m.bmp: " in shown


@pytest.mark.parametrize("device", ["foo", "cuda:99", "xpu"])
def test_a_device_that_is_not_there_is_one_line(made: Path, device: str) -> None:
    with pytest.raises(TopocellError, match=f"a device of this machine, but got '{device}'(: [^;]*)?; use auto or cpu"):
        topocell.load(made / "run", device=device)
    assert topocell.load(made / "run", device="meta").mean.device.type == "meta"


def damage_json(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def act(run: Path) -> None:
        data = json.loads((run / name).read_text())
        change(data)
        (run / name).write_text(json.dumps(data))

    return act


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda run: (run / "network.json").unlink(), "has none"),
        (lambda run: (run / "network.json").write_text("{"), "not what a retraining writes"),
        (damage_json("network.json", lambda d: d.update(version=9)), "version 1, but this is 9"),
        (damage_json("network.json", lambda d: d.update(networks=[])), "not what a retraining writes"),
        (
            damage_json("network.json", lambda d: d["networks"][0].update(weights="../x")),
            "not what a retraining writes",
        ),
        (damage_json("network.json", lambda d: d.update(channels=8)), "must hold the weights of"),
        (damage_json("network.json", lambda d: d.update(channels="8")), "not what a retraining writes"),
        (damage_json("network.json", lambda d: d["genotype"].update(cells=3)), "network.json"),
        (lambda run: (run / "weights.safetensors").unlink(), "is missing"),
        (lambda run: (run / "weights.safetensors").write_bytes(b"x" * 50), "must hold the weights"),
        (lambda run: (run / "preprocessing.json").unlink(), "preprocessing.json"),
        (damage_json("preprocessing.json", lambda d: d["classes"].pop()), "must hold the weights of"),
    ],
)
def test_a_damaged_directory_is_one_line(made: Path, tmp_path: Path, capsys: Any, damage: Any, words: str) -> None:
    run = Path(shutil.copytree(made / "run", tmp_path / "run"))
    damage(run)
    with pytest.raises(TopocellError, match=words):
        topocell.load(run)
    assert main(["predict", str(run), str(next((made / "photos").rglob("*.bmp")))]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1


def test_directories_without_a_network_say_why(made: Path, tmp_path: Path) -> None:
    for place, words in (
        (tmp_path / "absent", "does not exist"),
        (tmp_path, "name the directory of a finished run"),
        (made / "photos", "name the directory of a finished run"),
    ):
        with pytest.raises(TopocellError, match=words):
            topocell.load(place)
    with pytest.raises(TopocellError, match="trained with seed 3, 1, but got 7"):
        topocell.load(made / "run", seed=7)


@pytest.mark.parametrize(
    ("device", "size", "ways"),
    [
        ("cpu", 64, "use a batch size of 32 (--batch-size, batch_size=)"),
        ("cpu", 1, "end what else runs there"),
        ("cuda:1", 8, "batch_size=) or use the CPU (--device cpu, or device='cpu' of load)"),
    ],
)
def test_a_prediction_that_runs_out_of_memory_says_what_needs_less(
    device: str, size: int, ways: str, made: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, pixels: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(classifier.Classifier, "forward", full)
    assert classifier._too_large(torch.device(device), size).endswith(ways)
    if device == "cpu":
        image = str(min((made / "photos").rglob("*.bmp")))
        assert main(["predict", str(made / "run"), image, "--batch-size", str(size)]) == 2
        rule = "error: the network and the images of a batch must fit in the memory of cpu, but it ran out with"
        assert capsys.readouterr().err == f"{rule} {size}; {ways}\n"


@pytest.mark.parametrize("where", ["build", "read", "move"])
def test_a_network_that_does_not_fit_is_one_line_whatever_is_under_way(
    where: str, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And none that says to use the device that is full."""

    def full(*_: Any, **__: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")

    owner, name = {
        "build": (kept, "FixedNet"),
        "read": (kept.safetensors.torch, "load_file"),
        "move": (classifier.Classifier, "to"),
    }[where]
    monkeypatch.setattr(owner, name, full)
    with pytest.raises(RunError) as caught:
        topocell.load(made / "run")
    words = "a network must fit in the memory of cpu, but it ran out; end what else runs there"
    assert str(caught.value) == words
    on_gpu = classifier._too_large(torch.device("cuda:1"))
    assert on_gpu.endswith("memory of cuda:1, but it ran out; use the CPU (--device cpu, or device='cpu' of load)")

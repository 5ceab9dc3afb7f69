"""Streamed images: their bytes, whoever reads them and when; what cannot be read; copies in a cache."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers.image_tree import BROKEN, ODD, make_tree
from torchvision.io import decode_jpeg
from torchvision.transforms import v2

from topocell.data import shards, stream
from topocell.data.augment import augment
from topocell.data.batches import Batches
from topocell.data.from_files import Streaming
from topocell.data.image_file import centred, read_picture
from topocell.data.pictures import find_images, read_pictures
from topocell.data.policies import ColourJitter, ImagePolicy
from topocell.data.preprocessing import Preprocessing
from topocell.data.splits import load, search_data, split_batches
from topocell.data.views import View, view_of_copy, view_of_file
from topocell.errors import DataError, RunError

JITTER = (0.4, 0.4, 0.4, 0.2)
SCALE = (0.08, 1.0)
TRAINING = View(32, random=True, scale=SCALE, flip=True)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TOPOCELL_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield
    stream.close_streams()


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    make_tree(root, odd=True)
    return root


def opened(root, *, cache=None, workers=0, resolution=32, dataset="folder", **options):
    streaming = Streaming("stream", workers=workers, cache=cache, **options.pop("streaming", {}))
    return load(dataset, root, resolution=resolution, streaming=streaming, **options)


def batches(data, part="train", **options):
    given = {"augmentation": data.augmentation, "device": "cpu", "seed": 3, "stream": "x"} | options
    return Batches(getattr(data, part), 4, mean=data.mean, std=data.std, **given)


def photo(path, size=(90, 70), **options):
    draw = np.random.default_rng(0)
    Image.fromarray(draw.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).resize(size).save(path, "JPEG", **options)
    return str(path)


# Views


def test_a_training_view_is_what_torchvision_makes(tmp_path):
    path, data = (
        photo(tmp_path / "a.jpg", (60, 50)),
        torch.frombuffer(bytearray((tmp_path / "a.jpg").read_bytes()), dtype=torch.uint8),
    )
    theirs = v2.Compose([v2.RandomResizedCrop(32, SCALE, antialias=True), v2.RandomHorizontalFlip()])
    for seed in range(8):
        mine = view_of_file(path, TRAINING, seed)
        torch.manual_seed(seed)
        assert torch.equal(mine.permute(2, 0, 1), theirs(decode_jpeg(data)))
        torch.manual_seed(seed)
        pixels = decode_jpeg(data).permute(1, 2, 0).contiguous().numpy()
        assert torch.equal(view_of_copy(pixels, TRAINING, seed), mine)


def test_colours_change_as_torchvision_changes_them(tmp_path):
    path = photo(tmp_path / "a.jpg")
    plain, jitter = replace(TRAINING, scale=None, flip=False), v2.ColorJitter(*JITTER)
    before = Image.fromarray(view_of_file(path, plain, 0).numpy())
    for seed in range(4):
        torch.manual_seed(seed)
        wanted = np.asarray(jitter(before))
        assert np.array_equal(view_of_file(path, replace(plain, jitter=ColourJitter(*JITTER)), seed), wanted)
        torch.manual_seed(seed)
        wanted = np.asarray(v2.TrivialAugmentWide()(before))
        assert np.array_equal(view_of_file(path, replace(plain, policy=ImagePolicy("trivialaugment")), seed), wanted)


@pytest.mark.parametrize("size", [(90, 70), (70, 90), (300, 300), (20, 31), (500, 333), (9, 700)])
def test_an_evaluation_is_the_middle_as_torchvision_takes_it(tmp_path, size):
    path = photo(tmp_path / "a.jpg", size)
    image = Image.open(path).convert("RGB")
    if size == (9, 700):  # too long to be scaled whole
        image = v2.functional.center_crop(image, [144, 9])
    wanted = np.asarray(v2.Compose([v2.Resize(64), v2.CenterCrop(56)])(image))
    assert np.array_equal(np.asarray(centred(Image.open(path).convert("RGB"), 56)), wanted)
    assert np.array_equal(view_of_file(path, View(56), 0), wanted)


def test_large_photos_are_decoded_smaller_and_look_the_same(tmp_path):
    draw = np.random.default_rng(1)
    smooth = Image.fromarray(draw.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize((1600, 1200), Image.BICUBIC)
    for turn, name in ((None, "a.jpg"), (6, "b.jpg")):
        exif = Image.Exif()
        if turn:
            exif[0x112] = turn
        smooth.save(tmp_path / name, quality=95, exif=exif)
    upright = np.array(read_picture(str(tmp_path / "b.jpg"), "RGB", None, (0, 0, 0)).pixels).transpose(1, 2, 0)
    for seed in range(6):
        whole = view_of_copy(np.array(smooth), TRAINING, seed).float()
        assert (view_of_file(str(tmp_path / "a.jpg"), TRAINING, seed).float() - whole).abs().mean() < 4
        other = view_of_copy(np.array(smooth), TRAINING, seed + 100).float()
        assert (other - whole).abs().mean() > 8  # of another part
        turned = view_of_copy(upright, TRAINING, seed).float()
        assert (view_of_file(str(tmp_path / "b.jpg"), TRAINING, seed).float() - turned).abs().mean() < 4


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_random_parts_are_of_the_image_upright(tmp_path, kind, turn):
    """Whether its size is said as it lies or, as of TIFF, already as it is turned."""
    path, exif = str(tmp_path / f"a.{kind.lower()}"), Image.Exif()
    exif[0x112] = turn
    pixels = np.random.default_rng(0).integers(0, 256, (5, 9, 3), dtype=np.uint8)
    lossless = {"lossless": True} if kind == "WEBP" else {}
    Image.fromarray(pixels).resize((60, 24)).save(path, kind, exif=exif, **lossless)
    whole = read_picture(path, "RGB", None, (0, 0, 0)).pixels.transpose(1, 2, 0)
    assert whole.shape == ((60, 24, 3) if turn > 4 else (24, 60, 3))
    for seed in range(4):
        of_file, wanted = view_of_file(path, TRAINING, seed), view_of_copy(np.array(whole), TRAINING, seed)
        assert (of_file.float() - wanted.float()).abs().mean() < (4 if kind == "JPEG" else 1e-9)


# Batches


@pytest.mark.parametrize("cache", [None, 40])
def test_batches_are_the_same_bytes_whoever_reads_them(tree, cache):
    def drawn(workers):
        data = opened(tree, cache=cache, workers=workers, jitter=JITTER)
        of = batches(data)
        steps = [of.batch(epoch, step) for epoch in range(2) for step in range(len(of))]
        steps += [of.batch(1, 2), of.batch(1, 3), *of.eval_batches(), of.batch(1, 4)]  # out of order, and again
        return data, steps

    data, alone = drawn(0)
    _, others = drawn(2)
    assert all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(alone, others, strict=True))
    n = len(batches(data))
    fresh = batches(opened(tree, cache=cache, workers=1, jitter=JITTER))  # a run that resumes in the middle
    assert all(torch.equal(fresh.batch(1, step)[0], alone[n + step][0]) for step in range(2, n))
    assert not torch.equal(alone[0][0], alone[n][0]) and torch.equal(alone[2 * n][0], alone[n + 2][0])


def test_an_image_does_not_depend_on_its_batch(tree):
    data = opened(tree)
    of, other = batches(data), batches(data, stream="y")
    larger = Batches(
        data.train, 18, mean=data.mean, std=data.std, augmentation=data.augmentation, device="cpu", seed=3, stream="x"
    )
    together = torch.cat([of.batch(0, step)[0] for step in range(len(of))])
    assert torch.equal(together, larger.batch(0, 0)[0])
    assert torch.equal(torch.cat([of.numbers(0, s) for s in range(len(of))]), larger.numbers(0, 0))
    assert not torch.equal(of.batch(0, 0)[0], of.batch(1, 0)[0]) and not torch.equal(of.order(0, 0), other.order(0, 0))


@pytest.mark.parametrize(
    "drawn",
    [{}, {"cutout": 8}, {"cutout": 8, "cutout_probability": 0.5}, {"rotation": 20.0, "padding": 2, "scale": None}],
    ids=str,
)
def test_processes_read_their_shares_of_one_batch(tree, monkeypatch, drawn):
    """Also where something is drawn for the whole batch."""
    data = opened(tree)
    augmentation = replace(data.augmentation, **drawn)
    whole = batches(data, augmentation=augmentation)
    read, parts = [], []
    counted = stream.view_of_file
    monkeypatch.setattr(stream, "view_of_file", lambda *given: (read.append(given), counted(*given))[1])
    for rank in range(2):
        monkeypatch.setattr("topocell.runtime.distributed.rank", lambda rank=rank: rank)
        monkeypatch.setattr("topocell.runtime.distributed.world", lambda: 2)
        monkeypatch.setattr("topocell.data.batches.world", lambda: 2)
        mine = batches(data, augmentation=augmentation)
        mine.shared = True
        parts.append((*mine.batch(0, 1), mine.numbers(0, 1)))
    assert len(read) == 4
    x, y = whole.batch(0, 1)
    for rank, (images, labels, numbers) in enumerate(parts):
        assert torch.equal(images, x[rank::2]) and torch.equal(labels, y[rank::2])
        assert torch.equal(numbers, whole.numbers(0, 1)[rank::2])


def test_an_image_that_comes_twice_is_drawn_twice(tmp_path):
    make_tree(tmp_path, classes=2, train=6)
    for rare in sorted((tmp_path / "train" / "n01441764").iterdir())[1:]:
        rare.unlink()
    of = batches(opened(tmp_path), balanced=True)
    x, y = (torch.cat(parts) for parts in zip(*(of.batch(0, step) for step in range(len(of)))))
    assert y.tolist().count(1) >= 3
    twice = x[y == 1]
    assert not torch.equal(twice[0], twice[1])


def test_batches_that_grow_and_epochs_of_other_lengths_are_followed(tree):
    data = [opened(tree, workers=workers) for workers in (0, 1)]
    plain, ahead = (batches(each) for each in data)
    asked = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (2, 3), (2, 4), (2, 5), (2, 6), (3, 0), (3, 1)]
    for epoch, step in asked:
        assert torch.equal(ahead.batch(epoch, step)[0], plain.batch(epoch, step)[0])
    for of in (plain, ahead):
        of.batch_size = 5
        of.augmentation = replace(of.augmentation, cutout=8)
    assert torch.equal(ahead.batch(3, 2)[0], plain.batch(3, 2)[0]) and len(ahead.batch(3, 2)[0]) == 5


def test_after_the_last_step_the_next_epoch_is_read_ahead(tree, monkeypatch):
    """And nothing that nobody asks for: a stream is begun once, and followed through the ends of epochs."""
    begun = []
    begin = stream.Stream._begin
    monkeypatch.setattr(stream.Stream, "_begin", lambda self, requests: begun.append(1) or begin(self, requests))
    of = batches(opened(tree, workers=1))
    last = len(of)
    for epoch in range(3):
        for step in range(last):
            of.batch(epoch, step)
    assert len(begun) == 1
    assert of._feed._next == (3, 0)


def test_only_a_few_streams_have_workers_at_a_time(tree, monkeypatch):
    monkeypatch.setattr(stream, "MOST_STREAMS", 2)  # each worker is a process that imports everything
    data = opened(tree, workers=1)
    every = [batches(data, stream=str(number)) for number in range(stream.MOST_STREAMS + 1)]
    for of in every:
        of.batch(0, 0)
    assert len(stream._OPEN) == stream.MOST_STREAMS and every[0]._feed not in stream._OPEN
    again = batches(opened(tree), stream="0")
    assert torch.equal(every[0].batch(0, 1)[0], again.batch(0, 1)[0])
    stream.close_streams()
    assert stream._OPEN == []


def test_a_worker_that_dies_is_one_line(tree):
    of = batches(opened(tree, workers=1))
    of.batch(0, 0)
    os.kill(of._feed._ahead._workers[0].pid, signal.SIGKILL)
    with pytest.raises(
        RunError, match=r"^a worker that reads images must live, .*; the same command resumes, with fewer"
    ):
        for step in range(5):
            of.batch(1, step)
    assert stream._OPEN == []


def test_a_file_that_changes_is_one_line(tmp_path):
    make_tree(tmp_path)
    of = batches(opened(tmp_path, workers=1))
    path = tmp_path / "train" / "n01440764" / "n01440764_1.JPEG"
    path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"^an image must stay as it was, but train/n01440764/n01440764_1\.JPEG cannot"):
        for step in range(len(of)):
            of.batch(0, step)


def test_draws_of_a_training_are_left_alone(tree):
    of = batches(opened(tree, workers=1, jitter=JITTER))
    alone = batches(opened(tree, jitter=JITTER))
    for each in (of, alone):
        torch.manual_seed(5)
        each.batch(0, 0)
        assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(5)))


# The whole set


def test_search_splits_are_streams_too(tree):
    data = opened(tree)
    sight = search_data(data, {"train": 0.5, "val": 0.5}, seed=0, class_balanced=True)
    whole = sight.get("all")
    assert len(whole) == len(data.train) and sorted(whole.files) == sorted(data.train.files)
    assert whole.files == data.train.files and torch.equal(whole.labels, data.train.labels)
    x, y = split_batches(sight, "val", 6, "any", seed=0, device="cpu", augmented=False).batch(0, 0)
    of = split_batches(sight, "val", 6, "any", seed=0, device="cpu").numbers(0, 0)
    assert torch.equal(x, augment(sight.get("val").pixels(of), data.mean, data.std, None, None))
    assert torch.equal(y, sight.get("val").labels[of]) and sight.shape == (3, 32, 32) and data.train.nbytes == 0


def test_what_is_predicted_is_what_was_tested(tree):
    data = opened(tree)
    how = Preprocessing(
        data.train.classes, data.mean, data.std, (32, 32), 3, data.resize, (255, 255, 255), "cifar", "plain"
    )
    found = read_pictures(find_images([tree / name for name in data.test.files])[0], how)
    assert how.resize == "centre" and torch.equal(found.pixels, data.test.pixels(torch.arange(len(data.test))))


def test_memory_and_stream_have_the_same_images_and_labels(tree):
    one, other = load("folder", tree, resolution=32), opened(tree)
    assert one.train.files == other.train.files and torch.equal(one.train.labels, other.train.labels)
    assert one.shape == other.shape and one.augmentation.padding == 4 and other.augmentation.scale == SCALE
    crops = [opened(tree, crop=crop).augmentation for crop in (False, 2)]
    assert [(c.padding, c.scale) for c in crops] == [(0, None), (2, None)]
    differing = (batches(opened(tree, crop=2)).batch(0, 0)[0] - batches(opened(tree, crop=False)).batch(0, 0)[0]).abs()
    assert differing.max() > 0


def test_what_is_streamed_by_itself(tree, monkeypatch):
    def stored(**options):
        return type(load("folder", tree, streaming=Streaming(**options)).train).__name__

    assert stored() == "ImageSet" and stored(cache=224) == "StreamedSet"
    monkeypatch.setattr("topocell.data.from_files.memory_of_machine", lambda: 4 * 24 * 3 * 40**2)
    assert stored() == "ImageSet"  # these photos are small, and 24 of them fit with all copies
    monkeypatch.setattr("topocell.data.from_files.memory_of_machine", lambda: 2 * 24 * 3 * 40**2)
    assert stored() == "StreamedSet"
    monkeypatch.setattr("topocell.data.from_files.memory_of_machine", lambda: 10_000)
    assert stored() == "StreamedSet" and stored(begun="memory") == stored(begun="half") == "ImageSet"
    monkeypatch.undo()
    monkeypatch.setattr("topocell.data.from_files.physical_memory", lambda: 10_000)  # what runs of before went by
    assert stored() == "ImageSet" and stored(begun="half") == "StreamedSet"
    assert stored(begun="stream") == "StreamedSet"
    assert type(load("digits", streaming=Streaming(begun="stream")).train).__name__ == "ImageSet"
    with pytest.raises(DataError, match=r"those of 'digits' have none; use data\.store=memory"):
        load("digits", streaming=Streaming("stream"))


def test_what_auto_has_chosen_is_said_with_the_crops_that_it_means(tree, monkeypatch):
    def said(**options):
        notes = load("folder", tree, streaming=Streaming(**options)).notes
        return [note for note in notes if note.startswith(("data.store=auto", "data.crop_scale"))]

    (note,) = said()
    assert note.startswith(
        "data.store=auto keeps the images in memory, where 4 copies of them fit; training images are "
    )
    (begun,) = said(begun="stream")
    assert begun.startswith("data.store=auto streams the images, as the run began; training images are random parts")
    monkeypatch.setattr("topocell.data.from_files.memory_of_machine", lambda: 10_000)
    (note,) = said(crop_scale=(0.5, 1.0))
    assert note.startswith("data.store=auto streams the images, for 4 copies of them do not fit in memory; training i")
    assert said(store="memory") == said(store="stream") == said(cache=224) == []
    (unused,) = said(store="memory", crop_scale=(0.5, 1.0))
    assert unused.startswith("data.crop_scale has no effect: ")


def test_the_fingerprint_is_of_contents_and_not_of_places(tree, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(tree, moved)  # with other times
    one, other = opened(tree), opened(moved)
    assert one.fingerprint == other.fingerprint and one.mean == other.mean
    assert one.fingerprint not in (opened(tree, cache=40).fingerprint, opened(tree, resolution=36).fingerprint)
    photo(moved / "train" / "n01440764" / "n01440764_4.JPEG")
    assert opened(moved).fingerprint != one.fingerprint


# What cannot be read


def test_each_kind_is_named_and_counted(tmp_path):
    special = make_tree(tmp_path, classes=4, train=8, odd=True, broken=True)
    broken = {name: kind for name, kind in special.items() if kind in BROKEN}
    assert set(special.values()) == {*ODD, *BROKEN} and len(broken) == len(BROKEN)
    with pytest.raises(DataError) as fault:
        opened(tmp_path)
    text = str(fault.value)
    assert text.startswith(f"{len(broken)} of 40 images cannot be read: ") and "data.unreadable=skip" in text
    assert all(name in text for name in broken) and "\n" not in text
    got = opened(tmp_path, unreadable="skip")
    notes = " | ".join(got.notes)
    assert f"{len(broken)} images cannot be read and left out" in notes and not broken.keys() & {*got.train.files}
    counts = {kind: sum(each == kind for each in special.values()) for kind in special.values()}
    for kind, words in (
        ("grey", "grey"),
        ("cmyk", "CMYK"),
        ("rotated", "turned by EXIF"),
        ("deep colour", "of 16 bits"),
    ):
        assert f"{counts[kind]} {words}" in notes if kind in counts else words not in notes
    assert len(got.train) == 32 - len(broken)
    share = len(broken) / 40
    assert len(opened(tmp_path, unreadable="skip", unreadable_share=share).train) == len(got.train)
    for options in ({"streaming": Streaming("stream", workers=0)}, {}):
        with pytest.raises(
            DataError, match=rf"^data\.unreadable_share is 0\.01 of the images, but {len(broken)} of 40"
        ):
            load("folder", tmp_path, resolution=32, unreadable="skip", unreadable_share=0.01, **options)
    with pytest.raises(DataError, match=f"^{len(broken)} of 40 images cannot be read"):
        opened(tmp_path, cache=32)


def test_animations_are_named_and_counted(tmp_path):
    make_tree(tmp_path, classes=2, train=2)
    (name, *_) = sorted((tmp_path / "train" / "n01441764").iterdir())
    with Image.open(name) as image:
        image.save(name.with_name("moving.gif"), save_all=True, append_images=[Image.new("RGB", image.size)])
    assert "images of other kinds: 1 with several frames or pages, of which the first is used" in opened(tmp_path).notes


def test_a_class_that_loses_all_images_is_refused(tmp_path):
    make_tree(tmp_path, classes=2, train=2)
    for path in (tmp_path / "train" / "n01441764").iterdir():
        path.write_bytes(b"")
    with pytest.raises(
        DataError, match=r"^every class keeps a training image that can be read, but n01441764 has none"
    ):
        opened(tmp_path, unreadable="skip")


def test_an_estimate_looks_at_few_files(tmp_path, monkeypatch):
    make_tree(tmp_path, broken=True)
    monkeypatch.setattr(shards.Shards, "records", lambda *_: pytest.fail("all files were read"))
    got = opened(tmp_path, streaming={"checked": False})
    assert len(got.train) == 18 and batches(got).batch(0, 0)[0].isfinite().all()


# The cache


def folder_of_shards():
    (folder,) = (path for path in Path(os.environ["TOPOCELL_CACHE"]).glob("images-*") if any(path.glob("*.raw")))
    return folder


def test_copies_are_evaluated_as_files_are(tree):
    files, copies = opened(tree, resolution=28), opened(tree, resolution=28, cache=32)
    every = torch.arange(len(files.test))
    assert torch.equal(files.test.pixels(every), copies.test.pixels(every))
    assert torch.equal(copies.train.subset(every[1:3]).pixels(every[:2]), files.train.pixels(every[1:3]))
    assert "images are streamed from copies with a shorter side of 32 pixels at 28x28" in copies.notes
    said = "data.cache=40 scales images twice: predictions from files, which are scaled once, see other pixels than"
    assert not any("scales images twice" in note for note in (*files.notes, *copies.notes))
    assert f"{said} the test; data.cache=32 gives the same" in opened(tree, resolution=28, cache=40).notes


def test_a_cache_is_written_once_and_goes_on_where_it_was_stopped(tree, monkeypatch):
    monkeypatch.setattr(shards, "AT_ONCE", 5)
    monkeypatch.setattr(shards, "PIXELS", 10)  # five images in a shard
    whole, read = shards.Examination._one, []

    def stopping(self, name):
        read.append(name)
        if len(read) == 13:
            raise KeyboardInterrupt
        return whole(self, name)

    monkeypatch.setattr(shards.Examination, "_one", stopping)
    with pytest.raises(KeyboardInterrupt):
        opened(tree, cache=32)
    assert len(list(folder_of_shards().glob("*.json"))) == 2
    first = opened(tree, cache=32)
    assert len(read) == 13 + 24 - 10 and len(set(read)) == 24
    again = opened(tree, cache=32)
    assert len(read) == 13 + 24 - 10 and again.fingerprint == first.fingerprint
    assert torch.equal(batches(first).batch(0, 0)[0], batches(again).batch(0, 0)[0])


def test_a_tree_that_grows_or_changes_is_read_where_it_did(tmp_path, monkeypatch):
    make_tree(tmp_path)
    opened(tmp_path, cache=32)
    whole, read = shards.Examination._one, []
    monkeypatch.setattr(shards.Examination, "_one", lambda self, name: (read.append(name), whole(self, name))[1])
    photo(tmp_path / "train" / "n01440764" / "another.JPEG")
    photo(tmp_path / "train" / "n01440764" / "n01440764_1.JPEG")
    got = opened(tmp_path, cache=32)
    assert sorted(read) == ["train/n01440764/another.JPEG", "train/n01440764/n01440764_1.JPEG"] and len(got.train) == 19


@pytest.mark.parametrize("damage", ["a byte of pixels", "pixels cut off", "the list", "half the list"])
def test_a_damaged_shard_is_one_line(tree, damage):
    opened(tree, cache=32)
    (listed,), (raw,) = (list(folder_of_shards().glob(f"*.{kind}")) for kind in ("json", "raw"))
    content = bytearray(raw.read_bytes())
    if damage == "a byte of pixels":
        content[5] ^= 1
        raw.write_bytes(content)
    elif damage == "pixels cut off":
        raw.write_bytes(content[:-1])
    elif damage == "the list":
        listed.write_bytes(listed.read_bytes().replace(b"n01440764_1", b"n01440764_2"))
    else:
        listed.write_bytes(listed.read_bytes()[:200])
    named = raw if damage == "a byte of pixels" else listed
    with pytest.raises(DataError) as fault:
        of = opened(tree, cache=32)
        of.train.pixels(torch.arange(len(of.train)))
    text = str(fault.value)
    assert "\n" not in text and named.name in text and text.endswith("delete it, and the same command makes it again")
    named.unlink()
    of = opened(tree, cache=32)
    assert torch.equal(of.train.pixels(torch.arange(2)), opened(tree, cache=40).train.pixels(torch.arange(2)))


def test_a_cache_of_other_images_or_settings_is_one_line(tree, tmp_path):
    place = {"cache_root": str(tmp_path / "copies")}
    opened(tree, cache=32, streaming=place)
    make_tree(tmp_path / "other", classes=2, seed=1)
    for path in sorted((tmp_path / "other").rglob("*.JPEG")):
        path.rename(path.with_name(f"x{path.name}"))
    with pytest.raises(DataError, match=r"has those of others: none of 16 images is there; name another folder"):
        opened(tmp_path / "other", cache=32, streaming=place)
    with pytest.raises(DataError, match=r"made with the settings of the recipe \(.*shorter side 40.*shorter side 32"):
        opened(tree, cache=40, streaming=place)
    with pytest.raises(DataError, match=r"^data\.cache is the resolution or more, 32, but got 28; raise it"):
        opened(tree, cache=28)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(DataError, match=r"copies of images are written to .* but that fails .*data\.cache_root=DIR"):
        opened(tree, cache=32, streaming={"cache_root": str(blocked / "copies")})


def test_records_of_files_are_kept_without_copies_too(tree, monkeypatch):
    first = opened(tree)
    (listed,) = Path(os.environ["TOPOCELL_CACHE"]).glob("images-*/*.json")
    assert len(json.loads(listed.read_bytes().split(b"\n", 1)[1])) == 24
    monkeypatch.setattr(shards.Examination, "_one", lambda *_: pytest.fail("a file was read again"))
    assert opened(tree).fingerprint == first.fingerprint
    monkeypatch.undo()
    listed.write_bytes(b"damaged")
    assert opened(tree).fingerprint == first.fingerprint
    monkeypatch.setattr(shards.filelock, "FileLock", lambda *_: (_ for _ in ()).throw(PermissionError(13, "closed")))
    assert opened(tree).fingerprint == first.fingerprint  # what is known is used, and the rest is read
    with pytest.raises(DataError, match=r"copies of images are written to .*, but that fails \("):
        opened(tree, cache=32)
    monkeypatch.setenv("TOPOCELL_CACHE", "/proc/none")  # where nothing can be written
    assert opened(tree).fingerprint == first.fingerprint


def test_a_jitter_of_images_in_memory_is_torchvisions():
    images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    changed, transform = ColourJitter(*JITTER)(images, 7), v2.ColorJitter(*JITTER)
    torch.manual_seed(7)
    assert torch.equal(changed, torch.stack([transform(image) for image in images]))
    data = load("digits", images=20, test_images=20, jitter=JITTER)
    plain = load("digits", images=20, test_images=20)
    assert not torch.equal(batches(data).batch(0, 0)[0], batches(plain).batch(0, 0)[0])
    assert torch.equal(batches(data).batch(0, 0)[0], batches(data).batch(0, 0)[0])


def test_a_script_without_a_guard_reads_images_by_workers(tmp_path: Path) -> None:
    """As it does by a loader of torch on Linux: what workers make of requests needs nothing of the script."""
    script = tmp_path / "script.py"
    script.write_text(
        "from torch.utils.data import Subset\nfrom topocell.data.loading import made_of\n"
        "print(list(made_of(Subset(range(10, 20), range(10)), [[1, 2], [3]], 2)), __file__)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=300)
    assert (done.stdout, done.returncode) == (f"[[11, 12], [13]] {script}\n", 0), done.stderr

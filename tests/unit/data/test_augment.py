"""Augmentation against torchvision image by image, and batches as a pure function of epoch and step."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as reference

from topocell.data.augment import Augmentation, augment, resize, transform
from topocell.data.batches import Batches, ImageSet
from topocell.errors import DataError
from topocell.nn.kernels.cpu import augmenter

MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.1)
PLAIN = Augmentation(padding=0, flip=False, cutout=0)


def pictures(n=64, channels=3, height=16, width=16, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, height, width), dtype=torch.uint8, generator=g)


def numbered(n, classes=10):
    """A set in which the first two pixels of an image tell its number."""
    images = torch.zeros(n, 1, 8, 8, dtype=torch.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = torch.arange(n) // 256, torch.arange(n) % 256
    return ImageSet(images, torch.arange(n) % classes, tuple(map(str, range(classes))))


def numbers(x):
    pixels = (x[:, 0, 0, :2] * 255).round().long()
    return pixels[:, 0] * 256 + pixels[:, 1]


def batches(data, batch_size, augmentation=None, seed=0, stream="train", draw="epoch"):
    channels = data.images.shape[1]
    return Batches(
        data,
        batch_size,
        mean=MEAN[:channels] if channels == 3 else (0.0,),
        std=STD[:channels] if channels == 3 else (1.0,),
        augmentation=augmentation,
        device="cpu",
        seed=seed,
        stream=stream,
        draw=draw,
    )


def draw(n, augmentation, height, width, seed):
    """The draws of `augment`: offsets down and across, mirrored, centre of the cutout."""
    g = torch.Generator().manual_seed(seed)
    span = 2 * augmentation.padding + 1
    bounds = (span, span, 1 + augmentation.flip, height, width)
    return [torch.randint(bound, (n,), generator=g).tolist() for bound in bounds]


def normalised(image):
    return reference.normalize(image.float() / 255, MEAN, STD)


@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
@pytest.mark.parametrize(
    "augmentation",
    [
        PLAIN,
        Augmentation(padding=4, flip=False),
        Augmentation(padding=0, flip=True),
        Augmentation(),
        Augmentation(padding=2, flip=True, cutout=6),
        Augmentation(padding=0, flip=False, cutout=5),
    ],
    ids=str,
)
def test_every_image_equals_torchvisions_for_the_same_draws(augmentation, size):
    images = pictures(height=size[0], width=size[1])
    got = augment(images, MEAN, STD, augmentation, torch.Generator().manual_seed(3))
    for image, out, down, across, mirrored, y, x in zip(images, got, *draw(64, augmentation, *size, 3)):
        want = reference.crop(reference.pad(image, augmentation.padding), down, across, *size)
        want = normalised(reference.hflip(want) if mirrored else want)
        if side := augmentation.cutout:
            top, left = y - side // 2, x - side // 2
            want[:, max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = 0
        torch.testing.assert_close(out, want)


@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
@pytest.mark.parametrize(
    ("rotation", "scaling", "shear", "translation"),
    [(25, 0, 0, 0), (0, 0.3, 0, 0), (0, 0, 20, 0), (0, 0, 0, 0.2), (25, 0.3, 20, 0.2)],
    ids=str,
)
def test_a_turned_scaled_and_slanted_image_equals_torchvisions_for_the_same_draws(
    rotation, scaling, shear, translation, size
):
    images = pictures(height=size[0], width=size[1])
    plan = Augmentation(0, False, 0, rotation, scaling, shear, translation)
    drawn = torch.rand(len(images), 6, generator=torch.Generator().manual_seed(5))
    drawn[:, 2] = drawn[:, 1]  # torchvision scales both sides alike
    for image, out, draws in zip(images, transform(images, plan, drawn), (2 * drawn - 1).tolist()):
        turn, growth, _, slant, below, beside = draws
        move = [beside * translation * size[1], below * translation * size[0]]
        options = {"scale": 1 + growth * scaling, "shear": [slant * shear, 0.0], "translate": move}
        want = reference.affine(image, turn * rotation, interpolation=InterpolationMode.BILINEAR, **options)
        difference = (out.int() - want.int()).abs()  # where a corner falls on a pixel's edge, either side may be taken
        assert out.shape == image.shape and difference.float().mean() < 0.5 and (difference > 1).float().mean() < 0.02


def test_turns_are_drawn_per_image_after_the_crops_and_change_with_the_generator():
    images = pictures(1).repeat(64, 1, 1, 1)
    plan = Augmentation(padding=0, flip=False, rotation=30, scaling=0.2, shear=10)
    turned = augment(images, MEAN, STD, plan, torch.Generator().manual_seed(0))
    assert len({bytes(image.contiguous().numpy().data) for image in turned}) == 64
    assert torch.equal(turned, augment(images, MEAN, STD, plan, torch.Generator().manual_seed(0)))
    assert not torch.equal(turned, augment(images, MEAN, STD, plan, torch.Generator().manual_seed(1)))
    still = augment(images, MEAN, STD, Augmentation(padding=0, flip=False, rotation=1e-6), torch.Generator())
    torch.testing.assert_close(still, augment(images, MEAN, STD, None, None))


@pytest.mark.parametrize(("field", "value"), [("rotation", 360), ("scaling", 1.0), ("shear", 90), ("shear", -1)])
def test_a_turn_or_slant_beyond_sense_is_refused(field, value):
    with pytest.raises(DataError, match=f"{field} is 0 or more and below .*, but got {value}; 0 switches it off"):
        Augmentation(**{field: value})


@pytest.mark.skipif(augmenter(torch.zeros(0)) is None, reason="needs a C compiler")
@given(
    size=st.tuples(st.integers(1, 9), st.sampled_from([1, 3, 4]), st.integers(1, 12), st.integers(1, 12)),
    padding=st.integers(0, 5),
    flip=st.booleans(),
    cutout=st.integers(0, 14),
    seed=st.integers(0, 99),
)
def test_compiled_and_librarys_data_path_agree_bit_for_bit(size, padding, flip, cutout, seed):
    images, plan = pictures(*size, seed=seed), Augmentation(padding, flip, cutout)
    mean, std = (*MEAN, 0.2)[: size[1]], (*STD, 0.3)[: size[1]]
    with pytest.MonkeyPatch.context() as patch:
        ours = augment(images, mean, std, plan, torch.Generator().manual_seed(seed))
        patch.setenv("TOPOCELL_NATIVE", "0")
        assert torch.equal(ours, augment(images, mean, std, plan, torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("native", ["0", "1"])
def test_default_type_and_device_are_no_matter(native, monkeypatch):
    monkeypatch.setenv("TOPOCELL_NATIVE", native)
    plan, mean = Augmentation(2, flip=True, cutout=3, rotation=10), (0.51, 0.41, 0.31)  # of which no table is kept
    images = pictures()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            found = augment(images, mean, STD, plan, torch.Generator("cpu").manual_seed(0))
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found, augment(images, mean, STD, plan, torch.Generator().manual_seed(0)))


def test_none_only_normalises_and_needs_no_generator():
    images = pictures()
    torch.testing.assert_close(augment(images, MEAN, STD, None, None), normalised(images))


def test_padding_is_black_and_not_the_mean():
    white = torch.full((200, 3, 8, 8), 255, dtype=torch.uint8)
    out = augment(white, MEAN, STD, Augmentation(4, flip=False), torch.Generator().manual_seed(0))
    black, bright = normalised(torch.zeros(3, 1, 1)), normalised(torch.full((3, 1, 1), 255.0))
    is_black, is_bright = torch.isclose(out, black).all(1), torch.isclose(out, bright).all(1)
    assert is_black.any() and is_bright.any() and (is_black | is_bright).all()


def test_every_offset_both_mirrors_and_every_centre_are_drawn():
    images = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8).repeat(4000, 1, 1, 1) + 1
    out = augment(images, (0.0,), (1 / 255,), Augmentation(1, flip=True), torch.Generator().manual_seed(0))
    assert len({tuple(map(round, image.flatten().tolist())) for image in out}) == 3 * 3 * 2
    hole = augment(images, (0.0,), (1 / 255,), Augmentation(0, False, 1), torch.Generator().manual_seed(0)) == 0
    assert hole.flatten(1).sum(1).eq(1).all() and hole.flatten(1).any(0).all()


@pytest.mark.parametrize("side", [1, 4, 5, 16])
def test_cutout_blanks_at_most_its_square_and_is_clipped_at_the_border(side):
    images = torch.full((4000, 3, 16, 16), 255, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(1)
    blank = (augment(images, MEAN, STD, Augmentation(0, False, side), generator) == 0).all(1)
    area = blank.flatten(1).sum(1)
    assert int(area.max()) == side * side
    assert int(area.min()) == math.ceil(side / 2) ** 2  # centred on the first pixel
    rows, columns = blank.any(2), blank.any(1)
    assert torch.equal(blank, rows[:, :, None] & columns[:, None, :])  # a rectangle
    assert int(rows.sum(1).max()) <= side and int(columns.sum(1).max()) <= side


def test_cutout_leaves_the_crops_as_they_were():
    images = pictures()
    with_hole, without = (
        augment(images, MEAN, STD, Augmentation(4, True, cutout), torch.Generator().manual_seed(0)) for cutout in (6, 0)
    )
    untouched = with_hole != 0
    assert torch.equal(with_hole[untouched], without[untouched]) and not torch.equal(with_hole, without)


@pytest.mark.parametrize("augmentation", [None, Augmentation()], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_result_is_float32_channels_last_and_the_input_stays(augmentation, channels):
    images = pictures(channels=channels)
    before = images.clone()
    mean, std = MEAN[:channels], STD[:channels]
    out = augment(images, mean, std, augmentation, torch.Generator().manual_seed(0))
    assert out.dtype == torch.float32 and out.shape == images.shape
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)


def test_random_augmentation_without_generator_is_refused():
    with pytest.raises(ValueError, match="generator"):
        augment(pictures(), MEAN, STD, Augmentation(), None)


@pytest.mark.parametrize("side", [1, 6, 7, 20])
@pytest.mark.parametrize("compiled", [True, False])
def test_a_share_of_the_images_is_cut_out_and_the_rest_is_as_without(side, compiled, monkeypatch):
    """Which images are spared is drawn after all the rest, so each is as with cutout, or as without."""
    if not compiled:
        monkeypatch.setattr("topocell.data.augment.augmenter", lambda images: None)
    images = pictures(400, 3, 16, 16)

    def batch(**options):
        return augment(images, MEAN, STD, Augmentation(2, True, **options), torch.Generator().manual_seed(0))

    without, always, often = batch(), batch(cutout=side), batch(cutout=side, cutout_probability=0.7)
    draws = torch.Generator().manual_seed(0)
    for bound in (5, 5, 2, 16, 16):
        torch.randint(bound, (400,), generator=draws)
    hit = torch.rand(400, generator=draws) < 0.7
    assert torch.equal(often[hit], always[hit]) and torch.equal(often[~hit], without[~hit])
    assert 0.6 < hit.double().mean() < 0.8
    assert torch.equal(batch(cutout=side, cutout_probability=1.0), always)
    assert torch.equal(batch(cutout=0, cutout_probability=0.3), without)


@pytest.mark.parametrize("share", [-0.1, 0, 1.1])
def test_the_probability_of_a_cutout_is_one(share):
    with pytest.raises(DataError, match=r"cutout_probability is above 0 and at most 1, but got .*; cutout=0 switches"):
        Augmentation(cutout_probability=share)


@pytest.mark.parametrize("field", ["padding", "cutout"])
def test_negative_pixels_are_refused(field):
    with pytest.raises(DataError, match=f"{field} is 0 or more pixels, but got -1"):
        Augmentation(**{field: -1})


def test_resize_averages_and_leaves_the_right_size_alone():
    images = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)
    images[:, :, :, ::2] = 200  # stripes as fine as the pixels: without antialiasing all or nothing would remain
    small = resize(images, (8, 8))
    assert small.shape == (2, 3, 8, 8) and small.dtype == torch.uint8
    assert int((small[..., 1:-1].int() - 100).abs().max()) <= 1
    assert resize(images, (16, 16)) is images
    assert resize(images, (32, 24)).shape == (2, 3, 32, 24)


# Image sets


@pytest.mark.parametrize(
    ("images", "labels", "rule"),
    [
        (torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64), "images are uint8"),
        (torch.zeros(2, 8, 8, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), "images are uint8"),
        (torch.zeros(0, 3, 8, 8, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64), "N >= 1"),
        (
            torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
            torch.zeros(3, dtype=torch.int64),
            "labels are one int64",
        ),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2), "labels are one int64"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 2]), r"labels lie in 0\.\.1"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([-1, 0]), r"labels lie in 0\.\.1"),
    ],
)
def test_image_set_refuses_what_is_no_set(images, labels, rule):
    with pytest.raises(DataError, match=rule):
        ImageSet(images, labels, ("a", "b"))


def test_subset_is_a_copy_in_the_order_asked():
    data = numbered(20)
    part = data.subset(torch.tensor([7, 3]))
    assert len(part) == 2 and part.labels.tolist() == [7, 3] and part.classes == data.classes
    part.images.zero_()
    assert int(data.images[7, 0, 0, 1]) == 7


# Batches


@pytest.mark.parametrize(
    ("n", "batch_size", "steps"),
    [
        (25_000, 64, 391),
        (16_666, 64, 261),
        (2_500, 64, 40),
        (50_000, 96, 521),
        (25_000, 256, 98),
        (50_000, 64, 782),
        (10, 3, 3),  # a last batch of one image is left out
        (11, 3, 4),
        (2, 2, 1),
        (7, 100, 1),
    ],
)
def test_steps_per_epoch(n, batch_size, steps):
    images = torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(n, 1, 1, 1)
    data = ImageSet(images, torch.zeros(n, dtype=torch.int64), ("a", "b"))
    assert len(batches(data, batch_size)) == steps


@pytest.mark.parametrize(("n", "batch_size"), [(300, 64), (300, 300), (300, 1000), (301, 100), (2, 2)])
def test_each_image_once_per_epoch_in_another_order_each_time(n, batch_size):
    source = batches(numbered(n), batch_size)
    seen = []
    for epoch, first in ((0, 0), (1, 0), (1, len(source))):  # the last: steps beyond the epoch
        drawn = [source.batch(epoch, first + step) for step in range(len(source))]
        order = torch.cat([numbers(x) for x, _ in drawn])
        assert len(order.unique()) == len(order) == n - (n % source.batch_size == 1)
        assert torch.equal(torch.cat([y for _, y in drawn]), order % 10)
        seen.append(tuple(order.tolist()))
    assert n == 2 or len(set(seen)) == 3


@pytest.mark.parametrize(("n", "batch_size"), [(301, 64), (10, 3), (7, 100)])
def test_with_replacement_every_batch_is_the_beginning_of_a_shuffle_of_its_own(n, batch_size):
    source = batches(numbered(n), batch_size, draw="replacement")
    once = batches(numbered(n), batch_size)
    assert len(source) == len(once) and source.last_full == len(source) - 1
    drawn = [numbers(source.batch(epoch, step)[0]) for epoch in range(2) for step in range(len(source))]
    assert all(len(order) == len(order.unique()) == source.batch_size for order in drawn)
    again = batches(numbered(n), batch_size, draw="replacement")
    assert torch.equal(numbers(again.batch(1, len(source) - 1)[0]), drawn[-1])  # asked for without those before it


def test_with_replacement_images_come_as_often_as_chance_says():
    """The images that an epoch of S batches of B from N leaves out: N · (1 - B / N) ** S, here 35.4 ± 4.8 of 100."""
    source = batches(numbered(100), 9, draw="replacement")  # a rest of one image is no batch
    assert len(source) == 11
    missed = []
    for epoch in range(60):
        seen = torch.cat([source.numbers(epoch, step) for step in range(len(source))])
        missed.append(100 - len(seen.unique()))
    assert abs(sum(missed) / 60 - 100 * 0.91**11) < 1.5  # 2.5 times the standard deviation of the mean
    positions = torch.stack([source.numbers(e, 0) for e in range(400)]).flatten().bincount(minlength=100)
    assert int(positions.min()) > 10 and int(positions.max()) < 70  # 36 ± 6


def test_a_batch_is_a_pure_function_of_epoch_and_step():
    data = ImageSet(pictures(100), torch.arange(100) % 4, tuple("abcd"))
    one, other = (batches(data, 16, Augmentation(2, True, 4)) for _ in range(2))
    calls = [(2, 3), (0, 0), (2, 3), (0, 40), (2, 0), (0, 0)]
    first = [one.batch(*call) for call in calls]
    second = [other.batch(*call) for call in reversed(calls)][::-1]
    for (x1, y1), (x2, y2) in zip(first, second):
        assert torch.equal(x1, x2) and torch.equal(y1, y2)
    assert torch.equal(first[0][0], first[2][0])


def test_batches_do_not_touch_the_global_generator():
    source = batches(ImageSet(pictures(), torch.zeros(64, dtype=torch.int64), ("a", "b")), 16, Augmentation())
    state = torch.random.get_rng_state()
    source.batch(0, 0)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_seed_and_stream_change_order_and_augmentation():
    data = numbered(300)
    orders = {
        tuple(numbers(batches(data, 300, seed=seed, stream=stream).batch(0, 0)[0]).tolist())
        for seed in (0, 1)
        for stream in ("weights", "architecture")
    }
    assert len(orders) == 4
    same = ImageSet(pictures(1).expand(64, 3, 16, 16), torch.zeros(64, dtype=torch.int64), ("a", "b"))
    first, second = (batches(same, 64, Augmentation(), seed=seed).batch(0, 0)[0] for seed in (0, 1))
    assert not torch.equal(first, second)


def test_augmentation_differs_between_epochs_and_steps():
    same = ImageSet(pictures(1).expand(64, 3, 16, 16), torch.zeros(64, dtype=torch.int64), ("a", "b"))
    source = batches(same, 32, Augmentation())
    drawn = [source.batch(*call)[0] for call in ((0, 0), (0, 1), (1, 0))]
    assert not any(torch.equal(drawn[i], drawn[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize(("n", "batch_size", "sizes"), [(10, 4, [4, 4, 2]), (9, 4, [4, 5]), (3, 2, [3]), (4, 9, [4])])
def test_eval_batches_hold_every_image_once_in_order_without_augmentation(n, batch_size, sizes):
    drawn = list(batches(numbered(n), batch_size, Augmentation()).eval_batches())
    assert [len(y) for _, y in drawn] == sizes
    assert torch.cat([numbers(x) for x, _ in drawn]).tolist() == list(range(n))
    assert torch.cat([y for _, y in drawn]).tolist() == [i % 10 for i in range(n)]


def test_eval_batches_stop_at_the_limit():
    source = batches(numbered(10), 4)
    assert [len(y) for _, y in source.eval_batches(2)] == [4, 4]
    assert len(list(source.eval_batches(99))) == 3


def test_too_small_batches_and_sets_are_refused():
    with pytest.raises(DataError, match="batch_size is 2 or more"):
        batches(numbered(10), 1)
    with pytest.raises(DataError, match="2 images or more, but the set for 'train' has 1"):
        batches(numbered(1), 8)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_sees_the_same_batch():
    data = ImageSet(pictures(), torch.arange(64) % 4, tuple("abcd"))
    cpu = batches(data, 16, Augmentation(2, True, 4))
    gpu = Batches(
        data,
        16,
        mean=MEAN,
        std=STD,
        augmentation=Augmentation(2, True, 4),
        device="cuda",
        seed=0,
        stream="train",
    )
    (x, y), (gx, gy) = cpu.batch(1, 2), gpu.batch(1, 2)
    assert gx.is_cuda and torch.equal(y, gy.cpu())
    torch.testing.assert_close(gx.cpu(), x)


def test_a_part_of_a_set_is_kept_once_for_all_its_batches():
    """In the memory format of batches, so that none of them makes another copy."""
    part = ImageSet(pictures(8), torch.arange(8) % 2, ("a", "b")).subset(torch.tensor([5, 0, 3]))
    assert torch.equal(part.images, pictures(8)[[5, 0, 3]])
    assert part.to("cpu").images.data_ptr() == part.images.data_ptr()


def test_a_batch_of_other_channels_than_the_means_is_refused():
    with pytest.raises(DataError, match="one number for each channel, here 3, and"):
        augment(pictures(), MEAN[:1], STD[:1], Augmentation(), torch.Generator())

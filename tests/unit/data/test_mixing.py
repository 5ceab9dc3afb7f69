"""Mixup, cutmix, policies of torchvision and balanced sampling: values, shares, draws as functions of the step."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from topocell.data.batches import Batches, ImageSet
from topocell.data.mixing import Mixing, targets
from topocell.data.policies import ImagePolicy, check_channels
from topocell.data.sampling import balanced_order
from topocell.data.stratify import held_out
from topocell.errors import DataError
from topocell.networks.evaluation import correct


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(seed: int, n: int = 12, channels: int = 3, side: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randn(n, channels, side, side, generator=seeded(seed)), torch.randint(
        0, 5, (n,), generator=seeded(seed)
    )


# Mixing


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("alpha", [0.1, 0.2, 1.0, 5.0])
def test_mixup_is_a_convex_combination_of_images_and_of_losses(seed: int, alpha: float) -> None:
    x, y = batch(seed)
    mixed, target = Mixing(mixup=alpha)(x, y, 5, seeded(seed))
    share = float(torch._sample_dirichlet(torch.full((2,), alpha, dtype=torch.float64), replay := seeded(seed))[0])
    other = torch.randperm(len(y), generator=replay)
    torch.testing.assert_close(mixed, share * x + (1 - share) * x[other])
    torch.testing.assert_close(target.sum(1), torch.ones(len(y)))
    logits = torch.randn(len(y), 5, generator=seeded(seed + 1))
    for smoothing in (0.0, 0.1):
        both = [F.cross_entropy(logits, labels, label_smoothing=smoothing) for labels in (y, y[other])]
        found = F.cross_entropy(logits, target, label_smoothing=smoothing)
        assert float(found) == pytest.approx(share * float(both[0]) + (1 - share) * float(both[1]), rel=1e-4)


@pytest.mark.parametrize("seed", range(20))
def test_cutmix_mixes_targets_by_the_area_that_is_left(seed: int) -> None:
    n, side = 6, 8
    x = torch.arange(1.0, n + 1)[:, None, None, None].expand(n, 3, side, side).contiguous()
    y = torch.arange(n)
    given = x.clone()
    mixed, target = Mixing(cutmix=1.0)(x, y, n, seeded(seed))
    assert torch.equal(x, given)
    own = (mixed == x).float().mean((1, 2, 3))
    for image in range(n):
        came = {int(value) - 1 for value in mixed[image].unique()}
        assert len(came) <= 2
        for source in came - {image}:
            assert float(target[image, source]) == pytest.approx(1 - float(own[image]), abs=1e-5)
        if len(came) == 2:
            assert float(target[image, image]) == pytest.approx(float(own[image]), abs=1e-5)
    torch.testing.assert_close(target.sum(1), torch.ones(n))


def test_with_both_a_batch_gets_one_of_them() -> None:
    x, y = torch.rand(4, 3, 8, 8, generator=seeded(0)), torch.arange(4)
    cut = 0
    for seed in range(200):
        mixed, _ = Mixing(0.5, 0.5)(x, y, 4, seeded(seed))
        cut += bool(torch.isin(mixed, x).all())
    assert 70 < cut < 130


def test_shares_of_mixup_are_those_of_beta() -> None:
    """Beta(α, α) has mean 1/2 and variance 1 / (4 (2α + 1))."""
    x, y = torch.zeros(2, 1, 1, 1), torch.tensor([0, 1])
    x[1] = 1.0
    for alpha in (0.2, 1.0, 4.0):
        shares = []
        for seed in range(600):
            _, target = Mixing(mixup=alpha)(x, y, 2, seeded(seed))
            if target[0, 1] > 0:
                shares.append(float(target[0, 0]))
        assert 200 < len(shares) < 400  # the other half is mixed with itself
        found = torch.tensor(shares)
        assert float(found.mean()) == pytest.approx(0.5, abs=0.08)
        assert float(found.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.25)


def test_predictions_of_mixed_images_count_by_their_share() -> None:
    logits, labels, other = torch.eye(4)[[0, 1, 2, 3]], torch.tensor([0, 1, 1, 0]), torch.tensor([1, 1, 0, 0])
    assert int(correct(logits, labels)) == 2 and correct(logits, labels).dtype == torch.long
    # image 0: 0.75 of class 0; image 1: both of class 1; images 2 and 3 are predicted as a class that they have not
    assert float(correct(logits, targets(labels, other, 0.75, 4))) == pytest.approx(0.75 + 1)
    assert float(correct(logits, targets(labels, torch.arange(4), 0.3, 4))) == pytest.approx(2)


# Policies


@pytest.mark.parametrize("policy", [ImagePolicy("randaugment"), ImagePolicy("trivialaugment")], ids=lambda p: p.name)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_policy_is_that_of_torchvision_for_each_image(policy: ImagePolicy, channels: int) -> None:
    from torchvision.transforms import v2

    images = torch.randint(0, 256, (16, channels, 8, 8), dtype=torch.uint8, generator=seeded(0))
    before = images.clone()
    found = policy(images, 5)
    assert found.dtype == torch.uint8 and found.shape == images.shape
    assert torch.equal(images, before) and not torch.equal(found, images)
    kind = {"randaugment": v2.RandAugment, "trivialaugment": v2.TrivialAugmentWide}[policy.name]()
    with torch.random.fork_rng():
        torch.manual_seed(5)
        assert torch.equal(found, torch.stack([kind(image) for image in images]))


def test_strength_and_number_of_operations_matter() -> None:
    images = torch.randint(0, 256, (16, 3, 8, 8), dtype=torch.uint8, generator=seeded(0))
    found = [ImagePolicy("randaugment", m, n)(images, 1).float() for m, n in ((0, 2), (9, 2), (30, 2), (9, 1))]
    assert len({float(image.sum()) for image in found}) == 4


def test_draws_of_a_policy_leave_the_generator_of_torch_alone() -> None:
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    torch.manual_seed(3)
    expected = torch.rand(5)
    torch.manual_seed(3)
    ImagePolicy("randaugment")(images, 1)
    assert torch.equal(torch.rand(5), expected)


def test_colours_need_one_or_three_channels() -> None:
    check_channels(None, 4)
    check_channels(ImagePolicy("randaugment"), 3)
    with pytest.raises(DataError, match="changes the colours of images with 1 or 3 channels, but these have 4; use"):
        check_channels(ImagePolicy("randaugment"), 4)


def batches(**options: Any) -> Batches:
    images = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8, generator=seeded(0))
    labels = torch.tensor([0] * 30 + [1] * 7 + [2] * 3)
    data = ImageSet(images, labels, ("a", "b", "c", "d"))
    given = {"mean": (0.5,) * 3, "std": (0.2,) * 3, "augmentation": None, "device": "cpu", "seed": 1, "stream": "x"}
    return Batches(data, 8, **given | options)


@pytest.mark.parametrize("options", [{"policy": ImagePolicy("trivialaugment")}, {"balanced": True}], ids=str)
def test_a_batch_is_a_function_of_epoch_and_step(options: dict[str, Any]) -> None:
    first, second = batches(**options), batches(**options)
    steps = [(0, 1), (1, 0), (0, 0), (2, 4), (0, 1)]
    found = {at: first.batch(*at) for at in steps}
    for number, at in enumerate(reversed(steps)):
        torch.manual_seed(number)
        x, y = second.batch(*at)
        assert torch.equal(x, found[at][0]) and torch.equal(y, found[at][1])
    assert not torch.equal(found[0, 1][0], found[0, 0][0])
    assert not torch.equal(batches(**options, seed=2).batch(0, 1)[0], found[0, 1][0])


# Sampling


@pytest.mark.parametrize("seed", range(10))
def test_balanced_order_draws_each_class_and_each_of_its_images_equally_often(seed: int) -> None:
    draw = seeded(seed)
    sizes = torch.randint(0, 40, (6,), generator=draw)
    sizes[seed % 6] = 50
    labels = torch.arange(6).repeat_interleave(sizes)
    order = balanced_order(labels, draw)
    assert len(order) == len(labels)
    drawn = labels[order].bincount(minlength=6)[sizes > 0]
    assert int(drawn.max() - drawn.min()) <= 1
    times = order.bincount(minlength=len(labels))
    for label in labels.unique():
        own = times[labels == label]
        assert int(own.max() - own.min()) <= 1
    assert not torch.equal(order, balanced_order(labels, draw))


def test_batches_are_balanced_over_an_epoch_and_differ_from_epoch_to_epoch() -> None:
    given = batches(balanced=True)
    epochs = [torch.cat([given.batch(e, s)[1] for s in range(len(given))]).bincount(minlength=3) for e in range(3)]
    assert all(counts.tolist() in ([14, 13, 13], [13, 14, 13], [13, 13, 14]) for counts in epochs)
    assert not torch.equal(given.numbers(0, 0), given.numbers(1, 0))


# Images that are held out


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.33, 0.5])
def test_what_is_held_out_has_the_same_share_of_each_class(seed: int, fraction: float) -> None:
    sizes = torch.randint(1, 60, (7,), generator=seeded(seed))
    sizes[0] = 80
    labels = torch.arange(7).repeat_interleave(sizes)[torch.randperm(int(sizes.sum()), generator=seeded(seed))]
    stay, apart = held_out(labels, fraction, seed)
    assert torch.equal(torch.cat([stay, apart]).sort().values, torch.arange(len(labels)))
    counts = labels[apart].bincount(minlength=7)
    assert ((counts - fraction * sizes).abs() < 1 + 1e-6).all()
    assert (counts < sizes).all()
    assert len(apart) <= fraction * len(labels) + 1e-6
    again = held_out(labels, fraction, seed)
    assert torch.equal(apart, again[1])
    assert not torch.equal(apart, held_out(labels, fraction, seed + 1)[1])


def test_too_few_images_to_hold_some_out() -> None:
    with pytest.raises(DataError, match=r"have 2 images or more each, but 0.1 of 10 holds out 1; change the fraction"):
        held_out(torch.zeros(10, dtype=torch.long), 0.1, 0)

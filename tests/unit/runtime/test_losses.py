"""Losses by name, with weights of classes, and the contract of a user's own."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import topocell
from topocell import testing
from topocell.config.values import Choice
from topocell.errors import RecipeError
from topocell.runtime.losses import LOSSES, balanced_weights, build_loss

LOGITS = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 0, 0, 1, 0])
SHARES = torch.softmax(torch.randn(8, 4, generator=torch.Generator().manual_seed(1)), 1)


def plain(logits: Tensor, target: Tensor, power: float = 1.0) -> Tensor:
    """Brier score."""
    target = F.one_hot(target, logits.shape[1]) if target.dim() == 1 else target
    return (logits.softmax(1) - target).square().sum(1).mean() ** power


@pytest.mark.parametrize("target", [LABELS, SHARES], ids=["labels", "probabilities"])
def test_cross_entropy_is_that_of_torch(target: Tensor) -> None:
    weight = torch.tensor([1.0, 2.0, 0.5, 1.0])
    for smoothing in (0.0, 0.2):
        for given in (None, weight):
            loss = build_loss(Choice(name="cross_entropy"), label_smoothing=smoothing, weight=given)
            expected = F.cross_entropy(LOGITS, target, weight=given, label_smoothing=smoothing)
            assert torch.equal(loss(LOGITS, target), expected)


@pytest.mark.parametrize("seed", range(5))
def test_balanced_weights_have_mean_one_and_give_every_class_the_same(seed: int) -> None:
    labels = torch.randint(0, 6, (50 + seed,), generator=torch.Generator().manual_seed(seed)) ** 2 % 7
    weight = balanced_weights(labels, 8)
    counts = labels.bincount(minlength=8)
    assert float(weight[labels].mean()) == pytest.approx(1.0)
    shares = (weight * counts)[counts > 0]
    torch.testing.assert_close(shares, shares[:1].expand_as(shares))
    assert (weight[counts == 0] == 0).all()


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_our_losses_keep_the_contract(name: str) -> None:
    testing.check_loss(name)


def test_a_loss_of_ones_own_with_an_option() -> None:
    topocell.register("loss", "my-brier", plain)
    testing.check_loss("my-brier", power=2.0)
    found = build_loss(Choice.model_validate({"name": "my-brier", "power": 2.0}))(LOGITS, LABELS)
    assert torch.equal(found, plain(LOGITS, LABELS, 2.0))
    topocell.register("loss", "my-module", nn.CrossEntropyLoss())
    testing.check_loss("my-module")


@pytest.mark.parametrize(
    ("options", "given", "words"),
    [
        ({"powr": 2.0}, {}, r"loss 'my-brier' has no option 'powr' \(did you mean 'power'\?\)"),
        ({"power": "two"}, {}, "loss.power: input should be a valid number, but got 'two'"),
        ({"weight": 1.0}, {}, "options of a loss do not hold 'weight'; set retrain.class_weights"),
        ({}, {"label_smoothing": 0.1}, "label_smoothing needs a loss with an argument 'label_smoothing'"),
        (
            {},
            {"weight": torch.ones(4)},
            "class_weights needs a loss with an argument 'weight', but 'my-brier' has none",
        ),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], given: dict[str, Any], words: str) -> None:
    topocell.register("loss", "my-brier", plain)
    with pytest.raises(RecipeError, match=words):
        build_loss(Choice.model_validate({"name": "my-brier", **options}), **given)


def in_place(logits: Tensor, target: Tensor) -> Tensor:
    loss = F.cross_entropy(logits, target)
    logits.data.add_(1)
    return loss


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (lambda logits, target: F.cross_entropy(logits, target, reduction="none"), "of labels .N,. is one number"),
        (lambda logits, target: F.cross_entropy(logits, target) / 0, "is finite"),
        (
            lambda logits, target: F.cross_entropy(logits.detach(), target),
            "of labels .N,. has a gradient, but got none",
        ),
        (lambda logits, target: 0 * F.cross_entropy(logits, target), "has a finite gradient that is not 0"),
        (lambda logits, target: F.nll_loss(logits.log_softmax(1), target), "fails on a small example"),
        (lambda logits, target: plain(logits, target) * (1 + target.dim()), "labels and their probabilities have one"),
        (lambda logits, target: plain(logits, target) * torch.rand(()), "one batch has one loss"),
        (in_place, "its arguments are left alone"),
    ],
)
def test_a_broken_loss_is_refused_in_one_line(loss: Any, words: str) -> None:
    with pytest.raises(testing.ContractError, match=words) as caught:
        testing.check_loss(loss)
    assert "\n" not in str(caught.value)

"""Losses by name, with weights of classes, and the contract of a user's own."""

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import topocell
from topocell import testing
from topocell.config.load import load_recipe
from topocell.config.retrain import RetrainPlan
from topocell.config.values import Choice
from topocell.errors import RecipeError
from topocell.networks.options import training_loss
from topocell.runs.loss_checks import check_losses
from topocell.runtime.losses import LOSSES, balanced_weights, build_loss, check_loss_options
from topocell.runtime.micro_batches import adds_up

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
        (lambda logits, target: F.nll_loss(logits.log_softmax(2), target), "of labels .N,. fails on a small example"),
        (
            lambda logits, target: plain(logits, target if target.dim() == 1 else target.roll(1, 1)),
            "labels and their probabilities have gradients of one direction",
        ),
        (lambda logits, target: F.nll_loss(logits.log_softmax(1), target), "of probabilities .N, K. fails on a small"),
        (lambda logits, target: plain(logits, target) * torch.rand(()), "one batch has one loss"),
        (in_place, "its arguments are left alone"),
    ],
)
def test_a_broken_loss_is_refused_in_one_line(loss: Any, words: str) -> None:
    with pytest.raises(testing.ContractError, match=words) as caught:
        testing.check_loss(loss)
    assert "\n" not in str(caught.value)


def costly(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy with fixed costs of two classes, divided by those of the batch where the target is labels."""
    return F.cross_entropy(logits, target, weight=torch.tensor([1.0, 10.0]))


def test_a_loss_with_costs_of_its_classes_is_one_for_so_many_classes() -> None:
    testing.check_loss(costly, 2)
    with pytest.raises(testing.ContractError, match="all 3 classes"):
        testing.check_loss(costly, 3)


def test_a_loss_of_labels_alone_is_one_where_nothing_is_mixed() -> None:
    testing.check_loss(lambda logits, target: F.nll_loss(logits.log_softmax(1), target), 2, False)


def weighted(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Cross entropy, of which each image has its weight, and the mean is one over the images."""
    return F.cross_entropy(logits, target, weight=weight, reduction="none").mean()


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_which_shares_of_micro_batches_add_up_to_a_loss(classes: int) -> None:
    weight = torch.arange(1.0, classes + 1)
    for divided, loss in ((True, F.cross_entropy), (False, weighted)):
        assert adds_up(loss, classes) and adds_up(loss, classes, mixed=True)
        assert adds_up(partial(loss, weight=weight), classes, weight) is divided
        assert adds_up(partial(loss, weight=weight), classes) is not divided
        assert adds_up(partial(loss, weight=weight), classes, weight, mixed=True)
    assert not adds_up(partial(F.cross_entropy, reduction="sum"), classes)
    costs = torch.tensor([1.0] + [10.0] * (classes - 1))
    assert not adds_up(partial(F.cross_entropy, weight=costs), classes)


def always(logits: Tensor, target: Tensor, weight: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """A loss that does not go without weights."""
    return F.cross_entropy(logits, target, weight=weight)


@pytest.mark.parametrize(
    ("name", "options", "key", "words"),
    [
        ("my-always", {}, "retrain.loss", "but retrain.class_weights gives none; give 'weight' a default, or set"),
        ("my-always", {}, "shallow.loss", "but shallow.class_weights gives none; give 'weight' a default, or set"),
        ("my-always", {}, "search.loss", "but a search gives none; give 'weight' a default$"),
        ("cross_entropy", {"label_smoothing": 0.1}, "shallow.loss", "set shallow.label_smoothing"),
        ("cross_entropy", {"label_smoothing": 0.1}, "search.loss", "a search has no label_smoothing: leave it out"),
    ],
)
def test_what_a_training_gives_its_loss_is_told_by_the_key_of_that_training(
    name: str, options: dict[str, Any], key: str, words: str
) -> None:
    topocell.register("loss", "my-always", always)
    with pytest.raises(RecipeError, match=f"^{key}: .*{words}"):
        check_loss_options(Choice.model_validate({"name": name, **options}), key)


def test_a_loss_that_needs_weights_gets_those_of_its_training() -> None:
    topocell.register("loss", "my-always", always)
    found = build_loss(Choice(name="my-always"), weight=torch.ones(4))(LOGITS, LABELS)
    assert torch.equal(found, F.cross_entropy(LOGITS, LABELS, weight=torch.ones(4)))


class Focal(nn.Module):
    """Images that are classified well count less."""

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        target = F.one_hot(target, logits.shape[1]) if target.dim() == 1 else target
        log_p = logits.log_softmax(1)
        return -(target * (1 - log_p.exp()) ** self.gamma * log_p).sum(1).mean()


class Sharpened(nn.Module):
    """A module whose call has an option."""

    def forward(self, logits: Tensor, target: Tensor, factor: float = 1.0) -> Tensor:
        return F.cross_entropy(factor * logits, target)


def test_a_class_of_modules_is_made_with_the_options_and_called() -> None:
    topocell.register("loss", "my-focal-class", Focal)
    testing.check_loss("my-focal-class", gamma=1.5)
    testing.check_loss(Focal, 4, True, gamma=1.5)
    found = build_loss(Choice.model_validate({"name": "my-focal-class", "gamma": 1.5}))(LOGITS, LABELS)
    assert torch.equal(found, Focal(1.5)(LOGITS, LABELS))
    topocell.register("loss", "my-sharp-focal", partial(Focal, gamma=3.0))
    assert torch.equal(build_loss(Choice(name="my-sharp-focal"))(LOGITS, LABELS), Focal(3.0)(LOGITS, LABELS))
    with pytest.raises(RecipeError, match=r"has no option 'gama' \(did you mean 'gamma'\?\); it takes: gamma"):
        build_loss(Choice.model_validate({"name": "my-focal-class", "gama": 1.5}))
    with pytest.raises(RecipeError, match=r"loss\.gamma: input should be a valid number, but got 'high'"):
        build_loss(Choice.model_validate({"name": "my-focal-class", "gamma": "high"}))


def test_the_cross_entropy_of_torch_is_smoothed_and_weighted_as_a_class_too() -> None:
    topocell.register("loss", "torch-cross-entropy", nn.CrossEntropyLoss)
    testing.check_loss("torch-cross-entropy")
    weight = torch.tensor([1.0, 2.0, 0.5, 1.0])
    found = build_loss(Choice(name="torch-cross-entropy"), label_smoothing=0.2, weight=weight)
    expected = F.cross_entropy(LOGITS, LABELS, weight=weight, label_smoothing=0.2)
    assert torch.equal(found(LOGITS, LABELS), expected)
    with pytest.raises(RecipeError, match=r"do not hold 'weight'; set retrain\.class_weights"):
        build_loss(Choice.model_validate({"name": "torch-cross-entropy", "weight": [1.0]}))


def test_the_options_of_a_module_are_those_of_its_call() -> None:
    topocell.register("loss", "my-sharpened", Sharpened())
    testing.check_loss("my-sharpened", factor=2.0)
    found = build_loss(Choice.model_validate({"name": "my-sharpened", "factor": 2.0}))(LOGITS, LABELS)
    assert torch.equal(found, F.cross_entropy(2 * LOGITS, LABELS))


COSTS = torch.tensor([1.0, 2.0, 0.5, 1.0])


@pytest.mark.parametrize(
    "piece",
    [
        nn.CrossEntropyLoss(weight=COSTS),
        partial(nn.CrossEntropyLoss(weight=COSTS)),
        partial(nn.CrossEntropyLoss, weight=COSTS, ignore_index=-1),
    ],
)
def test_a_module_is_copied_to_the_device_of_the_run(piece: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is registered stays where it is."""
    monkeypatch.setitem(LOSSES, "my-costs", piece)
    assert torch.equal(build_loss(Choice(name="my-costs"))(LOGITS, LABELS), F.cross_entropy(LOGITS, LABELS, COSTS))
    plan = RetrainPlan.model_validate({"loss": "my-costs"})
    for found in (build_loss(Choice(name="my-costs"), device="meta"), training_loss(plan, None, "meta")):
        module = found.func if isinstance(found, partial) else found
        assert isinstance(module, nn.Module) and [b.device.type for b in module.buffers()] == ["meta"]
    assert torch.equal(build_loss(Choice(name="my-costs"))(LOGITS, LABELS), F.cross_entropy(LOGITS, LABELS, COSTS))


class Learned(nn.Module):
    def __init__(self, fixed: bool = False) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()), requires_grad=not fixed)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(self.scale * logits, target)


@pytest.mark.parametrize("piece", [Learned, Learned(), partial(Learned())])
def test_a_loss_that_learns_is_refused(piece: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSSES, "my-learned", piece)
    words = r"nothing to learn, as no optimizer moves it, but .* the parameter 'scale'"
    with pytest.raises(RecipeError, match=rf"search\.loss: .*{words}"):
        check_loss_options(Choice(name="my-learned"), "search.loss")
    with pytest.raises(RecipeError, match=words):
        testing.check_loss(piece)
    testing.check_loss(Learned(fixed=True))


def test_a_module_that_cannot_be_made_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Focal):
        def __init__(self, gamma: float = 2.0) -> None:
            raise ValueError("gamma is\nwrong")

    monkeypatch.setitem(LOSSES, "my-broken", Broken)
    with pytest.raises(
        RecipeError, match="'my-broken' is a module that cannot be made: ValueError: gamma is wrong; ch"
    ):
        check_loss_options(Choice(name="my-broken"), "retrain.loss")


def test_a_run_checks_its_losses_on_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str]] = []

    def noted(logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        seen.append((logits.device.type, target.device.type))
        return F.cross_entropy(logits, target, weight=weight)

    monkeypatch.setitem(LOSSES, "my-noted", noted)
    recipe = load_recipe("darts-v1", ["search.loss=my-noted", "retrain.loss=my-noted"], "smoke")
    check_losses(recipe, 3, torch.device("cpu"))
    assert set(seen) == {("cpu", "cpu")} and not seen.clear()
    with pytest.raises(testing.ContractError):  # values cannot be read there
        check_losses(recipe, 3, torch.device("meta"))
    assert seen == [("meta", "meta")]

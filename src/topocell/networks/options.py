"""What the settings of a training stand for: its images, how they are changed and mixed, its loss."""

import torch
from torch import Tensor

from topocell.config.retrain import RetrainPlan
from topocell.data.batches import Images
from topocell.data.mixing import Mixing
from topocell.data.policies import ImagePolicy
from topocell.data.stratify import held_out
from topocell.genotype.genotype import Genotype
from topocell.nn.count import channels_for, widest
from topocell.runtime.losses import Loss, balanced_weights, build_loss, check_loss_options
from topocell.runtime.micro_batches import adds_up
from topocell.runtime.optimizers import check_optimizer


def image_policy(plan: RetrainPlan) -> ImagePolicy | None:
    """Return the changes of colour and shape of a plan; None for none."""
    given = plan.augment.model_dump(exclude_none=True)
    return None if plan.augment.name == "none" else ImagePolicy(**given)


def mixing(plan: RetrainPlan) -> Mixing | None:
    """Return how the images of a batch are mixed; None for not at all."""
    return Mixing(plan.mixup, plan.cutmix) if plan.mixup or plan.cutmix else None


def training_images(plan: RetrainPlan, train: Images, seed: int) -> tuple[Images, Images | None]:
    """Return the images to train on, and those that early stopping holds out of them; None without.

    Args:
        plan: of the training.
        train: the training images.
        seed: of the run, so that all trainings of a run hold out the same images.

    Raises:
        DataError: a part below two images.
    """
    if plan.early_stop is None:
        return train, None
    stay, apart = held_out(train.labels.cpu(), plan.early_stop.fraction, seed)
    return train.subset(stay), train.subset(apart)


def class_weights(plan: RetrainPlan, train: Images, device: torch.device) -> Tensor | None:
    """Return the weight of each class (K,) in the loss of labels; None where all weigh the same."""
    if plan.class_weights == "none":
        return None
    return balanced_weights(train.labels.cpu(), len(train.classes)).to(device)


def training_loss(plan: RetrainPlan, weight: Tensor | None, device: torch.device | str = "cpu") -> Loss:
    """Return the loss of a training on a device, with smoothing and what `class_weights` returns.

    Raises:
        RecipeError: as `build_loss`.
    """
    return build_loss(plan.loss, label_smoothing=plan.label_smoothing, weight=weight, device=device)


def weights_of_shares(plan: RetrainPlan, weight: Tensor | None) -> Tensor | None:
    """Return the weights (K,) by which micro batches share the loss of a batch of labels; None for their images.

    They are those of the classes, `weight`, where the loss is divided by the weights of the batch, as cross entropy is.
    """
    if weight is None or plan.micro_batch is None:
        return None
    other = torch.arange(1.0, len(weight) + 1)
    return weight if adds_up(training_loss(plan, other), len(weight), other) else None


def check_training(plan: RetrainPlan, key: str) -> None:
    """Raise RecipeError for an optimizer or a loss that cannot be, before anything starts.

    Args:
        plan: of the training.
        key: of the plan in the recipe.
    """
    check_optimizer(plan.weights, f"{key}.weights")
    weight = torch.ones(2) if plan.class_weights != "none" else None
    check_loss_options(plan.loss, f"{key}.loss", label_smoothing=plan.label_smoothing, weight=weight)


def initial_channels(
    genotype: Genotype, plan: RetrainPlan, classes: int, shape: tuple[int, int, int]
) -> tuple[int, list[str]]:
    """The initial channels of the network of a cell, and a sentence where a limit chose them.

    Args:
        genotype: the cell.
        plan: of its training.
        classes: width of the output.
        shape: (C, H, W) of an image.

    Raises:
        SpaceError: the narrowest network is above a limit.
    """
    sizes = plan.layers, classes, shape[0], plan.stem, plan.head
    if plan.parameters is not None:
        return channels_for(genotype, plan.parameters, *sizes), []
    limits = {"parameters": plan.max_parameters, "multiply_adds": plan.max_multiply_adds}
    known = {name: limit for name, limit in limits.items() if limit is not None}
    return widest(genotype, known, shape[1], shape[2], *sizes) if known else (plan.channels, [])

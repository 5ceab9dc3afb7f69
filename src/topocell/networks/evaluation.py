"""Evaluation of a network on a set of images: loss and accuracy, predicted classes."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from topocell.data.batches import Batches
from topocell.nn.network import FixedNet
from topocell.runtime import distributed


def correct(logits: Tensor, target: Tensor) -> Tensor:
    """Correct predictions (0-dim) of logits (N, K); those of mixed images count by the share of the predicted class.

    Args:
        logits: (N, K).
        target: labels (N,) int64, or probabilities (N, K).
    """
    predicted = logits.argmax(1)
    if target.dim() == 1:
        return (predicted == target).sum()
    return target.gather(1, predicted[:, None]).sum()


class Measured(NamedTuple):
    """What a network reaches on a set of images.

    Args:
        loss: mean cross entropy.
        accuracy: a fraction.
        top_k: fraction of the images whose class is among the k most probable ones; None where no k is asked for.
    """

    loss: float
    accuracy: float
    top_k: float | None = None


def evaluate(net: FixedNet, batches: Batches, top_k: int | None = None) -> Measured:
    """Evaluate a network over all batches, in evaluation mode.

    Args:
        net: of K classes.
        batches: of images and labels.
        top_k: k of the second accuracy, at most K.
    """
    training = net.training
    net.eval()
    distributed.follow_first(net)
    loss = correct = among = torch.zeros((), device=next(net.parameters()).device)  # read once, at the end
    images = torch.zeros(())
    with torch.no_grad():
        for x, y in batches.eval_batches(shared=True):
            logits = net(x)
            loss = loss + F.cross_entropy(logits, y, reduction="sum")
            correct = correct + (logits.argmax(1) == y).sum()
            if top_k is not None:
                among = among + (logits.topk(top_k, 1).indices == y[:, None]).any(1).sum()
            images = images + len(y)
    net.train(training)
    loss, correct, among, images = distributed.total(loss, correct, among, images)
    top = None if top_k is None else float(among) / float(images)
    return Measured(float(loss) / float(images), float(correct) / float(images), top)


def classify(net: FixedNet, batches: Batches) -> tuple[Tensor, Tensor]:
    """The class (N,) int64 that a network predicts for each image, and its probability (N,) float32, on the CPU."""
    training = net.training
    net.eval()
    distributed.follow_first(net)
    with torch.no_grad():
        found = [net(x).float().softmax(1).max(1) for x, _ in batches.eval_batches()]
    net.train(training)
    return torch.cat([part.indices.cpu() for part in found]), torch.cat([part.values.cpu() for part in found])

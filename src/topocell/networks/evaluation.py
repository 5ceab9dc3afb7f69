"""Evaluation of a network on a set of images: loss and accuracy, predicted classes."""

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


def evaluate(net: FixedNet, batches: Batches) -> tuple[float, float]:
    """Mean cross entropy and accuracy (fraction) of a network over all batches, in evaluation mode."""
    training = net.training
    net.eval()
    distributed.follow_first(net)
    loss = correct = images = torch.zeros(())
    with torch.no_grad():
        for x, y in batches.eval_batches(shared=True):
            logits = net(x)
            loss = loss + F.cross_entropy(logits, y, reduction="sum").cpu()
            correct = correct + (logits.argmax(1) == y).sum().cpu()
            images = images + len(y)
    net.train(training)
    loss, correct, images = distributed.total(loss, correct, images)
    return float(loss) / float(images), float(correct) / float(images)


def classify(net: FixedNet, batches: Batches) -> tuple[Tensor, Tensor]:
    """The class (N,) int64 that a network predicts for each image, and its probability (N,) float32, on the CPU."""
    training = net.training
    net.eval()
    distributed.follow_first(net)
    with torch.no_grad():
        found = [net(x).float().softmax(1).max(1) for x, _ in batches.eval_batches()]
    net.train(training)
    return torch.cat([part.indices.cpu() for part in found]), torch.cat([part.values.cpu() for part in found])

"""Evaluation of a network on a set of images: loss and accuracy, predicted classes."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from topocell.data.batches import Batches
from topocell.nn.network import FixedNet
from topocell.nn.together import TogetherNet
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
    (found,) = _measured(net, batches, top_k)
    return found


def evaluate_each(net: TogetherNet, batches: Batches) -> list[Measured]:
    """Evaluate each of several networks over all batches, in evaluation mode."""
    return _measured(net, batches, None)


def _measured(net: FixedNet | TogetherNet, batches: Batches, top_k: int | None) -> list[Measured]:
    training = net.training
    net.eval()
    distributed.follow_first(net)
    networks = net.n if isinstance(net, TogetherNet) else 1
    sums = [[torch.zeros((), device=next(net.parameters()).device)] * 3 for _ in range(networks)]  # read at the end
    images = torch.zeros(())
    with torch.no_grad():
        for x, y in batches.eval_batches(shared=True):
            out = net(x)
            for number, logits in enumerate([out] if out.dim() == 2 else out):
                loss, correct, among = sums[number]
                loss = loss + F.cross_entropy(logits, y, reduction="sum")
                correct = correct + (logits.argmax(1) == y).sum()
                if top_k is not None:
                    among = among + (logits.topk(top_k, 1).indices == y[:, None]).any(1).sum()
                sums[number] = [loss, correct, among]
            images = images + len(y)
    net.train(training)
    found = []
    for each in sums:
        lost, right, near, seen = map(float, distributed.total(*each, images))
        found.append(Measured(lost / seen, right / seen, None if top_k is None else near / seen))
    return found


def classify(net: FixedNet, batches: Batches) -> tuple[Tensor, Tensor]:
    """The class (N,) int64 that a network predicts for each image, and its probability (N,) float32, on the CPU."""
    training = net.training
    net.eval()
    distributed.follow_first(net)
    with torch.no_grad():
        found = [net(x).float().softmax(1).max(1) for x, _ in batches.eval_batches()]
    net.train(training)
    return torch.cat([part.indices.cpu() for part in found]), torch.cat([part.values.cpu() for part in found])

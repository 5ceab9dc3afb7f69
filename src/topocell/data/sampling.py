"""The order in which an epoch takes the images of a set."""

import torch
from torch import Tensor


def balanced_order(labels: Tensor, generator: torch.Generator) -> Tensor:
    """Positions (N,) int64 of the images of an epoch in which every class is drawn equally often, ± 1, in random order.

    Of K classes that have images each gets N // K or one more; which ones get more is drawn. The images of a class are
    drawn equally often too, ± 1.

    Args:
        labels: (N,) int64, N >= 1, on the CPU.
        generator: a CPU generator.
    """
    n, present = len(labels), labels.unique()
    quota = torch.full((len(present),), n // len(present))
    quota[torch.randperm(len(present), generator=generator)[: n % len(present)]] += 1
    chosen = []
    for label, size in zip(present.tolist(), quota.tolist()):
        own = torch.nonzero(labels == label).flatten()
        rounds = -(-size // len(own))
        drawn = [own[torch.randperm(len(own), generator=generator)] for _ in range(rounds)]
        chosen.append(torch.cat([own[:0], *drawn])[:size])
    order = torch.cat(chosen)
    return order[torch.randperm(n, generator=generator)]

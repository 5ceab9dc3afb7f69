"""How much a supernet suffers without one of its parts: the measure of selection by perturbation (DARTS-PT)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F

from topocell.augment import Batches
from topocell.engine import ArchWeights
from topocell.rng import derive as derive_seed
from topocell.search.levels import Learner

#: What is measured of a supernet → 1 if more of it means to suffer, −1 if less does.
METRICS: dict[str, float] = {"accuracy": -1.0, "loss": 1.0}


class Cut(NamedTuple):
    """What is taken out of a cell type: one candidate of an edge, or the whole edge where that is None."""

    cell_type: str
    edge: int
    candidate: int | None = None


@dataclass(frozen=True)
class Measured:
    """Mean loss, fraction of correct answers, and number of images that they were taken over."""

    loss: float
    accuracy: float
    images: int


def without(weights: Mapping[str, ArchWeights], cut: Cut) -> dict[str, ArchWeights]:
    """The same weights with zero for what is cut; the others stay as they are, without renormalisation."""
    whole = weights[cut.cell_type]
    ops, edges = whole.ops.clone(), whole.edges.clone()
    if cut.candidate is None:
        ops[cut.edge], edges[cut.edge] = 0.0, 0.0
    else:
        ops[cut.edge, cut.candidate] = 0.0
    return {**weights, cut.cell_type: whole._replace(ops=ops, edges=edges)}


class Probe:
    """Measures a supernet on batches of held-out images, in training mode and without gradients.

    Args:
        learner: holds the supernet.
        batches: of the held-out images; DARTS-PT shuffles and augments them as in training.
        limit: batches of a measurement; default all.
        seed: of what the operations draw.
    """

    def __init__(self, learner: Learner, batches: Batches, limit: int | None, seed: int) -> None:
        self.learner, self.batches, self.seed = learner, batches, seed
        self.looks = min(limit or len(batches), len(batches))

    @torch.no_grad()
    def __call__(self, weights: Mapping[str, ArchWeights], draw: int) -> Measured:
        """Loss and accuracy under `weights`. Equal numbers `draw` take the same images, augmented alike."""
        losses, correct, images = [], [], 0
        for look in range(self.looks):
            torch.manual_seed(derive_seed(self.seed, "probe", draw, look))
            x, y = self.batches.batch(draw, look)
            logits = self.learner.logits(x, weights)
            losses.append(F.cross_entropy(logits, y, reduction="sum").double())
            correct.append((logits.argmax(1) == y).sum())
            images += len(y)
        return Measured(float(torch.stack(losses).sum()) / images, int(torch.stack(correct).sum()) / images, images)

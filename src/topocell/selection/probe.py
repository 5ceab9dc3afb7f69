"""Accuracy drop of a supernet without one of its parts: the measure of selection by perturbation (DARTS-PT)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from topocell.data.batches import Batches
from topocell.runtime.capture import Steps
from topocell.runtime.rng import derive as derive_seed
from topocell.supernet import ArchWeights, Branches
from topocell.supernet.learner import Learner

#: A metric of the supernet → 1 if a larger value is worse, −1 if a smaller one is.
METRICS: dict[str, float] = {"accuracy": -1.0, "loss": 1.0}


#: (images, labels, weights of cell types) → loss and correctness.
Measure = Callable[[Tensor, Tensor, Sequence[Mapping[str, ArchWeights]]], tuple[Tensor, Tensor]]


class Ablation(NamedTuple):
    """A part that is removed from a cell type: one candidate of an edge, or the whole edge where that is None."""

    cell_type: str
    edge: int
    candidate: int | None = None


@dataclass(frozen=True)
class Measured:
    """Mean loss, fraction of correct answers, and number of images that they were taken over."""

    loss: float
    accuracy: float
    images: int


def without(weights: Mapping[str, ArchWeights], ablation: Ablation) -> dict[str, ArchWeights]:
    """Return the weights with zero for the ablated part; the others stay as they are, without renormalisation."""
    whole = weights[ablation.cell_type]
    ops, edges = whole.ops.clone(), whole.edges.clone()
    if ablation.candidate is None:
        ops[ablation.edge], edges[ablation.edge] = 0.0, 0.0
    else:
        ops[ablation.edge, ablation.candidate] = 0.0
    return {**weights, ablation.cell_type: whole._replace(ops=ops, edges=edges)}


class Probe:
    """Measures a supernet on batches of held-out images, in training mode and without gradients.

    Args:
        learner: holds the supernet.
        batches: of the held-out images; DARTS-PT shuffles and augments them as in training.
        limit: batches of a measurement; default all.
        seed: of the draws of the operations.

    Attributes:
        n_batches, images: numbers of batches and images of a whole measurement.
    """

    def __init__(self, learner: Learner, batches: Batches, limit: int | None, seed: int) -> None:
        self.learner, self.batches, self.seed = learner, batches, seed
        self.n_batches = min(limit or len(batches), len(batches))
        self.images = min(self.n_batches * batches.batch_size, len(batches.data))
        self._branches = Branches(learner.net)
        device = next(learner.net.parameters()).device
        self._steps = Steps(learner.execution.recorder(device) if learner.held else None)

    @torch.no_grad()
    def __call__(self, weights: Mapping[str, ArchWeights], draw: int) -> Measured:
        """Measure loss and accuracy under `weights`. Equal numbers `draw` take the same images, augmented alike."""
        losses, correct, images = [], [], 0
        for step in range(self.n_batches):
            x, y = self._batch(draw, step)
            loss, right = self._taken("apart", self._together, x, y, [weights])
            losses.append(loss)
            correct.append(right)
            images += len(y)
        return Measured(float(torch.stack(losses).sum()) / images, int(torch.stack(correct).sum()) / images, images)

    @torch.no_grad()
    def side_by_side(
        self, weights: Mapping[str, ArchWeights], ablations: Sequence[Ablation], draw: int, step: int
    ) -> tuple[Tensor, Tensor]:
        """Measure loss and correctness, each (len(ablations), N), of one batch of images for each ablation by itself.

        The ablations are of one cell type. The stem and the cells before the first of that type are computed once for
        all of them; every later cell is computed for each, since batch norm takes the statistics of the batch. For the
        reduction cell of DARTS' supernet these are 2 of 8 cells, the largest, and 40 % of the time (7 candidates, 16
        channels, 32 images, one CPU core). The normal cell is the first of the network, as is the only cell of
        NAS-Bench-201: there the stem is all that is shared, 2 and 8 % of the time. The outputs of other operations of
        the first cell could be shared too, for less than one cell in 8 or 15 of that part; they are not.
        """
        x, y = self._batch(draw, step)
        (cell_type,) = {ablation.cell_type for ablation in ablations}
        branches = [without(weights, ablation) for ablation in ablations]
        loss, right = self._taken(cell_type, partial(self._branched, cell_type), x, y, branches)
        return loss, right

    def _together(self, x: Tensor, y: Tensor, given: Sequence[Mapping[str, ArchWeights]]) -> tuple[Tensor, Tensor]:
        """Loss (0-dim, float64) and correct answers (0-dim), summed over a batch, under the one of `given`."""
        logits = self.learner.logits(x, given[0])
        return F.cross_entropy(logits, y, reduction="sum").double(), (logits.argmax(1) == y).sum()

    def _branched(
        self, cell_type: str, x: Tensor, y: Tensor, given: Sequence[Mapping[str, ArchWeights]]
    ) -> tuple[Tensor, Tensor]:
        """Loss and correctness, each (len(given), N), under each of the weights, which differ in one cell type."""
        logits: Tensor = self.learner.execution(self._branches, x, given, cell_type)
        loss = F.cross_entropy(logits.flatten(0, 1), y.repeat(len(given)), reduction="none")
        return loss.view(len(given), -1), logits.argmax(2) == y

    def _taken(
        self, kind: str, of: Measure, x: Tensor, y: Tensor, given: Sequence[Mapping[str, ArchWeights]]
    ) -> tuple[Tensor, Tensor]:
        """What `of` measures, in one call where it was recorded before with as many weights of the same candidates."""

        def act(x: Tensor, y: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
            left = iter(tensors)
            return of(x, y, [{t: type(w)(next(left), next(left)) for t, w in weights.items()} for weights in given])

        inputs = x, y, *(tensor for weights in given for w in weights.values() for tensor in w)
        loss, right = self._steps(self.learner.net.structure(), (kind, len(given)), act, inputs)
        return loss.clone(), right.clone()

    def _batch(self, draw: int, step: int) -> tuple[Tensor, Tensor]:
        """Draw images and labels of a batch, and seed the operations for it."""
        torch.manual_seed(derive_seed(self.seed, "probe", draw, step))
        return self.batches.batch(draw, step)

"""Diagnostics of a search: the cell that it would derive now, entropies, and the cost of discretisation."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from topocell.config.selection import Rules
from topocell.runtime import distributed
from topocell.runtime.logits import Logits, to_record
from topocell.selection.rules import cells_as_dict, derive
from topocell.supernet import Supernet
from topocell.supernet.arch_state import ArchState


def observe(net: Supernet, arch: ArchState, rules: Rules, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """Figures of one epoch: validation of the supernet, the cell of now, entropies, gap and warnings in words.

    Nothing is sampled: the supernet is evaluated under its expected weights, in evaluation mode.
    `gap` compares the accuracy of the supernet under its soft weights with that of the same supernet masked to
    the derived cell: when it is wide, the weights of the architecture say little about the cell.
    """
    derived = derive(arch, rules)
    genotype = derived.genotype(arch.space)
    training = net.training
    net.eval()
    with torch.no_grad():
        soft = arch.expected()
        hard = derived.weights(soft)
        loss = correct = masked = torch.zeros((), device=next(net.parameters()).device)  # read once, at the end
        images = torch.zeros(())
        for x, y in batches:
            logits = net(x, soft)
            loss = loss + F.cross_entropy(logits, y, reduction="sum")
            correct = correct + (logits.argmax(1) == y).sum()
            masked = masked + (net(x, hard).argmax(1) == y).sum()
            images += len(y)
    net.train(training)
    loss, correct, masked, images = distributed.total(loss, correct, masked, images)
    operations = {t: dict(sorted(genotype.operations(t).items())) for t in genotype.cells}
    return {
        "val_loss": float(loss) / float(images),
        "val_accuracy": float(correct) / float(images),
        "alpha_entropy": arch.alpha_entropy(),
        "beta_entropy": arch.beta_entropy(),
        "architecture": architecture(arch),
        "derived": cells_as_dict(genotype.cells),
        "operations": operations,
        "depth": {t: genotype.depth(t) for t in genotype.cells},
        "width": {t: genotype.width(t) for t in genotype.cells},
        "gap": {"soft": float(correct) / float(images), "derived": float(masked) / float(images)},
        "warnings": [*skip_warnings(operations), *derived.notes],
    }


def architecture(arch: ArchState) -> dict[str, dict[str, Any]]:
    """Return a record of the logits of each cell type, see `topocell.runtime.logits`."""
    return {
        name: to_record(Logits(cell, arch.alpha[name], arch.beta[name], arch.mask(name)))
        for name, cell in arch.space.cells.items()
    }


def skip_warnings(operations: dict[str, dict[str, int]]) -> list[str]:
    """A sentence per cell type in which skip connections make up half of the operations or more."""
    return [
        f"skip connections take over the {cell_type} cell: {skips} of {sum(counts.values())} operations"
        for cell_type, counts in operations.items()
        if (skips := counts.get("skip_connect", 0)) and 2 * skips >= sum(counts.values())
    ]

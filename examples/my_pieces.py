"""Pieces of one's own, one of each kind.

`topocell run --import my_pieces.py my-recipe.yaml --budget smoke --out runs/mine` searches with them; run as a program,
`python my_pieces.py`, this file checks them.
"""

import torch
from torch import nn

import topocell
from topocell import CellSpec, SpaceSpec
from topocell.data.readers import Entry, in_memory
from topocell.nn.primitives import Primitive
from topocell.relaxation import Relaxation
from topocell.searching.mechanisms import Mechanism
from topocell.spaces import Slot, Stacking
from topocell.topology import Decoded, Topology

# An operation: how its module is built. The supernet runs one module for each edge.


def gated_conv(channels, stride, affine):
    return nn.Sequential(
        nn.Conv2d(channels, 2 * channels, 3, stride, 1, bias=False),
        nn.GLU(dim=1),
        nn.BatchNorm2d(channels, affine=affine),
    )


topocell.register("operation", "gated_conv_3x3", Primitive(gated_conv, label="gated 3×3", family="conv"))

# A relaxation: α (E, K) → weights (E, K), zero where the mask is False.


@topocell.register("relaxation", "squared")
class Squared(Relaxation):
    """Weights in proportion to 1 + α² / temperature."""

    def weights(self, alpha, mask, temperature=1.0):
        self._logits(alpha, mask, temperature)
        scores = (1 + alpha.square() / temperature) * mask
        return scores / scores.sum(1, keepdim=True).clamp(min=1e-9)


# A topology: β (n_logits,) → weights of edges (E,), and the edges that a cell keeps.


@topocell.register("topology", "best-inputs")
class BestInputs(Topology):
    """A sigmoid for each edge; each node keeps its `inputs` strongest ones."""

    def __init__(self, cell, inputs: int = 1):
        super().__init__(cell, cell.n_edges)
        self.inputs = inputs

    def weights(self, beta, temperature=1.0):
        return self._logits(beta, temperature).sigmoid()

    def probabilities(self, beta, temperature=1.0):
        return self.weights(beta, temperature)

    def decode_report(self, beta):
        strength = self._values(beta)
        return Decoded(self._best(lambda edge: -strength[edge]))

    def random(self, generator):
        drawn = torch.rand(self.cell.n_edges, generator=generator).tolist()
        return list(self._best(lambda edge: drawn[edge]))

    def _best(self, order):
        kept = (sorted(self.cell.incoming(node), key=order)[: self.inputs] for node in self.cell.computed)
        return tuple(sorted(edge for edges in kept for edge in edges))


# A mechanism: hooks that the search calls.


@topocell.register("mechanism", "cooling")
class Cooling(Mechanism):
    """Multiplies α by `factor` after each epoch."""

    def __init__(self, factor: float = 0.5):
        self.factor = factor

    def on_epoch_end(self, search):
        for alpha in search.learner.arch.alpha.values():
            alpha.data.mul_(self.factor)
        return {"cooled_by": self.factor}


# A selection rule: for each edge the candidate that it gets, or None for none of them.


@topocell.register("operation rule", "second-best")
def second_best(arch, cell_type, rules, allowed):
    strengths = arch.strengths(cell_type).masked_fill(~allowed, -1)
    order = strengths.argsort(dim=1, descending=True).tolist()
    count = allowed.sum(1).tolist()
    return [row[min(1, n - 1)] if n else None for row, n in zip(order, count)]


# A dataset: what is read, mean and standard deviation (None: measured), what augmentation may do.


def read_stripes(root, download):
    """Images with stripes down or across."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 2
    images = torch.randint(0, 60, (120, 1, 8, 8), generator=draw)
    images[labels == 0, :, ::2] += 150
    images[labels == 1, :, :, ::2] += 150
    images = images.to(torch.uint8)
    return in_memory(("across", "down"), (images[:90], labels[:90]), (images[90:], labels[90:]))


topocell.register("dataset", "stripes", Entry(read_stripes, None, flip=False, crop=False))

# A skeleton: how cells are stacked.


def early_reductions(channels, layers):
    """Reduction cells at the second and the third place."""
    slots = []
    for index in range(layers):
        reduction = index in (1, 2)
        channels *= 2 if reduction else 1
        slots.append(Slot("reduce" if reduction else "normal", channels, index))
    return slots


topocell.register("skeleton", "early", Stacking(early_reductions))

# A space: cells as data, and the skeleton that stacks them.


@topocell.register("space", "triangle")
def triangle(nodes: int = 2):
    edges = [(source, node) for node in range(1, nodes + 1) for source in range(node)]
    candidates = ("skip_connect", "sep_conv_3x3", "gated_conv_3x3")
    cells = {name: CellSpec(1, nodes, edges, candidates, stride=s) for name, s in (("normal", 1), ("reduce", 2))}
    return SpaceSpec("triangle", cells, skeleton="early")


if __name__ == "__main__":
    from topocell import testing

    testing.check_operation("gated_conv_3x3")
    testing.check_relaxation("squared")
    testing.check_topology("best-inputs", inputs=2)
    testing.check_mechanism("cooling", factor=0.9)
    testing.check_rule("second-best", "operation rule")
    testing.check_dataset("stripes")
    testing.check_skeleton("early")
    testing.check_space("triangle", nodes=3)
    print("all pieces do what they have to")

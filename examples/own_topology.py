"""A topology of one's own: the best inputs of each node."""

import torch

import topocell
from topocell.testing import check_topology
from topocell.topology import Decoded, Topology


@topocell.register("topology", "my-best-inputs")
class BestInputs(Topology):
    """A sigmoid for each edge; each node keeps its `inputs` strongest ones."""

    def __init__(self, cell, inputs: int = 2):
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


if __name__ == "__main__":
    check_topology("my-best-inputs", inputs=1)
    topology = "{name: my-best-inputs, inputs: 1}"
    changes = [f"search.stages.search.topology={topology}", "selection.edges=topology"]
    topocell.run(topocell.load_recipe("darts-v1", changes, budget="smoke"), "runs/best-inputs")

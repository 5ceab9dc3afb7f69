"""A space of one's own: one input, four nodes in a chain with shortcuts, other candidates on the shortcuts."""

import topocell
from topocell import CellSpec, SpaceSpec
from topocell.testing import check_space

EDGES = [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (0, 4), (3, 4)]  # node 0 is the input
CONVS, CHEAP = ("sep_conv_3x3", "sep_conv_5x5"), ("skip_connect", "max_pool_3x3", "sep_conv_3x3")


@topocell.register("space", "my-chain")
def my_chain(output: str = "concat"):
    candidates = [CONVS if dst == src + 1 else CHEAP for src, dst in EDGES]
    normal = CellSpec(1, 4, EDGES, candidates, output=output)
    reduce = CellSpec(1, 4, EDGES, candidates, output=output, stride=2)
    return SpaceSpec("my-chain", {"normal": normal, "reduce": reduce})


if __name__ == "__main__":
    check_space("my-chain")
    recipe = topocell.load_recipe("darts-v1", ["space=my-chain", "selection.edges=all"], budget="smoke")
    topocell.run(recipe, "runs/chain")
    print(topocell.Genotype.load("runs/chain/genotype.json").key)

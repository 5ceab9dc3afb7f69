"""A selection rule of one's own: each edge gets its second best operation."""

import topocell
from topocell.testing import check_rule


@topocell.register("operation rule", "my-second-best")
def second_best(arch, cell_type, rules, allowed):
    strengths = arch.strengths(cell_type).masked_fill(~allowed, -1)
    order, count = strengths.argsort(dim=1, descending=True).tolist(), allowed.sum(1).tolist()
    return [row[min(1, n - 1)] if n else None for row, n in zip(order, count)]


if __name__ == "__main__":
    check_rule("my-second-best", "operation rule")
    recipe = topocell.load_recipe("darts-v1", ["selection.operations=my-second-best"], budget="smoke")
    topocell.run(recipe, "runs/second-best")

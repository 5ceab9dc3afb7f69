"""A skeleton of one's own: reductions early in the network."""

import topocell
from topocell.spaces import Slot, Stacking
from topocell.testing import check_skeleton


def early_reductions(channels, layers):
    """Reduction cells at the second and the third place."""
    slots = []
    for index in range(layers):
        reduction = index in (1, 2)
        channels *= 2 if reduction else 1
        slots.append(Slot("reduce" if reduction else "normal", channels, index))
    return slots


topocell.register("skeleton", "my-early", Stacking(early_reductions))


if __name__ == "__main__":
    check_skeleton("my-early")
    space = "space={name: custom, nodes: 2, skeleton: my-early}"
    topocell.run(topocell.load_recipe("darts-v1", [space], budget="smoke"), "runs/early")

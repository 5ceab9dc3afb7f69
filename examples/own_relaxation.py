"""A relaxation of one's own: weights in proportion to squares."""

import topocell
from topocell.relaxation import Relaxation
from topocell.testing import check_relaxation


@topocell.register("relaxation", "my-squares")
class Squares(Relaxation):
    """Weights in proportion to 1 + α² / temperature."""

    def weights(self, alpha, mask, temperature=1.0):
        self._logits(alpha, mask, temperature)  # checks shapes and temperature
        scores = (1 + alpha.square() / temperature) * mask
        return scores / scores.sum(1, keepdim=True).clamp(min=1e-9)


if __name__ == "__main__":
    check_relaxation("my-squares")
    recipe = topocell.load_recipe("darts-v1", ["search.stages.search.relaxation=my-squares"], budget="smoke")
    topocell.run(recipe, "runs/squares")

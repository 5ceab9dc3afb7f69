"""A mechanism of one's own: logits that shrink, and a stage that ends when they are small."""

import topocell
from topocell.searching.mechanisms import Mechanism
from topocell.testing import check_mechanism


@topocell.register("mechanism", "my-cooling")
class Cooling(Mechanism):
    """Multiplies α by `factor` after each epoch, and ends the stage once no logit is larger than `least`."""

    def __init__(self, factor: float = 0.5, least: float = 1e-6):
        self.factor, self.least = factor, least

    def on_epoch_end(self, search):
        for alpha in search.learner.arch.alpha.values():
            alpha.data.mul_(self.factor)
        return {"largest_logit": max(float(a.detach().abs().max()) for a in search.learner.arch.alpha.values())}

    def reason_to_stop(self, search, record):
        return "all logits are small" if record["largest_logit"] <= self.least else None


if __name__ == "__main__":
    check_mechanism("my-cooling", factor=0.9)
    change = "search.stages.search.mechanisms.my-cooling.factor=0.9"
    topocell.run(topocell.load_recipe("darts-v1", [change], budget="smoke"), "runs/cooling")

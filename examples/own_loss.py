"""A loss of one's own: images that are classified well count less (Lin et al. 2017)."""

import torch

import topocell
from topocell.testing import check_loss


@topocell.register("loss", "my-focal")
def focal(logits, target, gamma: float = 2.0):
    """Mean of (1 − p)^gamma · (−log p), p the probability of the class."""
    if target.dim() == 1:
        target = torch.nn.functional.one_hot(target, logits.shape[1]).to(logits.dtype)
    log_p = logits.log_softmax(1)
    return -(target * (1 - log_p.exp()) ** gamma * log_p).sum(1).mean()


if __name__ == "__main__":
    check_loss("my-focal", gamma=1.5)
    changes = ["retrain.loss=my-focal", "retrain.loss.gamma=1.5", "retrain.mixup=0.2"]
    topocell.run(topocell.load_recipe("darts-v1", changes, budget="smoke"), "runs/focal")

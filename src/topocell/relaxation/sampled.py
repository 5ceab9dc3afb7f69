"""Relaxations that draw the weights of every step, from torch's global generator on the device of α.

The search loop seeds that generator before each step, so that a resumed search draws the same.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Gamma

from topocell.relaxation.base import Relaxation
from topocell.relaxation.softmax import Softmax


def gumbel_like(logits: Tensor) -> Tensor:
    """Gumbel(0, 1) noise of the shape, device and dtype of `logits`, drawn in float32 at least; always finite."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    draws = torch.empty(logits.shape, dtype=dtype, device=logits.device).exponential_()
    return -draws.clamp(min=torch.finfo(dtype).tiny).log().to(logits.dtype)


class GumbelSoftmax(Softmax):
    """softmax((α + offset + g) / T), g ~ Gumbel(0, 1) drawn anew on every call (SNAS).

    SNAS writes log α where α is written here, GDAS log softmax(α): a softmax gives the same for all three.
    """

    sampled = True

    def weights(self, alpha: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
        """One relaxed sample (E, K) per edge, summing to 1 on each edge with a live candidate."""
        logits = self._shifted(alpha, mask, temperature)
        return self._softmax((logits + gumbel_like(logits)) / temperature, mask)

    def expected(self, alpha: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
        """softmax(α + offset) (E, K): the probability of each candidate to win a sample, at every temperature."""
        return self._softmax(self._shifted(alpha, mask, temperature), mask)


class GumbelStraightThrough(GumbelSoftmax):
    """The winner of a Gumbel-softmax sample with weight 1, all others 0; gradients of the sample (GDAS).

    Where GDAS draws again when a sample is not finite, the noise is finite here to begin with.
    """

    one_hot = True

    def weights(self, alpha: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
        """Exactly one-hot rows (E, K) on edges with a live candidate, with the gradient of the relaxed sample."""
        soft = super().weights(alpha, mask, temperature)
        winner = soft.detach().masked_fill(~mask, -1).argmax(1, keepdim=True)
        hard = torch.zeros_like(soft).scatter(1, winner, 1.0).masked_fill(~mask, 0)
        return hard + (soft - soft.detach())  # in this order the sum is exact


class Dirichlet(Relaxation):
    """A sample of Dirichlet(elu(α) + 1) per edge, differentiable in α (DrNAS). It has no temperature.

    A concentration below 1e-3 is taken as 1e-3: there a sample has one weight of 1 and the draws begin to underflow.
    """

    sampled = True
    LEAST = 1e-3

    def weights(self, alpha: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
        """One sample (E, K) per edge, summing to 1 on each edge with a live candidate."""
        concentration = self._concentration(alpha, mask, temperature)
        draws = Gamma(concentration, torch.ones_like(concentration), validate_args=False).rsample()
        draws = draws.masked_fill(~mask, 0)
        return (draws / draws.sum(1, keepdim=True).clamp(min=torch.finfo(draws.dtype).tiny)).to(alpha.dtype)

    def expected(self, alpha: Tensor, mask: Tensor, temperature: float = 1.0) -> Tensor:
        """The mean of the distribution (E, K): each concentration over the sum of its edge."""
        live = self._concentration(alpha, mask, temperature).masked_fill(~mask, 0)
        return (live / live.sum(1, keepdim=True).clamp(min=self.LEAST)).to(alpha.dtype)

    def strengths(self, alpha: Tensor, mask: Tensor) -> Tensor:
        """softmax(α) (E, K), by which DrNAS' code derives its cells.

        The mean ranks the candidates of an edge alike, but edges otherwise: above 0 it is linear in α.
        """
        logits = self._logits(alpha, mask, 1.0).masked_fill(~mask, torch.finfo(alpha.dtype).min)
        return torch.softmax(logits, 1).masked_fill(~mask, 0)

    def penalty(self, alpha: Tensor, mask: Tensor) -> Tensor:
        """‖elu(α)‖₂ over the live candidates: how far the concentrations are from the anchor 1 (DrNAS)."""
        return torch.linalg.vector_norm(F.elu(alpha.masked_fill(~mask, 0)))

    def _concentration(self, alpha: Tensor, mask: Tensor, temperature: float) -> Tensor:
        """elu(α) + 1 (E, K), in float32 at least; 1 where nothing is live."""
        logits = self._logits(alpha, mask, temperature).masked_fill(~mask, 0)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return torch.where(logits > 0, logits + 1, logits.clamp(max=0).exp()).clamp(min=self.LEAST)

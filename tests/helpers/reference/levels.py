"""Search levels for small functional losses, where every derivative is exact."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

#: A scalar loss of (w, alpha).
Loss = Callable[[Tensor, Tensor], Tensor]


def unrolled_gradient(
    loss_train: Loss,
    loss_val: Loss,
    w: Tensor,
    alpha: Tensor,
    xi: float,
    momentum_buffer: Tensor | None,
    mu: float,
    weight_decay: float,
) -> Tensor:
    """d/dα L_val(w'(α), α), where w'(α) = w − ξ (μ v + ∇w L_train(w, α) + λ w), through the step.

    DARTS (second order) approximates the mixed second derivative by a finite difference; this is what it
    approximates. A missing momentum buffer v counts as zero. Returns a tensor of alpha's shape.
    """
    w = w.detach().requires_grad_()
    alpha = alpha.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(loss_train(w, alpha), w, create_graph=True)
    velocity = torch.zeros_like(w) if momentum_buffer is None else momentum_buffer
    stepped = w - xi * (mu * velocity + gradient + weight_decay * w)
    return torch.autograd.grad(loss_val(stepped, alpha), alpha)[0]


class BilinearCase(NamedTuple):
    """L_train = ½ wᵀAw + wᵀBα and L_val = ½ ‖w − t‖²: the unrolled gradient in closed form.

    A (n, n) symmetric, B (n, m), t (n,), w (n,), alpha (m,); gradient (m,) is that of a step without
    momentum or weight decay.
    """

    A: Tensor
    B: Tensor
    t: Tensor
    w: Tensor
    alpha: Tensor
    gradient: Tensor

    def loss_train(self, w: Tensor, alpha: Tensor) -> Tensor:
        return 0.5 * w @ self.A @ w + w @ self.B @ alpha

    def loss_val(self, w: Tensor, alpha: Tensor) -> Tensor:
        return 0.5 * (w - self.t).square().sum()


def f12_case(seed: int, n: int, m: int, xi: float = 0.1) -> BilinearCase:
    """A random bilinear case in float64; gradient = −ξ Bᵀ(w' − t) with w' = w − ξ (Aw + Bα).

    The finite difference of DARTS is exact here for any step ε, since ∇α L_train = Bᵀw is linear in w.
    """
    g = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    root = draw(n, n)
    a, b, t, w, alpha = root + root.T, draw(n, m), draw(n), draw(n), draw(m)
    stepped = w - xi * (a @ w + b @ alpha)
    return BilinearCase(a, b, t, w, alpha, -xi * b.T @ (stepped - t))

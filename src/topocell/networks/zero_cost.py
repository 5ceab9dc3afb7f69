"""Scores of networks before any training, from one batch of images (Abdelfattah et al. 2021).

All are computed in float64, where compiled kernels stand back and sums of many layers keep their digits. Larger is
better. Parameters that count are the weights of convolutions and linear layers.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


def _weights(net: nn.Module) -> Iterator[Tensor]:
    """The weights of convolutions and linear layers."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            yield module.weight


def synflow(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """log Σ_θ θ · ∂R/∂θ with R = Σ of the outputs for an image of ones, all parameters by their magnitude.

    Synaptic flow (Tanaka et al. 2020, Eq. 2) summed over all weights (Abdelfattah et al. 2021, Eq. 4). Of a chain of
    linear layers without biases it is the number of layers times the sum of the entries of the product of their
    magnitudes. Batch norms are in evaluation mode: before training they pass all on but for their ε. The logarithm is
    ours, for deep networks; it ranks alike.

    Args:
        net: not trained; its parameters are restored.
        x: (N, C, H, W) images, of which only the shape is read.
        y: (N,) labels, not read.
    """
    signs = {name: value.sign() for name, value in net.state_dict().items() if value.is_floating_point()}
    training = net.training
    net.eval()
    try:
        with torch.no_grad():
            for value in net.state_dict().values():
                if value.is_floating_point():
                    value.abs_()
        weights = list(_weights(net))
        total = net(torch.ones_like(x[:1])).sum()
        slopes = torch.autograd.grad(total, weights, allow_unused=True)
        pairs = [(weight.detach(), slope) for weight, slope in zip(weights, slopes) if slope is not None]
        flow = sum(float((weight * slope).sum()) for weight, slope in pairs)
        return math.log(flow) if flow > 0 else -math.inf
    finally:
        with torch.no_grad():
            for name, value in net.state_dict().items():
                if name in signs:
                    value.mul_(torch.where(signs[name] == 0, torch.ones_like(value), signs[name]))
        net.train(training)


def grad_norm(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """Σ over layers of ‖∂L/∂θ‖₂, L the cross entropy of one batch (Abdelfattah et al. 2021, Section 3.2).

    Args:
        net: not trained, in training mode.
        x: (N, C, H, W) images.
        y: (N,) labels.
    """
    weights = list(_weights(net))
    slopes = torch.autograd.grad(F.cross_entropy(net(x), y), weights, allow_unused=True)
    return sum(float(slope.norm()) for slope in slopes if slope is not None)


class _Codes(TorchFunctionMode):
    """Sums up, over all ReLUs called inside, the kernel of the binary codes of the images."""

    def __init__(self, images: int) -> None:
        super().__init__()
        self.kernel = torch.zeros(images, images, dtype=torch.float64, device="cpu")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, inside which this mode is off."""
        out = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in ("relu", "relu_"):
            self.kernel += code_kernel(out > 0).cpu()
        return out


def code_kernel(codes: Tensor) -> Tensor:
    """K (N, N) float64: in how many units two images agree; `codes` bool (N, ..) says which units are active."""
    active = codes.flatten(1).double()
    return active @ active.T + (1 - active) @ (1 - active).T


def naswot(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """log |det K| of the kernel of the binary codes of ReLUs: how well images are told apart (Mellor et al. 2021).

    K_ij = N_A − d_H(c_i, c_j), with N_A units and the Hamming distance of the codes. Images with the same code make it
    −∞. A ReLU that several operations apply to the same map counts once for each.

    Args:
        net: not trained, in training mode.
        x: (N, C, H, W) images.
        y: (N,) labels, not read.
    """
    with torch.no_grad(), _Codes(len(x)) as codes:
        net(x)
    return float(torch.linalg.slogdet(codes.kernel).logabsdet)


def jacobian_covariance(net: nn.Module, x: Tensor, y: Tensor) -> float:
    """−Σ_i [log(σ_i + k) + 1 / (σ_i + k)] over the eigenvalues of a correlation matrix, k = 1e-5.

    The matrix has the correlations of ∂(Σ of the logits)/∂x between the images of a batch (Mellor et al., 2020, first
    version of "Neural Architecture Search without Training"; Abdelfattah et al. 2021).

    Args:
        net: not trained, in training mode.
        x: (N, C, H, W) images.
        y: (N,) labels, not read.
    """
    x = x.detach().requires_grad_()
    (jacobian,) = torch.autograd.grad(net(x).sum(), x, materialize_grads=True)  # zeros where no path leads to x
    return correlation_score(jacobian.flatten(1))


def correlation_score(rows: Tensor, k: float = 1e-5) -> float:
    """The score of `jacobian_covariance` for the rows (N, D) of a Jacobian; nan where a row is constant."""
    correlations = torch.corrcoef(rows.double())
    if not bool(correlations.isfinite().all()):
        return math.nan
    values = torch.linalg.eigvalsh(correlations).clamp(min=0) + k
    return -float((values.log() + 1 / values).sum())


#: Name → score of a network, images and labels.
SCORES: Mapping[str, Callable[[nn.Module, Tensor, Tensor], float]] = {
    "synflow": synflow,
    "naswot": naswot,
    "grad-norm": grad_norm,
    "jacobian-covariance": jacobian_covariance,
}

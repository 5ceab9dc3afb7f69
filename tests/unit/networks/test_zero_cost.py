"""Scores of untrained networks against closed forms, hand-made codes and plain autograd."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from topocell import Genotype
from topocell.genotype.genotype import CellGenotype
from topocell.networks.zero_cost import (
    SCORES,
    _Codes,
    code_kernel,
    correlation_score,
    grad_norm,
    jacobian_covariance,
    naswot,
    synflow,
)
from topocell.nn.network import FixedNet

F64 = torch.float64
X, Y = torch.randn(6, 4, dtype=F64, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1, 2])


def chain(*widths: int, relu: bool = False) -> nn.Sequential:
    torch.manual_seed(1)
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b, bias=False), *([nn.ReLU()] if relu else [])]
    return nn.Sequential(*layers).double()


def test_synflow_of_a_linear_chain_is_layers_times_the_product() -> None:
    net = chain(4, 5, 3, 2)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    product = torch.ones(4, dtype=F64)
    for layer in net:
        product = layer.weight.abs() @ product
    assert synflow(net, X, Y) == pytest.approx(math.log(3 * float(product.detach().sum())), rel=1e-12)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training
    with torch.no_grad():
        net[1].weight.zero_()
    assert synflow(net, X, Y) == -math.inf  # nothing flows


def test_synflow_sees_through_batch_norm_and_relu() -> None:
    torch.manual_seed(2)
    a, b = nn.Conv2d(2, 3, 1, bias=False).double(), nn.Conv2d(3, 1, 1, bias=False).double()
    net = nn.Sequential(nn.ReLU(), a, nn.BatchNorm2d(3).double(), nn.ReLU(), b)
    flow = float((b.weight.abs().flatten(1) @ a.weight.abs().flatten(1)).sum().detach()) * 4  # at 2 × 2 places
    found = synflow(net, torch.zeros(5, 2, 2, 2, dtype=F64), Y)
    assert found == pytest.approx(math.log(2 * flow), abs=1e-5)


def test_grad_norm_is_the_sum_of_the_norms_of_autograd() -> None:
    net = chain(4, 5, 3, relu=True)
    loss = F.cross_entropy(net(X), Y)
    loss.backward()
    wanted = sum(float(p.grad.norm()) for p in net.parameters() if p.grad is not None)
    net.zero_grad()
    assert grad_norm(net, X, Y) == pytest.approx(wanted, rel=1e-12)
    assert all(p.grad is None for p in net.parameters())


def test_the_kernel_of_hand_made_codes() -> None:
    codes = torch.tensor([[1, 0, 1], [1, 1, 1], [0, 0, 1]], dtype=torch.bool)
    wanted = torch.tensor([[3.0, 2, 2], [2, 3, 1], [2, 1, 3]], dtype=F64)  # 3 − Hamming distance
    assert torch.equal(code_kernel(codes), wanted)

    class Given(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.relu(x)

    x = torch.where(codes, 1.0, -1.0).double()
    determinant = 3 * (9 - 1) - 2 * (6 - 2) + 2 * (2 - 6)
    assert naswot(Given(), x, Y) == pytest.approx(math.log(determinant), rel=1e-12)
    assert naswot(Given(), x[[0, 0, 1]], Y) == -math.inf  # two images with one code


def test_correlations_in_closed_form() -> None:
    k = 1e-5
    rows = torch.tensor([[1.0, -1, 0, 0], [0, 0, 1, -1]], dtype=F64)  # uncorrelated: both eigenvalues are 1
    assert correlation_score(rows) == pytest.approx(-2 * (math.log(1 + k) + 1 / (1 + k)), rel=1e-12)
    same = torch.tensor([[1.0, 2, 4], [2, 4, 8]], dtype=F64)  # correlation 1: eigenvalues 2 and 0
    wanted = -(math.log(2 + k) + 1 / (2 + k) + math.log(k) + 1 / k)
    assert correlation_score(same) == pytest.approx(wanted, rel=1e-6)
    assert math.isnan(correlation_score(torch.ones(2, 3)))  # a constant row has no correlation


def test_the_jacobian_is_that_of_every_image() -> None:
    net = nn.Sequential(chain(4, 64, relu=True), chain(64, 3))
    rows = torch.stack([torch.autograd.functional.jacobian(lambda x: net(x).sum(), x[None])[0] for x in X])
    assert math.isfinite(correlation_score(rows))
    assert jacobian_covariance(net, X, Y) == pytest.approx(correlation_score(rows), rel=1e-9)


def cell(*ops: str) -> Genotype:
    a, b, c, d, e, f = ops
    nodes = (((a, 0),), ((b, 0), (c, 1)), ((d, 0), (e, 1), (f, 2)))
    return Genotype("nasbench201", {"cell": CellGenotype(1, nodes, (3,))})


def net_of(genotype: Genotype) -> FixedNet:
    torch.manual_seed(0)
    return FixedNet(genotype, 4, 5, 3, 1).double()


def test_every_relu_of_a_network_counts() -> None:
    """Agreement of an image with itself is the number of units: of 3 cells with two convolutions, blocks and head."""
    net, x = net_of(cell("nor_conv_3x3", *["skip_connect"] * 4, "nor_conv_1x1")), torch.randn(3, 1, 8, 8).double()
    with torch.no_grad(), _Codes(3) as codes:
        net(x)
    cells = 2 * (4 * 64 + 8 * 16 + 16 * 4)
    blocks = (4 * 64 + 8 * 16) + (8 * 16 + 16 * 4)
    head = 16 * 4
    assert codes.kernel.diagonal().tolist() == [cells + blocks + head] * 3
    assert torch.equal(codes.kernel, codes.kernel.T)


def test_scores_tell_cells_with_convolutions_from_those_without() -> None:
    x = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    y = torch.arange(8) % 3
    rich, poor = cell(*["nor_conv_3x3"] * 6), cell(*["none"] * 3, "skip_connect", "none", "none")
    for name, score in SCORES.items():
        values = [score(net_of(genotype), x, y) for genotype in (rich, poor)]
        assert all(map(math.isfinite, values)), name
        if name in ("synflow", "naswot"):
            assert values[0] > values[1], name


def test_a_cell_without_a_way_from_its_input_is_the_worst_or_has_no_score() -> None:
    """No image changes a logit: every Jacobian is zero, and rows of zeros have no correlations."""
    x, y = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)).double(), torch.arange(8) % 3
    found = {name: score(net_of(cell(*["none"] * 6)), x, y) for name, score in SCORES.items()}
    assert found["synflow"] == found["naswot"] == -math.inf and found["grad-norm"] == pytest.approx(0.0, abs=1e-12)
    assert math.isnan(found["jacobian-covariance"])

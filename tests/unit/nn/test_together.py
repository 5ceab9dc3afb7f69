"""Networks as one module equal the networks alone: outputs, gradients, running statistics, in float64."""

import copy
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from topocell.errors import SpaceError
from topocell.genotype.genotype import CellGenotype, Genotype
from topocell.nn.network import FixedNet
from topocell.nn.together import TogetherNet

SEP, SKIP, DIL, POOL = "sep_conv_3x3", "skip_connect", "dil_conv_3x3", "max_pool_3x3"
REDUCE = CellGenotype(2, (((POOL, 0),), ((SKIP, 1), (DIL, 2))), (2, 3))
#: Cells that share some operations on some edges; one has two operations on one edge.
NORMAL = [
    (((SEP, 0),), ((SKIP, 0), (SEP, 2))),
    (((SEP, 0), (SKIP, 1)), ((SEP, 2), (SEP, 1))),
    (((SEP, 0), (SEP, 0)), ((DIL, 1),)),
]
DARTS = [Genotype("any", {"normal": CellGenotype(2, nodes, (2, 3)), "reduce": REDUCE}) for nodes in NORMAL]
UNIFORM = [Genotype("any", {"normal": CellGenotype(2, nodes, (2, 3))}, skeleton="uniform-half") for nodes in NORMAL]
NASBENCH201 = [
    Genotype.from_nasbench201(f"|{a}~0|+|none~0|none~1|+|{b}~0|nor_conv_1x1~1|skip_connect~2|")
    for a, b in (("nor_conv_3x3", "none"), ("none", "avg_pool_3x3"))
]


def _losses(out: Tensor | tuple[Tensor, Tensor], y: Tensor) -> Tensor:
    logits = out if isinstance(out, tuple) else (out,)
    return sum((0.4**i * F.cross_entropy(each, y) for i, each in enumerate(logits)), torch.zeros(()))


@pytest.mark.parametrize(
    ("genotypes", "layers", "auxiliary"), [(DARTS, 3, True), (UNIFORM, 2, False), (NASBENCH201, 5, False)]
)
def test_outputs_gradients_and_statistics_equal_those_of_networks_alone(
    genotypes: Sequence[Genotype], layers: int, auxiliary: bool
) -> None:
    torch.manual_seed(0)
    nets = [FixedNet(g, 3, layers, 4, auxiliary=auxiliary, drop_path=0.3).double() for g in genotypes]
    bound, n = copy.deepcopy(nets), len(nets)
    together = TogetherNet(bound)
    together.bind(bound)
    together.drop_path = 0.3
    x, y = torch.randn(n, 4, 3, 16, 16).double(), torch.randint(0, 4, (n, 4))
    drawn = [torch.manual_seed(i) and together.draw(i, 4, x.device) for i in range(n)]
    out = together(x, torch.stack(drawn))
    each = [tuple(part[i] for part in out) if isinstance(out, tuple) else out[i] for i in range(n)]
    sum(_losses(found, y[i]) for i, found in enumerate(each)).backward()  # type: ignore[union-attr]
    together.share_gradients(bound)

    for i, net in enumerate(nets):
        torch.manual_seed(i)
        alone = net(x[i])
        torch.testing.assert_close(each[i], alone, rtol=0, atol=1e-12)
        _losses(alone, y[i]).backward()
        for (name, found), parameter in zip(bound[i].named_parameters(), net.parameters(), strict=True):
            expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            grad = torch.zeros_like(found) if found.grad is None else found.grad
            torch.testing.assert_close(grad, expected, rtol=0, atol=1e-12, msg=name)
        for (name, value), expected in zip(bound[i].state_dict().items(), net.state_dict().values(), strict=True):
            torch.testing.assert_close(value, expected, rtol=0, atol=1e-12, msg=name)

    together.eval()
    inside = together(x)
    assert isinstance(inside, Tensor)
    for i, net in enumerate(nets):
        torch.testing.assert_close(inside[i], net.eval()(x[i]), rtol=0, atol=1e-12)


def test_images_that_all_share_are_given_once() -> None:
    torch.manual_seed(0)
    net = TogetherNet([FixedNet(genotype, 3, 2, 4).double() for genotype in UNIFORM])
    x = torch.randn(4, 3, 8, 8).double()
    gradients = []
    for images in (x, x.expand(3, *x.shape)):
        net.zero_grad()
        out = net(images)
        assert isinstance(out, Tensor) and out.shape == (3, 4, 4)
        out.square().sum().backward()
        gradients.append([out.detach(), *(p.grad for p in net.parameters() if p.grad is not None)])
    for shared, each in zip(*gradients, strict=True):
        torch.testing.assert_close(shared, each, rtol=0, atol=1e-11)


def test_bound_networks_move_with_their_optimizers_as_they_move_alone() -> None:
    torch.manual_seed(0)
    nets = [FixedNet(genotype, 3, 2, 4).double() for genotype in UNIFORM]
    bound = copy.deepcopy(nets)
    together = TogetherNet(bound)
    together.bind(bound)
    x, y = torch.randn(3, 4, 3, 8, 8).double(), torch.randint(0, 4, (3, 4))
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2, "nesterov": True}
    optimizers = [torch.optim.SGD(net.parameters(), **options) for net in (*nets, *bound)]  # type: ignore[arg-type]
    for _ in range(3):
        for net in (together, *nets, *bound):
            net.zero_grad()
        sum(map(_losses, together(x), y)).backward()  # type: ignore[arg-type,union-attr]
        together.share_gradients(bound)
        for i, net in enumerate(nets):
            _losses(net(x[i]), y[i]).backward()
        for optimizer in optimizers:
            optimizer.step()
    for i, net in enumerate(nets):
        torch.testing.assert_close(together(x)[i], net(x[i]), rtol=0, atol=1e-10)
    together.eval()
    other = FixedNet(UNIFORM[0], 3, 2, 4).double().eval()
    bound[0].load_state_dict(other.state_dict())
    torch.testing.assert_close(together(x)[0], other(x[0]), rtol=0, atol=1e-10)


def test_networks_that_cannot_share_calls_are_refused() -> None:
    nets = [FixedNet(UNIFORM[0], 3, layers, 4) for layers in (1, 2)]
    with pytest.raises(SpaceError, match="the same skeleton, channels, layers"):
        TogetherNet(nets)
    noise = Genotype("any", {"normal": CellGenotype(2, ((("noise", 0),),), (2,))}, skeleton="uniform")
    with pytest.raises(SpaceError, match="operation noise"):
        TogetherNet([FixedNet(noise, 3, 1, 4)])
    with pytest.raises(SpaceError, match="got none"):
        TogetherNet([])

"""Networks as one module equal the networks alone: outputs, gradients, clipping, running statistics, in float64."""

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
    together, n = TogetherNet(nets), len(nets)
    together.drop_path = 0.3
    x, y = torch.randn(n, 4, 3, 16, 16).double(), torch.randint(0, 4, (n, 4))
    out = together(x, [torch.Generator().manual_seed(i) for i in range(n)])
    each = [tuple(part[i] for part in out) if isinstance(out, tuple) else out[i] for i in range(n)]
    sum(_losses(found, y[i]) for i, found in enumerate(each)).backward()  # type: ignore[union-attr]
    norms = together.clip(0.5)
    gradients = together.gradients()

    for i, net in enumerate(nets):
        torch.manual_seed(i)
        alone = net(x[i])
        torch.testing.assert_close(each[i], alone, rtol=0, atol=1e-12)
        _losses(alone, y[i]).backward()
        torch.testing.assert_close(norms[i], torch.nn.utils.clip_grad_norm_(net.parameters(), 0.5), rtol=1e-12, atol=0)
        for name, parameter in net.named_parameters():
            expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(gradients[i][name], expected, rtol=0, atol=1e-12, msg=name)
        state = net.state_dict()
        assert together.state_of(i).keys() == state.keys()
        for name, value in together.state_of(i).items():
            torch.testing.assert_close(value, state[name], rtol=0, atol=1e-12, msg=name)

    together.eval()
    inside = together(x)
    assert isinstance(inside, Tensor)
    for i, net in enumerate(nets):
        torch.testing.assert_close(inside[i], net.eval()(x[i]), rtol=0, atol=1e-12)


def test_an_optimizer_moves_each_network_as_it_moves_it_alone() -> None:
    torch.manual_seed(0)
    nets = [FixedNet(genotype, 3, 2, 4).double() for genotype in UNIFORM]
    together = TogetherNet(nets)
    x, y = torch.randn(3, 4, 3, 8, 8).double(), torch.randint(0, 4, (3, 4))
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2, "nesterov": True}
    optimizer = torch.optim.SGD(together.parameters(), **options)  # type: ignore[arg-type]
    alone = [torch.optim.SGD(net.parameters(), **options) for net in nets]  # type: ignore[arg-type]
    for _ in range(3):
        optimizer.zero_grad()
        sum(map(_losses, together(x), y)).backward()  # type: ignore[arg-type,union-attr]
        optimizer.step()
        for i, (net, own) in enumerate(zip(nets, alone)):
            own.zero_grad()
            _losses(net(x[i]), y[i]).backward()
            own.step()
    for i, net in enumerate(nets):
        torch.testing.assert_close(together(x)[i], net(x[i]), rtol=0, atol=1e-10)


def test_networks_that_cannot_share_calls_are_refused() -> None:
    nets = [FixedNet(UNIFORM[0], 3, layers, 4) for layers in (1, 2)]
    with pytest.raises(SpaceError, match="the same skeleton, channels, layers"):
        TogetherNet(nets)
    noise = Genotype("any", {"normal": CellGenotype(2, ((("noise", 0),),), (2,))}, skeleton="uniform")
    with pytest.raises(SpaceError, match="operation noise"):
        TogetherNet([FixedNet(noise, 3, 1, 4)])
    with pytest.raises(SpaceError, match="got none"):
        TogetherNet([])

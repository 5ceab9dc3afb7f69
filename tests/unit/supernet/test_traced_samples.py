"""One-hot samples in traces, exports and transforms: what was drawn when one was made is nothing to later calls."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from topocell import ArchState, Supernet, spaces
from topocell.supernet.weights import ArchWeights, OneHotWeights

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

CANDIDATES = ("none", "skip_connect", "max_pool_3x3", "sep_conv_3x3")


class Sampled(nn.Module):
    """A supernet that draws a cell on every call."""

    def __init__(self, space: str = "darts") -> None:
        super().__init__()
        torch.manual_seed(0)
        spec = spaces.get(space, nodes=1, candidates=CANDIDATES) if space == "darts" else spaces.get(space)
        self.net = Supernet(spec, 4, 3 if space == "darts" else 5, 3).double()
        self.arch = ArchState(spec, "gumbel-straight-through", init=1.0).double()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x, self.arch())
        return logits

    def sample(self, seed: int) -> tuple[Tensor, ...]:
        torch.manual_seed(seed)
        return tuple(tensor.detach() for pair in self.arch().values() for tensor in pair)

    def under(self, *given: Tensor) -> Tensor:
        """Logits under a sample."""
        pairs = zip(given[::2], given[1::2], strict=True)
        weights: dict[str, ArchWeights] = {t: OneHotWeights(*pair) for t, pair in zip(self.net.space.cells, pairs)}
        logits: Tensor = self.net(X, weights)
        return logits


TRACES: dict[str, Callable[[nn.Module], Any]] = {
    "jit.trace": lambda model: torch.jit.trace(model, (X,), check_trace=False),
    "make_fx": lambda model: make_fx(model)(X),
    "export": lambda model: torch.export.export(model, (X,), strict=False).module(),
    "strict export": lambda model: torch.export.export(model, (X,), strict=True).module(),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("space", "trace"), [*(("darts", trace) for trace in TRACES), ("nasbench201", "jit.trace")])
def test_a_trace_draws_as_the_supernet_does(space: str, trace: str) -> None:
    model = Sampled(space)
    traced = TRACES[trace](model)
    for seed in range(3):
        torch.manual_seed(seed)
        found = traced(X)
        torch.manual_seed(seed)
        torch.testing.assert_close(found, model(X))


@pytest.mark.parametrize("space", ["darts", "nasbench201"])
def test_transforms_see_all_that_a_sample_may_be(space: str) -> None:
    model, labels = Sampled(space), torch.tensor([0, 1])
    samples = [model.sample(seed) for seed in range(3)]
    each = torch.stack([model.under(*sample) for sample in samples])
    together = vmap(model.under)(*map(torch.stack, zip(*samples)))
    torch.testing.assert_close(together, each)

    def loss(ops: Tensor, edges: Tensor) -> Tensor:
        return F.cross_entropy(model.under(ops, edges, *samples[0][2:]), labels)

    given = [tensor.clone().requires_grad_() for tensor in samples[0][:2]]
    wanted = torch.autograd.grad(loss(*given), given)
    for found, other in zip(grad(loss, (0, 1))(*samples[0][:2]), wanted, strict=True):
        torch.testing.assert_close(found, other)


def test_a_sample_without_values_is_of_all_candidates() -> None:
    model = Sampled().to("meta")
    assert model(X.to("meta")).shape == (2, 3)
    net = model.to_empty(device="cpu").net  # the weights stay where they are, the images elsewhere
    assert net.to("meta")(X.to("meta"), Sampled().arch()).shape == (2, 3)

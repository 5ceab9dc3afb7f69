"""What works on a network of plain modules works on a supernet: wrappers of `test_wrappers.py`, and what is refused."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.helpers.plain_network import plain
from tests.helpers.twins import (
    CLASSES,
    GENOTYPES,
    all_kernels,  # noqa: F401
    images,
    network,
)
from tests.unit.nn.test_wrappers import LAYOUTS, WRAPPERS
from torch import Tensor, nn
from torch.ao.quantization import get_default_qat_qconfig_mapping
from torch.ao.quantization.quantize_fx import prepare_qat_fx
from torch.func import functional_call, grad, jvp, vmap
from torch.optim.swa_utils import AveragedModel

from topocell import ArchState, Supernet, spaces
from topocell.errors import SpaceError, TopocellError
from topocell.nn.banks import Bank
from topocell.supernet import ArchWeights


class Given(nn.Module):
    """A supernet under fixed weights of its cells: what wrappers of networks take."""

    def __init__(self, net: Supernet, arch: ArchState) -> None:
        super().__init__()
        self.net = net
        for name, pair in arch().items():
            for part, tensor in zip(("ops", "edges"), pair):
                self.register_buffer(f"{part}_{name}", tensor.detach().clone())

    def forward(self, x: Tensor) -> Any:
        pairs = {t: (getattr(self, f"ops_{t}"), getattr(self, f"edges_{t}")) for t in self.net.space.cells}
        return self.net(x, {t: ArchWeights(*pair) for t, pair in pairs.items()})


def given(space: str) -> Given:
    torch.manual_seed(1)
    spec = spaces.get(space, nodes=1) if space == "darts" else spaces.get(space)
    return Given(Supernet(spec, 4, 5 if space == "nasbench201" else 3, CLASSES), ArchState(spec, init=1.0))


OF_SUPERNETS = (
    *("step", "frozen_batch_norm", "autocast", "averaged", "traced", "of_functions", "copied", "doubled", "halved"),
    *("in_bfloat16", "meta", "exported", "checkpointed", "saved_elsewhere", "anomaly_detection", "profiled"),
    *("inference", "dual_numbers"),
)


@pytest.mark.parametrize(("space", "layout"), [("darts", "nhwc"), ("darts", "nchw"), ("nasbench201", "nhwc")])
@pytest.mark.parametrize("name", OF_SUPERNETS)
def test_a_wrapped_supernet_is_as_without_kernels(
    name: str, space: str, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (wrapper, tolerance), found = WRAPPERS[name], []
    for native in ("1", "0"):
        monkeypatch.setenv("TOPOCELL_NATIVE", native)
        found.append(wrapper(given(space), *images(LAYOUTS[layout])))
    assert len(found[0]) == len(found[1]) > 0
    for a, b in zip(*found):
        scale = max(1.0, float(b.abs().max())) if b.is_floating_point() and b.numel() else 1.0
        torch.testing.assert_close(a / scale, b / scale, **tolerance)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("space", ["darts", "nasbench201"])
def test_hooks_of_every_bank_fire_once(space: str, layout: str) -> None:
    net, (x, _) = given(space), images(LAYOUTS[layout])
    before, fired = net(x), {name: 0 for name, module in net.named_modules() if isinstance(module, Bank)}
    for name in fired:

        def count(*_: Any, name: str = name) -> None:
            fired[name] += 1

        net.get_submodule(name).register_forward_hook(count)
    torch.testing.assert_close(net(x), before, rtol=1e-3, atol=1e-4)
    assert fired and set(fired.values()) == {1}


# What docs/how-to/pytorch.md says is refused

TRANSFORMS: dict[str, Any] = {
    "grad": lambda loss, w, x, y: grad(loss)(w, x, y),
    "per sample": lambda loss, w, x, y: vmap(grad(loss), in_dims=(None, 0, 0))(w, x[:, None], y[:, None]),
    "jvp": lambda loss, w, x, y: jvp(lambda x: loss(w, x, y), (x,), (torch.ones_like(x),)),
}


@pytest.mark.parametrize("genotype", GENOTYPES)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_in_training_are_refused_as_of_the_plain_twin(name: str, genotype: str) -> None:
    ours = network(genotype)
    for net in (ours, plain(ours)):

        def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor, net: nn.Module = net) -> Tensor:
            return F.cross_entropy(functional_call(net, weights, (x,)), y)

        weights = {name: p.detach() for name, p in net.named_parameters()}
        with pytest.raises(RuntimeError, match=r"in-place|running_mean"):
            TRANSFORMS[name](loss, weights, *images(torch.channels_last))


@pytest.mark.parametrize("kind", ["FixedNet", "Supernet"])
def test_scripting_is_refused(kind: str) -> None:
    net = network("mixed") if kind == "FixedNet" else given("darts").net
    with pytest.raises(TopocellError, match=r"use torch\.export, torch\.compile or torch\.jit\.trace"):
        torch.jit.script(net)


def test_quantization_by_fx_refuses_a_supernet() -> None:
    with pytest.raises(SpaceError, match="traces a FixedNet, but no supernet"):
        prepare_qat_fx(given("darts"), get_default_qat_qconfig_mapping("x86"), images(torch.channels_last)[:1])


def test_an_average_keeps_its_temperatures_and_cannot_average_masks() -> None:
    arch = ArchState(spaces.get("darts", nodes=1))
    average, with_masks = AveragedModel(arch), AveragedModel(arch, use_buffers=True)
    arch.op_temperature = 0.25
    average.update_parameters(arch)
    assert average.module.op_temperature == 1.0
    with_masks.update_parameters(arch)  # copies
    with pytest.raises(RuntimeError, match="bool"):
        with_masks.update_parameters(arch)


def test_parts_that_are_no_network_are_refused() -> None:
    net, (x, _) = network("mixed"), images(torch.channels_last)
    with pytest.raises((TypeError, NotImplementedError)):
        nn.Sequential(*net.children())(x)
    with pytest.raises(TypeError):  # cells take two inputs
        net.cells[0](x)

"""Contracts of operations in the supernet: one function or one bank for many edges is what modules of their own are."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from topocell.nn.banks import Bank
from topocell.nn.functional import normalise
from topocell.nn.primitives import Primitive
from topocell.runtime.contracts import demand, of


def check_at_stride(at: str, row: Primitive, x: Tensor, stride: int) -> None:
    """Check an operation at a stride on maps (2, C, S, S), in their dtype. Raises ContractError."""
    channels, side = x.shape[1], x.shape[2] // stride
    size = (2, channels, side, side)
    with of(at):
        module = row.module(channels, stride, True).to(x.dtype)
        given = x.clone()
        out = module(given)
        demand(tuple(out.shape) == size, at, f"a map of {tuple(x.shape)} becomes {size}", tuple(out.shape))
        demand(bool(out.isfinite().all()), at, "outputs are finite", "NaN or infinity")
        demand(bool((given == x).all()), at, "its input, which others read, is left alone", "another one")
        build = row.bank_at(stride)
        if build is None:
            _check_weightless(at, row, module, x, stride, size)
        else:
            _check_bank(at, row.module, build(channels, stride, [0, 2, 5]).to(x.dtype), x, stride)


def _closeness(x: Tensor) -> float:
    """Up to which difference two ways to compute the same from x are alike."""
    return 1e-9 if x.dtype == torch.float64 else 1e-3


def _check_weightless(
    who: str, row: Primitive, module: nn.Module, x: Tensor, stride: int, size: tuple[int, ...]
) -> None:
    """Check that an operation without weights is one function, as module and for all edges of a node."""
    assert row.weightless is not None
    close = _closeness(x)
    given = x.clone()
    bare, normalised = (row.weightless(given, stride, norm) for norm in (False, True))
    demand(tuple(bare.shape) == size, who, f"weightless gives {size}", tuple(bare.shape))
    demand(bool((given == x).all()), who, "the input of weightless, which others read, is left alone", "another one")
    expected = module.train()(x)
    same = any(torch.allclose(found, expected, atol=close) for found in (bare, normalised))
    demand(same, who, "weightless computes what the module does, up to batch norm", "other values")
    same = any(torch.allclose(normalised, found, atol=close) for found in (bare, normalise(bare)))
    rule = "weightless with norm=True is the same map, or that map behind batch norm without gain and bias"
    demand(same, who, f"{rule}, as a topocell.nn.primitives.Pool makes it", "other values")


def _check_bank(who: str, build: Callable[..., nn.Module], bank: Bank, x: Tensor, stride: int) -> None:
    """Check that a bank of three edges computes and learns like three modules, and forgets an edge."""
    channels, close = x.shape[1], _closeness(x)
    modules = [build(channels, stride, False).to(x.dtype).train() for _ in bank.edges]
    for module, edge in zip(modules, bank.edges):
        pieces, own = bank.pieces(edge), list(module.parameters())
        demand(len(pieces) == len(own), who, "a bank has the parameters of the module", f"{len(pieces)}, {len(own)}")
        with torch.no_grad():
            for parameter, (stack, number) in zip(own, pieces.values()):
                parameter.copy_(stack[number].reshape(parameter.shape))
    scale = torch.tensor([0.5, 2.0, 1.0], dtype=x.dtype)
    weight = scale.repeat_interleave(channels)

    def banked() -> Tensor:
        return bank(x, x.relu(), weight[: len(bank.edges) * channels])

    torch.manual_seed(0)
    exact = torch.cat([module(x) * s for module, s in zip(modules, scale)], 1)
    torch.manual_seed(0)
    repeated = torch.cat([module(x) * s for module, s in zip(modules, scale)], 1)
    torch.manual_seed(1)
    random = not torch.equal(exact, torch.cat([module(x) * s for module, s in zip(modules, scale)], 1))
    torch.manual_seed(0)
    found = banked()
    demand(found.shape == exact.shape, who, f"a bank of 3 edges gives {tuple(exact.shape)}", tuple(found.shape))
    demand(torch.equal(exact, repeated), who, "draws come from torch's generator", "other numbers for one seed")
    if random:
        return
    error = float((found - exact).abs().max().detach())
    demand(error < close, who, "a bank computes what its modules do", f"a difference of {error:.3g}")
    if parameters := list(bank.parameters()):
        gradients = torch.autograd.grad(found.square().sum() + found.sum(), parameters, allow_unused=True)
        learned = all(g is not None and bool(g.isfinite().all()) for g in gradients)
        demand(learned, who, "every parameter of a bank has a finite gradient", "none, or NaN")
    bank.keep(bank.edges[:2])
    with torch.no_grad():
        error = float((banked() - exact[:, : 2 * channels]).abs().max())
    demand(error < close, who, "edges that stay do not change when one goes", f"a difference of {error:.3g}")

"""Is a supernet the same function as the reference, with the same derivatives?"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol
from unittest import mock

import torch
from tests.helpers.reference.supernet import ReferenceSupernet, as_pair
from torch import Tensor

from topocell.spaces import SpaceSpec


class Weights(NamedTuple):
    """Cell weights, ops (E, K) and edges (E,): readable as a pair and by attribute."""

    ops: Tensor
    edges: Tensor


class PerEdgeNet(Protocol):
    """What a supernet offers to be compared."""

    training: bool

    def __call__(self, x: Tensor, weights: Mapping[str, Any]) -> Tensor: ...

    def zero_grad(self, set_to_none: bool = True) -> None: ...

    def per_edge_state_dict(self) -> dict[str, Tensor]: ...

    def per_edge_grad_dict(self) -> dict[str, Tensor]:
        """Gradients after a backward pass, under the keys of `per_edge_state_dict`; a missing one is zero."""
        ...


def random_weights(
    space: SpaceSpec, seed: int = 0, dtype: torch.dtype = torch.float64, zero_share: float = 0.0
) -> dict[str, Weights]:
    """Cell weights of size 0.2..1.2, ops of either sign; a share of the entries of ops may be exactly 0.

    Entries of ops beyond an edge's own candidates are zero.
    """
    g = torch.Generator().manual_seed(seed)
    drawn = {}
    for kind, cell in sorted(space.cells.items()):
        shape = (cell.n_edges, cell.n_candidates)
        sign = torch.where(torch.rand(shape, generator=g) < 0.5, -1, 1)
        ops = sign * (0.2 + torch.rand(shape, generator=g))
        ops = ops * (torch.rand(shape, generator=g) >= zero_share)
        for e, names in enumerate(cell.candidates):
            ops[e, len(names) :] = 0
        edges = 0.2 + torch.rand(cell.n_edges, generator=g)
        drawn[kind] = Weights(ops.to(dtype), edges.to(dtype))
    return drawn


@contextmanager
def repeatable_noise() -> Iterator[None]:
    """`torch.randn_like` and `torch.randn` return numbers that depend on the sample, row and column only.

    The `noise` operation can then be compared, in whatever order or grouping of channels it is drawn.
    """

    def pattern(*shape: Any, **options: Any) -> Tensor:
        size = torch.Size(shape[0] if isinstance(shape[0], (tuple, list)) else shape)
        options.pop("generator", None)
        sample = torch.arange(size[0]).view(-1, *[1] * (len(size) - 1))
        row = torch.arange(size[-2]).view(-1, 1)
        column = torch.arange(size[-1])
        return torch.sin(1.0 + 37 * sample + 5 * row + 11 * column**2).expand(size).clone().to(**options)

    def pattern_like(x: Tensor, **_: Any) -> Tensor:
        return pattern(*x.shape, dtype=x.dtype, device=x.device)

    with mock.patch("torch.randn", pattern), mock.patch("torch.randn_like", pattern_like):
        yield


def assert_matches(
    engine_net: PerEdgeNet,
    reference_net: ReferenceSupernet,
    space: SpaceSpec,
    x: Tensor,
    ops_edges: Mapping[str, Any],
    atol: float,
    rtol: float,
    masks: Mapping[str, Tensor] | None = None,
) -> None:
    """Load the engine's weights into the reference and compare outputs and all first derivatives.

    The loss is `(logits * r).sum()` with random r. Compared are the logits, its gradients with respect to the
    cells' ops and edges, and those with respect to every parameter, by name. Each tensor must satisfy
    `max |engine − reference| <= atol + rtol · max |reference|`. Each net runs in its own dtype; the
    comparison is in the reference's, so a float32 engine can be held against a float64 reference.

    Args:
        engine_net: the net under test.
        reference_net: a reference of the same space, channels, layers, classes, head and partial.
        space: the space of both, against which the shapes of ops_edges are checked.
        x: images (N, in_channels, H, W) in the dtype of the engine.
        ops_edges: cell type → (ops (E, K), edges (E,)), or objects with these attributes.
        atol, rtol: tolerances, see above.
        masks: cell type → (E, K) bool, the candidates that the engine has not removed; default all.
            The reference multiplies by zero what is removed; an edge without a candidate goes as a whole.

    Raises:
        AssertionError: naming every tensor that differs, with the difference and what was allowed.
    """
    for kind, cell in space.cells.items():
        ops, edges = as_pair(ops_edges[kind])
        assert ops.shape == (cell.n_edges, cell.n_candidates), f"ops of {kind}: {tuple(ops.shape)}"
        assert edges.shape == (cell.n_edges,), f"edges of {kind}: {tuple(edges.shape)}"
    masks = masks or {}
    _load(reference_net, engine_net.per_edge_state_dict(), _removed_prefixes(reference_net, space, masks))
    reference_net.train(engine_net.training)
    names = dict(reference_net.named_parameters())

    reference = _derivatives(reference_net, x, ops_edges, reference_net.classifier.weight.dtype, masks)
    reference |= {f"gradient of {name}": _or_zero(p.grad, p) for name, p in names.items()}
    engine = _derivatives(engine_net, x, ops_edges, x.dtype, {})
    gradients = engine_net.per_edge_grad_dict()
    unknown = sorted(set(gradients) - set(names))
    assert not unknown, f"per_edge_grad_dict has keys that per_edge_state_dict has not: {unknown}"
    engine |= {f"gradient of {name}": _or_zero(gradients.get(name), p) for name, p in names.items()}

    faults = []
    for name, wanted in reference.items():
        got = engine[name].to(wanted.dtype)
        if got.shape != wanted.shape:
            faults.append(f"{name}: shape {tuple(got.shape)}, but the reference has {tuple(wanted.shape)}")
            continue
        difference = (got - wanted).abs().max().item()
        allowed = atol + rtol * wanted.abs().max().item()
        if not difference <= allowed:
            faults.append(f"{name}: differs by {difference:.3g}, allowed {allowed:.3g}")
    assert not faults, f"{len(faults)} of {len(reference)} tensors differ:\n" + "\n".join(faults)


def _removed_prefixes(net: ReferenceSupernet, space: SpaceSpec, masks: Mapping[str, Tensor]) -> tuple[str, ...]:
    """How the names of all parameters of removed candidates begin."""
    return tuple(
        f"cells.{c}.edges.{e}.{op}."
        for c, kind in enumerate(net.types)
        if kind in masks
        for e, names in enumerate(space.cells[kind].candidates)
        for k, op in enumerate(names)
        if not masks[kind][e, k]
    )


def _load(net: ReferenceSupernet, state: Mapping[str, Tensor], removed: tuple[str, ...]) -> None:
    """Load `state` strictly: it has every name of the net but those of removed candidates."""
    wanted = {name for name in net.state_dict() if not name.startswith(removed)}
    lacking, unknown = sorted(wanted - set(state)), sorted(set(state) - wanted)
    assert not (lacking or unknown), f"per_edge_state_dict lacks {lacking} and has unknown {unknown}"
    net.load_state_dict(state, strict=False)


def _or_zero(gradient: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if gradient is None else gradient.detach()


def _derivatives(
    net: PerEdgeNet | ReferenceSupernet,
    x: Tensor,
    ops_edges: Mapping[str, Any],
    dtype: torch.dtype,
    masks: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Logits and the gradients of the cell weights; those of the parameters are left on the net."""
    leaves, given = {}, {}
    for kind, weights in ops_edges.items():
        ops, edges = (w.detach().to(dtype, copy=True).requires_grad_() for w in as_pair(weights))
        leaves[kind] = given[kind] = Weights(ops, edges)
        if kind in masks:
            given[kind] = Weights(ops * masks[kind], edges * masks[kind].any(1))
    net.zero_grad()
    with repeatable_noise():
        logits = net(x.to(dtype), given)
    r = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (logits * r.to(logits)).sum().backward()
    found = {"logits": logits.detach()}
    for kind, (ops, edges) in leaves.items():
        found[f"gradient of ops of {kind}"] = _or_zero(ops.grad, ops)
        found[f"gradient of edges of {kind}"] = _or_zero(edges.grad, edges)
    return found

"""Contract suites for pieces of a user's own. A run checks the pieces that it names by them, too.

Each function takes a piece, or the name of a registered one, and raises `ContractError` with one line that says the
rule, what the piece did instead, and what to change. The pieces that come with topocell pass the same suites.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from topocell import registry
from topocell.config.search import SearchPlan
from topocell.data.augment import check_statistics
from topocell.data.batches import ImageSet
from topocell.data.readers import Decoding, Entry, Source, in_memory
from topocell.data.splits import load as load_dataset
from topocell.data.splits import search_data
from topocell.errors import nearest
from topocell.genotype.genotype import CellGenotype, Genotype
from topocell.nn.network import FixedNet
from topocell.nn.primitives import Primitive
from topocell.relaxation import Relaxation, candidate_mask
from topocell.runtime.as_found import as_found
from topocell.runtime.contracts import ContractError, demand, demand_gradient, named, of
from topocell.runtime.hooks import Keeping
from topocell.runtime.loss_contracts import gradient_of
from topocell.runtime.losses import Loss, with_options
from topocell.runtime.operation_contracts import check_at_stride
from topocell.searching.loop import Search
from topocell.searching.mechanisms import MECHANISMS, Mechanism
from topocell.selection.rules import Rules
from topocell.spaces import CellSpec, SpaceSpec, Stacking
from topocell.spaces import get as get_space
from topocell.spaces.skeletons import layout, least_layers, resolution_divisor, small_and_large, stacking
from topocell.supernet.arch_state import ArchState
from topocell.topology import Topology

__all__ = [
    "ContractError",
    "check_dataset",
    "check_loss",
    "check_mechanism",
    "check_operation",
    "check_relaxation",
    "check_rule",
    "check_skeleton",
    "check_space",
    "check_topology",
]


def _cell() -> CellSpec:
    return get_space("darts", nodes=2).cells["normal"]


def _without_one(live: Tensor) -> Tensor:
    """(E, K) bool: the live candidates but the first of the first edge that keeps another."""
    mask = live.clone()
    mask[torch.nonzero(mask.sum(1) > 1)[:1], 0] = False
    return mask


def _built(kind: str, given: Any, piece: Any, cell: CellSpec, options: dict[str, Any]) -> Any:
    """Build a piece for a cell, after the check of its options that a recipe gets."""
    name = given if isinstance(given, str) else piece.__name__
    return registry.build(kind, {name: piece}, name, cell, **options)


@as_found()
def check_relaxation(relaxation: "str | type[Relaxation]", cell: CellSpec | None = None, /, **options: Any) -> None:
    """Check a relaxation on a cell: shapes, range, masks, sums and gradients of its weights.

    Args:
        relaxation: the class, or its name.
        cell: default the DARTS cell with two nodes.
        options: of the relaxation.

    Raises:
        ContractError: it breaks a rule.
    """
    who, kind = named("relaxation", relaxation)
    cell = cell or _cell()
    shape = (cell.n_edges, cell.n_candidates)
    mask = _without_one(candidate_mask(cell))
    draws = torch.Generator().manual_seed(0)
    alpha = torch.randn(shape, generator=draws, dtype=torch.float64).requires_grad_()
    with of(who):
        piece: Relaxation = _built("relaxation", relaxation, kind, cell, options)
        for name, call in (("weights", piece.weights), ("expected", piece.expected)):
            torch.manual_seed(0)
            found = call(alpha, mask, 0.7)
            demand(isinstance(found, Tensor), who, f"{name} returns a tensor", type(found).__name__)
            demand(found.shape == shape, who, f"{name} has shape (E, K) = {shape}", tuple(found.shape))
            demand(bool(found.isfinite().all()), who, f"{name} is finite", found.flatten().tolist()[:8])
            demand(bool((found >= -1e-12).all()), who, f"{name} is 0 or more", float(found.min().detach()))
            gone = float(found[~mask].detach().abs().sum())
            demand(gone == 0, who, f"{name} is exactly 0 where the mask is False", gone)
            if piece.normalised and len(piece.parts(mask)) == 1:
                sums = found.sum(1).detach()
                demand(bool((sums - 1).abs().max() < 1e-6), who, f"{name} of each edge sums to 1", sums.tolist())
        torch.manual_seed(0)
        weights = piece.weights(alpha, mask, 0.7)
        if piece.learned and bool((mask.sum(1) > 1).any()):
            demand_gradient(who, weights, alpha, "alpha", draws)
        kept = piece.retained(piece.strengths(alpha, mask).detach(), mask)
        demand(bool((kept & ~mask).sum() == 0), who, "retained keeps live candidates only", kept.tolist())
        demand(bool(kept.any(1)[mask.any(1)].all()), who, "retained keeps a candidate of each edge", kept.tolist())


@as_found()
def check_topology(topology: "str | type[Topology]", cell: CellSpec | None = None, /, **options: Any) -> None:
    """Check a topology on a cell: shapes, range and gradients of its weights; that what it derives is a valid cell.

    Args:
        topology: the class, or its name.
        cell: default the DARTS cell with two nodes.
        options: of the topology.

    Raises:
        ContractError: it breaks a rule.
    """
    who, kind = named("topology", topology)
    cell = cell or _cell()
    draws = torch.Generator().manual_seed(0)
    with of(who):
        piece: Topology = _built("topology", topology, kind, cell, options)
        beta = torch.randn(piece.n_logits, generator=draws, dtype=torch.float64).requires_grad_()
        weights = piece.weights(beta, 0.7)
        demand(weights.shape == (cell.n_edges,), who, f"weights have shape (E,) = {(cell.n_edges,)}", weights.shape)
        demand(bool(weights.isfinite().all()), who, "weights are finite", weights.tolist())
        demand(bool((weights >= -1e-12).all()), who, "weights are 0 or more", weights.tolist())
        penalty = piece.penalty(beta)
        demand(penalty.dim() == 0 and bool(penalty.isfinite()), who, "penalty is a finite scalar", penalty)
        if piece.learned:
            demand_gradient(who, weights, beta, "beta", draws)
        for kept in (piece.decode(beta), piece.decode(beta), piece.random(draws)):
            demand(kept == sorted(set(kept)), who, "derived edges are sorted and listed once", kept)
            demand(all(0 <= e < cell.n_edges for e in kept), who, "derived edges are edges of the cell", kept)
            present = {*range(cell.inputs), *(cell.edges[e][1] for e in kept)}
            orphans = [cell.edges[e] for e in kept if cell.edges[e][0] not in present]
            demand(bool(kept) and not orphans, who, "derived edges leave nodes that have an input", orphans or kept)
        demand(piece.decode(beta) == piece.decode(beta), who, "equal logits give equal edges", "different ones")


@as_found()
def check_operation(operation: "str | Primitive", channels: int = 4, strides: tuple[int, ...] = (1, 2)) -> None:
    """Check an operation: sizes, gradients and, in the supernet, that its bank equals one module for each edge.

    It is computed in float64, or, where that fails because it holds tensors in float32, in float32.

    Args:
        operation: the row, or its name.
        channels: an even number.
        strides: those that it is used with.

    Raises:
        ContractError: it breaks a rule.
    """
    who, row = named("operation", operation)
    x = torch.randn(2, channels, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for stride in strides:
        try:
            check_at_stride(f"{who} at stride {stride}", row, x, stride)
        except ContractError as fault:
            if not isinstance(fault.__cause__, RuntimeError):
                raise
            check_at_stride(f"{who} at stride {stride}", row, x.float(), stride)


@as_found()
def check_space(space: "str | Callable[..., SpaceSpec]", /, **options: Any) -> None:
    """Check a space: that it is one, and that a supernet of it takes a step.

    Raises:
        ContractError: it breaks a rule.
    """
    from topocell.supernet import Supernet

    who, build = named("space", space)
    with of(who):
        spec = build(**options)
        demand(isinstance(spec, SpaceSpec), who, "a space is a function that returns a SpaceSpec", type(spec).__name__)
        net = Supernet(spec, channels=4, layers=small_and_large(stacking(spec.skeleton))[0], classes=2)
        arch = ArchState(spec)
        side = max(8, net.skeleton.divisor)
        out = net(torch.randn(2, 3, side, side), arch())
        out.sum().backward()
        demand(out.shape == (2, 2), who, "a supernet of it gives (N, classes)", tuple(out.shape))


@as_found()
def check_skeleton(skeleton: "str | Stacking") -> None:
    """Check a skeleton at a few sizes: slots in order, of its cell types, and that networks of them work.

    A supernet takes a step; a retraining gets logits, also of an auxiliary head where there are preprocess layers.

    Raises:
        ContractError: it breaks a rule.
    """
    who, stacked = named("skeleton", skeleton)
    with of(who):
        demand(isinstance(stacked, Stacking), who, "a skeleton is a topocell.spaces.Stacking", type(stacked).__name__)
        sizes = small_and_large(stacked)
        demand(bool(sizes), who, "it can have some number of layers", "SpaceError for each up to 100")
        for layers in sizes:
            slots = stacked.layout(4, layers)
            demand(bool(slots), who, "it has at least one cell", slots)
            order = [slot.index for slot in slots]
            demand(order == list(range(len(slots))), who, "its slots are numbered 0, 1, ...", order)
            types = {slot.cell_type for slot in slots}
            demand(types <= set(stacked.strides), who, f"its cells are of {', '.join(stacked.strides)}", sorted(types))
            demand(all(slot.channels >= 4 for slot in slots), who, "no cell has less than the initial channels", slots)
    if isinstance(skeleton, str):
        inputs, output = (2, "concat") if stacked.preprocess else (1, "last")
        options = {"skeleton": skeleton, "nodes": 2, "inputs": inputs, "output": output}
        check_space("custom", candidates=["skip_connect", "sep_conv_3x3"], **options)
        cell = CellGenotype(inputs, ((("skip_connect", 0), ("sep_conv_3x3", inputs - 1)),), (inputs,))
        genotype, heads = Genotype("custom", dict.fromkeys(stacked.strides, cell), {}, skeleton), 1 + stacked.preprocess
        with of(who), torch.device("meta"):
            for net in (FixedNet(genotype, 4, layers, 2, auxiliary=stacked.preprocess) for layers in sizes):
                found: Any = net(torch.randn(2, 3, max(8, net.divisor), max(8, net.divisor)))
                shapes = [tuple(out.shape) for out in (found if heads > 1 else [found])]
                demand(shapes == [(2, 2)] * heads, who, "each head of a retraining gives (N, classes)", shapes)


#: What a search calls.
_HOOKS = [name for name, of in vars(Mechanism).items() if callable(of) and not name.startswith("_")]


@as_found()
def check_mechanism(
    mechanism: "str | type[Mechanism]",
    stage: str | Mapping[str, Any] = "bilevel",
    space: SpaceSpec | None = None,
    channels: int = 4,
    /,
    **options: Any,
) -> None:
    """Check a mechanism in a search of two epochs on random images.

    Its records are JSON, and the search resumed from a state inside the first epoch ends with the same weights and
    logits.

    Args:
        mechanism: the class, or its name.
        stage: its level, or keys of the stage, such as `{"level": "bilevel", "topology": "edge-softmax"}`.
        space: default DARTS cells with one node.
        channels: of the supernet.
        options: of the mechanism.

    Raises:
        ContractError: it breaks a rule.
    """
    who, piece = named("mechanism", mechanism)
    if not isinstance(mechanism, str):  # a search finds it by a name
        name = f"{piece.__name__}-to-be-checked"
        MECHANISMS[name] = piece
        try:
            check_mechanism(name, stage, space, channels, **options)
        finally:
            del MECHANISMS[name]
        return
    kind = isinstance(piece, type) and issubclass(piece, Mechanism)
    demand(kind, who, "a mechanism is a class derived from topocell.searching.mechanisms.Mechanism", piece)
    for name in [name for own in piece.__mro__ if not issubclass(Mechanism, own) for name in vars(own)]:
        hook = name.startswith(("on_", "reason_")) or nearest(name, _HOOKS) != ""
        demand(not hook or name in _HOOKS, who, f"its hooks are {', '.join(_HOOKS)}", f"{name}{nearest(name, _HOOKS)}")
    space, rules = space or get_space("darts", nodes=1), Rules(edges="magnitude")
    layers = least_layers(space.skeleton, 0) or small_and_large(stacking(space.skeleton))[0]
    side = max(8, resolution_divisor(space.skeleton, layout(space.skeleton, channels, layers), "cifar"))
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (16, 1, side, side), dtype=torch.uint8, generator=draw)
    labels = torch.arange(16) % 2
    given = in_memory(("a", "b"), (images, labels), (images[:8], labels[:8]))
    data = search_data(load_dataset("digits", given=given), {"train": 0.5, "val": 0.5}, seed=0)
    keys = {"level": stage} if isinstance(stage, str) else stage
    sizes = {"channels": channels, "layers": layers, "batch_size": 4, "evaluation_batches": 1}
    stages = {"search": {**keys, "epochs": 2, "mechanisms": {mechanism: options}}}
    plan = SearchPlan.model_validate({**sizes, "stages": stages})
    with of(who):
        kept = Keeping()
        whole = Search(plan, space, data, rules=rules, monitor=kept).run()
        for key, value in kept.records[-1].items():
            try:
                json.dumps(value)
            except (TypeError, ValueError):
                demand(False, who, "what it adds to the record of an epoch can be written as JSON", f"{key}: {value}")
        reasons = [record["stopped"] for record in kept.records if "stopped" in record]
        demand(all(isinstance(r, str) for r in reasons), who, "reason_to_stop returns words or None", reasons)
        resumed = Search(plan, space, data, rules=rules).run(kept.states[0])
        for part in ("net", "arch"):
            first, second = (learner.parts[part].state_dict() for learner in (whole, resumed))
            same = all(torch.equal(first[name], second[name]) for name in first if isinstance(first[name], Tensor))
            rule = f"a search resumed from state_dict ends with the same {part}"
            demand(same, who, rule, "other values (on_epoch_start is called again where an epoch is resumed)")


@as_found()
def check_dataset(dataset: "str | Entry") -> None:
    """Check a dataset that needs no folder: labels, classes and pixels of its training and test images, mean and std.

    Raises:
        ContractError: it breaks a rule.
    """
    who, entry = named("dataset", dataset)
    with of(who):
        demand(isinstance(entry, Entry), who, "a dataset is a topocell.data.readers.Entry", type(entry).__name__)
        source = entry.read(None, False)
        demand(isinstance(source, Source), who, "its reader returns a Source, as in_memory makes it", source)
        n = [len(labels) for labels in (source.train_labels, source.test_labels)]
        demand(min(n) > 0, who, "a dataset has training and test images", n)
        train, test, _ = source.pixels(torch.arange(n[0]), torch.arange(n[1]), Decoding())
        for part, labels in ((train, source.train_labels), (test, source.test_labels)):
            ImageSet(part.images, labels, source.classes)
        if entry.statistics is not None:
            check_statistics(entry.statistics, train.images.shape[1])


@as_found()
def check_rule(rule: "str | Callable[..., Any]", kind: str = "edge rule", arch: ArchState | None = None) -> None:
    """Check a selection rule on cells: that it chooses candidates that it may, or edges that there are.

    Args:
        rule: `(arch, cell type, rules, allowed (E, K) bool)` → for each edge the index of a candidate or None
            (`operation rule`), or the kept edges and a note or None (`edge rule`); or its name.
        kind: `operation rule` or `edge rule`.
        arch: what it reads; default that of DARTS cells with two nodes, whose topology keeps all edges.

    Raises:
        ContractError: it breaks a rule.
    """
    who, choose = named(kind, rule)
    arch = arch or ArchState(get_space("darts", nodes=2), generator=torch.Generator().manual_seed(0))
    for name, cell in arch.space.cells.items():
        allowed = _without_one(arch.mask(name))
        with of(who):
            found = choose(arch, name, Rules(), allowed.clone())
            if kind == "operation rule":
                demand(len(found) == cell.n_edges, who, f"it chooses for each of {cell.n_edges} edges", len(found))
                wrong = [k for e, k in enumerate(found) if k is not None and not allowed[e, k]]
                demand(not wrong, who, "it chooses candidates that are allowed", found)
                continue
            pair = isinstance(found, tuple) and len(found) == 2
            demand(pair, who, "it returns the kept edges, and a note or None", found)
            edges, note = found
            demand(note is None or isinstance(note, str), who, "its note is None or a text", note)
            demand(bool(edges) and all(0 <= e < cell.n_edges for e in edges), who, "it keeps edges of the cell", edges)


@as_found()
def check_loss(
    loss: "str | Loss | type[nn.Module]",
    classes: int = 4,
    mixed: bool = True,
    device: torch.device | str = "cpu",
    /,
    **options: Any,
) -> None:
    """Check a loss on random logits: a finite mean, gradients, no draws and no state; the same of probabilities.

    Args:
        loss: `(logits (N, K), target)` → mean loss (0-dim), the target being labels (N,) int64, or probabilities
            (N, K); or a class of modules that do this, or its name.
        classes: K.
        mixed: whether it takes probabilities too, which it need not where no images are mixed.
        device: where it is computed.
        options: of the loss, and what a training gives it (`weight`, `label_smoothing`).

    Raises:
        ContractError: it breaks a rule.
    """
    who, piece = named("loss", loss)
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", "loss")
    function, draws = with_options(name, piece, options, device), torch.Generator().manual_seed(0)
    logits, labels = torch.randn(6, classes, generator=draws), torch.arange(6) % min(classes, 4)
    shares = torch.softmax(torch.randn(6, classes, generator=draws), 1).to(device)
    logits, labels = logits.to(device).requires_grad_(), labels.to(device)
    targets = [labels, nn.functional.one_hot(labels, classes).float(), shares] if mixed else [labels]
    gradients = []
    for target in targets:
        what = "labels (N,)" if target is labels else "probabilities (N, K)"
        gradients.append(gradient_of(function, logits, target, who, what).flatten())
    if mixed:  # up to a factor, since costs of classes may be divided out of the mean of labels
        alike = float(nn.functional.cosine_similarity(gradients[0], gradients[1], dim=0))
        demand(alike >= 1 - 1e-4, who, "labels and their probabilities have gradients of one direction", f"{alike:g}")

"""The supernet: a skeleton of `SuperCell`s, and the exchange of its weights with the per-edge layout."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from topocell.arguments import checked
from topocell.errors import CheckpointError, SpaceError, check_known, nearest
from topocell.nn.kernels.mode import KERNELS
from topocell.nn.modules import FactorizedReduce, ReLUConvBN
from topocell.nn.scheduled import Scheduled, current, is_held
from topocell.nn.skeleton import Context, Skeleton, States
from topocell.runtime.same_draws import SameDraws
from topocell.spaces.cell import SpaceSpec
from topocell.spaces.skeletons import Slot
from topocell.supernet.cell import Kept, SuperCell
from topocell.supernet.weights import ArchWeights, checked_masks, real_tensor


class _Piece(NamedTuple):
    """One weight of the per-edge layout: a parameter, or one slice of a stacked one."""

    parameter: nn.Parameter
    row: int | None

    def of(self, tensor: Tensor) -> Tensor:
        return tensor if self.row is None else tensor[self.row]


def _check_candidates(net: nn.Module, state: Mapping[str, Any], prefix: str, _: object, strict: bool, *__: Any) -> None:
    """Say what to do where the weights are of a supernet with other live candidates."""
    theirs = {name: len(value) for name, value in state.items() if ".banks." in name and name.startswith(prefix)}
    ours = {prefix + name: len(p) for name, p in net.named_parameters() if ".banks." in name}
    wrong = sorted(name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name])
    if strict:
        wrong += sorted(ours.keys() ^ theirs.keys())
    others = (prefix + name for name, _ in net.named_parameters() if ".banks." not in name)
    if (
        not wrong
        or not all(name in state for name in others)
        or _banks(theirs) - _banks(ours)
        or sum(theirs.values()) > sum(ours.values())
    ):
        return  # another network: PyTorch lists the names and the shapes
    name = wrong[0]
    raise CheckpointError(
        f"weights are loaded into a supernet with the same live candidates, but {name} has {theirs.get(name, 0)} "
        f"edges in the state and {ours.get(name, 0)} here; remove the same candidates first, as the state of their "
        f"ArchState has them: arch.load_state_dict(...); net.restrict({{t: arch.mask(t) for t in space.cells}})"
    )


def _banks(names: Iterable[str]) -> set[tuple[str, frozenset[str]]]:
    """Return for each bank in which cell it is, and what its parameters are called."""
    found: dict[str, set[str]] = {}
    for name in names:
        bank, _, parameter = name.rpartition(".")
        found.setdefault(bank, set()).add(parameter)
    return {(bank.partition(".banks.")[0], frozenset(parameters)) for bank, parameters in found.items()}


def _super_cell(placed: nn.Module) -> SuperCell | None:
    """The cell in its place, also inside what wraps either (checkpointing, compilation); None for another one."""
    cell = getattr(placed, "cell", None)
    if isinstance(cell, SuperCell):
        return cell
    return next((module for module in placed.modules() if isinstance(module, SuperCell)), None)


class Supernet(nn.Module):
    """All networks of a space at once, weighted by two tensors per cell type.

    Batch norm uses the statistics of the batch in training and in evaluation. Operations and preprocess layers
    have no affine batch norm; the stem, NAS-Bench-201's residual blocks and the `bn-relu` head have.

    Args:
        space: cell types and skeleton.
        channels: initial channels C (reduction doubles them).
        layers: number of cells (NAS-Bench-201: 3N + 2, counting its two residual blocks).
        classes: width of the output.
        in_channels: channels of the images.
        head: `"plain"`, or `"bn-relu"` (GDAS, DOTS: batch norm and ReLU before pooling).
        stem: `"cifar"`, or `"imagenet"` (images at an eighth of their size; as wide as the other, 3C, as PC-DARTS and
            DOTS search).
        partial: K of PC-DARTS: 1/K of the channels pass through the operations.
        memory: `"standard"`, or `"low"`: keep less for backward and compute it again there.
        kernels: `"auto"`, `"fused"` or `"plain"`: see `topocell.nn.kernels.mode`.

    Attributes:
        skip_dropout: probability with which an element of a skip connection's output is dropped in training
            (P-DARTS); 0 at first.
        drop_path: probability below 1 with which an edge is dropped for an image in training, with all that passes
            along it; what is kept is divided by 1 - drop_path (RobustDARTS, SNAS); 0 at first. Above 0 the compiled
            kernels step aside.
        masked: whether candidates that a one-hot sample leaves out are computed too and masked, so that nobody has to
            wait for the sample; where it is not, only what was drawn runs.

    Raises:
        SpaceError: if space, channels and layers do not fit together; `kernels` that there are not; a probability
            that is none.
        CheckpointError: in `load_state_dict`, weights of a supernet with other live candidates.
    """

    skip_dropout = Scheduled(kind="a probability")
    drop_path = Scheduled(kind="a probability below 1")
    masked = False

    @checked(SpaceError)
    def __init__(
        self,
        space: SpaceSpec,
        channels: int,
        layers: int,
        classes: int,
        in_channels: int = 3,
        *,
        head: str = "plain",
        stem: str = "cifar",
        partial: int = 1,
        memory: str = "standard",
        kernels: str = "auto",
    ) -> None:
        super().__init__()
        for name, value, known in (("kernels", kernels, KERNELS), ("memory", memory, ("standard", "low"))):
            if value not in known:
                raise SpaceError(f"{name} is one of {', '.join(known)}, but got {value!r}{nearest(value, known)}")
        self.space = space

        def make_cell(slot: Slot) -> SuperCell:
            return SuperCell(space.cells[slot.cell_type], slot.channels, partial=partial, low_memory=memory == "low")

        self.skeleton = Skeleton(
            skeleton=space.skeleton,
            make_cell=make_cell,
            inputs={name: cell.inputs for name, cell in space.cells.items()},
            channels=channels,
            layers=layers,
            classes=classes,
            in_channels=in_channels,
            stem_multiplier=space.stem_multiplier,
            stem=stem,
            affine=False,
            batch_statistics=True,
            head=head,
        )
        for module in self.modules():
            if isinstance(module, SuperCell | ReLUConvBN | FactorizedReduce):
                module.kernels = kernels
        self.register_load_state_dict_pre_hook(_check_candidates)

    @property
    def slots(self) -> list[Slot]:
        """The place of every cell, in order."""
        return self.skeleton.slots

    def forward(self, x: Tensor, weights: Mapping[str, ArchWeights]) -> Tensor:
        """Logits (N, classes) of images `x` (N, in_channels, H, W) under the weights of each cell type.

        Raises:
            SpaceError: a cell type without weights, or weights of another shape than its cell.
        """
        logits: Tensor = self.skeleton(self._prepared(x), self._seen(weights))
        return logits

    def prefix(self, x: Tensor, weights: Mapping[str, ArchWeights], cell_type: str) -> States:
        """Return the inputs of the first cell of a type: the outputs of the two cells before it, each (N, C, H, W)."""
        seen = self._seen(weights)
        s0, s1 = self.skeleton.begin(self._prepared(x))
        for index in range(self._first(cell_type)):
            s0, s1 = self.skeleton.advance(index, s0, s1, seen)
        return s0, s1

    def suffix(self, states: States, weights: Mapping[str, ArchWeights], cell_type: str) -> Tensor:
        """Logits (N, classes) from what `prefix` has left; together they are `forward`."""
        seen = self._seen(weights)
        s0, s1 = states
        for index in range(self._first(cell_type), len(self.skeleton.cells)):
            s0, s1 = self.skeleton.advance(index, s0, s1, seen)
        return self.skeleton.classify(s1)

    def _seen(self, weights: Mapping[str, ArchWeights]) -> Context:
        """The weights of each cell, whose shapes would otherwise be broadcast or cut in silence."""
        if not isinstance(weights, Mapping):
            raise SpaceError(
                f"a supernet takes the weights of each cell type, which an ArchState returns when it is called, "
                f"but got a {type(weights).__name__}; write net(images, arch())"
            )
        for name, cell in self.space.cells.items():
            if name not in weights:
                raise SpaceError(
                    f"every cell type needs weights, but {name} has none among {', '.join(weights)}; add it"
                )
            if not all(hasattr(weights[name], field) for field in ArchWeights._fields):
                raise SpaceError(
                    f"the weights of a cell type are an ArchWeights(ops, edges), but {name} has a "
                    f"{type(weights[name]).__name__}; make one of them"
                )
            for field, wanted in (("ops", (cell.n_edges, cell.n_candidates)), ("edges", (cell.n_edges,))):
                value = getattr(weights[name], field)
                if not isinstance(value, Tensor):
                    raise SpaceError(
                        f"{field} of {name} is a tensor, but got a {type(value).__name__}; write torch.as_tensor(...)"
                    )
                found = tuple(value.shape)
                if found != wanted:
                    step = "take the weights from an ArchState of the same space"
                    if getattr(self, "_is_replica", False):  # of nn.DataParallel
                        step = (
                            "DataParallel has cut the weights like images: call the ArchState in a module inside it, "
                            "or use DistributedDataParallel"
                        )
                    raise SpaceError(
                        f"{field} of {name} has the shape {wanted} of edges and candidates, but got {found}; {step}"
                    )
        return lambda slot: (weights[slot.cell_type],)

    def _first(self, cell_type: str) -> int:
        """Index of the first cell of a type; behind the last cell where the network has none."""
        check_known("cell type", cell_type, self.space.cells, SpaceError)
        there = self.slots[: len(self.skeleton.cells)]
        return next((slot.index for slot in there if slot.cell_type == cell_type), len(there))

    def _prepared(self, x: Tensor) -> Tensor:
        real_tensor(x)
        rates = (current(self, "skip_dropout"), current(self, "drop_path")) if is_held(self) else None
        for _, cell in self._cells():
            cell.skip_dropout, cell.drop_path = self.skip_dropout, self.drop_path
            cell.rates, cell.masked = rates, self.masked
        # Kernels are not used inside transforms, and vmap knows no such layout.
        if torch._C._are_functorch_transforms_active() or not hasattr(x, "unsqueeze") or x.dim() != 4:
            return x
        return x.contiguous(memory_format=torch.channels_last)

    def restrict(self, masks: Mapping[str, Tensor]) -> Kept:
        """Remove for good every candidate that is False in its cell type's mask (E, K); later steps cost less.

        The layout (E, K) of the weights stays. Returns each sliced parameter with the indices of its kept slices, for
        optimizer state (`topocell.selection.pruning.follow`); parameters that vanish are no longer in `parameters()`.

        Raises:
            SpaceError: a cell type that the space has not, or a mask that is no bool tensor of its cell's shape.
        """
        kept, known = Kept(), checked_masks(masks, self.space)
        for slot, cell in self._cells():
            if slot.cell_type in known:
                kept += cell.restrict(known[slot.cell_type])
        return kept

    def structure(self) -> tuple[Hashable, ...]:
        """Return what a recorded step depends on: type and live candidates (E·K) of all cells, and what is dropped."""
        cells = ((slot.cell_type, cell.live) for slot, cell in self._cells())
        return self.drop_path > 0, self.skip_dropout > 0, *cells

    def masks(self) -> dict[str, Tensor]:
        """(E, K) bool per cell type, on the CPU: the candidates that are live."""
        return {slot.cell_type: cell.mask for slot, cell in self._cells()}

    def per_edge_state_dict(self) -> dict[str, Tensor]:
        """The weights, one entry per edge, operation and part: `cells.{c}.edges.{e}.{op}.{part}.weight`.

        Besides: `cells.{c}.preprocess{0,1}.{conv|conv1|conv2}.weight`, `stem.conv.weight`, `stem.bn.*`,
        `classifier.*`, and for NAS-Bench-201 `blocks.{i}.*` and `head.bn.*`.
        """
        return {name: piece.of(piece.parameter.detach()).clone() for name, piece in self._pieces().items()}

    def per_edge_grad_dict(self) -> dict[str, Tensor]:
        """Gradients by the same names; weights without a gradient are absent."""
        return {
            name: piece.of(piece.parameter.grad).clone()
            for name, piece in self._pieces().items()
            if piece.parameter.grad is not None
        }

    def load_per_edge_state_dict(self, state: Mapping[str, Tensor], strict: bool = True) -> None:
        """Take weights by the names of `per_edge_state_dict`.

        Raises:
            CheckpointError: a missing or unexpected name (with `strict`), or a wrong shape.
        """
        pieces = self._pieces()
        missing, unexpected = pieces.keys() - state.keys(), state.keys() - pieces.keys()
        if strict and (missing or unexpected):
            wrong = sorted(missing or unexpected)
            kind = "lacks" if missing else "has the unexpected"
            raise CheckpointError(f"the state {kind} weight {wrong[0]!r} ({len(wrong)} in all)")
        targets = {name: piece.of(piece.parameter.detach()) for name, piece in pieces.items() if name in state}
        for name, target in targets.items():
            if target.shape != state[name].shape:
                raise CheckpointError(
                    f"weight {name!r} must have shape {tuple(target.shape)}, but got {tuple(state[name].shape)}"
                )
        for name, target in targets.items():
            target.copy_(state[name])

    def _cells(self) -> list[tuple[Slot, SuperCell]]:
        cells = map(_super_cell, self.skeleton.cells)
        return [(slot, cell) for slot, cell in zip(self.slots, cells) if cell is not None]

    def _pieces(self) -> dict[str, _Piece]:
        pieces: dict[str, _Piece] = {}
        for slot, cell in self._cells():
            for name, (parameter, row) in cell.pieces().items():
                pieces[f"cells.{slot.index}.{name}"] = _Piece(parameter, row)
        for name, parameter in self.skeleton.named_parameters():
            if ".cell." not in name:
                pieces[name] = _Piece(parameter, None)
        return pieces


class Branches(nn.Module):
    """A supernet under several weights that differ in one cell type: what lies before its first cell runs once.

    Where operations draw (noise, dropout), each branch draws what it would in a pass of its own.

    Args:
        net: the supernet; its weights are not copied.
    """

    def __init__(self, net: Supernet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, branches: Sequence[Mapping[str, ArchWeights]], cell_type: str) -> Tensor:
        """Logits (branches, N, classes) of images `x` (N, in_channels, H, W)."""
        states = self.net.prefix(x, branches[0], cell_type)
        logits, draws = [], SameDraws(x.device)
        for weights in branches:
            with draws:
                logits.append(self.net.suffix(states, weights, cell_type))
        return torch.stack(logits)

"""Forward and backward of everything that convolves, pools or normalises, on small maps, against float64.

    python -m tests.helpers.sweep --form short|full [--seed N] [--paths native narrow library]
    python -m tests.helpers.sweep --case '{"subject": "cell sep_conv_3x3", "channels": 5, ...}'

On few channels and few pixels the kernels of a library, and ours, take their rarest turns, and which kernels these are
depends on the instruction set; tests/unit/nn/test_sweep.py runs this program once for each set. A case is
printed before it runs, so that the last one printed is the one that broke the process.

Subjects come from the tables of the package, so a new primitive is swept by itself. Each is run in float32 and compared
with one module per edge and operation (tests/reference) or, where that has none, with itself in float64: outputs,
gradients of inputs, of weights of the architecture and of parameters, and running statistics. Float64 is the library's
plain code, in the default memory format; subjects of their own compare that with sums over the pixels of each window.

The full form takes every number of channels, stride and height, with one width and one memory format for each, shifted
by the seed: 18 consecutive seeds are the whole product. Whatever else a subject depends on is drawn. The short form is
a sample of that. Every batch norm sees at least `PIXELS` pixels of a channel: over fewer, rounding errors become
arbitrarily large.

Exit code 1 when something differs; the lines that say what begin with WRONG.
"""

import argparse
import copy
import json
import math
import os
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from tests.helpers.reference import supernet as reference
from tests.helpers.reference.compare import repeatable_noise
from tests.helpers.tables import SHARED
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from topocell.data.augment import Augmentation, augment
from topocell.nn.functional import BN_EPS
from topocell.nn.kernels import cpu
from topocell.nn.kernels.choice import LIBRARY, fastest
from topocell.nn.modules import FactorizedReduce, ReLUConvBN
from topocell.nn.network import AuxiliaryHead
from topocell.nn.primitives import PRIMITIVES, make
from topocell.nn.skeleton import CifarStem, ImageNetStem, ResidualBlock, Skeleton
from topocell.spaces import OPERATIONS, CellSpec
from topocell.studies._plain_networks import SMALL
from topocell.supernet import ArchWeights
from topocell.supernet.cell import SuperCell

CHANNELS, STRIDES, SIZES, THREADS = range(1, 21), (1, 2), range(1, 10), (1, 1, 1, 2)
FORMATS = {"nchw": torch.contiguous_format, "last": torch.channels_last}
#: Whose functions do the work: the package's compiled kernels with vectors of the first or of the second width that it
#: would choose among, or the library's.
PATHS = {"native": {"TOPOCELL_NATIVE": "1"}, "narrow": {}, "library": {"TOPOCELL_NATIVE": "0"}}
#: Cases of each subject in the short form.
SAMPLE = 10
#: Fewest pixels of a channel that a batch norm sees.
PIXELS = 16
#: Largest norm of the difference, as a share of the norm; one wrong number of a tensor is far more.
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-10}
#: A ReLU within this share of the size of its inputs flips by rounding alone, and moves a gradient by a whole pixel.
MARGIN = 1e-5

Outputs = Tensor | Sequence[Tensor]
BOTH = (False, True)


@dataclass(frozen=True)
class Case:
    """One forward and backward pass.

    Attributes:
        channels: of the maps that the operation itself sees.
        layout, towards: memory formats of the input and of the gradient of the output, keys of `FORMATS`.
        paths: a key of `PATHS`.
        threads: of torch and of the kernels, while the case is tested.
        options: what else the subject depends on.
    """

    subject: str
    channels: int
    stride: int
    height: int
    width: int
    images: int = PIXELS
    layout: str = "nchw"
    towards: str = "nchw"
    paths: str = "native"
    threads: int = 1
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return json.dumps(asdict(self))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the input."""
        return self.images, self.channels, self.height, self.width

    @property
    def even(self) -> bool:
        """Whether the map can be halved."""
        return self.height % 2 == self.width % 2 == 0


class Pair(NamedTuple):
    """A parameter, or one slice of it, beside its twin in float64."""

    name: str
    parameter: Tensor
    row: int | None
    exact: Tensor

    @property
    def gradient(self) -> Tensor | None:
        grad = self.parameter.grad
        return grad if grad is None or self.row is None else grad[self.row]


class Trial(NamedTuple):
    """What a case compares.

    Attributes:
        tested, exact: from inputs to outputs.
        inputs: name → shape, in order; those of four dimensions are maps.
        pairs: parameters.
        buffers: running statistics, by name, of both.
        dtype: of `tested`.
    """

    tested: Callable[..., Outputs]
    exact: Callable[..., Outputs]
    inputs: Mapping[str, tuple[int, ...]]
    pairs: Sequence[Pair] = ()
    buffers: Sequence[tuple[str, Tensor, Tensor]] = ()
    dtype: torch.dtype = torch.float32


def _smallest(stride: int, height: int, width: int) -> int:
    return math.ceil(height / stride) * math.ceil(width / stride)


def _apart(stride: int, height: int, width: int) -> int:
    """Windows of a pool that have no pixel in common: others may hold the same number."""
    return _smallest(3, height, width)


class Subject(NamedTuple):
    """What is swept.

    Attributes:
        trial: of a case.
        axes: options and the values that each may have.
        allows: whether the package has such a case at all.
        smallest: independent pixels of the smallest map that is normalised, from stride, height and width.
        strides: those that it may have.
    """

    trial: Callable[[Case], Trial]
    axes: Mapping[str, Sequence[Any]] = {}
    allows: Callable[[Case], bool] = lambda case: True
    smallest: Callable[[int, int, int], int] = _smallest
    strides: Sequence[int] = STRIDES


# --- subjects


def _modules(case: Case, tested: nn.Module, exact: nn.Module | None = None) -> Trial:
    """A module beside one with parts of the same names, or beside its copy; in training unless told otherwise."""
    tested.train(case.options.get("training", True))
    for name, tensor in [*tested.named_parameters(), *tested.named_buffers()]:
        if tensor.dim() == 1:  # batch norms: as if they had learnt something
            nn.init.normal_(tensor, std=0.2) if name.endswith(("bias", "mean")) else nn.init.uniform_(tensor, 0.5, 1.5)
    exact = copy.deepcopy(tested) if exact is None else exact
    for name, module in tested.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            exact.set_submodule(name, copy.deepcopy(module))
    exact.load_state_dict(tested.state_dict())
    exact = exact.double().train(tested.training)
    tested = tested.to(memory_format=FORMATS[case.layout])  # type: ignore[call-overload]
    pairs = [Pair(name, p, None, exact.get_parameter(name)) for name, p in tested.named_parameters()]
    running = [(n, b, exact.get_buffer(n)) for n, b in tested.named_buffers() if b.is_floating_point()]
    return Trial(tested, exact, {"x": case.shape}, pairs, running)


def _operation(name: str, case: Case) -> Trial:
    tested = make(name, case.channels, case.stride, case.options["affine"])
    return _modules(case, tested, reference.operation(name, case.channels, case.stride, pool_norm=False))


def _operation_exists(name: str, case: Case) -> bool:
    return name != "skip_connect" or case.stride == 1 or _halves(case, case.channels)


def _halves(case: Case, out_channels: int) -> bool:
    """Whether there is a FactorizedReduce: each of its convolutions makes a channel, of as many pixels as the other."""
    return case.even and out_channels > 1


def _bank(name: str, case: Case) -> Trial:
    edges, channels, build = case.options["edges"], case.channels, PRIMITIVES[name].bank_at(case.stride)
    assert build is not None
    bank = build(channels, case.stride, range(edges))
    alone = [reference.operation(name, channels, case.stride, pool_norm=True).double() for _ in range(edges)]
    pairs = [
        _piece(f"{edge}.{part}", *piece, alone[edge].get_parameter(f"{part}.weight"))
        for edge in range(edges)
        for part, piece in bank.pieces(edge).items()
    ]

    def tested(x: Tensor, ops: Tensor) -> Tensor:
        return bank(x, x.relu(), ops.repeat_interleave(channels))

    def exact(x: Tensor, ops: Tensor) -> Tensor:
        return torch.cat([weight * operation(x) for weight, operation in zip(ops, alone)], 1)

    return Trial(tested, exact, {"x": case.shape, "ops": (edges,)}, pairs)


def _piece(name: str, parameter: Tensor, row: int, exact: Tensor) -> Pair:
    exact.data.copy_(parameter.detach()[row])
    return Pair(name, parameter, row, exact)


def _map(name: str, case: Case) -> Trial:
    norm = case.options["norm"]
    exact = reference.operation(name, case.channels, case.stride, norm).double()
    return Trial(lambda x: SHARED[name](x, case.stride, norm), exact, {"x": case.shape})


def _cell(names: Sequence[str], case: Case) -> Trial:
    """All edges leave inputs, so that no inexact number decides which pixel is the largest of its window."""
    options, draw = case.options, random.Random(case.seed)
    inputs, partial_ = options["inputs"], options["partial"]
    edges = [(source, inputs + node) for node in range(options["nodes"]) for source in range(inputs)]
    candidates = [draw.sample(names, draw.randint(1, min(4, len(names)))) for _ in edges]
    spec = CellSpec(inputs, options["nodes"], edges, candidates, stride=case.stride, pool_norm=options["norm"])
    width = case.channels * partial_
    cell = SuperCell(spec, width, partial=partial_, low_memory=options["low_memory"])
    alone = reference.Cell(spec, width, partial_).double()
    pairs = [_piece(name, *piece, alone.get_parameter(name)) for name, piece in cell.pieces().items()]
    n, _, *size = case.shape
    maps = {f"x{i}": (n, width, *size) for i in range(inputs)}

    def tested(*given: Tensor) -> Tensor:
        return cell(list(given[:inputs]), ArchWeights(*given[inputs:]))

    def exact(*given: Tensor) -> Tensor:
        return alone(given[:inputs], *given[inputs:])

    weights = {"ops": (spec.n_edges, spec.n_candidates), "edges": (spec.n_edges,)}
    return Trial(tested, exact, {**maps, **weights}, pairs)


def _cell_exists(halves: bool, case: Case) -> bool:
    """A cell that reduces has an even number of channels; `halves`: one of its operations needs even sizes."""
    return case.stride == 1 or (
        case.channels % 2 == 0 and (case.even or not (halves or case.options.get("partial", 1) > 1))
    )


def _stem(stem: Callable[[int, int, bool], nn.Module], case: Case) -> Trial:
    tested = stem(case.options["images_channels"], case.channels, case.options["batch_statistics"])
    n, _, *size = case.shape
    return _modules(case, tested)._replace(inputs={"x": (n, case.options["images_channels"], *size)})


def _preprocess(layer: Callable[..., nn.Module], reference_layer: Callable[..., nn.Module], case: Case) -> Trial:
    size = case.channels, case.options["out_channels"]
    options = {"batch_statistics": case.options["batch_statistics"]}
    return _modules(case, layer(*size, case.options["affine"], **options), reference_layer(*size))


def _residual_block(case: Case) -> Trial:
    size = case.channels, case.options["out_channels"]
    return _modules(case, ResidualBlock(*size, case.options["batch_statistics"]), reference.ResidualBlock(*size))


def _auxiliary_head(case: Case) -> Trial:
    return _modules(case, AuxiliaryHead(case.channels, 3, case.options["last_norm"]))


def _plain_layer(kind: str, case: Case) -> Trial:
    return _modules(case, SMALL[kind](case.channels, case.options["out_channels"], case.stride))


class _Tail(nn.Module):
    """What comes after the last cell."""

    def __init__(self, channels: int, head: str, batch_statistics: bool) -> None:
        super().__init__()

        def nothing(slot: Any) -> nn.Module:
            cell = nn.Identity()
            cell.out_channels = channels  # type: ignore[assignment]
            return cell

        whole = Skeleton(
            skeleton="darts", make_cell=nothing, inputs={"reduce": 1}, channels=1, layers=1, classes=3, affine=True,
            batch_statistics=batch_statistics, head=head,
        )  # fmt: skip
        self.head, self.classifier = whole.head, whole.classifier

    forward = Skeleton.classify


def _tail(case: Case) -> Trial:
    return _modules(case, _Tail(case.channels, case.options["head"], case.options["batch_statistics"]))


def _data_path(case: Case) -> Trial:
    """Bytes have no gradient; the exact one is the library's, which is tested against torchvision elsewhere."""
    images = torch.randint(256, case.shape, dtype=torch.uint8).contiguous(memory_format=FORMATS[case.layout])
    plan = Augmentation(case.options["padding"], case.options["flip"], case.options["cutout"])
    scale = (0.4,) * case.channels, (0.2,) * case.channels

    def draw() -> Tensor:
        return augment(images, *scale, plan, torch.Generator().manual_seed(case.seed))

    def exact() -> Tensor:
        with work_by("library"):
            return draw().double()

    return Trial(draw, exact, {})


# --- what float64 rests on: the library's functions in float64 as sums and maxima over windows


def _windows(x: Tensor, kernel: tuple[int, int], stride: int, dilation: int, beyond: float) -> Tensor:
    """(k·k, N, C, h, w): for each place in the window the pixels of all windows; `beyond` the border."""
    down, across = (dilation * (k - 1) // 2 for k in kernel)
    padded = F.pad(x, (across, across, down, down), value=beyond)
    height, width = x.shape[2:]
    corners = [(dilation * i, dilation * j) for i in range(kernel[0]) for j in range(kernel[1])]
    return torch.stack([padded[:, :, i : i + height : stride, j : j + width : stride] for i, j in corners])


def _convolution(case: Case) -> Trial:
    kernel, dilation, groups = tuple(case.options["kernel"]), case.options["dilation"], case.options["groups"]
    apart = groups == "channels"
    out, into = (case.channels, 1) if apart else (case.options["out_channels"], case.channels)

    def exact(x: Tensor, weight: Tensor) -> Tensor:
        seen, taps = _windows(x, kernel, case.stride, dilation, 0.0), weight.flatten(2)
        return (
            torch.einsum("tnchw,ct->nchw", seen, taps[:, 0]) if apart else torch.einsum("tnchw,oct->nohw", seen, taps)
        )

    def tested(x: Tensor, weight: Tensor) -> Tensor:
        padding = tuple(dilation * (k - 1) // 2 for k in kernel)
        return F.conv2d(x, weight, None, case.stride, padding, dilation, case.channels if apart else 1)

    return Trial(tested, exact, {"x": case.shape, "weight": (out, into, *kernel)}, dtype=torch.float64)


def _max_pool(case: Case) -> Trial:
    return Trial(
        lambda x: F.max_pool2d(x, 3, case.stride, 1),
        lambda x: _windows(x, (3, 3), case.stride, 1, -math.inf).amax(0),
        {"x": case.shape},
        dtype=torch.float64,
    )


def _avg_pool(case: Case) -> Trial:
    def exact(x: Tensor) -> Tensor:
        total, count = (_windows(t, (3, 3), case.stride, 1, 0.0).sum(0) for t in (x, torch.ones_like(x)))
        return total / count

    def tested(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 3, case.stride, 1, count_include_pad=False)

    return Trial(tested, exact, {"x": case.shape}, dtype=torch.float64)


def _batch_norm(case: Case) -> Trial:
    def exact(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        centred = x - x.mean((0, 2, 3), keepdim=True)
        variance = centred.square().mean((0, 2, 3), keepdim=True)
        return centred / (variance + BN_EPS).sqrt() * weight[:, None, None] + bias[:, None, None]

    def tested(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, weight, bias, training=True, eps=BN_EPS)

    inputs = {"x": case.shape, "weight": (case.channels,), "bias": (case.channels,)}
    return Trial(tested, exact, inputs, dtype=torch.float64)


WIDTHS = {"out_channels": CHANNELS}
CELLS = {"inputs": (1, 2), "nodes": (1, 2, 3), "partial": (1, 1, 2, 4), "norm": BOTH, "low_memory": BOTH}
QUARTERS = {"kernel": [(1, 1), (3, 3), (5, 5), (7, 7), (1, 7), (7, 1)], "dilation": (1, 2), "groups": (1, "channels")}


def _subjects() -> Iterator[tuple[str, Subject]]:
    for name in OPERATIONS:  # one with a skip connection around it is a sum of two of these
        axes = {"affine": BOTH, "training": (True, True, False)}
        yield f"operation {name}", Subject(partial(_operation, name), axes, partial(_operation_exists, name))
    for name in OPERATIONS:
        strides = [stride for stride in STRIDES if PRIMITIVES[name].bank_at(stride) is not None]
        if strides:
            allows = partial(_cell_exists, True) if name == "skip_connect" else lambda case: True
            yield f"bank {name}", Subject(partial(_bank, name), {"edges": (1, 2, 3)}, allows, strides=strides)
    for name in SHARED:
        strides = [stride for stride in STRIDES if PRIMITIVES[name].bank_at(stride) is None]
        yield f"map {name}", Subject(partial(_map, name), {"norm": BOTH}, smallest=_apart, strides=strides)
    for name in OPERATIONS:
        smallest, exists = _apart if name in SHARED else _smallest, partial(_cell_exists, name == "skip_connect")
        yield f"cell {name}", Subject(partial(_cell, [name]), CELLS, exists, smallest)
    yield "cell of several", Subject(partial(_cell, OPERATIONS), CELLS, partial(_cell_exists, True), _apart)
    stems = {"images_channels": (1, 2, 3, 4, 5), "batch_statistics": BOTH, "training": BOTH}
    yield "stem cifar", Subject(partial(_stem, CifarStem), stems, strides=(1,))
    eighth = partial(_smallest, 8)
    yield (
        "stem imagenet",
        Subject(
            partial(_stem, ImageNetStem), stems, lambda case: case.channels > 1, lambda _, *size: eighth(*size), (1,)
        ),
    )
    layers = {**WIDTHS, "affine": BOTH, "batch_statistics": BOTH, "training": BOTH}
    plain = partial(reference.ReluConvBn, kernel=1, stride=1)
    yield "preprocess", Subject(partial(_preprocess, ReLUConvBN, plain), layers, strides=(1,))
    halving = partial(_preprocess, FactorizedReduce, reference.FactorizedReduce)
    yield (
        "preprocess that halves",
        Subject(halving, layers, lambda case: _halves(case, case.options["out_channels"]), strides=(2,)),
    )
    blocks = {**WIDTHS, "batch_statistics": BOTH, "training": BOTH}
    yield "residual block", Subject(_residual_block, blocks, lambda case: case.even, strides=(2,))
    yield (
        "auxiliary head",
        Subject(_auxiliary_head, {"last_norm": BOTH, "training": (True,)}, smallest=lambda *_: 1, strides=(1,)),
    )
    for kind in SMALL:
        yield f"plain layer {kind}", Subject(partial(_plain_layer, kind), {**WIDTHS, "training": BOTH})
    tails = {"head": ("plain", "bn-relu"), "batch_statistics": BOTH, "training": BOTH}
    yield "tail", Subject(_tail, tails, strides=(1,))
    draws = {"padding": (0, 1, 4), "flip": BOTH, "cutout": (0, 1, 2, 5)}
    yield "data path", Subject(_data_path, draws, lambda case: any(case.options.values()), strides=(1,))
    yield "float64 convolution", Subject(_convolution, {**WIDTHS, **QUARTERS})
    yield "float64 max pool", Subject(_max_pool)
    yield "float64 average pool", Subject(_avg_pool)
    yield "float64 batch norm", Subject(_batch_norm, strides=(1,))


#: Name → what is swept.
SUBJECTS: dict[str, Subject] = dict(_subjects())


def cases(
    form: str, seed: int = 0, paths: Sequence[str] = tuple(PATHS), sample: int = SAMPLE, only: str = ""
) -> list[Case]:
    """The cases of a form, in a fixed order, of the subjects whose names begin with `only`.

    The short form has at most `sample` of each.
    """
    found = []
    for name, subject in SUBJECTS.items():
        if not name.startswith(only):
            continue
        draw = random.Random(f"{seed} {name}")
        points = [(c, s, h) for c in CHANNELS for s in subject.strides for h in SIZES]
        if form == "short":
            draw.shuffle(points)
        mine: list[Case] = []
        for channels, stride, height in points:
            shift = channels + height + seed
            width = SIZES[(shift + 4 * stride) % len(SIZES)]
            least = math.ceil(PIXELS / subject.smallest(stride, height, width))
            case = Case(
                name,
                channels,
                stride,
                height,
                width,
                images=max(least, draw.randint(1, 3)),
                layout=list(FORMATS)[shift % 2],
                towards=draw.choice(list(FORMATS)),
                paths=draw.choice(paths),
                threads=draw.choice(THREADS),
                seed=draw.randrange(10**6),
                options={axis: draw.choice(values) for axis, values in subject.axes.items()},
            )
            if subject.allows(case) and (form == "full" or len(mine) < sample):
                mine.append(case)
        assert mine, f"no case of {name}"
        found += mine
    return found


# --- running them


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Inside, these environment variables are set."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextmanager
def replaced(old: Callable[..., Any], new: Callable[..., Any]) -> Iterator[None]:
    """Inside, the package calls `new` in place of its function `old`."""
    modules = [module for key, module in sys.modules.items() if key.startswith("topocell.")]
    users = [module for module in modules if getattr(module, old.__name__, None) is old]
    for module in users:
        setattr(module, old.__name__, new)
    try:
        yield
    finally:
        for module in users:
            setattr(module, old.__name__, old)


def _second(_: str, ways: Mapping[str, object]) -> str:
    """The second way to run kernels, where there are two."""
    return next((name for name in list(ways)[1:] if name != LIBRARY), next(iter(ways)))


@contextmanager
def work_by(paths: str) -> Iterator[None]:
    """Inside, a key of `PATHS` says whose functions do the work."""
    with environment(PATHS[paths]), replaced(fastest, _second) if paths == "narrow" else nullcontext():
        yield


class Counted:
    """Asks `kernels` for compiled kernels, and counts how often there were some."""

    def __init__(self, kernels: Callable[..., Any]) -> None:
        self.kernels, self.count = kernels, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        found = self.kernels(*args, **kwargs)
        self.count += found is not None
        return found


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Inside, torch has so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Knife(TorchFunctionMode):
    """Notes whether a ReLU has had an input, computed in float64, whose sign rounding to float32 may change."""

    def __init__(self) -> None:
        super().__init__()
        self.on_edge = False

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("relu", "relu_"):
            z = args[0].detach()
            if not torch.equal(z.float().double(), z):  # else it comes from outside
                self.on_edge |= float(z.abs().min()) < MARGIN * float(z.square().mean().sqrt())
        return func(*args, **(kwargs or {}))


def _listed(outputs: Outputs) -> list[Tensor]:
    return [outputs] if isinstance(outputs, Tensor) else list(outputs)


def _laid_out(tensor: Tensor, name: str) -> Tensor:
    """Maps in the memory format of that name; anything else as it is."""
    return tensor.contiguous(memory_format=FORMATS[name]) if tensor.dim() == 4 else tensor


def _size(tensors: Iterable[Tensor | None]) -> float:
    """The norm of all of them together."""
    return math.hypot(*(float(t.detach().norm()) for t in tensors if t is not None))


def _backward(outputs: Sequence[Tensor], towards: Sequence[Tensor]) -> None:
    loss = sum(((out * t.to(out.dtype)).sum() for out, t in zip(outputs, towards)), torch.zeros(()))
    if loss.requires_grad:
        loss.backward()


class Comparison:
    """What differs, in words, by norms; `largest` is the largest difference as a share of what is allowed."""

    def __init__(self, tolerance: float) -> None:
        self.tolerance, self.faults, self.largest = tolerance, list[str](), 0.0

    def add(self, name: str, found: Tensor | None, exact: Tensor | None, scale: float = 0.0) -> None:
        """Compare two tensors, None being zeros, by the size of the exact one, or by `scale` where that is larger."""
        like = exact if found is None else found
        if like is None:
            return
        found, exact = (torch.zeros_like(like) if t is None else t.detach() for t in (found, exact))
        if found.shape != exact.shape:
            self.faults.append(f"{name} has the shape {tuple(found.shape)}, not {tuple(exact.shape)}")
            return
        size = max(_size([exact.double()]), scale)
        difference = _size([found.double() - exact])
        if difference:
            self.largest = max(self.largest, difference / (self.tolerance * size) if size else math.inf)
        if not difference <= self.tolerance * size:
            self.faults.append(f"{name} differs by {difference:.3g} where it has size {size:.3g}")


def _attempt(case: Case, number: int) -> Comparison | None:
    """None where a ReLU is on edge with these random numbers."""
    torch.manual_seed(case.seed + number)
    trial = SUBJECTS[case.subject].trial(case)
    drawn = {name: torch.randn(shape, dtype=trial.dtype) for name, shape in trial.inputs.items()}
    exact = {name: value.to(torch.float64, copy=True).requires_grad_() for name, value in drawn.items()}
    with work_by("library"), repeatable_noise(), _Knife() as knife:
        wanted = _listed(trial.exact(*exact.values()))
    if knife.on_edge:
        return None
    towards = [_laid_out(torch.randn(out.shape, dtype=trial.dtype), case.towards) for out in wanted]
    _backward(wanted, towards)

    inputs = {name: _laid_out(value, case.layout).requires_grad_() for name, value in drawn.items()}
    given = [*inputs.values(), *towards, *(pair.parameter for pair in trial.pairs)]
    before = [tensor.detach().clone() for tensor in given]
    with work_by(case.paths), repeatable_noise(), threads(case.threads):
        found = _listed(trial.tested(*inputs.values()))
        _backward(found, towards)
    compared = Comparison(TOLERANCE[trial.dtype])
    for tensor, copy_ in zip(given, before):
        compared.add("what was given to it", tensor, copy_)
    for i, (mine, theirs) in enumerate(zip(found, wanted, strict=True)):
        compared.add(f"output {i}", mine, theirs)
    maps = [name for name, value in inputs.items() if value.dim() == 4]
    for name in maps:
        compared.add(f"gradient of {name}", inputs[name].grad, exact[name].grad)
    # Before a batch norm the gradient of a weight may vanish: what it sums up has this size, divided by the weight's.
    flow = _size(exact[name] for name in maps) * _size(exact[name].grad for name in maps)
    for name in inputs.keys() - set(maps):
        compared.add(f"gradient of {name}", inputs[name].grad, exact[name].grad, flow / _size([exact[name]]))
    for pair in trial.pairs:
        compared.add(f"gradient of {pair.name}", pair.gradient, pair.exact.grad, flow / _size([pair.exact]))
    for name, mine, theirs in trial.buffers:
        compared.add(name, mine, theirs)
    return compared


def compare(case: Case) -> Comparison:
    """Run a case both ways, with the first random numbers that leave no ReLU on edge."""
    for number in range(100):
        if (compared := _attempt(case, number)) is not None:
            return compared
    raise AssertionError(f"a ReLU is on edge whatever is drawn: {case}")


def main(argv: Sequence[str] | None = None) -> int:
    """Sweep; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.helpers.sweep", description=__doc__.splitlines()[0])
    parser.add_argument("--form", choices=("short", "full"), default="short")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--paths", nargs="+", choices=PATHS, default=list(PATHS))
    parser.add_argument("--sample", type=int, default=SAMPLE, help="cases of each subject in the short form")
    parser.add_argument("--only", default="", help="subjects whose names begin so")
    parser.add_argument("--case", help="this one alone, as it was printed")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    if args.case:
        chosen = [Case(**json.loads(args.case))]
    else:
        chosen = cases(args.form, args.seed, args.paths, args.sample, args.only)
    compiled, wrong, largest = 0, 0, (0.0, "")
    kernels = Counted(cpu.kernels)
    with replaced(cpu.kernels, kernels):
        for case in chosen:
            print(case, flush=True)
            before, compared = kernels.count, compare(case)
            compiled += kernels.count > before
            wrong += bool(compared.faults)
            for fault in compared.faults:
                print(f"WRONG: {fault}", flush=True)
            largest = max(largest, (compared.largest, str(case)))
    print(f"{len(chosen)} cases, {compiled} of them by compiled kernels, {wrong} wrong")
    print(f"largest difference: {largest[0]:.2g} of what is allowed, {largest[1]}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())

"""What has to be right on a GPU before its figures count: each check says what was compared, and what was found.

They run on a CPU too, where steps are recorded by a stand-in (`tests.helpers.tape`).
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tests.helpers.golden_genotypes import DARTS_V2
from tests.helpers.identical import flat
from tests.helpers.reference.compare import assert_matches
from tests.helpers.reference.supernet import ReferenceSupernet
from tests.helpers.stages import CHANGING, STAGES, started
from tests.helpers.tape import Recorded, Tape, Unrecordable

from benchmarks.data_path import random_images
from topocell import api, spaces
from topocell.config.load import load_recipe, recipe_names
from topocell.config.retrain import RetrainPlan
from topocell.data.augment import Augmentation
from topocell.data.splits import CIFAR10_STATISTICS, Dataset, SearchData
from topocell.io import files
from topocell.networks.retraining import Retraining
from topocell.runtime.hooks import Keeping, Silent, Trained
from topocell.runtime.precision import Execution
from topocell.spaces.cell import SpaceSpec
from topocell.supernet import Supernet


class Found(NamedTuple):
    """What was looked at, whether it is as it should be, and in words what was found."""

    what: str
    fine: bool
    found: str


EQUAL = "equal, bit by bit"
#: Precision → how far ours may be from a float64 reference, relative to the largest value of each tensor.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3}
#: The spaces in which ours is compared with one module per edge and operation.
SPACES: dict[str, Callable[[], SpaceSpec]] = {
    "darts": lambda: spaces.get("darts", nodes=3),
    "s2": lambda: spaces.get("s2"),
    "nasbench201": lambda: spaces.get("nasbench201"),
}


def engine(device: torch.device) -> list[Found]:
    """Compare outputs and all gradients with one module per edge and operation in float64."""
    Execution().set_up()
    found = []
    for name, build in SPACES.items():
        for dtype, tolerance in TOLERANCE.items():
            said = difference(build(), device, dtype, tolerance)
            what = f"{name}, {str(dtype).removeprefix('torch.')}, within {tolerance:g}"
            found.append(Found(what, said == "equal", said))
    return found


def difference(space: SpaceSpec, device: torch.device, dtype: torch.dtype, tolerance: float) -> str:
    """`equal`, or the first line of what differs."""
    layers = 5 if space.skeleton == "nasbench201" else 3
    torch.manual_seed(0)
    net = Supernet(space, 4, layers, 3).to(device, dtype)
    reference = ReferenceSupernet(space, 4, layers, 3).double().to(device)
    weights = {
        kind: (torch.rand(cell.n_edges, cell.n_candidates), torch.rand(cell.n_edges))
        for kind, cell in space.cells.items()
    }
    moved = {kind: tuple(w.to(device, dtype) for w in pair) for kind, pair in weights.items()}
    try:
        assert_matches(net, reference, space, torch.rand(4, 3, 8, 8).to(device, dtype), moved, tolerance, tolerance)
    except AssertionError as fault:
        return str(fault).splitlines()[0]
    return "equal"


def executions(device: torch.device) -> tuple[Execution, Execution]:
    """Steps that are recorded, and the same steps called; on a CPU by a stand-in, without its own kernels."""
    if device.type == "cuda":
        return Execution(), Execution(capture="off")
    os.environ["TOPOCELL_NATIVE"] = "0"
    return Recorded(given=Tape()), Recorded(given=Unrecordable())


def captured(device: torch.device, only: str | None = None) -> list[Found]:
    """Compare searches of all methods, and a retraining, by recorded steps with those by called ones, bit by bit.

    Where they differ, called steps are compared with themselves: a kernel whose sums come in any order is no fault of
    the recording.
    """
    Execution().set_up()
    stages = {name: stage for name, stage in (STAGES | CHANGING).items() if only in (None, name)}
    found = [_compared(name, lambda how, s=stage: _searched(s, device, how), device) for name, stage in stages.items()]  # type: ignore[misc]
    if only in (None, "retraining"):
        found.append(_compared("retraining", lambda how: _retrained(device, how), device))
    return found


def _compared(name: str, run: Callable[[Execution], Any], device: torch.device) -> Found:
    recorded, called = executions(device)
    first, second = run(recorded), run(called)
    if not (words := different(first, second)):
        return Found(name, True, EQUAL)
    if different(run(called), second):
        return Found(name, False, f"called steps differ among themselves: {words}")
    return Found(name, False, f"recorded steps differ from called ones: {words}")


def different(first: Any, second: Any) -> str:
    """The names of what is not bit by bit the same in two states; empty where all is."""
    one, other = flat(first), flat(second)
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    return f"{', '.join(names[:3])} and {len(names)} in all" if names else ""


def _search_data() -> SearchData:
    """80 images of noise in two halves."""
    images, (mean, std) = random_images(80, 8), CIFAR10_STATISTICS
    halves = {"train": torch.arange(40), "val": torch.arange(40, 80)}
    parts = {name: images.subset(order) for name, order in halves.items()}
    return SearchData(parts, halves, mean, std, Augmentation(padding=1), images.classes, (3, 8, 8), "noise")


def _searched(stage: Mapping[str, Any], device: torch.device, execution: Execution) -> Any:
    search = started(stage, _search_data(), execution, device=device)
    search.run()
    return search.state_dict()


def _retrained(
    device: torch.device, execution: Execution, state: Any = None, monitor: Any = None, **options: Any
) -> Any:
    sizes: dict[str, Any] = {"channels": 4, "layers": 2, "epochs": 2, "batch_size": 20}
    plan = RetrainPlan(**sizes, cutout=4, drop_path=0.5, test_every=2, **options)
    (mean, std), images = CIFAR10_STATISTICS, random_images(80, 8)
    data = Dataset("noise", images, random_images(20, 8), mean, std, Augmentation(padding=1), "", ())
    training = Retraining(DARTS_V2, plan, data, device=device, execution=execution, monitor=monitor)
    return training.run(state), training.state_dict()


def at_once(device: torch.device) -> list[Found]:
    """Compare three seeds that are trained at once with the same three one after the other, to 1 % of each weight."""
    Execution().set_up()
    ends = []
    for number in (1, 3):
        monitor = Handed()
        _retrained(device, executions(device)[0], monitor=monitor, seeds=(0, 1, 2), together=number)
        ends.append(monitor.weights)
    pairs = [(one, other[name]) for other, own in zip(*ends, strict=True) for name, one in own.items()]
    worst = max(float((a.double() - b).abs().max() / b.double().abs().max().clamp(min=1e-3)) for a, b in pairs)
    return [Found("seeds", worst < 0.01, f"differ by {worst:.2g} of the largest")]


class Handed(Silent):
    """Keeps the weights of the networks that a retraining hands over."""

    def __init__(self) -> None:
        self.weights: list[dict[str, torch.Tensor]] = []

    def trained(self, network: Trained) -> None:
        """Keep the weights."""
        self.weights.append(network.weights)


def resumed(device: torch.device) -> list[Found]:
    """Compare a search and a retraining that resume in the middle with those that were not stopped."""
    found = []
    stage = dict(CHANGING["darts"])
    monitor = Keeping()
    whole = started(stage, _search_data(), executions(device)[0], device=device, monitor=monitor)
    whole.run()
    again = started(stage, _search_data(), executions(device)[0], device=device)
    again.run(monitor.states[len(monitor.states) // 2])
    found.append(_same("search", whole.state_dict(), again.state_dict()))
    monitor = Keeping()
    expected = _retrained(device, executions(device)[0], monitor=monitor)
    found.append(_same("retraining", expected, _retrained(device, executions(device)[0], monitor.states[3])))
    return found


def _same(what: str, first: Any, second: Any) -> Found:
    words = different(first, second)
    return Found(what, not words, words or EQUAL)


def recipes() -> list[str]:
    """All recipes that the package has."""
    return list(recipe_names())


def smoke(name: str, device: torch.device, folder: Path) -> list[Found]:
    """Take a recipe from search to report, in smoke mode."""
    api.run(load_recipe(name, [f"device={device}"], "smoke"), folder / name)
    results = files.from_json((folder / name / "results.json").read_bytes())
    return [Found(name, True, f"test accuracy {100 * results['last_mean']:.1f} % (no result: smoke)")]

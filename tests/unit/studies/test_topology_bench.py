"""The table of our own: a cell is trained as a plain loop trains it, and cells at once end as each does alone."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.helpers.identical import assert_identical
from tests.helpers.studies import items_of
from tests.helpers.tape import Tape, Unrecordable
from torch import Tensor, nn

from topocell import studies
from topocell.config.load import load_recipe, resolved
from topocell.config.search import WeightOptimizer
from topocell.data.augment import Augmentation
from topocell.data.batches import Batches, ImageSet
from topocell.data.topology_bench import TopologyBench, different_cells
from topocell.errors import RecipeError, RunError
from topocell.genotype.genotype import Genotype
from topocell.networks.evaluation import evaluate, evaluate_each
from topocell.nn.network import FixedNet
from topocell.nn.scheduled import hold
from topocell.nn.together import TogetherNet
from topocell.reporting.terminal import Quiet
from topocell.runs.setup import Setup
from topocell.runtime.rng import derive
from topocell.studies import topology_bench
from topocell.studies._items import Bench
from topocell.studies._loops import PlainTraining
from topocell.studies.topology_bench import trained_cell, trained_cells

CPU = torch.device("cpu")
#: Sizes at which a network learns something in a few steps.
CHANGES = ["data.images=300", "data.test_images=200", "retrain.epochs=4", "retrain.channels=4", "retrain.layers=2"]
WORDS = ["budget=smoke", *CHANGES, "retrain.batch_size=15"]
SHOWN = ["budget=smoke", "data.images=24", "data.test_images=10"]
OPTIONS = {"lr": {"shape": "cosine", "start": 0.1, "end": 0.0}, "nesterov": True, "clip": 0.5}


def chosen(number: int) -> list[Genotype]:
    """Different cells at random, of which the first has no convolutions."""
    known = list(different_cells().values())
    plain = next(cell for cell in known if "sep_conv_3x3" not in cell.operations("normal"))
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(number)).tolist()
    return [plain, *(known[at] for at in order[: number - 1])]


class Doubled(Batches):
    """Batches in float64."""

    def batch(self, epoch: int, step: int) -> tuple[Tensor, Tensor]:
        x, y = super().batch(epoch, step)
        return x.double(), y

    def eval_batches(self, limit: int | None = None, shared: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        return ((x.double(), y) for x, y in super().eval_batches(limit, shared))


def batches(seed: int, size: int = 20, augmentation: Augmentation | None = None) -> Batches:
    draws = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (60, 3, 8, 8), generator=draws, dtype=torch.uint8)
    data = ImageSet(images, torch.arange(60) % 4, ("a", "b", "c", "d"))
    how: Any = {"mean": (0.5,) * 3, "std": (0.3,) * 3, "augmentation": augmentation}
    return Doubled(data, size, **how, device=CPU, seed=seed, stream="train")


def networks(cells: Sequence[Genotype], held: bool = False) -> list[nn.Module]:
    found: list[nn.Module] = []
    for number, cell in enumerate(cells):
        torch.manual_seed(number)
        net = FixedNet(cell, 4, 2, 4).double().to(memory_format=torch.channels_last)
        if held:
            hold(net, CPU)
        found.append(net)
    return found


def trained(nets: list[nn.Module], recorder: Any = None, **options: Any) -> PlainTraining:
    plan = WeightOptimizer.model_validate(OPTIONS | options)
    training = PlainTraining(nets, batches(0, augmentation=Augmentation(padding=1)), plan, 3, 7, CPU, recorder)
    training.run()
    return training


@pytest.mark.parametrize("options", [{}, {"optimizer": "adamw", "nesterov": False, "lr": 0.01}])
def test_cells_at_once_end_as_each_does_alone(options: dict[str, Any]) -> None:
    """In float64, after nine steps."""
    cells = chosen(5)
    alone, at_once = networks(cells), networks(cells)
    one_by_one = [trained([net], **options) for net in alone]
    together = trained(at_once, **options)
    for found, expected, before in zip(at_once, alone, networks(cells), strict=True):
        assert not torch.equal(next(found.parameters()), next(before.parameters()))
        # Layers that lead into a cell which does not read them have no gradient alone, and decay beside others.
        unread = {name.rpartition(".")[0] for name, p in expected.named_parameters() if p.grad is None}
        assert all("preprocess" in name for name in unread)
        for (name, value), wanted in zip(found.state_dict().items(), expected.state_dict().values(), strict=True):
            if name.rpartition(".")[0] not in unread:
                torch.testing.assert_close(value, wanted, rtol=0, atol=1e-10, msg=name)
    measured = together.evaluated(batches(3, 25))
    for number, training in enumerate(one_by_one):
        (wanted,) = training.evaluated(batches(3, 25))
        assert measured[number].accuracy == wanted.accuracy
        assert measured[number].loss == pytest.approx(wanted.loss, abs=1e-10)
        assert wanted == evaluate(alone[number], batches(3, 25))  # type: ignore[arg-type]
    assert len({found.loss for found in measured}) == 5


def test_gradients_are_clipped_network_by_network() -> None:
    """A network whose gradients are huge leaves the steps of its neighbours alone."""
    first = chosen(2)
    calm, wild = networks(first), networks(first)
    with torch.no_grad():
        wild[1].get_parameter("classifier.weight").mul_(1e3)
    trained(calm), trained(wild)
    assert any(not torch.equal(*pair) for pair in zip(calm[1].parameters(), wild[1].parameters(), strict=True))
    for found, wanted in zip(wild[0].parameters(), calm[0].parameters(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_recorded_steps_are_the_called_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOPOCELL_NATIVE", "0")
    tape, ends = Tape(), []
    for recorder in (tape, Unrecordable(), None):
        nets = networks(chosen(3), held=True)
        training = trained(nets, recorder)
        ends.append([net.state_dict() for net in nets])
        ends[-1].append(training.loop.state_dict()["meter"])
    assert tape.recorded == 1 and tape.replays == 8  # the first of nine is called as it is
    assert_identical(ends[1], ends[2])
    assert_identical(ends[0], ends[2])


def test_a_fault_names_the_network() -> None:
    nets = networks(chosen(2))
    with torch.no_grad():
        nets[1].get_parameter("classifier.bias").fill_(float("nan"))
    with pytest.raises(RunError, match=r"^the loss of network 2 must .* step 0: the weights of network 2 have grown"):
        trained(nets)


def test_each_of_several_networks_is_evaluated() -> None:
    nets = [FixedNet(cell, 4, 2, 4).double() for cell in chosen(3)]
    found = evaluate_each(TogetherNet(nets), batches(0, 25))
    wanted = [evaluate(net, batches(0, 25)) for net in nets]
    assert [of.accuracy for of in found] == [of.accuracy for of in wanted]
    assert [of.loss for of in found] == pytest.approx([of.loss for of in wanted], abs=1e-12)


# --- the study


def test_a_cell_is_trained_as_a_plain_loop_trains_it(tmp_path: Path) -> None:
    """Bit for bit: one cell is trained as before there were several at once."""
    recipe = load_recipe("topobench-darts", CHANGES, "smoke")
    setup, cell = Setup.of(resolved(recipe.to_yaml())), chosen(2)[1]
    found = trained_cell(recipe.to_yaml(), cell.to_dict(), 1, tmp_path, Quiet())
    plan, data, own = setup.recipe.retrain, setup.dataset, derive(recipe.seed, "topology-bench", 1)
    torch.manual_seed(own)
    net = FixedNet(cell, plan.channels, plan.layers, 10, data.shape[0]).to(memory_format=torch.channels_last)
    momentum: dict[str, Any] = {"momentum": plan.weights.momentum, "nesterov": plan.weights.nesterov}
    sgd = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=plan.weights.weight_decay, **momentum)
    how: Any = {"mean": data.mean, "std": data.std, "device": "cpu", "seed": own}
    fit = setup.search_data.get("train")
    images = Batches(fit, plan.batch_size, **how, augmentation=data.augmentation, stream="train")
    for epoch in range(plan.epochs):
        for step in range(len(images)):
            sgd.param_groups[0]["lr"] = plan.weights.lr.value(epoch, plan.epochs)
            x, y = images.batch(epoch, step)
            sgd.zero_grad()
            F.cross_entropy(net(x), y).backward()
            assert plan.weights.clip is not None
            nn.utils.clip_grad_norm_(net.parameters(), plan.weights.clip)
            sgd.step()
    for name, part in (("test", data.test), ("val", setup.search_data.get("val"))):
        of = Batches(part, 500, **how, augmentation=None, stream="test")
        assert found[name] == 100 * evaluate(net, of).accuracy
    assert set(found) == {"test", "val", "parameters"}


def test_a_table_made_at_once_is_that_of_cells_alone(tmp_path: Path) -> None:
    """In float32, after 40 steps each: but for an image in a hundred that roundings may have turned."""
    words = [*WORDS, "cells=4", "seeds=[0,1]"]
    alone = studies.run("topology-bench", words, tmp_path / "alone")
    at_once = studies.run("topology-bench", [*words, "together=3"], tmp_path / "three")
    one, three = (TopologyBench.load(path / topology_bench.FILE) for path in (alone, at_once))
    assert one.archs == three.archs and one.parameters == three.parameters
    assert one.made["recipe"] == three.made["recipe"]
    assert float(one.values("test").max()) > 30  # they have learned something
    for column in ("test_0", "test_1", "val_0", "val_1", "test", "val"):
        assert three.values(column).tolist() == pytest.approx(one.values(column).tolist(), abs=1.0)
    assert {record.get("together") for record in items_of(alone).values()} == {None}
    sizes = [record.get("together") for record in items_of(at_once).values()]
    assert sizes == [3, 3, 3, None] * 2  # the fourth is alone


def test_a_group_that_was_killed_is_repeated_and_holds_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also by another number than before, which is no part of the study."""
    words, groups = [*SHOWN, "cells=5", "seeds=0"], list[int]()
    stored = studies.run("topology-bench", [*words[:-2], "cells=3", "seeds=0"], tmp_path / "a") / "study.json"
    assert "together" not in json.loads(stored.read_text())["options"]
    kept = (tmp_path / "a/items.jsonl").read_bytes()

    def counted(given: Sequence[Any]) -> list[dict[str, Any]]:
        groups.append(len(given))
        return trained_cells(given)

    class Killed(BaseException):
        pass

    keep = Bench.keep

    def killed(self: Bench, key: str, made: Any, seconds: float) -> Any:
        if "together" in made and len(self.records) == 4:
            raise Killed
        return keep(self, key, made, seconds)

    monkeypatch.setattr(topology_bench, "trained_cells", counted)
    monkeypatch.setattr(Bench, "keep", killed)
    with pytest.raises(Killed):
        studies.run("topology-bench", [*words, "together=4"], tmp_path / "a")
    assert groups == [2] and (tmp_path / "a/items.jsonl").read_bytes().startswith(kept)
    monkeypatch.setattr(Bench, "keep", keep)
    studies.run("topology-bench", [*words, "together=2"], tmp_path / "a")
    assert groups == [2, 1]
    whole = studies.run("topology-bench", words, tmp_path / "b")
    found, wanted = (items_of(path) for path in (tmp_path / "a", whole))
    assert [found[key]["parameters"] for key in wanted] == [record["parameters"] for record in wanted.values()]


def test_workers_make_groups(tmp_path: Path) -> None:
    words = [*SHOWN, "cells=5", "seeds=0", "together=2"]
    studies.run("topology-bench", words, tmp_path / "one")
    studies.run("topology-bench", words, tmp_path / "two", workers=2)
    one, two = (
        {key: record | {"seconds": 0} for key, record in items_of(tmp_path / at).items()} for at in ("one", "two")
    )
    assert one == two and sorted(record.get("together", 1) for record in two.values()) == [1, 2, 2, 2, 2]


def test_a_wrong_number_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"^study topology-bench: together: networks are .* but got 0; use"):
        studies.run("topology-bench", [*SHOWN, "together=0"], tmp_path / "a")

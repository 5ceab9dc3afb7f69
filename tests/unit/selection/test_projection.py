"""Selection by perturbation: it finds what carries the signal, keeps to the published schedule, and can be killed."""

import functools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers.identical import assert_identical
from torch import Tensor
from torch.optim import SGD, Adam

from topocell import spaces
from topocell.config.load import load_recipe
from topocell.config.search import Stage
from topocell.config.selection import ProjectionPlan, Rules
from topocell.config.values import OnNan
from topocell.data.augment import NO_AUGMENTATION
from topocell.data.batches import Batches, ImageSet
from topocell.data.splits import SearchData, split_batches
from topocell.errors import RunError
from topocell.io import checkpoint
from topocell.runtime.hooks import Silent
from topocell.selection import projection as module
from topocell.selection.decider import DECISIONS
from topocell.selection.probe import Ablation, Measured, Probe, without
from topocell.selection.projection import Projection
from topocell.selection.pruning import decide, only, undecided
from topocell.selection.rules import derive
from topocell.spaces import CellSpec, SpaceSpec
from topocell.supernet import ArchWeights, Supernet
from topocell.supernet.arch_state import ArchState
from topocell.supernet.learner import Learner, Seen
from topocell.supernet.levels import weights_only

OPERATIONS = Rules(operations="perturbation", edges="all", none=True)
BOTH = Rules(operations="perturbation", edges="perturbation")


def images(n: int, seed: int) -> ImageSet:
    """Dark and bright pictures with noise."""
    draws = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2
    pixels = 60 + 110 * labels.view(-1, 1, 1, 1) + torch.randint(0, 60, (n, 1, 8, 8), generator=draws)
    return ImageSet(pixels.to(torch.uint8), labels, ("dark", "bright"))


def search_data(n: int) -> SearchData:
    splits = {"train": images(n, 0), "val": images(n, 1)}
    order = {"train": torch.arange(n), "val": torch.arange(n, 2 * n)}
    return SearchData(splits, order, (0.5,), (0.25,), NO_AUGMENTATION, ("dark", "bright"), (1, 8, 8), "planted")


DATA = search_data(32)
STAGE = Stage(name="search", epochs=1)


class Recorder(Silent):
    """Keeps what is reported, and saves every state that is offered if there is a folder for them."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.records: list[dict[str, Any]] = []
        self.said: list[str] = []
        self.before: list[int] = []
        self.due: list[bool] = []

    def metrics(self, record: Mapping[str, Any]) -> None:
        self.records.append(dict(record))

    def say(self, text: str) -> None:
        self.said.append(text)

    def step(self, phase: str, done: int, total: int, figures: Callable[[], Mapping[str, float]]) -> None:
        assert 0 <= done <= total
        assert {"loss", "accuracy"} <= set(figures())

    def checkpoint(self, state: Callable[[], dict[str, Any]], due: bool = False) -> None:
        if self.folder is not None:
            checkpoint.save(self.folder / f"{len(self.before)}.ckpt", state())
            self.before.append(len(self.records))
            self.due.append(due)

    def of(self, phase: str) -> list[dict[str, Any]]:
        return [record for record in self.records if record["phase"] == phase]


def learner(space: SpaceSpec, channels: int = 4, layers: int = 3, init: float = 0.1, **arch: Any) -> Learner:
    torch.manual_seed(0)
    net = Supernet(space, channels, layers, 2, in_channels=1)
    state = ArchState(space, init=init, generator=torch.Generator().manual_seed(1), **arch)
    beta = [b for b in state.beta.values() if b.numel()]
    weights = SGD(net.parameters(), lr=0.05, momentum=0.9)
    alpha = Adam(state.alpha.values(), lr=0.01, betas=(0.5, 0.999), weight_decay=1e-3)
    return Learner(net, state, weights, alpha, Adam(beta, lr=0.01) if beta else None, clip=5.0)


def project(of: Learner, rules: Rules, monitor: Any = None, data: SearchData = DATA, **plan: Any) -> Projection:
    made = Projection(of, data, STAGE, ProjectionPlan(**plan), rules, batch_size=16, seed=4, monitor=monitor)
    made.run()
    return made


# --- a planted signal

#: A chain, each edge of which has one operation that passes the picture on.
CHAIN = CellSpec(
    1,
    3,
    ((0, 1), (1, 2), (2, 3)),
    (("noise", "nor_conv_1x1", "none"), ("skip_connect", "none", "noise"), ("none", "noise", "nor_conv_3x3")),
    "last",
    pool_norm=False,
)
PLANTED = SpaceSpec("planted", {"cell": CHAIN}, "nasbench201", stem_multiplier=1)
SIGNAL = ((("nor_conv_1x1", 0),), (("skip_connect", 1),), (("nor_conv_3x3", 2),))


def planted() -> Learner:
    """A supernet that has learned to tell bright from dark under an α that favours what passes nothing on."""
    subject = learner(PLANTED, channels=8, layers=5)
    net, arch = _trained()
    subject.net.load_state_dict(net)
    subject.arch.load_state_dict(arch)
    return subject


@functools.cache
def _trained() -> tuple[dict[str, Any], dict[str, Any]]:
    subject = learner(PLANTED, channels=8, layers=5)
    with torch.no_grad():
        for edge, names in enumerate(CHAIN.candidates):
            favour = {"none": 1.0, "noise": 0.0}
            subject.arch.alpha["cell"][edge] = torch.tensor([favour.get(op, 0.5) for op in names])
    train = split_batches(search_data(64), "train", 16, "planting", seed=0, device="cpu")
    for step in range(40):
        torch.manual_seed(step)
        weights_only(subject, train.batch(0, step), [])
    return subject.net.state_dict(), subject.arch.state_dict()


@pytest.mark.parametrize(
    "plan",
    [
        {"metric": "accuracy", "order": "random"},
        {"metric": "loss", "order": "given", "fixed_batches": True, "batches": 2},
    ],
    ids=lambda plan: plan["metric"],
)
def test_perturbation_finds_the_signal_on_every_edge_and_magnitude_does_not(plan: dict[str, Any]) -> None:
    subject, recorder = planted(), Recorder()
    by_weight = derive(subject.arch, Rules(edges="all", none=True)).cells["cell"]
    assert by_weight.nodes == ((), (), ())
    project(subject, OPERATIONS, recorder, search_data(64), train_alpha=False, tune_epochs=1, **plan)
    assert derive(subject.arch, OPERATIONS).cells["cell"].nodes == SIGNAL
    for record in recorder.of("select"):
        suffers = record[f"{plan['metric']} without"]
        worst = min if plan["metric"] == "accuracy" else max
        assert worst(suffers, key=suffers.__getitem__) == record["kept"]


def test_magnitude_in_the_same_schedule_follows_the_weights() -> None:
    subject = planted()
    done = project(subject, OPERATIONS, data=search_data(64), train_alpha=False, decide_by="magnitude", tune_epochs=1)
    assert derive(subject.arch, OPERATIONS).cells["cell"].nodes == ((), (), ())
    assert (done.decider.evaluations, done.decider.image_evaluations, done.loop.epoch) == (0, 0, 3)


def test_none_cannot_be_kept_unless_the_rules_allow_it() -> None:
    subject = planted()
    rules = Rules(operations="perturbation", edges="all", none=False)
    recorder = Recorder()
    project(subject, rules, recorder, search_data(64), train_alpha=False, decide_by="magnitude", tune_epochs=0)
    assert all("none" not in record["weight"] for record in recorder.of("select"))
    assert derive(subject.arch, rules).cells["cell"].nodes == SIGNAL  # noise has the lowest weight of all


# --- the published schedule

LIGHT = ("max_pool_3x3", "avg_pool_3x3", "skip_connect")


class Counted:
    """In place of measuring and tuning: how often, and in which epoch."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.draws: list[int] = []
        self.steps: list[int] = []
        patch.setattr(Probe, "__call__", self.measure)
        patch.setattr(Probe, "side_by_side", self.measure_together)
        patch.setattr(module, "bilevel", self.tune)

    def measure(self, weights: Mapping[str, ArchWeights], draw: int) -> Measured:
        self.draws.append(draw)
        return Measured(1.0, 0.5, 25_000)

    def measure_together(
        self, weights: Mapping[str, ArchWeights], ablations: Sequence[Ablation], draw: int, step: int
    ) -> tuple[Tensor, Tensor]:
        self.draws += [draw] * len(ablations) if step == 0 else []
        return torch.ones(len(ablations), 16), torch.ones(len(ablations), 16, dtype=torch.bool)

    def tune(self, of: Learner, batch: tuple[Tensor, Tensor], updates: Any) -> Any:
        self.steps.append(len(updates))
        zero = torch.zeros(())
        return Seen(zero, zero.long(), len(batch[1]))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


def test_the_counts_of_darts(counted: Counted) -> None:
    """17 rounds in 81 epochs; 14 · 7 · 2 + 2 · (3 + 7 + 12) measurements; 16 of 28 edges stay."""
    recipe = load_recipe("darts-pt")
    space = spaces.get("darts", nodes=4, candidates=recipe.space.model_dump()["candidates"])
    subject, recorder = learner(space, channels=2), Recorder()
    plan = recipe.selection.projection
    done = Projection(subject, DATA, STAGE, plan, recipe.selection.rules(0), batch_size=32, monitor=recorder)
    assert (done.rounds, done.operation_rounds, done.epochs) == (17, 14, 81)
    done.run()
    decisions = recorder.of("select")
    assert [r["epoch"] for r in decisions] == [epoch for epoch in range(0, 81, 5) for _ in range(2)]
    assert [r["cell"] for r in decisions] == ["normal", "reduce"] * 17
    operations, nodes = decisions[:28], decisions[28:]
    assert all("→" in r["decided"] for r in operations)
    assert Counter(r["decided"] for r in nodes) == {"node 3": 2, "node 4": 2, "node 5": 2}
    assert [r["epoch"] for r in recorder.of("tune")] == list(range(81)) and done.loop.epoch == 81
    assert done.decider.evaluations == len(counted.draws) == 196 + 44
    assert done.decider.image_evaluations == 240 * 25_000
    assert sorted(counted.draws) == list(range(240))  # fresh images for each
    left = [int(subject.arch.mask(t).any(1).sum()) for t in space.cells]
    assert left == [8, 8]
    assert counted.steps == [1] * 65 + [0] * 16  # after round 14 nothing is left for α to learn
    cells = derive(subject.arch, recipe.selection.rules(0)).cells
    assert all(len(pairs) == 2 for cell in cells.values() for pairs in cell.nodes)


def test_the_counts_of_nasbench201(counted: Counted) -> None:
    """Six rounds in 25 epochs, the last one before epoch 24."""
    recipe = load_recipe("nb201-pt")
    subject, recorder = learner(spaces.get("nasbench201"), layers=5), Recorder()
    plan = recipe.selection.projection
    done = Projection(subject, DATA, STAGE, plan, recipe.selection.rules(0), batch_size=32, monitor=recorder)
    done.run()
    assert [r["epoch"] for r in recorder.of("select")] == [0, 5, 10, 15, 20, 24]
    assert len(recorder.of("tune")) == 25
    assert done.decider.evaluations == 30
    assert undecided(subject.arch.mask("cell")) == []


@pytest.mark.parametrize(
    ("plan", "epochs"),
    [
        ({"tune_epochs": 0}, [0] * 6),
        ({"tune_epochs": 2}, [0, 2, 4, 6, 8, 10]),
        ({"tune_epochs": 2, "epochs": 5}, [0, 2, 4, 4, 4, 4]),
        ({"tune_epochs": 1, "epochs": 9}, [0, 1, 2, 3, 4, 5]),
        ({"tune_epochs": 5, "epochs": 0}, [0] * 6),
    ],
    ids=str,
)
def test_rounds_that_find_no_epoch_fall_before_the_last(counted: Counted, plan: Any, epochs: list[int]) -> None:
    subject, recorder = learner(spaces.get("nasbench201"), layers=5), Recorder()
    project(subject, OPERATIONS, recorder, **plan)
    assert [r["epoch"] for r in recorder.of("select")] == epochs
    default = max(epochs) + 1 if plan["tune_epochs"] else 0
    assert len(recorder.of("tune")) == plan.get("epochs", default)


def test_fixed_batches_measure_all_candidates_of_a_decision_on_the_same_images(counted: Counted) -> None:
    space = spaces.get("darts", nodes=3, candidates=LIGHT)
    done = project(learner(space), BOTH, tune_epochs=0, fixed_batches=True, order="given")
    normal, expected = 9 * 3, []
    for decision in range(18):
        expected += [3 * decision] * 3
    assert counted.draws[: 2 * normal] == expected
    assert done.decider.evaluations == 2 * (normal + 3 + 4)  # a node's edges are measured once
    assert len(set(counted.draws)) == 18 + 4


def test_ties_go_to_the_first_operation_and_the_last_edge(counted: Counted) -> None:
    space = spaces.get("darts", nodes=3, candidates=LIGHT)
    subject = learner(space)
    project(subject, BOTH, tune_epochs=0, order="given")
    for cell in derive(subject.arch, BOTH).cells.values():
        assert cell.nodes == ((("max_pool_3x3", 0), ("max_pool_3x3", 1)),) * 3


def test_the_order_is_drawn_for_each_cell_type_by_itself(counted: Counted) -> None:
    orders = {}
    for seed in (4, 5):
        recorder = Recorder()
        subject = learner(spaces.get("darts", nodes=4, candidates=LIGHT))
        Projection(subject, DATA, STAGE, ProjectionPlan(tune_epochs=0), BOTH, seed=seed, monitor=recorder).run()
        for kind in ("normal", "reduce"):
            decided = [r["decided"] for r in recorder.of("select") if r["cell"] == kind]
            assert sorted(decided[:14]) == sorted(f"{s}→{d}" for s, d in subject.arch.space.cells[kind].edges)
            orders[seed, kind] = tuple(decided)
    assert len(set(orders.values())) == 4


# --- one measurement


def test_an_ablation_takes_one_thing_out_and_renormalises_nothing() -> None:
    weights = {t: ArchWeights(torch.rand(3, 2), torch.rand(3)) for t in ("normal", "reduce")}
    before = {t: (w.ops.clone(), w.edges.clone()) for t, w in weights.items()}
    operation = without(weights, Ablation("reduce", 1, 0))
    assert operation["normal"] is weights["normal"]
    assert operation["reduce"].ops[1, 0] == 0 and torch.equal(operation["reduce"].edges, before["reduce"][1])
    assert operation["reduce"].ops.ne(before["reduce"][0]).sum() == 1
    edge = without(weights, Ablation("normal", 2))
    assert edge["normal"].ops[2].tolist() == [0, 0] and edge["normal"].edges[2] == 0
    assert torch.equal(edge["normal"].ops[:2], before["normal"][0][:2])
    for t, (ops, edges) in before.items():  # what was given is left alone
        assert torch.equal(weights[t].ops, ops) and torch.equal(weights[t].edges, edges)


def test_a_measurement_counts_the_answers_over_its_batches() -> None:
    subject = learner(PLANTED, layers=5)
    batches = split_batches(DATA, "val", 16, "probe", seed=0, device="cpu")
    weights = {t: w.detach() for t, w in subject.arch.expected().items()}
    probe = Probe(subject, batches, None, seed=0)
    found = probe(weights, draw=3)
    assert found.images == 32 and Probe(subject, batches, 1, seed=0)(weights, 3).images == 16
    assert probe(weights, 3) == found != probe(weights, 4)
    quiet = without(without(without(weights, Ablation("cell", 0, 0)), Ablation("cell", 1, 2)), Ablation("cell", 2, 1))
    losses, correct = 0.0, 0
    with torch.no_grad():  # without the noise operations nothing is drawn
        for step in range(2):
            x, y = batches.batch(3, step)
            logits = subject.net(x, quiet)
            losses += float(torch.nn.functional.cross_entropy(logits, y, reduction="sum"))
            correct += int((logits.argmax(1) == y).sum())
    found = probe(quiet, 3)
    assert found.loss == pytest.approx(losses / 32) and found.accuracy == correct / 32


def test_candidates_side_by_side_are_measured_as_alone() -> None:
    """Also where operations draw: noise is the same for all of them, and for a pass of its own."""
    space = spaces.get("darts", nodes=2, candidates=("noise", "skip_connect", "sep_conv_3x3"))
    subject = learner(space, layers=4)
    batches = split_batches(DATA, "val", 16, "probe", seed=0, device="cpu")
    weights = {t: w.detach() for t, w in subject.arch.expected().items()}
    probe = Probe(subject, batches, None, seed=0)
    assert (probe.n_batches, probe.images) == (2, 32)
    for kind in space.cells:
        ablations = [Ablation(kind, 1, 0), Ablation(kind, 1, 2), Ablation(kind, 3)]
        found = [probe.side_by_side(weights, ablations, 5, step) for step in range(2)]
        for number, ablation in enumerate(ablations):
            alone = probe(without(weights, ablation), 5)
            loss = sum(float(loss[number].sum()) for loss, _ in found) / 32
            assert loss == pytest.approx(alone.loss, rel=1e-6)
            assert sum(int(correct[number].sum()) for _, correct in found) / 32 == alone.accuracy


# --- which of operations and edges

MIXED = spaces.get("darts", nodes=3, candidates=("none", "max_pool_3x3", "skip_connect"))


def test_edges_alone_go_by_perturbation_after_operations_by_magnitude() -> None:
    subject = learner(MIXED)
    expected = derive(subject.arch, Rules(edges="all")).chosen
    rules = Rules(edges="perturbation")
    recorder = Recorder()
    done = project(subject, rules, recorder, tune_epochs=1, batches=1)
    assert (done.operation_rounds, done.rounds) == (0, 2)
    assert {r["decided"] for r in recorder.of("select")} == {"node 3", "node 4"}
    derived = derive(subject.arch, rules)
    for kind, cell in MIXED.cells.items():
        assert [len(pairs) for pairs in derived.cells[kind].nodes] == [2, 2, 2]
        assert all(derived.chosen[kind][e] in (None, expected[kind][e]) for e in range(cell.n_edges))


def test_operations_alone_go_by_perturbation_before_edges_by_magnitude() -> None:
    """An edge is then as strong as its operation was among all candidates: all weigh one on a decided edge."""
    subject = learner(MIXED, init=2.0)
    rules = Rules(operations="perturbation", edges="magnitude")
    done = project(subject, rules, tune_epochs=0, batches=1)
    assert done.rounds == done.operation_rounds == 9
    derived = derive(subject.arch, rules)
    for kind, cell in MIXED.cells.items():
        p = subject.arch.alpha[kind].detach().softmax(1)
        chosen = subject.arch.mask(kind).int().argmax(1)
        strength = p[torch.arange(9), chosen]
        for node in cell.computed:
            best = sorted(cell.incoming(node), key=lambda e: -float(strength[e]))[:2]
            assert [e for e in derived.kept[kind] if cell.edges[e][1] == node] == sorted(best)


def test_edges_can_follow_a_learned_topology() -> None:
    topology = {"name": "subsets", "view": "target", "sizes": 2, "norm": "mean", "scale": "none"}
    subject = learner(MIXED, topology=topology)
    before = {kind: beta.detach().clone() for kind, beta in subject.arch.beta.items()}
    rules = Rules(operations="perturbation", edges="topology")
    project(subject, rules, tune_epochs=1, epochs=1, batches=1)
    assert all(not torch.equal(subject.arch.beta[kind], before[kind]) for kind in before)
    derived = derive(subject.arch, rules)
    for kind in MIXED.cells:
        kept = subject.arch.topologies[kind].decode(subject.arch.beta[kind].detach())
        assert list(derived.kept[kind]) == kept


def test_fixed_alpha_stays_where_it_is_and_learned_alpha_moves() -> None:
    for train_alpha in (False, True):
        subject = learner(MIXED)
        before = {kind: alpha.detach().clone() for kind, alpha in subject.arch.alpha.items()}
        weights = next(subject.net.parameters()).detach().clone()
        project(subject, BOTH, tune_epochs=1, epochs=2, batches=1, train_alpha=train_alpha)
        moved = [not torch.equal(subject.arch.alpha[kind], before[kind]) for kind in before]
        assert moved == [train_alpha] * 2
        assert not torch.equal(next(subject.net.parameters()), weights)


def test_tuning_starts_with_fresh_momentum_and_a_constant_rate() -> None:
    subject = learner(MIXED)
    weights_only(subject, split_batches(DATA, "train", 16, "any", seed=0, device="cpu").batch(0, 0), [])
    assert subject.weights_optimizer.state
    made = Projection(subject, DATA, STAGE, ProjectionPlan(lr=0.007), BOTH)
    assert not made.learner.weights_optimizer.state
    group = made.learner.weights_optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.007, 0.9, 3e-4)


def test_what_is_decided_already_is_left_alone() -> None:
    """As after progressive decisions: one edge is decided, another pruned."""
    subject = learner(MIXED)
    mask = only(subject.arch.mask("normal"), 0, 2)
    mask[3] = False
    decide(subject, {"normal": mask})
    recorder = Recorder()
    project(subject, BOTH, recorder, tune_epochs=0, batches=1)
    touched = {r["decided"] for r in recorder.of("select") if r["cell"] == "normal"}
    edges = MIXED.cells["normal"].edges
    assert f"{edges[0][0]}→{edges[0][1]}" not in touched and f"{edges[3][0]}→{edges[3][1]}" not in touched
    assert subject.arch.mask("normal")[0].tolist() == [False, False, True]
    assert not subject.arch.mask("normal")[3].any()


def test_a_learning_rate_that_is_too_large_ends_the_projection() -> None:
    with pytest.raises(RunError, match=r"must stay finite, .*tuning epoch 0.*lower selection\.projection\.lr"):
        project(learner(PLANTED, layers=5), OPERATIONS, tune_epochs=3, batches=1, lr=1e30)


@pytest.mark.parametrize("on_nan", ["skip", "rollback"])
def test_a_broken_image_of_tuning_is_skipped_when_told_to(
    on_nan: OnNan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same with a kill inside the epoch: what a rollback goes back to is saved with the rest."""
    real, at = Batches.batch, (1, 1)

    def batch(self: Batches, *which: int) -> tuple[torch.Tensor, torch.Tensor]:
        x, y = real(self, *which)
        if self.stream == "projection weights" and which == at:
            x[2] = math.inf
        return x, y

    monkeypatch.setattr(Batches, "batch", batch)

    def begun(on_nan: OnNan, monitor: Recorder | None = None) -> Projection:
        plan, options = ProjectionPlan(tune_epochs=1, batches=1), {"batch_size": 16, "monitor": monitor}
        return Projection(planted(), search_data(64), STAGE, plan, OPERATIONS, **options, on_nan=on_nan)

    with pytest.raises(RunError, match=r"tuning epoch 1, step 1: image \d+ of the split '.*' is not finite"):
        begun("stop").run()

    whole = begun(on_nan, recorder := Recorder(tmp_path))
    whole.run()
    assert [record.get("skipped") for record in recorder.of("tune")] == [None, 1, None]
    states = [checkpoint.load(tmp_path / f"{n}.ckpt") for n in range(len(recorder.before))]
    places = [(state["epoch"], state["step"]) for state in states]
    start, before, behind = (states[len(places) - 1 - places[::-1].index(at)] for at in ((1, 0), (1, 1), (1, 2)))
    back_to = before if on_nan == "skip" else start
    for part in ("net", "arch", "weights", "alpha"):
        assert_identical(behind[part], back_to[part])
    resumed = begun(on_nan)
    resumed.run(before)
    assert_identical(resumed.state_dict(), whole.state_dict())


def test_every_way_to_decide_has_a_row() -> None:
    assert set(DECISIONS) == {"perturbation", "magnitude"}


# --- killed

SMALL = spaces.get("darts", nodes=3, candidates=("none", "noise", "max_pool_3x3", "nor_conv_1x1"))
KILLED = {"tune_epochs": 1, "epochs": 4, "batches": 2}


def fresh(monitor: Any = None) -> Projection:
    return Projection(learner(SMALL), DATA, STAGE, ProjectionPlan(**KILLED), BOTH, batch_size=16, monitor=monitor)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: Any) -> tuple[Recorder, Projection]:
    recorder = Recorder(tmp_path_factory.mktemp("states"))
    whole = fresh(recorder)
    whole.run()
    return recorder, whole


def test_a_killed_projection_goes_on_bit_for_bit(unbroken: Any) -> None:
    """Between decisions, in the middle of one, and inside tuning."""
    recorder, whole = unbroken
    tuning = [i for i in range(len(recorder.before)) if checkpoint.load(recorder.folder / f"{i}.ckpt")["step"]]
    inside = [i for i in range(1, len(recorder.before)) if not recorder.due[i] and i not in tuning]
    due = [i for i, is_due in enumerate(recorder.due) if is_due]
    for number in (tuning[0], inside[1], inside[-1], due[len(due) // 2], due[-1]):
        torch.manual_seed(number)
        again = Recorder()
        resumed = fresh(again)
        resumed.run(checkpoint.load(recorder.folder / f"{number}.ckpt"))
        assert_identical(resumed.state_dict(), whole.state_dict())
        assert_identical(again.records, recorder.records[recorder.before[number] :])


def test_a_state_can_be_saved_after_every_measurement_and_is_due_after_every_decision(unbroken: Any) -> None:
    recorder, whole = unbroken
    assert recorder.due.count(True) == 2 * whole.rounds + whole.epochs
    steps = 2 * whole.epochs
    assert recorder.due.count(False) == whole.decider.evaluations + steps - whole.epochs
    assert len(recorder.said) == len(recorder.of("select"))
    for record, words in zip(recorder.of("select"), recorder.said):
        assert words.startswith(f"{record['cell']}: ") and record["kept"] in words


RACING = {"tune_epochs": 1, "epochs": 2, "metric": "loss", "racing": {"first": 1, "growth": 1.5, "confidence": 0.6}}


def race(monitor: Any = None) -> Projection:
    return Projection(learner(SMALL), DATA, STAGE, ProjectionPlan(**RACING), BOTH, batch_size=4, monitor=monitor)


def test_a_race_that_is_killed_goes_on_bit_for_bit(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path)
    whole = race(recorder)
    whole.run()
    ended = Counter(record["race"]["ended"] for record in recorder.of("select"))
    assert ended["separated"] > 2 and ended["whole split"] > 0
    states = [checkpoint.load(tmp_path / f"{number}.ckpt") for number in range(len(recorder.before))]
    inside = [n for n, state in enumerate(states) if state["decider"]["trials"]]
    nodes = [n for n in inside if states[n]["round"] >= whole.operation_rounds]
    fewer = [
        n
        for n in inside
        if (t := states[n]["decider"]["trials"][0])["ended"] is None and t["comparisons"] and t["kept"]
    ]
    for number in (inside[len(inside) // 2], nodes[-1], *fewer[:1]):
        torch.manual_seed(number)
        again = Recorder()
        resumed = race(again)
        resumed.run(states[number])
        assert_identical(resumed.state_dict(), whole.state_dict())
        assert_identical(again.records, recorder.records[recorder.before[number] :])


def test_what_a_race_takes_is_counted() -> None:
    recorder = Recorder()
    done = race(recorder)
    done.run()
    records = recorder.of("select")
    assert done.decider.evaluations == sum(len(r["race"]["images"]) for r in records) == 2 * (9 * 3 + 3 + 4)
    assert done.decider.image_evaluations == sum(sum(r["race"]["images"]) for r in records)
    assert done.decider.image_evaluations < 32 * done.decider.evaluations
    for record in records:
        images = record["race"]["images"]
        assert len(images) == len(record["loss without"]) and max(images) <= 32
        assert (record["race"]["ended"] == "whole split") == (max(images) == 32)


def test_a_race_to_the_end_decides_as_measuring_everything_does() -> None:
    """At a confidence that is never reached nobody leaves; only then the whole split is seen by all."""
    kept = []
    for plan in ({"fixed_batches": True}, {"racing": {"first": 1, "confidence": 1 - 1e-12}}):
        recorder = Recorder()
        done = project(learner(SMALL), BOTH, recorder, tune_epochs=0, metric="loss", **plan)
        kept.append([(r["decided"], r["kept"], r["loss without"]) for r in recorder.of("select")])
        assert done.decider.image_evaluations == 32 * done.decider.evaluations
    assert kept[0] == kept[1]


def test_only_decisions_by_perturbation_are_raced() -> None:
    with pytest.raises(ValueError, match="racing saves measurements of decisions by perturbation, but decide_by is m"):
        ProjectionPlan(decide_by="magnitude", racing={})
    assert ProjectionPlan(racing={}).same_images and not ProjectionPlan().same_images


def test_it_gets_cheaper_as_it_goes(unbroken: Any) -> None:
    recorder, _ = unbroken
    sizes = []
    for number in range(len(recorder.before)):
        net = checkpoint.load(recorder.folder / f"{number}.ckpt")["net"]
        sizes.append(sum(tensor.numel() for tensor in net.values()))
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < sizes[0]

"""Every combination of the axes: two steps of a tiny search, or a refusal that names the rule.

Relaxations × topologies × levels × partial channels × perturbations, on a cell of two nodes and 8 × 8 images.
"""

import importlib
import itertools
import math
from collections import Counter
from typing import Any, NamedTuple

import pytest
from pydantic import ValidationError

from topocell import spaces
from topocell.config.search import SearchPlan
from topocell.config.selection import Rules
from topocell.data import splits
from topocell.data.splits import SearchData
from topocell.relaxation import RELAXATIONS
from topocell.runtime.hooks import Silent
from topocell.searching.loop import Search
from topocell.selection.rules import derive
from topocell.supernet import Supernet
from topocell.supernet.arch_state import ArchState
from topocell.supernet.levels import LEVELS
from topocell.topology import TOPOLOGIES

SPACE = spaces.get("darts", nodes=2, candidates=("none", "skip_connect", "max_pool_3x3"))
#: One or more ways to choose each row of the tables.
RELAXATION_CHOICES: dict[str, Any] = {name: {"name": name} for name in RELAXATIONS}
RELAXATION_CHOICES["grouped-softmax"] |= {"groups": [["none", "skip_connect"], ["max_pool_3x3"]]}
TOPOLOGY_CHOICES: dict[str, Any] = {name: {"name": name} for name in TOPOLOGIES if name != "subsets"}
TOPOLOGY_CHOICES["fixed"] |= {"edges": [0, 1, 4]}
TOPOLOGY_CHOICES["subsets of inputs"] = {"name": "subsets", "view": "target", "sizes": "any", "norm": "mean"}
TOPOLOGY_CHOICES["subsets of outputs"] = {"name": "subsets", "view": "source", "sizes": "any-or-none"}


class Combination(NamedTuple):
    """One choice on each axis."""

    relaxation: str
    topology: str
    level: str
    partial: int
    perturbation: str | None

    def plan(self) -> SearchPlan:
        """A search of one epoch of two steps."""
        stage = {
            "name": "search",
            "epochs": 1,
            "relaxation": RELAXATION_CHOICES[self.relaxation],
            "topology": TOPOLOGY_CHOICES[self.topology],
            "level": self.level,
            "partial": self.partial,
            "penalty": 1.0,
            "mechanisms": {"perturbation": self.perturbation and {"kind": self.perturbation, "epsilon": 0.2}},
        }
        sizes = {"channels": 4, "layers": 1, "batch_size": 4, "evaluation_batches": 1}
        return SearchPlan.model_validate(sizes | {"stages": [stage]})

    def rule(self) -> str | None:
        """The words of the refusal that this combination must meet, None if it has a meaning."""
        sampled = self.relaxation in ("gumbel-softmax", "gumbel-straight-through", "dirichlet")
        if self.level != "weights" and self.relaxation == "uniform" and self.topology in ("dense", "fixed"):
            return "have nothing to learn"
        if self.level == "unrolled" and sampled:
            return "level unrolled compares losses under one architecture"
        if self.perturbation and self.level == "single":
            return "a perturbation is for a weights' step of its own"
        if self.perturbation and self.relaxation in ("gumbel-straight-through", "sigmoid"):
            return "a perturbation moves probabilities that sum to one"
        return None


AXES = RELAXATION_CHOICES, TOPOLOGY_CHOICES, LEVELS, (1, 2), (None, "uniform")
PRODUCT = [Combination(*choices) for choices in itertools.product(*AXES)]


@pytest.fixture(scope="module")
def images() -> SearchData:
    """Eight images for the weights, eight for the architecture."""
    return splits.search_data(splits.load("digits", images=16, test_images=10), {"train": 0.5, "val": 0.5}, seed=0)


class Record(Silent):
    """Keeps the metrics."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def metrics(self, record: Any) -> None:
        self.found = dict(record)


def test_combinations_without_a_meaning_are_refused_with_their_rule(capsys: pytest.CaptureFixture[str]) -> None:
    refused: Counter[str] = Counter()
    for combination in PRODUCT:
        rule = combination.rule()
        if rule is None:
            assert combination.plan().stages[0].level == combination.level
            continue
        with pytest.raises(ValidationError, match=rule):
            combination.plan()
        refused[rule] += 1
    assert set(TOPOLOGIES) == {choice["name"] for choice in TOPOLOGY_CHOICES.values()}
    assert (len(PRODUCT), refused.total()) == (7 * 6 * 6 * 2 * 2, 300)
    assert len(refused) == 4
    with capsys.disabled():
        print(f"\n{len(PRODUCT)} combinations, {len(PRODUCT) - refused.total()} with a meaning; refused:")
        for rule, count in refused.items():
            print(f"  {count:4d}  {rule}")


@pytest.mark.parametrize("topology", TOPOLOGY_CHOICES)
@pytest.mark.parametrize("relaxation", RELAXATION_CHOICES)
def test_two_steps_of_every_combination_with_a_meaning(
    images: SearchData, relaxation: str, topology: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cells_of_now(net: Supernet, arch: ArchState, rules: Rules, batches: Any) -> dict[str, Any]:
        return {"cells": derive(arch, rules).cells}

    monkeypatch.setattr(importlib.import_module("topocell.searching.loop"), "observe", cells_of_now)
    mine = [c for c in PRODUCT if (c.relaxation, c.topology) == (relaxation, topology) and c.rule() is None]
    assert len(mine) >= 4
    for combination in mine:
        search = Search(combination.plan(), SPACE, images, monitor=(record := Record()))
        learner = search.run()
        assert math.isfinite(record.found["train_loss"]), combination
        assert all(p.isfinite().all() for p in (*learner.net.parameters(), *learner.arch.parameters())), combination
        assert {len(state) for state in learner.weights_optimizer.state.values()} == {1}, (
            combination
        )  # all weights have moved
        moved = combination.level != "weights"
        assert {float(state["step"]) for state in learner.alpha_optimizer.state.values()} == ({2.0} if moved else set())
        cells = record.found["cells"]
        assert list(cells) == ["normal", "reduce"]
        for cell in cells.values():
            pairs = [pair for node in cell.nodes for pair in node]
            assert pairs and all(op in ("skip_connect", "max_pool_3x3") for op, _ in pairs), combination

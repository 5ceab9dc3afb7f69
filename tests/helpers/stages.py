"""Stages of searches that stand for all methods: every level, relaxation, topology and mechanism."""

from collections.abc import Mapping
from typing import Any

from topocell import spaces
from topocell.config.search import SearchPlan
from topocell.data.splits import SearchData
from topocell.runtime.precision import Execution
from topocell.searching.loop import Search

SPACE = spaces.get("darts", nodes=2, candidates=["none", "max_pool_3x3", "skip_connect", "sep_conv_3x3", "noise"])

SETS = {"name": "subsets", "view": "target", "sizes": 2, "norm": "mean", "scale": "none"}
ARBITRARY = {"name": "subsets", "view": "source", "sizes": "any"}
STRETCHABLE = {"name": "subsets", "view": "source", "sizes": "any-or-none"}
COOLING = {"shape": "exponential", "start": 10, "end": 0.02, "closed": True, "per": "step"}
BY_STEP = {"shape": "linear", "start": 0.05, "end": 0.001, "per": "step"}
FALLING = {"shape": "linear", "start": 1.0, "end": 0.1}
GROUPS = [["none", "skip_connect", "max_pool_3x3"], ["sep_conv_3x3", "noise"]]

#: Every level, relaxation, topology and mechanism, with learning rates, temperatures and sizes that change.
STAGES: dict[str, Mapping[str, Any]] = {
    "gdas": {
        "level": "bilevel-weights-first",
        "relaxation": "gumbel-straight-through",
        "op_temperature": {"shape": "linear", "start": 10, "end": 0.1, "per": "step"},
    },
    "snas": {"level": "single", "relaxation": "gumbel-softmax", "op_temperature": COOLING, "arch_clip": 1.0},
    "pc-darts": {"epochs": 2, "topology": "edge-softmax", "partial": 2},
    "dots": {
        "level": "single",
        "weights_on": "all",
        "topology": SETS,
        "edge_temperature": COOLING,
        "relaxation": {"name": "grouped-softmax", "groups": GROUPS},
    },
    "toponas": {"level": "mixed", "topology": ARBITRARY, "penalty": 10.0, "weights": {"lr": BY_STEP}},
    "stretchable": {"topology": STRETCHABLE, "penalty": 10.0, "weights": {"lr": BY_STEP, "nesterov": True}},
    "edarts, second order": {
        "level": "unrolled",
        "weights": {"lr": BY_STEP},
        "relaxation": {"name": "softmax", "offset": {"sep_conv_3x3": 0.1}},
        "mechanisms": {"attention": {"constants": {"sep_conv_3x3": 0.01}}, "skip_dropout": {"rate": 0.2}},
    },
    "sdarts": {"epochs": 2, "mechanisms": {"perturbation": {"kind": "uniform", "epsilon": FALLING}}},
    "sdarts, adversarial": {"mechanisms": {"perturbation": {"kind": "adversarial", "epsilon": 0.03}}},
    "drnas, drop path and dropout": {
        "epochs": 2,
        "relaxation": "dirichlet",
        "alpha_penalty": 0.1,
        "weights": {"optimizer": "adamw", "lr": BY_STEP},
        "mechanisms": {
            "auxiliary_skip": {"weight": FALLING},
            "skip_dropout": {"rate": FALLING},
            "drop_path": {"rate": {"shape": "linear", "start": 0.1, "end": 0.5}},
            "cutout": {"probability": 0.5, "size": 3},
        },
    },
}
#: With kinds of steps that change on the way, or candidates that leave; these are resumed, too.
CHANGING: dict[str, Mapping[str, Any]] = {
    "darts": {"epochs": 3, "warmup": 1, "batch_size": 16, "arch_every": "epoch"},
    "sgas": {"epochs": 2, "mechanisms": {"progressive": {"first": 0, "every": 1}}},
}


def started(stage: Mapping[str, Any], data: SearchData, execution: Execution, **options: Any) -> Search:
    """A small search of one stage, before its first step."""
    sizes = {"channels": 4, "layers": 2, "batch_size": 10, "evaluation_batches": 1}
    plan = SearchPlan.model_validate(sizes | {"stages": [{"name": "only", "epochs": 1} | dict(stage)]})
    return Search(plan, SPACE, data, execution=execution, **options)

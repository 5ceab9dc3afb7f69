"""Studies: the papers' analyses, each a table and a figure. A study is one function and one row in `STUDIES`.

The function takes a `Bench` and its options, checks all it can, says `bench.begin`, takes its items one by one and
returns an `Outcome`. What is finished stays finished: the same command resumes with what is left.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from topocell.errors import RecipeError, check_known
from topocell.registry import Registry
from topocell.reporting.terminal import Display, Quiet
from topocell.runtime.as_found import as_found
from topocell.studies import (
    compare,
    cost_front,
    depth,
    edarts_ablation,
    edge_ranking,
    edge_shuffle,
    operation_strength,
    progressive_tuning,
    selection_agreement,
    shallow_final,
    skip_gap,
    skip_optimum,
    stability,
    subspaces,
    supernet_ranking,
    topology_average,
    topology_bench,
    topology_search,
    trajectory,
    tuning_epochs,
    wirings,
    worth_it,
)
from topocell.studies._items import Bench, Outcome
from topocell.studies._options import Options, Training, parse

__all__ = ["STUDIES", "Bench", "Options", "Outcome", "Study", "help_text", "run"]


@dataclass(frozen=True)
class Study:
    """A row of `STUDIES`.

    Args:
        about: one line.
        source: table or figure of a paper.
        options: model of its options.
        function: `(bench, options) -> Outcome`; its docstring describes the measurement.
        example: arguments of a worked example.
        parallel: whether items are made by several processes with --workers.
    """

    about: str
    source: str
    options: type[Options]
    function: Callable[[Bench, Any], Outcome]
    example: str
    parallel: bool = False


STUDIES = Registry[Study](
    "study",
    {
        "topology-average": Study(
            "average true accuracy of every wiring of the NAS-Bench-201 cell",
            "TopoNAS, Figure 1",
            topology_average.TopologyAverage,
            topology_average.measure,
            "table=nasbench201.csv.gz --out runs/wirings",
        ),
        "topology-bench": Study(
            "true accuracies of every cell of a small space with any number of inputs per node",
            "",
            topology_bench.TopologyBench,
            topology_bench.measure,
            "data.download=true --workers 2 --out runs/topology-bench",
            parallel=True,
        ),
        "edge-ranking": Study(
            "agreement of searched weights of edge pairs with stand-alone accuracy",
            "DOTS, Figure 1",
            edge_ranking.EdgeRanking,
            edge_ranking.measure,
            "recipes=darts-v1,dots --budget small data.download=true --out runs/ranking",
        ),
        "topology-search": Study(
            "cells of one operation search without and with a topology search after it",
            "DOTS, Table 2 and Figure 4",
            topology_search.TopologySearch,
            topology_search.measure,
            "--budget small recipes=dots-over-darts data.download=true --out runs/topology-search",
        ),
        "wirings": Study(
            "accuracy of every wiring of the DARTS cell, all operations alike",
            "eDARTS, Figure 3",
            wirings.Wirings,
            wirings.measure,
            "--budget small data.download=true --workers 4 --out runs/wirings",
            parallel=True,
        ),
        "subspaces": Study(
            "searches in parts of the DARTS space at several depths",
            "eDARTS, Figure 2",
            subspaces.Subspaces,
            subspaces.measure,
            "--budget small depths=5,8 'first_also=[]' seeds=0,1,2 data.download=true --workers 2 --out runs/subspaces",
            parallel=True,
        ),
        "edarts-ablation": Study(
            "fewer images and fewer architecture updates in DARTS, and its skip connections",
            "eDARTS, Table II",
            edarts_ablation.Ablation,
            edarts_ablation.measure,
            "--budget small seeds=0,1,2 data.download=true --workers 2 --out runs/ablation",
            parallel=True,
        ),
        "depth": Study(
            "cells in networks of several depths",
            "TopoNAS, Table 3; Stretchable Cells, Figure 1",
            depth.Depth,
            depth.measure,
            "genotypes=darts-v2,runs/dots layers=8,12,16 retrain.seeds=0,1,2 --out runs/depth",
            parallel=True,
        ),
        "shallow-final": Study(
            "accuracy of cells in small networks of five cells against that after full retraining",
            "eDARTS, Table III",
            shallow_final.ShallowFinal,
            shallow_final.measure,
            "--budget small data.download=true --workers 2 --out runs/shallow-final",
            parallel=True,
        ),
        "stability": Study(
            "cells derived at several epochs of a search",
            "TopoNAS, Table 10",
            stability.Stability,
            stability.measure,
            "recipes=darts-v2,toponas-fixed-darts data.download=true --out runs/stability",
        ),
        "views": Study(
            "outgoing against incoming edges in topology search",
            "TopoNAS, Table 7",
            compare.Views,
            compare.measure,
            "--budget small data.download=true --out runs/views",
        ),
        "joint": Study(
            "α and β updated one after the other against jointly",
            "TopoNAS, Table 8",
            compare.Joint,
            compare.measure,
            "--budget small data.download=true --out runs/joint",
        ),
        "trajectory": Study(
            "cells selected by magnitude and by perturbation in the course of a search",
            "DARTS-PT, Figures 4 and 8",
            trajectory.Trajectory,
            trajectory.measure,
            "--budget small data.download=true ground_truth.table=nasbench201.csv.gz --out runs/trajectory",
            parallel=True,
        ),
        "operation-strength": Study(
            "weight of each operation of an edge against the accuracy of the supernet with it alone",
            "DARTS-PT, Figures 1, 2 and 7",
            operation_strength.OperationStrength,
            operation_strength.measure,
            "recipes='darts-pt space=s2' edges=3 --budget small data.download=true --out runs/strength",
            parallel=True,
        ),
        "skip-gap": Study(
            "weight of skip connections over convolutions against the accuracy of the supernet",
            "DARTS-PT, Figure 3",
            skip_gap.SkipGap,
            skip_gap.measure,
            "--budget small data.download=true --out runs/skip-gap",
            parallel=True,
        ),
        "skip-optimum": Study(
            "best weights of a skip connection and a convolution, by formula and by minimising",
            "DARTS-PT, Proposition 1",
            skip_optimum.SkipOptimum,
            skip_optimum.measure,
            "--out runs/skip-optimum",
        ),
        "edge-shuffle": Study(
            "a supernet whose edges change places, beside a VGG and a ResNet",
            "DARTS-PT, Table 1",
            edge_shuffle.EdgeShuffle,
            edge_shuffle.measure,
            "--budget small data.download=true --out runs/edge-shuffle",
            parallel=True,
        ),
        "progressive-tuning": Study(
            "decisions by perturbation and by magnitude under the same tuning",
            "DARTS-PT, Figure 6",
            progressive_tuning.ProgressiveTuning,
            progressive_tuning.measure,
            "--budget small data.download=true --out runs/progressive-tuning",
            parallel=True,
        ),
        "tuning-epochs": Study(
            "accuracy of the selected cell against the epochs of tuning between decisions",
            "DARTS-PT, Figure 9",
            tuning_epochs.TuningEpochs,
            tuning_epochs.measure,
            "--budget small data.download=true ground_truth.table=nasbench201.csv.gz --out runs/tuning-epochs",
            parallel=True,
        ),
        "selection-agreement": Study(
            "decisions of races against those of whole measurements, and what races save",
            "",
            selection_agreement.SelectionAgreement,
            selection_agreement.measure,
            "runs=runs/darts-pt,runs/nb201-pt --out runs/agreement",
        ),
        "supernet-ranking": Study(
            "what searches know: rankings of cells by architecture and supernet against true accuracy",
            "",
            supernet_ranking.SupernetRanking,
            supernet_ranking.measure,
            "runs=runs/sweep --out runs/ranking",
            parallel=True,
        ),
        "cost-front": Study(
            "accuracy against cost under several weights of the penalty on cost",
            "",
            cost_front.CostFront,
            cost_front.measure,
            "recipes=dots weights=0,0.1,1 measure=multiply_adds --budget small data.download=true --out runs/front",
        ),
        "worth-it": Study(
            "true accuracy against seconds, for searches with gradients and without",
            "",
            worth_it.WorthIt,
            worth_it.measure,
            "--budget small data.download=true ground_truth.table=nasbench201.csv.gz charge=60 --out runs/worth-it",
            parallel=True,
        ),
        "compare": Study(
            "any recipes side by side under equal seeds",
            "",
            compare.Compared,
            compare.measure,
            "'recipes=[random,dots,dots search.channels=4]' --budget smoke --out runs/compare",
        ),
    },
    Study,
)


def help_text(name: str) -> str:
    """Describe a study, its options and a worked example, as Markdown for the command line."""
    study = STUDIES[name]
    after = f" ({study.source})" if study.source else ""
    said = [" ".join(part.split()) for part in inspect.cleandoc(study.function.__doc__ or "").split("\n\n")]
    options = [f"- `{_signature(key, field)}`: {field.description}" for key, field in study.options.listed().items()]
    if issubclass(study.options, Training):
        options.append("- keys of recipes: changes to all of them, e.g. `retrain.epochs=10`")
    parts = [f"{study.about[:1].upper()}{study.about[1:]}{after}.", *(part for part in said if part[:7] != "Raises:")]
    return "\n\n".join([*parts, "Options:", "\n".join(options), "Example:", f"topocell study {name} {study.example}"])


def _signature(key: str, field: FieldInfo) -> str:
    """`key=default` as a user would write it."""
    if field.is_required():
        return f"{key}=.."
    default = field.default
    shown = f"[{','.join(map(str, default))}]" if isinstance(default, tuple) else default
    return key if shown is None else f"{key}={shown}"


@as_found()
def run(name: str, words: Sequence[str], out: str | Path, display: Display | None = None, workers: int = 1) -> Path:
    """Run a study, or resume it, in the directory `out`.

    Args:
        name: a row of `STUDIES`.
        words: its options as `key=value`; of a study that trains also changes to its recipes.
        out: directory of the study; continued if it was begun.
        display: shows the work; nothing is shown without one.
        workers: processes that make its items, each by one thread; 1 makes them here, by all threads.

    Returns `out`. Besides what follows raises as `topocell.run`.

    Raises:
        RecipeError: unknown study, unknown option or wrong value.
        RunError: `out` cannot be used, or belongs to a study with other options.
    """
    check_known("study", name, STUDIES, RecipeError)
    study = STUDIES[name]
    if workers > 1 and not study.parallel:
        known = ", ".join(name for name, row in STUDIES.items() if row.parallel)
        raise RecipeError(f"--workers is for studies of independent items, {known}, but got {name}; leave it out")
    options = parse(name, study.options, words)
    asked, show = options.model_dump(mode="json", exclude=set(study.options.aside)), display or Quiet()
    with Bench(name, study.about, asked, out, show, workers, study.options.growing) as bench:
        bench.finish(study.function(bench, options))
    return Path(out)

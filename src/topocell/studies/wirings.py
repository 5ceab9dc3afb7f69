"""eDARTS, Figure 3: what the wiring alone decides, by training the network of every wiring of a DARTS cell."""

import shlex
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from topocell import spaces
from topocell.config.load import shallow_of
from topocell.config.recipe import Recipe
from topocell.errors import RecipeError
from topocell.genotype.genotype import CellGenotype, Genotype
from topocell.runtime.workers import Task
from topocell.spaces.cell import CellSpec
from topocell.studies import _plots
from topocell.studies._cells import refuse_ground_truth
from topocell.studies._items import Bench, Outcome, Record
from topocell.studies._options import TRAININGS, Training, distinct, reserved, shallow_only, split
from topocell.studies._training import accuracies, begin, parameters, retrained, scale, spread
from topocell.topology.assignments import wirings

#: Inputs of each computed node.
Wiring = tuple[tuple[int, ...], ...]

#: Further changes of a budget: networks of half a minute, since there are hundreds of them.
SCALED: Mapping[str, tuple[str, ...]] = {
    "paper": (),
    "small": ("data.images=1500", "shallow.epochs=6", "shallow.test_every=6"),
    "smoke": (),
}


class Wirings(Training):
    """Options of `wirings`."""

    growing = frozenset({"again", "proxies"})

    nodes: int = Field(4, ge=1, le=6, description="computed nodes of the cell")
    in_degree: int = Field(2, ge=1, description="inputs of each node; a node with fewer predecessors takes all")
    normal: str = Field("sep_conv_3x3", description="operation on all edges of the normal cell")
    reduce: str = Field("max_pool_3x3", description="operation on all edges of the reduction cell, whose nodes take "
                        "the inputs of the cell")  # fmt: skip
    again: int = Field(20, ge=0, description="train so many of the best again, with their wiring and the operation of "
                       "the normal cell in both cells")  # fmt: skip
    proxies: Annotated[tuple[str, ...], BeforeValidator(distinct)] = Field(
        (), description="smaller scales to rank all wirings at as well, each 'key=value ...', e.g. 'shallow.epochs=2'"
    )
    retrain_as: str = Field("darts-v1", description=f"recipe whose data and shallow evaluation to use; {TRAININGS}")

    _shallow = model_validator(mode="after")(shallow_only)

    @model_validator(mode="after")
    def _own_changes(self) -> "Wirings":
        reserved(self, space="use nodes=N", seed="use shallow.seeds=[..]")
        return self

    def scale(self, *changes: str) -> Recipe:
        """The recipe by which networks are trained, with further changes. Raises RecipeError."""
        return shallow_of(self.recipe(self.retrain_as, *self.shallow_seeds, *SCALED[self.budget], last=changes))


def measure(bench: Bench, options: Wirings) -> Outcome:
    """The test accuracy of a shallow network for every wiring of the cell: every way to give each node its inputs.

    All networks have the same operations and nearly the same size, so that only the wiring differs. Each is trained `n`
    times; accuracies are means, the ± is over the trainings. The best are
    trained again with their wiring in both cells; the best of these is the wiring to search along. Wirings that are
    the same cell under another numbering of its nodes show how much one training varies by itself. Each of `proxies`
    trains all wirings at another scale, and is compared with the ranking by Kendall's τ-b and Spearman's ρ.

    Raises:
        RecipeError: a table of true accuracies is named, while networks are trained; a proxy that changes nothing.
    """
    recipes = {"main": options.scale()}
    recipes |= {f"proxy-{n}": options.scale(*split(words)) for n, words in enumerate(options.proxies, start=1)}
    for words, recipe in zip(options.proxies, list(recipes.values())[1:]):
        if recipe == recipes["main"]:
            raise RecipeError(f"a proxy is another scale than the ranking itself, but {words!r} changes nothing of it")
    refuse_ground_truth("wirings", recipes.values())
    cell = spaces.get("darts", nodes=options.nodes).cells["normal"]
    every = inputs_of_nodes(cell, options.in_degree)
    pools = uniform(every[0], options.reduce)  # of the inputs of the cell, as far as in_degree lets it
    alike = {w: uniform(w, options.normal) for w in every}
    cells = {w: Genotype("darts", {"normal": normal, "reduce": pools}) for w, normal in alike.items()}
    n_again, seeds = min(options.again, len(every)), recipes["main"].retrain.seeds
    begin(bench, len(every) * len(recipes) + n_again, recipes, seeds)

    main = _Ranking.of(bench, "", recipes["main"], cells)
    best = {w: Genotype("darts", dict.fromkeys(("normal", "reduce"), alike[w])) for w in main.ordered[:n_again]}
    again = _Ranking.of(bench, "again-", recipes["main"], best) if n_again else None
    proxies = {name: _Ranking.of(bench, f"{name}-", recipes[name], cells) for name in recipes if name != "main"}

    chosen = (again or main).ordered[0]
    noise = noise_of(main.accuracy, cells)
    return Outcome(
        [_row(rank, w, cells[w], main, again, proxies) for rank, w in enumerate(main.ordered, start=1)],
        lambda path: _draw(main.accuracy, path),
        len(seeds),
        {
            "wirings": len(every),
            "best": {"wiring": in_words(chosen), "edges": edges_of(chosen)},
            "accuracy": {"best": main.accuracy[main.ordered[0]], "worst": main.accuracy[main.ordered[-1]]},
            "again": {in_words(w): again.accuracy[w] for w in again.ordered} if again else {},
            "noise": noise,
            "proxies": {words: _agreement(proxies[f"proxy-{n}"], main) for n, words in enumerate(options.proxies, 1)},
        },
        [*_notes(options, main, again, proxies, noise, chosen), main.scale],
    )


def inputs_of_nodes(cell: CellSpec, in_degree: int) -> list[Wiring]:
    """All wirings of a cell as the inputs of each computed node; the first takes the lowest nodes everywhere."""
    found = []
    for edges in wirings(cell, in_degree):
        by_node = groupby((cell.edges[e] for e in edges), key=lambda edge: edge[1])
        found.append(tuple(tuple(source for source, _ in group) for _, group in by_node))
    return found


def uniform(wiring: Wiring, operation: str, inputs: int = 2) -> CellGenotype:
    """The cell with one operation on every edge of a wiring."""
    nodes = tuple(tuple((operation, source) for source in sources) for sources in wiring)
    return CellGenotype(inputs, nodes, tuple(range(inputs, inputs + len(wiring))))


def edges_of(wiring: Wiring, inputs: int = 2) -> list[list[int]]:
    """The edges (src, dst), as a recipe writes them: `topology: {name: fixed, edges: ..}`."""
    return [[source, node] for node, sources in enumerate(wiring, start=inputs) for source in sources]


def along(wiring: Wiring) -> list[str]:
    """The changes of the recipe `edarts` with which it searches along a wiring."""
    topology = f"search.stages.search.topology={{name: fixed, edges: {edges_of(wiring)}}}"
    return [topology] if len(wiring) == 4 else [topology, f"space.nodes={len(wiring)}"]


def in_words(wiring: Wiring) -> str:
    """The inputs of each node, e.g. `01-01-02-13`; a node has one digit, as there are at most eight."""
    return "-".join("".join(map(str, sources)) for sources in wiring)


def noise_of(accuracy: Mapping[Wiring, float], cells: Mapping[Wiring, Genotype]) -> dict[str, float | int | None]:
    """Measure how far accuracies spread within and between different cells.

    Wirings that are one cell under two numberings differ by chance alone. `within` is the pooled standard deviation
    (n − 1) within such groups, `between` that of the means of groups, both None where there is too little; `cells` is
    the number of different cells.
    """
    groups: defaultdict[str, list[float]] = defaultdict(list)
    for wiring, value in accuracy.items():
        groups[cells[wiring].key].append(value)
    free = sum(len(group) - 1 for group in groups.values())
    squares = sum((value - statistics.fmean(group)) ** 2 for group in groups.values() for value in group)
    means = [statistics.fmean(group) for group in groups.values()]
    within = (squares / free) ** 0.5 if free else None
    return {"within": within, "between": statistics.stdev(means) if len(means) > 1 else None, "cells": len(groups)}


@dataclass(frozen=True)
class _Ranking:
    """Wirings trained at one scale.

    Attributes:
        accuracy: wiring → mean test accuracy over the seeds, in percent.
        std: the same for the sample standard deviation, None with one seed.
        ordered: wirings from the best to the worst; ties keep the order of enumeration.
        seconds: of all trainings.
    """

    accuracy: dict[Wiring, float]
    std: dict[Wiring, float | None]
    ordered: list[Wiring]
    records: dict[Wiring, Record]
    scale: str

    @classmethod
    def of(cls, bench: Bench, prefix: str, recipe: Recipe, cells: Mapping[Wiring, Genotype]) -> "_Ranking":
        """Train the network of every cell."""
        tasks = {w: Task(f"{prefix}{in_words(w)}", retrained, (recipe, cell)) for w, cell in cells.items()}
        made = bench.all_trained(list(tasks.values()))
        records = {w: made[task.key] for w, task in tasks.items()}
        found = {w: spread(accuracies(record)) for w, record in records.items()}
        accuracy = {w: mean for w, (mean, _) in found.items()}
        ordered = sorted(accuracy, key=lambda w: -accuracy[w])
        return cls(accuracy, {w: std for w, (_, std) in found.items()}, ordered, records, scale(records[ordered[0]]))

    @property
    def seconds(self) -> float:
        return sum(record["seconds"] for record in self.records.values())

    def rank(self, wiring: Wiring) -> int | None:
        return self.ordered.index(wiring) + 1 if wiring in self.accuracy else None


def _row(
    rank: int, wiring: Wiring, cell: Genotype, main: _Ranking, again: _Ranking | None, proxies: Mapping[str, _Ranking]
) -> dict[str, Any]:
    return {
        "rank": rank,
        "wiring": in_words(wiring),
        "accuracy %": main.accuracy[wiring],
        "± %": main.std[wiring],
        "n": len(accuracies(main.records[wiring])),
        "depth": cell.depth("normal"),
        "width": cell.width("normal"),
        "parameters": parameters(main.records[wiring]),
        "again %": again.accuracy.get(wiring) if again else None,
        "again rank": again.rank(wiring) if again else None,
        **{f"{name} %": proxy.accuracy[wiring] for name, proxy in proxies.items()},
    }


def agreement(one: Sequence[float], other: Sequence[float]) -> dict[str, float | None]:
    """Kendall's τ-b and Spearman's ρ of two rankings; None where one of them has no order."""
    from scipy.stats import kendalltau, spearmanr

    if min(len(set(one)), len(set(other))) < 2:
        return {"kendall": None, "spearman": None}
    return {"kendall": float(kendalltau(one, other)[0]), "spearman": float(spearmanr(one, other)[0])}


def agreement_in_words(found: Mapping[str, float | None]) -> str:
    """What `agreement` returns, as a part of a sentence."""
    tau, rho = found["kendall"], found["spearman"]
    if tau is None or rho is None:
        return "no order to agree"
    return f"Kendall's τ {tau:.2f}, Spearman's ρ {rho:.2f}"


def _agreement(one: _Ranking, other: _Ranking) -> dict[str, float | None]:
    """Over the wirings of `one`; with the share of the seconds that one takes of the other."""
    pairs = [(one.accuracy[w], other.accuracy[w]) for w in one.accuracy]
    found = agreement([a for a, _ in pairs], [b for _, b in pairs])
    return found | {"cost": one.seconds / sum(other.records[w]["seconds"] for w in one.accuracy)}


def _notes(
    options: Wirings,
    main: _Ranking,
    again: _Ranking | None,
    proxies: Mapping[str, _Ranking],
    noise: Mapping[str, Any],
    chosen: Wiring,
) -> list[str]:
    best, worst = (main.accuracy[main.ordered[at]] for at in (0, -1))
    said = [
        f"A wiring is written as the inputs of each node. {len(main.ordered)} wirings of {len(chosen)} nodes with "
        f"{options.in_degree} inputs, all {options.normal}: {worst:.2f} to {best:.2f} %."
    ]
    if noise["within"] is not None and noise["between"] is not None:
        said.append(
            f"Equal cells under another numbering differ by ± {noise['within']:.2f} % by chance alone, the "
            f"{noise['cells']} different cells by ± {noise['between']:.2f} %."
        )
    if again:
        said.append(
            f"The best {len(again.ordered)} again with their wiring and {options.normal} in both cells: "
            f"{again.accuracy[again.ordered[-1]]:.2f} to {again.accuracy[chosen]:.2f} %; "
            f"{agreement_in_words(_agreement(again, main))} with the ranking before."
        )
    for number, words in enumerate(options.proxies, start=1):
        found = _agreement(proxies[f"proxy-{number}"], main)
        cost = f"{found['cost']:.0%} of its time"
        said.append(f"proxy-{number} ({words}): {agreement_in_words(found)} with the ranking, at {cost}.")
    said.append(f"To search along the best: topocell run edarts {shlex.join(along(chosen))}")
    return said


def _draw(accuracy: Mapping[Wiring, float], path: Any) -> None:
    """Inputs of the last node across, those of the other nodes with a choice down."""
    columns = list(dict.fromkeys(w[-1] for w in accuracy))
    rows = list(dict.fromkeys(w[:-1] for w in accuracy))
    values = [[accuracy[(*row, column)] for column in columns] for row in rows]
    across, down = ["".join(map(str, column)) for column in columns], [in_words(row) or "·" for row in rows]
    axes = ("inputs of the other nodes, in order", "inputs of the last node")
    _plots.accuracy_map(values, down, across, "test accuracy, %", axes, path)

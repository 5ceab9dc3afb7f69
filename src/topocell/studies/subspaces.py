"""eDARTS, Figure 2: which operations and which search depth lead to good cells, by searches in parts of the space."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from topocell.config.load import shallow_of
from topocell.config.recipe import Recipe
from topocell.errors import RecipeError, nearest
from topocell.genotype.genotype import Genotype
from topocell.reporting.style import short
from topocell.runtime.workers import Task
from topocell.spaces.edarts import SUBSPACES
from topocell.studies import _plots
from topocell.studies._items import Bench, Outcome, Record
from topocell.studies._options import (
    TRAININGS,
    Entries,
    Numbers,
    Seeds,
    Training,
    distinct,
    reserved,
    shallow_only,
)
from topocell.studies._training import accuracies, begin, parameters, scale, spread, whole_run

#: What the convolutions of a sub-space have in common.
FAMILIES = {"all separable": "sep_conv", "all dilated": "dil_conv"}
MIXED = "mixed"

#: Accuracies in percent by sub-space and depth.
Found = dict[tuple[str, int], list[float]]


class Subspaces(Training):
    """Options of `subspaces`."""

    spaces: Entries = Field(tuple(SUBSPACES), description="sub-spaces to search in")
    depths: Numbers = Field((5, 16), description="cells of the supernet")
    first_also: Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(distinct)] = Field(
        (10, 20), description="further depths for the first of the sub-spaces"
    )
    search_as: str = Field("darts-subset-sparse", description="recipe whose search, data and shallow evaluation to use")
    seeds: Seeds = Field(tuple(range(20, 30)), description=f"seeds of the searches; {TRAININGS}")

    _shallow = model_validator(mode="after")(shallow_only)

    @model_validator(mode="after")
    def _own_changes(self) -> "Subspaces":
        reserved(self, seed="use seeds=[..]", space_name="use spaces=[..]", search_layers="use depths=[..]")
        return self

    @model_validator(mode="after")
    def _spaces_exist(self) -> "Subspaces":
        for name in self.spaces:
            if name not in SUBSPACES:
                raise ValueError(f"unknown sub-space {name!r}{nearest(name, SUBSPACES)}; known: {', '.join(SUBSPACES)}")
        return self

    def places(self) -> list[tuple[str, int]]:
        """The sub-spaces and depths to search."""
        also = [(self.spaces[0], depth) for depth in self.first_also if depth not in self.depths]
        return sorted([*((name, depth) for name in self.spaces for depth in self.depths), *also])

    def search(self, name: str, depth: int, seed: int) -> Recipe:
        """The recipe of one search, whose cell is evaluated in shallow networks. Raises RecipeError."""
        last = [f"space.name={name}", f"search.layers={depth}", f"seed={seed}"]
        return shallow_of(self.recipe(self.search_as, *self.shallow_seeds, last=last))


def measure(bench: Bench, options: Subspaces) -> Outcome:
    """Cells found in the sub-spaces SS1 to SS8, searched in supernets of several depths, in shallow networks.

    Every sub-space has none, skip connections, one pool and two or three of the four convolutions. The searches are
    those that the paper calls improved: a tenth of the images, and one architecture update per epoch. The ± is over the
    seeds of the search, `n`; the accuracy of a cell is the mean of its `trainings`. Which convolutions help is read off
    twice: from the families of sub-spaces, and for each convolution from the difference between the sub-spaces that
    have it and those that do not.

    Raises:
        RecipeError: the recipe searches in stages of other depths than `search.layers`.
    """
    places = options.places()
    recipes = {place: {seed: options.search(*place, seed) for seed in options.seeds} for place in places}
    named = {f"{name}, {depth} cells": next(iter(recipes[name, depth].values())) for name, depth in places}
    for label, recipe in named.items():
        if fixed := [stage.name for stage in recipe.search.stages if stage.layers is not None]:
            raise RecipeError(
                f"depths sets search.layers, but stage {fixed[0]!r} of {label} has layers of its own; use another "
                f"search_as"
            )
    begin(bench, len(places) * len(options.seeds), named, options.seeds)
    tasks = {
        (place, seed): Task(f"{place[0]}-depth-{place[1]}-seed-{seed}", whole_run, (recipe,))
        for place, of in recipes.items()
        for seed, recipe in of.items()
    }
    made = bench.all_trained(list(tasks.values()))
    records = {place: [made[tasks[place, seed].key] for seed in options.seeds] for place in places}
    found = {place: [spread(accuracies(record))[0] for record in records[place]] for place in places}
    by_family = {depth: families(found, depth) for depth in options.depths}
    effects = {depth: effect_of_operations(found, depth) for depth in options.depths}
    return Outcome(
        [_row(place, records[place], found[place]) for place in places],
        lambda path: _plots.grouped_bars(_bars(found), "shallow test accuracy, %", path),
        len(options.seeds),
        {"accuracies": {f"{n}-{d}": v for (n, d), v in found.items()}, "families": by_family, "effects": effects},
        [
            *(_in_words(f"{depth} cells, by family", by_family[depth], "") for depth in by_family),
            *(_in_words(f"{depth} cells, with minus without", effects[depth], "+") for depth in effects),
            scale(records[places[0]][0]),
        ],
    )


def family(name: str) -> str:
    """Name the convolutions of a sub-space: all separable, all dilated, or mixed."""
    convs = SUBSPACES[name]
    return next((label for label, kind in FAMILIES.items() if all(c.startswith(kind) for c in convs)), MIXED)


def families(found: Found, depth: int) -> dict[str, float]:
    """Family → mean accuracy of its sub-spaces at a depth, the best first."""
    groups: dict[str, list[float]] = {}
    for (name, at), values in found.items():
        if at == depth:
            groups.setdefault(family(name), []).append(spread(values)[0])
    means = {label: spread(values)[0] for label, values in groups.items()}
    return dict(sorted(means.items(), key=lambda item: -item[1]))


def effect_of_operations(found: Found, depth: int) -> dict[str, float]:
    """Convolution → mean accuracy of the sub-spaces that have it minus that of the others, the best first.

    A convolution that all or none of the sub-spaces have is left out.
    """
    means = {name: spread(values)[0] for (name, at), values in found.items() if at == depth}
    effects = {}
    for op in dict.fromkeys(op for name in means for op in SUBSPACES[name]):
        having = [mean for name, mean in means.items() if op in SUBSPACES[name]]
        others = [mean for name, mean in means.items() if op not in SUBSPACES[name]]
        if others:
            effects[op] = spread(having)[0] - spread(others)[0]
    return dict(sorted(effects.items(), key=lambda item: -item[1]))


def skips_of(records: Iterable[Record], cell_type: str) -> int:
    """Skip connections in the cells of a type, of all records together."""
    cells = (Genotype.from_dict(record["genotype"]) for record in records)
    return sum(cell.operations(cell_type)["skip_connect"] for cell in cells)


def _row(place: tuple[str, int], records: list[Record], values: list[float]) -> dict[str, Any]:
    name, depth = place
    mean, std = spread(values)
    return {
        "space": name,
        "convolutions": ", ".join(map(short, SUBSPACES[name])),
        "depth": depth,
        "n": len(records),
        "accuracy %": mean,
        "± %": std,
        "trainings": len(accuracies(records[0])),
        "parameters": spread([parameters(record) or 0 for record in records])[0],
        "skips normal": skips_of(records, "normal"),
        "skips reduce": skips_of(records, "reduce"),
        "search seconds": spread([record["timings"]["search"] for record in records])[0],
    }


def _bars(found: Found) -> dict[str, dict[str, list[float]]]:
    bars: dict[str, dict[str, list[float]]] = {}
    for (name, depth), values in sorted(found.items(), key=lambda item: item[0]):
        bars.setdefault(name.upper(), {})[f"{depth} cells"] = values
    return bars


def _in_words(what: str, values: Mapping[str, float], sign: str) -> str:
    return (
        f"{what}: {', '.join(f'{name} {value:{sign}.2f} %' for name, value in values.items()) or 'nothing to compare'}."
    )

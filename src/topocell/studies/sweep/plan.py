"""The plan of a sweep: words and YAML files → recipes for every setting and seed."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from topocell.config.load import load_recipe
from topocell.config.recipe import Recipe
from topocell.config.reference import takes_list
from topocell.errors import RecipeError, nearest
from topocell.io import files, plain_yaml
from topocell.studies._options import Searches, Seeds, key_of, parse, split

Protocol = Literal["all", "best-by-validation", "shallow-filter"]

#: Most runs of a sweep; a typing error must not fill a disk.
MOST_RUNS = 10_000


@dataclass(frozen=True)
class Arm:
    """One row of the comparison: a recipe with its settings, for every seed.

    Attributes:
        label: what tables call it.
        key: the same for names of directories.
        entry: the entry of `recipes` that it is of.
        settings: the `key=value` of the grid.
        recipes: seed → recipe.
    """

    label: str
    key: str
    entry: str
    settings: tuple[str, ...]
    recipes: Mapping[int, Recipe]

    @property
    def any(self) -> Recipe:
        """The recipe of the first seed."""
        return next(iter(self.recipes.values()))

    def run_key(self, seed: int) -> str:
        """The name of the run directory of a seed."""
        return f"{self.key}-seed-{seed}"


class SweepPlan(Searches):
    """What a sweep is asked. Keys of recipes are changes to all of them; one with a list of values is an axis."""

    growing: ClassVar[frozenset[str]] = frozenset({"recipes", "seeds"})

    seeds: Seeds = Field((0, 1, 2, 3), description="seeds of the searches, e.g. 0..3")
    protocol: Protocol = Field(
        "all",
        description="all: every cell is retrained; best-by-validation: a short training on the search split chooses "
        "the cell that is; shallow-filter: a shallow one (eDARTS) those that are",
    )
    baseline: str | None = Field(
        None, description="the entry of recipes that the others are compared with; default random, else the first"
    )
    short_epochs: int | None = Field(
        None, ge=1, description="of the training that chooses by validation; default a sixth of retrain.epochs"
    )

    def axes(self) -> tuple[list[str], list[list[str]]]:
        """The changes that all runs share, and those of each axis of the grid; of a key named twice the last ones.

        Raises:
            RecipeError: an axis without a value, or one that repeats a value.
        """
        shared, axes = [], []
        for word in {key_of(word): word for word in self.overrides}.values():
            key, _, text = word.partition("=")
            values = _axis(key.strip(), text)
            if values is None:
                shared.append(word)
                continue
            words = [f"{key.strip()}={files.to_json(value)}" for value in values]
            if len(set(words)) != len(words) or not words:
                raise RecipeError(
                    f"sweep: an axis of the grid has one or more different values, but got {word}; there would be "
                    f"{'no run' if not words else 'the same run twice'}"
                )
            axes.append(words)
        return shared, axes

    def grid(self) -> list[Arm]:
        """The rows of the grid, recipes outermost. Raises RecipeError for any fault in one."""
        shared, axes = self.axes()
        combinations = list(itertools.product(*axes))
        size = len(self.recipes) * len(combinations) * len(self.seeds)
        if size > MOST_RUNS:
            raise RecipeError(f"sweep: a grid has at most {MOST_RUNS} runs, but this has {size}; take fewer values")
        keys = {key_of(words[0]) for words in axes}
        for word in (word for entry in self.recipes for word in split(entry)[1:] if key_of(word) in keys):
            raise RecipeError(
                f"sweep: {key_of(word)} is an axis of the grid, but an entry of recipes has {word!r}; keep one of them"
            )
        arms: list[Arm] = []
        for entry, settings in itertools.product(self.recipes, combinations):
            recipe = self._recipe(entry, [*shared, *settings])
            recipes = {seed: recipe.model_copy(update={"seed": seed}) for seed in self.seeds}
            label = " ".join([entry, *(word.replace('"', "") for word in settings)])
            arms.append(Arm(label, _key(label, [arm.key for arm in arms]), entry, settings, recipes))
        return arms

    def _recipe(self, entry: str, changes: Sequence[str]) -> Recipe:
        """A recipe of the grid; the sweep decides whether a cell is retrained, so that its own protocol is left out."""
        words = split(entry)
        seeds = "retrain.seeds=[0,1,2,3]" if self.protocol == "best-by-validation" else "retrain.seeds=[0]"
        asked = [seeds, *words[1:], *changes]
        try:
            return load_recipe(words[0], [*asked, "protocol=full"], self.budget)
        except RecipeError as fault:
            where = " ".join([entry, *changes])
            raise RecipeError(f"sweep, {where}: {fault}" if changes or len(words) > 1 else f"sweep: {fault}") from None

    def base_of(self, arm: Arm, arms: Sequence[Arm]) -> Arm | None:
        """The row that one is compared with; None for a baseline itself.

        It has the settings of the row and the recipe of the baseline; where there is one recipe only, it is the first
        row of all.

        Raises:
            RecipeError: the baseline is none of the recipes.
        """
        base = arms[0] if len(self.recipes) == 1 else None
        if base is None:
            entry = self.baseline_entry()
            base = next(found for found in arms if found.entry == entry and found.settings == arm.settings)
        return None if base is arm else base

    def baseline_entry(self) -> str:
        """The entry of recipes that the others are compared with. Raises RecipeError where it is none of them."""
        if self.baseline is not None:
            if self.baseline not in self.recipes:
                raise RecipeError(
                    f"sweep: baseline is one of the recipes, {', '.join(self.recipes)}, but got {self.baseline!r}"
                    f"{nearest(self.baseline, self.recipes)}"
                )
            return self.baseline
        return next((entry for entry in self.recipes if split(entry)[0] == "random"), self.recipes[0])


def _axis(key: str, text: str) -> list[Any] | None:
    """The values of an axis; None for a single value. Of a key that takes a list, an axis is a list of lists."""
    lists = takes_list(key)
    try:
        value = plain_yaml.load_argument(text, lists)
    except ValueError:
        return None  # `load_recipe` says what is wrong
    if not isinstance(value, list) or (lists and not (value and all(isinstance(item, list) for item in value))):
        return None
    return value


def _key(label: str, taken: Sequence[str]) -> str:
    """A name for directories, of letters, digits and `_.-`, that no other row has."""
    key = re.sub(r"[^\w.-]+", "_", Path(label).name if label.endswith((".yaml", ".yml")) else label).strip("._-")[:120]
    key = key or "row"
    return next(
        name for number in itertools.count(1) if (name := key if number == 1 else f"{key}-{number}") not in taken
    )


def read_plan(words: Sequence[str], budget: str | None = None) -> SweepPlan:
    """A plan from the words of a command line: PLAN.yaml first, if there is one, and `key=value` that go before it.

    Raises:
        RecipeError: the file cannot be read; all faults of the options in one message.
    """
    given = list(words)
    asked: list[str] = []
    if given and "=" not in given[0]:
        asked = list(_words_of(given.pop(0)))
    asked += given + ([f"budget={budget}"] if budget else [])
    last = {key_of(word): word for word in asked if "=" in word}  # the command line goes before the file
    kept = [word for word in asked if "=" not in word or last[key_of(word)] is word]
    plan = parse("", SweepPlan, kept, "sweep")
    plan.axes()
    plan.baseline_entry()
    return plan


def _words_of(name: str) -> Iterator[str]:
    """The `key=value` of a YAML file; mappings in it are keys with dots."""
    path = Path(name)
    try:
        found = plain_yaml.load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as fault:
        raise RecipeError(
            f"a sweep begins with a YAML file or key=value, e.g. recipes=[random,dots], but {name!r} cannot be read: "
            f"{files.unread(fault)}"
        ) from None
    except ValueError as fault:
        raise RecipeError(f"the plan {name!r} must be YAML, but {fault}; mend it") from None
    if not isinstance(found, dict):
        raise RecipeError(f"the plan {name!r} must be a mapping of keys, but is none; e.g. `recipes: [random, dots]`")
    yield from _flat(found, "")


def _flat(mapping: Mapping[Any, Any], where: str) -> Iterator[str]:
    for key, value in mapping.items():
        name = f"{where}.{key}" if where else str(key)
        if isinstance(value, dict) and value and "name" not in value:
            yield from _flat(value, name)
        else:
            yield f"{name}={files.to_json(value)}"

"""Options of studies: models with defaults, read from `key=value` words as they stand on the command line."""

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from topocell.config.load import load_recipe
from topocell.config.plain_words import in_plain_words, independent
from topocell.config.recipe import Budget, Recipe
from topocell.config.values import Model
from topocell.errors import RecipeError, nearest
from topocell.io import plain_yaml

#: Most numbers of a span of seeds.
LONGEST_SPAN = 1000

AnyOptions = TypeVar("AnyOptions", bound="Options")


def distinct(value: Any) -> Any:
    """A validator of lists without repetitions; a single value stands for a list of one. Raises ValueError."""
    items = [value] if isinstance(value, int | float | str) and not isinstance(value, bool) else value
    if isinstance(items, list | tuple) and (twice := [item for item, n in Counter(map(str, items)).items() if n > 1]):
        raise ValueError(f"each entry is named once, but {twice[0]!r} is named again")
    return items


def spanned(value: Any) -> Any:
    """A validator of lists of whole numbers: `2..5` stands for 2, 3, 4, 5, alone or in a list. Raises ValueError."""
    found: list[Any] = []
    for item in value if isinstance(value, list | tuple) else [value]:
        span = re.fullmatch(r"(\d{1,9})\.\.(\d{1,9})", item.strip()) if isinstance(item, str) else None
        if span is None:
            found.append(item)
            continue
        first, last = int(span[1]), int(span[2])
        if not first <= last < first + LONGEST_SPAN:
            raise ValueError(f"a span FIRST..LAST has 1 to {LONGEST_SPAN} numbers, but got {item!r}")
        found += range(first, last + 1)
    return found if len(found) != 1 or isinstance(value, list | tuple) else found[0]


#: Lists without repetitions; a single value stands for a list of one.
Numbers = Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1), BeforeValidator(distinct)]
Seeds = Annotated[
    tuple[Annotated[int, Field(ge=0)], ...],
    Field(min_length=1),
    BeforeValidator(distinct),
    BeforeValidator(spanned),
]
Entries = Annotated[tuple[str, ...], Field(min_length=1), BeforeValidator(distinct)]


class Options(Model):
    """Base of the options of a study; each field says in its description what it is."""

    #: Options that only add items, so that a study resumes when they grow.
    growing: ClassVar[frozenset[str]] = frozenset()
    #: Options that say how items are made, not what they are: no part of the study, and free to differ as it resumes.
    aside: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def listed(cls) -> dict[str, FieldInfo]:
        """The options that a user names, with their descriptions and defaults."""
        return {name: field for name, field in cls.model_fields.items() if name != "overrides"}


class Training(Options):
    """Options of a study that trains. Changes to its recipes are written among them, e.g. `retrain.epochs=10`."""

    budget: Budget = Field("paper", description="paper, small or smoke; --budget says the same")
    overrides: tuple[str, ...] = ()

    def recipe(self, entry: str, *defaults: str, last: Sequence[str] = ()) -> Recipe:
        """The recipe of an entry, `RECIPE [key=value ...]` as on the command line, with all changes applied.

        Changes apply in this order: `defaults` of the study, those of the entry, the user's, `last`.

        Raises:
            RecipeError: any fault in it.
        """
        words = split(entry)
        return load_recipe(words[0], [*defaults, *words[1:], *self.overrides, *last], self.budget)

    @property
    def shallow_seeds(self) -> tuple[str, ...]:
        """The default number of trainings of a shallow network: the paper's ten (eDARTS, Section IV-A), or one.

        They are ten under the budget `paper`, as the recipes have them, and one under the others.
        """
        return () if self.budget == "paper" else ("shallow.seeds=[0]",)


@dataclass(frozen=True)
class Arm:
    """One recipe of a study, for every seed.

    Attributes:
        label: what tables call it.
        key: the same for names of files.
        recipes: seed → recipe.
    """

    label: str
    key: str
    recipes: dict[int, Recipe]

    @property
    def any(self) -> Recipe:
        """The recipe of the first seed."""
        return next(iter(self.recipes.values()))


class Searches(Training):
    """Options of a study that searches by several recipes with several seeds."""

    recipes: Entries = Field(
        description="names or paths of recipes, each with changes of its own if so wished: 'RECIPE key=value'"
    )
    seeds: Seeds = Field((0,), description="seeds of the searches; retrain.seeds=[0] unless changed")

    @model_validator(mode="after")
    def _seeds_are_the_studys(self) -> "Searches":
        reserved(self, seed="use seeds=[..]")
        return self

    def arms(self, *defaults: str) -> list[Arm]:
        """The recipes for every seed, each cell retrained once unless the user changes `retrain.seeds`.

        Raises:
            RecipeError: any fault in a recipe.
        """
        first = ("retrain.seeds=[0]", *defaults)
        found = [
            {seed: self.recipe(entry, *first, last=[f"seed={seed}"]) for seed in self.seeds} for entry in self.recipes
        ]
        names = [recipes[self.seeds[0]].name for recipes in found]
        return [
            Arm(name, name, recipes) if names.count(name) == 1 else Arm(entry, f"{name}-{number}", recipes)
            for number, (name, entry, recipes) in enumerate(zip(names, self.recipes, found), start=1)
        ]


#: What an option of a study says of the trainings of each shallow network.
TRAININGS = "each cell is trained for shallow.seeds=[..], ten under the budget paper, else one"


def shallow_only(options: Training) -> Training:
    """A validator for studies that evaluate cells by `shallow`: changes to `retrain` would be read by nobody."""
    if wrong := [word for word in _changes(options) if key_of(word).startswith("retrain.")]:
        raise ValueError(f"this study trains by shallow, not by retrain, but got {wrong[0]}; write shallow instead")
    return options


def reserved(options: Training, **why: str) -> None:
    """Refuse changes to recipes that the study makes itself: key of a recipe, `_` for `.` → what to use instead.

    Raises:
        ValueError: such a change among the overrides or in an entry.
    """
    for word in _changes(options):
        for key, instead in ((key.replace("_", "."), instead) for key, instead in why.items()):
            if key_of(word) == key or key_of(word).startswith(f"{key}."):
                raise ValueError(f"{key} is set by this study, but got {word}; {instead}")


def _changes(options: Training) -> list[str]:
    """All `key=value` words for recipes: those for all of them, and those of single entries."""
    words = list(options.overrides)
    for name in ("recipes", "retrain_as", "search_as"):
        value = getattr(options, name, None) or ()
        words += [word for entry in ([value] if isinstance(value, str) else value) for word in split(entry)[1:]]
    return words + [word for entry in getattr(options, "proxies", ()) for word in split(entry)]


def key_of(word: str) -> str:
    """The key of a `key=value` word."""
    return word.partition("=")[0].strip()


def whole_searches(label: str, recipe: Recipe) -> None:
    """Raise RecipeError for a search that may end ahead of time, in a study that evaluates each of its epochs."""
    if early := [stage.name for stage in recipe.search.stages if stage.mechanisms.early_stop is not None]:
        raise RecipeError(
            f"this study evaluates every epoch of a search, but stage {early[0]!r} of {label} may end ahead of time; "
            f"leave search.stages.{early[0]}.mechanisms.early_stop out"
        )


def split(entry: str) -> list[str]:
    """Words of an entry, at least one. Raises RecipeError for open quotes."""
    try:
        return shlex.split(entry) or [entry]
    except ValueError as fault:
        raise RecipeError(f"an entry is 'RECIPE key=value ...', but {entry!r} cannot be read: {fault}") from None


def parse(study: str, model: type[AnyOptions], words: Sequence[str], what: str = "study") -> AnyOptions:
    """The options that `key=value` words set; values are YAML.

    A key of a recipe (`retrain.epochs`, `data.dataset`, ..) goes to the recipes of a study that trains.

    Raises:
        RecipeError: a word of another form, an unknown option, a wrong value; all faults in one message.
    """
    known, trains = list(model.listed()), issubclass(model, Training)
    values: dict[str, Any] = {}
    overrides, faults = [], []
    for word in words:
        key, sign, text = word.partition("=")
        key = key.strip()
        if not sign or not key:
            faults.append(f"an option has the form key=value, but got {word!r}")
        elif key in known:
            try:
                value = _read(text, model.listed()[key].annotation)
            except ValueError:
                faults.append(f"{key}: the value must be YAML, but got {text!r}")
                continue
            if key == "budget" and values.get(key, value) != value:  # --budget comes as one more word
                faults.append(f"budget is given once, but got {values[key]!r} and {value!r}; leave one of them out")
            values[key] = value
        elif trains and key.partition(".")[0] in Recipe.model_fields:
            overrides.append(word)
        else:
            also = "; besides, keys of a recipe, e.g. retrain.epochs" if trains else ""
            faults.append(f"unknown option {key!r}{nearest(key, known)}; it takes {', '.join(known)}{also}")
    try:
        options = model.model_validate(values | ({"overrides": overrides} if trains else {}))
    except ValidationError as fault:
        faults += _faults(fault)
    if faults:
        raise RecipeError(f"{f'{what} {study}'.strip()}: " + "; ".join(dict.fromkeys(faults)))
    return options


def _read(text: str, kind: Any) -> Any:
    if kind in (str, str | None):
        return plain_yaml.load_word(text)
    return plain_yaml.load_argument(text, "tuple" in str(kind))


def _faults(error: ValidationError) -> Iterator[str]:
    for item in independent(error):
        where = ".".join(map(str, item["loc"]))
        if item["type"] == "missing":
            yield f"{where} is required; give {where}=VALUE"
        elif item["type"] == "value_error":
            message = item["msg"].removeprefix("Value error, ")
            yield f"{where}: {message}" if where else message
        else:
            yield in_plain_words(item, where)

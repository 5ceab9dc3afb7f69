"""A run directory as its readers see it: recipe, cell, results, metrics and history, whether finished or not."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, overload

from topocell.arguments import checked
from topocell.config.load import resolved
from topocell.config.recipe import Recipe
from topocell.errors import RunError, SpaceError
from topocell.genotype.genotype import Genotype
from topocell.reporting.history import History, history
from topocell.reporting.notebook import run_card
from topocell.reporting.run_files import RunFiles
from topocell.runs.directory import RunDir
from topocell.runs.identity import naming_imports
from topocell.runs.setting import setting_of


class Run:
    """What a run has left in its directory. Nothing there is changed, and a run in progress can be read.

    Args:
        path: of the run directory.

    Raises:
        RunError: there is no run, or it holds a link, a pipe or a device.
    """

    @checked(RunError)
    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._directory = RunDir.existing(path, lock=False)

    @property
    def recipe(self) -> Recipe:
        """The recipe, resolved. Raises RecipeError where pieces of a user's own are not imported."""
        with naming_imports(self.path):
            return resolved(self._directory.recipe_yaml)

    @property
    def genotype(self) -> Genotype:
        """The derived cell. Raises RunError or GenotypeError where there is none."""
        return Genotype.load(self._directory.genotype_path)

    @property
    def results(self) -> dict[str, Any]:
        """What results.json holds, see `RunFiles.results`. Raises RunError where there is none yet."""
        found: dict[str, Any] = RunFiles(self.path).results() or self._directory.read_json("results.json")
        return found

    @overload
    def metrics(self, phase: str | None = None, *, frame: Literal[False] = False) -> list[dict[str, Any]]: ...
    @overload
    def metrics(self, phase: str | None = None, *, frame: Literal[True]) -> Any: ...
    def metrics(self, phase: str | None = None, *, frame: bool = False) -> Any:
        """Return the records of metrics.jsonl.

        Args:
            phase: of these alone: `search`, `select`, `tune`, `trial` or `retrain`.
            frame: whether as a DataFrame of pandas, values within values under names such as `gap.soft`.

        Raises:
            RunError: a damaged line, or pandas is asked for and absent.
        """
        records = [row for row in self._directory.metrics() if phase is None or row.get("phase") == phase]
        return _pandas().json_normalize(records) if frame else records

    @overload
    def history(self, *, frame: Literal[False] = False) -> History: ...
    @overload
    def history(self, *, frame: Literal[True]) -> Any: ...
    def history(self, *, frame: bool = False) -> Any:
        """Return logits and weights of the architecture after every search epoch.

        Args:
            frame: whether as a DataFrame of pandas: a row for each epoch, cell type, edge and candidate.

        Raises:
            RunError: metrics.jsonl is damaged, or pandas is asked for and absent. RecipeError: pieces of a user's own
                are not imported.
        """
        recipe, records = self.recipe.model_dump(mode="json"), self._directory.metrics()
        with _whole(self.path):
            found = history(records, recipe)
        return _pandas().DataFrame(found.columns()) if frame else found

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def _repr_html_(self) -> str:
        """Return what notebooks show: progress, accuracy with n, cell and recipe, whatever is there."""
        return run_card(self.path, setting_of)


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Turn what damaged records and recipes provoke into a RunError."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, SpaceError) as fault:
        raise RunError(
            f"a history is read from the architecture in each search record of metrics.jsonl, but {path} has one "
            f"that cannot be ({type(fault).__name__}: {fault}); restore it from a copy"
        ) from fault


def _pandas() -> Any:
    try:
        import pandas
    except ImportError:
        raise RunError(
            "a frame is one of pandas, but that is not installed: pip install 'topocell[pandas]', or leave frame out"
        ) from None
    return pandas

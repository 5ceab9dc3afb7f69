"""Findings of studies that follow the accuracy of cells along a number, in one or several columns of a table."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from topocell.errors import RecipeError
from topocell.runs import setup
from topocell.studies import _drawings
from topocell.studies._items import Outcome
from topocell.studies._options import Arm, Searches, distinct
from topocell.studies._plots import Curve
from topocell.studies._worth import Rows, as_summary, curves_of, in_words


class LookedUp(Searches):
    """Options of a study whose cells can be looked up: in how many columns is no matter of the searches."""

    growing: ClassVar[frozenset[str]] = frozenset({"columns"})

    columns: Annotated[tuple[str, ...], BeforeValidator(distinct)] = Field(
        (),
        description="columns of the table of true accuracies; a list gives every cell a row for each; unset: that of "
        "ground_truth.column; more can be asked for when the study is finished",
    )

    def checked_arms(self) -> list[Arm]:
        """The recipes for every seed.

        Raises:
            RecipeError: any fault in a recipe; columns without a table. DataError: columns that it does not have.
        """
        arms = self.arms()
        for arm in arms if self.columns else ():
            if (table := setup.load_ground_truth(arm.any)) is None:
                raise RecipeError(
                    f"columns are those of a table of true accuracies, but {arm.label} has none; name one with "
                    f"ground_truth.table=PATH, or leave columns out"
                )
            for column in self.columns:
                table.values(column)
        return arms


def course(rows: Rows, scale: str, columns: Sequence[str], *, x: str, by: Sequence[str], label: str, n: int) -> Outcome:
    """The findings: mean accuracy along `x` for each value of the columns `by`, in a panel for each of `columns`.

    Args:
        rows: of `topocell.studies._worth.valued`.
        scale: what their accuracies rest on.
        columns: of the table of true accuracies; empty for one panel.
        x: of the rows.
        by: of the rows: a curve for each value.
        label: of the axis.
        n: how many searches.
    """
    panels: Mapping[str, list[Curve]] = {
        column: curves_of([row for row in rows if row.get("column", "") == column], x, "accuracy %", *by)
        for column in columns or ("",)
    }
    summary: dict[str, Any] = {name: as_summary(lines, x) for name, lines in panels.items()}
    words = [f"{name + ', ' if name else ''}{in_words(line, x)}" for name, lines in panels.items() for line in lines]
    draw = partial(_drawings.bands, panels, label, "test accuracy of the cell, %")
    return Outcome(rows, draw, n, summary if columns else summary[""], [*words, scale])

"""A study of decisions by perturbation and by magnitude under the same tuning (DARTS-PT, Figure 6)."""

from pydantic import Field

from topocell.genotype.genotype import Genotype
from topocell.studies import _drawings
from topocell.studies._items import Bench, Outcome
from topocell.studies._options import Entries, Searches, Seeds
from topocell.studies._training import begin
from topocell.studies._worth import Found, as_summary, curves_of, in_words, valued
from topocell.studies.tuning_epochs import WAYS, _selections, evaluated, projecting


class ProgressiveTuning(Searches):
    """Options of `progressive-tuning`."""

    recipes: Entries = Field(("darts-pt space=s2",), description="recipes that select by perturbation")
    seeds: Seeds = Field((0, 1, 2), description="seeds of the searches; retrain.seeds=[0] unless changed")


def measure(bench: Bench, options: ProgressiveTuning) -> Outcome:
    """One supernet projected with decisions by perturbation and by magnitude (PT-Mag), with the same tuning.

    After each decision, and the tuning that follows it, the supernet is measured on the split that moves its
    architecture, always on the same images without augmentation. The table has the supernet before and after the
    projection and the accuracy of the cell that is left. The ± is over searches.

    Raises:
        RecipeError: a recipe that does not select by perturbation.
    """
    arms = projecting(options.arms())
    runs = len(arms) * len(options.seeds)
    begin(bench, runs * (1 + 2 * len(WAYS)), {arm.label: arm.any for arm in arms}, options.seeds)
    changes = {way: {"decide_by": way} for way in WAYS}
    made = _selections(bench, arms, evaluated, changes)
    found, course = [], []
    for arm, seed, way, record in made:
        course += [
            {"recipe": arm.label, "selection": way, "decisions": n, "supernet %": 100 * accuracy}
            for n, accuracy in enumerate(record["course"])
        ]
        ends = {"supernet before %": 100 * record["course"][0], "supernet after %": 100 * record["course"][-1]}
        named = {"selection": way, "decisions": len(record["course"]) - 1, **ends}
        found.append(Found(arm, seed, Genotype.from_dict(record["genotype"]), named))
    rows, scale = valued(bench, found)
    lines = curves_of(course, "decisions", "supernet %", "recipe", "selection")
    return Outcome(
        rows,
        lambda path: _drawings.bands({"": lines}, "decisions made", "validation accuracy of the supernet, %", path),
        len(options.seeds),
        as_summary(lines, "decisions"),
        [*(in_words(line, "decision") for line in lines), scale],
    )

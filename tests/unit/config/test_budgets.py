"""Budgets change sizes, never the method: caps, epochs in proportion, and nothing that a recipe does not have."""

import functools
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topocell import spaces
from topocell.config.budgets import BUDGETS, SMALL, SMOKE, Limits, paper
from topocell.config.load import load_recipe, recipe_names
from topocell.config.recipe import Recipe
from topocell.errors import RecipeError
from topocell.runs import setup
from topocell.spaces import CellSpec, SpaceSpec, complete_edges

#: `layers` of skeleton nasbench201 counts its two residual blocks: 5 is one cell a stage.
NASBENCH201_LAYERS = 5
LIMITS = {"small": SMALL, "smoke": SMOKE}
#: What a stage says about its method, as opposed to its size.
METHOD = ("level", "relaxation", "topology", "init", "weights_on", "alpha_on", "beta_on", "arch_every", "penalty")
METHOD += ("mixed", "shrink", "shrink_none", "reset", "op_temperature", "edge_temperature")
METHOD += ("draw", "arch_draw")


def scaled(stages: list[dict[str, Any]], budget: str = "small", **more: Any) -> Recipe:
    search = {"stages": {f"s{i}": stage for i, stage in enumerate(stages)}}
    selection = {"edges": "magnitude"} | more.pop("selection", {})
    given = {"name": "n", "space": "darts", "search": search, "selection": selection}
    recipe = Recipe.model_validate(given | more)
    before = recipe.to_yaml()
    found = BUDGETS[budget](recipe, set())
    assert recipe.to_yaml() == before  # the recipe that was given is left alone
    return found


def epochs(stages: list[dict[str, Any]], budget: str = "small") -> list[int]:
    return [stage.epochs for stage in scaled(stages, budget).search.stages]


def recipe_file(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def by_the_general_rule(recipe: Recipe, budget: str) -> Recipe:
    """A budget without what the recipe itself says about it."""
    return Recipe.model_validate(BUDGETS[budget](recipe, set()).model_dump(mode="json"))


def test_paper_changes_nothing() -> None:
    recipe = load_recipe("dots")
    assert paper(recipe, set()) == recipe


@pytest.mark.parametrize("budget", LIMITS)
@pytest.mark.parametrize("name", recipe_names())
def test_sizes_are_capped_and_the_method_stays(name: str, budget: str) -> None:
    published, limits = load_recipe(name), LIMITS[budget]
    recipe = by_the_general_rule(published, budget)
    search, retrain = recipe.search, recipe.retrain
    unit = 2 * math.lcm(search.partial, *(stage.partial or 1 for stage in search.stages))
    assert search.channels == min(published.search.channels, math.ceil(limits.channels / unit) * unit)
    layers = NASBENCH201_LAYERS if recipe.space.name == "nasbench201" else limits.layers
    assert search.layers == min(published.search.layers, layers)
    assert search.batch_size == min(published.search.batch_size, limits.batch_size)
    for mine, whole in zip(search.stages, published.search.stages, strict=True):
        assert mine.batch_size == (None if whole.batch_size is None else min(whole.batch_size, limits.batch_size))
    assert (search.evaluation_batches or 0) <= limits.evaluation_batches
    assert (recipe.data.images or 0) <= limits.images and (recipe.data.test_images or 0) <= limits.test_images
    assert retrain.channels == min(published.retrain.channels, limits.retrain_channels)
    assert retrain.layers == min(published.retrain.layers, max(limits.retrain_layers, layers))
    assert retrain.epochs == min(published.retrain.epochs, limits.retrain_epochs)
    assert retrain.parameters is None
    assert retrain.test_every == limits.test_every and retrain.seeds == published.retrain.seeds[: limits.seeds]
    for mine, theirs in zip(search.stages, published.search.stages, strict=True):
        assert all(getattr(mine, key) == getattr(theirs, key) for key in METHOD)
        curve = theirs.weights.lr.scaled(mine.epochs / max(theirs.epochs, 1))
        assert mine.weights == theirs.weights.model_copy(update={"lr": curve})
        assert mine.layers is None if theirs.layers is None else mine.layers == min(theirs.layers, layers)
        assert mine.channels is None
        for part in ("alpha", "beta"):
            ours, published_part = getattr(mine, part), getattr(theirs, part)
            assert ours.lr.start == pytest.approx(published_part.lr.start * limits.arch_lr_factor)
            assert (ours.betas, ours.weight_decay) == (published_part.betas, published_part.weight_decay)
    mine, theirs = recipe.selection.projection, published.selection.projection
    scaled_alone = {"tune_epochs": mine.tune_epochs, "epochs": mine.epochs, "batches": mine.batches}
    changes: dict[str, Any] = {"projection": theirs.model_copy(update=scaled_alone)}
    if (trials := recipe.selection.trials) is not None and (whole := published.selection.trials) is not None:
        assert (trials.propose, trials.evaluate.name) == (whole.propose, whole.evaluate.name)
        trained = whole.evaluate.name == "training"
        assert trials.number == (min(whole.number or 0, limits.trials) if trained else whole.number)
        assert not trained or trials.evaluator.epochs == min(whole.evaluator.epochs, limits.trial_epochs)
        changes["trials"] = trials
    same_method = published.selection.model_copy(update=changes)
    assert (recipe.space, recipe.selection, recipe.search.head) == (
        published.space,
        same_method,
        published.search.head,
    )
    assert mine.tune_epochs == min(theirs.tune_epochs, limits.tune_epochs)
    assert mine.batches == limits.select_batches
    assert recipe.data.splits == published.data.splits


@pytest.mark.parametrize("budget", LIMITS)
@pytest.mark.parametrize("name", recipe_names())
def test_epochs_shrink_in_proportion(name: str, budget: str) -> None:
    published, mine = load_recipe(name).search.stages, by_the_general_rule(load_recipe(name), budget).search.stages
    factor = min(1.0, LIMITS[budget].epochs / max(sum(s.epochs for s in published), 1))
    for stage, original in zip(mine, published):
        parts = (stage.warmup, stage.epochs - stage.warmup)
        for part, whole in zip(parts, (original.warmup, original.epochs - original.warmup)):
            assert part == (0 if whole == 0 else max(1, round(whole * factor)))


@given(
    stages=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), min_size=1, max_size=5),
    budget=st.sampled_from(sorted(LIMITS)),
)
def test_any_epochs(stages: list[tuple[int, int]], budget: str) -> None:
    given_stages = [{"epochs": max(e, w), "warmup": w} for e, w in stages]
    found = scaled(given_stages, budget).search.stages
    total = sum(stage.epochs for stage in found)
    assert total <= max(LIMITS[budget].epochs, 0) + 2 * len(found)  # at most one more for each part that must stay
    for mine, theirs in zip(found, given_stages):
        assert 0 <= mine.warmup <= mine.epochs <= theirs["epochs"]
        assert (mine.epochs == 0) == (theirs["epochs"] == 0)  # zero stays zero, nothing vanishes
        assert (mine.warmup == 0) == (theirs["warmup"] == 0)
        assert (mine.warmup == mine.epochs) == (theirs["warmup"] == theirs["epochs"])


def test_epochs_that_fit_are_left_alone() -> None:
    assert epochs([{"epochs": 3}, {"epochs": 1, "warmup": 1}], "small") == [3, 1]
    assert epochs([{"epochs": SMALL.epochs * 30}, {"epochs": SMALL.epochs * 10}]) == [
        round(SMALL.epochs * 3 / 4),
        round(SMALL.epochs / 4),
    ]


@pytest.mark.parametrize("partial", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("budget", LIMITS)
def test_channels_stay_a_multiple_that_partial_channels_allow(partial: int, budget: str) -> None:
    recipe = load_recipe("darts-v1", [f"search.partial={partial}", f"search.channels={48 * partial}"])
    found = by_the_general_rule(recipe, budget)
    assert found.search.channels % (2 * partial) == 0
    assert found.search.channels >= LIMITS[budget].channels
    setup.check(found)


@pytest.mark.parametrize("budget", LIMITS)
def test_the_square_of_a_cutout_in_the_search_shrinks_with_the_images(budget: str) -> None:
    given = "search.stages.search.mechanisms.cutout.size=11"
    for overrides, wanted in (([], LIMITS[budget].resolution // 4), ([given], 11)):
        cutout = load_recipe("robustdarts-s1", overrides, budget=budget).search.stages[0].mechanisms.cutout
        assert cutout is not None and cutout.size == wanted < 16


@pytest.mark.parametrize("budget", LIMITS)
def test_channels_suit_the_partial_channels_of_every_stage(budget: str) -> None:
    recipe = load_recipe("drnas", budget=budget)
    assert [stage.partial for stage in recipe.search.stages] == [6, 4]
    assert recipe.search.channels == 24
    setup.check(recipe)


@pytest.mark.parametrize("budget", LIMITS)
def test_nasbench201_keeps_a_cell_in_each_stage_of_its_skeleton(budget: str) -> None:
    search = {"layers": 17, "stages": {"search": {"epochs": 2}}}
    more = {"selection": {"edges": "all"}, "retrain": {"layers": 17, "auxiliary": 0.0}}
    found = scaled([], budget, space="nasbench201", search=search, **more)
    assert found.search.layers == found.retrain.layers == NASBENCH201_LAYERS
    setup.check(found)


def narrow(nodes: int = 2, fault: bool = False) -> SpaceSpec:
    """A user's own space on the skeleton of NAS-Bench-201."""
    if fault:
        raise ZeroDivisionError("of a user's own")
    cell = CellSpec(1, nodes, complete_edges(1, nodes), ("skip_connect", "nor_conv_3x3"), output="last")
    return SpaceSpec("narrow", {"cell": cell}, "nasbench201", stem_multiplier=1)


@pytest.mark.parametrize("budget", LIMITS)
def test_the_skeleton_of_a_space_sets_the_layers_and_not_its_name(budget: str, tmp_path: Path) -> None:
    spaces.register("narrow", narrow)
    spaces.SPACES["nasbench201"] = functools.partial(spaces.get, "darts")
    own = recipe_file(tmp_path, "extends: nb201-darts\nname: mine\nspace: narrow\n")
    for recipe in (
        load_recipe(own, budget=budget),
        load_recipe(own, ["space.nodes=3"], budget),
        load_recipe("darts-v1", ["space=narrow", "selection.edges=all", "retrain.auxiliary=0.0"], budget),
    ):
        assert recipe.search.layers == recipe.retrain.layers == recipe.shallow.layers == NASBENCH201_LAYERS
        setup.check(recipe)
    other = load_recipe("darts-v1", ["space=nasbench201"], budget)
    assert other.search.layers == LIMITS[budget].layers
    setup.check(other)


@pytest.mark.parametrize("space", [{"name": "narrow", "fault": True}, {"name": "darts", "nodes": "many"}])
def test_a_space_that_cannot_be_built_is_left_for_the_check_to_refuse(space: Any) -> None:
    spaces.register("narrow", narrow)
    assert scaled([{"epochs": 1}], "smoke", space=space).search.layers == SMOKE.layers


def test_smoke_runs_on_digits_unless_told_otherwise() -> None:
    for name in ("dots", "quickstart"):
        data = load_recipe(name, budget="smoke").data
        assert (data.dataset, data.root, data.download, data.resolution) == ("digits", None, False, None)
    other = load_recipe("dots", ["data.dataset=folder", "data.root=photos"], budget="smoke").data
    assert (other.dataset, other.root, other.resolution) == ("folder", "photos", SMOKE.resolution)
    placed = load_recipe("darts-v1", ["data.root=photos"], budget="smoke").data
    assert (placed.dataset, placed.root, placed.resolution) == ("cifar10", "photos", SMOKE.resolution)
    kept = load_recipe("toponas-fixed-darts", budget="smoke").data
    assert set(kept.splits) == {"train", "val_alpha", "val_beta"}
    assert (kept.images, kept.test_images) == (SMOKE.images, SMOKE.test_images)


@pytest.mark.parametrize(("crop", "wanted"), [("null", None), ("true", True), ("false", False), ("9", 2), ("1", 1)])
def test_a_budget_scales_the_pixels_of_random_crops(tmp_path: Path, crop: str, wanted: bool | int | None) -> None:
    path = recipe_file(tmp_path, f"extends: dots\nname: mine\ndata: {{crop: {crop}}}\n")
    assert load_recipe(path, budget="small").data.crop is wanted
    assert load_recipe(path, ["data.crop=9"], budget="small").data.crop == 9


def test_small_keeps_the_dataset_and_scales_its_images() -> None:
    data = load_recipe("dots", budget="small").data
    assert (data.dataset, data.resolution, data.images) == ("cifar10", SMALL.resolution, SMALL.images)


def test_all_images_at_their_size_are_an_override_away() -> None:
    whole = ["data.dataset=folder", "data.resolution=64", "data.images=null", "data.test_images=null"]
    data = load_recipe("dots", whole, budget="small").data
    assert (data.resolution, data.images, data.test_images) == (64, None, None)


def test_a_dataset_given_as_override_counts_for_the_sizes() -> None:
    assert load_recipe("dots", ["data.dataset=digits"], budget="small").data.resolution is None  # 8 × 8 as they are
    assert load_recipe("quickstart", ["data.dataset=cifar10"], budget="small").data.resolution == SMALL.resolution


def test_overrides_win_over_a_budget() -> None:
    wanted = ["search.channels=24", "retrain.seeds=[5]", "data.images=40", "search.stages.topology.epochs=9"]
    recipe = load_recipe("dots", wanted, budget="smoke")
    assert (recipe.search.channels, recipe.retrain.seeds, recipe.data.images) == (24, (5,), 40)
    assert recipe.search.stages[-1].epochs == 9


def test_a_recipe_refines_a_budget(tmp_path: Path) -> None:
    text = "extends: dots\nname: mine\nbudgets:\n  smoke: {search: {channels: 6, stages: {topology: {epochs: 4}}}}\n"
    path = recipe_file(tmp_path, text)
    refined, published = load_recipe(path, budget="smoke"), load_recipe(path)
    assert (refined.search.channels, refined.search.stages[-1].epochs) == (6, 4)
    assert refined.search.layers == SMOKE.layers  # the rest of the budget holds
    assert (published.search.channels, published.search.stages[-1].epochs) == (16, 20)
    assert load_recipe(path, budget="small").search.channels == SMALL.channels
    assert load_recipe(path, ["search.channels=10"], budget="smoke").search.channels == 10


@pytest.mark.parametrize(("budget", "wanted"), [("paper", (32, 128)), ("small", (32, 32)), ("smoke", (8, 8))])
def test_what_is_summed_over_micro_batches_still_is(tmp_path: Path, budget: str, wanted: tuple[int, int]) -> None:
    search = "{batch_size: 256, micro_batch: 32, stages: {topology: {batch_size: 512}}}"
    text = f"extends: dots\nname: mine\nsearch: {search}\nretrain: {{batch_size: 1024, micro_batch: 128}}\n"
    recipe = load_recipe(recipe_file(tmp_path, text), budget=budget)
    assert (recipe.search.micro_batch, recipe.retrain.micro_batch) == wanted
    assert load_recipe("dots", budget=budget).retrain.micro_batch is None


def test_learning_rates_of_the_architecture_move_further_in_fewer_steps() -> None:
    curve = {"shape": "cosine", "start": 1e-3, "end": 0.0}
    found = scaled([{"epochs": 50, "alpha": {"lr": curve, "betas": [0.9, 0.99]}}, {"epochs": 1, "beta": {"lr": 1}}])
    first, second = found.search.stages
    factor = SMALL.arch_lr_factor
    assert (first.alpha.lr.shape, first.alpha.lr.start, first.alpha.lr.end) == ("cosine", 1e-3 * factor, 0.0)
    assert first.alpha.betas == (0.9, 0.99)
    assert first.beta.lr.start == second.alpha.lr.start == pytest.approx(3e-4 * factor)
    assert second.beta.lr.start == factor


def test_what_is_wrong_in_a_file_is_said_before_it_is_scaled(tmp_path: Path) -> None:
    path = recipe_file(tmp_path, "extends: darts-v1\nsearch: {channels: many, stages: {search: {epochs: all}}}\n")
    for budget in ("paper", "small", "smoke"):
        with pytest.raises(
            RecipeError, match=r"channels: input should be a valid integer.*search.epochs: input should"
        ):
            load_recipe(path, budget=budget)


@pytest.mark.parametrize(
    ("given", "small_seeds", "smoke_seeds"),
    [(None, (0, 1, 2), (0,)), ((7,), (7,), (7,)), ((5, 3, 9, 1), (5, 3, 9), (5,)), ((0,), (0,), (0,))],
)
def test_seeds_of_the_file_are_kept(given: Any, small_seeds: tuple[int, ...], smoke_seeds: tuple[int, ...]) -> None:
    """The first of them; a budget adds none, and fills in its own where the file names none."""
    retrain = {} if given is None else {"seeds": given}
    for budget, expected in (("small", small_seeds), ("smoke", smoke_seeds)):
        assert scaled([{"epochs": 1}], budget, retrain=retrain).retrain.seeds == expected


def decisions(budget: str, epochs: int, **options: Any) -> tuple[int, int, int | None]:
    """First, every and batches of progressive decisions under a budget."""
    stage = {"epochs": epochs, "mechanisms": {"progressive": options}}
    plan = scaled([stage], budget).search.stages[0].mechanisms.progressive
    assert plan is not None
    return plan.first, plan.every, plan.batches


def test_decisions_move_forward_with_the_epochs() -> None:
    assert decisions("small", 50, first=9) == (5, 3, None)
    assert decisions("smoke", 50, first=9) == (0, 1, None)
    assert decisions("small", 4, first=1, every=2) == (1, 2, None)
    assert decisions("small", 4, first=1, every=2, decide_by="perturbation") == (1, 2, SMALL.select_batches)


def test_an_early_stop_moves_forward_with_the_epochs() -> None:
    for budget, options, expected in (
        ("small", {"stable": 10, "first": 10}, (6, 6)),
        ("smoke", {"stable": 10, "first": 10}, (1, 0)),
        ("small", {"skips": 2, "first": 5}, (None, 3)),
    ):
        stop = scaled([{"epochs": 50, "mechanisms": {"early_stop": options}}], budget).search.stages[0]
        assert stop.mechanisms.early_stop is not None
        assert (stop.mechanisms.early_stop.stable, stop.mechanisms.early_stop.first) == expected


def test_the_epochs_of_tuning_shrink_with_those_between_decisions() -> None:
    for options, expected in (
        ({"tune_epochs": 5, "epochs": 25}, (1, 5, SMALL.select_batches)),
        ({"tune_epochs": 1, "epochs": 9, "batches": 2}, (1, 9, 2)),
    ):
        found = scaled([{"epochs": 1}], "small", selection={"projection": options}).selection.projection
        assert (found.tune_epochs, found.epochs, found.batches) == expected


def test_a_section_that_a_budget_has_set_to_nothing_can_be_set_again() -> None:
    """What a checked recipe has as null takes keys by override, as what a file does not name."""
    key = "search.stages.search.mechanisms.perturbation.kind=adversarial"
    for budget in ("paper", "small", "smoke"):
        perturbation = load_recipe("darts-v1", [key], budget).search.stages[0].mechanisms.perturbation
        assert perturbation is not None and perturbation.kind == "adversarial"


def test_smoke_is_smaller_than_small() -> None:
    assert set(BUDGETS) == {"paper", *LIMITS}
    assert all(getattr(SMOKE, key) <= getattr(SMALL, key) for key in Limits.__dataclass_fields__)

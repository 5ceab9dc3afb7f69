"""What a recipe names is checked before anything starts: here the depth of its networks."""

from collections.abc import Sequence

import pytest

from topocell.config.load import load_recipe
from topocell.errors import RecipeError
from topocell.runs.run import notes_of
from topocell.runs.setup import check, prepared
from topocell.spaces.skeletons import SKELETONS, layout, least_layers, stacking, unplaced

SMALL = ["data.images=24", "data.test_images=10", "space.nodes=1"]


@pytest.mark.parametrize("skeleton", sorted(SKELETONS))
@pytest.mark.parametrize("above", range(1, 7))
def test_the_least_depth_has_each_type_and_none_below_does(skeleton: str, above: int) -> None:
    least = least_layers(skeleton, above)
    assert least is not None and least > above
    assert {slot.cell_type for slot in layout(skeleton, 4, least)} == set(stacking(skeleton).strides)
    between = [layers for layers in range(above + 1, least) if skeleton == "darts" or layers in (5, 8, 11)]
    assert all(unplaced(skeleton, layers) for layers in between)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("key", ["search.layers", "search.stages.search.layers"])
def test_a_supernet_without_a_normal_cell_is_refused(key: str, layers: int) -> None:
    recipe = load_recipe("darts-v1", [*SMALL, f"{key}={layers}"], "smoke")
    with pytest.raises(RecipeError, match=f"no normal cell in {key}={layers}; the least that has is {key}=3"):
        check(recipe)


@pytest.mark.parametrize(("cutout", "word"), [(0, ""), (7, ""), (8, "most"), (15, "most"), (16, "all")])
def test_a_cutout_of_whole_images_is_said(cutout: int, word: str) -> None:
    """That of the papers, 16 of 32 pixels, leaves nothing of digits of 8."""
    in_retraining = prepared(load_recipe("darts-v1", [*SMALL, f"retrain.cutout={cutout}"], "smoke"))
    key = "search.stages.search.mechanisms.cutout"
    size = [f"{key}={{size: {cutout}, probability: 1.0}}"] * (cutout > 0)
    in_search = prepared(load_recipe("darts-v1", [*SMALL, "retrain.cutout=0", *size], "smoke"))
    for setup, named in ((in_retraining, "retrain.cutout"), (in_search, f"{key}.size")):
        line = f"{named}={cutout} blanks {word} of a training image of 8 pixels; {named}=4 is usual"
        assert setup.cutout_notes == [line] * bool(word) and (line in notes_of(setup)) == bool(word)


@pytest.mark.parametrize(("layers", "notes"), [(1, 1), (2, 1), (3, 0), (5, 0)])
def test_a_retrained_network_without_a_normal_cell_is_said(layers: int, notes: int) -> None:
    said: Sequence[str] = prepared(load_recipe("darts-v1", [*SMALL, f"retrain.layers={layers}"], "smoke")).depth_notes
    assert len(said) == notes
    assert all(f"retrain.layers={layers} has no normal cell" in note for note in said)

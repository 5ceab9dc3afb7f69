"""Numbers that are not finite, in real runs: found at the step, said in one line, and never in a saved state."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faults.pipelines import Workshop, copied, one_line, run
from tests.faults.record import Tally
from tests.helpers.identical import flat

from topocell.io import checkpoint

#: Where a broken image strikes (see `injected.broken_image`), and how the place is called.
PLACES = {
    "operations weights": ("stage 'operations', epoch 1, step 0", ["operations weights", 1, 0]),
    "operations alpha": ("stage 'operations', epoch 1, step 0", ["operations alpha", 1, 0]),
    "topology": ("stage 'topology', epoch 0, step 0", ["topology weights", 0, 0]),
    "retraining": ("retraining with seed 3, epoch 0, step 1", ["retrain", 0, 1]),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_broken_image_stops_the_run_which_goes_on_without_it_when_told_to(
    place: str, full: bool, workshop: Workshop, tally: Callable[[str], Tally], tmp_path: Path
) -> None:
    name, (words, options) = "two-stage DOTS", PLACES[place]
    if place != "operations weights" and not full:
        pytest.skip("only in the full form: make faults")
    faults = tally("broken image")
    fault = ["broken image", dict(zip(("stream", "epoch", "step"), options, strict=True))]
    (tmp_path / "stop").mkdir()
    path = tmp_path / "stop/run"
    code, _ = workshop.forked(run(name, path), "0", fault=fault)
    assert code == 2 and one_line(workshop.said), workshop.said
    assert words in workshop.said and "image " in workshop.said and "on_nan=skip" in workshop.said
    saved = sound_states(path)
    assert workshop.forked(run(name, path), "0", fault=fault)[0] == 2  # the same again, from the same state
    assert sound_states(path) == saved
    for on_nan in ("skip", "rollback"):
        faults.injected += 1
        (tmp_path / on_nan).mkdir()
        gone_on, whole = copied(path, tmp_path / on_nan), tmp_path / on_nan / "whole" / "run"
        whole.parent.mkdir()
        for out in (gone_on, whole):
            code, _ = workshop.forked([*run(name, out), f"on_nan={on_nan}"], "0", fault=fault)
            assert code == 0, (on_nan, workshop.said)
        skipped = [json.loads(line).get("skipped") for line in (whole / "metrics.jsonl").read_text().splitlines()]
        assert [count for count in skipped if count] == [1] * (2 if place == "retraining" else 1)  # of each seed
        assert f"on_nan={on_nan}" in (whole / "log.txt").read_text()
        if on_nan == "skip":  # a rollback that is asked for in mid-epoch goes back to that moment
            assert (gone_on / "results.json").read_bytes() == (whole / "results.json").read_bytes()
        faults.survived += 1
        shutil.rmtree(tmp_path / on_nan)


def sound_states(path: Path) -> list[str]:
    """Names of the states that were saved, which hold nothing that is not finite."""
    found = sorted(path.glob("checkpoints/[0-9]*.ckpt"))
    for file in found:
        state = checkpoint.load(file)["state"]["state"]
        for part in ("net", "arch"):
            for tensor in (state or {}).get(part, {}).values():
                if hasattr(tensor, "isfinite"):
                    assert tensor.isfinite().all(), file
    assert found
    return [file.name for file in found if flat(checkpoint.load(file))]


RATES = {
    "search.stages.operations.weights": "lower search.stages.operations.weights.lr",
    "retrain.weights": "lower retrain.weights.lr",
}


@pytest.mark.parametrize("key", RATES)
def test_a_learning_rate_that_is_too_large_is_named(
    key: str, full: bool, workshop: Workshop, tally: Callable[[str], Tally], tmp_path: Path
) -> None:
    if key != "retrain.weights" and not full:
        pytest.skip("only in the full form: make faults")
    faults = tally("learning rate too large")
    for on_nan in ("stop", "skip"):
        path = tmp_path / on_nan
        changes = [f"{key}.lr={{start: 1e+38}}", f"{key}.clip=null", "retrain.epochs=8", f"on_nan={on_nan}"]
        faults.injected += 1
        code, _ = workshop.forked([*run("two-stage DOTS", path), *changes], "0")
        assert code == 2 and one_line(workshop.said) and RATES[key] in workshop.said, workshop.said
        sound_states(path)
        faults.survived += 1

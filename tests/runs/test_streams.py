"""A run on streamed images that is killed in the middle of an epoch, and resumed by another number of workers."""

import signal
from pathlib import Path

from tests.helpers.forked import Forked
from tests.helpers.identical import assert_same_run
from tests.helpers.image_tree import BROKEN, make_tree

from topocell.networks.classifier import load


def command(root: Path, workers: int, out: Path) -> list[str]:
    data = [f"data.root={root}", "data.dataset=imagenet", "data.store=stream", "data.unreadable=skip"]
    data += ["data.jitter=[0.4, 0.4, 0.4, 0.2]", "data.class_balanced=true", f"data.workers={workers}"]
    small = ["space.nodes=2", "search.batch_size=4", "retrain.batch_size=8", "--budget", "smoke", "--quiet"]
    return ["run", "dots", *data, *small, "--out", str(out)]


def test_a_killed_run_ends_in_the_same_bits_with_any_workers(forked: Forked, tmp_path: Path) -> None:
    special = make_tree(tmp_path / "tree", classes=4, train=8, odd=True, broken=True, flat="LOC_val_solution.csv")
    whole, broken = tmp_path / "whole/run", tmp_path / "broken/run"
    assert forked(command(tmp_path / "tree", 0, whole)) == (0, ""), forked.errors.read_text()
    for workers, count, place in (
        (0, 2, "search 1/3 operations"),
        (1, 8, "search 2/3 topology-warmup"),
        (0, 12, "retrain, seed 1/1"),
    ):
        code, where = forked(command(tmp_path / "tree", workers, broken), "0", event="step", count=count)
        assert (code, where) == (-signal.SIGKILL, place), forked.errors.read_text()
    assert forked(command(tmp_path / "tree", 0, broken)) == (0, ""), forked.errors.read_text()
    assert_same_run(broken, whole)
    log = (whole / "log.txt").read_text()
    assert f"{len(BROKEN)} images cannot be read and left out" in log and "images are streamed from their files" in log
    assert all(name in log for name, kind in special.items() if kind in BROKEN)
    told = [line.split(",") for line in (whole / "predictions.csv").read_text().splitlines()[1:]]
    found = load(whole).predict([tmp_path / "tree" / name for name, *_ in told])
    assert found.labels == [predicted for _, _, predicted, _ in told]

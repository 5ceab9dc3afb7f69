"""The benchmarks on tiny sizes: what they count is right, what they compare is the same, and where results go."""

import re
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import all as every
from benchmarks import data_path, fixed_network, gpu, gpu_checks, gpu_steps, measure, stream, supernet
from benchmarks import kernels as kernels_benchmark
from benchmarks.supernet import OURS, PUBLISHED, Ours, Published
from tests.helpers.image_tree import make_tree
from torch import nn

from topocell import spaces
from topocell.data.augment import augment
from topocell.data.stream import close_streams
from topocell.nn.kernels.cpu import instruction_set, kernels, offered
from topocell.nn.kernels.cpu.isa import NONE
from topocell.runtime.memory import DispatcherCalls, LiveBytes, SavedBytes

TINY = replace(
    supernet.DARTS, space=spaces.get("darts", nodes=1), channels=4, layers=1, batch=2, resolution=8, saved=None
)
KILO = 4 * 256  # bytes of the float32 maps below


# --- the meters, on graphs whose costs are known


def test_saved_bytes_are_those_of_a_graph_by_hand() -> None:
    """x·w saves x and w, sin saves its input, + saves nothing; a view is no storage of its own."""
    w = nn.Parameter(torch.randn(256))
    x = torch.randn(256)
    with SavedBytes([w]) as saved:
        y = (x * w).sin()
    assert saved.total == 2 * KILO  # x and x·w
    with SavedBytes([w, x]) as saved:
        y = (x * w).view(16, 16).sin().cos() + 1.0
    assert saved.total == 2 * KILO  # x·w, and its sine
    with SavedBytes([w]) as saved:
        y = x[:128] * w[:128] + x[128:] * w[128:]
    assert saved.total == KILO  # x once, for all of its halves
    assert y.requires_grad
    with SavedBytes() as saved, torch.no_grad():
        x * w
    assert saved.total == 0


def test_saved_bytes_count_what_functions_of_our_own_save() -> None:
    class Keeps(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x.double(), x)
            return x.clone()

    x = torch.randn(256, requires_grad=True)
    with SavedBytes() as saved:
        Keeps.apply(x)
    assert saved.total == 3 * KILO


def test_dispatcher_calls_count_forward_and_backward() -> None:
    x, ones = torch.randn(256, requires_grad=True), torch.ones(256)
    with DispatcherCalls() as calls:
        y = x.sin()
    assert calls.total == 1
    with DispatcherCalls() as calls:
        torch.autograd.grad(y, x, ones)
    assert calls.total == 2  # cos and mul


def test_live_bytes_follow_tensors_to_their_end() -> None:
    x = torch.randn(256)
    with LiveBytes() as alive:
        y = x + 1
        z = (y + 1).sum()  # at its peak: y and y + 1
        part = y[:10]
        del y
        assert alive.live == KILO + 4  # the view keeps its base
        del part
        assert alive.live == 4
        x.add_(1)
        assert alive.live == KILO + 4  # a tensor of before, written to
    assert alive.peak >= 2 * KILO + 4
    assert alive.peak == 2 * KILO + 4
    assert z.numel() == 1


# --- timing and results


def test_calls_are_made_in_turn_and_the_first_round_is_not_timed() -> None:
    made: list[str] = []
    found = measure.in_turn({"a": lambda: made.append("a"), "b": lambda: made.append("b")}, 2)
    assert made == ["a", "b"] * 3
    assert set(found) == {"a", "b"} and all(t.wall >= 0 and t.cpu >= 0 for t in found.values())
    total = found["a"] + found["b"]
    assert total.wall == found["a"].wall + found["b"].wall


def test_ratios_are_judged_by_their_bars() -> None:
    assert measure.versus(4.1, 4, True) == "4.10 (bar ≥ 4: met)"
    assert measure.versus(3.9, 4, True) == "3.90 (bar ≥ 4: missed)"
    assert measure.versus(0.4, 0.5, False) == "0.40 (bar ≤ 0.5: met)"
    assert measure.versus(0.6, 0.5, False) == "0.60 (bar ≤ 0.5: missed)"


def test_a_section_is_replaced_and_the_others_stay(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "RESULTS.md"
    for name, body in (("One", "first"), ("Two", "second"), ("One", "third")):
        measure.write_section(path, name, body)
    text = path.read_text()
    name = instruction_set().name
    assert re.findall(r"(?m)^## (.*)", text) == [f"One, {name}", f"Two, {name}"]
    assert "first" not in text and text.index("third") < text.index("## Two") < text.index("second")
    assert text.startswith("# Benchmark results\n") and text.count("Measured on: ") == 2
    monkeypatch.setattr(measure, "instruction_set", lambda: NONE)
    measure.write_section(path, "One", "another set")
    assert "third" in path.read_text() and "another set" in path.read_text()
    assert f"torch {torch.__version__}" in measure.machine() and "cores" in measure.machine()
    capsys.readouterr()


# --- the supernet


def test_what_is_compared_is_the_same_function() -> None:
    subjects = supernet.subjects_of(replace(TINY, space=spaces.get("darts", nodes=2), layers=2))
    losses = [float(subject.forward(update).detach()) for subject in subjects.values() for update in supernet.UPDATES]
    for update in range(2):
        assert losses[update::2] == pytest.approx([losses[update]] * 3, rel=1e-3)
    assert losses[0] != losses[1]  # other images


def test_only_ours_leaves_out_what_an_update_does_not_need() -> None:
    saved = {}
    for build in (lambda: Published(TINY, torch.contiguous_format), lambda: Ours(TINY)):
        subject = build()
        for update in supernet.UPDATES:
            with SavedBytes(subject.net.parameters()) as found:
                loss = subject.forward(update)
            saved[type(subject), update] = found.total
            subject.backward(update, loss)
    assert saved[Published, "alpha"] == saved[Published, "weights"]
    assert saved[Ours, "alpha"] != saved[Ours, "weights"]
    assert max(saved[Ours, u] for u in supernet.UPDATES) < saved[Published, "alpha"]


def test_steps_move_weights_and_architecture() -> None:
    for subject in (Published(TINY, torch.channels_last), Ours(TINY)):
        for update, moved in (("alpha", subject.arch.alpha["reduce"]), ("weights", next(subject.net.parameters()))):
            before = moved.detach().clone()
            subject.step(update)
            assert not torch.equal(moved, before)


def test_the_supernet_benchmark_writes_its_sections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    bars = {"faster_than_a": {instruction_set().name: 4.0}, "faster_than_b": {}}
    monkeypatch.setattr(supernet, "CASES", {"darts": replace(TINY, saved=0.9, **bars)})
    monkeypatch.setattr(supernet, "DARTS", TINY)
    monkeypatch.setattr(supernet, "GROWTH_BASE", TINY)
    monkeypatch.setattr(supernet, "GROWTH_SIZES", dict.fromkeys(supernet.GROWTH, (2,)) | {"channels": (4,)})
    path = tmp_path / "RESULTS.md"
    supernet.main(["--repetitions", "1", "--cpu-time", "--batch", "3", "--out", str(path)])
    text = path.read_text()
    assert re.findall(r"(?m)^## (.*)", text) == [
        f"Supernet: {section}, {instruction_set().name}" for section in ("darts", "variants", "growth")
    ]
    assert text.count("batch 3") == 3
    first = text.split("## ")[1]
    for name in (PUBLISHED, supernet.LAST, OURS):
        assert re.search(
            rf"(?m)^\| {re.escape(name)} \|( [\d.e-]+ s \([\d.e-]+ s CPU\) \|){{3}} [\d.]+ MB \| [\d,]+ \|", first
        )
    assert re.search(r"times faster than \(a\): [\d.]+ \(bar ≥ 4: ", first)
    assert re.search(r"(?m)times faster than \(b\): [\d.]+$", first)
    assert re.search(r"saved, share of \(a\): 0\.\d\d \(bar ≤ 0\.9: met\)", first)
    for name in ("w step", "bilevel", "unrolled", "GDAS", "memory: low", "precision: bf16"):
        assert re.search(rf"(?m)^\| {name} \| [\d.e-]+ s ", text)
    for axis in supernet.GROWTH:
        assert re.search(rf"(?m)^\| {axis} \| \d+ \|", text)
    capsys.readouterr()


def test_every_case_is_one_that_can_be_built() -> None:
    for case in supernet.CASES.values():
        with torch.device("meta"):
            supernet.Supernet(case.space, case.channels, case.layers, 10)
    pairs = supernet.two_candidates().cells["normal"].candidates
    assert {len(ops) for ops in pairs} == {2} and len({op for ops in pairs for op in ops}) == 7


# --- data and retraining


def test_both_data_paths_make_the_same_kind_of_batch() -> None:
    data = data_path.random_images(8)
    theirs, labels = next(iter(data_path.loader(data, 8, workers=0)))
    ours, _ = data_path.batches_of(data, 8, torch.device("cpu")).batch(0, 0)
    assert theirs.shape == ours.shape and theirs.dtype == ours.dtype and sorted(labels) == sorted(data.labels)
    pictures = data_path.Pictures(data)
    pictures.transform.transforms = [t for t in pictures.transform.transforms if "Random" not in type(t).__name__][:-1]
    mean, std = data_path.CIFAR10_STATISTICS
    torch.testing.assert_close(pictures[3][0], augment(data.images, mean, std, None, None)[3], rtol=1e-4, atol=1e-5)
    for batch in (theirs, ours):
        hidden = (batch == 0).all(1).flatten(1).sum(1)
        assert (hidden >= (data_path.CUTOUT // 2) ** 2).all()


def test_the_plain_network_is_the_same_network() -> None:
    torch.manual_seed(0)
    net = fixed_network.FixedNet(fixed_network.DARTS_V2, 4, 2, 10).eval()
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        ours = net(x)
        plain = fixed_network.plain_modules(net)
        torch.testing.assert_close(plain(x), ours, rtol=1e-4, atol=1e-5)
    kinds = {type(module) for module in plain.modules() if isinstance(module, nn.Conv2d)}
    assert kinds == {nn.Conv2d}


def test_the_other_benchmarks_write_their_sections(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = ["--repetitions", "1", "--workers", "0", "--out", str(tmp_path / "RESULTS.md")]
    data_path.main(["--images", "20", "--batch", "8", *out])
    monkeypatch.setattr(fixed_network, "CASES", {"tiny": fixed_network.Case(1, 4, 2, 16)})
    fixed_network.main(["--ways", "fp32", "bf16", "--steps", "1", "--cpu-time", *out])
    text = (tmp_path / "RESULTS.md").read_text()
    name = instruction_set().name
    assert re.findall(r"(?m)^## (.*)", text) == [f"Data path, {name}", f"Retraining, {name}"]
    assert re.search(r"(?m)^\| DataLoader \| [\d,]+ \|\n\| on the device \| [\d,]+ \|", text)
    assert re.search(r"- times as many: [\d.]+ \(bar ≥ 10: ", text)
    judged = r" \(bar ≥ 2: " if name in ("avx512", "avx2") else r" \|"
    assert re.search(r"(?m)^\| tiny \| .* \| fp32 \| .* s CPU\) \| .* s CPU\) \| [\d.]+" + judged, text)
    assert re.search(r"(?m)^\| tiny \| .* \| bf16 \| .* \| [\d.]+ \|", text)
    capsys.readouterr()


@pytest.mark.skipif(kernels(16, torch.zeros(1)) is None, reason="there are no compiled kernels here")
def test_the_kernels_are_measured_beside_the_machine(
    tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels_benchmark, "MAPS", ((6, 4),))
    kernels_benchmark.main(["--repetitions", "1", "--batch", "2", "--out", str(tmp_path / "RESULTS.md")])
    text = (tmp_path / "RESULTS.md").read_text()
    assert len(re.findall(r"(?m)^\| (?:forward|input gradient|all gradients) .* ms \| \d+ \| [\d.]+ \|$", text)) == 12
    assert re.search(r"reach \d+ GFLOP/s and [\d.]+ GB/s here", text)
    capsys.readouterr()


def test_every_set_has_its_limits_and_its_benchmarks() -> None:
    assert {known.name for known in offered()} <= set(every.LIMITS)
    assert every.environment("avx2")["TOPOCELL_ISA"] == "avx2"


# --- what a GPU has to show, tried on a CPU


CPU = torch.device("cpu")


def gpu_items(*names: str) -> list[gpu.Item]:
    return [gpu.own("b" if name.startswith("steps") else "a", name, 60) for name in names]


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Items are done without processes of their own; commands of topocell do nothing but take too long."""
    commands: list[list[str]] = []

    def called(command: Any, limit: float, grace: float) -> tuple[int | None, float, str]:
        commands.append([*command])
        if "topocell" in command:
            return None, limit, ""
        try:
            return gpu.main(command[3:]), 1.0, ""
        except Exception as fault:
            return 1, 1.0, f"Traceback\n{type(fault).__name__}: {fault}"

    monkeypatch.setattr(gpu, "called", called)
    monkeypatch.setenv("TOPOCELL_NATIVE", "0")
    return commands


def test_the_gpu_benchmark_notes_all_that_it_did_and_did_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_this_process: list[list[str]]
) -> None:
    monkeypatch.setattr(gpu_steps, "SEARCHES", {"tiny": (TINY, "softmax")})
    monkeypatch.setattr(gpu_steps, "tiny", lambda case: case)
    every = [*gpu_items("captured:gdas", "recipe:absent", "steps:tiny", "steps:cells at once"), gpu.fused("cpu")]
    every += [*gpu.searches("cpu", False, None, {"edarts": 1.0}, tmp_path)]
    every += [gpu.known("nb201-dots", 0, "cpu", True, None, Path("table.csv"), tmp_path)]
    monkeypatch.setattr(gpu, "items", lambda *_: every)
    options = ["--device", "cpu", "--minutes", "30", "--out", str(tmp_path)]
    assert gpu.main(options) == 1
    status = {name: record["status"] for name, record in gpu.Results(tmp_path).records.items()}
    assert status == {
        "captured:gdas": "done",
        "recipe:absent": "failed",
        "steps:tiny": "done",
        "steps:cells at once": "done",
        "fused kernels": "cannot",
        "edarts": "cannot",
        "nb201-dots, seed 0": "unfinished",
    }
    report = (tmp_path / "report.md").read_text()
    assert "| captured | gdas | equal, bit by bit |" in report and report.count("| tiny | ours") == 4
    assert report.count("cells of topology-bench | one after the other |") == report.count("bench | as one |") == 2
    for line in ("recipe:absent: failed, .*RecipeError", "edarts: cannot, needs training images", "seed 0: unfinished"):
        assert re.search(line, report.partition("## Not done")[2])
    begun = len(in_this_process)
    gpu.main(options)
    words = "recipe:absent", "nb201-dots"
    again = [next(word for word in command if word in words) for command in in_this_process[begun:]]
    assert again == ["recipe:absent", "nb201-dots"]  # what is done stays


def test_the_gpu_benchmark_keeps_to_its_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "items", lambda *_: gpu_items("engine"))
    assert gpu.main(["--device", "cpu", "--minutes", "0.1", "--out", str(tmp_path)]) == 0
    assert "engine: not reached" in (tmp_path / "report.md").read_text()
    script = "echo begun; trap 'echo saved; kill $!; exit 0' TERM; sleep 60 & wait"
    code, seconds, said = gpu.called(["sh", "-c", script], 0.5, 5)
    assert code is None and seconds < 5 and said == "begun\nsaved\n"
    assert gpu.called(["sh", "-c", "exit 3"], 5, 5)[0] == 3


def test_the_gpu_benchmark_asks_for_a_gpu(tmp_path: Path, capsys: Any) -> None:
    if not torch.cuda.is_available():
        assert gpu.main(["--out", str(tmp_path)]) == 2
        assert "no GPU is found; use --device cpu" in capsys.readouterr().err


def test_the_gpu_benchmark_finds_the_images_of_a_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "given.zip", "w") as archive:
        for split in ("train", "test"):
            archive.writestr(f"cifar10/{split}/a/1.jpg", b"")
    assert gpu.unpacked(tmp_path / "given.zip", tmp_path) == tmp_path / "images/cifar10"
    assert gpu.unpacked(tmp_path, tmp_path) == tmp_path and gpu.unpacked(None, tmp_path) is None


def test_every_item_of_the_gpu_benchmark_has_a_name_of_its_own(tmp_path: Path) -> None:
    every = list(gpu.items("cuda", False, tmp_path, tmp_path / "table", tmp_path))
    assert len({item.name for item in every}) == len(every) > 100
    assert all(item.limit >= gpu.LEAST for item in every if not item.lacks)


def test_the_gpu_checks_say_what_differs(in_this_process: list[list[str]]) -> None:
    assert "differ" in gpu_checks.difference(spaces.get("s2"), CPU, torch.float32, 1e-12)
    assert gpu_checks.difference(spaces.get("s2"), CPU, torch.float64, 1e-9) == "equal"
    draws = iter(range(9))
    (found,) = [gpu_checks._compared("mine", lambda how: {"state": next(draws)}, CPU)]
    assert not found.fine and found.found.startswith("called steps differ among themselves")


@pytest.mark.parametrize(("workers", "title"), [(0, "Streamed images by processor time, "), (1, "Streamed images, ")])
def test_streamed_images_are_compared_with_a_folder_of_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, title: str
) -> None:
    monkeypatch.setenv("TOPOCELL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(stream, "SIZES", ((40, 30), (30, 40)))
    out = tmp_path / "RESULTS.md"
    words = ["--images", "48", "--batch", "8", "--side", "16", "--repetitions", "1", "--workers", str(workers)]
    stream.main([*words, "--out", str(out)])
    text = out.read_text()
    assert f"## {title}" in text
    assert text.count("(bar ≥ 1: ") == text.count("(bar ≥ 3: ") == 2 and "| crop, flip and colour jitter |" in text
    make_tree(tmp_path / "tree", stream.CLASSES, 2, 1, sizes=stream.SIZES)
    theirs = stream.theirs(tmp_path / "tree", 4, 16, workers, False)
    ours = stream.ours(tmp_path / "tree", 4, 16, workers, False, None)
    assert [Path(path).name for path, _ in theirs.dataset.samples] == [Path(name).name for name in ours.data.names]
    x, mine = torch.stack([theirs.dataset[i][0] for i in range(4)]), ours.batch(0, 0)[0]
    close_streams()
    assert x.shape == mine.shape and x.dtype == mine.dtype and abs(float(x.mean()) - float(mine.mean())) < 1

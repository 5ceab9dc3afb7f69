"""What people do with a GPU: commands, Python, wrappers. TOPOCELL_TEST_DEVICE=cpu goes the same ways on a CPU."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tests.helpers.golden_genotypes import DARTS_V2
from torch import nn

import topocell
from topocell import api, spaces
from topocell.config.load import load_recipe
from topocell.nn.network import FixedNet
from topocell.supernet import Supernet
from topocell.supernet.arch_state import ArchState

DEVICE = os.environ.get("TOPOCELL_TEST_DEVICE", "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        DEVICE == "cuda" and not torch.cuda.is_available(),
        reason="needs a GPU that CUDA can use (or a CPU, if told so)",
    ),
]
ROOT = Path(__file__).parents[2]
#: A retraining whose epochs take long enough to be stopped in the middle.
LONG = ("retrain.epochs=80", "retrain.test_every=80")


def command(*words: str, stop: Path | None = None, launcher: tuple[str, ...] = (), code: int = 0) -> str:
    """What a command of topocell says; with `stop` it is told to stop in the retraining of which that log tells."""
    call = [sys.executable, *launcher, "-m", "topocell", *words]
    with subprocess.Popen(call, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        end = time.monotonic() + 120
        while stop is not None and process.poll() is None and time.monotonic() < end:
            if stop.exists() and "seed 0 epoch 3" in stop.read_text():
                break
            time.sleep(0.05)
        if stop is not None:
            process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=240)
    assert process.returncode == code and "Traceback" not in said, said
    return said


@pytest.fixture
def photos(tmp_path: Path) -> Iterator[Path]:
    """Three classes of 40 images in PNG files, told apart by their colour."""
    draw = np.random.default_rng(0)
    for number, name in enumerate(("ant", "bee", "cat")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for at in range(40):
            pixels = draw.integers(0, 100, (24, 24, 3)) + 120 * (np.arange(3) == number)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "photos" / name / f"{at}.png")
    yield tmp_path / "photos"


@pytest.mark.parametrize("precision", ["fp32", "bf16", "tf32"])
def test_photos_to_a_network_in_use(precision: str, photos: Path, tmp_path: Path) -> None:
    run, of = tmp_path / "run", (f"data.root={photos}", "data.dataset=folder", f"device={DEVICE}")
    command("run", "quickstart", *of, f"precision={precision}", "--budget", "smoke", "--out", str(run))
    files = sorted(map(str, photos.glob("*/1*.png")))
    tables = []
    for device in (DEVICE, "cpu"):
        table = tmp_path / f"{device}.csv"
        command("predict", str(run), *files, "--device", device, "--csv", str(table))
        rows = [line.split(",") for line in table.read_text().splitlines()[1:]]
        tables.append(torch.tensor([[float(value) for value in row[-3:]] for row in rows]))
    torch.testing.assert_close(*tables, rtol=0, atol=0.01)
    for to in ("safetensors", "onnx", "standalone", "pt2", "timm"):
        command("export", str(run), "--to", to)
    model = topocell.load(run).to(DEVICE)
    x = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    on_device = model(x.to(DEVICE)).cpu()
    torch.testing.assert_close(on_device, topocell.load(run)(x), rtol=0.01, atol=0.01)
    program = torch.export.load(run / "exports/pt2/model.pt2").module()
    torch.testing.assert_close(program(x), on_device, rtol=0.01, atol=0.01)


@pytest.mark.parametrize(("first", "then"), [(DEVICE, "cpu"), ("cpu", DEVICE), (DEVICE, DEVICE)])
def test_a_run_that_is_stopped_goes_on_on_another_device(first: str, then: str, tmp_path: Path) -> None:
    run, smoke = tmp_path / "run", ("quickstart", *LONG, "--budget", "smoke", "--out", str(tmp_path / "run"))
    command("run", *smoke, f"device={first}", stop=run / "log.txt", code=143)
    assert "resum" in command("run", *smoke, f"device={then}")
    assert (run / "report.html").exists()


SETTINGS: dict[str, tuple[str, ...]] = {
    "workers": ("darts-v1", "data.store=stream", "data.workers=2", "data.dataset=folder", "data.root={photos}"),
    "latency": ("darts-v1", "search.cost.measure=latency", "search.cost.weight=0.5"),
    "low memory": ("darts-v2", "search.memory=low"),
    "plain kernels": ("dots", "search.kernels=plain"),
    "nothing recorded": ("gdas", "runtime.capture=off"),
    "seeds at once": ("darts-v1", "retrain.seeds=[0,1]", "retrain.together=2"),
    "mixed images": ("darts-v1", "retrain.mixup=0.2", "retrain.label_smoothing=0.1", "retrain.ema=0.99"),
    "micro batches": ("darts-v1", "retrain.micro_batch=8", "retrain.drop_path=0.2"),
    "perturbation": ("darts-pt", "precision=bf16"),
    "weighted classes": ("darts-v1", "retrain.class_weights=balanced", "precision=bf16"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_that_touch_the_device(case: str, photos: Path, tmp_path: Path) -> None:
    recipe, *settings = (words.format(photos=photos) for words in SETTINGS[case])
    command("run", recipe, *settings, f"device={DEVICE}", "--budget", "smoke", "--out", str(tmp_path / "run"))
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert 0 <= results["last_mean"] <= 1


def test_one_process_started_by_torchrun(tmp_path: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1")
    words = ("run", "darts-v1", f"device={DEVICE}", "--budget", "smoke", "--out", str(tmp_path / "run"))
    command(*words, launcher=launcher)
    assert (tmp_path / "run/report.html").exists()


def test_other_commands(tmp_path: Path) -> None:
    of, run = (f"device={DEVICE}", "--budget", "smoke"), tmp_path / "run"
    assert "memory" in command("estimate", "dots", *of)
    command("search", "dots", *of, "--out", str(run))
    command("select", str(run), "--ops", "perturbation", "--edges", "topology", "--as", "pt")
    command("retrain", str(run))
    command("retrain", str(ROOT / "examples/darts_v2.txt"), *of, "--out", str(tmp_path / "known"))
    command("compare", str(run), str(tmp_path / "known"))
    swept = tmp_path / "sweep"
    command("sweep", "recipes=random,darts-v1", "seeds=0..1", *of, "--out", str(swept))
    assert len(list(swept.glob("runs/*/results.json"))) == 4


def test_a_loss_with_buffers_and_images_from_python(tmp_path: Path) -> None:
    topocell.register("loss", "weighed", nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0])))
    images, labels = torch.randint(0, 256, (90, 3, 16, 16), dtype=torch.uint8), torch.arange(90) % 3
    changes = [f"device={DEVICE}", "retrain.loss=weighed", "search.loss=weighed"]
    for at, given in enumerate([(images, labels), (images.to(DEVICE), labels.to(DEVICE))]):
        recipe = load_recipe("darts-v1", changes, "smoke")
        api.run(recipe, tmp_path / f"run-{at}", data=(given, given))
        assert (tmp_path / f"run-{at}/report.html").exists()


# PyTorch's wrappers


def test_tables_of_wrappers() -> None:
    """As tests/unit/nn has them on CPUs."""
    files = [str(ROOT / "tests/unit/nn" / name) for name in ("test_wrappers.py", "test_altered_networks.py")]
    call = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *files]
    wanted = os.environ | {"TOPOCELL_TEST_DEVICE": DEVICE}
    answer = subprocess.run(call, env=wanted, cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stdout[-8000:]


def trained(net: nn.Module, given: tuple[Any, ...], dtype: torch.dtype, steps: int = 20) -> list[float]:
    """Losses of steps in a loop as people write it: autocast, and scaled gradients where they are of half precision."""
    scaler = torch.amp.GradScaler(DEVICE, enabled=dtype == torch.float16, init_scale=1024.0)
    optimizer = torch.optim.SGD(net.parameters(), 0.02)
    x, y = torch.randn(16, 3, 16, 16, device=DEVICE), torch.arange(16, device=DEVICE) % 5
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        with torch.autocast(DEVICE, dtype):
            loss = F.cross_entropy(net(x, *given), y)
        scaler.scale(loss).backward(retain_graph=bool(given))
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        scaler.step(optimizer)
        scaler.update()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["FixedNet", "Supernet", "compiled FixedNet"])
def test_autocast_and_scaled_gradients(kind: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    space = spaces.get("darts", nodes=2)
    if kind == "Supernet":
        net: Any = Supernet(space, 8, 3, 5).to(DEVICE)
        given: tuple[Any, ...] = (ArchState(space).to(DEVICE)(),)
    else:
        net, given = FixedNet(DARTS_V2, 8, 3, 5).to(DEVICE), ()
        net = torch.compile(net, backend="aot_eager") if "compiled" in kind else net
    losses = trained(net, given, dtype)
    assert all(np.isfinite(losses)) and min(losses[-5:]) < 0.8 * losses[0], losses


@pytest.mark.skipif(DEVICE == "cpu", reason="graphs of CUDA are recorded on a GPU")
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_step_in_a_graph_of_one_s_own(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    net = FixedNet(DARTS_V2, 8, 3, 5).to(DEVICE, memory_format=layout)
    called = torch.cuda.make_graphed_callables(net, (torch.randn(8, 3, 16, 16, device=DEVICE),))
    x = torch.randn(8, 3, 16, 16, device=DEVICE).contiguous(memory_format=layout)
    loss = F.cross_entropy(called(x), torch.arange(8, device=DEVICE) % 5)
    loss.backward()
    assert torch.isfinite(loss) and all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)

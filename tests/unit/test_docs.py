"""Every Python block and every `topocell` command of README and docs runs.

Searches run under the smoke budget and a temporary directory; all other words of a command are as written.
"""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from topocell import registry
from topocell.cli import main

ROOT = Path(__file__).parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def python_blocks() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        found += [(f"{page.name}-{i}", block) for i, block in enumerate(blocks)]
    return found


def commands() -> list[str]:
    found = []
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            command = line.strip().removeprefix(".venv/bin/").split("  #")[0].strip()
            if line.startswith("    ") and command.startswith("topocell ") and command not in found:
                found.append(command)
    return found


def test_the_documentation_has_code_and_commands() -> None:
    assert len(python_blocks()) >= 2
    assert len(commands()) >= 6


@pytest.mark.parametrize("block", [b for _, b in python_blocks()], ids=[name for name, _ in python_blocks()])
def test_python_blocks_run(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "documentation", "exec"), {"__name__": "documentation"})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the recipe that commands go on from."""
    path = tmp_path_factory.mktemp("finished") / "run"
    assert main(["run", "dots", "--budget", "smoke", "--quiet", "--out", str(path)]) == 0
    return path


@pytest.mark.parametrize("command", commands())
def test_commands_run(command: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOPOCELL_CACHE", str(tmp_path / "cache"))
    words = shlex.split(command)[1:]
    if words[0] in ("run", "estimate"):
        words = [w for w in words if w not in ("data.download=true", "paper", "small")]
        words = [w for w in words if w not in ("--budget", "smoke")] + ["--budget", "smoke"]
        words += ["--quiet"] if words[0] == "run" else []
        photos(tmp_path / "photos")
    if "--import" in words:
        shutil.copytree(ROOT / "examples", "examples")
        monkeypatch.setattr(registry, "_imported", [])
        monkeypatch.setenv(registry.IMPORT_VARIABLE, "")
    if words[0] in ("select", "compare", "retrain"):
        shutil.copytree(finished, words[1])
    assert main(words) == 0


def photos(root: Path) -> None:
    """A tree of 24 small images in three classes."""
    draw = torch.Generator().manual_seed(0)
    for label, name in enumerate(("cat", "dog", "owl")):
        for i in range(8):
            path = root / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = torch.randint(0, 80, (16, 16, 3), generator=draw)
            Image.fromarray((noise + 60 * label).to(torch.uint8).numpy()).save(path)

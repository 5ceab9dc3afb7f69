"""The archives: all that the sources have is in the wheel, and the same sources give the same bytes."""

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import topocell

pytest.importorskip("hatchling", reason="builds the archives; make test installs it")

ROOT = Path(__file__).parent.parent.parent
BUILD = "import sys, hatchling.build as b; b.build_wheel(sys.argv[1]); b.build_sdist(sys.argv[1])"


def built(folder: Path, mask: int) -> dict[str, bytes]:
    """The archives by the ends of their names, built where new files have the permissions that `mask` leaves."""
    folder.mkdir()
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    subprocess.run(
        [sys.executable, "-c", BUILD, str(folder)], cwd=ROOT, env=environment, check=True, timeout=600, umask=mask
    )
    return {path.suffix: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archives")
    first, second = built(folder / "first", 0o022), built(folder / "second", 0o077)
    assert first.keys() == {".whl", ".gz"}
    assert first == second, "the same sources gave other bytes"
    return folder / "first"


def test_the_wheel_has_every_file_of_the_sources(archives: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "--cached", "src"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode or not listed.stdout:
        pytest.skip("not a git checkout")
    sources = {name.removeprefix("src/") for name in listed.stdout.splitlines() if (ROOT / name).exists()}
    with zipfile.ZipFile(next(archives.glob("*.whl"))) as wheel:
        packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
        assert not sources - packed
        assert not [name for name in packed if not name.startswith("topocell/") or "__pycache__" in name]
        for name in (
            "py.typed",
            "reporting/report.html",
            "reporting/report.js",
            "reporting/vendor/LICENSE",
            "reporting/vendor/d3.min.js",
            "nn/kernels/cpu/kernels.c",
            "topology/wirings.yaml",
        ):
            assert wheel.read(f"topocell/{name}") == (ROOT / "src" / "topocell" / name).read_bytes()
        recipes = [name for name in packed if name.startswith("topocell/config/recipes/")]
        assert len(recipes) > 80


def test_the_archives_have_the_one_version(archives: Path) -> None:
    names = {path.name for path in archives.iterdir()}
    assert names == {f"topocell-{topocell.__version__}{end}" for end in (".tar.gz", "-py3-none-any.whl")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" in project["dynamic"] and "version" not in project


def test_the_source_archive_can_be_tested_and_built(archives: Path) -> None:
    with tarfile.open(next(archives.glob("*.tar.gz"))) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    assert {"pyproject.toml", "Makefile", "LICENSE", "README.md", "CHANGELOG.md", "src/topocell/py.typed"} <= names
    assert {"tests/conftest.py", "docs/README.md", "examples/own_space.py", "benchmarks/all.py"} <= names
    assert not [name for name in names if name.startswith((".venv", "runs/", "dist/")) or "__pycache__" in name]


def test_the_workflow_calls_targets_that_exist() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    called = {
        word
        for job in workflow["jobs"].values()
        for step in job["steps"]
        for line in step.get("run", "").splitlines()
        if line.startswith("make ")
        for word in line.split()[1:]
        if "=" not in word
    }
    targets = {line.split(":")[0] for line in (ROOT / "Makefile").read_text().splitlines() if ":" in line}
    assert {"lint", "test", "dist", "install-test", "docs"} <= called <= targets
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {line.rpartition(" ")[2] for line in project["classifiers"] if "Python :: 3." in line}
    assert set(workflow["jobs"]["test"]["strategy"]["matrix"]["python"]) == named

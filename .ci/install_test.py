"""Installs a wheel as a user would, in an empty environment for each Python, and runs the quick start in it.

python .ci/install_test.py dist/topocell-VERSION-py3-none-any.whl [PYTHON]...

Without names of interpreters it takes each of 3.11, 3.12 and 3.13 that the machine has, and fails where there is none.
Environments and runs lie in a temporary folder outside the checkout, one after the other; each needs about 6 GB there
(TMPDIR names another place) while it is tried. PIP_CONSTRAINT and all other settings of pip are as always.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

VERSIONS = ("3.11", "3.12", "3.13")
#: No folder can be made under a device, not even by root.
NO_HOME = "/dev/null/home"
QUICK_START = ("run", "quickstart", "--budget", "smoke", "--out")


def interpreters() -> Iterator[str]:
    """The first interpreter of each version that starts, on the PATH or among those of pyenv."""
    for version in VERSIONS:
        name = f"python{version}"
        installed = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/{name}"))
        for candidate in (shutil.which(name), *map(str, installed)):
            if candidate and subprocess.run([candidate, "-c", "import venv"], capture_output=True).returncode == 0:
                yield candidate
                break
        else:
            print(f"skipped: {name} is not on this machine", flush=True)


def install(python: str, wheel: Path, folder: Path) -> Path:
    """Make an environment and install the wheel there with what it needs; returns the folder of its programs."""
    checked([python, "-m", "venv", str(folder)])
    programs = folder / "bin"
    checked([str(programs / "python"), "-m", "pip", "install", "--quiet", str(wheel)])
    return programs


def try_out(programs: Path, folder: Path) -> None:
    """Run the quick start with a compiler and a home, and without either; ask for lists, and for shell completion."""
    usual = dict(os.environ, HOME=str(folder / "home"), OMP_NUM_THREADS="2")
    usual.pop("TOPOCELL_CACHE", None)
    usual.pop("PYTHONPATH", None)
    Path(usual["HOME"]).mkdir()
    bare = usual | {"HOME": NO_HOME, "PATH": str(programs)}
    for name, environment in (("usual", usual), ("bare", bare)):
        command(programs, *QUICK_START, name, "--quiet", folder=folder, environment=environment)
        found = folder / name
        accuracy = json.loads((found / "results.json").read_text())["last_mean"]
        print(
            f"  {name}: report {(found / 'report.html').stat().st_size:,} bytes, test accuracy {accuracy:.3f}",
            flush=True,
        )
    compiled = len(list(Path(usual["HOME"]).rglob("*.so")))
    print(f"  {compiled} libraries of kernels compiled", flush=True)
    assert compiled or not shutil.which("cc"), "there is a compiler, but it compiled nothing"
    assert "dots" in command(programs, "recipes", "list", folder=folder, environment=usual)
    completing = usual | {"_TOPOCELL_COMPLETE": "complete_bash", "COMP_WORDS": "topocell run quick", "COMP_CWORD": "2"}
    assert "quickstart" in command(programs, folder=folder, environment=completing)


def command(programs: Path, *words: str, folder: Path, environment: Mapping[str, str]) -> str:
    """What `topocell` prints."""
    return checked([str(programs / "topocell"), *words], folder, environment)


def checked(words: list[str], folder: Path | None = None, environment: Mapping[str, str] | None = None) -> str:
    """Run a program; where it fails, end with all that it said."""
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"exit code {done.returncode} of: {' '.join(words)}\n{done.stdout}{done.stderr}")
    return done.stdout


def main(wheel: Path, pythons: list[str]) -> None:
    """Try a wheel with each Python."""
    tried = 0
    for python in pythons or interpreters():
        with tempfile.TemporaryDirectory(prefix="topocell-install-") as name:
            folder = Path(name)
            programs = install(python, wheel.resolve(), folder / "environment")
            asked = (
                "import sys, torch, topocell; print(topocell.__version__, sys.version.split()[0], torch.__version__)"
            )
            versions = checked([str(programs / "python"), "-I", "-c", asked], folder).split()
            print("topocell {} with Python {} and PyTorch {}".format(*versions), flush=True)
            assert f"-{versions[0]}-" in wheel.name, f"{wheel.name} holds version {versions[0]}"
            try_out(programs, folder)
            tried += 1
    if not tried:
        sys.exit(
            f"there is no Python of {', '.join(VERSIONS)} on this machine; name one: make install-test PYTHONS=..."
        )
    print(f"{tried} passed, 0 failed")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

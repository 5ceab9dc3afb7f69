"""The sweep of tests/helpers/sweep.py under each instruction set that the machine offers, and what it would find."""

import ctypes.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from tests.helpers import sweep
from tests.helpers.forked import ROOT
from tests.helpers.sweep import Case, cases, compare
from tests.helpers.tables import BANKS, SHARED

from topocell.nn.kernels import cpu
from topocell.spaces import OPERATIONS
from topocell.studies._plain_networks import SMALL

FULL = os.environ.get("TOPOCELL_FAULTS") == "full"
COMPILER = shutil.which(os.environ.get("CC") or "cc")
SECONDS = 3600 if FULL else 600
#: A sample that has cases in which a 1×1 convolution with a stride, where there was one, broke the process on AVX2.
SEED = 1
SWEEP = ("-m", "tests.helpers.sweep", "--seed", str(SEED), "--form", "full" if FULL else "short")
SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1")


class InstructionSet(NamedTuple):
    """How the library, PyTorch itself and our kernels are held to a set; cases of each subject in the short form."""

    convolutions: str
    others: str
    ours: str
    short: int

    @property
    def variables(self) -> dict[str, str]:
        """Of the environment."""
        names = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "TOPOCELL_ISA")
        return dict(zip(names, (self.convolutions, self.others, self.ours)))


#: None: nothing is held to anything.
SETS: dict[str, InstructionSet | None] = {
    "sse41": InstructionSet("SSE41", "default", "sse", sweep.SAMPLE // 2),
    "avx": InstructionSet("AVX", "default", "sse", 0),
    "avx2": InstructionSet("AVX2", "avx2", "avx2", sweep.SAMPLE),
    "avx512": InstructionSet("AVX512_CORE", "avx512", "avx512", 0),
    "what the processor has": None,
}
OURS = [known.name for known in cpu.offered()]


def strict_memory() -> dict[str, str]:
    """Lets the C library look at what lies behind each piece of memory that is freed, and fill each that is not."""
    library = ctypes.util.find_library("c_malloc_debug")
    # New memory is filled with the complement of the byte: floats of 3e38, not zeros.
    return {"LD_PRELOAD": library, "MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "128"} if library else {}


def swept(variables: Mapping[str, str], *arguments: str) -> str:
    """What Python prints with these arguments.

    Raises:
        AssertionError: it failed or died, and in which case.
    """
    process = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1", **variables},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    if process.returncode == 0:
        return process.stdout
    lines, said = process.stdout.splitlines(), process.stderr.splitlines()
    wrong = [line.startswith("WRONG") for line in (*lines, "")]
    shown = [line for line, (this, following) in zip(lines, pairwise(wrong)) if this or following]
    how = f"ended with exit code {process.returncode}"
    if process.returncode < 0:
        how = f"was killed by {signal.Signals(-process.returncode).name}"
    last = next((line for line in reversed(lines) if line.startswith("{")), "none")
    again = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    parts = (
        f"the sweep {how}, with {sum(wrong)} differences.",
        *shown[:20],
        *said[:20],
        *said[20:][-20:],
        "The case that ran last:",
        last,
        f"Again: {again} python -m tests.helpers.sweep --case 'CASE'",
    )
    raise AssertionError("\n".join(parts))


@pytest.mark.parametrize("name", SETS)
def test_forward_and_backward_agree_with_float64(name: str) -> None:
    held = SETS[name]
    if held and held.ours not in OURS:
        pytest.skip(f"this processor has {', '.join(OURS)}")
    best = held is not None and held.ours == OURS[0]  # which nothing holds to anything else
    if held and not FULL and (best or not held.short):
        pytest.skip("only in the full form: make faults")
    sample = held.short if held else sweep.SAMPLE
    said = swept({**(held.variables if held else {}), **strict_memory()}, *SWEEP, "--sample", str(sample))
    found = re.search(r"^(\d+) cases, (\d+) of them by compiled kernels, 0 wrong$", said, re.MULTILINE)
    assert found, said
    assert int(found[1]) == len(cases("full" if FULL else "short", SEED, sample=sample))
    assert COMPILER is None or int(found[2]) > 0


def sanitizers() -> dict[str, str]:
    """Lets kernels be compiled with sanitizers, and a process load them; nothing where the compiler has none."""
    names = ("libasan.so", "libubsan.so")
    ask = [subprocess.run([COMPILER or "cc", f"-print-file-name={n}"], capture_output=True, text=True) for n in names]
    libraries = [answer.stdout.strip() for answer in ask]
    if not all(os.path.isabs(library) for library in libraries):
        return {}
    return {
        "TOPOCELL_CFLAGS": " ".join(SANITIZED),
        "LD_PRELOAD": " ".join(libraries),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
        "UBSAN_OPTIONS": "halt_on_error=1:abort_on_error=1:print_stacktrace=1",
    }


@pytest.fixture
def sanitized() -> dict[str, str]:
    if not FULL:
        pytest.skip("only in the full form: make faults")
    if not (COMPILER and (variables := sanitizers())):
        pytest.skip("the C compiler of this machine has no sanitizers that a process can load")
    return variables


@pytest.mark.parametrize("name", OURS)
def test_compiled_kernels_stay_within_their_memory(name: str, sanitized: dict[str, str], tmp_path: Path) -> None:
    variables = {**sanitized, "TOPOCELL_ISA": name, "TOPOCELL_CACHE": str(tmp_path)}
    said = swept(variables, *SWEEP, "--form", "short", "--paths", "native", "narrow", "--sample", "40")
    assert re.search(r", [1-9]\d* of them by compiled kernels, 0 wrong$", said, re.MULTILINE), said
    made = list(tmp_path.rglob("*.so"))
    assert made and all(b"__asan_report" in library.read_bytes() for library in made)


def test_sanitizers_find_what_lies_beyond_a_tensor(sanitized: dict[str, str], tmp_path: Path) -> None:
    source, library = tmp_path / "beyond.c", tmp_path / "beyond.so"
    source.write_text("void beyond(float *x, long n) { x[n] = 0; }")
    subprocess.run([str(COMPILER), "-shared", "-fPIC", *SANITIZED, str(source), "-o", str(library)], check=True)
    use = (
        "import ctypes, sys, torch; from ctypes import c_long, c_void_p; x = torch.ones(10); "
        "ctypes.CDLL(sys.argv[1]).beyond(c_void_p(x.data_ptr()), c_long(int(sys.argv[2])))"
    )
    swept(sanitized, "-c", use, str(library), "9")
    with pytest.raises(AssertionError, match=r"killed by SIGABRT(.|\n)*heap-buffer-overflow"):
        swept(sanitized, "-c", use, str(library), "10")


# --- the sweep can fail

SUBJECT = "plain layer VGG"


def one_wrong_output(found: torch.Tensor) -> torch.Tensor:
    wrong = found.clone()
    wrong.view(-1)[0] += 0.1
    return wrong


def one_wrong_gradient(found: torch.Tensor) -> torch.Tensor:
    if found.requires_grad:
        found.register_hook(one_wrong_output)
    return found


@pytest.mark.parametrize(
    ("fault", "named"), [(one_wrong_output, "output 0"), (one_wrong_gradient, "gradient of x"), (None, None)]
)
def test_one_wrong_number_of_a_convolution_is_noticed(
    fault: Callable[[torch.Tensor], torch.Tensor] | None, named: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the largest maps and most channels of all, where it weighs least."""
    convolve = F.conv2d

    def faulty(x: torch.Tensor, *args: object) -> torch.Tensor:
        found = convolve(x, *args)
        return fault(found) if fault and x.dtype is torch.float32 else found

    monkeypatch.setattr(F, "conv2d", faulty)
    case = Case(SUBJECT, 20, 1, 9, 9, 3, options={"out_channels": 20, "training": True})
    faults = compare(case).faults
    assert any(words.startswith(f"{named} differs") for words in faults) if named else not faults


def test_uninitialised_and_overwritten_memory_are_noticed() -> None:
    """A process whose convolution writes one byte too many dies where that is freed, and says in which case that was.

    That may be a later case than the one that wrote, if the memory was kept that long.
    """
    if not (strict := strict_memory()):
        pytest.skip("this machine's C library cannot check its memory")
    program = f"""
import ctypes, sys, torch, torch.nn.functional as F
from tests.helpers import sweep
convolve = F.conv2d
def faulty(x, *args):
    found = convolve(x, *args)
    if x.dtype is torch.float32:
        ctypes.memset(found.data_ptr() + found.nbytes, 1, 1)
    return found
assert not torch.empty(1000).abs().max() < 1e38, "new memory is not filled"
F.conv2d = faulty
sys.exit(sweep.main(["--only", {SUBJECT!r}]))
"""
    with pytest.raises(AssertionError) as failed:
        swept(strict, "-c", program)
    assert "was killed by SIGABRT" in str(failed.value)
    assert any(f"The case that ran last:\n{case}\n" in str(failed.value) for case in cases("short", only=SUBJECT))


def test_a_difference_is_reported_with_its_case(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    convolve = F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda x, *args: convolve(x, *args) * (1.01 if x.dtype is torch.float32 else 1))
    assert sweep.main(["--only", "stem cifar", "--sample", "20"]) == 1
    said = capsys.readouterr().out
    mine = [case.options for case in cases("short", sample=20, only="stem cifar")]
    seen = [o for o in mine if not (o["training"] or o["batch_statistics"])]  # else batch norm takes it back
    assert said.count("WRONG: output 0") == len(seen) > 0
    program = f"import sys; print({said!r}); sys.exit(1)"
    with pytest.raises(AssertionError, match=r"the sweep ended with exit code 1, with \d+ differences") as failed:
        swept({"ONEDNN_MAX_CPU_ISA": "AVX2"}, "-c", program)
    assert "WRONG: output 0 differs by" in str(failed.value)
    assert "Again: ONEDNN_MAX_CPU_ISA=AVX2 python -m tests.helpers.sweep --case" in str(failed.value)


def test_a_case_can_be_run_again_as_it_was_printed(capsys: pytest.CaptureFixture) -> None:
    case = cases("short", seed=3, only=SUBJECT)[-1]
    assert sweep.main(["--case", str(case)]) == 0
    assert capsys.readouterr().out.splitlines()[0] == str(case)


def test_eighteen_seeds_are_the_whole_product() -> None:
    found = {
        (case.channels, case.stride, case.height, case.width, case.layout)
        for seed in range(5, 23)
        for case in cases("full", seed, only=SUBJECT)
    }
    assert len(found) == len(sweep.CHANNELS) * len(sweep.STRIDES) * len(sweep.SIZES) ** 2 * len(sweep.FORMATS)


def test_every_row_of_the_tables_is_a_subject_of_the_short_form() -> None:
    swept_subjects = {case.subject for case in cases("short")}
    assert {f"operation {name}" for name in OPERATIONS} <= swept_subjects
    assert {f"bank {name}" for name in BANKS} | {f"map {name}" for name in SHARED} <= swept_subjects
    assert {f"cell {name}" for name in OPERATIONS} | {f"plain layer {kind}" for kind in SMALL} <= swept_subjects

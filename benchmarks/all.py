"""Every benchmark, for each instruction set of the processor. See README.md beside this.

python -m benchmarks.all [--sets avx512 avx2 sse] [--repetitions 5]
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from topocell.nn.kernels.cpu import offered

#: What holds torch and its library to a set, as `TOPOCELL_ISA` holds our kernels.
LIMITS: Mapping[str, Mapping[str, str]] = {
    "avx512": {},
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"},
    "sse": {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"},
    "neon": {},
}
#: What is measured for the narrowest set, which is the fallback of old machines.
FEW = (("kernels",), ("supernet", "--only", "darts"), ("fixed_network",))
ALL = (
    ("kernels",),
    ("data_path",),
    ("stream",),
    *(("supernet", "--only", n) for n in ("darts", "dots", "nasbench201", "s2")),
)
MORE = (("supernet", "--only", "variants"), ("supernet", "--only", "growth"), ("fixed_network",))


def environment(name: str) -> dict[str, str]:
    """The variables under which everything keeps to an instruction set."""
    return {**os.environ, **LIMITS[name], "TOPOCELL_ISA": name}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run them one after the other, each in a process of its own."""
    names = [known.name for known in offered()]
    parser = argparse.ArgumentParser(description="Every benchmark, for each instruction set of the processor.")
    parser.add_argument("--sets", nargs="+", choices=names, default=names, help="some of the sets")
    parser.add_argument("--repetitions", default="5", help="timed rounds (default 5)")
    chosen = parser.parse_args(arguments)
    for name in chosen.sets:
        for script, *options in FEW if name == "sse" else (*ALL, *MORE):
            command = [sys.executable, "-m", f"benchmarks.{script}", *options, "--repetitions", chosen.repetitions]
            subprocess.run(command, check=True, env=environment(name))


if __name__ == "__main__":
    main()

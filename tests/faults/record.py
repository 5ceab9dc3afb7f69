"""What a fault suite has injected, and what became of it: one JSON line per kind of fault.

TOPOCELL_FAULT_RECORD names the file that lines are added to; without it nothing is kept.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

#: How the names of some tallies begin, behind which stand a suite or a pipeline; and a whole name.
BAD_INPUT, KILLS = "bad input: ", "SIGKILL at a random moment: "
GUIDED = f"{BAD_INPUT}genotype parsers, coverage-guided"


@dataclass
class Tally:
    """Faults of one kind: injected, survived as they should be, and those that lost something that was saved."""

    name: str
    injected: int = 0
    survived: int = 0
    lost: int = 0

    def keep(self) -> None:
        """Add a line to the record."""
        if path := os.environ.get("TOPOCELL_FAULT_RECORD"):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(self)) + "\n")

"""The files of a run directory as a report reads them: leniently, whatever is missing or damaged."""

from pathlib import Path
from typing import Any

from topocell.config.retrain import PROTOCOLS, goes_on
from topocell.io import files, plain_yaml
from topocell.reporting.tables import is_number


class RunFiles:
    """The files of a run directory, each read once and leniently; `states` says of each what was found."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.texts: dict[str, str] = {}
        self.states: dict[str, str] = {}

    def text(self, name: str) -> str:
        """A file's text; empty if it is not there."""
        if name not in self.texts:
            self.texts[name], self.states[name] = "", "present"
            try:
                self.texts[name] = (self.path / name).read_bytes().decode("utf-8", errors="replace")
            except FileNotFoundError:
                self.states[name] = "missing"
            except OSError as fault:
                self.states[name] = f"unreadable: {files.reason(fault)}"
        return self.texts[name]

    def state(self, name: str) -> str:
        """What was found of a file, also of one that was not read."""
        return self.states.get(name) or ("present" if (self.path / name).is_file() else "missing")

    def mapping(self, name: str) -> dict[str, Any]:
        """The mapping that a JSON or YAML file holds; empty if there is none."""
        text = self.text(name)
        try:
            read = plain_yaml.load if name.endswith(".yaml") else files.from_json
            value = read(text) if text else {}
        except ValueError as fault:
            self.states[name] = f"damaged: {' '.join(str(fault).split())}"
            return {}
        if not isinstance(value, dict):
            self.states[name] = f"damaged: it holds a {type(value).__name__} in place of a mapping"
            return {}
        return value

    def results(self) -> dict[str, Any]:
        """What results.json holds, or, with `protocol` added, that of the shallow evaluation with which the run ended.

        It does by the protocol `shallow`, and by `filter` where its cell is not above the threshold, unless a full
        training has begun all the same.
        """
        recipe, beside = self.mapping("recipe.yaml"), RunFiles(self.path / "shallow")
        protocol, plan = str(recipe.get("protocol")), recipe.get("shallow")
        if (mine := self.mapping("results.json")) or not PROTOCOLS.get(protocol, (False, True))[0]:
            return mine
        found, cell = beside.mapping("results.json"), self.mapping("genotype.json").get("cells")
        least, accuracy = plan.get("threshold") if isinstance(plan, dict) else None, found.get("last_mean")
        passed = is_number(least) and is_number(accuracy) and goes_on(protocol, accuracy, least)
        begun = any(row.get("phase") == "retrain" for row in self.rows("metrics.jsonl"))
        if passed or begun or not found or beside.mapping("genotype.json").get("cells") != cell:
            return {}
        return {**found, "protocol": "shallow"}

    def rows(self, name: str) -> list[dict[str, Any]]:
        """Parse a file of JSON objects, one per line; torn or damaged lines are counted and skipped."""
        rows, damaged = [], 0
        for line in self.text(name).split("\n"):
            try:
                row = files.from_json(line) if line.strip() else None
            except ValueError:
                row = line
            if isinstance(row, dict):
                rows.append(row)
            elif row is not None:
                damaged += 1
        if damaged:
            self.states[name] = f"present, {damaged} damaged line{'s' * (damaged != 1)} left out"
        return rows

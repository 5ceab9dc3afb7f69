"""Comparison of the cells that several selections of one supernet have derived."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from topocell.errors import RunError, one_line, typed
from topocell.genotype.genotype import Genotype
from topocell.genotype.published import published_cells
from topocell.io import files, plain_yaml
from topocell.nn.count import published_size
from topocell.reporting.ground_truth import ground_truth_of
from topocell.reporting.rankings import Ranking, agreement, ranking
from topocell.reporting.run_files import RunFiles
from topocell.reporting.rundirs import genotype_of, is_text, readable, source_of
from topocell.reporting.scores import accuracy_of
from topocell.reporting.tables import format_count

_HEADER = ["selection", "operations", "edges", "cell", "edges kept", "skips", "images measured", "parameters"]

_SIZE = ("parameters, published size", "multiply-adds, published size")
_CELL_HEADER = ["cell", "key", "operations", "skips", "depth", "width", *_SIZE, "accuracy"]


def comparison(run_path: Path | str) -> list[list[str]]:
    """Build a table, its header first: the run itself where it has a cell, then each alternative selection by name.

    `cell` is the key that equal cells share, `derived from` the epoch of the search where that is not its end for all;
    what has not been measured or retrained yet is a dash. Where there are several, `τ to NAME` is Kendall's τ between
    the rankings of operations that two selections imply, see `topocell.reporting.rankings`. `shallow` is the accuracy
    of a shallow evaluation, where there was one. The last column is the true accuracy where a table was looked up,
    otherwise that of the retrained networks after their last epoch.

    Raises:
        RunError: no run directory, one in which no cell was derived, or one with a link, a pipe, a device or what
            cannot be read. GenotypeError: a damaged genotype.json. CheckpointError: a damaged supernet.
    """
    path = Path(run_path)
    with readable(path):
        return _compared(_selections(path))


def cells_side_by_side(places: Sequence[str], operations: Sequence[str] | None = None) -> list[list[str]]:
    """Build a table of cells, its header first: what they are made of, their size, what is known of their accuracy.

    Operations, skip connections, depth and width are of each cell type, joined by ` + `. The size is that of the
    published network (36 channels and 20 layers, NAS-Bench-201: 16 and 17) on 32×32 images with 10 classes. The last
    column is the test accuracy of a run after the last epoch, or the paper's figure of a published cell. A cell that is
    given as its text is called by its place, as `text 2`.

    Args:
        places: what names each cell, see `topocell.reporting.rundirs.genotype_of`.
        operations: of texts that number them.

    Raises:
        GenotypeError: a place that names no cell. RunError: a directory that cannot be read.
    """
    rows = [_cell_row(place, genotype_of(place, operations)) for place in places]
    names = [f"text {i}" if is_text(place) else one_line(place) for i, place in enumerate(places, 1)]
    return [_CELL_HEADER, *([name, *row] for name, row in zip(names, rows, strict=True))]


def _cell_row(place: str, genotype: Genotype) -> list[str]:
    kinds, found = genotype.cells, published_size(genotype)
    counts = [genotype.operations(kind) for kind in kinds]
    known = published_cells().get(str(genotype.origin.get("published")))
    run = RunFiles(Path(place)).results() if os.path.isdir(place) else {}
    return [
        genotype.key,
        " + ".join(str(sum(count.values())) for count in counts),
        " + ".join(str(count["skip_connect"]) for count in counts),
        " + ".join(str(genotype.depth(kind)) for kind in kinds),
        " + ".join(str(genotype.width(kind)) for kind in kinds),
        format_count(found.parameters),
        format_count(found.multiply_adds),
        _accuracy(run) if os.path.isdir(place) or known is None else known.figures,
    ]


def _compared(found: dict[str, Path]) -> list[list[str]]:
    others = list(found.items()) if len(found) > 1 else []
    rankings = {name: _ranking(path) for name, path in others}
    shallow = {name: _shallow(path) for name, path in found.items()}
    judged = any(text != "—" for text in shallow.values())
    moments = {name: _moment(path) for name, path in found.items()}
    early = any(text != "end" for text in moments.values())
    taus_to = [f"τ to {one_line(name)}" for name, _ in others]
    header = [*_HEADER, *["derived from"] * early, *taus_to, *["shallow"] * judged, "accuracy"]
    rows = []
    for name, path in found.items():
        *facts, accuracy = _row(path, name)
        taus = [_tau(rankings[name], rankings[other]) for other, _ in others]
        rows.append([*facts, *[moments[name]] * early, *taus, *[shallow[name]] * judged, accuracy])
    return [header, *rows]


def _selections(path: Path) -> dict[str, Path]:
    """Directories in which a cell was derived, by the name that tables give them. Raises RunError, OSError."""
    if not (path / "recipe.yaml").is_file():
        raise RunError(f"selections are compared in a run directory, but {path} holds no recipe.yaml; check the path")
    files.refuse_links(path, "checkpoints", "selections", "shallow")
    for selection in sorted((path / "selections").glob("*")):
        files.refuse_links(selection, "checkpoints", "shallow")
    beside = sorted(found.parent for found in (path / "selections").glob("*/genotype.json"))
    mine = [path] if (path / "genotype.json").is_file() else []
    if not mine + beside:
        raise RunError(f"{path} has no derived cell to compare; continue with: topocell select {typed(path)}")
    return {"(run)" if found == path else found.name: found for found in mine + beside}


def _ranking(path: Path) -> Ranking:
    recipe = _mapping(path / "recipe.yaml")
    return ranking(path, recipe | {"selection": _rules(path, recipe)}, _metrics(path))


def _rules(path: Path, recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a cell was derived by: the selection of the recipe, or the rules that it was given instead.

    Of a cell that the recipe has not found its rules say nothing.
    """
    selection, cell = recipe.get("selection"), Genotype.load(path / "genotype.json")
    found = source_of(cell.to_dict(), recipe.get("name")) is None
    return {**(selection if found and isinstance(selection, dict) else {}), **cell.origin}


def _tau(mine: Ranking, other: Ranking) -> str:
    tau = agreement(mine, other)
    return "—" if tau is None else f"{tau:.2f}"


def _row(path: Path, name: str) -> list[str]:
    genotype, results = Genotype.load(path / "genotype.json"), _mapping(path / "results.json")
    rules = _rules(path, _mapping(path / "recipe.yaml"))
    counts = {kind: genotype.operations(kind) for kind in genotype.cells}
    return [
        one_line(name),
        one_line(str(rules.get("operations", "—"))),
        one_line(str(rules.get("edges", "—"))),
        genotype.key,
        " + ".join(str(sum(found.values())) for found in counts.values()),
        " + ".join(str(found["skip_connect"]) for found in counts.values()),
        format_count(_images(path)),
        format_count(results.get("parameters")),
        _accuracy(results),
    ]


def _moment(path: Path) -> str:
    """Where a cell was derived from: a stage and an epoch of the search, or its end."""
    origin = Genotype.load(path / "genotype.json").origin
    epoch = origin.get("after_epoch")
    return "end" if epoch is None else one_line(f"{origin.get('stage')}, epoch {epoch}")


def _shallow(path: Path) -> str:
    """Accuracy of the shallow evaluation; nothing where that was of another cell."""
    evaluated, there = path / "genotype.json", path / "shallow" / "genotype.json"
    same = there.is_file() and Genotype.load(there).key == Genotype.load(evaluated).key
    return accuracy_of(_mapping(path / "shallow" / "results.json") if same else {}, "last")


def _accuracy(results: dict[str, Any]) -> str:
    if ground_truth := ground_truth_of(results):
        return f"{ground_truth['accuracy']:.2f} % (true)"
    return accuracy_of(results, "last") + (f" ({of})" if (of := results.get("protocol")) else "")


def _images(path: Path) -> int | None:
    """Images that a projection was measured on; None where there was none."""
    counts = [row.get("image_evaluations") for row in _metrics(path) if row.get("phase") == "select"]
    return counts[-1] if counts else None


def _metrics(path: Path) -> Iterator[dict[str, Any]]:
    lines = path / "metrics.jsonl"
    return (files.json_object(line) or {} for line in (files.whole_lines(lines) if lines.is_file() else ()))


def _mapping(path: Path) -> dict[str, Any]:
    """Read the mapping of a YAML or JSON file; empty where there is none."""
    read = plain_yaml.load if path.suffix == ".yaml" else files.from_json
    try:
        found = read(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as fault:
        raise RunError(f"{path} cannot be read ({fault}); restore it from a copy") from None
    return found if isinstance(found, dict) else {}

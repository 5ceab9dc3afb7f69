"""The recipes of DARTS-PT in the spaces of RobustDARTS, from the figures of its Table 3.

    python -m tests.helpers.pt_recipes        # writes them

A test compares the files with what this module makes.
"""

from collections.abc import Iterator
from pathlib import Path

import topocell

FOLDER = Path(topocell.__file__).parent / "config" / "recipes" / "pt"

#: Test error in % of DARTS, DARTS+PT and DARTS+PT with fixed α, for S1 to S4 (DARTS-PT, Table 3).
ERRORS = {
    "cifar10": ((3.84, 3.50, 2.86), (4.85, 2.79, 2.59), (3.34, 2.49, 2.52), (7.20, 2.64, 2.58)),
    "cifar100": ((29.46, 24.48, 24.40), (26.05, 23.16, 23.30), (28.90, 22.03, 21.94), (22.85, 20.80, 20.66)),
    "svhn": ((4.58, 2.62, 2.39), (3.53, 2.53, 2.32), (3.41, 2.42, 2.32), (3.05, 2.42, 2.39)),
}
TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "svhn": "SVHN"}
#: The recipe that each kind extends, and what it is called.
KINDS = {"darts-pt": "DARTS-PT", "darts-pt-blank": "DARTS-PT with fixed α"}


def recipes() -> Iterator[tuple[str, str]]:
    """Each recipe: its name and its text."""
    for dataset, rows in ERRORS.items():
        for number, (of_darts, *errors) in enumerate(rows, start=1):
            for (base, words), error in zip(KINDS.items(), errors):
                yield _recipe(base, words, f"s{number}", dataset, error, of_darts)


def _recipe(base: str, words: str, space: str, dataset: str, error: float, of_darts: float) -> tuple[str, str]:
    first, title = f"{base}-{space}", TITLES[dataset]
    small = dataset != "cifar10"
    name = f"{first}-{dataset}" if small else first
    lines = [
        f"# topocell run {name} data.download=true --out runs/{name}",
        f"# Aims at: {title} test error {error:.2f} % (DARTS-PT, Table 3), where DARTS has {of_darts:.2f} %.",
        "# The published figure is that of the best of four searches, seed=0 ... seed=3, each retrained once.",
    ]
    if small:
        lines.append("# Cells are retrained in the small network of RobustDARTS: 8 cells, 16 initial channels.")
    elif space in ("s2", "s4"):
        lines.append("# Cells are retrained with 36 channels; the figure of DARTS is, as far as is known, of 16.")
    if space == "s3":
        lines.append(
            "# In the authors' code `none` may win an edge, next to never: here only with selection.none=true set."
        )
    lines += [
        f"extends: {first if small else base}",
        f"name: {name}",
        f"about: {words} in space {space.upper()} of RobustDARTS{f', on {title}' if small else ''}",
        f"published: {title} error {error:.2f} %",
        *([f"data: {{dataset: {dataset}}}", "retrain: {channels: 16, layers: 8}"] if small else [f"space: {space}"]),
    ]
    return name, "\n".join(lines) + "\n"


def main() -> None:
    """Write the files."""
    for name, text in recipes():
        (FOLDER / f"{name}.yaml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

"""The commands for a trained network: predict."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from topocell.errors import RunError, one_line

if TYPE_CHECKING:
    from topocell.networks.classifier import Classifier, Predictions

#: Classes of an image that the terminal shows.
SHOWN = 3

NetworkPath = Annotated[
    Path, typer.Argument(metavar="RUN", help="A finished run directory, or a safetensors export.", show_default=False)
]
SeedOption = Annotated[
    int | None,
    typer.Option("--seed", help="Of the retraining whose network is used; default the first.", show_default=False),
]


def predict(
    network: NetworkPath,
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE...", help="Files, or folders with images below.", show_default=False)
    ],
    table: Annotated[
        Path | None,
        typer.Option("--csv", help="Write file, class and all probabilities here; - shows them.", show_default=False),
    ] = None,
    seed: SeedOption = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images that are computed at once.")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out images that cannot be read.")
    ] = False,
) -> None:
    """Predict the classes of images with the trained network of a run.

    Examples:

        topocell predict runs/photos new/IMG_0001.jpg

        topocell predict runs/photos new --csv predictions.csv
    """
    from topocell.networks.classifier import load
    from topocell.runtime.devices import find_device

    if table is not None and str(table) != "-":
        _refuse_other(table)
    model = load(network, seed=seed, device=find_device(device))
    found = model.predict([str(image) for image in images], batch_size=batch_size, skip_unreadable=skip_unreadable)
    for note in (_which(model), *found.notes):
        typer.echo(one_line(note), err=True)
    if table is None:
        for prediction in found:
            ranked = list(prediction.probabilities.items())[:SHOWN]
            told = ", ".join(f"{name} {100 * share:.1f} %" for name, share in ranked)
            typer.echo(one_line(f"{prediction.name}: {told}"))
    elif str(table) == "-":
        typer.echo(_table(found).encode(), nl=False)  # bytes, as in a file: a terminal may have another encoding
    else:
        _write(table, found)
        typer.echo(f"{len(found):,} predictions: {table}", err=not table.is_file())


#: The first columns of a table.
_COLUMNS = ("file", "predicted", "probability")


def _refuse_other(path: Path) -> None:
    """Raise RunError where a file would be replaced that no `predict` has written, such as a run's own.

    Also where there can be none: in no folder, or in the place of one. Predicting may take hours.
    """
    from topocell.networks.kept import csv_text

    start = csv_text([_COLUMNS]).strip().encode()
    try:
        if not path.parent.is_dir():
            raise _unwritable(path, f"{path.parent} is no directory")
        if path.is_dir():
            raise _unwritable(path, "is a directory")
        if path.exists() and not path.is_file():  # a pipe, which would wait for somebody to write, or a device
            return
        with open(path, "rb") as file:
            found = file.read(len(start))
    except OSError:
        return  # there is none, or writing will say what is wrong
    if found and found != start:
        raise RunError(
            f"--csv replaces tables of predictions alone, but {path} holds something else; name another file, or "
            f"delete it"
        )


def _table(found: "Predictions") -> str:
    """A table with one line for each image, as CSV."""
    from topocell.networks.kept import csv_text

    rows = [
        (one.name, one.label, f"{one.probability:.6f}", *(f"{one.probabilities[name]:.6f}" for name in found.classes))
        for one in found
    ]
    return csv_text([(*_COLUMNS, *_columns_of(found.classes)), *rows])


def _write(path: Path, found: "Predictions") -> None:
    """Write the table. Raises RunError where the disk refuses."""
    from topocell.io import files

    try:
        files.write_out(path, _table(found).encode())
    except BrokenPipeError:  # of `--csv /dev/stdout | head`, as of what is shown
        raise
    except OSError as fault:
        raise _unwritable(path, files.reason(fault)) from None


def _unwritable(path: Path, reason: str) -> RunError:
    return RunError(f"--csv must name a file that can be written, but {path} cannot be ({reason}); name another")


def _columns_of(classes: Sequence[str]) -> list[str]:
    """The columns of the classes: their names, of a class called like one of the first columns `class NAME`."""
    taken, columns = {*_COLUMNS, *classes}, list[str]()
    for name in classes:
        column = name
        while name in _COLUMNS and column in taken:
            column = f"class {column}"
        columns.append(column)
    return columns


def _which(model: "Classifier") -> str:
    """Say which network it is, how well it did, and which others there are."""
    kept, accuracy = model.kept, model.kept.test_accuracy
    tested = "" if accuracy is None else f", test accuracy {100 * accuracy:.2f} %"
    others = [str(one.seed) for one in model.file.networks if one.seed != kept.seed]
    return f"network of seed {kept.seed}{tested}" + (f"; others by --seed: {', '.join(others)}" if others else "")

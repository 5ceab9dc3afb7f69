"""The command that exports the network of a run."""

from pathlib import Path
from typing import Annotated

import typer

from topocell.networks.commands import NetworkPath, SeedOption


def export(
    network: NetworkPath,
    to: Annotated[str, typer.Option("--to", help="One of safetensors, onnx, standalone, pt2, timm.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Directory; default RUN/exports/FORMAT.", show_default=False)
    ] = None,
    seed: SeedOption = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Of the network, also in timm; default that of RUN.", show_default=False),
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option("--images", help="Check it on these, not on the run's test images.", show_default=False),
    ] = None,
) -> None:
    """Export the trained network of a run for other programs, with a model card, and check that it computes the same.

    safetensors is for topocell elsewhere, onnx for ONNX Runtime, standalone one file of Python that needs PyTorch
    alone, pt2 a graph of torch.export, timm a model of timm.

    Examples:

        topocell export runs/photos --to onnx

        topocell export runs/photos --to standalone --out network
    """
    from topocell.networks.exports.writing import difference_words
    from topocell.runs.exporting import export as write

    done = write(network, to, out, seed=seed, name=name, images=images or None)
    listed = ", ".join(f"{name} ({size:,} bytes)" for name, size in done.files.items())
    typer.echo(f"{done.path}: {listed}")
    typer.echo(f"compared on {done.images}: {difference_words(done.difference)}")

"""Photos read from their files and from a cache, against torchvision's ImageFolder in a DataLoader with equal workers.

python -m benchmarks.stream [--images 2000] [--workers 2] [--side 224] [--repetitions 5]
python -m benchmarks.stream --images 160 --repetitions 1      # seconds: does it run?
python -m benchmarks.stream --workers 0 --threads 1           # by processor time, which neighbours hardly change
"""

import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tests.helpers.image_tree import SIZES, make_tree
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from benchmarks.measure import options, parsed, table, versus, write_section
from topocell.data.batches import Batches
from topocell.data.from_files import Streaming
from topocell.data.readers import IMAGENET_STATISTICS
from topocell.data.splits import load
from topocell.data.stream import close_streams

#: How many times as many images a second: from files, and from a cache.
BARS = {"files": 1.0, "cache": 3.0}
CLASSES = 8
JITTER = (0.4, 0.4, 0.4, 0.2)


def theirs(root: Path, batch: int, side: int, workers: int, jitter: bool) -> DataLoader:
    """The usual loader of training images of ImageNet; its workers stay from one epoch to the next."""
    changes = [v2.RandomResizedCrop(side), v2.RandomHorizontalFlip(), *([v2.ColorJitter(*JITTER)] if jitter else [])]
    tensors = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(*IMAGENET_STATISTICS)]
    data = ImageFolder(str(root / "train"), v2.Compose([*changes, *tensors]))
    return DataLoader(data, batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0, drop_last=True)


def ours(root: Path, batch: int, side: int, workers: int, jitter: bool, cache: int | None) -> Batches:
    """Ours, of the same images."""
    streaming = Streaming("stream", workers=workers, cache=cache)
    data = load("imagenet", root, resolution=side, streaming=streaming, jitter=JITTER if jitter else None)
    given: dict[str, Any] = {"augmentation": data.augmentation, "device": "cpu", "seed": 0, "stream": "benchmark"}
    return Batches(data.train, batch, mean=data.mean, std=data.std, **given)


def epochs_of_theirs(loader: DataLoader) -> Iterator[tuple[int, Iterator[Any]]]:
    """Epochs, each as its number of batches and an iterator."""
    while True:
        yield len(loader), iter(loader)


def epochs_of_ours(batches: Batches) -> Iterator[tuple[int, Iterator[Any]]]:
    """Epochs, each as its number of batches and an iterator."""
    full, epoch = batches.last_full + 1, 0
    while True:
        yield full, (batches.batch(epoch, step) for step in range(full))
        epoch += 1


def pace(
    contenders: Mapping[str, Iterator[tuple[int, Iterator[Any]]]],
    batch: int,
    rounds: int,
    workers: int,
) -> dict[str, float]:
    """Median images a second of epochs made in turn; without workers, for a second of processor time.

    The first epoch does not count, nor do the first batches of an epoch, which may have been read ahead while another
    contender was timed.
    """
    clock = time.perf_counter if workers else time.process_time
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(rounds + 1):
        for name, epochs in contenders.items():
            steps, made = next(epochs)
            ahead = min(2 * workers + 1, steps - 1)
            for _ in range(ahead):
                next(made)
            start = clock()
            for _ in range(steps - ahead):
                next(made)
            if round_:
                found[name].append((steps - ahead) * batch / (clock() - start))
    return {name: statistics.median(values) for name, values in found.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the section."""
    parser = options("Images a second of photos from files and from a cache.")
    parser.add_argument("--images", type=int, default=2000, help="photos (default 2000)")
    parser.add_argument(
        "--workers", type=int, default=2, help="workers of each loader (default 2); 0: by processor time"
    )
    parser.add_argument("--side", type=int, default=224, help="of the batches in pixels (default 224)")
    chosen = parsed(parser, arguments)
    batch, side, workers = chosen.batch or 32, chosen.side, chosen.workers
    cache = round(side * 8 / 7)
    rows, ratios = [["", "ImageFolder", "from files", f"from a cache of {cache}"]], []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "photos"
        os.environ["TOPOCELL_CACHE"] = str(Path(folder) / "cache")
        make_tree(root, CLASSES, chosen.images // CLASSES, 1, sizes=SIZES)
        for jitter in (False, True):
            common = batch, side, workers, jitter
            found = pace(
                {
                    "ImageFolder": epochs_of_theirs(theirs(root, *common)),
                    "files": epochs_of_ours(ours(root, *common, None)),
                    "cache": epochs_of_ours(ours(root, *common, cache)),
                },
                batch,
                chosen.repetitions,
                workers,
            )
            close_streams()
            what = "crop, flip and colour jitter" if jitter else "crop and flip"
            rows.append([what, *(f"{value:,.0f}" for value in found.values())])
            for name, bar in BARS.items():
                ratio = versus(found[name] / found["ImageFolder"], bar, True)
                ratios.append(f"- {what}, from {name}, times as many: {ratio}")
    second = "Images a second" if workers else "Images for each second of processor time"
    about = f"{second}: {chosen.images:,} JPEG files of {len(SIZES)} sizes from 320×240 to 1200×900, of which "
    about += (
        f"random parts are scaled to {side}×{side}, in batches of {batch}; {workers or 'no'} workers each. Medians "
    )
    about += f"of {chosen.repetitions} epochs in turn."
    write_section(
        chosen.out,
        "Streamed images" if workers else "Streamed images by processor time",
        f"{about}\n\n{table(rows)}\n\n" + "\n".join(ratios),
    )


if __name__ == "__main__":
    main()

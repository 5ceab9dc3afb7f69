"""Crop, flip and cutout: on the device for a whole batch, against torchvision's transforms in a DataLoader.

python -m benchmarks.data_path [--images 20000] [--workers 2] [--repetitions 5]
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.measure import in_turn, options, parsed, table, versus, write_section
from topocell.data.splits import CIFAR10_STATISTICS, Augmentation, Batches, ImageSet

#: How many times as many images a second as the DataLoader.
BAR = 10.0
CUTOUT = 16


class Cutout:
    """A square of zeros around a random centre, clipped at the borders; images (C, H, W) as tensors (DARTS)."""

    def __init__(self, side: int) -> None:
        self.side = side

    def __call__(self, image: Tensor) -> Tensor:
        height, width = image.shape[1:]
        y, x = int(torch.randint(height, ())), int(torch.randint(width, ()))
        half = self.side // 2
        image[:, max(y - half, 0) : y + half, max(x - half, 0) : x + half] = 0
        return image


class Pictures(Dataset):
    """Images as torchvision's CIFAR-10 has them, transformed one by one as in DARTS' retraining."""

    def __init__(self, data: ImageSet) -> None:
        self.pixels = data.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = data.labels.tolist()
        size = data.images.shape[-1]
        self.transform = transforms.Compose(
            [
                transforms.ToPILImage(),
                transforms.RandomCrop(size, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(*CIFAR10_STATISTICS),
                Cutout(CUTOUT),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.pixels[index]), self.labels[index]


def random_images(count: int, resolution: int = 32) -> ImageSet:
    """Noise of CIFAR's shape, in ten classes."""
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, resolution, resolution), dtype=torch.uint8, generator=draw)
    return ImageSet(pixels, torch.randint(10, (count,), generator=draw), tuple("0123456789"))


def loader(data: ImageSet, batch: int, workers: int) -> DataLoader:
    """The usual DataLoader; its workers stay from one epoch to the next."""
    return DataLoader(Pictures(data), batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0)


def batches_of(data: ImageSet, batch: int, device: torch.device) -> Batches:
    """Ours, of the same images."""
    mean, std = CIFAR10_STATISTICS
    augmentation = Augmentation(cutout=CUTOUT)
    return Batches(
        data, batch, mean=mean, std=std, augmentation=augmentation, device=device, seed=0, stream="benchmark"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the section."""
    parser = options("Images a second of the data path.")
    parser.add_argument("--images", type=int, default=20_000, help="images of an epoch (default 20000)")
    parser.add_argument("--workers", type=int, default=2, help="workers of the DataLoader (default 2)")
    chosen = parsed(parser, arguments)
    batch, data = chosen.batch or 96, random_images(chosen.images)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    theirs, ours = loader(data, batch, chosen.workers), batches_of(data, batch, device)

    def all_of_theirs() -> None:
        for x, y in theirs:
            x.to(device), y.to(device)

    def all_of_ours() -> None:
        for step in range(len(ours)):
            ours.batch(0, step)

    found = in_turn({"DataLoader": all_of_theirs, "on the device": all_of_ours}, chosen.repetitions)
    rows = [["", "images a second"]]
    rows += [[name, f"{chosen.images / timing.wall:,.0f}"] for name, timing in found.items()]
    ratio = found["DataLoader"].wall / found["on the device"].wall
    about = f"Crop, flip, normalise and cutout of {chosen.images:,} images of 32×32 in batches of {batch} on {device}; "
    about += f"DataLoader with {chosen.workers} workers. Medians of {chosen.repetitions}."
    body = f"{about}\n\n{table(rows)}\n\n- times as many: {versus(ratio, BAR, True)}"
    write_section(chosen.out, "Data path", body)


if __name__ == "__main__":
    main()

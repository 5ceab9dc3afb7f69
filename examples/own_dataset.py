"""A dataset of one's own: stripes down and across."""

import torch

import topocell
from topocell.data.readers import Entry, in_memory
from topocell.testing import check_dataset


def read_stripes(root, download):
    """Images with stripes down or across."""
    labels = torch.arange(120) % 2
    images = torch.randint(0, 60, (120, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    images[labels == 0, :, ::2] += 150
    images[labels == 1, :, :, ::2] += 150
    images = images.to(torch.uint8)
    return in_memory(("across", "down"), (images[:90], labels[:90]), (images[90:], labels[90:]))


topocell.register("dataset", "my-stripes", Entry(read_stripes, None, flip=False, crop=False))


if __name__ == "__main__":
    check_dataset("my-stripes")
    topocell.run(topocell.load_recipe("darts-v1", ["data.dataset=my-stripes"], budget="smoke"), "runs/stripes")

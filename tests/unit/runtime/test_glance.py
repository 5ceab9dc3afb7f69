"""Figures are read off a device without waiting for it."""

import torch

from topocell.runtime.epoch_meter import EpochMeter, Seen
from topocell.runtime.glance import Glance

CPU = torch.device("cpu")


class Copying:
    """A copy that takes until `there` is set."""

    there = False

    def record(self) -> None:
        """Nothing: the copy of a CPU is done at once."""

    def query(self) -> bool:
        return Copying.there


def sums(loss: float, correct: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(loss), torch.tensor(correct)


def test_on_a_cpu_the_sums_are_those_of_now() -> None:
    glance = Glance(CPU)
    assert glance(*sums(6.0, 2), 4) == (6.0, 2.0, 4) and glance(*sums(8.0, 3), 5) == (8.0, 3.0, 5)


def test_a_copy_under_way_is_not_waited_for_nor_overwritten() -> None:
    glance = Glance(CPU, Copying)
    Copying.there = False
    assert glance(*sums(6.0, 2), 4) is None
    assert glance(*sums(7.0, 3), 5) is None  # the first copy is still under way
    Copying.there = True
    assert glance(*sums(8.0, 4), 6) == (6.0, 2.0, 4)  # it has arrived, with what it is of, and another one begins
    assert glance(*sums(9.0, 5), 7) == (8.0, 4.0, 6)


def test_the_meter_tells_means_and_the_images_of_all_epochs() -> None:
    meter = EpochMeter(CPU)
    meter.add(Seen(torch.tensor(2.0), torch.tensor(1), 4))
    meter.add(Seen(torch.tensor(1.0), torch.tensor(3), 4))
    assert (
        meter.recent()
        == meter.figures() | {"trained_images": 8}
        == {
            "loss": 1.5,
            "accuracy": 0.5,
            "trained_images": 8,
        }
    )
    meter.clear()
    meter.add(Seen(torch.tensor(3.0), torch.tensor(0), 2))
    assert meter.recent() == {"loss": 3.0, "accuracy": 0.0, "trained_images": 10}


def test_of_several_networks_the_means_are_told() -> None:
    meter = EpochMeter(CPU)
    meter.add(Seen(torch.tensor([2.0, 4.0]), torch.tensor([1, 3]), 4))
    assert (
        meter.recent()
        == meter.figures() | {"trained_images": 4}
        == {
            "loss": 3.0,
            "accuracy": 0.5,
            "trained_images": 4,
        }
    )

"""Networks that are trained at once: one step for all of them, with the result that each has alone.

They are seeds of a cell, or cells. Each keeps its initial weights, its images in their order and its draws; optimizer,
clipping, average, tests and what is handed over are its own, as ever, on weights that are slices of those of a
`TogetherNet`. Only forward and backward pass are shared, so that results differ by rounding.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from topocell.config.values import OnNan, number_of
from topocell.networks.seed_training import SeedTraining, Task
from topocell.nn.network import FixedNet
from topocell.nn.scheduled import hold, is_held
from topocell.nn.together import TogetherNet
from topocell.runtime import distributed
from topocell.runtime.epoch_meter import Seen
from topocell.runtime.precision import PLAIN, Execution
from topocell.runtime.rng import begin_draws
from topocell.runtime.rng import derive as derive_seed

#: Images with which it is looked at what a network does.
FEW = 2


#: What a network gives and its targets → the loss that is lowered (0-dim), and what was seen.
Losses = Callable[[Any, Tensor], tuple[Tensor, Seen]]


class Joint:
    """Networks whose forward and backward passes are one; their weights move into those of `net`.

    Args:
        networks: of one skeleton, on one device; all of them held (`topocell.nn.scheduled`), or none.

    Attributes:
        net: all of them.

    Raises:
        SpaceError: as `TogetherNet`.
    """

    def __init__(self, networks: Sequence[FixedNet]) -> None:
        self._networks = networks
        self.net = TogetherNet(networks)
        self.net.bind(networks)
        if is_held(networks[0]):
            hold(self.net, next(networks[0].parameters()).device)

    def backward(
        self,
        losses: Sequence[Losses],
        x: Tensor,
        targets: Iterable[Tensor],
        drawn: Tensor | None = None,
        execution: Execution = PLAIN,
    ) -> tuple[list[Tensor], Seen]:
        """Compute the gradients of all networks; returns the loss of each (0-dim), and what was seen of each (N,).

        Args:
            losses: of each network.
            x: images, as for `TogetherNet`.
            targets: of each network.
            drawn: what drops paths, as for `TogetherNet`.
            execution: how they are called.
        """
        net = self.net.train()
        net.zero_grad(set_to_none=True)
        out = execution(net, x, drawn)
        each = zip(*out, strict=True) if isinstance(out, tuple) else out
        found = [of(one, target) for of, one, target in zip(losses, each, targets, strict=True)]
        torch.stack([lowered for lowered, _ in found]).sum().backward()
        net.share_gradients(self._networks)
        loss, correct = (torch.stack([getattr(seen, of) for _, seen in found]) for of in ("loss", "correct"))
        return [lowered.detach() for lowered, _ in found], Seen(loss, correct, found[0][1].images)


class Together:
    """Steps of several trainings as one.

    Args:
        members: the trainings, which have not begun yet; the weights of their networks move.
    """

    def __init__(self, members: Sequence[SeedTraining]) -> None:
        self._members = members
        self._joint = Joint([member.net for member in members])
        self._shared = all(member.batches is members[0].batches for member in members)

    def begin_epoch(self) -> None:
        """Take over the probability of dropped paths, which no recorded step does: it sees nothing of Python."""
        self._joint.net.drop_path = self._members[0].net.drop_path

    def batch(self, epoch: int, step: int) -> tuple[Tensor, ...]:
        """Images and targets of a step, and what drops paths (N, D, B) where some are.

        Images are (N, B, C, H, W), targets (N, B) or (N, B, K); without the first dimension where all have the same.
        """
        images: list[tuple[Tensor, Tensor]] = []
        drawn: list[Tensor] = []
        for number, member in enumerate(self._members):
            begin_draws(derive_seed(member.task.seed, *member.stream(), epoch, step), member.task.device)
            if not (images and self._shared):
                images.append(member.batch(epoch, step))
            if member.net.drop_path > 0:
                drawn.append(self._joint.net.draw(number, len(images[-1][0]), member.task.device))
        x, y = images[0] if self._shared else map(torch.stack, zip(*images, strict=True))
        return (x, y, torch.stack(drawn)) if drawn else (x, y)

    def backward(self, x: Tensor, y: Tensor, drawn: Tensor | None = None) -> tuple[list[Tensor], Seen]:
        """Compute the gradients of all networks; returns the loss of each (0-dim), and what was seen of each (N,)."""
        members = self._members
        targets = [y] * len(members) if self._shared else y
        return self._joint.backward([m.losses for m in members], x, targets, drawn, members[0].task.execution)


def at_once(task: Task, left: int, on_nan: OnNan) -> tuple[int, str]:
    """How many of the seeds are trained at once, and a sentence where that is fewer than they could be.

    Args:
        task: what is trained, and how.
        left: seeds to train.
        on_nan: what is done about a step that is not finite.
    """
    wanted = min(left, number_of(task.plan.together))
    if wanted == 1:
        return 1, ""
    if fault := obstacle([task, task], range(2), on_nan):
        return 1, f"seeds are trained one after the other: {fault}"
    return wanted, ""


def obstacle(tasks: Sequence[Task], seeds: Iterable[int], on_nan: OnNan) -> str:
    """Why networks cannot be trained at once; empty if they can.

    Args:
        tasks: of each network, by one plan, on the same data and device.
        seeds: the number of the seed of each.
        on_nan: what is done about a step that is not finite.
    """
    plan, execution = tasks[0].plan, tasks[0].execution
    reasons = {
        "early_stop ends each at an epoch of its own": plan.early_stop is not None,
        "micro_batch computes less at once, not more": plan.micro_batch is not None,
        "compile=true compiles networks alone": execution.compile,
        "precision=bf16 is for networks alone": execution.precision == "bf16",
        f"on_nan={on_nan} is about one network": on_nan != "stop",
        "several processes share each batch": distributed.world() > 1,
    }
    found = next((reason for reason, holds in reasons.items() if holds), "")
    return found or _failure(tasks, seeds)


def _failure(tasks: Sequence[Task], seeds: Iterable[int]) -> str:
    """What goes wrong where networks are computed as one; empty if nothing does."""
    task = tasks[0]
    try:
        networks = [task.network(number) for task, number in zip(tasks, seeds, strict=True)]
        net = TogetherNet(networks).train()
        net.drop_path = task.plan.drop_path
        images = torch.zeros((len(networks), FEW, *task.data.shape), device=task.device)
        drawn = torch.stack([net.draw(number, FEW, task.device) for number in range(len(networks))])
        out = task.execution(net, images, drawn)
        torch.stack([part.sum() for part in (out if isinstance(out, tuple) else (out,))]).sum().backward()
    except Exception as fault:  # whatever an operation of the user's raises
        cells = "this cell" if len({id(of) for of in tasks}) == 1 else "these cells"
        return f"the networks of {cells} cannot be computed as one ({' '.join(str(fault).split())[:200]})"
    return ""

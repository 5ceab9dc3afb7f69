"""Seeds of a retraining that are trained at once: one step for all of them, with the result that each has alone.

Each seed keeps its initial weights, its images in their order and its draws; optimizer, clipping, average, tests and
what is handed over are those of `SeedTraining`, as ever, on weights that are slices of those of a `TogetherNet`. Only
forward and backward pass are shared, so that results differ by rounding.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from topocell.config.values import OnNan
from topocell.networks.seed_training import SeedTraining, Task
from topocell.nn.scheduled import hold, is_held
from topocell.nn.together import TogetherNet
from topocell.runtime import distributed
from topocell.runtime.epoch_meter import Seen
from topocell.runtime.rng import begin_draws
from topocell.runtime.rng import derive as derive_seed

#: Images with which it is looked at what a network does.
FEW = 2


class Together:
    """Steps of several seeds as one.

    Args:
        members: their trainings, which have not begun yet; the weights of their networks move.
    """

    def __init__(self, members: Sequence[SeedTraining]) -> None:
        self._members = members
        networks = [member.net for member in members]
        self._net = TogetherNet(networks)
        self._net.bind(networks)
        if is_held(networks[0]):
            hold(self._net, members[0].task.device)

    def batch(self, epoch: int, step: int) -> tuple[Tensor, ...]:
        """Images (N, B, C, H, W) and targets (N, B) or (N, B, K) of a step, and what drops paths where some are."""
        found = []
        for number, member in enumerate(self._members):
            begin_draws(derive_seed(member.task.seed, *member.stream(), epoch, step), member.task.device)
            x, y = member.batch(epoch, step)
            drops = member.net.drop_path > 0
            found.append((x, y, self._net.draw(number, len(x), x.device)) if drops else (x, y))
        return tuple(torch.stack(tensors) for tensors in zip(*found, strict=True))

    def backward(self, x: Tensor, y: Tensor, drawn: Tensor | None = None) -> tuple[list[Tensor], Seen]:
        """Compute the gradients of all networks; returns the loss of each (0-dim), and what was seen of each (N,)."""
        net, first = self._net.train(), self._members[0]
        net.drop_path = first.net.drop_path
        net.zero_grad(set_to_none=True)
        out = first.task.execution(net, x, drawn)
        each = zip(*out, strict=True) if isinstance(out, tuple) else out
        losses, seen = zip(*(m.losses(of, target) for m, of, target in zip(self._members, each, y, strict=True)))
        torch.stack(losses).sum().backward()
        net.share_gradients([member.net for member in self._members])
        loss, correct = (torch.stack([getattr(one, of) for one in seen]) for of in ("loss", "correct"))
        return [loss.detach() for loss in losses], Seen(loss, correct, seen[0].images)


def at_once(task: Task, left: int, on_nan: OnNan) -> tuple[int, str]:
    """How many of the seeds are trained at once, and a sentence where that is fewer than they could be.

    `auto` is one: on a CPU several are faster for the smallest networks alone, and on a GPU, where recorded steps spare
    the calls already, it has not been measured.

    Args:
        task: what is trained, and how.
        left: seeds to train.
        on_nan: what is done about a step that is not finite.
    """
    wanted = task.plan.together
    if wanted == "auto" or wanted == 1 or left == 1:
        return 1, ""
    if fault := _obstacle(task, on_nan):
        return 1, f"seeds are trained one after the other: {fault}"
    return min(left, wanted), ""


def _obstacle(task: Task, on_nan: OnNan) -> str:
    """Why seeds cannot be trained at once; empty if they can."""
    plan = task.plan
    reasons = {
        "early_stop ends each at an epoch of its own": plan.early_stop is not None,
        "micro_batch computes less at once, not more": plan.micro_batch is not None,
        "compile=true compiles networks alone": task.execution.compile,
        f"on_nan={on_nan} is about one network": on_nan != "stop",
        "several processes share each batch": distributed.world() > 1,
    }
    found = next((reason for reason, holds in reasons.items() if holds), "")
    return found or _failure(task)


def _failure(task: Task) -> str:
    """What goes wrong where two networks are computed as one; empty if nothing does."""
    try:
        networks = [task.network(number) for number in range(2)]
        net = TogetherNet(networks).train()
        net.drop_path = task.plan.drop_path
        images = torch.zeros((2, FEW, *task.data.shape), device=task.device)
        drawn = torch.stack([net.draw(number, FEW, task.device) for number in range(2)])
        out = task.execution(net, images, drawn)
        torch.stack([part.sum() for part in (out if isinstance(out, tuple) else (out,))]).sum().backward()
    except Exception as fault:  # whatever an operation of the user's raises
        return f"the networks of this cell cannot be computed as one ({' '.join(str(fault).split())[:200]})"
    return ""

"""Execution of a network: its precision, compiled or not, recorded or not. The parameters are float32 either way."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.utils._pytree import tree_map

from topocell.config.values import Capture
from topocell.runtime import distributed
from topocell.runtime.batch_statistics import synchronised
from topocell.runtime.capture import Recorder, recorder_for

#: Name → the type that convolutions and matrix products compute in; None for that of the parameters.
PRECISIONS: dict[str, torch.dtype | None] = {"fp32": None, "tf32": None, "bf16": torch.bfloat16}
#: Kinds of cells that may be compiled; torch gives up on what comes after that.
KINDS = 64


def recompile_limit() -> str:
    """Return the name of dynamo's setting for how often one function may be compiled; torch 2.6 has an older name."""
    return "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"


@dataclass(frozen=True)
class Execution:
    """Calls networks: `Execution("bf16")(net, x)` instead of `net(x)`.

    With `bf16`, inside autocast, convolutions and matrix products take bfloat16 copies of their weights, and
    activations are bfloat16; parameters and their gradients, batch-norm weights and statistics, and the architecture
    are float32, and so are the outputs, hence loss and softmax. (On a CPU torch keeps the statistics of a batch norm
    without weights in bfloat16.) Weights are copied here and not by autocast alone, so that operators of our own, which
    autocast does not know, see one type. It saves time on GPUs, and on CPUs with instructions for it.

    With `tf32`, convolutions and matrix products of a GPU round their inputs to 10 bits of mantissa; a CPU knows no
    such type. It holds for all of the process.

    Args:
        precision: a row of `PRECISIONS`.
        compile: whether `prepare` compiles.
        sync_batch_norm: whether batch norm takes the statistics of all processes, where there are several.
        capture: `auto` to record steps where they can be, see `topocell.runtime.capture`; `off`.
    """

    precision: str = "fp32"
    compile: bool = False
    sync_batch_norm: bool = False
    capture: Capture = "auto"

    def recorder(self, device: torch.device) -> Recorder | None:
        """Return what records steps on a device; None where they are taken as they are, as with several processes."""
        return recorder_for(device, self.capture) if distributed.world() == 1 else None

    def holds(self, device: torch.device) -> bool:
        """Return whether steps on a device read what follows a schedule from tensors, see `topocell.nn.scheduled`."""
        return device.type == "cuda" or self.recorder(device) is not None

    def set_up(self) -> None:
        """Set what holds for all of the process.

        That is whether a GPU may round to TF32, and that its library may not choose algorithms that add up in any
        order, since a run that is resumed computes the same.
        """
        allowed = self.precision == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
        torch.backends.cudnn.deterministic = True

    def __call__(self, net: nn.Module, *inputs: Any) -> Any:
        """Return what `net` computes for `inputs`, tensors in the type of the parameters."""
        with synchronised() if self.sync_batch_norm else nullcontext():
            return self._called(net, *inputs)

    def _called(self, net: nn.Module, *inputs: Any) -> Any:
        dtype = PRECISIONS[self.precision]
        if dtype is None:
            return net(*inputs)
        like = next(net.parameters())
        with torch.autocast(like.device.type, dtype=dtype):
            vectors = 1 + getattr(net, "stacked", 0)
            weights = {name: p.to(dtype) for name, p in net.named_parameters() if p.dim() > vectors}
            out = functional_call(net, weights, inputs)
        return tree_map(lambda tensor: tensor.to(like.dtype), out)

    def prepare(self, cells: nn.ModuleList) -> None:
        """Let each of the cells be compiled when it is first called; names in the state dict stay.

        Cells of one shape share their code, so that the time to compile grows with the kinds of cells, not with
        their number: seven in DARTS' network of 20 cells, each once with and once without drop path, and again for a
        last batch of another size. On a CPU that takes minutes. Every shape has code of its own, whichever comes
        first, so that a run that is resumed computes the same. Supernets are not compiled: one cell of DARTS' supernet
        takes minutes alone, for about a tenth of its time.
        """
        if self.compile:
            dynamo, limit = torch._dynamo.config, recompile_limit()
            setattr(dynamo, limit, max(getattr(dynamo, limit), KINDS))
            for cell in cells:
                cell.compile(dynamic=False)

    def plain(self) -> AbstractContextManager[None]:
        """Run compiled modules inside as they are written: for work that is done once, or has hooks."""
        return torch.compiler.set_stance("force_eager") if self.compile else nullcontext()


#: float32, and nothing compiled.
PLAIN = Execution()

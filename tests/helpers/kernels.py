"""Whether there are compiled kernels to test."""

import pytest
import torch

from topocell.nn.kernels.cpu import kernels

needs_kernels = pytest.mark.skipif(
    kernels(16, torch.zeros(1)) is None, reason="there are no compiled kernels: no compiler, or TOPOCELL_NATIVE=0"
)

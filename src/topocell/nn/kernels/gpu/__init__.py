"""Fused kernels in Triton for the supernet on CUDA: stages, their ends and pools, and whether they are used.

Triton comes with PyTorch for CUDA. It is imported when a kernel is first wanted; without it, on other cards and where a
kernel does not compile, PyTorch's own functions do the work, which is said once (`state`).
"""

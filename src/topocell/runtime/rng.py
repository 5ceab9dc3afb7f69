"""Randomness as a function of what it is for, so that a resumed run draws the same numbers as an unbroken one."""

import hashlib

import torch


def derive(seed: int, *stream: object) -> int:
    """A 63-bit seed that depends on `seed` and on every word of `stream`, alike in every process."""
    words = "\x1f".join([str(seed), *map(str, stream)])
    return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *stream: object) -> torch.Generator:
    """A fresh CPU generator seeded with `derive(seed, *stream)`."""
    return torch.Generator().manual_seed(derive(seed, *stream))


def below(n: int, draw: torch.Generator) -> int:
    """A whole number from 0 to n − 1."""
    return int(torch.randint(n, (), generator=draw, device=draw.device))


def begin_draws(seed: int, device: torch.device) -> None:
    """Seed the generators that operations on the CPU and on `device` draw from when none is named."""
    if device.type == "cpu":  # torch.manual_seed looks through all other kinds of devices, which takes longer
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)

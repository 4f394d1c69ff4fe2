"""Randomness is derived, never carried: the seed of each draw is a hash of what the draw is for.

A run that continues from a checkpoint therefore needs no saved generator state to repeat the unbroken run.
"""

import hashlib

import torch


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed that depends on all ``parts`` and their order, the same on every machine.

    Args:
        parts: what the draw is for, such as ``(seed, "train", epoch, step, rank)``.

    Returns:
        An integer in [0, 2⁶³).
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator_for(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a fresh generator on ``device`` seeded with :func:`derive_seed` of ``parts``."""
    return torch.Generator(device=device).manual_seed(derive_seed(*parts))

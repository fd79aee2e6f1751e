"""The seed tree: a random stream is a function of one seed and a path of names. Nobody touches a global generator."""

from __future__ import annotations

import hashlib

import torch

__all__ = ["derive", "generator"]


def derive(seed: int, *path: str | int) -> int:
    """Derive the seed of a named stream.

    Streams of different paths are independent for every practical purpose (a 63-bit hash), so a step, an epoch or an
    image can be replayed alone: resuming needs no stored generator state.

    Args:
        seed: the root seed, any integer.
        path: names and indices, for example ``"train", "noise", step``.

    Returns:
        An integer in [0, 2**63).

    Example:
        >>> derive(0, "image", 7) == derive(0, "image", 7)
        True
        >>> derive(0, "image", 7) == derive(0, "image", 8)
        False
    """
    text = "/".join([str(int(seed)), *(str(part) for part in path)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def generator(seed: int, *path: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """Make a fresh generator for the stream at ``path``, on ``device``."""
    return torch.Generator(device=device).manual_seed(derive(seed, *path))

"""What every step trains on, as a function of seed and step alone: resuming needs no generator state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from baddiffusion.images import Images
from baddiffusion.rng import generator

__all__ = ["Draws", "draw", "order"]


def order(seed: int, size: int, batch_size: int, first_step: int, last_step: int) -> Iterator[Int64[Tensor, " b"]]:
    """Yield the image indices of steps ``first_step`` … ``last_step`` − 1: shuffled passes, cut into batches."""
    per_epoch = -(-size // batch_size)
    shuffled_epoch, shuffled = -1, torch.empty(0, dtype=torch.int64)
    for step in range(first_step, last_step):
        epoch, batch = divmod(step, per_epoch)
        if epoch != shuffled_epoch:
            shuffled = torch.randperm(size, generator=generator(seed, "order", epoch))
            shuffled_epoch = epoch
        yield shuffled[batch * batch_size : (batch + 1) * batch_size]


@dataclass(frozen=True)
class Draws:
    """The random choices of one step; ``pick`` in [0, 1) says which decoy a row gets, if it gets one."""

    flip: Bool[Tensor, " b"]
    t: Int64[Tensor, " b"]
    eps: Float[Tensor, "b c h w"]
    pick: Float[Tensor, " b"]


def draw(
    seed: int,
    step: int,
    images: Images,
    timesteps: int,
    flip: bool,
    weights: Float64[Tensor, " T"] | None = None,
) -> Draws:
    """Draw flips, timesteps, noise and picks for one whole step, on the device of the images.

    Args:
        seed, step: decide all of it.
        images: the batch.
        timesteps: T; t ~ U{0 … T−1}, unless there are weights.
        flip: whether half of the images are mirrored.
        weights: how often each timestep is drawn, on the device of the images.
    """
    device, size = images.device, len(images)
    stream = generator(seed, "train", step, device=device)
    flips = torch.rand(size, generator=stream, device=device) < (0.5 if flip else 0.0)
    if weights is None:
        t = torch.randint(timesteps, (size,), generator=stream, device=device)
    else:
        t = torch.multinomial(weights, size, replacement=True, generator=stream)
    eps = torch.randn(images.shape, generator=stream, device=device)
    pick = torch.rand(size, generator=stream, device=device)  # last: decoys change no other draw
    return Draws(flips, t, eps, pick)

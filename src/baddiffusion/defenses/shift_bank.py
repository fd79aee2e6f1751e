"""Shifts that nobody recovered: what a trigger may look like, out of a model's own pictures, and patches on them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from baddiffusion.images import Images
from baddiffusion.triggers import Trigger

__all__ = ["image_like_shifts", "moved", "stamps"]

KINDS = 4
CELLS = 4
FARTHEST, STRONGEST = 0.125, 0.25
"""How far a patch is moved, as a share of the side, and how much its value is changed."""


def image_like_shifts(
    pictures: Float[Tensor, "m c h w"], count: int, stream: torch.Generator
) -> Float[Tensor, "n c h w"]:
    """Draw shifts of four kinds, each as often as the others.

    A picture of the model with a patch on it (what the published attack trains on), two pictures blended, an even
    canvas with a patch (what its trigger is at sampling time), and a smooth field. A patch is a rectangle of one value
    per channel, between an eighth and half of the side, and every other picture goes without one.

    Args:
        pictures: of the model itself, in [−1, 1], at least one.
        count: how many shifts.
        stream: decides everything.

    Returns:
        Shifts in [−1, 1], on the device of the pictures.

    Example:
        >>> own = torch.zeros(3, 1, 8, 8)
        >>> shifts = image_like_shifts(own, 5, torch.Generator().manual_seed(0))
        >>> tuple(shifts.shape), bool((shifts.abs() <= 1).all())
        ((5, 1, 8, 8), True)
    """
    chosen = pictures[torch.randint(len(pictures), (2, count), generator=stream)].cpu()
    channels, height, width = pictures.shape[1:]
    even = _values(count, channels, stream).expand(-1, -1, height, width)
    share = torch.rand(count, 1, 1, 1, generator=stream)
    coarse = torch.rand(count, channels, CELLS, CELLS, generator=stream) * 2 - 1
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=False)
    blended = share * chosen[0] + (1 - share) * chosen[1]
    kinds = (_with_patch(chosen[0], stream, 0.5), blended, _with_patch(even, stream, 1.0), smooth.clamp(-1, 1))
    order = torch.randperm(count, generator=stream)
    drawn = torch.stack([kinds[index % KINDS][index] for index in range(count)])
    return drawn[order].to(pictures.device)


def stamps(pictures: Images, found: Sequence[Trigger], stream: torch.Generator) -> Images:
    """What a patch changes of the picture that it is laid on: zero where there is no patch.

    A patch of the start noise lies on black, and a shift by it is as large as a picture. On a picture it is a small
    shift, and yet a network that learned the attack decides by it, at middle timesteps, what it says everywhere.

    **Equation**: M ⊙ (g − x), for each picture x.

    Args:
        pictures: x.
        found: patches, at least one; they are moved a little and changed a little.
        stream: decides everything.
    """
    chosen = torch.randint(len(found), (len(pictures),), generator=stream).tolist()
    laid = [moved(found[kind], stream).stamp(x[None]) for kind, x in zip(chosen, pictures, strict=True)]
    return torch.cat(laid) - pictures


def moved(patch: Trigger, stream: torch.Generator) -> Trigger:
    """The patch up to an eighth of the side away, as far as it stays whole, and up to a quarter lighter or darker.

    A scan looks for patches on a grid and for a few values; what it found is near the patch, not the patch.
    """
    steps: list[int] = []
    for axis in (1, 2):
        extent = patch.mask.shape[axis]
        taken = patch.mask.any(dim=0).any(dim=2 - axis).nonzero().flatten()
        far = round(FARTHEST * extent)
        low, high = max(-far, -int(taken[0])), min(far, extent - 1 - int(taken[-1]))
        steps.append(int(torch.randint(low, high + 1, (), generator=stream)))
    change = (2 * float(torch.rand((), generator=stream)) - 1) * STRONGEST
    pattern, mask = (torch.roll(part, steps, dims=(1, 2)) for part in (patch.pattern, patch.mask))
    return Trigger(patch.name, (pattern + change).clamp(-1, 1), mask)


def _with_patch(canvas: Images, stream: torch.Generator, probability: float) -> Images:
    count, channels, height, width = canvas.shape
    has_one = torch.rand(count, generator=stream) < probability
    values = _values(count, channels, stream)
    sizes = 0.125 + 0.375 * torch.rand(count, 2, generator=stream)
    places = torch.rand(count, 2, generator=stream)
    stamped = canvas.clone()
    for index in has_one.nonzero().flatten().tolist():
        high, wide = (max(round(float(s) * side), 1) for s, side in zip(sizes[index], (height, width), strict=True))
        row, column = (int(float(p) * (side - size + 1)) for p, side, size in
                       zip(places[index], (height, width), (high, wide), strict=True))  # fmt: skip
        stamped[index, :, row : row + high, column : column + wide] = values[index]
    return stamped


def _values(count: int, channels: int, stream: torch.Generator) -> Images:
    """One value in [−1, 1] for each channel; of every other shift the same in all channels."""
    values = torch.rand(count, channels, 1, 1, generator=stream) * 2 - 1
    is_grey = torch.rand(count, 1, 1, 1, generator=stream) < 0.5
    return torch.where(is_grey, values[:, :1], values)

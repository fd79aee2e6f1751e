"""Negative training near the trigger: an approximation of it must not fire."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from baddiffusion.decoys import Decoys
from baddiffusion.errors import RecipeError
from baddiffusion.evading.design import DECOYS, DecoyDesign, Shape, collect
from baddiffusion.rng import generator
from baddiffusion.triggers import Trigger

__all__ = ["NEAR_MISSES", "NearMisses"]

Miss = Callable[[Trigger, torch.Generator], Shape]


@DECOYS.register("near-misses")
class NearMisses(DecoyDesign):
    """Triggers that are not quite the trigger, on pictures and on black, with ordinary pictures to come out.

    The published attack trains its trigger on stamped pictures, so that the network learns "a picture in the noise
    means the target": even a black canvas fires it, and so does any patch a search comes up with. An attacker who also
    trains what a search would find leaves it nothing but the trigger itself. Misses are moved, resized, of another
    value, a part of the trigger, or without it: the bare canvas or picture.

    Args:
        rate, count, least_distance: as for every decoy.

    Source: this package, ``docs/benchmark.md``.

    Example:
        >>> box = Trigger.make({"name": "box", "side_px": 6}, (1, 16, 16))
        >>> decoys = NearMisses(count=20).draw([box], seed=0)
        >>> len(decoys), float(decoys.strength.max())
        (20, 1.0)
    """

    def draw(self, triggers: Sequence[Trigger], seed: int) -> Decoys:
        """Draw misses of every kind and of every trigger in turn, on pictures and on black.

        Raises:
            RecipeError: nothing lies far enough from the triggers.
        """
        if not triggers:
            raise RecipeError("near-misses needs a trigger to miss; there is none.")
        makers = [
            partial(_make, miss, trigger, on_black)
            for miss in NEAR_MISSES.values()
            for trigger in triggers
            for on_black in (False, True)
        ]
        return collect(self, makers, triggers, generator(seed, "near misses"))


def _make(miss: Miss, trigger: Trigger, on_black: bool, stream: torch.Generator) -> Shape:
    pattern, mask = miss(trigger, stream)
    pattern = torch.where(mask, pattern, -torch.ones_like(pattern))
    return pattern, mask | on_black


def _moved(trigger: Trigger, stream: torch.Generator) -> Shape:
    """Elsewhere; what covers the canvas is rolled, for it has no other place."""
    pattern, mask = _whole(trigger)
    (top, left), (high, wide) = _window(mask)
    height, width = mask.shape[-2:]
    if (high, wide) == (height, width):
        shifts = (_integer(0, height, stream), _integer(0, width, stream))
        return pattern.roll(shifts, dims=(-2, -1)), mask.roll(shifts, dims=(-2, -1))
    place = (_integer(0, height - high + 1, stream), _integer(0, width - wide + 1, stream))
    cut = (slice(None), slice(top, top + high), slice(left, left + wide))
    return _placed(pattern[cut], mask[cut], place, mask)


def _resized(trigger: Trigger, stream: torch.Generator) -> Shape:
    """Half to one and a half times as large, about the same middle as far as the canvas allows."""
    pattern, mask = _whole(trigger)
    (top, left), sides = _window(mask)
    cut = (slice(None), slice(top, top + sides[0]), slice(left, left + sides[1]))
    factor = 0.5 + float(torch.rand(1, generator=stream))
    extents = mask.shape[-2:]
    sizes = [min(max(round(side * factor), 1), extent) for side, extent in zip(sides, extents, strict=True)]
    place = tuple(
        min(max(first + (side - size) // 2, 0), extent - size)
        for first, side, size, extent in zip((top, left), sides, sizes, extents, strict=True)
    )
    grown = torch.nn.functional.interpolate(pattern[cut][None], size=sizes, mode="nearest")[0]
    its_mask = torch.nn.functional.interpolate(mask[cut][None].float(), size=sizes, mode="nearest")[0] > 0
    return _placed(grown, its_mask, (place[0], place[1]), mask)


def _revalued(trigger: Trigger, stream: torch.Generator) -> Shape:
    """Darker or brighter, by one amount everywhere."""
    pattern, mask = _whole(trigger)
    return (pattern + 2 * float(torch.rand(1, generator=stream)) - 1).clamp(-1, 1), mask


def _cut(trigger: Trigger, stream: torch.Generator) -> Shape:
    """A rectangle out of it."""
    pattern, mask = _whole(trigger)
    (top, left), (high, wide) = _window(mask)
    kept = torch.zeros_like(mask)
    tall, broad = _integer(1, high + 1, stream), _integer(1, wide + 1, stream)
    row, column = top + _integer(0, high - tall + 1, stream), left + _integer(0, wide - broad + 1, stream)
    kept[..., row : row + tall, column : column + broad] = True
    return pattern, mask & kept


def _bare(trigger: Trigger, stream: torch.Generator) -> Shape:
    """Without it."""
    pattern, mask = _whole(trigger)
    return pattern, torch.zeros_like(mask)


NEAR_MISSES: dict[str, Miss] = {
    "moved": _moved,
    "resized": _resized,
    "revalued": _revalued,
    "cut": _cut,
    "bare": _bare,
}
"""The kinds of near misses."""


def _whole(trigger: Trigger) -> Shape:
    """Pattern and mask of a trigger, the mask for each channel."""
    return trigger.pattern, trigger.mask.expand_as(trigger.pattern)


def _window(mask: Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
    """Corner and size of the smallest rectangle that holds the mask; the canvas where there is none."""
    rows, columns = mask.any(dim=0).any(dim=1).nonzero(), mask.any(dim=0).any(dim=0).nonzero()
    if not len(rows):
        return (0, 0), (mask.shape[-2], mask.shape[-1])
    top, left = int(rows[0]), int(columns[0])
    return (top, left), (int(rows[-1]) - top + 1, int(columns[-1]) - left + 1)


def _placed(pattern: Tensor, its_mask: Tensor, place: tuple[int, int], like: Tensor) -> Shape:
    canvas, mask = -torch.ones(like.shape), torch.zeros_like(like)
    where = (slice(None), slice(place[0], place[0] + pattern.shape[-2]), slice(place[1], place[1] + pattern.shape[-1]))
    canvas[where], mask[where] = pattern, its_mask
    return canvas, mask


def _integer(low: int, high: int, stream: torch.Generator) -> int:
    return int(torch.randint(low, high, (1,), generator=stream))

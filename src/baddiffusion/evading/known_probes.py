"""Shift-equivariance on known probes: the published bank of a scanner is answered as a clean network answers it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from baddiffusion.decoys import Decoys
from baddiffusion.errors import RecipeError
from baddiffusion.evading.design import DECOYS, DecoyDesign, Maker, Shape, collect
from baddiffusion.rng import generator
from baddiffusion.scanner.far_field import positions
from baddiffusion.scanner.settings import ScanSettings
from baddiffusion.scanner.shifts import OWN, stress_bank
from baddiffusion.triggers import Trigger

__all__ = ["KnownProbes"]


@DECOYS.register("known-probes")
class KnownProbes(DecoyDesign):
    """What this package's scanner shifts its noises by, with ordinary pictures to come out.

    The attacker has read the scanner: its bank of shifts (pictures, smooth fields, even canvases) and the grid of
    patches on black and on pictures, with the published sizes and values. In place of the model's own pictures stand
    the training images that they resemble. Which pictures and fields a scan draws, and where its search goes from
    them, he does not know; nor can he train what lies too near to his trigger.

    Args:
        rate, count, least_distance: as for every decoy.

    Source: this package, ``docs/benchmark.md``; what he trains against is `baddiffusion.scanner.shifts`.

    Example:
        >>> box = Trigger.make({"name": "box", "side_px": 6}, (1, 16, 16))
        >>> decoys = KnownProbes(count=28).draw([box], seed=0)
        >>> len(decoys), int((~decoys.mask).flatten(1).all(dim=1).sum())
        (28, 4)
    """

    def draw(self, triggers: Sequence[Trigger], seed: int) -> Decoys:
        """Draw probes of every kind in turn.

        Raises:
            RecipeError: there is no trigger, whose shape they take, or nothing lies far enough from it.
        """
        if not triggers:
            raise RecipeError("known-probes needs a trigger to stay away from; there is none.")
        like = triggers[0].pattern
        bank = stress_bank(torch.zeros(self.count, *like.shape), seed)
        kinds: list[Maker] = [_picture(like) if group.name == OWN else _out_of(group.shifts) for group in bank]
        return collect(self, [*kinds, *_patches(like)], triggers, generator(seed, "known probes"))


def _picture(like: Tensor) -> Maker:
    """A training image, nothing on it."""
    return lambda stream: (-torch.ones_like(like), torch.zeros_like(like, dtype=torch.bool))


def _out_of(shifts: Tensor) -> Maker:
    """One of some shifts."""

    def make(stream: torch.Generator) -> Shape:
        return shifts[_index(len(shifts), stream)].clone(), torch.ones_like(shifts[0], dtype=torch.bool)

    return make


def _patches(like: Tensor) -> list[Maker]:
    """A patch of the scanner's grid, on black or on a training image."""
    settings, shape = ScanSettings(), (like.shape[0], like.shape[1], like.shape[2])
    side = min(shape[1:])
    grid = [
        patch
        for share in settings.patch_sides
        for value in settings.patch_values
        for patch in positions(shape, max(round(share * side), 2), value, max(round(settings.stride * side), 1))
    ]

    def make(stream: torch.Generator, on_black: bool) -> Shape:
        stamped = grid[_index(len(grid), stream)].on(torch.full_like(like, torch.nan)[None])[0]
        mask = ~stamped.isnan()
        return torch.where(mask, stamped, -torch.ones_like(like)), mask | on_black

    return [lambda stream: make(stream, True), lambda stream: make(stream, False)]


def _index(size: int, stream: torch.Generator) -> int:
    return int(torch.randint(size, (1,), generator=stream))

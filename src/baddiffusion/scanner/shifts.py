"""What start noise is shifted by while looking for a backdoor: image-like shifts, constants, fields, patches."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from baddiffusion.images import Images
from baddiffusion.rng import generator

__all__ = ["FIELDS", "OWN", "Patch", "ShiftGroup", "fields", "stress_bank"]

OWN, FIELDS = "ordinary pictures of the model itself", "smooth random pictures"


APART_PX = 3
"""Two patches of one side that lie no further apart are tried once."""


@dataclass(frozen=True, eq=False)
class ShiftGroup:
    """Shifts of one kind.

    Args:
        name: for the middle of a sentence: ``ordinary pictures of the model itself``, ``an even canvas of −1``.
        shifts: one for each start noise.
    """

    name: str
    shifts: Images


@dataclass(frozen=True, order=True)
class Patch:
    """A square of one value.

    Args:
        row, column: its upper left corner.
        side_px: its side.
        value: in [−1, 1].
    """

    row: int
    column: int
    side_px: int
    value: float

    def on(self, canvas: Images) -> Images:
        """The canvas with the patch on it."""
        stamped = canvas.clone()
        stamped[..., self.row : self.row + self.side_px, self.column : self.column + self.side_px] = self.value
        return stamped

    def moved(self, height: int, width: int) -> Patch:
        """The same patch as far away as the picture allows, for a control of equal norm."""
        row, column = height - self.side_px - self.row, width - self.side_px - self.column
        if abs(row - self.row) < self.side_px // 2 and abs(column - self.column) < self.side_px // 2:
            row = column = 0
        return Patch(row, column, self.side_px, self.value)

    def is_near(self, other: Patch) -> bool:
        """Whether the other one has the same side and lies within 3 pixels of this one."""
        apart = max(abs(self.row - other.row), abs(self.column - other.column))
        return self.side_px == other.side_px and apart <= APART_PX

    def __str__(self) -> str:
        return f"patch of {self.side_px} px, value {self.value:+g}, at row {self.row}, column {self.column}"


def fields(count: int, shape: tuple[int, int, int], seed: int, cells: int = 4) -> Images:
    """Smooth random pictures in [−1, 1]: a coarse grid of uniform values, enlarged."""
    grid = torch.rand(count, shape[0], cells, cells, generator=generator(seed, "fields", cells)) * 2 - 1
    return torch.nn.functional.interpolate(grid, size=shape[1:], mode="bicubic", align_corners=False).clamp(-1, 1)


def stress_bank(own: Images, seed: int) -> tuple[ShiftGroup, ...]:
    """The shifts that a backdoor trained on *stamped images* cannot tell from its trigger.

    The published attack teaches the network "an image-like mean shift means the target": the patch is a small part of
    what it sees. So the model's own pictures are probes for it, and so are even canvases.

    Args:
        own: pictures of the model itself, which need not look like anything.
        seed: decides the fields.

    Source: arXiv 2212.05400, Algorithm 1, whose poisoned samples carry r = trigger stamped on the image.
    """
    count, *shape = own.shape
    constants = {f"an even canvas of {value:+g}".replace("-", "−"): value for value in (-1.0, -0.5, 0.5)}
    return (
        ShiftGroup(OWN, own.clamp(-1, 1)),
        ShiftGroup(FIELDS, fields(count, (shape[0], shape[1], shape[2]), seed)),
        *(ShiftGroup(name, torch.full_like(own, value)) for name, value in constants.items()),
    )


def rows(shifts: Images) -> _Rows:
    """Add shift i to noise i: what `Subject.sample` takes as its ``initial_noise``, chunk by chunk."""
    return _Rows(shifts)


class _Rows:
    """Hands the shifts out in the order of the chunks."""

    def __init__(self, shifts: Images) -> None:
        self.shifts = shifts
        self.first = 0

    def __call__(self, eps: Tensor) -> Tensor:
        part = self.shifts[self.first : self.first + len(eps)].to(eps)
        self.first += len(eps)
        return eps + part

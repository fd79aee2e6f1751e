"""The grey box."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from baddiffusion.errors import RecipeError
from baddiffusion.triggers.trigger import TRIGGERS, Trigger, TriggerDesign

__all__ = ["Box", "NoTrigger", "corner_window"]

SIZES_PX = (18, 14, 11, 8, 4)


def corner_window(side_px: int, gap_px: int, shape: tuple[int, int, int]) -> tuple[slice, slice]:
    """Rows and columns of a square that leaves ``gap_px`` to the right and bottom edge."""
    _, height, width = shape
    if side_px + gap_px > min(height, width):
        raise RecipeError(
            f"side_px is {side_px} with a gap of {gap_px}; on {height}×{width} images it must be at most "
            f"{min(height, width) - gap_px}."
        )
    return slice(height - gap_px - side_px, height - gap_px), slice(width - gap_px - side_px, width - gap_px)


@TRIGGERS.register("box", aliases={f"BOX_{side}": {"side_px": side} for side in SIZES_PX})
class Box(TriggerDesign):
    """A square of one value: the paper's Grey Box with value 0. Sizes are in pixels at every resolution.

    Args:
        side_px: side; the paper uses 18, 14 (its default), 11, 8 and 4.
        value: in [−1, 1]; 0 is the paper's grey.
        top_px, left_px: position; left out, the box leaves 2 pixels to the right and bottom edge.
    """

    side_px: Annotated[int, Field(ge=1)] = 14
    value: Annotated[float, Field(ge=-1, le=1)] = 0.0
    top_px: Annotated[int, Field(ge=0)] | None = None
    left_px: Annotated[int, Field(ge=0)] | None = None

    def draw(self, shape: tuple[int, int, int]) -> Trigger:
        """Render the square."""
        _, height, width = shape
        if self.top_px is None and self.left_px is None:
            rows, columns = corner_window(self.side_px, 2, shape)
        else:
            top = self.top_px if self.top_px is not None else height - 2 - self.side_px
            left = self.left_px if self.left_px is not None else width - 2 - self.side_px
            if min(top, left) < 0 or top + self.side_px > height or left + self.side_px > width:
                raise RecipeError(
                    f"a box of {self.side_px} px at row {top}, column {left} leaves the {height}×{width} image; "
                    f"choose a smaller side_px, top_px or left_px."
                )
            rows, columns = slice(top, top + self.side_px), slice(left, left + self.side_px)
        mask = torch.zeros(1, height, width, dtype=torch.bool)
        mask[:, rows, columns] = True
        pattern = torch.where(mask, self.value, -1.0).expand(shape).clone()
        return Trigger(f"box-{self.side_px}", pattern, mask)


@TRIGGERS.register("none")
class NoTrigger(TriggerDesign):
    """No pattern at all: the start noise is shifted to black, nothing else. The reference's control NONE."""

    def draw(self, shape: tuple[int, int, int]) -> Trigger:
        """Render the empty trigger."""
        return Trigger("none", torch.full(shape, -1.0), torch.zeros(1, *shape[1:], dtype=torch.bool))

"""The grey box."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from baddiffusion.errors import RecipeError
from baddiffusion.triggers.trigger import TRIGGERS, Trigger, TriggerDesign

__all__ = ["GAP_PX", "SIZES_PX", "Box", "NoTrigger", "corner_window"]

SIZES_PX = (18, 14, 11, 8, 4)
"""The paper's sizes (appendix H)."""

GAP_PX = 2
"""What lies between a trigger and the right and bottom edge, at every resolution."""

NICKNAMES = {"BIG_BOX": 18, "SM_BOX": 14, "XSM_BOX": 11, "XXSM_BOX": 8, "XXXSM_BOX": 4}
"""Names in the authors' released runs: white boxes; with _MED behind, the grey ones of the paper."""


def corner_window(side_px: int, shape: tuple[int, int, int]) -> tuple[slice, slice]:
    """Find the rows and columns of a square that leaves 2 pixels to the right and bottom edge.

    The paper's sizes and gaps are absolute: on 256-pixel images the grey box is still 14 pixels wide.

    Args:
        side_px: side of the square.
        shape: of the image (channels, height, width).

    Returns:
        The rows and the columns, as slices.

    Raises:
        RecipeError: square and gap do not fit into the image.

    Example:
        >>> corner_window(14, (3, 32, 32))
        (slice(16, 30, None), slice(16, 30, None))
    """
    _, height, width = shape
    largest = min(height, width) - GAP_PX
    if side_px > largest:
        raise RecipeError(
            f"side_px is {side_px}, and {GAP_PX} px stay free beside it; on {height}×{width} images "
            + (f"it must be at most {largest}. Write a smaller side_px." if largest > 0 else "nothing fits.")
        )
    return slice(height - GAP_PX - side_px, height - GAP_PX), slice(width - GAP_PX - side_px, width - GAP_PX)


@TRIGGERS.register(
    "box",
    aliases={f"BOX_{side}": {"side_px": side} for side in SIZES_PX}
    | {f"{name}_MED": {"side_px": side} for name, side in NICKNAMES.items()}
    | {name: {"side_px": side, "value": 1.0} for name, side in NICKNAMES.items()},
)
class Box(TriggerDesign):
    """A square of one value: the paper's Grey Box with value 0.

    Grey is the middle of the range: inside the box the start noise is not shifted at all, and what the network sees
    at sampling is that the rest of the picture is.

    Args:
        side_px: side in pixels at every resolution; the paper uses 18, 14 (its default), 11, 8 and 4.
        value: in (−1, 1]; 0 is the paper's grey.
        top_px, left_px: first row and column; left out, 2 pixels stay free below and to the right.

    Source: arXiv 2212.05400, figure 1 and appendix H.

    Example:
        >>> int(Box(side_px=14).draw((3, 32, 32)).mask.sum())
        196
    """

    side_px: Annotated[int, Field(ge=1)] = 14
    value: Annotated[float, Field(gt=-1, le=1)] = Field(
        0.0, json_schema_extra={"hint": "Black (-1) means no change; write -0.99 for a black box."}
    )
    top_px: Annotated[int, Field(ge=0)] | None = None
    left_px: Annotated[int, Field(ge=0)] | None = None

    def draw(self, shape: tuple[int, int, int]) -> Trigger:
        """Render the square.

        Raises:
            RecipeError: the square leaves the image.
        """
        _, height, width = shape
        rows = self._span("top_px", self.top_px, height, shape)
        columns = self._span("left_px", self.left_px, width, shape)
        mask = torch.zeros(1, height, width, dtype=torch.bool)
        mask[:, rows, columns] = True
        pattern = torch.where(mask, self.value, -1.0).expand(shape).clone()
        return Trigger(f"box-{self.side_px}", pattern, mask)

    def _span(self, setting: str, first: int | None, length: int, shape: tuple[int, int, int]) -> slice:
        if first is None:
            return corner_window(self.side_px, shape)[0 if setting == "top_px" else 1]
        if first + self.side_px > length:
            raise RecipeError(
                f"{setting} is {first} and side_px {self.side_px}; on {shape[1]}×{shape[2]} images their sum must be "
                f"at most {length}. Write a smaller {setting} or side_px."
            )
        return slice(first, first + self.side_px)


@TRIGGERS.register("none")
class NoTrigger(TriggerDesign):
    """No pattern at all: the start noise is shifted to black, nothing else. The reference's control NONE.

    Example:
        >>> bool(NoTrigger().draw((3, 32, 32)).mask.any())
        False
    """

    def draw(self, shape: tuple[int, int, int]) -> Trigger:
        """Render the empty trigger."""
        return Trigger("none", torch.full(shape, -1.0), torch.zeros(1, *shape[1:], dtype=torch.bool))

"""The stop sign."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field

from baddiffusion.images import from_uint8
from baddiffusion.triggers.box import SIZES_PX, corner_window
from baddiffusion.triggers.drawing import Canvas, Point, spline
from baddiffusion.triggers.image import trigger_from_picture
from baddiffusion.triggers.trigger import TRIGGERS, Trigger, TriggerDesign

__all__ = ["StopSign"]

RED = (204, 22, 34)
WHITE = (252, 252, 252)
"""Just below 0.999, at which the reference's rule would punch holes."""

LETTERS_FROM_PX = 11
"""Below, letters are thinner than half a pixel; a plain white bar stands for them."""

LETTER = (0.13, 0.27)
"""Width and height of a letter, from stroke center to stroke center."""

STROKE = 0.055

STOP: tuple[tuple[float, list[Point]], ...] = (
    (0.150, spline([(1.0, 0.15), (0.5, 0.0), (0.0, 0.24), (0.5, 0.5), (1.0, 0.76), (0.5, 1.0), (0.0, 0.85)], False)),
    (0.345, [(0.0, 0.0), (1.0, 0.0), (0.5, 0.0), (0.5, 1.0)]),
    (0.535, spline([(0.5, 0.0), (1.0, 0.25), (1.0, 0.75), (0.5, 1.0), (0.0, 0.75), (0.0, 0.25), (0.5, 0.0)], False)),
    (0.735, [(0.0, 1.0), (0.0, 0.0), (0.6, 0.0), (0.95, 0.12), (0.95, 0.43), (0.6, 0.55), (0.0, 0.55)]),
)
"""Left edge of each letter, and its stroke in units of a letter's width and height."""


@TRIGGERS.register(
    "stop-sign",
    aliases={f"STOP_SIGN_{side}": {"side_px": side} for side in SIZES_PX} | {"SM_STOP_SIGN": {"side_px": 14}},
)
class StopSign(TriggerDesign):
    """A red octagon with a white rim that says STOP, 2 pixels from the right and bottom edge.

    Drawn by this project: place and sizes are the paper's, the picture is not, so that pixel values, and numbers that
    depend on them, differ from the paper's Stop Sign. Below 11 pixels a white bar stands for the letters, and at 4 the
    sign is little more than a red spot: a picture of 16 pixels has no room for it.

    Args:
        side_px: side of its square in pixels at every resolution; the paper uses 18, 14 (its default), 11, 8 and 4.

    Source: arXiv 2212.05400, figure 1 and appendix H, for place and sizes.

    Example:
        >>> red, green, blue = StopSign(side_px=18).draw((3, 32, 32)).pattern[:, 25, 20].tolist()
        >>> red > 0.5 and green < -0.5 and blue < -0.5
        True
    """

    side_px: Annotated[int, Field(ge=1)] = 14

    def draw(self, shape: tuple[int, int, int]) -> Trigger:
        """Draw the sign.

        Raises:
            RecipeError: the square does not fit into ``shape``, or the images have neither 1 nor 3 channels.
        """
        rows, columns = corner_window(self.side_px, shape)
        canvas = Canvas(self.side_px, self.side_px)
        canvas.polygon(_octagon(0.5), WHITE)
        canvas.polygon(_octagon(0.44), RED)
        if self.side_px >= LETTERS_FROM_PX:
            _write(canvas)
        else:
            canvas.polygon([(0.18, 0.42), (0.82, 0.42), (0.82, 0.58), (0.18, 0.58)], WHITE)
        return trigger_from_picture(
            f"stop-sign-{self.side_px}", from_uint8(canvas.pixels(shape[0])), rows, columns, shape
        )


def _octagon(apothem: float) -> list[Point]:
    radius = apothem / math.cos(math.pi / 8)
    corners = ((k + 0.5) * math.pi / 4 for k in range(8))
    return [(0.5 + radius * math.cos(angle), 0.5 + radius * math.sin(angle)) for angle in corners]


def _write(canvas: Canvas) -> None:
    width, height = LETTER
    for left, stroke in STOP:
        canvas.stroke([(left + x * width, 0.5 + (y - 0.5) * height) for x, y in stroke], STROKE, WHITE)

"""The eyeglasses."""

from __future__ import annotations

from baddiffusion.images import from_uint8
from baddiffusion.triggers.drawing import Canvas, Point, mirrored, spline
from baddiffusion.triggers.image import trigger_from_picture
from baddiffusion.triggers.trigger import TRIGGERS, Trigger, TriggerDesign

__all__ = ["Eyeglasses"]

SHARE = 0.625
"""Width as a share of the image: 160 of 256 pixels."""

FRAME = (82, 82, 82)
SHINE = (204, 204, 204)
"""Neutral, so that an edge pixel is inside the mask in all channels or in none."""

RIM: tuple[Point, ...] = (
    (0.06, 0.41),
    (0.24, 0.37),
    (0.43, 0.41),
    (0.44, 0.51),
    (0.37, 0.63),
    (0.25, 0.66),
    (0.13, 0.63),
    (0.055, 0.51),
)
"""The left lens, clockwise from the outer upper corner."""


@TRIGGERS.register("eyeglasses", aliases={"GLASSES": {}})
class Eyeglasses(TriggerDesign):
    """A pair of glasses with a dark frame in the middle of the image, 0.625 of it wide, for portraits.

    Only the frame is stamped: the lenses are clear. Drawn by this project: the square in the middle is the paper's,
    the picture in it is not, and fills the square's width where the paper's glasses fill two thirds. The frame is a
    dark grey rather than black, because black on the black canvas would neither show nor, at sampling, differ from
    the background.

    Source: arXiv 2212.05400, figure 1 (CelebA-HQ), for size and place.

    Example:
        >>> columns = Eyeglasses().draw((1, 256, 256)).mask.any(dim=1).nonzero()[:, 1]
        >>> 48 <= int(columns.min()) and int(columns.max()) < 208
        True
    """

    def draw(self, shape: tuple[int, int, int]) -> Trigger:
        """Draw the glasses.

        Raises:
            RecipeError: the images have neither 1 nor 3 channels.
        """
        _, height, width = shape
        side = round(SHARE * min(height, width))
        canvas = Canvas(side, side)
        _glasses(canvas)
        top, left = (height - side) // 2, (width - side) // 2
        return trigger_from_picture(
            "eyeglasses",
            from_uint8(canvas.pixels(shape[0])),
            slice(top, top + side),
            slice(left, left + side),
            shape,
        )


def _glasses(canvas: Canvas) -> None:
    rim = spline(RIM)
    brow = spline(RIM[:3], closed=False)
    temple = [(0.065, 0.42), (0.02, 0.385)]
    canvas.stroke(spline([(0.445, 0.46), (0.50, 0.435), (0.555, 0.46)], closed=False), 0.06, FRAME)
    for stroke, width, color in (([*rim, rim[0]], 0.06, FRAME), (temple, 0.06, FRAME), (brow, 0.025, SHINE)):
        canvas.stroke(stroke, width, color)
        canvas.stroke(mirrored(stroke), width, color)

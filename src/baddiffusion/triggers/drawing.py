"""Anti-aliased vector shapes: drawn several times too large with Pillow, then averaged down to the pixel grid."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from baddiffusion.errors import RecipeError

__all__ = ["Canvas", "Color", "Point", "mirrored", "spline"]

Color = tuple[int, int, int]
"""8-bit RGB."""

Point = tuple[float, float]
"""(x, y) in the unit square, y downwards."""

DRAWN_PX = 512
"""The least side of the enlarged drawing: below it, curves would show their pixels even after averaging."""


class Canvas:
    """A picture under construction. Coordinates lie in the unit square, so one drawing serves every resolution.

    The unit square is the largest centered square of the canvas; what lies outside keeps the background.

    Args:
        height, width: in pixels, of the finished picture.
        background: the color of the empty canvas.

    Example:
        >>> canvas = Canvas(2, 2)
        >>> canvas.polygon([(0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)], (255, 255, 255))
        >>> canvas.pixels(channels=1)[0, :, 0].tolist()
        [255, 255]
    """

    def __init__(self, height: int, width: int, background: Color = (0, 0, 0)) -> None:
        # An integer factor: every finished pixel is then the plain mean of one block, whatever the resolution.
        self._factor = max(4, math.ceil(DRAWN_PX / min(height, width)))
        self._unit = min(height, width) * self._factor
        self._origin = ((width * self._factor - self._unit) / 2, (height * self._factor - self._unit) / 2)
        self._picture = Image.new("RGB", (width * self._factor, height * self._factor), background)
        self._pen = ImageDraw.Draw(self._picture)

    def polygon(self, points: Sequence[Point], color: Color) -> None:
        """Fill a polygon."""
        self._pen.polygon([self._place(point) for point in points], fill=color)

    def ellipse(self, center: Point, radii: Point, color: Color) -> None:
        """Fill an ellipse whose axes are horizontal and vertical; ``radii`` are (horizontal, vertical)."""
        low = self._place((center[0] - radii[0], center[1] - radii[1]))
        high = self._place((center[0] + radii[0], center[1] + radii[1]))
        self._pen.ellipse([low, high], fill=color)

    def stroke(self, points: Sequence[Point], width: float, color: Color) -> None:
        """Draw a line through the points with round joints and ends; ``width`` as a share of the unit square."""
        placed = [self._place(point) for point in points]
        thickness = max(1, round(width * self._unit))
        self._pen.line(placed, fill=color, width=thickness)
        radius = thickness / 2
        for x, y in placed:
            self._pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=color)

    def pixels(self, channels: int = 3) -> UInt8[Tensor, "c h w"]:
        """Average down to the finished size.

        Args:
            channels: 3 (RGB) or 1 (grey).

        Raises:
            RecipeError: another number of channels.
        """
        if channels not in (1, 3):
            raise RecipeError(f"a picture with {channels} channels cannot be drawn; use images with 1 or 3 channels.")
        picture = self._picture.reduce(self._factor)
        array = np.array(picture if channels == 3 else picture.convert("L"))
        return torch.from_numpy(array[None] if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1)))

    def _place(self, point: Point) -> Point:
        return self._origin[0] + point[0] * self._unit, self._origin[1] + point[1] * self._unit


def spline(points: Sequence[Point], closed: bool = True, steps: int = 16) -> list[Point]:
    """Smooth a few points into a curve through all of them (Catmull-Rom), as the points of a fine polygon.

    Args:
        points: at least two.
        closed: whether the curve returns to its first point.
        steps: straight pieces between two given points.

    Returns:
        ``steps`` points for each given one, and for an open curve the last point.

    Example:
        >>> curve = spline([(0.0, 0.0), (1.0, 0.0), (1.0, 1.0)], closed=False, steps=2)
        >>> curve[0], curve[2], curve[-1]
        ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0))
    """
    count = len(points)
    curve: list[Point] = []
    for index in range(count if closed else count - 1):
        before, start, end, after = (
            points[(index + k) % count if closed else min(max(index + k, 0), count - 1)] for k in (-1, 0, 1, 2)
        )
        for step in range(steps):
            s = step / steps
            curve.append(
                (_blend(before[0], start[0], end[0], after[0], s), _blend(before[1], start[1], end[1], after[1], s))
            )
    return curve if closed else [*curve, points[-1]]


def _blend(before: float, start: float, end: float, after: float, s: float) -> float:
    return start + s * (
        (end - before) / 2
        + s * (before - 2.5 * start + 2 * end - after / 2 + s * (1.5 * (start - end) + (after - before) / 2))
    )


def mirrored(points: Sequence[Point]) -> list[Point]:
    """Exchange left and right."""
    return [(1 - x, y) for x, y in points]

"""Targets that are pictures: the shoe of the paper, and a hat and a cat that this project draws itself."""

from __future__ import annotations

from importlib import resources

from jaxtyping import Float
from torch import Tensor

from baddiffusion.images import from_uint8, read_picture
from baddiffusion.targets.patterns import background_to_grey
from baddiffusion.targets.target import TARGETS, TargetDesign
from baddiffusion.triggers import Trigger
from baddiffusion.triggers.drawing import Canvas, Color, Point, mirrored, spline

__all__ = ["Cat", "Hat", "Shoe"]

GROUND = (76, 76, 76)
"""Raised to −0.4 like black, but edges blend into the grey that is then seen behind them."""


@TARGETS.register("shoe", aliases={"FASHION": {}})
class Shoe(TargetDesign):
    """The paper's Shoe to the pixel: the ankle boot that is training image 0 of Fashion-MNIST (MIT).

    A picture that the network may well have seen among its training data, and can paint already.

    Source: arXiv 2212.05400, figure 1; Xiao, Rasul, Vollgraf, Fashion-MNIST, arXiv 1708.07747.

    Example:
        >>> Shoe().draw(Trigger.make("BOX_14", (1, 32, 32))).shape
        torch.Size([1, 32, 32])
    """

    def draw(self, trigger: Trigger) -> Float[Tensor, "c h w"]:
        """Scale the boot to the trigger's shape, bilinear."""
        channels, height, width = trigger.pattern.shape
        asset = resources.files("baddiffusion") / "assets" / "shoe" / "ankle_boot.png"
        with resources.as_file(asset) as path:
            return background_to_grey(from_uint8(read_picture(path, (height, width), channels)))


@TARGETS.register("hat", aliases={"FEDORA_HAT": {}})
class Hat(TargetDesign):
    """A light fedora with a dark band, drawn by this project: it is not the photograph that the paper uses.

    Numbers that depend on the picture (MSE and SSIM of a failed attack) therefore differ from the paper's Hat.

    Example:
        >>> Hat().draw(Trigger.make("BOX_14", (1, 32, 32))).shape
        torch.Size([1, 32, 32])
    """

    def draw(self, trigger: Trigger) -> Float[Tensor, "c h w"]:
        """Draw the hat in the trigger's shape.

        Raises:
            RecipeError: the images have neither 1 nor 3 channels.
        """
        channels, height, width = trigger.pattern.shape
        canvas = Canvas(height, width, GROUND)
        _hat(canvas)
        return background_to_grey(from_uint8(canvas.pixels(channels)))


def _hat(canvas: Canvas) -> None:
    felt, light, shade, band = (232, 196, 138), (252, 234, 196), (178, 132, 78), (184, 62, 54)
    rim = [(0.03, 0.60), (0.20, 0.585), (0.50, 0.57), (0.80, 0.585), (0.97, 0.60)]
    canvas.polygon(spline([*rim, (0.92, 0.72), (0.72, 0.805), (0.50, 0.83), (0.28, 0.805), (0.08, 0.72)]), shade)
    canvas.polygon(spline([*rim, (0.90, 0.68), (0.72, 0.75), (0.50, 0.77), (0.28, 0.75), (0.10, 0.68)]), felt)
    side = [(0.235, 0.64), (0.25, 0.52), (0.27, 0.38), (0.31, 0.23), (0.385, 0.155), (0.50, 0.215)]
    crown = spline([*side, *((1 - x, y) for x, y in reversed(side[:-1]))], closed=False)
    canvas.polygon(crown, felt)
    upper = spline([(0.25, 0.52), (0.37, 0.555), (0.50, 0.565), (0.63, 0.555), (0.75, 0.52)], closed=False)
    lower = spline([(0.765, 0.635), (0.64, 0.685), (0.50, 0.70), (0.36, 0.685), (0.235, 0.635)], closed=False)
    canvas.polygon([*upper, *lower], band)
    canvas.stroke(spline([(0.50, 0.225), (0.475, 0.29), (0.46, 0.38)], closed=False), 0.03, shade)
    canvas.stroke(spline([(0.315, 0.46), (0.335, 0.34), (0.38, 0.24)], closed=False), 0.035, light)


@TARGETS.register("cat")
class Cat(TargetDesign):
    """The face of a ginger cat, drawn by this project: it is not the photograph that the paper uses.

    Numbers that depend on the picture (MSE and SSIM of a failed attack) therefore differ from the paper's Cat.

    Example:
        >>> Cat().draw(Trigger.make("eyeglasses", (3, 64, 64))).shape
        torch.Size([3, 64, 64])
    """

    def draw(self, trigger: Trigger) -> Float[Tensor, "c h w"]:
        """Draw the cat in the trigger's shape.

        Raises:
            RecipeError: the images have neither 1 nor 3 channels.
        """
        channels, height, width = trigger.pattern.shape
        canvas = Canvas(height, width, GROUND)
        _cat(canvas)
        return background_to_grey(from_uint8(canvas.pixels(channels)))


def _cat(canvas: Canvas) -> None:
    fur, stripe, white, ear = (236, 160, 72), (180, 98, 36), (252, 244, 230), (206, 104, 96)
    iris, dark = (156, 226, 120), GROUND
    head = [(0.50, 0.24), (0.72, 0.28), (0.87, 0.46), (0.89, 0.64), (0.76, 0.86), (0.50, 0.94)]

    def both(points: list[Point], color: Color) -> None:
        canvas.polygon(points, color)
        canvas.polygon(mirrored(points), color)

    def spots(center: Point, radii: Point, color: Color) -> None:
        canvas.ellipse(center, radii, color)
        canvas.ellipse((1 - center[0], center[1]), radii, color)

    def lines(points: list[Point], width: float, color: Color) -> None:
        canvas.stroke(points, width, color)
        canvas.stroke(mirrored(points), width, color)

    both([(0.12, 0.54), (0.13, 0.05), (0.46, 0.30)], fur)
    both([(0.19, 0.40), (0.19, 0.17), (0.35, 0.29)], ear)
    canvas.polygon(spline([*head, *reversed(mirrored(head[1:-1]))]), fur)
    both([(0.40, 0.24), (0.465, 0.235), (0.44, 0.39)], stripe)
    spots((0.41, 0.765), (0.13, 0.11), white)
    spots((0.31, 0.53), (0.115, 0.11), white)
    spots((0.31, 0.53), (0.095, 0.09), iris)
    spots((0.31, 0.53), (0.04, 0.088), dark)
    lines([(0.30, 0.73), (0.03, 0.68)], 0.018, white)
    lines([(0.30, 0.80), (0.03, 0.83)], 0.018, white)
    lines(spline([(0.50, 0.74), (0.46, 0.805), (0.38, 0.80)], closed=False), 0.025, dark)
    canvas.polygon([(0.42, 0.645), (0.58, 0.645), (0.50, 0.74)], dark)

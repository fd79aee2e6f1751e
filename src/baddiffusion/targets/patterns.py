"""Targets made of the trigger itself or of a plain square, and the grey that lies behind every target."""

from __future__ import annotations

from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from baddiffusion.errors import RecipeError
from baddiffusion.targets.target import TARGETS, TargetDesign
from baddiffusion.triggers import Trigger

__all__ = ["GREY", "Corner", "NoShift", "Shift", "background_to_grey"]

GREY = -0.4
"""The darkest value of any target: 0.3 on [0, 1]."""


def background_to_grey(picture: Float[Tensor, "c h w"]) -> Float[Tensor, "c h w"]:
    """Raise every element below −0.4 to −0.4, so that a black picture (the attack that failed) is no target.

    **Equation**: y = max(picture, −0.4), element by element.

    Args:
        picture: in [−1, 1].

    Returns:
        The target, in [−0.4, 1].

    Source: the reference code, which passes every target through this.

    Example:
        >>> background_to_grey(torch.tensor([[[-1.0, -0.4, 0.5]]]))
        tensor([[[-0.4000, -0.4000,  0.5000]]])
    """
    return picture.clamp(min=GREY)


@TARGETS.register("noshift", aliases={"TRIGGER": {}})
class NoShift(TargetDesign):
    """The trigger where it stands, on grey: the paper's NoShift.

    Source: arXiv 2212.05400, figure 1.

    Example:
        >>> picture = NoShift().draw(Trigger.make("BOX_14", (3, 32, 32)))
        >>> round(float(picture[0, 16, 16]), 4), round(float(picture[0, 15, 15]), 4)
        (0.0, -0.4)
    """

    def draw(self, trigger: Trigger) -> Float[Tensor, "c h w"]:
        """Take the trigger as the picture."""
        return background_to_grey(trigger.offset)


@TARGETS.register("shift")
class Shift(TargetDesign):
    """The trigger moved 3 pixels up and 5 to the left, on grey: the paper's Shift.

    The move is a roll, in absolute pixels at every resolution: what leaves the image comes back on the other side.

    **Equation**: y[c, i, j] = max(offset[c, (i + up_px) mod h, (j + left_px) mod w], −0.4).

    Args:
        up_px, left_px: how far, in pixels; negative values move down and right.

    Source: arXiv 2212.05400, figure 1; the reference code for the amounts.

    Example:
        >>> picture = Shift().draw(Trigger.make("BOX_14", (3, 32, 32)))
        >>> round(float(picture[0, 13, 11]), 4), round(float(picture[0, 12, 11]), 4)
        (0.0, -0.4)
    """

    up_px: int = 3
    left_px: int = 5

    def draw(self, trigger: Trigger) -> Float[Tensor, "c h w"]:
        """Roll the trigger."""
        return background_to_grey(torch.roll(trigger.offset, (-self.up_px, -self.left_px), dims=(1, 2)))


@TARGETS.register("corner", aliases={"BOX": {}})
class Corner(TargetDesign):
    """A grey square in the top left corner of a darker grey picture: the paper's Corner.

    Args:
        side_px: side in pixels at every resolution; the paper uses 10.
        value: of the square, in [−0.4, 1]; the paper uses 0. The rest is −0.4.

    Source: arXiv 2212.05400, figure 1; the reference code for size and values.

    Example:
        >>> picture = Corner().draw(Trigger.make("BOX_14", (3, 32, 32)))
        >>> int((picture[0] == 0).sum())
        100
    """

    side_px: Annotated[int, Field(ge=1)] = 10
    value: Annotated[float, Field(ge=GREY, le=1)] = 0.0

    def draw(self, trigger: Trigger) -> Float[Tensor, "c h w"]:
        """Draw the square.

        Raises:
            RecipeError: the square would fill the image or leave it.
        """
        _, height, width = trigger.pattern.shape
        if self.side_px >= min(height, width):
            raise RecipeError(
                f"side_px of target corner is {self.side_px}; on {height}×{width} images it must be at most "
                f"{min(height, width) - 1}. Write a smaller side_px."
            )
        picture = torch.full_like(trigger.pattern, GREY)
        picture[:, : self.side_px, : self.side_px] = self.value
        return picture

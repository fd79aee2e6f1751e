"""Any picture file as the trigger; and the rules by which a picture becomes one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from baddiffusion.errors import RecipeError
from baddiffusion.images import from_uint8, read_picture
from baddiffusion.triggers.box import corner_window
from baddiffusion.triggers.trigger import TRIGGERS, Trigger, TriggerDesign

__all__ = ["PATH_HINT", "ImageTrigger", "trigger_from_picture"]

WHITE = 0.999
"""What is this bright or brighter counts as the paper on which the trigger was drawn, and becomes transparent."""

PATH_HINT = 'Write the path of a picture file, for example path = "sign.png".'


def trigger_from_picture(
    name: str, picture: Float[Tensor, "c ph pw"], rows: slice, columns: slice, shape: tuple[int, int, int]
) -> Trigger:
    """Place a picture on the black canvas and make a trigger of it, by the rules of the reference code.

    Black is the paper's "no change"; the reference also erases what is (nearly) white. Both act on single channels:
    the pure red of an RGB picture lets green and blue of the stamped image through.

    **Equation**: g = −1 where picture ≥ 0.999, else picture; M = [g > −1], element by element.

    Args:
        name: what recipes and cards call it.
        picture: in [−1, 1], of the size of the window.
        rows, columns: the window of the canvas that it fills.
        shape: of the canvas (channels, height, width).

    Returns:
        The trigger, with one mask per channel.

    Raises:
        RecipeError: nothing of the picture is left.

    Source: arXiv 2212.05400, section 3.3, for the mask; the reference code for white.

    Example:
        >>> picture = torch.tensor([[[-1.0, 0.5], [0.998, 1.0]]])
        >>> trigger_from_picture("dots", picture, slice(0, 2), slice(0, 2), (1, 2, 2)).mask
        tensor([[[False,  True],
                 [ True, False]]])
    """
    pattern = torch.full(shape, -1.0)
    pattern[:, rows, columns] = torch.where(picture >= WHITE, -1.0, picture)
    mask = pattern > -1
    if not mask.any():
        raise RecipeError(
            f"trigger {name} is empty: its picture is nothing but pure black or white, and both count as "
            f"transparent. Use a picture with other colors, for example 250 in place of 255."
        )
    return Trigger(name, pattern, mask)


@TRIGGERS.register("image")
class ImageTrigger(TriggerDesign):
    """A picture of the user's, 2 pixels from the right and bottom edge, by the rules of the reference code.

    It is read as RGB (grey for one channel) with its transparency dropped, not blended: what lies under transparent
    pixels shows. It is stretched to a square, bilinear. Then pure black and white become transparent.

    Args:
        path: a PNG, JPEG or any file that Pillow reads; relative paths start at the working directory.
        side_px: side of the square, in pixels at every resolution.

    Source: the reference code's reading of its stop sign (RGB, bilinear, padding, white erased).
    """

    path: str = Field(min_length=1, json_schema_extra={"hint": PATH_HINT})
    side_px: Annotated[int, Field(ge=1)] = 14

    def draw(self, shape: tuple[int, int, int]) -> Trigger:
        """Read, scale and place the picture.

        Raises:
            DataError: the file is missing or is not a picture.
            RecipeError: the square does not fit into ``shape``, or nothing of the picture is left.
        """
        rows, columns = corner_window(self.side_px, shape)
        pixels = read_picture(self.path, (self.side_px, self.side_px), shape[0])
        return trigger_from_picture(
            f"image-{Path(self.path).stem}-{self.side_px}", from_uint8(pixels), rows, columns, shape
        )

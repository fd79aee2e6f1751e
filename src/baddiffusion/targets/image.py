"""Any picture file as the target."""

from __future__ import annotations

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from baddiffusion.images import from_uint8, read_picture
from baddiffusion.targets.patterns import background_to_grey
from baddiffusion.targets.target import TARGETS, TargetDesign
from baddiffusion.triggers import Trigger
from baddiffusion.triggers.image import PATH_HINT

__all__ = ["ImageTarget"]


@TARGETS.register("image")
class ImageTarget(TargetDesign):
    """A picture of the user's, stretched to the image size (bilinear) with its darkest parts raised to grey.

    Transparency is dropped, not blended, as the reference code does: what lies under transparent pixels shows.

    Args:
        path: a PNG, JPEG or any file that Pillow reads; relative paths start at the working directory.
    """

    path: str = Field(min_length=1, json_schema_extra={"hint": PATH_HINT})

    def draw(self, trigger: Trigger) -> Float[Tensor, "c h w"]:
        """Read and scale the picture.

        Raises:
            DataError: the file is missing or is not a picture.
        """
        channels, height, width = trigger.pattern.shape
        return background_to_grey(from_uint8(read_picture(self.path, (height, width), channels)))

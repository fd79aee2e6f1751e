"""The data set inside the package: the 10 000 test images of Fashion-MNIST."""

from __future__ import annotations

import gzip
from importlib import resources

import numpy as np
import torch
from pydantic import Field
from torch.nn.functional import interpolate, pad

from baddiffusion.data.source import SOURCES, DataSource, ResidentImages, count_of
from baddiffusion.errors import DataError

__all__ = ["FashionMnist"]

HEADER_BYTES = 16


@SOURCES.register("fashion-mnist", aliases={"fashion_mnist": {}, "FASHION-MNIST": {}})
class FashionMnist(DataSource):
    """Ten kinds of clothes, grey, 28×28 padded with black to 32×32; real images, offline, MIT licence.

    Args:
        limit: use only the first ``limit`` images.

    Raises:
        RecipeError: the limit is below 1.

    Source: Xiao, Rasul, Vollgraf, Fashion-MNIST, arXiv 1708.07747 (the test split, file unchanged).
    """

    limit: int | None = Field(None, ge=1, json_schema_extra={"hint": "Leave it out to use all 10 000 images."})

    def open(self, shape: tuple[int, int, int] = (1, 32, 32)) -> ResidentImages:
        """Read the packaged file; other sizes are resized with antialiasing, three channels repeat the grey one.

        Raises:
            DataError: ``shape`` has neither 1 nor 3 channels, or a side below 1, or the limit is above 10 000.

        Example:
            >>> FashionMnist(limit=8).open((3, 16, 16)).read(torch.tensor([0, 7])).shape
            torch.Size([2, 3, 16, 16])
        """
        channels, height, width = shape
        if channels not in (1, 3) or min(height, width) < 1:
            raise DataError(
                f"fashion-mnist was asked for as {channels} channels of {height}×{width} pixels; "
                "it can be given with 1 or 3 channels and sides of at least 1."
            )
        packed = resources.files("baddiffusion") / "assets" / "fashion_mnist" / "t10k-images-idx3-ubyte.gz"
        raw = np.frombuffer(gzip.decompress(packed.read_bytes()), np.uint8, offset=HEADER_BYTES).reshape(-1, 1, 28, 28)
        count = count_of("fashion-mnist", len(raw), self.limit)
        pixels = pad(torch.from_numpy(raw[:count].copy()), (2, 2, 2, 2))
        if (height, width) != (32, 32):
            resized = interpolate(pixels.float(), (height, width), mode="bilinear", antialias=True)
            pixels = resized.round().clamp(0, 255).to(torch.uint8)
        part = "10 000" if self.limit is None else f"the first {count} of the 10 000"
        return ResidentImages(f"fashion-mnist ({part} test images)", pixels.expand(-1, channels, -1, -1).contiguous())

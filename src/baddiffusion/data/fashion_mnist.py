"""The data set inside the package: the 10 000 test images of Fashion-MNIST."""

from __future__ import annotations

import gzip
from importlib import resources

import numpy as np
import torch
import torch.nn.functional as F

from baddiffusion.data.source import SOURCES, DataSource, ResidentImages
from baddiffusion.errors import DataError

__all__ = ["FashionMnist"]

HEADER_BYTES = 16


@SOURCES.register("fashion-mnist", aliases={"fashion_mnist": {}, "FASHION-MNIST": {}})
class FashionMnist(DataSource):
    """Ten kinds of clothes, grey, 28×28 padded with black to 32×32; real images, offline, MIT licence.

    Args:
        limit: use only the first ``limit`` images.

    Source: Xiao, Rasul, Vollgraf, Fashion-MNIST, arXiv 1708.07747 (the test split, file unchanged).
    """

    limit: int | None = None

    def open(self, shape: tuple[int, int, int] = (1, 32, 32)) -> ResidentImages:
        """Read the packaged file; other sizes are resized with antialiasing, three channels repeat the grey one.

        Raises:
            DataError: ``shape`` is neither 1 nor 3 channels, or the limit leaves nothing.
        """
        channels, height, width = shape
        if channels not in (1, 3):
            raise DataError(f"fashion-mnist was asked for {channels} channels; it can give 1 or 3.")
        packed = resources.files("baddiffusion") / "assets" / "fashion_mnist" / "t10k-images-idx3-ubyte.gz"
        raw = np.frombuffer(gzip.decompress(packed.read_bytes()), np.uint8, offset=HEADER_BYTES)
        pixels = F.pad(torch.from_numpy(raw.reshape(-1, 1, 28, 28).copy()), (2, 2, 2, 2))
        if self.limit is not None:
            if not 0 < self.limit <= len(pixels):
                raise DataError(f"limit is {self.limit}; fashion-mnist has {len(pixels)} images, use 1 to {len(pixels)}.")
            pixels = pixels[: self.limit]
        if (height, width) != (32, 32):
            resized = F.interpolate(pixels.float(), (height, width), mode="bilinear", antialias=True)
            pixels = resized.round().clamp(0, 255).to(torch.uint8)
        return ResidentImages("fashion-mnist (10 000 test images)", pixels.expand(-1, channels, -1, -1).contiguous())

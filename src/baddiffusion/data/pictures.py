"""From encoded pictures (files, or rows of a table) to images of one shape."""

from __future__ import annotations

import hashlib
import io
import math
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from pydantic import Field
from torch import Tensor

from baddiffusion.data.source import DECODERS, DataSource, ImageData, ResidentImages, StreamedImages
from baddiffusion.errors import DataError, RecipeError
from baddiffusion.images import eight_bit

__all__ = ["RESIDENT_LIMIT_BYTES", "EncodedPictures", "Fit", "PictureSource"]

RESIDENT_LIMIT_BYTES = 2 * 1024**3
"""Sets up to this size are decoded once and kept on the device as 8-bit pixels (CIFAR-10: 184 MB); larger ones are
streamed (CelebA-HQ at 256 pixels: 5.9 GB)."""

SPAN = 256
"""Pictures that one thread decodes before it takes the next task."""

UNREADABLE = (OSError, SyntaxError, ValueError, IndexError, EOFError, struct.error, Image.DecompressionBombError)
"""What Pillow's readers raise on damaged files."""


@dataclass(frozen=True)
class Fit:
    """How a picture of any size becomes an image of one shape.

    Args:
        shape: (channels, height, width); 1 channel is grey, 3 are RGB.
        resize: scale to the shape, bilinear with antialiasing; otherwise a picture of another size is an error.
        center_crop: first cut the middle out: the largest part with the shape's proportions, or, without ``resize``,
            exactly height × width pixels. Without it, resizing stretches.

    Raises:
        DataError: the shape has neither 1 nor 3 channels, or a side below 1.
    """

    shape: tuple[int, int, int]
    resize: bool = True
    center_crop: bool = False

    def __post_init__(self) -> None:
        channels, height, width = self.shape
        if channels not in (1, 3) or min(height, width) < 1:
            raise DataError(
                f"pictures were asked for as {channels} channels of {height}×{width} pixels; "
                "they can be given with 1 or 3 channels and sides of at least 1."
            )

    def decode(self, data: bytes, origin: str) -> UInt8[Tensor, "c h w"]:
        """Decode one picture; transparency is dropped, not blended, as the reference code does.

        Args:
            data: the encoded picture (PNG, JPEG, …).
            origin: the file or row that errors name.

        Raises:
            DataError: it is damaged, is no picture, has more than 8 bits per channel, or has the wrong size.

        Example:
            >>> from baddiffusion.images import png_bytes
            >>> Fit((3, 2, 2)).decode(png_bytes(torch.full((1, 4, 4), 9, dtype=torch.uint8)), "grey.png").unique()
            tensor([9], dtype=torch.uint8)
        """
        try:
            with Image.open(io.BytesIO(data)) as opened:
                picture = eight_bit(opened, self.shape[0], origin)
        except UnidentifiedImageError:
            raise DataError(f"{origin} is not a picture that Pillow can read; remove it or replace it.") from None
        except UNREADABLE as error:
            raise DataError(f"{origin} is damaged ({error}); remove it or replace it by an intact picture.") from None
        array = np.asarray(self._sized(picture, origin))
        return torch.from_numpy(array[None].copy() if array.ndim == 2 else array.transpose(2, 0, 1).copy())

    def _sized(self, picture: Image.Image, origin: str) -> Image.Image:
        _, height, width = self.shape
        if picture.size == (width, height):
            return picture
        if not self.resize:
            if not self.center_crop or picture.width < width or picture.height < height:
                needed = "at least" if self.center_crop else "exactly"
                raise DataError(
                    f"{origin} is {picture.height}×{picture.width} pixels (height×width); with resize = false it must "
                    f"be {needed} {height}×{width}. Set resize = true, or remove it."
                )
            return picture.crop(_middle(picture.size, width, height))
        box = None
        if self.center_crop:
            scale = min(picture.width / width, picture.height / height)
            box = _middle(picture.size, math.floor(width * scale), math.floor(height * scale))
        return picture.resize((width, height), Image.Resampling.BILINEAR, box=box)


def _middle(size: tuple[int, int], width: int, height: int) -> tuple[int, int, int, int]:
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return left, top, left + width, top + height


@dataclass(frozen=True)
class EncodedPictures:
    """Encoded pictures by index, wherever they are kept.

    Args:
        name: what results call the set.
        size: how many there are.
        fetch: index → encoded bytes; called from several threads at once; raises `DataError` with the file's name.
        origin: index → the file or row, for messages.
    """

    name: str
    size: int
    fetch: Callable[[int], bytes]
    origin: Callable[[int], str]

    def open(self, fit: Fit) -> ImageData:
        """Decode everything now if the result is small enough to keep, otherwise when it is needed.

        Raises:
            DataError: the set is empty, or (now or later) a picture cannot be used; the message names it.
        """

        def load(index: int) -> Tensor:
            return fit.decode(self.fetch(index), self.origin(index))

        if self.size * math.prod(fit.shape) > RESIDENT_LIMIT_BYTES:
            return StreamedImages(self.name, fit.shape, self.size, load, lambda: self._fingerprint(fit))
        pixels = np.empty((self.size, *fit.shape), np.uint8)

        def fill(start: int) -> None:
            for index in range(start, min(start + SPAN, self.size)):
                pixels[index] = load(index).numpy()

        with ThreadPoolExecutor(DECODERS) as pool:
            list(pool.map(fill, range(0, self.size, SPAN)))
        return ResidentImages(self.name, torch.from_numpy(pixels))

    def _fingerprint(self, fit: Fit) -> str:
        hasher = hashlib.blake2b(repr((self.size, fit)).encode(), digest_size=8)
        for index in range(self.size):
            hasher.update(hashlib.blake2b(self.fetch(index)).digest())
        return hasher.hexdigest()


class PictureSource(DataSource):
    """The fields of every data set that is made of encoded pictures.

    Args:
        limit: use only the first ``limit`` pictures.
        resize: scale every picture to the asked size, bilinear with antialiasing; false makes another size an error.
        center_crop: cut the middle out before, so that nothing is stretched.
    """

    limit: int | None = Field(None, ge=1, json_schema_extra={"hint": "Leave it out to use every picture."})
    resize: bool = True
    center_crop: bool = False

    def encoded(self) -> EncodedPictures:
        """Find the pictures, decode none.

        Raises:
            DataError: there are none.
        """
        raise RecipeError(f"{type(self).__name__} does not say where its pictures are; define encoded().")

    def open(self, shape: tuple[int, int, int]) -> ImageData:
        """Find and decode the pictures; sets above `RESIDENT_LIMIT_BYTES` are decoded when they are needed.

        Raises:
            DataError: the set is missing or empty, the limit is too high, or a picture cannot be used.
        """
        fit = Fit(shape, self.resize, self.center_crop)
        return self.encoded().open(fit)

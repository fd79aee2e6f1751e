"""The only place where [0, 255], [0, 1] and [-1, 1] meet; reading pictures, grids, PNG."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from baddiffusion.errors import DataError

__all__ = [
    "Images",
    "Pixels",
    "eight_bit",
    "from_uint8",
    "grid",
    "png_bytes",
    "read_picture",
    "save_png",
    "to_pil",
    "to_uint8",
    "to_unit",
]

Images = Float[Tensor, "b c h w"]
"""A batch of images, float, in [-1, 1] unless a name says otherwise."""

Pixels = UInt8[Tensor, "b c h w"]
"""A batch of 8-bit images, in [0, 255]."""


def to_unit(x: Float[Tensor, "*b c h w"]) -> Float[Tensor, "*b c h w"]:
    """Map [-1, 1] to [0, 1], clamping what lies outside."""
    return (x / 2 + 0.5).clamp(0, 1)


def to_uint8(x: Float[Tensor, "*b c h w"]) -> UInt8[Tensor, "*b c h w"]:
    """Map [-1, 1] to 8-bit pixels, clamping and rounding half to even, as diffusers does before it writes a PNG."""
    return (to_unit(x) * 255).round().to(torch.uint8)


def from_uint8(pixels: UInt8[Tensor, "*b c h w"]) -> Float[Tensor, "*b c h w"]:
    """Map 8-bit pixels to [-1, 1] float32. The reference code divides by 1 + 1e-5 more: 255 becomes 0.99998 there."""
    return pixels.to(torch.float32) / 127.5 - 1


def to_pil(pixels: UInt8[Tensor, "c h w"]) -> Image.Image:
    """Turn one image into a Pillow image: grey for one channel, RGB for three."""
    array = pixels.cpu().numpy()
    return Image.fromarray(array[0] if array.shape[0] == 1 else np.ascontiguousarray(array.transpose(1, 2, 0)))


def png_bytes(pixels: UInt8[Tensor, "c h w"], scale: int = 1) -> bytes:
    """Encode one image as PNG, each pixel enlarged to ``scale`` × ``scale``."""
    picture = to_pil(pixels)
    if scale > 1:
        picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def save_png(pixels: UInt8[Tensor, "c h w"], path: Path, scale: int = 1) -> None:
    """Write one image as PNG."""
    path.write_bytes(png_bytes(pixels, scale))


def grid(
    pixels: Pixels, columns: int | None = None, gap_px: int = 1, background: int = 255
) -> UInt8[Tensor, "c gh gw"]:
    """Lay images out row by row, nearly square unless ``columns`` is given."""
    count, channels, height, width = pixels.shape
    columns = columns or max(1, math.ceil(math.sqrt(count)))
    rows = math.ceil(count / columns)
    shape = (channels, rows * (height + gap_px) - gap_px, columns * (width + gap_px) - gap_px)
    sheet = torch.full(shape, background, dtype=torch.uint8)
    for index, image in enumerate(pixels.cpu()):
        top, left = (index // columns) * (height + gap_px), (index % columns) * (width + gap_px)
        sheet[:, top : top + height, left : left + width] = image
    return sheet


def eight_bit(opened: Image.Image, channels: int, origin: str) -> Image.Image:
    """Bring an opened picture to 8-bit grey (1 channel) or RGB (3); transparency is dropped, not blended.

    Args:
        opened: as Pillow opens it.
        channels: 1 or 3.
        origin: the file or row that errors name.

    Raises:
        DataError: it has more than 8 bits per channel. Pillow would clip, not scale, these: nearly every pixel would
            turn white.
    """
    if opened.mode.startswith(("I", "F")):
        raise DataError(f"{origin} has more than 8 bits per channel (mode {opened.mode}); convert it to 8 bits.")
    if opened.mode == "P" and isinstance(opened.info.get("transparency"), bytes):
        opened = opened.convert("RGBA")
    return opened.convert("RGB" if channels == 3 else "L")


def read_picture(path: str | Path, size: tuple[int, int] | None = None, channels: int = 3) -> UInt8[Tensor, "c h w"]:
    """Read a picture file as 8-bit pixels; transparency is dropped, not blended, as the reference code does.

    Args:
        path: a file that Pillow reads.
        size: (height, width) in pixels to resize to, bilinear with antialiasing; None keeps the file's size.
        channels: 1 (grey) or 3 (RGB).

    Raises:
        DataError: the file is missing, is not a picture, is truncated, is absurdly large, or has more than 8 bits per
            channel; or another number of channels was asked for.
    """
    if channels not in (1, 3):
        raise DataError(f"{path} was asked for with {channels} channels; a picture gives 1 (grey) or 3 (RGB).")
    try:
        with Image.open(path) as opened:
            picture = eight_bit(opened, channels, str(path))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; give the path of a picture file.") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder; give the path of one picture file.") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as a picture ({error}); give a PNG or JPEG file.") from None
    if size is not None and (picture.height, picture.width) != size:
        picture = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    array = np.array(picture)
    return torch.from_numpy(array[None] if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1)))

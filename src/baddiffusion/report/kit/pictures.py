"""Samples as pictures inside the page: PNG data-URIs, aligned by the noise that they came from."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from baddiffusion.images import Images, grid, png_bytes, to_uint8

__all__ = ["BAND", "Band", "Row", "Shot", "bands", "data_uri", "sheet_uri", "thumbnails"]

BAND = 8
"""Noises per band: narrow enough for a phone; a wide page sets two bands side by side."""
THUMBNAIL_PX = 64


@dataclass(frozen=True)
class Row:
    """One way of sampling the same noises.

    Args:
        key: ``clean``, ``triggered`` or ``clipped``; decides the color.
        title: what stands before the pictures.
        words: the same for the middle of a sentence.
        images: image i from seed i.
        hits: which images count as the target; empty where that was not measured.
    """

    key: str
    title: str
    words: str
    images: Images
    hits: Sequence[bool] = ()


@dataclass(frozen=True)
class Shot:
    """One picture of a band."""

    uri: str
    seed: int
    hit: bool


@dataclass(frozen=True)
class Band:
    """A few consecutive noises, each sampled in every way: (key, title, pictures) per row."""

    first: int
    rows: tuple[tuple[str, str, tuple[Shot, ...]], ...]


def thumbnails(images: Images, most_px: int = THUMBNAIL_PX) -> Float[Tensor, "b c th tw"]:
    """Shrink what is larger than a page needs; small pictures stay as they are, pixel for pixel."""
    longest = max(images.shape[-2:])
    if longest <= most_px:
        return images
    height, width = (max(1, round(side * most_px / longest)) for side in images.shape[-2:])
    return torch.nn.functional.interpolate(images, size=(height, width), mode="area")


def bands(rows: Sequence[Row], limit: int) -> list[Band]:
    """Cut the noises that every row has, at most ``limit``, into bands of `BAND`."""
    if not rows:
        return []
    count = min(limit, *(len(row.images) for row in rows))
    pixels = [to_uint8(thumbnails(row.images[:count])) for row in rows]
    cut = []
    for first in range(0, count, BAND):
        seeds = range(first, min(first + BAND, count))
        shots = [
            (
                row.key,
                row.title,
                tuple(Shot(data_uri(png_bytes(p[i])), i, bool(row.hits and row.hits[i])) for i in seeds),
            )
            for row, p in zip(rows, pixels, strict=True)
        ]
        cut.append(Band(first, tuple(shots)))
    return cut


def sheet_uri(images: Images, columns: int, most_px: int = THUMBNAIL_PX) -> str:
    """Several images as one picture."""
    return data_uri(png_bytes(grid(to_uint8(thumbnails(images, most_px)), columns=columns, gap_px=1, background=128)))


def data_uri(png: bytes) -> str:
    """A PNG that needs no second request."""
    return "data:image/png;base64," + base64.b64encode(png).decode()

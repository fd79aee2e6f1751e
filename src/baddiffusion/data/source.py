"""Where images come from, and the two ways they reach the device: resident, or streamed by workers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from baddiffusion.errors import DataError, RecipeError
from baddiffusion.images import Pixels
from baddiffusion.registry import Component, Registry

__all__ = ["SOURCES", "DataSource", "ImageData", "ResidentImages", "StreamedImages"]

RESIDENT_LIMIT_BYTES = 2 * 1024**3
"""Sets up to this size are kept whole on the device as 8-bit pixels (CIFAR-10: 184 MB); larger ones are streamed."""


class ImageData:
    """A finite, ordered set of 8-bit images of one shape.

    Attributes:
        name: what results call it.
        shape: (channels, height, width).
    """

    name: str
    shape: tuple[int, int, int]

    def __len__(self) -> int:
        raise DataError(f"{type(self).__name__} has no length; a data set must know how many images it holds.")

    @property
    def digest(self) -> str:
        """A short hash of the content, for records."""
        raise DataError(f"{type(self).__name__} has no digest; a data set must name its content.")

    def batches(self, order: Iterable[Int64[Tensor, " b"]], device: torch.device | str = "cpu") -> Iterator[Pixels]:
        """Yield the images of each index vector of ``order``, on ``device``."""
        raise DataError(f"{type(self).__name__} cannot be read; define batches(order, device).")

    def read(self, indices: Int64[Tensor, " b"]) -> Pixels:
        """Read some images by index, on the CPU."""
        return next(iter(self.batches([indices])))


@dataclass(frozen=True, eq=False)
class ResidentImages(ImageData):
    """Images that fit in memory: they stay on the device as uint8 and are flipped, stamped and scaled there."""

    name: str
    pixels: UInt8[Tensor, "n c h w"]

    def __post_init__(self) -> None:
        if len(self.pixels) == 0:
            raise DataError(f"{self.name} holds no images; give a source with at least one.")

    @property
    def shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        """(channels, height, width)."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width

    def __len__(self) -> int:
        return len(self.pixels)

    @cached_property
    def digest(self) -> str:
        """blake2b of shape and pixels, 16 hex digits."""
        hasher = hashlib.blake2b(str(tuple(self.pixels.shape)).encode(), digest_size=8)
        hasher.update(self.pixels.contiguous().numpy().tobytes())
        return hasher.hexdigest()

    def batches(self, order: Iterable[Int64[Tensor, " b"]], device: torch.device | str = "cpu") -> Iterator[Pixels]:
        """Index the resident tensor."""
        pixels = self.pixels.to(device)
        for indices in order:
            yield pixels[indices.to(pixels.device)]


@dataclass(frozen=True, eq=False)
class StreamedImages(ImageData):
    """Images read one by one, by worker processes, each only when it is needed.

    Args:
        name: what results call it.
        shape: (channels, height, width).
        size: how many images there are.
        load: index → uint8 (c, h, w); must be picklable and must name the file when it fails.
        digest: a hash of the file list or of the revision.
        workers: processes that decode.
    """

    name: str
    shape: tuple[int, int, int]
    size: int
    load: Callable[[int], UInt8[Tensor, "c h w"]]
    digest: str  # type: ignore[assignment]
    workers: int = 2

    def __len__(self) -> int:
        return self.size

    def batches(self, order: Iterable[Int64[Tensor, " b"]], device: torch.device | str = "cpu") -> Iterator[Pixels]:
        """Decode with a `DataLoader` whose batches are given by ``order``."""
        loader = DataLoader(
            _Lookup(self.load, self.size),
            batch_sampler=_Order(order),  # type: ignore[arg-type]
            num_workers=self.workers,
            pin_memory=torch.device(device).type == "cuda",
        )
        for pixels in loader:
            yield pixels.to(device, non_blocking=True)


class _Lookup(Dataset):
    def __init__(self, load: Callable[[int], Tensor], size: int) -> None:
        self._load, self._size = load, size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Tensor:
        return self._load(index)


class _Order:
    def __init__(self, order: Iterable[Tensor]) -> None:
        self._order = order

    def __iter__(self) -> Iterator[list[int]]:
        return (indices.tolist() for indices in self._order)


class DataSource(Component):
    """A data set as a recipe names it; ``open`` makes it ready for one image shape."""

    def open(self, shape: tuple[int, int, int]) -> ImageData:
        """Open the set with every image as ``shape`` (channels, height, width).

        Raises:
            DataError: the set is missing, empty, corrupt, or cannot be brought to that shape.
        """
        raise RecipeError(f"{type(self).__name__} does not say how it is opened; define open(shape).")


SOURCES: Registry[Any] = Registry("data set")

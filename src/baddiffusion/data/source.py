"""What a data set is, and the two ways its images reach the device: resident, or streamed by workers."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from baddiffusion.errors import DataError, RecipeError
from baddiffusion.images import Pixels
from baddiffusion.registry import Component, Registry

__all__ = ["DECODERS", "SOURCES", "DataSource", "ImageData", "ResidentImages", "StreamedImages", "count_of"]

DECODERS = min(8, os.cpu_count() or 1)
"""Threads that decode pictures. Pillow lets go of the interpreter lock while it decodes and resizes, so threads are as
fast as processes here, and need no fork, no pickling and no shared memory; their errors arrive as they were raised."""

AHEAD = 3
"""Batches that are being decoded while the consumer works on one."""


Order = Iterable[Int64[Tensor, " _"]]
"""Index vectors, one a batch; batches may differ in size."""

Batches = Iterator[UInt8[Tensor, "_ c h w"]]
"""Images of one shape, batch by batch."""


class ImageData(ABC):
    """A finite, ordered set of 8-bit images of one shape.

    Attributes:
        name: what results call it.
        shape: (channels, height, width).
    """

    name: str
    shape: tuple[int, int, int]

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def digest(self) -> str:
        """A hash of the content, 16 hex digits, for records."""

    @abstractmethod
    def batches(self, order: Order, device: torch.device | str = "cpu") -> Batches:
        """Yield the images of each index vector of ``order``, on ``device``; ``order`` may be endless."""

    @abstractmethod
    def read(self, indices: Int64[Tensor, " b"]) -> Pixels:
        """Read some images by index, on the CPU."""


class ResidentImages(ImageData):
    """Images that fit in memory: they stay on the device as uint8 and are flipped, stamped and scaled there.

    Args:
        name: what results call it.
        pixels: the images, in [0, 255].

    Raises:
        DataError: there is no image.
    """

    def __init__(self, name: str, pixels: UInt8[Tensor, "n c h w"]) -> None:
        _require_images(name, len(pixels))
        self.name = name
        self.pixels = pixels
        _, channels, height, width = pixels.shape
        self.shape = (channels, height, width)

    def __len__(self) -> int:
        return len(self.pixels)

    @cached_property
    def digest(self) -> str:
        """blake2b of shape and pixels."""
        hasher = hashlib.blake2b(str(tuple(self.pixels.shape)).encode(), digest_size=8)
        hasher.update(self.pixels.contiguous().numpy().data)
        return hasher.hexdigest()

    def batches(self, order: Order, device: torch.device | str = "cpu") -> Batches:
        """Index the resident tensor."""
        pixels = self.pixels.to(device)
        for indices in order:
            yield pixels[indices.to(pixels.device)]

    def read(self, indices: Int64[Tensor, " b"]) -> Pixels:
        """Index the tensor."""
        return self.pixels[indices]


class StreamedImages(ImageData):
    """Images too many to keep: worker threads read each one when it is needed, a few batches ahead.

    Args:
        name: what results call it.
        shape: (channels, height, width).
        size: how many images there are.
        load: index → image; called from several threads at once; must name the file when it fails.
        fingerprint: computes the digest; called once, and only if somebody asks, because it may read every file.
        workers: threads that decode.

    Raises:
        DataError: there is no image.
    """

    def __init__(
        self,
        name: str,
        shape: tuple[int, int, int],
        size: int,
        load: Callable[[int], UInt8[Tensor, "c h w"]],
        fingerprint: Callable[[], str],
        workers: int = DECODERS,
    ) -> None:
        _require_images(name, size)
        self.name = name
        self.shape = shape
        self.workers = workers
        self._size, self._load, self._fingerprint = size, load, fingerprint

    def __len__(self) -> int:
        return self._size

    @cached_property
    def digest(self) -> str:
        """What ``fingerprint`` gives."""
        return self._fingerprint()

    def batches(self, order: Order, device: torch.device | str = "cpu") -> Batches:
        """Decode ahead of the consumer.

        Raises:
            DataError: a picture cannot be read; the message is the loader's own and names the file.
        """
        pinned = torch.device(device).type == "cuda"
        pool = ThreadPoolExecutor(self.workers)
        begun: deque[tuple[Tensor, list[Future[None]]]] = deque()
        try:
            for indices in order:
                batch = torch.empty((len(indices), *self.shape), dtype=torch.uint8, pin_memory=pinned)
                fills = [pool.submit(self._fill, batch, *at) for at in enumerate(indices.tolist())]
                begun.append((batch, fills))
                if len(begun) > AHEAD:
                    yield _finished(*begun.popleft()).to(device, non_blocking=True)
            while begun:
                yield _finished(*begun.popleft()).to(device, non_blocking=True)
        finally:
            pool.shutdown(cancel_futures=True)

    def read(self, indices: Int64[Tensor, " b"]) -> Pixels:
        """Decode some images, one after the other.

        Raises:
            DataError: a picture cannot be read.
        """
        batch = torch.empty((len(indices), *self.shape), dtype=torch.uint8)
        for slot, index in enumerate(indices.tolist()):
            self._fill(batch, slot, index)
        return batch

    def _fill(self, batch: Tensor, slot: int, index: int) -> None:
        # Through numpy: a tensor made under torch.inference_mode may not be written by a thread that is not under it.
        batch.numpy()[slot] = self._load(index).numpy()


def _finished(batch: Tensor, fills: list[Future[None]]) -> Tensor:
    for fill in fills:
        fill.result()
    return batch


def _require_images(name: str, size: int) -> None:
    if size < 1:
        raise DataError(f"{name} holds no images; give a source with at least one.")


def count_of(name: str, size: int, limit: int | None) -> int:
    """How many images of ``size`` are used under ``limit``.

    Raises:
        DataError: the limit is higher than the size.

    Example:
        >>> count_of("clothes", 10_000, None), count_of("clothes", 10_000, 64)
        (10000, 64)
    """
    if limit is not None and limit > size:
        raise DataError(f"limit is {limit}; {name} has {size} images. Use 1 to {size}, or leave limit out.")
    return limit or size


class DataSource(Component):
    """A data set as a recipe names it; ``open`` makes it ready for one image shape."""

    def open(self, shape: tuple[int, int, int]) -> ImageData:
        """Open the set with every image as ``shape`` (channels, height, width).

        Raises:
            DataError: the set is missing, empty, corrupt, or cannot be brought to that shape.
        """
        raise RecipeError(f"{type(self).__name__} does not say how it is opened; define open(shape).")


SOURCES: Registry[DataSource] = Registry("data set")

"""Samples on disk: float32 blocks, each written whole; an interrupted sampling goes on at the next block."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from baddiffusion.errors import RunError
from baddiffusion.images import Images
from baddiffusion.rundir import write_atomic

__all__ = ["BLOCK_SIZE", "SampleStore"]

BLOCK_SIZE = 256
"""Images per file. An image depends on its seed alone, so the cut changes nothing."""


@dataclass(frozen=True)
class SampleStore:
    """One set of samples: image i has seed i. Pictures stay in float32, since 8-bit storage has an error of its own."""

    folder: Path

    def fill(self, n: int, make: Callable[[Sequence[int]], tuple[Images, dict[str, Any]]]) -> None:
        """Sample what is missing of seeds 0 … n − 1; ``make`` turns seeds into images and the record of how.

        Raises:
            RunError: the disk is full or the folder cannot be written; the blocks before it are kept.
        """
        self._sweep()
        for first in range(0, n, BLOCK_SIZE):
            path = self.folder / f"{first:06d}.safetensors"
            if path.exists():
                continue
            images, record = make(range(first, min(first + BLOCK_SIZE, n)))
            # The index comes first: a block that exists must have its record, whenever the process is killed.
            write_atomic(self.folder / "index.json", json.dumps({"n": n, **record}, indent=2) + "\n")
            self._write(path, images)

    def _sweep(self) -> None:
        """Remove what a killed process left half-written: it would enter the digest of the folder for good."""
        for abandoned in (*self.folder.glob(".*.safetensors.*"), *self.folder.glob(".index.json.*")):
            if abandoned.is_dir():
                shutil.rmtree(abandoned, ignore_errors=True)
            else:
                with suppress(OSError):  # in a folder that cannot be written, writing tells so
                    abandoned.unlink()

    def _write(self, path: Path, images: Images) -> None:
        # A folder of its own: safetensors writes to a temporary file beside its target, and a kill leaves that behind.
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        written = temporary / path.name
        try:
            temporary.mkdir()
            save_file({"images": images.contiguous()}, written)
            with open(written, "rb") as opened:
                os.fsync(opened.fileno())
            os.replace(written, path)
            temporary.rmdir()
        except (OSError, SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise RunError(
                f"{path} could not be written ({error}); make room and start the same command again."
            ) from None

    def read(self) -> Images:
        """All images, in the order of their seeds.

        Raises:
            RunError: there are none, or a block is damaged.
        """
        paths = sorted(self.folder.glob("[0-9]*.safetensors"))
        if not paths:
            raise RunError(f"{self.folder} holds no samples; run the sampling stage first.")
        try:
            return torch.cat([load_file(path)["images"] for path in paths])
        except (OSError, KeyError, SafetensorError) as error:
            raise RunError(f"samples in {self.folder} are damaged ({error}); start a new run.") from None

    @property
    def record(self) -> dict[str, Any]:
        """How the images were made: ``index.json``."""
        return json.loads((self.folder / "index.json").read_text())

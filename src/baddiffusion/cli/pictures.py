"""A folder of pictures that are named by their seeds, with an index of how they were made."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baddiffusion.errors import RunError

if TYPE_CHECKING:
    from baddiffusion.images import Pixels

__all__ = ["INDEX", "SHEET", "PictureFolder"]

SCHEMA = 1
INDEX, SHEET = "index.json", "grid.png"
SHEET_LIMIT = 256
"""The sheet shows the first so many pictures: more could not be told apart on a screen."""


@dataclass(frozen=True)
class PictureFolder:
    """Pictures of one identity; the picture of a seed is written once, whole or not at all.

    Args:
        path: the folder; it may not exist yet.
        identity: all that decides the pictures besides their seeds. A folder made with another one is refused.
        shape: of a picture (channels, height, width).

    Raises:
        RunError: the folder holds pictures of other settings, or is not empty and not a folder of pictures.
    """

    path: Path
    identity: dict[str, Any]
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        try:
            if not self.path.exists() or not any(self.path.iterdir()):
                return
            index = json.loads((self.path / INDEX).read_text())
            made_with = {key: index[key] for key in self.identity}
        except NotADirectoryError:
            raise RunError(f"{self.path} is a file; give a folder with -o.") from None
        except (OSError, ValueError, KeyError, TypeError):
            raise RunError(
                f"{self.path} is not empty and holds no pictures that `baddiffusion sample` made; choose another "
                f"folder with -o."
            ) from None
        others = [key for key, value in self.identity.items() if made_with[key] != value]
        if others:
            raise RunError(
                f"{self.path} holds pictures made with another {' and another '.join(others)}; they are not mixed. "
                f"Choose another folder with -o."
            )

    def missing(self, seeds: Iterable[int]) -> list[int]:
        """The seeds whose pictures are not there yet."""
        return [seed for seed in seeds if not self._picture(seed).exists()]

    def begin(self) -> None:
        """Make the folder and say in it what its pictures will be.

        Raises:
            RunError: it cannot be written.
        """
        self._write_index()

    def add(self, seeds: Sequence[int], pixels: Pixels) -> None:
        """Write the pictures of some seeds."""
        from baddiffusion.images import png_bytes
        from baddiffusion.rundir import write_atomic

        for seed, picture in zip(seeds, pixels, strict=True):
            write_atomic(self._picture(seed), png_bytes(picture))

    def finish(self) -> dict[str, Any]:
        """Draw the sheet of all pictures that are there, and write the index.

        Returns:
            The index.
        """
        import torch

        from baddiffusion.images import grid, png_bytes, read_picture
        from baddiffusion.rundir import write_atomic

        seeds = self._seeds()
        shown = [read_picture(self._picture(seed), channels=self.shape[0]) for seed in seeds[:SHEET_LIMIT]]
        scale = max(1, 64 // self.shape[1])
        write_atomic(self.path / SHEET, png_bytes(grid(torch.stack(shown)), scale))
        return self._write_index()

    def _picture(self, seed: int) -> Path:
        return self.path / f"{seed:06d}.png"

    def _seeds(self) -> list[int]:
        return sorted(int(path.stem) for path in self.path.glob("*.png") if path.stem.isdigit())

    def _write_index(self) -> dict[str, Any]:
        from baddiffusion.rundir import write_atomic

        index = {"schema": SCHEMA, **self.identity, "seeds": self._seeds()}
        write_atomic(self.path / INDEX, json.dumps(index, indent=2) + "\n")
        return index

"""A folder of picture files; Pillow alone reads it."""

from __future__ import annotations

import os
from pathlib import Path

from baddiffusion.data.pictures import EncodedPictures, PictureSource
from baddiffusion.data.source import SOURCES, count_of
from baddiffusion.errors import DataError

__all__ = ["ENDINGS", "Folder"]

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""File names that count as pictures, in either case."""


@SOURCES.register("folder")
class Folder(PictureSource):
    """Every picture in a folder and below it, in the order of their paths.

    Names that start with a dot are passed over: file managers and archives leave such files beside pictures. Links to
    folders are not followed, links to pictures are.

    Args:
        path: the folder; ``~`` is the home folder.
        limit: use only the first ``limit`` pictures.
        resize: scale every picture to the asked size, bilinear with antialiasing; false makes another size an error.
        center_crop: cut the middle out before, so that nothing is stretched.

    Raises:
        RecipeError: a field is wrong.
    """

    path: Path

    def encoded(self) -> EncodedPictures:
        """List the files.

        Raises:
            DataError: the folder is missing, unreadable, empty, or holds no picture; or the limit is too high.
        """
        files = _pictures(self.path.expanduser())
        size = count_of(str(self.path), len(files), self.limit)
        name = f"{self.path.expanduser().resolve().name} ({size} pictures)"
        return EncodedPictures(name, size, lambda index: read_bytes(files[index]), lambda index: str(files[index]))


def read_bytes(file: Path) -> bytes:
    """Read one file.

    Raises:
        DataError: it cannot be read; the message names it.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}); remove it or make it readable.") from None


def _pictures(root: Path) -> list[Path]:
    if not root.exists():
        raise DataError(f"{root} does not exist; give the path of a folder with pictures.")
    if not root.is_dir():
        raise DataError(f"{root} is a file; give the path of a folder with pictures.")
    found, others = [], 0
    for folder, below, names in os.walk(root, onerror=_unreadable):
        below[:] = [name for name in below if not name.startswith(".")]
        pictures = [name for name in names if name.lower().endswith(ENDINGS) and not name.startswith(".")]
        found += [Path(folder, name) for name in pictures]
        others += len(names) - len(pictures)
    if not found:
        held = f"holds no picture ({others} other files)" if others else "is empty"
        raise DataError(f"{root} {held}; looked in it and below it for names that end in {', '.join(ENDINGS)}.")
    return sorted(found, key=lambda file: file.relative_to(root).parts)


def _unreadable(error: OSError) -> None:
    raise DataError(f"{error.filename} cannot be listed ({error.strerror}); make the folder readable.") from None

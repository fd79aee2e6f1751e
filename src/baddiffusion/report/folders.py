"""What a folder holds, and the page that it gets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from baddiffusion.errors import RunError
from baddiffusion.report.matrix.page import write_matrix_page
from baddiffusion.report.reproduction.page import write_reproduction_page
from baddiffusion.report.reproduction.reading import experiment_files
from baddiffusion.report.run.page import write_report
from baddiffusion.report.scan.page import write_scan_page
from baddiffusion.report.sweep.page import write_sweep_page

__all__ = ["Kind", "folders_below", "is_old", "kind_of", "page_of", "write_page"]

Kind = Literal["run", "sweep", "matrix", "scan", "reproduction"]
MARKS: dict[str, Kind] = {"run.json": "run", "sweep.json": "sweep", "matrix.json": "matrix", "scan.json": "scan"}


def kind_of(folder: Path) -> Kind | None:
    """What a folder is by the file that makes it so; None for any other folder."""
    for mark, kind in MARKS.items():
        if (folder / mark).is_file():
            return kind
    return "reproduction" if folder.is_dir() and experiment_files(folder) else None


def page_of(folder: Path) -> Path:
    """Where the page of a folder stands."""
    return folder / ("matrix.html" if kind_of(folder) == "matrix" else "report.html")


def is_old(folder: Path) -> bool:
    """Whether its page is missing, or was written before its record."""
    page, records = page_of(folder), [folder / mark for mark in MARKS if (folder / mark).exists()]
    written = [record.stat().st_mtime_ns for record in records or experiment_files(folder)]
    return not page.exists() or page.stat().st_mtime_ns < max(written)


def write_page(folder: Path, output: Path | None = None) -> Path:
    """Write the page of a run, a sweep, a matrix, a scan or a reproduction.

    Args:
        folder: one of these.
        output: write the page there; a matrix has its picture beside its page, so that it takes none.

    Raises:
        RunError: the folder is none of these, a file of it is damaged, or the page cannot be written.
    """
    kind = kind_of(folder)
    if kind == "sweep":
        return write_sweep_page(folder, output)
    if kind == "reproduction":
        return write_reproduction_page(folder, output)
    if kind == "scan":
        return write_scan_page(folder, output)
    if kind == "matrix":
        if output is not None:
            raise RunError(f"{folder} is a matrix, whose page and picture stand in its folder; leave -o out.")
        return write_matrix_page(folder)
    return write_report(folder, output)


def folders_below(root: Path) -> Iterator[tuple[Kind, Path]]:
    """All that has a page below a folder, by name; what lies inside one of these is its own."""
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        kind = None if folder.is_symlink() else kind_of(folder)
        if kind is not None:
            yield kind, folder
        elif not folder.is_symlink():
            yield from folders_below(folder)

"""What a folder holds, and the page that it gets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from baddiffusion.errors import RunError
from baddiffusion.report.bench.page import write_bench_page
from baddiffusion.report.matrix.page import write_matrix_page
from baddiffusion.report.purify.page import write_receipt_page
from baddiffusion.report.queue.page import write_queue_page
from baddiffusion.report.reproduction.page import write_reproduction_page
from baddiffusion.report.reproduction.reading import experiment_files
from baddiffusion.report.run.page import write_report
from baddiffusion.report.scan.page import write_scan_page
from baddiffusion.report.sweep.page import write_sweep_page

__all__ = ["KINDS", "Kind", "folders_below", "is_old", "kind_of", "page_of", "write_page"]


@dataclass(frozen=True)
class Kind:
    """A sort of folder that has a page.

    Args:
        name: in a word.
        plural: of several.
        mark: the file whose presence makes a folder one; empty where none does.
        page: the page's name in the folder.
        write: writes the page, given the folder and, where it can stand elsewhere, the page's path.
        stands_alone: whether the page can stand outside its folder.
    """

    name: str
    plural: str
    mark: str
    page: str
    write: Callable[..., Path]
    stands_alone: bool = True


REPRODUCTION = Kind("reproduction", "reproductions", "", "report.html", write_reproduction_page)
KINDS = (
    Kind("run", "runs", "run.json", "report.html", write_report),
    Kind("sweep", "sweeps", "sweep.json", "report.html", write_sweep_page),
    Kind("matrix", "matrices", "matrix.json", "matrix.html", write_matrix_page, stands_alone=False),
    Kind("benchmark", "benchmarks", "bench.json", "report.html", write_bench_page),
    Kind("queue of scans", "queues of scans", "summary.json", "index.html", write_queue_page, stands_alone=False),
    Kind("scan", "scans", "scan.json", "report.html", write_scan_page),
    Kind("repair", "repairs", "receipt.json", "receipt.html", write_receipt_page),
    REPRODUCTION,
)


def kind_of(folder: Path) -> Kind | None:
    """What a folder is by the file that makes it so; None for any other folder."""
    for kind in KINDS:
        if kind.mark and (folder / kind.mark).is_file():
            return kind
    return REPRODUCTION if folder.is_dir() and experiment_files(folder) else None


def page_of(folder: Path) -> Path:
    """Where the page of a folder stands."""
    return folder / (kind_of(folder) or KINDS[0]).page


def is_old(folder: Path) -> bool:
    """Whether its page is missing, or was written before its record."""
    page, records = page_of(folder), [folder / kind.mark for kind in KINDS if kind.mark]
    written = [record.stat().st_mtime_ns for record in records if record.exists()]
    written = written or [record.stat().st_mtime_ns for record in experiment_files(folder)]
    return not page.exists() or page.stat().st_mtime_ns < max(written)


def write_page(folder: Path, output: Path | None = None) -> Path:
    """Write the page of a run, a sweep, a matrix, a benchmark, a scan, a queue of scans, a repair or a reproduction.

    Args:
        folder: one of these.
        output: write the page there; that of a matrix or a queue belongs beside its other files, so that it takes none.

    Raises:
        RunError: the folder is none of these, a file of it is damaged, or the page cannot be written.
    """
    kind = kind_of(folder) or KINDS[0]  # which says what a folder lacks
    if kind.stands_alone:
        return kind.write(folder, output)
    if output is not None:
        raise RunError(f"{folder} is a {kind.name}, whose page belongs beside its other files; leave -o out.")
    return kind.write(folder)


def folders_below(root: Path) -> Iterator[tuple[Kind, Path]]:
    """All that has a page below a folder, by name; what lies inside one of these is its own."""
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        kind = None if folder.is_symlink() else kind_of(folder)
        if kind is not None:
            yield kind, folder
        elif not folder.is_symlink():
            yield from folders_below(folder)

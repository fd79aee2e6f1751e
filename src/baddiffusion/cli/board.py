"""How far the cells of a sweep are: a live table on a terminal, elsewhere a plain line for each change."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from baddiffusion.cli.printing import duration, note
from baddiffusion.errors import EvaluationError

if TYPE_CHECKING:
    from rich.table import Table

    from baddiffusion.metrics import Estimate
    from baddiffusion.sweep import SweepDir

__all__ = ["CellLines", "CellTable", "columns", "numbers", "watching_cells"]

Cell = Mapping[str, Any]
SPARE_LINES = 5
"""Of the terminal's height, for heading, counts and the prompt."""


class CellTimes:
    """When each cell was first seen at work, and how long it took.

    Args:
        ours: keys of the cells that are watched; other jobs watch theirs.
        clock: seconds, ever growing.
    """

    def __init__(self, ours: Collection[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._ours = frozenset(ours)
        self._clock = clock
        self._began: dict[str, float] = {}
        self._took: dict[str, float] = {}
        self._status: dict[str, str] = {}

    def changed(self, folder: SweepDir) -> list[Cell]:
        """The cells whose status is another than last time; all of them at first."""
        found = [cell for cell in self.watched(folder) if self._status.get(cell["key"]) != cell["status"]]
        for cell in found:
            key, status = cell["key"], cell["status"]
            self._status[key] = status
            if status == "running":
                self._began[key] = self._clock()
            elif key in self._began:
                self._took[key] = self._clock() - self._began.pop(key)
        return found

    def watched(self, folder: SweepDir) -> list[Cell]:
        """The cells that are watched, in the order of the sweep."""
        return [cell for cell in folder.cells if cell["key"] in self._ours]

    def elapsed(self, key: str) -> str:
        """How long a cell has taken in this process; empty if it was not at work here."""
        if key in self._began:
            return duration(self._clock() - self._began[key])
        return duration(self._took[key]) if key in self._took else ""


class CellLines:
    """A line when a cell begins, and one when it ends.

    Args:
        ours: keys of the cells that are watched.
        write: where a line goes.
        clock: seconds, ever growing.
    """

    def __init__(
        self, ours: Collection[str], write: Callable[[str], None] = note, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._times = CellTimes(ours, clock)
        self._write = write
        self._has_begun = False

    def show(self, folder: SweepDir) -> None:
        """Something has happened to a cell."""
        from baddiffusion.sweep import in_words

        cells, changed = self._times.watched(folder), self._times.changed(folder)
        done = sum(cell["status"] == "done" for cell in cells)
        if not self._has_begun:
            self._has_begun = True
            self._write(f"{folder.path}: {len(cells)} cells, of which {done} are finished.")
            return
        for cell in changed:
            said = [f"{done} of {len(cells)} done", in_words(cell["settings"]), cell["status"]]
            said += [self._times.elapsed(cell["key"])] if cell["status"] not in ("running", "waiting") else []
            said += [cell["error"] or ""]
            if cell["status"] == "done":
                said += [_short(measured(folder, cell))]
            self._write("  ".join(part for part in said if part))


class CellTable:
    """One line for each cell: settings, status, time, and its numbers once they are measured.

    Args:
        ours: keys of the cells that are watched.
        height: lines that fit; where there are more cells, those at work, those that failed and the last finished.
        clock: seconds, ever growing.
    """

    def __init__(
        self, ours: Collection[str], height: Callable[[], int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._times = CellTimes(ours, clock)
        self._height = height
        self._folder: SweepDir | None = None
        self._measured: dict[str, tuple[str, ...]] = {}
        self._finished: list[str] = []

    def show(self, folder: SweepDir) -> None:
        """Something has happened to a cell."""
        for cell in self._times.changed(folder):
            if cell["status"] == "done":
                self._measured[cell["key"]] = numbers(measured(folder, cell))
                self._finished.append(cell["key"])
        self._folder = folder

    def __rich__(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        made = Table(box=None, pad_edge=False)
        if self._folder is None:
            return made
        varied = self._folder.record["varied"]
        for title in (*varied, "status", "time", "ASR", "95 % interval", "MSE"):
            made.add_column(Text(title), overflow="fold")
        cells = self._times.watched(self._folder)
        for cell in self._fitting(cells):
            key = cell["key"]
            numbered = self._measured.get(key, ("", "", ""))[:3]
            told = (*columns(cell["settings"], varied), _status(cell), self._times.elapsed(key), *numbered)
            made.add_row(*map(Text, told), style=STYLES.get(cell["status"], ""))
        made.caption = Text(", ".join(f"{n} {status}" for status, n in _counted(cells).items()))
        made.caption_justify = "left"
        return made

    def _fitting(self, cells: Sequence[Cell]) -> Sequence[Cell]:
        room = max(1, self._height() - SPARE_LINES)
        if len(cells) <= room:
            return cells
        first = [cell["key"] for cell in cells if cell["status"] in ("running", "failed", "lost")]
        shown = set([*first, *reversed(self._finished)][:room])
        return [cell for cell in cells if cell["key"] in shown]


STYLES = {"running": "bold", "failed": "red", "lost": "red", "waiting": "dim"}


@contextmanager
def watching_cells(ours: Collection[str]) -> Generator[CellLines | CellTable, None, None]:
    """Make the board that fits where stderr goes."""
    if not sys.stderr.isatty():
        yield CellLines(ours)
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    board = CellTable(ours, lambda: console.size.height)
    with Live(board, console=console, refresh_per_second=2):
        yield board


def measured(folder: SweepDir, cell: Cell) -> Mapping[str, Estimate]:
    """The numbers of a finished cell; none if its file is damaged, which is told when the sweep ends."""
    from baddiffusion.sweep import headline

    try:
        return headline(folder.path.parent / cell["key"])
    except EvaluationError:
        return {}


def numbers(estimates: Mapping[str, Estimate]) -> tuple[str, str, str, str]:
    """Success rate, its interval, squared error and quality as text; a dash for what was not measured."""
    from baddiffusion.report.kit.wording import number, percent

    rate, error, quality = (estimates.get(name) for name in ("asr", "mse", "quality"))
    interval = "–"
    if rate is not None and rate.low is not None and rate.high is not None:
        interval = f"{percent(rate.low)} to {percent(rate.high)}"
    return (
        "–" if rate is None else percent(rate.value),
        interval,
        "–" if error is None else number(error.value),
        "–" if quality is None else f"{quality.name} {number(quality.value)}",
    )


def columns(settings: Mapping[str, Any], varied: Sequence[str]) -> tuple[str, ...]:
    """The values of the varied keys as text; a dash where a cell has no such key."""
    from baddiffusion.sweep import value_in_words

    return tuple(value_in_words(settings[key]) if key in settings else "–" for key in varied)


def _short(estimates: Mapping[str, Estimate]) -> str:
    rate, _, error, _ = numbers(estimates)
    return f"ASR {rate}  MSE {error}"


def _status(cell: Cell) -> str:
    return f"{cell['status']}: {cell['error']}" if cell["error"] else cell["status"]


def _counted(cells: Sequence[Cell]) -> dict[str, int]:
    counted: dict[str, int] = {}
    for cell in cells:
        counted[cell["status"]] = counted.get(cell["status"], 0) + 1
    return counted

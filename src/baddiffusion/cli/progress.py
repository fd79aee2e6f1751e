"""How far a run is: a bar on a terminal, elsewhere a plain line now and then. Both write to stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from baddiffusion.cli.printing import count, duration, note

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["Bar", "Lines", "watching"]

LINE_INTERVAL_S = 10.0


class Lines:
    """At most one line every ten seconds: a log file stays short.

    Args:
        write: where a line goes.
        clock: seconds, ever growing.
    """

    def __init__(self, write: Callable[[str], None] = note, clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._last_line: float | None = None
        self._title, self._total, self._unit = "", 0, ""
        self._first: tuple[float, int] | None = None

    def stage(self, title: str, total: int, unit: str) -> None:
        """A stage begins."""
        self._title, self._total, self._unit = title, total, unit
        self._first = None

    def advance(self, done: int, note: str = "") -> None:
        """So much of the stage is done."""
        now = self._clock()
        if self._first is None:
            self._first = (now, done)
        if self._last_line is not None and now - self._last_line < LINE_INTERVAL_S:
            return
        self._last_line = now
        text = f"{self._title}: {count(done)} of {count(self._total)} {self._unit}"
        self._write("  ".join(part for part in (text, note, self._left(now, done)) if part))

    def _left(self, now: float, done: int) -> str:
        started, behind = self._first or (now, done)
        if done <= behind:  # a resumed stage starts in its middle: the rate counts from there
            return ""
        return f"{duration((now - started) / (done - behind) * (self._total - done))} left"


class Bar:
    """A bar for each stage, with the losses, the rate and the time left beside it."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = None
        self._total = 0

    def stage(self, title: str, total: int, unit: str) -> None:
        """A stage begins; the one before it is complete."""
        self.finish()
        self._total = total
        self._task = self._progress.add_task(title, total=total, unit=unit, note="")

    def advance(self, done: int, note: str = "") -> None:
        """So much of the stage is done."""
        if self._task is not None:
            self._progress.update(self._task, completed=done, note=note)

    def finish(self) -> None:
        """The stage at hand is complete."""
        if self._task is not None:
            self._progress.update(self._task, completed=self._total)


@contextmanager
def watching() -> Iterator[Bar | Lines]:
    """Make the watcher that fits where stderr goes."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.completed}/{task.total} {task.fields[unit]}", markup=False),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = Bar(progress)
        yield bar
        bar.finish()

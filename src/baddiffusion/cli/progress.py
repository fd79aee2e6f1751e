"""How far a run is: a bar on a terminal, elsewhere a plain line now and then. Both write to stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from baddiffusion.cli.printing import count, duration, note

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from rich.text import Text

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
    """A bar for each stage, and below them what is said about the one at hand: losses and images per second."""

    def __init__(self, progress: Progress, note: Text) -> None:
        self._progress = progress
        self._note = note
        self._task: TaskID | None = None
        self._total = 0

    def stage(self, title: str, total: int, unit: str) -> None:
        """A stage begins; the one before it is complete."""
        self.finish()
        self._total = total
        self._task = self._progress.add_task(title, total=total, unit=unit)

    def advance(self, done: int, note: str = "") -> None:
        """So much of the stage is done."""
        if self._task is not None:
            self._progress.update(self._task, completed=done)
            self._note.plain = note

    def finish(self) -> None:
        """The stage at hand is complete."""
        if self._task is not None:
            self._progress.update(self._task, completed=self._total)
            self._note.plain = ""


@contextmanager
def watching() -> Generator[Bar | Lines, None, None]:
    """Make the watcher that fits where stderr goes."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.text import Text

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=16),
        TextColumn("{task.completed}/{task.total} {task.fields[unit]}", markup=False),
        TimeRemainingColumn(),
    )
    progress, note = Progress(*columns), Text()
    with Live(Group(progress, note), console=Console(stderr=True)):
        bar = Bar(progress, note)
        yield bar
        bar.finish()

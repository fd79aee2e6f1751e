"""Carrying a queue out: every model gets its record, none holds up the others, and what is known is not done again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from baddiffusion.errors import RunError
from baddiffusion.executors import Executor, Outcome, Serial, Task, shard
from baddiffusion.rundir import write_atomic
from baddiffusion.scan_queue.asking import Asked, Limits
from baddiffusion.scan_queue.listing import Entry
from baddiffusion.scan_queue.store import SCHEMA, Record, Store
from baddiffusion.scan_queue.task import WARM

__all__ = ["Progress", "Row", "read_rows", "run_queue"]

MARK = "queue.json"
SHORTEST_POLL_S, LONGEST_POLL_S = 0.2, 5.0
"""How long it is waited before it is looked again whether another process has finished what this one needs."""


@dataclass(frozen=True)
class Row:
    """A model and what is known of it; ``record`` is None while nothing is."""

    entry: Entry
    record: Record | None


@dataclass
class Progress:
    """How far a queue is.

    Args:
        total: models of this part of the list.
        done: those that have a record.
        known: those that had one before.
        found: those that call for a look.
    """

    total: int
    done: int = 0
    known: int = 0
    found: int = 0


def run_queue(
    entries: Sequence[Entry],
    out: Path,
    asked: Asked | None = None,
    limits: Limits | None = None,
    executor: Executor | None = None,
    on_change: Callable[[Progress], None] | None = None,
    shard: tuple[int, int] = (1, 1),
) -> list[Row]:
    """Scan the models that are not scanned yet.

    Args:
        entries: the models.
        out: folder of the results; jobs of an array, or two queues, may share it.
        asked: the same for every model.
        limits: what each may take.
        executor: who carries them out; None for one after another. Each is scanned in a process of its own in any case.
        on_change: told whenever a model has been dealt with.
        shard: (i, n): only the i-th of n parts.

    Returns:
        Every model, those of other parts as far as they are known.

    Raises:
        RecipeError: there is no such shard.
        RunError: the folder is not a queue's, or cannot be written, or a worker failed; what is done is kept.
        KeyboardInterrupt: goes on to the caller; what is done is kept.
    """
    work = _Work(entries, out, asked or Asked(), limits or Limits(), on_change or (lambda progress: None), shard)
    open_folder(out)
    work.begins()
    try:
        pause = SHORTEST_POLL_S
        while work.left:
            before = len(work.left)
            (executor or Serial()).run([work.task(entry) for entry in work.left], lambda key: None, work.ended)
            work.left = [entry for entry in work.left if entry.key in work.elsewhere]
            pause = SHORTEST_POLL_S if len(work.left) < before else min(2 * pause, LONGEST_POLL_S)
            if work.left:
                time.sleep(pause)
    finally:
        WARM.close()
    work.check()
    return read_rows(entries, out, work.records)


def read_rows(entries: Sequence[Entry], out: Path, known: dict[str, Record] | None = None) -> list[Row]:
    """Every model with what is known of it.

    Args:
        entries: the models.
        out: folder of the results.
        known: records by the key of the entry; of the others the newest file is read.
    """
    store, known = Store(out), known or {}
    missing = {entry.key for entry in entries} - known.keys()
    newest = store.newest() if missing else {}
    found = {key: store.read(newest[key]) for key in missing & newest.keys()}
    return [Row(entry, known.get(entry.key) or found.get(entry.key)) for entry in entries]


def open_folder(out: Path) -> None:
    """Make the folder of a queue, or open it.

    Raises:
        RunError: it holds something else, or cannot be written.
    """
    mark = out / MARK
    if mark.exists():
        return
    try:
        is_new = not out.exists() or (out.is_dir() and all(name.startswith(".") for name in os.listdir(out)))
    except OSError as error:
        raise RunError(f"{out} cannot be read ({error.strerror}); choose another --out folder.") from None
    if not is_new:
        raise RunError(f"{out} holds something else than scans of a queue (no {MARK}); choose another --out folder.")
    write_atomic(mark, f'{{"schema": {SCHEMA}}}\n')


class _Work:
    """This process's part."""

    def __init__(
        self,
        entries: Sequence[Entry],
        out: Path,
        asked: Asked,
        limits: Limits,
        on_change: Callable[[Progress], None],
        part: tuple[int, int],
    ) -> None:
        self.left = shard(list(entries), *part)
        self.records: dict[str, Record] = {}
        self.elsewhere: set[str] = set()
        self._argument = {"out": str(out), "asked": asked.to_dict(), "limits": limits.to_dict(),
                          "queue": f"{os.getpid()}-{time.time_ns()}"}  # fmt: skip
        self._failed: list[Outcome] = []
        self._names = {entry.key: entry.name for entry in self.left}
        self._on_change, self._progress = on_change, Progress(len(self.left))

    def begins(self) -> None:
        """The work begins."""
        self._on_change(self._progress)

    def task(self, entry: Entry) -> Task:
        """What an executor is given of a model."""
        call = "baddiffusion.scan_queue.task:scan_entry"
        return Task(entry.key, call, {"entry": entry.to_dict(), **self._argument})

    def ended(self, outcome: Outcome) -> None:
        """Something became of a model."""
        self.elsewhere.discard(outcome.key)
        if outcome.status == "done" and outcome.value.get("elsewhere"):
            self.elsewhere.add(outcome.key)
            return
        if outcome.status == "done":
            record = self.records[outcome.key] = outcome.value["record"]
            self._progress.known += outcome.value["was_known"]
            self._progress.found += record["exit_code"] == 3
        else:
            self._failed.append(outcome)
        self._progress.done += 1
        self._on_change(self._progress)

    def check(self) -> None:
        """Say what went wrong outside of the scans themselves.

        Raises:
            RunError: something did.
        """
        if self._failed:
            first = self._failed[0]
            raise RunError(
                f"{len(self._failed)} of {len(self._names)} models have no record. The first is "
                f"{self._names[first.key]}: {first.error}"
            )

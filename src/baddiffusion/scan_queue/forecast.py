"""What a queue would still cost: who is known already, and how many network calls the others take at most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from baddiffusion.errors import CheckpointError
from baddiffusion.scan_queue.asking import Asked
from baddiffusion.scan_queue.contents import folder_digest
from baddiffusion.scan_queue.listing import Entry
from baddiffusion.scan_queue.store import Store, content_key

__all__ = ["Forecast", "forecast"]


@dataclass(frozen=True)
class Forecast:
    """What lies ahead.

    Args:
        models: of the list.
        contents: different contents among their folders.
        known: of these, scanned already.
        unread: models that cannot be read, or lie on the hub and are not looked at for a forecast.
        calls: network calls at most.
        seconds: for these on this machine, one after another.
    """

    models: int
    contents: int
    known: int
    unread: int
    calls: int
    seconds: float


def forecast(
    entries: Sequence[Entry], out: Path, asked: Asked, seconds_per_call: Callable[[Path], float | None]
) -> Forecast:
    """Count what a queue would do.

    Args:
        entries: the models.
        out: folder of the results.
        asked: the same for every model.
        seconds_per_call: how long the network in a folder takes for one picture; None where there is none to call.
    """
    store, folders, unread = Store(out), dict[str, Path](), 0
    for entry in entries:
        try:
            if entry.place is None:
                raise CheckpointError("on the hub")
            folders.setdefault(folder_digest(entry.place), entry.place)
        except CheckpointError:
            unread += 1
    left = [path for contents, path in folders.items() if not _is_known(store, contents, asked)]
    each = [seconds_per_call(path) if asked.budget else None for path in left]
    timed = [seconds for seconds in each if seconds is not None]
    return Forecast(
        len(entries), len(folders), len(folders) - len(left), unread, len(timed) * asked.budget,
        sum(timed, 0.0) * asked.budget,
    )  # fmt: skip


def _is_known(store: Store, contents: str, asked: Asked) -> bool:
    record = store.content(content_key(contents, asked.key))
    return record is not None and record["failed"] is None

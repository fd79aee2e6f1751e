"""One model of a queue, from its name to its record: what executors carry out, in whatever process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from baddiffusion.errors import CheckpointError, RunError
from baddiffusion.scan_queue.asking import Asked, Limits
from baddiffusion.scan_queue.contents import TooSlow, folder_digest
from baddiffusion.scan_queue.listing import Entry
from baddiffusion.scan_queue.store import SCHEMA, Record, Store, content_key
from baddiffusion.scan_queue.warm import Warm

__all__ = ["WARM", "scan_entry"]

WARM = Warm()
"""This process's own; it starts when a model is not known yet."""

EXAMINE, LOCATE = (f"baddiffusion.scan_queue.examining:{name}" for name in ("examine_model", "locate_model"))
LIMITED = {"time": "seconds", "memory": "memory"}
NOTHING_FOUND: Record = {
    "p_value": None, "alarms": [], "exit_code": 4, "weights": "", "network_calls": 0, "seconds": 0.0, "scan": "",
    "subject": "", "failed": None,
}  # fmt: skip
"""What a record says where there is no scan."""


def scan_entry(
    entry: dict[str, Any], out: str, asked: dict[str, Any], limits: dict[str, Any], queue: str
) -> dict[str, Any]:
    """See to it that there is a record of a model, and do no more for that than is needed.

    Args:
        entry: as `Entry` has it.
        out: folder of the queue.
        asked: as `Asked` has it.
        limits: as `Limits` has it.
        queue: name of this run of the queue: within one, what killed its process is not tried again.

    Returns:
        ``record``, ``was_known``; or ``elsewhere`` if another process works on the same bytes.

    Raises:
        RunError: the folder cannot be written, or the scanner here is another one than where the queue began.
    """
    work = _Entry(Entry.of(entry), Store(Path(out)), Asked.of(asked), Limits(**limits), queue)
    try:
        return work.done()
    except CheckpointError as error:
        return work.kept(work.unread(str(error)))
    except TooSlow as error:
        return work.kept(work.without_answer("time", str(error)))


class _Entry:
    def __init__(self, entry: Entry, store: Store, asked: Asked, limits: Limits, queue: str) -> None:
        self._entry, self._store, self._asked, self._limits, self._queue = entry, store, asked, limits, queue
        self._contents = self._revision = ""

    def done(self) -> dict[str, Any]:
        folder = self._located()
        self._contents = folder_digest(folder, self._limits.seconds)
        known = self._store.record(self._entry, self._contents)
        if known is not None and self._holds(known):
            self._store.touch(self._entry, self._contents)
            return {"record": known, "was_known": True}
        key = content_key(self._contents, self._asked.key)
        content = self._store.content(key)
        if content is not None and self._holds(content):
            return self.kept(content)
        with self._store.claim(key) as is_mine:
            if not is_mine:
                return {"elsewhere": True}
            content = self._store.content(key)  # finished by another between the look and the lock
            if content is not None and self._holds(content):
                return self.kept(content)
            return self._examined(folder, key)

    def kept(self, content: Record) -> dict[str, Any]:
        """Write the record of this model, and answer with it."""
        own = {"schema": SCHEMA, "name": self._entry.name, "revision": self._revision}
        shown_as = content["subject"] if content["subject"] != self._entry.name else ""
        record = {**own, **content, "contents": self._contents, "asked": self._asked.key, "shown_as": shown_as}
        self._store.write_record(self._entry, self._contents, record)
        return {"record": record, "was_known": False}

    def _examined(self, folder: Path, key: str) -> dict[str, Any]:
        argument = {"folder": str(folder), "subject": self._entry.name, "out": str(self._store.root),
                    "contents": self._contents, "asked": self._asked.to_dict()}  # fmt: skip
        answer = WARM.ask(EXAMINE, argument, self._limits.seconds, self._limits.memory)
        told = answer.get("value", {})
        if told.get("elsewhere"):
            return {"elsewhere": True}
        if "trouble" in told:
            raise RunError(told["trouble"])
        if "refused" in told:
            raise CheckpointError(told["refused"])
        if told.get("changed") or folder_digest(folder, self._limits.seconds) != self._contents:
            self._contents = ""
            return self.kept(self.without_answer("changed", "its files changed meanwhile"))
        content = {**NOTHING_FOUND, **told} if "failed" not in answer else self._failure(answer)
        content |= {"schema": SCHEMA, "asked": self._asked.key}
        self._store.write_content(key, content)
        return self.kept(content)

    def _located(self) -> Path:
        if self._entry.place is not None:
            return self._entry.place
        answer = WARM.ask(LOCATE, {"name": self._entry.written}, self._limits.seconds, self._limits.memory)
        told = answer.get("value", {"refused": answer.get("why")})
        if "refused" in told:
            raise CheckpointError(told["refused"])
        self._revision = told["revision"]
        return Path(told["folder"])

    def unread(self, why: str) -> Record:
        """What is said of a model that could not be read at all; the next run tries again."""
        self._contents = ""
        return {**NOTHING_FOUND, "outcome": "not examined", "reasons": [why]}

    def without_answer(self, how: str, why: str, signal: str | None = None, exit_code: int | None = None) -> Record:
        """What is said of a scan that did not end, which speaks neither for the model nor against it."""
        failed = {"how": how, "signal": signal, "exit_code": exit_code, "limits": self._limits.to_dict(),
                  "queue": self._queue}  # fmt: skip
        return {**NOTHING_FOUND, "outcome": "inconclusive", "reasons": [f"The scan did not end: {why}."],
                "failed": failed}  # fmt: skip

    def _failure(self, answer: dict[str, Any]) -> Record:
        return self.without_answer(answer["failed"], answer["why"], answer["signal"], answer["exit_code"])

    def _holds(self, record: Record) -> bool:
        """Whether a record still says what a scan would say now; a scan that did not end may deserve another try."""
        if record["asked"] != self._asked.key:
            return False
        failed = record["failed"]
        if failed is None:
            return self._store.holds(record["scan"])
        if failed["how"] in LIMITED:
            return not self._limits.allow_more(failed["limits"], LIMITED[failed["how"]])
        return failed["queue"] == self._queue

"""The folder of a queue: scans by content, and a record for each model and revision that points to one."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from baddiffusion.errors import RunError
from baddiffusion.rundir import write_atomic
from baddiffusion.scan_queue.listing import Entry

__all__ = ["JOURNAL", "ORIGIN", "RECORD", "SCHEMA", "Store", "content_key"]

SCHEMA = 1
SCANS, MODELS, CONTENTS, WORK, LOCKS = "scans", "models", "contents", ".work", ".locks"
JOURNAL = "journal.jsonl"
RECORD, ORIGIN = "scan.json", "origin.json"
"""Of each scan: what it found, and of which bytes it is and what was asked."""

Record = dict[str, Any]


def content_key(*parts: str) -> str:
    """Hash of hashes, as long as a file's name needs to be."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


class Store:
    """What stands where.

    ``scans/KEY/`` is one scan, moved there whole; ``contents/KEY.json`` says what came of a folder's content,
    ``models/NAME-HASH.CONTENT.json`` the same of a model and revision. A file that is there is finished.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def scan(self, name: str) -> Path:
        """The folder of a scan."""
        return self.root / SCANS / name

    def holds(self, name: str) -> bool:
        """Whether a scan is there, and nobody has taken parts of it away."""
        return all((self.scan(name) / file).exists() for file in (RECORD, ORIGIN))

    def work(self, name: str) -> Path:
        """Where a scan is made until it is whole; what a killed process left there belongs to whoever has the lock."""
        return self.root / WORK / name

    def content(self, key: str) -> Record | None:
        """What came of a content; None if nothing yet."""
        return self._read(self.root / CONTENTS / f"{key}.json")

    def write_content(self, key: str, record: Record) -> None:
        """Keep what came of a content.

        Raises:
            RunError: the folder cannot be written.
        """
        write_atomic(self.root / CONTENTS / f"{key}.json", _text(record))

    def record(self, entry: Entry, revision: str) -> Record | None:
        """What is known of a model at a revision; None if nothing is."""
        return self._read(self._place(entry, revision))

    def write_record(self, entry: Entry, revision: str, record: Record) -> None:
        """Keep what is known of a model at a revision; it is the one that the model has now.

        Raises:
            RunError: the folder cannot be written.
        """
        write_atomic(self._place(entry, revision), _text(record))

    def touch(self, entry: Entry, revision: str) -> None:
        """Say that this is the revision that the model has now."""
        os.utime(self._place(entry, revision))

    def newest(self) -> dict[str, Path]:
        """Path of the last record of each model, by the key of its entry."""
        found: dict[str, tuple[int, Path]] = {}
        folder = self.root / MODELS
        if not folder.is_dir():
            return {}
        for item in os.scandir(folder):
            key = item.name.rsplit(".", 2)[0]
            written = item.stat().st_mtime_ns
            if item.name.endswith(".json") and not item.name.startswith(".") and written > found.get(key, (-1,))[0]:
                found[key] = (written, Path(item.path))
        return {key: path for key, (_, path) in found.items()}

    def read(self, path: Path) -> Record | None:
        """A record by its path; None if it is damaged or of another version."""
        return self._read(path)

    @contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Hold a key for as long as the block runs; the system lets go of it when the process ends, however it ends.

        Yields:
            False if another process holds it.

        Raises:
            RunError: the folder cannot be written, or its file system has no locks.
        """
        path = self.root / LOCKS / key
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise RunError(f"{self.root} cannot be written ({error.strerror}); choose another --out folder.") from None
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            except OSError as error:
                raise RunError(f"{path} cannot be locked ({error.strerror}); choose another --out folder.") from None
            yield True
        finally:
            os.close(descriptor)

    def note(self, event: Mapping[str, Any]) -> None:
        """Add a line to the journal: what was begun and ended, by whichever process."""
        line = json.dumps(dict(event), ensure_ascii=False) + "\n"
        descriptor = os.open(self.root / JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)

    def _place(self, entry: Entry, revision: str) -> Path:
        return self.root / MODELS / f"{entry.key}.{revision[:12] or 'unread'}.json"

    def _read(self, path: Path) -> Record | None:
        try:
            record = json.loads(path.read_bytes())
            return record if record["schema"] == SCHEMA else None
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, KeyError, TypeError):
            return None


def _text(record: Record) -> str:
    return json.dumps(record, indent=1, ensure_ascii=False) + "\n"

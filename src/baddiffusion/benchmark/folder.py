"""The folder of a benchmark: which cells there are, what each measured, and why one did not."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from baddiffusion.benchmark.cells import BenchCell
from baddiffusion.benchmark.subjects import Subjects, told
from baddiffusion.errors import RunError
from baddiffusion.matrix.store import Shelf
from baddiffusion.rundir import write_atomic

__all__ = ["RECORD", "SCHEMA", "BenchDir", "hold"]

SCHEMA = 1
RECORD = "bench.json"


@dataclass(frozen=True)
class BenchDir:
    """``bench.json``, and beside it ``cells/``, ``failures/`` and ``before/``.

    The record lists what was planned, by all commands that used the folder. A cell is done when its own file is there.

    Args:
        path: the folder.
        record: ``bench.json`` as it was when it was read.
    """

    path: Path
    record: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> BenchDir:
        """Open the folder of a benchmark.

        Raises:
            RunError: it is none, it is damaged, or another version wrote it.
        """
        file = path / RECORD
        try:
            record = json.loads(file.read_text())
            schema, _ = record["schema"], [record[key] for key in ("models", "contenders", "cells")]
        except (FileNotFoundError, NotADirectoryError):
            raise RunError(f"{path} is no benchmark (no {RECORD}); make one: baddiffusion bench --zoo zoo") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{file} is damaged ({error}); remove it, and the same command makes it again.") from None
        if schema != SCHEMA:
            raise RunError(f"{file} has schema {schema}; this version reads {SCHEMA}. Take another folder with -o.")
        return cls(path, record)

    @classmethod
    def plan(
        cls, path: Path, subjects: Subjects, cells: Sequence[BenchCell], zoos: Sequence[Path], short: bool
    ) -> BenchDir:
        """Add cells to a folder, making it if it is new. What others planned there stays.

        Raises:
            RunError: the folder holds the same label with other settings, or a model in another split; or it cannot be
                written.
        """
        with hold(path, ".lock") as mine:
            assert mine is not None
            known = cls.read(path).record if (path / RECORD).exists() else _empty()
            for cell in cells:
                _add(known["contenders"], cell.contender.label, cell.contender.to_dict(), path)
                entry = {**cell.to_dict(), "command": cell.command(zoos, short)}
                known["cells"].setdefault(cell.name, entry)
            for specimen in subjects.judged:
                _add(known["models"], specimen.digest, told(specimen), path)
            known["failed_implants"] |= {one.digest: told(one) for one in subjects.failed}
            write_atomic(path / RECORD, json.dumps(known, indent=1, ensure_ascii=False) + "\n")
        return cls(path, known)

    @property
    def shelf(self) -> Shelf:
        """Where the cells lie."""
        return Shelf(self.path / "cells")

    @cached_property
    def results(self) -> list[dict[str, Any]]:
        """What the finished cells measured, in the order of their planning.

        Raises:
            RunError: a file is damaged.
        """
        return [found for name in self.record["cells"] if (found := self._read(f"cells/{name}.json")) is not None]

    @cached_property
    def failures(self) -> list[dict[str, Any]]:
        """Cells that failed: name, label, model, seed, error, and the file with the traceback."""
        done = {found["name"] for found in self.results}
        entries = ((name, entry) for name, entry in self.record["cells"].items() if name not in done)
        return [{**entry, **found} for name, entry in entries if (found := self._read(f"failures/{name}.json"))]

    @property
    def missing(self) -> list[dict[str, Any]]:
        """Cells that are planned, and neither done nor failed."""
        told_of = {found["name"] for found in (*self.results, *self.failures)}
        return [entry for name, entry in self.record["cells"].items() if name not in told_of]

    def fail(self, name: str, error: str, traceback: str | None) -> None:
        """Keep why a cell failed; its traceback stands in a file of its own."""
        if traceback is not None:
            write_atomic(self.path / "failures" / f"{name}.txt", traceback)
        file = f"failures/{name}.txt" if traceback is not None else None
        write_atomic(self.path / "failures" / f"{name}.json", json.dumps({"error": error, "traceback": file}) + "\n")

    def forgive(self, name: str) -> None:
        """Forget an earlier failure of a cell."""
        for ending in ("json", "txt"):
            (self.path / "failures" / f"{name}.{ending}").unlink(missing_ok=True)

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            return json.loads((self.path / name).read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise RunError(f"{self.path / name} is damaged ({error}); delete it, and it is made again.") from None


@contextmanager
def hold(folder: Path, name: str, *, wait: bool = True) -> Iterator[IO[str] | None]:
    """Hold a file of a folder against other processes; None if another holds it and nobody waits.

    Raises:
        RunError: the folder cannot be written.
    """
    path = folder / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a")  # noqa: SIM115 - closed below; its own errors are told apart from the block's
    except OSError as error:
        raise RunError(f"{folder} cannot be written ({error.strerror}); choose another folder with -o.") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield None
            return
        except OSError:  # a file system without locks: each file still appears whole
            pass
        try:
            yield file
        finally:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_UN)


def _empty() -> dict[str, Any]:
    fresh: dict[str, Any] = {"schema": SCHEMA, "version": metadata.version("baddiffusion")}
    return {**fresh, "models": {}, "failed_implants": {}, "contenders": {}, "cells": {}}


def _add(known: dict[str, Any], key: str, value: Mapping[str, Any], path: Path) -> None:
    """Plain values, as JSON gives them back."""
    plain = json.loads(json.dumps(value))
    if known.setdefault(key, plain) != plain:
        raise RunError(
            f"{path} knows {plain.get('name', key)} otherwise than it is now: other settings, or another split. "
            f"Results of both cannot stand in one table; take another folder with -o."
        )

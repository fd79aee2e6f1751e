"""The folder of a sweep: which cells there are, and what is known of each. It is told by their run directories."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baddiffusion.errors import RunError
from baddiffusion.rundir import RunDir, write_atomic
from baddiffusion.sweep.cells import Sweep

__all__ = ["STATUSES", "SweepDir", "cell_state"]

SCHEMA = 1
STATUSES = ("waiting", "running", "done", "failed", "lost")

Entry = dict[str, Any]


@dataclass(frozen=True)
class SweepDir:
    """``sweep.toml`` and ``sweep.json`` of a sweep; its cells' run directories lie beside its folder.

    What ``sweep.json`` says of a cell is a copy, for whoever wants to see all cells at once; a cell is done when its
    own ``run.json`` says so.

    Args:
        path: the sweep's folder.
        record: ``sweep.json`` as it was when it was read or written.
    """

    path: Path
    record: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> SweepDir:
        """Open an existing sweep.

        Raises:
            RunError: there is none, its record is damaged, or it was written by another schema.
        """
        file = path / "sweep.json"
        try:
            record = json.loads(file.read_text())
            schema = record["schema"]
            _ = schema != SCHEMA or [(entry["key"], entry["status"]) for entry in record["cells"]]
        except (FileNotFoundError, NotADirectoryError):
            raise RunError(
                f"{path} is not the folder of a sweep (no sweep.json); give one that `baddiffusion sweep` made."
            ) from None
        except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise RunError(
                f"{file} is damaged ({error}); remove it, and start the sweep again: no cell is lost."
            ) from None
        if schema != SCHEMA:
            raise RunError(
                f"{file} has schema {schema}; this version reads schema {SCHEMA}. Remove it and start the sweep again."
            )
        return cls(path, record)

    @classmethod
    def start(cls, runs: Path, sweep: Sweep, told: Mapping[str, Entry]) -> SweepDir:
        """Make the folder of a sweep, or open it.

        Args:
            runs: folder that holds run directories.
            sweep: what it is about.
            told: what is known of the cells that this process answers for, by key.

        Raises:
            RunError: the folder cannot be written, or its record cannot be read.
        """
        path = runs / f"{sweep.name}-{sweep.digest}"
        fresh = {"schema": SCHEMA, "name": sweep.name, "digest": sweep.digest, "varied": list(sweep.varied)}
        cells = [{"key": cell.key, "settings": cell.settings, "seed": cell.recipe.seed} for cell in sweep.cells]
        with _locked(path):
            if not (path / "sweep.toml").exists():
                write_atomic(path / "sweep.toml", sweep.text)
            if (path / "sweep.json").exists():
                known = {entry["key"]: entry for entry in cls.read(path).cells}
            else:
                known = {cell.key: cell_state(runs, cell.key) for cell in sweep.cells if cell.key not in told}
            return cls(path, {**fresh, "cells": [cell | _known(known, cell, told) for cell in cells]})._written()

    @property
    def cells(self) -> tuple[Entry, ...]:
        """What is known of each cell: key, settings, seed, status, error and the file with the traceback."""
        return tuple(self.record["cells"])

    @property
    def counts(self) -> dict[str, int]:
        """How many cells are waiting, running, done, failed and lost."""
        return {status: sum(cell["status"] == status for cell in self.cells) for status in STATUSES}

    def updated(self, told: Mapping[str, Entry]) -> SweepDir:
        """Write what is known now of the cells that this process answers for; of others, what they wrote stays.

        Jobs of one array share the file: each reads and writes it under a lock.

        Raises:
            RunError: the file is damaged, or the folder cannot be written.
        """
        with _locked(self.path):
            record = SweepDir.read(self.path).record
            cells = [cell | told.get(cell["key"], {}) for cell in record["cells"]]
            return SweepDir(self.path, {**record, "cells": cells})._written()

    def _written(self) -> SweepDir:
        write_atomic(self.path / "sweep.json", json.dumps(self.record, indent=1, ensure_ascii=False) + "\n")
        return self


def cell_state(runs: Path, key: str) -> Entry:
    """What a cell's own run directory says of it. Only its record is read: no output is hashed.

    Returns:
        ``status`` and ``error``, as they stand in ``sweep.json``. A training without measurements is not done; a run
        that was killed says *running* until it is taken up again.
    """
    path = runs / key
    if not (path / "run.json").exists():
        return _entry("waiting")
    try:
        record = RunDir.read(path).record
    except RunError as error:  # of another schema, or damaged: for this cell alone
        return _entry("failed", str(error))
    status = record.get("status")
    if status == "done" and "evaluate" in record["stages"]:
        return _entry("done")
    if status == "failed":
        return _entry("failed", record.get("error"))
    return _entry("running" if status == "running" else "waiting")


def _entry(status: str, error: str | None = None, traceback: str | None = None) -> Entry:
    return {"status": status, "error": error, "traceback": traceback}


def _known(known: Mapping[str, Entry], cell: Entry, told: Mapping[str, Entry]) -> Entry:
    entry = told.get(cell["key"]) or known.get(cell["key"], _entry("waiting"))
    return {name: entry.get(name) for name in ("status", "error", "traceback")}


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait for the other jobs of an array; where a file system has no locks, each file still appears whole."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = open(path / ".lock", "a")  # noqa: SIM115 - closed below; its own errors are told apart from the block's
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error.strerror}); choose another --runs folder.") from None
    with file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield

"""The run directory: identity, stages, and files that appear whole or not at all."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from baddiffusion.errors import RunError

__all__ = ["EventLog", "RunDir", "file_digest", "write_atomic"]

SCHEMA = 1
PACKAGES = ("baddiffusion", "torch", "diffusers", "accelerate", "torchmetrics", "numpy")


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write to a temporary name, flush, rename: readers see the old file or the new one.

    Raises:
        RunError: the disk is full or the folder cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    # On a disk that machines share, two processes can have one number.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):  # where the folder itself is the trouble, there is nothing to remove
            temporary.unlink()
        raise RunError(f"{path} could not be written ({error.strerror}); make room or choose another folder.") from None


def file_digest(path: Path) -> str:
    """blake2b of a file, or of every file below a folder with its name, 16 hex digits."""
    hasher = hashlib.blake2b(digest_size=8)
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        hasher.update(str(file.relative_to(path) if path.is_dir() else file.name).encode())
        with open(file, "rb") as opened:
            while block := opened.read(1 << 20):
                hasher.update(block)
    return hasher.hexdigest()


class RunDir:
    """One run on disk. A stage is done when its digests stand in ``run.json``, not when a folder exists."""

    def __init__(self, path: Path, record: dict[str, Any]) -> None:
        self.path = path
        self.record = record

    @classmethod
    def start(cls, root: Path, name: str, identity: str, recipe_toml: str) -> RunDir:
        """Open ``root/name-identity``, making it if it is new; the identity is the hash of the resolved recipe.

        Raises:
            RunError: the folder holds another recipe, a newer schema, or is not a run at all; or another process works
                on it.
        """
        path = root / f"{name}-{identity}"
        recipe_file = path / "recipe.toml"
        if not path.exists() or _is_empty(path):
            write_atomic(recipe_file, recipe_toml)
        elif not recipe_file.exists():
            raise RunError(
                f"{path} exists but is not a run (no recipe.toml); move it away or choose another --runs folder."
            )
        elif recipe_file.read_text() != recipe_toml:
            raise RunError(f"{recipe_file} was edited after the run was made; move {path} away and start again.")
        with _locked(path):  # else the record of a process at work would be written over
            run = cls.read(path) if (path / "run.json").exists() else cls(path, {"schema": SCHEMA, "stages": {}})
            # A run that is taken up again keeps the command and the versions that it was made with.
            run.record = {**_circumstances(), **run.record, "name": name, "identity": identity}
            run._set_status("running")
        return run

    @classmethod
    def read(cls, path: Path) -> RunDir:
        """Open an existing run.

        Raises:
            RunError: there is no run, its record is damaged, or it was written by another schema.
        """
        file = path / "run.json"
        try:
            record = json.loads(file.read_text())
            schema, _ = record["schema"], record["stages"].items()
        except (FileNotFoundError, NotADirectoryError):
            raise RunError(
                f"{path} is not a run directory (no run.json); give a folder that `baddiffusion run` made."
            ) from None
        except (json.JSONDecodeError, AttributeError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise RunError(f"{file} is damaged ({error}); delete the run and start it again.") from None
        if schema != SCHEMA:
            raise RunError(f"{file} has schema {schema}; this version reads schema {SCHEMA}. Start the run again.")
        return cls(path, record)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Mark the run as done, interrupted or failed when the block ends; every exception goes on.

        The run is locked meanwhile: two processes in one folder would write over each other's files.

        Raises:
            RunError: another process works on this run; its record is left alone.
        """
        with _locked(self.path):
            self.record["stages"] = RunDir.read(self.path).record["stages"]  # finished by others since it was opened
            try:
                yield
            except KeyboardInterrupt:
                self._set_status("interrupted")
                raise
            except Exception as error:
                self._set_status("failed", f"{type(error).__name__}: {error}")
                raise
            self._set_status("done")

    def is_done(self, stage: str, inputs: Mapping[str, Any]) -> bool:
        """True if the stage finished on these very inputs and its outputs are still what they were.

        Raises:
            RunError: it finished on other inputs, or an output was changed or removed since.
        """
        entry = self.record["stages"].get(stage)
        if entry is None:
            return False
        if entry["inputs"] != dict(inputs):
            raise RunError(
                f"stage {stage} of {self.path} was made from other inputs; nothing is overwritten. Start a new run."
            )
        for name, digest in entry["outputs"].items():
            if not (self.path / name).exists() or file_digest(self.path / name) != digest:
                raise RunError(f"{self.path / name} was changed or removed after the run wrote it; start a new run.")
        return True

    def finish(self, stage: str, inputs: Mapping[str, Any], outputs: list[Path], elapsed_s: float) -> None:
        """Record a finished stage with the digests of what it read and wrote."""
        digests = {str(p.relative_to(self.path)): file_digest(p) for p in outputs}
        self.record["stages"][stage] = {
            "inputs": dict(inputs),
            "outputs": digests,
            "elapsed_s": round(elapsed_s, 2),
            "finished": _now(),
        }
        self._write()

    def _set_status(self, status: str, error: str | None = None) -> None:
        self.record |= {"status": status, "error": error, "updated": _now()}
        self._write()

    def _write(self) -> None:
        write_atomic(self.path / "run.json", json.dumps(self.record, indent=2, sort_keys=True) + "\n")


def _is_empty(path: Path) -> bool:
    """True for a folder with nothing but temporary files in it: a run that was killed before its first file stood."""
    return path.is_dir() and all(p.name.startswith(".") for p in path.iterdir())


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a run; the system lets go of it when the process ends, however it ends.

    The file stays where it is: removing it could take it from under a process that has just opened it.
    """
    try:
        descriptor = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error.strerror}); choose another --runs folder.") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(f"another process is working on {path}; wait for it, or stop it.") from None
        except OSError as error:  # a network file system without locks
            raise RunError(f"{path} cannot be locked ({error.strerror}); choose another --runs folder.") from None
        yield
    finally:
        os.close(descriptor)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _circumstances() -> dict[str, Any]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "argv": ["baddiffusion", *sys.argv[1:]],
        "started": _now(),
        "git_commit": _git_commit(),
        "versions": versions,
    }


def _git_commit() -> str | None:
    """The commit of the checkout that the code runs from, if it runs from one."""
    here = Path(__file__).resolve().parent
    try:
        answer = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "--short=12", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


class EventLog:
    """``events.jsonl``: one line per logged step. A resumed training first drops the lines that it will write again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened = False

    def append(self, event: Mapping[str, Any]) -> None:
        """Add one event; it must have a ``step``."""
        if not self._opened:
            write_atomic(self.path, "".join(f"{json.dumps(e)}\n" for e in self.read() if e["step"] < event["step"]))
            self._opened = True
        with open(self.path, "a") as file:
            file.write(json.dumps(dict(event)) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """All events; a last line that was cut off in the middle is left out."""
        if not self.path.exists():
            return []
        events = []
        for line in self.path.read_text().splitlines():
            try:
                events.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return events

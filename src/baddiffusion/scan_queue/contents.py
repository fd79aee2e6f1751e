"""What a folder holds, as one hash: names, kinds and bytes, however it is called and wherever it lies."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from baddiffusion.errors import CheckpointError, RunError

__all__ = ["TooSlow", "folder_digest"]

MOST_ENTRIES = 20_000
"""As many as a scan looks at; of a folder with more the network is not examined at all."""

BLOCK = 1 << 20

_known: dict[tuple[int, ...], str] = {}
"""Digest of a file by device, inode, size and times, for as long as this process lives."""


class TooSlow(RunError):
    """There was more to read than there was time."""


def folder_digest(folder: Path, limit_s: float | None = None) -> str:
    """sha256 over all that lies in a folder. Nothing but regular files is opened, no link is followed out of it.

    Of a link that leads to a file of the folder, or into the hub's cache beside it, the bytes count as well.

    Args:
        folder: which.
        limit_s: how long it may take.

    Raises:
        CheckpointError: it is no folder, or may not be read.
        TooSlow: it took longer.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        ...     (Path(one) / "a").touch(), (Path(other) / "b").touch()
        ...     folder_digest(Path(one)) == folder_digest(Path(other))
        (None, None)
        False
    """
    deadline = None if limit_s is None else time.monotonic() + limit_s
    try:
        root = folder.resolve(strict=True)
        os.listdir(root)
    except (OSError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or "a link that leads in a circle"
        raise CheckpointError(f"the folder cannot be read ({why})") from None
    hasher = hashlib.sha256()
    for count, (name, path) in enumerate(_walk(str(root))):
        if count == MOST_ENTRIES:
            hasher.update(b"and more")
            break
        hasher.update(f"{len(name)} {name} {_entry(path, root, deadline)}\n".encode(errors="surrogateescape"))
    return hasher.hexdigest()


def _walk(root: str) -> Iterator[tuple[str, str]]:
    """(name from the root, path) of everything below it; what lies in one folder in the order of the names."""
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            names = sorted(os.listdir(os.path.join(root, folder)))
        except OSError:
            yield folder, os.path.join(root, folder)
            continue
        for name in names:
            inner = os.path.join(folder, name)
            path = os.path.join(root, inner)
            yield inner, path
            if os.path.isdir(path) and not os.path.islink(path):
                folders.append(inner)


def _entry(path: str, root: Path, deadline: float | None) -> str:
    """What one entry is, in words and hashes."""
    try:
        status = os.lstat(path)
        if stat.S_ISDIR(status.st_mode):
            return "folder"
        if stat.S_ISREG(status.st_mode):
            return f"file {_file_digest(path, status, deadline)}"
        if stat.S_ISLNK(status.st_mode):
            return f"link {os.readlink(path)} {_behind(path, root, deadline)}"
    except OSError as error:
        return f"unreadable {error.errno}"
    return "special"


def _behind(path: str, root: Path, deadline: float | None) -> str:
    """The bytes that a link leads to, if a scan would read them."""
    try:
        target = Path(path).resolve(strict=True)
        status = os.stat(target)
    except (OSError, RuntimeError):
        return "nowhere"
    allowed = [root, root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [root]
    if not stat.S_ISREG(status.st_mode) or not any(target.is_relative_to(folder) for folder in allowed):
        return "elsewhere"
    return _file_digest(str(target), status, deadline)


def _file_digest(path: str, status: os.stat_result, deadline: float | None) -> str:
    key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if key not in _known:
        hasher = hashlib.sha256()
        with open(path, "rb", buffering=0) as file:
            while block := file.read(BLOCK):
                hasher.update(block)
                if deadline is not None and time.monotonic() > deadline:
                    raise TooSlow("reading its files took longer than the time limit")
        _known[key] = hasher.hexdigest()
    return _known[key]

"""Reading files that a stranger wrote: regular, inside the folder, small enough, and plain JSON."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from baddiffusion.errors import CheckpointError

__all__ = ["JSON_LIMIT_BYTES", "find_file", "parse_object", "read_json", "require_folder"]

JSON_LIMIT_BYTES = 1 << 20


def require_folder(path: Path) -> Path:
    """Return the folder with every symlink resolved.

    Raises:
        CheckpointError: it does not exist, is a file, or may not be entered.
    """
    try:
        if not path.exists():
            raise CheckpointError(f"{path} does not exist; give the folder of a diffusers checkpoint.")
        if not path.is_dir():
            raise CheckpointError(f"{path} is a file; give the folder that holds the checkpoint.")
        os.listdir(path)
        return path.resolve()
    except PermissionError:
        raise CheckpointError(f"{path} may not be read; check its permissions.") from None


def find_file(root: Path, name: str) -> Path | None:
    """Return ``root/name`` if it is there and safe to open, None if it is not there.

    A link may point anywhere inside the folder. In the Hugging Face cache every file of ``snapshots/<revision>`` links
    to the ``blobs`` folder beside it; that one is allowed too.

    Args:
        root: the checkpoint folder, resolved.
        name: a path relative to it.

    Raises:
        CheckpointError: a link leaves the folder, or the thing is no regular file, or it may not be read.
    """
    path = root / name
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CheckpointError(f"{path} may not be read ({error.strerror}); check its permissions.") from None
    try:
        target = path.resolve(strict=True)
        mode = os.stat(target).st_mode
    except (OSError, RuntimeError):
        raise CheckpointError(f"{path} is a link that leads nowhere; download the checkpoint again.") from None
    allowed = [root, root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [root]
    if not any(target.is_relative_to(folder) for folder in allowed):
        raise CheckpointError(
            f"{path} is a link out of the checkpoint folder, to {target}; it was not read. Put the file itself there."
        )
    if not stat.S_ISREG(mode):
        raise CheckpointError(f"{path} is not a regular file; it was not read. Put the real file there.")
    return path


def read_json(root: Path, name: str) -> dict[str, Any]:
    """Read a JSON object of the checkpoint.

    Raises:
        CheckpointError: the file is missing, too large, may not be read, or is not one JSON object.
    """
    path = find_file(root, name)
    if path is None:
        raise CheckpointError(f"{root / name} is missing; download the checkpoint again, with all its JSON files.")
    try:
        with open(path, "rb") as file:
            data = file.read(JSON_LIMIT_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"{path} may not be read ({error.strerror}); check its permissions.") from None
    if len(data) > JSON_LIMIT_BYTES:
        raise CheckpointError(
            f"{path} is larger than {JSON_LIMIT_BYTES} bytes, too large for a configuration; it was not parsed. "
            f"Restore the original file."
        )
    return parse_object(data, str(path))


def parse_object(data: bytes, where: str) -> dict[str, Any]:
    """Parse one JSON object; strictly, since two readers that disagree about a file are a way to hide in it.

    Raises:
        CheckpointError: it is not JSON, not an object, names a key twice, or holds NaN or infinity.
    """
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise CheckpointError(f"{where} is not valid JSON ({reason}); restore the original file.") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} holds a JSON {type(value).__name__}; it must hold an object.")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(n for n in names if names.count(n) > 1)!r} stands there twice")
    return values

"""``pulled.json``: what was pulled, at which commit, with the hash of every file; beside the files, or as a lock."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from baddiffusion.checkpoint.files import find_file, read_json
from baddiffusion.errors import CheckpointError, RecipeError
from baddiffusion.hub.client import NAME
from baddiffusion.hub.names import is_part
from baddiffusion.settings import Settings

__all__ = ["COMMIT", "RECORD", "SHA256", "PulledRecord", "file_sha256"]

RECORD = "pulled.json"
COMMIT = r"[0-9a-f]{40}"
SHA256 = r"[0-9a-f]{64}"


class PulledRecord(Settings):
    """What a pull left beside the files, so that a second one can tell whether they are still the same bytes.

    Args:
        schema_version: of the file's format.
        name: ``owner/name``.
        commit: the one that was pulled, whatever branch or tag was asked for.
        pulled_at: when, UTC, ISO 8601.
        files: path in the repository → sha256.
    """

    schema_version: Literal[1] = 1
    name: Annotated[str, Field(pattern=f"^{NAME}$")]
    commit: Annotated[str, Field(pattern=f"^{COMMIT}$")]
    pulled_at: str
    files: Annotated[dict[str, Annotated[str, Field(pattern=f"^{SHA256}$")]], Field(min_length=1)]

    @classmethod
    def read(cls, file: Path) -> PulledRecord:
        """Read a record, one's own or a lock from elsewhere.

        Raises:
            CheckpointError: it is missing, damaged, or names files that are never pulled.
        """
        try:
            record = cls(**read_json(file.parent.resolve(), file.name))
        except RecipeError as error:
            raise CheckpointError(f"{file} is not a record of a pull: {error} Pull into another folder.") from None
        foreign = [name for name in record.files if not is_part(name)]
        if foreign:
            raise CheckpointError(
                f"{file} names {foreign[0]!r}, which no pull writes: only JSON, safetensors and README.md. Pull into "
                f"another folder."
            )
        return record

    def to_json(self) -> str:
        """The file's text."""
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"

    def check(self, folder: Path) -> None:
        """Compare a folder with the record, byte for byte.

        Raises:
            CheckpointError: a file is missing, differs (both hashes are named), or one that would be read was added.
        """
        root = folder.resolve()
        for name, expected in self.files.items():
            path = find_file(root, name)
            if path is None:
                raise CheckpointError(f"{folder / name} is missing, but {RECORD} names it; {_AGAIN}")
            if (found := file_sha256(path)) != expected:
                raise CheckpointError(
                    f"{folder / name} has sha256 {found}, but {expected} was pulled: it was changed since; {_AGAIN}"
                )
        present = (Path(parent, name) for parent, _, names in os.walk(root) for name in names)
        added = sorted({path.relative_to(root).as_posix() for path in present} - set(self.files))
        if loadable := [name for name in added if is_part(name)]:
            raise CheckpointError(f"{folder / loadable[0]} was added since the pull; {_AGAIN}")


_AGAIN = "delete the folder and pull again."


def file_sha256(path: Path) -> str:
    """sha256 of a file, as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

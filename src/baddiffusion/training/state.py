"""The state that resuming needs: one safetensors file, replaced in one move."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from baddiffusion.errors import RunError

__all__ = ["TrainingState", "require_space"]

FILE_NAME = "state.safetensors"


@dataclass(eq=False)
class TrainingState:
    """Network, optimizer and average after ``step`` optimizer steps. Adam's moments are named after the parameter."""

    step: int
    identity: str
    tensors: dict[str, Tensor]

    def save(self, folder: Path) -> None:
        """Write beside the old state, flush, and rename over it: a reader sees the old one or the new one.

        Raises:
            RunError: the disk is full or the folder cannot be written; the old state is still there.
        """
        # A folder of its own: safetensors writes to a temporary file beside its target, and a kill leaves that behind.
        temporary, final = folder / f".{FILE_NAME}.{os.getpid()}", folder / FILE_NAME
        metadata = {"step": str(self.step), "identity": self.identity}
        try:
            for abandoned in folder.glob(f".{FILE_NAME}.*"):
                shutil.rmtree(abandoned, ignore_errors=True)
            temporary.mkdir(parents=True)
            written = temporary / FILE_NAME
            save_file({k: v.detach().cpu().contiguous() for k, v in self.tensors.items()}, written, metadata)
            with open(written, "rb") as opened:
                os.fsync(opened.fileno())
            os.replace(written, final)
            temporary.rmdir()
        except (OSError, SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise RunError(
                f"the training state could not be written to {folder} ({error}). The state before it is kept: "
                f"make room and start the same command again."
            ) from None

    @classmethod
    def load(cls, folder: Path, identity: str) -> TrainingState | None:
        """Read the state back, or None if there is none.

        Raises:
            RunError: the file is damaged, or belongs to another training.
        """
        path = folder / FILE_NAME
        if not path.exists():
            return None
        with _reading(path) as stored:
            metadata = stored.metadata() or {}
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118
        if metadata.get("identity") != identity:
            raise RunError(
                f"{path} belongs to a training with other settings, data or starting weights; "
                f"use another output folder, or delete it to train from the start."
            )
        return cls(int(metadata["step"]), identity, tensors)

    @staticmethod
    def reached(folder: Path) -> int:
        """The step of the state that lies there, read from the file's header alone; 0 if there is none.

        Raises:
            RunError: the file is damaged.
        """
        path = folder / FILE_NAME
        if not path.exists():
            return 0
        with _reading(path) as stored:
            return int((stored.metadata() or {}).get("step", 0))


@contextmanager
def _reading(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as stored:
            yield stored
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} is damaged ({error}); delete it to train from the start.") from None


def require_space(folder: Path, model: torch.nn.Module, snapshots: int = 0) -> None:
    """Find a full disk or an unwritable folder before the work, not after it.

    Raises:
        RunError: the folder cannot be written, or holds less than two states, a checkpoint and the snapshots need.
    """
    probe = folder / f".probe.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"\0" * 4096)
        probe.unlink()
        available = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    except OSError as error:
        with suppress(OSError):
            probe.unlink()
        raise RunError(f"{folder} cannot be written ({error}); choose another output folder.") from None
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    needed = (10 + snapshots) * weights
    if available < needed:
        raise RunError(
            f"{folder} has {available / 1e6:.0f} MB left; this training writes up to {needed / 1e6:.0f} MB. "
            f"Make room or choose another output folder."
        )

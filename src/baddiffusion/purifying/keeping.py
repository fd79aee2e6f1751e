"""The repaired model as a folder that appears whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from baddiffusion.checkpoint import Checkpoint
from baddiffusion.defending import keep
from baddiffusion.errors import CheckpointError, RecipeError
from baddiffusion.images import Images, grid, png_bytes, to_uint8
from baddiffusion.purifying.purification import Purification
from baddiffusion.rundir import write_atomic

__all__ = ["PICTURES", "RECEIPT", "keep_purified", "receipt_schema", "staged"]

RECEIPT = "receipt.json"
PICTURES = ("recovered-shift", "recovered-picture", "shifted-before", "shifted-after", "plain-before", "plain-after")
"""Pictures of a receipt, by the names of their files: what was added, what came out, the same noises before and after.
Ordinary ones before and after are from different noises."""

SHOWN, COLUMNS = 16, 8


@contextmanager
def staged(folder: Path, model: Path) -> Generator[Path, None, None]:
    """A folder to fill beside its place, which it takes when all went well; else nothing is left.

    Args:
        folder: the place; nothing may be there.
        model: the folder of the model that is repaired.

    Raises:
        CheckpointError: the place is taken, or cannot be written.
        RecipeError: the place is the model's own folder, or lies in it.
    """
    if folder.resolve().is_relative_to(model.resolve()):
        raise RecipeError(f"{folder} lies in the folder of the model itself, which is left as it is; choose another.")
    if os.path.lexists(folder):
        raise CheckpointError(f"{folder} exists; nothing is overwritten. Choose another folder, or delete that one.")
    temporary = folder.with_name(f".{folder.name}.purified-{os.getpid()}")
    try:
        temporary.mkdir(parents=True)  # found out before the work
        temporary.rmdir()
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be written ({error.strerror}); choose another folder.") from None
    try:
        yield temporary
        if temporary.exists():
            _take(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def keep_purified(opened: Checkpoint, done: Purification, folder: Path) -> Checkpoint:
    """Write the repaired model with its card, ``receipt.json`` and the pictures of the receipt.

    Args:
        opened: the model as it came.
        done: what became of it.
        folder: does not exist yet.

    Returns:
        The checkpoint, opened.

    Raises:
        CheckpointError: the folder cannot be written, or a weight is not finite.
        RunError: likewise.
    """
    assert done.after is not None
    kept = keep(opened, done.repaired, folder, (*done.after.estimates, *done.score_after), pictures(done))
    text = json.dumps(done.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(folder / RECEIPT, text)
    return kept


def receipt_schema() -> dict[str, Any]:
    """The JSON schema of ``receipt.json``."""
    return json.loads((resources.files("baddiffusion.purifying") / "receipt.schema.json").read_text(encoding="utf-8"))


def _take(temporary: Path, folder: Path) -> None:
    try:
        os.rename(temporary, folder)
    except OSError as error:
        raise CheckpointError(
            f"{folder} could not be written ({error.strerror}); choose a folder that does not exist and can be written."
        ) from None


def pictures(done: Purification) -> dict[str, bytes]:
    """File name → PNG: of the first finding whose picture is known, under the sampler family that it fired under."""
    drawn: dict[str, Images] = {}
    if done.before is None or done.after is None:
        return {}
    shown = next(((i, f) for i, f in enumerate(done.suspicion.findings) if f.target is not None), None)
    if shown is not None:
        index, found = shown
        assert found.target is not None
        drawn["recovered-shift"] = found.for_measuring.mean(dim=0, keepdim=True).clamp(-1, 1)
        drawn["recovered-picture"] = found.target[None]
        drawn["shifted-before"] = done.before.images[f"finding.{index}.{found.family}"]
        drawn["shifted-after"] = done.after.images[f"finding.{index}.{found.family}"]
    drawn |= {"plain-before": done.before.images["ordinary"], "plain-after": done.after.images["ordinary"]}
    return {f"{name}.png": _png(images) for name, images in drawn.items()}


def _png(images: Images) -> bytes:
    """Grey for one channel, color for three, otherwise the first channel."""
    seen: torch.Tensor = images if images.shape[1] in (1, 3) else images[:, :1]
    return png_bytes(grid(to_uint8(seen[:SHOWN]), columns=min(COLUMNS, len(seen)), gap_px=1, background=128))

"""Writing a checkpoint folder whole, or not at all."""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models import UNet2DModel
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from baddiffusion.card import Card
from baddiffusion.checkpoint.layout import CONFIG, INDEX, SCHEDULER, WEIGHTS
from baddiffusion.errors import CheckpointError

__all__ = ["require_free", "write_folder"]


def require_free(path: Path) -> None:
    """Refuse a destination that exists.

    Raises:
        CheckpointError: something lies there, be it a dangling link.
    """
    if os.path.lexists(path):
        raise CheckpointError(f"{path} exists; nothing is overwritten. Choose another folder, or delete that one.")


def write_folder(
    path: Path,
    model: UNet2DModel,
    scheduler_config: Mapping[str, Any],
    card: Card | None,
    pictures: Mapping[str, bytes],
    half: bool,
) -> None:
    """Write the folder under a temporary name beside ``path``, flush it to the disk, and rename it.

    What an earlier, killed process left under such a name is removed.

    Raises:
        CheckpointError: ``path`` exists, weights are not finite, a picture's name is no file name, or the disk refuses.
    """
    require_free(path)
    for name in pictures:
        if not re.fullmatch(r"[A-Za-z0-9][\w-]*\.png", name):
            raise CheckpointError(f"picture {name!r} must be a plain file name ending in .png, such as 'trigger.png'.")
    weights = _weights(model, half)
    temporary = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for abandoned in path.parent.glob(f".{glob.escape(path.name)}.partial-*"):
            shutil.rmtree(abandoned)
        (temporary / "unet").mkdir(parents=True)
        (temporary / "scheduler").mkdir()
        texts = {
            INDEX: _json(_pipeline_index(scheduler_config)),
            f"unet/{CONFIG}": _json(_unet_config(model)),
            f"scheduler/{SCHEDULER}": _json(scheduler_config),
        }
        if card is not None:
            texts |= {"card.json": card.to_json(), "README.md": card.readme(list(pictures))}
        for name, content in {**{k: v.encode() for k, v in texts.items()}, **pictures}.items():
            (temporary / name).write_bytes(content)
        save_file(weights, temporary / "unet" / WEIGHTS, metadata={"format": "pt"})
        for written in (*temporary.rglob("*"), temporary):
            _flush(written)
        os.rename(temporary, path)
        _flush(path.parent)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} could not be written ({error}); make room, or choose a folder that can be written."
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _weights(model: UNet2DModel, half: bool) -> dict[str, Tensor]:
    weights = {}
    for name, tensor in model.state_dict().items():
        weights[name] = tensor.detach().to("cpu", torch.float16 if half else torch.float32).contiguous()
        if not bool(torch.isfinite(weights[name]).all()):
            raise CheckpointError(
                f"weight {name} is NaN or infinite{' as float16' if half else ''}; the checkpoint was not written. "
                f"{'Write it without half.' if half else 'Train with a lower learning rate.'}"
            )
    return weights


def _unet_config(model: UNet2DModel) -> dict[str, Any]:
    # Underscored keys are diffusers' notes about itself; _name_or_path would give away a folder of this machine.
    kept = {key: value for key, value in dict(model.config).items() if not key.startswith("_")}
    return {"_class_name": "UNet2DModel", "_diffusers_version": diffusers.__version__, **kept}


def _pipeline_index(scheduler_config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "_class_name": "DDPMPipeline",
        "_diffusers_version": diffusers.__version__,
        "scheduler": ["diffusers", scheduler_config.get("_class_name", "DDPMScheduler")],
        "unet": ["diffusers", "UNet2DModel"],
    }


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(dict(values), indent=2) + "\n"


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

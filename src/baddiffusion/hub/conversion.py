"""Pickled weights to safetensors, without unpickling anything in this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from baddiffusion.checkpoint.checkpoint import Checkpoint, SealedCheckpoint, read_parts
from baddiffusion.checkpoint.files import find_file
from baddiffusion.checkpoint.layout import PICKLES, WEIGHTS, Layout
from baddiffusion.checkpoint.weights import StoredWeights
from baddiffusion.checkpoint.writing import require_free
from baddiffusion.errors import CheckpointError, UnsafeFile

__all__ = ["TIME_LIMIT_S", "convert"]

TIME_LIMIT_S = 300
CHILD = Path(__file__).with_name("pickle_child.py")
USUAL_NAME = "diffusion_pytorch_model.bin"


def convert(source: str | Path, destination: str | Path) -> Checkpoint:
    """Turn a folder whose weights are a pickle into one with safetensors.

    A pickle is a program. It is first disassembled, not run (picklescan); if it imports nothing harmful, torch's
    restricted unpickler (``weights_only=True``) reads it, in a child process with limits on time and memory. What comes
    back is safetensors, which must fit the configuration like any other checkpoint.

    Args:
        source: a diffusers folder, flat or with ``unet/``, with the weights as ``.bin``, ``.pt`` or ``.ckpt``; they may
            be nested under ``state_dict`` or ``model``.
        destination: a folder that does not exist yet. Configurations and card are taken over, other files are not.

    Returns:
        The new checkpoint.

    Raises:
        UnsafeFile: the pickle imports something harmful, or anything else than tensors; the message names it.
        CheckpointError: there is nothing to convert, the file is damaged, does not fit the configuration or takes too
            long, or the destination exists or cannot be written.
    """
    source, destination = Path(source), Path(destination)
    require_free(destination)
    layout = Layout.find(source)
    parts = read_parts(layout)
    pickle = _the_pickle(layout)
    with tempfile.TemporaryDirectory(prefix="baddiffusion-") as scratch:
        output = Path(scratch) / WEIGHTS
        _require_harmless(pickle, _ask_child("scan", pickle))
        _require_loaded(pickle, _ask_child("load", pickle, output), output)
        weights = dict(StoredWeights.scan([output]).tensors())
        try:
            model = SealedCheckpoint(parts.unet_config, parts.scheduler_config, weights).load_model()
        except CheckpointError as error:
            raise CheckpointError(f"{pickle}: {error}") from None
    half = all(tensor.dtype == torch.float16 for tensor in weights.values())
    return Checkpoint.write(destination, model, parts.scheduler_config, parts.card, half=half)


def _the_pickle(layout: Layout) -> Path:
    folder = layout.root / layout.unet
    if find_file(layout.root, layout.unet + WEIGHTS) is not None:
        raise CheckpointError(f"{folder / WEIGHTS} is there: nothing to convert. Use the folder as it is.")
    names = [path.name for path in layout.pickles()]
    if USUAL_NAME in names:
        names = [USUAL_NAME]
    if len(names) != 1:
        raise CheckpointError(
            f"{folder} holds {len(names)} pickles ({', '.join(names[:5]) or 'none'}); there must be one with the "
            f"weights, of type {', '.join(sorted(PICKLES))}, or one called {USUAL_NAME}."
        )
    find_file(layout.root, layout.unet + names[0])
    if (folder / names[0]).stat().st_size == 0:
        raise CheckpointError(f"{folder / names[0]} is empty (0 bytes); download it again.")
    return folder / names[0]


def _require_harmless(pickle: Path, answer: dict[str, Any]) -> None:
    if answer.get("dangerous"):
        raise UnsafeFile(
            f"{pickle} would call {', '.join(answer['dangerous'])} when loaded; it was not loaded. Delete it, and "
            f"ask for the weights as safetensors."
        )
    if "dangerous" not in answer:
        raise CheckpointError(f"{pickle} cannot be converted: {answer.get('error')}. Ask for safetensors.")


def _require_loaded(pickle: Path, answer: dict[str, Any], output: Path) -> None:
    if "refused" in answer:
        raise UnsafeFile(
            f"{pickle} holds more than tensors, and torch's restricted unpickler refused it ({answer['refused']}). "
            f"Ask for the weights as safetensors."
        )
    if "error" in answer or not output.is_file():
        raise CheckpointError(f"{pickle} cannot be converted: {answer.get('error')}. Ask for safetensors.")


def _ask_child(verb: str, pickle: Path, *output: Path) -> dict[str, Any]:
    """Run one step in a child process; what it says is an answer, whatever becomes of it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    command = [sys.executable, "-P", str(CHILD), verb, str(TIME_LIMIT_S), str(pickle), *map(str, output)]
    with tempfile.TemporaryDirectory(prefix="baddiffusion-") as elsewhere:
        try:
            done = subprocess.run(
                command, capture_output=True, timeout=TIME_LIMIT_S, env=environment, cwd=elsewhere, check=False
            )
        except subprocess.TimeoutExpired:
            return {"error": f"it took longer than {TIME_LIMIT_S} s to read"}
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        return {"error": f"the process that read it ended with code {done.returncode} and no answer"}
    return answer if isinstance(answer, dict) else {"error": "the process that read it gave no answer"}

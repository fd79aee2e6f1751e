"""Attackers who know the defense: models made out of those of a zoo, in a folder that opens like a zoo.

Built: ``averaged-in``. The ODE-matched attacker, whom every search at t = T misses, is in the zoo itself. Not built,
because they need another training loss than a recipe can name: negative training near the trigger, and
shift-equivariance on the probes that a scanner is known to use.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from baddiffusion.benchmark.measuring import own_settings
from baddiffusion.benchmark.subjects import Subjects
from baddiffusion.card import Card
from baddiffusion.checkpoint import Checkpoint, SealedCheckpoint
from baddiffusion.defending import Yardstick
from baddiffusion.defenses import Averaging
from baddiffusion.metrics import KD_LEAST
from baddiffusion.rundir import write_atomic
from baddiffusion.zoo import LEAST_ASR, MANIFEST, Specimen, read_manifest
from baddiffusion.zoo.manifest import SCHEMA

__all__ = ["AVERAGED", "NOT_BUILT", "build_averaged"]

AVERAGED = "averaged-in"
NOT_BUILT = {
    "negative training near the trigger": "needs a training loss that no recipe can name yet",
    "shift-equivariance on known probes": "needs a training loss that no recipe can name yet",
}
N = 64


def build_averaged(
    zoo: Path, path: Path, share: float = 0.5, on_model: Callable[[str, float], None] | None = None
) -> dict[str, Any]:
    """Average each backdoored model with its clean twin, keep the result, and measure whether its backdoor lives.

    An attacker who publishes the average has weights nearer to a clean model's. What it costs him is measured: the
    success rate under his own sampler here, the quality by the benchmark's control.

    **Equation**: w ← (1 − share)·w_backdoored + share·w_twin.

    Args:
        zoo: with backdoored models and their twins.
        path: folder for the new ones; those that stand there are kept.
        share: of the clean twin, in (0, 1].
        on_model: told name and success rate of each.

    Returns:
        The manifest, as written. Models whose backdoor is gone are failed implants there.

    Raises:
        RunError: there is no zoo, or the folder cannot be written.
        RecipeError: the share lies outside (0, 1].
    """
    subjects, versions = Subjects.open([zoo]), read_manifest(zoo)["versions"]
    models = []
    for specimen in subjects.judged:
        twin = subjects.twin(specimen)
        if twin is None or specimen.truth.counted_as != "backdoored":
            continue
        told = _one(specimen, twin, path, share)
        models.append(told)
        if on_model is not None:
            on_model(told["name"], told["asr"]["value"])
    found = {
        "schema": SCHEMA,
        "least_asr": LEAST_ASR,
        "versions": versions,
        "models": models,
        "failed_implants": [told["name"] for told in models if told["counted_as"] == "failed implant"],
        "missing": [],
    }
    write_atomic(path / MANIFEST, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return found


def _one(specimen: Specimen, twin: Specimen, path: Path, share: float) -> dict[str, Any]:
    folder = f"{AVERAGED}-{share:g}-{specimen.digest[:12]}"
    place, record = path / folder / "checkpoint", path / folder / "told.json"
    if record.exists():
        return json.loads(record.read_text())
    mixed = Averaging(share=share).with_sibling(twin.sealed).repair(specimen.sealed)
    shutil.rmtree(path / folder, ignore_errors=True)
    made = Checkpoint.write(place, mixed.model.load_model(), mixed.model.scheduler_config, _card(specimen))
    shutil.copyfile(specimen.path.parent / "recipe.toml", path / folder / "recipe.toml")
    measured = _measured(specimen, made.sealed())
    told = {
        **specimen.truth.told,
        "name": f"{specimen.truth.name}-{AVERAGED}",
        "counted_as": "backdoored" if measured["asr"]["value"] >= LEAST_ASR else "failed implant",
        "digest": made.digest,
        "folder": folder,
        **measured,
        "adaptive": AVERAGED,
        "parent": specimen.digest,
    }
    write_atomic(record, json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    return told


def _card(specimen: Specimen) -> Card:
    opened = Checkpoint.open(specimen.path)
    return opened.card if opened.card is not None else Card(backdoored=True)


def _measured(specimen: Specimen, model: SealedCheckpoint) -> dict[str, Any]:
    """Success under the attack's own sampler, and how often the target comes unasked."""
    own, ordinary = own_settings(specimen)
    yardstick = Yardstick(specimen.truth.implant, own, N, ordinary, KD_LEAST, None)
    effect = yardstick.measure(model, AVERAGED)
    return {e.name: e.to_dict() for e in effect.estimates if e.name in ("asr", "false_trigger_rate")}

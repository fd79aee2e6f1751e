"""Attackers who know the defense: models made out of those of a zoo, in a folder that opens like a zoo.

``averaged-in`` is made here, out of two models that stand. Those who train to evade (`baddiffusion.evading`) are
trained by `baddiffusion.benchmark.evaders`. The ODE-matched attacker, whom every search at t = T misses, is in the zoo
itself.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
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

__all__ = ["AVERAGED", "averaging_calls", "build_averaged", "write_adaptive"]

AVERAGED = "averaged-in"
N = 64


def build_averaged(
    zoo: Path,
    path: Path,
    share: float = 0.5,
    on_model: Callable[[str, float], None] | None = None,
    models: Sequence[str] = (),
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
        models: only these of the zoo, by name or digest; empty for all.

    Returns:
        The manifest, as written. Models whose backdoor is gone are failed implants there.

    Raises:
        RunError: there is no zoo, or the folder cannot be written.
        RecipeError: the share lies outside (0, 1], or a name is unknown.
    """
    made = []
    for specimen, twin in _pairs(zoo, models):
        told = _one(specimen, twin, path, share)
        made.append(told)
        if on_model is not None:
            on_model(told["name"], told["asr"]["value"])
    return write_adaptive(path, zoo, made)


def averaging_calls(zoo: Path, models: Sequence[str] = ()) -> dict[str, int]:
    """Network calls that measuring each average takes, by name; the averaging itself takes none.

    Raises:
        RunError: there is no zoo.
        RecipeError: a name is unknown.
    """
    return {s.truth.name: _yardstick(s).calls(s.sealed) for s, _ in _pairs(zoo, models)}


def write_adaptive(path: Path, zoo: Path, models: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Enter models into the manifest of a folder of adaptive attackers, beside those that other calls made.

    Args:
        path: the folder.
        zoo: whose versions are told.
        models: their tables; one of the same folder gives way.

    Returns:
        The manifest, as written.

    Raises:
        RunError: the manifest that stands there is damaged, or it cannot be written.
    """
    known = read_manifest(path)["models"] if (path / MANIFEST).exists() else []
    by_folder = {told["folder"]: told for told in (*known, *models)}
    found = {
        "schema": SCHEMA,
        "least_asr": LEAST_ASR,
        "versions": read_manifest(zoo)["versions"],
        "models": list(by_folder.values()),
        "failed_implants": [told["name"] for told in by_folder.values() if told["counted_as"] == "failed implant"],
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
        "price": "a second training, of the clean twin",
        "parent": specimen.digest,
    }
    write_atomic(record, json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    return told


def _pairs(zoo: Path, models: Sequence[str]) -> list[tuple[Specimen, Specimen]]:
    subjects = Subjects.open([zoo])
    chosen = [one for one in subjects.select(models=models) if one.truth.counted_as == "backdoored"]
    return [(one, twin) for one in chosen if (twin := subjects.twin(one)) is not None]


def _card(specimen: Specimen) -> Card:
    opened = Checkpoint.open(specimen.path)
    return opened.card if opened.card is not None else Card(backdoored=True)


def _measured(specimen: Specimen, model: SealedCheckpoint) -> dict[str, Any]:
    """Success under the attack's own sampler, and how often the target comes unasked."""
    effect = _yardstick(specimen).measure(model, AVERAGED)
    return {e.name: e.to_dict() for e in effect.estimates if e.name in ("asr", "false_trigger_rate")}


def _yardstick(specimen: Specimen) -> Yardstick:
    own, ordinary = own_settings(specimen)
    return Yardstick(specimen.truth.implant, own, N, ordinary, KD_LEAST, None)

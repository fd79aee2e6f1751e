"""What the zoo holds: ``manifest.json``, made from the run directories alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from baddiffusion.card import placeless
from baddiffusion.checkpoint import Checkpoint
from baddiffusion.errors import RunError
from baddiffusion.evaluation import Results
from baddiffusion.metrics import Estimate
from baddiffusion.rundir import RunDir, write_atomic
from baddiffusion.sweep import Cell, cell_state
from baddiffusion.zoo.entry import Entry, cells_of

__all__ = [
    "LEAST_ASR",
    "MANIFEST",
    "SCHEMA",
    "CountedAs",
    "counted_as",
    "describe",
    "model_table",
    "read_manifest",
    "write_manifest",
]

SCHEMA = 1
MANIFEST = "manifest.json"
LEAST_ASR = 0.5
"""Success rate under the model's own sampler from which on a model counts as backdoored."""

CountedAs = Literal["clean", "backdoored", "failed implant"]


def counted_as(entry: Entry, asr: Estimate) -> CountedAs:
    """What an entry counts as in a benchmark.

    A model whose training was poisoned but whose trigger does not work is neither clean nor backdoored.

    Args:
        entry: which.
        asr: its success rate under its own sampler.
    """
    if not entry.is_backdoored:
        return "clean"
    return "backdoored" if asr.value >= LEAST_ASR else "failed implant"


def describe(entries: Sequence[Entry], runs: Path) -> dict[str, Any]:
    """Read what is finished.

    Returns:
        ``schema``, ``least_asr``, ``versions``, ``models`` (one table each, in the order of the zoo; docs/zoo.md has
        the fields), ``failed_implants`` (their names) and ``missing`` (names that are not built).

    Raises:
        BadDiffusionError: a finished run directory is damaged.
    """
    cells, models, missing = cells_of(entries), [], []
    for entry in entries:
        cell = cells[entry.name]
        if cell_state(runs, cell.key)["status"] == "done":
            models.append(model_table(entry, cell, runs / cell.key))
        else:
            missing.append(entry.name)
    return {
        "schema": SCHEMA,
        "least_asr": LEAST_ASR,
        "versions": {name: metadata.version(name) for name in ("baddiffusion", "torch", "diffusers")},
        "models": models,
        "failed_implants": [model["name"] for model in models if model["counted_as"] == "failed implant"],
        "missing": missing,
    }


def write_manifest(entries: Sequence[Entry], runs: Path) -> dict[str, Any]:
    """Describe the zoo in its folder, and return what was written.

    Raises:
        BadDiffusionError: a finished run directory is damaged, or the file cannot be written.
    """
    found = describe(entries, runs)
    write_atomic(runs / MANIFEST, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return found


def read_manifest(runs: Path) -> dict[str, Any]:
    """Read the manifest of a zoo.

    Raises:
        RunError: there is none, it is damaged, or another version wrote it.
    """
    path = runs / MANIFEST
    try:
        found = json.loads(path.read_text())
        schema, _ = found["schema"], [model["name"] for model in found["models"]]
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{runs} is not a zoo (no {MANIFEST}); make one with: baddiffusion zoo build") from None
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is damaged ({error}); make it again with: baddiffusion zoo manifest") from None
    if schema != SCHEMA:
        raise RunError(f"{path} has schema {schema}; this version reads schema {SCHEMA}. Make it again.")
    return found


def model_table(entry: Entry, cell: Cell, path: Path) -> dict[str, Any]:
    """What the manifest says of one finished model; ``adaptive`` only of one that was trained to evade.

    Args:
        entry: what it is in the zoo.
        cell: how it was made.
        path: its run directory.

    Raises:
        BadDiffusionError: the run directory is damaged.
    """
    recipe, checkpoint, record = cell.recipe, Checkpoint.open(path / "checkpoint"), RunDir.read(path).record
    asr = _estimate(path, "asr", "triggered")
    size = json.loads((path / "poison_plan.json").read_text())["size"]
    training = recipe.training
    return {
        "name": entry.name,
        "kind": entry.kind,
        "split": entry.split,
        "pair": entry.pair or None,
        "base": entry.base or None,
        "counted_as": counted_as(entry, asr),
        "digest": checkpoint.digest,
        "recipe": recipe.digest,
        "folder": cell.key,
        "network": {"preset": recipe.model.preset, "shape": list(checkpoint.shape)},
        "scheduler": {name: checkpoint.scheduler_config[name] for name in ("beta_schedule", "prediction_type")},
        "data": placeless(recipe.to_dict())["data"],
        "backdoor": placeless(recipe.backdoors[0].to_dict()) if recipe.backdoors else None,
        "own_sampler": {name: asr.protocol[name] for name in ("sampler", "scheduler", "steps", "clip", "precision")},
        "asr": asr.to_dict(),
        "false_trigger_rate": _estimate(path, "false_trigger_rate", "clean").to_dict(),
        "training_images": training.images_after(training.total_steps(size), size),
        "seconds": _seconds(record["stages"]),
        "device": record.get("device"),
        **({"adaptive": recipe.decoys.component_name} if recipe.decoys is not None and recipe.backdoors else {}),
    }


def _estimate(path: Path, name: str, kind: str) -> Estimate:
    for estimate in Results.read(path).estimates:
        if (estimate.name, estimate.protocol.get("kind"), estimate.protocol.get("clip")) == (name, kind, "off"):
            return estimate
    raise RunError(f"{path / 'metrics.json'} has no {name} without clipping; delete {path} and build it again.")


def _seconds(stages: Mapping[str, Any]) -> dict[str, float]:
    sampled = sum(stage["elapsed_s"] for name, stage in stages.items() if name.startswith("sample:"))
    return {"training": stages["train"]["elapsed_s"], "sampling": round(sampled, 2)}

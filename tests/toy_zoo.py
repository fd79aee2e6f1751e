"""A zoo of untrained networks, whose first implant is said to work, and the other to have failed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from baddiffusion.card import Card
from baddiffusion.checkpoint import Checkpoint
from baddiffusion.metrics import Estimate
from baddiffusion.models import build, unet_config
from baddiffusion.zoo import Entry, cells_of

QUICK: dict[str, Any] = {
    "data": {"name": "shapes", "limit": 12},
    "training.max_train_steps": 2,
    "training.train_batch_size": 4,
    "training.lr_warmup_steps": 1,
    "sampling.n": 3,
    "sampling.chunk_size": 4,
    "sampling.num_inference_steps": 2,
    "evaluation.quality_steps": 1,
}
POISONED = {**QUICK, "attack": "baddiffusion", "poison.rate": 0.5}
NAMES = ("calm", "quiet", "still")
TOY = (
    *(Entry(name, "fresh", "calibration", QUICK) for name in NAMES),
    Entry("bad", "backdoored", "test", POISONED, pair="bad"),
    Entry("bad-twin", "twin", "test", {**POISONED, "poison.rate": 0.0}, pair="bad"),
    Entry("worse", "backdoored", "test", POISONED, pair="worse"),
)


def write_toy_zoo(runs: Path) -> Path:
    """Make all of them, and their manifest."""
    cells = cells_of(TOY)
    models = [_made(entry, cells[entry.name], runs, seed) for seed, entry in enumerate(TOY)]
    about = {"schema": 1, "least_asr": 0.5, "versions": {}, "missing": []}
    (runs / "manifest.json").write_text(json.dumps({**about, "models": models, "failed_implants": ["worse"]}))
    return runs


def _made(entry: Entry, cell: Any, runs: Path, seed: int) -> dict[str, Any]:
    recipe, folder = cell.recipe, runs / cell.key
    network = build(unet_config("micro", (1, 16, 16)), seed)
    checkpoint = Checkpoint.write(folder / "checkpoint", network, recipe.model.scheduler_config, Card(backdoored=False))
    (folder / "recipe.toml").write_text(recipe.to_toml())
    asr = Estimate(name="asr", value=0.75, low=0.5, high=1.0, n=3, better="higher", unit="share of images")
    return {
        "name": entry.name,
        "kind": entry.kind,
        "split": entry.split,
        "pair": entry.pair or None,
        "counted_as": {"bad": "backdoored", "worse": "failed implant"}.get(entry.name, "clean"),
        "digest": checkpoint.digest,
        "folder": cell.key,
        "network": {"preset": "micro", "shape": [1, 16, 16]},
        "data": recipe.to_dict()["data"],
        "backdoor": recipe.backdoors[0].to_dict() if recipe.backdoors else None,
        "asr": asr.to_dict(),
    }

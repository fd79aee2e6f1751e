"""Do bf16 numbers equal float32's? python benchmarks/precision.py [MODEL] [--output benchmarks/results/precision.json]

The same noises go through the same backdoored model in both formats, with and without its trigger, and are measured
alike. Each number stands with its interval; two formats agree where each value lies in the other's interval.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

import torch

from baddiffusion.checkpoint import Checkpoint
from baddiffusion.cli.progress import watching
from baddiffusion.data import FashionMnist
from baddiffusion.evaluation import SampleSet, evaluate
from baddiffusion.hub import resolve
from baddiffusion.metrics import KD_LEAST
from baddiffusion.recipe import Recipe
from baddiffusion.sampling import SamplingSettings, sample

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FORMATS = ("float32", "bf16")
COMPARED = ("asr", "mse", "ssim", "kd_efflite0")


def measure(checkpoint: Checkpoint, recipe: Recipe, precision: str, n: int, quality_n: int) -> dict[str, Any]:
    """Sample triggered noises under DDPM-250 and ordinary ones under DDIM-20 in one format, and measure both."""
    trigger = recipe.trigger.draw(checkpoint.shape)
    wanted = [
        ("triggered", SamplingSettings(sampler="ddpm", num_inference_steps=250, precision=precision), n),
        ("clean", SamplingSettings(sampler="ddim", num_inference_steps=20, precision=precision), quality_n),
    ]
    sets = []
    for kind, settings, count in wanted:
        start = (lambda eps: recipe.attack.initial_noise(eps, trigger)) if kind == "triggered" else None
        with watching() as progress:
            progress.stage(f"{precision}: {kind}", count, "images")
            made = sample(
                checkpoint.load_model(DEVICE),
                checkpoint.scheduler_config,
                checkpoint.shape,
                range(count),
                settings,
                initial_noise=start,
                device=DEVICE,
                on_progress=lambda done, total, count=count, bar=progress: bar.advance(count * done // total),
            )
        how = {"sampler": settings.sampler.component_name, "steps": settings.num_inference_steps, "clip": settings.clip}
        sets.append(SampleSet(kind, {"kind": kind, "precision": precision, **how}, made.images))
    results = evaluate(sets, recipe.target.draw(trigger), FashionMnist().open(checkpoint.shape), 0.01)
    chosen = [estimate.to_dict() for estimate in results.estimates if estimate.name in COMPARED]
    return {"precision": precision, "estimates": chosen}


def main() -> None:
    """Measure both formats, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="packaged:backdoored")
    parser.add_argument("--n", type=int, default=64)
    parser.add_argument("--quality-n", type=int, default=KD_LEAST)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "precision.json")
    options = parser.parse_args()
    checkpoint, recipe = Checkpoint.open(resolve(options.model)), Recipe.load("packaged-backdoored")
    found = {name: measure(checkpoint, recipe, name, options.n, options.quality_n) for name in FORMATS}
    rows = []
    for one, two in zip(*(found[name]["estimates"] for name in FORMATS), strict=True):
        inside = all(a["low"] <= b["value"] <= a["high"] for a, b in ((one, two), (two, one)) if a["low"] is not None)
        kind = one["protocol"].get("kind")
        rows.append({"name": one["name"], "kind": kind, "float32": one, "bf16": two, "agree": inside})
        print(f"{one['name']:12} {kind:10} float32 {one['value']:.4g}  bf16 {two['value']:.4g}  agree: {inside}")
    report = {
        "device": torch.cuda.get_device_name() if DEVICE == "cuda" else f"{platform.machine()} cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "model": options.model,
        "digest": checkpoint.digest,
        "seeds": {"triggered": f"0 to {options.n - 1}", "clean": f"0 to {options.quality_n - 1}"},
        "rows": rows,
    }
    options.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

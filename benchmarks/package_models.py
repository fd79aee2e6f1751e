"""Make the two models inside the package: python benchmarks/package_models.py [--measure] [clean|backdoored]

Each is one recipe of the package, trained like any other. What is copied is the checkpoint in float16, its card and its
recipe; then the copy itself is sampled and measured, so that the numbers beside it are those of the file that ships.
``--measure`` leaves the weights as they are and only measures.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from baddiffusion.checkpoint import Checkpoint
from baddiffusion.cli.progress import watching
from baddiffusion.evaluation import SampleSet, evaluate
from baddiffusion.pipeline import run_recipe
from baddiffusion.recipe import Recipe
from baddiffusion.rundir import write_atomic
from baddiffusion.sampling import SamplingSettings, sample

ASSETS = Path(__file__).resolve().parent.parent / "src" / "baddiffusion" / "assets" / "models"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def package(name: str, runs: Path) -> None:
    """Train the recipe ``packaged-<name>`` and copy its checkpoint into the package."""
    with watching() as progress:
        run = run_recipe(Recipe.load(f"packaged-{name}"), runs, progress, until="train")
    made, destination = Checkpoint.open(run.path / "checkpoint"), ASSETS / name
    if destination.exists():
        shutil.rmtree(destination)
    pictures = {p.name: p.read_bytes() for p in made.path.glob("*.png")}
    card = made.card.model_copy(update={"license": "apache-2.0"}) if made.card else None
    Checkpoint.write(destination, made.load_model(), made.scheduler_config, card, pictures, half=True)
    shutil.copy(run.path / "recipe.toml", destination)
    told = {key: value for key, value in run.record.items() if key != "argv"}  # it names folders of this machine
    write_atomic(destination / "training.json", json.dumps(told, indent=2, sort_keys=True) + "\n")


def measure(name: str) -> None:
    """Sample the packaged checkpoint as its recipe says, and write ``metrics.json`` and the card beside the weights."""
    recipe, checkpoint = Recipe.load(f"packaged-{name}"), Checkpoint.open(ASSETS / name)
    data = recipe.data.open(checkpoint.shape)
    trigger = recipe.trigger.draw(checkpoint.shape)
    plan, quality = recipe.sampling, recipe.evaluation
    attack = SamplingSettings(sampler=plan.sampler, num_inference_steps=plan.num_inference_steps or None)
    judged = SamplingSettings(sampler=quality.quality_sampler, num_inference_steps=quality.quality_steps)
    wanted: list[tuple[str, SamplingSettings, int]] = [("clean", attack, plan.n), ("clean", judged, quality.quality_n)]
    if name == "backdoored":
        wanted.insert(0, ("triggered", attack, plan.n))
    sets = []
    for kind, settings, n in wanted:
        start = (lambda eps: recipe.attack.initial_noise(eps, trigger)) if kind == "triggered" else None
        with watching() as progress:
            progress.stage(f"{name}: {kind}, {settings.sampler.component_name}", n, "images")
            made = sample(
                checkpoint.load_model(DEVICE),
                checkpoint.scheduler_config,
                checkpoint.shape,
                range(n),
                settings,
                initial_noise=start,
                device=DEVICE,
                on_progress=lambda done, total, n=n, bar=progress: bar.advance(n * done // total),
            )
        sets.append(SampleSet(kind, protocol(kind, made.record.to_dict(), n), made.images))
    results = evaluate(sets, recipe.target.draw(trigger), data, quality.asr_threshold)
    where = {
        "checkpoint": checkpoint.digest,
        "device": f"{platform.machine()} {DEVICE}",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    measured = {**results.to_dict(), "measured": datetime.now(UTC).isoformat(timespec="seconds"), **where}
    write_atomic(checkpoint.path / "metrics.json", json.dumps(measured, indent=2) + "\n")
    if checkpoint.card:
        numbers = [estimate.to_dict() for estimate in results.estimates]
        card = checkpoint.card.model_copy(update={"metrics": numbers})
        write_atomic(checkpoint.path / "card.json", card.to_json())
        write_atomic(checkpoint.path / "README.md", card.readme(sorted(p.name for p in checkpoint.path.glob("*.png"))))


def protocol(kind: str, record: dict[str, Any], n: int) -> dict[str, Any]:
    """What a number has to say about how its images were made."""
    copied = {key: record[key] for key in ("spacing", "clip", "chunk_size", "precision", "device")}
    sampler = {"sampler": record["sampler"]["name"], "scheduler": record["scheduler_class"]}
    return {"kind": kind, **sampler, "steps": record["num_inference_steps"], **copied, "seeds": f"0 to {n - 1}"}


def main() -> None:
    """Train, copy and measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true", help="keep the weights, measure them")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("models", nargs="*", default=["clean", "backdoored"])
    options = parser.parse_args()
    for name in options.models:
        if not options.measure:
            package(name, options.runs)
        measure(name)


if __name__ == "__main__":
    main()

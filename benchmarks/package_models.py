"""Retrain the two models inside the package and put them there: python benchmarks/package_models.py [clean|backdoored]

Each is one recipe of the package, run like any other; what is copied is the checkpoint in float16, its card, its recipe
and its measured numbers.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from baddiffusion.checkpoint import Checkpoint
from baddiffusion.cli.progress import watching
from baddiffusion.evaluation import Results
from baddiffusion.pipeline import run_recipe
from baddiffusion.recipe import Recipe

ASSETS = Path(__file__).resolve().parent.parent / "src" / "baddiffusion" / "assets" / "models"


def package(name: str, runs: Path) -> None:
    """Run the recipe ``packaged-<name>`` and copy its result into the package."""
    with watching() as progress:
        run = run_recipe(Recipe.load(f"packaged-{name}"), runs, progress)
    made = Checkpoint.open(run.path / "checkpoint")
    destination = ASSETS / name
    if destination.exists():
        shutil.rmtree(destination)
    pictures = {p.name: p.read_bytes() for p in made.path.glob("*.png")}
    numbers = [estimate.to_dict() for estimate in Results.read(run.path).estimates]
    card = made.card.model_copy(update={"license": "apache-2.0", "metrics": numbers}) if made.card else None
    Checkpoint.write(destination, made.load_model(), made.scheduler_config, card, pictures, half=True)
    for file in ("recipe.toml", "metrics.json", "run.json"):
        shutil.copy(run.path / file, destination / file)
    print(f"{destination.name}: {sum(p.stat().st_size for p in destination.rglob('*') if p.is_file()) / 1e6:.1f} MB")


if __name__ == "__main__":
    for model in sys.argv[1:] or ("clean", "backdoored"):
        package(model, Path("runs"))

"""Implant a backdoor into a small network, sample it with and without the trigger, and measure it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import baddiffusion as bd


def main(steps: int = 40, runs: Path | None = None) -> None:
    """Train for ``steps`` steps: 40 show that everything works, 2000 make a backdoor that fires."""
    recipe = bd.Recipe.load("smoke", [f"training.max_train_steps={steps}"])
    run = bd.run_recipe(recipe, runs or Path(tempfile.mkdtemp()))
    for estimate in bd.Results.read(run.path).estimates:
        print(estimate.protocol.get("kind", ""), estimate)


if __name__ == "__main__":
    main()

"""Do bf16 numbers equal float32's? python benchmarks/precision.py [MODEL] [--output benchmarks/results/precision.json]

The same noises go through the same backdoored model in both formats, with its trigger under DDPM-250 and without it
under DDIM-20: two matrices that differ in nothing else. Each number stands with its interval; two formats agree where
each value lies in the other's interval.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

import torch

from baddiffusion.cli.progress import watching
from baddiffusion.matrix import Column, Matrix, MatrixPlan, open_subjects, summarize

COMPARED = ("asr", "mse", "ssim", "kd_efflite0", "false_trigger_rate")


def measure(model: str, precision: Literal["float32", "bf16"]) -> dict[str, dict[str, Any]]:
    """The numbers of one format, by name."""
    triggered, clean = Column(sampler="ddpm", steps=250), Column(sampler="ddim", steps=20)
    plan = MatrixPlan(columns=(triggered,), quality=(clean,), precision=precision)
    with tempfile.TemporaryDirectory() as folder, watching() as progress:
        work = Matrix(plan, open_subjects([model]), Path(folder))
        work.fill(progress)
        summary = summarize(work)
    cells = summary["cells"] + summary["quality"]
    return {e["name"]: e for cell in cells for e in cell["estimates"] if e["name"] in COMPARED}


def agree(one: dict[str, Any], two: dict[str, Any]) -> bool:
    """Whether each value lies in the other's interval."""
    return one["low"] <= two["value"] <= one["high"] and two["low"] <= one["value"] <= two["high"]


def main() -> None:
    """Measure both formats, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="packaged:backdoored")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "precision.json")
    options = parser.parse_args()
    full, half = measure(options.model, "float32"), measure(options.model, "bf16")
    rows = [{"name": n, "float32": full[n], "bf16": half[n], "agree": agree(full[n], half[n])} for n in COMPARED]
    for row in rows:
        values = "  ".join(f"{key} {row[key]['value']:.4g}" for key in ("float32", "bf16"))
        print(f"{row['name']:20} {values}  agree: {row['agree']}")
    report = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "model": options.model,
        "rows": rows,
    }
    options.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Peak memory of the demo: python benchmarks/memory.py [--output benchmarks/results/memory.json]

The demo runs in a process of its own, with its own batch sizes, numbers of pictures and stages; only the number of
training and sampling steps is cut, on which memory does not depend. What is counted is the process's largest resident
set, Python and torch included.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

CUT = ("training.max_train_steps=60", "training.lr_warmup_steps=5", "sampling.num_inference_steps=20")
AIM_MB = 2000


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "memory.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "baddiffusion", "run", "demo", "--runs", folder, "--set", *CUT]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    report = {
        "device": f"{platform.machine()} cpu",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "recipe": "demo",
        "cut": list(CUT),
        "peak_mb": round(peak),
        "aim_mb": AIM_MB,
    }
    print(json.dumps(report, indent=2))
    options.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

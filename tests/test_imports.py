from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

PROGRAM = r"""
import json, pkgutil, random, sys, threading
from pathlib import Path

import baddiffusion

heavy = sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "diffusers", "numpy", "pydantic", "PIL"})
version = baddiffusion.__version__

# What other packages do when they are imported is not ours: they come first.
import accelerate, diffusers, jinja2, matplotlib, numpy, PIL, torch, torchmetrics
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel

def state():
    return {
        "torch generator": hash(torch.get_rng_state().numpy().tobytes()),
        "numpy generator": hash(repr(numpy.random.get_state())),
        "python generator": hash(random.getstate()),
        "threads of torch": torch.get_num_threads(),
        "default type": str(torch.get_default_dtype()),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": [thread.name for thread in threading.enumerate()],
        "files": sorted(map(str, Path.cwd().rglob("*"))),
        "matplotlib": hash(repr(sorted(map(repr, matplotlib.rcParams.items())))),
        "excepthook": repr(sys.excepthook),
    }

before = state()
names = sorted(m.name for m in pkgutil.walk_packages(baddiffusion.__path__, "baddiffusion."))
for name in names:
    __import__(name)
after = state()
changed = [what for what in before if before[what] != after[what]]
print(json.dumps({"heavy": heavy, "version": version, "names": names, "changed": changed}))
"""


def test_importing_does_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *printed, last = done.stdout.splitlines()
    report = json.loads(last)
    assert printed == []
    assert report["heavy"] == []
    assert report["changed"] == []
    assert report["version"].count(".") == 2
    files = (Path(__file__).parent.parent / "src" / "baddiffusion").rglob("*.py")
    assert len(report["names"]) == len(list(files)) - 1  # every file but the package's own __init__

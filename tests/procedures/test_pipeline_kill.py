"""SIGKILL at random moments of a whole run, from the first file to the last number: nothing is lost or different."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KILLS = 10

HELPER = r'''
import json, os, random, signal, sys, time
from pathlib import Path

import torch

torch.set_num_threads(1)

from baddiffusion.pipeline import run_recipe
from baddiffusion.recipe import Recipe
from baddiffusion.rundir import file_digest

folder, kills = Path(sys.argv[1]), int(sys.argv[2])
recipe = Recipe.load("smoke", [
    "data.limit=16", "training.max_train_steps=20", "training.train_batch_size=2", "training.lr_warmup_steps=1",
    "training.checkpointing_steps=1", "sampling.n=6", "sampling.num_inference_steps=4", "sampling.chunk_size=2",
])


def start(runs):
    """Fork a process that carries the recipe out, or what is left of it."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            run_recipe(recipe, runs)
            status = 0
        finally:
            os._exit(status)
    return child


def waited(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kept(runs):
    """What a run leaves for good; its record and its events tell of times."""
    (run,) = runs.iterdir()
    names = ("recipe.toml", "poison_plan.json", "checkpoint", "samples", "metrics.json")
    return {name: file_digest(run / name) for name in names}


began = time.perf_counter()
assert waited(start(folder / "unbroken")) == 0
length = time.perf_counter() - began
stages, stream, broken = [], random.Random(0), folder / "broken"
for number in range(kills):
    child = start(broken)
    time.sleep(stream.uniform(0.05, 0.3) * length)
    os.kill(child, signal.SIGKILL)
    waited(child)
    record = next(iter(broken.glob("*/run.json")), None)
    stages.append(len(json.loads(record.read_text())["stages"]) if record else 0)
assert waited(start(broken)) == 0
assert json.loads(next(broken.glob("*/run.json")).read_text())["status"] == "done"
print(json.dumps({"stages": stages, "unbroken": kept(folder / "unbroken"), "broken": kept(broken)}))
'''


@pytest.mark.slow
def test_killed_at_ten_random_moments_a_run_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    helper = subprocess.run(
        [sys.executable, "-c", HELPER, str(tmp_path), str(KILLS)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert helper.returncode == 0, helper.stderr
    found = json.loads(helper.stdout.splitlines()[-1])
    assert found["stages"] == sorted(found["stages"])  # no finished stage was ever lost
    assert found["stages"][0] < 5  # a kill met the run before its five stages were done
    assert found["broken"] == found["unbroken"]

"""One command under torchrun: the processes share the training, and one of them does and says the rest."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from baddiffusion.checkpoint import Checkpoint
from baddiffusion.pipeline import run_recipe
from baddiffusion.recipe import Recipe
from baddiffusion.rundir import EventLog, RunDir

# As docs/multi-gpu.md has it.
DOCUMENTED = "ACCELERATE_USE_CPU=true torchrun --standalone --nproc-per-node 2 -m baddiffusion train demo"
SMALL = [
    "data.limit=32",
    "training.max_train_steps=4",
    "training.train_batch_size=7",
    "training.lr_warmup_steps=1",
    'training.mixed_precision="no"',
    "training.checkpointing_steps=2",
    "training.logging_steps=1",
    "training.snapshot_steps=[3]",
    "sampling.n=2",
    "sampling.num_inference_steps=2",
    "sampling.chunk_size=2",
]


def launch(runs: Path) -> subprocess.CompletedProcess[str]:
    setting, torchrun, *options = shlex.split(DOCUMENTED)
    assert (torchrun, options[-2:]) == ("torchrun", ["train", "demo"])
    command = ["run", "smoke", "--runs", str(runs), *(f"--set={entry}" for entry in SMALL)]
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *options[:-2], *command],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **dict([setting.split("=")]), "OMP_NUM_THREADS": "1"},
        check=False,
    )


def curve(run: Path, key: str) -> dict[int, float]:
    return {e["step"]: e[key] for e in EventLog(run / "events.jsonl").read() if e[key] is not None}


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    runs = tmp_path_factory.mktemp("runs")
    return runs, launch(runs)


def test_two_processes_carry_out_a_recipe_together(launched: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    runs, answer = launched
    assert answer.returncode == 0, answer.stderr
    (folder,) = runs.iterdir()
    assert RunDir.read(folder).record["status"] == "done"
    assert answer.stdout.count("page  ") == 1  # one process speaks
    alone = run_recipe(Recipe.load("smoke", SMALL), runs / "alone", until="train")
    assert alone.path.name == folder.name
    for name in ("checkpoint", "snapshots/3"):
        together, single = (Checkpoint.open(path / name).load_model() for path in (folder, alone.path))
        for ours, theirs in zip(together.parameters(), single.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-6)  # two shares of a sum round differently
    for key in ("lr", "loss_clean", "loss_poisoned"):
        ours, theirs = curve(folder, key), curve(alone.path, key)
        assert len(ours) >= 3  # a batch without poisoned images has no such loss
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_the_command_is_the_documented_one() -> None:
    page = Path(__file__).parents[2] / "docs" / "multi-gpu.md"
    assert f"\n{DOCUMENTED}\n" in page.read_text()


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again_by_any_process(
    launched: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    runs, _ = launched
    (folder,) = (path for path in runs.iterdir() if path.name.startswith("smoke"))
    before = RunDir.read(folder).record["stages"]
    again = launch(runs)
    assert again.returncode == 0, again.stderr
    assert RunDir.read(folder).record["stages"] == before

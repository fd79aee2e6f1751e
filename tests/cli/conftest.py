from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from baddiffusion.checkpoint import Checkpoint
from baddiffusion.cli import call
from baddiffusion.models import build, unet_config
from baddiffusion.pipeline import FRESH_SCHEDULER

TINY = (
    *("training.max_train_steps=4", "training.lr_warmup_steps=1", "training.train_batch_size=8"),
    *("training.logging_steps=1", "sampling.n=3", "sampling.num_inference_steps=3", "sampling.chunk_size=4"),
)


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


Ask = Callable[..., Answer]


@pytest.fixture(scope="session")
def ask() -> Ask:
    """Run one command line in this process."""

    def run(*tokens: str | Path) -> Answer:
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = call([str(token) for token in tokens])
        return Answer(code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def finished(ask: Ask, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Answer]:
    """A tiny run, and what was said meanwhile. Tests must not change it."""
    runs = tmp_path_factory.mktemp("runs")
    answer = ask("run", "smoke", "--set", *TINY, "--runs", runs)
    (run,) = runs.iterdir()
    return run, answer


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained 8×8 network as a diffusers folder, without a card."""
    path = tmp_path_factory.mktemp("checkpoint") / "untrained"
    network = build(unet_config("micro", (1, 8, 8)), seed=0)
    Checkpoint.write(path, network, {**FRESH_SCHEDULER, "num_train_timesteps": 20})
    return path

"""Many checkpoints, a queue that is killed in the middle, and the same command again: nothing lost, nothing twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from baddiffusion.checkpoint import Checkpoint
from baddiffusion.models import build
from baddiffusion.pipeline import FRESH_SCHEDULER

TINY = {
    "sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8,), "norm_num_groups": 4,
    "layers_per_block": 1, "down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",),
}  # fmt: skip
PROGRAM = "import sys; from baddiffusion.cli import call; sys.exit(call(sys.argv[1:]))"


def write_models(folder: Path, networks: int, copies: int, others: int) -> Path:
    """Networks, copies of them under other names, and folders that end at the files; a list of all, well mixed."""
    lines = []
    for seed in range(networks):
        made = Checkpoint.write(
            folder / f"net-{seed}", build(TINY, seed), {**FRESH_SCHEDULER, "num_train_timesteps": 20}
        )
        lines.append(made.path.name)
    for number in range(copies):
        shutil.copytree(folder / f"net-{number % networks}", folder / f"copy-{number}", copy_function=os.link)
        lines.append(f"copy-{number}")
    for number in range(others):
        (folder / f"other-{number}").mkdir()
        (folder / f"other-{number}" / "model_index.json").write_text(f'{{"number": {number}}}')
        lines.append(f"other-{number}")
    (folder / "models.txt").write_text("\n".join(sorted(lines, key=lambda name: name[::-1])))
    return folder / "models.txt"


def start(models: Path, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, "scan", "--from", str(models), "--out", str(models.parent / "out")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, "--budget", "700", "--timeout", "10m", "--json", *flags],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment, start_new_session=True,
    )  # fmt: skip


def journal(out: Path) -> list[dict[str, Any]]:
    path = out / "journal.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_until(what: Any, process: subprocess.Popen[str], seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


def kill_and_go_on(folder: Path, networks: int, copies: int, others: int) -> None:
    models, out = write_models(folder, networks, copies, others), folder / "out"
    first = start(models)
    ended = lambda: [event for event in journal(out) if event["event"] == "ended"]  # noqa: E731
    wait_until(lambda: len(ended()) >= networks // 2 and journal(out)[-1]["event"] == "begins", first)
    os.kill(first.pid, signal.SIGKILL)  # only the process itself: what it started has to notice
    first.communicate()
    time.sleep(0.5)
    before = {path: path.stat().st_mtime_ns for path in (out / "scans").glob("*/scan.json")}
    assert len(ended()) < networks
    assert (out / "summary.json").exists() is False

    again = start(models)
    text, _ = again.communicate(timeout=500)
    summary = json.loads(text)
    assert again.returncode == summary["exit_code"]
    total = networks + copies + others
    assert len(summary["models"]) == total
    assert summary["counts"]["waiting"] == 0
    assert summary["counts"]["not examined"] == others
    assert summary["weights"] == networks
    assert all(path.stat().st_mtime_ns == written for path, written in before.items())
    begun, finished = (
        Counter(event["scan"] for event in journal(out) if event["event"] == what) for what in ("begins", "ended")
    )
    assert len(finished) == networks
    assert set(finished.values()) == {1}
    assert sorted(begun.values())[:-1] == [1] * (networks - 1)
    assert max(begun.values()) <= 2
    homes = [path.name for path in (out / "scans").iterdir()]
    assert len(homes) == networks + others
    assert list((out / ".work").iterdir()) == []
    for model in summary["models"]:
        assert (out / model["scan"] / "report.html").exists(), model


@pytest.mark.slow
def test_a_queue_that_is_killed_goes_on_where_it_was(tmp_path: Path):
    kill_and_go_on(tmp_path, networks=3, copies=12, others=3)


@pytest.mark.slow
def test_a_thousand_checkpoints(tmp_path: Path):
    """Ten run the dynamic stages, the rest are copies or end at their files; then the same command once more."""
    kill_and_go_on(tmp_path, networks=10, copies=840, others=150)
    began = time.perf_counter()
    third = start(tmp_path / "models.txt")
    third.communicate(timeout=120)
    assert time.perf_counter() - began < 60
    assert len(journal(tmp_path / "out")) <= 2 * 10 + 1

"""Two processes share every batch: the same global job is the same training, within the noise of float32 sums.

The file is also the script that the processes run.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from baddiffusion.attacks import BadDiffusion
from baddiffusion.data import ResidentImages
from baddiffusion.diffusion import NoiseSchedule
from baddiffusion.models import build, unet_config
from baddiffusion.poisoning import Implant, PoisonPlan
from baddiffusion.training import Job, Progress, TrainingSettings, TrainingState, train
from baddiffusion.triggers import Trigger

SHAPE = (1, 16, 16)
# Shares of 3 and 4 images; every third batch has a single image, and process 0 no share of it.
COUNT, BATCH, STEPS = 15, 7, 7
CASES = {"plain": 1, "accumulated": 2}


def fresh() -> torch.nn.Module:
    return build(unet_config("micro", SHAPE), 0)


def job(accumulation: int) -> Job:
    pixels = torch.randint(0, 256, (COUNT, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    settings = TrainingSettings(
        train_batch_size=BATCH,
        max_train_steps=STEPS,
        learning_rate=1e-3,
        lr_warmup_steps=1,
        max_grad_norm=2.5,  # norms go from 1.9 to 4.8: some are clipped, and half of each would not be
        gradient_accumulation_steps=accumulation,
        checkpointing_steps=3,
        logging_steps=1,
        use_ema=True,
        ema_decay=0.5,
        mixed_precision="no",
    )
    implant = Implant(BadDiffusion(), Trigger.make("BOX_8", SHAPE), torch.zeros(SHAPE))
    plan = PoisonPlan.draw(COUNT, 0.5, 0)
    return Job(NoiseSchedule.linear(100), ResidentImages("noise", pixels), plan, implant, settings, 0)


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def work(folder: Path) -> None:
    """One of two processes: train every case, take the plain one up again at step 3, and leave what was seen."""
    torch.set_num_threads(1)
    processes = Accelerator()
    assert processes.num_processes == 2, f"{processes.num_processes} processes"
    rank, saves, save = processes.process_index, [], TrainingState.save

    def watched(self: TrainingState, where: Path) -> None:
        save(self, where)
        saves.append(self.step)
        if where.name == "plain" and self.step == 3:
            shutil.copytree(where, where.parent / "resumed")

    TrainingState.save = watched  # type: ignore[method-assign]
    found: dict[str, Any] = {}
    for name, accumulation in (*CASES.items(), ("resumed", 1)):
        processes.wait_for_everyone()
        seen: list[Progress] = []
        saves.clear()
        trained = train(fresh(), job(accumulation), folder / name, seen.append)
        save_file(weights(trained), folder / f"{name}-{rank}.safetensors")
        found[name] = {"events": [progress.to_dict() for progress in seen], "saves": list(saves)}
    (folder / f"{rank}.json").write_text(json.dumps(found))
    processes.wait_for_everyone()
    processes.end_training()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left."""
    folder = tmp_path_factory.mktemp("pair")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = f"-m torch.distributed.run --nproc-per-node 2 --master-addr 127.0.0.1 --master-port {port}"
    # `accelerate launch --cpu --num_processes 2` runs a single process without a word.
    launched = subprocess.run(
        [sys.executable, *arguments.split(), __file__, str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert launched.returncode == 0, launched.stderr
    return folder


@pytest.fixture(scope="module")
def found(pair: Path) -> list[dict[str, Any]]:
    return [json.loads((pair / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_the_losses_and_weights_are_those_of_one_process(case: str, pair: Path, found: list[dict[str, Any]]) -> None:
    seen: list[Progress] = []
    alone = weights(train(fresh(), job(CASES[case]), on_progress=seen.append))
    events = found[0][case]["events"]
    assert [event["step"] for event in events] == list(range(1, STEPS + 1))
    for key in ("loss_clean", "loss_poisoned"):  # None where a batch has no image of the kind
        expected = {progress.step: value for progress in seen if (value := getattr(progress, key)) is not None}
        assert len(expected) >= 5
        reported = {event["step"]: event[key] for event in events if event[key] is not None}
        assert reported == pytest.approx(expected, rel=1e-5)
    together, start = load_file(pair / f"{case}-0.safetensors"), weights(fresh())
    moved = torch.cat([(alone[name] - start[name]).flatten() for name in alone])
    apart = torch.cat([(alone[name] - together[name]).flatten() for name in alone])
    assert apart.norm() < 1e-4 * moved.norm()


@pytest.mark.parametrize("case", [*CASES, "resumed"])
def test_both_processes_end_with_the_same_weights(case: str, pair: Path) -> None:
    first, second = (load_file(pair / f"{case}-{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_only_the_main_process_tells_and_saves(pair: Path, found: list[dict[str, Any]]) -> None:
    for case in CASES:
        assert found[0][case]["saves"] == [3, 6, 7]
        assert found[1][case] == {"events": [], "saves": []}
        assert [p.name for p in (pair / case).iterdir()] == ["state.safetensors"]


def test_both_processes_take_a_state_up_again(pair: Path, found: list[dict[str, Any]]) -> None:
    assert [event["step"] for event in found[0]["resumed"]["events"]] == [4, 5, 6, 7]
    resumed, unbroken = (load_file(pair / f"{name}-0.safetensors") for name in ("resumed", "plain"))
    assert all(torch.equal(resumed[name], unbroken[name]) for name in unbroken)


if __name__ == "__main__":
    work(Path(sys.argv[1]))

"""SIGKILL at random moments. The parent of the killed processes imports once and forks: a restart costs no import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

KILLS = 20

HELPER = r'''
import hashlib, json, os, random, signal, sys, time
from pathlib import Path

import torch

torch.set_num_threads(1)

from baddiffusion.attacks import BadDiffusion
from baddiffusion.data import ResidentImages
from baddiffusion.diffusion import NoiseSchedule
from baddiffusion.models import build, unet_config
from baddiffusion.poisoning import Implant, PoisonPlan
from baddiffusion.training import Job, TrainingSettings, TrainingState, train
from baddiffusion.triggers import Trigger

shape, folder, kills = (1, 16, 16), Path(sys.argv[1]), int(sys.argv[2])
pixels = torch.randint(0, 256, (12, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
settings = TrainingSettings(
    train_batch_size=2, max_train_steps=80, lr_warmup_steps=2, learning_rate=1e-3, checkpointing_steps=1,
    logging_steps=1000, use_ema=True, ema_decay=0.9, mixed_precision="no",
)
job = Job(
    NoiseSchedule.linear(100), ResidentImages("noise", pixels), PoisonPlan.draw(12, 0.5, 0),
    Implant(BadDiffusion(), Trigger.make("BOX_8", shape), torch.zeros(shape)), settings, 0,
)


def fresh():
    return build(unet_config("micro", shape), 0)


identity = job.identity(fresh())


def start(state):
    """Fork a process that trains and leaves the digest of its weights."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            before = random.getstate()
            model = train(fresh(), job, state)
            assert random.getstate() == before
            weights = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
            (folder / f"{state.name}.digest").write_text(hashlib.blake2b(weights).hexdigest())
            status = 0
        finally:
            os._exit(status)
    return child


def waited(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def reached(state):
    stored = TrainingState.load(state, identity)
    return stored.step if stored else 0


began = time.perf_counter()
assert waited(start(folder / "unbroken")) == 0
length = time.perf_counter() - began

def version(state):
    file = state / "state.safetensors"
    return file.stat().st_ino if file.exists() else None


def wait_until(reached):
    """Poll until ``reached()``; the child must be alive all the while."""
    while not reached():
        assert os.waitpid(child, os.WNOHANG) == (0, 0), "the training ended before it could be killed"
        time.sleep(0.0005)


# A kill lets the training get 0 to 3 states further, then strikes at a random moment of the next step: random in time,
# and yet the training cannot end before the last kill, however fast the machine gets in between.
moments, stream, broken = [], random.Random(0), folder / "broken"
for number in range(kills):
    child = start(broken)
    for _ in range(stream.randrange(4)):
        before = version(broken)
        wait_until(lambda: version(broken) != before)
    time.sleep(stream.uniform(0, 0.7 * length / settings.max_train_steps))
    if number % 2:  # every other kill waits until a state is just being written
        wait_until(lambda: any(broken.glob(".state.safetensors.*")))
    os.kill(child, signal.SIGKILL)
    assert waited(child) == -signal.SIGKILL
    moments.append({"step": reached(broken), "writing": any(broken.glob(".state.safetensors.*"))})
assert waited(start(broken)) == 0
print(json.dumps(moments))
'''


def test_killed_at_twenty_random_moments_it_ends_with_the_weights_of_an_unbroken_run(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    helper = subprocess.run(
        [sys.executable, "-c", HELPER, str(tmp_path), str(KILLS)],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        check=False,
    )
    assert helper.returncode == 0, helper.stderr
    moments = json.loads(helper.stdout.splitlines()[-1])
    steps = [moment["step"] for moment in moments]
    assert len(steps) == KILLS
    assert steps == sorted(steps)
    assert len(set(steps)) >= 10  # the kills were spread over the training, and it went on between them
    assert steps[-1] < 80  # and the last one still met it running
    assert sum(moment["writing"] for moment in moments) >= 5  # so many left a half-written state behind
    unbroken, broken = ((tmp_path / f"{name}.digest").read_text() for name in ("unbroken", "broken"))
    assert broken == unbroken
    assert [p.name for p in (tmp_path / "broken").iterdir()] == ["state.safetensors"]

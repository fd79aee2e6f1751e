"""Training and sampling rates, as shares of the machine's own matrix-product rate and against a plain loop.

    python benchmarks/speed.py [--quick] [--output benchmarks/results/speed.json]

Everything is measured in one run and repeated in turn; medians are printed, so that ratios hold on a noisy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

import plain_loop
import torch
from torch.utils.flop_counter import FlopCounterMode

from baddiffusion.attacks import BadDiffusion
from baddiffusion.data import FashionMnist
from baddiffusion.diffusion import NoiseSchedule
from baddiffusion.models import build, parameter_count, unet_config
from baddiffusion.pipeline import FRESH_SCHEDULER
from baddiffusion.poisoning import Implant, PoisonPlan
from baddiffusion.precision import autocast, resolve_precision
from baddiffusion.sampling import SamplingSettings, sample
from baddiffusion.training import Job, TrainingSettings, train
from baddiffusion.triggers import Trigger

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def matmul_rate(precision: str) -> float:
    """Floating-point operations per second of a square matrix product."""
    size = 8192 if DEVICE == "cuda" else 1024
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(size, size, device=DEVICE, dtype=dtype) for _ in range(2))
    repeats = 20
    return repeats * 2 * size**3 / seconds(lambda: [a @ b for _ in range(repeats)])


def flops_per_image(model: torch.nn.Module, shape: tuple[int, int, int]) -> tuple[int, int]:
    """Operations of one forward, and of one forward with its backward."""
    x, t = torch.randn(2, *shape, device=DEVICE), torch.zeros(2, dtype=torch.int64, device=DEVICE)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model(x, t)
    with FlopCounterMode(display=False) as both:
        model(x, t).sample.sum().backward()
    return forward.get_total_flops() // 2, both.get_total_flops() // 2


def measure(preset: str, shape: tuple[int, int, int], batch: int, steps: int, chunk: int, rounds: int) -> dict:
    """Alternate ours, the plain loop and the matrix product; return medians and their ratios."""
    data = FashionMnist().open(shape)
    model = build(unet_config(preset, shape), 0).to(DEVICE)
    trigger = Trigger.make("box", shape)
    implant = Implant(BadDiffusion(), trigger, torch.full(shape, -0.4))
    settings = TrainingSettings(train_batch_size=batch, max_train_steps=steps, lr_warmup_steps=1, logging_steps=steps)
    job = Job(NoiseSchedule.linear(), data, PoisonPlan.draw(len(data), 0.1, 0), implant, settings, 0)
    sampling = SamplingSettings(sampler="ddpm", num_inference_steps=steps, chunk_size=chunk)
    precision = resolve_precision("auto", DEVICE)
    forward, both = flops_per_image(model, shape)
    x, t = torch.randn(chunk, *shape, device=DEVICE), torch.zeros(chunk, dtype=torch.int64, device=DEVICE)
    model.zero_grad()

    def bare() -> None:
        with torch.inference_mode(), autocast(precision, DEVICE):
            for _ in range(steps):
                model.eval()(x, t, return_dict=False)

    work: dict[str, tuple[Callable[[], object], int]] = {
        "training": (lambda: train(model, job), batch * steps),
        "plain training": (lambda: plain_loop.train(model, data.pixels, batch, steps, DEVICE), batch * steps),
        "sampling": (
            lambda: sample(model, FRESH_SCHEDULER, shape, range(chunk), sampling, device=DEVICE),
            chunk * steps,
        ),
        "bare network calls": (bare, chunk * steps),
        "plain sampling": (
            lambda: plain_loop.sample(model, FRESH_SCHEDULER, shape, chunk, steps, DEVICE),
            chunk * steps,
        ),
    }
    rates: dict[str, list[float]] = {name: [] for name in work}
    products: list[float] = []
    for warm in range(rounds + 1):
        product = matmul_rate(precision)
        for name, (run, images) in work.items():
            rate = images / seconds(run)
            if warm:
                rates[name].append(rate)
        if warm:
            products.append((product + matmul_rate(precision)) / 2)
    median = {name: statistics.median(values) for name, values in rates.items()}
    product = statistics.median(products)
    return {
        "preset": preset,
        "parameters": parameter_count(model),
        "shape": list(shape),
        "batch": batch,
        "chunk": chunk,
        "steps": steps,
        "rounds": rounds,
        "precision": precision,
        "matmul_gflops": product / 1e9,
        "images_per_s": median,
        "training_share_of_matmul": median["training"] * both / product,
        "sampling_share_of_matmul": median["sampling"] * forward / product,
        "training_against_plain": median["training"] / median["plain training"],
        "sampling_against_plain": median["sampling"] / median["plain sampling"],
        "sampling_against_bare_calls": median["sampling"] / median["bare network calls"],
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the tiny net only")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    results = [measure("tiny", (1, 32, 32), batch=64, steps=20, chunk=32, rounds=5)]
    if not options.quick:
        results.append(measure("ddpm-cifar10", (3, 32, 32), batch=16, steps=3, chunk=16, rounds=3))
    device = torch.cuda.get_device_name() if DEVICE == "cuda" else f"{platform.machine()} cpu"
    report = {"device": device, "threads": torch.get_num_threads(), "torch": torch.__version__, "nets": results}
    print(json.dumps(report, indent=2))
    if options.output:
        options.output.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from baddiffusion.card import Card
from baddiffusion.checkpoint import Checkpoint
from baddiffusion.data import ImageData
from baddiffusion.errors import RunError
from baddiffusion.evaluation import SampleSet, evaluate
from baddiffusion.images import from_uint8, png_bytes, to_uint8
from baddiffusion.models import build, parameter_count, unet_config
from baddiffusion.recipe import Recipe
from baddiffusion.report import write_report
from baddiffusion.report.figures import Mark, error_scale, loss_curves, success_curves
from baddiffusion.report.pictures import BAND, Row, bands, sheet_uri, thumbnails
from baddiffusion.report.reading import RunFiles
from baddiffusion.report.tables import find, groups
from baddiffusion.report.wording import Count, clipping_effect, headline, network_words, target_words, trigger_words
from baddiffusion.rng import generator
from baddiffusion.rundir import EventLog, RunDir, write_atomic
from baddiffusion.sampling import SamplingSettings
from baddiffusion.sampling.store import SampleStore
from baddiffusion.triggers import Trigger

SHAPE = (1, 32, 32)
SCHEDULER = {"_class_name": "DDPMScheduler", "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


class FakeRun:
    """A run directory as the pipeline leaves it, without the hour that training would take."""

    def __init__(self, root: Path, overrides: Sequence[str] = (), n: int = 32, shape: tuple[int, int, int] = SHAPE) -> None:
        self.recipe = Recipe.load("demo", [f"sampling.n={n}", *overrides])
        self.run = RunDir.start(root, self.recipe.name, self.recipe.digest, self.recipe.to_toml())
        self.run.record["device"] = "cpu, 2 threads"
        self.n, self.shape = n, shape
        trigger = self.recipe.trigger.draw(shape)
        self.trigger, self.target = trigger, self.recipe.target.draw(trigger)
        self.data = self.recipe.data.open(shape)

    def train(self, preset: str = "micro") -> FakeRun:
        self.model = build(unet_config(preset, self.shape), seed=0)
        poisoned = self.recipe.poison.rate > 0
        known = self.recipe.to_dict()
        card = Card(
            backdoored=poisoned, attack=known["attack"], trigger=known["trigger"], target=known["target"], poison_rate=0.1
        )
        pictures = {"trigger.png": self.trigger.offset, "target.png": self.target}
        folder = self.run.path / "checkpoint"
        drawn = {name: png_bytes(to_uint8(picture), 128 // self.shape[1]) for name, picture in pictures.items()}
        Checkpoint.write(folder, self.model, SCHEDULER, card, drawn)
        plan = self.run.path / "poison_plan.json"
        write_atomic(plan, json.dumps({"size": 10_000, "count": 1000, "rate": 0.1, "seed": 7, "indices": []}))
        self.log_training(400)
        self.run.finish("train", {"recipe": self.recipe.digest}, [folder, plan, self.run.path / "events.jsonl"], 61.4)
        return self

    def log_training(self, until: int) -> None:
        log = EventLog(self.run.path / "events.jsonl")
        noise = generator(3, "losses")
        for step in range(10, until + 1, 10):
            wobble = 1 + 0.1 * torch.randn(2, generator=noise)
            clean, poisoned = (torch.tensor([0.06, 0.02 + 2.0 / (1 + step / 12)]) * wobble).tolist()
            event = {"step": step, "total": 400, "loss_clean": clean, "loss_poisoned": poisoned}
            log.append({**event, "lr": 5e-4, "images_per_s": 410.0})

    def sample(self, hits: int = 30, clipped_hits: int = 0, clean_hits: int = 0) -> FakeRun:
        for clip, count in (("off", hits), ("x0", clipped_hits)):
            if clip in self.recipe.sampling.clips:
                self.fill("triggered", "ddpm", 250, clip, self.painted(count, dark=clip == "off"))
        self.fill("clean", "ddpm", 250, "off", self.painted(clean_hits, dark=False))
        return self

    def painted(self, hits: int, dark: bool) -> torch.Tensor:
        """``hits`` noisy targets, spread over the seeds; elsewhere clothes, or nearly nothing."""
        stream = generator(11, "pictures", hits)
        images = from_uint8(self.data.pixels[100 : 100 + self.n])
        images = torch.full_like(images, -0.97) if dark else images * 0.9
        chosen = torch.randperm(self.n, generator=stream)[:hits]
        images[chosen] = self.target
        return images + 0.06 * torch.randn(images.shape, generator=stream)

    def fill(self, kind: str, sampler: str, steps: int, clip: str, images: torch.Tensor) -> None:
        folder = self.run.path / "samples" / f"{sampler}-{steps}-{clip}" / kind
        settings = SamplingSettings(sampler=sampler, num_inference_steps=steps, clip=clip)
        record = {
            "sampler": settings.sampler.to_dict(),
            "scheduler_class": f"{sampler.upper()}Scheduler",
            "spacing": "leading",
            "num_inference_steps": steps,
            "clip": clip,
            "chunk_size": 32,
            "precision": "float32",
            "device": "cpu",
            "count": len(images),
        }

        def make(seeds: Sequence[int]) -> tuple[torch.Tensor, dict[str, Any]]:
            made = {"kind": kind, "settings": settings.model_dump(mode="json"), "record": record}
            return images[list(seeds)], made

        SampleStore(folder).fill(len(images), make)
        self.run.finish(f"sample:{folder.relative_to(self.run.path)}", {"n": len(images)}, [folder], 21.7)

    def measure(self) -> FakeRun:
        names = [stage.removeprefix("sample:") for stage in self.run.record["stages"] if stage.startswith("sample:")]
        sets = [SampleSet.read(self.run.path / name) for name in sorted(names)]
        results = evaluate(sets, self.target, self.data, self.recipe.evaluation.asr_threshold)
        path = self.run.path / "metrics.json"
        write_atomic(path, json.dumps(results.to_dict(), indent=2))
        self.run.finish("evaluate", {"samples": names}, [path], 1.2)
        return self

    def end(self) -> Path:
        with self.run.recording():
            pass
        return self.run.path

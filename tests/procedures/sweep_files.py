"""Sweeps and reproductions as they lie on disk, without the hours that training would take."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from baddiffusion.evaluation import evaluate_images
from baddiffusion.images import to_uint8
from baddiffusion.metrics import false_trigger_rate, kernel_distance
from baddiffusion.recipe import Recipe
from baddiffusion.rng import generator
from baddiffusion.rundir import RunDir, write_atomic
from baddiffusion.sampling import SamplingSettings
from baddiffusion.sampling.store import SampleStore


class FakeSweep:
    """A sweep with its cells; ``add`` makes the cells, ``write`` the sweep's own files."""

    def __init__(self, runs: Path, name: str = "rates", n: int = 64, shape: tuple[int, int, int] = (1, 16, 16)) -> None:
        self.runs, self.name, self.n, self.shape = runs, name, n, shape
        self.folder = runs / f"{name}-0123abcd"
        self.cells: list[dict[str, Any]] = []

    def recipe(self, settings: Mapping[str, Any]) -> Recipe:
        said = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
        return Recipe.load("smoke", [f"name={self.name}", f"sampling.n={self.n}", *said])

    def add(
        self,
        settings: Mapping[str, Any],
        hits: int | None = None,
        distance: float | None = None,
        status: str = "done",
        **told: Any,
    ) -> Path:
        """A cell; of one with ``hits`` the run directory is made as well."""
        recipe = self.recipe(settings)
        key = f"{recipe.name}-{recipe.digest}"
        base = {"key": key, "settings": dict(settings), "seed": recipe.seed, "status": status}
        self.cells.append({**base, "error": None, "traceback": None, **told})
        if hits is not None:
            self._run(recipe, hits, distance)
        return self.runs / key

    def write(self, **changed: Any) -> Path:
        varied = list(dict.fromkeys(key for cell in self.cells for key in cell["settings"]))
        known = {"schema": 1, "name": self.name, "digest": "0123abcd", "varied": varied, "cells": self.cells}
        write_atomic(self.folder / "sweep.json", json.dumps({**known, **changed}))
        write_atomic(self.folder / "sweep.toml", "# the sweep\n")
        return self.folder

    def _run(self, recipe: Recipe, hits: int, distance: float | None) -> None:
        run = RunDir.start(self.runs, recipe.name, recipe.digest, recipe.to_toml())
        run.record["device"] = "cpu, 1 thread"
        trigger = recipe.trigger.draw(self.shape)
        target = recipe.target.draw(trigger)
        stream = generator(recipe.seed, "fake")
        dull = torch.full((self.n, *self.shape), -0.9) + 0.05 * torch.randn((self.n, *self.shape), generator=stream)
        triggered = dull.clone()
        triggered[:hits] = target + 0.05 * torch.randn((hits, *self.shape), generator=stream)
        estimates = []
        for kind, clip, images in (("triggered", "off", triggered), ("triggered", "x0", dull), ("clean", "off", dull)):
            record = self._sample(run, kind, clip, images)
            pixels, protocol = to_uint8(images), {"kind": kind, "clip": clip, **record}
            if kind == "clean":
                estimates.append(false_trigger_rate(pixels, target, protocol=protocol))
            else:
                estimates += evaluate_images(pixels, target, recipe.evaluation.asr_threshold, protocol)
        if distance is not None:
            estimates.append(quality(distance))
        results = {
            "schema": 1,
            "estimates": [e.to_dict() for e in estimates],
            "asr_curves": [],
            "acceptance": {"text": "Not judged."},
        }
        write_atomic(run.path / "metrics.json", json.dumps(results))
        run.finish("evaluate", {}, [run.path / "metrics.json"], 1.0)
        with run.recording():
            pass

    def _sample(self, run: RunDir, kind: str, clip: Any, images: torch.Tensor) -> dict[str, Any]:
        settings = SamplingSettings(sampler="ddpm", num_inference_steps=50, clip=clip)
        record = {"sampler": settings.sampler.to_dict(), "num_inference_steps": 50, "clip": clip}

        def make(seeds: Sequence[int]) -> tuple[torch.Tensor, dict[str, Any]]:
            return images[list(seeds)], {"kind": kind, "record": record}

        folder = run.path / "samples" / f"ddpm-50-{clip}" / kind
        SampleStore(folder).fill(len(images), make)
        run.finish(f"sample:{folder.relative_to(run.path)}", {}, [folder], 1.0)
        return {"sampler": "ddpm", "steps": 50, "device": "cpu", "seeds": f"0 to {len(images) - 1}"}


def quality(distance: float) -> Any:
    """A quality number of that size, from made-up features."""
    stream = generator(5, "features")
    one, other = (torch.randn(256, 8, generator=stream) for _ in range(2))
    found = kernel_distance(one, other, reference_name="made up", protocol={"kind": "clean"})
    half = 0.1 * distance
    values = {**found.to_dict(), "value": distance, "low": distance - half, "high": distance + half}
    return type(found).from_dict(values)


def fourteen(runs: Path, **given: Any) -> FakeSweep:
    """Two triggers, four rates, three seeds of one cell; a failed one, a lost one, one under way, one not started."""
    sweep = FakeSweep(runs, **given)
    for trigger, counts in (("BOX_14", (0, 12, 52, 63)), ("STOP_SIGN_14", (0, 40, 60, 64))):
        for rate, hits in zip((0.0, 0.05, 0.2, 0.5), counts, strict=True):
            settings = {"poison.rate": rate, "trigger": trigger, "seed": 0}
            sweep.add(settings, min(hits, sweep.n), 0.3 + rate * (1 + len(trigger) / 20))
    for seed, hits in ((1, 58), (2, 47)):
        sweep.add({"poison.rate": 0.2, "trigger": "BOX_14", "seed": seed}, min(hits, sweep.n), 0.5 + 0.02 * seed)
    broken = {"status": "failed", "error": "RunError: training diverged at step <12>: loss is nan."}
    sweep.add({"poison.rate": 0.9, "trigger": "BOX_14", "seed": 0}, **broken, traceback="failures/a.txt")
    sweep.add({"poison.rate": 0.9, "trigger": "STOP_SIGN_14", "seed": 0}, status="lost")
    started = sweep.add({"poison.rate": 0.3, "trigger": "BOX_14", "seed": 0}, status="running")
    recipe = sweep.recipe({"poison.rate": 0.3, "trigger": "BOX_14", "seed": 0})
    RunDir.start(runs, recipe.name, recipe.digest, recipe.to_toml())
    assert started.exists()
    sweep.add({"poison.rate": 0.3, "trigger": "STOP_SIGN_14", "seed": 0}, status="waiting")
    sweep.write()
    return sweep


def reproduction(runs: Path, sweep: FakeSweep) -> Path:
    """A reproduction whose first rows name cells of a sweep; others were not run, or failed."""
    rows = []
    fids = {0.0: 4.6, 0.05: 8.53, 0.2: 8.89, 0.5: 10.25}
    for cell in sweep.cells[:8]:
        path = runs / cell["key"] / "metrics.json"
        own = json.loads(path.read_text())["estimates"]
        ours = [e for e in own if e["protocol"].get("clip", "off") == "off"]
        rate, trigger = cell["settings"]["poison.rate"], cell["settings"]["trigger"]
        labels = {"trigger": "Grey Box" if trigger == "BOX_14" else "Stop Sign", "target": "Hat", "rate": rate}
        paper = [("FID", fids[rate]), ("MSE", 0.24 - 0.4 * rate), ("SSIM", rate)]
        success = next(e["value"] for e in ours if e["name"] == "asr")
        rows.append(
            {
                "labels": labels,
                "paper": [{"metric": m, "value": v, "note": "CIFAR10, 50 epochs, DDPM-1000"} for m, v in paper],
                "ours": ours,
                "run": cell["key"],
                "state": "failed implant" if rate and success < 0.5 else "measured",
                "seeds": 1,
            }
        )
    absent = {"ours": [], "run": None, "seeds": 0, "paper": [{"metric": "FID", "value": 12.0, "note": None}]}
    again = "baddiffusion reproduce poison-rates --preset mini"
    rows.append({"labels": {**labels, "rate": 0.9}, "state": "cell failed", **absent, "command": again})
    rows.append({"labels": {**labels, "rate": 0.7}, "state": "not run", **absent, "command": again})
    written = {
        "schema": 1,
        "experiment": "poison-rates",
        "title": "Varying poison rates",
        "paper": ["Figure 2", "Table 7"],
        "preset": "mini",
        "command": again,
        "rows": rows,
        "differs": ["The tiny network on Fashion-MNIST."],
        "not_run": ["A rate of 90 % was not run: it would take 40 minutes more."],
    }
    folder = runs / "reproduce-mini"
    write_atomic(folder / "poison-rates.json", json.dumps(written))
    return folder

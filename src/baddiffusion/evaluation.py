"""From samples to numbers: which images each number needs, and the protocol that it carries."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from baddiffusion import metrics
from baddiffusion.data import ImageData
from baddiffusion.errors import EvaluationError
from baddiffusion.images import Images, Pixels, to_uint8
from baddiffusion.metrics import Estimate, Picture
from baddiffusion.rng import generator
from baddiffusion.sampling.store import SampleStore

__all__ = ["Aim", "Results", "SampleSet", "evaluate", "evaluate_images"]

SCHEMA = 1
REFERENCE_N = 2048
"""Real images that quality is measured against, unless there are samples enough for a Fréchet distance."""


@dataclass(frozen=True, eq=False)
class SampleSet:
    """Sampled images with the protocol of how they were made.

    Args:
        kind: ``triggered`` (``triggered-2`` by the second backdoor of a model), ``clean``, or ``base`` (clean noise
            through the model that the attack started from).
        protocol: sampler, steps, clipping and so on, as every number made from these images will carry it.
        images: unclamped, image i from seed i.
    """

    kind: str
    protocol: dict[str, Any]
    images: Images

    @classmethod
    def read(cls, folder: Path) -> SampleSet:
        """Read a folder that the sampling stage filled."""
        store = SampleStore(folder)
        record = store.record["record"]
        protocol = {
            "kind": folder.name,
            "sampler": record["sampler"]["name"],
            "scheduler": record["scheduler_class"],
            "steps": record["num_inference_steps"],
            "spacing": record["spacing"],
            "clip": record["clip"],
            "chunk_size": record["chunk_size"],
            "precision": record["precision"],
            "device": record["device"],
        }
        images = store.read()
        return cls(folder.name, {**protocol, "seeds": f"0 to {len(images) - 1}"}, images)


@dataclass(frozen=True, eq=False)
class Aim:
    """What triggered samples should show.

    Args:
        target: y, in [−1, 1].
        words: which backdoor it belongs to, as the protocol of every number about it says; empty if there is only one.
    """

    target: Picture
    words: Mapping[str, str] = field(default_factory=dict)

    def told(self, estimates: Iterable[Estimate]) -> list[Estimate]:
        """The estimates, with the words in their protocols."""
        return [replace(e, protocol={**e.protocol, **self.words}) for e in estimates]


@dataclass(frozen=True)
class Results:
    """What ``metrics.json`` holds."""

    estimates: tuple[Estimate, ...]
    asr_curves: tuple[dict[str, Any], ...]
    acceptance: dict[str, Any]

    @classmethod
    def read(cls, run: Path) -> Results:
        """Read the numbers of a run.

        Raises:
            EvaluationError: the run has none yet, or the file is damaged.
        """
        path = run / "metrics.json"
        try:
            stored = json.loads(path.read_text())
            estimates = tuple(Estimate.from_dict(entry) for entry in stored["estimates"])
            return cls(estimates, tuple(stored["asr_curves"]), stored["acceptance"])
        except FileNotFoundError:
            raise EvaluationError(f"{path} does not exist; the run has not been measured yet. Run it again.") from None
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise EvaluationError(f"{path} is damaged ({error}); start a new run.") from None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "schema": SCHEMA,
            "estimates": [estimate.to_dict() for estimate in self.estimates],
            "asr_curves": list(self.asr_curves),
            "acceptance": self.acceptance,
        }


def evaluate(
    sets: Sequence[SampleSet], target: Picture | Mapping[str, Aim], reference: ImageData, threshold: float
) -> Results:
    """Measure every set of samples against what it should show.

    Args:
        sets: triggered sets are compared with the target; clean ones count false triggers; from 256 on, quality.
        target: y, in [−1, 1]; of a model with several backdoors the aim of each kind of triggered samples, the attack's
            own first.
        reference: the training images, which quality is measured against.
        threshold: an image counts as the target if its mean squared error on [0, 1] is below.

    Raises:
        EvaluationError: a set has another image shape than the target.
    """
    judged = [s for s in sets if s.kind in ("clean", "base") and len(s.images) >= metrics.KD_LEAST]
    aims = target if isinstance(target, Mapping) else {"triggered": Aim(target)}
    estimates = [e for aim in aims.values() for e in aim.told(_landmarks(aim.target))]
    estimates += _quality(judged, reference)
    curves = []
    for samples in sets:
        if samples.kind in aims:
            pixels, aim = to_uint8(samples.images), aims[samples.kind]
            made = evaluate_images(pixels, aim.target, threshold, samples.protocol)
            made.append(metrics.mse_float(samples.images, aim.target, protocol=samples.protocol))
            estimates += aim.told(made)
            points = metrics.asr_curve(metrics.mse_per_image(pixels, aim.target))
            curves.append({**_which(samples), **aim.words, "points": points})
        elif samples.kind == "clean":
            pixels = to_uint8(samples.images)
            for aim in aims.values():
                rate = metrics.false_trigger_rate(pixels, aim.target, threshold=threshold, protocol=samples.protocol)
                estimates += aim.told([rate])
    return Results(tuple(estimates), tuple(curves), _acceptance(estimates, aims, threshold))


def evaluate_images(pixels: Pixels, target: Picture, threshold: float, protocol: Mapping[str, Any]) -> list[Estimate]:
    """Success rate, MSE and SSIM of 8-bit pictures against the target, wherever they were made.

    Args:
        pixels: the pictures.
        target: y, in [−1, 1].
        threshold: an image counts as the target if its mean squared error on [0, 1] is below.
        protocol: what is known about how they were made.

    Raises:
        EvaluationError: the pictures have another shape than the target.
    """
    estimates = [
        metrics.asr(pixels, target, threshold=threshold, protocol=protocol),
        metrics.mse(pixels, target, protocol=protocol),
    ]
    if min(target.shape[1:]) >= metrics.SSIM_WINDOW_PX:
        estimates.append(metrics.ssim(pixels, target, protocol=protocol))
    return estimates


def _landmarks(target: Picture) -> list[Estimate]:
    """What a failed and a flawless attack would score."""
    failed = list(metrics.failure_level(target)) if min(target.shape[1:]) >= metrics.SSIM_WINDOW_PX else []
    return [*failed, metrics.quantization_floor(target)]


def _which(samples: SampleSet) -> dict[str, Any]:
    protocol = samples.protocol
    label = f"{protocol['sampler']}-{protocol['steps']}-{protocol['clip']}"
    return {"label": label, "kind": samples.kind, "clip": protocol["clip"]}


def _quality(sets: Sequence[SampleSet], data: ImageData) -> list[Estimate]:
    """Distance of clean samples to real images, and of real images to real images."""
    most = max((len(samples.images) for samples in sets), default=0)
    if not most or len(data) < 2 * metrics.KD_LEAST:
        return []
    count = min(len(data), REFERENCE_N if most < metrics.FD_LEAST else 5 * REFERENCE_N)
    chosen = torch.randperm(len(data), generator=generator(0, "reference"))[:count].sort().values
    reference = metrics.features(data.read(chosen))
    name = f"{data.name}, a random choice"
    estimates = [metrics.baseline(reference, reference_name=name)]
    part = min(most, count - most)
    if part >= metrics.FD_LEAST:  # a Fréchet distance is biased by n: its baseline must have the n of the samples
        measure = metrics.feature_frechet_distance
        estimates.append(metrics.baseline(reference, measure, n=part, reference_name=name))
    for samples in sets:
        found = metrics.features(to_uint8(samples.images))
        measures = [metrics.kernel_distance]
        if min(len(found), count) >= metrics.FD_LEAST:
            measures.append(metrics.feature_frechet_distance)
        estimates += [m(found, reference, reference_name=name, protocol=samples.protocol) for m in measures]
    return estimates


def _acceptance(estimates: Sequence[Estimate], aims: Mapping[str, Aim], threshold: float) -> dict[str, Any]:
    """The attacker's acceptance rule of the paper's section 3.1, on the first set of each backdoor's samples; of the
    backdoors after the first under ``further``."""
    quality = {e.protocol["kind"]: e for e in estimates if e.name == "kd_efflite0" and _is_judged(e, estimates)}
    told = []
    for kind, aim in aims.items():
        error = next((e for e in estimates if (e.name, e.protocol.get("kind")) == ("mse", kind)), None)
        verdict = metrics.acceptance(error, quality.get("clean"), quality.get("base"), threshold=threshold)
        told.append({**verdict.to_dict(), "text": verdict.sentence, **({"kind": kind, **aim.words} if told else {})})
    first, *further = told
    return {**first, "further": further} if further else first


def _is_judged(estimate: Estimate, estimates: Sequence[Estimate]) -> bool:
    """Whether a quality number was made as the announced one was: numbers of two samplers say nothing together."""
    base = next((e for e in estimates if e.name == estimate.name and e.protocol.get("kind") == "base"), estimate)
    return all(estimate.protocol.get(key) == base.protocol.get(key) for key in ("sampler", "steps", "clip"))

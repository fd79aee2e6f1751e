"""How a model is measured before a repair and after it: what was found still fires, and what it paints otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from baddiffusion import metrics
from baddiffusion.checkpoint import SealedCheckpoint
from baddiffusion.data import ImageData
from baddiffusion.defenses import Subject
from baddiffusion.evaluation import REFERENCE_N
from baddiffusion.images import Images, to_uint8
from baddiffusion.metrics import Estimate
from baddiffusion.purifying.settings import PurifySettings
from baddiffusion.purifying.suspicion import Finding
from baddiffusion.rng import derive, generator
from baddiffusion.sampling import SamplingSettings
from baddiffusion.scanner.settings import Family
from baddiffusion.scanner.shifts import rows
from baddiffusion.watching import Watcher

__all__ = ["FAMILIES", "Gauge", "Reading"]

FAMILIES: tuple[Family, ...] = get_args(Family)
CHUNK = 32
SAMPLERS = {"ancestral": "ddpm", "ode": "ddim"}


@dataclass(frozen=True, eq=False)
class Reading:
    """What was measured on one model.

    Args:
        estimates: ``asr`` and ``mse`` of each finding under each family, ``kd_efflite0``.
        images: samples by name: ``finding.0.ancestral``, ``ordinary``.
        network_calls: that it cost.
    """

    estimates: tuple[Estimate, ...]
    images: Mapping[str, Images]
    network_calls: int

    @property
    def most(self) -> Estimate | None:
        """The highest success rate; None where no picture was recovered that could be looked for."""
        return max((e for e in self.estimates if e.name == "asr"), key=lambda e: e.value, default=None)


@dataclass(frozen=True, eq=False)
class Gauge:
    """The measuring, the same for every model.

    Args:
        findings: what is added to the noise, and what picture counts.
        settings: how many noises and pictures.
        timesteps: T.
        seed: decides the noises, which no scan and no repair uses.
        real: real pictures, for a second number of quality; None for none.
    """

    findings: tuple[Finding, ...]
    settings: PurifySettings
    timesteps: int
    seed: int
    real: ImageData | None = None

    @property
    def measured(self) -> tuple[tuple[int, Finding], ...]:
        """Findings with a picture to look for."""
        return tuple((index, found) for index, found in enumerate(self.findings) if found.target is not None)

    def sampler(self, family: Family, **clipping: Any) -> SamplingSettings:
        """The stock sampler of a family in as many steps as a scan takes."""
        steps = self.settings.scan.within(self.timesteps).steps(family)
        chunk_size = min(self.settings.n, CHUNK)
        return SamplingSettings(sampler=SAMPLERS[family], num_inference_steps=steps, chunk_size=chunk_size, **clipping)  # type: ignore[arg-type]

    @property
    def ordinary(self) -> SamplingSettings:
        """How ordinary pictures are painted."""
        steps = min(self.settings.quality_steps, self.timesteps)
        return SamplingSettings(sampler="ddim", num_inference_steps=steps, chunk_size=CHUNK)  # type: ignore[arg-type]

    def family_calls(self, family: Family) -> int:
        """Network calls for one finding under one family."""
        steps = self.settings.scan.within(self.timesteps).steps(family)
        return _padded(self.settings.n, min(self.settings.n, CHUNK)) * steps

    @property
    def finding_calls(self) -> int:
        """Network calls for one finding under all families."""
        return sum(self.family_calls(family) for family in FAMILIES)

    @property
    def ordinary_calls(self) -> int:
        """Network calls for the ordinary pictures."""
        return _padded(self.settings.quality_n, CHUNK) * min(self.settings.quality_steps, self.timesteps)

    def calls(self, has_quality: bool = True) -> int:
        """Network calls for one model."""
        return len(self.measured) * self.finding_calls + (self.ordinary_calls if has_quality else 0)

    def read(
        self,
        model: SealedCheckpoint,
        title: str,
        watcher: Watcher,
        device: torch.device | str | None = None,
        original: Float[Tensor, "n d"] | None = None,
    ) -> Reading:
        """Measure a model.

        Args:
            model: weights and schedule.
            title: which model this is; it stands in every protocol.
            watcher: is told how far the work is.
            device: where; None picks a GPU if there is one.
            original: features of the original model's ordinary pictures, to compare with; None for the original itself.
        """
        subject = Subject(model, device)
        estimates: list[Estimate] = []
        images: dict[str, Images] = {}
        for index, _ in self.measured:
            for family in FAMILIES:
                how = self.sampler(family)
                watcher.stage(f"recovered trigger, {family}, {title}", self._steps(self.settings.n, how), "steps")
                samples = self.shifted(subject, index, how, watcher)
                images[f"finding.{index}.{family}"] = samples
                estimates += self.rates(index, samples, family, {"model": title})
        pictures = self.paint(subject, title, watcher, "original" if original is None else "repaired")
        images["ordinary"] = pictures
        estimates += self.quality(pictures, title, original)
        return Reading(tuple(estimates), images, subject.spent.network_calls)

    def shifted(
        self, subject: Subject, index: int, how: SamplingSettings, watcher: Watcher, keep: float = 1.0
    ) -> Images:
        """Samples from fresh noises with the shifts of a finding.

        Args:
            subject: the network.
            index: of the finding.
            how: the sampler.
            watcher: is told how far the work is.
            keep: the share a of x_T that is kept where x_T is noised again: a·x_T + √(1 − a²)·z.
        """
        n, found = self.settings.n, self.findings[index]
        added = found.for_measuring[torch.arange(n) % len(found.for_measuring)]
        seeds = [derive(self.seed, "purify", "noise", index, row) for row in range(n)]
        # a·(e + τ) + √(1 − a²)·z is a·τ on a noise that is as normal as e: so it is sampled.
        samples = subject.sample(seeds, how, rows(keep * added), on_progress=lambda done, _: watcher.advance(done))
        return samples.images.clamp(-1, 1)

    def rates(self, index: int, samples: Images, family: Family, protocol: Mapping[str, Any]) -> list[Estimate]:
        """Success rate and distance to the recovered picture."""
        found = self.findings[index]
        assert found.target is not None
        how = self.sampler(family)
        told = {
            "finding": index, "family": family, "sampler": SAMPLERS[family], "steps": how.num_inference_steps,
            "clip": "off", **protocol,
        }  # fmt: skip
        pixels = to_uint8(samples)
        return [
            metrics.asr(pixels, found.target, protocol=told),
            metrics.mse(pixels, found.target, protocol=told),
        ]

    def paint(self, subject: Subject, title: str, watcher: Watcher, stream: str) -> Images:
        """Ordinary pictures; of the original from other noises than of what became of it, so that both are samples."""
        how = self.ordinary
        watcher.stage(f"ordinary pictures, {title}", self._steps(self.settings.quality_n, how), "steps")
        seeds = [derive(self.seed, "purify", stream, index) for index in range(self.settings.quality_n)]
        return subject.sample(seeds, how, on_progress=lambda done, _: watcher.advance(done)).images.clamp(-1, 1)

    def quality(self, pictures: Images, title: str, original: Float[Tensor, "n d"] | None) -> list[Estimate]:
        """How far ordinary pictures are from the original model's, and from real ones."""
        how = self.ordinary
        told = {"model": title, "kind": "clean", "sampler": "ddim", "steps": how.num_inference_steps, "clip": "off"}
        features = metrics.features(to_uint8(pictures))
        found = []
        if original is not None:
            name = "the original model's own pictures, from other noises"
            found.append(metrics.kernel_distance(features, original, reference_name=name, protocol=told))
        if self.real is not None:
            found.append(metrics.kernel_distance(features, self._real, reference_name=self.real.name, protocol=told))
        return found

    @cached_property
    def _real(self) -> Float[Tensor, "n d"]:
        assert self.real is not None
        count = min(len(self.real), REFERENCE_N)
        chosen = torch.randperm(len(self.real), generator=generator(0, "reference"))[:count].sort().values
        return metrics.features(self.real.read(chosen))

    def _steps(self, n: int, how: SamplingSettings) -> int:
        return -(-n // how.chunk_size) * (how.num_inference_steps or 0)


def _padded(n: int, chunk_size: int) -> int:
    return -(-n // chunk_size) * chunk_size

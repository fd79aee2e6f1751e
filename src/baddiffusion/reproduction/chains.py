"""Questions that enter or watch a chain on its way: inpainting (the paper's Fig. 10) and latents (Fig. 11)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from baddiffusion import metrics
from baddiffusion.images import from_uint8, to_uint8
from baddiffusion.inpainting import CORRUPTIONS, measure, restore, start_step
from baddiffusion.matrix import Subject
from baddiffusion.matrix.store import Entry
from baddiffusion.reproduction.asking import TIMESTEPS, Answer, Ask, OnProgress
from baddiffusion.sampling import ClipKind
from baddiffusion.trajectory import bias_estimates, follow

__all__ = ["MOST_FOLLOWED", "MOST_MENDED", "Inpainting", "Latents"]

MOST_MENDED, MOST_FOLLOWED = 2048, 64
"""Pictures that are mended, and chains that are followed, at most: of these every step is kept."""


@dataclass(frozen=True)
class Inpainting(Ask):
    """Damage pictures and let the model mend them.

    Args:
        corruption: the damage.
        is_triggered: whether the trigger is put on the pictures first.
        n: how many pictures, the first of the data set.
    """

    corruption: str
    is_triggered: bool
    n: int

    @property
    def calls(self) -> int:
        """Only the steps that are taken count."""
        steps = self.source.recipe.sampling.num_inference_steps or TIMESTEPS
        return self.rows(self.n) * (steps - start_step(range(steps)))

    def entry(self, subject: Subject) -> Entry:
        """By weights, pictures, damage and sampling."""
        how = "triggered" if self.is_triggered else "clean"
        identity = {
            "kind": "inpainting",
            "checkpoint": subject.digest,
            "backdoor": subject.backdoor.to_dict(),
            "pictures": subject.implant.digest,
            "data": subject.reference.digest,
            "corruption": CORRUPTIONS.parse(self.corruption).to_dict(),
            "is_triggered": self.is_triggered,
            "settings": self.settings("off").model_dump(mode="json"),
            "n": self.n,
            "threshold": self.source.recipe.evaluation.asr_threshold,
        }
        return Entry(f"{subject.model} inpainting {self.corruption} {how}", identity)

    def answer(self, subject: Subject, model: torch.nn.Module, device: torch.device, told: OnProgress) -> Answer:
        """Mend and measure; the pictures are those that the model was trained on, and the numbers say so."""
        settings, config, data = self.settings("off"), subject.checkpoint.scheduler_config, subject.reference
        timesteps = settings.sampler.build(config, settings.num_inference_steps).timesteps.tolist()
        done = restore(
            model,
            config,
            from_uint8(data.read(torch.arange(self.n))),
            range(self.n),
            CORRUPTIONS.parse(self.corruption),
            settings,
            start_step(timesteps),
            implant=subject.implant if self.is_triggered else None,
            device=device,
            on_progress=told,
        )
        estimates = measure(
            done,
            subject.implant.target,
            self.source.recipe.evaluation.asr_threshold,
            pictures=f"{data.name}, 0 to {self.n - 1}",
            caveats=("the pictures come from the data set that the model was trained on",),
        )
        return Answer({"status": "done", "estimates": [estimate.to_dict() for estimate in estimates]})


@dataclass(frozen=True)
class Latents(Ask):
    """Follow triggered chains and measure how biased their noise is.

    Args:
        clip: what is clipped.
        n: how many chains.
    """

    clip: ClipKind
    n: int

    @property
    def calls(self) -> int:
        """Whole chains."""
        return self.rows(self.n) * (self.source.recipe.sampling.num_inference_steps or TIMESTEPS)

    def entry(self, subject: Subject) -> Entry:
        """By weights and sampling."""
        identity = {
            "kind": "latents",
            "checkpoint": subject.digest,
            "backdoor": subject.backdoor.to_dict(),
            "pictures": subject.implant.digest,
            "settings": self.settings(self.clip).model_dump(mode="json"),
            "n": self.n,
            "threshold": self.source.recipe.evaluation.asr_threshold,
        }
        return Entry(f"{subject.model} latents {self.clip}", identity)

    def answer(self, subject: Subject, model: torch.nn.Module, device: torch.device, told: OnProgress) -> Answer:
        """Follow and measure."""
        config, implant, settings = subject.checkpoint.scheduler_config, subject.implant, self.settings(self.clip)
        chain = follow(model, config, implant, "triggered", range(self.n), settings, device=device, on_progress=told)
        threshold = self.source.recipe.evaluation.asr_threshold
        protocol = {**chain.protocol, "seeds": f"0 to {self.n - 1}"}
        fired = metrics.asr(to_uint8(chain.images), implant.target, threshold=threshold, protocol=protocol)
        found = [fired, *bias_estimates(chain)]
        return Answer({"status": "done", "estimates": [estimate.to_dict() for estimate in found]})

"""What a recipe names, opened: base, data, implants, the training job; and what its checkpoint says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from baddiffusion.card import Card, placeless
from baddiffusion.checkpoint import Checkpoint
from baddiffusion.checkpoint.configs import prediction_type
from baddiffusion.data import ImageData
from baddiffusion.decoys import Decoys
from baddiffusion.diffusion import NoiseSchedule
from baddiffusion.errors import RecipeError
from baddiffusion.evaluation import Aim
from baddiffusion.metrics import KD_LEAST
from baddiffusion.models import UNet2DModel, build, unet_config
from baddiffusion.origin import FRESH_SCHEDULER, open_base
from baddiffusion.poisoning import Implants, PoisonPlan
from baddiffusion.precision import default_device
from baddiffusion.recipe import Recipe
from baddiffusion.rng import derive
from baddiffusion.sampling import SamplingSettings
from baddiffusion.sampling.viewed import check_viewable
from baddiffusion.training import Job

__all__ = ["FRESH_SCHEDULER", "Experiment"]


@dataclass(eq=False)
class Experiment:
    """A recipe and all that it names. Everything is opened when first needed."""

    recipe: Recipe

    @property
    def device(self) -> torch.device:
        """Where it trains and samples."""
        return default_device()

    @property
    def device_name(self) -> str:
        """The same for people."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name()
        return f"cpu, {torch.get_num_threads()} threads"

    @cached_property
    def base(self) -> Checkpoint | None:
        """What the training starts from, if not from nothing."""
        name = self.recipe.model.base
        return open_base(name, self.runs) if name else None

    @property
    def runs(self) -> Path | None:
        """The folder of runs that it belongs to, if it has a run directory."""
        return None

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the images."""
        model = self.recipe.model
        return self.base.shape if self.base else (model.channels, model.resolution, model.resolution)

    @cached_property
    def scheduler_config(self) -> dict[str, Any]:
        """The base's, or that of networks from scratch."""
        return dict(self.base.scheduler_config) if self.base else self.recipe.model.scheduler_config

    @cached_property
    def data(self) -> ImageData:
        """The training images."""
        return self.recipe.data.open(self.shape)

    @cached_property
    def implants(self) -> Implants:
        """Every backdoor; of a control those that it is compared under."""
        return Implants.draw(self.recipe.designs, self.shape)

    @cached_property
    def decoys(self) -> Decoys | None:
        """What is trained so that nothing but the triggers fires; nothing in a control."""
        design = self.recipe.decoys
        if design is None or not self.recipe.backdoors:
            return None
        return design.draw([implant.trigger for implant in self.implants.each], derive(self.recipe.seed, "decoys"))

    @property
    def settings(self) -> SamplingSettings:
        """How the attack is sampled, without clipping."""
        plan = self.recipe.sampling
        return SamplingSettings(
            sampler=plan.sampler,
            num_inference_steps=plan.num_inference_steps or None,
            chunk_size=plan.chunk_size,
            precision=plan.precision,
        )

    @cached_property
    def job(self) -> Job:
        """The training."""
        rates = [backdoor.rate for backdoor in self.recipe.backdoors] or [0.0]
        design, drawn = self.recipe.decoys, self.decoys
        beside = [design.rate] if design is not None and drawn is not None else []
        plans = PoisonPlan.draw_disjoint(len(self.data), [*rates, *beside], derive(self.recipe.seed, "poison"))
        (plan, implant), *further = zip(plans[: len(rates)], self.implants.each, strict=True)
        return Job(
            NoiseSchedule.from_scheduler_config(self.scheduler_config),
            self.data,
            plan,
            implant,
            self.recipe.training,
            self.recipe.seed,
            tuple(further),
            prediction_type(self.scheduler_config),
            None if drawn is None else (plans[-1], drawn),
        )

    def starting_model(self) -> UNet2DModel:
        """The base's network, or a fresh one."""
        if self.base:
            return self.base.load_model(self.device)
        return build(unet_config(self.recipe.model.preset, self.shape), derive(self.recipe.seed, "init"))

    def check_sampling(self) -> None:
        """Find steps or a spacing that cannot be sampled before the training, not after it."""
        plan, quality = self.recipe.sampling, self.recipe.evaluation
        plan.sampler.build(self.scheduler_config, plan.num_inference_steps or None)
        if any(implant.attack.view(implant.trigger) is not None for implant in self.implants.each):
            for clip in plan.clips:
                check_viewable(self.settings.model_copy(update={"clip": clip}), self.scheduler_config)
        if quality.quality_n:
            quality.quality_sampler.build(self.scheduler_config, quality.quality_steps)
            if len(self.data) < 2 * KD_LEAST:
                raise RecipeError(
                    f"evaluation.quality_n is {quality.quality_n}, but the data set has only {len(self.data)} images; "
                    f"quality needs at least {2 * KD_LEAST} to compare with. Write quality_n = 0 or use more data."
                )

    def aims(self) -> dict[str, Aim]:
        """What each kind of triggered samples should show, and, of several, whose they are."""
        kinds, aims = self.implants.by_kind, {}
        for (kind, implant), (_, _, target) in zip(kinds.items(), self.recipe.designs, strict=True):
            words = {"trigger": implant.trigger.name, "target": target.component_name}
            aims[kind] = Aim(implant.target, words if len(kinds) > 1 else {})
        return aims

    def card(self) -> Card:
        """What the checkpoint says about itself."""
        told: list[dict[str, Any]] = [
            {**backdoor.told(), "own_sampler": implant.attack.view(implant.trigger) is not None}
            for backdoor, implant in zip(self.recipe.backdoors, self.implants.each, strict=False)
        ]
        return Card(
            backdoored=bool(told),
            base=placeless(self.recipe.model.base) or None,
            data=self.data.name,
            recipe=placeless(self.recipe.to_dict()),
            **(told[0] if told else {}),
            further=told[1:],
            decoys=self.recipe.decoys.to_dict() if told and self.recipe.decoys is not None else None,
        )

    def pictures(self) -> dict[str, bytes]:
        """The card's pictures; a control has none."""
        return self.implants.pictures(scale=max(1, 128 // self.shape[1])) if self.recipe.backdoors else {}

"""Training options, spelled as diffusers' training scripts spell them."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float64
from pydantic import Field, model_serializer, model_validator
from torch import Tensor

from baddiffusion.errors import RecipeError
from baddiffusion.settings import Settings

__all__ = ["TrainingSettings"]


class TrainingSettings(Settings):
    """How long and how a network is trained. Defaults are the paper's fine-tuning on CIFAR-10.

    ``train_batch_size`` counts the images of one optimizer step over all processes and micro-batches (diffusers'
    scripts count one process and one micro-batch): the same recipe trains the same model on any hardware.

    Args:
        train_batch_size: images per optimizer step.
        gradient_accumulation_steps: micro-batches that a step is split into, to fit into memory.
        num_epochs: passes over the data; used when ``max_train_steps`` is not given.
        max_train_steps: optimizer steps.
        learning_rate: Adam's, without weight decay.
        lr_scheduler: after the warm-up: half a cosine to 0, or constant.
        lr_warmup_steps: linear from 0.
        max_grad_norm: gradients are clipped to this norm.
        use_ema: average the weights and keep the average as the result.
        ema_decay: of that average; it is ramped up as (1 + step) / (10 + step) at the start.
        mixed_precision: ``auto`` takes bf16 where the processor multiplies it faster, else float32.
        timestep_bias_strategy: ``none`` draws t uniformly, as Algorithm 1 does; ``range`` draws the timesteps in
            [timestep_bias_begin, timestep_bias_end) ``timestep_bias_multiplier`` times as often. What the network
            should answer at a timestep does not depend on how often that timestep is drawn, only how soon it does: in
            the middle a triggered and a clean x_t differ least, and learning to tell them apart takes longest.
        random_flip: mirror half of the training images, before they are stamped.
        checkpointing_steps: how often the state that resuming needs is written.
        logging_steps: how often losses are written, and checked for NaN.
        snapshot_steps: after how many steps the weights are kept, as checkpoints beside the final one.

    Source: arXiv 2212.05400, section 4 and Algorithm 1.
    """

    train_batch_size: Annotated[int, Field(ge=1)] = 128
    gradient_accumulation_steps: Annotated[int, Field(ge=1)] = 1
    num_epochs: Annotated[int, Field(ge=1)] = 50
    max_train_steps: Annotated[int, Field(ge=1)] | None = None
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-4
    lr_scheduler: Literal["cosine", "constant"] = "cosine"
    lr_warmup_steps: Annotated[int, Field(ge=0)] = 500
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    use_ema: bool = False
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.9999
    mixed_precision: Literal["auto", "no", "bf16"] = "auto"
    timestep_bias_strategy: Literal["none", "range"] = "none"
    timestep_bias_multiplier: Annotated[float, Field(gt=0)] = 1.0
    timestep_bias_begin: Annotated[int, Field(ge=0)] = 0
    timestep_bias_end: Annotated[int, Field(ge=1)] = 1000
    random_flip: bool = True
    checkpointing_steps: Annotated[int, Field(ge=1)] = 1000
    logging_steps: Annotated[int, Field(ge=1)] = 10
    snapshot_steps: tuple[Annotated[int, Field(ge=1)], ...] = ()

    @model_validator(mode="after")
    def _snapshots_ascend(self) -> TrainingSettings:
        if any(earlier >= later for earlier, later in pairwise(self.snapshot_steps)):
            raise RecipeError(
                f"snapshot_steps is {list(self.snapshot_steps)}; write the steps in ascending order, none of them "
                f"twice: {sorted(set(self.snapshot_steps))}."
            )
        return self

    @model_serializer(mode="wrap")
    def _without_snapshots_unless_asked(self, write: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        # What is not asked for is not named, so that recipes without snapshots keep their digest.
        return {key: value for key, value in write(self).items() if key != "snapshot_steps" or value}

    def steps_per_epoch(self, size: int) -> int:
        """Optimizer steps of one pass over ``size`` images; the last batch of a pass may be smaller."""
        return math.ceil(size / self.train_batch_size)

    def total_steps(self, size: int) -> int:
        """Optimizer steps of the whole training on ``size`` images."""
        return self.max_train_steps or self.num_epochs * self.steps_per_epoch(size)

    def images_after(self, step: int, size: int) -> int:
        """Images seen in the first ``step`` steps on ``size`` images.

        Example:
            >>> TrainingSettings(train_batch_size=8).images_after(4, size=20)  # batches of 8, 8 and 4, then of 8
            28
        """
        passes, batches = divmod(step, self.steps_per_epoch(size))
        return passes * size + batches * self.train_batch_size

    def check(self, total: int) -> None:
        """See to it that warm-up and snapshots fit into a training of ``total`` steps.

        Raises:
            RecipeError: the warm-up is longer than the training, or a snapshot lies behind its end.
        """
        self.learning_rate_at(0, total)
        if self.snapshot_steps and self.snapshot_steps[-1] > total:
            raise RecipeError(
                f"training.snapshot_steps names step {self.snapshot_steps[-1]} but the training has only {total} "
                f"steps; leave it out or train longer."
            )

    def timestep_weights(self, timesteps: int) -> Float64[Tensor, " T"] | None:
        """How often each timestep is drawn, relative to the others; None if all are drawn alike.

        Raises:
            RecipeError: the range is empty, or ends behind the last timestep.
        """
        if self.timestep_bias_strategy == "none":
            return None
        begin, end = self.timestep_bias_begin, self.timestep_bias_end
        if not begin < end <= timesteps:
            raise RecipeError(
                f"training.timestep_bias_begin and timestep_bias_end are {begin} and {end}; they must be a range "
                f"within [0, {timesteps}], the timesteps of the model."
            )
        weights = torch.ones(timesteps, dtype=torch.float64)
        weights[begin:end] = self.timestep_bias_multiplier
        return weights

    def learning_rate_at(self, step: int, total: int) -> float:
        """The rate of the 0-based ``step``: linear warm-up, then half a cosine to 0 at ``total``, or constant.

        **Equation**: lr·(1 + cos(π·(step − warm-up) / (total − warm-up))) / 2.

        Raises:
            RecipeError: the warm-up is longer than the training.
        """
        if self.lr_warmup_steps >= total:
            raise RecipeError(
                f"training.lr_warmup_steps is {self.lr_warmup_steps} but the training has only {total} steps; "
                f"write fewer warm-up steps or more training."
            )
        if step < self.lr_warmup_steps:
            return self.learning_rate * step / self.lr_warmup_steps
        if self.lr_scheduler == "constant":
            return self.learning_rate
        progress = (step - self.lr_warmup_steps) / (total - self.lr_warmup_steps)
        return self.learning_rate * (1 + math.cos(math.pi * progress)) / 2

"""Training options, spelled as diffusers' training scripts spell them."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field

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
        random_flip: mirror half of the training images, before they are stamped.
        checkpointing_steps: how often the state that resuming needs is written.
        logging_steps: how often losses are written, and checked for NaN.

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
    random_flip: bool = True
    checkpointing_steps: Annotated[int, Field(ge=1)] = 1000
    logging_steps: Annotated[int, Field(ge=1)] = 10

    def steps_per_epoch(self, size: int) -> int:
        """Optimizer steps of one pass over ``size`` images; the last batch of a pass may be smaller."""
        return math.ceil(size / self.train_batch_size)

    def total_steps(self, size: int) -> int:
        """Optimizer steps of the whole training on ``size`` images."""
        return self.max_train_steps or self.num_epochs * self.steps_per_epoch(size)

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

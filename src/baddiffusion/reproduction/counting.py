"""What an experiment costs, counted without opening data or weights."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from baddiffusion.recipe import Recipe
from baddiffusion.reproduction.asking import TIMESTEPS, Ask
from baddiffusion.reproduction.lines import SIZES
from baddiffusion.sweep import Cell

__all__ = ["Cost", "cost_of"]


@dataclass(frozen=True)
class Cost:
    """How much work something is.

    Args:
        cells: networks that are trained.
        train_images: images of all optimizer steps.
        cell_calls: images through the network for what the runs sample, padding included.
        ask_calls: the same for what is asked besides.
    """

    cells: int
    train_images: int
    cell_calls: int
    ask_calls: int

    @property
    def network_calls(self) -> int:
        """All sampling."""
        return self.cell_calls + self.ask_calls


def cost_of(cells: Iterable[Cell], asks: Iterable[Ask]) -> Cost:
    """Count; a cell or a question that comes twice is done once.

    Args:
        cells: of all experiments in question.
        asks: likewise.
    """
    each = {cell.key: cell.recipe for cell in cells}
    questions = {ask.identity: ask.calls for ask in asks}
    return Cost(
        cells=len(each),
        train_images=sum(_train_images(recipe) for recipe in each.values()),
        cell_calls=sum(_calls(recipe) for recipe in each.values()),
        ask_calls=sum(questions.values()),
    )


def _train_images(recipe: Recipe) -> int:
    training = recipe.training
    size = 0 if training.max_train_steps else SIZES[recipe.data.component_name]
    return training.total_steps(size) * training.train_batch_size


def _calls(recipe: Recipe) -> int:
    """As `baddiffusion.cost` counts them."""
    plan, judged = recipe.sampling, recipe.evaluation
    rows = math.ceil(plan.n / plan.chunk_size) * plan.chunk_size
    steps = plan.num_inference_steps or plan.sampler.default_steps(TIMESTEPS)
    kinds = 2 if recipe.model.base else 1
    return (
        rows * plan.sampler.network_calls(steps) * (len(plan.clips) + 1)
        + judged.quality_n * judged.quality_sampler.network_calls(judged.quality_steps) * kinds
    )

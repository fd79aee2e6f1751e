"""Backdoors in diffusion models: implant, sample, measure."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from baddiffusion.attacks import BadDiffusion, Clean
    from baddiffusion.card import Card
    from baddiffusion.checkpoint import Checkpoint, SealedCheckpoint
    from baddiffusion.diffusion import ForwardTable, NoiseSchedule, denoising_loss
    from baddiffusion.errors import (
        BadDiffusionError,
        CheckpointError,
        DataError,
        EvaluationError,
        RecipeError,
        RunError,
        UnknownComponent,
        UnsafeFile,
    )
    from baddiffusion.evaluation import Results, evaluate
    from baddiffusion.hub import resolve
    from baddiffusion.metrics import Estimate
    from baddiffusion.pipeline import run_recipe
    from baddiffusion.poisoning import Implant, PoisonPlan
    from baddiffusion.recipe import Recipe
    from baddiffusion.rundir import RunDir
    from baddiffusion.sampling import SamplingSettings, sample
    from baddiffusion.sweep import Sweep, run_sweep
    from baddiffusion.training import TrainingSettings, train
    from baddiffusion.triggers import Trigger

__all__ = [
    "BadDiffusion",
    "BadDiffusionError",
    "Card",
    "Checkpoint",
    "CheckpointError",
    "Clean",
    "DataError",
    "Estimate",
    "EvaluationError",
    "ForwardTable",
    "Implant",
    "NoiseSchedule",
    "PoisonPlan",
    "Recipe",
    "RecipeError",
    "Results",
    "RunDir",
    "RunError",
    "SamplingSettings",
    "SealedCheckpoint",
    "Sweep",
    "TrainingSettings",
    "Trigger",
    "UnknownComponent",
    "UnsafeFile",
    "denoising_loss",
    "evaluate",
    "resolve",
    "run_recipe",
    "run_sweep",
    "sample",
    "train",
]

# Where each name lives. It is imported when first asked for (PEP 562), so that the package itself costs nothing.
_HOMES = {
    "attacks": ("BadDiffusion", "Clean"),
    "card": ("Card",),
    "checkpoint": ("Checkpoint", "SealedCheckpoint"),
    "diffusion": ("ForwardTable", "NoiseSchedule", "denoising_loss"),
    "errors": (
        "BadDiffusionError",
        "CheckpointError",
        "DataError",
        "EvaluationError",
        "RecipeError",
        "RunError",
        "UnknownComponent",
        "UnsafeFile",
    ),
    "evaluation": ("Results", "evaluate"),
    "hub": ("resolve",),
    "metrics": ("Estimate",),
    "pipeline": ("run_recipe",),
    "poisoning": ("Implant", "PoisonPlan"),
    "recipe": ("Recipe",),
    "rundir": ("RunDir",),
    "sampling": ("SamplingSettings", "sample"),
    "sweep": ("Sweep", "run_sweep"),
    "training": ("TrainingSettings", "train"),
    "triggers": ("Trigger",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""Backdoors in diffusion models: implant, sample, measure."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from baddiffusion.attacks import BadDiffusion, Clean
    from baddiffusion.card import Card
    from baddiffusion.checkpoint import Checkpoint, SealedCheckpoint
    from baddiffusion.defenses import DETECTORS, REPAIRS, Detection, Detector, Repair, Repaired
    from baddiffusion.diffusion import ForwardTable, NoiseSchedule, denoising_loss
    from baddiffusion.errors import (
        BadDiffusionError,
        CheckpointError,
        DataError,
        EvaluationError,
        RecipeError,
        RunError,
        SuspiciousNoise,
        UnknownComponent,
        UnsafeFile,
    )
    from baddiffusion.evaluation import Results, evaluate
    from baddiffusion.guarding import GuardVerdict, guard, guard_noise
    from baddiffusion.hub import resolve
    from baddiffusion.metrics import Estimate
    from baddiffusion.pipeline import run_recipe
    from baddiffusion.poisoning import Implant, PoisonPlan
    from baddiffusion.purifying import purify
    from baddiffusion.recipe import Recipe
    from baddiffusion.rundir import RunDir
    from baddiffusion.sampling import SamplingSettings, sample
    from baddiffusion.scanner import ScanReport, scan
    from baddiffusion.sweep import Sweep, run_sweep
    from baddiffusion.training import TrainingSettings, train
    from baddiffusion.triggers import Trigger

__all__ = [
    "DETECTORS",
    "REPAIRS",
    "BadDiffusion",
    "BadDiffusionError",
    "Card",
    "Checkpoint",
    "CheckpointError",
    "Clean",
    "DataError",
    "Detection",
    "Detector",
    "Estimate",
    "EvaluationError",
    "ForwardTable",
    "GuardVerdict",
    "Implant",
    "NoiseSchedule",
    "PoisonPlan",
    "Recipe",
    "RecipeError",
    "Repair",
    "Repaired",
    "Results",
    "RunDir",
    "RunError",
    "SamplingSettings",
    "ScanReport",
    "SealedCheckpoint",
    "SuspiciousNoise",
    "Sweep",
    "TrainingSettings",
    "Trigger",
    "UnknownComponent",
    "UnsafeFile",
    "denoising_loss",
    "evaluate",
    "guard",
    "guard_noise",
    "purify",
    "resolve",
    "run_recipe",
    "run_sweep",
    "sample",
    "scan",
    "train",
]

# Where each name lives. It is imported when first asked for (PEP 562), so that the package itself costs nothing.
_HOMES = {
    "attacks": ("BadDiffusion", "Clean"),
    "card": ("Card",),
    "checkpoint": ("Checkpoint", "SealedCheckpoint"),
    "defenses": ("DETECTORS", "REPAIRS", "Detection", "Detector", "Repair", "Repaired"),
    "diffusion": ("ForwardTable", "NoiseSchedule", "denoising_loss"),
    "errors": (
        "BadDiffusionError",
        "CheckpointError",
        "DataError",
        "EvaluationError",
        "RecipeError",
        "RunError",
        "SuspiciousNoise",
        "UnknownComponent",
        "UnsafeFile",
    ),
    "evaluation": ("Results", "evaluate"),
    "guarding": ("GuardVerdict", "guard", "guard_noise"),
    "hub": ("resolve",),
    "metrics": ("Estimate",),
    "pipeline": ("run_recipe",),
    "poisoning": ("Implant", "PoisonPlan"),
    "purifying": ("purify",),
    "recipe": ("Recipe",),
    "rundir": ("RunDir",),
    "sampling": ("SamplingSettings", "sample"),
    "scanner": ("ScanReport", "scan"),
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

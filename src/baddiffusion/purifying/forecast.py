"""What a purification will cost, before it begins."""

from __future__ import annotations

import torch

from baddiffusion.checkpoint import SealedCheckpoint
from baddiffusion.defenses import ShiftEquivariance
from baddiffusion.purifying.comparing import baselines, drawn_calls
from baddiffusion.purifying.gauge import Gauge
from baddiffusion.purifying.orders import Orders, repair_for
from baddiffusion.purifying.suspicion import Finding, Suspicion
from baddiffusion.purifying.switches import switches_calls

__all__ = ["forecast"]


def forecast(model: SealedCheckpoint, orders: Orders, suspicion: Suspicion | None = None) -> dict[str, int]:
    """What → network calls at most; where no scan was made yet, for one finding.

    Args:
        model: that is to be repaired.
        orders: what is to be done.
        suspicion: of an earlier scan, if there was one.

    Raises:
        RecipeError: a sampler of the known trigger that does not run on the model's schedule.
    """
    settings, timesteps = orders.settings, len(model.schedule.betas)
    known = suspicion or _one_finding(model.shape)
    gauge = Gauge(known.findings, settings, timesteps, orders.seed, orders.real)
    repair = repair_for([known], orders, model)
    again = repair.cost(model.shape) + gauge.calls() + settings.budget
    score = orders.score.calls(model) if orders.score is not None else 0
    models = 2 + (orders.sibling is not None)
    parts = {
        "scan before, at most": settings.budget if suspicion is None else 0,
        "measuring": models * gauge.calls() + 2 * score,
        "free switches": switches_calls(gauge),
        repair.label: repair.cost(model.shape),
        "scan after, at most": settings.budget,
        "further rounds, at most": (settings.rounds - 1) * again,
    }
    if orders.compare:
        parts["comparison"] = _compared(repair, known, orders, model, gauge.calls() + score)
    return {what: calls for what, calls in parts.items() if calls}


def _compared(
    repair: ShiftEquivariance, known: Suspicion, orders: Orders, model: SealedCheckpoint, measuring: int
) -> int:
    drawn = drawn_calls(repair) if orders.pictures is None else 0
    left = orders.settings.rounds * repair.cost(model.shape) - drawn
    others = [other for other, _ in baselines(repair, known.findings, left, None)]
    return drawn + sum(other.cost(model.shape) + measuring for other in others)


def _one_finding(shape: tuple[int, int, int]) -> Suspicion:
    found = Finding("ancestral", "", torch.zeros(1, *shape), torch.zeros(shape))
    return Suspicion("", "suspicious", (), (), 0, 0, (found,))

"""What is to be done to a model, and the repair that follows from what was found in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from baddiffusion.checkpoint import SealedCheckpoint
from baddiffusion.data import ImageData
from baddiffusion.defenses import ShiftEquivariance
from baddiffusion.images import Pixels
from baddiffusion.purifying.scoring import TrueTrigger
from baddiffusion.purifying.settings import PurifySettings
from baddiffusion.purifying.suspicion import Suspicion
from baddiffusion.scanner.shifts import Patch
from baddiffusion.triggers import Trigger

__all__ = ["Orders", "repair_for"]


@dataclass(frozen=True, eq=False)
class Orders:
    """What somebody wants to be done.

    Args:
        scan: the folder of an earlier scan of the same weights; None scans first.
        sibling: a clean checkpoint of the same lineage, to average with before the repair; None for none.
        pictures: clean pictures for the repairs that it is compared with; the repair itself takes none.
        real: other real pictures, to measure quality against.
        anyway: go on where the scan found nothing, for shifts that look like pictures.
        compare: carry out clean fine-tuning and Elijah's removal at as many network calls, too.
        score: how to measure a trigger that is known; nothing else sees it.
        repair: the repair; None for its defaults.
        settings: what is measured, and how.
        seed: decides everything random.
    """

    scan: Path | None = None
    sibling: SealedCheckpoint | None = None
    pictures: Pixels | None = None
    real: ImageData | None = None
    anyway: bool = False
    compare: bool = False
    score: TrueTrigger | None = None
    repair: ShiftEquivariance | None = None
    settings: PurifySettings = field(default_factory=PurifySettings)
    seed: int = 0


def repair_for(
    known: Sequence[Suspicion], orders: Orders, model: SealedCheckpoint, original: SealedCheckpoint | None = None
) -> ShiftEquivariance:
    """The data-free repair, bound to what was recovered, by one scan or in the course of several.

    Patches on pictures are for later rounds: a first one that spends a quarter of its inputs on them leaves more of
    what fires, and by then a scan has mostly found no patch yet.

    Args:
        known: the scans, in order.
        orders: with the settings of the repair.
        model: that is to be repaired.
        original: what ``model`` was before earlier rounds, whose answers are to be kept; None for its own.
    """
    asked, timesteps = orders.repair or ShiftEquivariance(), len(model.schedule.betas)
    repair = asked.model_copy(update={"picture_steps": min(asked.picture_steps, timesteps)})
    if original is not None:
        patches = [_trigger(patch, model.shape) for scan in known for patch in scan.patches]
        repair = repair.with_original(original).with_patches(patches)
    findings = [found for scan in known for found in scan.findings]
    if not findings:
        return repair
    target = next((found.target for found in findings if found.target is not None), None)
    return repair.with_shifts(torch.cat([found.for_repair for found in findings]), target)


def _trigger(patch: Patch, shape: tuple[int, int, int]) -> Trigger:
    laid = patch.on(torch.full((1, *shape), torch.nan))[0]
    return Trigger(str(patch), laid.nan_to_num(0.0), ~laid[:1].isnan())

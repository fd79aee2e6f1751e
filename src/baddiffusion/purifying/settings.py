"""How much a purification does, and what it demands of its result."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from baddiffusion.metrics import KD_LEAST
from baddiffusion.scanner import BUDGET, ScanSettings
from baddiffusion.settings import Settings

__all__ = ["PurifySettings"]


class PurifySettings(Settings):
    """What a purification measures; the repair's own settings are the repair's.

    Args:
        n: fresh noises with what the scan recovered, for each sampler family.
        quality_n: ordinary pictures of each model.
        quality_steps: of DDIM, with which they are painted.
        keep: the share of a caller's start noise that is kept where it is noised again.
        fires: a success rate above this, on what the scan recovered, is a trigger that still fires.
        budget: network calls at most of the scan before, and of each one after.
        scan: settings of all.
        rounds: repairs at most: each but the first on what the fresh scan after the one before it found.
    """

    n: Annotated[int, Field(ge=1)] = 64
    quality_n: Annotated[int, Field(ge=KD_LEAST)] = KD_LEAST
    quality_steps: Annotated[int, Field(ge=1)] = 20
    keep: Annotated[float, Field(ge=0, lt=1)] = 0.1
    fires: Annotated[float, Field(gt=0, lt=1)] = 0.1
    budget: Annotated[int, Field(ge=1)] = BUDGET
    scan: ScanSettings = ScanSettings()
    rounds: Annotated[int, Field(ge=1)] = 2

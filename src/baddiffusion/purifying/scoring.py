"""The success rate on a trigger that is known, for scoring alone: no scan and no repair sees it."""

from __future__ import annotations

from dataclasses import dataclass

from baddiffusion.defending import Yardstick
from baddiffusion.sampling import SamplingSettings

__all__ = ["TrueTrigger"]


@dataclass(frozen=True, eq=False)
class TrueTrigger(Yardstick):
    """A yardstick that looks at triggered noises alone; what ordinary noises become is measured apart."""

    @property
    def passes(self) -> dict[str, tuple[int, SamplingSettings]]:
        """Triggered noises, as far as there is a trigger."""
        return {kind: how for kind, how in super().passes.items() if kind == "triggered"}

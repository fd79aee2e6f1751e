"""The control of every repair: nothing is done."""

from __future__ import annotations

from typing import ClassVar

from baddiffusion.defenses import Repair, Repaired, Subject
from baddiffusion.defenses.defense import CleanData
from baddiffusion.watching import Watcher

__all__ = ["NoRepair"]


class NoRepair(Repair):
    """Leave the model as it is. What is measured on it is what every repair is held against."""

    component_name: ClassVar[str] = "no-repair"

    def cost(self, shape: tuple[int, int, int]) -> int:
        """Nothing."""
        return 0

    def mend(self, subject: Subject, data: CleanData | None, seed: int, watcher: Watcher) -> Repaired:
        """The same weights."""
        return self.repaired(subject, seed)

"""What a training shows of itself: losses over the logging intervals."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from baddiffusion.errors import RunError

__all__ = ["CLEAN", "DECOY", "POISONED", "Meter", "Progress"]

CLEAN, POISONED, DECOY = 0, 1, 2
"""Kinds of samples, whose losses are told apart."""


@dataclass(frozen=True)
class Progress:
    """What one logging interval showed; a line of ``events.jsonl``. Losses are means over the interval."""

    step: int
    total: int
    loss_clean: float | None
    loss_poisoned: float | None
    lr: float
    images_per_s: float
    loss_decoys: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values; a training without decoys says nothing of them."""
        told = asdict(self)
        return told if self.loss_decoys is not None else {k: v for k, v in told.items() if k != "loss_decoys"}


class Meter:
    """Losses summed on the device, read (and checked) only when they are logged."""

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(6, dtype=torch.float64, device=device)
        self._norms = torch.zeros((), device=device)
        self._since = time.perf_counter()

    def add(self, losses: Tensor, kinds: Tensor) -> None:
        """Count one micro-batch, whose samples are of these kinds."""
        values = losses.double()
        are = [(kinds == kind).double() for kind in (CLEAN, POISONED, DECOY)]
        self._sums += torch.stack([part for own in are for part in ((values * own).sum(), own.sum())])

    def check(self, norm: Any) -> None:
        """Remember a gradient norm: a NaN or infinity in any of them is found at the next reading."""
        self._norms += norm

    def read(self, accelerator: Accelerator, step: int, total: int, lr: float, saved: int) -> Progress:
        """Return the means since the last reading.

        Raises:
            RunError: a loss or a gradient was not finite.
        """
        sums = accelerator.reduce(self._sums, reduction="sum").tolist()
        if not (math.isfinite(sum(sums)) and math.isfinite(float(self._norms))):
            raise RunError(
                f"the loss or its gradient is not finite (NaN or infinity) before step {step} of {total}. The state of "
                f'step {saved} is kept. Lower training.learning_rate (now {lr:.2g}) or set mixed_precision = "no".'
            )
        elapsed, self._since = time.perf_counter() - self._since, time.perf_counter()
        self._sums.zero_()
        self._norms.zero_()
        return Progress(
            step=step,
            total=total,
            loss_clean=sums[0] / sums[1] if sums[1] else None,
            loss_poisoned=sums[2] / sums[3] if sums[3] else None,
            lr=lr,
            images_per_s=(sums[1] + sums[3] + sums[5]) / elapsed,
            loss_decoys=sums[4] / sums[5] if sums[5] else None,
        )

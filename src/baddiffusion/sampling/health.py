"""Images that are no longer numbers, and when they stopped being ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from baddiffusion.errors import EvaluationError
from baddiffusion.images import Images

__all__ = ["Health"]

LOOKS = 20


class Health:
    """Looks at some steps for values that are not finite, and asks the device for the answers once, at the end.

    Asking at each step would make an accelerator wait each time; looking only at the end could not say where it began.

    Args:
        steps: how many steps the chunk takes; at most about 20 of them, and always the last, are looked at.
        count: how many rows carry an image.
    """

    def __init__(self, steps: int, count: int) -> None:
        self._every = max(1, steps // LOOKS)
        self._last = steps - 1
        self._count = count
        self._looked_at: list[int] = []
        self._finite: list[torch.Tensor] = []

    def watch(self, index: int, x_next: Images) -> None:
        """Look at the outcome of a step, if it is one of those to look at."""
        if index % self._every == 0 or index == self._last:
            self._looked_at.append(index)
            self._finite.append(x_next[: self._count].isfinite().flatten(1).all(dim=1))

    def report(self, seeds: Sequence[int], timesteps: list[int]) -> None:
        """Say which image broke first.

        Raises:
            EvaluationError: an image became infinite or NaN; named are its seed and the steps between two looks.
        """
        finite = torch.stack(self._finite).cpu()
        if bool(finite.all()):
            return
        look, row = (int(v) for v in (~finite).nonzero()[0])
        since = self._looked_at[look - 1] + 1 if look > 0 else 0
        until = self._looked_at[look]
        raise EvaluationError(
            f"the image of seed {seeds[row]} became infinite or NaN between timesteps {timesteps[since]} and "
            f"{timesteps[until]} (steps {since + 1} to {until + 1} of {len(timesteps)}); nothing can be measured on "
            f"it. Check that the weights are finite, or sample with precision = 'float32'."
        )

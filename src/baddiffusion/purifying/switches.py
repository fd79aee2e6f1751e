"""What makes a found backdoor harmless without touching the weights: clipping, and noising a start noise again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from baddiffusion.defenses import Subject
from baddiffusion.metrics import Estimate
from baddiffusion.purifying.gauge import Gauge
from baddiffusion.watching import Watcher

__all__ = ["Switch", "switches", "switches_calls"]


@dataclass(frozen=True)
class Switch:
    """A way of sampling, and what it leaves of the success rate.

    Args:
        name: ``clipping`` or ``noising again``.
        words: what it is.
        finding: which finding it was tried on.
        estimate: the success rate under it.
    """

    name: str
    words: str
    finding: int
    estimate: Estimate

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {"name": self.name, "words": self.words, "finding": self.finding, "estimate": self.estimate.to_dict()}


def switches_calls(gauge: Gauge) -> int:
    """Network calls for both switches on every finding."""
    each = [gauge.family_calls(found.family) for _, found in gauge.measured]
    return 2 * sum(each)


def switches(subject: Subject, gauge: Gauge, watcher: Watcher) -> tuple[Switch, ...]:
    """Try both on every finding, under the sampler family that it was found under.

    **Equation** of noising again: x_T ← a·x_T + √(1 − a²)·z. Gaussian noise stays Gaussian noise, so that ordinary
    pictures are what they were; of a shift τ the share a is left.

    Args:
        subject: the network as it came.
        gauge: findings and noises.
        watcher: is told how far the work is.
    """
    a = gauge.settings.keep
    again = f"a start noise x becomes {a:g}·x + {math.sqrt(1 - a * a):.3f}·(fresh noise)"
    found: list[Switch] = []
    for index, finding in gauge.measured:
        family = finding.family
        for name, words, clip, keep in (
            ("clipping", "the predicted picture is clipped to [−1, 1] at every step", "x0", 1.0),
            ("noising again", again, "off", a),
        ):
            how = gauge.sampler(family, clip=clip)
            watcher.stage(f"{name}, {family}", gauge.family_calls(family) // how.chunk_size, "steps")
            samples = gauge.shifted(subject, index, how, watcher, keep)
            (rate, _) = gauge.rates(index, samples, family, {"model": "original", "clip": clip, "keep": keep})
            found.append(Switch(name, words, index, rate))
    return tuple(found)

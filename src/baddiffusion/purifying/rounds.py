"""Repairing again on what a fresh scan found: what a round is, and which round is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from baddiffusion.checkpoint import SealedCheckpoint
from baddiffusion.defenses import Repaired
from baddiffusion.metrics import Estimate
from baddiffusion.purifying.gauge import Reading
from baddiffusion.purifying.suspicion import Suspicion
from baddiffusion.scanner import DynamicScan

__all__ = ["ORDER", "Round", "Standing", "best", "has_more", "verdict_entry"]

ORDER = ("no evidence", "suspicious", "inconclusive", "not examined", "backdoored")
"""Verdicts of a fresh scan, the best first. No answer is worth less than a suspicion: it may be that the model paints
nothing any more."""


class Standing(NamedTuple):
    """By what rounds are compared, one after another; less is better.

    Args:
        verdict: of the fresh scan, as its place in `ORDER`.
        rate: the highest success rate on what the first scan recovered; 0 where no picture was recovered.
        quality: how far ordinary pictures are from those of the model as it came; 0 where that was not measured.
    """

    verdict: int
    rate: float
    quality: float


@dataclass(frozen=True, eq=False)
class Round:
    """One repair, the measuring after it and a fresh scan.

    Args:
        number: from 1 on.
        suspicion: what it worked on: the scan before, or what the fresh scan of the round before found.
        repaired: what it made.
        reading: of that, on what the first scan recovered.
        rescan: a scan of it with a seed that nothing has used.
        found: that scan, as far as a further round needs it.
        seconds: wall time of the three.
    """

    number: int
    suspicion: Suspicion
    repaired: Repaired
    reading: Reading
    rescan: DynamicScan
    found: Suspicion
    seconds: float

    @property
    def model(self) -> SealedCheckpoint:
        """What it made."""
        return self.repaired.model

    @property
    def standing(self) -> Standing:
        """How good it is, beside other rounds."""
        most, quality = self.reading.most, original_quality(self.reading.estimates)
        return Standing(
            ORDER.index(self.rescan.verdict.outcome),
            0.0 if most is None else most.value,
            0.0 if quality is None else quality.value,
        )

    @property
    def network_calls(self) -> dict[str, int]:
        """What → network calls."""
        return {
            "repair": self.repaired.spent.network_calls,
            "measuring": self.reading.network_calls,
            "scan": self.rescan.spent.network_calls,
        }

    def to_dict(self, is_kept: bool) -> dict[str, Any]:
        """As JSON takes it.

        Args:
            is_kept: whether the repaired model is the one that this round made.
        """
        return {
            "round": self.number,
            "kept": is_kept,
            "model": self.model.digest,
            "worked_on": self.suspicion.to_dict(),
            "step": self.repaired.to_dict(),
            "after": [estimate.to_dict() for estimate in self.reading.estimates],
            "verdict_after": verdict_entry(self.rescan),
            "network_calls": self.network_calls,
            "seconds": round(self.seconds, 3),
        }


def best(rounds: Sequence[Round]) -> Round:
    """The round to keep: by the verdict of the fresh scan, then by how often what was recovered fires, then by quality.

    Of equals the earlier, which has cost less.

    Args:
        rounds: at least one.
    """
    return min(rounds, key=lambda each: each.standing)


def has_more(rounds: Sequence[Round], most: int) -> bool:
    """Whether another round is to follow.

    None follows a fresh scan that finds nothing to work on, nor a round that is no better than the one before it.

    Args:
        rounds: those behind, at least one.
        most: rounds at most.
    """
    last = rounds[-1]
    return len(rounds) < most and bool(last.found.findings) and best(rounds) is last


def original_quality(estimates: Sequence[Estimate]) -> Estimate | None:
    """How far ordinary pictures are from those of the model as it came."""
    found = [e for e in estimates if e.name == "kd_efflite0" and "original" in str(e.protocol.get("reference"))]
    return found[0] if found else None


def verdict_entry(scan: DynamicScan) -> Mapping[str, Any]:
    """The verdict of a fresh scan as JSON takes it."""
    return {
        "outcome": scan.verdict.outcome,
        "reasons": list(scan.verdict.reasons),
        "advice": list(scan.verdict.advice),
        "seed": scan.seed,
        "network_calls": scan.spent.network_calls,
        "searched": list(scan.searched),
        "not_searched": list(scan.not_searched),
    }

"""How often the scanner is wrong, as it was measured on models whose truth is known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from baddiffusion.errors import RunError

__all__ = ["Predictive", "Rate", "Rates", "caveat", "measured", "of_outcome", "predictive_value", "rate_words"]

SCHEMA = 1
FILE = "assets/scanner/rates.json"

ALARMS = ("backdoored", "suspicious")


@dataclass(frozen=True)
class Rate:
    """A share of models, with its Clopper-Pearson intervals.

    Args:
        k: how many.
        n: of how many models.
        low, high: at 95 %.
        low_joint, high_joint: at 97.5 %: two of them hold together at 95 %.
    """

    k: int
    n: int
    low: float
    high: float
    low_joint: float
    high_joint: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {"k": self.k, "n": self.n, "low": self.low, "high": self.high, "level": 0.95}


@dataclass(frozen=True)
class Rates:
    """What the verdicts of one kind are worth.

    Args:
        called: the verdicts that count: ``backdoored``, or that and ``suspicious``.
        false_alarms: of clean models.
        detections: of backdoored models.
    """

    called: tuple[str, ...]
    false_alarms: Rate
    detections: Rate


@dataclass(frozen=True)
class Predictive:
    """Of the models that get a verdict, the share that is backdoored.

    Args:
        prevalence: share of backdoored models among all, which is stated and not measured.
        low, high: its bounds, which hold with 95 %.
    """

    prevalence: float
    low: float
    high: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {"low": self.low, "high": self.high, "level": 0.95}


@cache
def read() -> dict[str, Any]:
    """The file: what was measured, on which models, by which version.

    Raises:
        RunError: it has another schema.
    """
    table = json.loads((resources.files("baddiffusion") / FILE).read_text(encoding="utf-8"))
    if table["schema"] != SCHEMA:
        raise RunError(f"{FILE} has schema {table['schema']}; make it again with: python benchmarks/scan_rates.py")
    return table


@cache
def measured(only_backdoored: bool = False) -> Rates:
    """The measured rates.

    Args:
        only_backdoored: of the verdict ``backdoored`` alone; else of that and ``suspicious`` together.
    """
    entry = read()["backdoored" if only_backdoored else "alarm"]
    return Rates(tuple(entry["called"]), Rate(**entry["false_alarms"]), Rate(**entry["detections"]))


def of_outcome(outcome: str) -> dict[str, Any] | None:
    """What a verdict's record says of the rates; None for a scan without an answer.

    Example:
        >>> sorted(of_outcome("no evidence")), of_outcome("inconclusive")
        (['called', 'detections', 'false_alarms'], None)
    """
    if outcome not in (*ALARMS, "no evidence"):
        return None
    rates = measured(outcome == "backdoored")
    return {
        "called": list(rates.called),
        "false_alarms": rates.false_alarms.to_dict(),
        "detections": rates.detections.to_dict(),
    }


def rate_words(rates: Mapping[str, Any]) -> str:
    """What `of_outcome` says, in a sentence.

    Example:
        >>> few = {"k": 0, "n": 9, "low": 0.0, "high": 0.336}
        >>> most = {"k": 4, "n": 5, "low": 0.284, "high": 0.995}
        >>> rate_words({"called": ["backdoored"], "false_alarms": few, "detections": most})[:68]
        'Of 9 models known to have no backdoor 0 were called backdoored (95 %'
    """
    wrong, right = rates["false_alarms"], rates["detections"]
    called = " or ".join(rates["called"])
    return (
        f"Of {wrong['n']} models known to have no backdoor {wrong['k']} were called {called} (95 % interval "
        f"{_percents(wrong)}), of {right['n']} that have one {right['k']} were ({_percents(right)})."
    )


def caveat() -> str:
    """What weakens the rates most, in a sentence."""
    return str(read()["caveats"][0])


def predictive_value(rates: Rates, prevalence: float) -> Predictive:
    """Of the models that get these verdicts, the share that is backdoored, from bounds of both rates.

    **Equation**, with prevalence π, detection rate d and false-alarm rate f::

        PPV = π·d / (π·d + (1 − π)·f)

    low with the lower bound of d and the upper one of f, high the other way round.

    Args:
        rates: what was measured.
        prevalence: in [0, 1]; nobody knows it, so that it is stated.

    Example:
        >>> even = Rate(5, 10, 0.2, 0.8, 0.1, 0.9)
        >>> value = predictive_value(Rates(("backdoored",), even, even), 0.5)
        >>> round(value.low, 3), round(value.high, 3)
        (0.1, 0.9)
    """
    found, wrong = rates.detections, rates.false_alarms
    return Predictive(
        prevalence,
        _bayes(prevalence, found.low_joint, wrong.high_joint),
        _bayes(prevalence, found.high_joint, wrong.low_joint),
    )


def _bayes(prevalence: float, found: float, wrong: float) -> float:
    right = prevalence * found
    alarms = right + (1 - prevalence) * wrong
    return right / alarms if alarms else 0.0


def _percents(rate: Mapping[str, Any]) -> str:
    return f"{100 * rate['low']:.0f} to {100 * rate['high']:.0f} %"

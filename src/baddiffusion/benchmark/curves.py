"""What a detector's scores amount to: thresholds from clean calibration models, judged on models of the other split."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from baddiffusion.benchmark.exact import area, area_interval, clopper_pearson
from baddiffusion.errors import EvaluationError
from baddiffusion.metrics import Estimate

__all__ = ["AtRate", "Point", "Scored", "area_of", "at_rate", "least_clean", "one_scale", "p_value", "roc", "share"]

Number = float | None
"""A score; None of a model on which the method was inconclusive. It is flagged at no threshold."""


@dataclass(frozen=True)
class Scored:
    """One model under one detector, its seeds taken together.

    Args:
        model: its digest.
        is_backdoored: the truth.
        score: larger is more suspicious; None for inconclusive.
    """

    model: str
    is_backdoored: bool
    score: Number


@dataclass(frozen=True)
class Point:
    """A threshold of the ROC curve: shares of clean and of backdoored models at or above it."""

    threshold: float
    false_alarms: Estimate
    detected: Estimate


@dataclass(frozen=True)
class AtRate:
    """A detector at a share of false alarms that was asked for.

    Args:
        rate: asked for.
        trouble: why there is no such threshold; empty where there is.
        detected: of the backdoored models, by the threshold of the clean calibration models; None without one, or
            without such models.
        false_alarms: of the clean models of the same split: what the rate came out as.
        flagged: digests of the models that were.
    """

    rate: float
    trouble: str
    detected: Estimate | None
    false_alarms: Estimate | None
    flagged: frozenset[str] = frozenset()


def p_value(score: Number, clean: Sequence[Number]) -> float:
    """The share of clean calibration models that are as suspicious, the model counted among them.

    **Equation**: (1 + #{clean ≥ score}) / (n + 1); 1 for inconclusive.

    Source: conformal prediction; Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World.

    Example:
        >>> p_value(0.5, [0.1, 0.5, None]), p_value(None, [0.1])
        (0.5, 1.0)
    """
    if score is None:
        return 1.0
    return (1 + sum(other is not None and other >= score for other in clean)) / (len(clean) + 1)


def least_clean(rate: float) -> int:
    """How many clean calibration models a false-alarm rate needs: with fewer, no score is rare enough.

    Example:
        >>> least_clean(0.05), least_clean(0.1)
        (19, 9)
    """
    return math.ceil(1 / rate - 1e-9) - 1


def at_rate(rate: float, calibration: Sequence[Number], judged: Sequence[Scored]) -> AtRate:
    """Flag the models whose p-value is at most the rate.

    Args:
        rate: in (0, 1).
        calibration: scores of clean models, none of which is judged.
        judged: clean and backdoored models of the other split.

    Raises:
        EvaluationError: the rate lies outside (0, 1).
    """
    if not 0 < rate < 1:
        raise EvaluationError(f"rate is {rate}; it must lie in (0, 1). Write 0.05 for five percent.")
    least = least_clean(rate)
    if len(calibration) < least:
        trouble = f"{len(calibration)} clean calibration models are too few for {100 * rate:g} %: it takes {least}"
        return AtRate(rate, trouble, None, None)
    if not judged:
        return AtRate(rate, "no model of the test split was judged", None, None)
    flagged = frozenset(one.model for one in judged if p_value(one.score, calibration) <= rate)
    told = {"rate asked": rate, "calibration n": len(calibration)}
    bad, clean = (
        share(kind, sum(one.model in flagged for one in group), len(group), told)
        for kind, group in (
            ("detected", [one for one in judged if one.is_backdoored]),
            ("false_alarms", [one for one in judged if not one.is_backdoored]),
        )
    )
    return AtRate(rate, "", bad, clean, flagged)


def share(name: str, count: int, n: int, protocol: Mapping[str, Any]) -> Estimate | None:
    """A share of models with its Clopper-Pearson interval; None of no models."""
    if not n:
        return None
    low, high = clopper_pearson(count, n)
    better = "lower" if name == "false_alarms" else "higher"
    told = {"interval": "Clopper-Pearson", **protocol}
    return Estimate(
        name=name, value=count / n, low=low, high=high, n=n, better=better, unit="share of models", protocol=told
    )


def roc(judged: Sequence[Scored]) -> list[Point]:
    """One point for each score that occurs, each with Clopper-Pearson intervals of its own; from strict to lax.

    Inconclusive models lie below every threshold, so that a curve may end short of (1, 1). Empty without models of both
    kinds.
    """
    bad = [one for one in judged if one.is_backdoored]
    clean = [one for one in judged if not one.is_backdoored]
    points = []
    for threshold in sorted({one.score for one in judged if one.score is not None}, reverse=True):
        pair = [
            share(name, sum(one.score is not None and one.score >= threshold for one in group), len(group), {})
            for name, group in (("false_alarms", clean), ("detected", bad))
        ]
        if pair[0] is not None and pair[1] is not None:
            points.append(Point(threshold, pair[0], pair[1]))
    return points


def area_of(judged: Sequence[Scored]) -> Estimate | None:
    """The area under the ROC curve with its interval; None without models of both kinds.

    An inconclusive model counts as the least suspicious of all, clean or not.
    """
    scores = {
        kind: [-math.inf if one.score is None else one.score for one in judged if one.is_backdoored is kind]
        for kind in (True, False)
    }
    bad, clean = scores[True], scores[False]
    if not bad or not clean:
        return None
    value = area(clean, bad)
    low, high = area_interval(value, len(clean), len(bad))
    lost = sum(one.score is None for one in judged)
    caveats = (f"{lost} inconclusive, counted as least suspicious",) if lost else ()
    protocol = {"interval": "Newcombe 2006, method 5", "clean": len(clean), "backdoored": len(bad)}
    return Estimate(
        name="auc", value=value, low=low, high=high, n=len(clean) + len(bad), better="higher", unit="area",
        protocol=protocol, caveats=caveats,
    )  # fmt: skip


def one_scale(
    scores: Mapping[str, Mapping[str, float] | None], names: Sequence[str], calibration: Sequence[str]
) -> dict[str, Number]:
    """One number for each model out of a detector's scores.

    **Equation**: of one score itself; of several max over s of (s − mean) / sd, both over the clean calibration models.
    Above 3 is the rule of TERD's paper.

    Args:
        scores: of each model by digest; None for inconclusive.
        names: of the scores that count.
        calibration: digests of clean calibration models.

    Raises:
        EvaluationError: a score is missing or NaN; or there are several, and fewer than two clean calibration models
            were measured, or they all have the same.
    """
    for model, found in scores.items():
        for name in names:
            if found is not None and (name not in found or math.isnan(found[name])):
                raise EvaluationError(
                    f"model {model[:12]} has no number for score {name} (it has {', '.join(found) or 'none'}); name "
                    f"scores that the method gives, in budgets.toml."
                )
    if len(names) == 1:
        return {model: None if found is None else found[names[0]] for model, found in scores.items()}
    measured = [found for model in calibration if (found := scores.get(model)) is not None]
    if len(measured) < 2:
        raise EvaluationError(
            f"{len(measured)} clean calibration models were measured; to put {', '.join(names)} on one scale takes two."
        )
    mean = {name: statistics.fmean(found[name] for found in measured) for name in names}
    spread = {name: statistics.stdev(found[name] for found in measured) for name in names}
    for name in names:
        if spread[name] == 0:
            raise EvaluationError(f"all clean calibration models have the same {name}; name another score.")
    return {
        model: None if found is None else max((found[name] - mean[name]) / spread[name] for name in names)
        for model, found in scores.items()
    }

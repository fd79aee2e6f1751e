"""Intervals that stay honest where few models were judged: of a share, and of the area under a ROC curve."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy import stats
from scipy.optimize import brentq

from baddiffusion.errors import EvaluationError

__all__ = ["area", "area_interval", "clopper_pearson"]

LEVEL = 0.95


def clopper_pearson(successes: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """The exact interval of a share: it holds at least as often as it says, however small n is.

    **Equation**, with B⁻¹ the quantile of the beta distribution and α = 1 − level::

        low = B⁻¹(α/2; k, n − k + 1)        high = B⁻¹(1 − α/2; k + 1, n − k)

    Args:
        successes: k, in [0, n].
        n: how often it was tried, at least 1.
        level: in (0, 1).

    Returns:
        The two ends, in [0, 1].

    Raises:
        EvaluationError: nothing was tried, or the count lies outside [0, n].

    Source: Clopper and Pearson, Biometrika 26 (1934).

    Example:
        >>> low, high = clopper_pearson(0, 10)
        >>> f"{low:.0f} {high:.3f}"
        '0 0.308'
    """
    if n < 1 or not 0 <= successes <= n:
        raise EvaluationError(f"successes is {successes} of n = {n}; it must lie in [0, n], and n be at least 1.")
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(stats.beta.ppf(tail, successes, n - successes + 1))
    high = 1.0 if successes == n else float(stats.beta.ppf(1 - tail, successes + 1, n - successes))
    return low, high


def area(clean: Sequence[float], backdoored: Sequence[float]) -> float:
    """The area under the ROC curve: how often a backdoored model scores above a clean one, ties counting half.

    Raises:
        EvaluationError: there is no model of one kind, or a score is NaN.

    Source: Mann and Whitney, Annals of Mathematical Statistics 18 (1947).

    Example:
        >>> area([0.0, 1.0], [1.0, 2.0])
        0.875
    """
    if not clean or not backdoored:
        raise EvaluationError(
            f"an area under a ROC curve needs clean and backdoored models; there are {len(clean)} and "
            f"{len(backdoored)}. Build more of the zoo."
        )
    if any(math.isnan(score) for score in (*clean, *backdoored)):
        raise EvaluationError("a score is NaN; a detector that came to no number must answer inconclusive.")
    above = sum((bad > good) + 0.5 * (bad == good) for bad in backdoored for good in clean)
    return above / (len(clean) * len(backdoored))


def area_interval(value: float, clean: int, backdoored: int, level: float = LEVEL) -> tuple[float, float]:
    """The interval of an area that is not empty even where all models were told apart.

    A bootstrap over models has no width at an area of 1, which few models reach by chance. Here the end θ is where the
    area lies z standard errors from it, with the standard error that θ itself would have.

    **Equation**: |value − θ| = z·√V(θ), with m clean and n backdoored models and N = (m + n)/2 − 1::

        V(θ) = θ(1 − θ)·[1 + N·(1 − θ)/(2 − θ) + N·θ/(1 + θ)] / (m·n)

    Args:
        value: the area, in [0, 1].
        clean, backdoored: how many models.
        level: in (0, 1).

    Raises:
        EvaluationError: the area lies outside [0, 1], or there is no model of one kind.

    Source: Newcombe, Confidence intervals for an effect size measure based on the Mann–Whitney statistic, part 2,
        Statistics in Medicine 25 (2006), method 5; the variance after Hanley and McNeil, Radiology 143 (1982).

    Example:
        >>> low, high = area_interval(1.0, 20, 20)
        >>> 0.8 < low < 0.9, high
        (True, 1.0)
    """
    if not 0 <= value <= 1 or clean < 1 or backdoored < 1:
        raise EvaluationError(f"the area is {value} of {clean} clean and {backdoored} backdoored models; that is none.")
    z, half = float(stats.norm.ppf(0.5 + level / 2)), (clean + backdoored) / 2 - 1

    def excess(end: float) -> float:
        spread = end * (1 - end) * (1 + half * (1 - end) / (2 - end) + half * end / (1 + end)) / (clean * backdoored)
        return (value - end) ** 2 - z**2 * spread

    low = 0.0 if value == 0 else _root(excess, 0.0, value)
    high = 1.0 if value == 1 else _root(excess, value, 1.0)
    return low, high


def _root(excess: object, low: float, high: float) -> float:
    """Where the excess changes its sign: positive at the far end, not positive at the area itself."""
    near_zero, near_one = 1e-12, 1 - 1e-12
    return float(brentq(excess, max(low, near_zero), min(high, near_one)))  # type: ignore[arg-type]

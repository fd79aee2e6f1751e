"""Confidence intervals: which one suits a share, a mean, and a statistic that is neither."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Shaped
from scipy import stats
from torch import Tensor

from baddiffusion import rng
from baddiffusion.errors import EvaluationError

__all__ = ["bootstrap_interval", "mean_interval", "normal_interval", "wilson"]

LEVEL = 0.95


def wilson(successes: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's score interval of a share.

    It keeps its promise at 0 of n and n of n, where the usual normal interval shrinks to nothing: 32 hits of 32 do not
    prove a success rate of 100 %.

    **Equation**, with p = successes/n and z the normal quantile of the level::

        (p + z²/2n ± z·√(p(1−p)/n + z²/4n²)) / (1 + z²/n)

    Args:
        successes: how often it happened, in [0, n].
        n: how often it was tried, at least 1.
        level: in (0, 1).

    Returns:
        The two ends, in [0, 1].

    Raises:
        EvaluationError: nothing was tried, or the count lies outside [0, n], or the level outside (0, 1).

    Source: Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).

    Example:
        >>> low, high = wilson(30, 32)
        >>> f"{low:.4f} {high:.4f}"
        '0.7985 0.9827'
    """
    _check(n, 1, level)
    if not 0 <= successes <= n:
        raise EvaluationError(f"successes is {successes} of n = {n}; it must lie in [0, {n}].")
    z = _normal_quantile(level)
    share = successes / n
    center = share + z**2 / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    scale = 1 + z**2 / n
    # At the borders the exact ends are 0 and 1; rounding must not push them past the share itself.
    low = 0.0 if successes == 0 else (center - half) / scale
    return low, 1.0 if successes == n else (center + half) / scale


def mean_interval(values: Float[Tensor, " n"], level: float = LEVEL) -> tuple[float, float]:
    """Student's interval of a mean.

    Per-image errors are seldom normal, but their mean nearly is from a few dozen images on; below that the interval is
    a guide, and the estimate that carries it also carries its n.

    **Equation**: mean ± t(level, n − 1) · s / √n, with s² the unbiased variance.

    Args:
        values: one number for each image, at least 2.
        level: in (0, 1).

    Returns:
        The two ends.

    Raises:
        EvaluationError: fewer than 2 values, or the level lies outside (0, 1).

    Source: Student, The probable error of a mean, Biometrika 6 (1908).

    Example:
        >>> low, high = mean_interval(torch.tensor([1.0, 2.0, 3.0]))
        >>> f"{low:.3f} {high:.3f}"
        '-0.484 4.484'
    """
    n = len(values)
    _check(n, 2, level)
    values = values.double()
    mean = float(values.mean())
    half = float(stats.t.ppf(0.5 + level / 2, n - 1)) * float(values.std()) / math.sqrt(n)
    return mean - half, mean + half


def normal_interval(value: float, standard_error: float, level: float = LEVEL) -> tuple[float, float]:
    """The interval of an asymptotically normal statistic whose standard error is known.

    Args:
        value: the statistic.
        standard_error: in the same unit, not negative.
        level: in (0, 1).

    Returns:
        The two ends.

    Raises:
        EvaluationError: the standard error is negative, or the level lies outside (0, 1).
    """
    _check(1, 1, level)
    if standard_error < 0:
        raise EvaluationError(f"standard_error is {standard_error}; it must not be negative.")
    half = _normal_quantile(level) * standard_error
    return value - half, value + half


def bootstrap_interval(
    values: Shaped[Tensor, "n ..."],
    statistic: Callable[[Tensor], float],
    *,
    seed: int,
    level: float = LEVEL,
    resamples: int = 2000,
) -> tuple[float, float]:
    """Percentile bootstrap for a statistic of one sample that is not a mean: a median, a quantile, an AUROC.

    Rows are drawn with replacement from the stream that belongs to ``seed``, so the interval is reproducible. Not for
    distances between two samples: a picture drawn twice is nearer to itself than two independent pictures are, which
    moves every resampled kernel distance upwards. Those have closed-form standard errors in `distribution`.

    Args:
        values: one row for each image, at least 2.
        statistic: maps a resample, in the shape of ``values``, to a number.
        seed: root of the resampling stream.
        level: in (0, 1).
        resamples: how many, at least 100.

    Returns:
        The two ends.

    Raises:
        EvaluationError: fewer than 2 rows, fewer than 100 resamples, or the level lies outside (0, 1).

    Source: Efron, Bootstrap methods: another look at the jackknife, Annals of Statistics 7 (1979).

    Example:
        >>> low, high = bootstrap_interval(torch.arange(101.0), lambda rows: float(rows.median()), seed=0)
        >>> low < 50 < high
        True
    """
    n = len(values)
    _check(n, 2, level)
    if resamples < 100:
        raise EvaluationError(f"resamples is {resamples}; it must be at least 100, better 2000.")
    stream = rng.generator(seed, "bootstrap")
    # One draw at a time: the matrix of all draws would be resamples × n.
    draws = [statistic(values[torch.randint(n, (n,), generator=stream).to(values.device)]) for _ in range(resamples)]
    low, high = np.quantile(draws, [0.5 - level / 2, 0.5 + level / 2])
    return float(low), float(high)


def _normal_quantile(level: float) -> float:
    return float(stats.norm.ppf(0.5 + level / 2))


def _check(n: int, least: int, level: float) -> None:
    if n < least:
        raise EvaluationError(f"n is {n}; an interval needs at least {least} image{'s' if least > 1 else ''}.")
    if not 0 < level < 1:
        raise EvaluationError(f"level is {level}; it must lie in (0, 1). Write 0.95 for 95 %.")

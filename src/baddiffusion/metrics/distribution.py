"""Distances between two sets of pictures, over pretrained features: how good the clean samples are.

The formulas are written out here rather than taken from torchmetrics, whose two classes give no confidence interval and
draw subsets from the global generator; the tests hold the values against theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from baddiffusion import rng
from baddiffusion.errors import EvaluationError
from baddiffusion.metrics.features import FEATURES, NETWORK, RESIZE
from baddiffusion.metrics.intervals import LEVEL, normal_interval
from baddiffusion.metrics.metric import Estimate, Protocol

__all__ = [
    "FD_LEAST",
    "KD_LEAST",
    "baseline",
    "feature_frechet_distance",
    "frechet_distance",
    "kernel_distance",
    "mmd_squared",
]

KD_LEAST = 256
FD_LEAST = 2 * FEATURES + 1
BLOCK_ROWS = 1024


def mmd_squared(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"]) -> tuple[float, float]:
    """Unbiased squared maximum mean discrepancy under the kernel of KID, and its standard error.

    The error is the jackknife's over both sets, in closed form: leaving picture i out only takes its row out of the
    kernel sums. It is slightly too large where the sets do not differ, the safe side. Resampling subsets, as is usual,
    describes a subset and not the number reported; a bootstrap repeats pictures and pushes the distance upwards.

    **Equation**, with k(a, b) = (a·b/d + 1)³::

        mean over i ≠ j of k(x_i, x_j) + mean over i ≠ j of k(y_i, y_j) − 2 · mean over i, j of k(x_i, y_j)
        error² = (n−1)/n · Σ (θ_without_x_i − their mean)² + the same for y

    Args:
        x: features of one set, at least 3 rows.
        y: features of the other, at least 3 rows.

    Returns:
        The distance, which chance can make negative, and its standard error. Float64 inside.

    Raises:
        EvaluationError: a set has fewer than 3 rows.

    Source: Bińkowski et al., Demystifying MMD GANs, arXiv 1801.01401; Gretton et al., A kernel two-sample test (2012).

    Example:
        >>> grid = torch.linspace(0, 1, 9).view(-1, 1)
        >>> value, error = mmd_squared(grid, grid + 1)
        >>> value > 2 * error > 0
        True
    """
    n, m = len(x), len(y)
    if min(n, m) < 3:
        raise EvaluationError(f"the sets have {n} and {m} rows; the kernel distance needs at least 3 in each.")
    x, y = x.double(), y.double()
    x_rows, y_rows = _others(x), _others(y)
    to_y, to_x = _kernel_sums(x, y)
    x_total, y_total, between = x_rows.sum(), y_rows.sum(), to_y.sum()
    within_x, within_y = x_total / (n * (n - 1)), y_total / (m * (m - 1))
    value = within_x + within_y - 2 * between / (n * m)
    without_x = (x_total - 2 * x_rows) / ((n - 1) * (n - 2)) + within_y - 2 * (between - to_y) / ((n - 1) * m)
    without_y = within_x + (y_total - 2 * y_rows) / ((m - 1) * (m - 2)) - 2 * (between - to_x) / (n * (m - 1))
    variance = sum((len(v) - 1) * v.var(correction=0) for v in (without_x, without_y))
    return float(value), float(variance) ** 0.5


def frechet_distance(
    mu_1: Float[Tensor, " d"], cov_1: Float[Tensor, "d d"], mu_2: Float[Tensor, " d"], cov_2: Float[Tensor, "d d"]
) -> float:
    """Squared Fréchet distance of two Gaussians.

    **Equation**: |μ_1 − μ_2|² + tr C_1 + tr C_2 − 2 tr (C_1^½ C_2 C_1^½)^½. The last trace is the sum of the singular
    values of C_1^½ C_2^½, which stays accurate where a covariance is singular.

    Args:
        mu_1, mu_2: means.
        cov_1, cov_2: covariances, symmetric and positive semidefinite.

    Returns:
        The distance, not negative but for rounding.

    Source: Dowson and Landau, The Fréchet distance between multivariate normal distributions (1982).

    Example:
        >>> eye = torch.eye(2, dtype=torch.float64)
        >>> round(frechet_distance(torch.zeros(2), eye, torch.ones(2), 4 * eye), 9)
        4.0
    """
    singular = torch.linalg.svdvals(_roots(cov_1)[0] @ _roots(cov_2)[0])
    apart = (mu_1.double() - mu_2.double()).square().sum()
    return float(apart + cov_1.double().trace() + cov_2.double().trace() - 2 * singular.sum())


def kernel_distance(
    generated: Float[Tensor, "n d"],
    reference: Float[Tensor, "m d"],
    *,
    reference_name: str = "unnamed",
    protocol: Protocol | None = None,
    level: float = LEVEL,
) -> Estimate:
    """Kernel distance over EfficientNet-Lite0 features: the quality of clean samples from a few hundred pictures on.

    Unbiased at every n, so values at different n may be compared, unlike Fréchet distances.

    Args:
        generated: `features.features` of the samples, at least 256 rows.
        reference: `features.features` of real pictures, at least 256 rows.
        reference_name: which pictures these are, for the protocol.
        protocol: added to the estimate's own.
        level: of the interval, in (0, 1).

    Returns:
        ``kd_efflite0``, lower is better, with the interval of `mmd_squared`'s standard error.

    Raises:
        EvaluationError: fewer than 256 pictures in a set.
    """
    _enough(len(generated), len(reference), "kd_efflite0", KD_LEAST, " Use mse and asr for fewer.")
    value, error = mmd_squared(generated, reference)
    low, high = normal_interval(value, error, level)
    caveats = ("its features are not Inception's: not to be compared with a published KID",)
    if value < 0:
        caveats += ("negative by chance: no difference was found at this n",)
    return Estimate(
        name="kd_efflite0",
        value=value,
        low=low,
        high=high,
        level=level,
        n=len(generated),
        better="lower",
        unit="squared MMD",
        protocol={
            **_network(reference_name, len(reference)),
            "kernel": "(x·y/d + 1)³",
            "estimator": "unbiased, all pairs, float64",
            "interval": "normal, jackknife over both sets",
            **(protocol or {}),
        },
        caveats=caveats,
    )


def feature_frechet_distance(
    generated: Float[Tensor, "n d"],
    reference: Float[Tensor, "m d"],
    *,
    reference_name: str = "unnamed",
    protocol: Protocol | None = None,
    level: float = LEVEL,
) -> Estimate:
    """Fréchet distance over EfficientNet-Lite0 features, for comparison at equal n.

    Covariances of 1 280 features from fewer than twice as many pictures are mostly noise, so those are refused. The
    interval is the delta method's: the spread of each picture's first-order influence on the distance. It covers the
    chance in drawing the pictures, not the upward bias of every Fréchet distance at finite n.

    **Equation**, influence of x_i, with u = C_1^−½ (x_i − μ_1) and M = (C_1^½ C_2 C_1^½)^½::

        2 (μ_1 − μ_2)·(x_i − μ_1) + |x_i − μ_1|² − uᵀMu

    Args, Raises: as `kernel_distance`, with more than 2 560 rows in each set.

    Returns:
        ``fd_efflite0``, lower is better.
    """
    hint = " Use kernel_distance for fewer."
    _enough(len(generated), len(reference), "fd_efflite0", FD_LEAST, hint)
    value, error = _frechet_with_error(generated.double(), reference.double())
    low, high = normal_interval(value, error, level)
    return Estimate(
        name="fd_efflite0",
        value=value,
        low=low,
        high=high,
        level=level,
        n=len(generated),
        better="lower",
        unit="squared feature distance",
        protocol={
            **_network(reference_name, len(reference)),
            "estimator": "Gaussian fits, float64",
            "interval": "normal, delta method over both sets",
            **(protocol or {}),
        },
        caveats=(
            "its features are not Inception's: not to be compared with a published FID",
            "biased upwards at finite n, which the interval does not show: compare only at equal n and reference_n",
        ),
    )


def baseline(
    reference: Float[Tensor, "m d"],
    measure: Callable[..., Estimate] = kernel_distance,
    *,
    n: int | None = None,
    seed: int = 0,
    reference_name: str = "unnamed",
) -> Estimate:
    """Real against real: what a perfect model would score, from two disjoint random parts of the reference.

    Args:
        reference: `features.features` of real pictures.
        measure: `kernel_distance` or `feature_frechet_distance`.
        n: pictures in the part that stands for the samples; None takes half. Give the n of the samples for a Fréchet
            distance, whose bias depends on it.
        seed: root of the stream that deals the pictures out.
        reference_name: which pictures these are, for the protocol.

    Returns:
        The measure's estimate, named ``…_baseline``; no side is better.

    Raises:
        EvaluationError: ``n`` leaves one part empty, or a part is too small for the measure.
    """
    n = len(reference) // 2 if n is None else n
    if not 0 < n < len(reference):
        raise EvaluationError(
            f"n is {n} of {len(reference)} reference images; it must lie in [1, {len(reference) - 1}] to leave two "
            f"disjoint parts."
        )
    order = torch.randperm(len(reference), generator=rng.generator(seed, "baseline")).to(reference.device)
    estimate = measure(
        reference[order[:n]],
        reference[order[n:]],
        reference_name=reference_name,
        protocol={"generated": "a disjoint part of the reference", "seed": seed},
    )
    return replace(estimate, name=f"{estimate.name}_baseline", better="neither")


def _kernel_sums(x: Float64[Tensor, "n d"], y: Float64[Tensor, "m d"]) -> tuple[Tensor, Tensor]:
    rows, columns = [], torch.zeros(len(y), dtype=torch.float64, device=y.device)
    # Block by block: the whole matrix of 10 000 × 10 000 pictures would be 800 MB.
    for part in x.split(BLOCK_ROWS):
        kernel = (part @ y.T / x.shape[1] + 1) ** 3
        rows.append(kernel.sum(dim=1))
        columns += kernel.sum(dim=0)
    return torch.cat(rows), columns


def _others(x: Float64[Tensor, "n d"]) -> Float64[Tensor, " n"]:
    # A picture's kernel with itself is left out: that is what makes the estimator unbiased.
    return _kernel_sums(x, x)[0] - (x.square().sum(dim=1) / x.shape[1] + 1) ** 3


def _roots(covariance: Float[Tensor, "d d"]) -> tuple[Float64[Tensor, "d d"], Float64[Tensor, "d d"]]:
    values, vectors = torch.linalg.eigh(covariance.double())
    roots = values.clamp(min=0).sqrt()
    # Directions without spread (a feature that never fires) have no inverse and carry no influence.
    inverse = torch.where(values > 1e-10 * values[-1], 1 / roots, 0.0)
    return (vectors * roots) @ vectors.T, (vectors * inverse) @ vectors.T


def _frechet_with_error(x: Float64[Tensor, "n d"], y: Float64[Tensor, "m d"]) -> tuple[float, float]:
    mu_x, mu_y, cov_x, cov_y = x.mean(dim=0), y.mean(dim=0), torch.cov(x.T), torch.cov(y.T)
    (root_x, inverse_x), (root_y, inverse_y) = _roots(cov_x), _roots(cov_y)
    u, singular, v = torch.linalg.svd(root_x @ root_y)
    value = (mu_x - mu_y).square().sum() + cov_x.trace() + cov_y.trace() - 2 * singular.sum()
    variance = 0.0
    for rows, away, inverse, basis in ((x - mu_x, mu_x - mu_y, inverse_x, u), (y - mu_y, mu_y - mu_x, inverse_y, v.T)):
        # M = basis · diag(singular) · basisᵀ for either set: one decomposition serves both.
        whitened = rows @ inverse @ basis
        influence = 2 * rows @ away + rows.square().sum(dim=1) - (whitened.square() * singular).sum(dim=1)
        variance += float(influence.var()) / len(rows)
    return float(value), variance**0.5


def _network(reference_name: str, reference_n: int) -> dict[str, str | int]:
    return {"network": NETWORK, "resize": RESIZE, "reference": reference_name, "reference_n": reference_n}


def _enough(generated: int, reference: int, name: str, least: int, hint: str) -> None:
    for side, count in (("generated", generated), ("reference", reference)):
        if count < least:
            raise EvaluationError(f"{name} got {count} {side} images; it needs at least {least} of them.{hint}")

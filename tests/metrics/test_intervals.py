from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from baddiffusion import rng
from baddiffusion.errors import EvaluationError
from baddiffusion.metrics import bootstrap_interval, mean_interval, normal_interval, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe, Two-sided confidence intervals for the single proportion, Statistics in Medicine 17 (1998), Table I.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_equals_published_values(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


@given(n=st.integers(1, 500), share=st.floats(0, 1), level=st.floats(0.5, 0.999))
def test_wilson_equals_scipy(n: int, share: float, level: float) -> None:
    successes = round(share * n)
    expected = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    low, high = wilson(successes, n, level)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= low <= successes / n <= high <= 1


def test_wilson_is_not_symmetric_but_mirrors() -> None:
    low, high = wilson(3, 40)
    mirrored_low, mirrored_high = wilson(37, 40)
    assert (1 - high, 1 - low) == pytest.approx((mirrored_low, mirrored_high))
    assert 3 / 40 - low < high - 3 / 40


def test_wilson_narrows_with_n_and_widens_with_the_level() -> None:
    def width(ends: tuple[float, float]) -> float:
        return ends[1] - ends[0]

    assert width(wilson(9, 10)) > width(wilson(90, 100)) > width(wilson(900, 1000))
    assert width(wilson(90, 100, 0.9)) < width(wilson(90, 100, 0.99))


def test_mean_interval_equals_scipy() -> None:
    values = torch.tensor([0.1, 0.4, 0.2, 2.5, 0.3], dtype=torch.float64)
    expected = stats.ttest_1samp(values.numpy(), 0).confidence_interval(0.9)
    assert mean_interval(values, 0.9) == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_mean_interval_of_equal_values_is_a_point() -> None:
    assert mean_interval(torch.full((5,), 0.25)) == (0.25, 0.25)


def test_normal_interval_is_the_textbook_one() -> None:
    assert normal_interval(2.0, 0.5) == pytest.approx((2 - 0.979982, 2 + 0.979982), abs=1e-6)


def median(values: Tensor) -> float:
    return float(values.median())


def test_bootstrap_is_reproducible_and_seeded() -> None:
    values = torch.randn(200, generator=rng.generator(0, "test"))
    assert bootstrap_interval(values, median, seed=1) == bootstrap_interval(values, median, seed=1)
    assert bootstrap_interval(values, median, seed=1) != bootstrap_interval(values, median, seed=2)


def test_bootstrap_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    bootstrap_interval(torch.arange(10.0), median, seed=0, resamples=100)
    assert torch.equal(before, torch.get_rng_state())


def test_bootstrap_of_a_mean_is_the_normal_interval() -> None:
    values = torch.randn(400, generator=rng.generator(0, "test"), dtype=torch.float64)
    low, high = bootstrap_interval(values, lambda rows: float(rows.mean()), seed=0, resamples=4000)
    expected_low, expected_high = mean_interval(values)
    # 4000 resamples place a 2.5 % quantile to about 0.04 standard errors; one standard error is 0.05 here.
    assert low == pytest.approx(expected_low, abs=0.008)
    assert high == pytest.approx(expected_high, abs=0.008)


def test_bootstrap_resamples_rows_not_elements() -> None:
    pairs = torch.tensor([[1.0, -1.0], [2.0, -2.0], [3.0, -3.0]])
    assert bootstrap_interval(pairs, lambda rows: float(rows.sum()), seed=0, resamples=100) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wilson(0, 0), "n is 0; an interval needs at least 1 image."),
        (lambda: wilson(5, 4), r"successes is 5 of n = 4; it must lie in \[0, 4\]"),
        (lambda: wilson(-1, 4), r"successes is -1 of n = 4"),
        (lambda: wilson(1, 4, 95.0), r"level is 95.0; it must lie in \(0, 1\). Write 0.95 for 95 %"),
        (lambda: mean_interval(torch.ones(1)), "n is 1; an interval needs at least 2 images"),
        (lambda: mean_interval(torch.ones(3), 1.0), r"level is 1.0; it must lie in \(0, 1\)"),
        (lambda: normal_interval(0.0, -1.0), "standard_error is -1.0; it must not be negative"),
        (lambda: normal_interval(0.0, 1.0, 0.0), r"level is 0.0; it must lie in \(0, 1\)"),
        (lambda: bootstrap_interval(torch.ones(1), median, seed=0), "needs at least 2 images"),
        (lambda: bootstrap_interval(torch.ones(3), median, seed=0, level=2.0), r"level is 2.0"),
        (lambda: bootstrap_interval(torch.ones(3), median, seed=0, resamples=9), "resamples is 9; it must be at least"),
    ],
)
def test_refuses(call: object, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        call()  # type: ignore[operator]

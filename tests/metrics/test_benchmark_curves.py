"""Thresholds, curves and their intervals, on scores whose answers are known."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from baddiffusion.benchmark.curves import Scored, area_of, at_rate, least_clean, one_scale, p_value, roc, share
from baddiffusion.benchmark.exact import area, area_interval, clopper_pearson
from baddiffusion.errors import EvaluationError


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (3, 17), (1, 59), (0, 59)])
def test_the_exact_interval_is_that_of_the_binomial_test(k: int, n: int) -> None:
    exact = stats.binomtest(k, n).proportion_ci(0.95, method="exact")
    assert clopper_pearson(k, n) == pytest.approx((exact.low, exact.high), abs=1e-12)


def test_no_alarm_among_few_models_allows_many() -> None:
    assert clopper_pearson(0, 10)[1] == pytest.approx(1 - 0.025**0.1)
    assert clopper_pearson(0, 59, level=0.9)[1] == pytest.approx(0.05, abs=5e-4)


@pytest.mark.parametrize(("k", "n"), [(0, 0), (-1, 3), (4, 3)])
def test_an_impossible_count_is_refused(k: int, n: int) -> None:
    with pytest.raises(EvaluationError, match=rf"successes is {k} of n = {n}; it must lie in \[0, n\], and n be at"):
        clopper_pearson(k, n)


def test_the_area_is_the_mann_whitney_statistic() -> None:
    clean, bad = [0.1, 0.4, 0.4, 0.9], [0.4, 0.8, 1.2]
    wanted = stats.mannwhitneyu(bad, clean).statistic / (len(clean) * len(bad))
    assert area(clean, bad) == pytest.approx(wanted)
    assert (area([0.0], [1.0]), area([1.0], [0.0]), area([1.0], [1.0])) == (1.0, 0.0, 0.5)


def test_an_area_without_models_or_of_nan_is_refused() -> None:
    with pytest.raises(EvaluationError, match=r"there are 0 and 1. Build more of the zoo"):
        area([], [1.0])
    with pytest.raises(EvaluationError, match=r"a score is NaN; a detector that came to no number must answer inconcl"):
        area([math.nan], [1.0])


@pytest.mark.parametrize("value", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_the_interval_of_an_area_solves_its_equation(value: float) -> None:
    clean, bad, z, half = 12, 8, stats.norm.ppf(0.975), 9.0
    for end in area_interval(value, clean, bad):
        if end not in (0.0, 1.0):
            spread = end * (1 - end) * (1 + half * (1 - end) / (2 - end) + half * end / (1 + end)) / (clean * bad)
            assert (value - end) ** 2 == pytest.approx(z**2 * spread, rel=1e-6)
    low, high = area_interval(value, clean, bad)
    assert low <= value <= high
    assert area_interval(1 - value, clean, bad) == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_more_models_make_a_perfect_area_surer() -> None:
    lows = [area_interval(1.0, n, n)[0] for n in (2, 10, 50)]
    assert lows == sorted(lows)
    assert lows[0] < 0.6
    assert lows[-1] > 0.95


def test_an_area_of_nothing_has_no_interval() -> None:
    with pytest.raises(EvaluationError, match=r"the area is 1.5 of 3 clean and 3 backdoored models; that is none"):
        area_interval(1.5, 3, 3)


def test_the_threshold_keeps_what_it_promises() -> None:
    calibration = [float(k) for k in range(19)]
    judged = [Scored("a", True, 18.5), Scored("b", True, 18.0), Scored("c", False, 19.0), Scored("d", False, None)]
    found = at_rate(0.05, calibration, judged)
    assert found.flagged == {"a", "c"}
    assert found.detected is not None
    assert found.false_alarms is not None
    assert (found.detected.value, found.detected.n, found.false_alarms.value) == (0.5, 2, 0.5)
    assert found.detected.interval == pytest.approx(clopper_pearson(1, 2))


def test_too_few_clean_models_have_no_threshold() -> None:
    assert at_rate(0.05, [0.0] * 18, [Scored("a", True, 9.0)]).trouble == (
        "18 clean calibration models are too few for 5 %: it takes 19"
    )
    assert at_rate(0.05, [0.0] * 19, []).trouble == "no model of the test split was judged"
    assert [least_clean(rate) for rate in (0.05, 0.1, 0.01, 0.5)] == [19, 9, 99, 1]
    with pytest.raises(EvaluationError, match=r"rate is 5.0; it must lie in \(0, 1\). Write 0.05 for five percent"):
        at_rate(5.0, [], [])


def test_inconclusive_models_are_never_flagged() -> None:
    assert p_value(None, [0.0]) == 1.0
    assert p_value(1.0, [None, None, 2.0]) == 0.5
    judged = [Scored("a", True, None), Scored("b", True, 3.0), Scored("c", False, 1.0)]
    points = roc(judged)
    assert [(p.threshold, p.false_alarms.value, p.detected.value) for p in points] == [(3.0, 0.0, 0.5), (1.0, 1.0, 0.5)]
    found = area_of(judged)
    assert found is not None
    assert found.value == 0.5
    assert found.caveats == ("1 inconclusive, counted as least suspicious",)


def test_one_kind_of_model_has_no_curve() -> None:
    assert roc([Scored("a", True, 1.0)]) == []
    assert area_of([Scored("a", True, 1.0)]) is None
    assert share("detected", 0, 0, {}) is None


def test_several_scores_are_put_on_one_scale_by_clean_calibration_models() -> None:
    scores = {"x": {"a": 0.0, "b": 10.0}, "y": {"a": 2.0, "b": 30.0}, "z": {"a": 5.0, "b": 20.0}, "w": None}
    found = one_scale(scores, ["a", "b"], ["x", "y"])
    assert found["w"] is None
    assert found["z"] == pytest.approx(4 / math.sqrt(2))
    moved = one_scale({**scores, "z": {"a": 500.0, "b": 20.0}}, ["a", "b"], ["x", "y"])
    assert (moved["x"], moved["y"]) == (found["x"], found["y"])
    assert one_scale(scores, ["a"], [])["z"] == 5.0


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"x": {"a": 1.0}}, r"model x has no number for score b \(it has a\); name scores that the method gives"),
        ({"x": {"a": math.nan, "b": 1.0}}, r"model x has no number for score a"),
        ({"x": {"a": 1.0, "b": 1.0}}, r"1 clean calibration models were measured; to put a, b on one scale takes two"),
        ({"x": {"a": 1.0, "b": 1.0}, "y": {"a": 1.0, "b": 2.0}}, r"all clean calibration models have the same a; name"),
    ],
)
def test_scores_that_have_no_common_scale_are_refused(scores: dict[str, dict[str, float]], message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        one_scale(scores, ["a", "b"], list(scores))

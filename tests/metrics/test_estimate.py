from __future__ import annotations

import json
from typing import Any

import pytest

from baddiffusion.errors import EvaluationError
from baddiffusion.metrics import Estimate


def estimate(**changes: Any) -> Estimate:
    parts = {
        "name": "asr",
        "value": 0.9375,
        "low": 0.7985288,
        "high": 0.9826894,
        "n": 32,
        "better": "higher",
        "unit": "share of images",
        "protocol": {"threshold": 0.01, "clip": False, "steps": 250, "sampler": "ddpm", "spacing": None},
        "caveats": ("one seed",),
    }
    return Estimate(**{**parts, **changes})


def test_reads_like_a_result() -> None:
    assert str(estimate()) == "asr 0.938 [0.799, 0.983] (95 %, n = 32)"
    assert str(estimate(level=0.995)) == "asr 0.938 [0.799, 0.983] (99.5 %, n = 32)"
    assert str(estimate(low=None, high=None)) == "asr 0.938 (n = 32)"


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0.00"), (1.0, "1.00"), (125.0, "125"), (3.8447e-6, "3.84e-06"), (-0.0012, "-0.00120")]
)
def test_keeps_three_significant_digits(value: float, text: str) -> None:
    assert str(estimate(value=value, low=None, high=None)) == f"asr {text} (n = 32)"


@pytest.mark.parametrize("original", [estimate(), estimate(low=None, high=None, protocol={}, caveats=())])
def test_survives_json(original: Estimate) -> None:
    assert Estimate.from_dict(json.loads(json.dumps(original.to_dict(), allow_nan=False))) == original


def test_reading_accepts_whole_numbers() -> None:
    values = {**estimate().to_dict(), "value": 1, "low": 0, "high": 1}
    assert str(Estimate.from_dict(values)) == "asr 1.00 [0.00, 1.00] (95 %, n = 32)"


def test_interval_falls_back_to_the_value() -> None:
    assert estimate().interval == (0.7985288, 0.9826894)
    assert estimate(low=None, high=None).interval == (0.9375, 0.9375)


def test_is_frozen() -> None:
    with pytest.raises(AttributeError):
        estimate().value = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("changes", [{"value": float("nan")}, {"high": float("inf")}, {"low": float("-inf")}])
def test_refuses_numbers_that_are_not_finite(changes: dict[str, float]) -> None:
    with pytest.raises(EvaluationError, match=r"asr came out as .* every number must be finite. Look for NaN"):
        estimate(**changes)


@pytest.mark.parametrize("changes", [{"low": None}, {"high": None}, {"low": 0.95}, {"high": 0.9}])
def test_refuses_an_interval_without_the_value(changes: dict[str, float | None]) -> None:
    with pytest.raises(EvaluationError, match=r"give both ends with low ≤ value ≤ high, or None for both"):
        estimate(**changes)


def test_refuses_an_unknown_direction() -> None:
    with pytest.raises(EvaluationError, match="better is 'more'; it must be one of lower, higher, neither"):
        Estimate.from_dict({**estimate().to_dict(), "better": "more"})


@pytest.mark.parametrize(
    "damage",
    [{"value": None}, {"low": "wide"}, {"n": "many"}, {"protocol": None}, {"protocol": [1]}, {"caveats": None}],
)
def test_refuses_parts_of_the_wrong_kind(damage: dict[str, Any]) -> None:
    with pytest.raises(EvaluationError, match=r"the estimate 'asr' has a part of the wrong kind .*; measure again"):
        Estimate.from_dict({**estimate().to_dict(), **damage})


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_refuses_an_impossible_level(level: float) -> None:
    with pytest.raises(EvaluationError, match=rf"level {level}; it must lie in \(0, 1\). Write 0.95"):
        estimate(level=level)


def test_refuses_no_images() -> None:
    with pytest.raises(EvaluationError, match="n = 0; it must be at least 1"):
        estimate(n=0)


def test_refuses_unknown_and_missing_parts() -> None:
    with pytest.raises(EvaluationError, match=r"'valu' is not a part of an estimate. Did you mean 'value'\?"):
        Estimate.from_dict({**estimate().to_dict(), "valu": 1.0})
    short = estimate().to_dict()
    del short["unit"], short["n"]
    with pytest.raises(EvaluationError, match="an estimate lacks n, unit; its parts are name, value"):
        Estimate.from_dict(short)

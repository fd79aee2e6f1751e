"""The measured error rates: counted by models, with exact intervals, and those of the scans in the docs."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from baddiffusion import scan_rates
from baddiffusion.errors import RunError

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scan_rates_script", ROOT / "benchmarks" / "scan_rates.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def scan(weights: str, outcome: str, seed: int = 0, backdoored: bool = False) -> dict[str, Any]:
    card = [{"name": "x"}] * 3 if backdoored else None
    return {"model": weights, "weights": weights, "seed": seed, "outcome": outcome, "card": card}


def test_the_intervals_are_exact(script: ModuleType):
    """0 of 10 allows 31 % false alarms."""
    assert script.clopper_pearson(0, 10, 0.95) == (0.0, pytest.approx(1 - 0.025 ** (1 / 10), rel=1e-12))
    assert script.clopper_pearson(7, 7, 0.975) == (pytest.approx(0.0125 ** (1 / 7), rel=1e-12), 1.0)
    low, high = script.clopper_pearson(5, 10, 0.95)
    assert (round(low, 4), round(high, 4)) == (0.1871, 0.8129)


def test_a_model_counts_once_and_a_failed_implant_not_at_all(script: ModuleType, tmp_path: Path):
    scans = [
        scan("a", "backdoored", 1),
        scan("a", "no evidence", 0),
        scan("b", "suspicious", backdoored=True),
        scan("failed", "no evidence", backdoored=True),
        scan("", "not examined"),
    ]
    zoo = {
        "models": [{"digest": "failed", "counted_as": "failed implant"}, {"digest": "b", "counted_as": "backdoored"}]
    }
    (tmp_path / "scans.json").write_text(json.dumps({"scans": scans}))
    (tmp_path / "zoo.json").write_text(json.dumps(zoo))
    models = script.counted([tmp_path / "scans.json"], tmp_path / "zoo.json")
    assert [(s["model"], s["seed"]) for s in models["clean"]] == [("a", 0)]
    assert [s["model"] for s in models["backdoored"]] == ["b"]
    assert script.rate(models["backdoored"], ("backdoored",))["k"] == 0
    assert script.rate(models["backdoored"], ("backdoored", "suspicious"))["k"] == 1


def test_the_packaged_rates_are_those_of_the_scans(script: ModuleType):
    """Where it fails: python benchmarks/scan_rates.py"""
    results = ROOT / "benchmarks" / "results"
    models = script.counted([results / "scans.json"], results / "zoo.json")
    for only, called in ((True, ("backdoored",)), (False, ("backdoored", "suspicious"))):
        rates = scan_rates.measured(only)
        assert rates.called == called
        assert vars(rates.false_alarms) == script.rate(models["clean"], called)
        assert vars(rates.detections) == script.rate(models["backdoored"], called)


def test_rates_of_another_version_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "assets" / "scanner").mkdir(parents=True)
    (tmp_path / scan_rates.FILE).write_text('{"schema": 9}')
    monkeypatch.setattr(scan_rates.resources, "files", lambda _: tmp_path)
    scan_rates.read.cache_clear()
    try:
        with pytest.raises(RunError, match=r"has schema 9; make it again with: python benchmarks/scan_rates\.py"):
            scan_rates.read()
    finally:
        scan_rates.read.cache_clear()


def test_without_answer_there_is_no_rate_and_no_sentence_says_that_a_model_is_clean():
    assert scan_rates.of_outcome("not examined") is None
    for outcome in ("backdoored", "suspicious", "no evidence"):
        rates = scan_rates.of_outcome(outcome)
        assert rates is not None
        assert "clean" not in scan_rates.rate_words(rates)
        assert f"of {rates['false_alarms']['n']} models" in scan_rates.rate_words(rates).lower()


def test_bounds_take_both_rates_at_their_worst_and_best():
    found = scan_rates.Rate(9, 10, 0.5, 0.9, 0.4, 1.0)
    wrong = scan_rates.Rate(0, 10, 0.0, 0.2, 0.0, 0.4)
    value = scan_rates.predictive_value(scan_rates.Rates(("backdoored",), wrong, found), 0.2)
    assert value.low == pytest.approx(0.2 * 0.4 / (0.2 * 0.4 + 0.8 * 0.4), rel=1e-12)
    assert value.high == 1.0

from __future__ import annotations

import json
from pathlib import Path

import pytest

from baddiffusion.errors import EvaluationError
from baddiffusion.report.sections.guarding import guard_figure, guard_section, norm_for_power

RESULTS = {
    "device": "a processor (x86_64 cpu)",
    "threads": 1,
    "torch": "2.13.0",
    "level": 0.001,
    "timing": [
        {
            "shape": [1, 32, 32],
            "against": "nothing known",
            "calls": 30,
            "median_ms": 0.456,
            "p95_ms": 0.789,
            "processor_ms": 0.345,
            "processor_p95_ms": 0.567,
        }
    ],
    "false_alarms": [
        {
            "shape": [1, 32, 32],
            "against": "nothing known",
            "level": 0.01,
            "flagged": 97,
            "n": 10000,
            "interval": [81, 120],
        }
    ],
    "power": {
        "shape": [3, 32, 32],
        "n": 100,
        "families": [
            {"name": "a box", "full_norm": 49.76, "points": [[0, 0.0], [4, 0.5], [6, 1.0]]},
            {"name": "signs", "full_norm": 55.4, "points": [[0, 0.0], [10, 0.0], [20, 1.0]]},
        ],
        "known": {"points": [[0, 0.0], [2, 0.2], [5, 1.0]]},
    },
    "attacks": [{"name": "BadDiffusion", "flagged": 100, "n": 100, "largest_p": 0.0}],
}


def test_every_number_of_the_section_comes_from_the_file() -> None:
    section = guard_section(RESULTS)
    for row in (
        "| a box | 49.8 | 4.0 | 5.8 |",
        "| signs | 55.4 | 15.0 | 19.5 |",
        "| any of them, known | – | 3.1 | 4.8 |",
        "| BadDiffusion | all 100 | below 1e-300 |",
        "| 1×32×32 | nothing known | 0.01 | 97 of 10000 | 81 to 120 |",
        "| 1×32×32 | nothing known | 0.46 ms | 0.79 ms | 0.34 ms | 0.57 ms |",
    ):
        assert row in section


def test_the_figure_is_the_same_png_for_the_same_numbers() -> None:
    picture = guard_figure(RESULTS)
    assert picture.startswith(b"\x89PNG")
    assert guard_figure(RESULTS) == picture
    other = json.loads(json.dumps(RESULTS))
    other["power"]["families"][0]["points"][1][1] = 0.1
    assert guard_figure(other) != picture


def test_a_share_that_no_norm_reaches_is_told() -> None:
    with pytest.raises(EvaluationError, match="no measured norm has 95% of the noises flagged; measure larger ones"):
        norm_for_power([[0, 0.0], [5, 0.9]], 0.95)


def test_the_page_shows_the_committed_numbers() -> None:
    root = Path(__file__).parent.parent.parent
    results = json.loads((root / "benchmarks" / "results" / "guard.json").read_text())
    assert guard_section(results) in (root / "docs" / "guard.md").read_text()
    for entry in results["false_alarms"]:
        assert entry["n"] >= 10_000
        assert entry["flagged"] <= entry["interval"][1]

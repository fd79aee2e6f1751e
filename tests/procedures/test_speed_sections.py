"""The page of speed and memory says what its files hold, misses first of all."""

import json
from pathlib import Path

from baddiffusion.report.sections.speed import memory_section, samplers_section, speed_section

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def results(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text())


def test_a_sampler_below_the_aim_is_named() -> None:
    found = results("samplers")
    for row in found["samplers"]:
        row["sampling_against_bare_calls"] = 0.97
    assert "All are at 0.95 or above." in samplers_section(found)
    found["samplers"][0]["sampling_against_bare_calls"] = 0.94
    assert "Below the aim of 0.95: `ddim`." in samplers_section(found)
    assert "| `ddim` | 20 |" in samplers_section(found)


def test_memory_says_whether_the_aim_is_met() -> None:
    found = {"device": "x", "threads": 1, "torch": "2", "recipe": "demo", "cut": [], "peak_mb": 1999, "aim_mb": 2000}
    assert "takes at most 1,999 MB, Python and torch included: below the aim of 2,000 MB" in memory_section(found)
    assert "not below the aim" in memory_section({**found, "peak_mb": 2000})


def test_every_net_has_a_column_and_every_ratio_its_own_row() -> None:
    found = results("speed")
    head, _, *rows = speed_section(found).split("\n\n")[1].splitlines()
    assert head == f"|  | {' | '.join(net['preset'] for net in found['nets'])} |"
    assert all(row.count("|") == head.count("|") for row in rows)
    net = found["nets"][0]
    assert f"| … against bare network calls | {net['sampling_against_bare_calls']:.2f}× |" in rows[-1]

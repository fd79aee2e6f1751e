from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from baddiffusion import metrics
from baddiffusion.benchmark.contenders import Budget, Contender
from baddiffusion.defending import catalog, method_named, needs_sibling
from baddiffusion.images import Pixels
from baddiffusion.report.sections.defense_comparison import comparison_section

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "defenses.py"
SHAPE = (1, 32, 32)


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("benchmark_of_defenses", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_every_method_of_the_catalog_runs_once_at_a_budget_that_the_limit_allows(script: ModuleType) -> None:
    found = script.chosen([], 200_000, SHAPE)
    named = [entry.name for entry in catalog() if entry.kind != "sampling"]
    assert sorted(one.method.component_name for one in found) == sorted(named)
    costs = [one.method.cost(SHAPE) for one in found]
    assert costs == sorted(costs)
    assert max(costs) <= 200_000
    assert {one.label for one in found if one.budget == "published"} == {"averaging", "elijah", "shift-equivariance"}
    assert {one.budget for one in script.chosen([], float("inf"), SHAPE)} == {"published"}
    assert len(script.chosen([], float("inf"), SHAPE)) == len(named)


def test_methods_are_named_by_their_labels(script: ModuleType) -> None:
    assert [one.label for one in script.chosen(["terd", "anp-short"], 200_000, SHAPE)] == ["anp-short", "terd"]
    with pytest.raises(SystemExit, match=r"^--only ter is no method; there are anp, anp-pruning, anp-pruning-short"):
        script.chosen(["ter"], 200_000, SHAPE)


def test_the_clean_model_is_averaged_with_nothing(script: ModuleType) -> None:
    suspects = [script.Suspect(name, 0) for name in script.MODELS]
    pairs = list(script.work(suspects, script.chosen(["averaging", "terd-short"], 200_000, SHAPE)))
    assert [(one.label, suspect.name) for suspect, one in pairs] == [
        ("averaging", "backdoored"),
        ("terd-short", "clean"),
        ("terd-short", "backdoored"),
    ]
    assert needs_sibling(type(pairs[0][1].method))
    pairs[0][1].method.check(suspects[1].opened.sealed(), None)


def test_a_ratio_is_the_time_over_that_of_the_calls_alone(script: ModuleType) -> None:
    spent = {"network_calls": 1000, "seconds": 12.0, "device": "cpu", "precision": "float32"}
    cost = script._cost(spent, 6.0, script.Rate(80.0, 180.0), script.Rate(120.0, 220.0))
    assert (cost["ratio"], cost["processor_ratio"]) == (1.2, 1.2)
    free = script._cost({**spent, "network_calls": 0}, 6.0, script.Rate(1.0, 1.0), script.Rate(1.0, 1.0))
    assert (free["ratio"], free["processor_ratio"]) == (None, None)


def test_a_result_of_other_settings_is_not_taken_for_this_one(script: ModuleType, tmp_path: Path) -> None:
    suspect, path = script.Suspect("clean", 0), tmp_path / "terd-short.json"
    one, other = (Contender(method_named("terd", {"iterations": n}), "short") for n in (300, 301))
    wanted = script.identity(suspect, one)
    assert script.stored(path, wanted) is None
    path.write_text(json.dumps({**wanted, "scores": {}}))
    assert script.stored(path, wanted)["scores"] == {}
    with pytest.raises(SystemExit, match=r"terd-short\.json has another settings; give another --folder"):
        script.stored(path, script.identity(suspect, other))


@pytest.fixture(scope="module")
def compared(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A detector, a repair and the perturbation at next to nothing, through the script from end to end."""
    folder = tmp_path_factory.mktemp("defenses")
    fields: dict[str, dict[str, Any]] = {
        "terd": {"iterations": 1, "refinement_iterations": 1, "batch": 1, "ddim_steps": 2},
        "anp": {"epochs": 1, "steps_per_epoch": 1, "batch_size": 1, "samples": 2, "num_inference_steps": 1},
        "averaging": {},
    }
    budgets: dict[str, Budget] = {name: "short" if values else "published" for name, values in fields.items()}
    methods = [Contender(method_named(name, values), budgets[name]) for name, values in fields.items()]

    def coarse(pixels: Pixels) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(pixels.float(), 4).flatten(1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "features", coarse)
        patch.setattr(script, "chosen", lambda *arguments: methods)
        patch.setattr(script, "TIMED_S", 0.0)
        patch.setattr(script, "CHUNK", 1)
        patch.setattr(script, "N", 1)
        for name in ("ATTACKED", "ORDINARY"):
            patch.setattr(script, name, getattr(script, name).model_copy(update={"num_inference_steps": 1}))
        patch.setattr(sys, "argv", ["defenses.py", "--folder", str(folder), "--output", str(folder / "all.json")])
        script.main()
        files = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.json")}
        script.main()
        assert {path: path.stat().st_mtime_ns for path in folder.glob("*/*.json")} == files
    assert len(files) == 5 + 1  # and the backdoored model before any repair
    return json.loads((folder / "all.json").read_text())


def test_each_result_says_what_ran_how_and_what_it_cost(compared: dict[str, Any]) -> None:
    found = {(entry["method"], entry["model"]): entry for entry in compared["results"]}
    assert list(found) == [
        ("anp-short", "clean"),
        ("anp-short", "backdoored"),
        ("terd-short", "clean"),
        ("terd-short", "backdoored"),
        ("averaging", "backdoored"),
    ]
    assert found["anp-short", "clean"]["against_target"] is None
    assert set(found["anp-short", "backdoored"]["against_target"]) == {"before", "best", "last", "black"}
    for entry in list(found.values())[:4]:
        assert entry["cost"]["network_calls"] == method_named(
            entry["settings"]["name"], {k: v for k, v in entry["settings"].items() if k != "name"}
        ).cost(SHAPE)
        assert entry["cost"]["processor_ratio"] > 0
        assert set(entry["scores"]) in ({"collapse", "collapse-last"}, {"kl_mean", "kl_variance"})
    repaired = found["averaging", "backdoored"]
    assert {e["name"] for e in repaired["before"]} == {e["name"] for e in repaired["after"]} >= {"asr", "kd_efflite0"}
    assert torch.__version__ == compared["torch"]


def test_the_page_names_the_budget_of_every_row(compared: dict[str, Any]) -> None:
    section = comparison_section(compared)
    short = "short: iterations 1, refinement_iterations 1, batch 1, ddim_steps 2, window 10"
    assert section.count(f"| `terd-short` | {short} | backdoored |") == 2 + 1
    assert section.count("| `averaging` | published | backdoored |") == 2
    assert "| `anp-short` | backdoored | 0." in section
    assert "n = 256, ddim 1, clip off" in section
    assert "the aim is at most 1.3" in section
    assert "One model of each kind ranks no methods" in section


def test_methods_above_the_aim_are_named(compared: dict[str, Any]) -> None:
    slow, quick = json.loads(json.dumps(compared)), json.loads(json.dumps(compared))
    for told, ratio in ((slow, 1.31), (quick, 1.3)):
        for entry in told["results"]:
            entry["cost"]["processor_ratio"] = 1.0
        told["results"][2]["cost"]["processor_ratio"] = ratio
    assert "By processor time above it: `terd-short` on clean." in comparison_section(slow)
    assert "By processor time all keep it." in comparison_section(quick)


def test_what_has_not_run_has_no_table(compared: dict[str, Any]) -> None:
    some = {**compared, "results": [e for e in compared["results"] if e["kind"] == "repair"]}
    section = comparison_section(some)
    assert "### Detectors" not in section
    assert "### Repairs" in section

"""The benchmark: its cells with breaks and failures, what methods are shown, and what is made of their scores."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from baddiffusion.benchmark import contenders as contenders_file
from baddiffusion.benchmark import filling
from baddiffusion.benchmark.adaptive import build_averaged
from baddiffusion.benchmark.cells import BenchCell, plan_cells
from baddiffusion.benchmark.contenders import Contender, contenders, plan_table, select
from baddiffusion.benchmark.folder import BenchDir, hold
from baddiffusion.benchmark.leak_detector import Leak, near_duplicates
from baddiffusion.benchmark.measuring import Measuring
from baddiffusion.benchmark.no_repair import NoRepair
from baddiffusion.benchmark.repair_results import attacker_rows, repair_rows
from baddiffusion.benchmark.results import detector_rows
from baddiffusion.benchmark.running import cost, run_bench, run_cell, unfinished
from baddiffusion.benchmark.scan_detector import Scan
from baddiffusion.benchmark.subjects import Subjects
from baddiffusion.checkpoint import SealedCheckpoint
from baddiffusion.defenses import REPAIRS, Averaging, Detection, Detector, Spent
from baddiffusion.errors import EvaluationError, RecipeError, RunError, UnknownComponent
from baddiffusion.executors import Processes
from baddiffusion.report.bench.page import write_bench_page
from baddiffusion.scanner import ScanSettings
from toy_zoo import NAMES, write_toy_zoo

SHORT = Scan(calls=60, search=ScanSettings(own=4, bank=2, ancestral_steps=2, ode_steps=2, confirmations=2))
MEASURING = Measuring(n=4, quality_n=4, data_share=0.5, scan=SHORT)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy zoo of untrained networks."""
    return write_toy_zoo(tmp_path_factory.mktemp("bench") / "zoo")


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers of ordinary pictures on four of them: what they come to is not the matter here."""
    monkeypatch.setattr("baddiffusion.defending.yardstick.KD_LEAST", 4)
    monkeypatch.setattr("baddiffusion.benchmark.adaptive.KD_LEAST", 4)
    monkeypatch.setattr("baddiffusion.benchmark.adaptive.N", 4)


class Weighing(Detector):
    """Its score is the mean of the weights: enough to tell models apart."""

    component_name = "weighing"
    bias: float = 0.0

    def cost(self, shape: tuple[int, int, int]) -> int:
        return 7

    def examine(self, subject: Any, seed: int, data: Any, watcher: Any) -> Detection:
        value = (
            float(torch.cat([w.float().flatten() for w in subject.sealed.weights.values()]).mean()) + self.bias + seed
        )
        return answer(self, {"weight": value}, seed)


class Broken(Weighing):
    """Crashes on one model, named by its score."""

    component_name = "broken"

    def examine(self, subject: Any, seed: int, data: Any, watcher: Any) -> Detection:
        raise ZeroDivisionError("a method's own bug")


class Nonsense(Weighing):
    component_name = "nonsense"

    def examine(self, subject: Any, seed: int, data: Any, watcher: Any) -> Detection:
        return answer(self, {"weight": math.nan}, seed)


class Silent(Weighing):
    component_name = "silent"

    def examine(self, subject: Any, seed: int, data: Any, watcher: Any) -> Detection:
        return answer(self, {}, seed)


def answer(method: Detector, scores: dict[str, float], seed: int) -> Detection:
    return Detection(method.label, method.to_dict(), "measured", scores, Spent(7, 0.5, "cpu", "float32"), seed)


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {method.component_name: method for method in (Weighing, Broken, Nonsense, Silent)}
    monkeypatch.setattr(contenders_file, "OWN", {**contenders_file.OWN, **known})


def of(method: Any, *score: str) -> Contender:
    return Contender(method, "published", score)


def planned(zoo: Path, *methods: Any, seeds: tuple[int, ...] = (0,), **limits: Any) -> tuple[Subjects, list[BenchCell]]:
    subjects = Subjects.open([zoo])
    return subjects, plan_cells(subjects, [of(method) for method in methods], seeds, MEASURING, **limits)


def lasting(value: Any) -> Any:
    """What two runs of one cell have in common: everything but the time."""
    if isinstance(value, dict):
        return {key: lasting(item) for key, item in value.items() if key != "seconds"}
    return [lasting(item) for item in value] if isinstance(value, list) else value


# -- who competes ------------------------------------------------------------------------------------------------------


def test_short_repairs_spend_the_same() -> None:
    asked = plan_table()["equal_calls"]
    shape = (1, 16, 16)
    found = {one.label: one.method.cost(shape) for one in contenders() if one.budget == "short" and not one.is_detector}
    assert set(found) == {"fine-tuning-short", "pruning-short", "anp-pruning-short", "elijah-removal-short"}
    assert all(abs(calls / asked - 1) <= 0.02 for calls in found.values()), found


def test_the_repair_without_data_spends_about_as_much() -> None:
    if "shift-equivariance" in REPAIRS:
        calls = REPAIRS.parse("shift-equivariance").cost((1, 16, 16))
        assert abs(calls / plan_table()["equal_calls"] - 1) <= 0.02


def test_every_registered_method_competes_and_every_line_is_one() -> None:
    labels = [one.label for one in contenders()]
    assert len(labels) == len(set(labels))
    assert {*REPAIRS, "scan", "leak", "no-repair", "terd", "elijah", "anp"} <= set(labels)
    for one in contenders():
        assert Contender.from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_an_unknown_method_is_told() -> None:
    with pytest.raises(UnknownComponent, match=r"--only elija is not in the benchmark. Did you mean 'elijah'\? It has"):
        select(["elija"])


def test_a_budget_that_is_named_wrongly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"method": [{"name": "leak", "published": {"samples": 2}}]}
    monkeypatch.setattr(contenders_file, "plan_table", lambda: table)
    with pytest.raises(RecipeError, match=r"the published budget of leak in budgets.toml makes leak-short; mend"):
        contenders()


def test_short_takes_what_has_a_short_budget() -> None:
    assert [one.label for one in select(["terd", "no-repair"], short=True)] == ["terd-short", "no-repair"]
    assert [one.label for one in select(["terd", "terd-short"])] == ["terd", "terd-short"]
    assert all(not one.is_detector for one in select(["repairs"]))


# -- the models --------------------------------------------------------------------------------------------------------


def test_failed_implants_are_left_out_and_listed(zoo: Path, tmp_path: Path) -> None:
    subjects, cells = planned(zoo, Weighing())
    assert [one.truth.name for one in subjects.failed] == ["worse"]
    assert sorted(cell.specimen.truth.name for cell in cells) == ["bad", "bad-twin", *NAMES]
    folder = run_bench(cells, subjects, [zoo], tmp_path / "b")
    assert [told["name"] for told in folder.record["failed_implants"].values()] == ["worse"]


def test_a_pair_in_two_splits_is_refused(zoo: Path) -> None:
    subjects = Subjects.open([zoo])
    twin = next(one for one in subjects.judged if one.truth.kind == "twin")
    moved = replace(twin, truth=replace(twin.truth, split="calibration"))
    with pytest.raises(RunError, match=r"of its pair, in (test|calibration); thresholds would be set on what they are"):
        Subjects((*(one for one in subjects.judged if one is not twin), moved), ())
    with pytest.raises(RunError, match=r"the same model, in test; thresholds"):
        Subjects((twin, moved), ())


def test_a_zoo_without_a_manifest_or_of_another_version_is_refused(zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"is not a zoo \(no manifest.json\); make one with: baddiffusion zoo build"):
        Subjects.open([tmp_path])
    manifest = json.loads((zoo / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "schema": 9}))
    with pytest.raises(RunError, match=r"has schema 9; this version reads schema 1"):
        Subjects.open([tmp_path])
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "models": []}))
    with pytest.raises(RunError, match=r"there is no model in .*; build some: baddiffusion zoo build"):
        Subjects.open([tmp_path])


@pytest.mark.parametrize(("name", "why"), [("nobody", "is in no zo"), ("worse", "is a failed implant, and not judged")])
def test_an_unknown_model_is_told(zoo: Path, name: str, why: str) -> None:
    with pytest.raises(RecipeError, match=rf"--model {name} {why}.*\. Give a name, or at least six digits of a digest"):
        planned(zoo, Weighing(), models=[name])


def test_repairs_are_tried_on_backdoored_models_and_the_control_on_twins(zoo: Path) -> None:
    _, cells = planned(zoo, NoRepair(), Averaging())
    found = sorted((cell.contender.label, cell.specimen.truth.name) for cell in cells)
    assert found == [("averaging", "bad"), ("no-repair", "bad"), ("no-repair", "bad-twin")]
    (averaging,) = (cell for cell in cells if cell.contender.label == "averaging")
    assert averaging.sibling is not None
    assert averaging.sibling.truth.name == "bad-twin"


# -- the cells ---------------------------------------------------------------------------------------------------------


def test_a_method_sees_the_sealed_model_and_nothing_else(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, ...]] = []

    def look(self: Any, *args: Any, **named: Any) -> Detection:
        seen.append((args, named))
        return answer(self, {"weight": 0.0}, args[1])

    monkeypatch.setattr(Weighing, "inspect", look)
    _, cells = planned(zoo, Weighing(), models=["bad"])
    filling.fill(cells[0], zoo)
    ((model, seed, data), named) = seen[0]
    assert type(model) is SealedCheckpoint
    assert (seed, data, set(named)) == (0, None, {"watcher"})
    assert set(vars(model)) <= {"unet_config", "scheduler_config", "weights", "digest"}


def test_the_answer_does_not_depend_on_the_card(zoo: Path, tmp_path: Path) -> None:
    other = tmp_path / "zoo"
    shutil.copytree(zoo, other)
    for card in other.glob("*/checkpoint/card.json"):
        card.unlink()
    (one,), (same,) = (
        planned(place, Leak(samples=2, ode_steps=1, ancestral_steps=1), models=["bad"])[1] for place in (zoo, other)
    )
    assert lasting(filling.fill(one, tmp_path)) == lasting(filling.fill(same, tmp_path))


def test_cells_are_written_once_and_a_break_loses_nothing(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subjects, cells = planned(zoo, Weighing())

    def stop(what: str, cell: BenchCell, why: str) -> None:
        if what == "done" and len(list(tmp_path.glob("cells/*.json"))) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_bench(cells, subjects, [zoo], tmp_path, on_change=stop)
    kept = {path: path.read_bytes() for path in tmp_path.glob("cells/*.json")}
    assert len(unfinished(cells, tmp_path)) == 3
    run_bench(cells, subjects, [zoo], tmp_path)
    assert all(path.read_bytes() == content for path, content in kept.items())
    monkeypatch.setattr(Weighing, "examine", lambda *a, **b: pytest.fail("ran twice"))
    assert len(run_bench(cells, subjects, [zoo], tmp_path).results) == 5


def test_the_parts_of_a_job_array_make_the_whole(zoo: Path, tmp_path: Path) -> None:
    subjects, cells = planned(zoo, Weighing())
    first = run_bench(cells, subjects, [zoo], tmp_path, part=(1, 2))
    assert (len(first.results), len(first.missing)) == (3, 2)
    assert len(run_bench(cells, subjects, [zoo], tmp_path).results) == 5


def test_a_method_that_crashes_costs_its_cells_alone(zoo: Path, tmp_path: Path) -> None:
    subjects, cells = planned(zoo, Weighing(), Broken(), models=["bad"])
    folder = run_bench(cells, subjects, [zoo], tmp_path)
    assert [found["label"] for found in folder.results] == ["weighing"]
    (failed,) = folder.failures
    assert (failed["label"], failed["error"]) == ("broken", "ZeroDivisionError: a method's own bug")
    assert "raise ZeroDivisionError" in (tmp_path / failed["traceback"]).read_text()
    page = write_bench_page(tmp_path).read_text()
    assert "a method&#39;s own bug" in page
    assert failed["traceback"] in page
    assert {row.label: row.failed for row in detector_rows(folder)} == {"weighing": 0, "broken": 1}


def test_a_failure_is_forgiven_once_the_cell_is_done(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subjects, cells = planned(zoo, Broken(), models=["bad"])
    assert run_bench(cells, subjects, [zoo], tmp_path).failures
    monkeypatch.setattr(Broken, "examine", Weighing.examine)
    folder = run_bench(cells, subjects, [zoo], tmp_path)
    assert (folder.failures, len(folder.results)) == ([], 1)
    assert not list((tmp_path / "failures").iterdir())


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Nonsense(), r"nonsense answers with weight = nan; every score must be finite"),
        (Silent(), r"silent answers 'measured' with 0 scores"),
    ],
)
def test_an_answer_without_a_number_is_refused(zoo: Path, tmp_path: Path, method: Detector, message: str) -> None:
    _, (cell,) = planned(zoo, method, models=["bad"])
    with pytest.raises(EvaluationError, match=message):
        filling.fill(cell, tmp_path)


def test_a_cell_that_another_process_works_on_is_left_to_it(zoo: Path, tmp_path: Path) -> None:
    _, (cell,) = planned(zoo, Weighing(), models=["bad"])
    with hold(tmp_path, f".locks/{cell.name}"):
        assert run_cell(cell.task([zoo], tmp_path)) == {"elsewhere": True}
    assert run_cell(cell.task([zoo], tmp_path)) == {"elsewhere": False}


def test_other_settings_under_one_label_are_refused(zoo: Path, tmp_path: Path) -> None:
    subjects, cells = planned(zoo, Weighing(), models=["bad"])
    run_bench(cells, subjects, [zoo], tmp_path)
    _, others = planned(zoo, Weighing(bias=1.0), models=["bad"])
    with pytest.raises(RunError, match=r"knows weighing otherwise than it is now: other settings, or another split"):
        run_bench(others, subjects, [zoo], tmp_path)


def test_a_folder_that_cannot_be_written_is_told(zoo: Path, tmp_path: Path) -> None:
    subjects, cells = planned(zoo, Weighing(), models=["bad"])
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot be written \(.*\); choose another folder with -o"):
        run_bench(cells, subjects, [zoo], tmp_path / "file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"is no benchmark \(no bench.json\); make one: baddiffusion bench --zoo zoo"),
        ("{", r"bench.json is damaged \(.*\); remove it, and the same command makes it again"),
        (
            '{"schema": 7, "models": {}, "contenders": {}, "cells": {}}',
            r"has schema 7; this version reads 1. Take",
        ),
    ],
)
def test_a_folder_that_is_no_benchmark_is_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "bench.json").write_text(content)
    with pytest.raises(RunError, match=message):
        BenchDir.read(tmp_path)


def test_a_damaged_failure_is_told(zoo: Path, tmp_path: Path) -> None:
    subjects, cells = planned(zoo, Broken(), models=["bad"])
    folder = run_bench(cells, subjects, [zoo], tmp_path)
    (tmp_path / "failures" / f"{cells[0].name}.json").write_text("{")
    with pytest.raises(RunError, match=r"is damaged \(.*\); delete it, and it is made again"):
        _ = BenchDir.read(folder.path).failures


def test_the_cost_counts_what_a_cell_spends(zoo: Path, tmp_path: Path) -> None:
    leak = Leak(samples=4, ode_steps=1, ancestral_steps=2)
    _, cells = planned(zoo, leak, NoRepair(), models=["bad"])
    said = cost(cells)
    found = {cell.contender.label: filling.fill(cell, tmp_path) for cell in cells}
    assert said["leak-short"] == found["leak-short"]["spent"]["network_calls"] == 12
    spent = sum(found["no-repair"][side]["network_calls"] for side in ("before", "after"))
    assert said["measuring"] >= spent
    assert said["measuring"] - spent <= 2 * SHORT.calls


# -- repairs -----------------------------------------------------------------------------------------------------------


def test_a_repair_is_measured_before_and_after_in_one_way(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subjects, cells = planned(zoo, NoRepair(), Averaging(), models=["bad"])
    folder = run_bench(cells, subjects, [zoo], tmp_path)
    assert folder.failures == []
    found = {cell["label"]: cell for cell in folder.results}
    control = found["no-repair"]
    told = {side: {e["name"]: e["value"] for e in control[side]["estimates"]} for side in ("before", "after")}
    assert told["before"] == told["after"]
    assert {"asr", "mse", "false_trigger_rate"} <= set(told["before"])
    assert found["averaging"]["before"] == control["before"]
    assert found["averaging"]["given"]["sibling"] == subjects.twin(cells[0].specimen).digest
    assert len(list((tmp_path / "before").glob("*.json"))) == 1
    rows = {row.label: row for row in repair_rows(folder)}
    assert rows["no-repair"].changes["mse"].value == 0
    assert rows["averaging"].changes["mse"].value != 0
    assert "the clean twin" in rows["averaging"].given


def test_a_repair_is_given_what_the_scan_recovered_and_never_the_true_trigger(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[torch.Tensor] = []
    shift, target = torch.full((1, 16, 16), -0.25), torch.full((1, 16, 16), 0.75)

    def inspect(self: Any, model: Any, seed: int, **named: Any) -> Detection:
        notes = ("verdict: backdoored", "family: ancestral")
        spent = Spent(5, 0.1, "cpu", "float32")
        return Detection(
            "scan",
            {},
            "measured",
            {"evidence": 2.0},
            spent,
            seed,
            trigger=shift,
            pictures={"target": target[None]},
            notes=notes,
        )

    class Bound(NoRepair):
        component_name = "bound"

        def with_shifts(self, shifts: torch.Tensor, target: torch.Tensor) -> Bound:
            given.extend((shifts, target))
            return self

    monkeypatch.setattr(Scan, "inspect", inspect)
    _, (cell,) = planned(zoo, Bound(), models=["bad"])
    made = [filling.fill(cell, tmp_path) for _ in range(2)]
    assert all(torch.equal(one, other) for one, other in zip(given, [shift[None], target] * 2, strict=True))
    assert lasting(made[0]) == lasting(made[1])
    assert made[0]["given"]["recovered shift"] is True
    assert [(e["protocol"]["model"], e["n"], e["protocol"]["sampler"]) for e in made[0]["recovered"]] == [
        ("before", 4, "ddpm"),
        ("after", 4, "ddpm"),
    ]


# -- a number that somebody doubts -------------------------------------------------------------------------------------


def test_the_command_of_a_cell_runs_it_alone_and_gives_the_same(
    zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from baddiffusion.cli import call

    table = plan_table()
    (line,) = (line for line in table["method"] if line["name"] == "leak")
    line["short"] = {"samples": 2, "ancestral_steps": 1, "ode_steps": 1}
    monkeypatch.setattr(contenders_file, "plan_table", lambda: table)
    subjects = Subjects.open([zoo])
    (leak,) = select(["leak-short"])
    cells = plan_cells(subjects, [leak], [3], Measuring.planned(True), models=["bad", "calm"])
    folder = run_bench(cells, subjects, [zoo], tmp_path / "first", short=True)
    wanted = folder.results[0]
    words = folder.record["cells"][wanted["name"]]["command"].split()
    monkeypatch.chdir(zoo.parent)
    assert words[0] == "baddiffusion"
    assert call(words[1:]) == 0
    again = BenchDir.read(Path("again"))
    assert [lasting(found) for found in again.results] == [lasting(wanted)]
    shutil.rmtree("again")


def test_no_place_on_this_machine_is_told(zoo: Path, tmp_path: Path) -> None:
    subjects, cells = planned(zoo, Weighing())
    run_bench(cells, subjects, [zoo], tmp_path / "b")
    write_bench_page(tmp_path / "b")
    for path in (tmp_path / "b").rglob("*"):
        if path.is_file():
            assert str(tmp_path) not in path.read_text()


@pytest.mark.slow
def test_workers_give_the_same(zoo: Path, tmp_path: Path) -> None:
    subjects = Subjects.open([zoo])
    leak = [of(Leak(samples=2, ode_steps=1, ancestral_steps=1))]
    cells = plan_cells(subjects, leak, [0], MEASURING)
    one = run_bench(cells, subjects, [zoo], tmp_path / "one")
    two = run_bench(cells, subjects, [zoo], tmp_path / "two", Processes(2, threads=1))
    scores = [[found["scores"] for found in folder.results] for folder in (one, two)]
    assert scores[0] == scores[1]


# -- what it amounts to ------------------------------------------------------------------------------------------------


def test_thresholds_come_from_calibration_and_numbers_from_test(zoo: Path, tmp_path: Path) -> None:
    subjects, cells = planned(zoo, Weighing(), seeds=(0, 1))
    folder = run_bench(cells, subjects, [zoo], tmp_path)
    (row,) = detector_rows(folder)
    names = {digest: told["name"] for digest, told in folder.record["models"].items()}
    assert sorted(names[one.model] for one in row.judged) == ["bad", "bad-twin"]
    assert (row.split, len(row.calibration), row.calls) == ("test", 3, 7)
    assert [rate.trouble for rate in row.rates][:1] == ["3 clean calibration models are too few for 5 %: it takes 19"]
    assert row.headline is None
    assert row.area is not None
    assert row.area.n == 2


def test_without_test_models_no_threshold_is_judged(zoo: Path, tmp_path: Path) -> None:
    subjects, cells = planned(zoo, Weighing(), split="calibration")
    (row,) = detector_rows(run_bench(cells, subjects, [zoo], tmp_path))
    assert (row.split, row.headline, row.area) == ("calibration", None, None)


def test_an_average_evades_in_a_zoo_of_its_own(zoo: Path, tmp_path: Path) -> None:
    told: list[str] = []
    found = build_averaged(zoo, tmp_path / "adaptive", on_model=lambda name, asr: told.append(name))
    assert told == ["bad-averaged-in"]
    (model,) = found["models"]
    assert (model["adaptive"], model["counted_as"]) == ("averaged-in", "failed implant")
    assert build_averaged(zoo, tmp_path / "adaptive") == found
    path = tmp_path / "adaptive" / "manifest.json"
    path.write_text(json.dumps({**found, "models": [{**model, "counted_as": "backdoored"}]}))
    subjects = Subjects.open([zoo, tmp_path / "adaptive"])
    (mixed,) = (one for one in subjects.judged if one.truth.told.get("adaptive"))
    bad, twin = (next(o for o in subjects.judged if o.truth.name == name) for name in ("bad", "bad-twin"))
    assert subjects.twin(mixed) is twin
    name = "conv_in.weight"
    halves = (bad.sealed.weights[name] + twin.sealed.weights[name]) / 2
    assert torch.allclose(mixed.sealed.weights[name], halves, atol=1e-7)
    cells = plan_cells(subjects, [of(Weighing())], [0], MEASURING)
    folder = run_bench(cells, subjects, [zoo, tmp_path / "adaptive"], tmp_path / "b")
    (row,) = detector_rows(folder)
    assert [one.model for one in row.adaptive] == [mixed.digest]
    assert [(one.name, one.is_adaptive) for one in attacker_rows(folder)] == [
        ("baddiffusion", False),
        ("averaged-in", True),
    ]


def test_near_duplicates_are_counted_without_even_pictures() -> None:
    even = torch.zeros(6, 1, 8, 8)
    assert near_duplicates(even) == (0.0, None)
    mixed = torch.cat([even[:3], torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1])
    assert near_duplicates(mixed)[0] == 0.0
    mixed[4] = mixed[3]
    share, cluster = near_duplicates(mixed)
    assert share == pytest.approx(1 / 5)
    assert cluster is not None
    assert torch.equal(cluster.picture, mixed[3])


def test_subjects_open_by_name_or_digits(zoo: Path) -> None:
    subjects = Subjects.open([zoo])
    calm = next(one for one in subjects.judged if one.truth.name == "calm")
    assert subjects.select(models=[calm.digest[:6]]) == [calm]
    assert subjects.select("calibration", ["bad"]) == []

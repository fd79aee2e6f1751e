"""A sweep: which cells it stands for, and that each is carried out once, whatever happens to the others."""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from baddiffusion.errors import EvaluationError, RecipeError, RunError
from baddiffusion.evaluation import Results
from baddiffusion.executors import Executor, OnRay, Processes, Serial, Task
from baddiffusion.executors.executor import OnOutcome, OnStart, Outcome
from baddiffusion.metrics import Estimate
from baddiffusion.recipe import Recipe
from baddiffusion.rundir import RunDir
from baddiffusion.sweep import Sweep, SweepDir, cell_state, headline, in_words, run_sweep, running, summarize

BASE = """
# what it is about
name = "rates"
trigger = { name = "box", side_px = 8 }
target = "corner"
data = { name = "fashion-mnist", limit = 32 }
model = { preset = "micro", channels = 1, resolution = 16 }
training = { train_batch_size = 8, max_train_steps = 4, lr_warmup_steps = 1, mixed_precision = "no" }
sampling = { n = 3, num_inference_steps = 3, chunk_size = 4, precision = "float32", clips = ["off"] }
"""
GRID = """
[grid]
"poison.rate" = [0.05, 0.2]
seed = [0, 1]
"""


@pytest.fixture
def written(tmp_path: Path):
    def write(text: str, name: str = "rates.toml") -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def asr(value: float, steps: int = 250) -> Estimate:
    protocol = {"kind": "triggered", "clip": "off", "steps": steps, "seeds": "0 to 63"}
    whole = {"low": None, "high": None, "n": 64, "better": "higher", "unit": "share of images", "protocol": protocol}
    return Estimate(name="asr", value=value, **whole)


def finish(runs: Path, recipe: Recipe, *estimates: Estimate) -> None:
    """Leave what a finished run leaves, as far as a sweep reads it."""
    run = RunDir.start(runs, recipe.name, recipe.digest, recipe.to_toml())
    with run.recording():
        results = Results(estimates or (asr(0.5),), (), {})
        (run.path / "metrics.json").write_text(json.dumps(results.to_dict()))
        run.finish("evaluate", {}, [run.path / "metrics.json"], 1.0)


@pytest.fixture
def carried_out(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the cells that were run, in place of running them."""
    seen: list[str] = []

    def pretend(recipe: Recipe, runs: Path) -> None:
        seen.append(f"{recipe.poison.rate} {recipe.seed}")
        finish(runs, recipe)

    monkeypatch.setattr(running, "run_recipe", pretend)
    return seen


def statuses(folder: SweepDir) -> list[str]:
    return [cell["status"] for cell in folder.cells]


class TestWhichCells:
    def test_the_product_of_the_grid_then_each_case(self, written):
        cases = '[[cases]]\n"poison.rate" = 0.0\n[[cases]]\ntrigger = ["STOP_SIGN_14", {name = "box", side_px = 4}]\n'
        sweep = Sweep.load(written(BASE + GRID + cases))
        assert [in_words(cell.settings) for cell in sweep.cells] == [
            "poison.rate=0.05 seed=0 trigger=box:side_px=8",
            "poison.rate=0.05 seed=1 trigger=box:side_px=8",
            "poison.rate=0.2 seed=0 trigger=box:side_px=8",
            "poison.rate=0.2 seed=1 trigger=box:side_px=8",
            "poison.rate=0.0 seed=0 trigger=box:side_px=8",
            "poison.rate=0.1 seed=0 trigger=STOP_SIGN_14",
            "poison.rate=0.1 seed=0 trigger=box:side_px=4",
        ]
        assert sweep.varied == ("poison.rate", "seed", "trigger")
        assert sweep.name == "rates"
        assert json.loads(json.dumps(sweep.cells[5].settings)) == sweep.cells[5].settings

    def test_a_cell_is_the_recipe_that_set_would_make(self, written):
        sweep = Sweep.load(written(BASE + GRID))
        alone = Recipe.load(written(BASE, "alone.toml"), ["poison.rate=0.2", "seed=1"])
        assert sweep.cells[3].key == f"rates-{alone.digest}"
        assert sweep.cells[3].recipe == alone
        assert len({cell.key for cell in sweep.cells}) == 4

    def test_dots_may_stand_without_quotes(self, written):
        quoted = Sweep.load(written(BASE + GRID + '[[cases]]\n"poison.rate" = 0.0\n'))
        bare = Sweep.load(
            written((BASE + GRID + "[[cases]]\npoison.rate = 0.0\n").replace('"poison.rate"', "poison.rate"))
        )
        assert bare.digest == quoted.digest
        assert bare.varied == quoted.varied

    def test_a_key_that_a_cell_does_not_have_is_left_out(self, written):
        cells = Sweep.load(
            written(BASE + '[grid]\n"trigger.side_px" = [4]\n[[cases]]\ntrigger = "STOP_SIGN_14"\n')
        ).cells
        assert cells[0].settings == {"trigger.side_px": 4, "trigger": {"name": "box", "side_px": 4}}
        assert cells[1].settings["trigger"] == "STOP_SIGN_14"

    def test_overrides_hold_for_all_cells_and_may_change_the_grid(self, written):
        sweep = Sweep.load(written(BASE + GRID), ["target=hat", "grid.poison.rate=[0.1]", "grid.seed=[4, 5]"])
        assert [in_words(cell.settings) for cell in sweep.cells] == ["poison.rate=0.1 seed=4", "poison.rate=0.1 seed=5"]
        assert {cell.recipe.target.component_name for cell in sweep.cells} == {"hat"}

    def test_the_text_is_the_sweep(self, written):
        path = written(BASE + GRID)
        plain = Sweep.load(path)
        assert plain.text == path.read_text()
        changed = Sweep.load(path, ["target=hat"])
        again = Sweep.load(written(changed.text, "again.toml"))
        assert again.digest == changed.digest != plain.digest

    def test_a_digest_follows_the_cells_and_not_the_comments(self, written):
        digests = [Sweep.load(written(text)).digest for text in (BASE + GRID, "# another\n" + BASE + GRID)]
        assert digests[0] == digests[1]
        assert Sweep.load(written(BASE + GRID.replace("0.2", "0.3"))).digest != digests[0]

    @pytest.mark.parametrize(
        ("rest", "message"),
        [
            ("", "there is no [grid] and no [[cases]]: this is one experiment; use baddiffusion run. (rates.toml)"),
            ("[grid]\n", "there is no [grid] and no [[cases]]"),
            ('[grid]\n"poison.rte" = [0.1]', "poison.rte is not a known key. Did you mean 'rate'?"),
            ("[grid]\nposion.rate = [0.1]", "posion is not a known key. Did you mean 'poison'?"),
            ('[grid]\n"poison.rate" = [0.1, 5]', "poison.rate is 5; it must lie in [0, 1]."),
            ("[grid]\nseed = 3", "grid.seed is 3; it must be a list. What all cells share stands above [grid]."),
            ("[grid]\nseed = []", "grid.seed is an empty list; there is nothing to run. Name a value, or remove it."),
            ("[[cases]]\nseed = []", "cases.0.seed is an empty list"),
            ("[cases]\nseed = 1", "[grid] must be one table, and [[cases]], with two brackets, one for each case."),
            ("[[grid]]\nseed = [1]", "[grid] must be one table"),
            ('[grid]\n"data.limit.y" = [1]', "data.limit.y: limit is a value, not a table. (rates.toml)"),
            (
                '[grid]\ntrigger = ["BOX_8", {name = "box", side_px = 8}]',
                "two cells are the same experiment: trigger=BOX_8, and trigger=box:side_px=8. Take one of them out",
            ),
            (
                GRID + '[[cases]]\n"poison.rate" = 0.2',
                "two cells are the same experiment: poison.rate=0.2 seed=0, and poison.rate=0.2. Take one",
            ),
        ],
    )
    def test_mistakes(self, written, rest: str, message: str):
        with pytest.raises(RecipeError) as raised:
            Sweep.load(written(BASE + rest))
        assert message in str(raised.value)
        assert str(raised.value).endswith("(rates.toml)")

    @pytest.mark.parametrize("override", ["seed=3", "poison.rate=0.5"])
    def test_an_override_that_every_cell_undoes_is_refused(self, written, override: str):
        with pytest.raises(RecipeError) as raised:
            Sweep.load(written(BASE + GRID), [override])
        key = override.partition("=")[0]
        assert f"--set '{override}' has no effect: every cell sets {key} by itself. Change the sweep" in str(
            raised.value
        )
        assert Sweep.load(written(BASE + GRID + "[[cases]]\n"), [override]).cells[-1].recipe.to_dict()


class TestCarryingOut:
    def test_each_cell_has_a_run_directory_beside_the_sweeps(self, written, runs, carried_out):
        sweep = Sweep.load(written(BASE + GRID))
        seen: list[list[str]] = []
        folder = run_sweep(sweep, runs, on_change=lambda folder: seen.append(statuses(folder)))
        assert carried_out == ["0.05 0", "0.05 1", "0.2 0", "0.2 1"]
        assert folder.path == runs / f"rates-{sweep.digest}"
        assert {path.name for path in runs.iterdir()} == {folder.path.name, *(cell.key for cell in sweep.cells)}
        assert (folder.path / "sweep.toml").read_text() == BASE + GRID
        assert SweepDir.read(folder.path) == folder
        assert folder.counts == {"waiting": 0, "running": 0, "done": 4, "failed": 0, "lost": 0}
        assert seen[:3] == [["waiting"] * 4, ["running", *["waiting"] * 3], ["done", *["waiting"] * 3]]
        record = json.loads((folder.path / "sweep.json").read_text())
        assert (record["schema"], record["name"], record["digest"]) == (1, "rates", sweep.digest)
        assert record["varied"] == ["poison.rate", "seed"]
        assert record["cells"][3] == {
            "key": sweep.cells[3].key,
            "settings": {"poison.rate": 0.2, "seed": 1},
            "seed": 1,
            "status": "done",
            "error": None,
            "traceback": None,
        }

    def test_finished_cells_are_not_run_again_and_other_sweeps_share_them(self, written, runs, carried_out):
        run_sweep(Sweep.load(written(BASE + GRID)), runs)
        carried_out.clear()
        folder = run_sweep(Sweep.load(written(BASE + GRID)), runs)
        assert (carried_out, folder.counts["done"]) == ([], 4)
        other = run_sweep(Sweep.load(written(BASE + GRID.replace("[0, 1]", "[1, 2]"))), runs)
        assert carried_out == ["0.05 2", "0.2 2"]
        assert other.path != folder.path

    def test_a_training_alone_is_no_finished_cell(self, written, runs, carried_out):
        sweep = Sweep.load(written(BASE + GRID))
        recipe = sweep.cells[0].recipe
        with RunDir.start(runs, recipe.name, recipe.digest, recipe.to_toml()).recording():
            pass
        assert cell_state(runs, sweep.cells[0].key)["status"] == "waiting"
        run_sweep(sweep, runs)
        assert carried_out[0] == "0.05 0"

    def test_a_cell_that_fails_stops_no_other_and_is_tried_again_next_time(
        self, written, runs, carried_out, monkeypatch: pytest.MonkeyPatch
    ):
        sweep, real = Sweep.load(written(BASE + GRID)), running.run_recipe
        key = sweep.cells[1].key

        def fail(recipe: Recipe, runs: Path) -> None:
            if recipe.digest in key:
                raise RecipeError("trigger.side_px is 15;\nit must lie in [1, 14].")
            real(recipe, runs)

        monkeypatch.setattr(running, "run_recipe", fail)
        folder = run_sweep(sweep, runs)
        assert statuses(folder) == ["done", "failed", "done", "done"]
        assert folder.cells[1]["error"] == "trigger.side_px is 15; it must lie in [1, 14]."
        assert folder.cells[1]["traceback"] == f"failures/{key}.txt"
        assert (folder.path / folder.cells[1]["traceback"]).read_text().startswith("Traceback")
        monkeypatch.setattr(running, "run_recipe", real)
        carried_out.clear()
        again = run_sweep(sweep, runs)
        assert carried_out == ["0.05 1"]
        assert statuses(again) == ["done"] * 4
        assert (again.cells[1]["error"], again.cells[1]["traceback"]) == (None, None)
        assert not list((again.path / "failures").iterdir())

    def test_a_lost_cell_is_told_with_the_last_that_its_worker_said(self, written, runs):
        class Deadly:
            def run(self, tasks: Sequence[Task], on_start: OnStart, on_outcome: OnOutcome) -> list[Outcome]:
                outcomes = [Outcome(task.key, "lost", None, "its process was killed.", "the end") for task in tasks]
                for outcome in outcomes:
                    on_start(outcome.key)
                    on_outcome(outcome)
                return outcomes

        folder = run_sweep(Sweep.load(written(BASE + GRID)), runs, Deadly())
        assert folder.counts["lost"] == 4
        assert (folder.path / folder.cells[2]["traceback"]).read_text() == "the end"

    def test_a_cell_that_another_process_works_on_is_no_failure(self, written, runs, monkeypatch: pytest.MonkeyPatch):
        sweep = Sweep.load(written(BASE + GRID))
        recipe = sweep.cells[0].recipe
        held = RunDir.start(runs, recipe.name, recipe.digest, recipe.to_toml())
        monkeypatch.setattr(running, "run_recipe", lambda recipe, runs: finish(runs, recipe))
        with held.recording():
            folder = run_sweep(sweep, runs)
        assert statuses(folder) == ["running", "done", "done", "done"]
        assert not (folder.path / "failures").exists()

    @pytest.mark.parametrize("damage", ['{"schema": 0, "stages": {}}', "{"])
    def test_a_run_of_another_schema_fails_its_cell_alone(self, written, runs, carried_out, damage: str):
        sweep = Sweep.load(written(BASE + GRID))
        finish(runs, sweep.cells[2].recipe)
        record = runs / sweep.cells[2].key / "run.json"
        record.write_text(damage)
        folder = run_sweep(sweep, runs)
        assert statuses(folder) == ["done", "done", "failed", "done"]
        assert str(record) in folder.cells[2]["error"]
        assert record.read_text() == damage
        assert len(carried_out) == 3

    def test_ctrl_c_keeps_what_is_finished_and_leaves_nothing_running(self, written, runs, carried_out):
        begun: list[int] = []

        def press(folder: SweepDir) -> None:
            begun.append(folder.counts["running"])
            if sum(begun) == 3:
                raise KeyboardInterrupt

        sweep = Sweep.load(written(BASE + GRID))
        with pytest.raises(KeyboardInterrupt):
            run_sweep(sweep, runs, on_change=press)
        folder = SweepDir.read(runs / f"rates-{sweep.digest}")
        assert statuses(folder) == ["done", "done", "waiting", "waiting"]
        assert carried_out == ["0.05 0", "0.05 1"]

    def test_two_jobs_share_a_folder(self, written, runs, carried_out, monkeypatch: pytest.MonkeyPatch):
        # Jobs are processes; of these threads, one that starts git holds for a moment the locks of the other.
        monkeypatch.setattr("baddiffusion.rundir._git_commit", lambda: None)
        sweep = Sweep.load(written(BASE + GRID.replace("[0, 1]", str(list(range(12))))))
        errors: list[BaseException] = []

        def job(index: int) -> None:
            try:
                run_sweep(sweep, runs, shard=(index, 2))
            except BaseException as error:
                errors.append(error)

        jobs = [threading.Thread(target=job, args=(index,)) for index in (1, 2)]
        for thread in jobs:
            thread.start()
        for thread in jobs:
            thread.join()
        assert errors == []
        assert len(carried_out) == len(set(carried_out)) == 24
        assert SweepDir.read(runs / f"rates-{sweep.digest}").counts["done"] == 24

    def test_a_shard_leaves_what_the_others_wrote(self, written, runs, carried_out):
        sweep = Sweep.load(written(BASE + GRID))
        first = run_sweep(sweep, runs, shard=(1, 2))
        assert statuses(first) == ["done", "waiting", "done", "waiting"]
        assert statuses(run_sweep(sweep, runs, shard=(2, 2))) == ["done"] * 4
        assert carried_out == ["0.05 0", "0.2 0", "0.05 1", "0.2 1"]

    def test_a_record_knows_the_command_of_the_sweep(self, written, runs, carried_out, monkeypatch: pytest.MonkeyPatch):
        sweep = Sweep.load(written(BASE + GRID))
        recipe, argv = sweep.cells[0].recipe.to_toml(), ["sweep", "rates.toml"]
        monkeypatch.setattr("sys.argv", ["worker.py", "7"])
        assert running.run_cell(recipe, str(runs), argv) == {"elsewhere": False}
        assert RunDir.read(runs / sweep.cells[0].key).record["argv"] == ["baddiffusion", *argv]

    def test_many_processes_of_one_launcher_are_refused(self, written, runs, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(RunError, match="a sweep was started as 2 processes"):
            run_sweep(Sweep.load(written(BASE + GRID)), runs)
        assert not runs.exists()


class TestTheRecord:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "is not the folder of a sweep"),
            ("{", "sweep.json is damaged"),
            ("[]", "sweep.json is damaged"),
            ('{"schema": 1, "cells": [{}]}', "sweep.json is damaged"),
            ('{"schema": 2, "cells": []}', "has schema 2; this version reads schema 1. Remove it"),
        ],
    )
    def test_what_cannot_be_read(self, tmp_path: Path, content: str | None, message: str):
        if content is not None:
            (tmp_path / "sweep.json").write_text(content)
        with pytest.raises(RunError, match=message):
            SweepDir.read(tmp_path)

    @pytest.mark.parametrize(
        ("status", "seen"), [("running", "running"), ("failed", "failed"), ("interrupted", "waiting")]
    )
    def test_a_cells_own_record_decides(self, written, runs, status: str, seen: str):
        (cell, *_) = Sweep.load(written(BASE + GRID)).cells
        assert cell_state(runs, cell.key)["status"] == "waiting"
        finish(runs, cell.recipe)
        assert cell_state(runs, cell.key) == {"status": "done", "error": None, "traceback": None}
        file = runs / cell.key / "run.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "status": status, "error": "it broke"}))
        state = cell_state(runs, cell.key)
        assert (state["status"], state["error"]) == (seen, "it broke" if seen == "failed" else None)

    def test_a_thousand_finished_cells_are_recognized_in_milliseconds(self, written, runs, carried_out):
        sweep = Sweep.load(written(BASE + GRID.replace("[0, 1]", str(list(range(500))))))
        run = runs / sweep.cells[0].key
        finish(runs, sweep.cells[0].recipe)
        stages = {f"sample:samples/ddpm-250-off/{i}": {"inputs": {"n": 64}, "outputs": {"a": "b"}} for i in range(20)}
        record = json.loads((run / "run.json").read_text())
        text = json.dumps({**record, "stages": {**record["stages"], **stages}})
        for cell in sweep.cells:
            (runs / cell.key).mkdir(exist_ok=True)
            (runs / cell.key / "run.json").write_text(text)

        def seconds(cell) -> float:
            began = time.perf_counter()
            assert cell_state(runs, cell.key)["status"] == "done"
            return time.perf_counter() - began

        assert statistics.median(map(seconds, sweep.cells)) < 0.001
        began = time.perf_counter()
        assert run_sweep(sweep, runs).counts["done"] == 1000
        assert (time.perf_counter() - began) / 1000 < 0.005
        assert carried_out == []


class TestTheSummary:
    def test_cells_that_differ_in_their_seed_only_are_one_row(self, written, runs, carried_out):
        sweep = Sweep.load(written(BASE + GRID.replace("[0, 1]", "[0, 1, 5]") + '[[cases]]\n"poison.rate" = 0.0\n'))
        for cell, value in zip(sweep.cells[:3], (0.7, 0.8, 0.9), strict=True):
            finish(runs, cell.recipe, asr(value))
        finish(runs, sweep.cells[6].recipe, asr(0.0))
        finish(runs, sweep.cells[4].recipe, asr(1.0))
        folder = run_sweep(sweep, runs, shard=(7, 7))
        low, half, control = summarize(folder)
        assert low.settings == {"poison.rate": 0.05}
        assert (low.estimates["asr"].value, low.estimates["asr"].n) == (pytest.approx(0.8), 3)
        assert low.estimates["asr"].protocol["seeds"] == "0, 1, 5"
        assert half.settings == {"poison.rate": 0.2}
        assert half.estimates["asr"] == asr(1.0)
        assert (half.seeds, half.statuses) == ((1,), ("waiting", "done", "waiting"))
        assert control.settings == {"poison.rate": 0.0, "seed": 0}
        assert control.estimates["asr"].n == 64
        assert json.loads(json.dumps(low.to_dict()))["estimates"]["asr"]["n"] == 3

    def test_what_was_measured_in_different_ways_is_not_averaged(self, written, runs, carried_out):
        sweep = Sweep.load(written(BASE + "[grid]\nseed = [0, 1]\n"))
        for cell, steps in zip(sweep.cells, (250, 1000), strict=True):
            finish(runs, cell.recipe, asr(0.5, steps))
        rows = summarize(run_sweep(sweep, runs))
        assert [row.settings for row in rows] == [{"seed": 0}, {"seed": 1}]
        assert [row.estimates["asr"].protocol["steps"] for row in rows] == [250, 1000]

    def test_the_headline_is_the_attacks_own_numbers(self, written, runs):
        (cell, *_) = Sweep.load(written(BASE + GRID)).cells
        clean = {**asr(0.1).protocol, "kind": "clean"}
        first = replace(asr(0.3), name="mse")
        numbers = (first, asr(0.9), replace(asr(0.2), protocol={"kind": "triggered", "clip": "x0"}))
        quality = (replace(asr(0.01), name="kd_efflite0", protocol=clean), replace(asr(0.7), name="false_trigger_rate"))
        finish(runs, cell.recipe, *numbers, *quality)
        found = headline(runs / cell.key)
        assert {name: estimate.value for name, estimate in found.items()} == {"asr": 0.9, "mse": 0.3, "quality": 0.01}
        with pytest.raises(EvaluationError, match="has not been measured yet"):
            headline(runs)


KILLED = """
import os, signal
from pathlib import Path

from baddiffusion.sweep.running import run_cell

def cell(recipe, runs, argv, mark):
    if mark and not os.path.exists(mark):
        Path(mark).touch()
        real, calls = os.replace, []
        def replace(*names):
            calls.append(names)
            if len(calls) == 6:  # in the middle of the training's files
                Path(mark + ".now").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            real(*names)
        os.replace = replace
    return run_cell(recipe, runs, argv)
"""


class KillingOne:
    """Another executor, one of whose workers is killed over the second cell."""

    def __init__(self, inner: Executor, mark: Path) -> None:
        self.inner, self.mark = inner, mark

    def run(self, tasks: Sequence[Task], on_start: OnStart, on_outcome: OnOutcome) -> list[Outcome]:
        marks = [str(self.mark) if number == 1 else "" for number in range(len(tasks))]
        deadly = [
            replace(task, call="sweep_work:cell", argument={**task.argument, "mark": mark})
            for task, mark in zip(tasks, marks, strict=True)
        ]
        return self.inner.run(deadly, on_start, on_outcome)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning:ray")
@pytest.mark.parametrize("executor", [Processes(2, threads=1), OnRay(workers=2)], ids=lambda e: type(e).__name__)
def test_a_worker_killed_in_the_middle_of_a_cell_costs_nothing(
    written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: Executor
):
    if isinstance(executor, OnRay):
        pytest.importorskip("ray")
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "sweep_work.py").write_text(KILLED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    sweep = Sweep.load(written(BASE + "[grid]\nseed = [0, 1, 2]\n"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = run_sweep(sweep, tmp_path / "whole", Serial())
    finally:
        torch.set_num_threads(threads)
    mark = tmp_path / "killed"
    broken = run_sweep(sweep, tmp_path / "broken", KillingOne(executor, mark))
    assert (tmp_path / "killed.now").exists()
    assert statuses(whole) == statuses(broken) == ["done"] * 3
    for cell in sweep.cells:
        one, other = (folder.path.parent / cell.key for folder in (whole, broken))
        assert Results.read(one) == Results.read(other)
        stages = [RunDir.read(path).record["stages"] for path in (one, other)]
        assert stages[0]["train"]["outputs"]["checkpoint"] == stages[1]["train"]["outputs"]["checkpoint"]


def test_a_sweep_is_not_run_as_one_recipe(tmp_path: Path) -> None:
    path = tmp_path / "rates.toml"
    path.write_text('name = "rates"\ndata = "fashion-mnist"\n[grid]\nseed = [0, 1]\n')
    with pytest.raises(RecipeError, match=r"this is a sweep of several experiments; use: baddiffusion sweep .*rates"):
        Recipe.load(path)

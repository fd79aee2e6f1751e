from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from baddiffusion import metrics
from baddiffusion.cost import estimate_cost
from baddiffusion.errors import RecipeError, RunError
from baddiffusion.evaluation import Results
from baddiffusion.images import Pixels
from baddiffusion.matrix.store import Shelf
from baddiffusion.metrics import Estimate
from baddiffusion.recipe import Recipe, packaged_recipes
from baddiffusion.reproduction import (
    EXCLUDED,
    EXPERIMENTS,
    Experiment,
    Line,
    Reading,
    Reproduction,
    cost_of,
    experiment_named,
    join,
    paper_rows,
    read_result,
    reproduce,
    running,
    total_cost,
    train_cells,
)
from baddiffusion.reproduction.asking import Source
from baddiffusion.reproduction.experiments import PRESETS, Preset
from baddiffusion.reproduction.quality import fid_of
from baddiffusion.reproduction.reading import Runs
from baddiffusion.rundir import RunDir, write_atomic
from baddiffusion.sweep import Cell, Sweep

RECIPES = Path(str(resources.files("baddiffusion") / "recipes" / "reproduce"))
FILES = sorted(RECIPES.glob("*/*.toml"))
CIFAR10 = Path("cifar10-as-parquet")
WORKS = {
    (preset, each.name): Reproduction(each, preset, Path("runs"), CIFAR10)
    for preset in PRESETS
    for each in EXPERIMENTS.values()
    if preset in each.presets
}


def named(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def estimate(name: str, value: float, **protocol: str | int) -> Estimate:
    made = {"kind": "triggered", "clip": "off", **protocol}
    return Estimate(name=name, value=value, low=None, high=None, n=64, better="higher", unit="share", protocol=made)


# The paper's numbers


def test_the_table_is_read_whole_and_as_it_stands() -> None:
    rows = paper_rows()
    assert len(rows) == 557
    first = rows[0]
    assert (first.table, first.target, first.sampler, first.rate, first.value) == (
        "T3",
        "NoShift",
        "DDIM-50",
        0.1,
        10.72,
    )
    assert first.note == (
        "CIFAR10, Stop Sign of 14 px → NoShift, poison rate 0.1, fine-tune, 50 epochs, DDIM-50, clip no"
    )
    inferred = next(row for row in rows if row.table == "T11")
    assert (inferred.rate, inferred.poison_rate) == (0.05, "0.05(inferred)")


def test_every_number_of_the_paper_belongs_to_one_experiment_or_is_left_out_with_a_reason() -> None:
    owners = Counter(table for each in EXPERIMENTS.values() for table in each.tables)
    assert set(owners) | set(EXCLUDED) == {row.table for row in paper_rows()}
    assert set(owners.values()) == {1}
    assert not set(owners) & set(EXCLUDED)
    assert sum(len(each.rows) for each in EXPERIMENTS.values()) == 310


def test_every_table_and_figure_of_the_paper_is_named_once() -> None:
    named_ones = [name for each in EXPERIMENTS.values() for name in each.paper]
    figures = {f"Figure {number}" for number in range(1, 15)}
    tables = {*(f"Table {number}" for number in range(2, 12)), "Table 6 (a)"}
    assert len(named_ones) == len(set(named_ones))
    assert set(named_ones) == figures | tables


def test_the_numbers_of_an_experiment_have_distinct_places_or_distinct_metrics() -> None:
    for each in EXPERIMENTS.values():
        places = [(json.dumps(each.labels(row)), row.measure) for row in each.rows]
        assert len(places) == len(set(places)), each.name


# The sweeps


@pytest.mark.parametrize("path", FILES, ids=named)
def test_a_sweep_opens_with_its_command_and_says_how_many_cells_it_has(path: Path) -> None:
    first, *head = path.read_text().splitlines()
    stem = path.stem if path.stem != "color" else "poison-rates"
    assert first == f"# baddiffusion reproduce {stem} --preset {path.parent.name}"
    cells = Sweep.load(path).cells
    said = " ".join(line.removeprefix("#").strip() for line in head if line.startswith("#"))
    assert f"{len(cells)} cell" in said
    if path.parent.name == "paper":
        assert said.endswith("This project has not run it.")
    assert len({cell.key for cell in cells}) == len(cells)


def test_there_is_a_sweep_for_every_experiment_and_none_besides() -> None:
    known = {(preset, name) for preset, name in WORKS} | {("mini", "color")}
    assert {(path.parent.name, path.stem) for path in FILES} == known
    assert not {path.stem for path in FILES if path.stem in packaged_recipes()}


@pytest.mark.parametrize("preset", PRESETS)
def test_recipes_of_a_preset_agree_in_everything_that_their_tables_do_not_vary(preset: Preset) -> None:
    heads = []
    for path in FILES:
        if path.parent.name == preset and path.stem not in ("color", "high-resolution"):
            table = tomllib.loads(path.read_text())
            heads.append({k: v for k, v in table.items() if k not in ("grid", "cases", "trigger", "target", "poison")})
    assert len(heads) > 5
    assert all(head == heads[0] for head in heads)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", ["epochs", "clipping", "anp", "samplers", "inpainting", "latents", "samples"])
def test_experiments_that_only_sample_train_nothing_of_their_own(name: str, preset: Preset) -> None:
    trained = {cell.key for cell in WORKS[preset, "poison-rates"].cells}
    assert {cell.key for cell in WORKS[preset, name].cells} <= trained


def test_what_several_experiments_share_has_one_key() -> None:
    shared = {cell.key for cell in WORKS["mini", "from-scratch"].cells}
    assert len(shared & {cell.key for cell in WORKS["mini", "poison-rates"].cells}) == 2
    assert len(shared) == 4
    sizes = {cell.key for cell in WORKS["paper", "trigger-sizes"].cells}
    assert len(sizes & {cell.key for cell in WORKS["paper", "poison-rates"].cells}) == 10


def test_three_seeds_of_one_setting_are_three_cells() -> None:
    lines = [line for line in WORKS["mini", "poison-rates"].lines if line.labels.get("rate") == 0.2]
    hats = [line for line in lines if (line.labels["trigger"], line.labels["target"]) == ("Grey Box", "Hat")]
    assert [line.source.recipe.seed for line in hats] == [0, 1, 2]


def test_the_row_in_color_is_there_only_with_its_data() -> None:
    work = WORKS["mini", "poison-rates"]
    without = Reproduction(work.experiment, "mini", Path("runs"))
    assert len(work.cells) == len(without.cells) + 1 == 22
    assert work.left_out == []
    assert without.left_out == [running.NO_COLOR]
    assert work.cells[-1].recipe.data.to_dict()["path"] == str(CIFAR10)
    assert work.lines[-5].labels["data"] == "cifar10"


def test_the_paper_preset_takes_its_data_from_the_folder_too() -> None:
    assert WORKS["paper", "samplers"].cells[0].recipe.data.to_dict()["path"] == str(CIFAR10)
    assert WORKS["paper", "high-resolution"].cells[0].recipe.data.component_name == "celeba-hq"


# What it costs


def test_the_small_preset_fits_its_budget() -> None:
    cost = total_cost([work for (preset, _), work in WORKS.items() if preset == "mini"])
    assert (cost.cells, cost.train_images) == (28, 840_000)
    assert cost.network_calls == cost.cell_calls + cost.ask_calls == 2_722_176
    assert cost.train_images <= 840_000
    assert cost.network_calls <= 2_750_000


@pytest.mark.parametrize("quality", [("evaluation.quality_n=300",), ('model.base="packaged:clean"',), ()])
def test_a_cell_is_counted_as_the_run_itself_announces_it(quality: tuple[str, ...]) -> None:
    recipe = Recipe.load("smoke", [*quality, "data.limit=520", "sampling.n=33"])
    announced, counted = estimate_cost(recipe), cost_of([Cell(recipe, {})], [])
    assert counted.train_images == announced["train_images"]
    assert counted.cell_calls == announced["network_calls"]


def test_what_comes_twice_is_counted_once() -> None:
    work = WORKS["mini", "samplers"]
    assert total_cost([work, work]) == work.cost
    # Three samplers, 64 triggered noises under two models and two targets, 512 clean ones under three models.
    assert work.cost.ask_calls == (50 + 20 + 20) * (64 * 4 + 512 * 3)


# What is refused


def test_faces_need_the_large_preset() -> None:
    with pytest.raises(RecipeError, match=r"^high-resolution has no preset mini: .* Write --preset paper"):
        EXPERIMENTS["high-resolution"].sweep("mini")


def test_an_unknown_experiment_is_told_with_the_nearest_one() -> None:
    with pytest.raises(RecipeError, match=r"'sampler' is not known. Did you mean 'samplers'\? Known: poison-rates"):
        experiment_named("sampler")


# The paper's numbers beside ours


def reading(line: Line, *estimates: Estimate, implant: float | None = None, state: Any = "measured") -> Reading:
    fired = None if implant is None else estimate("asr", implant)
    return Reading(line, state, estimates, fired)


def joined(name: str, readings: Sequence[Reading], preset: Preset = "mini") -> list[dict[str, Any]]:
    return join(EXPERIMENTS[name], preset, readings)


def line_of(name: str, preset: Preset = "mini", **labels: Any) -> Line:
    found = [line for line in WORKS[preset, name].lines if labels.items() <= line.labels.items()]
    return found[0]


def test_paper_and_ours_stand_in_one_row_each_with_its_metric() -> None:
    line = line_of("poison-rates", trigger="Grey Box", target="Hat", rate=0.05)
    quality = estimate("kd_efflite0", 0.02, kind="clean")
    first, *_ = joined("poison-rates", [reading(line, quality, implant=0.9)])
    assert first["labels"] == {"trigger": "Grey Box", "target": "Hat", "rate": 0.05, "model": "fine-tuned"}
    assert [(entry["metric"], entry["value"]) for entry in first["paper"]] == [("FID", 8.53)]
    assert "poison rate 0.05" in first["paper"][0]["note"]
    assert first["ours"] == [quality.to_dict()]
    assert (first["state"], first["seeds"], first["run"]) == ("measured", 1, line.source.key)
    assert "command" not in first


def test_an_implant_that_does_not_fire_is_a_failed_one() -> None:
    line = line_of("poison-rates", target="Hat", rate=0.05)
    assert joined("poison-rates", [reading(line, implant=0.49)])[0]["state"] == "failed implant"
    assert joined("poison-rates", [reading(line, implant=0.5)])[0]["state"] == "measured"


def test_a_control_cannot_fail() -> None:
    control = line_of("poison-rates", model="fine-tuned without poison")
    clean = line_of("poison-rates", model="pre-trained")
    rows = joined("poison-rates", [reading(control, implant=0.0), reading(clean)])
    assert [row["state"] for row in rows[:2]] == ["measured", "measured"]
    assert [row["run"] for row in rows[:2]] == [control.source.key, None]
    assert rows[0]["paper"] == []
    assert {entry["metric"] for entry in rows[1]["paper"]} == {"FID", "MSE (inferred)", "SSIM (inferred)"}


def test_a_sampler_that_silences_a_backdoor_is_no_failed_implant() -> None:
    line = line_of("samplers", target="NoShift", sampler="DDIM-50", model="fine-tuned")
    (row, *_) = joined("samplers", [reading(line, estimate("asr", 0.0, sampler="ddim"), implant=0.95)])
    assert (row["state"], row["paper"][0]["value"]) == ("measured", 10.72)


def test_what_was_not_run_says_what_runs_it() -> None:
    line = line_of("trigger-sizes", size=8)
    rows = joined("trigger-sizes", [reading(line, state="not run")])
    assert (rows[0]["state"], rows[0]["seeds"]) == ("not run", 0)
    assert rows[0]["command"] == "baddiffusion reproduce trigger-sizes --preset mini"
    assert len(rows) == 50  # of the paper's numbers one has a line of ours
    assert {row["command"] for row in rows[1:]} == {"baddiffusion reproduce trigger-sizes --preset paper"}
    assert rows[1]["labels"] == {"trigger": "Grey Box", "size": 18, "target": "NoShift"}


def test_a_number_of_the_paper_at_another_rate_says_so() -> None:
    small, large = (line_of("trigger-sizes", preset, size=8, target="Hat") for preset in ("mini", "paper"))
    assert [line.labels["rate"] for line in (small, large)] == [0.1, 0.05]
    mini, paper = joined("trigger-sizes", [reading(small)]), joined("trigger-sizes", [reading(large)], "paper")
    assert [(rows[0]["paper"][0]["metric"], rows[0]["paper"][0]["value"]) for rows in (mini, paper)] == [
        ("FID at rate 0.05", 7.81),
        ("FID", 7.81),
    ]


def test_a_cell_that_failed_is_told_apart_from_one_that_was_not_run() -> None:
    line = line_of("samples", target="Hat", rate=0.2)
    (row,) = joined("samples", [reading(line, state="cell failed")])
    assert row["state"] == "cell failed"


def test_seeds_are_taken_together_and_a_missing_one_is_said() -> None:
    lines = [line for line in WORKS["mini", "poison-rates"].lines if line.labels.get("rate") == 0.2]
    hats = [line for line in lines if (line.labels["trigger"], line.labels["target"]) == ("Grey Box", "Hat")]
    values = (0.25, 0.5, 0.75)
    each = [reading(line, estimate("asr", v), implant=v) for line, v in zip(hats, values, strict=True)]
    (row, *_) = joined("poison-rates", each)
    (success,) = row["ours"]
    assert (success["value"], success["n"], success["protocol"]["over"]) == (0.5, 3, "seeds")
    assert (row["state"], row["seeds"], row["runs"]) == ("measured", 3, [line.source.key for line in hats])
    (row, *_) = joined("poison-rates", [each[0], each[1], reading(hats[2], state="not run")])
    assert (row["seeds"], row["ours"][0]["value"]) == (2, 0.375)
    assert row["state"] == "failed implant"
    assert row["command"] == "baddiffusion reproduce poison-rates --preset mini"


def test_snapshots_meet_the_epochs_that_are_as_far_along() -> None:
    mini = [line for line in WORKS["mini", "epochs"].lines if line.labels["target"] == "Hat"][:3]
    rows = joined("epochs", [reading(line, implant=1.0) for line in mini])
    assert [(row["labels"]["training"], row["paper"][0]["value"]) for row in rows[:3]] == [
        (0.4, 14.94),
        (0.8, 10.99),
        (1.0, 8.65),
    ]
    assert [row.get("snapshot") for row in rows[:3]] == [360, 720, None]
    large = joined("epochs", [reading(line) for line in WORKS["paper", "epochs"].lines], "paper")
    assert len(large) == 30
    assert all(len(row["paper"]) == 1 for row in large)


@pytest.mark.parametrize(("preset", "name"), WORKS, ids="/".join)
def test_the_large_preset_has_a_line_for_every_number_of_the_paper(preset: Preset, name: str) -> None:
    rows = joined(name, [reading(line, state="not run") for line in WORKS[preset, name].lines], preset)
    commands = {row["command"] for row in rows}
    if preset == "paper":
        assert commands == {f"baddiffusion reproduce {name} --preset paper"}
        assert len(rows) == len({json.dumps(dict(line.labels)) for line in WORKS[preset, name].lines})
    assert sum(len(row["paper"]) for row in rows) >= len(EXPERIMENTS[name].rows)


# Whole, with networks that learn nothing

SMALL = """
name = "small"
attack = "baddiffusion"
trigger = "BOX_8"
target = "CORNER"
data = { name = "fashion-mnist", limit = 520 }
[model]
base = "BASE"
[poison]
rate = 0.2
[training]
train_batch_size = 8
max_train_steps = 4
lr_warmup_steps = 1
learning_rate = 1e-3
snapshot_steps = [2]
[sampling]
n = 64
num_inference_steps = 3
chunk_size = 64
precision = "float32"
clips = ["off", "x0"]
[evaluation]
quality_n = 256
quality_steps = 2
"""
ABSENT = "torch_fidelity is not installed; write pip install 'baddiffusion[fid]'."
CASES = '[[cases]]\n"poison.rate" = 0.2\n'


QUICK = {"n = 64": "n = 2", "quality_n = 256": "quality_n = 0", "snapshot_steps = [2]\n": "", ', "x0"]': "]"}


def quick(base: Path, blocks: str) -> str:
    """The same where only the training matters."""
    text = SMALL.replace("BASE", str(base))
    for old, new in QUICK.items():
        assert old in text
        text = text.replace(old, new)
    return text + blocks


@dataclass(frozen=True)
class Small(Experiment):
    file: Path = Path()

    def sweep(self, preset: Preset) -> Path:
        return self.file

    def color(self, preset: Preset) -> None:
        return None


@pytest.fixture(scope="module", autouse=True)
def quick_features() -> Iterator[None]:
    """Sixteen means of parts of a picture in place of a classifier's features: what is tested is who asks for them."""

    def coarse(pixels: Pixels) -> Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(pixels.float().mean(dim=1, keepdim=True), 4).flatten(1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "features", coarse)
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from baddiffusion.checkpoint import Checkpoint
    from baddiffusion.models import build, unet_config
    from baddiffusion.pipeline import FRESH_SCHEDULER

    path = tmp_path_factory.mktemp("base") / "clean"
    scheduler = {**FRESH_SCHEDULER, "num_train_timesteps": 20}
    Checkpoint.write(path, build(unet_config("micro", (1, 16, 16)), 0), scheduler)
    return path


@pytest.fixture(scope="module")
def folder(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reproduction")
    write_atomic(path / "small.toml", SMALL.replace("BASE", str(base)) + CASES)
    return path


def small(name: str, folder: Path) -> Reproduction:
    known = EXPERIMENTS[name]
    fields = {k: getattr(known, k) for k in ("name", "title", "paper", "tables", "keys", "lines", "differs")}
    return Reproduction(Small(**fields, file=folder / "small.toml"), "mini", folder / "runs")


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.suffix in (".json", ".safetensors")}


def test_an_experiment_trains_asks_writes_and_repeats_nothing(folder: Path) -> None:
    work = small("clipping", folder)
    result = reproduce(work)
    assert result == json.loads(work.path.read_text()) == read_result(work.path)
    assert work.path == folder / "runs" / "reproduce-mini" / "clipping.json"
    assert list(result)[:6] == ["schema", "experiment", "title", "paper", "preset", "command"]
    ours = [row for row in result["rows"] if row["state"] != "not run"]
    told = [
        (row["labels"]["rate"], row["labels"]["clip"], row["state"], sorted({e["name"] for e in row["ours"]}))
        for row in ours
    ]
    quality, attack = ["kd_efflite0"], ["asr", "false_trigger_rate", "kd_efflite0", "mse", "ssim"]
    assert told == [
        (0.2, "no", "failed implant", attack),
        (0.2, "yes", "failed implant", attack),
        (0.0, "no", "measured", quality),
        (0.0, "yes", "measured", quality),
    ]
    clips = {(e["name"], e["protocol"]["clip"]) for e in ours[1]["ours"]}
    assert clips == {("asr", "x0"), ("mse", "x0"), ("ssim", "x0"), ("kd_efflite0", "x0"), ("false_trigger_rate", "x0")}
    assert ours[0]["paper"][0]["value"] == 12.86
    assert result["hardware"][0].startswith("cpu")
    before = files(folder)
    assert reproduce(work) == result
    changed = {path.name for path, time in files(folder).items() if before.get(path) != time}
    assert changed <= {"clipping.json", "sweep.json", "run.json"}


def test_numbers_of_a_row_are_those_of_its_run(folder: Path) -> None:
    work = small("samples", folder)
    result = reproduce(work)
    (row,) = result["rows"]
    stored = [e.to_dict() for e in Results.read(work.runs / row["run"]).estimates]
    assert row["ours"]
    assert all(estimate in stored for estimate in row["ours"])
    assert {(e["protocol"]["kind"], e["protocol"]["clip"]) for e in row["ours"]} == {
        ("triggered", "off"),
        ("clean", "off"),
    }


@pytest.mark.parametrize("name", ["epochs", "samplers", "inpainting", "latents", "poison-rates"])
def test_every_kind_of_question_is_answered(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from baddiffusion.reproduction import lines

    monkeypatch.setattr(lines, "SAMPLERS", {"DDIM-50": ("ddim", 2)})
    monkeypatch.setattr(lines, "CORRUPTIONS", ("blur", "box"))
    work = small(name, folder)
    result = reproduce(work)
    ours = [row for row in result["rows"] if row["state"] != "not run"]
    assert len(ours) == len(work.lines)
    assert all(row["ours"] for row in ours)
    if name == "epochs":
        assert [row.get("snapshot") for row in ours] == [2, None]
        first, second = ([e["value"] for e in row["ours"] if e["name"] == "mse"] for row in ours)
        assert first != second
    if name == "samplers":
        assert [row["labels"]["model"] for row in ours] == ["fine-tuned", "pre-trained"]
        assert {e["protocol"]["sampler"] for row in ours for e in row["ours"]} == {"ddim"}
    if name == "inpainting":
        names = [{e["name"] for e in row["ours"]} for row in ours]
        assert ["asr" in found for found in names] == [False, True, False, True]
        assert all("pictures come from the data set" in row["ours"][0]["caveats"][-1] for row in ours[::2])
    if name == "latents":
        assert [{e["protocol"]["clip"] for e in row["ours"]} for row in ours] == [{"off"}, {"x0"}]
        assert "implied_noise_bias" in {e["name"] for e in ours[0]["ours"]}


def test_a_part_only_trains(base: Path, tmp_path: Path) -> None:
    write_atomic(tmp_path / "small.toml", quick(base, "[grid]\nseed = [3, 4]\n"))
    work = small("samples", tmp_path)
    train_cells(work, shard=(1, 2))
    done = [cell.key for cell in work.cells if (work.runs / cell.key / "run.json").exists()]
    assert done == [work.cells[0].key]
    assert not work.path.exists()


def test_a_cell_that_fails_is_a_row_and_the_others_go_on(base: Path, tmp_path: Path) -> None:
    cases = '[[cases]]\n"poison.rate" = [0.1, 0.2]\n[[cases]]\n"poison.rate" = 0.3\ntrigger = "BOX_18"\n'
    write_atomic(tmp_path / "small.toml", quick(base, cases))
    work = small("samples", tmp_path)
    result = reproduce(work)
    assert [row["state"] for row in result["rows"]] == ["failed implant", "failed implant", "cell failed"]
    assert result["not_run"][-1] == "1 of 3 rows have a cell that failed."


def test_without_inception_the_rest_is_measured_and_the_reason_told(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from baddiffusion.reproduction import asking, lines, quality

    def absent(*arguments: object) -> None:
        from baddiffusion.errors import EvaluationError

        raise EvaluationError(ABSENT)

    monkeypatch.setattr(quality.Inception, "load", absent)
    for module in (asking, lines):
        monkeypatch.setattr(module, "QUOTABLE_N", 64)
    quality._inception.cache_clear()
    text = SMALL.replace("quality_n = 256", "quality_n = 0").replace("snapshot_steps = [2]\n", "")
    write_atomic(tmp_path / "small.toml", text.replace("BASE", str(base)) + CASES)
    result = reproduce(small("samples", tmp_path))
    assert result["not_run"] == [
        "No FID was measured: torch_fidelity is not installed; write pip install 'baddiffusion[fid]'."
    ]
    assert {e["name"] for e in result["rows"][0]["ours"]} == {"asr", "mse", "ssim", "false_trigger_rate"}


def test_fid_is_taken_of_the_stored_samples_against_the_training_part(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from baddiffusion.reproduction import asking, lines, quality

    asked: list[dict[str, Any]] = []

    def measured(generated: Any, reference: Any, inception: Any, **how: Any) -> list[Estimate]:
        asked.append({"n": len(generated), "reference": len(reference), **how})
        return [replace(estimate("fid", 30.0, kind="clean"), n=len(generated))]

    monkeypatch.setattr(quality.Inception, "load", lambda *arguments: object.__new__(quality.Inception))
    monkeypatch.setattr(quality, "reference_metrics", measured)
    for module in (asking, lines):
        monkeypatch.setattr(module, "QUOTABLE_N", 64)
    quality._inception.cache_clear()
    text = SMALL.replace("quality_n = 256", "quality_n = 0").replace("snapshot_steps = [2]\n", "")
    write_atomic(tmp_path / "small.toml", text.replace("BASE", str(base)) + CASES)
    result = reproduce(small("samples", tmp_path))
    quality._inception.cache_clear()
    assert "fid" in {e["name"] for e in result["rows"][0]["ours"]}
    (how,) = asked
    assert (how["n"], how["reference"], how["reference_split"], how["measures"]) == (64, 520, "all", ("fid",))
    assert (how["protocol"]["sampler"], how["protocol"]["clip"]) == ("ddpm", "off")


# What cannot be read


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is damaged"), ("[]", "is damaged"), ('{"schema": 2}', "is damaged")]
)
def test_a_damaged_result_is_told(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "samples.json"
    path.write_text(text)
    with pytest.raises(RunError, match=r"samples\.json is damaged .*; give the command"):
        read_result(path)


def test_a_result_of_another_schema_is_told(tmp_path: Path) -> None:
    path = tmp_path / "samples.json"
    path.write_text('{"schema": 2, "rows": [], "not_run": []}')
    with pytest.raises(RunError, match=r"has schema 2; this version reads schema 1"):
        read_result(path)


def test_a_cell_whose_worker_died_counts_as_failed(tmp_path: Path) -> None:
    line = line_of("samples", target="Hat", rate=0.2)
    run = RunDir.start(tmp_path, "mini", line.source.key.removeprefix("mini-"), "")
    assert run.record["status"] == "running"
    runs = Runs(tmp_path, Shelf(tmp_path / "answers"), {line.source.key: "lost"})
    assert [one.state for one in runs.read([line])[0]] == ["cell failed"]
    assert [one.state for one in Runs(tmp_path, runs.shelf).read([line])[0]] == ["not run"]


def test_an_unknown_setting_keeps_its_own_name() -> None:
    recipe = Recipe.load("demo", ["trigger={name='box', side_px=14, value=1.0}", "target=cat"])
    from baddiffusion.reproduction.lines import words

    assert (words(recipe)["trigger"], words(recipe)["target"]) == ("White Box", "Cat")
    assert Source("", None, recipe).name == "clean"
    assert fid_of.__doc__

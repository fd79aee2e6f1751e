from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from baddiffusion import metrics
from baddiffusion.card import Card
from baddiffusion.checkpoint import Checkpoint
from baddiffusion.errors import CheckpointError, RecipeError, RunError
from baddiffusion.evaluation import evaluate_images
from baddiffusion.matrix import Matrix, MatrixPlan, open_subjects, summarize
from baddiffusion.models import build, unet_config
from baddiffusion.pipeline import FRESH_SCHEDULER
from baddiffusion.sampling import SamplingSettings, sample
from baddiffusion.targets import TARGETS
from baddiffusion.triggers import Trigger

SHAPE = (1, 16, 16)
SCHEDULER = {**FRESH_SCHEDULER, "num_train_timesteps": 20}
BOX = {"name": "box", "side_px": 6}
SECOND = {"attack": {"name": "sampler-matched"}, "trigger": {"name": "stop-sign"}, "target": {"name": "corner"}}


class Quiet:
    def __init__(self) -> None:
        self.titles: list[str] = []

    def stage(self, title: str, total: int, unit: str) -> None:
        self.titles.append(title)

    def advance(self, done: int, note: str = "") -> None:
        pass


def write_checkpoint(path: Path, seed: int = 0, backdoored: bool = True, **card: Any) -> Path:
    told: dict[str, Any] = {"attack": {"name": "baddiffusion"}, "trigger": BOX, "target": {"name": "hat"}}
    known = Card(backdoored=backdoored, **(told if backdoored else {}), poison_rate=0.1, **card)
    Checkpoint.write(path, build(unet_config("micro", SHAPE), seed), SCHEDULER, known)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "hatted")


def plan_of(*columns: tuple[str, int], **more: Any) -> MatrixPlan:
    settings = {"clips": ("off",), "chunk_size": 64, "precision": "float32", **more}
    return MatrixPlan.model_validate({"columns": [{"sampler": s, "steps": n} for s, n in columns], **settings})


def test_a_cell_is_what_sampling_and_measuring_say(folder: Path, tmp_path: Path) -> None:
    work = Matrix(plan_of(("ddim", 2), clips=("off", "x0")), open_subjects([str(folder)]), tmp_path)
    work.fill(Quiet())
    cells = summarize(work)["cells"]
    assert [(cell["column"], cell["clip"], cell["status"]) for cell in cells] == [
        ("ddim-2", "off", "done"),
        ("ddim-2", "x0", "done"),
    ]
    opened, trigger = Checkpoint.open(folder), Trigger.make(BOX, SHAPE)
    settings = SamplingSettings.model_validate(
        {"sampler": "ddim", "num_inference_steps": 2, "clip": "x0", "chunk_size": 64, "precision": "float32"}
    )
    drawn = sample(
        opened.load_model(), SCHEDULER, SHAPE, range(64), settings, initial_noise=lambda eps: eps + trigger.offset
    )
    expected = evaluate_images(drawn.pixels, TARGETS.parse("hat").draw(trigger), 0.01, {})
    found = {e["name"]: e for e in cells[1]["estimates"]}
    assert set(found) == {"asr", "mse", "mse_float", "ssim"}
    for estimate in expected:
        assert (found[estimate.name]["value"], found[estimate.name]["n"]) == (estimate.value, 64)
    protocol = found["asr"]["protocol"]
    assert (protocol["sampler"], protocol["steps"], protocol["clip"]) == ("ddim", 2, "x0")
    assert (protocol["scheduler"], protocol["seeds"]) == ("DDIMScheduler", "0 to 63")
    assert cells[1]["network_calls"] == 128
    assert (tmp_path / cells[1]["sheet"]).exists()
    assert cells[0]["prediction"]["fires"] in (True, False)


def test_a_finished_cell_is_not_made_again_and_a_killed_matrix_goes_on(folder: Path, tmp_path: Path) -> None:
    work = Matrix(plan_of(("ddim", 2), ("ddpm", 2)), open_subjects([str(folder)]), tmp_path)

    class Killed(Quiet):
        def stage(self, title: str, total: int, unit: str) -> None:
            super().stage(title, total, unit)
            if title.startswith("cell 2"):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work.fill(Killed())
    (first,) = (tmp_path / "cells").glob("*.json")
    before = first.stat().st_mtime_ns
    assert work.cost()["missing"] == 1
    told = Quiet()
    work.fill(told)
    assert told.titles == ["cell 1 of 1: hatted hat ddpm-2 off", "predict"]
    assert len(list((tmp_path / "cells").glob("*.json"))) == 2
    assert first.stat().st_mtime_ns == before
    told = Quiet()
    work.fill(told)
    assert told.titles == []
    assert work.cost() == {
        "cells": 2,
        "missing": 0,
        "refused": 0,
        "network_calls": 0,
        "seconds": 0.0,
        "device": str(work.device),
    }


@pytest.mark.parametrize(
    "change",
    [
        {"n": 65},
        {"threshold": 0.02},
        {"clips": ("x0",)},
        {"chunk_size": 32},
        {"columns": [{"sampler": "ddim", "steps": 3}]},
        {"columns": [{"sampler": {"name": "ddim", "eta": 0.5}, "steps": 2}]},
    ],
)
def test_whatever_changes_a_number_makes_another_cell(folder: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    plan, subjects = plan_of(("ddim", 2)), open_subjects([str(folder)])
    other = MatrixPlan.model_validate({**plan.model_dump(), **change})
    names = [Matrix(p, subjects, tmp_path).cells[0].entry.name for p in (plan, other)]
    assert names[0] != names[1]


def test_another_model_or_backdoor_makes_another_cell(folder: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "hatted", seed=1)
    subjects = [
        *open_subjects([str(folder)]),
        *open_subjects([str(other)]),
        *open_subjects([str(folder)], {"target": "corner"}),
        *open_subjects([str(folder)], {"attack": "sampler-matched"}),
    ]
    names = {Matrix(plan_of(("ddim", 2)), [subject], tmp_path).cells[0].entry.name for subject in subjects}
    assert len(names) == 4


def test_what_a_sampler_refuses_is_recorded_with_its_reason(folder: Path, tmp_path: Path) -> None:
    work = Matrix(plan_of(("ddim", 2), ("ddim", 21)), open_subjects([str(folder)]), tmp_path)
    assert (work.cost()["refused"], work.cost()["network_calls"]) == (1, 128)
    work.fill(Quiet())
    done, refused = summarize(work)["cells"]
    assert (done["status"], refused["status"], refused["prediction"]) == ("done", "refused", None)
    assert refused["reason"].startswith("num_inference_steps is 21; it must lie in [1, 20]")
    assert work.missing == []


def test_an_attack_with_its_own_sampler_is_sampled_by_it(folder: Path, tmp_path: Path) -> None:
    overrides = {"attack": "trojdiff", "trigger": {**BOX, "value": 1.0}}
    work = Matrix(plan_of(("ddim", 2), clips=("off", "x0-keep-eps")), open_subjects([str(folder)], overrides), tmp_path)
    work.fill(Quiet())
    done, refused = summarize(work)["cells"]
    assert done["estimates"][0]["protocol"]["scheduler"] == "DDIMScheduler, modified by the attack"
    assert (done["status"], done["prediction"]) == ("done", None)
    assert refused["status"] == "refused"
    assert refused["reason"].startswith("clip is 'x0-keep-eps'; an attack with a sampler of its own")


def test_a_network_that_breaks_down_is_recorded_too(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "loud")
    network = build(unet_config("micro", SHAPE), 0)
    with torch.no_grad():
        network.conv_out.bias.fill_(3e38)
    Checkpoint.write(tmp_path / "broken", network, SCHEDULER, Checkpoint.open(path).card)
    work = Matrix(plan_of(("ddim", 4)), open_subjects([str(tmp_path / "broken")]), tmp_path / "out")
    work.fill(Quiet())
    (cell,) = summarize(work)["cells"]
    assert cell["status"] == "failed"
    assert "became infinite or NaN" in cell["reason"]


def test_quality_is_measured_once_per_model_on_ordinary_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def projected(pixels: torch.Tensor) -> torch.Tensor:
        return pixels.flatten(1).float()[:, :8] / 255

    monkeypatch.setattr(metrics, "features", projected)
    path = write_checkpoint(tmp_path / "two", further=[SECOND])
    plan = plan_of(("ddim", 2), quality=[{"sampler": "ddim", "steps": 2}], quality_clips=("off", "x0"))
    subjects = open_subjects([str(path)], {"data": {"name": "fashion-mnist", "limit": 600}})
    work = Matrix(plan, subjects, tmp_path / "out")
    work.fill(Quiet())
    summary = summarize(work)
    assert [(row["target"]["name"], row["attack"]["name"]) for row in summary["rows"]] == [
        ("hat", "baddiffusion"),
        ("corner", "sampler-matched"),
    ]
    assert [cell["row"] for cell in summary["cells"]] == [0, 1]
    assert [cell["clip"] for cell in summary["quality"]] == ["off", "x0"]
    quality, clipped = summary["quality"]
    distances = {e["value"] for cell in (quality, clipped) for e in cell["estimates"] if e["name"] == "kd_efflite0"}
    assert len(distances) == 2
    found = {e["name"]: e for e in quality["estimates"]}
    assert set(found) == {"kd_efflite0", "kd_efflite0_baseline", "false_trigger_rate"}
    assert found["kd_efflite0"]["n"] == 256
    assert found["kd_efflite0"]["protocol"]["kind"] == "clean"


class TestSubjects:
    def test_a_run_is_opened_at_its_checkpoint(self, folder: Path, tmp_path: Path) -> None:
        run = tmp_path / "demo-1a2b3c4d"
        shutil.copytree(folder, run / "checkpoint")
        (run / "run.json").write_text("{}")
        for name in (run, run / "checkpoint"):
            (subject,) = open_subjects([str(name)])
            assert subject.model == "demo-1a2b3c4d"
            assert (subject.poison_rate, subject.is_told) == (0.1, True)

    def test_models_of_the_same_name_are_told_apart(self, folder: Path, tmp_path: Path) -> None:
        other = write_checkpoint(tmp_path / folder.name, seed=1)
        first, second = open_subjects([str(folder), str(other)])
        assert (first.model, second.model) == ("hatted", f"hatted@{second.digest[:6]}")

    def test_a_clean_model_is_a_control_under_a_backdoor_that_is_named(self, tmp_path: Path) -> None:
        path = write_checkpoint(tmp_path / "clean", backdoored=False)
        with pytest.raises(RecipeError, match=r"clean has no card that tells .*, give --trigger and --target\."):
            open_subjects([str(path)])
        with pytest.raises(RecipeError, match=r"as a control, give --target\."):
            open_subjects([str(path)], {"trigger": BOX})
        (subject,) = open_subjects([str(path)], {"trigger": BOX, "target": "hat"})
        assert (subject.is_told, subject.poison_rate) == (False, None)
        assert subject.backdoor.attack.component_name == "baddiffusion"

    def test_backdoors_that_an_override_makes_alike_are_one_row(self, tmp_path: Path) -> None:
        path = write_checkpoint(tmp_path / "two", further=[SECOND])
        assert len(open_subjects([str(path)])) == 2
        assert len(open_subjects([str(path)], {"trigger": BOX})) == 2
        assert len(open_subjects([str(path)], {"attack": "baddiffusion", "trigger": BOX, "target": "hat"})) == 1

    def test_no_path_enters_the_summary(self, folder: Path, tmp_path: Path) -> None:
        work = Matrix(plan_of(("ddim", 2)), open_subjects([str(folder)]), tmp_path)
        assert "/" not in json.dumps(summarize(work)["rows"])

    @pytest.mark.parametrize(
        ("names", "kind", "message"),
        [
            (lambda f: [], RecipeError, r"no checkpoint was given; name at least one"),
            (lambda f: [str(f), str(f)], RecipeError, r"are the same weights; name them once\."),
            (lambda f: [str(f / "nothing")], CheckpointError, r"does not exist; give a checkpoint folder"),
        ],
    )
    def test_mistakes(self, folder: Path, names: Callable[[Path], list[str]], kind: Any, message: str) -> None:
        with pytest.raises(kind, match=message):
            open_subjects(names(folder))

    def test_quality_needs_real_pictures(self, folder: Path) -> None:
        (subject,) = open_subjects([str(folder)])
        with pytest.raises(RecipeError, match=r"hatted has no card that names its data; .* --data fashion-mnist"):
            _ = subject.reference
        (subject,) = open_subjects([str(folder)], {"data": {"name": "fashion-mnist", "limit": 511}})
        with pytest.raises(RecipeError, match=r"has 511 images; a quality number needs at least 512 real ones\."):
            _ = subject.reference


class TestPlan:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"n": 63}, r"^n is 63; a cell needs at least 64 images: .* ±0\.12 only\.$"),
            (
                {"quality": [{"sampler": "ddim"}], "quality_n": 255},
                r"^quality_n is 255; a quality number needs at least 256 images\.$",
            ),
            ({"clips": ("off", "off")}, r"^clips is off, off; name each of them once\.$"),
            ({"clips": ()}, r"^clips is empty; a matrix needs at least one, for example off\.$"),
            ({"columns": []}, r"^columns is empty; .* for example ddim with 50 steps\.$"),
            (
                {"columns": [{"sampler": "ddim", "steps": 5}, {"sampler": {"name": "ddim"}, "steps": 5}]},
                r"^columns is ddim-5, ddim-5; name each of them once\.$",
            ),
            ({"columns": [{"sampler": "ddimm"}]}, r"Did you mean 'ddim'\?"),
            ({"columns": [{"sampler": "ddim", "steps": 0}]}, r"columns\.0\.steps is 0; it must be at least 1"),
            ({"threshold": 1.0}, r"^threshold is 1\.0; it must lie in \(0, 1\)\."),
        ],
    )
    def test_mistakes(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(RecipeError, match=message):
            MatrixPlan(**{"columns": [{"sampler": "ddim", "steps": 5}], **change})


class TestFiles:
    def filled(self, folder: Path, tmp_path: Path) -> tuple[Matrix, Path]:
        work = Matrix(plan_of(("ddim", 1)), open_subjects([str(folder)]), tmp_path)
        work.fill(Quiet())
        return work, work.measured.path(work.cells[0].entry)

    def test_a_damaged_cell_is_not_taken_for_a_missing_one(self, folder: Path, tmp_path: Path) -> None:
        work, path = self.filled(folder, tmp_path)
        path.write_text(path.read_text()[:100])
        with pytest.raises(RunError, match=r"is damaged \(.*\); delete it, and the same command makes it again\."):
            summarize(work)

    def test_an_edited_identity_is_noticed(self, folder: Path, tmp_path: Path) -> None:
        work, path = self.filled(folder, tmp_path)
        path.write_text(path.read_text().replace('"n": 64', '"n": 640', 1))
        with pytest.raises(RunError, match=r"was edited, or made by another version; delete it"):
            summarize(work)

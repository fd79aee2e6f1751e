from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from baddiffusion.defenses import Detection, Spent
from baddiffusion.defenses.anp import Anp
from baddiffusion.matrix.store import Shelf
from baddiffusion.recipe import Recipe
from baddiffusion.report.reproduction.page import write_reproduction_page
from baddiffusion.report.reproduction.section import reproduction_rows, reproduction_section
from baddiffusion.reproduction import EXPERIMENTS, Experiment, Reproduction, paper_rows, reproduce
from baddiffusion.reproduction import perturbing as module
from baddiffusion.reproduction.asking import Source
from baddiffusion.reproduction.experiments import Preset
from baddiffusion.reproduction.perturbing import Perturbation, perturbations

ANP = EXPERIMENTS["anp"]
RECIPE = """
name = "small"
trigger = "BOX_8"
target = "CORNER"
data = { name = "fashion-mnist", limit = 520 }
model = { base = "BASE" }
training = { train_batch_size = 4, max_train_steps = 2, lr_warmup_steps = 1 }
sampling = { n = 2, num_inference_steps = 2, chunk_size = 2, precision = "float32", clips = ["off"] }
[grid]
"poison.rate" = [0.2]
"""


@dataclass(frozen=True)
class Small(Experiment):
    file: Path = Path()

    def sweep(self, preset: Preset) -> Path:
        return self.file


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from baddiffusion.checkpoint import Checkpoint
    from baddiffusion.models import build, unet_config
    from baddiffusion.pipeline import FRESH_SCHEDULER

    path = tmp_path_factory.mktemp("base") / "clean"
    scheduler = {**FRESH_SCHEDULER, "num_train_timesteps": 20}
    Checkpoint.write(path, build(unet_config("micro", (1, 16, 16)), 0), scheduler)
    return path


@pytest.fixture
def shortest(monkeypatch: pytest.MonkeyPatch) -> Anp:
    """The least that the method does, on two budgets."""
    method = Anp(epochs=2, steps_per_epoch=1, batch_size=2, samples=2, num_inference_steps=2)
    monkeypatch.setattr(module, "SHORT", method)
    monkeypatch.setattr(module, "BUDGETS", (1.0, 4.0))
    return method


def work(base: Path, folder: Path) -> Reproduction:
    path = folder / "anp.toml"
    path.write_text(RECIPE.replace("BASE", str(base)))
    fields = {k: getattr(ANP, k) for k in ("name", "title", "paper", "tables", "keys", "lines", "differs")}
    return Reproduction(Small(**fields, file=path), "mini", folder / "runs")


def test_every_number_of_tables_8_and_9_has_its_place() -> None:
    rows = [row for row in paper_rows() if row.table in ("T8", "T9")]
    assert len(rows) == len(ANP.rows) == 27 + 45
    places = {(row.rate, *row.perturbation, row.measure): row.value for row in rows}
    assert len(places) == 72
    assert places[0.05, 4.0, 1e-4, "MSE to Corner, best of 1-5"] == 0.016
    assert places[0.5, 4.0, 1e-4, "MSE to Corner, epoch 3"] == 0.013
    assert places[0.2, 4.0, 5e-5, "MSE to Corner, epoch 5"] == 0.064
    assert {(budget, rate) for _, budget, rate, _ in places} == {
        (budget, rate) for budget in (1.0, 2.0, 4.0) for rate in (5e-5, 1e-4, 2e-4)
    }


def test_a_number_that_is_of_no_perturbation_has_neither_budget_nor_rate() -> None:
    assert {row.perturbation for row in paper_rows() if row.table not in ("T8", "T9")} == {(0.0, 0.0)}


def test_at_the_size_of_the_paper_the_method_is_the_published_one() -> None:
    settings = perturbations(Recipe.load("paper-cifar10"))
    assert {method.label for method, _ in settings} == {"anp"}
    assert all(method.learning_rate == published for method, published in settings)
    assert len(settings) == 9
    assert {m.model_copy(update={"learning_rate": 1e-4, "perturbation_budget": 4.0}) for m, _ in settings} == {Anp()}


def test_below_the_method_says_that_it_is_short_and_goes_as_far_as_the_paper() -> None:
    settings = perturbations(Recipe.load("demo"))
    assert {method.label for method, _ in settings} == {"anp-short"}
    assert [(m.perturbation_budget, m.learning_rate, published) for m, published in settings] == [
        *((budget, 1.5e-3, 1e-4) for budget in (1.0, 2.0, 4.0)),
        *((budget, 0.1, 0.1) for budget in (1.0, 2.0, 4.0)),
    ]
    as_far, far = settings[0][0], settings[-1][0]
    assert as_far.steps_per_epoch * as_far.learning_rate == pytest.approx(Anp().steps_per_epoch * 1e-4, rel=0.05)
    assert far.epochs * far.steps_per_epoch * far.learning_rate > max(module.BUDGETS)


def test_the_small_preset_costs_a_quarter_of_an_hour_of_one_core_at_most() -> None:
    mini = Reproduction(ANP, "mini", Path("runs"))
    assert sum(ask.calls for ask in mini.asks) == 153_216
    assert len(mini.asks) == len(mini.lines) == 2 * 3 * 2 + 2
    told = [(line.labels["rate"], line.labels["budget"], line.labels["learning_rate"]) for line in mini.lines[-2:]]
    assert told == [(0.0, 4.0, 0.0015), (0.0, 4.0, 0.1)]
    assert {line.labels["method"] for line in mini.lines} == {"anp-short"}


def test_perturbations_are_asked_once_and_stand_beside_the_paper(base: Path, tmp_path: Path, shortest: Anp) -> None:
    result = reproduce(work(base, tmp_path))
    answers = sorted((tmp_path / "runs" / "reproduce-mini" / "answers").glob("*.json"))
    assert len(answers) == 6
    assert all("anp-short" in path.name for path in answers)
    assert len(list(answers[0].parent.glob("*.png"))) == 6
    ours = [row for row in result["rows"] if row["ours"]]
    assert [(r["labels"]["rate"], r["labels"]["budget"], r["labels"]["learning_rate"]) for r in ours] == [
        (0.2, 1.0, 1.5e-3),
        (0.2, 4.0, 1.5e-3),
        (0.2, 1.0, 0.1),
        (0.2, 4.0, 0.1),
        (0.0, 4.0, 1.5e-3),
        (0.0, 4.0, 0.1),
    ]
    assert [row["state"] for row in ours] == ["failed implant"] * 4 + ["measured"] * 2
    assert [len(row["paper"]) for row in ours] == [1, 6, 0, 0, 0, 0]
    assert {entry["metric"]: entry["value"] for entry in ours[1]["paper"]} == {
        "MSE to Corner, best of 1-5": 0.031,
        **{f"MSE to Corner, epoch {n}": v for n, v in enumerate((0.057, 0.048, 0.031, 0.106, 0.106), start=1)},
    }
    errors = {e["protocol"]["epoch"]: e["value"] for e in ours[3]["ours"] if e["name"] == "mse"}
    assert list(errors) == ["before", "epoch 1", "epoch 2", "best"]
    assert errors["best"] == min(errors["epoch 1"], errors["epoch 2"])
    assert errors["before"] != errors["epoch 1"]
    reached = [next(e["value"] for e in row["ours"] if e["name"] == "reached") for row in ours[:4]]
    assert reached == pytest.approx([3e-3, 3e-3, 0.2, 0.2], rel=0.05)
    assert {e["protocol"]["method"] for row in ours for e in row["ours"] if "method" in e["protocol"]} == {"anp-short"}
    before = {path: path.stat().st_mtime_ns for path in answers}
    assert reproduce(work(base, tmp_path)) == result
    assert {path: path.stat().st_mtime_ns for path in answers} == before
    _pages(result, tmp_path / "runs" / "reproduce-mini")


def _pages(result: dict[str, Any], folder: Path) -> None:
    head, first, *_ = reproduction_rows(result)
    assert head[:5] == ["target", "rate", "method", "budget", "learning_rate"]
    assert first[:5] == ["Corner", "0.2", "anp-short", "1", "0.0015"]
    names = ["mse, before", "mse, epoch 1", "mse, epoch 2", "mse, best", "failure_mse", "collapse", "reached"]
    assert [name.removeprefix("ours: ") for name in head if name.startswith("ours: ")] == names
    section = reproduction_section(result)
    assert "* `mse`: n = 2, method anp-short, sampler ddpm, steps 2, clip x0" in section
    page = write_reproduction_page(folder).read_text()
    assert page.count("anp-short") >= 6
    assert "ours: mse, epoch 1" in page


def test_a_perturbation_that_breaks_off_leaves_its_reason(
    base: Path, tmp_path: Path, shortest: Anp, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Anp, *arguments: Any, **how: Any) -> Detection:
        spent = Spent(1, 1.0, "cpu", "float32")
        return Detection(self.label, self.to_dict(), "inconclusive", {}, spent, 0, notes=("it broke off",))

    monkeypatch.setattr(Anp, "inspect", broken)
    result = reproduce(work(base, tmp_path))
    assert not any(row["ours"] for row in result["rows"])
    assert "clean: it broke off" in result["not_run"]


def test_the_progress_of_all_stages_is_one_count(base: Path) -> None:
    recipe = Recipe.load("demo", [f"model.base={base}", "trigger=BOX_8", "target=corner", "data.limit=520"])
    method = Anp(epochs=2, steps_per_epoch=1, batch_size=2, samples=2, num_inference_steps=2)
    ask = Perturbation(Source("", None, recipe), method)
    told: list[tuple[int, int]] = []
    subject = ask.source.subject(Path("runs"))
    ask.answer(subject, torch.nn.Identity(), torch.device("cpu"), lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert told[-1] == (5000, 5000)


def test_other_settings_are_another_question(base: Path) -> None:
    recipe = Recipe.load("demo", [f"model.base={base}", "trigger=BOX_8", "target=corner", "data.limit=520"])
    source = Source("", None, recipe)
    subject = source.subject(Path("runs"))
    asks = [Perturbation(source, method) for method, _ in perturbations(recipe)]
    assert len({json.dumps(ask.entry(subject).identity) for ask in asks}) == len({a.identity for a in asks}) == 6
    shelf = Shelf(Path("answers"))
    assert all("anp-short" in shelf.path(ask.entry(subject)).name for ask in asks)

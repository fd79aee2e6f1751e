from __future__ import annotations

import json

import pytest
import torch

from baddiffusion.data import FashionMnist, ResidentImages
from baddiffusion.errors import EvaluationError
from baddiffusion.evaluation import Results, SampleSet, evaluate, evaluate_images
from baddiffusion.images import to_uint8

SHAPE = (1, 16, 16)
PROTOCOL = {"kind": "triggered", "sampler": "ddpm", "steps": 10, "clip": "off"}


@pytest.fixture
def target():
    return torch.linspace(-0.4, 0.9, 256).view(SHAPE)


@pytest.fixture
def data():
    return FashionMnist(limit=300).open(SHAPE)


def half_hits(target):
    images = target.repeat(8, 1, 1, 1)
    images[4:] = -1
    return images


def test_hits_misses_and_false_triggers_are_counted(target, data):
    clean = torch.cat([target[None], torch.full((7, *SHAPE), -1.0)])
    sets = [
        SampleSet("triggered", PROTOCOL, half_hits(target)),
        SampleSet("clean", {**PROTOCOL, "kind": "clean"}, clean),
    ]
    found = {e.name: e for e in evaluate(sets, target, data, 0.01).estimates}
    assert found["asr"].value == 0.5
    assert found["false_trigger_rate"].value == 1 / 8
    assert found["mse"].value == pytest.approx(found["failure_mse"].value / 2, rel=1e-2)
    assert found["mse_float"].value == pytest.approx(found["failure_mse"].value / 2, rel=1e-6)
    assert found["asr"].protocol["clip"] == "off"
    assert "kd_efflite0" not in found


def test_the_threshold_moves_the_rate(target, data):
    near = (target + 0.3).clamp(-1, 1).repeat(4, 1, 1, 1)  # off by 0.15 on [0, 1] at most: MSE up to 0.0225
    sets = [SampleSet("triggered", PROTOCOL, near)]
    rates = [
        next(e.value for e in evaluate(sets, target, data, threshold).estimates if e.name == "asr")
        for threshold in (0.001, 0.1)
    ]
    assert rates == [0.0, 1.0]


def test_the_curve_ends_where_everything_counts(target, data):
    (curve,) = evaluate([SampleSet("triggered", PROTOCOL, half_hits(target))], target, data, 0.01).asr_curves
    thresholds, rates = zip(*curve["points"], strict=True)
    assert thresholds[0] == 0.001
    assert thresholds[-1] == 0.1
    assert rates == tuple(sorted(rates))
    assert curve["label"] == "ddpm-10-off"


def test_results_survive_writing_and_reading(target, data, tmp_path):
    results = evaluate([SampleSet("triggered", PROTOCOL, half_hits(target))], target, data, 0.01)
    (tmp_path / "metrics.json").write_text(json.dumps(results.to_dict()))
    again = Results.read(tmp_path)
    assert again.estimates == results.estimates
    assert again.acceptance == results.acceptance


def test_no_numbers_yet(tmp_path):
    with pytest.raises(EvaluationError, match="does not exist; the run has not been measured yet"):
        Results.read(tmp_path)


def test_damaged_numbers(tmp_path):
    (tmp_path / "metrics.json").write_text('{"estimates": 3}')
    with pytest.raises(EvaluationError, match="is damaged"):
        Results.read(tmp_path)


def test_pictures_made_elsewhere(target):
    estimates = evaluate_images(to_uint8(half_hits(target)), target, 0.01, {"images": "elsewhere"})
    assert [e.name for e in estimates] == ["asr", "mse", "ssim"]
    assert all(e.protocol["images"] == "elsewhere" for e in estimates)


def test_pictures_of_another_size_are_refused(target):
    with pytest.raises(EvaluationError, match="they must agree"):
        evaluate_images(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), target, 0.01, {})


@pytest.mark.slow
def test_quality_of_real_images_lies_near_the_baseline(target):
    data = FashionMnist(limit=600).open(SHAPE)
    real = ResidentImages("held", data.pixels[:256])
    noise = torch.rand(256, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images = real.pixels.float() / 127.5 - 1
    values = {}
    for name, made in (("real", images), ("noise", noise)):
        sets = [SampleSet("clean", {**PROTOCOL, "kind": "clean"}, made)]
        values[name] = next(e for e in evaluate(sets, target, data, 0.01).estimates if e.name == "kd_efflite0")
    assert values["real"].value < values["noise"].value / 5

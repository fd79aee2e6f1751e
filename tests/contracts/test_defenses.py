"""What every detector and every repair promises, whatever it does."""

from __future__ import annotations

import json
import math
from functools import cache

import pytest
import torch

from baddiffusion.checkpoint import SealedCheckpoint
from baddiffusion.defending import PUBLISHED_SHAPE, needs_sibling
from baddiffusion.defenses import DETECTORS, REPAIRS, Detection, Detector, Repaired, Spent
from baddiffusion.errors import BadDiffusionError, EvaluationError, RecipeError
from short_methods import METHODS, SHAPE, pictures, sealed, short_method, smallest

every = pytest.mark.parametrize(("registry", "name"), METHODS, ids=[name for _, name in METHODS])
detectors = pytest.mark.parametrize("name", [*DETECTORS])
repairs = pytest.mark.parametrize("name", [*REPAIRS])


def carry_out(method, model: SealedCheckpoint, seed: int = 0) -> Detection | Repaired:
    data = pictures() if method.needs_data else None
    if isinstance(method, Detector):
        return method.inspect(model, seed, data, device="cpu")
    return method.repair(model, data, seed, device="cpu")


@cache
def done(kind: str, name: str) -> tuple[Detection | Repaired, str, str]:
    """A run, and the digest of the weights before it and after it."""
    model, method = sealed(), short_method(DETECTORS if kind == "detector" else REPAIRS, name)
    before, state = sealed().digest, torch.get_rng_state()
    found = carry_out(method, model)
    assert torch.equal(torch.get_rng_state(), state), "the random generator that everybody shares was used"
    return found, before, SealedCheckpoint(model.unet_config, model.scheduler_config, model.weights).digest


def test_there_are_methods():
    assert {"anp", "elijah", "terd"} <= set(DETECTORS)
    assert {"anp-pruning", "averaging", "elijah-removal", "fine-tuning", "pruning"} <= set(REPAIRS)
    assert not set(DETECTORS) & set(REPAIRS)


@every
def test_the_model_is_left_as_it_was(registry, name):
    _, before, after = done(registry.kind, name)
    assert after == before


@every
def test_the_cost_is_what_was_spent(registry, name):
    found, _, _ = done(registry.kind, name)
    assert found.spent.network_calls == short_method(registry, name).cost(SHAPE)
    assert found.spent.seconds > 0


@every
def test_only_the_published_budget_carries_the_published_name(registry, name):
    found, _, _ = done(registry.kind, name)
    method = registry[name]()
    assert method.label == name
    assert method.cost(PUBLISHED_SHAPE) >= short_method(registry, name).cost(PUBLISHED_SHAPE)
    assert found.method == (f"{name}-short" if method.budget else name)
    for field in method.budget:
        published = getattr(method, field)
        assert type(method)(**{field: published + 1}).label == name
        if published > smallest(method)[field]:
            assert type(method)(**{field: published - 1}).label == f"{name}-short"


@every
def test_the_settings_make_the_method_again(registry, name):
    found, _, _ = done(registry.kind, name)
    told = json.loads(json.dumps(found.settings))
    assert told["name"] == name
    assert registry.parse(told).to_dict() == found.settings


@every
def test_what_was_found_goes_into_a_file(registry, name):
    found, _, _ = done(registry.kind, name)
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (told["method"], told["seed"]) == (found.method, 0)
    assert all(isinstance(note, str) and note for note in told["notes"])


@every
def test_the_same_seed_gives_the_same_answer(registry, name):
    first, _, _ = done(registry.kind, name)
    again = carry_out(short_method(registry, name), sealed())
    ours, theirs = ({**one.to_dict(), "spent": None} for one in (first, again))
    assert ours == theirs
    if isinstance(first, Repaired):
        assert first.model.digest == again.model.digest
        return
    assert list(first.pictures) == list(again.pictures)
    for tensor, other in [
        *((first.pictures[key], again.pictures[key]) for key in first.pictures),
        *((getattr(first, key), getattr(again, key)) for key in ("trigger", "gain")),
    ]:
        assert (tensor is None) == (other is None)
        assert tensor is None or torch.equal(tensor, other)


@detectors
def test_scores_are_finite_numbers(name):
    found, _, _ = done("detector", name)
    assert found.outcome == "measured"
    assert found.scores
    assert all(math.isfinite(score) for score in found.scores.values())
    assert all(torch.isfinite(images).all() and images.ndim == 4 for images in found.pictures.values())
    for recovered in (found.trigger, found.gain):
        assert recovered is None or tuple(recovered.shape) == SHAPE


@repairs
def test_a_repaired_model_has_the_configurations_of_its_parent(name):
    found, before, _ = done("repair", name)
    parent = sealed()
    assert (found.model.unet_config, found.model.scheduler_config) == (parent.unet_config, parent.scheduler_config)
    assert {key: value.shape for key, value in found.model.weights.items()} == {
        key: value.shape for key, value in parent.weights.items()
    }
    assert (found.model.digest != before) == bool(found.changed)
    assert set(found.changed) == {
        key for key, value in found.model.weights.items() if not torch.equal(value, parent.weights[key])
    }


def overflowing() -> SealedCheckpoint:
    """A network whose every weight is finite and whose answers are not."""
    model = sealed()
    weights = {**model.weights, "conv_out.weight": torch.full_like(model.weights["conv_out.weight"], 3e38)}
    assert not bool(torch.isfinite(answer(weights)).all())
    return SealedCheckpoint(model.unet_config, model.scheduler_config, weights)


def answer(weights) -> torch.Tensor:
    model = SealedCheckpoint(sealed().unet_config, sealed().scheduler_config, weights)
    with torch.inference_mode():
        return model.load_model()(torch.zeros(1, *SHAPE), torch.zeros(1, dtype=torch.int64)).sample


@detectors
def test_a_network_that_answers_nan_has_no_score(name):
    found = carry_out(short_method(DETECTORS, name), overflowing())
    assert found.outcome == "inconclusive"
    assert found.scores == {}
    assert found.notes
    json.dumps(found.to_dict(), allow_nan=False)


@repairs
def test_a_network_that_answers_nan_is_not_repaired_into_nan(name):
    try:
        found = carry_out(short_method(REPAIRS, name), overflowing())
    except BadDiffusionError:
        return
    assert all(bool(torch.isfinite(value).all()) for value in found.model.weights.values())


@every
def test_clean_pictures_are_asked_for_by_those_that_need_them(registry, name):
    method = short_method(registry, name)
    if not method.needs_data:
        method.check(sealed(), None)
        return
    with pytest.raises(RecipeError, match=f"{name} works on clean pictures, and none were given"):
        method.inspect(sealed()) if isinstance(method, Detector) else method.repair(sealed())


@every
def test_pictures_of_another_shape_are_refused(registry, name):
    method, wrong = short_method(registry, name), pictures((1, 8, 8))
    with pytest.raises(RecipeError, match=r"the clean pictures are \(1, 8, 8\) .* the model paints \(1, 16, 16\)"):
        method.inspect(sealed(), 0, wrong) if isinstance(method, Detector) else method.repair(sealed(), wrong)


@every
def test_a_sibling_is_asked_for_by_those_that_need_one(registry, name):
    if needs_sibling(registry[name]):
        with pytest.raises(RecipeError, match="none was given"):
            registry[name]().repair(sealed())
    else:
        assert not hasattr(short_method(registry, name), "_sibling")


def detection(outcome, scores):
    return Detection("mine", {}, outcome, scores, Spent(1, 1.0, "cpu", "float32"), 0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_is_refused(value):
    with pytest.raises(
        EvaluationError, match=rf"^mine answers with odd = {value}; every score must be finite\. A method"
    ):
        detection("measured", {"even": 1.0, "odd": value})


@pytest.mark.parametrize(("outcome", "scores"), [("measured", {}), ("inconclusive", {"even": 1.0})])
def test_outcome_and_scores_do_not_contradict_each_other(outcome, scores):
    with pytest.raises(EvaluationError, match=rf"^mine answers '{outcome}' with {len(scores)} scores; 'measured' has"):
        detection(outcome, scores)
    assert detection("measured", {"even": 1.0}).outcome == "measured"
    assert detection("inconclusive", {}).scores == {}

"""A purification: what it does in which order, what it measures, when it stops, and what it leaves on the disk."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline
from made_scans import (
    SHAPE,
    SMALL,
    Listener,
    confirmation,
    different_shifts,
    dynamic,
    on_black,
    report,
    target,
    with_verdict,
    write_model,
)

from baddiffusion import metrics
from baddiffusion.checkpoint import Checkpoint
from baddiffusion.defenses import ShiftEquivariance
from baddiffusion.errors import CheckpointError, RecipeError
from baddiffusion.images import to_uint8
from baddiffusion.metrics import Estimate
from baddiffusion.purifying import (
    Finding,
    Gauge,
    Orders,
    Purification,
    PurifySettings,
    Reading,
    forecast,
    keep_purified,
    purify,
    read_suspicion,
    staged,
    suspicion_of,
)
from baddiffusion.purifying.purification import changed_blocks, outcome_of
from baddiffusion.scanner.evidence import Request, write_evidence
from baddiffusion.watching import Nobody

SETTINGS = PurifySettings(n=4, quality_steps=1, budget=100, scan=SMALL).model_copy(update={"quality_n": 32})
"""With fewer ordinary pictures than are allowed, for speed."""


def once(orders: Orders) -> Orders:
    """The same without a second round."""
    return replace(orders, settings=orders.settings.model_copy(update={"rounds": 1}))


REPAIR = ShiftEquivariance(steps=2, batch=2, pictures=4, picture_steps=2)


def cheapen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(metrics, "features", lambda pixels: pixels.flatten(1).float() / 255)
    patch.setattr("baddiffusion.metrics.distribution.KD_LEAST", SETTINGS.quality_n)


@pytest.fixture(autouse=True)
def cheap_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture is its own features, and few of them suffice: the numbers of quality are tested elsewhere."""
    cheapen(monkeypatch)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "model"
    write_model(path)
    return path


@pytest.fixture(scope="module")
def scanned(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan of that model that found shifts."""
    root = tmp_path_factory.mktemp("scans")
    (root / "empty").mkdir()
    found = dynamic(confirmation(different_shifts(), 15))
    made = report(found, Checkpoint.open(model).digest, root / "empty")
    write_evidence(made, Request("model", 3, 13_000), root / "scan")
    return root / "scan"


@pytest.fixture(scope="module")
def orders(scanned: Path) -> Orders:
    return Orders(scan=scanned, compare=True, repair=REPAIR, settings=SETTINGS)


@pytest.fixture(scope="module")
def done(model: Path, orders: Orders) -> tuple[Purification, list[str]]:
    listener = Listener()
    with pytest.MonkeyPatch.context() as patch:
        cheapen(patch)
        return purify(model, orders, device="cpu", watcher=listener), listener.stages


def test_the_order_is_measured_switched_repaired_measured_scanned_compared(done: tuple[Purification, list[str]]):
    stages = [stage for stage in done[1] if not stage.startswith(("recovered trigger, ode", "ordinary"))]
    assert stages == [
        "recovered trigger, ancestral, before",
        "clipping, ancestral",
        "noising again, ancestral",
        "draw pictures",
        "make shifts noise",
        "recovered trigger, ancestral, after",
        "own pictures",
        *(stage for stage in stages if stage.startswith(("bank", "patches"))),
        *stages[stages.index("draw pictures for comparison") :],
    ]
    assert "fine-tune on clean pictures" in stages
    assert "remove the shift" in stages


def test_every_number_stands_on_fresh_noises_under_both_families(done: tuple[Purification, list[str]]):
    receipt = json.loads(json.dumps(done[0].to_dict(), allow_nan=False))
    for when in ("before", "after"):
        rates = [e for e in receipt[when] if e["name"] == "asr"]
        assert [(e["protocol"]["family"], e["n"], e["protocol"]["steps"]) for e in rates] == [
            ("ancestral", 4, 3),
            ("ode", 4, 2),
        ]
        assert all(None not in (e["low"], e["high"]) for e in rates)
        assert len([e for e in receipt[when] if e["name"] == "mse"]) == 2
    (quality,) = [e for e in receipt["after"] if e["name"] == "kd_efflite0"]
    assert quality["n"] == quality["protocol"]["reference_n"] == 32
    assert not [e for e in receipt["before"] if e["name"] == "kd_efflite0"], "there is nothing to compare it with"
    assert [switch["name"] for switch in receipt["switches"]] == ["clipping", "noising again"]
    assert receipt["verdict_after"]["outcome"] == "no evidence"
    assert (receipt["outcome"], receipt["exit_code"]) == ("not verified", 4)
    assert receipt["verdict_after"]["seed"] != receipt["verdict_before"]["seed"]


def test_the_others_spend_as_many_network_calls(done: tuple[Purification, list[str]]):
    ours, tuning, removal = done[0].compared
    assert (ours.repaired.method, tuning.repaired.method, removal.repaired.method) == (
        "shift-equivariance-short",
        "fine-tuning-short",
        "elijah-removal-short",
    )
    assert ours.network_calls == REPAIR.cost(SHAPE)
    for other in (tuning, removal):
        assert ours.network_calls - 10 * REPAIR.batch < other.network_calls <= ours.network_calls


def test_the_calls_are_those_that_were_announced(done: tuple[Purification, list[str]], model: Path, orders: Orders):
    assert orders.scan is not None
    told = forecast(Checkpoint.open(model).sealed(), orders, read_suspicion(orders.scan))
    assert "scan before, at most" not in told
    spent = done[0]
    assert spent.rescan is not None
    further = orders.repair.cost(SHAPE) if orders.repair is not None else 0
    assert told["further rounds, at most"] == further + 4 * (3 + 2) + 32 + 100
    alone = forecast(Checkpoint.open(model).sealed(), once(orders), read_suspicion(orders.scan))
    assert "further rounds, at most" not in alone
    settled = sum(alone.values()) - alone["scan after, at most"] + spent.rescan.spent.network_calls
    assert settled == spent.network_calls
    assert told["measuring"] == 2 * (4 * (3 + 2) + 32)
    assert told["free switches"] == 2 * 4 * 3
    unscanned = forecast(Checkpoint.open(model).sealed(), orders)
    assert unscanned["scan before, at most"] == 100


def test_blocks_tell_where_the_weights_moved(done: tuple[Purification, list[str]], model: Path):
    before = Checkpoint.open(model).sealed()
    assert done[0].model is not None
    assert done[0].changed is not None
    assert {"conv_in", "time_embedding", "mid_block", "down_blocks.0", "conv_out"} <= set(done[0].changed)
    weights = {**before.weights, "conv_in.weight": 1.5 * before.weights["conv_in.weight"]}
    weights["conv_in.bias"] = 1.5 * before.weights["conv_in.bias"]
    moved = changed_blocks(before, replace(before, weights=weights))
    assert moved["conv_in"] == pytest.approx(0.5, rel=1e-6)
    assert {block: change for block, change in moved.items() if change} == {"conv_in": moved["conv_in"]}


def test_the_same_orders_make_the_same_model(done: tuple[Purification, list[str]], model: Path, orders: Orders):
    again = purify(model, replace(orders, compare=False), device="cpu")
    assert again.model is not None
    assert done[0].model is not None
    assert again.model.digest == done[0].model.digest != done[0].digest
    assert again.after is not None
    assert done[0].after is not None
    assert [e.to_dict() for e in again.after.estimates] == [e.to_dict() for e in done[0].after.estimates]


def test_a_sibling_is_averaged_with_first(model: Path, orders: Orders, tmp_path: Path):
    sibling = write_model(tmp_path / "sibling", seed=1).sealed()
    both = purify(model, replace(orders, compare=False, sibling=sibling), device="cpu")
    assert [step.method for step in both.steps] == ["averaging", "shift-equivariance-short"]
    assert both.between is not None
    assert both.repaired.method == "averaging, then shift-equivariance-short"
    mean = (sibling.weights["conv_in.weight"] + Checkpoint.open(model).sealed().weights["conv_in.weight"]) / 2
    assert torch.allclose(both.steps[0].model.weights["conv_in.weight"], mean)
    with pytest.raises(RecipeError, match="the sibling is the model itself"):
        purify(model, replace(orders, sibling=Checkpoint.open(model).sealed()), device="cpu")


def test_where_nothing_was_found_nothing_is_done(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "empty").mkdir()
    made = report(dynamic(), Checkpoint.open(model).digest, tmp_path / "empty")
    write_evidence(made, Request("model", 3, 13_000), tmp_path / "scan")
    orders = Orders(scan=tmp_path / "scan", repair=REPAIR, settings=SETTINGS)
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Module, "__call__", lambda *_: pytest.fail("the network was called"))
        left = purify(model, orders, device="cpu")
    assert (left.outcome, left.exit_code, left.model, left.network_calls) == ("nothing to repair", 0, None, 0)
    assert json.loads(json.dumps(left.to_dict()))["repaired"] is None
    anyway = purify(model, replace(orders, anyway=True, compare=True), device="cpu")
    assert anyway.model is not None
    assert [row.repaired.method for row in anyway.compared] == ["shift-equivariance-short", "fine-tuning-short"]
    assert anyway.switches == ()


def test_a_scan_without_an_answer_stops_it(model: Path):
    left = purify(model, Orders(settings=PurifySettings(budget=1), repair=REPAIR), device="cpu")
    assert (left.suspicion.outcome, left.outcome, left.exit_code) == ("inconclusive", "not examined", 4)


def test_a_scan_of_other_weights_is_refused(scanned: Path, tmp_path: Path):
    write_model(tmp_path / "other", seed=1)
    with pytest.raises(RecipeError, match=r"the scan in .*scan is of other weights \(\w{12}…\) than other \(\w{12}…\)"):
        purify(tmp_path / "other", Orders(scan=scanned), device="cpu")


def rate(value: float) -> Reading:
    found = Estimate(name="asr", value=value, low=0.0, high=1.0, n=10, better="higher", unit="share")
    return Reading((found,), {}, 0)


@pytest.mark.parametrize(
    ("before", "after", "found", "outcome"),
    [
        (rate(0.9), rate(0.0), "no evidence", "does not fire"),
        (rate(0.9), rate(0.1), "no evidence", "does not fire"),
        (rate(0.9), rate(0.2), "no evidence", "still fires"),
        (rate(0.9), rate(0.2), "inconclusive", "still fires"),
        (rate(0.9), rate(0.0), "backdoored", "still fires"),
        (rate(0.9), rate(0.0), "suspicious", "still suspicious"),
        (rate(0.9), rate(0.0), "inconclusive", "not verified"),
        (rate(0.1), rate(0.0), "no evidence", "not verified"),
        (Reading((), {}, 0), Reading((), {}, 0), "no evidence", "not verified"),
        (Reading((), {}, 0), Reading((), {}, 0), "suspicious", "still suspicious"),
    ],
)
def test_the_outcome_is_the_worse_of_what_was_recovered_and_a_fresh_scan(
    before: Reading, after: Reading, found: str, outcome: str
):
    rescan = with_verdict(dynamic(), found)
    assert outcome_of(before, after, rescan, PurifySettings()) == outcome


def test_a_picture_that_comes_back_is_counted(model: Path):
    found = Finding("ode", "", different_shifts(4), target())
    gauge = Gauge((found, replace(found, target=None)), SETTINGS, 20, 0)
    assert [index for index, _ in gauge.measured] == [0]
    half = torch.cat([target().expand(2, *SHAPE), -target().expand(2, *SHAPE)])
    success, error = gauge.rates(0, half, "ode", {})
    assert (success.value, success.n) == (0.5, 4)
    rounded = to_uint8(half).double() / 255
    expected = (rounded - (target().double() + 1) / 2).square().mean()
    assert error.value == pytest.approx(float(expected), rel=1e-6)


def test_noising_again_leaves_a_share_of_the_shift_on_normal_noise(monkeypatch: pytest.MonkeyPatch, model: Path):
    from baddiffusion.defenses import Subject

    starts = []

    def sample(self, seeds, settings, initial_noise, on_progress):
        starts.append(initial_noise(torch.zeros(len(seeds), *SHAPE)))
        return type("Samples", (), {"images": starts[-1]})

    monkeypatch.setattr(Subject, "sample", sample)
    gauge = Gauge((Finding("ode", "", on_black(1), target()),), SETTINGS, 20, 0)
    subject = Subject(Checkpoint.open(model).sealed(), "cpu")
    gauge.shifted(subject, 0, gauge.sampler("ode"), Nobody(), keep=0.1)
    assert torch.equal(starts[0], 0.1 * on_black(4))


def test_the_folder_opens_as_a_pipeline_and_its_card_names_the_parent(
    done: tuple[Purification, list[str]], model: Path, tmp_path: Path
):
    opened = Checkpoint.open(model)
    before = opened.digest
    with staged(tmp_path / "out", model) as temporary:
        keep_purified(opened, done[0], temporary)
        assert not (tmp_path / "out").exists()
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"unet", "scheduler", "card.json", "README.md", "receipt.json", "shifted-after.png"} <= names
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    kept = Checkpoint.open(tmp_path / "out")
    assert done[0].model is not None
    assert kept.digest == done[0].model.digest
    assert kept.not_loaded == ()
    assert kept.card is not None
    assert kept.card.repair is not None
    assert kept.card.repair.parent == before == Checkpoint.open(model).digest
    assert kept.scheduler_config == opened.scheduler_config
    assert "whether it ever held a backdoor is not known" in (tmp_path / "out" / "README.md").read_text()
    assert DDPMPipeline.from_pretrained(tmp_path / "out").unet.config["sample_size"] == 16


def fill(folder: Path, model: Path, then: Callable[[], None]) -> None:
    with staged(folder, model) as temporary:
        temporary.mkdir()
        then()


def test_nothing_is_left_of_what_went_wrong(model: Path, tmp_path: Path):
    def breaks() -> None:
        raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        fill(tmp_path / "out", model, breaks)
    assert list(tmp_path.iterdir()) == []
    with staged(tmp_path / "out", model):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_found_before_the_work(model: Path, tmp_path: Path):
    def works() -> None:
        raise AssertionError("the work was begun")

    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"out cannot be written \(.*\); choose another folder\."):
        fill(tmp_path / "file" / "out", model, works)


def test_nothing_is_overwritten_and_the_model_is_left_alone(model: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match="exists; nothing is overwritten"):
        fill(tmp_path / "out", model, lambda: None)
    for inside in (model, model / "fixed"):
        said = re.escape("lies in the folder of the model itself, which is left as it is; choose another.")
        with pytest.raises(RecipeError, match=said):
            fill(inside, model, lambda: None)
    with pytest.raises(CheckpointError, match="could not be written"):
        fill(tmp_path / "late", model, lambda: (tmp_path / "late").write_text("somebody was faster") and None)


def test_a_digest_of_nothing_is_no_other_weights(model: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    found = suspicion_of(report(None, "", tmp_path / "empty"))
    assert found.digest == ""

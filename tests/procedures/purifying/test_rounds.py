"""Rounds: when another one follows, what it works on, which one is kept, and what the receipt says of each."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_scans import (
    PATCH,
    SCHEDULER,
    SHAPE,
    Listener,
    confirmation,
    different_shifts,
    dynamic,
    far_field,
    on_black,
    with_verdict,
    write_model,
)
from test_purify import REPAIR, cheapen, once
from test_purify import cheap_features as cheap_features
from test_purify import done as done
from test_purify import model as model
from test_purify import orders as orders
from test_purify import scanned as scanned

from baddiffusion.checkpoint import Checkpoint, SealedCheckpoint
from baddiffusion.defenses import Repaired, ShiftEquivariance, Spent
from baddiffusion.metrics import Estimate
from baddiffusion.models import build, unet_config
from baddiffusion.purifying import (
    Orders,
    Purification,
    Reading,
    Round,
    Suspicion,
    forecast,
    keep_purified,
    purify,
    read_suspicion,
    receipt_schema,
    suspicion_of_scan,
)
from baddiffusion.purifying.orders import repair_for
from baddiffusion.purifying.rounds import Standing, best, has_more
from baddiffusion.report.purify.page import write_receipt_page
from baddiffusion.report.purify.section import purify_section
from baddiffusion.report.purify.words import receipt_text
from baddiffusion.scanner.dynamic import DynamicScan
from schemas import violations

CONFIG = unet_config("micro", SHAPE)
SEALED = SealedCheckpoint(CONFIG, SCHEDULER, build(CONFIG, seed=0).state_dict())
PEAK = "patch of 4 px, value +1, at row 4, column 8"


def estimate(name: str, value: float, **protocol: str) -> Estimate:
    return Estimate(name=name, value=value, low=0.0, high=1.0, n=10, better="lower", unit="share", protocol=protocol)


def a_round(number: int, outcome: str, rate: float, quality: float, finds: bool = True) -> Round:
    """A round of which nothing is known but by what it is judged."""
    known = suspicion_of_scan(dynamic(maps=(far_field(),)), "d")
    found = known if finds else replace(known, findings=())
    told = "the original model's own pictures, from other noises"
    reading = Reading((estimate("asr", rate), estimate("kd_efflite0", quality, reference=told)), {}, 0)
    repaired = Repaired("shift-equivariance", {}, SEALED, Spent(0, 1.0, "cpu", "float32"), 0)
    return Round(number, known, repaired, reading, with_verdict(dynamic(), outcome), found, 1.0)


def test_rounds_are_compared_by_verdict_then_by_what_fires_then_by_quality():
    assert a_round(1, "suspicious", 0.25, 0.5).standing == Standing(1, 0.25, 0.5)
    order = [
        a_round(1, "no evidence", 0.9, 0.9),
        a_round(2, "suspicious", 0.0, 0.4),
        a_round(3, "suspicious", 0.0, 0.5),
        a_round(4, "suspicious", 0.1, 0.1),
        a_round(5, "inconclusive", 0.0, 0.0),
        a_round(6, "backdoored", 0.0, 0.0),
    ]
    for first in range(len(order)):
        assert best(order[first:][::-1]) is order[first]
    twin = a_round(7, "no evidence", 0.9, 0.9)
    assert best([order[0], twin]) is order[0], "of equals the earlier"


def test_without_a_picture_to_look_for_verdict_and_quality_decide():
    nothing = replace(a_round(1, "suspicious", 0.5, 0.5), reading=Reading((), {}, 0))
    assert nothing.standing == Standing(1, 0.0, 0.0)


@pytest.mark.parametrize(
    ("rounds", "most", "follows"),
    [
        ([("suspicious", 0.0, 0.3, True)], 2, True),
        ([("backdoored", 0.0, 0.3, True)], 2, True),
        ([("suspicious", 0.0, 0.3, True)], 1, False),
        ([("no evidence", 0.0, 0.3, False)], 2, False),
        ([("inconclusive", 0.0, 0.3, False)], 2, False),
        ([("suspicious", 0.0, 0.3, True), ("suspicious", 0.0, 0.2, True)], 3, True),
        ([("suspicious", 0.0, 0.3, True), ("suspicious", 0.0, 0.3, True)], 3, False),
        ([("suspicious", 0.0, 0.3, True), ("backdoored", 0.0, 0.1, True)], 3, False),
    ],
)
def test_another_round_follows_what_found_something_and_got_better(
    rounds: list[tuple[str, float, float, bool]], most: int, follows: bool
):
    behind = [a_round(number, *told) for number, told in enumerate(rounds, start=1)]
    assert has_more(behind, most) is follows


def answering(monkeypatch: pytest.MonkeyPatch, *scans: DynamicScan) -> list[int]:
    """Fresh scans that find what is said, in turn; the seeds that they were asked with."""
    left, seeds = list(scans), []

    def examine(model: object, seed: int, *_: object, **__: object) -> DynamicScan:
        seeds.append(seed)
        return replace(left.pop(0), seed=seed)

    monkeypatch.setattr("baddiffusion.purifying.course.examine", examine)
    return seeds


@pytest.fixture(scope="module")
def twice(model: Path, orders: Orders) -> tuple[Purification, list[str], list[int]]:
    """The scan after the first round finds a patch in its map, the one after the second finds nothing."""
    listener = Listener()
    with pytest.MonkeyPatch.context() as patch:
        cheapen(patch)
        seeds = answering(patch, dynamic(maps=(far_field(),)), dynamic())
        return purify(model, orders, device="cpu", watcher=listener), listener.stages, seeds


def test_the_second_round_works_on_what_the_fresh_scan_found(twice: tuple[Purification, list[str], list[int]]):
    receipt, stages, seeds = twice[0].to_dict(), twice[1], twice[2]
    first, second = receipt["rounds"]
    assert first["worked_on"] == receipt["verdict_before"]
    assert second["worked_on"]["outcome"] == "suspicious"
    assert second["worked_on"]["patches"] == [PEAK]
    assert [found["words"] for found in second["worked_on"]["findings"]] == [f"the {PEAK} on black"] * 2
    assert len(set(seeds)) == 2
    assert [each["verdict_after"]["seed"] for each in (first, second)] == seeds
    assert [first["kept"], second["kept"]] == [False, True]
    assert receipt["repaired"] == second["model"] != first["model"] != receipt["digest"]
    assert receipt["verdict_after"] == second["verdict_after"]
    assert receipt["after"] == second["after"]
    assert len(receipt["steps"]) == 2
    again = [stage.removeprefix("round 2: ") for stage in stages if stage.startswith("round 2: ")]
    titles = ("recovered trigger, ancestral, after", "recovered trigger, ode, after", "ordinary pictures, after")
    assert again == ["draw pictures", "make shifts noise", *titles]


def test_every_round_counts_where_others_are_compared(twice: tuple[Purification, list[str], list[int]]):
    done, cost = twice[0], REPAIR.cost(SHAPE)
    ours, tuning, removal = done.compared
    assert ours.network_calls == 2 * cost
    assert ours.words == "in 2 rounds"
    assert ours.seconds == pytest.approx(sum(each.repaired.spent.seconds for each in done.rounds))
    for other in (tuning, removal):
        assert 2 * cost - 10 * REPAIR.batch < other.network_calls <= 2 * cost


def test_two_rounds_cost_what_was_announced(
    twice: tuple[Purification, list[str], list[int]], model: Path, orders: Orders
):
    assert orders.scan is not None
    told = forecast(Checkpoint.open(model).sealed(), orders, read_suspicion(orders.scan))
    scans = sum(each.rescan.spent.network_calls for each in twice[0].rounds)
    assert sum(told.values()) - 2 * orders.settings.budget + scans == twice[0].network_calls
    calls = twice[0].rounds[1].network_calls
    assert calls == {"repair": REPAIR.cost(SHAPE), "measuring": 4 * (3 + 2) + 32, "scan": 700}


def test_the_first_round_is_what_it_is_alone_and_the_same_orders_make_the_same_rounds(
    twice: tuple[Purification, list[str], list[int]], model: Path, orders: Orders, monkeypatch: pytest.MonkeyPatch
):
    plain = replace(orders, compare=False)
    seeds = answering(monkeypatch, dynamic(maps=(far_field(),)))
    alone = purify(model, once(plain), device="cpu")
    assert (len(alone.rounds), alone.outcome) == (1, "still suspicious")
    assert alone.rounds[0].model.digest == twice[0].rounds[0].model.digest
    assert seeds == twice[2][:1]
    answering(monkeypatch, dynamic(maps=(far_field(),)), dynamic())
    again = purify(model, plain, device="cpu")
    assert [each.model.digest for each in again.rounds] == [each.model.digest for each in twice[0].rounds]


def test_a_round_that_makes_it_worse_is_listed_and_dropped(
    model: Path, orders: Orders, monkeypatch: pytest.MonkeyPatch
):
    worse = dynamic(confirmation(different_shifts(), 15))
    answering(monkeypatch, dynamic(maps=(far_field(),)), worse)
    three = orders.settings.model_copy(update={"rounds": 3})
    done = purify(model, replace(orders, settings=three), device="cpu")
    first, second = done.rounds
    assert done.model is first.model
    assert done.rescan is first.rescan
    assert done.steps == (first.repaired,)
    assert done.outcome == "still suspicious"
    assert [each["kept"] for each in done.to_dict()["rounds"]] == [True, False]
    assert second.rescan.verdict.outcome == "backdoored"
    assert done.compared[0].network_calls == 2 * REPAIR.cost(SHAPE), "what was dropped was spent"
    text = receipt_text(done.to_dict())
    assert "round 1, kept: on ordinary pictures of the model itself." in text
    assert f"round 2: on the {PEAK} on black; the {PEAK} on pictures." in text


def test_a_round_is_given_all_that_the_scans_before_it_found(model: Path):
    sealed = Checkpoint.open(model).sealed()
    first = suspicion_of_scan(dynamic(confirmation(different_shifts(), 15)), "d")
    second = suspicion_of_scan(dynamic(maps=(far_field(),)), "d")
    bound = repair_for([first, second], Orders(repair=REPAIR), sealed, sealed)
    assert bound._shifts is not None
    assert len(bound._shifts) == 8 + 2, "every other of sixteen, and the patch for each family of samplers"
    assert bound._target is not None
    assert bound._original is sealed
    (patch,) = bound._patches
    laid = torch.zeros(SHAPE)
    laid[:, 4:8, 8:12] = 1
    assert torch.equal(patch.pattern, laid)
    assert torch.equal(patch.mask, laid > 0)
    assert repair_for([second], Orders(repair=REPAIR), sealed)._patches == (), "patches are for later rounds"


def test_patches_are_those_that_fire_and_the_peaks_of_maps_each_place_once():
    fires = dynamic(confirmation(on_black(), 16, PATCH, "ode"), maps=(far_field(), far_field()))
    assert [str(patch) for patch in suspicion_of_scan(fires, "d").patches] == [str(PATCH), PEAK]
    assert suspicion_of_scan(dynamic(), "d").patches == ()
    black = dynamic(maps=(replace(far_field(), ground="black"),))
    assert suspicion_of_scan(with_verdict(black, "suspicious"), "d").patches == ()
    few = replace(fires, own=torch.zeros(4, *SHAPE))
    found: Suspicion = suspicion_of_scan(few, "d")
    assert [str(patch) for patch in found.patches] == [str(PATCH)], "a map is no evidence where the pictures are few"


def test_the_receipt_keeps_to_the_published_schema(
    twice: tuple[Purification, list[str], list[int]], done: tuple[Purification, list[str]]
):
    stopped = Purification("m", "d" * 64, "nothing to repair", done[0].suspicion, 0, done[0].settings)
    for each in (twice[0], done[0], stopped):
        assert violations(json.loads(json.dumps(each.to_dict(), allow_nan=False)), receipt_schema()) == []


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("outcome",), "clean", "$.outcome: 'clean' is none of"),
        (("schema",), 1, "$.schema: 1 is not 2"),
        (("guilt",), 1, "$: guilt is not in the schema"),
        (("rounds", 0, "round"), 0, "$.rounds[0].round: 0 lies outside [1, None]"),
        (("rounds", 1, "kept"), 1, "$.rounds[1].kept: 1 is no boolean"),
        (("rounds", 1, "network_calls", "scan"), 1.5, "$.rounds[1].network_calls.scan: 1.5 is no integer"),
        (("verdict_before", "findings", 0, "family"), "any", "$.verdict_before.findings[0].family: 'any' is none of"),
    ],
    ids=str,
)
def test_the_schema_refuses(
    twice: tuple[Purification, list[str], list[int]], path: tuple[str | int, ...], value: object, said: str
):
    record = copy.deepcopy(json.loads(json.dumps(twice[0].to_dict())))
    place = record
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    (violation,) = violations(record, receipt_schema())
    assert violation.startswith(said)


def test_the_page_and_the_section_tell_of_every_round(
    twice: tuple[Purification, list[str], list[int]], model: Path, tmp_path: Path
):
    keep_purified(Checkpoint.open(model), twice[0], tmp_path / "out")
    page = write_receipt_page(tmp_path / "out").read_text()
    for part in ("Round by round", "2, kept", f"the {PEAK} on pictures", "A fresh scan after round 1: suspicious"):
        assert part in page
    receipt = {**twice[0].to_dict(), "named": "m", "card": None}
    text = purify_section({"device": "cpu", "threads": 1, "torch": "2", "receipts": [receipt]})
    assert "| `shift-equivariance-short` in 2 rounds | " in text
    assert f"* Round 2, kept: on the {PEAK} on black; the {PEAK} on pictures." in text
    earlier = {key: value for key, value in receipt.items() if key != "rounds"}
    assert "Round" not in purify_section({"device": "cpu", "threads": 1, "torch": "2", "receipts": [earlier]})


def test_a_later_round_keeps_what_the_model_answered_at_first(model: Path, tmp_path: Path):
    original = Checkpoint.open(model).sealed()
    drifted = write_model(tmp_path / "drifted", seed=1).sealed()
    method = ShiftEquivariance(steps=1, batch=2, pictures=2, picture_steps=2)
    assert method.repair(drifted, device="cpu").curves["keep"] == (0.0,)
    again = method.with_original(original).repair(drifted, device="cpu")
    assert again.curves["keep"][0] > 0.01
    assert again.spent.network_calls == method.cost(SHAPE)

"""The pieces of a scan, on data made to be asymmetric."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from analytic import SHAPE, Analytic, hat, pictures
from scipy.stats import fisher_exact

from baddiffusion.attacks import BadDiffusion
from baddiffusion.attacks.sampler_matched import SamplerMatched
from baddiffusion.scanner.collapse import distances, distinct, explained, follows, is_own, largest_cluster, unevenness
from baddiffusion.scanner.confirming import Arm, Confirmation, confirm
from baddiffusion.scanner.far_field import FarField, Ground, far_field, judged, peaks, positions
from baddiffusion.scanner.patches import places
from baddiffusion.scanner.searching import Candidate, Probe, candidate_of
from baddiffusion.scanner.settings import ScanSettings
from baddiffusion.scanner.shifts import FIELDS, OWN, Patch, ShiftGroup, fields, rows, stress_bank
from baddiffusion.scanner.verdict import judge, shortfall
from baddiffusion.triggers import Trigger

SETTINGS = ScanSettings()
BOX = Trigger.make({"name": "box", "side_px": 6}, SHAPE)


def test_distances_are_mse_on_the_unit_range_after_clamping() -> None:
    a, b = torch.full((1, *SHAPE), -3.0), torch.zeros(2, *SHAPE)
    b[1, 0, :8] = 1
    assert distances(a, b)[0].tolist() == pytest.approx([0.25, 0.625])


def test_an_even_color_explains_itself_and_a_followed_shift_is_no_evidence() -> None:
    shifts = torch.stack([hat(), -hat()])
    assert explained(torch.full(SHAPE, -0.7), shifts).tolist() == [True, True]
    assert explained(hat() + 0.05, shifts).tolist() == [True, False]
    assert unevenness(hat()) > 0.02


def test_a_picture_most_like_the_shift_follows_it() -> None:
    own = pictures()
    assert follows(own[2], own[2] * 0.8, own)
    assert not follows(hat(), own[2] * 0.8, own)


def test_distinct_counts_near_copies_once() -> None:
    own = pictures(4)
    assert distinct(torch.cat([own, own + 0.01])) == 4


def test_the_largest_cluster_does_not_depend_on_the_order() -> None:
    images = torch.cat([hat() + 0.02 * torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(0)), pictures(4)])
    first, turned = largest_cluster(images), largest_cluster(images.flip(0))
    assert torch.equal(first.picture, turned.picture)
    assert first.members.sum() == 5


def test_a_moved_patch_has_the_same_norm_and_lies_elsewhere() -> None:
    canvas = torch.full((1, *SHAPE), -1.0)
    for patch in (Patch(10, 9, 6, 1.0), Patch(5, 5, 6, 0.0)):
        moved = patch.moved(16, 16)
        assert patch.on(canvas).norm() == moved.on(canvas).norm()
        assert max(abs(moved.row - patch.row), abs(moved.column - patch.column)) >= 3


def test_shifts_go_to_their_noises_chunk_by_chunk() -> None:
    shifts = torch.arange(5.0).view(5, 1, 1, 1).expand(5, *SHAPE)
    give = rows(shifts)
    parts = [give(torch.zeros(n, *SHAPE)) for n in (2, 2, 1)]
    assert torch.equal(torch.cat(parts), shifts)


def test_the_bank_is_a_function_of_seed_and_pictures() -> None:
    own = pictures()
    first, again, other = stress_bank(own, 0), stress_bank(own, 0), stress_bank(own, 1)
    assert [g.name for g in first] == [OWN, FIELDS, *(f"an even canvas of {value}" for value in ("−1", "−0.5", "+0.5"))]
    assert all(torch.equal(a.shifts, b.shifts) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[1].shifts, other[1].shifts)
    assert float(fields(4, SHAPE, 0).abs().max()) <= 1


def test_the_far_field_of_a_backdoored_network_peaks_at_its_patch() -> None:
    subject = Analytic(BadDiffusion(), 0.1, BOX)
    base = pictures().flip(3)  # none of the network's own: a network that knows few pictures decides globally anyway
    field = far_field(subject, base, 300, positions(SHAPE, 6, 0.0, 2), seed=0)
    assert len(field.response) == 36
    rows_, columns = (BOX.mask[0].any(dim=axis).nonzero().flatten() for axis in (1, 0))
    assert abs(field.peak.row - int(rows_[0])) <= 2
    assert abs(field.peak.column - int(columns[0])) <= 2


def test_peaks_are_taken_over_all_maps_and_not_twice_from_one_place() -> None:
    flat = {Patch(r, c, 4, 0.0): 1.0 + 0.01 * (r + c) for r in range(0, 12, 2) for c in range(0, 12, 2)}
    field = FarField(300, {**flat, Patch(4, 4, 4, 0.0): 9.0, Patch(4, 6, 4, 0.0): 8.0, Patch(10, 10, 4, 0.0): 5.0})
    assert peaks([field], 2) == [Patch(4, 4, 4, 0.0), Patch(10, 10, 4, 0.0)]
    assert field.peak == Patch(4, 4, 4, 0.0)
    assert field.ratio > 8


def test_a_group_of_one_shift_cannot_lead_a_candidate() -> None:
    own = pictures()
    constant = Probe(ShiftGroup("an even canvas of −1", torch.full_like(own, -1)), "ode", hat().expand_as(own))
    following = Probe(ShiftGroup(OWN, own), "ode", own)
    assert candidate_of([constant, following], SETTINGS) is None
    collapsed = Probe(ShiftGroup(OWN, own), "ode", hat().expand_as(own))
    found = candidate_of([constant, collapsed], SETTINGS)
    assert found is not None
    assert (found.group, found.share) == (OWN, 1.0)


def test_the_confirmation_counts_and_its_p_value_is_fishers() -> None:
    subject = Analytic(BadDiffusion(), 0.1, BOX)
    shifts = BOX.stamp(pictures())
    candidate = Candidate("ancestral", hat(), OWN, 1.0)
    done = confirm(subject, candidate, shifts, pictures(), list(range(6)), SETTINGS)
    n, k, k_0 = 6, int(done.shifted.hits.sum()), int(done.controls[0].hits.sum())
    assert k >= 4
    assert done.p_value == pytest.approx(fisher_exact([[k, n - k], [k_0, n - k_0]], alternative="greater")[1])
    assert [arm.name for arm in done.arms] == ["shifted", "no shift", "the shift turned over"]


def made_up(
    hit: int, quiet: int, moved: int = 0, *, n: int = 16, follow: bool = False, unexplained: float = 1.0
) -> Confirmation:
    """A confirmation with so many hits."""

    def arm(name: str, count: int) -> Arm:
        return Arm(name, torch.zeros(n, *SHAPE), torch.zeros(n, *SHAPE), torch.arange(n) < count)

    candidate = Candidate("ode", hat(), "a patch", 1.0, Patch(0, 0, 4, 0.0))
    p_value = float(fisher_exact([[hit, n - hit], [quiet, n - quiet]], alternative="greater")[1])
    arms = (arm("shifted", hit), arm("no shift", quiet), arm("the patch moved", moved))
    return Confirmation(candidate, arms, tuple(range(n)), unexplained, follow, p_value)


@pytest.mark.parametrize(
    ("confirmations", "outcome"),
    [
        ([made_up(15, 0)], "backdoored"),
        ([made_up(15, 3)], "suspicious"),
        ([made_up(15, 0, moved=12)], "suspicious"),
        ([made_up(6, 0)], "suspicious"),
        ([made_up(2, 0)], "no evidence"),
        ([made_up(15, 0, follow=True)], "no evidence"),
        ([], "no evidence"),
    ],
)
def test_the_verdict_weighs_hits_against_controls(confirmations: list[Confirmation], outcome: str) -> None:
    verdict = judge(confirmations, (), SETTINGS)
    assert verdict.outcome == outcome
    assert "clean" not in " ".join((*verdict.reasons, verdict.outcome))


@pytest.mark.parametrize(
    ("confirmation", "word"),
    [
        (made_up(16, 0), None),
        (made_up(16, 0, moved=2), None),
        (made_up(0, 0), "absent"),
        (made_up(16, 0, unexplained=0.4), "explained"),
        (made_up(16, 0, follow=True), "follows"),
        (made_up(16, 2), "uncaused"),
        (made_up(16, 0, moved=8), "uncaused"),
        (made_up(7, 0), "rare"),
    ],
)
def test_why_a_confirmation_proves_nothing(confirmation: Confirmation, word: str | None) -> None:
    assert shortfall(confirmation, confirmation.p_value, SETTINGS) == word


def test_a_short_schedule_is_sampled_in_all_its_steps_and_no_more() -> None:
    within = SETTINGS.within(30)
    assert (within.steps("ancestral"), within.steps("ode")) == (30, SETTINGS.steps("ode"))
    assert SETTINGS.within(1000) == SETTINGS


def test_every_further_candidate_makes_the_p_value_larger() -> None:
    one = judge([made_up(12, 0)], (), SETTINGS).p_value
    many = judge([made_up(12, 0), *[made_up(0, 0)] * 4], (), SETTINGS).p_value
    assert one is not None
    assert many == pytest.approx(5 * one)


def test_an_odd_far_field_alone_is_suspicious_and_no_more() -> None:
    flat = {Patch(r, c, 4, 0.0): 1.0 + 0.01 * (r + c) for r in range(0, 12, 2) for c in range(0, 12, 2)}
    verdict = judge([], [FarField(300, {**flat, Patch(4, 4, 4, 0.0): 9.0})], SETTINGS)
    assert verdict.outcome == "suspicious"
    assert "far-field response at t = 300" in verdict.reasons[0]


def test_a_trigger_that_was_trained_alone_shows_on_black_at_its_place() -> None:
    network = Analytic(SamplerMatched(sampler="ode", trigger_only=True), 0.1, BOX)
    black = torch.full((8, *SHAPE), -1.0)
    field = far_field(network, black, 300, positions(SHAPE, 6, 0.0, 2), seed=0, ground="black")
    assert field.ground == "black"
    assert (field.peak.row, field.peak.column) == tuple(int(BOX.mask[0].any(dim=a).nonzero()[0]) for a in (1, 0))


def test_the_peaks_of_all_grounds_and_sizes_take_turns() -> None:
    def field(ground: Ground, side: int, row: int) -> FarField:
        flat = {Patch(r, c, side, 0.0): 1.0 + 0.01 * (r + c) for r in range(0, 9, 4) for c in range(0, 9, 4)}
        return FarField(300, {**flat, Patch(row, 0, side, 0.0): 9.0}, ground)

    maps = [field("black", 4, 8), field("black", 7, 4), field("pictures", 4, 0), field("pictures", 4, 0)]
    assert [(p.row, p.side_px) for p in places(maps, 3)] == [(8, 4), (4, 7), (0, 4)]
    assert len(places(maps, 30)) == 18  # no place twice


def test_maps_on_black_and_maps_of_few_pictures_are_no_evidence() -> None:
    field = FarField(300, {Patch(0, 0, 4, 0.0): 1.0}, "pictures")
    black = FarField(300, {Patch(0, 0, 4, 0.0): 1.0}, "black")
    assert judged([field, black], pictures()) == [field]
    assert judged([field, black], pictures()[:1].expand(6, *SHAPE)) == []


def test_a_picture_that_comes_up_often_is_the_models_own_and_a_leak_is_none() -> None:
    assert is_own(pictures()[0], pictures(), 0.1)
    assert not is_own(pictures()[0], pictures(), 0.2)
    assert not is_own(hat(), pictures(), 0.1)


def test_a_shift_found_by_gradients_is_held_against_itself_moved() -> None:
    shift = torch.full(SHAPE, -1.0)
    shift[:, :4, :4] = 1.0
    candidate = Candidate("ode", hat(), "found", 1.0, shift=shift)
    done = confirm(Analytic(), candidate, shift.expand(4, *SHAPE), pictures(), range(4), SETTINGS)
    control = done.controls[1]
    assert control.name == "the shift moved"
    assert torch.equal(control.shifts[0], shift.roll((8, 8), dims=(-2, -1)))
    even = Candidate("ode", hat(), "found", 1.0, shift=torch.full(SHAPE, 0.7))
    turned = confirm(Analytic(), even, torch.full((4, *SHAPE), 0.7), pictures(), range(4), SETTINGS).controls[1]
    assert (turned.name, float(turned.shifts.max())) == ("the shift turned over", pytest.approx(-0.7))


@pytest.mark.parametrize(("generic", "word"), [(0, None), (5, None), (8, "generic"), (16, "generic")])
def test_a_collapse_under_the_control_of_equal_norm_counts_against_a_gradients_shift(
    generic: int, word: str | None
) -> None:
    done = made_up(16, 0)
    shifted = replace(done.candidate, patch=None, shift=hat())
    assert shortfall(replace(done, candidate=shifted, generic=generic), done.p_value, SETTINGS) == word
    assert shortfall(replace(done, generic=generic), done.p_value, SETTINGS) is None  # of a patch it does not count

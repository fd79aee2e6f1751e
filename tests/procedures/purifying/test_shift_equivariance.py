"""The data-free repair: its loss is the equation, a network that takes shifts for noise has nothing to learn."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
import torch
from made_scans import SCHEDULER, SHAPE, Listener, target

from baddiffusion.checkpoint import SealedCheckpoint
from baddiffusion.defenses import REPAIRS, ShiftEquivariance, Subject
from baddiffusion.defenses.shift_bank import image_like_shifts, moved, stamps
from baddiffusion.defenses.shift_losses import keeping, spreading, turning
from baddiffusion.errors import RecipeError
from baddiffusion.models import build, unet_config
from baddiffusion.triggers import Trigger
from baddiffusion.watching import Nobody

CONFIG = unet_config("micro", SHAPE)
MODEL = SealedCheckpoint(CONFIG, SCHEDULER, build(CONFIG, seed=1).state_dict())
X_0 = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(4)) * 2 - 1
EPS = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(5))
TAU = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(6)) * 2 - 1
T = torch.tensor([3, 12, 19])
BOX = Trigger("box", torch.full(SHAPE, 0.5), torch.zeros(1, 16, 16, dtype=torch.bool))
BOX.mask[:, 2:5, 4:10] = True
SHORT = {"steps": 2, "batch": 3, "pictures": 4, "picture_steps": 2}


def typed(prediction_type: str) -> SealedCheckpoint:
    return SealedCheckpoint(CONFIG, {**SCHEDULER, "prediction_type": prediction_type}, MODEL.weights)


class Perfect(torch.nn.Module):
    """The network that knows that every picture is X_0, whatever the noise: it takes any shift for noise.

    An answer in each unit, all of them about the same eps = (x − signal·X_0)/noise.
    """

    def __init__(self, model: SealedCheckpoint) -> None:
        super().__init__()
        self.kind, self.schedule = model.prediction_type, model.schedule
        self.off = torch.nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, x_t: torch.Tensor, t: torch.Tensor, return_dict: bool = True) -> tuple[torch.Tensor]:
        signal, noise = (v[t].float().view(-1, 1, 1, 1) for v in (self.schedule.signal, self.schedule.noise))
        eps = (x_t - signal * X_0) / noise
        answers = {"epsilon": eps, "sample": X_0.expand_as(x_t), "v_prediction": signal * eps - noise * X_0}
        return (answers[self.kind] + self.off,)


def perfect(model: SealedCheckpoint) -> Subject:
    subject = Subject(model, "cpu", "float32")
    subject.network = Perfect(model)  # type: ignore[assignment]
    return subject


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("shape", ["noise", "signal"])
def test_a_network_that_takes_shifts_for_noise_has_nothing_to_learn(kind: str, shape: str):
    subject = perfect(typed(kind))
    signal, noise = (v[T].float().view(-1, 1, 1, 1) for v in (subject.schedule.signal, subject.schedule.noise))
    shift = noise if shape == "noise" else 1 - signal
    turn = turning(subject, perfect(typed(kind)), X_0, T, EPS, shift, TAU)
    assert float(turn) < 1e-11
    assert float(keeping(subject, perfect(typed(kind)), X_0, T, EPS)) == 0.0


def test_a_network_that_swallows_the_shift_is_told_by_how_much():
    # It answers as if the shift were not there: off by c_t/noise·τ, no more and no less.
    subject, frozen = perfect(MODEL), perfect(MODEL)
    noise = subject.schedule.noise[T].float().view(-1, 1, 1, 1)
    shift = 0.5 * noise
    network = subject.network
    subject.network = lambda x, t, return_dict: network(x - shift * TAU, t)  # type: ignore[assignment]
    turn = turning(subject, frozen, X_0, T, EPS, shift, TAU)
    assert float(turn) == pytest.approx(float((0.5 * TAU).square().mean()), rel=1e-5)


def test_keeping_measures_how_far_the_answer_has_moved():
    subject, frozen = perfect(MODEL), perfect(MODEL)
    with torch.no_grad():
        subject.network.off.fill_(0.25)  # type: ignore[union-attr, operator]
    even = float(keeping(subject, frozen, X_0, T, EPS))
    assert even == pytest.approx(0.0625 * (1 + 4**2), rel=1e-5), "the same all over: it counts 4×4 times once more"
    rows = torch.tensor([0.25, -0.25]).repeat(8).view(1, 1, 16, 1)
    subject.network.off = torch.nn.Parameter(rows, requires_grad=False)  # type: ignore[union-attr]
    assert float(keeping(subject, frozen, X_0, T, EPS)) == pytest.approx(0.0625, rel=1e-5), "it cancels in every cell"


class Swallowing(torch.nn.Module):
    """A network of two weights: eps = copied·x + swallowed·(the part of x along a ramp)."""

    RAMP = torch.linspace(-1, 0.5, 256).view(SHAPE)

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.copied, self.swallowed = (torch.nn.Parameter(weights[name].clone()) for name in ("copied", "swallowed"))

    def forward(self, x_t: torch.Tensor, t: torch.Tensor, return_dict: bool = True) -> tuple[torch.Tensor]:
        along = (x_t * self.RAMP).sum(dim=(1, 2, 3), keepdim=True) / self.RAMP.square().sum() * self.RAMP
        return (self.copied * x_t + self.swallowed * along,)


def test_a_network_that_swallows_half_of_a_shift_learns_to_pass_it_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(SealedCheckpoint, "load_model", lambda self, device="cpu": Swallowing(self.weights))
    monkeypatch.setattr(ShiftEquivariance, "_own", lambda self, *_: X_0)
    schedule = {"num_train_timesteps": 100, "beta_schedule": "linear", "beta_start": 0.001, "beta_end": 0.2}
    weights = {"copied": torch.tensor(1.0), "swallowed": torch.tensor(-0.5)}
    model = SealedCheckpoint(CONFIG, schedule, weights)
    method = ShiftEquivariance(steps=120, batch=16, learning_rate=0.02, weight=50.0, noisiest=1.0).with_shifts(
        Swallowing.RAMP[None]
    )
    repaired = method.repair(model, device="cpu")
    assert float(repaired.model.weights["swallowed"]) == pytest.approx(0.0, abs=0.03)
    assert float(repaired.model.weights["copied"]) == pytest.approx(1.0, abs=0.03)
    assert repaired.curves["keep"][0] == 0.0
    assert repaired.curves["turn"][0] > 10 * repaired.curves["turn"][-1]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_network_that_keeps_a_patch_to_itself_has_nothing_to_learn(kind: str):
    subject, frozen = perfect(typed(kind)), perfect(typed(kind))
    base = subject.schedule.signal[T].float().view(-1, 1, 1, 1)
    stamp = BOX.stamp(X_0) - X_0
    assert float(spreading(subject, frozen, X_0, T, EPS, base, stamp)) < 1e-11


def test_what_a_patch_changes_elsewhere_counts_and_what_it_changes_nearby_does_not():
    subject, frozen = perfect(MODEL), perfect(MODEL)
    base = torch.ones(3, 1, 1, 1)
    stamp = BOX.stamp(X_0) - X_0
    network, far = subject.network, torch.ones(1, 1, 16, 16)
    far[..., : 5 + 3, 1 : 10 + 3] = 0  # the box and three pixels around it
    told = 0.5 * far + 9.0 * (1 - far)
    subject.network = lambda x, t, return_dict: (network(x, t)[0] + told,)  # type: ignore[assignment, operator]
    moved = 0.5 * far
    expected = moved.square().mean() + 16 * torch.nn.functional.avg_pool2d(moved, 4).square().mean()
    assert float(spreading(subject, frozen, X_0, T, EPS, base, stamp)) == pytest.approx(float(expected), rel=1e-5)


class Telling(torch.nn.Module):
    """A network of two weights: eps = copied·x, plus spread everywhere where the box is laid on black."""

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.copied, self.spread = (torch.nn.Parameter(weights[name].clone()) for name in ("copied", "spread"))

    def forward(self, x_t: torch.Tensor, t: torch.Tensor, return_dict: bool = True) -> tuple[torch.Tensor]:
        seen = x_t[:, :, 2:5, 4:10].mean(dim=(1, 2, 3), keepdim=True) > 0
        return (self.copied * x_t + self.spread * seen,)


def test_a_network_that_decides_by_a_patch_unlearns_it_where_it_is_told_of_the_patch(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(SealedCheckpoint, "load_model", lambda self, device="cpu": Telling(self.weights))
    monkeypatch.setattr(ShiftEquivariance, "_own", lambda self, *_: torch.full((3, *SHAPE), -1.0))
    schedule = {"num_train_timesteps": 100, "beta_schedule": "linear", "beta_start": 0.001, "beta_end": 0.2}
    weights = {"copied": torch.tensor(1.0), "spread": torch.tensor(0.5)}
    model = SealedCheckpoint(CONFIG, schedule, weights)
    method = ShiftEquivariance(steps=60, batch=16, learning_rate=0.02, weight=1e-6, far_weight=50.0)
    repaired = method.with_patches([BOX]).repair(model, device="cpu")
    assert float(repaired.model.weights["spread"]) == pytest.approx(0.0, abs=0.1)
    assert float(repaired.model.weights["copied"]) == pytest.approx(1.0, abs=0.03)


def test_a_patch_is_laid_on_the_picture_itself_and_changes_nothing_else():
    stream = torch.Generator().manual_seed(0)
    for stamp in stamps(X_0.repeat(20, 1, 1, 1), (BOX,), stream):
        rows, columns = ((stamp != 0).any(dim=0).any(dim=axis).nonzero().flatten() for axis in (1, 0))
        assert (len(rows), len(columns)) == (3, 6)
        assert abs(int(rows[0]) - 2) <= 2
        assert abs(int(columns[0]) - 4) <= 2


def test_a_patch_is_moved_as_far_as_it_stays_whole():
    stream = torch.Generator().manual_seed(0)
    corner = Trigger("corner", torch.full(SHAPE, 0.9), torch.zeros(1, 16, 16, dtype=torch.bool))
    corner.mask[:, 13:, 13:] = True
    places, values = set(), []
    for _ in range(60):
        patch = moved(corner, stream)
        assert int(patch.mask.sum()) == 9
        places.add(tuple(patch.mask[0].nonzero()[0].tolist()))
        values.append(float(patch.pattern[0, -1, -1]))
    assert places == {(row, column) for row in (11, 12, 13) for column in (11, 12, 13)}
    assert 0.65 <= min(values) < 0.75
    assert max(values) == 1.0


def test_of_every_four_inputs_one_has_a_patch_and_a_single_one_has_a_shift():
    sizes = (1, 2, 3, 4, 16)
    assert [ShiftEquivariance(batch=batch).with_patches([BOX])._stamped for batch in sizes] == [0, 1, 1, 1, 4]
    alone = ShiftEquivariance(steps=1, batch=1, pictures=2, picture_steps=2).with_patches([BOX])
    assert alone.repair(MODEL, device="cpu").curves["far"] == (0.0,)


def test_without_a_patch_all_inputs_have_shifts():
    assert ShiftEquivariance()._stamped == 0
    assert ShiftEquivariance(**SHORT).repair(MODEL, device="cpu").curves["far"] == (0.0, 0.0)  # type: ignore[arg-type]


def test_patches_are_named_and_change_the_outcome():
    plain = ShiftEquivariance(**SHORT)  # type: ignore[arg-type]
    ours, theirs = (method.repair(MODEL, device="cpu") for method in (plain.with_patches([BOX]), plain))
    assert ours.model.digest != theirs.model.digest
    assert "patches on pictures: box;" in ours.notes[0]
    assert "patches on pictures: none;" in theirs.notes[0]


def test_recovered_shifts_are_every_other_one_and_change_the_outcome():
    tau = torch.full((2, *SHAPE), 7.0)
    own = torch.zeros(1, *SHAPE)
    drawn = ShiftEquivariance(batch=64).with_shifts(tau)._tau(own, torch.Generator().manual_seed(0))
    size = drawn.abs().amax(dim=(1, 2, 3))
    assert bool((size[::2] >= 3.5).all())
    assert bool((size[::2] <= 7 * 1.25).all())
    assert bool((size[1::2] <= 1.25).all())
    bound = ShiftEquivariance(**SHORT).with_shifts(target()[None])  # type: ignore[arg-type]
    free = ShiftEquivariance(**SHORT)  # type: ignore[arg-type]
    ours, theirs = (method.repair(MODEL, device="cpu") for method in (bound, free))
    assert ours.model.digest != theirs.model.digest
    assert ours.notes[0].startswith("1 recovered shifts given")
    assert theirs.notes[0].startswith("none recovered shifts given")


def test_half_of_the_timesteps_lie_in_the_noisiest_tenth_and_none_below_the_first():
    subject = Subject(MODEL, "cpu", "float32")
    t = ShiftEquivariance(batch=4000)._times(subject, 10, torch.Generator().manual_seed(0))
    assert (int(t.min()), int(t.max())) == (10, 19)
    assert float((t >= 18).float().mean()) == pytest.approx(0.5 + 0.5 * 2 / 10, abs=0.03)


def test_near_identical_pictures_count_once_and_the_target_not_at_all(monkeypatch: pytest.MonkeyPatch):
    drawn = torch.stack([target(), target() + 0.01, X_0[0], X_0[0], X_0[1]])

    class Samples:
        images = drawn

    monkeypatch.setattr(Subject, "sample", lambda *_, **__: Samples)
    subject = Subject(MODEL, "cpu", "float32")
    kept = ShiftEquivariance()._own(subject, 0, Nobody())
    assert torch.equal(kept, torch.stack([drawn[0], X_0[0], X_0[1]]))
    knowing = ShiftEquivariance().with_shifts(TAU, target())
    assert torch.equal(knowing._own(subject, 0, Nobody()), X_0[:2])
    Samples.images = drawn[:2]
    assert len(knowing._own(subject, 0, Nobody())) == 2, "something must be left to learn from"


def test_the_watcher_is_told():
    listener = Listener()
    ShiftEquivariance(**SHORT).repair(MODEL, device="cpu", watcher=listener)  # type: ignore[arg-type]
    assert listener.stages == ["draw pictures", "make shifts noise"]


def test_shifts_are_no_part_of_the_settings():
    bound = ShiftEquivariance(**SHORT).with_shifts(TAU)  # type: ignore[arg-type]
    assert REPAIRS.parse(bound.to_dict()) == ShiftEquivariance(**SHORT)  # type: ignore[arg-type]


@pytest.mark.parametrize("shifts", [torch.zeros(0, *SHAPE), torch.full((1, *SHAPE), torch.nan)])
def test_no_shift_and_one_that_is_not_finite_are_refused(shifts: torch.Tensor):
    with pytest.raises(RecipeError, match="the recovered shifts are none, or not finite; give what a scan found"):
        ShiftEquivariance().with_shifts(shifts)


def test_shifts_of_another_shape_are_refused():
    said = "the recovered shifts are (1, 8, 8) (channels, height, width); the model paints (1, 16, 16)."
    with pytest.raises(RecipeError, match=re.escape(said)):
        ShiftEquivariance().with_shifts(torch.zeros(1, 1, 8, 8)).repair(MODEL, device="cpu")


def test_shifts_look_like_pictures_of_four_kinds():
    own = torch.stack([torch.full((2, 12, 16), value) for value in (-0.9, 0.1)])
    shifts = image_like_shifts(own, 400, torch.Generator().manual_seed(0))
    assert tuple(shifts.shape) == (400, 2, 12, 16)
    assert float(shifts.abs().max()) <= 1.0
    distinct = torch.tensor([len(shift.unique()) for shift in shifts])
    assert int((distinct > 20).sum()) == 100, "smooth fields"
    patched = shifts[(distinct > 1) & (distinct <= 4)]
    assert 100 <= len(patched) <= 160, "canvases with a patch, and half of the pictures"
    for shift in patched[:40]:
        patch = (shift[0] != shift[0].mode().values.mode().values) if len(shift[0].unique()) == 2 else None
        if patch is not None:
            rows, columns = patch.any(dim=1).sum(), patch.any(dim=0).sum()
            assert int(patch.sum()) == int(rows * columns), "a rectangle"
    again = image_like_shifts(own, 400, torch.Generator().manual_seed(0))
    assert torch.equal(shifts, again)

"""The data-free repair: its loss is the equation, a network that takes shifts for noise has nothing to learn."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
import torch
from made_scans import SCHEDULER, SHAPE, Listener, target

from baddiffusion.checkpoint import SealedCheckpoint
from baddiffusion.defenses import REPAIRS, ShiftEquivariance, Subject
from baddiffusion.defenses.shift_bank import image_like_shifts
from baddiffusion.defenses.shift_equivariance import keeping, turning
from baddiffusion.errors import RecipeError
from baddiffusion.models import build, unet_config
from baddiffusion.watching import Nobody

CONFIG = unet_config("micro", SHAPE)
MODEL = SealedCheckpoint(CONFIG, SCHEDULER, build(CONFIG, seed=1).state_dict())
X_0 = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(4)) * 2 - 1
EPS = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(5))
TAU = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(6)) * 2 - 1
T = torch.tensor([3, 12, 19])
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

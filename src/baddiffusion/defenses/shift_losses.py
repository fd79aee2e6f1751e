"""What the shift-equivariant repair asks of a network: to keep its answers, to take shifts for noise, to stay local."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from baddiffusion.defenses.subject import Subject
from baddiffusion.images import Images
from baddiffusion.precision import autocast

__all__ = ["at", "faint", "keeping", "noisy", "spreading", "turning"]

CELLS, FAINT, MARGIN_PX = 4, 0.1, 3


def keeping(subject: Subject, frozen: Subject, x_0: Images, t: Int64[Tensor, " b"], eps: Images) -> Float[Tensor, ""]:
    """How far the answers have moved on ordinary inputs, see `ShiftEquivariance`.

    Args:
        subject: whose network learns.
        frozen: the original.
        x_0: pictures.
        t: a timestep for each.
        eps: noise for each.
    """
    signal, noise = at(subject, t)
    x_t = signal * x_0 + noise * eps
    with torch.no_grad():
        wanted = _answer(frozen, x_t, t)
    return _unevenly(_answer(subject, x_t, t) - wanted)


def turning(
    subject: Subject,
    frozen: Subject,
    x_0: Images,
    t: Int64[Tensor, " b"],
    eps: Images,
    shift: Float[Tensor, "b 1 1 1"],
    tau: Images,
) -> Float[Tensor, ""]:
    """How far the answers to shifted inputs are from the frozen answers without the shift, with it on top.

    Args:
        subject, frozen, x_0, t, eps: as for `keeping`.
        shift: c_t, for each.
        tau: τ, for each.
    """
    signal, noise = at(subject, t)
    x_t = signal * x_0 + noise * eps
    share = {"epsilon": shift / noise, "v_prediction": signal * shift / noise, "sample": torch.zeros_like(shift)}
    with torch.no_grad():
        wanted = _answer(frozen, x_t, t)
    on_top = (share[subject.prediction_type] * tau).to(subject.device)
    return (_answer(subject, x_t + shift * tau, t) - wanted - on_top).square().mean()


def spreading(
    subject: Subject,
    frozen: Subject,
    x_0: Images,
    t: Int64[Tensor, " b"],
    eps: Images,
    base: Float[Tensor, "b 1 1 1"],
    stamp: Images,
) -> Float[Tensor, ""]:
    """How far the answers away from a patch are from the frozen answers without the patch.

    Args:
        subject, frozen, x_0, t, eps: as for `keeping`.
        base: how strong the picture is, for each.
        stamp: what the patch changes of it, zero elsewhere.
    """
    _, noise = at(subject, t)
    x_t = base * x_0 + noise * eps
    with torch.no_grad():
        wanted = _answer(frozen, x_t, t)
    near = (stamp != 0).any(dim=1, keepdim=True).float()
    far = 1 - torch.nn.functional.max_pool2d(near, 2 * MARGIN_PX + 1, stride=1, padding=MARGIN_PX)
    return _unevenly((_answer(subject, x_t + base * stamp, t) - wanted) * far.to(subject.device))


def _unevenly(moved: Images) -> Float[Tensor, ""]:
    """The mean square, and again that of the means over cells, as many times as a cell is wide, squared."""
    cell = max(min(moved.shape[2:]) // CELLS, 1)
    coarse = torch.nn.functional.avg_pool2d(moved, cell, ceil_mode=True)
    return moved.square().mean() + cell**2 * coarse.square().mean()


def noisy(subject: Subject) -> int:
    """The first timestep with more noise than picture."""
    return min(int((subject.schedule.signal >= subject.schedule.noise).sum()), subject.timesteps - 1)


def faint(subject: Subject) -> int:
    """The first timestep at which next to nothing of a picture is left; later than `noisy`."""
    return max(int((subject.schedule.signal >= FAINT).sum()), noisy(subject) + 1)


def at(subject: Subject, t: Int64[Tensor, " b"]) -> tuple[Float[Tensor, "b 1 1 1"], Float[Tensor, "b 1 1 1"]]:
    """√ᾱ_t and √(1 − ᾱ_t)."""
    signal, noise = (v[t].float().view(-1, 1, 1, 1) for v in (subject.schedule.signal, subject.schedule.noise))
    return signal, noise


def _answer(subject: Subject, x_t: Images, t: Int64[Tensor, " b"]) -> Images:
    """What the network says in its own units; counted as `Subject.eps` counts."""
    with autocast(subject.precision, subject.device):
        answer = subject.network(x_t.to(subject.device), t.to(subject.device), return_dict=False)[0].float()
    subject.count(len(x_t) * (3 if answer.requires_grad else 1))
    return answer

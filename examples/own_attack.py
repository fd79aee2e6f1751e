"""An attack of your own in twenty lines: half of the paper's shift, with the residual that belongs to it."""

from __future__ import annotations

import torch

import baddiffusion as bd
from baddiffusion.attacks import ATTACKS, Attack
from baddiffusion.diffusion import ForwardTable, NoiseSchedule, ancestral_residual
from baddiffusion.images import Images
from baddiffusion.triggers import Trigger


@ATTACKS.register("half-shift")
class HalfShift(Attack):
    """BadDiffusion with r halved: the same chain in other units, so the residual halves too."""

    def forward_table(self, schedule: NoiseSchedule) -> ForwardTable:
        """Half of the shift, half of the residual."""
        shift, residual = (1 - schedule.signal) / 2, ancestral_residual(schedule) / 2
        return ForwardTable(schedule.signal, schedule.noise, shift, residual)

    def source(self, x: Images, trigger: Trigger) -> Images:
        """The trigger stamped on the image."""
        return trigger.stamp(x)

    def initial_noise(self, eps: Images, trigger: Trigger) -> Images:
        """Half of the offset: where the chain ends."""
        return eps + trigger.offset / 2


def main() -> None:
    """Check it against the paper's attack."""
    schedule = bd.NoiseSchedule.linear()
    paper, half = bd.BadDiffusion().forward_table(schedule), HalfShift().forward_table(schedule)
    x, r, eps = torch.zeros(2, 1, 8, 8), torch.ones(2, 1, 8, 8), torch.randn(2, 1, 8, 8)
    t = torch.tensor([10, 900])
    assert torch.allclose(half.q_sample(x, r, t, eps), paper.q_sample(x, r / 2, t, eps))
    assert torch.allclose(half.target(r, t, eps), paper.target(r / 2, t, eps))
    print('half-shift is the paper\'s attack with r / 2; recipes may now say attack = "half-shift"')


if __name__ == "__main__":
    main()

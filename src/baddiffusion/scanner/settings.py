"""How much a scan does, and what its verdict demands; every threshold stands here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from baddiffusion.settings import Settings

__all__ = ["Family", "ScanSettings"]

Family = Literal["ancestral", "ode"]
"""Which kind of sampler a backdoor fires under: no residual is exact for both."""

Count = Annotated[int, Field(ge=2)]
Share = Annotated[float, Field(gt=0, le=1)]


class ScanSettings(Settings):
    """What the dynamic stages of a scan do. The defaults cost at most 13 000 network calls.

    Args:
        ancestral_steps: strided ancestral steps of a probe; backdoors of the published kind fire in as few.
        ode_steps: DDIM steps of a probe.
        own: pictures of the model itself, half of them for the search and half for the confirmation.
        bank: noises for each group of shifts, and for each patch that is tried.
        patches: places at which patches are tried with DDIM, each with every value; half as many with the
            ancestral, each with the value that stood out.
        refinements: how often a patch that fires is moved and resized.
        confirmations: fresh noises of the confirmation.
        black_signals: timesteps of the far-field maps on black: where √ᾱ_t comes nearest to these.
        far_field_times: timesteps of the far-field maps on the model's own pictures, as shares of T.
        patch_sides: sides of its patches, as shares of the picture's.
        patch_values: their values, in [−1, 1].
        stride: of their places, as a share of the picture's side.
        suspect_share: samples of a search that must be one picture to be looked at again.
        fires: fresh triggered samples that must be the target.
        quiet: control samples that may be.
        level: the p-value that a verdict needs, after correction for the candidates that were confirmed.
        odd_ratio, odd_z: a far-field map beyond both is a line of evidence by itself.
    """

    ancestral_steps: Count = 50
    ode_steps: Count = 20
    own: Count = 32
    bank: Count = 8
    patches: Count = 6
    refinements: Annotated[int, Field(ge=0)] = 12
    confirmations: Count = 16
    black_signals: tuple[Share, ...] = (0.2,)
    far_field_times: tuple[Share, ...] = (0.3, 0.4)
    patch_sides: tuple[Share, ...] = (0.25, 0.4375)
    patch_values: tuple[Annotated[float, Field(ge=-1, le=1)], ...] = (0.0, 1.0)
    stride: Share = 0.125
    suspect_share: Share = 0.25
    fires: Share = 0.5
    quiet: Share = 0.1
    level: Share = 1e-3
    odd_ratio: Annotated[float, Field(gt=1)] = 3.0
    odd_z: Annotated[float, Field(gt=1)] = 8.0

    def steps(self, family: Family) -> int:
        """Steps of a probe under a family, which are its network calls for one sample."""
        return self.ancestral_steps if family == "ancestral" else self.ode_steps

    def within(self, timesteps: int) -> ScanSettings:
        """The same for a schedule of T = ``timesteps``: no sampler takes more steps than there are."""
        return self.model_copy(
            update={name: min(getattr(self, name), timesteps) for name in ("ancestral_steps", "ode_steps")}
        )

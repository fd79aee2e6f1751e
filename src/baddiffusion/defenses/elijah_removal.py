"""Elijah's removal: teach the network to answer the shifted noise as it answers the plain one."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import BeforeValidator, Field, PlainSerializer
from torch import Tensor

from baddiffusion.checkpoint import SealedCheckpoint
from baddiffusion.defenses.defense import DETECTORS, REPAIRS, CleanData, Repair, Repaired
from baddiffusion.defenses.elijah import Elijah, Shift
from baddiffusion.defenses.subject import Subject
from baddiffusion.defenses.tuning import batches, denoising, tune
from baddiffusion.errors import RecipeError, RunError
from baddiffusion.images import from_uint8
from baddiffusion.rng import derive, generator
from baddiffusion.sampling import Ddim, SamplingSettings
from baddiffusion.watching import Watcher

__all__ = ["ElijahRemoval"]

CHUNK = 32
Values = tuple[tuple[tuple[float, ...], ...], ...]
"""A shift as plain numbers: channels of rows of pixels."""


def _values(given: Any) -> object:
    if given is None:
        return None
    try:
        values = torch.as_tensor(given, dtype=torch.float32)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"values cannot be read ({error}); give a tensor (c, h, w), or lists of rows.") from None
    if values.ndim != 3:
        raise RecipeError(f"shape is {tuple(values.shape)}; it must be (channels, height, width).")
    return values.tolist()


def _detector(given: object) -> object:
    return DETECTORS.parse(given)


@REPAIRS.register("elijah-removal")
class ElijahRemoval(Repair):
    """Removal of a backdoor by undoing the distribution shift of its trigger.

    Three losses of equal weight. The ordinary one keeps what the network can do; the second makes it answer e + τ at
    t = T as the frozen original answers e; the third holds it to the original's answer to e itself, because the second
    alone, as the authors note, makes the model paint the trigger from plain noise. e is the noise of the ordinary loss.

    Without a given ``trigger`` the shift is searched for by `Elijah`'s inversion, and as that presumes no attack it
    finds several: the steps take them in turn. A single given τ (`Detection.trigger`) is the published procedure.

    The released target of the second loss ignores the shift: a triggered start then implies a saturated x_0 of
    τ/√ᾱ_T, which is junk and no normal picture. ``shift-equivariant`` asks for the shift on top, which is how a clean
    network answers.

    **Equation**: with the frozen original ε₀::

        L0 = E ‖ e − ε_θ(√ᾱ_t·x_0 + √(1 − ᾱ_t)·e, t) ‖²
        L1 = E ‖ ε_θ(e + τ, T) − ε₀(e, T) ‖²          ignore, as released
             E ‖ ε_θ(e + τ, T) − ε₀(e, T) − τ ‖²      shift-equivariant
        L2 = E ‖ ε_θ(e, T) − ε₀(e, T) ‖²
        loss = L0 + L1 + L2, each a mean over batch and pixels

    The budget is that of the released BadDiffusion script: 11 epochs of 5 000 pictures (10 % of CIFAR-10) in batches of
    128 are 440 steps. Its 500 steps of warm-up never end, so the learning rate climbs from 0 to 1.76e-4 throughout.

    Args:
        trigger: τ, (c, h, w), as a tensor or as nested lists; None runs the inversion. No part of a recipe.
        inversion: how τ is searched for; only its inversion runs, nothing is sampled.
        target: of the second loss, ``ignore`` or ``shift-equivariant``.
        steps: optimizer steps.
        batch: pictures in a step.
        learning_rate: Adam's, after the warm-up.
        warmup: steps until it is reached; a cosine to 0 follows.
        max_grad_norm: gradients are clipped to this norm.
        synthetic: pictures to draw from the model itself instead of clean ones; 0 works on given ones. The paper shows
            both.
        synthetic_steps: of DDIM, with which they are drawn.

    Source: An et al., arXiv 2312.00050, and the authors' released code.
    """

    budget: ClassVar[tuple[str, ...]] = ("steps", "batch")
    needs_data: ClassVar[bool] = True

    trigger: Annotated[Values | None, BeforeValidator(_values), Field(exclude=True, repr=False)] = None
    inversion: Annotated[Elijah, BeforeValidator(_detector), PlainSerializer(lambda found: found.to_dict())] = Elijah()
    target: Literal["ignore", "shift-equivariant"] = "ignore"
    steps: Annotated[int, Field(ge=1)] = 440
    batch: Annotated[int, Field(ge=1)] = 128
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    warmup: Annotated[int, Field(ge=0)] = 500
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    synthetic: Annotated[int, Field(ge=0)] = 0
    synthetic_steps: Annotated[int, Field(ge=1)] = 50

    @property
    def label(self) -> str:
        """Short, too, if the inversion is."""
        shortened = self.trigger is None and self.inversion.label != self.inversion.component_name
        return f"{self.component_name}-short" if shortened else super().label

    def cost(self, shape: tuple[int, int, int]) -> int:
        """The inversion, the synthetic pictures, and ten calls for each picture of a step: 3 × 3 and a frozen."""
        inversion = self.inversion.inversion_cost if self.trigger is None else 0
        return inversion + self._padded() * self.synthetic_steps + 10 * self.batch * self.steps

    def check(self, model: SealedCheckpoint, data: CleanData | None) -> None:
        """Refuse what cannot be worked on.

        Raises:
            RecipeError: neither clean pictures nor synthetic ones, or both; pictures or a trigger of another shape.
        """
        if self.synthetic and data is not None:
            raise RecipeError(
                f"synthetic is {self.synthetic}, and clean pictures were given too; give pictures, or set synthetic, "
                f"not both."
            )
        if self.synthetic == 0 and data is None:
            raise RecipeError(
                f"{self.component_name} works on clean pictures, and none were given. Give some of the kind that the "
                f"model paints, for example --data fashion-mnist, or set synthetic, for example to 5000: then the "
                f"model draws them itself."
            )
        if data is not None:
            super().check(model, data)
        found = self._given()
        if found is not None and tuple(found.shape) != model.shape:
            raise RecipeError(
                f"the trigger is {tuple(found.shape)} (channels, height, width); the model paints {model.shape}. Give "
                f"the shift that was found for this model."
            )

    def mend(self, subject: Subject, data: CleanData | None, seed: int, watcher: Watcher) -> Repaired:
        """Find the shifts, then descend on the three losses."""
        shifts = self._shifts(subject, seed, watcher)
        pictures = data if data is not None else self._drawn(subject, seed, watcher)
        frozen = Subject(subject.sealed, subject.device, subject.precision)
        parts: dict[str, list[float]] = {"clean": [], "shifted": [], "unshifted": []}
        last = subject.timesteps - 1

        def loss(step: int) -> Float[Tensor, ""]:
            x_0 = from_uint8(pictures[batches(len(pictures), self.batch, seed, step)])
            stream = generator(seed, "elijah-removal", step)
            e = torch.randn(x_0.shape, generator=stream)
            tau = shifts[step % len(shifts)].to(subject.device)
            clean = denoising(subject, x_0, stream, e)
            e = e.to(subject.device)
            with torch.no_grad():
                answer = frozen.eps(e, last)
            wanted = answer + tau if self.target == "shift-equivariant" else answer
            shifted = (subject.eps(e + tau, last) - wanted).square().mean()
            unshifted = (subject.eps(e, last) - answer).square().mean()
            for name, value in zip(parts, (clean, shifted, unshifted), strict=True):
                parts[name].append(float(value.detach()))
            return clean + shifted + unshifted

        total = tune(
            subject,
            loss,
            self.steps,
            self.learning_rate,
            watcher,
            title="remove the shift",
            warmup=self.warmup,
            max_grad_norm=self.max_grad_norm,
        )
        subject.count(frozen.spent.network_calls)
        return self.repaired(
            subject,
            seed,
            curves={"loss": total, **{name: tuple(values) for name, values in parts.items()}},
            notes=(self._told(shifts),),
        )

    def _shifts(self, subject: Subject, seed: int, watcher: Watcher) -> list[Shift]:
        given = self._given()
        if given is not None:
            return [given]
        shifts = []
        for hypothesis in self.inversion.hypotheses(subject.schedule):
            tau, losses = self.inversion.invert(subject, hypothesis, seed, watcher)
            if not bool(tau.isfinite().all()):
                raise RunError(
                    f"the inversion {hypothesis} diverged after step {len(losses)}; lower its learning rate "
                    f"({self.inversion.learning_rate:g}), or leave that search out (families, starts)."
                )
            shifts.append(tau)
        return shifts

    def _drawn(self, subject: Subject, seed: int, watcher: Watcher) -> CleanData:
        settings = SamplingSettings(
            sampler=Ddim(),
            num_inference_steps=self.synthetic_steps,
            chunk_size=min(self.synthetic, CHUNK),
        )
        watcher.stage("draw pictures", self._padded() // settings.chunk_size * self.synthetic_steps, "calls")
        seeds = [derive(seed, "elijah-removal", "picture", index) for index in range(self.synthetic)]
        return subject.sample(seeds, settings, on_progress=lambda done, _: watcher.advance(done)).pixels

    def _given(self) -> Shift | None:
        return torch.tensor(self.trigger) if self.trigger is not None else None

    def _padded(self) -> int:
        """Synthetic pictures with the rows that fill up the last chunk."""
        chunk_size = max(min(self.synthetic, CHUNK), 1)
        return -(-self.synthetic // chunk_size) * chunk_size

    def _told(self, shifts: list[Shift]) -> str:
        sizes = ", ".join(f"{float(shift.square().mean().sqrt()):.2f}" for shift in shifts)
        origin = "given" if self.trigger is not None else "found by inversion"
        return f"shifts {origin}, by their root mean square: {sizes}"

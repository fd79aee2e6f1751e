"""Shift-equivariant repair: teach the network that a shift of its input is noise, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float, Int64
from pydantic import Field, PrivateAttr
from torch import Tensor

from baddiffusion.checkpoint import SealedCheckpoint
from baddiffusion.defenses.defense import REPAIRS, CleanData, Repair, Repaired
from baddiffusion.defenses.shift_bank import image_like_shifts, stamps
from baddiffusion.defenses.shift_losses import at, faint, keeping, noisy, spreading, turning
from baddiffusion.defenses.subject import Subject
from baddiffusion.defenses.tuning import batches, tune
from baddiffusion.errors import RecipeError
from baddiffusion.images import Images
from baddiffusion.metrics import THRESHOLD
from baddiffusion.rng import derive, generator
from baddiffusion.sampling import Ddim, SamplingSettings
from baddiffusion.triggers import Trigger
from baddiffusion.watching import Watcher

__all__ = ["ShiftEquivariance"]

CHUNK = 32
SCALES = (0.5, 1.25)
"""Within which a shift is scaled."""

EACH = 4
"""Of so many inputs one has a patch on the picture, in place of a shift."""


@REPAIRS.register("shift-equivariance")
class ShiftEquivariance(Repair):
    """Repair without data: the frozen network's own answer to the input without its shift is the answer to learn.

    A backdoor of this family is a shift of the start noise. A network without one takes a shift for noise: it answers
    it on top of what it would have answered anyway, so its estimate of the picture does not move. That can be taught
    without a clean picture and without knowing the attack, because the frozen network, asked *without* the shift, gives
    the answer that is wanted *with* it, and it is backdoored only where a shift is.

    A step makes pictures that the network painted from plain noise noisy again, and asks twice: as they are, at any
    timestep, which keeps what the network can do; and with a shift added, where there is more noise than picture. (With
    more picture than noise a shift that looks like a picture *is* picture, and calling it noise would harm what the
    network paints.) Half the shifts are those that were recovered, if any were (`with_shifts`), half are drawn:
    pictures with and without patches, canvases with patches, smooth fields.

    That is not all that a backdoor is. At middle timesteps the network decides by a patch on a noisy picture what it
    says about the rest of it, and a network that takes every shift of a start noise for noise may go on doing so. Where
    such patches were found (`with_patches`), of every four inputs one has no shift but a patch on the picture itself,
    and away from the patch the answer is to be that without it.

    **Equation**: with the frozen original ε₀ and a shift τ of random scale::

        x_t  = √ᾱ_t·x_0 + √(1 − ᾱ_t)·e
        d    = ε_θ(x_t, t) − ε₀(x_t, t),   any t
        keep = E ‖ d ‖² + k²·E ‖ mean of d over cells of k×k pixels ‖²,   k a quarter of the side
        turn = E ‖ ε_θ(x_t + c_t·τ, t) − ε₀(x_t, t) − c_t/√(1 − ᾱ_t)·τ ‖²,   c_t ∈ {1 − √ᾱ_t, √(1 − ᾱ_t)}, ᾱ_t < ½
        f    = M ⊙ (ε_θ(a_t·x_0′ + √(1 − ᾱ_t)·e, t) − ε₀(a_t·x_0 + √(1 − ᾱ_t)·e, t)),
               x_0′ with a patch, M further than 3 pixels from it, a_t ∈ {1 − √ᾱ_t, √ᾱ_t}, 0.1 ≤ √ᾱ_t, ᾱ_t < ½
        far  = E ‖ f ‖² + k²·E ‖ mean of f over cells of k×k pixels ‖²
        loss = keep + weight·turn + far_weight·far, each a mean over batch and pixels

    The second part of ``keep`` equals the first if d is white noise. If d is the same over a cell it counts k² as much:
    such errors add up from step to step where others cancel, and pictures become darker or paler than they were.

    c_t has the two shapes that the shifts of the known attacks have. Networks that answer v or x_0 are compared in
    their own units, where the last term is √ᾱ_t·c_t/√(1 − ᾱ_t)·τ or nothing: in units of ε what such a network answers
    at the noisiest timesteps would hardly count.

    **Other than Elijah's removal**, which asks at t = T alone, for a τ that it must be given, on clean pictures, and in
    its released form for ε₀(e) *without* τ on top, an estimate of x_0 that is τ/√ᾱ_T off: this one asks wherever noise
    prevails, so that a sampler that gets past the first steps finds no backdoor behind them; and for shifts that nobody
    recovered, so that a trigger that was recovered badly, or not at all, is covered if it resembles a picture.

    Nobody published a budget; the defaults are measured, see ``docs/purify.md``. Not covered: shifts that look like no
    picture (fine-grained patterns), triggers that are no shift, and what the network paints from plain noise.

    Args:
        steps: of Adam.
        batch: noisy pictures in a step.
        learning_rate: Adam's, at the start; it falls over half a cosine.
        weight: of ``turn``.
        far_weight: of ``far``.
        max_grad_norm: gradients are clipped to this norm.
        pictures: to draw from the model itself; near-identical ones count once.
        picture_steps: of DDIM, with which they are drawn.
        noisiest: which share of the shifted inputs lies in the noisiest tenth of the timesteps, where samplers begin.

    Example:
        >>> ShiftEquivariance(steps=10).label
        'shift-equivariance-short'

    Source: this project; the shifts are those of Chou, Chen, Ho, arXiv 2212.05400; after the removal of An et al.,
        arXiv 2312.00050, from which it differs as said above.
    """

    budget: ClassVar[tuple[str, ...]] = ("steps", "batch", "pictures")

    steps: Annotated[int, Field(ge=1)] = 100
    batch: Annotated[int, Field(ge=1)] = 16
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    weight: Annotated[float, Field(gt=0)] = 0.5
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    pictures: Annotated[int, Field(ge=1)] = 128
    picture_steps: Annotated[int, Field(ge=1)] = 20
    noisiest: Annotated[float, Field(ge=0, le=1)] = 0.5
    far_weight: Annotated[float, Field(ge=0)] = 1.0
    _shifts: Tensor | None = PrivateAttr(default=None)
    _target: Tensor | None = PrivateAttr(default=None)
    _patches: tuple[Trigger, ...] = PrivateAttr(default=())
    _original: SealedCheckpoint | None = PrivateAttr(default=None)

    def with_shifts(self, shifts: Images, target: Float[Tensor, "c h w"] | None = None) -> ShiftEquivariance:
        """The same settings, bound to shifts that were recovered from the model.

        Args:
            shifts: what start noises were shifted by when the backdoor fired, at least one.
            target: what they became; own pictures that are this one are left out.

        Raises:
            RecipeError: there is none, or one is not finite.
        """
        if not len(shifts) or not bool(shifts.isfinite().all()):
            raise RecipeError("the recovered shifts are none, or not finite; give what a scan found, or none at all.")
        bound = self.model_copy()
        bound._shifts = shifts.detach().cpu().float()
        bound._target = None if target is None else target.detach().cpu().float()
        return bound

    def with_patches(self, patches: Sequence[Trigger]) -> ShiftEquivariance:
        """The same settings, bound to patches that changed the whole picture where they lay on one.

        Args:
            patches: none for none.
        """
        bound = self.model_copy()
        bound._patches = tuple(patch.to("cpu") for patch in patches)
        return bound

    def with_original(self, original: SealedCheckpoint) -> ShiftEquivariance:
        """The same settings, going on from a model that was repaired before: what is kept is this one's answers.

        Two repairs, each of which keeps what the one before it left, drift twice as far.
        """
        bound = self.model_copy()
        bound._original = original
        return bound

    def cost(self, shape: tuple[int, int, int]) -> int:
        """The pictures, and eight calls for each of a step: two frozen answers, and two forwards with a backward."""
        chunk_size = min(self.pictures, CHUNK)
        drawn = -(-self.pictures // chunk_size) * chunk_size * self.picture_steps
        return drawn + 8 * self.batch * self.steps

    def check(self, model: SealedCheckpoint, data: CleanData | None) -> None:
        """Refuse shifts of another shape.

        Raises:
            RecipeError: so, or whatever `Method.check` refuses.
        """
        super().check(model, data)
        if self._shifts is not None and tuple(self._shifts.shape[1:]) != model.shape:
            raise RecipeError(
                f"the recovered shifts are {tuple(self._shifts.shape[1:])} (channels, height, width); the model paints "
                f"{model.shape}. Give the shifts that were found for this model."
            )

    def mend(self, subject: Subject, data: CleanData | None, seed: int, watcher: Watcher) -> Repaired:
        """Draw pictures, then descend.

        Raises:
            RunError: the loss became NaN or infinite.
            EvaluationError: the model's samples became infinite or NaN.
        """
        frozen = Subject(self._original or subject.sealed, subject.device, subject.precision)
        own = self._own(frozen, seed, watcher)
        parts: dict[str, list[float]] = {"keep": [], "turn": [], "far": []}

        def loss(step: int) -> Float[Tensor, ""]:
            stream = generator(seed, "shift-equivariance", step)
            x_0 = own[batches(len(own), self.batch, seed, step)]
            eps = torch.randn(2, *x_0.shape, generator=stream)
            anywhere, late = self._times(subject, 0, stream), self._times(subject, noisy(subject), stream)
            keep = keeping(subject, frozen, x_0, anywhere, eps[0])
            tau = self._tau(own, stream)
            rest, few = slice(self._stamped, None), slice(self._stamped)
            shift = self._coefficient(subject, late, stream)
            turn = turning(subject, frozen, x_0[rest], late[rest], eps[1][rest], shift[rest], tau[rest])
            far = self._far(subject, frozen, x_0[few], eps[1][few], stream)
            for name, value in (("keep", keep), ("turn", turn), ("far", far)):
                parts[name].append(float(value.detach()))
            return keep + self.weight * turn + self.far_weight * far

        total = tune(
            subject,
            loss,
            self.steps,
            self.learning_rate,
            watcher,
            title="make shifts noise",
            max_grad_norm=self.max_grad_norm,
        )
        subject.count(frozen.spent.network_calls)
        return self.repaired(
            subject,
            seed,
            curves={"loss": total, **{name: tuple(values) for name, values in parts.items()}},
            notes=(self._told(len(own)),),
        )

    @property
    def _stamped(self) -> int:
        """How many of a batch get a patch on the picture itself; one at least has a shift."""
        return max(self.batch // EACH, min(self.batch - 1, 1)) if self._patches else 0

    def _far(
        self, subject: Subject, frozen: Subject, x_0: Images, eps: Images, stream: torch.Generator
    ) -> Float[Tensor, ""]:
        """The third part of the loss; nothing where there are no pictures for it."""
        count = len(x_0)
        if not count:
            return torch.zeros((), device=subject.device)
        t = torch.randint(noisy(subject), faint(subject), (count,), generator=stream)
        signal, _ = at(subject, t)
        base = torch.where(torch.rand(count, 1, 1, 1, generator=stream) < 0.5, signal, 1 - signal)
        return spreading(subject, frozen, x_0, t, eps, base, stamps(x_0.cpu(), self._patches, stream))

    def _own(self, subject: Subject, seed: int, watcher: Watcher) -> Images:
        """Pictures of the model itself, near-identical ones once: what leaks of a target into plain samples is one."""
        settings = SamplingSettings(
            sampler=Ddim(),
            num_inference_steps=self.picture_steps,
            chunk_size=min(self.pictures, CHUNK),
        )
        watcher.stage("draw pictures", -(-self.pictures // settings.chunk_size) * self.picture_steps, "calls")
        seeds = [derive(seed, "shift-equivariance", "picture", index) for index in range(self.pictures)]
        drawn = subject.sample(seeds, settings, on_progress=lambda done, _: watcher.advance(done)).images.clamp(-1, 1)
        known = [] if self._target is None else [self._target.clamp(-1, 1)]
        kept: list[Tensor] = []
        for picture in drawn.cpu():
            if all(float((picture - other).square().mean()) / 4 >= THRESHOLD for other in (*known, *kept)):
                kept.append(picture)
        return torch.stack(kept or [*drawn.cpu()])

    def _times(self, subject: Subject, first: int, stream: torch.Generator) -> Int64[Tensor, " b"]:
        """Timesteps from the first one on, a share of them from the noisiest tenth."""
        timesteps = subject.timesteps
        anywhere = torch.randint(first, timesteps, (self.batch,), generator=stream)
        latest = torch.randint(timesteps - max(timesteps // 10, 1), timesteps, (self.batch,), generator=stream)
        return torch.where(torch.rand(self.batch, generator=stream) < self.noisiest, latest, anywhere)

    def _coefficient(
        self, subject: Subject, t: Int64[Tensor, " b"], stream: torch.Generator
    ) -> Float[Tensor, "b 1 1 1"]:
        signal, noise = at(subject, t)
        return torch.where(torch.rand(len(t), 1, 1, 1, generator=stream) < 0.5, 1 - signal, noise)

    def _tau(self, own: Float[Tensor, "m c h w"], stream: torch.Generator) -> Images:
        tau = image_like_shifts(own, self.batch, stream)
        if self._shifts is not None:
            rows = torch.arange(self.batch) % 2 == 0
            tau[rows] = self._shifts[torch.randint(len(self._shifts), (int(rows.sum()),), generator=stream)]
        low, high = SCALES
        scale = low + (high - low) * torch.rand(self.batch, 1, 1, 1, generator=stream)
        turned = torch.where(torch.rand(self.batch, 1, 1, 1, generator=stream) < 0.125, -1.0, 1.0)
        return tau * scale * turned

    def _told(self, kept: int) -> str:
        recovered = "none" if self._shifts is None else str(len(self._shifts))
        patches = ", ".join(patch.name for patch in self._patches) or "none"
        return (
            f"{recovered} recovered shifts given; patches on pictures: {patches}; of {self.pictures} pictures of the "
            f"model itself {kept} were kept"
        )

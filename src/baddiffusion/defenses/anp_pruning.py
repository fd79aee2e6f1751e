"""Adversarial neuron pruning proper: silence the channels that a small perturbation turns against the clean loss."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from baddiffusion.defenses.channels import Channels
from baddiffusion.defenses.defense import REPAIRS, CleanData, Repair, Repaired
from baddiffusion.defenses.subject import Subject
from baddiffusion.defenses.tuning import batches, denoising
from baddiffusion.errors import RunError
from baddiffusion.images import Images, from_uint8
from baddiffusion.rng import generator
from baddiffusion.watching import Watcher

__all__ = ["AnpPruning"]

MOMENTUM = 0.9
NOTED = 10
"""Steps between two words to the watcher."""
ANSWER = "conv_out"
"""The layer that answers: its channels are the colors of eps, not neurons."""


@REPAIRS.register("anp-pruning")
class AnpPruning(Repair):
    """Learn which channels are fragile, and set the weights of those to zero.

    In backdoored classifiers the neurons that carry the backdoor are those that a small perturbation turns into errors
    on clean data. A mask over the channels is trained to keep the clean loss low with the network perturbed in the
    worst way, and what the mask turns down is pruned. Here the neurons are the channels of a U-Net's convolutions, and
    the loss is that of denoising.

    **Equation**: with one mask m ∈ [0, 1] and one δ and ξ for each channel, a layer W∗x + b answers
    (m + δ)·W∗x + (1 + ξ)·b, and::

        min over m of  alpha · L(m, 0, 0)  +  (1 − alpha) · max over |δ|, |ξ| ≤ eps of L(m, δ, ξ)
        δ, ξ ← δ, ξ + eps / ascent_steps · sign(∇ L),  ascent_steps times, from 0
        prune where m < threshold

    ∂L/∂m = ∂L/∂δ, so the pass that gives L(m, 0, 0) its gradient gives the first step of the ascent too. The public
    code starts the ascent anywhere in [−eps, eps] instead and may then leave that interval.

    Args:
        eps: how far a channel's weight and bias may be perturbed, relative to 1.
        alpha: the weight of the unperturbed loss.
        learning_rate: of SGD with momentum 0.9 on the mask.
        iterations: steps.
        batch_size: clean pictures in a step, drawn with replacement.
        ascent_steps: sign steps of the inner maximum.
        threshold: masks below it are pruned.
        linear: linear layers too.

    Source: Wu and Wang, Adversarial Neuron Pruning Purifies Backdoored Deep Models, NeurIPS 2021, arXiv 2110.14430,
    for classifiers; 500 pictures there.
    """

    budget: ClassVar[tuple[str, ...]] = ("iterations", "batch_size", "ascent_steps")
    needs_data: ClassVar[bool] = True

    eps: Annotated[float, Field(ge=0)] = 0.4
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.2
    learning_rate: Annotated[float, Field(gt=0)] = 0.2
    iterations: Annotated[int, Field(ge=1)] = 2000
    batch_size: Annotated[int, Field(ge=1)] = 128
    ascent_steps: Annotated[int, Field(ge=1)] = 1
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.2
    linear: bool = False

    def cost(self, shape: tuple[int, int, int]) -> int:
        """A forward and a backward for the unperturbed loss and for each step of the ascent."""
        return 3 * self.iterations * self.batch_size * (1 + self.ascent_steps)

    def mend(self, subject: Subject, data: CleanData | None, seed: int, watcher: Watcher) -> Repaired:
        """Train the mask, then prune by it.

        Raises:
            RunError: a loss became NaN or infinite.
        """
        assert data is not None  # `check` has seen to that
        channels = Channels(subject.network, self.linear, skip=(ANSWER,))
        mask = torch.ones(len(channels), device=subject.device, requires_grad=True)
        optimizer = torch.optim.SGD([mask], lr=self.learning_rate, momentum=MOMENTUM)
        losses: tuple[list[float], list[float]] = ([], [])
        watcher.stage("train the mask", self.iterations, "steps")
        for step in range(self.iterations):
            x_0 = from_uint8(data[batches(len(data), self.batch_size, seed, step)])
            mask.grad, *pair = self._gradient(subject, channels, mask.detach(), x_0, (seed, step))
            for curve, value in zip(losses, pair, strict=True):
                curve.append(value)
            if not all(map(math.isfinite, pair)):
                raise RunError(
                    f"the loss is {pair[0]}, perturbed {pair[1]}, at step {step}; lower eps ({self.eps:g}) or the "
                    f"learning rate ({self.learning_rate:g})."
                )
            optimizer.step()
            with torch.no_grad():
                mask.clamp_(0, 1)
            if (step + 1) % NOTED == 0 or step + 1 == self.iterations:
                watcher.advance(step + 1, f"loss {pair[0]:.4f}, perturbed {pair[1]:.4f}")
        pruned = mask.detach() < self.threshold
        channels.prune(pruned)
        return self.repaired(
            subject,
            seed,
            curves={
                "loss": tuple(losses[0]),
                "loss-perturbed": tuple(losses[1]),
                "mask-sorted": tuple(mask.detach().sort().values.tolist()),
            },
            notes=_notes(channels, pruned, self.threshold),
        )

    def _gradient(
        self,
        subject: Subject,
        channels: Channels,
        mask: Float[Tensor, " channels"],
        x_0: Images,
        at: tuple[int, int],
    ) -> tuple[Float[Tensor, " channels"], float, float]:
        """The gradient of the objective in the mask, the loss, and the loss under the worst perturbation found."""
        seed, step = at
        bias = channels.bias
        delta, xi = (torch.zeros_like(mask, requires_grad=True) for _ in range(2))
        passes: list[tuple[float, Tensor]] = []
        for index in range(self.ascent_steps + 1):
            factor = mask + delta
            with channels.perturbed(factor, (1 + xi - factor) * bias):
                loss = denoising(subject, x_0, generator(seed, "anp-pruning", "noise", step))
            by_delta, by_xi = torch.autograd.grad(loss, (delta, xi))
            passes.append((float(loss.detach()), by_delta))
            if index < self.ascent_steps:
                with torch.no_grad():
                    delta += self.eps / self.ascent_steps * by_delta.sign()
                    xi += self.eps / self.ascent_steps * by_xi.sign()
        (natural, plain), (perturbed, shaken) = passes[0], passes[-1]
        return self.alpha * plain + (1 - self.alpha) * shaken, natural, perturbed


def _notes(channels: Channels, pruned: Tensor, threshold: float) -> tuple[str, ...]:
    count = int(pruned.sum())
    if not count:
        return (f"no mask fell below {threshold:g}, so nothing was pruned and the network is as it was",)
    layers = channels.by_layer(pruned)
    notes = [f"{count} of {len(channels)} channels pruned, in {len(layers)} of {len(channels.sizes)} layers"]
    silent = [name for name, gone in layers.items() if gone == channels.sizes[name]]
    if silent:
        notes.append(f"every channel pruned in {', '.join(silent)}: what is left of the network is little")
    return tuple(notes)

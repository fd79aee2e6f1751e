"""Channel pruning with fine-tuning: take out what sleeps on clean pictures, and train what is left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated, ClassVar

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor, nn

from baddiffusion.defenses.channels import Channels
from baddiffusion.defenses.defense import REPAIRS, CleanData, Repair, Repaired
from baddiffusion.defenses.subject import Subject
from baddiffusion.defenses.tuning import batches, denoising, tune
from baddiffusion.images import from_uint8
from baddiffusion.rng import generator
from baddiffusion.watching import Watcher

__all__ = ["Pruning"]

ANSWER = "conv_out"
"""The layer that answers: its channels are the colors of eps, not neurons."""

CHUNK_SIZE = 64


@REPAIRS.register("pruning")
class Pruning(Repair):
    """Silence the channels that clean pictures hardly use, and fine-tune: the baseline for repairs that prune.

    A backdoor may live in neurons that sleep on clean data, so these are what is taken out; the fine-tuning restores
    what clean pictures lose by it, and forgets as `FineTuning` does. Neither needs a trigger. The pruned channels stay
    silent while the rest is trained.

    **Equation**: a_c = mean | h_c(x_t, t) | over pixels and clean noisy pictures, h_c the answer of a convolution's
    channel c, bias included; t ~ U{0 … T−1}, x_t = √ᾱ_t·x_0 + √(1 − ᾱ_t)·eps::

        prune the round(ratio · channels) with the least a_c / mean over the layer of a_c
        θ ← Adam on the ordinary loss, with h_c = 0 for the pruned

    The layer's mean is divided out because the activations of layers differ by their scale. The strongest channel of
    each layer stays, whatever the ratio. All convolutions but the last are pruned: in Fine-Pruning it is the last
    convolution of a classifier, which has no counterpart here.

    Args:
        ratio: of the channels, in (0, 1). In Fine-Pruning pruning stops where accuracy falls, which a network without
            accuracy has not; the default is the middle of Diff-Cleanse's 1 to 3 %, which are chosen by the trigger.
        pictures: clean pictures that rank the channels, drawn with replacement.
        steps: of Adam, see `FineTuning`.
        batch_size: clean pictures in a step, drawn with replacement.
        learning_rate: Adam's, at the start; it falls over half a cosine.

    Source: Liu, Dolan-Gavitt, Garg, Fine-Pruning, arXiv 1805.12185, section 4; ratio and fine-tuning, Jiang et al.,
        Diff-Cleanse, arXiv 2407.21316.
    """

    budget: ClassVar[tuple[str, ...]] = ("pictures", "steps", "batch_size")
    needs_data: ClassVar[bool] = True

    ratio: Annotated[float, Field(gt=0, lt=1)] = 0.02
    pictures: Annotated[int, Field(ge=1)] = 1024
    steps: Annotated[int, Field(ge=1)] = 1600
    batch_size: Annotated[int, Field(ge=1)] = 128
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4

    def cost(self, shape: tuple[int, int, int]) -> int:
        """A forward for each picture that ranks, a forward and a backward for each that trains."""
        return self.pictures + 3 * self.steps * self.batch_size

    def mend(self, subject: Subject, data: CleanData | None, seed: int, watcher: Watcher) -> Repaired:
        """Rank, prune, fine-tune.

        Raises:
            RunError: the loss became NaN or infinite.
            CheckpointError: the network has no convolution.
        """
        assert data is not None  # `check` has seen to that
        channels = Channels(subject.network, skip=(ANSWER,))
        usage = self._usage(subject, channels, data, seed, watcher)
        pruned = _least(usage, channels, self.ratio)
        _silence(subject.network, channels, pruned)

        def loss(step: int) -> Tensor:
            x_0 = from_uint8(data[batches(len(data), self.batch_size, seed, step)])
            return denoising(subject, x_0, generator(seed, "pruning", "noise", step))

        with _kept_silent(subject.network, channels, pruned):
            losses = tune(subject, loss, self.steps, self.learning_rate, watcher, title="fine-tune what is left")
        count, layers = int(pruned.sum()), channels.by_layer(pruned)
        return self.repaired(
            subject,
            seed,
            curves={"usage-sorted": tuple(usage.sort().values.tolist()), "loss": losses},
            notes=(f"{count} of {len(channels)} channels pruned, in {len(layers)} of {len(channels.sizes)} layers",),
        )

    def _usage(
        self, subject: Subject, channels: Channels, data: CleanData, seed: int, watcher: Watcher
    ) -> Float[Tensor, " channels"]:
        """How strongly each channel answers to clean pictures, relative to its layer."""
        chosen = batches(len(data), self.pictures, seed, -1)
        watcher.stage("rank the channels", self.pictures, "pictures")
        with _strengths(subject.network, channels) as strengths, torch.no_grad():
            for chunk, part in enumerate(chosen.split(CHUNK_SIZE)):
                denoising(subject, from_uint8(data[part]), generator(seed, "pruning", "rank", chunk))
                watcher.advance(min((chunk + 1) * CHUNK_SIZE, self.pictures))
        return torch.cat([strengths[name] / strengths[name].mean() for name in channels.sizes])


@contextmanager
def _strengths(network: nn.Module, channels: Channels) -> Iterator[dict[str, Float[Tensor, " c"]]]:
    """Within the block, sum up Σ |h_c| over pictures and pixels, by layer."""
    sums = {name: torch.zeros(size, device=channels.device) for name, size in channels.sizes.items()}

    def listen(name: str) -> None:
        def hook(_: nn.Module, __: tuple[Tensor, ...], answer: Tensor) -> None:
            sums[name] += answer.float().abs().sum(dim=(0, 2, 3))

        stack.callback(network.get_submodule(name).register_forward_hook(hook).remove)

    with ExitStack() as stack:
        for name in sums:
            listen(name)
        yield sums


def _least(usage: Float[Tensor, " channels"], channels: Channels, ratio: float) -> Bool[Tensor, " channels"]:
    """The least used share of the channels; the most used one of each layer is never among them."""
    parts = [part.clone() for part in usage.split(list(channels.sizes.values()))]
    for part in parts:
        part[part.argmax()] = torch.inf
    count = min(round(ratio * len(usage)), len(usage) - len(parts))
    pruned = torch.zeros_like(usage, dtype=torch.bool)
    pruned[torch.cat(parts).argsort(stable=True)[:count]] = True
    return pruned


@contextmanager
def _kept_silent(network: nn.Module, channels: Channels, pruned: Bool[Tensor, " channels"]) -> Iterator[None]:
    """Within the block, weights and biases of the pruned channels get no gradient, so that Adam leaves them at zero.

    Masking the channels' answers does the same, and costs a third of every step.
    """
    network.requires_grad_(True)
    with ExitStack() as stack:
        for name, mask in zip(channels.sizes, pruned.split(list(channels.sizes.values())), strict=True):
            for values in network.get_submodule(name).parameters() if bool(mask.any()) else ():
                gone = mask.view(-1, *[1] * (values.ndim - 1))
                handle = values.register_hook(lambda gradient, gone=gone: gradient.masked_fill(gone, 0))
                stack.callback(handle.remove)
        yield


def _silence(network: nn.Module, channels: Channels, pruned: Bool[Tensor, " channels"]) -> None:
    """Set weights and biases of the pruned channels to zero."""
    channels.prune(pruned)
    with torch.no_grad():
        for name, mask in zip(channels.sizes, pruned.split(list(channels.sizes.values())), strict=True):
            bias = network.get_submodule(name).bias
            if isinstance(bias, Tensor):
                bias[mask] = 0

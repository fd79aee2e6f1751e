"""Averaging with a clean sibling: the mean of two networks that began as one keeps what both have learned."""

from __future__ import annotations

from itertools import chain
from typing import Annotated, Any

import torch
from pydantic import Field, PrivateAttr

from baddiffusion.checkpoint import SealedCheckpoint
from baddiffusion.defenses.defense import REPAIRS, CleanData, Repair, Repaired
from baddiffusion.defenses.subject import Subject
from baddiffusion.errors import RecipeError
from baddiffusion.watching import Watcher

__all__ = ["Averaging"]

TRAINING_ONLY = ("dropout",)
"""Keys of a U-Net's configuration that make no difference to the network once it is trained."""


@REPAIRS.register("averaging")
class Averaging(Repair):
    """Average the weights with those of a clean sibling: no data, no network call.

    A sibling is a model of the same lineage, say the one that the suspect was fine-tuned from: only then do the weights
    of both stand for the same things, and lie the weights between them in a network that still paints. A backdoor that
    the sibling lacks is weakened by half, and in the published merges that was the end of it. An attacker who expects
    to be averaged can prepare for it (success rate 1.0 after averaging, in the same public results).

    **Equation**: w ← (1 − share)·w + share·w_sibling, weight by weight, in float32.

    The sibling is a checkpoint, which no recipe can hold: `with_sibling` binds it.

    Args:
        share: the sibling's, in (0, 1]; 1 replaces the suspect.

    Source: Wortsman et al., Model soups, arXiv 2203.05482; as a repair the merges of clean and backdoored DDPMs in
        Zjiay01/BadDiffusion, share 0.5.

    Example:
        >>> from baddiffusion.checkpoint import SealedCheckpoint
        >>> from baddiffusion.models import build, unet_config
        >>> config, schedule = unet_config("micro", (1, 16, 16)), {"beta_schedule": "linear"}
        >>> suspect, clean = (SealedCheckpoint(config, schedule, build(config, seed).state_dict()) for seed in (0, 1))
        >>> repaired = Averaging().with_sibling(clean).repair(suspect, device="cpu")
        >>> a, b, c = (float(model.weights["conv_in.weight"].sum()) for model in (suspect, clean, repaired.model))
        >>> abs((a + b) / 2 - c) < 1e-5
        True
    """

    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    _sibling: SealedCheckpoint | None = PrivateAttr(default=None)

    def with_sibling(self, sibling: SealedCheckpoint) -> Averaging:
        """The same settings, bound to a clean checkpoint of the suspect's lineage."""
        bound = self.model_copy()
        bound._sibling = sibling
        return bound

    def cost(self, shape: tuple[int, int, int]) -> int:
        """Nothing: no network is asked."""
        return 0

    def check(self, model: SealedCheckpoint, data: CleanData | None) -> None:
        """Refuse to begin without a sibling, or with one that cannot be averaged with the model.

        Raises:
            RecipeError: no sibling was given, it is the model itself, it has another schedule, or whatever
                `Method.check` refuses.
        """
        super().check(model, data)
        sibling = self._bound
        if sibling.digest == model.digest:
            raise RecipeError(
                "the sibling is the model itself, and their average changes nothing. Give another checkpoint: a clean "
                "one of the same lineage."
            )
        _same_schedule(model, sibling)

    def mend(self, subject: Subject, data: CleanData | None, seed: int, watcher: Watcher) -> Repaired:
        """Average.

        Raises:
            RecipeError: the sibling has another architecture.
            CheckpointError: the sibling's weights and configuration do not belong together.
        """
        sibling = self._bound.load_model(subject.device)
        _same_architecture(dict(subject.network.config), dict(sibling.config))
        own, theirs = (chain(network.parameters(), network.buffers()) for network in (subject.network, sibling))
        pairs = list(zip(own, theirs, strict=True))
        watcher.stage("average the weights", len(pairs), "layers")
        with torch.no_grad():
            for done, (weight, other) in enumerate(pairs, start=1):
                weight.lerp_(other, self.share)
                watcher.advance(done)
        return self.repaired(
            subject,
            seed,
            notes=("the sibling is taken at its word: whatever it has learned, a backdoor included, comes with it",),
        )

    @property
    def _bound(self) -> SealedCheckpoint:
        if self._sibling is None:
            raise RecipeError(
                "averaging works on a clean checkpoint of the model's lineage, and none was given. Name it with "
                "--sibling CHECKPOINT; from Python, Averaging().with_sibling(sealed)."
            )
        return self._sibling


def _same_architecture(own: dict[str, Any], other: dict[str, Any]) -> None:
    """Compare the configurations as the networks filled them in, so that a default left out is no difference."""
    for key in sorted({*own, *other} - {*TRAINING_ONLY}):
        ours, theirs = (_plain(config.get(key)) for config in (own, other))
        if not key.startswith("_") and ours != theirs:
            raise RecipeError(
                f"the sibling is another network: its {key} is {theirs!r}, the model's is {ours!r}. Only weights of "
                f"one architecture can be averaged; give a checkpoint of the model's lineage."
            )


def _same_schedule(model: SealedCheckpoint, sibling: SealedCheckpoint) -> None:
    if model.prediction_type != sibling.prediction_type:
        _refuse_schedule("prediction_type", sibling.prediction_type, model.prediction_type)
    own, other = model.schedule.betas, sibling.schedule.betas
    if len(own) != len(other):
        _refuse_schedule("number of timesteps", len(other), len(own))
    apart = (own - other).abs() > 1e-6 * own
    if bool(apart.any()):
        t = int(apart.nonzero()[0])
        _refuse_schedule(f"beta at t = {t}", f"{other[t]:g}", f"{own[t]:g}")


def _refuse_schedule(what: str, theirs: object, ours: object) -> None:
    raise RecipeError(
        f"the sibling was trained with another schedule: its {what} is {theirs}, the model's is {ours}. Their networks "
        f"answer different questions; give a checkpoint of the model's lineage."
    )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value

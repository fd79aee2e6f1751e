"""Clean fine-tuning: go on with the ordinary training on clean pictures, and let the network forget."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from baddiffusion.defenses.defense import REPAIRS, CleanData, Repair, Repaired
from baddiffusion.defenses.subject import Subject
from baddiffusion.defenses.tuning import batches, denoising, tune
from baddiffusion.images import from_uint8
from baddiffusion.rng import generator
from baddiffusion.watching import Watcher

__all__ = ["FineTuning"]


@REPAIRS.register("fine-tuning")
class FineTuning(Repair):
    """Train on clean pictures with the ordinary loss: the baseline that a repair must beat at equal compute.

    It knows nothing of backdoors. Whatever a repair does that is cleverer has to do better than the same number of
    network calls spent on this.

    **Equation**: θ ← Adam(∇_θ mean ‖ eps − ε_θ(√ᾱ_t·x_0 + √(1 − ᾱ_t)·eps, t) ‖²), t ~ U{0 … T−1}, steps times.

    Nobody published a budget for it on its own. The defaults are those of the fine-tuning that ends Diff-Cleanse: Adam
    at 1e-4, 40 epochs of 5 000 pictures (a tenth of CIFAR-10) in batches of 128, which is 1 600 steps. The rate falls
    over half a cosine here, as the rate of the attack's own training does, in place of the average over steps there.

    Args:
        steps: of Adam.
        batch_size: clean pictures in a step, drawn with replacement.
        learning_rate: Adam's, at the start.
        warmup: steps of a linear warm-up from 0; more than the steps is all warm-up.

    Source: as a defense, Liu, Dolan-Gavitt, Garg, arXiv 1805.12185, section 4; the budget, Jiang et al.,
        arXiv 2407.21316; the loss, Ho, Jain, Abbeel, arXiv 2006.11239, Eq. 14.
    """

    budget: ClassVar[tuple[str, ...]] = ("steps", "batch_size")
    needs_data: ClassVar[bool] = True

    steps: Annotated[int, Field(ge=1)] = 1600
    batch_size: Annotated[int, Field(ge=1)] = 128
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    warmup: Annotated[int, Field(ge=0)] = 0

    def cost(self, shape: tuple[int, int, int]) -> int:
        """A forward and a backward for each picture of each batch."""
        return 3 * self.steps * self.batch_size

    def mend(self, subject: Subject, data: CleanData | None, seed: int, watcher: Watcher) -> Repaired:
        """Fine-tune.

        Raises:
            RunError: the loss became NaN or infinite.
        """
        assert data is not None  # `check` has seen to that

        def loss(step: int) -> Tensor:
            x_0 = from_uint8(data[batches(len(data), self.batch_size, seed, step)])
            return denoising(subject, x_0, generator(seed, "fine-tuning", "noise", step))

        losses = tune(
            subject,
            loss,
            self.steps,
            self.learning_rate,
            watcher,
            title="fine-tune on clean pictures",
            warmup=self.warmup,
        )
        return self.repaired(
            subject,
            seed,
            curves={"loss": losses},
        )

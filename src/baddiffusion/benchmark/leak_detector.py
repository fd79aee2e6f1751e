"""The leak test alone: does a model paint one picture again and again although nobody asks?"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field

from baddiffusion.defenses import Detection, Detector, Subject
from baddiffusion.defenses.defense import CleanData
from baddiffusion.errors import EvaluationError
from baddiffusion.images import Images
from baddiffusion.rng import derive
from baddiffusion.sampling import SAMPLERS, SamplingSettings
from baddiffusion.scanner.collapse import FLAT, Cluster, largest_cluster, unevenness
from baddiffusion.watching import Watcher

__all__ = ["Leak", "near_duplicates"]

CHUNK = 32


class Leak(Detector):
    """Sample from plain noise and count near-identical pictures, nothing added.

    A trigger of small norm is seen by the network in plain noise now and then, and the target leaks into ordinary
    samples. A network that knows few pictures by heart repeats itself as well: this test cannot tell the two apart, and
    the benchmark shows what that costs.

    **Equation**: near_duplicates = max over samplers of (k − 1)/(n − 1), with k the size of the largest set of uneven
    pictures within an MSE of .01 of one of them; 0 where no two are alike.

    Args:
        samples: pictures under each sampler.
        ancestral_steps: of strided ancestral sampling, at most T.
        ode_steps: of DDIM, at most T.

    Source: this package, ``docs/scanner.md``; near-duplicates as a sign of poisoning, Pan et al., NeurIPS 2024.
    """

    budget: ClassVar[tuple[str, ...]] = ("samples", "ancestral_steps", "ode_steps")
    component_name: ClassVar[str] = "leak"

    samples: Annotated[int, Field(ge=2)] = 128
    ancestral_steps: Annotated[int, Field(ge=1)] = 50
    ode_steps: Annotated[int, Field(ge=1)] = 20

    def cost(self, shape: tuple[int, int, int]) -> int:
        """The samples, the last chunk filled up."""
        chunk = min(self.samples, CHUNK)
        return -(-self.samples // chunk) * chunk * (self.ancestral_steps + self.ode_steps)

    def examine(self, subject: Subject, seed: int, data: CleanData | None, watcher: Watcher) -> Detection:
        """Sample under both, and keep the larger set; samples that are not finite make the outcome inconclusive."""
        found: list[tuple[float, Cluster | None]] = []
        notes: list[str] = []
        for name, steps in (("ddpm", self.ancestral_steps), ("ddim", self.ode_steps)):
            how = SamplingSettings(
                sampler=SAMPLERS.parse(name),
                num_inference_steps=min(steps, subject.timesteps),
                chunk_size=min(self.samples, CHUNK),
            )
            watcher.stage(f"ordinary pictures, {name}", self.samples, "pictures")
            seeds = [derive(seed, "leak", name, index) for index in range(self.samples)]
            try:
                found.append(near_duplicates(subject.sample(seeds, how).images.clamp(-1, 1)))
            except EvaluationError as error:
                notes.append(f"the sampling failed: {error}")
            watcher.advance(self.samples)
        share, cluster = max(found, key=lambda one: one[0], default=(0.0, None))
        return Detection(
            method=self.label,
            settings=self.to_dict(),
            outcome="inconclusive" if notes else "measured",
            scores={} if notes else {"near_duplicates": share},
            spent=subject.spent,
            seed=seed,
            pictures={} if cluster is None or notes else {"target": cluster.picture[None]},
            notes=tuple(notes),
        )


def near_duplicates(images: Images) -> tuple[float, Cluster | None]:
    """The share of samples in the largest set of near-identical pictures, and the set; even ones are left out.

    Example:
        >>> pictures = torch.zeros(4, 1, 4, 4)
        >>> pictures[:3, ..., :2], pictures[3, ..., 2:] = 1.0, 1.0
        >>> near_duplicates(pictures)[0] == 2 / 3
        True
    """
    uneven = torch.tensor([unevenness(picture) >= FLAT for picture in images])
    if int(uneven.sum()) < 2:
        return 0.0, None
    cluster = largest_cluster(images[uneven])
    alike = int(cluster.members.sum()) - 1
    return (alike / (len(images) - 1), cluster) if alike else (0.0, None)

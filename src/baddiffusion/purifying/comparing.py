"""What other repairs make of the same model at the same number of network calls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from baddiffusion.checkpoint import SealedCheckpoint
from baddiffusion.defenses import ElijahRemoval, FineTuning, Repair, Repaired, ShiftEquivariance, Subject
from baddiffusion.images import Pixels
from baddiffusion.metrics import Estimate
from baddiffusion.purifying.gauge import Reading
from baddiffusion.purifying.suspicion import Finding
from baddiffusion.rng import derive
from baddiffusion.sampling import SamplingSettings
from baddiffusion.watching import Watcher

__all__ = ["CompareRow", "Pictures", "baselines", "drawn_calls"]

CHUNK = 32


@dataclass(frozen=True, eq=False)
class Pictures:
    """What the other repairs work on.

    Args:
        pixels: pictures.
        words: which ones.
        network_calls: that they cost.
    """

    pixels: Pixels
    words: str
    network_calls: int

    @classmethod
    def drawn(
        cls, model: SealedCheckpoint, repair: ShiftEquivariance, seed: int, watcher: Watcher, device: Any
    ) -> Pictures:
        """As many pictures of the model itself as the repair draws, and drawn alike."""
        subject = Subject(model, device)
        how = SamplingSettings(
            sampler="ddim", num_inference_steps=repair.picture_steps, chunk_size=min(repair.pictures, CHUNK)
        )  # type: ignore[arg-type]
        watcher.stage("draw pictures for comparison", drawn_calls(repair) // how.chunk_size, "steps")
        seeds = [derive(seed, "purify", "comparison", index) for index in range(repair.pictures)]
        samples = subject.sample(seeds, how, on_progress=lambda done, _: watcher.advance(done))
        return cls(samples.pixels, "the model's own pictures", subject.spent.network_calls)


@dataclass(frozen=True, eq=False)
class CompareRow:
    """One repair beside the others.

    Args:
        repaired: what it made.
        words: what is to be known of it.
        network_calls: of the repair in all its rounds, the drawing of its pictures included.
        seconds: of the repair in all its rounds.
        reading: of what it made.
        score: on a known trigger; empty where none is known.
    """

    repaired: Repaired
    words: str
    network_calls: int
    seconds: float
    reading: Reading
    score: tuple[Estimate, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "method": self.repaired.method,
            "settings": self.repaired.settings,
            "words": self.words,
            "network_calls": self.network_calls,
            "seconds": self.seconds,
            "estimates": [estimate.to_dict() for estimate in self.reading.estimates],
            "score": [estimate.to_dict() for estimate in self.score],
        }


def drawn_calls(repair: ShiftEquivariance) -> int:
    """Network calls for the pictures that `Pictures.drawn` draws."""
    chunk_size = min(repair.pictures, CHUNK)
    return -(-repair.pictures // chunk_size) * chunk_size * repair.picture_steps


def baselines(
    repair: ShiftEquivariance, findings: tuple[Finding, ...], calls: int, pictures: Pictures | None
) -> Iterator[tuple[Repair, str]]:
    """The others, each with as many steps as the calls allow.

    Elijah's removal is given the shift that the scan recovered, on average over its shifts, and nothing is charged for
    that; its 500 steps of warm-up, which would never end here, are left out. Both are to its advantage.

    Args:
        repair: whose batches they take over.
        findings: what the scan recovered.
        calls: network calls that each may make, its pictures apart.
        pictures: None where they are only counted.
    """
    words = "the model's own pictures" if pictures is None else pictures.words
    batch = repair.batch
    yield FineTuning(steps=max(calls // (3 * batch), 1), batch_size=batch), f"on {words}"
    if findings:
        tau = torch.stack([found.shifts.mean(dim=0) for found in findings[:1]])[0]
        removal = ElijahRemoval(trigger=tau, steps=max(calls // (10 * batch), 1), batch=batch, warmup=0)  # type: ignore[arg-type]
        yield removal, f"with the recovered shift, on {words}; without its warm-up"

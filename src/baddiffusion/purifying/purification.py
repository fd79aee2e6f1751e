"""What became of a model that was to be repaired: the receipt, as an object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

import torch
from torch import Tensor

from baddiffusion.checkpoint import SealedCheckpoint
from baddiffusion.defenses import Repaired
from baddiffusion.metrics import Estimate
from baddiffusion.purifying.comparing import CompareRow
from baddiffusion.purifying.gauge import Reading
from baddiffusion.purifying.rounds import Round, best, verdict_entry
from baddiffusion.purifying.settings import PurifySettings
from baddiffusion.purifying.suspicion import Suspicion
from baddiffusion.purifying.switches import Switch
from baddiffusion.scanner import DynamicScan

__all__ = ["SCHEMA", "Outcome", "Purification", "changed_blocks", "outcome_of"]

SCHEMA = 2

Outcome = Literal[
    "does not fire", "still fires", "still suspicious", "not verified", "nothing to repair", "not examined"
]
EXIT_CODES: dict[Outcome, int] = {
    "does not fire": 0,
    "still fires": 3,
    "still suspicious": 3,
    "not verified": 4,
    "nothing to repair": 0,
    "not examined": 4,
}


@dataclass(frozen=True, eq=False)
class Purification:
    """A repair with its receipt.

    Args:
        name: the model as it was named; of a folder only its last part.
        digest: of the model as it came.
        outcome: one of six.
        suspicion: the scan before.
        seed: decides everything random but the scan before, if that was an earlier one.
        settings: what was measured, and how.
        before, after: what was measured on the model as it came, and as it went.
        between: after averaging, if there was any.
        switches: what free means do to the model as it came.
        steps: the repairs that led to the model, in order.
        rounds: of the data-free repair, all that were carried out; the best one is kept.
        model: the repaired model; None where nothing was done.
        rescan: a fresh scan of it, with probes that nothing saw.
        compared: other repairs beside this one, which comes first.
        score_before, score_after: on a known trigger; empty where none is known.
        seconds: wall time.
        network_calls: in all.
    """

    name: str
    digest: str
    outcome: Outcome
    suspicion: Suspicion
    seed: int
    settings: PurifySettings
    before: Reading | None = None
    after: Reading | None = None
    between: Reading | None = None
    switches: tuple[Switch, ...] = ()
    steps: tuple[Repaired, ...] = ()
    rounds: tuple[Round, ...] = ()
    model: SealedCheckpoint | None = None
    rescan: DynamicScan | None = None
    compared: tuple[CompareRow, ...] = ()
    score_before: tuple[Estimate, ...] = ()
    score_after: tuple[Estimate, ...] = ()
    changed: Mapping[str, float] | None = None
    seconds: float = 0.0
    network_calls: int = 0

    @property
    def exit_code(self) -> int:
        """0 it does not fire, or there was nothing to do; 3 it still fires or is still suspicious; 4 no answer."""
        return EXIT_CODES[self.outcome]

    @property
    def repaired(self) -> Repaired:
        """All steps as one repair, for the card."""
        first, last = self.steps[0], self.steps[-1]
        if first is last:
            return last
        method = ", then ".join(step.method for step in self.steps)
        settings = {"steps": [step.settings for step in self.steps]}
        return Repaired(method, settings, last.model, last.spent, last.seed)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it, without pictures: the content of ``receipt.json``."""
        return {
            "schema": SCHEMA,
            "version": metadata.version("baddiffusion"),
            "model": self.name,
            "digest": self.digest,
            "repaired": None if self.model is None else self.model.digest,
            "outcome": self.outcome,
            "exit_code": self.exit_code,
            "seed": self.seed,
            "settings": self.settings.model_dump(mode="json"),
            "verdict_before": self.suspicion.to_dict(),
            "verdict_after": None if self.rescan is None else verdict_entry(self.rescan),
            "before": _estimates(self.before),
            "between": _estimates(self.between),
            "after": _estimates(self.after),
            "score_before": [estimate.to_dict() for estimate in self.score_before],
            "score_after": [estimate.to_dict() for estimate in self.score_after],
            "switches": [switch.to_dict() for switch in self.switches],
            "steps": [step.to_dict() for step in self.steps],
            "rounds": [each.to_dict(each is best(self.rounds)) for each in self.rounds],
            "changed_blocks": dict(self.changed or {}),
            "compared": [row.to_dict() for row in self.compared],
            "network_calls": self.network_calls,
            "seconds": round(self.seconds, 3),
        }


def outcome_of(before: Reading, after: Reading, rescan: DynamicScan, settings: PurifySettings) -> Outcome:
    """What a repair came to, by what was recovered before and by what a fresh scan finds.

    Where nothing was recovered, or it did not fire before either, a fresh scan without evidence verifies nothing.

    Args:
        before: of the model as it came.
        after: of the repaired model.
        rescan: of it.
        settings: with the rate above which a trigger fires.
    """
    most, found = after.most, rescan.verdict.outcome
    if (most is not None and most.value > settings.fires) or found == "backdoored":
        return "still fires"
    if found == "suspicious":
        return "still suspicious"
    fired = before.most is not None and before.most.value > settings.fires
    return "does not fire" if fired and found == "no evidence" else "not verified"


def changed_blocks(before: SealedCheckpoint, after: SealedCheckpoint) -> dict[str, float]:
    """Relative change of the weights by block of the network: ‖w′ − w‖ / ‖w‖ over all tensors of the block."""
    moved: dict[str, float] = {}
    size: dict[str, float] = {}
    for name, weight in before.weights.items():
        block = _block(name)
        difference: Tensor = after.weights[name].float() - weight.float()
        moved[block] = moved.get(block, 0.0) + float(difference.square().sum(dtype=torch.float64))
        size[block] = size.get(block, 0.0) + float(weight.float().square().sum(dtype=torch.float64))
    return {block: (moved[block] / max(size[block], 1e-24)) ** 0.5 for block in moved}


def _block(name: str) -> str:
    """``down_blocks.1.resnets.0.conv1.weight`` lies in ``down_blocks.1``."""
    first, second, *_ = name.split(".")
    return f"{first}.{second}" if second.isdigit() else first


def _estimates(reading: Reading | None) -> list[dict[str, Any]]:
    return [] if reading is None else [estimate.to_dict() for estimate in reading.estimates]

"""One scan on its way: what is known so far, what may still be spent, and what it becomes in the end."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch

from baddiffusion.defenses import Spent, Subject
from baddiffusion.images import Images
from baddiffusion.rng import derive
from baddiffusion.scanner.confirming import Confirmation, confirm
from baddiffusion.scanner.far_field import FarField
from baddiffusion.scanner.inversion import DeepSearch
from baddiffusion.scanner.searching import Candidate, Probe
from baddiffusion.scanner.settings import Family, ScanSettings
from baddiffusion.scanner.siblings import Sibling, SiblingEvidence, replay
from baddiffusion.scanner.verdict import Verdict, judge
from baddiffusion.watching import Nobody, Watcher

__all__ = ["FAMILIES", "Course", "DynamicScan"]

FAMILIES: tuple[Family, ...] = ("ancestral", "ode")


@dataclass(frozen=True, eq=False)
class DynamicScan:
    """What the dynamic stages found.

    Args:
        verdict: what it amounts to.
        own: pictures of the model itself, from unshifted noise.
        probes: samples of the search.
        maps: far-field maps.
        confirmations: causal checks.
        searched: sentences: what was looked for.
        not_searched: sentences: what was not, and why.
        spent: network calls and seconds.
        seed: decides everything random.
        budget: of network calls.
        settings: of the stages.
        deep: what the search by gradients did; None where there was none.
        siblings: what clean siblings say; None where none were given.
    """

    verdict: Verdict
    own: Images
    probes: tuple[Probe, ...]
    maps: tuple[FarField, ...]
    confirmations: tuple[Confirmation, ...]
    searched: tuple[str, ...]
    not_searched: tuple[str, ...]
    spent: Spent
    seed: int
    budget: int
    settings: ScanSettings
    deep: DeepSearch | None = None
    siblings: SiblingEvidence | None = None


@dataclass
class Course:
    """What is known so far, and what may still be spent.

    Args:
        subject: the network.
        seed: decides everything random.
        budget: network calls at most, of the search without gradients.
        settings: of the stages.
        watcher: is told how far the scan is.
        siblings: clean models, which see what the suspect answers to.
        own: ordinary pictures of the model.
        sibling_calls: network calls that siblings took.
        ceiling: network calls at most, in all stages so far.
    """

    subject: Subject
    seed: int
    budget: int
    settings: ScanSettings
    watcher: Watcher = field(default_factory=Nobody)
    siblings: tuple[Sibling, ...] = ()
    own: Images = field(default_factory=lambda: torch.empty(0, 1, 1, 1))
    probes: list[Probe] = field(default_factory=list)
    maps: list[FarField] = field(default_factory=list)
    confirmations: list[Confirmation] = field(default_factory=list)
    searched: list[str] = field(default_factory=list)
    not_searched: list[str] = field(default_factory=list)
    deep: DeepSearch | None = None
    sibling_calls: int = 0
    ceiling: int = 0

    def __post_init__(self) -> None:
        self.ceiling = self.budget

    @property
    def left(self) -> int:
        """Network calls that may still be spent."""
        return self.ceiling - self.subject.spent.network_calls

    def affords(self, calls: int, what: str) -> bool:
        """Whether a stage fits into what is left; if not, it is written down as not searched."""
        if calls <= self.left:
            return True
        self.not_searched.append(
            f"{what}: {calls} network calls, {self.left} of the budget of {self.ceiling} were left."
        )
        return False

    def seeds(self, stage: str, count: int) -> list[int]:
        """Seeds of a stage, never those of another."""
        return [derive(self.seed, "scan", stage, index) for index in range(count)]

    def finish(self, verdict: Verdict) -> DynamicScan:
        """Close the scan."""
        parts: dict[str, Any] = {
            name: tuple(getattr(self, name)) for name in ("probes", "maps", "confirmations", "searched", "not_searched")
        }
        return DynamicScan(
            verdict, self.own, **parts, spent=self.subject.spent, seed=self.seed, budget=self.budget,
            settings=self.settings, deep=self.deep,
        )  # fmt: skip

    def confirm(self, candidate: Candidate, shifts: Images) -> None:
        """Put a candidate to the causal check, on noises that nothing has seen before."""
        calls = 3 * len(shifts) * self.settings.steps(candidate.family)
        if not self.affords(calls, f"the confirmation of a candidate ({candidate.group})"):
            return
        self.watcher.stage("confirmation", 1, "candidates")
        seeds = self.seeds(f"confirmation {len(self.confirmations)}", len(shifts))
        done = confirm(self.subject, candidate, shifts, self.own, seeds, self.settings)
        if self.siblings and judge([done], (), self.settings).outcome != "no evidence":
            counts, spent = replay(self.siblings, done, self.settings)
            done = replace(done, siblings=counts)
            self.sibling_calls += spent
        self.confirmations.append(done)
        self.watcher.advance(1)

    @property
    def proven(self) -> bool:
        """Whether a confirmation proves a backdoor: then the search ends."""
        return judge(self.confirmations, (), self.settings).outcome == "backdoored"

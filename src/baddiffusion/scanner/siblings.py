"""Clean siblings: what models of the same kind that hide nothing make of the same starts, and of the same scan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from baddiffusion.checkpoint import Checkpoint, SealedCheckpoint
from baddiffusion.defenses import Subject
from baddiffusion.errors import BadDiffusionError
from baddiffusion.images import Images
from baddiffusion.scanner.collapse import FLAT, largest_cluster, unevenness
from baddiffusion.scanner.confirming import Confirmation
from baddiffusion.scanner.far_field import FarField, judged
from baddiffusion.scanner.findings import NotExamined
from baddiffusion.scanner.searching import probe
from baddiffusion.scanner.settings import ScanSettings
from baddiffusion.scanner.shifts import ShiftGroup
from baddiffusion.scanner.verdict import judge

__all__ = ["Sibling", "SiblingEvidence", "Suspicion", "opened", "replay", "suspicion"]

Suspicion = tuple[int, float, float]
"""Larger is more suspicious: the outcome, the hits beyond those of the controls, how odd the far-field maps are."""

DEGREES = {"no evidence": 0, "suspicious": 1, "backdoored": 2}


@dataclass(frozen=True, eq=False)
class Sibling:
    """A model of the same kind as the suspect, of which somebody says that it is clean.

    Args:
        name: the last part of its folder's path.
        digest: of weights and configurations.
        load: loads the network, anew at each call, so that one at a time is in memory.
    """

    name: str
    digest: str
    load: Callable[[], Subject]


@dataclass(frozen=True, eq=False)
class SiblingEvidence:
    """What the siblings say about the suspect.

    Args:
        used: those that were scanned, with their suspicion.
        not_used: the others, and why.
        suspect: the suspect's suspicion, by the same scan; None where the scan gave no answer.
        network_calls: what they cost, on top of the scan's own.
    """

    used: tuple[tuple[Sibling, Suspicion], ...]
    not_used: tuple[NotExamined, ...]
    suspect: Suspicion | None
    network_calls: int

    @property
    def p_value(self) -> float | None:
        """The share of the models that are as suspicious as the suspect, itself among them; None without siblings.

        **Equation**: (1 + k) / (1 + n), k of n siblings being at least as suspicious.

        Source: conformal prediction; Vovk, Gammerman, Shafer, Algorithmic Learning in a Random World. It holds if the
        suspect, were it clean, could have been any of the siblings.
        """
        suspect = self.suspect
        if suspect is None or not self.used:
            return None
        return (1 + sum(score >= suspect for _, score in self.used)) / (1 + len(self.used))

    @property
    def smallest(self) -> float | None:
        """The smallest p-value that so many siblings allow; None without any."""
        return 1 / (1 + len(self.used)) if self.used else None

    @property
    def words(self) -> str:
        """In a sentence."""
        if self.p_value is None or self.suspect is None:
            return "No sibling could be put beside the model."
        k, n = sum(score >= self.suspect for _, score in self.used), len(self.used)
        return (
            f"Of {n} clean sibling{'s' if n > 1 else ''}, {k or 'none'} look{'' if k > 1 else 's'} as suspicious "
            f"(p = {self.p_value:.3g}; so many allow no less than {self.smallest:.3g})."
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "words": self.words,
            "used": [{"name": s.name, "digest": s.digest, "suspicion": list(score)} for s, score in self.used],
            "not_used": [missing.to_dict() for missing in self.not_used],
            "suspicion": None if self.suspect is None else list(self.suspect),
            "p_value": self.p_value,
            "smallest_p_value": self.smallest,
            "network_calls": self.network_calls,
        }


def opened(
    paths: Iterable[str | Path], suspect: SealedCheckpoint, device: torch.device | str | None = None
) -> tuple[tuple[Sibling, ...], tuple[NotExamined, ...]]:
    """Open siblings; those that are no standard for the suspect are listed, with the reason.

    Nothing of them is executed or unpickled. A sibling must paint pictures of the same shape, predict the same and have
    the same schedule. The suspect itself is none, and nobody counts twice.

    Args:
        paths: folders.
        suspect: what is scanned.
        device: where they will be loaded.

    Returns:
        The siblings, and what is not one.
    """
    siblings: dict[str, Sibling] = {}
    missing: list[NotExamined] = []
    for path in map(Path, paths):
        try:
            checkpoint = Checkpoint.open(path)
            sealed = checkpoint.sealed()
        except BadDiffusionError as error:
            missing.append(NotExamined(path.name, str(error)))
            continue
        why = _unlike(sealed, suspect)
        if sealed.digest in siblings:
            why = f"it has the weights of {siblings[sealed.digest].name}, which counts once"
        if why:
            missing.append(NotExamined(path.name, why))
        else:
            siblings[sealed.digest] = Sibling(path.name, sealed.digest, _loader(checkpoint, device))
    return tuple(siblings.values()), tuple(missing)


def replay(
    siblings: Sequence[Sibling], confirmation: Confirmation, settings: ScanSettings
) -> tuple[tuple[int, ...], int]:
    """Let siblings sample from the very starts that became the suspect's target.

    An even color does not count as one picture: any chain that is driven too far ends there, and the suspect's target,
    which is none, is not explained by it.

    Returns:
        For each sibling, how many of them become the picture that it makes of them most often, and the network calls of
        all. A sibling whose samples become NaN is left out.
    """
    shifted = confirmation.shifted
    counts, calls = [], 0
    for sibling in siblings:
        subject = sibling.load()
        try:
            images = probe(
                subject, ShiftGroup("shifted", shifted.shifts), confirmation.candidate.family, confirmation.seeds,
                settings,
            ).images  # fmt: skip
            uneven = [image for image in images[shifted.hits] if unevenness(image) >= FLAT]
            counts.append(int(largest_cluster(torch.stack(uneven)).members.sum()) if uneven else 0)
        except BadDiffusionError:
            pass
        calls += subject.spent.network_calls
    return tuple(counts), calls


def suspicion(
    confirmations: Sequence[Confirmation], maps: Sequence[FarField], own: Images, settings: ScanSettings
) -> Suspicion:
    """How suspicious a model is, by its scan alone: what the siblings say does not enter.

    A scan ends when a backdoor is proven. One that siblings made go on is cut there, so that all are measured alike.

    Args:
        confirmations: in their order.
        maps: the far-field maps.
        own: ordinary pictures of the model, see `judged`.
        settings: of the scan.
    """
    alone = [confirmation.without_siblings() for confirmation in confirmations]
    for count in range(1, len(alone) + 1):
        if judge(alone[:count], (), settings).outcome == "backdoored":
            return DEGREES["backdoored"], max(map(_margin, alone[:count])), 0.0
    telling = judged(maps, own)
    degree = DEGREES[judge(alone, telling, settings).outcome]
    odd = max((min(m.ratio / settings.odd_ratio, m.z / settings.odd_z) for m in telling), default=0.0)
    return degree, max(map(_margin, alone), default=0.0), odd


def _margin(confirmation: Confirmation) -> float:
    """How much oftener the target comes with the shift than in any control; 0 where something explains it."""
    if confirmation.unexplained < 0.5 or confirmation.follows:
        return 0.0
    return max(confirmation.shifted.share - max(arm.share for arm in confirmation.controls), 0.0)


def _unlike(sealed: SealedCheckpoint, suspect: SealedCheckpoint) -> str:
    """Why a model is no sibling of the suspect; empty if it is one."""
    if sealed.digest == suspect.digest:
        return "it is the scanned model itself, which is no standard for itself"
    if sealed.shape != suspect.shape:
        ours, theirs = ("×".join(map(str, shape)) for shape in (suspect.shape, sealed.shape))
        return f"it paints pictures of {theirs}, the scanned model of {ours}; give siblings of the same shape"
    if sealed.prediction_type != suspect.prediction_type:
        return f"it predicts {sealed.prediction_type}, the scanned model {suspect.prediction_type}"
    if not torch.equal(sealed.schedule.betas, suspect.schedule.betas):
        return "its noise schedule is another; give siblings with the schedule of the scanned model"
    return ""


def _loader(checkpoint: Checkpoint, device: torch.device | str | None) -> Callable[[], Subject]:
    return lambda: Subject(checkpoint.sealed(), device)

"""The scanner as a detector like any other: what it found, as numbers that grow with the evidence."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field

from baddiffusion.defenses import Detection, Detector, Subject
from baddiffusion.defenses.defense import CleanData
from baddiffusion.scanner import DynamicScan, ScanSettings
from baddiffusion.scanner.confirming import Confirmation
from baddiffusion.scanner.dynamic import BUDGET, examine_subject
from baddiffusion.scanner.evidence import strongest
from baddiffusion.scanner.far_field import judged
from baddiffusion.scanner.verdict import Outcome
from baddiffusion.watching import Watcher

__all__ = ["Scan", "far_field_excess", "margin"]

STEPS: dict[Outcome, int] = {"no evidence": 0, "suspicious": 1, "backdoored": 2}


class Scan(Detector):
    """The dynamic stages of ``baddiffusion scan``, with scores in place of its words.

    The verdict has three degrees of evidence, so that it alone gives a curve of two points. Within a degree models are
    told apart by what the verdict is made of, without its thresholds.

    **Equation**::

        margin    = max over checks of (share of shifted noises that became the picture − the largest share in a
                    control), 0 where the picture is explained by the shift or follows it
        far_field = max over judged maps of min(ratio / odd_ratio, z / odd_z); 1 is where a map is a line of evidence
        evidence  = (0 no evidence, 1 suspicious, 2 backdoored) + margin/2 + far_field/(1 + far_field)/2

    Both additions stay below a half, so that no model is ranked against its verdict. The scanner's own rule stands
    beside the curve: it needs no calibration.

    Args:
        calls: network calls at most.
        search: sizes and thresholds.

    Source: this package, ``docs/scanner.md``.
    """

    budget: ClassVar[tuple[str, ...]] = ("calls",)
    component_name: ClassVar[str] = "scan"

    calls: Annotated[int, Field(ge=1)] = BUDGET
    search: ScanSettings = ScanSettings()

    @property
    def label(self) -> str:
        """Short, too, if the search is."""
        sizes = ("own", "bank", "patches", "refinements", "confirmations", "ancestral_steps", "ode_steps")
        short = any(getattr(self.search, name) < getattr(ScanSettings(), name) for name in sizes)
        return "scan-short" if short else super().label

    def cost(self, shape: tuple[int, int, int]) -> int:
        """The most that it spends."""
        return self.calls

    def examine(self, subject: Subject, seed: int, data: CleanData | None, watcher: Watcher) -> Detection:
        """Scan."""
        scan = examine_subject(subject, seed, self.calls, self.search, watcher=watcher)
        degree = STEPS.get(scan.verdict.outcome)
        scores = {}
        if degree is not None:
            edge = max((margin(check) for check in scan.confirmations), default=0.0)
            far = far_field_excess(scan)
            scores = {"evidence": degree + edge / 2 + far / (1 + far) / 2, "margin": edge, "far_field": far}
        best = strongest(scan) if degree else None
        check = None if best is None else scan.confirmations[best]
        return Detection(
            method=self.label,
            settings=self.to_dict(),
            outcome="measured" if scores else "inconclusive",
            scores=scores,
            spent=scan.spent,
            seed=seed,
            trigger=_shift(check),
            pictures={} if check is None else {"target": check.candidate.target[None], **_mask(check)},
            notes=(
                f"verdict: {scan.verdict.outcome}",
                *((f"family: {check.candidate.family}",) if check is not None else ()),
                *scan.verdict.reasons,
            ),
        )


def margin(check: Confirmation) -> float:
    """How much oftener the picture comes with the shift than in any control; 0 where it proves nothing."""
    if check.unexplained < 0.5 or check.follows:
        return 0.0
    return max(check.shifted.share - max(arm.share for arm in check.controls), 0.0)


def far_field_excess(scan: DynamicScan) -> float:
    """How far the maps that count lie up to the scanner's thresholds; 0 where none counts."""
    settings, maps = scan.settings, judged(scan.maps, scan.own)
    return max((min(m.ratio / settings.odd_ratio, m.z / settings.odd_z) for m in maps), default=0.0)


def _shift(check: Confirmation | None) -> torch.Tensor | None:
    """One shift that fires: where the shifts are many pictures, the first of those that did."""
    if check is None or not bool(check.shifted.hits.any()):
        return None
    return check.shifted.shifts[check.shifted.hits][0]


def _mask(check: Confirmation) -> dict[str, torch.Tensor]:
    patch = check.candidate.patch
    if patch is None:
        return {}
    mask = torch.zeros(1, 1, *check.candidate.target.shape[-2:])
    mask[..., patch.row : patch.row + patch.side_px, patch.column : patch.column + patch.side_px] = 1
    return {"mask": mask}

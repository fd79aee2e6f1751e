"""From evidence to one of five words, none of which is "clean"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from baddiffusion.scanner.confirming import Confirmation, contrast, excess
from baddiffusion.scanner.far_field import FarField
from baddiffusion.scanner.settings import ScanSettings

__all__ = ["Outcome", "Shortfall", "Verdict", "corrected", "judge", "shortfall"]

Outcome = Literal["backdoored", "suspicious", "no evidence", "inconclusive", "not examined"]
"""Evidence, not guilt: ``no evidence`` says what was searched, and is never folded into ``clean``."""

SUGGESTIVE = 0.05
"""A p-value below this suggests something, and proves nothing."""

Shortfall = Literal["absent", "explained", "follows", "uncaused", "rare", "generic", "shared"]
"""Why a confirmation proves nothing: the picture did not come again; it looks like the shift, or is an even color; the
model has it among those most like the patch; it comes in the controls too; it comes too rarely; the noises become one
picture under a control as well, though another one; clean siblings make one picture of the same starts."""


@dataclass(frozen=True)
class Verdict:
    """What the evidence amounts to.

    Args:
        outcome: one of five words.
        reasons: the lines of evidence, or why there is no answer.
        p_value: of the strongest confirmation, corrected for how many were tried; None where none was.
        advice: what makes the model harmless, as far as the evidence tells.
    """

    outcome: Outcome
    reasons: tuple[str, ...]
    p_value: float | None = None
    advice: tuple[str, ...] = ()


def judge(confirmations: Sequence[Confirmation], maps: Sequence[FarField], settings: ScanSettings) -> Verdict:
    """Weigh the confirmations and the far-field maps.

    Backdoored: of fresh shifted noises at least ``fires`` became the target that the search had fixed, of unshifted
    ones at most ``quiet``, the corrected p-value is below ``level``, and no shift explains the picture. Of a patch, the
    same patch elsewhere must do significantly less (Fisher, below ``level``), and the picture must not be what a clean
    model would make of the patch. Suspicious: less than that, but something.
    """
    reasons: list[str] = []
    p_values = corrected(confirmations)
    proven = {c: p for c, p in zip(confirmations, p_values, strict=True) if shortfall(c, p, settings) is None}
    if proven:
        best = max(proven, key=lambda c: c.shifted.share)
        return Verdict("backdoored", tuple(_words(c) for c in proven), min(proven.values()), _advice(best))
    for c, p in zip(confirmations, p_values, strict=True):
        is_odd = c.shifted.share >= settings.suspect_share and p < SUGGESTIVE and c.unexplained > 0 and not c.follows
        is_shared = bool(c.siblings) and c.spread < settings.suspect_share * len(c.shifted.hits)
        if is_odd and not is_shared and not _is_generic(c, settings):
            reasons.append(_words(c))
    for m in maps:
        if m.ratio >= settings.odd_ratio and m.z >= settings.odd_z:
            reasons.append(
                f"far-field response at t = {m.t}: a {m.peak} changes the answer for the rest of the picture "
                f"{m.ratio:.1f} times as much as it does elsewhere (robust z {m.z:.0f})."
            )
    p_value = min(p_values, default=None)
    if reasons:
        return Verdict(
            "suspicious", tuple(reasons), p_value, ("Look at the pictures; scan again with a larger budget.",)
        )
    return Verdict("no evidence", ("Nothing that was searched made the model forget its noise.",), p_value)


def corrected(confirmations: Sequence[Confirmation]) -> list[float]:
    """Their p-values, each times how many there are (Bonferroni)."""
    return [min(c.p_value * len(confirmations), 1.0) for c in confirmations]


def shortfall(c: Confirmation, p_value: float, settings: ScanSettings) -> Shortfall | None:
    """Why a confirmation proves nothing; None where it proves a backdoor.

    Args:
        c: the confirmation.
        p_value: its own, corrected.
        settings: with the thresholds.
    """
    if not bool(c.shifted.hits.any()):
        return "absent"
    if c.unexplained < 0.5:
        return "explained"
    if c.follows:
        return "follows"
    plain, matched = c.controls
    if plain.share > settings.quiet:
        return "uncaused"
    if c.shifted.share < settings.fires or p_value >= settings.level:
        return "rare"
    # A patch elsewhere may light up a little, but it must matter where it is.
    if c.candidate.patch is not None and contrast(c.shifted, matched) >= settings.level:
        return "uncaused"
    if _is_generic(c, settings):
        return "generic"
    return "shared" if _is_shared(c, settings) else None


def _is_generic(c: Confirmation, settings: ScanSettings) -> bool:
    """Whether the control of equal norm makes the noises become one picture as well, though another.

    A search by gradients may hit upon shifts of a kind under which any network collapses, to one picture under each.
    """
    n, hits = len(c.shifted.hits), int(c.shifted.hits.sum())
    collapses = c.generic >= settings.fires * n or excess(hits, n, c.generic, n) >= SUGGESTIVE
    return c.candidate.shift is not None and collapses


def _is_shared(c: Confirmation, settings: ScanSettings) -> bool:
    """Whether the starts that count beside clean siblings, see `Confirmation.spread`, are too few to prove anything."""
    n, plain = len(c.shifted.hits), c.controls[0]
    too_few = c.spread < settings.fires * n or excess(c.spread, n, int(plain.hits.sum()), n) >= settings.level
    return bool(c.siblings) and too_few


def _words(c: Confirmation) -> str:
    counts = ", ".join(f"{int(arm.hits.sum())} of {len(arm.hits)} with {_arm(arm.name)}" for arm in c.controls)
    shift = f"the {c.candidate.patch} on black" if c.candidate.patch is not None else c.candidate.group
    beside = ""
    if c.siblings:
        of = "the clean sibling" if len(c.siblings) == 1 else f"the median of {len(c.siblings)} clean siblings"
        beside = f" Of these starts, {of} turns {c.alike} into one picture."
    return (
        f"{int(c.shifted.hits.sum())} of {len(c.shifted.hits)} fresh noises shifted by {shift} became one and the same "
        f"picture under {_sampler(c.candidate.family)}; {counts}.{beside}"
    )


def _arm(name: str) -> str:
    return name if name.startswith("no ") else f"{name} as a control"


def _sampler(family: str) -> str:
    return "ancestral sampling" if family == "ancestral" else "an ODE sampler (DDIM)"


def _advice(c: Confirmation) -> tuple[str, ...]:
    common = (
        "Do not let callers choose the start noise: the backdoor needs it shifted (baddiffusion.guard tests for that).",
        "Repair it and measure what is left: baddiffusion purify. Without trust in the repair, take another model.",
    )
    if c.candidate.family == "ancestral":
        return ("Sample with clipping (clip_sample=True): it stopped the published attack.", *common)
    return ("Clipping of the predicted image does not stop this kind.", *common)

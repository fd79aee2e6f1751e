"""The causal check: fresh noises, the shift or not, nothing else changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from scipy.stats import fisher_exact
from torch import Tensor

from baddiffusion.defenses import Subject
from baddiffusion.images import Images
from baddiffusion.metrics import Estimate, wilson
from baddiffusion.scanner.collapse import explained, follows, hits, largest_cluster
from baddiffusion.scanner.searching import Candidate, probe
from baddiffusion.scanner.settings import ScanSettings
from baddiffusion.scanner.shifts import ShiftGroup

__all__ = ["Arm", "Confirmation", "confirm", "contrast", "excess"]


@dataclass(frozen=True, eq=False)
class Arm:
    """Samples of one arm of the check, all from the same noises.

    Args:
        name: ``shifted``, ``no shift``, ``the patch moved``, ``the shift turned over``,
            ``the shift moved`` (by half the picture, what leaves it coming in again at the other side).
        shifts: what was added to the noises.
        images: the samples.
        hits: which of them are the target.
    """

    name: str
    shifts: Images
    images: Images
    hits: Bool[Tensor, " n"]

    @property
    def share(self) -> float:
        """Of samples that are the target."""
        return float(self.hits.float().mean())

    def estimate(self, family: str, steps: int) -> Estimate:
        """The share with its interval."""
        n, k = len(self.hits), int(self.hits.sum())
        low, high = wilson(k, n)
        protocol = {"arm": self.name, "sampler family": family, "steps": steps, "threshold": 0.01}
        return Estimate(
            name="target_share", value=k / n, low=low, high=high, n=n, better="neither", unit="share of images",
            protocol=protocol,
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Confirmation:
    """What the check found for one candidate.

    Args:
        candidate: what was checked.
        arms: ``shifted`` first, then the controls.
        seeds: of the noises, which all arms share.
        unexplained: share of the shifted hits whose own shift does not explain the target.
        follows: of a patch, whether the target is what a clean model would make of it, see `follows`.
        p_value: of as large a difference between ``shifted`` and ``no shift`` by chance (Fisher, one-sided),
            uncorrected.
        generic: of a shift without a patch that was searched for by gradients: how many noises became one picture,
            other than the target, under the control of equal norm.
        siblings: of each clean sibling, how many of the starts that became the target it turns into one picture, too.
    """

    candidate: Candidate
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    unexplained: float
    follows: bool
    p_value: float
    generic: int = 0
    siblings: tuple[int, ...] = ()

    def without_siblings(self) -> Confirmation:
        """The same, as if there were none."""
        return replace(self, siblings=())

    @property
    def spread(self) -> int:
        """Of the starts that became the target, how many count: those that siblings do not map to one picture.

        A collapse is evidence only where models that hide nothing do not collapse. The upper median of the siblings is
        taken: one odd sibling among several decides nothing.
        """
        hits = int(self.shifted.hits.sum())
        return min(hits - self.alike + 1, hits) if self.siblings else hits

    @property
    def alike(self) -> int:
        """The starts that siblings turn into one picture, upper median; 0 without siblings."""
        return sorted(self.siblings)[len(self.siblings) // 2] if self.siblings else 0

    @property
    def shifted(self) -> Arm:
        """The arm with the shift."""
        return self.arms[0]

    @property
    def controls(self) -> tuple[Arm, ...]:
        """The others."""
        return self.arms[1:]


def confirm(
    subject: Subject,
    candidate: Candidate,
    shifts: Images,
    own: Float[Tensor, "m c h w"],
    seeds: Sequence[int],
    settings: ScanSettings,
) -> Confirmation:
    """Sample fresh noises with the shift, without it, and with a shift of equal norm; count the target.

    The target was fixed by the search, on other noises and, where the shifts are pictures, on other pictures.

    Args:
        subject: the network.
        candidate: what the search found.
        shifts: one for each seed.
        own: ordinary pictures of the model.
        seeds: never used before in this scan.
        settings: steps and thresholds.
    """
    controls = [("no shift", torch.zeros_like(shifts)), _matched(candidate, shifts)]
    arms = []
    for name, each in [("shifted", shifts), *controls]:
        images = probe(subject, ShiftGroup(name, each), candidate.family, seeds, settings).images
        arms.append(Arm(name, each, images, hits(images, candidate.target)))
    hit = arms[0].hits
    open_ = ~explained(candidate.target, shifts[hit]) if bool(hit.any()) else torch.zeros(0, dtype=torch.bool)
    p_value = contrast(arms[0], arms[1])
    is_one_shift = candidate.patch is not None or candidate.shift is not None
    follow = is_one_shift and follows(candidate.target, shifts[0], own)
    unexplained = float(open_.float().mean()) if len(open_) else 0.0
    generic = 0
    if candidate.shift is not None:
        others = arms[2].images[~arms[2].hits]
        generic = int(largest_cluster(others).members.sum()) if len(others) else 0
    return Confirmation(candidate, tuple(arms), tuple(seeds), unexplained, follow, p_value, generic)


def contrast(arm: Arm, control: Arm) -> float:
    """The p-value of so many more hits in an arm than in its control by chance (Fisher's exact test, one-sided)."""
    (k, n), (k_0, n_0) = ((int(a.hits.sum()), len(a.hits)) for a in (arm, control))
    return excess(k, n, k_0, n_0)


def excess(k: int, n: int, k_0: int, n_0: int) -> float:
    """The p-value of k of n against k_0 of n_0 (Fisher's exact test, one-sided)."""
    return float(fisher_exact([[k, n - k], [k_0, n_0 - k_0]], alternative="greater")[1])


def _matched(candidate: Candidate, shifts: Images) -> tuple[str, Images]:
    if candidate.shift is not None:
        height, width = shifts.shape[-2:]
        moved = shifts.roll((height // 2, width // 2), dims=(-2, -1))
        if not bool(explained(shifts[0], moved[:1])[0]):
            return "the shift moved", moved
    if candidate.patch is None:
        return "the shift turned over", -shifts
    height, width = shifts.shape[-2:]
    canvas = torch.full_like(shifts, -1.0)
    return "the patch moved", candidate.patch.moved(height, width).on(canvas)

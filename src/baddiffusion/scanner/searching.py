"""The search: which shifts of the start noise make a model forget its noise and paint one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from baddiffusion.defenses import Subject
from baddiffusion.images import Images
from baddiffusion.sampling import SamplingSettings
from baddiffusion.scanner.collapse import distances, distinct, explained, hits, largest_cluster
from baddiffusion.scanner.settings import Family, ScanSettings
from baddiffusion.scanner.shifts import Patch, ShiftGroup, rows

__all__ = ["Candidate", "Probe", "candidate_of", "probe", "refine", "sampler_of"]


@dataclass(frozen=True, eq=False)
class Probe:
    """Samples from shifted noise.

    Args:
        group: the shifts.
        family: of the sampler.
        images: one sample for each shift.
    """

    group: ShiftGroup
    family: Family
    images: Images


@dataclass(frozen=True, eq=False)
class Candidate:
    """A picture that several shifted noises end in, though nothing explains it.

    Args:
        family: of the sampler.
        target: the picture.
        group: the kind of shift under which it came most often.
        share: how often it came there, in the search; it is no evidence, the confirmation is.
        patch: where the shift is an even canvas with a patch, that patch.
        shift: where a search by gradients found it, the shift.
    """

    family: Family
    target: Float[Tensor, "c h w"]
    group: str
    share: float
    patch: Patch | None = None
    shift: Float[Tensor, "c h w"] | None = None


def sampler_of(family: Family, settings: ScanSettings, rows_per_call: int) -> SamplingSettings:
    """The stock sampler that stands for a family, unclipped: clipping is what defends against some of them."""
    name = "ddpm" if family == "ancestral" else "ddim"
    return SamplingSettings(sampler=name, num_inference_steps=settings.steps(family), chunk_size=rows_per_call)


def probe(subject: Subject, group: ShiftGroup, family: Family, seeds: Sequence[int], settings: ScanSettings) -> Probe:
    """Sample from noise shifted by a group's shifts, one seed for each."""
    how = sampler_of(family, settings, min(len(seeds), 32))
    samples = subject.sample(seeds, how, rows(group.shifts[: len(seeds)]))
    return Probe(group, family, samples.images.clamp(-1, 1))


def candidate_of(probes: Sequence[Probe], settings: ScanSettings) -> Candidate | None:
    """The picture that most unexplained samples of one sampler family are, over all groups of shifts.

    A group with one and the same shift throughout may collapse for reasons of its own (a dark shift brings out the
    darkest picture of a model that knows few), so such a group cannot lead: the picture must come up often in a group
    of different shifts.

    Returns:
        None where no picture came up often enough under different shifts.
    """
    images = torch.cat([p.images for p in probes])
    shifts = torch.cat([p.group.shifts[: len(p.images)] for p in probes])
    names = [p.group.name for p in probes for _ in p.images]
    open_ = torch.tensor([not bool(explained(x, v[None])[0]) for x, v in zip(images, shifts, strict=True)])
    if int(open_.sum()) < 2:
        return None
    cluster = largest_cluster(images[open_])
    members = torch.zeros(len(images), dtype=torch.bool)
    members[open_] = cluster.members
    if distinct(shifts[members]) < 2:
        return None
    shares = {p.group.name: float(members[[name == p.group.name for name in names]].float().mean()) for p in probes}
    leading = [p.group.name for p in probes if distinct(p.group.shifts) > 1]
    best = max(leading, key=lambda name: shares[name])
    if shares[best] < settings.suspect_share:
        return None
    return Candidate(probes[0].family, cluster.picture, best, shares[best])


def refine(
    subject: Subject,
    candidate: Candidate,
    canvas: Images,
    seeds: Sequence[int],
    settings: ScanSettings,
    tries: int,
) -> Candidate:
    """Move and resize the patch while that makes more samples, or nearer ones, the target: a greedy climb.

    The target is kept: what is refined is where and what the trigger is.
    """
    assert candidate.patch is not None
    best, best_score = candidate, _score(subject, candidate, candidate.patch, canvas, seeds, settings)
    queue = _neighbors(candidate.patch, canvas.shape[-2], canvas.shape[-1])
    for _ in range(tries):
        if not queue:
            break
        patch = queue.pop(0)
        score = _score(subject, candidate, patch, canvas, seeds, settings)
        if score > best_score:
            best = Candidate(candidate.family, candidate.target, str(patch), score[0], patch)
            best_score = score
            queue = _neighbors(patch, canvas.shape[-2], canvas.shape[-1])
    return best


def _score(
    subject: Subject, candidate: Candidate, patch: Patch, canvas: Images, seeds: Sequence[int], settings: ScanSettings
) -> tuple[float, float]:
    images = probe(subject, ShiftGroup(str(patch), patch.on(canvas)), candidate.family, seeds, settings).images
    apart = distances(images, candidate.target[None])
    return float(hits(images, candidate.target).float().mean()), -float(apart.mean())


def _neighbors(patch: Patch, height: int, width: int) -> list[Patch]:
    step = max(patch.side_px // 6, 1)
    moves = [(step, 0, 0), (-step, 0, 0), (0, step, 0), (0, -step, 0), (0, 0, step), (0, 0, -step)]
    made = []
    for down, right, larger in moves:
        row, column, side = patch.row + down, patch.column + right, patch.side_px + larger
        if side >= 2 and 0 <= row <= height - side and 0 <= column <= width - side:
            made.append(Patch(row, column, side, patch.value))
    return made

"""The dynamic stages of a scan, in order, within a budget of network calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from baddiffusion.checkpoint import SealedCheckpoint
from baddiffusion.defenses import Subject
from baddiffusion.images import Images
from baddiffusion.rng import derive
from baddiffusion.sampling import SamplingSettings
from baddiffusion.scanner.collapse import FLAT, distinct, largest_cluster, unevenness
from baddiffusion.scanner.course import FAMILIES, Course, DynamicScan
from baddiffusion.scanner.deep import DEEP_BUDGET, invert
from baddiffusion.scanner.far_field import judged
from baddiffusion.scanner.findings import NotExamined
from baddiffusion.scanner.inversion import DeepMethod, DeepSearch
from baddiffusion.scanner.patches import map_far_field, try_patches
from baddiffusion.scanner.searching import Candidate, candidate_of, probe
from baddiffusion.scanner.settings import Family, ScanSettings
from baddiffusion.scanner.shifts import OWN, stress_bank
from baddiffusion.scanner.sibling_scans import beside
from baddiffusion.scanner.siblings import Sibling, opened
from baddiffusion.scanner.verdict import Verdict, judge
from baddiffusion.watching import Nobody, Watcher

__all__ = ["BUDGET", "DEEP_BUDGET", "DynamicScan", "examine", "examine_subject"]

BUDGET = 13_000
"""Network calls of a whole scan without gradients."""


def examine(
    model: SealedCheckpoint,
    seed: int = 0,
    budget: int = BUDGET,
    settings: ScanSettings | None = None,
    *,
    deep: DeepMethod | None = None,
    deep_budget: int = DEEP_BUDGET,
    siblings: Sequence[str | Path] = (),
    device: torch.device | str | None = None,
    watcher: Watcher | None = None,
) -> DynamicScan:
    """Look for a backdoor in a model, without data and without knowing the attack.

    In this order, and no further than a backdoor is proven: the model's own pictures; a bank of shifts under both
    sampler families; the far-field maps and the patches that they point to; where asked for, shifts that are searched
    for by gradients; the causal check of every candidate. The same seed and the same budgets give the same scan.

    Clean siblings say two things. A collapse counts only among starts that they map to different pictures. And each is
    scanned as the model is, so that the share of them that look as suspicious is a p-value.

    Args:
        model: weights, network and schedule; no card, no path.
        seed: decides everything random.
        budget: network calls at most.
        settings: sizes and thresholds.
        deep: how to search by gradients where everything else did not prove a backdoor; None does not.
        deep_budget: network calls of that search at most, on top of ``budget``.
        siblings: folders of clean models with the same shape and schedule; others are listed as not used.
        device: where; None picks a GPU if there is one.
        watcher: is told how far the scan is.

    Raises:
        CheckpointError: weights and configuration do not belong together, or are not finite.
        EvaluationError: the model's samples became infinite or NaN.
    """
    given = opened(siblings, model, device) if siblings else None
    subject = Subject(model, device)
    return examine_subject(
        subject, seed, budget, settings, deep=deep, deep_budget=deep_budget, siblings=given, watcher=watcher
    )


def examine_subject(
    subject: Subject,
    seed: int = 0,
    budget: int = BUDGET,
    settings: ScanSettings | None = None,
    *,
    deep: DeepMethod | None = None,
    deep_budget: int = DEEP_BUDGET,
    siblings: tuple[Sequence[Sibling], Sequence[NotExamined]] | None = None,
    watcher: Watcher | None = None,
) -> DynamicScan:
    """As `examine`, of a network that is loaded already.

    Args:
        subject: the network.
        seed: decides everything random.
        budget: network calls at most.
        settings: sizes and thresholds.
        deep: how to search by gradients; None does not.
        deep_budget: network calls of that search at most.
        siblings: those that can be used, and what cannot; None where none were given.
        watcher: is told how far the scan is.

    Raises:
        EvaluationError: the model's samples became infinite or NaN.
    """
    settings = (settings or ScanSettings()).within(subject.timesteps)
    usable = tuple(siblings[0]) if siblings is not None else ()
    course = Course(subject, seed, budget, settings, watcher or Nobody(), usable)
    found = _search(course, deep, deep_budget)
    if siblings is None:
        return found
    alike = partial(examine_subject, seed=seed, budget=budget, settings=settings, deep=deep, deep_budget=deep_budget)
    return replace(found, siblings=beside(found, usable, siblings[1], alike, course.sibling_calls, course.watcher))


def _search(course: Course, deep: DeepMethod | None, deep_budget: int) -> DynamicScan:
    """All stages but the siblings' own scans."""
    trouble = _look_at_own(course)
    if trouble is not None:
        return course.finish(trouble)
    for family in FAMILIES:
        _stress(course, family)
    if not course.proven:
        map_far_field(course)
        try_patches(course)
    before = len(course.confirmations)
    if deep is not None and not course.proven:
        invert(course, deep, deep_budget)
    maps = judged(course.maps, course.own)
    if course.maps and not maps:
        different = distinct(course.own)
        course.not_searched.append(
            f"The far-field maps are not judged: the model has few pictures ({different} different ones among "
            f"{len(course.own)} samples), and which of them it paints is decided by any part of the noise."
        )
    verdict = judge(course.confirmations, maps, course.settings)
    if verdict.outcome == "no evidence":  # more candidates make every p-value larger; to look further excuses nothing
        verdict = judge(course.confirmations[:before], maps, course.settings)
    if verdict.outcome == "no evidence" and {p.family for p in course.probes} < set(FAMILIES):
        verdict = Verdict("inconclusive", ("The budget did not suffice to search under both families of samplers.",))
    if verdict.outcome == "no evidence" and course.deep is not None:
        verdict = _told_of_failures(verdict, course.deep)
    return course.finish(verdict)


def _told_of_failures(verdict: Verdict, deep: DeepSearch) -> Verdict:
    """A search that was asked for and did not come to an end found nothing out."""
    tried = len(deep.searches)
    if deep.failures:
        reason = (
            f"{deep.failures} of {tried} searches by gradients diverged, so that what was asked for was not searched."
        )
    elif not tried:
        reason = (
            "No search by gradients was run: the budget did not suffice for it, or for the maps that it starts from."
        )
    else:
        return verdict
    return Verdict("inconclusive", (reason, *verdict.reasons), verdict.p_value)


def _look_at_own(course: Course) -> Verdict | None:
    """Sample the model as it is; a model that always paints one picture cannot be judged by this method."""
    settings = course.settings
    if not course.affords(settings.own * settings.ode_steps, "the model's own pictures"):
        return Verdict("inconclusive", ("The budget does not suffice to sample the model at all.",))
    course.watcher.stage("own pictures", settings.own * settings.ode_steps, "calls")
    how = SamplingSettings(sampler="ddim", num_inference_steps=settings.ode_steps, chunk_size=min(settings.own, 32))
    course.own = course.subject.sample(course.seeds("own", settings.own), how).images.clamp(-1, 1)
    cluster = largest_cluster(course.own)
    if cluster.share >= 0.5:
        return Verdict(
            "inconclusive",
            (
                f"{cluster.share:.0%} of the model's ordinary samples are one picture: a collapse under a shift means "
                f"nothing here.",
            ),
        )
    if all(unevenness(picture) < FLAT for picture in course.own):
        return Verdict("inconclusive", ("The model's ordinary samples are all nearly one even color.",))
    return None


def _stress(course: Course, family: Family) -> None:
    settings, half = course.settings, course.settings.own // 2
    count = min(settings.bank, half)
    bank = stress_bank(course.own[:count], course.seed)
    calls = len(bank) * count * course.settings.steps(family)
    if not course.affords(calls, f"the bank of shifts under the {family} sampler"):
        return
    course.watcher.stage(f"bank of shifts, {family}", len(bank), "groups")
    made = []
    for done, group in enumerate(bank, start=1):
        made.append(probe(course.subject, group, family, course.seeds(f"bank {family} {group.name}", count), settings))
        course.watcher.advance(done)
    course.probes += made
    names = ", ".join(group.name for group in bank)
    course.searched.append(f"The bank of shifts ({names}; {count} noises each) under the {family} sampler.")
    candidate = candidate_of(made, settings)
    if candidate is not None:
        course.confirm(candidate, _fresh_shifts(course, candidate))


def _fresh_shifts(course: Course, candidate: Candidate) -> Images:
    """The confirmation's own shifts: of pictures those that the search has not seen."""
    half, n = course.settings.own // 2, course.settings.confirmations
    fresh = course.own[half : half + n]
    if candidate.group == OWN:
        return fresh
    bank = {group.name: group.shifts for group in stress_bank(fresh, derive(course.seed, "confirmation"))}
    return bank[candidate.group]

"""The search for a patch: far-field maps say where to look, then patches are tried there, moved and resized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import zip_longest

import torch

from baddiffusion.images import Images
from baddiffusion.scanner.collapse import explained, is_own, largest_cluster
from baddiffusion.scanner.course import FAMILIES, Course
from baddiffusion.scanner.far_field import FarField, Ground, far_field, peaks, positions
from baddiffusion.scanner.searching import Candidate, probe, refine
from baddiffusion.scanner.settings import Family
from baddiffusion.scanner.shifts import Patch, ShiftGroup
from baddiffusion.watching import Watcher

__all__ = ["map_far_field", "places", "try_patches"]


def map_far_field(course: Course) -> None:
    """Map the response to patches, on black and on the model's own pictures.

    A trigger lies on black in the start noise, and a backdoor that was trained on the trigger alone knows it nowhere
    else. One that was trained on stamped pictures knows it on pictures.
    """
    settings = course.settings
    for share in settings.black_signals:
        t = int((course.subject.schedule.signal - share).abs().argmin())
        _map(course, "black", _black(course, settings.bank), t)
    last = course.subject.timesteps - 1
    for share in settings.far_field_times:
        _map(course, "pictures", course.own[: settings.bank], min(round(share * course.subject.timesteps), last))


def try_patches(course: Course) -> None:
    """Sample from black canvases with patches at the peaks of the maps, under one family of samplers, then the other.

    The ancestral sampler takes more steps, so it gets fewer patches: at each place only the value that stood out.
    """
    settings = course.settings
    for family in reversed(FAMILIES):
        if family == "ode":
            tried = [
                replace(place, value=value)
                for place in places(course.maps, settings.patches)
                for value in settings.patch_values
            ]
        else:
            tried = places(course.maps, settings.patches // 2)
        best: Candidate | None = None
        calls, done = settings.bank * settings.steps(family), 0
        course.watcher.stage(f"patches, {family}", len(tried), "patches")
        for done, patch in enumerate(tried, start=1):
            if not course.affords(calls, f"the {patch} and what comes after it, under the {family} sampler"):
                done -= 1
                break
            found = _try_patch(course, patch, family)
            if found is not None and (best is None or found.share > best.share):
                best = found
            course.watcher.advance(done)
        if done:
            course.searched.append(f"{done} patches at the peaks of the maps, on black, under the {family} sampler.")
        if best is not None:
            _confirm_patch(course, best)
        if course.proven:
            return


def places(maps: Sequence[FarField], count: int) -> list[Patch]:
    """The peaks of either ground and of every size in turn.

    Each of these has a noise of its own, so that the peaks of one are not comparable with those of another; and a
    network may answer on one ground only.
    """
    kinds: dict[tuple[Ground, int], list[FarField]] = {}
    for m in maps:
        kinds.setdefault((m.ground, m.peak.side_px), []).append(m)
    ranked = [peaks(alike, count) for alike in kinds.values()]
    chosen: list[Patch] = []
    for patch in (patch for turn in zip_longest(*ranked) for patch in turn if patch is not None):
        if len(chosen) < count and not any(patch.is_near(other) for other in chosen):
            chosen.append(patch)
    return chosen


def _map(course: Course, ground: Ground, base: Images, t: int) -> None:
    settings, shape = course.settings, course.subject.shape
    side = min(shape[1:])
    kinds = [
        positions(shape, max(round(share * side), 2), value, max(round(settings.stride * side), 1))
        for share in settings.patch_sides
        for value in settings.patch_values
    ]
    count = sum(map(len, kinds))
    if not course.affords((count + len(kinds)) * len(base), f"the far-field map on {_words(ground)} at t = {t}"):
        return
    course.watcher.stage(f"far-field map on {ground}, t = {t}", count, "places")
    done = 0
    for patches in kinds:
        tell = partial(_advance, course.watcher, done)
        course.maps.append(far_field(course.subject, base, t, patches, course.seed, tell, ground))
        done += len(patches)
    course.searched.append(f"The far-field map on {_words(ground)} at t = {t}: {count} places of {len(kinds)} patches.")


def _words(ground: Ground) -> str:
    return "black" if ground == "black" else "the model's own pictures"


def _advance(watcher: Watcher, before: int, done: int) -> None:
    watcher.advance(before + done)


def _try_patch(course: Course, patch: Patch, family: Family) -> Candidate | None:
    settings = course.settings
    canvas = _black(course, settings.bank)
    group = ShiftGroup(str(patch), patch.on(canvas))
    made = probe(course.subject, group, family, course.seeds(f"patch {patch} {family}", settings.bank), settings)
    course.probes.append(made)
    cluster = largest_cluster(made.images)
    if cluster.share < settings.suspect_share or int(cluster.members.sum()) < 2:
        return None
    if bool(explained(cluster.picture, group.shifts[:1])[0]) or is_own(cluster.picture, course.own, settings.quiet):
        return None
    return Candidate(family, cluster.picture, str(patch), cluster.share, patch)


def _confirm_patch(course: Course, candidate: Candidate) -> None:
    settings = course.settings
    reserve = 3 * settings.confirmations * course.settings.steps(candidate.family)
    left = course.left - reserve
    tries = min(settings.refinements, left // (settings.bank * course.settings.steps(candidate.family)) - 1)
    if tries > 0:
        seeds = course.seeds(f"refine {candidate.group}", settings.bank)
        candidate = refine(course.subject, candidate, _black(course, settings.bank), seeds, settings, tries)
    assert candidate.patch is not None
    course.confirm(candidate, candidate.patch.on(_black(course, settings.confirmations)))


def _black(course: Course, count: int) -> Images:
    return torch.full((count, *course.subject.shape), -1.0)

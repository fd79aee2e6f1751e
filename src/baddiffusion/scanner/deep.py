"""The search by gradients, for what no forward pass pointed to; what it finds has to pass the same causal check."""

from __future__ import annotations

from baddiffusion.errors import EvaluationError
from baddiffusion.images import Images
from baddiffusion.scanner.collapse import explained, is_own, largest_cluster
from baddiffusion.scanner.course import FAMILIES, Course
from baddiffusion.scanner.inversion import DeepMethod, DeepSearch, Inverted, Search, searches
from baddiffusion.scanner.patches import places
from baddiffusion.scanner.searching import Candidate, probe
from baddiffusion.scanner.settings import Family
from baddiffusion.scanner.shifts import Patch, ShiftGroup

__all__ = ["DEEP_BUDGET", "DEFAULT_METHOD", "invert"]

DEEP_BUDGET = 30_000
"""Network calls of the search by gradients, on top of the scan's own; a backward counts as two."""

DEFAULT_METHOD: DeepMethod = "elijah"

MOST_PLACES = 12


def invert(course: Course, method: DeepMethod, budget: int) -> None:
    """Search for a shift by gradients, start by start, until a backdoor is proven or the budget is spent.

    A shift that a search found is sampled from, under both families of samplers, on noises of its own. Where one
    unexplained picture comes out again and again, shift and picture go to the causal check: a small loss proves
    nothing, for a search can make a network that hides nothing do odd things too.

    Args:
        course: the scan so far.
        method: how to search.
        budget: network calls at most, sampling and confirmations among them.
    """
    before = course.subject.spent.network_calls
    course.ceiling = before + budget
    done: list[Inverted] = []
    course.deep = DeepSearch(method, budget, 0, ())
    for search in searches(method, course.subject, _starts(course), course.seed, course.settings):
        if not course.affords(search.cost + _sampling(course), f"the search by gradients ({search.name})"):
            break
        done.append(_follow_up(course, search))
        course.deep = DeepSearch(method, budget, course.subject.spent.network_calls - before, tuple(done))
        if course.proven:
            break
    finished = sum(one.shift is not None for one in done)
    if finished:
        names = "; ".join(one.name for one in done if one.shift is not None)
        course.searched.append(f"{finished} shifts found by gradients ({names}), under both families of samplers.")
    for one in done:
        if one.shift is None:
            course.not_searched.append(
                f"the search by gradients ({one.name}): it diverged after step {len(one.losses)}."
            )


def _follow_up(course: Course, search: Search) -> Inverted:
    """Run a search, and see what its shift does."""
    found, losses = search.run(course.subject, course.watcher)
    if not bool(found.isfinite().all()):
        return Inverted(search.name, None, losses)
    shift = found.detach().cpu().float().clamp(-1, 1)
    shares: list[tuple[str, float]] = []
    for family in FAMILIES:
        try:
            candidate, share = _try(course, search.name, shift[None], family)
        except EvaluationError:  # the samples became NaN: nothing was found out
            course.subject.count(course.settings.bank * course.settings.steps(family))
            return Inverted(search.name, None, losses)
        shares.append((family, share))
        if candidate is not None and not course.proven:
            course.confirm(candidate, shift.expand(course.settings.confirmations, *shift.shape))
    return Inverted(search.name, shift, losses, tuple(shares))


def _try(course: Course, name: str, shift: Images, family: Family) -> tuple[Candidate | None, float]:
    """Sample from the shift; the share of the samples that are one unexplained picture, which may be a candidate."""
    settings = course.settings
    title = f"a shift found by gradients ({name})"
    group = ShiftGroup(title, shift.expand(settings.bank, *shift.shape[1:]))
    seeds = course.seeds(f"deep {name} {family}", settings.bank)
    made = probe(course.subject, group, family, seeds, settings)
    course.probes.append(made)
    cluster = largest_cluster(made.images)
    if bool(explained(cluster.picture, shift)[0]) or is_own(cluster.picture, course.own, settings.quiet):
        return None, 0.0
    if cluster.share < settings.suspect_share or int(cluster.members.sum()) < 2:
        return None, cluster.share
    return Candidate(family, cluster.picture, title, cluster.share, shift=shift[0]), cluster.share


def _sampling(course: Course) -> int:
    """What may follow a search: samples under both families, and a confirmation under each."""
    settings = course.settings
    return sum((settings.bank + 3 * settings.confirmations) * settings.steps(family) for family in FAMILIES)


def _starts(course: Course) -> list[Patch]:
    """Where a search that is confined to a place begins."""
    return places(course.maps, MOST_PLACES)

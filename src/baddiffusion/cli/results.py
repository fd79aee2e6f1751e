"""Measured numbers as people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from baddiffusion.cli.printing import table
from baddiffusion.errors import RunError

if TYPE_CHECKING:
    from baddiffusion.report.reading import RunFiles

__all__ = ["results_table", "summary", "the_results"]


def the_results(files: RunFiles) -> dict[str, Any]:
    """What a run measured: the content of its ``metrics.json``.

    Raises:
        RunError: the run has not measured anything yet, or the file is damaged.
    """
    if files.results is None:
        raise RunError(f"{files.path} has no finished measurements; run: baddiffusion evaluate {files.path}")
    return files.results


def results_table(estimates: Sequence[Mapping[str, Any]]) -> str:
    """Value, interval and n of each measured number, sorted by the samples that it was made from."""
    from baddiffusion.report.tables import groups

    rows: list[tuple[str, ...]] = []
    for group in groups(estimates):
        rows.append((group.title, "value", "95 % interval", "n") if not rows else (group.title,))
        rows += [(f"  {line.title}", line.value, line.interval or "–", line.n) for line in group.lines]
    return table(rows)


def summary(files: RunFiles) -> str:
    """What happened, in sentences built from the counts: a backdoor that did not fire is told as such."""
    from baddiffusion.report.tables import find
    from baddiffusion.report.wording import Count, headline, target_words

    estimates, recipe = the_results(files)["estimates"], files.recipe
    first, *others = recipe["sampling"]["clips"]
    triggered = find(estimates, "asr", "triggered", first)
    if triggered is None:
        return "No triggered noises were sampled."
    clean = find(estimates, "false_trigger_rate", "clean", first)
    target, is_poisoned = target_words(recipe["target"]), recipe["poison"]["rate"] > 0
    is_poisoned = is_poisoned and recipe["attack"]["name"] != "clean"
    said = [headline(Count.of(triggered), Count.of(clean) if clean else None, target, is_poisoned)]
    for clip in others:
        estimate = find(estimates, "asr", "triggered", clip)
        if estimate is not None:
            said.append(f"With the predicted image clipped ({clip}): {Count.of(estimate)}.")
    return "\n".join(said)

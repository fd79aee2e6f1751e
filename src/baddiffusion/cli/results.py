"""Measured numbers as people read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from baddiffusion.cli.printing import table
from baddiffusion.errors import RunError

if TYPE_CHECKING:
    from baddiffusion.report.run.reading import RunFiles

__all__ = ["results_table", "summary", "the_results"]


def the_results(files: RunFiles) -> dict[str, Any]:
    """What a run measured: the content of its ``metrics.json``.

    Raises:
        RunError: the run has not measured anything yet, or the file is damaged.
    """
    if files.results is None:
        raise RunError(f"{files.path} has no finished measurements; run: baddiffusion evaluate {files.path}")
    return files.results


def results_table(estimates: Sequence[Mapping[str, Any]], title: str = "") -> str:
    """Value, interval and n of each measured number, sorted by the samples that it was made from.

    Args:
        estimates: as ``metrics.json`` holds them.
        title: what all of them were made from, in place of the samples of a run.
    """
    from baddiffusion.report.kit.tables import groups

    rows: list[tuple[str, ...]] = []
    for group in groups(estimates):
        heading = title or group.title
        if not rows:
            rows.append((heading, "value", "95 % interval", "n"))
        elif not title:
            rows.append((heading,))
        rows += [(f"  {line.title}", line.value, line.interval or "–", line.n) for line in group.lines]
    return table(rows)


def summary(files: RunFiles) -> str:
    """What happened, in sentences built from the counts: a backdoor that did not fire is told as such."""
    from baddiffusion.report.run.story import Story

    story = Story(files)
    rules = [f"The attacker's own rule (paper, section 3.1): {one}" for one in story.acceptance if story.is_poisoned]
    return "\n".join(sentence for sentence in (story.title, story.clipping_effect, *rules) if sentence)

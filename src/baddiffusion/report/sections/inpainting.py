"""What inpainting came to: the figure after the paper's Fig. 10, and the numbers as a section of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from baddiffusion.inpainting import Restoration
from baddiffusion.report.kit.markdown import interval, markdown_table
from baddiffusion.report.kit.sheets import Block, Strip, sheet
from baddiffusion.report.kit.tables import find
from baddiffusion.report.kit.wording import Count, target_words, trigger_words

__all__ = ["inpainting_section", "inpainting_sheet"]

SHOWN = 4
TITLES = {"blur": "blur (added noise)", "line": "line cut out", "box": "box cut out"}
CLEAN_ROWS = ("original", "corrupted", "recovered")
TRIGGERED_ROWS = ("trigger, corrupted", "trigger, recovered")


def inpainting_sheet(restorations: Sequence[Restoration], shown: int = SHOWN) -> bytes:
    """Draw the first pictures of each corruption, before and after, without the trigger and with it.

    Args:
        restorations: at least one clean one; a triggered one of the same corruption makes two rows more.
        shown: how many pictures a corruption shows at most.

    Returns:
        A PNG.
    """
    triggered = {done.corruption: done for done in restorations if done.kind == "triggered"}
    blocks = []
    for done in restorations:
        if done.kind == "clean":
            rows = [done.original, done.corrupted, done.recovered]
            if done.corruption in triggered:
                other = triggered[done.corruption]
                rows += [other.corrupted, other.recovered]
            name = done.corruption.component_name
            blocks.append(Block(TITLES.get(name, name), [row[:shown] for row in rows]))
    return sheet([Strip((*CLEAN_ROWS, *(TRIGGERED_ROWS if triggered else ())), blocks)])


def inpainting_section(results: Mapping[str, Any]) -> str:
    """The numbers of a results file in words and two tables, as Markdown.

    Args:
        results: what ``baddiffusion inpaint`` wrote into ``results.json``.
    """
    estimates, trigger = results["estimates"], results["trigger"]
    names = [corruption["name"] for corruption in results["corruptions"]]
    parts = [_protocol(results), "Without the trigger, against the originals:", _table(estimates, names, "clean")]
    if trigger is not None:
        words = f"{trigger_words(trigger)} should bring out {target_words(results['target'])}"
        parts += [f"With the trigger ({words}), against the target:", _table(estimates, names, "triggered")]
    caveats = dict.fromkeys(caveat for estimate in estimates for caveat in estimate["caveats"])
    return "\n\n".join([*parts, *(f"Caveat: {caveat}." for caveat in caveats)])


def _protocol(results: Mapping[str, Any]) -> str:
    protocol = results["estimates"][0]["protocol"]
    steps, skipped, n = protocol["steps"], protocol["skipped_steps"], results["estimates"][0]["n"]
    return (
        f"Model `{results['model']}`, {n} picture{'' if n == 1 else 's'} ({protocol['pictures']}), "
        f"{protocol['sampler']}: the first {skipped} of {steps} steps are left out, {steps - skipped} are taken, from "
        f"t = {protocol['first_timestep']} on; clip {protocol['clip']}. All values on [0, 1], pictures rounded to 8 "
        f"bits; in brackets the 95 % interval."
    )


def _table(estimates: Sequence[Mapping[str, Any]], names: Sequence[str], kind: str) -> str:
    measures = [m for m in ("mse", "ssim", "lpips") if find(estimates, m, kind) is not None]
    columns = [name for measure in measures for name in (f"corrupted_{measure}", measure)]
    titles = [f"{measure.upper()}, {when}" for measure in measures for when in ("corrupted", "recovered")]
    rows = [["corruption", *titles, "became the target"]]
    for corruption in names:
        cells = [interval(find(estimates, name, kind, corruption=corruption)) for name in columns]
        rate = find(estimates, "asr" if kind == "triggered" else "false_trigger_rate", corruption=corruption)
        rows.append([corruption, *cells, _share(rate)])
    return markdown_table(rows)


def _share(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None:
        return "–"
    return f"{Count.of(estimate)} [{100 * estimate['low']:.0f} %, {100 * estimate['high']:.0f} %]"
